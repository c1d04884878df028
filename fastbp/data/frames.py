"""Floor 2: tables with named columns: of pandas, polars, pyarrow, a dict of columns, or plain arrays."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def columns_of(x: Any) -> tuple[list[str], list[Any]] | None:
    """Names and columns of a frame in its own terms, without a copy; None where `x` is no frame."""
    if hasattr(x, "column_names") and hasattr(x, "schema"):  # pyarrow's Table and RecordBatch
        return list(x.column_names), [x.column(j) for j in range(x.num_columns)]
    if hasattr(x, "columns") and hasattr(x, "to_numpy"):
        names = [str(name) for name in x.columns]
        return names, [x.iloc[:, j] if hasattr(x, "iloc") else x[:, j] for j in range(len(names))]
    return None


def names_of(x: Any) -> list[str] | None:
    """Names of a frame's columns; None where `x` is no frame, or where they are numbers."""
    if not (hasattr(x, "to_numpy") or hasattr(x, "schema")):
        return None
    names = list(getattr(x, "column_names", getattr(x, "columns", ())))
    return names if names and all(isinstance(name, str) for name in names) else None


def check_names(known: Sequence[str] | None, names: Sequence[str] | None, name: str = "x") -> None:
    """Refuse columns of other names, or in another order, than those a model was fitted to.

    Parameters
    ----------
    known, names : of the columns then and now; None where they have none
    name : what the error calls the table

    Raises
    ------
    ValueError : they differ
    """
    if known is None or names is None or list(names) == list(known):
        return
    own = "or set model.column_names = None where they mean the same"
    if missing := [column for column in known if column not in names]:
        near = difflib.get_close_matches(missing[0], names, 1)
        what = f"lacks {len(missing)} of the model's {len(known)} columns, first {missing[0]!r}"
        raise ValueError(f"{name} {what}{f' (is it {near[0]!r}?)' if near else ''}: rename or add them, {own}")
    if extra := [column for column in names if column not in known]:
        what = f"has columns that the model was not fitted to, first {extra[0]!r}"
    else:
        at = next(k for k, column in enumerate(known) if names[k] != column)
        what = f"has its columns in another order: {names[at]!r} is where {known[at]!r} was when the model was fitted"
    raise ValueError(f"{name} {what}: pass {name}[model.column_names] (pyarrow: {name}.select(...)), {own}")


def one_block(columns: Sequence[Any]) -> bool:
    """Whether the columns of a pandas frame lie in one array, which ``to_numpy`` then gives without a copy."""
    if not columns or not hasattr(columns[0], "iloc"):
        return False
    dtype, first, last = columns[0].dtype, columns[0].to_numpy(), columns[-1].to_numpy()
    return first.base is not None and first.base is last.base and all(column.dtype == dtype for column in columns)


def from_arrow(column: Any) -> bool:
    """Whether a column is pyarrow's (Array or ChunkedArray)."""
    return type(column).__module__.partition(".")[0] == "pyarrow"


def foreign(x: Any, name: str) -> Any:
    """A tensor of another library as an array over the same memory; anything else as it is.

    Raises
    ------
    TypeError : a tensor that NumPy can't read where it is
    """
    if type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach"):
        x = x.detach()
        if str(x.device) != "cpu":
            raise TypeError(f"{name} is a tensor on {x.device}; wanted one in main memory: pass {name}.cpu()")
        return x.float().numpy() if str(x.dtype) == "torch.bfloat16" else x.numpy()
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError) as error:
            raise TypeError(
                f"{name} is a {type(x).__name__} that NumPy can't read ({error}): copy it to main memory first"
            ) from None
    return x


@dataclass(frozen=True)
class Frame:
    """A table in memory.

    Attributes
    ----------
    names : names of the columns
    columns : (N,) arrays: numbers, NaN where one is missing; or objects: str, None where it is missing
    matrix : (N, C) numbers, where the columns are its views; else None
    """

    names: list[str]
    columns: list[Array]
    matrix: Array | None = None

    @classmethod
    def of_matrix(cls, matrix: Array, names: Sequence[str]) -> "Frame":
        """The columns of a matrix of numbers."""
        return cls(list(names), [matrix[:, j] for j in range(matrix.shape[1])], matrix)

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), len(self.columns)

    def __getitem__(self, rows: Any) -> "Frame":
        """The rows, by numbers or a mask."""
        if self.matrix is not None:
            return Frame.of_matrix(self.matrix[rows], self.names)
        return Frame(self.names, [column[rows] for column in self.columns])

    def numbers(self, chosen: Sequence[int], rows: Any) -> NDArray[np.float64]:
        """Columns of numbers (rows, chosen), float64."""
        if self.matrix is not None:
            part = self.matrix[rows]
            every = len(chosen) == part.shape[1]
            return np.asarray(part if every else part[:, list(chosen)], np.float64)
        parts = [np.asarray(self.columns[j][rows], np.float64) for j in chosen]
        return np.column_stack(parts) if parts else np.empty((len(self.columns[0][rows]), 0))


