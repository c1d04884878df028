"""Arrays of other libraries on the device, read and written where they are (see ``device_arrays``)."""

import ctypes
import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from fastbp.cuda.cublas import address_of
from fastbp.cuda.device import cuda, kernel, launch, simulated
from fastbp.cuda.shapes import shapes
from fastbp.data.device_arrays import LEGACY_STREAM, OnDevice

BLOCKS = 1024
"""Most blocks of a look at all numbers."""


def view(array: OnDevice, name: str = "x") -> Any:
    """The array as kernels take it, flat, over the same memory, when whoever writes it is done.

    Raises
    ------
    ValueError : memory of another GPU than the one in use
    """
    if simulated():
        raw: Any = (ctypes.c_char * array.nbytes).from_address(array.address)
        raw.owner = array.owner
        stand_in = type(cuda.to_device(np.zeros(1)))
        return stand_in(np.frombuffer(raw, array.dtype))
    here = int(cuda.get_current_device().id)
    if array.ordinal is not None and array.ordinal != here:
        raise ValueError(f"{name} is on GPU {array.ordinal}, the model on GPU {here}: copy it there first")
    if array.stream not in (None, LEGACY_STREAM):
        cuda.external_stream(array.stream).synchronize()
    flat = {**array.__cuda_array_interface__, "shape": (array.size,), "strides": None, "stream": None}
    return cuda.from_cuda_array_interface(flat, owner=array)


def spanned(array: OnDevice, name: str = "x") -> Any:
    """A flat view from the first number of an array to its last one, of strides that don't go back."""
    steps = array.strides or ()
    reach = sum((length - 1) * step for length, step in zip(array.shape, steps, strict=False)) // array.dtype.itemsize
    return view(array if array.plain else replace(array, shape=(1 + reach,), strides=None), name)


@functools.cache
def _put(dtype: np.dtype) -> Any:
    """Kernel: a matrix (rows, width) whose rows are `apart` numbers into a flat array, from `first`, its rows `ld`."""

    def run(numbers, count, width, apart, out, first, ld):
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            row, column = i // width, i % width
            out[first + row * ld + column] = numbers[row * apart + column]

    return kernel(run, threads=shapes().flat)


def put(out: Any, first: int, ld: int, array: OnDevice, name: str) -> None:
    """Write a matrix or a vector into a flat array on the device, the distance of its rows there is `ld`."""
    threads, width = shapes().flat, array.shape[-1]
    apart = width if array.strides is None or array.ndim == 1 else array.strides[0] // array.dtype.itemsize
    blocks = max(1, min(BLOCKS, array.size // threads))
    arguments = spanned(array, name), array.size, width, apart, out, first, ld
    launch(_put(array.dtype), blocks, threads, 0, 0, *arguments)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> OnDevice:
    """An array of our own for someone else, any numbers in it."""
    return replace(known(cuda.device_array(max(1, math.prod(shape)), dtype)), shape=shape)


def known(made: Any) -> OnDevice:
    """A flat device array of our own, as others are told of it."""
    here = 0 if simulated() else int(cuda.get_current_device().id)
    return OnDevice(address_of(made), made.shape, np.dtype(made.dtype), ordinal=here, owner=made, read=host)


def sent(array: np.ndarray) -> OnDevice:
    """A copy on the device of an array in main memory."""
    made = empty(array.shape, array.dtype)
    view(made).copy_to_device(np.ascontiguousarray(array).reshape(-1))
    return made


def copy(out: Any, array: Any) -> None:
    """Write an array to another one of its shape and type, each of them on the device or in main memory."""
    if isinstance(out, OnDevice):
        source = view(array) if isinstance(array, OnDevice) else np.ascontiguousarray(array).reshape(-1)
        view(out, "out").copy_to_device(source)
    else:
        np.copyto(out, host(array))


def host(array: OnDevice) -> np.ndarray:
    """A copy in main memory, of matrices whose rows are apart too."""
    if not array.plain:
        assert array.strides is not None
        found = np.asarray(spanned(array).copy_to_host())
        return np.lib.stride_tricks.as_strided(found, array.shape, array.strides).copy()
    return np.asarray(view(array).copy_to_host()).reshape(array.shape)


@functools.cache
def _gather(dtype: np.dtype) -> Any:
    """Kernel: rows of some width, one by one, as `rows` names them."""

    def run(numbers, rows, width, out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] = numbers[rows[i // width] * width + i % width]

    return kernel(run, threads=shapes().flat)


def gathered(array: OnDevice, rows: np.ndarray) -> OnDevice:
    """Some rows of an array on the device, copied there."""
    made, threads = empty((len(rows), *array.shape[1:]), array.dtype), shapes().flat
    width = array.size // len(array)
    blocks = max(1, min(BLOCKS, made.size // threads))
    launch(_gather(array.dtype), blocks, threads, 0, 0, view(array), cuda.to_device(rows), width, view(made))
    return made


@functools.cache
def _unfit(dtype: np.dtype) -> Any:
    """Kernel: how many of the numbers aren't finite into found[0], and into found[1] the first of them."""

    def run(numbers, found):
        for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
            if not math.isfinite(numbers[i]):
                cuda.atomic.add(found, 0, 1)
                cuda.atomic.min(found, 1, i)

    return kernel(run, threads=shapes().flat)


def unfit(numbers: Any) -> tuple[int, int]:
    """How many of a device array's numbers aren't finite, and the place of the first."""
    threads = shapes().flat
    found = cuda.to_device(np.array([0, numbers.size], np.int64))
    blocks = max(1, min(BLOCKS, numbers.size // (16 * threads)))
    launch(_unfit(numbers.dtype), blocks, threads, 0, 0, numbers, found)
    count, first = (int(number) for number in found.copy_to_host())
    return count, first


def check_finite(array: OnDevice, name: str) -> None:
    """Look at every number on the device.

    Raises
    ------
    ValueError : NaN or infinity, with its place
    """
    numbers = view(array, name)
    count, first = unfit(numbers)
    if count:
        place = ", ".join(str(int(i)) for i in np.unravel_index(first, array.shape))
        value = float(numbers[first : first + 1].copy_to_host()[0])
        raise ValueError(
            f"{name} contains NaN or infinity: {count} of {array.size} values, the first {value} at {name}[{place}]; "
            "fill them or drop those rows"
        )
