"""Where a panel's rows are in the table, many at a time: the order of ``fastbp.formulas.counters.shuffled``."""

from typing import Any

from llvmlite import ir
from numba.core import types

from fastbp._jit import intrinsic
from fastbp._vector import I32, I64, lanes_of, pointer, splat

MOST_BITS = 31
"""Numbers of so many bits are permuted here, larger ones by `shuffled`."""
ROUNDS = 4


@intrinsic
def rows_in_order(typingctx: Any, kind: Any, target: Any, first: Any, last: Any) -> Any:
    """The panel's row numbers ``min(first + b, last)`` (int64) at an aligned address."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        _, target, first, last = args
        count = 2 * lanes_of(int(kind.instance_type.bitwidth // 8))
        vector = ir.VectorType(I64, count)
        places = builder.add(splat(builder, first, count), ir.Constant(vector, list(range(count))))
        most = splat(builder, last, count)
        rows = builder.select(builder.icmp_signed("<", places, most), places, most)
        builder.store(rows, pointer(builder, target, vector)).align = 8
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 3), emit


@intrinsic
def shuffled_rows(typingctx: Any, kind: Any, target: Any, first: Any, last: Any, n: Any, bits: Any, key: Any) -> Any:
    """The panel's row numbers ``shuffled(min(first + b, last), n, bits, key)`` (int64) at an aligned address.

    Without a branch for each row: those that fall beyond n walk on together.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        _, target, first, last, n, bits, key = args
        count = 2 * lanes_of(int(kind.instance_type.bitwidth // 8))
        vector = ir.VectorType(I32, count)

        def spread(number: ir.Value) -> ir.Value:
            return splat(builder, builder.trunc(number, I32), count)

        def const(value: int) -> ir.Constant:
            return ir.Constant(I64, value)

        places = builder.add(spread(first), ir.Constant(vector, list(range(count))))
        most = spread(last)
        start = builder.select(builder.icmp_unsigned("<", places, most), places, most)
        rows, mask = spread(n), spread(builder.sub(builder.shl(const(1), bits), const(1)))
        fold = spread(builder.lshr(builder.add(bits, const(1)), const(1)))
        factors, terms = [], []
        for _ in range(ROUNDS + 1):
            factors.append(spread(builder.or_(key, const(1))))
            terms.append(spread(builder.ashr(key, const(32))))
            key = builder.add(builder.mul(key, const(6364136223846793005)), const(1442695040888963407))

        before = builder.block
        walk, found = builder.append_basic_block("walk"), builder.append_basic_block("found")
        builder.branch(walk)
        builder.position_at_end(walk)
        now, beyond = builder.phi(vector), builder.phi(ir.VectorType(ir.IntType(1), count))
        now.add_incoming(start, before)
        beyond.add_incoming(ir.Constant(beyond.type, [True] * count), before)
        x = now
        for factor, term in zip(factors[:ROUNDS], terms, strict=False):
            x = builder.and_(builder.add(builder.mul(x, factor), term), mask)
            x = builder.xor(x, builder.lshr(x, fold))
        x = builder.and_(builder.mul(x, factors[ROUNDS]), mask)
        x = builder.select(beyond, x, now)
        still = builder.icmp_unsigned(">=", x, rows)
        now.add_incoming(x, walk)
        beyond.add_incoming(still, walk)
        bits_of = builder.bitcast(still, ir.IntType(count))
        builder.cbranch(builder.icmp_unsigned("!=", bits_of, ir.Constant(bits_of.type, 0)), walk, found)
        builder.position_at_end(found)
        wide = builder.zext(x, ir.VectorType(I64, count))
        builder.store(wide, pointer(builder, target, wide.type)).align = 8
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 6), emit
