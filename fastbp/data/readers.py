"""Floor 2: files and named data sets -> `Dataset`: CSV, NPY, NPZ and IDX, and the sets inside scikit-learn.

Nothing read can run code: arrays are loaded without pickle. A file that is not what it should be is answered with the
file, the line, the column and what stands there.
"""

import csv
import difflib
import gzip
import importlib
import itertools
import re
import sys
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastbp.data import mixed_columns
from fastbp.data.csv_files import SKIP, CsvFile, is_number
from fastbp.data.frames import Frame, as_frame
from fastbp.data.idx_files import idx_array, idx_labels
from fastbp.data.staging import as_matrix

BUILTIN = {
    "digits": "digit",
    "iris": "species",
    "wine": "cultivar",
    "breast_cancer": "diagnosis",
    "diabetes": "progression",
}
"""The sets that come with scikit-learn, and what is to be predicted in each."""
FORMATS = ".csv, .tsv, .parquet, .arrow, .npy, .npz, .libsvm or IDX (such as train-images-idx3-ubyte.gz)"
STANDARD_INPUT = "-"
MOST_CLASSES = 20
MOST_DENSE_BYTES = 8 << 30
MOST_TARGET = 1e150
"""The squares of some thousand larger numbers are beyond float64."""

_NPZ_NAMES = {
    "x": ("x", "X", "data", "x_train", "X_train"),
    "y": ("y", "Y", "target", "y_train", "Y_train"),
    "x_test": ("x_test", "X_test"),
    "y_test": ("y_test", "Y_test"),
}
_DAMAGED_ARCHIVE = (
    *(ValueError, TypeError, KeyError, RuntimeError, OSError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy and zipfile raise on an archive with changed bytes."""


@dataclass
class Dataset:
    """A table of numbers and its target column.

    Attributes
    ----------
    name : str
        The data set's or the file's name.
    x : ndarray of shape (N, I), float32 or float64, or Frame
        The inputs; a `Frame` where some are text or missing.
    y : ndarray of shape (N,) or None
        Class numbers (int64) if `classes` is given, else numbers (float64); None if there is no target column.
    feature_names : list of I str
        The columns' names; ``column0``, ``column1`` ... where the file has none.
    target_name : str or None
        The target column's name.
    classes : list of str or None
        What the class numbers stand for; None for a regression.
    test : Dataset or None
        The test rows, where the source sets them apart.
    ids : sequence or None
        What identifies the rows, where the source has such a column.
    ids_name : str or None
        That column's name.
    lines : ndarray of shape (N,) or None
        The file's line of each row, where it has lines; its row, where rows were left out of one without.
    skipped : list of (int, str)
        Lines or rows that were left out, and why.
    counted : {"line", "row"}
        What those numbers count.
    """

    name: str
    x: NDArray[Any] | Frame
    y: NDArray[Any] | None
    feature_names: list[str]
    target_name: str | None
    classes: list[str] | None
    test: "Dataset | None" = None
    ids: Sequence[Any] | None = None
    ids_name: str | None = None
    lines: NDArray[np.int64] | None = None
    skipped: list[tuple[int, str]] = field(default_factory=list)
    counted: str = "row"

    @property
    def frame(self) -> Frame:
        """The inputs with their columns' names."""
        return self.x if isinstance(self.x, Frame) else Frame.of_matrix(self.x, self.feature_names)

    def take(self, rows: NDArray[np.intp]) -> "Dataset":
        """Some of the rows."""
        y, lines = (None if array is None else array[rows] for array in (self.y, self.lines))
        ids = None if self.ids is None else [self.ids[row] for row in rows]
        return replace(self, x=self.x[rows], y=y, ids=ids, lines=lines)


def load(
    source: str | Path,
    target: str | int | None = None,
    *,
    task: str = "auto",
    columns: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    mixed: bool = False,
    categorical: Sequence[str] = (),
    texts: Sequence[str] | None = None,
    ids: str | None = None,
    skip: bool = False,
) -> Dataset:
    """Read a file or one of scikit-learn's own data sets.

    Parameters
    ----------
    source : str or path
        ``digits``, ``iris``, ``wine``, ``breast_cancer``, ``diabetes``, or a file: ``.csv``, ``.tsv``, ``.parquet``,
        ``.arrow`` (a file or a stream) or ``.feather``, ``.npy`` (a table), ``.npz`` (arrays x and y, or
        x_train, y_train, x_test, y_test), ``.libsvm`` or ``.svm`` (made dense), IDX (the labels' file beside
        it), or ``-`` for CSV on standard input.
    target : str or int, optional
        The target column's name, or its position from 0 (negative: from the end). Default: the last column; with
        `columns`, no target is read.
    task : {"auto", "classification", "regression"}, default "auto"
        What the target is. "auto" takes text as classes, and whole numbers of which there are at most 20 different
        ones, each on average in two rows or more; all else is a regression.
    columns : sequence of str, optional
        The input columns a trained model wants: found by name in any order, others are left out. In a file without
        names they are found by position; of an ``.npz`` with a test set, only that is read.
    classes : sequence of str, optional
        The classes a trained model knows; a target that is none of them is an error.
    ignore : sequence of str
        Columns left out.
    mixed : bool, default False
        Whether input columns may be text or have gaps; `Dataset.x` is then a `Frame` where some do.
    categorical : sequence of str
        With `mixed`, columns whose numbers are text.
    texts : sequence of str, optional
        With `mixed`, the columns of text that a trained model knows; all others must be numbers.
    ids : str, optional
        With `mixed`, a column that identifies the rows and is no input.
    skip : bool, default False
        With `mixed`, leave out lines of a CSV file that are no rows of the table, and rows of other files without a
        target, and list them in `Dataset.skipped`.

    Returns
    -------
    Dataset
        All values finite.

    Raises
    ------
    FileNotFoundError
        If there is no such file or data set.
    ValueError
        If the file is not what its name says, is damaged, or holds text, gaps, NaN or infinity among its numbers; if a
        column is missing.
    ImportError
        If a data set of scikit-learn is wanted and it is not installed.
    """
    if task not in ("auto", "classification", "regression"):
        raise ValueError(f"task is {task!r}; wanted 'auto', 'classification' or 'regression'")
    path = Path(source)
    if str(source) == STANDARD_INPUT:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "input.csv"
            path.write_bytes(sys.stdin.buffer.read())
            want = _Want("standard input", target, task, columns, classes, ignore, mixed, categorical, texts, ids, skip)
            return _read(path, ".csv", want)
    want = _Want(path.name, target, task, columns, classes, ignore, mixed, categorical, texts, ids, skip)
    if str(source) in BUILTIN:
        return want.judged(_builtin(str(source), want))
    if not path.is_file():
        if path.exists():
            raise ValueError(
                f"{source} is {'a folder' if path.is_dir() else 'no regular file'}; wanted a file: {FORMATS}"
            )
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = _nearest(path.name, [*BUILTIN, *beside])
        raise FileNotFoundError(
            f"there is no file {source}"
            + (f"; did you mean {near}?" if near else f", nor a data set of that name: {', '.join(BUILTIN)}")
        )
    return _read(path, path.name.lower().removesuffix(".gz"), want)


def _read(path: Path, bare: str, want: "_Want") -> Dataset:
    """Read a file whose name tells its format."""
    try:
        for endings, reader in _READERS.items():
            if bare.endswith(endings):
                return want.judged(reader(path, want))
        if re.search(r"idx\d?(-ubyte)?$", bare):
            return want.judged(_idx(path, want))
    except UnicodeDecodeError as error:
        want.fail(f"is not UTF-8 text (byte {error.object[error.start]:#04x}): save it as UTF-8")
    except (EOFError, csv.Error, gzip.BadGzipFile, zlib.error) as error:
        want.fail(str(error))
    raise ValueError(f"{path.name} is of no known format; wanted {FORMATS}")


@dataclass
class _Want:
    """What the caller asked for, and the choices that follow from it."""

    source: str
    target: str | int | None
    task: str
    columns: Sequence[str] | None
    classes: Sequence[str] | None
    ignore: Sequence[str]
    mixed: bool = False
    categorical: Sequence[str] = ()
    texts: Sequence[str] | None = None
    ids: str | None = None
    skip: bool = False
    unseen: dict[int, str] = field(default_factory=dict, init=False)

    def fail(self, what: str) -> NoReturn:
        raise ValueError(f"{self.source}: {what}")

    def position(self, names: list[str], column: str | int) -> int:
        """Find a column by name, else by its number."""
        if column in names:
            return names.index(str(column))
        try:
            at = int(column)
        except ValueError:
            near = _nearest(str(column), names)
            meant = f"; did you mean {near!r}?" if near else ""
            self.fail(f"there is no column {column!r}{meant} (there are: {_listed(names)})")
        if not -len(names) <= at < len(names):
            self.fail(f"there is no column {at}; its {len(names)} columns are numbered from 0 (or -1, the last)")
        return at % len(names)

    def choose(self, names: list[str], named: bool) -> tuple[list[int], int | None]:
        """Return the positions of the input columns and of the target."""
        if self.columns is None:
            ignored = {self.position(names, c) for c in self.ignore}
            left = [j for j in range(len(names)) if j not in ignored]
            if not left:
                self.fail(f"has no column beside those that are left out: {_listed(names)}")
            target = left[-1] if self.target is None else self.position(names, self.target)
            if target in ignored:
                self.fail(f"the target {names[target]!r} is also to be left out: name it once")
            features = [j for j in left if j != target]
            if not features:
                self.fail(f"has no input column beside the target {names[target]!r}: wanted at least two columns")
            return features, target
        width = len(self.columns)
        if not named and (len(names) == width or (len(names) == width + 1 and not set(self.columns) <= set(names))):
            return list(range(width)), width if len(names) > width and self.target is not None else None
        if missing := [c for c in self.columns if c not in names]:
            shown = [f"{m!r}" + (f" (is it {near!r}?)" if (near := _nearest(m, names)) else "") for m in missing]
            self.fail(f"lacks {len(missing)} of the model's {len(self.columns)} columns: {_listed(shown)}")
        return [names.index(c) for c in self.columns], names.index(str(self.target)) if self.target in names else None

    def dataset(
        self, x: NDArray[Any] | Frame, y: NDArray[Any] | None, feature_names: list[str], target_name: str | None
    ) -> Dataset:
        if isinstance(x, np.ndarray):
            try:
                staged = as_matrix(x, np.float64 if x.dtype.itemsize == 8 else np.float32, name=self.source)
            except TypeError as error:
                raise ValueError(str(error)) from None
            assert isinstance(staged, np.ndarray)
            x = staged
        if y is None:
            return Dataset(self.source, x, None, feature_names, target_name, None)
        if y.shape != (len(x),):
            self.fail(f"the target has shape {y.shape}; wanted one value for each of the {len(x)} rows")
        numbers, classes = self.encode(y, str(target_name))
        return Dataset(self.source, x, numbers, feature_names, target_name, classes)

    def encode(self, values: NDArray[Any], name: str) -> tuple[NDArray[Any], list[str] | None]:
        """Turn a target column into class numbers and names, or into plain numbers."""
        if values.dtype.kind not in "fiubUS":
            self.fail(f"the target {name!r} holds {values.dtype} values; wanted numbers or text")
        text = values.dtype.kind in "US"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            self.fail(f"the target {name!r} contains NaN or infinity, first in row {np.argmax(~np.isfinite(values))}")
        if self.task == "regression" or (self.classes is None and self.task == "auto" and not text):
            if text:
                self.fail(f"the target {name!r} holds text ({values[0]!s}); a regression wants numbers")
            whole = values.dtype.kind != "f" or bool((values == np.floor(values)).all())
            most = min(MOST_CLASSES, len(values) // 2)
            if self.task == "regression" or not whole or len(np.unique(values)) > most:
                targets = values.astype(np.float64)
                row = int(np.argmax(np.abs(targets)))
                if abs(targets[row]) > MOST_TARGET:
                    self.fail(f"the target {name!r} is {targets[row]:g} in row {row}, too large to square: rescale it")
                return targets, None
        found, numbers = np.unique(values, return_inverse=True)
        names = [_class_name(value) for value in found]
        if self.classes is None:
            return numbers.astype(np.int64), names
        known = {c: i for i, c in enumerate(self.classes)}
        self.unseen = {row: names[i] for row, i in enumerate(numbers.tolist()) if names[i] not in known}
        return np.array([known.get(n, 0) for n in names], np.int64)[numbers], list(self.classes)

    def judged(self, data: Dataset) -> Dataset:
        """The rows whose class the model knows: all of them, or those that are left where others may be skipped."""
        if not self.unseen:
            return data
        numbers = range(len(data.x)) if data.lines is None else data.lines.tolist()
        text = f"the target {data.target_name!r} is {{!r}}, a class the model has not seen"
        why = {numbers[row]: text.format(name) for row, name in self.unseen.items()}
        all_of_them = len(why) == len(data.x)
        if not self.skip or all_of_them:
            first = min(why)
            remedy = f": correct it{SKIP}" if self.mixed and not all_of_them else ""
            self.fail(f"{data.counted} {first}: {why[first]} (it knows: {_listed(list(data.classes or ()))}){remedy}")
        kept = np.array([row for row in range(len(data.x)) if row not in self.unseen], np.intp)
        return replace(data.take(kept), skipped=sorted([*data.skipped, *why.items()]))


def _class_name(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return str(int(value)) if isinstance(value, np.floating) and value == int(value) else str(value)


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """Find the name that was probably meant, whatever its case."""
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], 1)
    return next((n for n in names if near and n.lower() == near[0]), None)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" ... ({len(names)} in all)" if len(names) > 12 else "")


def _numbered(width: int) -> list[str]:
    return [f"column{j}" for j in range(width)]


def _csv(path: Path, want: _Want) -> Dataset:
    file = CsvFile(path, want.fail)
    names = file.names
    if want.columns and not file.named and not all(re.fullmatch(r"column\d+", c) for c in want.columns):
        want.fail(f"has no header line; the model finds its columns by name: {_listed(list(want.columns))}")
    if want.ids is None and want.columns is None:
        want.ids = file.row_numbers
    if file.row_numbers is not None:
        want.ignore = [*want.ignore, file.row_numbers]
    if want.ids is not None and (want.columns is None or want.ids in names):
        want.ids = names[want.position(names, want.ids)]
        want.ignore = [*want.ignore, want.ids]
    features, target = want.choose(names, file.named)

    def is_text(cell: str) -> bool:
        return want.task == "classification" or (want.task == "auto" and not is_number(cell))

    text = target is not None and is_text(file.first[target])
    target_name = None if target is None else names[target]
    plain = not want.texts and not want.categorical and (want.ids is None or want.ids == file.row_numbers)
    if want.mixed and not (plain and all(is_number(file.first[j]) for j in features)):
        return _mixed_csv(file, features, target, is_text, want)
    try:
        table = file.numbers(features if target is None or text else [*features, target])
        y = None if target is None else file.text(target, mixed=want.task != "auto") if text else table[:, -1]
    except ValueError:
        if not want.mixed:
            raise
        return _mixed_csv(file, features, target, is_text, want)
    data = want.dataset(table[:, : len(features)], y, [names[j] for j in features], target_name)
    if not want.unseen:
        return data
    lines = [line for line, _ in itertools.islice(file.rows(), int(file.named), None)]
    return replace(data, lines=np.array(lines), counted="line")


def _mixed_csv(
    file: CsvFile, features: list[int], target: int | None, is_text: Callable[[str], bool], want: _Want
) -> Dataset:
    names = file.names
    found = mixed_columns.read(
        file,
        features,
        target,
        names.index(want.ids) if want.ids in names else None,
        texts=None if want.texts is None else [names.index(name) for name in want.texts if name in names],
        categorical=[want.position(names, name) for name in want.categorical],
        target_text=is_text,
        skip=want.skip,
    )
    y = found.target
    if y is not None and y.dtype == object:
        y = y.astype(str)
        if all(is_number(cell) for cell in np.unique(y)):
            y = y.astype(np.float64)
    target_name = None if target is None else names[target]
    data = want.dataset(found.frame, y, found.frame.names, target_name)
    return replace(data, ids=found.ids, ids_name=want.ids, lines=found.lines, skipped=found.skipped, counted="line")


def _arrow(path: Path, want: _Want) -> Dataset:
    """A Parquet, Arrow or Feather file."""
    try:
        import pyarrow as pa
        from pyarrow import feather, parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"reading {path.name} needs pyarrow: pip install 'fastbp[arrow]'", name="pyarrow"
        ) from None
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:
            with pa.OSFile(str(path)) as file:
                if file.read(4) in (b"ARRO", b"FEA1"):
                    table = feather.read_table(path)
                else:
                    file.seek(0)
                    table = pa.ipc.open_stream(file).read_all()
    except (pa.ArrowException, OSError) as error:
        want.fail(f"is no {path.suffix} file, or is damaged ({error})")
    return _frame(table, want)


