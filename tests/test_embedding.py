"""`Embedding`: the updates of a kernel over one-hot inputs, category numbers that are checked, encoders, files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import error

import fastbp as fb
from fastbp.optimizers import OPTIMIZERS

CATEGORIES, DIM, ROWS = 1100, 5, 150
RNG = np.random.default_rng(3)
CODES = RNG.integers(0, CATEGORIES, (ROWS, 1)).astype(np.float64)
CODES[:40] = RNG.integers(0, 3, (40, 1))
Y = RNG.standard_normal((ROWS, 2))
TABLE = 0.3 * RNG.standard_normal((CATEGORIES, DIM))
LATER = 0.3 * RNG.standard_normal((DIM, 2))


def pair(optimizer: Any, dtype: str = "float64", **options: Any) -> tuple[fb.Model, fb.Model]:
    """A network that looks vectors up, and one that multiplies one-hot rows by the same matrix."""
    first = fb.Embedding({0: (CATEGORIES, DIM)}, **{f"embeddings_{name}": one for name, one in options.items()})
    other = fb.Dense(DIM, use_bias=False, **{f"kernel_{name}": one for name, one in options.items()})
    models = [fb.Model([layer, fb.Dense(2, use_bias=False)], dtype=dtype) for layer in (first, other)]
    for model, width in zip(models, (1, CATEGORIES), strict=True):
        model.build(width)
        model.set_weights([TABLE, LATER])
        model.compile(optimizer, "mean_squared_error")
    return models[0], models[1]


def trained_alike(optimizer: Any, **options: Any) -> None:
    ours, plain = pair(optimizer, **options)
    one_hot = np.eye(CATEGORIES)[CODES[:, 0].astype(int)]
    fits = {"batch_size": 32, "epochs": 3, "verbose": 0}
    got, wanted = ours.fit(CODES, Y, **fits), plain.fit(one_hot, Y, **fits)
    np.testing.assert_allclose(got.history["loss"], wanted.history["loss"], rtol=1e-9)
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        assert error(a, b) < 1e-9
    assert ours.evaluate(CODES, Y) == pytest.approx(plain.evaluate(one_hot, Y), rel=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_updates_it_as_a_kernel(name: str) -> None:
    """Moments of categories that a batch lacks go on."""
    trained_alike(dataclasses.replace(OPTIMIZERS[name](), learning_rate=0.02))


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.1},
        {"use_ema": True},
        {"clipvalue": 0.01},
        {"clipnorm": 0.01},
        {"global_clipnorm": 0.01},
        {"gradient_accumulation_steps": 3},
    ],
    ids=str,
)
def test_every_option_of_optimizers(settings: dict[str, Any]) -> None:
    trained_alike(fb.SGD(0.3, **settings))
    trained_alike(fb.SGD(0.3, 0.9, **settings))


def test_penalties_and_constraints() -> None:
    trained_alike(fb.SGD(0.3), regularizer=fb.regularizers.L1L2(1e-3, 1e-2))
    trained_alike(fb.Adam(0.01, global_clipnorm=0.1), regularizer="l2", constraint=fb.constraints.MaxNorm(5.0))


def test_lbfgs() -> None:
    ours, plain = pair(fb.LBFGS())
    one_hot = np.eye(CATEGORIES)[CODES[:, 0].astype(int)]
    losses = [m.fit(x, Y, epochs=3, verbose=0).history["loss"] for m, x in ((ours, CODES), (plain, one_hot))]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [3, 32, 150])
def test_only_what_occurs_changes_with_plain_sgd(dtype: str, batch: int) -> None:
    model, _ = pair(fb.SGD(0.1), dtype)
    before = model.get_weights()[0]
    model.fit(CODES, Y, batch_size=batch, epochs=2, verbose=0)
    seen = np.isin(np.arange(CATEGORIES), CODES)
    changed = (model.get_weights()[0] != before).any(axis=1)
    np.testing.assert_array_equal(changed, seen)


def test_large_batches_in_slabs_and_frozen_vectors() -> None:
    codes = RNG.integers(0, CATEGORIES, (5000, 1)).astype(np.float32)
    y = RNG.standard_normal((5000, 2)).astype(np.float32)
    model, plain = pair(fb.SGD(0.3))
    model.fit(codes, y, batch_size=5000, epochs=2, verbose=0)
    plain.fit(np.eye(CATEGORIES)[codes[:, 0].astype(int)], y, batch_size=5000, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert error(a, b) < 1e-9
    model.layers[0].trainable = False
    before = model.get_weights()
    model.fit(codes, y, epochs=1, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert (model.get_weights()[1] != before[1]).any()


# --- what a person gives ---------------------------------------------------------------------------------------------


def mixed() -> tuple[fb.Model, np.ndarray, np.ndarray]:
    """Two columns of numbers around two of categories."""
    x = RNG.standard_normal((60, 4))
    x[:, 1], x[:, 2] = RNG.integers(0, 4, 60), RNG.integers(0, 9, 60)
    model = fb.Model([fb.Embedding({2: (9, 3), 1: 4}), fb.Dense(8, activation="tanh"), fb.Dense(1)])
    model.compile("adam", "mse")
    return model, x, x[:, :1] + x[:, 1:2]


def test_what_comes_out() -> None:
    model, x, y = mixed()
    assert model.layers[0].columns == {2: (9, 3), 1: (4, 3)}  # type: ignore[attr-defined]
    model.fit(x, y, verbose=0)
    assert list(model.named_weights())[:2] == ["embedding.2.embeddings", "embedding.1.embeddings"]
    out, (second, first) = model.predict(x, upto=0), model.get_weights()[:2]
    np.testing.assert_array_equal(out[:, :2], x[:, [0, 3]].astype(np.float32))
    np.testing.assert_array_equal(out[:, 2:5], second[x[:, 2].astype(int)])
    np.testing.assert_array_equal(out[:, 5:], first[x[:, 1].astype(int)])
    assert np.abs(second).max() < 0.2
    names = [row.name for row in model.gradient_report(x, y)]
    assert names == ["embedding", "dense", "dense_1"]
    assert repr(model.layers[0]) == "Embedding({2: (9, 3), 1: (4, 3)})"
    _, dx = model.gradients(x, y, inputs=True)
    assert (dx[:, 1:3] == 0).all() and (dx[:, 0] != 0).all()


def test_columns_of_a_frame_may_be_whole_numbers() -> None:
    model, x, y = mixed()
    frame = pd.DataFrame(x).astype({1: np.int8, 2: np.int64})
    model.fit(frame, y, verbose=0)
    np.testing.assert_array_equal(model.predict(frame), model.predict(x))


WRONG = r"\[41, 2\] is {}: column 2 holds category numbers, whole numbers from 0 to 8"


@pytest.mark.parametrize("value", [-1.0, 9.0, 2.5, 1e9])
def test_unknown_categories_are_named(value: float, tmp_path: Path) -> None:
    model, x, y = mixed()
    model.fit(x, y, verbose=0)
    model.predict(x.astype(np.float32))  # the next few rows go the short way
    before = model.get_weights()
    bad = x.copy()
    bad[41, 2] = value
    np.save(tmp_path / "x.npy", bad)
    wrong = WRONG.format(f"{value:g}".replace("+", r"\+"))
    tries: list[Callable[[], Any]] = [
        lambda: model.fit(bad, y, verbose=0),
        lambda: model.fit(x, y, validation_data=(bad, y), verbose=0),
        lambda: model.fit(iter([(bad, y)]), verbose=0),
        lambda: model.fit(tmp_path / "x.npy", y, batch_size=60, verbose=0),
        lambda: model.evaluate(bad, y),
        lambda: model.predict(bad),
        lambda: model.predict(bad.astype(np.float32)),
        lambda: model.predict(bad, noise=True),
        lambda: model.predict(tmp_path / "x.npy"),
        lambda: model.train_on_batch(bad, y),
        lambda: model.gradients(bad, y),
        lambda: fb.fit_many([mixed()[0]], bad, y, verbose=0),
    ]
    for attempt in tries:
        with pytest.raises(ValueError, match=wrong):
            attempt()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_is_no_category() -> None:
    model, x, y = mixed()
    model.fit(x, y, verbose=0)
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"contains NaN or infinity: 1 of 240 values, the first nan at x\[3, 2\]"):
        model.predict(x.astype(np.float32))


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda: fb.Embedding({}), TypeError, r"must be a dict of column number to \(categories, dim\)"),
        (lambda: fb.Embedding(12), TypeError, r"must be a dict"),
        (lambda: fb.Embedding({-1: 4}), ValueError, r"column's number must be a whole number of at least 0, got -1"),
        (lambda: fb.Embedding({"town": 4}), ValueError, r"column's number must be a whole number.*'town'"),
        (lambda: fb.Embedding({0: 0}), ValueError, r"categories of column 0 must be a whole number of at least 1"),
        (lambda: fb.Embedding({0: (4, 0)}), ValueError, r"dim of column 0 must be a whole number of at least 1"),
        (lambda: fb.Embedding({0: (4, 2, 2)}), ValueError, r"wanted categories or \(categories, dim\)"),
        (lambda: fb.Embedding({0: 1 << 25}), ValueError, r"33554432 categories; 16777216 are possible"),
        (lambda: fb.Embedding({0: 4}, "glorot"), ValueError, r"unknown embeddings_initializer 'glorot'"),
        (lambda: fb.Embedding({0: 4}, {1: "zeros"}), ValueError, r"names column 1; the columns are \[0\]"),
        (lambda: fb.Embedding({0: 4}, embeddings_regularizer="l3"), ValueError, r"unknown embeddings_regularizer"),
        (lambda: fb.Model([fb.Embedding({5: 4}), fb.Dense(1)]).build(5), ValueError, r"columns 0 to 4"),
        (lambda: fb.Model([fb.Embedding({5: 4}), fb.Dense(1)]).predict(np.ones((2, 5))), ValueError, r"columns 0 to 4"),
        (lambda: fb.Model([fb.Dense(3), fb.Embedding({0: 4})]).build(5), ValueError, r"it must be the first layer"),
        (
            lambda: fb.Model([fb.Normalization(0.0, 1.0), fb.Embedding({1: 4})]).build(5),
            ValueError,
            r"Normalization changes column 1.*Normalization\(columns=\[\.\.\.\]\)",
        ),
        (
            lambda: fb.Model([fb.Embedding({0: (3, 2)}, np.zeros((2, 2))), fb.Dense(1)]).build(2),
            ValueError,
            r"wanted an array of shape \(3, 2\), got \(2, 2\)",
        ),
        (lambda: fb.Normalization(columns=[]), ValueError, r"at least one column, each once"),
        (lambda: fb.Normalization(columns=[1, 1]), ValueError, r"at least one column, each once"),
        (lambda: fb.Normalization(columns=[3]).adapt(np.ones((4, 2))), ValueError, r"wants column 3.*columns 0 to 1"),
    ],
)
def test_mistakes_are_answered(mistake: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mistake()


def test_given_arrays_and_weights_that_come_later(tmp_path: Path) -> None:
    model, x, _ = mixed()
    model = fb.Model([fb.Embedding({2: (9, 3), 1: (4, 2)}, {2: np.full((9, 3), 0.5)}), fb.Dense(2)])
    model.build(4)
    assert (model.get_weights()[0] == 0.5).all() and (np.abs(model.get_weights()[1]) <= 0.05).all()
    model.save_weights(tmp_path / "w")
    again = fb.Model([fb.Embedding({2: (9, 3), 1: (4, 2)}), fb.Dense(2)])
    again.load_weights(tmp_path / "w")
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    third = fb.Model([fb.Embedding({2: (9, 3), 1: (4, 2)}), fb.Dense(2)])
    third.set_weights(model.get_weights())
    np.testing.assert_array_equal(third.predict(x), model.predict(x))


def test_a_table_of_numbers_and_text() -> None:
    """An encoder's category numbers, with those that training didn't see."""
    table = pd.DataFrame(
        {
            "age": [20.0, 40.0, np.nan, 60.0] * 5,
            "town": ["Rome", "Oslo", None, "Rome"] * 5,
            "kind": pd.Categorical(["b", "a", "b", "c"] * 5),
        }
    )
    encoder = fb.TabularEncoder(codes=True, unknown="ignore")
    x = encoder.fit_transform(table)
    assert encoder.feature_names_out_ == ["age", "age is missing", "town", "kind"]
    assert encoder.codes_out_ == {2: 4, 3: 4}
    np.testing.assert_array_equal(x[:4, 2:], [[1, 1], [0, 0], [3, 1], [1, 2]])
    new = table.head(2).assign(town=["Bonn", None], kind=["z", None])
    np.testing.assert_array_equal(encoder.transform(new)[:, 2:], [[2, 3], [3, 3]])
    model = fb.Model([fb.Embedding(encoder.codes_out_), fb.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, np.ones(20), verbose=0)
    model.meta.update(encoder.to_meta())
    again = fb.TabularEncoder.from_meta(model.meta)
    assert again.columns_ == encoder.columns_ and again.codes
    assert np.isfinite(model.predict(again.transform(new))).all()
    strict = fb.TabularEncoder(codes=True).fit(table)
    assert strict.codes_out_ == {2: 3, 3: 3}
    with pytest.raises(ValueError, match=r"'Bonn' is a category that training didn't see"):
        strict.transform(new)


def test_normalization_of_the_other_columns() -> None:
    _, x, _ = mixed()
    scaler = fb.Normalization(columns=[3, 0])
    scaler.adapt(x)
    model = fb.Model([scaler, fb.Embedding({1: 4, 2: 9}), fb.Dense(1)], dtype="float64")
    out = model.predict(x, upto=0)
    np.testing.assert_array_equal(out[:, 1:3], x[:, 1:3])
    np.testing.assert_allclose(out[:, [0, 3]].mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(out[:, [0, 3]].std(axis=0), 1.0, atol=1e-12)


def test_pytorchs_embedding_learns_the_same() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed: its Embedding isn't compared")
    ours, _ = pair(fb.Adam(0.02, epsilon=1e-8))
    theirs = torch.nn.Sequential(torch.nn.Embedding(CATEGORIES, DIM), torch.nn.Linear(DIM, 2, bias=False)).double()
    with torch.no_grad():
        theirs[0].weight.copy_(torch.tensor(TABLE))
        theirs[1].weight.copy_(torch.tensor(LATER.T))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.02)
    for start in range(0, ROWS, 50):
        optimizer.zero_grad()
        found = theirs(torch.tensor(CODES[start : start + 50, 0].astype(np.int64)))
        torch.nn.functional.mse_loss(found, torch.tensor(Y[start : start + 50])).backward()
        optimizer.step()
    ours.fit(CODES, Y, batch_size=50, shuffle=False, verbose=0)
    np.testing.assert_allclose(ours.get_weights()[0], theirs[0].weight.detach().numpy(), rtol=1e-9, atol=1e-11)
