"""Floor 2: what a user writes. A layer is a description; it holds no arrays."""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp import activations, constraints, regularizers
from fastbp._settings import NOT_NEGATIVE, Settings, is_not_negative
from fastbp.activations import Activation, unknown
from fastbp.constraints import Constraint
from fastbp.program import LayerSpec, Piece, pieces_of, row_blocks
from fastbp.regularizers import Regularizer

Initializer = Callable[[np.random.Generator, int, int, tuple[int, int]], Iterator[Piece]]
"""(rng, I, O, shape) -> float64 pieces of a matrix of that shape: a large layer is never held in float64."""


def _uniform(scale: Callable[[int, int], float]) -> Initializer:
    def draw(rng: np.random.Generator, i: int, o: int, shape: tuple[int, int]) -> Iterator[Piece]:
        for first, count in row_blocks(*shape):
            yield first, None, rng.uniform(-1.0, 1.0, (count, shape[1])) * math.sqrt(3.0 * scale(i, o))

    return draw


def _normal(scale: Callable[[int, int], float]) -> Initializer:
    # a normal cut at two deviations, widened so that the deviation is what the formula says (as Keras does)
    def draw(rng: np.random.Generator, i: int, o: int, shape: tuple[int, int]) -> Iterator[Piece]:
        factor = math.sqrt(scale(i, o)) / 0.87962566103423978
        wild = []
        for first, count in row_blocks(*shape):
            values = rng.standard_normal((count, shape[1]))
            wild.append(first * shape[1] + np.flatnonzero(np.abs(values) > 2.0))
            yield first, None, values * factor
        places = np.concatenate(wild)
        while len(places):
            values = rng.standard_normal(len(places))
            yield places // shape[1], places % shape[1], values * factor
            places = places[np.abs(values) > 2.0]

    return draw


def _constant(value: float) -> Initializer:
    return lambda rng, i, o, shape: pieces_of(np.broadcast_to(value, shape))


def _glorot(i: int, o: int) -> float:
    return 2.0 / (i + o)


def _he(i: int, o: int) -> float:
    return 2.0 / i


def _lecun(i: int, o: int) -> float:
    return 1.0 / i


INITIALIZERS: dict[str, Initializer] = {
    "glorot_uniform": _uniform(_glorot),
    "glorot_normal": _normal(_glorot),
    "he_uniform": _uniform(_he),
    "he_normal": _normal(_he),
    "lecun_uniform": _uniform(_lecun),
    "lecun_normal": _normal(_lecun),
    "zeros": _constant(0.0),
    "ones": _constant(1.0),
}
"""Glorot and Bengio 2010, He et al. 2015, LeCun et al. 1998; fan-in and fan-out are the kernel's rows and columns."""


class Input:
    """States the width of the inputs before the first layer, as in Keras.

    Parameters
    ----------
    shape : (I,) or I
    """

    def __init__(self, shape: Sequence[int] | int) -> None:
        width = _input_width(shape, None)
        if width is None:
            raise ValueError(f"Input: the width must be known, such as (20,), got {shape!r}")
        self.width = width

    def __repr__(self) -> str:
        return f"Input({self.width})"


