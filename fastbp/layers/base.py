"""What all layers have, and the ops that they become."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbp import activations
from fastbp._settings import NOT_NEGATIVE, Settings, is_not_negative
from fastbp.activations import IDENTITY
from fastbp.layout import operations
from fastbp.layout.operations import Operation
from fastbp.program import LayerSpec, Piece

LAYERS: dict[str, type["Layer"]] = {}
"""Every kind of layer by its name in configurations: a class enters itself."""


@dataclass
class Network:
    """The ops that layers become, one after the other.

    Attributes
    ----------
    width : columns of what the next layer takes
    source : the op that gives them, -1 for the network's inputs
    specs : the ops
    labels : of each array of weights, "<layer>.<array>"
    learned : of each array, whether an optimizer updates it
    ends : how many ops and arrays there are behind each layer
    """

    width: int
    source: int = -1
    specs: list[LayerSpec] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)

    def add(self, name: str, operation: Operation, fan_out: int | None = None, **options: Any) -> int:
        """Put an op behind the last one; returns its number."""
        index = len(self.specs)
        options = {"bias": False, "activation": IDENTITY, "source": self.source, **options}
        if options["source"] == index - 1:
            options["source"] = None
        spec = LayerSpec(self.width, fan_out or self.width, operation=operation, **options)
        self.specs.append(spec)
        names = ("kernel", "bias")[: 1 + spec.bias] if operation is operations.DENSE else spec.rows
        self.labels += [f"{name}.{part}" for part in names]
        self.learned += [operation is operations.DENSE or part in operation.learned for part in names]
        self.width, self.source = spec.fan_out, index
        return index


def lower(layers: Iterable["Layer"], width: int) -> Network:
    """The ops of a network whose inputs have `width` columns."""
    network, layers = Network(width), list(layers)
    for name, layer in zip(unique_names(layers), layers, strict=True):
        layer.lower(network, name)
        network.ends.append((len(network.specs), len(network.labels)))
    if len(set(network.labels)) < len(network.labels):
        twice = next(label for label in network.labels if network.labels.count(label) > 1)
        raise ValueError(f"two arrays of weights would be called {twice!r}: give one of the layers another name")
    return network


def unique_names(layers: Iterable["Layer"]) -> list[str]:
    """The layers' own names or their kinds, numbered where they repeat."""
    names: list[str] = []
    for layer in layers:
        base = name = layer.name or layer.kind
        number = 0
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names


class Layer:
    """What all layers have.

    Attributes
    ----------
    name : shown in summaries and used in files; numbered by default
    activation : what the outputs go through
    trainable : whether training changes the weights
    lr_multiplier : what the learning rate is multiplied by
    input_dim : width of the inputs, where the layer says it
    kind : the layer's name in configurations
    """

    kind: ClassVar[str] = ""
    name: str | None = None
    activation: activations.Activation = IDENTITY
    trainable: bool = True
    lr_multiplier: float = 1.0
    input_dim: int | None = None

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):  # a subclass of a layer is of its kind
            LAYERS[cls.kind] = cls

    def width(self, fan_in: int | None) -> int | None:
        """Columns of the outputs for inputs of `fan_in` columns, None where that isn't known."""
        return fan_in

    def lower(self, network: Network, name: str) -> None:
        """Add the layer's ops."""
        raise NotImplementedError

    def check_inputs(self, rows: NDArray[Any], name: str) -> None:
        """Refuse inputs of the network (N, I) that the layer can't take; `name` is what errors call them.

        Raises
        ------
        ValueError : numbers that are no categories of an `Embedding`
        """

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        """Fresh weights, array by array, in pieces drawn when they are asked for."""
        return []

    def settings(self) -> dict[str, Any]:
        """The arguments that make the layer again, as plain data (given arrays are part of the weights)."""
        return {}

    def config(self) -> dict[str, Any]:
        """The layer as plain data: `from_config` makes it again."""
        return {"kind": self.kind, **self.settings(), "name": self.name}

    def __repr__(self) -> str:
        defaults = {name: option.default for name, option in inspect.signature(type(self)).parameters.items()}
        shown = {name: value for name, value in self.settings().items() if value != defaults.get(name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Layer":
        """The layer that its `config` described.

        Raises
        ------
        ValueError : a kind of layer that this version doesn't know
        """
        settings = dict(config)
        kind = settings.pop("kind", None)
        if kind not in LAYERS:
            raise ValueError(f"unknown layer kind {kind!r}; this version knows: {', '.join(LAYERS)}")
        return LAYERS[kind]._made(settings)

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "Layer":
        return cls(**settings)


def checked_multiplier(value: float) -> float:
    """A layer's multiplier of the learning rate.

    Raises
    ------
    ValueError : not a number of at least 0
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not is_not_negative(value):
        raise ValueError(f"lr_multiplier must be {NOT_NEGATIVE}, got {value!r}")
    return float(value)


def plain(setting: Settings | None) -> dict[str, Any] | None:
    """A penalty or a constraint as plain data, among a layer's settings."""
    return None if setting is None else setting.config()


def activation_settings(row: activations.Activation) -> dict[str, Any]:
    """An activation as plain data, among a layer's settings."""
    own = {} if row.made is None else {"made": row.made}
    return {"activation": row.name, "parameter": row.parameter, **own}


def activation_of(settings: dict[str, Any]) -> activations.Activation:
    """The activation of a layer's settings, taken out of them."""
    name, parameter, made = settings.pop("activation"), settings.pop("parameter", None), settings.pop("made", None)
    row = activations.get(name) if made is None else activations.remade(name, made)
    return row if parameter is None else row(parameter)