def _frame(table: Any, want: _Want) -> Dataset:
    """A frame's input columns and target."""
    names = [str(name) for name in table.column_names]
    if want.ids is not None and (want.columns is None or want.ids in names):
        want.ids = names[want.position(names, want.ids)]
        want.ignore = [*want.ignore, want.ids]
    features, target = want.choose(names, named=True)
    try:
        frame = as_frame(table.select([names[j] for j in features]), want.source)
        column = None if target is None else as_frame(table.select([names[target]]), want.source).columns[0]
    except TypeError as error:
        raise ValueError(str(error)) from None
    for name in want.categorical:
        want.position(frame.names, name)
    y = None
    if target is not None and column is not None:
        gaps = np.array([cell is None for cell in column]) if column.dtype == object else np.isnan(column)
        why = f"column {names[target]!r} is empty: fill it or drop the row"
        if gaps.any() and (not want.skip or gaps.all()):
            want.fail(f"row {np.argmax(gaps)}, {why}{SKIP * want.mixed}")
        if gaps.any():
            rows = np.flatnonzero(~gaps)
            data = _frame(table.take(rows), want)
            return replace(data, lines=rows, skipped=[(row, why) for row in np.flatnonzero(gaps).tolist()])
        y = column.astype(str) if column.dtype == object else column
    ids = table.column(want.ids).to_pylist() if want.ids in names else None
    x: Any = frame
    if not want.mixed:
        if text := next((n for n, c in zip(frame.names, frame.columns, strict=True) if c.dtype == object), None):
            want.fail(f"column {text!r} holds text; wanted numbers")
        x = frame.numbers(range(len(frame.names)), slice(None))
    data = want.dataset(x, y, frame.names, None if target is None else names[target])
    return replace(data, ids=ids, ids_name=want.ids)


