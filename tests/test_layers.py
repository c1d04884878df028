"""Layers beyond dense ones: against plain NumPy, central differences and PyTorch; their noise; parts of networks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from helpers import TOLERANCE, error, inputs
from reference_layers import Network

import fastbp as fb
from fastbp.layers import LAYERS, Layer

MIXED: dict[str, Callable[[], list[Any]]] = {
    "dropout": lambda: [fb.Dense(33, activation="tanh"), fb.Dropout(0.4), fb.Dense(3)],
    "dropout first": lambda: [fb.Dropout(0.2), fb.Dense(20, activation="relu"), fb.Dropout(0.5), fb.Dense(3)],
    "alpha_dropout": lambda: [fb.Dense(17, activation="selu"), fb.AlphaDropout(0.3), fb.Dense(3)],
    "gaussian_noise": lambda: [fb.GaussianNoise(0.3), fb.Dense(17, activation="tanh"), fb.Dense(3)],
    "gaussian_dropout": lambda: [fb.Dense(17, activation="tanh"), fb.GaussianDropout(0.3), fb.Dense(3)],
    "batch_normalization": lambda: [
        fb.Dense(33, use_bias=False),
        fb.BatchNormalization(),
        fb.Activation("tanh"),
        fb.Dense(18, activation="relu"),
        fb.BatchNormalization(scale=False, epsilon=1e-2, momentum=0.8),
        fb.Dense(3),
    ],
    "batch_normalization at the ends": lambda: [
        fb.BatchNormalization(center=False),
        fb.Dense(16, activation="sigmoid"),
        fb.Dense(3),
        fb.BatchNormalization(),
    ],
    "layer_normalization": lambda: [
        fb.LayerNormalization(scale=False),
        fb.Dense(33),
        fb.LayerNormalization(),
        fb.Activation("gelu"),
        fb.Dense(3),
    ],
    "rms_normalization": lambda: [fb.Dense(33, activation="tanh"), fb.RMSNormalization(), fb.Dense(3)],
    "normalization": lambda: [fb.Normalization(0.5, 4.0), fb.Dense(9, activation="tanh"), fb.Dense(3)],
    "activation": lambda: [
        fb.Activation("tanh"),
        fb.Dense(21),
        fb.Activation("silu"),
        fb.Dropout(0.3),
        fb.Activation("sigmoid"),
        fb.Dense(3),
        fb.Activation("softplus"),
    ],
    "activity_regularization": lambda: [
        fb.ActivityRegularization(0.01, 0.03),
        fb.Dense(33, activation="tanh"),
        fb.ActivityRegularization(l2=0.2),
        fb.Dense(18, activation="relu"),
        fb.ActivityRegularization(l1=0.1),
        fb.Dense(3),
    ],
    "residual": lambda: [
        fb.Dense(16, activation="relu"),
        fb.Residual([fb.Dense(40, activation="tanh"), fb.Dense(16)]),
        fb.Residual([fb.Dense(35, activation="tanh")], activation="silu"),
        fb.Dense(3),
    ],
    "residual at the ends": lambda: [
        fb.Residual([fb.LayerNormalization(), fb.Dense(7, activation="gelu"), fb.Dropout(0.1)]),
        fb.Dense(3, activation="tanh"),
        fb.Residual([fb.Dense(3, activation="tanh"), fb.Dense(3, activation="sigmoid", use_bias=False)]),
    ],
    "residual first": lambda: [fb.Residual([fb.Dense(7, activation="tanh"), fb.Dense(9)]), fb.Dense(3)],
    "residual within residual": lambda: [
        fb.Dense(20, activation="tanh"),
        fb.Residual(
            [
                fb.Residual([fb.Dense(20, activation="tanh")]),
                fb.BatchNormalization(),
                fb.Residual([fb.Dense(9, activation="elu"), fb.RMSNormalization()]),
                fb.Activation("tanh"),
            ]
        ),
        fb.Dense(3),
    ],
    "concatenate": lambda: [
        fb.Dense(16, activation="relu"),
        fb.Concatenate([fb.Dense(20, activation="tanh")]),
        fb.Concatenate([fb.Dense(5), fb.BatchNormalization()], activation="silu"),
        fb.Dense(3),
    ],
    "concatenate at the ends": lambda: [
        fb.Concatenate([fb.Concatenate([fb.Dense(19, activation="tanh")]), fb.Residual([fb.Dense(4, "tanh")])]),
        fb.Dense(1, activation="tanh"),
        fb.Concatenate([fb.Dense(2, activation="sigmoid")]),
    ],
    "embedding": lambda: [
        fb.Embedding({1: (5, 3), 3: (1200, 2)}),
        fb.Dense(33, activation="tanh"),
        fb.Dense(3),
    ],
    "wide embedding": lambda: [fb.Embedding({0: (40, 70), 2: (1, 1), 3: (7, 16)}), fb.Dense(3)],
    "embedding among others": lambda: [
        fb.Normalization(0.5, 4.0, columns=[0, 2]),
        fb.Embedding({3: (9, 4), 1: (3, 2)}),
        fb.BatchNormalization(),
        fb.Dropout(0.2),
        fb.Concatenate([fb.Dense(11, activation="tanh")]),
        fb.Dense(3),
    ],
    "activity of layers": lambda: [
        fb.Dense(33, activation="tanh", activity_regularizer=fb.regularizers.L1L2(0.01, 0.2)),
        fb.Dense(18, activation="relu", activity_regularizer="l2"),
        fb.Residual([fb.Dense(18, activation="tanh", activity_regularizer="l1")]),
        fb.Concatenate([fb.Dense(5, activation="tanh", activity_regularizer="l1_l2")]),
        fb.Dense(3),
    ],
    "all": lambda: [
        fb.Normalization(0.1, 2.0),
        fb.Dense(48, activation="tanh"),
        fb.BatchNormalization(),
        fb.Dropout(0.2),
        fb.Residual([fb.RMSNormalization(), fb.Dense(30), fb.Activation("gelu"), fb.GaussianNoise(0.1), fb.Dense(48)]),
        fb.LayerNormalization(),
        fb.Dense(3),
    ],
}
mixed = pytest.mark.parametrize("name", MIXED)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def rows_for(name: str, rows: int, columns: int = 7, seed: int = 5) -> np.ndarray:
    """Inputs of a network of `MIXED`: category numbers where it looks them up."""
    x = inputs(rows, columns, seed=seed)
    for layer in MIXED[name]():
        if isinstance(layer, fb.Embedding):
            for column, (categories, _) in layer.columns.items():
                x[:, column] = np.random.default_rng([seed, column]).integers(0, categories, rows)
    return x


def made(name: str, columns: int = 7, **options: Any) -> fb.Model:
    """A built and compiled network with random weights."""
    model = fb.Model(MIXED[name](), **{"seed": 3, **options})
    model.build(columns)
    rng = np.random.default_rng(11)
    weights = []
    for label, w in model.named_weights().items():
        drawn = rng.standard_normal(w.shape) * (1 / np.sqrt(len(w)) if w.ndim == 2 else 0.3)
        if label.endswith(("gamma", "variance")):
            drawn = 0.5 + rng.random(w.shape)
        if name == "embedding among others" and label.startswith("normalization"):
            drawn = w  # category numbers pass
        weights.append(drawn)
    model.set_weights(weights)
    model.compile(fb.SGD(0.1, momentum=0.9), "mean_squared_error")
    return model


def wanted_of(
    model: fb.Model, x: np.ndarray, y: np.ndarray, **options: Any
) -> tuple[float, list[np.ndarray], np.ndarray]:
    """Loss, gradients and the inputs' gradient by the reference."""
    network = Network(model, **options)
    out, back = network.run(x.astype(model.dtype).astype(np.float64))
    value, d = reference.mean_squared_error(out, y)
    dx, gradients = back(d)
    return value + network.penalty, gradients, dx


