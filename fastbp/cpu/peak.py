"""The machine's peak: register-only multiply-add loops on the widest vectors, on all threads at once."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastbp._jit import Kernel, default_threads, intrinsic, vector_bytes, vector_registers
from fastbp._vector import fused, lanes_of, load_number, splat, store_number
from fastbp.cpu.launch import by_threads
from fastbp.cpu.tile import _Loop

CHAINS = 12 if vector_registers() == 16 else 24
TURNS = 400_000


@intrinsic
def _multiply_add(typingctx, kind, turns, seed):
    """Independent chains of multiply-adds in registers; returns a number that depends on all of them."""
    dtype = kind.instance_type

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        factor = splat(builder, args[2], vector_bytes() * 8 // dtype.bitwidth)
        loop = _Loop(builder, args[1], [factor] * CHAINS)
        sums = loop.end([fused(builder, value, factor, factor) for value in loop.values])
        value = sums[0]
        for other in sums[1:]:
            value = builder.fadd(value, other)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return dtype(kind, types.int64, dtype), emit


def _make(kind: Any) -> Callable[[int, int], int]:
    def loop(number: int, me: int) -> int:
        place = number + 64 * me
        store_number(kind, place, _multiply_add(kind, TURNS, load_number(kind, place)))
        return 0

    return loop


_kernels: dict[np.dtype, Kernel] = {}


def peak_gflops(dtype: str = "float32", threads: int | None = None, seconds: float = 0.05) -> float:
    """Floating-point operations a second (in 1e9) of `threads` threads that only multiply and add in registers.

    Parameters
    ----------
    dtype : "float32" or "float64"
    threads : default: those a model would use
    seconds : how long to measure; the best of many short runs counts
    """
    number, threads = np.dtype(dtype), threads or default_threads()
    kernel = _kernels.setdefault(number, Kernel(_make(number.type), types.int64(types.int64, types.int64)))
    places = np.full((threads + 1) * 64 // number.itemsize, 0.5, number)
    work = 2.0 * CHAINS * lanes_of(number.itemsize) * TURNS * threads
    by_threads(kernel, places.ctypes.data, threads)
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < end:
        start = time.perf_counter()
        by_threads(kernel, places.ctypes.data, threads)
        best = max(best, work / (time.perf_counter() - start))
    return best / 1e9
