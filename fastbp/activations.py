"""Floor 1: activations. One row and one formula each, for every engine, test and benchmark.

A formula takes z (pre-activations) and p (the activation's parameter) and returns a; its derivative takes z, a and p.
z and a are numbers, vectors or NumPy arrays. Those that couple the neurons of a row (softmax) take columns instead.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from fastbp._math import exp, expm1, formula, log1p, logistic, normal_cdf
from fastbp._math import tanh as _tanh
from fastbp._spelling import answers, listed, nearest
from fastbp._vector import maximum, minimum, where
from fastbp.formulas.tracing import Steps, derivative_of, elementwise, follow, kept, named, restored

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class Activation:
    """One row of the table.

    Attributes
    ----------
    name : how users call it
    function : f(z, p) -> a; for a coupled one f(a, z, n), which writes the columns a[0:n]
    derivative : f'(z, a, p); for a coupled one g(da, a, n), which turns dL/da into dL/dz in place
    keeps_z : whether the derivative needs z (else it is written by a alone, and z is not kept)
    parameter : default of p, None where there is none
    coupled : whether a neuron's output depends on its whole row
    aliases : other names
    made : the steps of a user's own function and of its derivative (see ``fastbp.formulas.tracing``)
    """

    name: str
    function: Callable[..., Any]
    derivative: Callable[..., Any]
    keeps_z: bool = False
    parameter: float | None = None
    coupled: bool = False
    aliases: tuple[str, ...] = ()
    made: Steps | None = None

    def __call__(self, parameter: float) -> "Activation":
        """The same activation with another parameter: ``fb.activations.LEAKY_RELU(0.01)``."""
        if self.parameter is None:
            raise TypeError(f"activation {self.name!r} has no parameter")
        if not 0.0 <= parameter < math.inf:
            raise ValueError(f"activation {self.name!r} needs a parameter >= 0, got {parameter}")
        return replace(self, parameter=float(parameter))


@formula
def identity(z: Any, p: Any) -> Any:
    return z


@formula
def identity_derivative(z: Any, a: Any, p: Any) -> Any:
    return a * 0.0 + 1.0


@formula
def relu(z: Any, p: Any) -> Any:
    return maximum(z, 0.0)


@formula
def relu_derivative(z: Any, a: Any, p: Any) -> Any:
    return where(a > 0.0, 1.0, a * 0.0)


@formula
def leaky_relu(z: Any, p: Any) -> Any:
    return where(z > 0.0, z, z * p)


@formula
def leaky_relu_derivative(z: Any, a: Any, p: Any) -> Any:
    return where(a > 0.0, 1.0, a * 0.0 + p)


@formula
def elu(z: Any, p: Any) -> Any:
    return where(z > 0.0, z, p * expm1(minimum(z, 0.0)))


@formula
def elu_derivative(z: Any, a: Any, p: Any) -> Any:
    return where(a > 0.0, 1.0, a + p)


@formula
def selu(z: Any, p: Any) -> Any:
    return SELU_SCALE * where(z > 0.0, z, SELU_ALPHA * expm1(minimum(z, 0.0)))


@formula
def selu_derivative(z: Any, a: Any, p: Any) -> Any:
    return where(a > 0.0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)


@formula
def gelu(z: Any, p: Any) -> Any:
    return z * normal_cdf(z)


@formula
def gelu_derivative(z: Any, a: Any, p: Any) -> Any:
    return normal_cdf(z) + z * exp(-0.5 * z * z) * (1.0 / math.sqrt(2.0 * math.pi))


@formula
def gelu_tanh(z: Any, p: Any) -> Any:
    return z * logistic(2.0 * math.sqrt(2.0 / math.pi) * z * (1.0 + 0.044715 * z * z))


@formula
def gelu_tanh_derivative(z: Any, a: Any, p: Any) -> Any:
    s = logistic(2.0 * math.sqrt(2.0 / math.pi) * z * (1.0 + 0.044715 * z * z))
    return s + z * s * (1.0 - s) * (2.0 * math.sqrt(2.0 / math.pi)) * (1.0 + 3.0 * 0.044715 * z * z)


@formula
def silu(z: Any, p: Any) -> Any:
    return z * logistic(z)


@formula
def silu_derivative(z: Any, a: Any, p: Any) -> Any:
    s = logistic(z)
    return s * (1.0 + z * (1.0 - s))


@formula
def sigmoid(z: Any, p: Any) -> Any:
    return logistic(z)


@formula
def sigmoid_derivative(z: Any, a: Any, p: Any) -> Any:
    return a * (1.0 - a)


@formula
def hyperbolic_tangent(z: Any, p: Any) -> Any:
    return _tanh(z)


@formula
def hyperbolic_tangent_derivative(z: Any, a: Any, p: Any) -> Any:
    return 1.0 - a * a


@formula
def softplus(z: Any, p: Any) -> Any:
    return maximum(z, 0.0) + log1p(exp(-abs(z)))


@formula
def softplus_derivative(z: Any, a: Any, p: Any) -> Any:
    return -expm1(-a)


@formula
def softsign(z: Any, p: Any) -> Any:
    return z / (1.0 + abs(z))


@formula
def softsign_derivative(z: Any, a: Any, p: Any) -> Any:
    rest = 1.0 - abs(a)
    return rest * rest


@formula
def tanh_of_softplus(z: Any) -> Any:
    """tanh(log(1 + e^z)) = (1 + 2 e^-z) / (1 + 2 e^-z + 2 e^-2z), by whichever of e^z and e^-z can't overflow."""
    e = exp(-abs(z))
    least = where(z > 0.0, e * e, 1.0 + e * 0.0)
    rest = where(z > 0.0, 1.0 + 2.0 * e, e * (e + 2.0))
    return rest / (rest + 2.0 * least)