def as_frame(x: Any, name: str = "x") -> Frame:
    """A frame of numbers and text, of what users hold.

    Parameters
    ----------
    x : frame of pandas, polars or pyarrow, a dict of columns, or a two-dimensional array of numbers
    name : what the error messages call it

    Returns
    -------
    Frame
        Booleans and decimals are numbers; categories and text are text; what is missing is NaN or None.

    Raises
    ------
    TypeError : columns of dates, lists or other objects; something that is no table
    ValueError : no rows or no columns, two columns of one name, columns of different lengths
    """
    if isinstance(x, Frame):
        return x
    found = (list(map(str, x)), list(x.values())) if isinstance(x, dict) else columns_of(x)
    if found is None:
        matrix = np.asarray(foreign(x, name))
        if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiub":
            raise TypeError(
                f"{name} has shape {matrix.shape} and type {matrix.dtype}; wanted rows and columns: a DataFrame, a "
                "dict of columns or a matrix of numbers"
            )
        return Frame.of_matrix(matrix, [f"column{j}" for j in range(matrix.shape[1])])
    names, columns = found
    if twice := next((column for column in names if names.count(column) > 1), None):
        raise ValueError(f"{name} has two columns named {twice!r}: columns are found by name, so rename one")
    arrays = [_column(column, f"column {label!r} of {name}") for label, column in zip(names, columns, strict=True)]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"{name} has {len(arrays)} columns of {sorted(lengths)} rows; wanted the same, at least one")
    return Frame(names, arrays)


def _column(column: Any, label: str) -> Array:
    """One column as numbers with NaN, or as text with None."""
    values = np.asarray(column.to_pylist(), object) if from_arrow(column) and _is_text(column) else np.asarray(column)
    if values.ndim != 1:
        raise ValueError(f"{label} has shape {values.shape}; wanted one value a row")
    if _is_category(column):
        text = np.empty(len(values), object)
        text[:] = [
            None if gap else written(v) for v, gap in zip(values.tolist(), _missing(column, values), strict=True)
        ]
        return text
    if values.dtype.kind in "fiub":
        return values
    if values.dtype.kind not in "OUST":
        what = {"M": "dates", "m": "time spans", "c": "complex numbers"}.get(values.dtype.kind, str(values.dtype))
        raise TypeError(f"{label} holds {what}; wanted numbers or text: turn it into numbers, or leave it out")
    gaps = _missing(column, values)
    cells = values[~gaps]
    if all(isinstance(cell, str) for cell in cells):
        text = np.empty(len(values), object)
        text[:] = None
        text[~gaps] = [str(cell) for cell in cells]
        return text
    odd = next((cell for cell in cells if not isinstance(cell, (bool, int, float, Decimal, np.number, np.bool_))), None)
    if odd is not None:
        raise TypeError(
            f"{label} holds {odd!r} ({type(odd).__name__}); wanted numbers or text throughout: convert the column, or "
            "leave it out"
        )
    numbers = np.full(len(values), np.nan)
    numbers[~gaps] = cells.astype(np.float64)
    return numbers


def written(value: Any) -> str:
    """A category's name: numbers as people write them."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_category(column: Any) -> bool:
    """Whether a column of pandas or pyarrow holds categories, whatever they are."""
    return str(getattr(column, "dtype", "")) == "category" or (from_arrow(column) and "dictionary" in str(column.type))


def _is_text(column: Any) -> bool:
    kind = str(column.type)
    return any(word in kind for word in ("string", "dictionary"))


def _missing(column: Any, values: Array) -> NDArray[np.bool_]:
    if hasattr(column, "isna"):
        return np.asarray(column.isna(), bool)
    if hasattr(column, "is_null"):
        return np.asarray(column.is_null(), bool)
    return np.array([cell is None or (isinstance(cell, float) and cell != cell) for cell in values], bool)
