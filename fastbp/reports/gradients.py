"""Floor 4: how large the gradient is in each layer: where it vanishes and where it explodes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastbp.model import Model

VANISHING = 1e-3
"""A layer's gradient vanishes where its root mean square is below this share of the largest layer's."""
EXPLODING = 1e2
"""A layer's gradient explodes where its norm is above so many times the norm of the layer's weights."""


@dataclass(frozen=True)
class GradientRow:
    """One layer's gradient.

    Attributes
    ----------
    name : the layer's
    norm : Euclidean norm over kernel and bias
    rms : root mean square over kernel and bias
    weights : Euclidean norm of kernel and bias
    state : "vanishing", "exploding" or ""
    """

    name: str
    norm: float
    rms: float
    weights: float
    state: str


class GradientReport(list[GradientRow]):
    """The gradients' sizes, first layer to last; printed, it is a table."""

    @property
    def norms(self) -> dict[str, float]:
        """The norm of each layer's gradient by the layer's name."""
        return {row.name: row.norm for row in self}

    def __repr__(self) -> str:
        width = max(len("layer"), *(len(row.name) for row in self))
        lines = [f"{'layer':<{width}}  {'norm':>10}  {'rms':>10}  {'of weights':>10}"]
        for row in self:
            share = row.norm / row.weights if row.weights else float("inf")
            line = f"{row.name:<{width}}  {row.norm:>10.3g}  {row.rms:>10.3g}  {share:>10.3g}  {row.state}"
            lines.append(line.rstrip())
        return "\n".join(lines)


def gradient_report(model: "Model", x: Any, y: Any, sample_weight: Any = None) -> GradientReport:
    """The size of each layer's gradient of the loss over the rows: see ``Model.gradient_report``."""
    gradients, weights = model.gradients(x, y, sample_weight=sample_weight), model.get_weights()
    rows: list[tuple[str, float, float, float]] = []
    assert model.input_width is not None
    network, first = model._network(model.input_width), 0
    for name, (_, end) in zip(model._names(), network.ends, strict=True):
        places = [place for place in range(first, end) if network.learned[place]]
        first = end
        if places:
            square, size = _square([gradients[place] for place in places]), sum(weights[place].size for place in places)
            norm = float(np.sqrt(_square([weights[place] for place in places])))
            rows.append((name, float(np.sqrt(square)), float(np.sqrt(square / size)), norm))
    largest = max(rms for _, _, rms, _ in rows)
    return GradientReport(
        GradientRow(name, norm, rms, held, _state(norm, rms, held, largest)) for name, norm, rms, held in rows
    )


def _square(arrays: list[np.ndarray]) -> float:
    return sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)


def _state(norm: float, rms: float, weights: float, largest: float) -> str:
    if rms == 0 or rms < VANISHING * largest:
        return "vanishing"
    return "exploding" if norm > EXPLODING * weights > 0 else ""
