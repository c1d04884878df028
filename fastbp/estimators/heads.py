"""Floor 5: several columns of classes a row: the softmax of each, side by side in the outputs of one network."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.formulas.class_columns import FIRST, marks

Array = NDArray[Any]


class Heads:
    """The classes of each column.

    Parameters
    ----------
    classes : of each column its class labels, sorted
    """

    def __init__(self, classes: Sequence[Array]) -> None:
        self.classes = list(classes)
        self.counts = tuple(map(len, classes))
        self.borders = np.cumsum([0, *self.counts])

    @property
    def outputs(self) -> int:
        """Classes of all columns together."""
        return int(self.borders[-1])

    def targets(self, y: Array) -> Array:
        """(N, outputs) of rows of labels (N, columns), see ``fastbp.formulas.class_columns``."""
        numbers = [np.searchsorted(labels, y[:, column]) for column, labels in enumerate(self.classes)]
        return marks(np.stack(numbers, axis=1), self.counts, np.float32)

    def right(self, outputs: Array, targets: Array) -> NDArray[np.bool_]:
        """Whether a row's largest outputs are its right classes, in all columns."""
        parts = self._parts(outputs, targets)
        found = [own.argmax(axis=1) == (wanted % FIRST).argmax(axis=1) for own, wanted in parts]
        return np.logical_and.reduce(found)

    def labels(self, outputs: Array) -> Array:
        """(N, columns) of outputs (N, outputs): the most likely class of each."""
        best = [own.argmax(axis=1) for (own,) in self._parts(outputs)]
        found = [labels[place] for labels, place in zip(self.classes, best, strict=True)]
        if len({column.dtype.kind for column in found}) > 1:  # text beside numbers would make text of them
            found = [column.astype(object) for column in found]
        return np.stack(found, axis=1)

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
