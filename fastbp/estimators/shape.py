"""Floor 5: the layers that an estimator's parameters ask for."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from fastbp import activations
from fastbp.activations import ACTIVATIONS, IDENTITY, Activation
from fastbp.layers import Activation as ActivationLayer
from fastbp.layers import BatchNormalization, Dense, Dropout, Layer

MOMENTUM = 0.9
"""Of batch normalisation's moving statistics: fits of small tables take too few steps for Keras' 0.99."""


@dataclass(frozen=True)
class Shape:
    """What stands between the products of a network.

    Attributes
    ----------
    activations : a row of the table for each layer
    dropout : share of each hidden layer's outputs that are dropped in training
    batch_norm : whether each hidden layer is normalised over the batch before its activation
    """

    activations: tuple[Activation, ...]
    dropout: tuple[float, ...]
    batch_norm: bool

    def layers(self, widths: Iterable[int]) -> list[Layer]:
        """The layers of a network whose products have `widths` neurons."""
        *hidden, outputs = widths
        found: list[Layer] = []
        for width, row, rate in zip(hidden, self.activations, self.dropout, strict=False):
            if self.batch_norm:
                found += [Dense(width), BatchNormalization(MOMENTUM)]
                found += [] if row is IDENTITY else [ActivationLayer(row)]
            else:
                found.append(Dense(width, activation=row))
            if rate:
                found.append(Dropout(rate))
        return [*found, Dense(outputs, activation=self.activations[-1])]


def sizes_of(hidden_layer_sizes: Any) -> list[int]:
    """Neurons of each hidden layer."""
    return list(hidden_layer_sizes) if isinstance(hidden_layer_sizes, Iterable) else [hidden_layer_sizes]


def hidden_rows(activation: Any, layers: int) -> list[Activation]:
    """One activation for all hidden layers, or each layer's own."""
    if isinstance(activation, (str, Activation)) or callable(activation):
        return [_row(activation)] * layers
    rows = [_row(each) for each in activation]
    if len(rows) != layers:
        raise ValueError(f"activation names {len(rows)} activations for {layers} hidden layers: give one, or one each")
    return rows


def _row(activation: Any) -> Activation:
    row = activations.get(activation)
    if row.coupled:
        raise ValueError(f"activation {row.name!r} couples the neurons of a row and can't be that of a hidden layer")
    table = ACTIVATIONS.get(row.name, row)
    return table if row.parameter == table.parameter else row  # clone copies rows, the engine knows its own


def dropped(dropout: Any, layers: int) -> tuple[float, ...]:
    """One share for all hidden layers, or each layer's own."""
    if isinstance(dropout, Real):
        return (float(dropout),) * layers
    rates = tuple(dropout)
    if len(rates) != layers:
        raise ValueError(f"dropout names {len(rates)} shares for {layers} hidden layers: give one, or one each")
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= float(rate) < 1:
            raise ValueError(f"dropout must be shares from 0 to below 1, got {rate!r}")
    return tuple(map(float, rates))