class Dense:
    """A fully connected layer, a = activation(x @ kernel + bias).

    Parameters
    ----------
    units : neurons, O
    activation : a name (see ``fb.activations.ACTIVATIONS``), a row of that table, or None for linear
    use_bias : whether the layer has a bias, default True
    kernel_initializer : "glorot_uniform" (default), "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
        "lecun_normal", "zeros", "ones", or an array (I, O)
    bias_initializer : the same, default "zeros"; an array has the shape (O,)
    kernel_regularizer : penalty on the kernel, part of the loss: "l1", "l2", "l1_l2" (each with 0.01) or an object such
        as ``fb.regularizers.L2(1e-4)``; None (default) for none
    bias_regularizer : the same for the biases
    kernel_constraint : what each neuron's weights are brought back to after every update: "max_norm", "min_max_norm",
        "unit_norm", "non_neg" or an object such as ``fb.constraints.MaxNorm(3.0)``; None (default) for nothing
    trainable : whether training changes the weights, default True; those of a layer that is frozen aren't updated,
        penalised or constrained, and nothing goes back below the first layer that is trained
    lr_multiplier : what the learning rate is multiplied by for this layer, default 1
    name : shown in summaries and used in files; numbered by default
    input_shape, input_dim : width of the inputs where the layer comes first, (I,) or I; else taken from the data

    The penalties, the constraint, `trainable` and `lr_multiplier` may be set on the layer later; the next call of the
    model's methods heeds them (not a fit that runs).

    Raises
    ------
    ValueError : for units below 1, and names that no table has
    """

    def __init__(
        self,
        units: int,
        activation: str | Activation | None = None,
        use_bias: bool = True,
        kernel_initializer: str | ArrayLike = "glorot_uniform",
        bias_initializer: str | ArrayLike = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        *,
        kernel_constraint: str | Constraint | None = None,
        trainable: bool = True,
        lr_multiplier: float = 1.0,
        name: str | None = None,
        input_shape: Sequence[int] | int | None = None,
        input_dim: int | None = None,
    ) -> None:
        if isinstance(units, bool) or not isinstance(units, (int, np.integer)) or units < 1:
            raise ValueError(f"Dense: units must be a whole number of at least 1, got {units!r}")
        self.units = int(units)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = _checked_initializer(kernel_initializer, "kernel_initializer")
        self.bias_initializer = _checked_initializer(bias_initializer, "bias_initializer")
        self.kernel_regularizer = regularizers.get(kernel_regularizer, "kernel_regularizer")
        self.bias_regularizer = regularizers.get(bias_regularizer, "bias_regularizer")
        self.kernel_constraint = constraints.get(kernel_constraint, "kernel_constraint")
        self.trainable = bool(trainable)
        self.lr_multiplier = _checked_multiplier(lr_multiplier)
        self.name = name
        self.input_dim = _input_width(input_shape, input_dim)

    def __repr__(self) -> str:
        options = "" if self.use_bias else ", use_bias=False"
        defaults = {"kernel_regularizer": None, "bias_regularizer": None, "kernel_constraint": None}
        for name, default in {**defaults, "trainable": True, "lr_multiplier": 1.0}.items():
            if (value := getattr(self, name)) != default:
                options += f", {name}={value!r}"
        return f"Dense({self.units}, activation={self.activation.name!r}{options})"

    def spec(self, fan_in: int) -> LayerSpec:
        """The layer as the program sees it, for so many inputs."""
        kernel = regularizers.get(self.kernel_regularizer, "kernel_regularizer") if self.trainable else None
        bias = regularizers.get(self.bias_regularizer, "bias_regularizer") if self.trainable else None
        return LayerSpec(
            fan_in,
            self.units,
            self.use_bias,
            self.activation,
            penalty=regularizers.strengths(kernel, bias if self.use_bias else None),
            trainable=bool(self.trainable),
            rate=_checked_multiplier(self.lr_multiplier),
            constraint=constraints.get(self.kernel_constraint, "kernel_constraint"),
        )

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        """Fresh kernel (I, O) and, where the layer has one, bias (1, O), in pieces drawn when they are asked for."""
        shape = (fan_in, self.units)
        drawn = [_draw(self.kernel_initializer, rng, shape, shape, f"kernel_initializer of {self!r}")]
        if self.use_bias:
            label = f"bias_initializer of {self!r}"
            drawn.append(_draw(self.bias_initializer, rng, shape, (self.units,), label))
        return drawn

    def config(self) -> dict[str, Any]:
        """The layer as plain data: ``Dense.from_config`` makes it again (given arrays are not part of it)."""
        return {
            "kind": "dense",
            "units": self.units,
            "activation": self.activation.name,
            "parameter": self.activation.parameter,
            "use_bias": self.use_bias,
            "kernel_initializer": _initializer_name(self.kernel_initializer),
            "bias_initializer": _initializer_name(self.bias_initializer),
            "kernel_regularizer": _plain(regularizers.get(self.kernel_regularizer)),
            "bias_regularizer": _plain(regularizers.get(self.bias_regularizer)),
            "kernel_constraint": _plain(constraints.get(self.kernel_constraint)),
            "trainable": bool(self.trainable),
            "lr_multiplier": float(self.lr_multiplier),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Dense":
        """The layer that `config` described."""
        settings = dict(config)
        if (kind := settings.pop("kind", None)) != "dense":
            raise ValueError(f"unknown layer kind {kind!r}; this version knows: dense")
        row = activations.get(settings.pop("activation"))
        parameter = settings.pop("parameter", None)
        return cls(activation=row if parameter is None else row(parameter), **settings)


def _input_width(input_shape: Sequence[int] | int | None, input_dim: int | None) -> int | None:
    if input_shape is None:
        width = input_dim
    else:
        shape = (input_shape,) if isinstance(input_shape, (int, np.integer)) else tuple(input_shape)
        if len(shape) != 1:
            raise ValueError(f"the input shape must be one width such as (20,), got {input_shape!r}")
        width = shape[0]
    if width is not None and (isinstance(width, bool) or not isinstance(width, (int, np.integer)) or width < 1):
        raise ValueError(f"the input width must be a whole number of at least 1, got {width!r}")
    return None if width is None else int(width)


def _plain(setting: Settings | None) -> dict[str, Any] | None:
    return None if setting is None else setting.config()


def _checked_multiplier(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not is_not_negative(value):
        raise ValueError(f"lr_multiplier must be {NOT_NEGATIVE}, got {value!r}")
    return float(value)


def _checked_initializer(initializer: str | ArrayLike, label: str) -> Any:
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise unknown(label, initializer, INITIALIZERS)
        return initializer
    given = np.asarray(initializer)
    return given if given.dtype in (np.float32, np.float64) else given.astype(np.float64)


def _initializer_name(initializer: Any) -> str:
    return initializer if isinstance(initializer, str) else "zeros"


def _draw(
    initializer: Any, rng: np.random.Generator, fans: tuple[int, int], shape: tuple[int, ...], label: str
) -> Iterator[Piece]:
    if isinstance(initializer, str):
        return INITIALIZERS[initializer](rng, *fans, (math.prod(shape[:-1]), shape[-1]))
    if initializer.shape != shape:
        raise ValueError(f"{label}: wanted an array of shape {shape}, got {initializer.shape}")
    if not math.isfinite(initializer.min()) or not math.isfinite(initializer.max()):
        raise ValueError(f"{label}: the array holds NaN or infinity")
    return pieces_of(initializer)
