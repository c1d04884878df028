"""Outputs, losses and gradients against the reference and central differences, over every row of the tables."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from helpers import ELEMENTWISE, OUTPUT, TOLERANCE, error, expected, inputs, make, outputs, targets

import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES

DTYPES = ["float32", "float64"]
RATES = ("sigmoid", "softplus", "exponential", "softmax")
SUITED = {"poisson": RATES, "mean_squared_logarithmic_error": RATES, "kl_divergence": ("sigmoid", "softmax")}
"""Activations whose outputs a loss is of: above 0, from 0 to 1."""


def check(model: fb.Model, loss: str, rows: int, tolerance: float) -> None:
    x = inputs(rows, model.input_width or 0)
    y = targets(loss, rows, model.output_width)
    model.compile("sgd", loss)
    value, wanted, dx = expected(model, loss, x, y)
    assert error(model.predict(x), outputs(model, x)) < tolerance
    assert model.evaluate(x, y) == pytest.approx(value, rel=tolerance, abs=tolerance)
    got, got_dx = model.gradients(x, y, inputs=True)
    for name, a, b in zip("wb" * len(got), got, wanted, strict=False):
        assert error(a, b) < tolerance, name
    assert error(got_dx, dx) < tolerance


HIDDEN_AND_LOSS = [
    (hidden, loss)
    for hidden, loss in itertools.product(ELEMENTWISE, LOSSES)
    if hidden != "exponential" or OUTPUT.get(loss) != "exponential"  # exp(exp(z)) overflows
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "loss"), HIDDEN_AND_LOSS)
def test_every_hidden_activation_with_every_loss(hidden: str, loss: str, dtype: str) -> None:
    check(make([7, 9, 5, 4], hidden, OUTPUT.get(loss, "linear"), dtype=dtype), loss, 37, 20 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", range(1, 8))
def test_few_inputs_and_outputs(width: int, dtype: str) -> None:
    """Of a few columns rows are gathered together, and a few inputs' gradients have tiles of their own."""
    check(make([width, 50, width, 20, width], dtype=dtype), "mean_squared_error", 75, 20 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("output", "loss"),
    [
        (output, loss)
        for output, loss in itertools.product(ACTIVATIONS, [n for n, row in LOSSES.items() if row.fused_with is None])
        if output in SUITED.get(loss, ACTIVATIONS)
    ],
)
def test_every_output_activation(output: str, loss: str, dtype: str) -> None:
    check(make([6, 8, 3], "tanh", output, dtype=dtype), loss, 21, 20 * TOLERANCE[dtype])


@pytest.mark.parametrize(("hidden", "loss"), HIDDEN_AND_LOSS)
def test_central_differences(hidden: str, loss: str) -> None:
    model = make([3, 4, 3], hidden, OUTPUT.get(loss, "linear"), dtype="float64")
    model.compile("sgd", loss)
    x, y = inputs(5, 3), targets(loss, 5, 3)
    gradients, dx = model.gradients(x, y, inputs=True)
    step = 1e-6
    weights = model.get_weights()
    for w, g in zip(weights, gradients, strict=True):
        for place in np.ndindex(w.shape):
            kept = w[place]
            values = []
            for sign in (1, -1):
                w[place] = kept + sign * step
                model.set_weights(weights)
                values.append(model.evaluate(x, y))
            w[place] = kept
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(g[place], abs=2e-8, rel=2e-6)
    model.set_weights(weights)
    for place in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        values = [model.evaluate(m, y) for m in moved]
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(dx[place], abs=2e-8, rel=2e-6)


SHAPES = [
    ([1, 1], 1),
    ([1, 1, 1], 7),
    ([5, 3], 33),
    ([17, 33, 1], 31),
    ([16, 16, 16], 32),
    ([31, 15, 2], 100),
    ([33, 17, 48, 7], 65),
    ([97, 101, 10], 129),
    ([200, 333, 130, 3], 200),
    ([785, 257, 129, 11], 70),
    ([300, 1, 300], 40),
    ([2, 700, 2], 96),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("widths", "rows"), SHAPES)
def test_odd_shapes(widths: list[int], rows: int, threads: int, dtype: str) -> None:
    model = make(widths, "tanh", "linear", dtype=dtype, threads=threads)
    check(model, "mean_squared_error", rows, 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, 9, 16])
