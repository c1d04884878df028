"""What products can be computed with on this machine, beside multiply-adds."""

import ctypes
import functools
import os
import sys

from fastbp._jit import target_machine, vector_bytes


def _has(feature: str) -> bool:
    return f"+{feature}" in target_machine()[2].split(",")


@functools.cache
def has_dot() -> bool:
    """Whether the compiler's target has AVX512_BF16."""
    return vector_bytes() == 64 and _has("avx512bf16")


@functools.cache
def has_amx() -> bool:
    """Whether the compiler's target has AMX tiles for bfloat16, and this system can grant them."""
    return sys.platform == "linux" and vector_bytes() == 64 and _has("amx-tile") and _has("amx-bf16")


@functools.cache
def amx_granted() -> bool:
    """Ask the system for this process' use of AMX (Linux grants it on request only); False where there is none.

    ``FASTBP_AMX=0`` in the environment does without it.
    """
    arch_prctl, request, tile_data = 158, 0x1023, 18
    if os.environ.get("FASTBP_AMX") == "0":
        return False
    return has_amx() and ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request, tile_data) == 0


def arithmetic() -> str:
    """How bfloat16 products are computed on this machine, for people."""
    if amx_granted():
        return "AMX tiles"
    return "AVX512_BF16 dot products" if has_dot() else "float32 multiply-adds (no bfloat16 instructions: slower)"


def arithmetic_of_floats() -> str:
    """How float32 products are computed on this machine, for people."""
    if amx_granted():
        return "multiply-adds; in larger layers AMX tiles, each number as three bfloat16 terms"
    return "multiply-adds"
