"""Floor 3: tables -> what a network is trained on, and back: rows held out, columns standardised, classes named.

A `Preparation` is made from the training rows, kept in the model file, and applied to every table that comes later.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp.readers import Dataset

_BLOCK = 1 << 17  # cells converted at a time, so that no second copy of a large table is made


def held_out(
    y: NDArray[Any], fraction: float, *, seed: int = 0, stratify: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose rows at random to be kept from training.

    Parameters
    ----------
    y : ndarray of shape (N,)
        The targets.
    fraction : float
        The share of the rows held out, from 0 to below 1.
    seed : int, default 0
        The same seed holds out the same rows.
    stratify : bool, default False
        Take that share of each class number in `y`, and never all rows of a class.

    Returns
    -------
    train, test : ndarray of int
        Row numbers, ascending.

    Raises
    ------
    ValueError
        If no row would be left to train on, or none held out although `fraction` is above 0.
    """
    rng = np.random.default_rng(seed)
    test = np.zeros(len(y), bool)
    groups = [np.flatnonzero(y == c) for c in np.unique(y)] if stratify else [np.arange(len(y))]
    due = 0.0
    for group in groups:
        due += fraction * len(group)
        count = min(round(due), math.ceil(fraction * len(group)), len(group) - 1)
        due -= count
        test[rng.permutation(group)[:count]] = True
    if fraction > 0 and not test.any():
        raise ValueError(
            f"a share of {fraction:g} of {len(y)} rows holds out none: take a larger share, or 0 to train on all rows"
        )
    return np.flatnonzero(~test), np.flatnonzero(test)


@dataclass
class Preparation:
    """How a raw table becomes inputs and targets, and outputs become answers.

    Attributes
    ----------
    features : list of I str
        Names of the input columns.
    target : str
        Name of the target column.
    classes : list of str or None
        Names of the classes; None for a regression.
    mean, scale : list of I float
        Inputs are ``(x - mean) / scale``; the scale of a constant column is 1.
    target_mean, target_scale : float
        The same for the targets of a regression.
    """

    features: list[str]
    target: str
    classes: list[str] | None
    mean: list[float]
    scale: list[float]
    target_mean: float = 0.0
    target_scale: float = 1.0

    @classmethod
    def of(cls, data: Dataset, rows: NDArray[np.intp]) -> "Preparation":
        """Measure the training rows.

        Raises
        ------
        ValueError
            If a column's values are too large to be squared.
        """
        mean, scale = _moments(data.x, rows)
        if bad := [name for name, s in zip(data.feature_names, scale, strict=True) if not math.isfinite(s)]:
            raise ValueError(f"{data.name}: column {bad[0]!r} holds values too large to standardise: scale it first")
        this = cls(data.feature_names, str(data.target_name), data.classes, mean.tolist(), scale.tolist())
        if data.classes is None and data.y is not None:
            target_mean, target_scale = _moments(data.y[:, None], rows)
            this.target_mean, this.target_scale = float(target_mean[0]), float(target_scale[0])
        return this

    @classmethod
    def from_meta(cls, meta: dict[str, Any], path: object) -> "Preparation":
        """Take back what `to_meta` gave from the model file's meta.

        Raises
        ------
        ValueError
            If the model was not trained from a table, or what the file says of it is damaged.
        """
        if "table" not in meta:
            raise ValueError(
                f"{path} was saved from Python, without the names and the scaling of its columns: use it there, with "
                "fastbp.load_model and predict, or train it with fastbp train"
            )
        try:
            this = cls(**meta["table"])
            widths = {len(this.features), len(np.array(this.mean, float)), len(np.array(this.scale, float))}
            sound = (
                len(widths) == 1 and np.isfinite([*this.mean, *this.scale, this.target_mean, this.target_scale]).all()
            )
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError(
                f"{path} says nothing sound of the table it was trained on: train and save the model again"
            )
        return this

    def to_meta(self) -> dict[str, Any]:
        """Give everything as JSON's types, under one key."""
        return {"table": asdict(self)}

    @property
    def outputs(self) -> int | None:
        """The number of classes, None for a regression."""
        return None if self.classes is None else len(self.classes)

    def inputs(self, x: NDArray[Any], dtype: DTypeLike, rows: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """Standardise the table, or the given rows of it, as (N, I) of `dtype`."""
        out = np.empty((len(x) if rows is None else len(rows), x.shape[1]), dtype)
        mean, scale = np.array(self.mean), np.array(self.scale)
        with np.errstate(over="ignore"):
            for at, part in _blocks(x, rows):
                out[at] = (part - mean) / scale
        return out

    def targets(self, y: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Give class numbers as they are, other targets standardised as (N,) of `dtype`."""
        return y if self.classes is not None else ((y - self.target_mean) / self.target_scale).astype(dtype)

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Turn the network's outputs into class numbers, or into numbers in the target's own units, as (N,)."""
        if self.classes is not None:
            return np.argmax(outputs, axis=1)
        return outputs[:, 0].astype(np.float64) * self.target_scale + self.target_mean

    def score(self, outputs: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
        """Compare outputs with raw targets.

        Returns
        -------
        dict
            ``rows``, and ``accuracy`` and ``correct`` for classes, or ``r2`` (the share of the variance explained; None
            where the targets are all the same) and ``mae`` (mean absolute error, in the target's units).
        """
        answers = self.answers(outputs)
        if self.classes is not None:
            correct = int(np.count_nonzero(answers == y))
            return {"rows": len(y), "accuracy": correct / len(y), "correct": correct}
        spread = float(((y - y.mean()) ** 2).sum())
        r2 = 1 - float(((y - answers) ** 2).sum()) / spread if spread > 0 else None
        return {"rows": len(y), "r2": r2, "mae": float(np.abs(y - answers).mean())}


def _blocks(x: NDArray[Any], rows: NDArray[np.intp] | None) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    step = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x) if rows is None else len(rows), step):
        at = slice(start, start + step)
        yield at, np.asarray(x[at] if rows is None else x[rows[at]], np.float64)


def _moments(x: NDArray[Any], rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column; a constant one is its own mean and has the scale 1."""
    low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    total, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for _, part in _blocks(x, rows):
            total += part.sum(axis=0)
            np.minimum(low, part.min(axis=0), out=low)
            np.maximum(high, part.max(axis=0), out=high)
        constant = low == high
        mean = np.where(constant, low, total / len(rows))
        for _, part in _blocks(x, rows):
            squares += ((part - mean) ** 2).sum(axis=0)
        return mean, np.where(constant, 1.0, np.sqrt(squares / len(rows)))
