"""Pins the reference itself, by published and hand-worked numbers, central differences and other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from reference import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    PAIRED_ACTIVATION,
    SGD,
    Adam,
    AdamW,
    Array,
    Weights,
    activate,
    activate_backward,
    forward,
    loss_and_gradients,
    train,
    with_biases,
    without_biases,
)

STEP = 1e-5
#: No point within STEP of the kinks at 0 and 3.
Z = np.linspace(-4.0, 4.0, 42).reshape(6, 7)


def central_differences(f: Callable[[Array], float], x: Array) -> Array:
    """df/dx of a scalar f, an entry at a time."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += STEP
        down[i] -= STEP
        gradient[i] = (f(up) - f(down)) / (2 * STEP)
    return gradient


def targets(loss: str, rows: int, outputs: int, rng: np.random.Generator) -> np.ndarray:
    if loss.startswith("sparse"):
        return rng.integers(outputs, size=rows)
    if loss.startswith(("categorical_cross", "categorical_focal", "kl")):
        return rng.dirichlet(np.ones(outputs), size=rows)
    if loss == "categorical_hinge":
        return np.eye(outputs)[rng.integers(outputs, size=rows)]
    if loss in ("hinge", "squared_hinge"):
        return rng.choice([-1.0, 1.0], size=(rows, outputs))
    if loss.startswith(("poisson", "tweedie", "negative")):
        return rng.poisson(2.0, size=(rows, outputs)).astype(float)
    return rng.random((rows, outputs))


def network(sizes: list[int], rng: np.random.Generator, use_bias: bool = True) -> Weights:
    weights: Weights = []
    for fan_in, fan_out in pairwise(sizes):
        weights += [rng.normal(0, fan_in**-0.5, (fan_in, fan_out)), rng.normal(0, 0.1, fan_out) if use_bias else None]
    return weights


# --- activations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "z", "a"),
    [
        ("linear", -3.0, -3.0),
        ("relu", 2.0, 2.0),
        ("relu", -2.0, 0.0),
        ("leaky_relu", -2.0, -0.4),
        ("elu", -1.0, 1 / math.e - 1),
        ("elu", 1.5, 1.5),
        ("selu", -1.0, -1.1113307378125625),
        ("selu", 1.0, 1.0507009873554805),
        ("gelu", 1.0, 0.8413447460685429),  # the standard normal distribution at one
        ("gelu", -1.0, -0.15865525393145707),
        ("gelu_tanh", 1.0, 0.8411919906082768),
        ("silu", 1.0, 0.7310585786300049),
        ("sigmoid", math.log(3), 0.75),
        ("sigmoid", -1e4, 0.0),
        ("sigmoid", 1e4, 1.0),
        ("tanh", math.log(2), 0.6),
        ("softplus", 0.0, math.log(2)),
        ("softplus", 1e4, 1e4),
        ("softsign", -3.0, -0.75),
        ("mish", math.log(2), 0.8 * math.log(2)),
        ("mish", 1e4, 1e4),
        ("hard_sigmoid", 1.5, 0.75),
        ("hard_sigmoid", -4.0, 0.0),
        ("hard_silu", -1.5, -0.375),
        ("hard_silu", 4.0, 4.0),
        ("exponential", 1.0, math.e),
    ],
)
def test_activation_values(name: str, z: float, a: float) -> None:
    assert_allclose(activate(name, np.array([[z]])), [[a]], rtol=1e-14, atol=0)


def test_softmax_of_logarithms_is_the_shares() -> None:
    z = np.log([[1.0, 2.0, 5.0]]) + np.array([[0.0], [1e4], [-1e4]])
    assert_allclose(activate("softmax", z), [[0.125, 0.25, 0.625]] * 3, rtol=1e-11)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softmax"])
