"""Normalisations: of rows, of columns over the batch, and of the inputs beforehand."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastbp import initializers
from fastbp._checks import whole
from fastbp._spelling import answers
from fastbp.layers.base import Layer, Network, checked_multiplier
from fastbp.layout import operations
from fastbp.layout.operations import Operation
from fastbp.program import Piece, pieces_of


class Rescaling(Layer):
    """What the normalisations have in common that learn a scale gamma and a centre beta."""

    operation: ClassVar[Operation]

    def __init__(
        self,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | ArrayLike = "zeros",
        gamma_initializer: str | ArrayLike = "ones",
        *,
        trainable: bool = True,
        lr_multiplier: float = 1.0,
        name: str | None = None,
    ) -> None:
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float, np.floating)) or not 0.0 < epsilon < 1.0:
            raise ValueError(f"{type(self).__name__}: epsilon must be a number between 0 and 1, got {epsilon!r}")
        self.epsilon, self.center, self.scale, self.name = float(epsilon), bool(center), bool(scale), name
        self.trainable, self.lr_multiplier = bool(trainable), checked_multiplier(lr_multiplier)
        self.beta_initializer = initializers.checked(beta_initializer, "beta_initializer")
        self.gamma_initializer = initializers.checked(gamma_initializer, "gamma_initializer")

    def numbers(self) -> tuple[float, ...]:
        """What the formula takes."""
        return (self.epsilon,)

    def lower(self, network: Network, name: str) -> None:
        network.add(
            name,
            self.operation,
            numbers=self.numbers(),
            rows=self._rows(),
            trainable=bool(self.trainable),
            rate=checked_multiplier(self.lr_multiplier),
        )

    def _rows(self) -> tuple[str, ...]:
        """The numbers that each neuron has."""
        flags = {"gamma": self.scale, "beta": self.center}
        return tuple(row for row in self.operation.rows if flags.get(row, True))

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        given = {"gamma": self.gamma_initializer, "beta": self.beta_initializer, "moving_variance": "ones"}
        return [
            initializers.draw(
                given.get(row, "zeros"), rng, (fan_in, fan_in), (fan_in,), f"{row}_initializer of {self!r}"
            )
            for row in self._rows()
        ]

    def settings(self) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.name_of(self.beta_initializer),
            "gamma_initializer": initializers.name_of(self.gamma_initializer),
            **self._training(),
        }

    def _training(self) -> dict[str, Any]:
        return {"trainable": bool(self.trainable), "lr_multiplier": float(self.lr_multiplier)}


class BatchNormalization(Rescaling):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta of each column, by the batch's mean and variance.

    Ioffe and Szegedy, "Batch normalization", 2015. The moving mean and variance follow with
    ``moving * momentum + batch * (1 - momentum)`` and take their places in a prediction. The variance is the biased one
    in both, as in Keras. Rows that fill up a short last batch don't count.

    A whole batch stands in memory at once, however large it is. A frozen layer goes by the moving statistics in
    training too, and leaves them as they are, as in Keras.

    Parameters
    ----------
    momentum : of the moving statistics, from 0 to below 1
    epsilon : added to the variance
    center, scale : whether beta and gamma are learned (else 0 and 1)
    beta_initializer, gamma_initializer : as `Dense`'s initialisers, (I,)
    trainable, lr_multiplier, name : as in `Dense`
    """

    kind = "batch_normalization"
    operation = operations.BATCH_NORMALIZATION

    def __init__(
        self,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: str | ArrayLike = "zeros",
        gamma_initializer: str | ArrayLike = "ones",
        *,
        trainable: bool = True,
        lr_multiplier: float = 1.0,
        name: str | None = None,
    ) -> None:
        own: dict[str, Any] = {"trainable": trainable, "lr_multiplier": lr_multiplier, "name": name}
        super().__init__(epsilon, center, scale, beta_initializer, gamma_initializer, **own)
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0.0 <= momentum < 1.0:
            raise ValueError(f"BatchNormalization: momentum must be a number from 0 to below 1, got {momentum!r}")
        self.momentum = float(momentum)

    def numbers(self) -> tuple[float, ...]:
        return self.momentum, self.epsilon

    def settings(self) -> dict[str, Any]:
        return {"momentum": self.momentum, **super().settings()}


