"""Where the time of an engine's launches goes: each worker counts the ticks that it waits and that each phase takes."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel
from fastbp._vector import ticks
from fastbp.layout.plan import Plan


def _make() -> Kernel:
    def now() -> int:
        return ticks()

    return Kernel(now, types.int64())


@functools.cache
def clock() -> Kernel:
    """The kernel that reads the counter which the workers read."""
    return _make()


def _now() -> tuple[float, int]:
    """(seconds, ticks) of one moment: of a few readings the one that was interrupted least."""
    readings = [(time.perf_counter(), clock().call(), time.perf_counter()) for _ in range(5)]
    before, count, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return (before + after) / 2, count


class Watch:
    """Adds up an engine's launches while it is the engine's ``watch``.

    Attributes
    ----------
    launches : how many
    seconds : from each launch's beginning to its end, summed
    taken : of these, by the number of threads
    """

    def __init__(self) -> None:
        self.launches, self.seconds = 0, 0.0
        self.taken: dict[int, float] = {}
        self._ticks = {"rows": 0.0, "weights": 0.0, "waiting": 0.0}
        self._start = _now()

    @contextmanager
    def launch(self, run: np.ndarray, plan: Plan) -> Iterator[None]:
        """Count what is launched with `run` inside the block."""
        threads, phases = int(run[pg.THREADS]), len(plan.phases)
        line = pg.LINE // 8
        counters = np.zeros((threads, pg.round_up(1 + phases, line) + line), np.int64)  # no line of two workers
        run[pg.PROFILE], run[pg.PROFILE_WORKER] = counters.ctypes.data, counters.strides[0]
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds += seconds
            self.taken[threads] = self.taken.get(threads, 0.0) + seconds
            self.launches += 1
            run[pg.PROFILE] = 0
        mean = counters.mean(axis=0)
        self._ticks["waiting"] += mean[0]
        for phase, first in enumerate(plan.phases[:, 0]):
            kind = "weights" if plan.tasks[first, 0] in (pg.WEIGHTS, pg.SUM, pg.APPLY) else "rows"
            self._ticks[kind] += mean[1 + phase]

    def parts(self) -> dict[str, float]:
        """Seconds of "rows", "weights", "waiting" (for other workers) and "launch", means over the workers.

        Their sum is `seconds`: "launch" is what the workers didn't count, from the call of the launcher to a worker's
        start and from its end to the launcher's return.
        """
        (begin, first), (end, last) = self._start, _now()
        total = sum(self._ticks.values())
        rate = max((last - first) / (end - begin), total / self.seconds if self.seconds else 0.0, 1.0)
        launch = max(0.0, self.seconds - total / rate)
        return {name: count / rate for name, count in self._ticks.items()} | {"launch": launch}