def test_activation_gradients(name: str) -> None:
    da = np.cos(np.arange(Z.size)).reshape(Z.shape)
    expected = central_differences(lambda z: float((da * activate(name, z)).sum()), Z)
    assert_allclose(activate_backward(name, Z, da), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("alias", "name"), reference.ACTIVATION_ALIASES.items())
def test_activation_aliases(alias: str, name: str) -> None:
    assert np.array_equal(activate(alias, Z), activate(name, Z))
    assert np.array_equal(activate_backward(alias, Z, Z), activate_backward(name, Z, Z))


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "a", "y", "value"),
    [
        ("mean_squared_error", [[1, 2], [3, 4]], [[0, 2], [1, 1]], 14 / 4),
        ("half_squared_error", [[1, 2], [3, 4]], [[0, 2], [1, 1]], 14 / 2),
        ("mean_absolute_error", [[1, 2], [3, 4]], [[0, 2], [1, 1]], 6 / 4),
        ("huber", [[1, 2], [3, 4]], [[0.5, 2], [1, 1]], (0.125 + 0 + 1.5 + 2.5) / 4),
        ("poisson", [[1.0], [math.e]], [[5], [2]], (1 + math.e - 2) / 2),
        ("poisson_deviance", [[0.0], [1.0]], [[0], [1]], (1 + math.e - 2) / 2),
        ("mean_absolute_percentage_error", [[1.0, 3.0]], [[2, -2]], 100 * (0.5 + 2.5) / 2),
        ("mean_squared_logarithmic_error", [[math.e - 1, 3.0]], [[math.e**3 - 1, 3]], 4 / 2),
        ("log_cosh", [[0.0, math.log(2)]], [[0, 0]], math.log(1.25) / 2),
        ("quantile", [[0.0, 4.0]], [[2, 1]], (0.5 * 2 + 0.5 * 3) / 2),
        ("hinge", [[0.25, 3.0], [0.25, -3.0]], [[1, 1], [-1, 1]], (0.75 + 0 + 1.25 + 4) / 4),
        ("squared_hinge", [[0.25, 3.0], [0.25, -3.0]], [[1, 1], [-1, 1]], (0.75**2 + 1.25**2 + 16) / 4),
        ("categorical_hinge", [[1.0, 2.0, 4.0], [5.0, 1.0, 2.0]], [[0, 1, 0], [1, 0, 0]], 3 / 2),
        ("kl_divergence", [[0.5, 0.5]], [[0.25, 0.75]], 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        ("cosine_similarity", [[3.0, 4.0], [1.0, 0.0]], [[4, 3], [-2, 0]], (-24 / 25 + 1) / 2),
        ("gamma_deviance", [[0.0], [1.0]], [[2], [math.e]], (-math.log(2) + 1) / 2),
        # 4**0.5 / (-0.5 * 0.5) - 4 * 1 / -0.5 + 1 / 0.5
        ("tweedie_deviance", [[0.0], [math.log(4)]], [[4], [4]], (-8 + 8 + 2) / 2),
        (
            "negative_binomial_deviance",
            [[0.0], [0.0]],
            [[3], [0]],
            (3 * math.log(3) - 4 * math.log(2) + math.log(2)) / 2,
        ),
        # logit ln 3 is a share of 3/4, so 1/4 is missing; logit 0 misses 1/2
        (
            "binary_focal_crossentropy",
            [[math.log(3)], [0.0]],
            [[1], [0]],
            (math.log(4 / 3) / 16 + math.log(2) / 4) / 2,
        ),
        ("categorical_focal_crossentropy", np.log([[1, 2, 5]]), [[0, 1, 0]], 0.25 * 0.75**2 * math.log(4)),
        ("sparse_categorical_focal_crossentropy", np.log([[1, 2, 5]]), [2], 0.25 * 0.375**2 * math.log(8 / 5)),
        ("binary_crossentropy", [[math.log(3)], [0.0]], [[1], [0]], (math.log(4 / 3) + math.log(2)) / 2),
        ("categorical_crossentropy", np.log([[1, 2, 5], [1, 1, 2]]), [[0, 1, 0], [0.5, 0, 0.5]], 1.75 * math.log(2)),
        ("sparse_categorical_crossentropy", np.log([[1, 2, 5], [1, 1, 2]]), [1, 2], math.log(8) / 2),
    ],
)
def test_loss_values(loss: str, a: ArrayLike, y: ArrayLike, value: float) -> None:
    # The guard inside Poisson's logarithm moves that loss by up to 1e-6.
    rtol = 1e-6 if loss == "poisson" else 1e-13
    assert_allclose(LOSSES[loss](np.array(a, float), y)[0], value, rtol=rtol, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_gradients(loss: str) -> None:
    rng = np.random.default_rng(1)
    a, y = rng.uniform(0.1, 3, (5, 4)), targets(loss, 5, 4, rng)
    expected = central_differences(lambda a: LOSSES[loss](a, y)[0], a)
    assert_allclose(LOSSES[loss](a, y)[1], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        ("huber", {"delta": 0.3}),
        ("quantile", {"quantile": 0.9}),
        ("binary_crossentropy", {"label_smoothing": 0.2}),
        ("categorical_crossentropy", {"label_smoothing": 0.2}),
        ("binary_focal_crossentropy", {"gamma": 0.5, "alpha": 0.7, "apply_class_balancing": True}),
        ("binary_focal_crossentropy", {"gamma": 3.0, "label_smoothing": 0.3}),
        ("categorical_focal_crossentropy", {"gamma": 0.5, "alpha": 2.0, "label_smoothing": 0.3}),
        ("tweedie_deviance", {"power": 1.9}),
        ("negative_binomial_deviance", {"dispersion": 0.3}),
    ],
)
def test_loss_gradients_with_parameters(loss: str, parameters: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    a, y = rng.uniform(-2, 2, (5, 4)), targets(loss, 5, 4, rng)
    expected = central_differences(lambda a: LOSSES[loss](a, y, **parameters)[0], a)
    assert_allclose(LOSSES[loss](a, y, **parameters)[1], expected, rtol=1e-6, atol=1e-9)


def test_parameters_that_change_nothing() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(5, 4))
    for focal, plain, y in (
        ("binary_focal_crossentropy", "binary_crossentropy", rng.random((5, 4))),
        ("categorical_focal_crossentropy", "categorical_crossentropy", rng.dirichlet(np.ones(4), size=5)),
    ):
        settings = {"gamma": 0.0, "alpha": 1.0}
        assert_allclose(LOSSES[focal](z, y, **settings)[0], LOSSES[plain](z, y)[0], rtol=1e-12)
        assert_allclose(LOSSES[focal](z, y, **settings)[1], LOSSES[plain](z, y)[1], rtol=1e-12)
    y = rng.poisson(2.0, size=(5, 4))
    poisson = LOSSES["poisson_deviance"](z, y)[0]
    assert_allclose(LOSSES["tweedie_deviance"](z, y, power=1 + 1e-7)[0], poisson, rtol=1e-5)
    assert_allclose(LOSSES["negative_binomial_deviance"](z, y, dispersion=1e-7)[0], poisson, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "metric", "parameters", "settings", "factor"),
    [
        ("mean_absolute_percentage_error", "mean_absolute_percentage_error", {}, {}, 100),
        ("mean_squared_logarithmic_error", "mean_squared_log_error", {}, {}, 1),
        ("quantile", "mean_pinball_loss", {"quantile": 0.8}, {"alpha": 0.8}, 1),
        ("poisson_deviance", "mean_poisson_deviance", {}, {}, 0.5),
        ("gamma_deviance", "mean_gamma_deviance", {}, {}, 0.5),
        ("tweedie_deviance", "mean_tweedie_deviance", {"power": 1.3}, {"power": 1.3}, 0.5),
    ],
)
def test_losses_of_scikit_learn(
    loss: str, metric: str, parameters: dict[str, float], settings: dict[str, float], factor: float
) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=(50, 1)), rng.gamma(2.0, size=(50, 1))
    a = np.exp(z)
    expected = factor * getattr(metrics, metric)(y[:, 0], a[:, 0], **settings)
    assert_allclose(LOSSES[loss](z if loss in PAIRED_ACTIVATION else a, y, **parameters)[0], expected, rtol=1e-5)


