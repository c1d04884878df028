"""Floor 3: tables -> what a network is trained on, and back: rows held out, columns encoded, classes named.

A `Preparation` is made from the training rows, kept in the model file, and applied to every table that comes later.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp.data.frames import Frame
from fastbp.data.readers import Dataset
from fastbp.data.tabular import TabularEncoder, moments


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
    encoder : TabularEncoder
        Makes inputs of the columns.
    target : str
        Name of the target column.
    classes : list of str or None
        Names of the classes; None for a regression.
    target_mean, target_scale : float
        The targets of a regression are standardised by them.
    ids : str or None
        Name of a column that identifies rows: no input, kept beside predictions.
    """

    encoder: TabularEncoder
    target: str
    classes: list[str] | None
    target_mean: float = 0.0
    target_scale: float = 1.0
    ids: str | None = None

    @classmethod
    def of(
        cls, data: Dataset, rows: NDArray[np.intp], *, categorical: Sequence[str] = (), max_categories: int = 100
    ) -> "Preparation":
        """Measure the training rows.

        Raises
        ------
        ValueError
            If a column's values are too large to be squared.
        """
        try:
            encoder = TabularEncoder(max_categories, categorical).fit(data.frame, rows=rows)
        except ValueError as error:
            raise ValueError(f"{data.name}: {error}") from None
        this = cls(encoder, str(data.target_name), data.classes, ids=data.ids_name)
        if data.classes is None and data.y is not None:
            mean, scale, _ = moments(Frame([this.target], [data.y]), [0], rows)
            this.target_mean, this.target_scale = float(mean[0]), float(scale[0])
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
            content = dict(meta["table"])
            if "encoder" not in content:
                content["encoder"] = _numbers_alone(*(content.pop(name) for name in ("features", "mean", "scale")))
            this = cls(**content | {"encoder": TabularEncoder.from_dict(content["encoder"])})
            sound = math.isfinite(this.target_mean) and math.isfinite(this.target_scale)
        except (AttributeError, KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError(
                f"{path} says nothing sound of the table it was trained on: train and save the model again"
            )
        return this

    def to_meta(self) -> dict[str, Any]:
        """Give everything as JSON's types, under one key."""
        return {"table": {**vars(self), "encoder": self.encoder.to_dict()}}

    @property
    def features(self) -> list[str]:
        """Names of the input columns."""
        return self.encoder.feature_names_in_

    @property
    def texts(self) -> list[str]:
        """Names of the columns of categories."""
        return [column.name for column in self.encoder.columns_ if column.kind == "category"]

    @property
    def outputs(self) -> int | None:
        """The number of classes, None for a regression."""
        return None if self.classes is None else len(self.classes)

    def inputs(self, x: Frame | NDArray[Any], dtype: DTypeLike, rows: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """The table, or the given rows of it, as inputs of the network, (N, I) of `dtype`."""
        return np.asarray(self.encoder.transform(x, dtype, rows=rows))  # whatever scikit-learn's settings say

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


def _numbers_alone(names: list[str], means: list[float], scales: list[float]) -> dict[str, Any]:
    """What an encoder's `to_dict` gives, for the columns of numbers that the first model files hold."""
    triples = zip(names, means, scales, strict=True)
    columns = [{"kind": "number", "name": name, "mean": mean, "scale": scale} for name, mean, scale in triples]
    return {"columns": columns, "max_categories": 100, "unknown": "error"}
