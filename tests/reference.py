"""The network in plain float64 NumPy: what every kernel is held against.

Slow and obvious on purpose: one formula a line, nothing fused, nothing in place but the parameters that an
optimizer updates. Weights are a list ``[kernel (I, O), bias (O,) or None, kernel, bias, ...]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Weights = list[Array | None]
Elementwise = Callable[[Array], Array]
Loss = Callable[[Array, ArrayLike], tuple[float, Array]]

SELU_SCALE = 1.0507009873554804934193349852946  # Klambauer et al. 2017, appendix A
SELU_ALPHA = 1.6732632423543772848170429916717
LEAKY_SLOPE = 0.2
EPSILON = 1e-7  # what keeps logarithms and divisors away from 0


# --- activations -----------------------------------------------------------------------------------------------------


def sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def d_sigmoid(z: Array) -> Array:
    return sigmoid(z) * sigmoid(-z)


def relu(z: Array) -> Array:
    return np.maximum(z, 0)


def d_relu(z: Array) -> Array:
    return np.where(z > 0, 1.0, 0.0)


def leaky_relu(z: Array) -> Array:
    return np.where(z > 0, z, LEAKY_SLOPE * z)


def d_leaky_relu(z: Array) -> Array:
    return np.where(z > 0, 1.0, LEAKY_SLOPE)


def elu(z: Array) -> Array:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def d_elu(z: Array) -> Array:
    return np.where(z > 0, 1.0, np.exp(np.minimum(z, 0)))


def selu(z: Array) -> Array:
    return SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0)))


def d_selu(z: Array) -> Array:
    return SELU_SCALE * np.where(z > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(z, 0)))


def normal_cdf(z: Array) -> Array:
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z.ravel()]).reshape(z.shape)


def gelu(z: Array) -> Array:
    return z * normal_cdf(z)


def d_gelu(z: Array) -> Array:
    return normal_cdf(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(z: Array) -> Array:
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def d_gelu_tanh(z: Array) -> Array:
    t = np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)


def silu(z: Array) -> Array:
    return z * sigmoid(z)


def d_silu(z: Array) -> Array:
    return sigmoid(z) + z * d_sigmoid(z)


def d_tanh(z: Array) -> Array:
    return 1 - np.tanh(z) ** 2


def softplus(z: Array) -> Array:
    return np.logaddexp(0, z)


def softsign(z: Array) -> Array:
    return z / (1 + np.abs(z))


def d_softsign(z: Array) -> Array:
    return 1 / (1 + np.abs(z)) ** 2


def mish(z: Array) -> Array:
    return z * np.tanh(softplus(z))


def d_mish(z: Array) -> Array:
    return np.tanh(softplus(z)) + z * sigmoid(z) / np.cosh(softplus(z)) ** 2


def hard_sigmoid(z: Array) -> Array:
    return np.clip(z / 6 + 0.5, 0, 1)


def d_hard_sigmoid(z: Array) -> Array:
    return np.where(np.abs(z) < 3, 1 / 6, 0.0)


def hard_silu(z: Array) -> Array:
    return z * hard_sigmoid(z)


def d_hard_silu(z: Array) -> Array:
    return hard_sigmoid(z) + z * d_hard_sigmoid(z)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def identity(z: Array) -> Array:
    return z


#: Element by element: name -> (f, derivative of f), both of the pre-activation. softmax, which is not, stands apart.
ACTIVATIONS: dict[str, tuple[Elementwise, Elementwise]] = {
    "linear": (identity, np.ones_like),
    "relu": (relu, d_relu),
    "leaky_relu": (leaky_relu, d_leaky_relu),
    "elu": (elu, d_elu),
    "selu": (selu, d_selu),
    "gelu": (gelu, d_gelu),
    "gelu_tanh": (gelu_tanh, d_gelu_tanh),
    "silu": (silu, d_silu),
    "sigmoid": (sigmoid, d_sigmoid),
    "tanh": (np.tanh, d_tanh),
    "softplus": (softplus, sigmoid),
    "softsign": (softsign, d_softsign),
    "mish": (mish, d_mish),
    "hard_sigmoid": (hard_sigmoid, d_hard_sigmoid),
    "hard_silu": (hard_silu, d_hard_silu),
    "exponential": (np.exp, np.exp),
}
ACTIVATION_ALIASES = {"identity": "linear", "swish": "silu", "hard_swish": "hard_silu", "logistic": "sigmoid"}


def activate(name: str, z: Array) -> Array:
    """a (B, O) = f(z)."""
    if name == "softmax":
        return softmax(z)
    return ACTIVATIONS[ACTIVATION_ALIASES.get(name, name)][0](z)


def activate_backward(name: str, z: Array, da: Array) -> Array:
    """dz (B, O) of da (B, O)."""
    if name == "softmax":
        a = softmax(z)
        return a * (da - (a * da).sum(axis=1, keepdims=True))
    return da * ACTIVATIONS[ACTIVATION_ALIASES.get(name, name)][1](z)


# --- losses: (outputs a (B, O), targets y) -> (value, da (B, O)) -----------------------------------------------------


def dense_targets(y: ArrayLike, a: Array) -> Array:
    return np.asarray(y, np.float64).reshape(a.shape)


def mean_squared_error(a: Array, y: ArrayLike) -> tuple[float, Array]:
    e = a - dense_targets(y, a)
    return float((e**2).mean()), 2 * e / e.size


def half_squared_error(a: Array, y: ArrayLike) -> tuple[float, Array]:
    e = a - dense_targets(y, a)
    return float(0.5 * (e**2).sum()), e


def mean_absolute_error(a: Array, y: ArrayLike) -> tuple[float, Array]:
    e = a - dense_targets(y, a)
    return float(np.abs(e).mean()), np.sign(e) / e.size


def huber(a: Array, y: ArrayLike, delta: float = 1.0) -> tuple[float, Array]:
    e = a - dense_targets(y, a)
    small = np.abs(e) <= delta
    value = np.where(small, 0.5 * e**2, delta * (np.abs(e) - 0.5 * delta)).mean()
    return float(value), np.where(small, e, delta * np.sign(e)) / e.size


def poisson(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y = dense_targets(y, a)
    return float((a - y * np.log(a + EPSILON)).mean()), (1 - y / (a + EPSILON)) / a.size


def poisson_deviance(z: Array, y: ArrayLike) -> tuple[float, Array]:
    """Half of it, of log rates z (B, O) and counts y (B, O)."""
    y = dense_targets(y, z)
    saturated = np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0) - y
    return float((np.exp(z) - y * z + saturated).mean()), (np.exp(z) - y) / z.size


def mean_absolute_percentage_error(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y = dense_targets(y, a)
    scale = np.maximum(np.abs(y), EPSILON)
    return float(100 * (np.abs(a - y) / scale).mean()), 100 * np.sign(a - y) / scale / a.size


def mean_squared_logarithmic_error(a: Array, y: ArrayLike) -> tuple[float, Array]:
    e = np.log(np.maximum(a, EPSILON) + 1) - np.log(np.maximum(dense_targets(y, a), EPSILON) + 1)
    return float((e**2).mean()), np.where(a > EPSILON, 2 * e / (a + 1), 0) / a.size


def log_cosh(a: Array, y: ArrayLike) -> tuple[float, Array]:
    e = a - dense_targets(y, a)
    return float((np.logaddexp(e, -e) - math.log(2)).mean()), np.tanh(e) / e.size


def quantile(a: Array, y: ArrayLike, quantile: float = 0.5) -> tuple[float, Array]:
    e = dense_targets(y, a) - a
    slope = np.where(e > 0, -quantile, np.where(e < 0, 1 - quantile, 0))
    return float(np.maximum(quantile * e, (quantile - 1) * e).mean()), slope / e.size


def hinge(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y = dense_targets(y, a)
    return float(np.maximum(1 - y * a, 0).mean()), np.where(1 - y * a > 0, -y, 0) / a.size


def squared_hinge(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y = dense_targets(y, a)
    margin = np.maximum(1 - y * a, 0)
    return float((margin**2).mean()), -2 * margin * y / a.size


def categorical_hinge(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y = dense_targets(y, a)
    right, wrong = (y * a).sum(axis=1), ((1 - y) * a).max(axis=1)
    margin = np.maximum(wrong - right + 1, 0)
    highest = np.eye(a.shape[1])[((1 - y) * a).argmax(axis=1)]
    return float(margin.mean()), np.where(margin[:, None] > 0, highest * (1 - y) - y, 0) / len(a)


def kl_divergence(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y, share = np.clip(dense_targets(y, a), EPSILON, 1), np.clip(a, EPSILON, 1)
    return float((y * np.log(y / share)).sum() / len(a)), np.where(a == share, -y / share, 0) / len(a)


def cosine_similarity(a: Array, y: ArrayLike) -> tuple[float, Array]:
    y = dense_targets(y, a)
    length = np.sqrt(np.maximum((a**2).sum(axis=1, keepdims=True), 1e-12))
    y = y / np.sqrt((y**2).sum(axis=1, keepdims=True))
    cosine = (a * y).sum(axis=1, keepdims=True) / length
    return float(-cosine.mean()), (cosine * a / length - y) / length / len(a)


def binary_crossentropy(z: Array, y: ArrayLike, label_smoothing: float = 0.0) -> tuple[float, Array]:
    """Of logits z (B, O) and probabilities y (B, O)."""
    y = dense_targets(y, z) * (1 - label_smoothing) + label_smoothing / 2
    return float((np.logaddexp(0, z) - y * z).mean()), (sigmoid(z) - y) / z.size


def binary_focal_crossentropy(
    z: Array,
    y: ArrayLike,
    gamma: float = 2.0,
    alpha: float = 0.25,
    apply_class_balancing: bool = False,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Of logits z (B, O) and probabilities y (B, O)."""
    y = dense_targets(y, z) * (1 - label_smoothing) + label_smoothing / 2
    weight = y * alpha + (1 - y) * (1 - alpha) if apply_class_balancing else np.ones_like(z)
    entropy = np.logaddexp(0, z) - y * z
    miss = y * sigmoid(-z) + (1 - y) * sigmoid(z)
    d_miss = (1 - 2 * y) * sigmoid(z) * sigmoid(-z)
    d = gamma * miss ** (gamma - 1) * d_miss * entropy + miss**gamma * (sigmoid(z) - y)
    return float((weight * miss**gamma * entropy).mean()), weight * d / z.size