def descend(model: fb.Model, network: Network, gradients: list[np.ndarray]) -> None:
    """A step of gradient descent at the rate 0.05; moving statistics become those that the reference met."""
    weights = [w - 0.05 * g for w, g in zip(model.get_weights(), gradients, strict=True)]
    moved = iter(network.statistics)
    for place, label in enumerate(model.named_weights()):
        if label.endswith("moving_mean"):
            weights[place], weights[place + 1] = next(moved)
    model.set_weights(weights)


def check(name: str, model: fb.Model, rows: int, tolerance: float, columns: int = 7, **options: Any) -> None:
    x = rows_for(name, rows, columns)
    y = np.random.default_rng(2).standard_normal((rows, model.output_width))
    _, wanted, wanted_dx = wanted_of(model, x, y, **options)
    got, dx = model.gradients(x, y, inputs=True)
    for label, a, b in zip(model.named_weights(), got, wanted, strict=True):
        assert error(a, b) < tolerance, label
    assert error(dx, wanted_dx) < tolerance
    network = Network(model, training=False, **options)
    plain, _ = network.run(x.astype(model.dtype).astype(np.float64))
    assert error(model.predict(x), plain) < tolerance
    wanted_loss = reference.mean_squared_error(plain, y)[0] + network.penalty
    assert model.evaluate(x, y) == pytest.approx(wanted_loss, rel=tolerance)