def test_huber_delta() -> None:
    value, da = reference.huber(np.array([[1.5, 5.0]]), [[0.0, 0.0]], delta=2.0)
    assert value == (0.5 * 1.5**2 + 2 * (5 - 1)) / 2
    assert np.array_equal(da, [[0.75, 1.0]])


@pytest.mark.parametrize(
    ("loss", "z", "y", "value", "dz"),
    [
        ("binary_crossentropy", [[1e4]], [[1]], 0.0, [[0.0]]),
        ("binary_crossentropy", [[1e4]], [[0]], 1e4, [[1.0]]),
        ("binary_crossentropy", [[-1e4]], [[1]], 1e4, [[-1.0]]),
        ("categorical_crossentropy", [[1e4, -1e4]], [[1, 0]], 0.0, [[0.0, 0.0]]),
        ("categorical_crossentropy", [[1e4, -1e4]], [[0, 1]], 2e4, [[1.0, -1.0]]),
        ("sparse_categorical_crossentropy", [[-1e4, 1e4]], [0], 2e4, [[-1.0, 1.0]]),
    ],
)
def test_crossentropies_of_extreme_logits(loss: str, z: ArrayLike, y: ArrayLike, value: float, dz: ArrayLike) -> None:
    got = LOSSES[loss](np.array(z), y)
    assert got[0] == value
    assert np.array_equal(got[1], dz)


