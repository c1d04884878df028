"""How many threads the steps of a small network take: measured while it is trained, for no rule could know.

What two threads save may be less than what passes between them. That depends on where the system put them: on a Zen 5
a line goes to another core and back in 0.12 us, or in 0.52 us where the two don't share a third-level cache, and a
virtual machine is moved from one state to the other within seconds. Or a core is busy with something else. All numbers
of threads give the same bits, so that a fit may go from one to another.
"""

import functools
import math
import os
import threading

import numpy as np

from fastbp.layout.sides import cut
from fastbp.program import LayerSpec, Program

TUNED_WORK = 200e6
"""Floating-point operations of a step: above that all threads are worth it, wherever they are."""
TRIAL, ENOUGH = 4e-3, 3e-3
"""Seconds of steps that tell how fast they are, as planned and at least: starting a run's threads takes 1 % of that."""
FIRST_GAP, LAST_GAP = 4 * TRIAL, 1.0
"""Seconds between two trials of a number of threads: after each that it loses twice as many."""
MARGIN = 0.03
"""What must be saved for a change."""


class Tuner:
    """Which of some numbers of threads is the fastest now: the best one runs, the others are tried now and then.

    Parameters
    ----------
    counts : numbers of threads; the first one is best until another one has been faster
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self.counts = counts
        self._lock = threading.Lock()
        self._best, self._tried = counts[0], counts[0]
        self._steps = dict.fromkeys(counts, 0.0)
        self._seconds = dict.fromkeys(counts, 0.0)
        self._pace = dict.fromkeys(counts, math.inf)
        self._left = dict.fromkeys(counts, 0.0)
        self._gap = dict.fromkeys(counts, FIRST_GAP)

    def ask(self) -> tuple[int, float]:
        """(threads, most steps) of the next run: as many as the trial takes, or until there is one."""
        with self._lock:
            tried = self._tried
            pace = self._pace[tried if self._pace[tried] < math.inf else self._best]
            seconds = TRIAL - self._seconds[tried]
            if tried == self._best:
                seconds = max(seconds, min(left for count, left in self._left.items() if count != tried))
            return tried, math.inf if pace == math.inf else math.ceil(seconds / pace)

    def note(self, threads: int, steps: float, seconds: float) -> None:
        """Learn what a run has taken; a step over fewer rows counts as part of one, for a trial may be just that."""
        with self._lock:
            self._steps[threads] += steps
            self._seconds[threads] += seconds
            taken = self._seconds[threads]
            if taken < ENOUGH or self._steps[threads] == 0:
                return
            self._pace[threads] = taken / self._steps[threads]
            self._steps[threads], self._seconds[threads] = 0.0, 0.0
            if threads == self._best:
                self._go_on(taken)
            elif threads == self._tried:
                self._judge()

    def _go_on(self, taken: float) -> None:
        """The best one ran for a while: perhaps it is another one's turn, at once where that one was faster lately."""
        others = [count for count in self.counts if count != self._best]
        for count in others:
            self._left[count] -= taken
            if self._pace[count] < (1 - MARGIN) * self._pace[self._best]:
                self._left[count] = 0.0
        first = min(others, key=lambda count: self._left[count])
        if self._left[first] <= 0 and self._tried == self._best:
            self._tried = first

    def _judge(self) -> None:
        """A trial is over."""
        tried = self._tried
        if self._pace[tried] < (1 - MARGIN) * self._pace[self._best]:
            self._best, loser = tried, self._best
            self._gap = dict.fromkeys(self.counts, FIRST_GAP)
        else:
            loser, self._gap[tried] = tried, min(2 * self._gap[tried], LAST_GAP)
            self._tried = self._best
        self._left[loser] = self._gap[loser]


def tuner(program: Program, batch: int, threads: int, serial: bool) -> Tuner | None:
    """Of this process' steps of a network over `batch` rows on at most `threads`; None where there is no choice.

    serial : whether they are made by one thread, or by two cut by neurons
    """
    two = cut(program, batch)
    if threads == 1 or (serial and not two) or 6 * batch * program.parameter_count > TUNED_WORK:
        return None
    counts = (2, 1) if serial else (threads, threads // 4, 2, 1)
    wanted = tuple(count for count in dict.fromkeys(counts) if count)
    return _tuner(program.layers, program.dtype, program.half, batch, wanted, os.getpid())


@functools.lru_cache(maxsize=256)
def _tuner(
    layers: tuple[LayerSpec, ...], dtype: np.dtype, half: bool, batch: int, counts: tuple[int, ...], process: int
) -> Tuner:
    return Tuner(counts)
