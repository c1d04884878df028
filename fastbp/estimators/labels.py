"""Floor 5: class labels and their numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import type_of_target, unique_labels

Array = NDArray[Any]

TABLE = 1 << 16
"""Whole numbers that lie closer together are looked up in a table."""


def binarizer(y: Array) -> LabelBinarizer:
    """The `LabelBinarizer` of checked targets, fitted: to whole numbers by one look at them instead of its five."""
    found = LabelBinarizer()
    if not plain(y):
        return found.fit(y)
    found.classes_ = distinct(y)
    found.y_type_ = "binary" if len(found.classes_) <= 2 else "multiclass"
    found.sparse_input_ = False
    return found


def several(y: Array) -> bool:
    """Whether checked targets are several columns of classes; in a frame each may be of another kind."""
    if y.ndim != 2 or y.shape[1] < 2:
        return False
    return bool(y.dtype == object or type_of_target(y) == "multiclass-multioutput")


def distinct(y: Array) -> Array:
    """The labels in checked targets, sorted."""
    if not plain(y):
        return unique_labels(y)
    if y.dtype.kind == "b" or _span(y) >= TABLE:
        return np.unique(y)
    low = y.min().astype(np.int64)  # and back: large unsigned numbers wrap twice
    return (np.flatnonzero(np.bincount(y.astype(np.int64) - low)) + low).astype(y.dtype)


def numbers(y: Array, classes: Array) -> Array:
    """The places (N,) int64 of labels y (N,) among the sorted `classes`, which have all of them."""
    if y.dtype != classes.dtype or y.dtype.kind not in "iu" or _span(classes) >= TABLE:
        return np.searchsorted(classes, y).astype(np.int64)
    low = classes[0].astype(np.int64)
    places = classes.astype(np.int64) - low
    table = np.zeros(places[-1] + 1, np.int64)
    table[places] = np.arange(len(classes))
    return table[y.astype(np.int64) - low]


def plain(y: Array) -> bool:
    """Whether labels are one column of whole numbers."""
    return y.ndim == 1 and y.dtype.kind in "iub"


def _span(y: Array) -> int:
    return int(y.max()) - int(y.min())
