"""Floor 2: a bar that shows how far something is: rich's on a terminal that has it, else tqdm's, in notebooks too."""

import importlib.util
import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

from tqdm.auto import tqdm

REFRESH = 0.2
"""Seconds between two looks of a bar on a terminal."""


def in_notebook() -> bool:
    """Whether this process computes what a notebook shows: no terminal, but somebody watches."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def watched() -> bool:
    """Whether somebody sees a bar that moves."""
    return sys.stderr.isatty() or in_notebook()


def has_rich() -> bool:
    """Whether bars are rich's: it is installed, and the terminal can move its cursor."""
    able = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return able and importlib.util.find_spec("rich") is not None


def bar(total: float, text: str, *, width: int = 20, since: float = 0.0) -> "Bar":
    """A bar on stderr.

    Parameters
    ----------
    total : the place where it is full
    text : stands before it
    width : of the bar itself, in letters
    since : seconds ago that it began
    """
    return (_RichBar if has_rich() else _TqdmBar)(total, text, width, since)


class Bar(ABC):
    """A bar; as a context it is closed at the end.

    Attributes
    ----------
    place : how far it is
    """

    place: float = 0.0

    @abstractmethod
    def begin(self, place: float) -> None:
        """It goes on from a place that was reached before: the time that is left isn't reckoned from it."""

    @abstractmethod
    def describe(self, text: str) -> None:
        """What stands before it from now on."""

    @abstractmethod
    def move(self, place: float, values: str | None = None, *, at_once: bool = False) -> None:
        """It is as far as `place`; `values` stand behind it from now on. `at_once`: show it now, not in a moment."""

    @abstractmethod
    def close(self) -> None:
        """It stays as it is."""

    def update(self, amount: float = 1.0) -> None:
        """It is so much further."""
        self.move(self.place + amount)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _TqdmBar(Bar):
    """tqdm's, a widget in notebooks."""

    def __init__(self, total: float, text: str, width: int, since: float) -> None:
        drawn = "{bar}" if in_notebook() else f"{{bar:{width}}}"
        self._form = f"{{desc}} {{percentage:3.0f}}%|{drawn}| {{elapsed}}<{{remaining}}"
        size = {}
        if not in_notebook():
            columns, lines = shutil.get_terminal_size()  # tqdm's own look at a terminal of unknown size hides the bar
            size = {"ncols": columns, "nrows": lines}
        self._bar: Any = tqdm(total=total, desc=text, file=sys.stderr, bar_format=self._form, **size)
        self._bar.start_t -= since

    def begin(self, place: float) -> None:
        self.place = self._bar.initial = self._bar.n = place
        self._bar.refresh()

    def describe(self, text: str) -> None:
        self._bar.set_description_str(text, refresh=False)

    def move(self, place: float, values: str | None = None, *, at_once: bool = False) -> None:
        if values is not None:
            self._bar.bar_format = f"{self._form}  {values}"
        self._bar.update(place - self.place)
        self.place = place
        if at_once:
            self._bar.refresh()

    def close(self) -> None:
        self._bar.refresh()
        self._bar.close()


class _RichBar(Bar):
    """rich's, drawn by the thread that moves it."""

    def __init__(self, total: float, text: str, width: int, since: float) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(width),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(file=sys.stderr),
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._progress.start()
        self._task = self._progress.add_task(text, total=total, values="")
        (task,) = self._progress.tasks
        task.start_time = self._progress.get_time() - since
        self._drawn = 0.0
        self._look(True)

    def _look(self, at_once: bool) -> None:
        now = time.monotonic()
        if at_once or now - self._drawn >= REFRESH:
            self._drawn = now
            self._progress.refresh()

    def begin(self, place: float) -> None:
        self.place = place
        self._progress.reset(self._task, completed=int(place))
        self._look(True)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def move(self, place: float, values: str | None = None, *, at_once: bool = False) -> None:
        shown = {} if values is None else {"values": values}
        self._progress.update(self._task, completed=place, **shown)
        self.place = place
        self._look(at_once)

    def close(self) -> None:
        self._progress.refresh()
        self._progress.stop()
