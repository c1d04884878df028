"""Fully connected layers, and what goes with them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp import activations, constraints, initializers, regularizers
from fastbp._checks import flag
from fastbp._spelling import answers
from fastbp.activations import IDENTITY
from fastbp.constraints import Constraint
from fastbp.layers.activity import penalise
from fastbp.layers.base import Layer, Network, activation_of, activation_settings, checked_multiplier, plain
from fastbp.layout import operations
from fastbp.program import Piece
from fastbp.regularizers import Regularizer


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


class Dense(Layer):
    """A fully connected layer, a = activation(x @ kernel + bias).

    Parameters
    ----------
    units : neurons, O
    activation : a name (see ``fb.activations.ACTIVATIONS``), a row of that table, a function of one's own (see
        ``fb.activations.custom``), or None for linear
    use_bias : whether the layer has a bias, default True
    kernel_initializer : "glorot_uniform" (default), "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
        "lecun_normal", "uniform" (from -0.05 to 0.05, as "random_uniform"), "random_normal", "truncated_normal"
        (deviation 0.05), "orthogonal", "identity", "zeros", "ones"; an array (I, O), or a function that makes it of
        its shape
    bias_initializer : the same, default "zeros"; an array has the shape (O,)
    kernel_regularizer : penalty on the kernel, part of the loss: "l1", "l2", "l1_l2" (each with 0.01) or an object such
        as ``fb.regularizers.L2(1e-4)``; None (default) for none
    bias_regularizer : the same for the biases
    activity_regularizer : the same for the outputs, divided by the batch's rows; not of the model's last layer
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

    kind = "dense"

    def __init__(
        self,
        units: int,
        activation: str | activations.Activation | Callable[[Any], Any] | None = None,
        use_bias: bool = True,
        kernel_initializer: str | ArrayLike | initializers.Own = "glorot_uniform",
        bias_initializer: str | ArrayLike | initializers.Own = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
        bias_regularizer: str | Regularizer | None = None,
        activity_regularizer: str | Regularizer | None = None,
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
        self.use_bias = flag("Dense: use_bias", use_bias)
        self.kernel_initializer = initializers.checked(kernel_initializer, "kernel_initializer")
        self.bias_initializer = initializers.checked(bias_initializer, "bias_initializer")
        self.kernel_regularizer = regularizers.get(kernel_regularizer, "kernel_regularizer")
        self.bias_regularizer = regularizers.get(bias_regularizer, "bias_regularizer")
        self.activity_regularizer = regularizers.get(activity_regularizer, "activity_regularizer")
        self.kernel_constraint = constraints.get(kernel_constraint, "kernel_constraint")
        self.trainable = flag("Dense: trainable", trainable)
        self.lr_multiplier = checked_multiplier(lr_multiplier)
        self.name = name
        self.input_dim = _input_width(input_shape, input_dim)

    def __repr__(self) -> str:
        options = "" if self.use_bias else ", use_bias=False"
        penalties = "kernel_regularizer", "bias_regularizer", "activity_regularizer"
        defaults = {**dict.fromkeys((*penalties, "kernel_constraint")), "trainable": True, "lr_multiplier": 1.0}
        for name, default in defaults.items():
            if (value := getattr(self, name)) != default:
                options += f", {name}={value!r}"
        return f"Dense({self.units}, activation={self.activation.name!r}{options})"

    def width(self, fan_in: int | None) -> int | None:
        return self.units

    def lower(self, network: Network, name: str) -> None:
        kernel = regularizers.get(self.kernel_regularizer, "kernel_regularizer") if self.trainable else None
        bias = regularizers.get(self.bias_regularizer, "bias_regularizer") if self.trainable else None
        network.add(
            name,
            operations.DENSE,
            self.units,
            bias=self.use_bias,
            activation=self.activation,
            penalty=regularizers.strengths(kernel, bias if self.use_bias else None),
            trainable=bool(self.trainable),
            rate=checked_multiplier(self.lr_multiplier),
            constraint=constraints.get(self.kernel_constraint, "kernel_constraint"),
        )
        if (activity := regularizers.get(self.activity_regularizer, "activity_regularizer")) is not None:
            penalise(network, activity.strengths, repr(self))

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        """Fresh kernel (I, O) and, where the layer has one, bias (1, O), in pieces drawn when they are asked for."""
        shape = (fan_in, self.units)
        drawn = [initializers.draw(self.kernel_initializer, rng, shape, shape, f"kernel_initializer of {self!r}")]
        if self.use_bias:
            label = f"bias_initializer of {self!r}"
            drawn.append(initializers.draw(self.bias_initializer, rng, shape, (self.units,), label))
        return drawn

    def settings(self) -> dict[str, Any]:
        return {
            "units": self.units,
            **activation_settings(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.name_of(self.kernel_initializer),
            "bias_initializer": initializers.name_of(self.bias_initializer),
            "kernel_regularizer": plain(regularizers.get(self.kernel_regularizer)),
            "bias_regularizer": plain(regularizers.get(self.bias_regularizer)),
            "activity_regularizer": plain(regularizers.get(self.activity_regularizer)),
            "kernel_constraint": plain(constraints.get(self.kernel_constraint)),
            "trainable": bool(self.trainable),
            "lr_multiplier": float(self.lr_multiplier),
        }

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Layer:
        return cls(activation=activation_of(settings), **settings)


class Activation(Layer):
    """An activation of its own, ``fb.layers.Activation("relu")``: what ``Dense(..., activation="relu")`` does at once.

    Behind a product, a normalisation or a sum it costs nothing, as these compute it on their way.

    Parameters
    ----------
    activation : a name, a row of ``fb.activations.ACTIVATIONS``, or a function of one's own
    name : as in `Dense`
    """

    kind = "activation"

    def __init__(
        self, activation: str | activations.Activation | Callable[[Any], Any], *, name: str | None = None
    ) -> None:
        self.activation, self.name = activations.get(activation), name

    def lower(self, network: Network, name: str) -> None:
        if network.source == len(network.specs) - 1 and network.source >= 0:
            before = network.specs[-1]
            if before.activation is IDENTITY and not before.operation.noise and not before.operation.alias:
                network.specs[-1] = dataclasses.replace(before, activation=self.activation)
                return
        network.add(name, operations.ACTIVATION, activation=self.activation)

    def settings(self) -> dict[str, Any]:
        return activation_settings(self.activation)

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Layer:
        return cls(activation_of(settings), **settings)


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


answers(__name__)