# --- the network -----------------------------------------------------------------------------------------------------


def test_hand_worked_2_2_1() -> None:
    weights: Weights = [np.array([[1.0, -2.0], [3.0, 1.0]]), np.array([-1.0, 5.0]), np.array([[2.0], [-1.0]]), None]
    x, y = [[1.0, 2.0], [2.0, -1.0]], [[5.0], [0.0]]
    # row 1: z = (1 + 6 - 1, -2 + 2 + 5) = (6, 5), a = (6, 5), output 12 - 5 = 7, error 2
    # row 2: z = (2 - 3 - 1, -4 - 1 + 5) = (-2, 0), a = (0, 0), output 0, error 0
    assert np.array_equal(forward(weights, ["relu", "linear"], x), [[7.0], [0.0]])
    loss, gradients, dx = loss_and_gradients(weights, ["relu", "linear"], "half_squared_error", x, y)
    assert loss == 2.0
    # only row 1 has an error: da = 2 * (2, -1) = (4, -2), dW = x' da
    assert gradients[3] is None
    dw1, db1, dw2 = without_biases(gradients)
    assert np.array_equal(dw1, [[4.0, -2.0], [8.0, -4.0]])
    assert np.array_equal(db1, [4.0, -2.0])
    assert np.array_equal(dw2, [[12.0], [10.0]])
    # dx = (4 * 1 + 2 * 2, 4 * 3 - 2 * 1)
    assert np.array_equal(dx, [[8.0, 10.0], [0.0, 0.0]])
    new, losses = train(weights, ["relu", "linear"], "half_squared_error", SGD(0.5), x, y)
    assert losses == [2.0]
    w1, b1, w2 = without_biases(new)
    assert np.array_equal(w1, [[-1.0, -1.0], [-1.0, 3.0]])
    assert np.array_equal(b1, [-3.0, 6.0])
    assert np.array_equal(w2, [[-4.0], [-6.0]])
    assert np.array_equal(without_biases(weights)[2], [[2.0], [-1.0]]), "train() changed its argument"


