"""A step as a short list of launches, and who runs it: one launch after the other, or by another way in its place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastbp.cuda import device

PHASES = GATHER, FORWARD, LOSS, BACKWARD, WEIGHTS = "gather", "forward", "loss", "backward", "weights"
"""The phases of a step, in their order."""
WHOLE = "steps"
"""The phase of a launch that takes whole steps."""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: nothing of it changes from step to step.

    Attributes
    ----------
    kernel : what ``device.kernel`` made
    grid : blocks, one number or two
    block : threads of a block
    arguments : numbers and device arrays
    shared : bytes of shared memory
    phase : which of `PHASES` it is part of
    """

    kernel: Any
    grid: tuple[int, ...]
    block: int
    arguments: tuple[Any, ...]
    shared: int = 0
    phase: str = ""

    def __call__(self, stream: Any) -> None:
        """Put it into the stream."""
        device.launch(self.kernel, self.grid, self.block, stream, self.shared, *self.arguments)


def of_phase(phase: str, launches: Iterable[Launch]) -> list[Launch]:
    """The launches, each of that phase from now on."""
    return [replace(launch, phase=phase) for launch in launches]


class Step(Protocol):
    """A way to run the steps of a bound network; kernels count them, and return at once where something diverged.

    Attributes
    ----------
    launches : what a step is made of
    first : what a run begins with
    """

    launches: Sequence[Launch]
    first: Sequence[Launch]

    def run(self, stream: Any, steps: int) -> None:
        """Put so many steps into the stream."""
        ...


class Launches:
    """A step as its launches, one after the other."""

    def __init__(self, launches: Sequence[Launch], first: Sequence[Launch] = ()) -> None:
        self.launches, self.first = launches, first

    def run(self, stream: Any, steps: int) -> None:
        """See `Step`."""
        for _ in range(steps):
            for launch in self.launches:
                launch(stream)
