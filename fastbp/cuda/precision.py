"""Factors of products rounded as tensor cores take them; the sums stay float32."""

import functools
from typing import Any

import numpy as np

from fastbp.cuda.device import cuda, inlined, simulated


def _bits_of(x: Any) -> Any:
    return int(np.float32(x).view(np.int32))


def _number_of(bits: Any) -> Any:
    return np.array(bits, np.int64).astype(np.int32).view(np.float32)[()]


def _same(x: Any) -> Any:
    return x


@functools.cache
def rounded(precision: str) -> Any:
    """The function that rounds a float32 to the nearest factor, or leaves it; NaN stays NaN.

    tf32 has 10 bits behind the point, ties go away from 0 (as PTX' ``cvt.rna.tf32``); bfloat16 has 7, ties to even.
    """
    if precision not in ("tf32", "bfloat16"):
        return inlined(_same)
    bits_of, number_of = _bits_of, _number_of
    if not simulated():
        bits_of, number_of = cuda.libdevice.float_as_int, cuda.libdevice.int_as_float

    def to_tf32(x: Any) -> Any:
        if x != x:
            return x
        return number_of((bits_of(x) + 0x1000) & ~0x1FFF)

    def to_bfloat16(x: Any) -> Any:
        if x != x:
            return x
        bits = bits_of(x)
        return number_of((bits + 0x7FFF + (bits >> 16 & 1)) & ~0xFFFF)

    return inlined(to_tf32 if precision == "tf32" else to_bfloat16)


@functools.cache
def half() -> Any:
    """The function that gives the bits of the nearest bfloat16, a uint16; NaN stays NaN."""
    nearest = rounded("bfloat16")
    bits_of = _bits_of if simulated() else cuda.libdevice.float_as_int

    def to_half(x: Any) -> Any:
        if x != x:
            return np.uint16(0x7FC0)
        return np.uint16(bits_of(nearest(x)) >> 16 & 0xFFFF)

    return inlined(to_half)