@mixed
@dtypes
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 37, 150])
def test_gradients_and_outputs(name: str, rows: int, threads: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)
    check(name, made(name, dtype=dtype, threads=threads), rows, 50 * TOLERANCE[dtype])


@mixed
@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_run_in_slabs(name: str, threads: int) -> None:
    check(name, made(name, dtype="float64", threads=threads), 2500, 1e-10)


@mixed
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_few_rows(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lanes are neurons (networks of some size only)."""
    monkeypatch.setattr("fastbp.program.THIN_PARAMETERS", 0)
    monkeypatch.setattr("fastbp.program.THIN_OUTPUTS", 0)
    monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)
    for threads in (1, 2):
        model = made(name, dtype="float64", threads=threads)
        assert model._engine is not None
        assert model._engine.program.thin_rows(rows) == rows or rows > model._engine.program.tiles.lanes
        check(name, model, rows, 1e-10)


@mixed
def test_few_rows_on_many_cores_are_cut_at_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)
    monkeypatch.setattr("fastbp.layout.plan.LAYER_WORK", 0.0)
    check(name, made(name, dtype="float64", threads=3), 40, 1e-10)


@mixed
def test_products_in_bfloat16(name: str) -> None:
    model = made(name, dtype="bfloat16")
    x = rows_for(name, 37, 7)
    y = np.random.default_rng(2).standard_normal((37, model.output_width))
    _, wanted, _ = wanted_of(model, x, y, rounded=reference.bfloat16)
    for label, a, b in zip(model.named_weights(), model.gradients(x, y), wanted, strict=True):
        assert error(a, b) < 0.02, label  # a number on a border may be rounded to its other side
    plain, _ = Network(model, training=False, rounded=reference.bfloat16).run(x.astype(np.float32).astype(np.float64))
    assert error(model.predict(x), plain) < 0.01


@mixed
def test_central_differences(name: str) -> None:
    model = made(name, columns=4, dtype="float64")
    if any(layer.operation.whole_batch for layer in model._engine.program.layers):  # type: ignore[union-attr]
        pytest.skip("evaluate goes by moving statistics; the reference's own gradient is checked instead")
    for layer in model.layers:
        for part in getattr(layer, "layers", [layer]):
            if hasattr(part, "rate") or hasattr(part, "stddev"):
                pytest.skip("evaluate draws no noise")
    x, y = rows_for(name, 6, 4), inputs(6, 3, seed=8)
    gradients = model.gradients(x, y)
    weights, step = model.get_weights(), 1e-6
    learned = model._network(4).learned
    for w, g, moves in zip(weights, gradients, learned, strict=True):
        for place in list(np.ndindex(w.shape))[:: max(1, w.size // 8)] if moves else ():
            kept, values = w[place], []
            for sign in (1, -1):
                w[place] = kept + sign * step
                model.set_weights(weights)
                values.append(model.evaluate(x, y))
            w[place] = kept
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(g[place], abs=2e-8, rel=2e-6)


@mixed
def test_the_references_own_gradient(name: str) -> None:
    """What the kernels are held against, held against central differences, noise and batch statistics included."""
    model = made(name, columns=4, dtype="float64")
    x, y = rows_for(name, 6, 4), inputs(6, 3, seed=8)
    _, gradients, dx = wanted_of(model, x, y)
    weights, step = model.get_weights(), 1e-6
    for w, g in zip(weights, gradients, strict=True):
        for place in list(np.ndindex(w.shape))[:: max(1, w.size // 4)] if np.any(g) else ():
            kept, values = w[place], []
            for sign in (1, -1):
                w[place] = kept + sign * step
                model.set_weights(weights)
                values.append(wanted_of(model, x, y)[0])
            w[place] = kept
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(g[place], abs=2e-8, rel=2e-6)
    model.set_weights(weights)
    for place in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        values = [wanted_of(model, m, y)[0] for m in moved]
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(dx[place], abs=2e-8, rel=2e-6)


@mixed
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_for_any_number_of_threads(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)
    x, y = rows_for(name, 300, 7), inputs(300, 3, seed=8)
    ends = []
    for threads in (1, 2, 3, 5):
        model = made(name, dtype=dtype, threads=threads)
        history = model.fit(x, y, batch_size=70, epochs=3, verbose=0)
        ends.append([*model.get_weights(), np.array(history.history["loss"]), model.predict(x)])
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@mixed
def test_training_by_the_reference(name: str) -> None:
    """Five steps of gradient descent, the last batch short: weights and moving statistics."""
    model = made(name, dtype="float64")
    model.compile(fb.SGD(0.05), "mean_squared_error")
    x, y = rows_for(name, 50, 7), inputs(50, 3, seed=8)
    twin = copy.deepcopy(model)
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    labels = list(twin.named_weights())
    for step in range(4):
        rows = slice(0, 32) if step % 2 == 0 else slice(32, 50)
        network = Network(twin, step=step)
        out, back = network.run(x[rows])
        gradients = back(reference.mean_squared_error(out, y[rows])[1])[1]
        descend(twin, network, gradients)
    for label, a, b in zip(labels, model.get_weights(), twin.get_weights(), strict=True):
        assert error(a, b) < 1e-10, label


@mixed
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = made(name)
    x, y = rows_for(name, 60, 7), inputs(60, 3, seed=8)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "m.fastbp")
    again = fb.load_model(tmp_path / "m.fastbp")
    assert list(again.named_weights()) == list(model.named_weights())
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    for m in (model, again):
        m.fit(x, y, epochs=2, verbose=0, initial_epoch=1)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [repr(layer) for layer in again.layers] == [repr(layer) for layer in model.layers]


def test_every_kind_of_layer_is_tried() -> None:
    tried = set()

    def look(layers: list[Layer]) -> None:
        for layer in layers:
            tried.add(layer.kind)
            look(getattr(layer, "layers", []))

    for layers in MIXED.values():
        look(layers())
    assert tried == set(LAYERS)


def test_a_row_predicts_the_same_bits_in_any_batch() -> None:
    model = made("all")
    x = inputs(300, 7).astype(np.float32)
    whole = model.predict(x)
    for rows in (1, 3, 64):
        np.testing.assert_array_equal(model.predict(x[:rows]), whole[:rows])


# --- noise ------------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_differs_between_steps_rows_and_layers() -> None:
    model = fb.Model([fb.Dense(400, kernel_initializer="ones", bias_initializer="ones"), fb.Dropout(0.25)])
    model.build(1)
    x = np.ones((500, 1), np.float32)
    first, second = model.predict(x, noise=True), model.predict(x, noise=True)
    assert set(np.unique(first)) == {0.0, np.float32(2.0 / 0.75)}
    assert first.mean() == pytest.approx(2.0, abs=0.02)
    assert 0.2 < (first == 0).mean() < 0.3
    assert 0.3 < (first != second).mean() < 0.45  # 2 * 0.25 * 0.75
    rows = (first == 0).astype(float)
    assert np.abs(np.corrcoef(rows[:50]) - np.eye(50)).max() < 0.25
    np.testing.assert_array_equal(model.predict(x), 2.0)


def test_noise_is_normal() -> None:
    model = fb.Model([fb.Dense(500, kernel_initializer="zeros"), fb.GaussianNoise(2.0)])
    model.build(1)
    drawn = model.predict(np.ones((400, 1)), noise=True).ravel() / 2.0
    assert drawn.mean() == pytest.approx(0.0, abs=0.01)
    assert drawn.std() == pytest.approx(1.0, abs=0.01)
    assert np.mean(drawn**4) == pytest.approx(3.0, abs=0.1)
    assert np.mean(np.abs(drawn) < 0.6745) == pytest.approx(0.5, abs=0.01)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    model = fb.Model([fb.Dense(300, kernel_initializer="lecun_normal", activation="selu"), fb.AlphaDropout(0.2)])
    model.build(64)
    x = np.random.default_rng(0).standard_normal((2000, 64))
    plain, drawn = model.predict(x), model.predict(x, noise=True)
    assert drawn.mean() == pytest.approx(plain.mean(), abs=0.03)
    assert drawn.std() == pytest.approx(plain.std(), abs=0.05)


def test_seeds_of_layers_and_models() -> None:
    def drawn(seed: int, own: int | None) -> np.ndarray:
        model = fb.Model([fb.Dense(50, kernel_initializer="ones"), fb.Dropout(0.5, seed=own)], seed=seed)
        model.build(1)
        return model.predict(np.ones((20, 1)), noise=True)

    np.testing.assert_array_equal(drawn(1, None), drawn(1, None))
    for other in (drawn(2, None), drawn(1, 0), drawn(1, 7)):
        assert np.any(drawn(1, None) != other)


several = pytest.mark.parametrize("name", ["all", "embedding among others"])


@several
def test_a_resumed_fit_draws_the_same_noise(name: str, tmp_path: Path) -> None:
    x, y = rows_for(name, 200), inputs(200, 3, seed=8)
    whole = made(name)
    whole.fit(x, y, batch_size=32, epochs=4, verbose=0)
    half = made(name)
    half.fit(x, y, batch_size=32, epochs=2, verbose=0, checkpoint=tmp_path / "c", checkpoint_every=3)
    again = made(name)
    again.fit(x, y, batch_size=32, epochs=4, verbose=0, checkpoint=tmp_path / "c", checkpoint_every=3, resume=True)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@several
def test_networks_trained_together_draw_as_alone(name: str) -> None:
    x, y = rows_for(name, 200), inputs(200, 3, seed=8)
    alone = [made(name, seed=seed, threads=1) for seed in range(3)]
    together = [made(name, seed=seed, threads=1) for seed in range(3)]
    for model in alone:
        model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    fb.fit_many(together, x, y, batch_size=32, epochs=2, verbose=0)
    for a, b in zip(alone, together, strict=True):
        for left, right in zip(a.get_weights(), b.get_weights(), strict=True):
            np.testing.assert_array_equal(left, right)


# --- parts of a network -----------------------------------------------------------------------------------------------


def test_outputs_of_a_layer() -> None:
    model = made("all", dtype="float64")
    x = inputs(40, 7)
    names = model._names()
    for place, layer in enumerate(model.layers):
        network = Network(model, training=False)
        wanted, _ = network.stack(model.layers[: place + 1], x)
        for upto in (layer, place, names[place], place - len(model.layers)):
            assert error(model.predict(x, upto=upto), wanted) < 1e-10
    before = fb.Model([fb.Dense(5), fb.Activation("relu")], dtype="float64")
    before.build(7)
    assert (before.predict(x, upto=0) < 0).any()
    np.testing.assert_array_equal(np.maximum(before.predict(x, upto=0), 0), before.predict(x))
    np.testing.assert_array_equal(fb.Model([fb.Dropout(0.5), fb.Dense(2)]).predict(x, upto=0), x.astype(np.float32))


def test_summaries_have_a_row_for_each_layer() -> None:
    model, lines = made("all"), []
    model.summary(lines.append)
    names = model._names()
    assert [line.split()[0] for line in lines[3 : 3 + len(names)]] == names
    fixed = 2 * 7 + 2 * 48  # mean and variance of the inputs; moving ones
    assert any(f"({model.count_params() - fixed:,} trainable, {fixed} not)" in line for line in lines)
    page = model._repr_html_()
    assert all(f"<td>{name}</td>" in page for name in names)
    assert repr(model).startswith("Model(7-48-3, ")
    assert [row.name for row in model.gradient_report(inputs(9, 7), inputs(9, 3))] == [
        name for name in names if name not in ("normalization", "dropout")
    ]


def test_representations_show_what_is_not_the_default() -> None:
    assert repr(fb.Dropout(0.5)) == "Dropout(rate=0.5)"
    assert repr(fb.BatchNormalization(scale=False)) == "BatchNormalization(scale=False)"
    assert repr(fb.Activation("relu")) == "Activation(activation='relu')"
    assert repr(fb.Residual([fb.GaussianNoise(0.1)])) == "Residual([GaussianNoise(stddev=0.1)])"


def test_normalization_learns_the_columns() -> None:
    x = inputs(500, 4) * [1.0, 10.0, 0.1, 0.0] + [0.0, 5.0, -3.0, 7.0]
    scaler = fb.Normalization()
    scaler.adapt(x)
    model = fb.Model([scaler, fb.Dense(3)])
    model.build(4)
    out = model.predict(x, upto=0)
    assert np.abs(out.mean(axis=0)).max() < 1e-5
    np.testing.assert_allclose(out.std(axis=0), [1, 1, 1, 0], atol=1e-5)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["batch", "layer", "rms"])
def test_normalisations_as_pytorch(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed: its normalisations aren't compared")
    layer: Any = {"batch": fb.BatchNormalization, "layer": fb.LayerNormalization, "rms": fb.RMSNormalization}[kind]
    theirs: Any = {
        "batch": lambda: torch.nn.BatchNorm1d(12, eps=1e-3),
        "layer": lambda: torch.nn.LayerNorm(12, eps=1e-3),
        "rms": lambda: torch.nn.RMSNorm(12, eps=1e-3),
    }[kind]()
    model = fb.Model([layer(epsilon=1e-3)], dtype="float64")
    model.build(12)
    model.compile("sgd", "mean_squared_error")
    x, y = inputs(30, 12) * 3 + 1, inputs(30, 12, seed=9)
    theirs = theirs.double()
    tx = torch.tensor(x, requires_grad=True)
    loss = torch.nn.functional.mse_loss(theirs(tx), torch.tensor(y))
    loss.backward()
    gradients, dx = model.gradients(x, y, inputs=True)
    for got, parameter in zip(gradients, theirs.parameters(), strict=False):
        np.testing.assert_allclose(got, parameter.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(dx, tx.grad.numpy(), atol=1e-12)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda: fb.Dropout(1.0), ValueError, r"Dropout: rate must be a number from 0 to below 1, got 1\.0"),
        (lambda: fb.Dropout("0.5"), ValueError, r"Dropout: rate must be a number"),  # type: ignore[arg-type]
        (
            lambda: fb.GaussianNoise(-1.0),
            ValueError,
            r"GaussianNoise: stddev must be a number of at least 0, got -1\.0",
        ),
        (lambda: fb.Dropout(0.5, seed=-1), ValueError, r"seed must be a whole number of at least 0, got -1"),
        (lambda: fb.BatchNormalization(momentum=1.0), ValueError, r"momentum must be a number from 0 to below 1"),
        (lambda: fb.LayerNormalization(epsilon=0.0), ValueError, r"epsilon must be a number between 0 and 1"),
        (lambda: fb.ActivityRegularization(-1.0), ValueError, r"l1 must be .* at least 0"),
        (
            lambda: fb.Model([fb.Dense(2), fb.ActivityRegularization(0.1)]).build(3),
            ValueError,
            r"it can't be the last one",
        ),
        (lambda: fb.Residual([]), ValueError, r"at least one layer"),
        (lambda: fb.Residual([3]), TypeError, r"wanted layers such as fb\.Dense\(10\), got 3"),  # type: ignore[list-item]
        (lambda: fb.Residual([fb.Dense(2, "softmax")]), ValueError, r"softmax couples"),
        (lambda: fb.Normalization(mean=0.0), ValueError, r"give both mean and variance"),
        (lambda: fb.Normalization(0.0, -1.0), ValueError, r"variance must be 0 or more"),
        (lambda: fb.Normalization().adapt([1.0]), ValueError, r"wanted rows and columns of numbers"),
        (lambda: fb.Normalization().adapt([[np.nan]]), ValueError, r"column 0 holds NaN"),
        (lambda: fb.Model([fb.Normalization(), fb.Dense(1)]).build(3), RuntimeError, r"call its adapt\(x\)"),
        (lambda: fb.Model([fb.Normalization([1, 2], [1, 1]), fb.Dense(1)]).build(3), ValueError, r"made for 2 columns"),
        (lambda: fb.Model([fb.Dropout(0.5)]).build(3), RuntimeError, r"do nothing in a prediction"),
        (
            lambda: fb.Model([fb.Residual([fb.Dense(2, name="projection")], name="r"), fb.Dense(1)]).build(3),
            ValueError,
            r"two arrays of weights would be called 'r\.projection\.kernel'",
        ),
        (lambda: made("all").predict(inputs(3, 7), upto="dens"), ValueError, r"unknown layer 'dens'.*dense"),
        (lambda: made("all").predict(inputs(3, 7), upto=99), ValueError, r"its number from 0 to 6, got 99"),
        (lambda: made("all").predict(inputs(3, 7), upto=fb.Dense(3)), ValueError, r"not one of the model's layers"),
    ],
)
def test_mistakes_are_answered(mistake: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mistake()


# --- updates ----------------------------------------------------------------------------------------------------------


@mixed
@pytest.mark.parametrize("option", ["global_clipnorm", "clipnorm", "clipvalue", "gradient_accumulation_steps"])
def test_updates_that_need_the_whole_gradient(name: str, option: str) -> None:
    model = made(name, dtype="float64")
    amounts = {"global_clipnorm": 0.3, "clipnorm": 0.1, "clipvalue": 0.02, "gradient_accumulation_steps": 2}
    model.compile(fb.SGD(0.05, **{option: amounts[option]}), "mean_squared_error")
    x, y = rows_for(name, 64, 7), inputs(64, 3, seed=8)
    twin = copy.deepcopy(model)
    model.fit(x, y, batch_size=32, epochs=1, shuffle=False, verbose=0)
    labels, total = list(twin.named_weights()), None
    for step in range(2):
        network = Network(twin, step=step)
        out, back = network.run(x[32 * step : 32 * step + 32])
        gradients = back(reference.mean_squared_error(out, y[32 * step : 32 * step + 32])[1])[1]
        if option == "clipvalue":
            gradients = [np.clip(g, -0.02, 0.02) for g in gradients]
        elif option == "clipnorm":
            gradients = [g * min(1.0, 0.1 / max(np.linalg.norm(g), 1e-300)) for g in gradients]
        elif option == "global_clipnorm":
            norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
            gradients = [g * min(1.0, 0.3 / norm) for g in gradients]
        else:
            total = gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
            gradients = [g * (0.0 if step == 0 else 0.5) for g in total]
        descend(twin, network, gradients)
    for label, a, b in zip(labels, model.get_weights(), twin.get_weights(), strict=True):
        assert error(a, b) < 1e-10, label


@pytest.mark.parametrize(
    "optimizer", [fb.AdamW(weight_decay=0.1), fb.Adam(use_ema=True), fb.Adam(clipnorm=0.1)], ids=repr
)
def test_moving_statistics_are_nobodys_to_update(optimizer: Any) -> None:
    model = made("batch_normalization")
    model.compile(optimizer, "mean_squared_error")
    x, y = inputs(64, 7), inputs(64, 3, seed=8)
    gradients = model.gradients(x, y)
    before = model.named_weights()
    model.apply_gradients(gradients)
    for label, after in model.named_weights().items():
        assert np.array_equal(after, before[label]) == ("moving" in label), label


def test_a_frozen_batch_normalization_goes_by_its_moving_statistics() -> None:
    model = made("batch_normalization")
    for layer in model.layers:
        layer.trainable = not isinstance(layer, fb.BatchNormalization)
    x, y = inputs(64, 7), inputs(64, 3, seed=8)
    before = model.named_weights()
    history = model.fit(x, y, batch_size=64, epochs=1, shuffle=False, verbose=0)
    wanted = reference.mean_squared_error(Network(made("batch_normalization"), training=False).run(x)[0], y)[0]
    assert history.history["loss"][0] == pytest.approx(wanted, rel=1e-4)
    for label, after in model.named_weights().items():
        assert np.array_equal(after, before[label]) == label.startswith("batch_normalization"), label


def test_steps_on_batches_draw_what_a_fit_draws() -> None:
    x, y = inputs(96, 7), inputs(96, 3, seed=8)
    fitted, stepped = made("all"), made("all")
    fitted.fit(x, y, batch_size=32, epochs=1, shuffle=False, verbose=0)
    for start in (0, 32, 64):
        stepped.train_on_batch(x[start : start + 32], y[start : start + 32])
    for a, b in zip(fitted.get_weights(), stepped.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("batch", "rows"), [(1, 3), (4, 9), (4, 11), (8, 17)])
def test_a_short_last_step_of_few_rows(batch: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step before has left in its other rows counts for nothing."""
    monkeypatch.setattr("fastbp.program.THIN_PARAMETERS", 0)
    monkeypatch.setattr("fastbp.program.THIN_OUTPUTS", 0)
    model = fb.Model([fb.Dense(37, "relu"), fb.Dense(18, "relu"), fb.Dense(3)], dtype="float64", seed=2)
    model.build(20)
    model.compile(fb.SGD(0.05, momentum=0.5), "mean_squared_error")
    weights = model.get_weights()
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((rows, 20)), rng.standard_normal((rows, 3))
    model.fit(x, y, batch_size=batch, epochs=3, shuffle=False, verbose=0)
    sgd = reference.SGD(0.05, momentum=0.5)
    names = [layer.activation.name for layer in model.layers]
    wanted, _ = reference.train(weights, names, "mean_squared_error", sgd, x, y, batch_size=batch, epochs=3)
    for got, truth in zip(model.get_weights(), wanted, strict=True):
        assert error(got, truth) < 1e-10
