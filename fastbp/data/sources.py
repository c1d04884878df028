"""Floor 2: rows that needn't be in memory: arrays on disk, folders of files, and batches that an iterator gives.

`Stored` rows are read by place, a run at a time; a `Stream` is gone through. `opened` tells them from arrays.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastbp.data.sparse import is_sparse

Array = NDArray[Any]
Rows = tuple[Any, Any, Any]
"""x, y and the sample weights of some rows as they were read; None for what isn't there."""
FORMATS = (".npy", ".parquet")
KNOWN_ROWS = 64
"""Rows, spread evenly, by which a checkpoint knows data on disk again."""


class StreamError(ValueError):
    """Batches that ended early, or that don't fit those before them; what was learned from the others stays."""


class _Column(Protocol):
    """Rows of one of x, y and the weights."""

    def __len__(self) -> int: ...
    @property
    def width(self) -> tuple[int, ...]: ...
    def read(self, start: int, stop: int) -> Any: ...
    def borders(self) -> list[int]: ...


class _Stack:
    """Arrays of one width on top of each other."""

    def __init__(self, arrays: Sequence[Array], names: Sequence[str]) -> None:
        for array, name in zip(arrays, names, strict=True):
            if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:]:
                raise ValueError(
                    f"{name} has the shape {array.shape}, {names[0]} {arrays[0].shape}: one width is wanted"
                )
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def width(self) -> tuple[int, ...]:
        return self._arrays[0].shape[1:]

    def read(self, start: int, stop: int) -> Array:
        """The rows as one array; where they are one file's, they stay there."""
        parts = [
            array[max(0, start - first) : stop - first]
            for array, (first, end) in zip(self._arrays, pairwise(self._starts), strict=True)
            if start < end and first < stop
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def borders(self) -> list[int]:
        """Where a file ends, and where the next can be read from: anywhere."""
        return []


class _Parquet:
    """Some columns of Parquet files, read a row group at a time.

    Parameters
    ----------
    paths : the files
    leave, take : columns that are left out, or those that are wanted, by default all
    flat : whether it is one column of numbers, not rows
    whole : whether a null is an error
    """

    def __init__(
        self,
        paths: Sequence[Path],
        leave: Sequence[str],
        take: Sequence[str] = (),
        *,
        flat: bool = False,
        whole: bool = True,
    ) -> None:
        try:
            import pyarrow.parquet as pq
            from pyarrow.types import is_boolean, is_decimal, is_floating, is_integer
        except ImportError as error:
            raise ImportError("reading Parquet files needs pyarrow: pip install 'fastbp[arrow]'") from error
        self._paths, self._files = paths, []
        for path in paths:
            try:
                self._files.append(pq.ParquetFile(path))
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} is no Parquet file, or is damaged: {error}") from None
        schema = self._files[0].schema_arrow
        for path, file in zip(paths, self._files, strict=True):
            if not file.schema_arrow.equals(schema):
                raise ValueError(
                    f"{path} has other columns than {paths[0]}: {file.schema_arrow.names}, not {schema.names}"
                )
        if missing := [name for name in [*leave, *take] if name not in schema.names]:
            raise ValueError(f"{paths[0]} has no column {missing[0]!r}; it has {', '.join(map(repr, schema.names))}")
        self.names = list(take) or [name for name in schema.names if name not in leave]
        for name in self.names:
            kind = schema.field(name).type
            if not any(fits(kind) for fits in (is_integer, is_floating, is_boolean, is_decimal)):
                raise TypeError(
                    f"column {name!r} of {paths[0]} holds {kind}; wanted numbers: encode it as numbers "
                    "(fb.TabularEncoder does), or leave it out"
                )
        self._whole = whole
        self._flat = flat
        self._groups = [(f, g) for f, file in enumerate(self._files) for g in range(file.num_row_groups)]
        sizes = [self._files[f].metadata.row_group(g).num_rows for f, g in self._groups]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._kept: dict[int, Array] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def width(self) -> tuple[int, ...]:
        return () if self._flat else (len(self.names),)

    def borders(self) -> list[int]:
        """Where the row groups begin and end."""
        return list(self._starts)

    def read(self, start: int, stop: int) -> Array:
        """The rows as one array of the columns."""
        parts = []
        for group, (first, end) in enumerate(pairwise(self._starts)):
            if start < end and first < stop:
                parts.append(self._group(group)[max(0, start - first) : stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _group(self, group: int) -> Array:
        """A row group's rows; the last one read is kept."""
        with self._lock:  # pyarrow's files are not for several threads
            if group not in self._kept:
                file, number = self._groups[group]
                table = self._files[file].read_row_group(number, columns=self.names)
                for name in self.names if self._whole else ():
                    column = table.column(name)
                    if column.null_count:
                        row = self._starts[group] - self._starts[self._groups.index((file, 0))]
                        raise ValueError(
                            f"column {name!r} of {self._paths[file]} has missing values, the first in row "
                            f"{row + column.is_null().index(True).as_py():,}: fill them or leave those rows out"
                        )
                columns = [table.column(name).to_numpy() for name in self.names]
                self._kept = {group: columns[0] if self._flat else np.column_stack(columns)}
            return self._kept[group]


class Stored:
    """Rows on disk that can be read from any place.

    Parameters
    ----------
    x, y, weights : their columns; None for what isn't there

    Attributes
    ----------
    width : columns of x
    names : what these are called, in Parquet files; else None
    numbers : which rows they are, where they are a part of others

    Raises
    ------
    ValueError : another number of rows than x has
    """

    def __init__(
        self, x: _Column, y: _Column | None, weights: _Column | None, numbers: Sequence[int] | Array | None = None
    ) -> None:
        if len(x.width) != 1:
            raise ValueError(f"x holds rows of shape {x.width}; wanted rows and columns of numbers")
        for name, column in (("y", y), ("sample_weight", weights)):
            if column is not None and len(column) != len(x):
                raise ValueError(f"{name} has {len(column)} rows, x has {len(x)}: each row of x wants its own")
        if not len(x):
            raise ValueError("x has no rows")
        self._columns, self.width = (x, y, weights), x.width[0]
        self.names: list[str] | None = getattr(x, "names", None)
        self.numbers = range(len(x)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._columns[0])

    @property
    def targets(self) -> bool:
        """Whether there is a y."""
        return self._columns[1] is not None

    def read(self, start: int, stop: int) -> Rows:
        """A run of rows."""
        x, y, weights = (None if column is None else column.read(start, stop) for column in self._columns)
        return x, y, weights

    def part(self, start: int, stop: int) -> "Stored":
        """A run of the rows as a source of its own."""
        x, y, weights = (None if column is None else _Part(column, start, stop) for column in self._columns)
        assert x is not None
        return Stored(x, y, weights, self.numbers[start:stop])

    def chosen(self, rows: NDArray[np.int64]) -> "Stored":
        """Some of the rows, by their places in ascending order, as a source of its own."""
        x, y, weights = (None if column is None else _Chosen(column, rows) for column in self._columns)
        assert x is not None
        return Stored(x, y, weights, np.asarray(self.numbers)[rows])

    def targets_read(self, rows: int) -> Iterator[Any]:
        """The targets alone, so many rows at a time."""
        y = self._columns[1]
        if y is not None:
            for start in range(0, len(y), rows):
                yield y.read(start, min(len(y), start + rows))

    def chunks(self, rows: int) -> list[tuple[int, int]]:
        """Runs of rows that are read together: about so many, and no part of what is read at once."""
        borders = self._columns[0].borders() or list(range(0, len(self), rows))
        return list(pairwise([*borders, len(self)] if borders[-1] < len(self) else borders))

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What the rows are, as plain data: shapes, and a digest of some of them."""
        digest = blake2b(digest_size=16)
        for row in np.unique(np.linspace(0, len(self) - 1, KNOWN_ROWS).astype(int)).tolist():
            for values in self.read(row, row + 1):
                if values is not None:
                    digest.update(np.ascontiguousarray(values).data)
        shapes = [None if column is None else [len(column), *column.width] for column in self._columns]
        return {"shapes": dict(zip(("x", "y", "weights"), shapes, strict=True)), "digest": digest.hexdigest()}


class _Part:
    """Some rows of a column."""

    def __init__(self, column: _Column, start: int, stop: int) -> None:
        self._column, self._start, self._stop, self.width = column, start, stop, column.width

    def __len__(self) -> int:
        return self._stop - self._start

    def read(self, start: int, stop: int) -> Any:
        return self._column.read(self._start + start, min(self._stop, self._start + stop))

    def borders(self) -> list[int]:
        inside = [border - self._start for border in self._column.borders() if self._start < border < self._stop]
        return [0, *inside, len(self)] if self._column.borders() else []


class _Chosen:
    """Some rows of a column, in ascending order."""

    def __init__(self, column: _Column, rows: NDArray[np.int64]) -> None:
        self._column, self._rows, self.width = column, rows, column.width

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> Any:
        """The rows as one array; no more are read at a time than are wanted."""
        wanted, parts = self._rows[start:stop], []
        while len(wanted):
            first = int(wanted[0])
            inside = wanted[: np.searchsorted(wanted, first + stop - start)] - first
            parts.append(self._column.read(first, first + int(inside[-1]) + 1)[inside])
            wanted = wanted[len(inside) :]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def borders(self) -> list[int]:
        return np.unique(np.searchsorted(self._rows, self._column.borders())).tolist()


class Stream:
    """Batches from an iterator, each (x, y) or (x, y, sample_weight).

    Parameters
    ----------
    make : returns the iterator of an epoch
    once : whether there is but one, which is gone through once

    Attributes
    ----------
    width, first_rows : columns and rows of the first batch, which is read now
    """

    def __init__(self, make: Callable[[], Iterator[Any]], once: bool) -> None:
        self._make, self.once = make, once
        self._read = 0
        self._iterator = self._fresh()
        first = self._next()
        if first is None:
            raise StreamError("x is an iterator that gives no batch")
        self._first: list[Rows] = [self._checked(first, None)]
        shape = shape_of(self._first[0][0])
        self.first_rows, self.width = int(shape[0]), int(shape[1])

    @property
    def targets(self) -> bool:
        """Whether the batches have a y."""
        return self._first[0][1] is not None if self._first else True

    def batches(self) -> Iterator[Rows]:
        """The batches of an epoch; those of the one iterator that there is, from where it stands."""
        if self._first:  # of the iterator that was looked into
            yield self._first.pop()
        elif not self.once:
            self._read, self._iterator = 0, self._fresh()
        while (item := self._next()) is not None:
            yield self._checked(item, self.width)

    def _fresh(self) -> Iterator[Any]:
        made = self._make()
        try:
            return iter(made)
        except TypeError:
            raise TypeError(
                f"x is a function that returned {made!r}; wanted one that returns an iterator of batches (x, y)"
            ) from None

    def _next(self) -> Any:
        """What the iterator gives next, None where it ends; what it raises says at which batch."""
        try:
            return next(self._iterator, None)
        except Exception as error:
            error.add_note(f"raised by the iterator for batch {self._read + 1}; what was learned before it stays")
            raise

    def _checked(self, item: Any, width: int | None) -> Rows:
        """A batch's parts.

        Raises
        ------
        StreamError : no batch, or one of another width than the first; it says which
        """
        self._read += 1
        parts = item if isinstance(item, (tuple, list)) else (item,)
        if not 1 <= len(parts) <= 3:
            raise StreamError(f"batch {self._read} has {len(parts)} parts; wanted (x, y) or (x, y, sample_weight)")
        x, y, weights = (*parts, None, None)[:3]
        if isinstance(x, (Mapping, str, bytes)) or x is None:
            came = "None" if x is None else f"a {type(x).__name__}"
            raise StreamError(f"batch {self._read} is {came}; wanted (x, y) or (x, y, sample_weight)")
        x = x.tocsr() if is_sparse(x) else x
        shape = shape_of(x)
        if len(shape) != 2 or (width is not None and shape[1] != width):
            wanted = "(rows, columns)" if width is None else f"(rows, {width}), as the first"
            one = " (a loader's batch, not one row of its data set)" if len(shape) == 1 else ""
            raise StreamError(f"x of batch {self._read} has the shape {shape}; wanted {wanted}{one}")
        if not shape[0]:
            raise StreamError(f"batch {self._read} has no rows; wanted at least one: leave such batches out")
        for name, part in (("y", y), ("sample_weight", weights)):
            if part is not None and len(part) != shape[0]:
                raise StreamError(f"{name} of batch {self._read} has {len(part)} rows, x has {shape[0]}")
        return x, y, weights

    @property
    def identity(self) -> dict[str, Any]:
        """What the batches are, as plain data: nobody can tell without going through them."""
        return {"stream": "one iterator" if self.once else "an iterator an epoch", "width": self.width}


Source = Stored | Stream


def shape_of(x: Any) -> tuple[int, ...]:
    """Shape of rows, sparse ones too."""
    shape: tuple[int, ...] = x.shape if is_sparse(x) else np.shape(x)
    return shape


def opened(x: Any, y: Any = None, weights: Any = None) -> Source | None:
    """The source that x (with y and the weights) names; None where they are arrays in memory.

    Parameters
    ----------
    x : path of an .npy or Parquet file, or of a folder of them (in the order of their names); a memory map; an iterator
        or generator of batches; a function that makes one for each epoch; or anything else that can be iterated again,
        such as a data loader, or that gives its batches by number, such as Keras' PyDataset
    y : for .npy files and maps an array, a map, or a path as x; for Parquet the name of the target column, or names
    weights : an array, a map, or a path; for Parquet the name of the column

    Raises
    ------
    FileNotFoundError, ValueError : a path that holds nothing to read, rows that don't match, y beside an iterator
    """
    if isinstance(x, str) and Path(x).suffix not in FORMATS and not os.path.exists(x):
        return None  # text that is no path
    if isinstance(x, (str, os.PathLike)):
        paths = _files(Path(x))
        if paths[0].suffix == ".parquet":
            return _of_parquet(paths, y, weights)
        return Stored(_stack(x, "x"), _column(y, "y"), _column(weights, "sample_weight"))
    if isinstance(x, np.memmap):
        return Stored(_Stack([x], ["x"]), _column(y, "y"), _column(weights, "sample_weight"))
    if hasattr(x, "shape") or hasattr(x, "columns") or isinstance(x, (list, tuple)) or not _gives(x):
        return None
    if y is not None or weights is not None:
        raise ValueError("x gives batches of (x, y) or (x, y, sample_weight) itself: leave out y and sample_weight")
    if callable(x):
        return Stream(x, once=False)
    if isinstance(x, Iterable):
        return Stream(lambda: iter(x), once=hasattr(x, "__next__"))
    return Stream(lambda: map(x.__getitem__, range(len(x))), once=False)


def _gives(x: Any) -> bool:
    """Whether x gives batches."""
    numbered = hasattr(x, "__len__") and hasattr(x, "__getitem__")
    many = callable(x) or isinstance(x, Iterable) or numbered
    return many and not isinstance(x, (str, bytes, dict, set, np.generic))


def _files(path: Path) -> list[Path]:
    """The path itself, or the files of the folder."""
    if not path.exists():
        raise FileNotFoundError(
            f"x is {os.fspath(path)!r}, and there is no such file or folder; wanted a table of numbers, an .npy or "
            "Parquet file, or a folder of them"
        )
    found = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in FORMATS)
    kinds = {p.suffix for p in found}
    if len(kinds) != 1 or not kinds <= set(FORMATS):
        came = f"both {' and '.join(sorted(kinds))} files" if len(kinds) > 1 else "none"
        what = f"is a {path.suffix or 'plain'} file" if path.is_file() else f"holds {came}"
        raise ValueError(f"{path} {what}; wanted an .npy or .parquet file, or a folder of files of one of the two")
    return found


def _stack(path: str | os.PathLike[str], name: str) -> _Stack:
    paths = _files(Path(path))
    try:
        arrays = [np.load(p, mmap_mode="r") for p in paths]
    except ValueError as error:
        raise ValueError(f"{name}: {path} can't be read in place: {error}") from None
    return _Stack(arrays, [str(p) for p in paths])


def _column(given: Any, name: str) -> _Column | None:
    if given is None:
        return None
    if isinstance(given, (str, os.PathLike)):
        return _stack(given, name)
    return _Stack([given if isinstance(given, np.ndarray) else np.asarray(given)], [name])


def _of_parquet(paths: Sequence[Path], y: Any, weights: Any) -> Stored:
    one = isinstance(y, str)
    targets = [y] if one else list(y if y is not None else [])
    if not all(isinstance(name, str) for name in targets) or not isinstance(weights, (str, type(None))):
        raise TypeError(f"x is of Parquet files: y and sample_weight name columns of them, got y={y!r}")
    leave = [*targets, *([weights] if weights else [])]
    return Stored(
        _Parquet(paths, leave),
        _Parquet(paths, (), targets, flat=one, whole=False) if targets else None,
        _Parquet(paths, (), [weights], flat=True) if weights else None,
    )
