"""Floor 4: what a fit shows while it runs: a bar, or lines."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from fastbp.reports.bars import Bar, bar, watched


def resolve_verbose(verbose: str | int) -> int:
    """0 silent, 1 bar, 2 a line an epoch; "auto" is the bar on a terminal and in a notebook, else lines."""
    if verbose == "auto":
        return 1 if watched() else 2
    if verbose in (0, 1, 2):
        return int(verbose)
    raise ValueError(f'verbose must be "auto", 0 (silent), 1 (bar) or 2 (a line an epoch), got {verbose!r}')


def shown(values: Mapping[str, Any]) -> list[str]:
    """The values that are numbers, as text."""
    return [f"{name} {value:.4g}" for name, value in values.items() if np.ndim(value) == 0]


class Progress:
    """Shows a fit on stderr: a bar of all its steps, or a plain line an epoch.

    Parameters
    ----------
    verbose : 0, 1 or 2
    epochs, rows, steps : of the fit, of the data, and of an epoch, None where that is unknown
    peak : gives the machine's peak in GFLOP/s, 0 where it isn't known; asked only when something is shown
    flops_per_row : of a training step
    """

    def __init__(
        self, verbose: int, epochs: int, rows: int, steps: int | None, peak: Callable[[], float], flops_per_row: int
    ) -> None:
        self.verbose, self.epochs, self.rows, self._by_epoch = verbose, epochs, rows, steps is None
        self._waiting = 0.0
        self.flops_per_row = flops_per_row
        self.stream: TextIO = sys.stderr
        self._peak = peak() * 1e9 if verbose else 0.0
        self._rows_seen, self._seconds = 0, 0.0
        self._values: Mapping[str, Any] = {}
        self._bar: Bar | None = None
        if verbose == 1:
            self._bar = bar(epochs * (steps or 1), f"epoch 1/{epochs}")

    def resume(self, steps: int) -> None:
        """`steps` were done in an earlier run; the time that is left isn't reckoned from them."""
        if self._bar is not None:
            self._bar.begin(steps)

    def advance(self, steps: int, rows: int, seconds: float) -> None:
        """`steps` more are done, over `rows` rows in `seconds` of computing."""
        self._rows_seen += rows
        self._seconds += seconds
        if self._bar is not None:
            self._bar.move(self._bar.place + (0 if self._by_epoch else steps), self._text(rows, seconds))

    def extend(
        self,
        first: int,
        columns: Mapping[str, Sequence[Any]],
        seconds: Sequence[float],
        rows: Sequence[int],
        waiting: float = 0.0,
    ) -> None:
        """The epochs from `first` (counted from 0) on are over.

        They took `seconds` of computing over `rows`; waiting is the share of their time that rows were waited for.
        """
        self._waiting = waiting
        counted = zip(seconds, rows, *columns.values(), strict=False)
        for number, (duration, seen, *values) in enumerate(counted, first + 1):
            self._values = dict(zip(columns, values, strict=True))
            if self._bar is not None:
                self._bar.describe(f"epoch {min(number + 1, self.epochs)}/{self.epochs}")
                self._bar.update(1 if self._by_epoch else 0)
            elif self.verbose == 2:
                width = len(str(self.epochs))
                line = f"epoch {number:{width}d}/{self.epochs}  {self._text(seen, duration)}"
                print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the last values and the speed of the whole fit."""
        if self._bar is not None:
            self._bar.move(self._bar.place, self._text(self._rows_seen, self._seconds))
            self._bar.close()

    def _text(self, rows: int, seconds: float) -> str:
        values = shown(self._values)
        rate = rows / max(seconds, 1e-9)
        speed = [f"{rate:,.0f} samples/s"]
        if self._peak:
            speed.append(f"{rate * self.flops_per_row / self._peak:.0%} of peak")
        late = [f"{self._waiting:.0%} waiting for data"] if self._waiting >= 0.005 else []
        return "  ".join(values + speed + late)
