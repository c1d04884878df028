"""Floor 2: what an engine's run computes, and what came of it."""

from dataclasses import dataclass

import numpy as np

from fastbp import program as pg
from fastbp.formulas.tallies import Tally
from fastbp.losses import Loss

EVALUATION_ROWS = 4096
"""Rows of a step where nothing is trained, by default."""
DIVERGED = {pg.DIVERGED: "the loss", pg.OVERFLOWN: "the weights"}


@dataclass(frozen=True)
class Objective:
    """What a run computes besides the outputs: the loss and tallies, None and () for a prediction."""

    loss: Loss | None = None
    tallies: tuple[Tally, ...] = ()

    def columns(self, outputs: int) -> int:
        """Sums of a run: the loss, and those of each tally in turn."""
        return 1 + sum(tally.sums(outputs) for tally in self.tallies)

    def kept(self, outputs: int, rows: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """Room for what is kept of so many rows, (rows and a panel more, 2 outputs + 1), for each tally that keeps."""
        shape = rows + 2 * pg.LINE, 2 * outputs + 1
        return tuple(np.empty(shape, dtype) for tally in self.tallies if tally.loop == "kept")


@dataclass(frozen=True)
class Ending:
    """What ends a run of epochs between two of them, and what precedes each.

    It ends after more than `most` epochs in a row, `count` of them before it, whose mean loss over `rows` rows was
    above the least so far, `best`, less `tol`. What is within rounding of that counts: a run ends too early rather than
    too late, and whoever asked counts exactly.

    Attributes
    ----------
    best, tol, rows, count, most : see above
    before : address of a function of two int64 that is called before each epoch, with `block` and 1; 0: none
    """

    best: float
    tol: float
    rows: int
    count: int
    most: float
    before: int = 0
    block: int = 0


@dataclass
class Outcome:
    """What a run did.

    Attributes
    ----------
    steps : steps finished
    diverged : what became NaN or infinite, "" where nothing did: "the loss" of the step after them, which updated
        nothing, or "the weights", which the last of them would not have kept finite
    sums : (epochs touched, 1 + metrics) float64, summed over rows
    interrupt : what stopped the run early (Ctrl-C), for the caller to raise when all is put away
    held : (epochs validated, 1 + metrics) the same of the validation, None where `run` wasn't asked for it
    """

    steps: int
    diverged: str
    sums: np.ndarray
    interrupt: BaseException | None = None
    held: np.ndarray | None = None

    def completed(self) -> "Outcome":
        """The outcome itself, unless something stopped the run: that is raised now."""
        if self.interrupt is not None:
            raise self.interrupt
        return self
