"""Floor 0: whether one sample of times lies beyond another, where the machine's noise has no known shape.

Hodges and Lehmann (1963): the shift between two samples is the median of all differences between them, and order
statistics of those differences bound it with exactly the confidence of the Mann-Whitney test. No distribution is
assumed, and one process that a neighbour disturbed moves neither far.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 4
"""Values of each sample without which no interval of 95 % exists."""


@dataclass(frozen=True)
class Change:
    """How a figure has changed: an estimate and its interval, as a ratio or a difference, in the figure's unit."""

    estimate: float
    low: float
    high: float

    def verdict(self, threshold: float, nothing: float = 1.0) -> str:
        """ "worse" (greater) or "better" by more than the threshold for all the interval allows, else "same"."""
        if self.low > nothing + threshold:
            return "worse"
        return "better" if self.high < nothing - threshold else "same"

    def inverse(self) -> "Change":
        """The change of a ratio's inverse."""
        return Change(1 / self.estimate, 1 / self.high, 1 / self.low)


def ratio(before: NDArray[np.float64], now: NDArray[np.float64], confidence: float = 0.95) -> Change:
    """How many times as large the values are now; all must be above 0."""
    change = difference(np.log(before), np.log(now), confidence)
    return Change(math.exp(change.estimate), math.exp(change.low), math.exp(change.high))


def difference(before: NDArray[np.float64], now: NDArray[np.float64], confidence: float = 0.95) -> Change:
    """How much larger the values are now.

    Parameters
    ----------
    before, now : (values,) of independent measurements, at least `LEAST` of each
    confidence : of the interval

    Raises
    ------
    ValueError : too few values for an interval of that confidence
    """
    gaps = np.sort((now[:, None] - before[None, :]).ravel())
    left_out = _left_out(len(before), len(now), (1 - confidence) / 2)
    if left_out < 0:
        raise ValueError(
            f"{len(before)} and {len(now)} measurements can't be compared with {confidence:.0%} confidence: take at "
            f"least {LEAST} of each"
        )
    return Change(float(np.median(gaps)), float(gaps[left_out]), float(gaps[-1 - left_out]))


def _left_out(m: int, n: int, tail: float) -> int:
    """How many differences at each end lie outside the interval; -1 where none of that confidence exists.

    The distribution of Mann and Whitney's U by its generating function, the Gaussian binomial coefficient.
    """
    counts = np.zeros(m * n + 1)
    counts[0] = 1.0
    for i in range(1, m + 1):
        counts[n + i :] -= counts[: len(counts) - n - i].copy()
        for place in range(i, len(counts)):
            counts[place] += counts[place - i]
    below = np.cumsum(counts) / math.comb(m + n, n)
    return int(np.searchsorted(below, tail, side="right")) - 1