def test_published_step_by_step_example() -> None:
    """Matt Mazur's widely copied 2-2-2 sigmoid example: one step of rate 0.5 (that article leaves the biases alone)."""
    weights: Weights = [
        np.array([[0.15, 0.25], [0.20, 0.30]]),
        np.array([0.35, 0.35]),
        np.array([[0.40, 0.50], [0.45, 0.55]]),
        np.array([0.60, 0.60]),
    ]
    x, y, activations = [[0.05, 0.10]], [[0.01, 0.99]], ["sigmoid", "sigmoid"]
    assert_allclose(forward(weights, activations, x), [[0.75136507, 0.772928465]], atol=5e-9)
    new, losses = train(weights, activations, "half_squared_error", SGD(0.5), x, y)
    assert_allclose(losses, [0.298371109], atol=5e-10)
    w1, _, w2, _ = without_biases(new)
    assert_allclose(w1, [[0.149780716, 0.24975114], [0.19956143, 0.29950229]], atol=5e-9)
    assert_allclose(w2, [[0.35891648, 0.511301270], [0.408666186, 0.561370121]], atol=5e-9)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "softmax"])
def test_network_gradients(activation: str, loss: str, use_bias: bool) -> None:
    """Central differences over every activation x loss, of every weight, bias and input."""
    rng = np.random.default_rng(2)
    hidden = "tanh" if activation == "softmax" else activation
    last = PAIRED_ACTIVATION.get(loss, activation)
    if loss in ("poisson", "mean_squared_logarithmic_error") and activation not in ("sigmoid", "softmax", "softplus"):
        last = "exponential"  # of positive outputs
    if loss == "kl_divergence":
        last = "sigmoid"  # of outputs from 0 to 1
    activations, weights = [hidden, last], network([3, 4, 2], rng, use_bias)
    x, y = rng.normal(size=(5, 3)), targets(loss, 5, 2, rng)
    value, gradients, dx = loss_and_gradients(weights, activations, loss, x, y)
    assert math.isfinite(value)

    def loss_with(i: int, array: Array) -> float:
        return loss_and_gradients([*weights[:i], array, *weights[i + 1 :]], activations, loss, x, y)[0]

    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        if weight is None or gradient is None:
            assert weight is gradient
        else:
            assert_allclose(gradient, central_differences(partial(loss_with, i), weight), rtol=1e-6, atol=1e-8)
    expected = central_differences(lambda x: loss_and_gradients(weights, activations, loss, x, y)[0], x)
    assert_allclose(dx, expected, rtol=1e-6, atol=1e-8)


def test_a_linear_output_hands_logits_to_a_crossentropy() -> None:
    rng = np.random.default_rng(3)
    weights, x, y = network([3, 4], rng), rng.normal(size=(5, 3)), rng.integers(4, size=5)
    got = loss_and_gradients(weights, ["linear"], "sparse_categorical_crossentropy", x, y)
    expected = loss_and_gradients(weights, ["softmax"], "sparse_categorical_crossentropy", x, y)
    assert got[0] == expected[0]
    assert np.array_equal(got[2], expected[2])


def test_a_crossentropy_of_anything_else_is_refused() -> None:
    with pytest.raises(ValueError, match="softmax or linear, not relu"):
        loss_and_gradients([np.ones((2, 2)), None], ["relu"], "categorical_crossentropy", np.ones((1, 2)), [[1, 0]])


def test_the_layout_of_weights_survives_missing_biases() -> None:
    kernel, bias = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    for arrays in ([kernel], [kernel, bias], [kernel, kernel], [kernel, bias, kernel], [kernel, kernel, bias]):
        weights = with_biases(arrays)
        assert len(weights) == 2 * sum(array.ndim == 2 for array in arrays)
        assert all(kernel is not None and kernel.ndim == 2 for kernel in weights[::2])
        assert all(bias is None or bias.ndim == 1 for bias in weights[1::2])
        assert [array.shape for array in without_biases(weights)] == [array.shape for array in arrays]


