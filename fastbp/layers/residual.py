"""Blocks of layers whose inputs skip them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from fastbp import activations, initializers
from fastbp._spelling import answers
from fastbp.activations import IDENTITY
from fastbp.layers.base import Layer, Network, activation_of, activation_settings, unique_names
from fastbp.layout import operations
from fastbp.program import Piece


class Block(Layer):
    """What layers have in common whose inputs skip a block of layers."""

    def __init__(
        self,
        layers: Iterable[Layer],
        activation: str | activations.Activation | Callable[[Any], Any] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.layers, self.activation, self.name = list(layers), activations.get(activation), name
        kind = type(self).__name__
        if not self.layers:
            raise ValueError(f"{kind}: wanted at least one layer in the block")
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"{kind}: wanted layers such as fb.Dense(10), got {layer!r}")
            if layer.activation.coupled:
                raise ValueError(f"{kind}: softmax couples the outputs of a row and may stand in the last layer only")

    def _inner_width(self, fan_in: int | None) -> int | None:
        """Columns behind the block's layers."""
        for layer in self.layers:
            fan_in = layer.width(fan_in)
        return fan_in

    def _lower_layers(self, network: Network, name: str) -> None:
        for part, layer in zip(unique_names(self.layers), self.layers, strict=True):
            layer.lower(network, f"{name}.{part}")

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        drawn: list[Iterator[Piece]] = []
        for layer in self.layers:
            drawn += layer.initial(rng, fan_in)
            fan_in = layer.width(fan_in) or 0
        return drawn

    def settings(self) -> dict[str, Any]:
        names = unique_names(self.layers)
        blocks = [{**layer.config(), "name": name} for layer, name in zip(self.layers, names, strict=True)]
        return {"layers": blocks, **activation_settings(self.activation)}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Layer:
        row = activation_of(settings)
        return cls([Layer.from_config(config) for config in settings.pop("layers")], row, **settings)

    def __repr__(self) -> str:
        end = "" if self.activation is IDENTITY else f", activation={self.activation.name!r}"
        return f"{type(self).__name__}({self.layers!r}{end})"


class Residual(Block):
    """x + layers(x): a block whose inputs skip it, He et al., "Deep residual learning", 2015.

    Where the block's outputs have another width than its inputs, these are projected by a kernel without bias.

    Parameters
    ----------
    layers : layers of the block, first to last
    activation : of the sum, default none
    name : as in `Dense`

    Examples
    --------
    >>> import fastbp as fb
    >>> block = fb.Residual([fb.Dense(64, activation="relu"), fb.Dense(32)], activation="relu")
    """

    kind = "residual"

    def width(self, fan_in: int | None) -> int | None:
        return self._inner_width(fan_in)

    def _projects(self, fan_in: int) -> bool:
        return self.width(fan_in) != fan_in

    def lower(self, network: Network, name: str) -> None:
        fan_in = network.width
        fork = skip = network.add(name, operations.FORK)
        if self._projects(fan_in):
            skip = network.add(f"{name}.projection", operations.DENSE, self.width(fan_in))
        network.width, network.source = fan_in, fork
        self._lower_layers(network, name)
        network.add(name, operations.JOIN, skip=skip, activation=self.activation)

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        drawn = []
        if self._projects(fan_in):
            shape = (fan_in, self.width(fan_in) or 0)
            drawn.append(initializers.draw("glorot_uniform", rng, shape, shape, f"projection of {self!r}"))
        return drawn + super().initial(rng, fan_in)


class Concatenate(Block):
    """x beside layers(x): Huang et al., "Densely connected convolutional networks", 2017.

    The outputs are the columns of x, then those of the block.

    Parameters
    ----------
    layers : layers of the block, first to last
    activation : of all columns, default none
    name : as in `Dense`

    Examples
    --------
    >>> import fastbp as fb
    >>> growing = [fb.Concatenate([fb.Dense(32, activation="relu")]) for _ in range(3)]  # 96 columns more
    """

    kind = "concatenate"

    def width(self, fan_in: int | None) -> int | None:
        inner = self._inner_width(fan_in)
        return None if fan_in is None or inner is None else fan_in + inner

    def lower(self, network: Network, name: str) -> None:
        fan_in, fork = network.width, network.add(name, operations.FORK)
        self._lower_layers(network, name)
        network.add(name, operations.CONCATENATE, fan_in + network.width, skip=fork, activation=self.activation)


answers(__name__)