def log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def categorical_crossentropy(z: Array, y: ArrayLike, label_smoothing: float = 0.0) -> tuple[float, Array]:
    """Of logits z (B, O) and probabilities y (B, O)."""
    y = dense_targets(y, z) * (1 - label_smoothing) + label_smoothing / z.shape[1]
    return float(-(y * log_softmax(z)).sum() / len(z)), (softmax(z) * y.sum(axis=1, keepdims=True) - y) / len(z)


def categorical_focal_crossentropy(
    z: Array, y: ArrayLike, gamma: float = 2.0, alpha: float = 0.25, label_smoothing: float = 0.0
) -> tuple[float, Array]:
    """Of logits z (B, O) and probabilities y (B, O)."""
    y = dense_targets(y, z) * (1 - label_smoothing) + label_smoothing / z.shape[1]
    p, log_p = softmax(z), log_softmax(z)
    miss = np.maximum(1 - p, 1e-30)
    # p times the derivative by p, for each class, then through the softmax
    slope = alpha * y * (gamma * p * miss ** (gamma - 1) * log_p - miss**gamma)
    dz = slope - p * slope.sum(axis=1, keepdims=True)
    return float(-(alpha * y * miss**gamma * log_p).sum() / len(z)), dz / len(z)


def one_hot(y: ArrayLike, z: Array) -> Array:
    return np.eye(z.shape[1])[np.asarray(y).ravel()]