def _libsvm(path: Path, want: _Want) -> Dataset:
    """A file of the LIBSVM format, made dense; a label stands before each row."""
    try:
        from sklearn.datasets import load_svmlight_file
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"reading {path.name} needs scikit-learn: pip install 'fastbp[sklearn]'", name="sklearn"
        ) from None
    try:
        x, y = load_svmlight_file(str(path), n_features=None if want.columns is None else len(want.columns))
    except ValueError as error:
        want.fail(f"is no file of the LIBSVM format, or has other columns than wanted ({error})")
    if 8 * x.shape[0] * x.shape[1] > MOST_DENSE_BYTES:
        want.fail(
            f"would take {8 * x.shape[0] * x.shape[1] / 1e9:.1f} GB as a dense table of {x.shape[1]} columns: select "
            "columns first, or train from Python"
        )
    return _arrays(x.toarray(), y, replace(want, target=want.target or ("label" if want.columns is None else None)))


def _take(table: NDArray[Any], columns: list[int]) -> NDArray[Any]:
    """Select columns; neighbours are a view."""
    first, last = columns[0], columns[-1] + 1
    return table[:, first:last] if columns == list(range(first, last)) else table[:, columns]


# ---------------------------------------------------------------- arrays


def _npy(path: Path, want: _Want) -> Dataset:
    try:
        table = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, tokenize.TokenError) as error:
        want.fail(f"is no plain NumPy array, or is truncated ({error})")
    if table.ndim != 2 or not table.size:
        want.fail(
            f"holds an array of shape {table.shape}; wanted a table of rows and columns, the target among them "
            "(separate arrays go into one .npz, as x and y)"
        )
    names = _numbered(table.shape[1])
    features, target = want.choose(names, named=False)
    return want.dataset(
        _take(table, features),
        None if target is None else np.array(table[:, target]),
        [names[j] for j in features],
        None if target is None else names[target],
    )


