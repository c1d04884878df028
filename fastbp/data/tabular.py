"""Floor 3: `TabularEncoder`: raw tables -> inputs: numbers standardised, categories one-hot or numbered, gaps."""

import difflib
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp._spelling import answers
from fastbp.data.csv_files import is_number
from fastbp.data.frames import Frame, as_frame, written

Array = NDArray[Any]

_BLOCK = 1 << 17  # cells converted at a time, so that no second copy of a large table is made


@dataclass(frozen=True)
class NumberColumn:
    """A column that becomes ``(x - mean) / scale``, and a flag where `missing`.

    Attributes
    ----------
    name : of the column
    mean, scale : of the rows it was fitted to; the scale of a constant column is 1
    missing : whether values were missing, and so a second column says which are; they become 0, the mean
    """

    name: str
    mean: float
    scale: float
    missing: bool = False

    kind = "number"

    @property
    def names_out(self) -> list[str]:
        """Names of what it becomes."""
        return [self.name, f"{self.name} is missing"][: 1 + self.missing]


@dataclass(frozen=True)
class CategoryColumn:
    """A column that becomes ones and zeros, or category numbers.

    Attributes
    ----------
    name : of the column
    categories : each has a column, in this order
    other : whether a further column stands for rare and unseen ones
    missing : whether a last column says that it is missing
    codes : whether it becomes one column, of the number that the column with the one would have
    """

    name: str
    categories: list[str]
    other: bool = False
    missing: bool = False
    codes: bool = False

    kind = "category"

    @property
    def count(self) -> int:
        """Columns of ones and zeros, or category numbers."""
        return len(self.categories) + self.other + self.missing

    @property
    def names_out(self) -> list[str]:
        """Names of what it becomes."""
        if self.codes:
            return [self.name]
        names = [f"{self.name}={category}" for category in self.categories]
        return [*names, *[f"{self.name} is another"] * self.other, *[f"{self.name} is missing"] * self.missing]


Column = NumberColumn | CategoryColumn


class Problem(NamedTuple):
    """A cell that an encoder can't take."""

    row: int
    column: str
    text: str