class LayerNormalization(Rescaling):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta of each row: Ba, Kiros and Hinton 2016.

    Parameters
    ----------
    epsilon, center, scale, beta_initializer, gamma_initializer : as in `BatchNormalization`
    trainable, lr_multiplier, name : as in `Dense`
    """

    kind = "layer_normalization"
    operation = operations.LAYER_NORMALIZATION


class RMSNormalization(Rescaling):
    """x / sqrt(mean(x * x) + epsilon) * gamma of each row: Zhang and Sennrich 2019.

    Parameters
    ----------
    epsilon : added to the mean square
    gamma_initializer : as in `BatchNormalization`
    trainable, lr_multiplier, name : as in `Dense`
    """

    kind = "rms_normalization"
    operation = operations.RMS_NORMALIZATION

    def __init__(
        self,
        epsilon: float = 1e-6,
        gamma_initializer: str | ArrayLike = "ones",
        *,
        trainable: bool = True,
        lr_multiplier: float = 1.0,
        name: str | None = None,
    ) -> None:
        own: dict[str, Any] = {"trainable": trainable, "lr_multiplier": lr_multiplier, "name": name}
        super().__init__(epsilon, False, True, "zeros", gamma_initializer, **own)

    def settings(self) -> dict[str, Any]:
        gamma = initializers.name_of(self.gamma_initializer)
        return {"epsilon": self.epsilon, "gamma_initializer": gamma, **self._training()}


class Normalization(Layer):
    """Standardises columns by a mean and variance that are given or measured beforehand, and stored with the model.

    Parameters
    ----------
    mean, variance : (I,) or one number each; None (default) to measure them with `adapt` before the model is built
    columns : numbers of the columns that are standardised, whose mean and variance those are; the others (an
        `Embedding`'s) pass as they are. None (default) for all
    name : as in `Dense`

    Examples
    --------
    >>> import fastbp as fb
    >>> scaler = fb.Normalization()
    >>> scaler.adapt([[1.0, 10.0], [3.0, 30.0]])
    >>> model = fb.Model([scaler, fb.Dense(1)])
    """

    kind = "normalization"
    EPSILON = 1e-14
    """Added to the variance: a constant column becomes 0."""

    def __init__(
        self,
        mean: ArrayLike | None = None,
        variance: ArrayLike | None = None,
        *,
        columns: Iterable[int] | None = None,
        name: str | None = None,
    ) -> None:
        if (mean is None) != (variance is None):
            raise ValueError("Normalization: give both mean and variance, or neither and call adapt")
        self.mean = None if mean is None else np.atleast_1d(np.asarray(mean, np.float64))
        self.variance = None if variance is None else np.atleast_1d(np.asarray(variance, np.float64))
        if self.variance is not None and not (self.variance >= 0.0).all():
            raise ValueError("Normalization: the variance must be 0 or more in every column")
        self.columns = None if columns is None else [whole("Normalization: a column's number", c, 0) for c in columns]
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise ValueError(f"Normalization: columns must name at least one column, each once, got {self.columns}")
        self.name = name

    def adapt(self, x: ArrayLike) -> None:
        """Measure mean and variance of the columns of x (N, I)."""
        rows = np.asarray(x)
        if rows.ndim != 2 or rows.dtype.kind not in "fiub" or not len(rows):
            raise ValueError(f"adapt: wanted rows and columns of numbers, got shape {rows.shape} of {rows.dtype}")
        chosen = self._chosen(rows.shape[1])
        if len(chosen) < rows.shape[1]:
            rows = rows[:, chosen]
        self.mean, self.variance = rows.mean(axis=0, dtype=np.float64), rows.var(axis=0, dtype=np.float64)
        if not np.isfinite(self.variance).all():
            column = chosen[int(np.flatnonzero(~np.isfinite(self.variance))[0])]
            raise ValueError(f"adapt: column {column} holds NaN, infinity or numbers too large to be squared")

    def lower(self, network: Network, name: str) -> None:
        chosen = self._chosen(network.width)
        network.add(
            name, operations.STANDARDIZE, numbers=(self.EPSILON,), rows=operations.STANDARDIZE.rows, picks=tuple(chosen)
        )

    def _chosen(self, width: int) -> list[int]:
        """The columns that are standardised, of so many."""
        chosen = list(range(width)) if self.columns is None else self.columns
        if max(chosen) >= width:
            raise ValueError(f"{self!r} wants column {max(chosen)}; what stands before it has columns 0 to {width - 1}")
        return chosen

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        if self.mean is None or self.variance is None:
            raise RuntimeError(f"{self!r} knows no mean and variance yet: call its adapt(x) before the model is built")
        chosen = self._chosen(fan_in)
        drawn = []
        for array, neutral in ((self.mean, 0.0), (self.variance, 1.0 - self.EPSILON)):
            if array.shape not in ((1,), (len(chosen),)):
                gives = fan_in if self.columns is None else len(chosen)
                raise ValueError(f"{self!r} was made for {len(array)} columns, what stands before it gives {gives}")
            whole_row = np.full(fan_in, neutral)
            whole_row[chosen] = array
            drawn.append(pieces_of(whole_row))
        return drawn

    def settings(self) -> dict[str, Any]:
        return {} if self.columns is None else {"columns": self.columns}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Layer:
        return cls(mean=0.0, variance=1.0, **settings)  # the weights hold them


answers(__name__)
