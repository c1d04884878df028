"""Floor 2: where a fit's rows come from, a piece in memory at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.data import Sample


@dataclass(frozen=True)
class Piece:
    """Rows in memory, and the steps over them that may run next.

    Attributes
    ----------
    sample : the rows
    batch : rows of a step
    first_step : number of the next step in the engine's count; with `seed` it names the batch and the shuffle
    steps : most steps that may run before the next piece is asked for
    seed, shuffle : as the engine takes them
    """

    sample: Sample
    batch: int
    first_step: int
    steps: int
    seed: int
    shuffle: bool


class ArrayFeed:
    """Rows that are all in memory.

    Parameters
    ----------
    sample : the rows
    batch : rows of a step; at most N
    shuffle : whether each pass has its own order
    seed : names the orders
    first_pass : passes over the data that the model has made before
    steps : steps of an epoch; by default one pass, else an epoch goes on where the last one stopped

    Attributes
    ----------
    spans_epochs : whether a piece's steps may go on into the next epoch: an epoch is a pass
    """

    def __init__(
        self, sample: Sample, *, batch: int, shuffle: bool, seed: int, first_pass: int, steps: int | None = None
    ) -> None:
        self.sample, self.batch = sample, min(batch, len(sample))
        self.shuffle, self.seed, self.first_pass = shuffle, seed, first_pass
        self.per_pass = -(-len(sample) // self.batch)
        self.steps = steps or self.per_pass
        self.spans_epochs = self.steps == self.per_pass

    def piece(self, epoch: int, step: int) -> Piece:
        """What comes next after `step` steps of the fit's epoch `epoch` (from 0)."""
        done = epoch * self.steps + step
        most = 1 << 62 if self.spans_epochs else self.per_pass - done % self.per_pass
        first = self.first_pass * self.per_pass + done
        return Piece(self.sample, self.batch, first, most, self.seed, self.shuffle)

    def wind(self, first_pass: int, epoch: int, step: int) -> None:
        """Go to a place in a fit that began after `first_pass` passes: there is nothing to read here."""
        self.first_pass = first_pass

    def identity(self) -> dict[str, Any]:
        """What the rows are, as plain data."""
        return self.sample.fingerprint()

    def rows(self, epoch: Any, step: int) -> Any:
        """Rows seen before that, for one epoch or an array of them."""
        passes, steps = divmod(epoch * self.steps + step, self.per_pass)
        return passes * len(self.sample) + np.minimum(len(self.sample), steps * self.batch)

    def passes(self, epoch: int, step: int) -> int:
        """Passes over the data begun before that."""
        return -(-(epoch * self.steps + step) // self.per_pass)