class TabularEncoder:
    """Raw tables of numbers and text as inputs of a network.

    Numbers are standardised, text and categories become one-hot, missing values become the mean (or all zeros) with a
    column of their own that flags them. What it learned is plain data: ``model.meta.update(encoder.to_meta())`` stores
    it in the model file, ``TabularEncoder.from_meta(model.meta)`` takes it back. In a scikit-learn pipeline it stands
    before the estimator, as its own transformers do.

    Parameters
    ----------
    max_categories : most columns for one column of text; rarer categories share one more. Default 100
    categorical : names of columns of numbers that are categories
    unknown : what a category does that `fit` didn't see (where no rare ones share a column), or a missing value where
        none was missing: "error" (default), or "ignore", which gives zeros
    codes : whether categories become category numbers for an `Embedding` instead of ones and zeros: a column stays one
        column. Rare ones share a number, missing values have one; with unknown="ignore" there always is one for what
        `fit` didn't see. Default False

    Attributes
    ----------
    columns_ : a `NumberColumn` or `CategoryColumn` for each column
    codes_out_ : of each column of the result that holds category numbers, its number and how many there are: what
        `Embedding` takes
    feature_names_in_, feature_names_out_ : names of the columns before and after

    Examples
    --------
    >>> import fastbp as fb
    >>> encoder = fb.TabularEncoder()
    >>> encoder.fit_transform({"age": [20.0, 40.0, None], "town": ["Rome", "Oslo", "Rome"]}).tolist()
    [[-1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    >>> encoder.feature_names_out_
    ['age', 'age is missing', 'town=Oslo', 'town=Rome']
    >>> encoder = fb.TabularEncoder(codes=True)
    >>> encoder.fit_transform({"age": [20.0, 40.0, None], "town": ["Rome", "Oslo", "Rome"]}).tolist()
    [[-1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    >>> first = fb.Embedding(encoder.codes_out_)  # column 2, of 2 categories
    """

    columns_: list[Column]
    _output: str | None = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        max_categories: int = 100,
        categorical: Sequence[str] = (),
        unknown: str = "error",
        *,
        codes: bool = False,
    ) -> None:
        self._take(max_categories, categorical, unknown, codes)

    def _take(self, max_categories: int, categorical: Sequence[str], unknown: str, codes: bool) -> None:
        if isinstance(max_categories, bool) or not isinstance(max_categories, int) or max_categories < 1:
            raise ValueError(f"max_categories must be a whole number of at least 1, got {max_categories!r}")
        if unknown not in ("error", "ignore"):
            raise ValueError(f'unknown must be "error" or "ignore", got {unknown!r}')
        self.max_categories, self.categorical, self.unknown = max_categories, list(categorical), unknown
        self.codes = bool(codes)

    def __repr__(self) -> str:
        if not hasattr(self, "columns_"):
            return "TabularEncoder()"
        return f"TabularEncoder({len(self.columns_)} columns -> {len(self.feature_names_out_)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TabularEncoder) and self.__dict__ == other.__dict__

    # -------------------------------------------------- what scikit-learn's pipelines and searches ask for

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; `deep` changes nothing."""
        return {name: getattr(self, name) for name in ("max_categories", "categorical", "unknown", "codes")}

    def set_params(self, **params: Any) -> "TabularEncoder":
        """Set parameters by name; what was learned stays until the next `fit`.

        Raises
        ------
        ValueError : a name that is none, or a value that `TabularEncoder` refuses
        """
        known = self.get_params()
        if unknown := [name for name in params if name not in known]:
            raise ValueError(f"TabularEncoder has no parameter {unknown[0]!r}; there are {', '.join(known)}")
        self._take(**known | params)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """`feature_names_out_` as an array; `input_features` aren't looked at."""
        return np.array(self.feature_names_out_, object)

    def set_output(self, *, transform: str | None = None) -> "TabularEncoder":
        """What `transform` returns: "default" (an array), "pandas" or "polars"; None changes nothing.

        As in scikit-learn, whose ``set_config(transform_output=...)`` holds where this isn't called.
        """
        if transform not in (None, "default", *_FRAMES):
            raise ValueError(f'set_output: transform must be "default", "pandas" or "polars", got {transform!r}')
        self._output = transform or self._output
        return self

    def _shown(self, out: Array, x: Any) -> Any:
        """The result as what it was asked to be."""
        sklearn = sys.modules.get("sklearn")
        kind = self._output or ("default" if sklearn is None else sklearn.get_config()["transform_output"])
        return _FRAMES[kind](out, self.feature_names_out_, x) if kind in _FRAMES else out

    def __sklearn_clone__(self) -> "TabularEncoder":
        made = TabularEncoder(**self.get_params())
        made._output = self._output
        return made

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "columns_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        takes = InputTags(string=True, categorical=True, allow_nan=True)
        target = TargetTags(required=False)
        return Tags(estimator_type=None, target_tags=target, transformer_tags=TransformerTags(), input_tags=takes)

    # -------------------------------------------------- the columns

    @property
    def feature_names_in_(self) -> list[str]:
        """Names of the columns that it takes."""
        return [column.name for column in self._fitted()]

    @property
    def feature_names_out_(self) -> list[str]:
        """Names of the columns that it gives."""
        return [name for column in self._fitted() for name in column.names_out]

    @property
    def codes_out_(self) -> dict[int, int]:
        """How many category numbers there are in each column of the result that holds such."""
        columns = self._fitted()
        held = ((columns[j], at) for j, at in self._places())
        return {at: column.count for column, at in held if isinstance(column, CategoryColumn) and column.codes}

    def _fitted(self) -> list[Column]:
        if not hasattr(self, "columns_"):
            exceptions = sys.modules.get("sklearn.exceptions")
            kind = RuntimeError if exceptions is None else exceptions.NotFittedError
            raise kind("the encoder isn't fitted; call fit(table) first")
        return self.columns_

    # -------------------------------------------------- learning

    def fit(self, x: Any, y: Any = None, *, rows: NDArray[np.intp] | None = None) -> "TabularEncoder":
        """Learn what the columns hold.

        Parameters
        ----------
        x : frame of pandas, polars or pyarrow, a dict of columns, or a matrix of numbers
        y : not used
        rows : the rows whose mean and deviation count (categories and gaps are those of all rows); all by default

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError : columns of dates or other objects, infinite values, a column without any value
        """
        frame = as_frame(x)
        if unknown := [name for name in self.categorical if name not in frame.names]:
            raise ValueError(f"categorical names {unknown[0]!r}, which is no column: {', '.join(frame.names)}")
        texts = [
            j for j, column in enumerate(frame.columns) if column.dtype == object or frame.names[j] in self.categorical
        ]
        numbers = [j for j in range(len(frame.names)) if j not in set(texts)]
        made: dict[int, Column] = {j: self._categories(frame, j) for j in texts}
        mean, scale, missing = moments(frame, numbers, rows)
        for k, j in enumerate(numbers):
            if not math.isfinite(scale[k]):
                why = "only missing values" if np.isnan(scale[k]) else "infinity, or values too large to standardise"
                raise ValueError(f"column {frame.names[j]!r} holds {why}: correct it, scale it, or leave it out")
            gaps = bool(missing[k]) if rows is None else bool(np.isnan(frame.numbers([j], slice(None))).any())
            made[j] = NumberColumn(frame.names[j], float(mean[k]), float(scale[k]), gaps)
        self.columns_ = [made[j] for j in range(len(frame.names))]
        return self

    def _categories(self, frame: Frame, j: int) -> CategoryColumn:
        counts = Counter(_texts(frame.columns[j]))
        missing = counts.pop(None, 0) > 0
        if not counts:
            raise ValueError(f"column {frame.names[j]!r} holds only missing values: leave it out")
        often = sorted(counts, key=lambda name: (-counts[name], name))[: self.max_categories]
        names = sorted(cast(list[str], often))
        other = len(counts) > len(names) or (self.codes and self.unknown == "ignore")
        return CategoryColumn(frame.names[j], names, other, missing, self.codes)

    def fit_transform(self, x: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same table."""
        return self.fit(x).transform(x)

    # -------------------------------------------------- using

    def problems(self, x: Any) -> list[Problem]:
        """The cells that `transform` refuses: unseen categories, missing values where none was, text among numbers."""
        frame, columns = self._arranged(x), self._fitted()
        found = []
        for column, values in zip(columns, frame.columns, strict=True):
            if isinstance(column, CategoryColumn):
                found += _category_problems(column, _texts(values), self.unknown)
            else:
                found += _number_problems(column, values, self.unknown)
        return sorted(found)

    def transform(self, x: Any, dtype: DTypeLike = np.float32, *, rows: NDArray[np.intp] | None = None) -> Any:
        """The table as inputs of a network.

        Parameters
        ----------
        x : as for `fit`; columns are found by name, in any order, and others are left out (a matrix: by position)
        dtype : of the result: numpy.float32 (default) or numpy.float64
        rows : the rows to take; all by default

        Returns
        -------
        ndarray (rows, len(feature_names_out_)), or what `set_output` says

        Raises
        ------
        ValueError : a column is missing, or cells that `problems` lists
        """
        frame, columns = self._arranged(x), self._fitted()
        count = len(frame) if rows is None else len(rows)
        out = np.empty((count, len(self.feature_names_out_)), dtype)
        numbers = [(j, at) for j, at in self._places() if isinstance(columns[j], NumberColumn)]
        if numbers:
            try:
                self._write_numbers(frame, numbers, rows, out)
            except ValueError:
                self._refuse(frame, rows)
                raise
        for j, at in self._places():
            column = columns[j]
            if isinstance(column, CategoryColumn):
                values = frame.columns[j] if rows is None else frame.columns[j][rows]
                self._write_categories(column, _texts(values), out[:, at : at + len(column.names_out)])
        return self._shown(out, x)

    def _places(self) -> Iterator[tuple[int, int]]:
        """Each column's number, and its first place in the result."""
        at = 0
        for j, column in enumerate(self._fitted()):
            yield j, at
            at += len(column.names_out)

    def _write_numbers(
        self, frame: Frame, numbers: list[tuple[int, int]], rows: NDArray[np.intp] | None, out: Array
    ) -> None:
        chosen = [cast(NumberColumn, self.columns_[j]) for j, _ in numbers]
        mean, scale = (np.array([getattr(column, part) for column in chosen]) for part in ("mean", "scale"))
        flagged = [(k, at + 1) for k, (_, at) in enumerate(numbers) if chosen[k].missing]
        places: Any = [at for _, at in numbers]
        if places == list(range(out.shape[1])):
            places = slice(None)
        for at, part in _blocks(frame, [j for j, _ in numbers], rows):
            with np.errstate(over="ignore", invalid="ignore"):
                values = (part - mean) / scale
                plain = np.isfinite(values.sum())
            if not plain:
                gaps = np.isnan(part)
                if np.isinf(part).any() or (self.unknown == "error" and gaps[:, [not c.missing for c in chosen]].any()):
                    raise ValueError("numbers that training didn't see")
                values[gaps] = 0.0
            with np.errstate(over="ignore"):
                out[at, places] = values
            for k, place in flagged:
                out[at, place] = 0.0 if plain else gaps[:, k]

    def _write_categories(self, column: CategoryColumn, values: list[str | None], out: Array) -> None:
        codes: dict[str | None, int] = {name: code for code, name in enumerate(column.categories)}
        other = len(codes) if column.other else -1
        codes[None] = column.count - 1 if column.missing else other if column.codes else -1
        found = np.array([codes.get(value, other) for value in values], np.int64)
        if self.unknown == "error" and (found < 0).any():
            row, name, text = _category_problems(column, values, self.unknown)[0]
            raise ValueError(f"row {row}, column {name!r}: {text}")
        if column.codes:
            out[:, 0] = found
            return
        out[:] = 0.0
        known = np.flatnonzero(found >= 0)
        out[known, found[known]] = 1.0

    def _refuse(self, frame: Frame, rows: NDArray[np.intp] | None) -> None:
        """Fail with the first cell that is no number to be had, if there is one."""
        for row, name, text in self.problems(frame if rows is None else frame[rows]):
            raise ValueError(f"row {row}, column {name!r}: {text}") from None

    def _arranged(self, x: Any) -> Frame:
        """The table's columns in the order of `fit`."""
        frame, names = as_frame(x), self.feature_names_in_
        if frame.names == names:
            return frame
        if frame.matrix is not None:
            if len(frame.names) == len(names):
                return Frame.of_matrix(frame.matrix, names)
            raise ValueError(f"the matrix has {len(frame.names)} columns; the encoder was fitted to {len(names)}")
        if missing := [name for name in names if name not in frame.names]:
            near = difflib.get_close_matches(missing[0], frame.names, 1)
            meant = f" (is it {near[0]!r}?)" if near else ""
            raise ValueError(f"the table lacks {len(missing)} of {len(names)} columns, first {missing[0]!r}{meant}")
        return Frame(names, [frame.columns[frame.names.index(name)] for name in names])

    # -------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``TabularEncoder.from_dict`` makes the encoder again."""
        columns = [{"kind": column.kind, **asdict(column)} for column in self._fitted()]
        own = {"max_categories": self.max_categories, "unknown": self.unknown, "codes": self.codes}
        return {"columns": columns, **own}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "TabularEncoder":
        """The encoder that `to_dict` described.

        Raises
        ------
        ValueError : damaged content
        """
        encoder = cls(content["max_categories"], unknown=content["unknown"], codes=content.get("codes", False))
        encoder.columns_ = [_column(dict(column)) for column in content["columns"]]
        return encoder

    def to_meta(self) -> dict[str, Any]:
        """What ``model.meta`` stores of it, under one key."""
        return {"encoder": self.to_dict()}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "TabularEncoder":
        """The encoder whose `to_meta` is in a model's ``meta``, or the one that ``fastbp train`` stored there.

        Raises
        ------
        ValueError : there is none
        """
        content = meta.get("encoder") or meta.get("table", {}).get("encoder")
        if content is None:
            raise ValueError(
                "the model holds no encoder: model.meta.update(encoder.to_meta()) before saving stores one"
            )
        return cls.from_dict(content)


def _pandas(out: Array, names: list[str], x: Any) -> Any:
    import pandas as pd

    return pd.DataFrame(out, columns=names, index=getattr(x, "index", None), copy=False)


def _polars(out: Array, names: list[str], x: Any) -> Any:
    import polars as pl

    return pl.DataFrame(out, schema=names, orient="row")


_FRAMES: dict[str, Callable[[Array, list[str], Any], Any]] = {"pandas": _pandas, "polars": _polars}


def _column(content: dict[str, Any]) -> Column:
    kind = content.pop("kind", None)
    if kind == "category":
        column = CategoryColumn(**content)
        if not all(isinstance(name, str) for name in column.categories):
            raise ValueError(f"the categories of {column.name!r} are damaged")
        return column
    if kind != "number":
        raise ValueError(f"unknown kind of column {kind!r}; this version knows number and category")
    number = NumberColumn(**content)
    if not (math.isfinite(number.mean) and math.isfinite(number.scale) and number.scale):
        raise ValueError(f"mean or scale of column {number.name!r} are damaged")
    return number


def _texts(values: Iterable[Any]) -> list[str | None]:
    """Categories by their names; numbers as people write them."""
    return [_text(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def _text(value: Any) -> str | None:
    return None if value is None or value != value else written(value)


def _category_problems(column: CategoryColumn, values: list[str | None], unknown: str) -> list[Problem]:
    if unknown == "ignore":
        return []
    found, known = [], set(column.categories)
    for row, value in enumerate(values):
        if value is None and not column.missing:
            found.append(Problem(row, column.name, "is empty, which it never was in training: fill it"))
        elif value is not None and value not in known and not column.other:
            some = ", ".join(map(repr, column.categories[:8])) + (" ..." if len(column.categories) > 8 else "")
            text = f"{value!r} is a category that training didn't see (it saw {some}): correct it, or train with it"
            found.append(Problem(row, column.name, text))
    return found


def _number_problems(column: NumberColumn, cells: Array, unknown: str) -> list[Problem]:
    try:
        values = np.asarray(cells, np.float64)
    except ValueError:
        text = "is text, and was a number in training: correct it"
        odd = [row for row, cell in enumerate(cells) if isinstance(cell, str) and not is_number(cell)]
        return [Problem(row, column.name, f"{cells[row]!r} {text}") for row in odd]
    if np.isfinite(values.sum()):
        return []
    found = [Problem(int(row), column.name, "is infinite: correct it") for row in np.flatnonzero(np.isinf(values))]
    if unknown == "error" and not column.missing:
        text = "is empty, which it never was in training: fill it"
        found += [Problem(int(row), column.name, text) for row in np.flatnonzero(np.isnan(values))]
    return found


def _blocks(
    frame: Frame, columns: Sequence[int], rows: NDArray[np.intp] | None
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    step = max(1, _BLOCK // max(1, len(columns)))
    for start in range(0, len(frame) if rows is None else len(rows), step):
        at = slice(start, start + step)
        yield at, frame.numbers(columns, at if rows is None else rows[at])


def moments(
    frame: Frame, columns: Sequence[int], rows: NDArray[np.intp] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Mean, standard deviation (1 for a constant column, NaN without values) and whether any value is missing."""
    width = len(columns)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    total, squares, gaps = np.zeros(width), np.zeros(width), np.zeros(width, np.int64)
    count = len(frame) if rows is None else len(rows)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _, part in _blocks(frame, columns, rows):
            empty = np.isnan(part)
            gaps += empty.sum(axis=0)
            total += np.where(empty, 0.0, part).sum(axis=0)
            np.minimum(low, np.fmin.reduce(part, axis=0), out=low, where=~empty.all(axis=0))
            np.maximum(high, np.fmax.reduce(part, axis=0), out=high, where=~empty.all(axis=0))
        constant = low == high
        mean = np.where(constant, low, total / (count - gaps))
        for _, part in _blocks(frame, columns, rows):
            deviations = (part - mean) ** 2
            squares += np.where(np.isnan(part), 0.0, deviations).sum(axis=0)
        scale = np.sqrt(squares / (count - gaps))
        scale[constant | (scale == 0)] = 1.0  # squares of tiny numbers underflow
    scale[(gaps < count) & (np.isinf(low) | np.isinf(high))] = np.inf
    return mean, scale, gaps > 0


answers(__name__, methods="TabularEncoder")
