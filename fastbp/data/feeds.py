"""Floor 2: where a fit's rows come from, a piece in memory at a time."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastbp.data.staging import Sample


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


class Feed(Protocol):
    """What a fit needs of its rows; `Passes` says what it means."""

    batch: int
    shuffle: bool
    spans_epochs: bool
    seeks: bool
    steps: Any

    @property
    def length(self) -> int: ...
    def piece(self, epoch: int, step: int) -> Piece: ...
    def wind(self, first_pass: int, epoch: int, step: int) -> None: ...
    def rows(self, epoch: Any, step: int) -> Any: ...
    def passes(self, epoch: int, step: int) -> int: ...
    def waited(self) -> float: ...
    def close(self) -> None: ...
    def identity(self) -> dict[str, Any]: ...


class Passes:
    """How rows that can be counted are gone through.

    Parameters
    ----------
    count : N
    batch : rows of a step; at most N
    shuffle : whether each pass has its own order
    seed : names the orders
    first_pass : passes over the data that the model has made before
    steps : steps of an epoch; by default one pass, else an epoch goes on where the last one stopped

    Attributes
    ----------
    spans_epochs : whether a piece's steps may go on into the next epoch: an epoch is a pass
    seeks : whether a place in a fit is found without reading what is before it
    """

    seeks = True

    def __init__(
        self, count: int, *, batch: int, shuffle: bool, seed: int, first_pass: int, steps: int | None = None
    ) -> None:
        self.count, self.batch = count, min(batch, count)
        self.shuffle, self.seed, self.first_pass = shuffle, seed, first_pass
        self.per_pass = -(-count // self.batch)
        self.steps = steps or self.per_pass
        self.spans_epochs = self.steps == self.per_pass

    @property
    def length(self) -> int:
        """Steps of the running epoch."""
        return self.steps

    def wind(self, first_pass: int, epoch: int, step: int) -> None:
        """Go to a place in a fit that began after `first_pass` passes: there is nothing to read here."""
        self.first_pass = first_pass

    def rows(self, epoch: Any, step: int) -> Any:
        """Rows seen before that, for one epoch or an array of them."""
        passes, steps = divmod(epoch * self.steps + step, self.per_pass)
        return passes * self.count + np.minimum(self.count, steps * self.batch)

    def passes(self, epoch: int, step: int) -> int:
        """Passes over the data begun before that."""
        return -(-(epoch * self.steps + step) // self.per_pass)

    def waited(self) -> float:
        """Seconds spent waiting for rows so far."""
        return 0.0

    def close(self) -> None:
        """End what reads ahead."""


class ArrayFeed(Passes):
    """Rows that are all in memory: `sample`, and the options of `Passes`."""

    def __init__(self, sample: Sample, **options: Any) -> None:
        super().__init__(len(sample), **options)
        self.sample = sample

    def piece(self, epoch: int, step: int) -> Piece:
        """What comes next after `step` steps of the fit's epoch `epoch` (from 0)."""
        done = epoch * self.steps + step
        most = 1 << 62 if self.spans_epochs else self.per_pass - done % self.per_pass
        first = self.first_pass * self.per_pass + done
        return Piece(self.sample, self.batch, first, most, self.seed, self.shuffle)

    def identity(self) -> dict[str, Any]:
        """What the rows are, as plain data."""
        return self.sample.fingerprint()