@pytest.mark.parametrize("widths", [[97, 101, 10], [300, 1, 300], [785, 257, 129, 11], [16, 600, 33, 48, 2]], ids=str)
def test_few_rows(widths: list[int], rows: int, threads: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lanes are neurons: right, and a row's outputs the same bits as among many."""
    monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)
    for hidden in ("relu", "tanh"):
        model = make(widths, hidden, "linear", dtype=dtype, threads=threads)
        if hidden == "tanh":  # the reference may see a sum on the other side of relu's kink
            check(model, "mean_squared_error", rows, 10 * TOLERANCE[dtype])
        x = inputs(70, widths[0]).astype(dtype)
        np.testing.assert_array_equal(model.predict(x[:rows]), model.predict(x)[:rows])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16, 33, 64])
def test_with_and_without_bias(rows: int, bias: bool) -> None:
    check(make([19, 23, 6], "sigmoid", "softmax", bias=bias), "categorical_crossentropy", rows, 2e-4)


def test_rectifiers_agree_away_from_their_kink() -> None:
    model = make([40, 64, 64, 5], "relu", "softmax")
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = inputs(150, 40), targets("sparse_categorical_crossentropy", 150, 5)
    weights = [w.astype(np.float64) for w in model.get_weights()]
    z, _ = reference.forward_layers(weights, ["relu", "relu", "softmax"], x.astype(np.float32))
    clear = np.all([np.abs(layer).min(axis=1) > 1e-5 for layer in z[:2]], axis=0)
    assert clear.sum() > 100
    _, wanted, _ = expected(model, "sparse_categorical_crossentropy", x[clear], y[clear])
    for a, b in zip(model.gradients(x[clear], y[clear]), wanted, strict=True):
        assert error(a, b) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_batch_runs_in_slabs(dtype: str) -> None:
    for threads in (1, 2):
        model = make([4, 32, 16, 4], "tanh", "linear", dtype=dtype, threads=threads)
        x, y = inputs(40_000, 4), targets("mean_squared_error", 40_000, 4)
        model.compile("sgd", "mse")
        value, wanted, dx = expected(model, "mean_squared_error", x, y)
        got, got_dx = model.gradients(x, y, inputs=True)
        assert model.evaluate(x, y) == pytest.approx(value, rel=1e-5)
        for a, b in zip(got, wanted, strict=True):
            assert error(a, b) < 100 * TOLERANCE[dtype]
        assert error(got_dx, dx) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("loss", [name for name in LOSSES if name.endswith("crossentropy")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropies_are_safe_at_huge_logits(loss: str, dtype: str) -> None:
    model = make([3, 3], output=OUTPUT[loss], bias=False, dtype=dtype)
    model.set_weights([np.eye(3)])
    model.compile("sgd", loss)
    x = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, -1e4], [0.0, 0.0, 0.0]])
    y = targets(loss, 4, 3)
    value, wanted, dx = expected(model, loss, x, y)
    assert model.evaluate(x, y) == pytest.approx(value, rel=1e-6)
    got, got_dx = model.gradients(x, y, inputs=True)
    assert error(got[0], wanted[0]) < 1e-6
    assert error(got_dx, dx) < 1e-6


@pytest.mark.parametrize("loss", [name for name, row in LOSSES.items() if row.fused_with])
def test_from_logits_is_the_same_loss(loss: str) -> None:
    named = make([5, 4], output=OUTPUT[loss])
    logits = make([5, 4], output="linear")
    logits.set_weights(named.get_weights())
    x, y = inputs(30, 5), targets(loss, 30, 4)
    named.compile("sgd", loss)
    logits.compile("sgd", CLASSES[loss](from_logits=True))
    assert named.evaluate(x, y) == logits.evaluate(x, y)
    for a, b in zip(named.gradients(x, y), logits.gradients(x, y), strict=True):
        np.testing.assert_array_equal(a, b)