def test_train_follows_the_orders_and_a_short_last_batch() -> None:
    """y = w x with half the squared error: every step is w -= 0.1 * sum of (w x - y) x, worked by hand."""
    x, y = [[1.0], [2.0], [3.0]], [[1.0], [0.0], [-1.0]]
    orders = [np.array([2, 0, 1]), np.array([1, 2, 0])]
    new, losses = train(
        [np.array([[1.0]]), None],
        ["linear"],
        "half_squared_error",
        SGD(0.1),
        x,
        y,
        batch_size=2,
        epochs=2,
        orders=orders,
    )
    # epoch 1: rows (3, 1), errors (4, 0), w = 1 - 0.1 * 12 = -0.2; row 2, error -0.4, w = -0.2 + 0.08 = -0.12
    # epoch 2: rows (2, 3), errors (-0.24, 0.64), w = -0.12 - 0.1 * 1.44 = -0.264; row 1, error -1.264, w = -0.1376
    assert_allclose(without_biases(new), [[[-0.1376]]], rtol=1e-13)
    assert_allclose(losses, [8 + 0.08, 0.5 * (0.24**2 + 0.64**2 + 1.264**2)], rtol=1e-13)
    # a mean weighs the short batch by its rows: (4**2 + 0**2) / 2 * 2 rows, then w = 1 - 0.1 * 12 and (-0.4)**2 * 1 row
    _, losses = train([np.array([[1.0]]), None], ["linear"], "mse", SGD(0.1), x, y, batch_size=2, orders=orders[:1])
    assert_allclose(losses, [(16 + 0.16) / 3], rtol=1e-13)