def _npz(path: Path, want: _Want) -> Dataset:
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                names = archive.files
                chosen = {role: next((k for k in keys if k in names), None) for role, keys in _NPZ_NAMES.items()}
                arrays = {role: archive[key] for role, key in chosen.items() if key is not None}
        except _DAMAGED_ARCHIVE as error:
            want.fail(f"is no .npz file of plain arrays, or is damaged ({error})")
    if "x" not in arrays or ("y" not in arrays and not want.columns):
        want.fail(f"has the arrays {_listed(names)}; wanted x and y, or x_train, y_train, x_test and y_test")
    test_rows = "x_test" in arrays and "y_test" in arrays
    if want.columns is not None and test_rows:
        return _arrays(arrays["x_test"], arrays["y_test"], want)
    data = _arrays(arrays["x"], arrays.get("y"), want)
    if test_rows:
        data.test = _test_set(data, arrays["x_test"], arrays["y_test"], want)
    return data


def _arrays(x: NDArray[Any], y: NDArray[Any] | None, want: _Want) -> Dataset:
    """Take inputs of any dimensions (an image is a row) and their target."""
    if x.ndim < 2 or not x.size:
        want.fail(f"the inputs have shape {x.shape}; wanted rows and columns")
    x = x.reshape(len(x), -1)
    names = _numbered(x.shape[1])
    if want.columns is not None and len(want.columns) != len(names):
        want.fail(f"has {len(names)} columns; the model takes {len(want.columns)}")
    if y is not None and y.ndim == 2:
        if y.shape[1] != 1:
            want.fail(f"the target has shape {y.shape}; wanted one column (for one column per class: y.argmax(axis=1))")
        y = y[:, 0]
    if want.columns is not None and want.target is None:
        y = None
    return want.dataset(x, y, names, None if y is None else str(want.target or "y"))


