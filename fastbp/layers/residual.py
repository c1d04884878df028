"""Blocks whose inputs skip them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from fastbp import activations, initializers, operations
from fastbp.activations import IDENTITY
from fastbp.layers.base import Layer, Network, activation_of, activation_settings, unique_names
from fastbp.program import Piece


class Residual(Layer):
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

    def __init__(
        self,
        layers: Iterable[Layer],
        activation: str | activations.Activation | Callable[[Any], Any] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.layers, self.activation, self.name = list(layers), activations.get(activation), name
        if not self.layers:
            raise ValueError("Residual: wanted at least one layer in the block")
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"Residual: wanted layers such as fb.Dense(10), got {layer!r}")
            if layer.activation.coupled:
                raise ValueError("Residual: softmax couples the outputs of a row and may stand in the last layer only")

    def width(self, fan_in: int | None) -> int | None:
        for layer in self.layers:
            fan_in = layer.width(fan_in)
        return fan_in

    def _projects(self, fan_in: int) -> bool:
        return self.width(fan_in) != fan_in

    def lower(self, network: Network, name: str) -> None:
        fan_in = network.width
        fork = skip = network.add(name, operations.FORK)
        if self._projects(fan_in):
            skip = network.add(f"{name}.projection", operations.DENSE, self.width(fan_in))
        network.width, network.source = fan_in, fork
        for part, layer in zip(unique_names(self.layers), self.layers, strict=True):
            layer.lower(network, f"{name}.{part}")
        network.add(name, operations.JOIN, skip=skip, activation=self.activation)

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        drawn = []
        if self._projects(fan_in):
            shape = (fan_in, self.width(fan_in) or 0)
            drawn.append(initializers.draw("glorot_uniform", rng, shape, shape, f"projection of {self!r}"))
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
        return f"Residual({self.layers!r}{end})"
