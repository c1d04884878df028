"""Kernels made ready before a step is launched, so that whoever waits for the compiler sees it."""

from collections.abc import Iterable
from typing import Any

from fastbp.cuda.device import simulated
from fastbp.cuda.step import Launch
from fastbp.reports.bars import watched
from fastbp.training.compilation import compile_kernels

FIRST_SECONDS, SECONDS_A_BYTE = 0.15, 1.2e-4
"""A kernel of 1,500 bytes of bytecode takes some 0.3 s to compile, one of 40,000 5 s."""


class Waiting:
    """A kernel for arguments of some types, as ``compile_kernels`` takes it.

    Parameters
    ----------
    launch : of the kernel, which isn't launched

    Attributes
    ----------
    seconds : about how long it takes to compile
    """

    def __init__(self, launch: Launch) -> None:
        self._kernel = launch.kernel
        self._types = tuple(map(launch.kernel.typeof_pyval, launch.arguments))
        self.seconds = FIRST_SECONDS + SECONDS_A_BYTE * len(launch.kernel.py_func.__code__.co_code)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        return self._kernel, self._types

    @property
    def name(self) -> str:
        """What whoever waits is told."""
        function = self._kernel.py_func
        return f"{function.__module__.rpartition('.')[2]} {function.__qualname__.partition('.')[0]}"

    @property
    def ready(self) -> bool:
        """Whether this process has it."""
        return self._types in self._kernel.overloads

    def load(self) -> bool:
        """Take it from the cache folder; whether it is ready now."""
        if getattr(self._kernel._cache, "holds", lambda _: False)(self._types):
            self._kernel.compile(self._types)
        return self.ready

    def address(self) -> int:
        """Load or compile it."""
        self._kernel.compile(self._types)
        return 0


def make_ready(launches: Iterable[Launch], shown: bool) -> None:
    """Compile what isn't compiled yet.

    shown : whether lines on stderr say so where nobody watches a bar
    """
    if simulated():
        return
    own = (Waiting(launch) for launch in launches if hasattr(launch.kernel, "overloads"))
    missing = {one.key: one for one in own if not one.ready}
    if missing:
        compile_kernels([(one.name, one) for one in missing.values()], shown or watched())
