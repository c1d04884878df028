"""Vectors learned for the categories of a column."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import constraints, initializers, regularizers
from fastbp._checks import whole
from fastbp._spelling import answers
from fastbp.constraints import Constraint
from fastbp.layers.base import Layer, Network, checked_multiplier, plain
from fastbp.layout import operations
from fastbp.layout.operations import EMBEDDING, STANDARDIZE
from fastbp.program import PIECE, Piece
from fastbp.regularizers import Regularizer

MOST_CATEGORIES = 1 << 24
"""As many whole numbers float32 has from 0 on without a gap."""


def usual_dim(categories: int) -> int:
    """Columns for so many categories: min(600, round(1.6 * categories ** 0.56)), the rule of thumb of fastai."""
    return min(600, round(1.6 * categories**0.56))


class Embedding(Layer):
    """Replaces columns of category numbers by vectors that are learned: Guo and Berkhahn, "Entity embeddings", 2016.

    The outputs are the other columns in their order, then the vectors of each column that is named. Category numbers
    are whole numbers from 0 on, in the inputs among the others (up to 2**24, which float32 holds exactly). It comes
    first in a model, behind nothing but a `Normalization` that leaves its columns alone.

    Every category has its row in a matrix (categories, dim), "<layer>.<column>.embeddings" in files. Its gradient is
    the sum over the rows of the batch with that category. Optimizers treat the matrix as they do a kernel: moments,
    penalties and decay of categories that a batch lacks go on (as with PyTorch's dense ``nn.Embedding``). With plain
    SGD, where that changes nothing, only the rows that occur are touched.

    Parameters
    ----------
    columns : dict of column number to (categories, dim), or to categories, whose dim is then
        min(600, round(1.6 * categories ** 0.56)), 1 at least
    embeddings_initializer : as `Dense`'s, default "uniform" (from -0.05 to 0.05, as in Keras), or a dict of column
        number to initialiser or array (categories, dim)
    embeddings_regularizer : penalty on the matrices, as `Dense`'s
    embeddings_constraint : as `Dense`'s, of each of a matrix' columns
    trainable, lr_multiplier, name : as in `Dense`

    Raises
    ------
    TypeError, ValueError : columns, categories or dims that are no whole numbers, or names that no table has

    Examples
    --------
    >>> import fastbp as fb
    >>> model = fb.Model([fb.Embedding({0: (12, 4), 3: (7, 3)}), fb.Dense(64, activation="relu"), fb.Dense(1)])
    >>> model.build(5)  # 3 columns that pass, 4 and 3 that replace the columns 0 and 3
    >>> model.layers[0].width(5)
    10
    """

    kind = "embedding"

    def __init__(
        self,
        columns: Mapping[int, int | tuple[int, int]],
        embeddings_initializer: str | ArrayLike | Mapping[int, str | ArrayLike] = "uniform",
        embeddings_regularizer: str | Regularizer | None = None,
        embeddings_constraint: str | Constraint | None = None,
        *,
        trainable: bool = True,
        lr_multiplier: float = 1.0,
        name: str | None = None,
    ) -> None:
        if not isinstance(columns, Mapping) or not columns:
            raise TypeError(
                "Embedding: columns must be a dict of column number to (categories, dim) or to categories, such as "
                f"{{0: (12, 4)}}, got {columns!r}"
            )
        self.columns = {whole("Embedding: a column's number", c, 0): _shape(c, shape) for c, shape in columns.items()}
        self.embeddings_initializer = self._initializers(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer, "embeddings_regularizer")
        self.embeddings_constraint = constraints.get(embeddings_constraint, "embeddings_constraint")
        self.trainable, self.lr_multiplier, self.name = bool(trainable), checked_multiplier(lr_multiplier), name

    def _initializers(self, given: Any) -> dict[int, Any]:
        """What each column's matrix is drawn by."""
        label = "embeddings_initializer"
        if not isinstance(given, Mapping):
            return dict.fromkeys(self.columns, initializers.checked(given, label))
        if wrong := [column for column in given if column not in self.columns]:
            raise ValueError(f"Embedding: {label} names column {wrong[0]!r}; the columns are {list(self.columns)}")
        return {c: initializers.checked(given.get(c, "uniform"), label) for c in self.columns}

    def width(self, fan_in: int | None) -> int | None:
        return None if fan_in is None else fan_in + sum(dim - 1 for _, dim in self.columns.values())

    def passing(self, fan_in: int) -> list[int]:
        """The columns that stay, of so many inputs."""
        return [column for column in range(fan_in) if column not in self.columns]

    def lower(self, network: Network, name: str) -> None:
        self._check_place(network)
        regularizer = regularizers.get(self.embeddings_regularizer, "embeddings_regularizer")
        codes, passing, width = network.source, self.passing(network.width), self.width(network.width) or 0
        network.add(name, operations.ARRANGE, width, picks=(*passing, *[-1] * (width - len(passing))))
        place = len(passing)
        for column, (categories, dim) in self.columns.items():
            network.add(
                f"{name}.{column}",
                EMBEDDING,
                rows=EMBEDDING.rows,
                matrix=(categories, dim),
                skip=codes,
                picks=(column, place, dim),
                penalty=regularizers.strengths(regularizer if self.trainable else None, None),
                trainable=bool(self.trainable),
                rate=checked_multiplier(self.lr_multiplier),
                constraint=constraints.get(self.embeddings_constraint, "embeddings_constraint"),
            )
            place += dim

    def _check_place(self, network: Network) -> None:
        if any(spec.operation is not STANDARDIZE for spec in network.specs):
            raise ValueError(f"{self!r} reads category numbers, which only the inputs hold: it must be the first layer")
        for spec in network.specs:
            if changed := [column for column in self.columns if column in spec.picks]:
                raise ValueError(
                    f"Normalization changes column {changed[0]}, whose category numbers {self!r} wants: give it the "
                    "other columns, Normalization(columns=[...])"
                )
        self._check_width(network.width)

    def _check_width(self, width: int) -> None:
        if (last := max(self.columns)) >= width:
            raise ValueError(f"{self!r} wants column {last}; the inputs have columns 0 to {width - 1}")

    def initial(self, rng: np.random.Generator, fan_in: int) -> list[Iterator[Piece]]:
        return [
            initializers.draw(self.embeddings_initializer[c], rng, shape, shape, f"embeddings_initializer of {self!r}")
            for c, shape in self.columns.items()
        ]

    def check_inputs(self, rows: NDArray[Any], name: str) -> None:
        self._check_width(rows.shape[1])
        for column, (categories, _) in self.columns.items():
            step = max(1, PIECE // rows.shape[1])
            for first in range(0, len(rows), step):
                codes = rows[first : first + step, column]
                wrong = ~((codes >= 0) & (codes < categories)) | (codes != np.floor(codes))
                if wrong.any():
                    row = int(np.argmax(wrong))
                    raise ValueError(
                        f"{name}[{first + row}, {column}] is {codes[row]:g}: column {column} holds category numbers, "
                        f"whole numbers from 0 to {categories - 1} (the Embedding has {categories} categories for it); "
                        "give unknown ones a number of their own, or leave the row out"
                    )

    def settings(self) -> dict[str, Any]:
        return {
            "columns": [[column, *shape] for column, shape in self.columns.items()],
            "embeddings_initializer": [initializers.name_of(one) for one in self.embeddings_initializer.values()],
            "embeddings_regularizer": plain(regularizers.get(self.embeddings_regularizer)),
            "embeddings_constraint": plain(constraints.get(self.embeddings_constraint)),
            "trainable": bool(self.trainable),
            "lr_multiplier": float(self.lr_multiplier),
        }

    def __repr__(self) -> str:
        return f"Embedding({self.columns!r})"

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Layer:
        columns = {column: (categories, dim) for column, categories, dim in settings.pop("columns")}
        drawn = dict(zip(columns, settings.pop("embeddings_initializer"), strict=True))
        return cls(columns, drawn, **settings)


def _shape(column: Any, given: Any) -> tuple[int, int]:
    pair = given if isinstance(given, (tuple, list)) else (given, None)
    if len(pair) != 2:
        raise ValueError(f"Embedding: wanted categories or (categories, dim) for column {column!r}, got {given!r}")
    categories = whole(f"Embedding: categories of column {column!r}", pair[0])
    if categories > MOST_CATEGORIES:
        raise ValueError(f"Embedding: column {column!r} has {categories} categories; {MOST_CATEGORIES} are possible")
    if pair[1] is None:
        return categories, usual_dim(categories)
    return categories, whole(f"Embedding: dim of column {column!r}", pair[1])


answers(__name__)