def sparse_categorical_crossentropy(z: Array, y: ArrayLike, **parameters: Any) -> tuple[float, Array]:
    """Of logits z (B, O) and class numbers y (B,)."""
    return categorical_crossentropy(z, one_hot(y, z), **parameters)


def sparse_categorical_focal_crossentropy(z: Array, y: ArrayLike, **parameters: Any) -> tuple[float, Array]:
    """Of logits z (B, O) and class numbers y (B,)."""
    return categorical_focal_crossentropy(z, one_hot(y, z), **parameters)


def gamma_deviance(z: Array, y: ArrayLike) -> tuple[float, Array]:
    """Of the mean's logarithm z (B, O): half the unit deviance."""
    y, a = dense_targets(y, z), np.exp(z)
    return float((np.log(a / y) + y / a - 1).mean()), (1 - y / a) / z.size


def tweedie_deviance(z: Array, y: ArrayLike, power: float = 1.5) -> tuple[float, Array]:
    """Of the mean's logarithm z (B, O): half the unit deviance."""
    y, a, p = dense_targets(y, z), np.exp(z), power
    value = y ** (2 - p) / ((1 - p) * (2 - p)) - y * a ** (1 - p) / (1 - p) + a ** (2 - p) / (2 - p)
    return float(value.mean()), (a ** (2 - p) - y * a ** (1 - p)) / z.size