@formula
def mish(z: Any, p: Any) -> Any:
    return z * tanh_of_softplus(z)


@formula
def mish_derivative(z: Any, a: Any, p: Any) -> Any:
    t = tanh_of_softplus(z)
    return t + z * (1.0 - t * t) * logistic(z)


@formula
def hard_sigmoid(z: Any, p: Any) -> Any:
    return minimum(maximum(z + 3.0, 0.0), 6.0) * (1.0 / 6.0)


@formula
def hard_sigmoid_derivative(z: Any, a: Any, p: Any) -> Any:
    return where(abs(a - 0.5) < 0.5, 1.0 / 6.0, a * 0.0)


@formula
def hard_silu(z: Any, p: Any) -> Any:
    return z * (minimum(maximum(z + 3.0, 0.0), 6.0) * (1.0 / 6.0))


@formula
def hard_silu_derivative(z: Any, a: Any, p: Any) -> Any:
    return where(z < 3.0, where(z > -3.0, z * (1.0 / 3.0) + 0.5, z * 0.0), 1.0)


@formula
def exponential(z: Any, p: Any) -> Any:
    return exp(z)


@formula
def exponential_derivative(z: Any, a: Any, p: Any) -> Any:
    return a


@formula
def softmax(a: Any, z: Any, n: int) -> None:
    peak = z[0]
    for c in range(1, n):
        peak = maximum(peak, z[c])
    norm = peak * 0.0
    for c in range(n):
        e = exp(z[c] - peak)
        a[c] = e
        norm = norm + e
    scale = 1.0 / norm
    for c in range(n):
        a[c] = a[c] * scale


@formula
def softmax_gradient(da: Any, a: Any, n: int) -> None:
    inner = a[0] * da[0]
    for c in range(1, n):
        inner = inner + a[c] * da[c]
    for c in range(n):
        da[c] = a[c] * (da[c] - inner)