CLASSES = {
    name: getattr(fb, "KLDivergence" if name == "kl_divergence" else "".join(map(str.capitalize, name.split("_"))))
    for name in LOSSES
}
PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("huber", {"delta": 0.3}),
    ("quantile", {"quantile": 0.9}),
    ("binary_crossentropy", {"label_smoothing": 0.2}),
    ("categorical_crossentropy", {"label_smoothing": 0.2}),
    ("sparse_categorical_crossentropy", {"label_smoothing": 0.1}),
    ("binary_focal_crossentropy", {"gamma": 0.0}),
    ("binary_focal_crossentropy", {"gamma": 3.0, "alpha": 0.7, "apply_class_balancing": True, "label_smoothing": 0.1}),
    ("categorical_focal_crossentropy", {"gamma": 0.0, "alpha": 1.0}),
    ("categorical_focal_crossentropy", {"gamma": 0.7, "alpha": 0.5, "label_smoothing": 0.3}),
    ("sparse_categorical_focal_crossentropy", {"gamma": 3.0}),
    ("tweedie_deviance", {"power": 1.9}),
    ("negative_binomial_deviance", {"dispersion": 0.3}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "parameters"), PARAMETERS)
def test_parameters_of_losses(loss: str, parameters: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    model = make([5, 7, 4], output=OUTPUT.get(loss, "linear"), dtype=dtype)
    model.compile("sgd", CLASSES[loss](**parameters))
    x, y = inputs(37, 5), targets(loss, 37, 4)
    value, wanted, _ = expected(model, loss, x, y, **parameters)
    assert model.evaluate(x, y) == pytest.approx(value, rel=20 * TOLERANCE[dtype])
    for got, array in zip(model.gradients(x, y), wanted, strict=True):
        assert error(got, array) < 20 * TOLERANCE[dtype]
    model.save(tmp_path / "model.fastbp")
    assert fb.load_model(tmp_path / "model.fastbp").evaluate(x, y) == model.evaluate(x, y)


def test_every_loss_with_parameters_is_tried_with_others() -> None:
    assert {name for name, _ in PARAMETERS} == {name for name, row in LOSSES.items() if row.parameters}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_class_in_keras_manner(loss: str) -> None:
    assert CLASSES[loss]() == LOSSES[loss]
    for alias in LOSSES[loss].aliases:
        assert fb.losses.get(alias) is LOSSES[loss]


@pytest.mark.parametrize(
    ("cls", "setting", "value", "message"),
    [
        (fb.Huber, "delta", 0, "Huber: delta must be above 0, got 0"),
        (fb.Huber, "delta", "1", "Huber: delta must be a number, got '1'"),
        (fb.Quantile, "quantile", 1.0, "Quantile: quantile must be between 0 and 1, got 1.0"),
        (fb.BinaryCrossentropy, "label_smoothing", 1.0, r"label_smoothing must be in \[0, 1\), got 1.0"),
        (fb.CategoricalCrossentropy, "label_smoothing", -0.1, r"label_smoothing must be in \[0, 1\), got -0.1"),
        (fb.BinaryFocalCrossentropy, "alpha", 1.5, "alpha must be between 0 and 1, got 1.5"),
        (
            fb.BinaryFocalCrossentropy,
            "apply_class_balancing",
            "no",
            "apply_class_balancing must be True or False, got 'no'",
        ),
        (
            fb.CategoricalFocalCrossentropy,
            "gamma",
            -1,
            "CategoricalFocalCrossentropy: gamma must be at least 0, got -1",
        ),
        (
            fb.TweedieDeviance,
            "power",
            2,
            r"power must be between 1 \(poisson_deviance\) and 2 \(gamma_deviance\), got 2",
        ),
        (fb.NegativeBinomialDeviance, "dispersion", float("nan"), "dispersion must be a number, got nan"),
    ],
)
def test_parameters_out_of_range(cls: Callable[..., Any], setting: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**{setting: value})


def test_class_numbers_0_and_1_are_signs_to_the_hinges() -> None:
    x, y = inputs(37, 5), targets("hinge", 37, 4)
    for loss in ("hinge", "squared_hinge"):
        model = make([5, 4])
        model.compile("sgd", loss)
        given = (y + 1) / 2
        assert model.evaluate(x, given) == model.evaluate(x, y)
        assert set(given.ravel()) == {0, 1}  # the caller's array is left alone


def test_activation_parameters() -> None:
    steep = fb.activations.LEAKY_RELU(0.5)
    model = fb.Model([fb.Dense(1, activation=steep, use_bias=False, kernel_initializer=[[1.0]])])
    np.testing.assert_allclose(model.predict([[-2.0], [3.0]]), [[-1.0], [3.0]])
    with pytest.raises(TypeError, match="no parameter"):
        fb.activations.RELU(0.5)
