"""Floor 2: arrays and frames -> checked, contiguous staging: the memory-safety border.

Kernels have no bounds checks, so whatever reaches them has passed through here: every shape, every label and every
value is looked at once, in Python, before the first kernel runs.
"""

import math
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbp.data import device_arrays
from fastbp.data.device_arrays import OnDevice
from fastbp.data.frames import columns_of, foreign, from_arrow, one_block
from fastbp.data.sparse import SparseRows, as_sparse, is_sparse, staged_bytes
from fastbp.formulas.class_columns import marks

# Elements converted and checked together: 0.5 to 1 MiB stays in a core's cache between the two (60000 x 784 float64 to
# float32 on one core: 72 ms, against 86 ms for NumPy's bare cast and 40 ms more for np.isfinite over the result).
_BLOCK = 1 << 17


MISSING_LABEL = -1
"""Class number of a row without one, between the check of the targets and the kernels, which never see it."""


KNOWN_BYTES = 64 << 20
"""An array up to this size is known by all of its bytes, a larger one by `KNOWN_ROWS` rows spread evenly over it."""
KNOWN_ROWS = 4096


@dataclass(frozen=True)
class Sample:
    """Rows that a network sees, checked for the kernels.

    Attributes
    ----------
    x : (N, I), as `as_matrix` returns it, sparse perhaps, or on a GPU
    y : (N, O) or (N,), as `as_targets` returns it, or on a GPU (as weights and present may be); None without targets
    rows : (M,) int64, which of the rows they are, in this order, repeats allowed; None for all N
    weights : (N,) of the inputs' dtype, what each row's loss is multiplied by; None for 1
    present : (N,) of the inputs' dtype, 0 where a row has no target and so counts in no metric; None for 1
    """

    x: Any
    y: Any = None
    rows: NDArray[np.int64] | None = None
    weights: Any = None
    present: Any = None

    def __len__(self) -> int:
        return len(self.x if self.rows is None else self.rows)

    def first(self, count: int | None) -> "Sample":
        """The first rows of it, all by default."""
        if self.rows is not None:
            return replace(self, rows=self.rows[:count])
        return self.part(slice(count))

    def part(self, rows: slice) -> "Sample":
        """A run of the N rows, as views."""
        arrays = (self.y, self.weights, self.present)
        y, weights, present = (None if array is None else array[rows] for array in arrays)
        return Sample(self.x[rows], y, None, weights, present)

    def fingerprint(self) -> dict[str, Any]:
        """Shapes and a digest of the arrays: of all bytes, or of some thousand rows where there are many."""
        arrays: dict[str, Any] = {"x": self.x, "y": self.y, "weights": self.weights, "rows": self.rows}
        if isinstance(self.x, SparseRows):
            arrays = arrays | dict(zip(("x", "columns", "values"), self.x.parts, strict=True))
        digest = blake2b(digest_size=16)
        for array in arrays.values():
            if isinstance(array, OnDevice):
                array = array.copy_to_host()
            if array is not None:
                step = 1 if array.nbytes <= KNOWN_BYTES else -(-len(array) // KNOWN_ROWS)
                digest.update(np.ascontiguousarray(array[::step]).data)
                digest.update(np.ascontiguousarray(array[-1:]).data)
        shapes = {name: list(array.shape) for name, array in arrays.items() if array is not None}
        return {"shapes": shapes, "digest": digest.hexdigest()}

    @property
    def beside(self) -> dict[str, Any]:
        """What an engine takes beside x and y."""
        return {"rows": self.rows, "weights": self.weights, "present": self.present}

    @property
    def arrays(self) -> list[Any]:
        """All that it is made of."""
        return [self.x, self.y, *self.beside.values()]


class _Table(NamedTuple):
    """What the user passed, still in its own memory: one array, or the columns of a frame; flat: of one dimension."""

    source: NDArray[Any] | list[NDArray[Any]]
    shape: tuple[int, ...]
    columns: list[str] | None
    flat: bool = False

    def rows(self, start: int, stop: int, out: NDArray[Any]) -> None:
        if isinstance(self.source, list):
            for j, column in enumerate(self.source):
                out[:, j] = column[start:stop]
        else:
            out[...] = self.source[start:stop]

    def cell(self, row: int, column: int) -> Any:
        return self.source[column][row] if isinstance(self.source, list) else self.source[row, column]

    def count_not_finite(self) -> int:
        arrays = self.source if isinstance(self.source, list) else [self.source]
        return sum(a.size - int(np.count_nonzero(np.isfinite(a))) for a in arrays)

    def place(self, name: str, row: int, column: int) -> str:
        if self.columns is not None:
            return f"row {row} of column {self.columns[column]!r}"
        return f"{name}[{row}]" if self.flat else f"{name}[{row}, {column}]"


def as_matrix(
    x: Any,
    dtype: DTypeLike,
    *,
    name: str = "x",
    width: int | None = None,
    finite: bool = True,
    device: str = "cpu",
) -> Any:
    """Return `x` as the matrix the kernels read.

    Parameters
    ----------
    x : array-like of shape (N, I)
        Anything that NumPy understands (lists, strided, Fortran-ordered, read-only, big-endian, float16, integer and
        boolean arrays), or a DataFrame of pandas, polars or their like.
    dtype : numpy.float32 or numpy.float64
        The model's precision.
    name : str, default "x"
        What the error messages call the array.
    width : int, optional
        The number of columns wanted; any number by default.
    finite : bool, default True
        Whether values are looked at where nothing is copied; False where the kernels do that (in a prediction).
    device : "cpu" or "cuda"
        Where the kernels run.

    Returns
    -------
    ndarray of shape (N, I)
        C-contiguous, aligned, native byte order, every value finite. It is `x` itself when that already fits.
        Of a sparse matrix `SparseRows`. Of an array on a GPU, where kernels run there and it fits, `OnDevice`: its
        values are for kernels to look at; one that doesn't fit goes through main memory.

    Raises
    ------
    TypeError
        If `x` holds no real numbers: text, None, complex values, dates, other objects; or is on a GPU, where the
        kernels don't run there.
    ValueError
        If `x` has no rows or no columns, other than two dimensions, another width, NaN or infinity, or a value too
        large for `dtype`.
    """
    if is_sparse(x):
        _check_matrix_shape(x.shape, name, width)
        return as_sparse(x, dtype, name)
    if (there := device_arrays.found(x, name)) is not None:
        if device == "cpu":
            raise TypeError(
                f"{name} is on a GPU, and the model on the CPU: pass a copy in main memory ({name}.cpu() of PyTorch, "
                f"{name}.get() of CuPy), or make the model with device='cuda'"
            )
        _check_matrix_shape(there.shape, name, width)
        if there.dtype == dtype and there.plain:
            return there
    table = _table(x, name)
    _check_matrix_shape(table.shape, name, width)
    return _stage(table, np.dtype(dtype), name, look=finite)


TARGETS: dict[str, tuple[str, str]] = {
    "dense": ("any numbers", ""),
    "probabilities": (
        "from 0 to 1",
        "rescale them (for labels -1 and 1: ({name} + 1) / 2), or use loss='mean_squared_error'",
    ),
    "not_negative": ("of at least 0", "leave those rows out, or use loss='mean_squared_error'"),
    "positive": ("above 0", "leave those rows out, or use loss='tweedie_deviance', which takes zeros"),
    "signs": ("-1 and 1, or 0 and 1", "say which is which, or use loss='mean_squared_error'"),
    "labels": ("class numbers", ""),
}
"""Kinds of targets that a loss may want: what they must be, and what to do where they aren't."""


def staging_bytes(x: Any, dtype: np.dtype[Any]) -> int:
    """Bytes of the copy that `as_matrix` makes of an array or frame; 0 where it reads it in place."""
    if is_sparse(x):
        return staged_bytes(x, dtype)
    if isinstance(x, np.ndarray) and x.dtype == dtype and x.flags.c_contiguous and x.flags.aligned:
        return 0
    if (there := device_arrays.found(x)) is not None and there.dtype == dtype and there.plain:
        return 0
    return math.prod(x.shape) * dtype.itemsize


def as_targets(
    y: Any,
    kind: str | tuple[int, ...],
    outputs: int,
    dtype: DTypeLike,
    *,
    rows: int,
    name: str = "y",
    missing: bool = False,
) -> NDArray[Any] | NDArray[np.int64]:
    """Return `y` as the targets the kernels read.

    Parameters
    ----------
    y : array-like of shape (N,) or (N, O)
        As for :func:`as_matrix`; one dimension is enough for one output and for class numbers.
    kind : a key of :data:`TARGETS`, or a tuple of int
        Numbers, numbers of a range, or class numbers. For "signs" 0 becomes -1. A tuple: as many columns of class
        numbers, and how many classes each has, which become what ``fastbp.formulas.class_columns`` writes.
    outputs : int
        O, the width of the model's last layer.
    dtype : numpy.float32 or numpy.float64
        The model's precision.
    rows : int
        N, the number of rows of the inputs.
    name : str, default "y"
        What the error messages call the array.
    missing : bool, default False
        Whether targets may be missing: NaN in numbers, which become `MISSING_LABEL` in class numbers.

    Returns
    -------
    ndarray of shape (N, O) and type `dtype`, or for "labels" (N,) of int64
        C-contiguous, aligned, every value checked. It is `y` itself, or a view of it, when that already fits.

    Raises
    ------
    TypeError
        If `y` holds no real numbers.
    ValueError
        If `y` has another number of rows or columns, NaN or infinity, or a value out of the range of its kind.
    """
    table = _table(y, name, missing)
    if kind == "labels":
        return _labels(table, outputs, rows, name, missing)
    if isinstance(kind, tuple):
        return _class_columns(table, kind, outputs, np.dtype(dtype), rows, name, missing)
    if isinstance(table.source, np.ndarray) and table.source.ndim == 1 and outputs == 1:
        table = _Table(table.source.reshape(-1, 1), (table.shape[0], 1), None, flat=True)
    _check_rows(table.shape, rows, name)
    if len(table.shape) == 1:
        raise ValueError(
            f"{name} has shape {table.shape}, but the model's last layer has {outputs} outputs: pass {name} of shape "
            f"({rows}, {outputs}); class numbers go with loss='sparse_categorical_crossentropy'"
        )
    if len(table.shape) != 2 or table.shape[1] != outputs:
        raise ValueError(f"{name} has shape {table.shape}; the model's last layer wants ({rows}, {outputs})")
    staged = _stage(table, np.dtype(dtype), name, missing)
    wrong = _out_of_range(staged, kind)
    if wrong is not None:
        row, column = np.argwhere(wrong)[0]
        wanted, advice = TARGETS[kind]
        raise ValueError(
            f"{table.place(name, row, column)} is {staged[row, column]:g}; this loss wants targets {wanted}: "
            f"{advice.format(name=name)}"
        )
    if kind == "signs" and np.fmin.reduce(staged, None) == 0:
        return np.where(staged == 0, staged.dtype.type(-1), staged)
    return staged


def _out_of_range(y: NDArray[Any], kind: str) -> NDArray[np.bool_] | None:
    """Where the numbers aren't what the kind wants; None where all are."""
    low, high = np.fmin.reduce(y, None), np.fmax.reduce(y, None)
    if kind == "probabilities" and (low < 0 or high > 1):
        return (y < 0) | (y > 1)
    if kind == "not_negative" and low < 0:
        return np.asarray(y < 0)
    if kind == "positive" and low < np.finfo(y.dtype).tiny:  # kernels take what is smaller for 0
        return np.asarray(y < np.finfo(y.dtype).tiny)
    if kind == "signs":
        wrong = (np.abs(y) != 1) & ((y != 0) | (low < 0)) & (y == y)
        return wrong if wrong.any() else None
    return None


def as_rows(rows: Any, count: int, *, name: str = "rows") -> NDArray[np.int64]:
    """Return the numbers of the rows that `rows` selects, as the kernels look through them.

    Parameters
    ----------
    rows : array-like of shape (M,), or (N,) of booleans
        Row numbers from 0 in any order, repeats allowed, or a mask.
    count : int
        N, the rows of the data.
    name : str, default "rows"
        What the error messages call the array.

    Returns
    -------
    ndarray of shape (M,) and type int64
        C-contiguous, aligned, each from 0 to N - 1. It is `rows` itself when that already fits.

    Raises
    ------
    TypeError
        If `rows` holds something else than whole numbers or booleans.
    ValueError
        If `rows` selects no row, has other than one dimension, holds a number that names no row, or is a mask of
        another length.
    """
    try:
        values = np.asarray(rows)
    except ValueError:  # ragged
        values = np.empty((0, 0))
    if values.ndim != 1:
        came = f"has {values.ndim} dimensions" if values.ndim else f"is {rows!r}"
        raise ValueError(
            f"{name} {came}; wanted one index array or boolean mask (of scikit-learn's splits: "
            "rows, validation_rows = zip(*splitter.split(x)))"
        )
    if values.dtype.kind == "b" and len(values) != count:
        raise ValueError(f"{name} is a mask of {len(values)} rows; x has {count} rows")
    if not values.size or (values.dtype.kind == "b" and not values.any()):
        raise ValueError(f"{name} selects no row; wanted at least one")
    if values.dtype.kind not in "bui":
        raise TypeError(f"{name} holds {values.dtype} values; wanted row numbers (integers) or a boolean mask")
    if values.dtype.kind == "b":
        return np.flatnonzero(values).astype(np.int64)
    for extreme in (values.min(), values.max()):
        if not 0 <= extreme < count:
            raise ValueError(f"{name} holds {extreme}, but the rows of x are numbered 0 to {count - 1}")
    return np.require(values, np.int64, ["C_CONTIGUOUS", "ALIGNED"])


def as_pair(value: Any, name: str) -> tuple[Any, Any]:
    """Return the two parts of `value`, or say that a pair was wanted."""
    try:
        x, y = value
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a pair (x, y)") from None
    return x, y


def checked_share(validation_split: Any) -> float:
    """The share of the rows held back, if it is one between 0 and 1."""
    if not isinstance(validation_split, (float, np.floating)) or not 0 < validation_split < 1:
        raise ValueError(f"validation_split is {validation_split}; it is a share of the rows, between 0 and 1")
    return float(validation_split)


def split_at(rows: int, validation_split: float) -> int:
    """How many rows are trained on, where the last are held back: floor(N * (1 - validation_split)), Keras' rule.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or leaves one of the parts empty.
    """
    at = math.floor(rows * (1 - checked_share(validation_split)))
    if at in (0, rows):
        raise ValueError(
            f"validation_split={validation_split} of {rows} rows leaves {at} to train on and {rows - at} to "
            "validate on: pass more rows, another share, or validation_data=(x, y)"
        )
    return at


def _table(x: Any, name: str, missing: bool = False) -> _Table:
    if (found := columns_of(x)) is not None:
        return _frame(x, *found, name, missing)
    values = _numbers(_array(x, name, missing), name)
    return _Table(values, values.shape, None)


def _frame(x: Any, names: list[str], columns: list[Any], name: str, missing: bool = False) -> _Table:
    """Take a frame's columns as they are; those of pandas that lie in one array are one already."""
    if one_block(columns):
        values = x.to_numpy()
        return _Table(_numbers(values, name), values.shape, names)
    source = [
        _numbers(_array(column, f"column {c!r} of {name}", missing), name, c)
        for c, column in zip(names, columns, strict=True)
    ]
    if odd := next((c for c, values in zip(names, source, strict=True) if values.ndim != 1), None):
        raise TypeError(f"column {odd!r} of {name} holds several values a row; wanted one: make a column of each")
    return _Table(source, (len(source[0]) if source else 0, len(names)), names)


def _array(x: Any, name: str, missing: bool = False) -> NDArray[Any]:
    """Return `x` as an array of whatever type, what is missing as NaN if it may be; or say what it is.

    An array on a GPU comes to main memory.
    """
    x = device_arrays.on_host(x, name)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        masked = np.count_nonzero(np.ma.getmaskarray(x))
        raise ValueError(
            f"{name} has {masked} masked values; networks need every number: drop those rows, or fill them with "
            f"{name}.filled(value)"
        )
    if is_sparse(x):
        raise TypeError(f"{name} is a sparse matrix; sparse rows are for x: pass {name}.toarray()")
    if hasattr(x, "to_numpy"):
        gaps = np.asarray(x.isna() if hasattr(x, "isna") else x.is_null() if hasattr(x, "is_null") else False)
        if gaps.any() and not missing:
            count = int(np.count_nonzero(gaps))
            raise ValueError(
                f"{name} contains NaN or infinity: {count} missing value{'s' * (count > 1)}, the first in row "
                f"{np.argmax(gaps)}; fill them or drop those rows"
            )
        if gaps.any() and hasattr(x, "isna"):
            return np.asarray(x.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(x) if from_arrow(x) else np.asarray(x.to_numpy())
    try:
        values = np.asarray(foreign(x, name))
    except ValueError:
        if not isinstance(x, (list, tuple)):
            raise
        lengths = [np.size(row) for row in x]
        odd = next((i for i, n in enumerate(lengths) if n != lengths[0]), None)
        if odd is None:
            raise
        raise ValueError(
            f"{name} is ragged: {name}[{odd}] has {lengths[odd]} values, {name}[0] has {lengths[0]}; every row must be "
            "as long as the others"
        ) from None
    if values.ndim == 0 and values.dtype.kind in "OUS":
        came = f"text ({x!r})" if isinstance(x, (str, bytes)) else "None" if x is None else f"a {type(x).__name__}"
        advice = f" ({name}.collect() makes one)" if hasattr(x, "collect") else ""
        if isinstance(x, str):
            advice = "; of files .npy and .parquet can be named, read others first (pandas.read_csv)"
        raise TypeError(f"{name} is {came}; wanted a table of numbers: an array, a list of rows or a DataFrame{advice}")
    return values


def _numbers(values: NDArray[Any], name: str, column: str | None = None) -> NDArray[Any]:
    """Return real numbers of whatever width, or say which cell is none."""
    if values.dtype.kind in "fiub":
        return values
    label = name if column is None else f"column {column!r} of {name}"
    if values.dtype.kind == "O":
        cells = values.ravel()
        bad = next((i for i, cell in enumerate(cells) if not _is_number(cell)), None)
        if bad is None:
            return values.astype(np.float64)
        at = ", ".join(str(int(i)) for i in np.unravel_index(bad, values.shape))
        text = isinstance(cells[bad], (str, bytes))
        if text and values.ndim == 1 and column is None:
            advice = f"encode it as numbers (classes: np.unique({name}, return_inverse=True)[1])"
        else:
            advice = f"encode it as numbers{' (fb.TabularEncoder does)' * text} or drop the column"
        raise TypeError(
            f"{label} holds {cells[bad]!r} ({type(cells[bad]).__name__}) at [{at}]; wanted numbers: {advice}"
        )
    what = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates", "m": "time spans", "V": "records"}
    first = f" (the first: {values.flat[0]!s})" if values.size and values.dtype.kind in "USMm" else ""
    raise TypeError(
        f"{label} holds {what.get(values.dtype.kind, f'{values.dtype} values')}{first}; wanted real numbers: "
        f"{'pass .real or .imag' if values.dtype.kind == 'c' else 'encode them as numbers'}"
        + (" (classes: np.unique(y, return_inverse=True))" if values.dtype.kind in "US" and values.ndim == 1 else "")
    )


def _is_number(value: Any) -> bool:
    if value is None:  # NumPy reads it as NaN, which the check for finite values reports
        return True
    if isinstance(value, (str, bytes, complex)):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _check_matrix_shape(shape: tuple[int, ...], name: str, width: int | None) -> None:
    if len(shape) == 1:
        raise ValueError(
            f"{name} has one dimension, shape {shape}; wanted rows and columns: {name}.reshape(-1, 1) for "
            f"{shape[0]} rows of one column, {name}.reshape(1, -1) for one row"
        )
    if len(shape) != 2:
        hint = f": {name}.reshape(len({name}), -1) makes each item one row" if len(shape) > 2 else ""
        raise ValueError(f"{name} has {len(shape)} dimensions, shape {shape}; wanted two, rows and columns{hint}")
    if shape[0] == 0 or shape[1] == 0:
        missing = "rows" if shape[0] == 0 else "columns"
        raise ValueError(f"{name} is empty: it has no {missing} (0 {missing}; shape {shape}), at least one is wanted")
    if width is not None and shape[1] != width:
        raise ValueError(f"{name} has {shape[1]} columns, shape {shape}; the model takes {width} columns")


def _check_rows(shape: tuple[int, ...], rows: int, name: str) -> None:
    if not shape or shape[0] != rows:
        raise ValueError(f"{name} has shape {shape}, but x has {rows} rows: each row of x wants its row of {name}")


def _stage(table: _Table, dtype: np.dtype[Any], name: str, missing: bool = False, look: bool = True) -> NDArray[Any]:
    """Copy (where needed) and check (what is copied, and else by `look`) a block at a time, while it is in cache.

    A finite sum proves that every term is finite; a sum that is not may be an overflow, so only then each is looked at.
    """
    source, (rows, columns) = table.source, table.shape
    if isinstance(source, np.ndarray) and source.dtype == dtype and source.flags.c_contiguous and source.flags.aligned:
        out, copied = source, False
    else:
        out, copied = np.empty((rows, columns), dtype), True
    arrays = source if isinstance(source, list) else [source]
    check = (copied or look) and any(a.dtype.kind == "f" for a in arrays)
    step = max(1, _BLOCK // columns)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows, step) if check or copied else ():
            part = out[start : start + step]
            if copied:
                table.rows(start, start + step, part)
            if check and not math.isfinite(part.sum()):
                bad = np.isinf(part) if missing else ~np.isfinite(part)
                if not bad.any():
                    continue
                row, column = np.argwhere(bad)[0]
                raise _not_finite(table, start + int(row), int(column), dtype, name)
    return out


def _not_finite(table: _Table, row: int, column: int, dtype: np.dtype[Any], name: str) -> ValueError:
    value, place = table.cell(row, column), table.place(name, row, column)
    if np.isfinite(value):
        return ValueError(
            f"{place} is {value:g}, too large for {dtype} (at most {np.finfo(dtype).max:.2g}): scale the data"
            + (", or build the model with dtype='float64'" if dtype == np.float32 else "")
        )
    count = table.count_not_finite()
    return ValueError(
        f"{name} contains NaN or infinity: {count} of {math.prod(table.shape)} values, the first {value} at {place}; "
        "fill them or drop those rows"
    )


def _class_columns(
    table: _Table, classes: tuple[int, ...], outputs: int, dtype: np.dtype[Any], rows: int, name: str, missing: bool
) -> NDArray[Any]:
    """Return the targets of several columns of class numbers."""
    if outputs != sum(classes):
        raise ValueError(f"the model's last layer has {outputs} outputs; {name}'s columns have {sum(classes)} classes")
    _check_rows(table.shape, rows, name)
    if table.shape[1:] != (len(classes),):
        raise ValueError(
            f"{name} has shape {table.shape}; this loss wants class numbers of shape {(rows, len(classes))}"
        )
    staged = _stage(table, np.dtype(np.float64), name, missing)
    numbers = np.empty(staged.shape, np.int64)
    for column, count in enumerate(classes):
        own = _Table(np.ascontiguousarray(staged[:, column]), (rows,), None)
        place = f"{name}[:, {column}]"
        numbers[:, column] = _labels(own, count, rows, place, missing, f"column {column} has {count} classes")
    return marks(numbers, classes, dtype)


def _labels(
    table: _Table, classes: int, rows: int, name: str, missing: bool = False, have: str = ""
) -> NDArray[np.int64]:
    """Return class numbers (N,), each 0 <= label < classes, or `MISSING_LABEL` where it may be missing.

    have : who has so many classes, in words
    """
    of, have = have, have or f"the model's last layer has {classes} output{'s' * (classes > 1)}"
    shape = table.shape
    _check_rows(shape, rows, name)
    if len(shape) == 2 and shape[1] == classes > 1:
        raise ValueError(
            f"{name} has shape {shape}, one column per class, but this loss wants class numbers: pass "
            f"np.argmax({name}, axis=1), or use loss='categorical_crossentropy'"
        )
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(f"{name} has shape {shape}; this loss wants one class number per row, shape ({rows},)")
    labels = np.ravel(table.source[0] if isinstance(table.source, list) else table.source)
    gaps = np.isnan(labels) if missing and labels.dtype.kind == "f" else None
    if gaps is not None and gaps.any():
        known = _Table(np.where(gaps, 0, labels), (rows,), table.columns)
        return np.where(gaps, MISSING_LABEL, _labels(known, classes, rows, name, have=have))
    bad = (labels < 0) | (labels >= classes)
    if labels.dtype.kind == "f":
        bad |= labels != np.floor(labels)
        bad |= np.isnan(labels)
    if bad.any():
        row = int(np.argmax(bad))
        if not np.isfinite(labels[row]):
            why = "NaN or infinity is no class: fill it or drop the row"
        elif labels[row] != np.floor(labels[row]):
            why = "class numbers are whole; for a regression use loss='mean_squared_error'"
        else:
            why = f"{have}, so class numbers go from 0 to {classes - 1}"
            if labels.min() == 1 and labels.max() == classes:
                why += f": pass {name} - 1"
            elif not of and labels.min() >= 0:
                wanted, there = int(labels.max()) + 1, len(np.unique(labels))
                why += (
                    f": give that layer {wanted} outputs"
                    if wanted <= 2 * there
                    else f": number the classes from 0, np.unique({name}, return_inverse=True)[1]"
                )
        raise ValueError(f"{name}[{row}] is {labels[row]}: {why}")
    return np.require(labels, np.int64, ["C_CONTIGUOUS", "ALIGNED"])
