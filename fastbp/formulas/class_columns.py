"""Floor 1: several columns of class numbers a row, whose logits stand side by side in the outputs of one network.

Kernels read one target for each output: 1 at the right class of a column, 0 at its others, and `FIRST` and `LAST` more
where the column begins and ends.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp._math import exp, formula, log
from fastbp._vector import maximum, where

FIRST, LAST = 2, 4


def marks(numbers: NDArray[np.int64], classes: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """The targets (N, O) of class numbers (N, columns); negative ones are missing and make their rows NaN.

    classes : of each column how many it has; O together
    """
    borders = np.cumsum([0, *classes])
    found = np.zeros((len(numbers), borders[-1]), dtype)
    found[:, borders[:-1]] += FIRST
    found[:, borders[1:] - 1] += LAST
    rows = np.arange(len(numbers))
    for column, start in enumerate(borders[:-1]):
        found[rows, start + numbers[:, column]] += 1
    found[(numbers < 0).any(axis=1)] = np.nan
    return found


@formula
def begins(y: Any) -> Any:
    """Whether a column begins at a target."""
    return where(y > 3.5, y - 4.0, y) > 1.5


@formula
def hit(y: Any) -> Any:
    """1 at the right class, else 0."""
    inner = where(y > 3.5, y - 4.0, y)
    return where(inner > 1.5, inner - 2.0, inner)


@formula
def crossentropies(dz: Any, z: Any, y: Any, n: int, weight: Any, p: Any) -> Any:
    """The sum over the columns of log(sum(exp(z))) - z of the right class."""
    peak = z[0]
    norm = peak * 0.0
    for c in range(n):
        fresh = begins(y[c])
        before = where(fresh, z[c], peak)
        norm = where(fresh, norm * 0.0, norm)
        peak = maximum(before, z[c])
        norm = norm * exp(before - peak) + exp(z[c] - peak)
        dz[c] = peak + log(norm)
    whole = peak
    value = peak * 0.0
    for c in range(n - 1, -1, -1):
        ends = y[c] > 3.5
        target = hit(y[c])
        whole = where(ends, dz[c], whole)
        value = value + where(ends, whole, 0.0) - target * z[c]
        dz[c] = (exp(z[c] - whole) - target) * weight
    return value


@formula
def accuracy(z: Any, y: Any, n: int, p: Any) -> Any:
    """The share of the columns whose highest logit, the first of equals, is that of the right class."""
    top = z[0]
    right = top * 0.0
    columns = top * 0.0
    found = top * 0.0
    for c in range(n):
        better = where(begins(y[c]), 1.0, where(z[c] > top, 1.0, found * 0.0)) > 0.5
        top = where(better, z[c], top)
        found = where(better, hit(y[c]), found)
        last = where(y[c] > 3.5, 1.0, found * 0.0)
        right = right + last * found
        columns = columns + last
    return right / columns
