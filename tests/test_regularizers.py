"""Penalties as users give them: in every reported loss, in the gradient, in files, by all of Keras' spellings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import error, expected, inputs, targets

import fastbp as fb
from fastbp.regularizers import L1, L1L2, L2

LOSS = "mean_squared_error"


def penalised(dtype: str = "float64", threads: int = 1, optimizer: Any = None, hidden: int = 9) -> fb.Model:
    layers = [
        fb.Dense(hidden, "tanh", kernel_regularizer=L1L2(0.003, 0.02), bias_regularizer=L1(0.01)),
        fb.Dense(4, "tanh", use_bias=False, kernel_regularizer="l2"),
        fb.Dense(3, bias_regularizer="l1_l2"),
    ]
    model = fb.Model(layers, dtype=dtype, threads=threads)
    model.compile(optimizer or fb.SGD(0.05), LOSS)
    model.build(7)
    rng = np.random.default_rng(7)
    model.set_weights([rng.standard_normal(w.shape) / 2 for w in model.get_weights()])
    return model


def penalty(weights: list[np.ndarray]) -> float:
    kernel, bias, second, _, last = (w.astype(np.float64) for w in weights)
    value = 0.003 * np.abs(kernel).sum() + 0.02 * np.square(kernel).sum() + 0.01 * np.abs(bias).sum()
    value += 0.01 * np.square(second).sum() + 0.01 * (np.abs(last).sum() + np.square(last).sum())
    return float(value)


@pytest.mark.parametrize("rows", [1, 5, 40, 300])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-13), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("hidden", [9, 600])
def test_every_reported_loss_includes_them(dtype: str, tolerance: float, rows: int, hidden: int) -> None:
    model = penalised(dtype, 2, hidden=hidden)
    x, y = inputs(rows, 7), targets(LOSS, rows, 3)
    wanted = expected(model, LOSS, x, y)[0] + penalty(model.get_weights())
    assert model.evaluate(x, y) == pytest.approx(wanted, rel=tolerance)
    assert model.evaluate(x, y, batch_size=7) == pytest.approx(wanted, rel=tolerance)
    assert model.test_on_batch(x, y) == pytest.approx(wanted, rel=tolerance)
    assert model.train_on_batch(x, y) == pytest.approx(wanted, rel=tolerance)


def test_the_gradient_is_that_of_the_reported_loss() -> None:
    """By central differences of `evaluate`."""
    model = penalised()
    x, y = inputs(20, 7), targets(LOSS, 20, 3)
    weights, step = model.get_weights(), 1e-6
    for index, gradient in enumerate(model.gradients(x, y)):
        for place in [(0,) * gradient.ndim, tuple(n - 1 for n in gradient.shape)]:
            values = []
            for sign in (1, -1):
                moved = [w.copy() for w in weights]
                moved[index][place] += sign * step
                model.set_weights(moved)
                values.append(model.evaluate(x, y))
            assert gradient[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-8)
    model.set_weights(weights)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_fit_and_its_validation_report_them(threads: int) -> None:
    """Validations that the kernels make between epochs too: with the weights of their own epoch."""
    x, y = inputs(64, 7), targets(LOSS, 64, 3)
    whole = penalised(threads=threads)
    history = whole.fit(x[:48], y[:48], batch_size=16, epochs=3, validation_data=(x[48:], y[48:]), verbose=0)
    parts, losses, held = penalised(threads=threads), [], []
    for _ in range(3):
        losses += parts.fit(x[:48], y[:48], batch_size=16, verbose=0).history["loss"]
        held.append(parts.evaluate(x[48:], y[48:]))
    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-13)
    np.testing.assert_allclose(history.history["val_loss"], held, rtol=1e-13)
    assert held[-1] > penalty(parts.get_weights()) > 0.1


def test_a_strong_penalty_makes_weights_small() -> None:
    x, y = inputs(64, 7), targets(LOSS, 64, 3)
    norms = []
    for strength in (0.0, 1.0):
        model = fb.Model([fb.Dense(3, kernel_regularizer=L2(strength))], dtype="float64")
        model.compile(fb.SGD(0.1), LOSS)
        model.fit(x, y, batch_size=64, epochs=300, verbose=0)
        norms.append(float(np.square(model.get_weights()[0]).sum()))
    # a ridge regression by its normal equations: mean over rows and outputs
    both = np.column_stack([x, np.ones(64)])
    ridge = np.linalg.solve(both.T @ both + 64 * 3 * np.diag([1.0] * 7 + [0.0]), both.T @ y)
    assert norms[1] < norms[0] / 10
    assert error(model.get_weights()[0], ridge[:-1]) < 1e-6


def test_spellings() -> None:
    assert fb.Dense(1, kernel_regularizer="L1").kernel_regularizer == L1(0.01)
    assert fb.Dense(1, kernel_regularizer="l2").kernel_regularizer == L2(0.01)
    assert fb.Dense(1, bias_regularizer="l1_l2").bias_regularizer == L1L2(0.01, 0.01)
    assert fb.Dense(1).kernel_regularizer is None
    assert "L2(l2=0.5)" in repr(fb.Dense(1, kernel_regularizer=fb.regularizers.L2(0.5)))
    assert repr(L1L2(l2=0.1)) == "L1L2(l1=0.0, l2=0.1)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("l1_l3", r"unknown kernel_regularizer 'l1_l3'\. Did you mean 'l1_l2'\? Valid names: l1, l1_l2, l2"),
        (0.01, r"kernel_regularizer must be a name such as \"l2\", fb.regularizers.L2\(0.01\) or None, got 0.01"),
        ({"name": "L5"}, "unknown kernel_regularizer 'L5'"),
    ],
)
def test_mistakes(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fb.Dense(1, kernel_regularizer=given)


@pytest.mark.parametrize("value", [-0.1, np.inf, np.nan, "much", True])
def test_bad_strengths(value: Any) -> None:
    with pytest.raises(ValueError, match="L1: l1 must be a number of at least 0"):
        L1(value)
    with pytest.raises(ValueError, match="L1L2: l2 must be a number of at least 0"):
        L1L2(0.1, value)


def test_files_keep_them(tmp_path: Path) -> None:
    model = penalised()
    x, y = inputs(20, 7), targets(LOSS, 20, 3)
    model.save(tmp_path / "model")
    loaded = fb.load_model(tmp_path / "model")
    assert [layer.kernel_regularizer for layer in loaded.layers] == [L1L2(0.003, 0.02), L2(0.01), None]
    assert loaded.evaluate(x, y) == model.evaluate(x, y)
    for a in (model, loaded):
        a.fit(x, y, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_side_by_side_report_the_same() -> None:
    x, y = inputs(64, 7), targets(LOSS, 64, 3)
    alone = [penalised(optimizer=fb.Adam(rate)) for rate in (0.01, 0.003)]
    together = [penalised(optimizer=fb.Adam(rate)) for rate in (0.01, 0.003)]
    histories = fb.fit_many(together, x, y, epochs=3, validation_split=0.25, verbose=0)
    for one, history in zip(alone, histories, strict=True):
        wanted = one.fit(x, y, epochs=3, validation_split=0.25, verbose=0)
        assert history.history == wanted.history


def test_kerass_other_names() -> None:
    assert fb.regularizers.l2(0.1) == L2(0.1)
    assert fb.regularizers.l1_l2(0.1, 0.2) == L1L2(0.1, 0.2)