# --- optimizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "trace"),
    [
        (SGD(0.1), [0.9, 0.7]),
        (SGD(0.1, momentum=0.9), [1 - 0.1, 0.9 - 0.29]),
        (SGD(0.1, momentum=0.9, nesterov=True), [1 - 0.09 - 0.1, 0.81 - 0.9 * 0.29 - 0.2]),
        # m = 0.1, 0.09 + 0.2; v = 0.001, 0.000999 + 0.004; corrected by 1 - 0.9^t and 1 - 0.999^t
        (Adam(0.1, epsilon=0.0), [0.9, 0.9 - 0.1 * (0.29 / 0.19) / math.sqrt(0.004999 / 0.001999)]),
        (Adam(0.1, epsilon=1.0), [0.95, 0.95 - 0.1 * (0.29 / 0.19) / (math.sqrt(0.004999 / 0.001999) + 1)]),
        # m = 0.5, 0.25 + 1; v = 0.25, 0.1875 + 1
        (
            Adam(0.1, beta_1=0.5, beta_2=0.75, epsilon=0.0),
            [0.9, 0.9 - 0.1 * (1.25 / 0.75) / math.sqrt(1.1875 / 0.4375)],
        ),
        (
            AdamW(0.1, weight_decay=0.5, epsilon=0.0),
            [0.95 - 0.1, 0.85 * 0.95 - 0.1 * (0.29 / 0.19) / math.sqrt(4.999 / 1.999)],
        ),
    ],
)
def test_optimizers_by_hand(optimizer: reference.Base, trace: list[float]) -> None:
    """One parameter from 1, with the gradients 1 and 2."""
    w = np.array([1.0])
    for gradient, expected in zip([1.0, 2.0], trace, strict=True):
        optimizer.update([w], [np.array([gradient])])
        assert_allclose(w, [expected], rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_keep_a_state_per_parameter(name: str) -> None:
    rng = np.random.default_rng(4)
    together, apart = OPTIMIZERS[name](), [OPTIMIZERS[name](), OPTIMIZERS[name]()]
    joint = [np.ones((2, 3)), np.ones(3)]
    alone = [np.ones((2, 3)), np.ones(3)]
    for _ in range(3):
        gradients = [rng.normal(size=(2, 3)), rng.normal(size=3)]
        together.update(joint, gradients)
        for optimizer, w, g in zip(apart, alone, gradients, strict=True):
            optimizer.update([w], [g])
    for w, v in zip(joint, alone, strict=True):
        assert np.array_equal(w, v)
        assert not (w == 1).any()


# --- other libraries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"solver": "sgd", "momentum": 0.0}, SGD(0.05)),
        ({"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False}, SGD(0.05, momentum=0.9)),
        ({"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": True}, SGD(0.05, momentum=0.9, nesterov=True)),
        # scikit-learn corrects epsilon along with the second moment, so only without it are the two the same
        ({"solver": "adam", "epsilon": 1e-30}, Adam(0.05, epsilon=1e-30)),
    ],
)
def test_parity_with_scikit_learn(settings: dict[str, Any], optimizer: reference.Base) -> None:
    networks = pytest.importorskip("sklearn.neural_network", reason="scikit-learn is not installed")
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(50, 4)), rng.integers(3, size=50)

    def fitted(learning_rate: float, epochs: int) -> tuple[list[Array], Any]:
        network = networks.MLPClassifier(
            (6, 5), activation="tanh", alpha=0, batch_size=16, shuffle=False, random_state=0,
            learning_rate_init=learning_rate, **settings,
        )  # fmt: skip
        for _ in range(epochs):
            network.partial_fit(x, y, classes=[0, 1, 2])
        return [array for pair in zip(network.coefs_, network.intercepts_, strict=True) for array in pair], network

    start, _ = fitted(learning_rate=1e-300, epochs=1)
    expected, network = fitted(learning_rate=0.05, epochs=3)
    activations = ["tanh", "tanh", "softmax"]
    got, losses = train(
        with_biases(start), activations, "sparse_categorical_crossentropy", optimizer, x, y, batch_size=16, epochs=3
    )
    for a, b in zip(without_biases(got), expected, strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert_allclose(losses, network.loss_curve_, rtol=1e-9)
    assert_allclose(forward(got, activations, x), network.predict_proba(x), rtol=1e-9)


def test_parity_with_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(40, 4)), rng.integers(3, size=40)
    weights = network([4, 6, 5, 3], rng)
    linears = [torch.nn.Linear(fan_in, fan_out, dtype=torch.float64) for fan_in, fan_out in ((4, 6), (6, 5), (5, 3))]
    model = torch.nn.Sequential(linears[0], torch.nn.GELU(), linears[1], torch.nn.SELU(), linears[2])
    for parameter, array in zip(model.parameters(), without_biases(weights), strict=True):
        parameter.data = torch.tensor(array.T.copy())
    cross_entropy = torch.nn.functional.cross_entropy
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-7, weight_decay=0.1)
    inputs = torch.tensor(x, requires_grad=True)
    for start in [*range(0, 40, 16)] * 3:
        optimizer.zero_grad()
        rows = slice(start, start + 16)
        cross_entropy(model(inputs[rows]), torch.tensor(y[rows])).backward()
        optimizer.step()

    activations, loss = ["gelu", "selu", "softmax"], "sparse_categorical_crossentropy"
    got, _ = train(weights, activations, loss, AdamW(0.01, weight_decay=0.1), x, y, batch_size=16, epochs=3)
    for array, parameter in zip(without_biases(got), model.parameters(), strict=True):
        assert_allclose(array.T, parameter.detach().numpy(), rtol=1e-9, atol=1e-12)
    inputs.grad = None
    cross_entropy(model(inputs), torch.tensor(y)).backward()
    _, _, dx = loss_and_gradients(got, activations, loss, x, y)
    assert_allclose(dx, inputs.grad.numpy(), rtol=1e-9, atol=1e-14)
