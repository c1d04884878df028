"""Penalties on what passes through."""

from typing import Any

from fastbp import regularizers
from fastbp._spelling import answers
from fastbp.layers.base import Layer, Network
from fastbp.layout import operations


class ActivityRegularization(Layer):
    """Adds ``(l1 * sum(abs(x)) + l2 * sum(x * x)) / rows`` to the loss, and passes x on; nothing in a prediction.

    Parameters
    ----------
    l1, l2 : strengths, at least 0
    name : as in `Dense`
    """

    kind = "activity_regularization"

    def __init__(self, l1: float = 0.0, l2: float = 0.0, *, name: str | None = None) -> None:
        strengths = regularizers.L1L2(l1, l2)
        self.l1, self.l2, self.name = float(strengths.l1), float(strengths.l2), name

    def lower(self, network: Network, name: str) -> None:
        penalise(network, (self.l1, self.l2), repr(self))

    def settings(self) -> dict[str, Any]:
        return {"l1": self.l1, "l2": self.l2}


def penalise(network: Network, strengths: tuple[float, float], layer: str) -> None:
    """Put a penalty (l1, l2) on what the last op gives; `layer` is who asks for it."""
    before = network.specs[-1].activation if network.specs else None
    if before is not None and before.coupled:
        raise ValueError(f"{layer} can't penalise what softmax gives: these are the outputs of the network")
    network.add("activity", operations.ACTIVITY, numbers=strengths)


answers(__name__)
