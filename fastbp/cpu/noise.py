"""Noise between products: dropout and its kin. Each number is drawn from its counter, so it can be drawn again.

The counter is (seed, op, step, place of the row in the batch, neuron): neither threads nor batches of a resumed fit
change it, and the way back draws the same numbers as the way forward.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastbp import program as pg
from fastbp._jit import intrinsic
from fastbp._vector import column, llvm_type, load_number, splat, vec_of
from fastbp.cpu.rows import at
from fastbp.cpu.tile import row_bytes
from fastbp.formulas.counters import mix
from fastbp.formulas.noise import MIXER

I32 = ir.IntType(32)


def _mixed(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    def constant(value: int) -> ir.Constant:
        return ir.Constant(x.type, [value] * x.type.count)

    for shift, factor in MIXER:
        x = builder.mul(builder.xor(x, builder.lshr(x, constant(shift))), constant(factor))
    return builder.xor(x, builder.lshr(x, constant(16)))


@intrinsic
def uniform(typingctx: Any, kind: Any, row_key: Any, place: Any, neuron_key: Any) -> Any:
    """Numbers of [0, 1), one for each of the rows from `place` on: ``mix32(mix32(row ^ row key) ^ neuron key)``."""
    vec = vec_of(kind.instance_type)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        count = vec.lanes
        words = ir.VectorType(I32, count)
        row_key, place, neuron_key = (splat(builder, builder.trunc(a, I32), count) for a in args[1:])
        row = builder.add(place, ir.Constant(words, list(range(count))))
        bits = _mixed(builder, builder.xor(_mixed(builder, builder.xor(row, row_key)), neuron_key))
        number = ir.VectorType(llvm_type(vec.dtype), count)
        if vec.dtype == types.float32:  # the 24 bits that a float32 below 1 can hold
            bits, scale = builder.lshr(bits, ir.Constant(words, [8] * count)), 2.0**-24
        else:
            scale = 2.0**-32
        return builder.fmul(builder.uitofp(bits, number), ir.Constant(number, [scale] * count))

    return vec(kind, types.int64, types.int64, types.int64), emit


def rule(kind: Any, function: Callable[..., Any], onward: bool) -> Callable[..., float]:
    """Z from A, or, going back, DA from DZ, of neurons o0:o1."""
    target, target_panel = (pg.Z, pg.Z_PANEL) if onward else (pg.DA, pg.DA_PANEL)
    source, source_panel = (pg.A, pg.A_PANEL) if onward else (pg.DZ, pg.DZ_PANEL)
    item = np.dtype(kind).itemsize

    def noise(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        p = (
            load_number(kind, at(op, pg.NUMBERS)),
            load_number(kind, at(op, pg.NUMBERS) + item),
            load_number(kind, at(op, pg.NUMBERS) + 2 * item),
            load_number(kind, at(op, pg.NUMBERS) + 3 * item),
        )
        size = row_bytes(kind)
        n = size // (2 * item)
        key = mix(at(at(now, pg.NOW_RUN), pg.SEED) ^ mix(at(op, pg.KEY) ^ mix(at(now, pg.NOW_STEP))))
        for i in range(p0, p1):
            out = column(kind, at(op, target) + i * at(op, target_panel), 1)
            inp = column(kind, at(op, source) + i * at(op, source_panel), 1)
            place = at(now, pg.NOW_FIRST) + 2 * n * i
            for o in range(o0, o1):
                neuron = mix(key + 2 * o)
                other = mix(key + 2 * o + 1)
                for half in range(2):
                    u = uniform(kind, key, place + half * n, neuron)
                    v = uniform(kind, key, place + half * n, other)
                    out[2 * o + half] = function(inp[2 * o + half], u, v, p)
        return 0.0

    return noise
