"""Floor 2: what each row counts: sample weights, class weights, targets that are missing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp import data
from fastbp.data import Sample
from fastbp.device_arrays import on_host
from fastbp.losses import Loss

Array = NDArray[Any]


def sample_weights(
    weights: Any, rows: int, dtype: DTypeLike, *, name: str = "sample_weight", some: bool = True
) -> Array:
    """Weights of the rows as the kernels read them.

    Parameters
    ----------
    weights : array-like of shape (N,) or (N, 1)
        Numbers from 0.
    rows : N
    dtype : numpy.float32 or numpy.float64
    name : what the error messages call the array
    some : whether a weight above 0 is wanted; a part of the rows may have none

    Returns
    -------
    ndarray of shape (N,)

    Raises
    ------
    TypeError : no numbers
    ValueError : another shape, a weight that is negative, NaN or infinite, or no weight above 0
    """
    weights = on_host(weights, name)
    found = np.shape(weights)
    if found not in ((rows,), (rows, 1)):
        raise ValueError(f"{name} has shape {found}; wanted one weight for each row, shape ({rows},)")
    staged = data.as_targets(weights, "dense", 1, dtype, rows=rows, name=name)[:, 0]
    if staged.min() < 0:
        row = int(np.argmax(staged < 0))
        raise ValueError(f"{name}[{row}] is {staged[row]:g}; wanted weights from 0 (0 leaves the row out)")
    if some and not staged.any():
        raise ValueError(f"{name} is 0 for all {rows} rows: there would be nothing to learn from")
    return staged


def class_weights(choice: Any, sample: Sample, loss: Loss, outputs: int) -> Array:
    """Weights of the rows by their classes.

    Parameters
    ----------
    choice : dict of class number to weight, 1 for those not named; or "balanced": N / (classes * rows of the class),
        so that each class that occurs has the same weight in all (King and Zeng 2001, as in scikit-learn)
    sample : the rows
    loss, outputs : the loss and the width of the last layer: which targets there are

    Returns
    -------
    ndarray of shape (N,) of the inputs' dtype

    Raises
    ------
    ValueError : targets that name no classes, unknown classes, or weights that are no numbers from 0
    """
    labels, classes = classes_of(sample, loss, outputs, "class_weight")
    weights = np.ones(classes)
    if isinstance(choice, str) and choice == "balanced":
        known = labels if sample.rows is None else labels[sample.rows]
        weights = balance(np.bincount(known[known >= 0], minlength=classes))
    elif isinstance(choice, Mapping):
        for number, weight in choice.items():
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number < classes:
                raise ValueError(f"class_weight names the class {number!r}; classes go from 0 to {classes - 1}")
            value = np.asarray(weight)
            if value.ndim or value.dtype.kind not in "fiu" or not 0 <= value < np.inf:
                raise ValueError(f"class_weight of class {number} must be a number from 0, got {weight!r}")
            weights[number] = value
    else:
        raise ValueError(f'class_weight must be "balanced" or a dict such as {{0: 1.0, 1: 5.0}}, got {choice!r}')
    return weights[labels].astype(sample.x.dtype)


def balance(counts: Array) -> Array:
    """The weights of classes that have so many rows: each class that occurs has the same weight in all."""
    weights = np.ones(len(counts))
    weights[counts > 0] = counts.sum() / (np.count_nonzero(counts) * counts[counts > 0])
    return weights


def classes_of(sample: Sample, loss: Loss, outputs: int, option: str) -> tuple[Array, int]:
    """(class number of each row, `data.MISSING_LABEL` where it is missing; how many classes there are).

    Raises
    ------
    ValueError : targets that name no classes, which `option` needs
    """
    y = sample.y
    assert y is not None
    if loss.targets == "labels":
        return y, outputs
    if loss.targets == "signs":
        y = (y + 1) / 2
    elif loss.targets != "probabilities":
        raise ValueError(f"{option} needs targets that name classes; loss {loss.name!r} takes numbers")
    if outputs == 1:
        row = np.flatnonzero((y[:, 0] != 0) & (y[:, 0] != 1) & ~np.isnan(y[:, 0]))
        if len(row):
            raise ValueError(f"{option} needs the targets 0 and 1, y[{row[0]}] is {y[row[0], 0]:g}")
        return np.where(np.isnan(y[:, 0]), data.MISSING_LABEL, y[:, 0]).astype(np.int64), 2
    if not loss.coupled:
        raise ValueError(
            f"{option} needs one class for each row; {outputs} outputs with loss {loss.name!r} are as many labels"
        )
    return np.where(np.isnan(y).any(axis=1), data.MISSING_LABEL, np.argmax(y, axis=1)), outputs


def by_class(sample: Sample, choice: Any, loss: Loss, outputs: int) -> Sample:
    """The sample with the rows' weights multiplied by those of their classes."""
    weights = class_weights(choice, sample, loss, outputs)
    return replace(sample, weights=weights if sample.weights is None else sample.weights * weights)


def without_missing(sample: Sample, loss: Loss) -> Sample:
    """The sample with its NaN targets taken out of the loss, and their rows out of the metrics.

    Where a row is one number or one class, its weight becomes 0. An elementwise loss leaves out each missing target
    itself, so there the NaN stay.
    """
    y = sample.y
    if y is None or not loss.mask_nan or sample.present is not None:
        return sample
    missing = y == data.MISSING_LABEL if y.ndim == 1 else np.isnan(y).any(axis=1)
    if not missing.any():
        return sample
    present = (~missing).astype(sample.x.dtype)
    weights = sample.weights
    if y.ndim == 1 or loss.coupled:
        y = np.where(missing if y.ndim == 1 else missing[:, None], 0, y).astype(y.dtype)
        weights = present if weights is None else weights * present
    return replace(sample, y=y, weights=weights, present=present)