IDENTITY = Activation("linear", identity, identity_derivative, aliases=("identity",))
RELU = Activation("relu", relu, relu_derivative)
LEAKY_RELU = Activation("leaky_relu", leaky_relu, leaky_relu_derivative, parameter=0.2)
ELU = Activation("elu", elu, elu_derivative, parameter=1.0)
SELU = Activation("selu", selu, selu_derivative)
GELU = Activation("gelu", gelu, gelu_derivative, keeps_z=True)
GELU_TANH = Activation("gelu_tanh", gelu_tanh, gelu_tanh_derivative, keeps_z=True)
SILU = Activation("silu", silu, silu_derivative, keeps_z=True, aliases=("swish",))
SIGMOID = Activation("sigmoid", sigmoid, sigmoid_derivative, aliases=("logistic",))
TANH = Activation("tanh", hyperbolic_tangent, hyperbolic_tangent_derivative)
SOFTPLUS = Activation("softplus", softplus, softplus_derivative)
SOFTSIGN = Activation("softsign", softsign, softsign_derivative)
MISH = Activation("mish", mish, mish_derivative, keeps_z=True)
HARD_SIGMOID = Activation("hard_sigmoid", hard_sigmoid, hard_sigmoid_derivative)
HARD_SILU = Activation("hard_silu", hard_silu, hard_silu_derivative, keeps_z=True, aliases=("hard_swish",))
EXPONENTIAL = Activation("exponential", exponential, exponential_derivative, aliases=("exp",))
SOFTMAX = Activation("softmax", softmax, softmax_gradient, coupled=True)

ACTIVATIONS = {
    row.name: row
    for row in (
        IDENTITY,
        RELU,
        LEAKY_RELU,
        ELU,
        SELU,
        GELU,
        GELU_TANH,
        SILU,
        SIGMOID,
        TANH,
        SOFTPLUS,
        SOFTSIGN,
        MISH,
        HARD_SIGMOID,
        HARD_SILU,
        EXPONENTIAL,
        SOFTMAX,
    )
}


def unknown(kind: str, name: object, names: Iterable[str], besides: str = "") -> ValueError:
    """The error for a name that no table has: lists the valid ones and the nearest."""
    valid = sorted(names)
    hint = nearest(name, valid)
    if isinstance(name, type):
        hint = f" It is a class: give an object of it, {name.__name__}()."
    return ValueError(f"unknown {kind} {name!r}.{hint} Valid names: {', '.join(valid)}{besides}")


def custom(
    function: Callable[[Any], Any], derivative: Callable[[Any], Any] | None = None, *, name: str | None = None
) -> Activation:
    """An activation from a function of one's own, compiled like those of the table and kept in model files.

    Parameters
    ----------
    function : f(z) of plain arithmetic and of functions of NumPy or ``fb.math``, for each number alone
    derivative : f'(z) of the same; by default it is taken through `function`, step by step
    name : by default the function's

    Raises
    ------
    TypeError : the function does what can't be compiled
    """
    name = named(function, name, ACTIVATIONS)
    what = f"the activation {name!r}"
    tape, value = follow(function, ["z"], what)
    slope = (
        derivative_of(tape, value, "z")
        if derivative is None
        else follow(derivative, ["z"], what, tape, constant=True)[1]
    )
    if tape.reduces:
        raise TypeError(f"{what} can't be compiled: a sum over a row. An activation takes each number alone")
    return remade(name, kept(tape, value, slope))


def remade(name: str, steps: Any) -> Activation:
    """The activation of `custom`, by its steps."""
    tape, (value, slope) = restored(steps, 2)
    made = tuple(tuple(step) for step in steps)
    function, derivative = elementwise(tape, [value], "z, p"), elementwise(tape, [slope], "z, a, p")
    return Activation(name, function, derivative, keeps_z=True, made=made)


def get(activation: str | Activation | Callable[[Any], Any] | None) -> Activation:
    """The table row of a name (None is linear), or the activation that a function makes."""
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        return custom(activation)
    if activation is None:
        return IDENTITY
    names = {alias: row for row in ACTIVATIONS.values() for alias in (row.name, *row.aliases)}
    if (name := listed(activation, names)) is None:
        raise unknown("activation", activation, names, "; or a function of z, such as lambda z: z * fb.math.tanh(z)")
    return names[name]


answers(__name__, "custom")
