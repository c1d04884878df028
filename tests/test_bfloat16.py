"""bfloat16 products: against the reference that rounds where they do, on every arithmetic this machine has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import reference
from helpers import OUTPUT, _weights, error, inputs, make, targets
from test_gradients import SHAPES

import fastbp as fb
from fastbp.cpu import bfloat16, machine
from fastbp.cpu.engine import Engine
from fastbp.optimizers import OPTIMIZERS

LOSS = "sparse_categorical_crossentropy"


@pytest.fixture(params=["amx", "vectors"], autouse=True)
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """AMX tiles where the machine has them, and what it does without."""
    if request.param == "amx" and not machine.amx_granted():
        pytest.skip("this machine has no AMX, or its system doesn't grant it")
    if request.param == "vectors":
        monkeypatch.setattr(bfloat16, "amx_granted", lambda: False)
    yield request.param


def check(model: fb.Model, loss: str, rows: int) -> None:
    """Losses and gradients; the odd sum that rounds the other way moves a number by one part in 256, not the norm."""
    x, y = inputs(rows, model.input_width or 0).astype(np.float32), targets(loss, rows, model.output_width)
    model.compile("sgd", loss)
    names = [layer.activation.name for layer in model.layers]
    value, wanted, dx = reference.loss_and_gradients(_weights(model), names, loss, x, y, reference.bfloat16)
    assert model.evaluate(x, y) == pytest.approx(value, rel=1e-4, abs=1e-5)
    gradients, got_dx = model.gradients(x, y, inputs=True)
    for got, true in zip([*gradients, got_dx], [*(g for g in wanted if g is not None), dx], strict=True):
        assert np.linalg.norm(got - true) < 6e-4 * max(np.linalg.norm(true), 1e-3)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("widths", "rows"), SHAPES)
def test_odd_shapes(widths: list[int], rows: int, threads: int) -> None:
    check(make(widths, "tanh", "linear", dtype="bfloat16", threads=threads), "mean_squared_error", rows)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16, 33, 64, 600])
@pytest.mark.parametrize("loss", OUTPUT)
def test_losses_with_and_without_bias(loss: str, rows: int, bias: bool) -> None:
    check(make([19, 40, 23, 6], "sigmoid", OUTPUT[loss], bias=bias, dtype="bfloat16"), loss, rows)


def test_the_reference_tells_rounding_from_truncation() -> None:
    x, y = inputs(100, 40), targets(LOSS, 100, 5)
    weights = reference.with_biases(make([40, 64, 5], "tanh", "softmax").get_weights())

    def truncated(a: np.ndarray) -> np.ndarray:
        return (np.asarray(a, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(float)

    rounded, cut = (
        reference.loss_and_gradients(weights, ["tanh", "softmax"], LOSS, x, y, how)[1][0]
        for how in (reference.bfloat16, truncated)
    )
    assert np.linalg.norm(rounded - cut) > 6e-4 * np.linalg.norm(rounded)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fit_follows_the_rounded_weights(name: str) -> None:
    """The copies are those of the updated weights: steps in one run, and one by one after the weights were set anew."""
    x, y = inputs(200, 30), targets(LOSS, 200, 7)
    found = []
    for anew in (False, True):
        model = make([30, 70, 33, 7], "tanh", "softmax", dtype="bfloat16", threads=2)
        model.compile(OPTIMIZERS[name](), LOSS)
        if anew:
            for first in range(0, 200, 40):
                model.train_on_batch(x[first : first + 40], y[first : first + 40])
                model.set_weights(model.get_weights())
        else:
            model.fit(x, y, batch_size=40, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch", [7, 64, 100, 256, 3000])
def test_any_number_of_threads_gives_the_same_bits(batch: int) -> None:
    x, y = inputs(3000, 50), targets(LOSS, 3000, 10)
    found = []
    for threads in (1, 2, 5):
        model = make([50, 300, 170, 10], "relu", "softmax", dtype="bfloat16", threads=threads)
        model.compile("adam", LOSS, metrics=["accuracy"])
        history = model.fit(x, y, batch_size=batch, epochs=2, verbose=0)
        found.append((history.history, [*model.get_weights(), model.predict(x)]))
    for history, arrays in found[1:]:
        assert history == found[0][0]
        for a, b in zip(arrays, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_prediction_is_the_same_bits_in_any_company() -> None:
    model = make([23, 41, 37, 5], "gelu", "softmax", dtype="bfloat16", threads=2)
    x = inputs(300, 23).astype(np.float32)
    whole = model.predict(x)
    for rows in ([0], [17], [299], list(range(31)), list(range(5, 260)), [3, 1, 2]):
        np.testing.assert_array_equal(model.predict(x[rows]), whole[rows])


def test_padding_stays_zero() -> None:
    model = make([19, 33, 10, 1], "tanh", dtype="bfloat16", threads=2)
    model.compile("adam", "mse")
    model.fit(inputs(100, 19), targets("mean_squared_error", 100, 1), epochs=5, verbose=0)
    engine = model._engine
    assert isinstance(engine, Engine)
    for flat in (engine.weights, *engine.moments()):
        clean = np.zeros_like(flat)
        engine.program.put(clean, engine.program.take(flat))
        np.testing.assert_array_equal(flat, clean)


def test_files_keep_the_type(tmp_path: Path) -> None:
    model = make([5, 8, 3], "relu", "softmax", dtype="bfloat16")
    model.compile("adam", LOSS)
    x, y = inputs(40, 5), targets(LOSS, 40, 3)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.fastbp")
    again = fb.load_model(tmp_path / "m.fastbp")
    assert (again.compute_dtype, again.dtype) == ("bfloat16", np.float32)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    for m in (model, again):
        m.fit(x, y, verbose=0)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_near_to_float32() -> None:
    x, y = inputs(300, 20), targets(LOSS, 300, 4)
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = make([20, 64, 32, 4], "tanh", "softmax", dtype=dtype)
        model.compile("sgd", LOSS)
        found[dtype] = model.gradients(x, y)
    for a, b in zip(found["bfloat16"], found["float32"], strict=True):
        assert 1e-5 < error(a, b) < 0.03


@pytest.mark.parametrize("data", ["digits", "breast_cancer"])
def test_scores_are_those_of_float32(data: str) -> None:
    """Held-out accuracy over 5 seeds: the means differ by less than the seeds do."""
    pytest.importorskip("sklearn", reason="the data come with scikit-learn")
    from fastbp.data import readers

    table = readers.load(data)
    x = (table.x - table.x.mean(0)) / (table.x.std(0) + 1e-9)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[len(x) // 4 :], order[: len(x) // 4]
    scores: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for dtype, values in scores.items():
        for seed in range(5):
            layers = [fb.Dense(64, activation="relu"), fb.Dense(int(table.y.max()) + 1, activation="softmax")]
            model = fb.Model(layers, dtype=dtype, seed=seed)
            model.compile("adam", LOSS, metrics=["accuracy"])
            model.fit(x[train], table.y[train], epochs=15, verbose=0)
            values.append(model.evaluate(x[test], table.y[test])[1])
    low, high = min(scores["float32"]), max(scores["float32"])
    spread = max(high - low, 1 / len(test))
    assert low - spread / 2 <= np.mean(scores["bfloat16"]) <= high + spread / 2, scores
