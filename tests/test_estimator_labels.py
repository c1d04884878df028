"""Class labels as numbers: what scikit-learn's LabelBinarizer finds, in less time."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.preprocessing import LabelBinarizer

from fastbp.estimators import MLPClassifier, labels

TOP = np.iinfo(np.uint64).max
TARGETS = {
    "int8, all of it": np.array([127, -128, 0, 127], np.int8),
    "uint8": np.array([255, 3, 3, 0], np.uint8),
    "int64": np.array([5, -3, 5, 900, 5]),
    "far apart": np.array([-(2**40), 2**40, 0, 0]),
    "ends of int64": np.array([-(2**63), 2**63 - 1]),
    "large unsigned": np.array([TOP, TOP - 7, TOP - 7], np.uint64),
    "two": np.array([4, 9, 9]),
    "one": np.array([4, 4]),
    "booleans": np.array([True, False, True]),
    "only true": np.array([True, True]),
    "strings": np.array(["b", "a", "longer"]),
    "objects": np.array(["b", "a", "b"], object),
    "whole floats": np.array([2.0, 1.0, 7.0]),
    "several labels": np.array([[1, 0], [1, 1]]),
}


@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)
def test_labels_are_those_of_the_binarizer(y: Any) -> None:
    ours, theirs = labels.binarizer(y), LabelBinarizer().fit(y)
    assert_array_equal(ours.classes_, theirs.classes_, strict=True)
    assert (ours.y_type_, ours.sparse_input_) == (theirs.y_type_, theirs.sparse_input_)
    assert_array_equal(ours.transform(y), theirs.transform(y), strict=True)
    assert_array_equal(ours.inverse_transform(ours.transform(y)), y)


@pytest.mark.parametrize("name", [name for name, y in TARGETS.items() if y.ndim == 1])
def test_numbers_are_places_among_the_classes(name: str) -> None:
    y = TARGETS[name]
    found = labels.numbers(y, np.unique(y))
    assert_array_equal(found, np.unique(y, return_inverse=True)[1].astype(np.int64), strict=True)
    other = y.astype(np.int64) if y.dtype == np.int8 else y  # rows to validate on may come in another type
    assert_array_equal(labels.numbers(other, np.unique(y)), found)


def test_refused_targets_are_those_scikit_learn_refuses() -> None:
    rows = np.zeros((3, 2))
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier().fit(rows, [0.5, 1.25, 3.0])
    with pytest.raises(ValueError, match="contains NaN"):
        MLPClassifier().fit(rows, [0.0, 1.0, np.nan])


@pytest.mark.parametrize("kind", ["frame", "objects"])
def test_columns_of_classes_may_be_of_several_kinds(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    frame = pd.DataFrame({"size": np.where(x[:, 0] > 0, "large", "small"), "side": np.where(x[:, 1] > 0, 1, -1)})
    y = frame if kind == "frame" else frame.to_numpy(object)
    ours = MLPClassifier((16,), random_state=0, solver="lbfgs", max_iter=100).fit(x, y)
    assert [list(classes) for classes in ours.classes_] == [["large", "small"], [-1, 1]]
    assert [type(value) for value in ours.predict(x)[0]] == [str, int]
    assert ours.score(x, y) > 0.95
    parts = MLPClassifier((16,), random_state=0, class_weight=[{"large": 2, "small": 1}, {-1: 1, 1: 1}])
    parts.partial_fit(x, y, classes=[["small", "large"], [-1, 1]])
    assert {type(value) for value in parts.predict(x)[:, 1]} == {int}
    with pytest.raises(ValueError, match="column 1 of y has the classes"):
        parts.partial_fit(x, frame.assign(side=7))