def _test_set(train: Dataset, x: NDArray[Any], y: NDArray[Any], want: _Want) -> Dataset:
    task = "regression" if train.classes is None else "classification"
    want = replace(want, columns=train.feature_names, target="y", task=task, classes=train.classes)
    return want.judged(_arrays(x, y, want))


def _idx(path: Path, want: _Want) -> Dataset:
    pixels = idx_array(path)
    if want.columns is not None and want.target is None:
        return _arrays(pixels, None, want)
    labels = idx_labels(path)
    if labels is None:
        named = "" if "images" in path.name else ", and its name lacks the word images, which leads to them"
        want.fail(
            f"the file of its labels is not beside it{named}: wanted as in train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte"
        )
    data = _arrays(pixels, idx_array(labels), want)
    test = path.with_name(path.name.replace("train", "t10k"))
    if want.columns is None and test != path and test.is_file() and (labels := idx_labels(test)):
        data.test = _test_set(data, idx_array(test), idx_array(labels), want)
    return data


def _builtin(name: str, want: _Want) -> Dataset:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise ImportError(f"reading {name} needs scikit-learn: pip install 'fastbp[sklearn]'") from None
    bunch = getattr(datasets, f"load_{name}")()
    names = [*map(str, bunch.feature_names), BUILTIN[name]]
    if want.columns is None and want.target not in (None, names[-1]):
        want.fail(f"its target is {names[-1]!r}, not {want.target!r}")
    features, target = want.choose(names, named=True)
    y = bunch.target
    if "target_names" in bunch:
        y = np.asarray(bunch.target_names)[y]
    return want.dataset(
        _take(bunch.data, features),
        None if target is None else y,
        [names[j] for j in features],
        None if target is None else names[target],
    )


_READERS: dict[Any, Callable[[Path, _Want], Dataset]] = {
    (".csv", ".tsv", ".txt"): _csv,
    (".parquet", ".arrow", ".arrows", ".feather", ".ipc"): _arrow,
    (".libsvm", ".svm", ".svmlight"): _libsvm,
    ".npy": _npy,
    ".npz": _npz,
}
"""By the endings of files' names."""
