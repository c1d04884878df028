"""Floor 4: what each row counts: sample weights, class weights, targets that are missing."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp.data import staging
from fastbp.data.device_arrays import OnDevice, on_host
from fastbp.data.staging import Sample
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
    staged = staging.as_targets(weights, "dense", 1, dtype, rows=rows, name=name)[:, 0]
    if staged.min() < 0:
        row = int(np.argmax(staged < 0))
        raise ValueError(f"{name}[{row}] is {staged[row]:g}; wanted weights from 0 (0 leaves the row out)")
    if some and not staged.any():
        raise ValueError(f"{name} is 0 for all {rows} rows: there would be nothing to learn from")
    return staged


def class_weights(choice: Any, sample: Sample, loss: Loss, outputs: int) -> Any:
    """Weights of the rows by their classes, on a GPU where the targets are there.

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
    labels, classes = _classes(sample, loss, outputs, "class_weight")
    weights = np.ones(classes)
    if isinstance(choice, str) and choice == "balanced":
        weights = balance(_counts(labels, classes, sample.rows))
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
    if isinstance(labels, OnDevice):
        with _kernels() as targets:
            return targets.picked(labels, weights.astype(sample.x.dtype))
    return weights[labels].astype(sample.x.dtype)


def _counts(labels: Any, classes: int, rows: NDArray[np.int64] | None) -> Array:
    """How many of the rows each class has."""
    if isinstance(labels, OnDevice):
        with _kernels() as targets:
            return np.asarray(targets.counts(labels, classes, rows))
    known = labels if rows is None else labels[rows]
    return np.bincount(known[known >= 0], minlength=classes)


@contextlib.contextmanager
def _kernels() -> Iterator[Any]:
    """What computes with targets on a GPU; the driver's errors in words."""
    from fastbp.cuda import presence, targets

    with presence.in_words():
        yield targets


def balance(counts: Array) -> Array:
    """The weights of classes that have so many rows: each class that occurs has the same weight in all."""
    weights = np.ones(len(counts))
    weights[counts > 0] = counts.sum() / (np.count_nonzero(counts) * counts[counts > 0])
    return weights


def classes_of(sample: Sample, loss: Loss, outputs: int, option: str) -> tuple[Array, int]:
    """(class number of each row, `staging.MISSING_LABEL` where it is missing; how many classes there are).

    Class numbers on a GPU come to main memory.

    Raises
    ------
    ValueError : targets that name no classes, which `option` needs
    """
    labels, classes = _classes(sample, loss, outputs, option)
    return labels.copy_to_host() if isinstance(labels, OnDevice) else labels, classes


def _classes(sample: Sample, loss: Loss, outputs: int, option: str) -> tuple[Any, int]:
    """As `classes_of`; where the targets are on a GPU, so are the class numbers."""
    y = sample.y
    assert y is not None
    if isinstance(y, OnDevice):
        if loss.targets in ("labels", "signs", "probabilities") and (loss.coupled or outputs == 1):
            with _kernels() as targets:
                there = targets.classes(y, loss.targets, outputs)
            if there is not None:
                return there, outputs if loss.targets == "labels" else max(2, outputs)
        y = y.copy_to_host()
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
        return np.where(np.isnan(y[:, 0]), staging.MISSING_LABEL, y[:, 0]).astype(np.int64), 2
    if not loss.coupled:
        raise ValueError(
            f"{option} needs one class for each row; {outputs} outputs with loss {loss.name!r} are as many labels"
        )
    return np.where(np.isnan(y).any(axis=1), staging.MISSING_LABEL, np.argmax(y, axis=1)), outputs


def by_class(sample: Sample, choice: Any, loss: Loss, outputs: int) -> Sample:
    """The sample with the rows' weights multiplied by those of their classes."""
    return replace(sample, weights=_times(class_weights(choice, sample, loss, outputs), sample.weights))


def _times(weights: Any, others: Any) -> Any:
    """The weights of rows, times others of them where there are any."""
    if others is None:
        return weights
    if isinstance(weights, OnDevice) or isinstance(others, OnDevice):
        with _kernels() as targets:
            return targets.product(weights, others)
    return weights * others


def without_missing(sample: Sample, loss: Loss) -> Sample:
    """The sample with its NaN targets taken out of the loss, and their rows out of the metrics.

    Where a row is one number or one class, its weight becomes 0. An elementwise loss leaves out each missing target
    itself, so there the NaN stay.
    """
    y = sample.y
    if y is None or not loss.mask_nan or sample.present is not None:
        return sample
    one = y.ndim == 1 or loss.coupled
    if isinstance(y, OnDevice):
        with _kernels() as targets:
            found = targets.marked(y, sample.x.dtype, one)
        if found is None:
            return sample
        present, y = found
        weights = _times(present, sample.weights) if one else sample.weights
        return replace(sample, y=y, weights=weights, present=present)
    missing = y == staging.MISSING_LABEL if y.ndim == 1 else np.isnan(y).any(axis=1)
    if not missing.any():
        return sample
    present = (~missing).astype(sample.x.dtype)
    weights = sample.weights
    if one:
        y = np.where(missing if y.ndim == 1 else missing[:, None], 0, y).astype(y.dtype)
        weights = _times(present, weights)
    return replace(sample, y=y, weights=weights, present=present)
