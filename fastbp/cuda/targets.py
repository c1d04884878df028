"""Targets, class numbers and weights of rows that lie on the device: looked at, converted and multiplied there.

A look tells whether all is well. What is amiss is said by those who say it of arrays in main memory: they are given a
copy then, so that the words are the same.
"""

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastbp.cuda import arrays
from fastbp.cuda.device import cuda, kernel, launch
from fastbp.cuda.shapes import shapes
from fastbp.data.device_arrays import OnDevice

READ = frozenset(("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))
"""Types of numbers that the kernels read."""
MISSING = -1
"""Class number of a row without one."""
WRONG, NOT_A_NUMBER, ZERO, POSITIVE, NEGATIVE = range(5)
"""What a look finds: a number out of range, NaN, and numbers in range by their sign."""
WHOLE = np.dtype(np.int64)


@functools.cache
def _look() -> Any:
    """Kernel: found[what] = 1 for what there is among the numbers, in range from `low` to `high`, whole perhaps."""

    def run(numbers, low, high, whole, found):
        for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
            value = float(numbers[i])
            if value != value:
                found[NOT_A_NUMBER] = 1
            elif value < low or value > high or (whole == 1 and value != math.floor(value)):
                found[WRONG] = 1
            elif value == 0:
                found[ZERO] = 1
            elif value > 0:
                found[POSITIVE] = 1
            else:
                found[NEGATIVE] = 1

    return kernel(run, threads=shapes().flat)


@functools.cache
def _convert(dtype: np.dtype) -> Any:
    """Kernel: numbers of any type as others, 0 as `zero`, and NaN as `MISSING` where they become whole."""
    kind: Any = dtype.type
    labels = dtype == WHOLE

    def run(numbers, zero, out):
        for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
            value = numbers[i]
            if labels and value != value:
                out[i] = MISSING
            elif value == 0:
                out[i] = zero
            else:
                out[i] = kind(value)

    return kernel(run, threads=shapes().flat)


@functools.cache
def _classify(dtype: np.dtype, signs: bool) -> Any:
    """Kernel: each row's class number, of y (N, outputs); found[0] = 1 where a single number is neither 1 nor 0 (-1
    of signs)."""
    low, high = dtype.type(-1 if signs else 0), dtype.type(1)

    def run(y, outputs, out, found):
        for row in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            first = row * outputs
            best, at, known = y[first], 0, y[first] == y[first]
            for column in range(1, outputs):
                value = y[first + column]
                known = known and value == value
                if value > best:
                    best, at = value, column
            if outputs == 1:
                at = 1 if best == high else 0
                if known and best != high and best != low:
                    found[0] = 1
            out[row] = at if known else MISSING

    return kernel(run, threads=shapes().flat)


@functools.cache
def _count() -> Any:
    """Kernel: how many rows each class has, of all rows, or of those that `rows` names."""

    def run(labels, rows, some, counts):
        for i in range(cuda.grid(1), rows.size if some == 1 else labels.size, cuda.gridsize(1)):
            label = labels[rows[i] if some == 1 else i]
            if label >= 0:
                cuda.atomic.add(counts, label, 1)

    return kernel(run, threads=shapes().flat)


@functools.cache
def _pick() -> Any:
    """Kernel: each row's number of a table by class numbers, the last one's where that is missing."""

    def run(labels, table, out):
        for i in range(cuda.grid(1), labels.size, cuda.gridsize(1)):
            out[i] = table[labels[i] if labels[i] >= 0 else table.size - 1]

    return kernel(run, threads=shapes().flat)


@functools.cache
def _multiply() -> Any:
    """Kernel: products of numbers, one by one."""

    def run(a, b, out):
        for i in range(cuda.grid(1), a.size, cuda.gridsize(1)):
            out[i] = a[i] * b[i]

    return kernel(run, threads=shapes().flat)


@functools.cache
def _mark(labels: bool, cleared: bool) -> Any:
    """Kernel: present[row] = whether nothing of the row's y (N, outputs) is missing, found[0] = 1 where something is;
    by choice y itself too, zeros where a row isn't present."""

    def run(y, outputs, present, out, found):
        for row in range(cuda.grid(1), present.size, cuda.gridsize(1)):
            first, known = row * outputs, True
            for column in range(outputs):
                value = y[first + column]
                known = known and value == value and not (labels and value == MISSING)
            present[row] = known
            if not known:
                found[0] = 1
            if cleared:
                for column in range(outputs):
                    if known:
                        out[first + column] = y[first + column]
                    else:
                        out[first + column] = 0

    return kernel(run, threads=shapes().flat)


def _run(made: Any, count: int, *arguments: Any) -> None:
    """Launch a kernel that goes through `count` numbers or rows."""
    threads = shapes().flat
    launch(made, max(1, min(arrays.BLOCKS, -(-count // threads))), threads, 0, 0, *arguments)


def _shape(came: tuple[int, ...], kind: str, outputs: int, rows: int) -> tuple[int, ...] | None:
    """The shape that targets of a shape are read in; None where they don't fit."""
    if kind in ("labels", "weights"):
        return (rows,) if came in ((rows,), (rows, 1)) else None
    return (rows, outputs) if came == (rows, outputs) or (outputs == 1 and came == (rows,)) else None


def taken(
    y: OnDevice, kind: Any, outputs: int, dtype: np.dtype, *, rows: int, name: str, missing: bool = False
) -> OnDevice | None:
    """Targets as the kernels read them; None where something is amiss, or where main memory has to be gone through.

    Parameters
    ----------
    y : on the device
    kind : as in ``staging.as_targets``, or "weights": (N,) numbers from 0, not all of them 0
    outputs, dtype, rows, name, missing : as in ``staging.as_targets``

    Returns
    -------
    OnDevice
        (N, outputs) of `dtype`, for "labels" (N,) int64, for "weights" (N,) of `dtype`: `y` itself where it fits.
    """
    shape = None if isinstance(kind, tuple) else _shape(y.shape, kind, outputs, rows)
    if y.dtype.kind == "b":
        y = replace(y, dtype=np.dtype(np.uint8))
    if shape is None or not y.plain or y.dtype.str[1:] not in READ:
        return None
    most, tiny = (float(number) for number in (np.finfo(dtype).max, np.finfo(dtype).tiny))
    ranges = {
        "labels": (0.0, outputs - 1.0),
        "dense": (-most, most),
        "probabilities": (0.0, 1.0),
        "positive": (tiny, most),
        "signs": (-1.0, 1.0),
    }
    low, high = ranges.get(kind, (0.0, most))
    numbers, found = arrays.view(y, name), cuda.to_device(np.zeros(5, np.int64))
    _run(_look(), y.size, numbers, low, high, int(kind in ("labels", "signs")), found)
    seen = found.copy_to_host()
    amiss = seen[WRONG] or (seen[NOT_A_NUMBER] and not missing)
    amiss |= (kind == "signs" and seen[ZERO] and seen[NEGATIVE]) or (kind == "weights" and not seen[POSITIVE])
    if amiss:
        return None
    to = WHOLE if kind == "labels" else dtype
    signs = kind == "signs" and bool(seen[ZERO])
    if y.dtype == to and not signs:
        return replace(y, shape=shape, strides=None, read=arrays.host)
    out = arrays.empty(shape, to)
    _run(_convert(to), y.size, numbers, -1 if signs else 0, arrays.view(out))
    return out


def classes(y: OnDevice, kind: str, outputs: int) -> OnDevice | None:
    """The class number of each row, of targets that ``taken`` gave; None where one names no class."""
    if kind == "labels":
        return y
    out, found = arrays.empty((len(y),), WHOLE), cuda.to_device(np.zeros(1, np.int64))
    made = _classify(y.dtype, kind == "signs")
    _run(made, len(y), arrays.view(y, "y"), outputs, arrays.view(out), found)
    return None if found.copy_to_host()[0] else out


def counts(labels: OnDevice, classes: int, rows: np.ndarray | None) -> np.ndarray:
    """How many rows each class has, in main memory; of those that `rows` names, by default of all."""
    found = cuda.to_device(np.zeros(classes, np.int64))
    chosen = np.zeros(1, np.int64) if rows is None else rows
    count = len(labels) if rows is None else len(rows)
    _run(_count(), count, arrays.view(labels, "y"), cuda.to_device(chosen), int(rows is not None), found)
    return np.asarray(found.copy_to_host())


def picked(labels: OnDevice, table: np.ndarray) -> OnDevice:
    """Each row's number of a table by class numbers."""
    out = arrays.empty(labels.shape, table.dtype)
    _run(_pick(), len(labels), arrays.view(labels, "y"), cuda.to_device(table), arrays.view(out))
    return out


def product(a: Any, b: Any) -> OnDevice:
    """Weights (N,) times weights, each on the device or in main memory."""
    a, b = (one if isinstance(one, OnDevice) else arrays.sent(one) for one in (a, b))
    out = arrays.empty(a.shape, a.dtype)
    _run(_multiply(), len(a), *(arrays.view(one, "sample_weight") for one in (a, b, out)))
    return out


def marked(y: OnDevice, dtype: np.dtype, cleared: bool) -> tuple[OnDevice, OnDevice] | None:
    """Whether each row has its targets, (N,) 1 or 0 of `dtype`, and the targets, zeros where a row hasn't, if asked.

    Returns
    -------
    None where none is missing
    """
    present, out = arrays.empty((len(y),), dtype), arrays.empty(y.shape, y.dtype) if cleared else y
    found, outputs = cuda.to_device(np.zeros(1, np.int64)), y.size // len(y)
    made = _mark(y.ndim == 1, cleared)
    _run(made, len(y), arrays.view(y, "y"), outputs, arrays.view(present), arrays.view(out), found)
    return (present, out) if found.copy_to_host()[0] else None
