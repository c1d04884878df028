"""Floor 3: kernels are compiled once per machine, and whoever waits for it sees that and how far it is."""

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from fastbp._jit import cache_folder
from fastbp.reports.bars import Bar, bar, watched

DELAY = 0.6
"""Compiling that takes less is not spoken of."""
TICK = 0.1


class Makeable(Protocol):
    """A kernel of either engine: see ``_jit.Kernel``."""

    @property
    def ready(self) -> bool: ...
    @property
    def seconds(self) -> float: ...
    def load(self) -> bool: ...
    def address(self) -> int: ...


@dataclass(frozen=True)
class Compiled:
    """What `compile_kernels` did.

    Attributes
    ----------
    compiled : names of the kernels that were compiled now
    found : how many were there already, in this process or in the cache folder
    seconds : how long all of it took
    """

    compiled: tuple[str, ...]
    found: int
    seconds: float


def compile_kernels(kernels: Iterable[tuple[str, Makeable]], shown: bool) -> Compiled:
    """Make named kernels ready: from the cache folder where they are there, else by compiling them.

    Parameters
    ----------
    kernels : pairs of what to call it and the kernel
    shown : whether to show on stderr what is compiled: a bar where someone watches, else a line before and after
    """
    start = time.perf_counter()
    wanted = list({id(kernel): (name, kernel) for name, kernel in kernels}.values())
    missing = [(name, kernel) for name, kernel in wanted if not kernel.ready and not kernel.load()]
    if missing:
        with _Notice(missing, shown) as notice:
            for index, (_, kernel) in enumerate(missing):
                notice.begin(index)
                kernel.address()
    names = tuple(dict.fromkeys(name for name, _ in missing))
    return Compiled(names, len(wanted) - len(missing), time.perf_counter() - start)


class _Notice:
    """A bar that goes by the seconds each kernel should take, or two lines; a thread moves it on."""

    def __init__(self, kernels: list[tuple[str, Makeable]], shown: bool) -> None:
        self.kernels, self.shown = kernels, shown
        self._ends = [0.0]
        for _, kernel in kernels:
            self._ends.append(self._ends[-1] + kernel.seconds)
        self._index, self._since = 0, time.perf_counter()
        self._over = threading.Event()
        self._bar: Bar | None = None
        self._thread = threading.Thread(target=self._show, daemon=True)

    def begin(self, index: int) -> None:
        """Kernel `index` is compiled from now on."""
        self._index, self._since = index, time.perf_counter()

    def __enter__(self) -> "_Notice":
        if self.shown:
            self._thread.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._over.set()
        if self.shown:
            self._thread.join()
        if self._bar is not None:
            if kind is None:
                self._move(len(self.kernels), "done")
            self._bar.close()

    def _show(self) -> None:
        start = time.perf_counter()
        if self._over.wait(DELAY):
            return
        often = "once per machine" if cache_folder() is not None else "in every process"
        if watched():
            self._bar = bar(self._ends[-1], f"compiling kernels, {often}", width=10, since=DELAY)
            while not self._over.wait(TICK):
                self._move(self._index, self.kernels[self._index][0])
            return
        about = f"some {max(1, round(self._ends[-1]))} seconds"
        print(f"fastbp: compiling kernels, {often} ({about}) ...", file=sys.stderr, flush=True)
        self._over.wait()
        print(f"fastbp: kernels ready after {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)

    def _move(self, index: int, text: str) -> None:
        """Show where kernel `index` stands: as far as the time that it has taken lets expect."""
        place = self._ends[index]
        if index < len(self.kernels):
            share = (time.perf_counter() - self._since) / self.kernels[index][1].seconds
            place += self.kernels[index][1].seconds * min(share, 0.95)
        assert self._bar is not None
        self._bar.move(max(self._bar.place, place), text, at_once=True)