def negative_binomial_deviance(z: Array, y: ArrayLike, dispersion: float = 1.0) -> tuple[float, Array]:
    """Of the mean's logarithm z (B, O): half the unit deviance."""
    y, a, d = dense_targets(y, z), np.exp(z), dispersion
    value = np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / a), 0) - (y + 1 / d) * np.log((1 + d * y) / (1 + d * a))
    return float(value.mean()), (a - y) / (1 + d * a) / z.size


LOSSES: dict[str, Loss] = {
    function.__name__: function
    for function in (
        mean_squared_error,
        half_squared_error,
        mean_absolute_error,
        mean_absolute_percentage_error,
        mean_squared_logarithmic_error,
        huber,
        log_cosh,
        quantile,
        hinge,
        squared_hinge,
        categorical_hinge,
        kl_divergence,
        cosine_similarity,
        poisson,
        poisson_deviance,
        gamma_deviance,
        tweedie_deviance,
        negative_binomial_deviance,
        binary_crossentropy,
        binary_focal_crossentropy,
        categorical_crossentropy,
        categorical_focal_crossentropy,
        sparse_categorical_crossentropy,
        sparse_categorical_focal_crossentropy,
    )
}
LOSS_ALIASES = {"mse": "mean_squared_error", "mae": "mean_absolute_error"}

#: These losses are of what stands before the activation: under them this one, or linear, is not applied first.
PAIRED_ACTIVATION = {
    name: "softmax" if "categorical" in name else "sigmoid" if "binary_" in name else "exponential"
    for name in LOSSES
    if name.endswith(("crossentropy", "deviance"))
}


# --- the network -----------------------------------------------------------------------------------------------------


def with_biases(arrays: Iterable[ArrayLike]) -> Weights:
    """``Model.get_weights()`` as float64 copies, with None where a layer has no bias."""
    weights: Weights = []
    for array in arrays:
        array = np.array(array, np.float64)
        if array.ndim == 2 and len(weights) % 2 == 1:
            weights.append(None)
        weights.append(array)
    return weights if len(weights) % 2 == 0 else [*weights, None]


