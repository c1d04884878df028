"""Floor 5: several columns of classes a row: the softmax of each, side by side in the outputs of one network."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp._math import exp, formula, log
from fastbp._vector import maximum, where
from fastbp.losses import Loss

Array = NDArray[Any]

FIRST, LAST = 2, 4
"""What a target has more at a column's first class, and at its last."""


@formula
def crossentropies(dz: Any, z: Any, y: Any, n: int, weight: Any, p: Any) -> Any:
    """The sum over the columns of log(sum(exp(z))) - z of the right class; y as `Heads.targets` writes it."""
    peak = z[0]
    norm = peak * 0.0
    for c in range(n):
        begins = where(y[c] > 3.5, y[c] - 4.0, y[c]) > 1.5
        before = where(begins, z[c], peak)
        norm = where(begins, norm * 0.0, norm)
        peak = maximum(before, z[c])
        norm = norm * exp(before - peak) + exp(z[c] - peak)
        dz[c] = peak + log(norm)
    whole = peak
    value = peak * 0.0
    for c in range(n - 1, -1, -1):
        ends = y[c] > 3.5
        target = where(ends, y[c] - 4.0, y[c])
        target = where(target > 1.5, target - 2.0, target)
        whole = where(ends, dz[c], whole)
        value = value + where(ends, whole, 0.0) - target * z[c]
        dz[c] = (exp(z[c] - whole) - target) * weight
    return value


LOSS = Loss("crossentropies", crossentropies, mean_outputs=False, coupled=True)


class Heads:
    """The classes of each column.

    Parameters
    ----------
    classes : of each column its class labels, sorted
    """

    def __init__(self, classes: Sequence[Array]) -> None:
        self.classes = list(classes)
        self.borders = np.cumsum([0, *map(len, classes)])

    @property
    def outputs(self) -> int:
        """Classes of all columns together."""
        return int(self.borders[-1])

    def targets(self, y: Array) -> Array:
        """(N, outputs) of rows of labels (N, columns): 1 at the right classes, and where columns begin and end."""
        marks = np.zeros((len(y), self.outputs), np.float32)
        marks[:, self.borders[:-1]] += FIRST
        marks[:, self.borders[1:] - 1] += LAST
        rows = np.arange(len(y))
        for column, (labels, start) in enumerate(zip(self.classes, self.borders, strict=False)):
            marks[rows, start + np.searchsorted(labels, y[:, column])] += 1
        return marks

    def right(self, outputs: Array, targets: Array) -> NDArray[np.bool_]:
        """Whether a row's largest outputs are its right classes, in all columns."""
        found = [own.argmax(axis=1) == (marks % FIRST).argmax(axis=1) for own, marks in self._parts(outputs, targets)]
        return np.logical_and.reduce(found)

    def labels(self, outputs: Array) -> Array:
        """(N, columns) of outputs (N, outputs): the most likely class of each."""
        best = [own.argmax(axis=1) for (own,) in self._parts(outputs)]
        return np.stack([labels[place] for labels, place in zip(self.classes, best, strict=True)], axis=1)

    def log_probabilities(self, outputs: Array) -> list[Array]:
        """Of each column (N, classes), of outputs (N, outputs)."""
        found = []
        for (own,) in self._parts(outputs):
            shifted = own - own.max(axis=1, keepdims=True)
            found.append(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
        return found

    def _parts(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        for start, stop in zip(self.borders, self.borders[1:], strict=False):
            yield tuple(array[:, start:stop] for array in arrays)

    def check(self, y: Array, same: bool) -> None:
        """Refuse columns or classes that the network has no outputs for; `same`: refuse all others than it has."""
        if y.ndim != 2 or y.shape[1] != len(self.classes):
            raise ValueError(
                f"y has the shape {y.shape}; the network was made for {len(self.classes)} columns of classes"
            )
        for column, labels in enumerate(self.classes):
            found = np.unique(y[:, column])
            if len(np.setdiff1d(found, labels)) or (same and len(found) < len(labels)):
                raise ValueError(
                    f"column {column} of y has the classes {found}, the network was made for {labels}: fit without "
                    "warm_start, or name all classes at the first partial_fit"
                )
