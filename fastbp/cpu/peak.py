"""The machine's peak: register-only multiply-add loops on the widest vectors, on all threads at once.

For bfloat16 the loops use what its products do: AMX tiles, dot products, or float32 multiply-adds.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastbp._jit import Kernel, default_threads, intrinsic, vector_bytes, vector_registers
from fastbp._spelling import answers
from fastbp._vector import fused, lanes_of, load_number, splat, store_number
from fastbp.cpu.launch import by_threads
from fastbp.cpu.machine import amx_granted, has_dot
from fastbp.cpu.pairs import amx_begin, amx_end, dot_pairs, multiply_tiles
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


@intrinsic
def _dot_pairs(typingctx, turns, seed):
    """Independent chains of bfloat16 dot products in registers, as `_multiply_add`."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        factor = splat(builder, args[1], lanes_of(4))
        loop = _Loop(builder, args[0], [factor] * CHAINS)
        sums = loop.end([dot_pairs(builder, value, factor, factor) for value in loop.values])
        value = sums[0]
        for other in sums[1:]:
            value = builder.fadd(value, other)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(types.int64, types.float32), emit


def _float_loop(kind: Any) -> Callable[[int, int], int]:
    def loop(number: int, me: int) -> int:
        place = number + 64 * me
        store_number(kind, place, _multiply_add(kind, TURNS, load_number(kind, place)))
        return 0

    return loop


def _dot_loop(number: int, me: int) -> int:
    place = number + 64 * me
    store_number(np.float32, place, _dot_pairs(TURNS, load_number(np.float32, place)))
    return 0


def _tile_loop(number: int, me: int) -> int:
    amx_begin()
    multiply_tiles(TURNS)
    amx_end()
    return 0


@functools.cache
def _loop(dtype: str) -> tuple[Kernel, float]:
    """The loop of a type and the floating-point operations of one turn."""
    if dtype == "bfloat16" and amx_granted():
        function, work = _tile_loop, 4 * 2.0 * 16 * 16 * 32
    elif dtype == "bfloat16" and has_dot():
        function, work = _dot_loop, 4.0 * CHAINS * lanes_of(4)
    else:
        number = np.dtype("float32" if dtype == "bfloat16" else dtype)
        function, work = _float_loop(number.type), 2.0 * CHAINS * lanes_of(number.itemsize)
    return Kernel(function, types.int64(types.int64, types.int64)), work


def peak_gflops(dtype: str = "float32", threads: int | None = None, seconds: float = 0.05) -> float:
    """Floating-point operations a second (in 1e9) of `threads` threads that only multiply and add in registers.

    Parameters
    ----------
    dtype : "float32", "float64" or "bfloat16"
    threads : default: those a model would use
    seconds : how long to measure; the best of many short runs counts
    """
    threads = threads or default_threads()
    kernel, turn = _loop(str(dtype))
    number = np.dtype("float64" if str(dtype) == "float64" else "float32")
    places = np.full((threads + 1) * 64 // number.itemsize, 0.5, number)
    work = turn * TURNS * threads
    by_threads(kernel, places.ctypes.data, threads)
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < end:
        start = time.perf_counter()
        by_threads(kernel, places.ctypes.data, threads)
        best = max(best, work / (time.perf_counter() - start))
    return best / 1e9


answers(__name__, "peak_gflops")