def without_biases(weights: Weights) -> list[Array]:
    """The inverse of `with_biases`: the arrays alone, as ``Model.get_weights()`` lists them."""
    return [array for array in weights if array is not None]


def bfloat16(a: Array) -> Array:
    """Each number rounded to the nearest bfloat16 (ties to even): float32 with the lower 16 bits gone."""
    bits = np.asarray(a, np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def exact(a: Array) -> Array:
    """The number itself."""
    return a


def forward_layers(
    weights: Weights, activations: Sequence[str], x: ArrayLike, rounded: Callable[[Array], Array] = exact
) -> tuple[list[Array], list[Array]]:
    """Pre-activations z (B, O) of every layer, and x followed by every layer's activations (B, O).

    `rounded` is applied to both sides of every product.
    """
    z: list[Array] = []
    a = [np.asarray(x, np.float64)]
    for kernel, bias, activation in zip(weights[::2], weights[1::2], activations, strict=True):
        assert kernel is not None
        z.append(rounded(a[-1]) @ rounded(kernel) + (0 if bias is None else rounded(bias)))
        a.append(activate(activation, z[-1]))
    return z, a


def forward(weights: Weights, activations: Sequence[str], x: ArrayLike) -> Array:
    """Outputs (B, O) of the last layer."""
    return forward_layers(weights, activations, x)[1][-1]


def loss_and_gradients(
    weights: Weights,
    activations: Sequence[str],
    loss: str | Loss,
    x: ArrayLike,
    y: ArrayLike,
    rounded: Callable[[Array], Array] = exact,
    parameters: Mapping[str, float] | None = None,
) -> tuple[float, Weights, Array]:
    """Loss, gradients in the order of the weights (None for a missing bias), and dx (B, I).

    `parameters` are those of a loss named; a callable `loss` is one of the outputs, not of logits.
    `rounded` is applied to both sides of every product but that of dx.
    """
    z, a = forward_layers(weights, activations, x, rounded)
    if isinstance(loss, str):
        loss = LOSS_ALIASES.get(loss, loss)
        paired = PAIRED_ACTIVATION.get(loss)
        if paired and ACTIVATION_ALIASES.get(activations[-1], activations[-1]) not in (paired, "linear"):
            raise ValueError(f"{loss} is of logits: the last activation is {paired} or linear, not {activations[-1]}")
        loss_function = partial(LOSSES[loss], **(parameters or {}))
    else:
        paired, loss_function = None, loss
    if paired:
        value, dz = loss_function(z[-1], y)
    else:
        value, da = loss_function(a[-1], y)
        dz = activate_backward(activations[-1], z[-1], da)
    gradients: Weights = []
    for layer in reversed(range(len(z))):
        kernel, bias = weights[2 * layer], weights[2 * layer + 1]
        assert kernel is not None
        db = None if bias is None else rounded(dz).sum(axis=0)
        gradients = [rounded(a[layer]).T @ rounded(dz), db, *gradients]
        da = rounded(dz) @ rounded(kernel).T if layer > 0 else dz @ kernel.T
        if layer > 0:
            dz = activate_backward(activations[layer - 1], z[layer - 1], da)
    return value, gradients, da


# --- optimizers: update() changes the parameters in place ------------------------------------------------------------


class Base:
    """Decoupled weight decay and the average of the weights, around the `change` of each parameter."""

    def __init__(
        self,
        learning_rate: float | Callable[[int], float],
        *,
        weight_decay: float = 0.0,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
    ) -> None:
        self.rate = learning_rate if callable(learning_rate) else lambda step: learning_rate
        self.weight_decay, self.use_ema, self.ema_momentum = weight_decay, use_ema, ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.step = 0
        self.state: list[list[Array]] = []
        self.averages: list[Array] = []
        self.initials: tuple[float, ...] = ()

    def update(self, parameters: list[Array], gradients: list[Array]) -> None:
        self.state = self.state or [[np.full_like(w, value) for value in self.initials] for w in parameters]
        self.learning_rate = self.rate(self.step)
        self.step += 1
        for w in parameters:
            w -= self.learning_rate * self.weight_decay * w
        for w, g, state in zip(parameters, gradients, self.state, strict=True):
            w += self.change(g, *state)
        if self.use_ema:
            self.averages = self.averages or [w.copy() for w in parameters]
            for w, average in zip(parameters, self.averages, strict=True):
                average[...] = self.ema_momentum * average + (1 - self.ema_momentum) * w
                if self.ema_overwrite_frequency and self.step % self.ema_overwrite_frequency == 0:
                    w[...] = average

    def change(self, g: Array, *state: Array) -> Array:
        raise NotImplementedError


class SGD(Base):
    """Plain, with momentum, and Nesterov's in Keras' form."""

    def __init__(self, learning_rate: Any = 0.01, momentum: Any = 0.0, nesterov: bool = False, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.momentum, self.nesterov = momentum if callable(momentum) else lambda step: momentum, nesterov
        self.initials = (0.0,)

    def change(self, g: Array, v: Array) -> Array:  # type: ignore[override]
        momentum = self.momentum(self.step - 1)
        v[...] = momentum * v - self.learning_rate * g
        return momentum * v - self.learning_rate * g if self.nesterov else v


class RMSprop(Base):
    """Hinton 2012; centred, Graves 2013; in Keras' form, epsilon inside the root."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered
        self.initials = (0.0, 0.0, 0.0)

    def change(self, g: Array, v: Array, m: Array, b: Array) -> Array:  # type: ignore[override]
        v[...] = self.rho * v + (1 - self.rho) * g**2
        m[...] = self.rho * m + (1 - self.rho) * g
        b[...] = self.momentum * b + self.learning_rate * g / np.sqrt(v - self.centered * m**2 + self.epsilon)
        return -b


class Adagrad(Base):
    """Duchi, Hazan and Singer 2011."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.epsilon = epsilon
        self.initials = (initial_accumulator_value,)

    def change(self, g: Array, v: Array) -> Array:  # type: ignore[override]
        v += g**2
        return -self.learning_rate * g / np.sqrt(v + self.epsilon)


class Adadelta(Base):
    """Zeiler 2012, algorithm 1, with a factor before the step."""

    def __init__(self, learning_rate: Any = 0.001, rho: float = 0.95, epsilon: float = 1e-7, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.epsilon = rho, epsilon
        self.initials = (0.0, 0.0)

    def change(self, g: Array, v: Array, d: Array) -> Array:  # type: ignore[override]
        v[...] = self.rho * v + (1 - self.rho) * g**2
        step = -np.sqrt(d + self.epsilon) / np.sqrt(v + self.epsilon) * g
        d[...] = self.rho * d + (1 - self.rho) * step**2
        return self.learning_rate * step


class Adam(Base):
    """Kingma and Ba 2015, algorithm 1: both moments corrected, epsilon added outside the square root.

    With amsgrad (Reddi, Kale and Kumar 2018) the largest second moment so far, before its correction, takes its place.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, amsgrad
        self.initials = (0.0, 0.0, 0.0)

    def averages_of(self, g: Array, m: Array, v: Array) -> tuple[Array, Array]:
        """Both moments, updated, and corrected for their start at 0."""
        m[...] = self.beta_1 * m + (1 - self.beta_1) * g
        v[...] = self.beta_2 * v + (1 - self.beta_2) * g**2
        return m / (1 - self.beta_1**self.step), v / (1 - self.beta_2**self.step)

    def change(self, g: Array, m: Array, v: Array, most: Array) -> Array:  # type: ignore[override]
        m_hat, v_hat = self.averages_of(g, m, v)
        most[...] = np.maximum(most, v)
        if self.amsgrad:
            v_hat = most / (1 - self.beta_2**self.step)
        return -self.learning_rate * m_hat / (np.sqrt(v_hat) + self.epsilon)


class AdamW(Adam):
    """Loshchilov and Hutter 2019: every parameter first decays by learning_rate * weight_decay of itself."""

    def __init__(self, learning_rate: Any = 0.001, weight_decay: float = 0.004, **adam: Any) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **adam)


class Nadam(Adam):
    """Dozat 2016, algorithm 8, with the paper's warm-up of the momentum."""

    def __init__(self, learning_rate: Any = 0.001, momentum_decay: float = 0.004, **adam: Any) -> None:
        super().__init__(learning_rate, **adam)
        self.momentum_decay = momentum_decay

    def momentum_of(self, step: int) -> float:
        return float(self.beta_1 * (1 - 0.5 * 0.96 ** (step * self.momentum_decay)))

    def change(self, g: Array, m: Array, v: Array, most: Array) -> Array:
        _, v_hat = self.averages_of(g, m, v)
        product = math.prod(self.momentum_of(step) for step in range(1, self.step + 1))
        following = self.momentum_of(self.step + 1)
        m_hat = following * m / (1 - product * following) + (1 - self.momentum_of(self.step)) * g / (1 - product)
        return -self.learning_rate * m_hat / (np.sqrt(v_hat) + self.epsilon)


class RAdam(Adam):
    """Liu et al. 2020, algorithm 2, with PyTorch's place for epsilon."""

    def change(self, g: Array, m: Array, v: Array, most: Array) -> Array:
        m_hat, _ = self.averages_of(g, m, v)
        longest = 2 / (1 - self.beta_2) - 1
        length = longest - 2 * self.step * self.beta_2**self.step / (1 - self.beta_2**self.step)
        if length <= 5:
            return -self.learning_rate * m_hat
        above = (length - 4) * (length - 2) * longest
        rectified = math.sqrt(above / ((longest - 4) * (longest - 2) * length))
        adaptive = math.sqrt(1 - self.beta_2**self.step) / (np.sqrt(v) + self.epsilon)
        return -self.learning_rate * m_hat * rectified * adaptive


class Lion(Base):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.99, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.initials = (0.0,)

    def change(self, g: Array, m: Array) -> Array:  # type: ignore[override]
        step = -self.learning_rate * np.sign(self.beta_1 * m + (1 - self.beta_1) * g)
        m[...] = self.beta_2 * m + (1 - self.beta_2) * g
        return step


OPTIMIZERS: dict[str, Callable[..., Base]] = {
    cls.__name__.lower(): cls for cls in (SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, Nadam, RAdam, Lion)
}


def train(
    weights: Weights,
    activations: Sequence[str],
    loss: str | Loss,
    optimizer: Base,
    x: ArrayLike,
    y: ArrayLike,
    *,
    batch_size: int = 32,
    epochs: int = 1,
    orders: Sequence[NDArray[Any]] | None = None,
) -> tuple[Weights, list[float]]:
    """Weights after `epochs` passes in batches of `batch_size` rows, the last one short, and each epoch's loss.

    Epoch e reads the rows in the order ``orders[e]`` (N,), None: as they stand. The loss of an epoch is the mean over
    its rows of the losses met on the way (of half_squared_error: the sum). `weights` stay as they were; `optimizer`
    keeps its moments.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y)
    weights = [None if array is None else array.copy() for array in weights]
    losses: list[float] = []
    for epoch in range(epochs):
        order = np.arange(len(x)) if orders is None else orders[epoch]
        total = 0.0
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            value, gradients, _ = loss_and_gradients(weights, activations, loss, x[rows], y[rows])
            optimizer.update(without_biases(weights), without_biases(gradients))
            total += value if loss == "half_squared_error" else value * len(rows)
        losses.append(total if loss == "half_squared_error" else total / len(x))
    return weights, losses
