"""Squares of as many vectors as each has lanes, turned: between rows of a table, lanes of samples, and of neurons."""

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from fastbp._jit import intrinsic, vector_bytes
from fastbp._vector import I32, I64, external, lanes_of, llvm_type, load, pointer, store, suffix, vec_of
from fastbp.cpu.tile import VOID, _const, _itemsize, _once


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The square of vectors transposed in log2 rounds of shuffles; squares side by side where vectors are longer."""
    n = rows[0].type.count
    mask_type = ir.VectorType(ir.IntType(32), n)
    s = len(rows) // 2
    while s:
        following: list[Any] = [None] * len(rows)
        for i in (i for i in range(len(rows)) if not i & s):
            low = [n + lane - s if lane & s else lane for lane in range(n)]
            high = [n + lane if lane & s else lane + s for lane in range(n)]
            following[i] = builder.shuffle_vector(rows[i], rows[i + s], ir.Constant(mask_type, low))
            following[i + s] = builder.shuffle_vector(rows[i], rows[i + s], ir.Constant(mask_type, high))
        rows, s = following, s // 2
    return rows


def _square(kind: Any, name: str, arguments: int, body: Callable[..., None]) -> Any:
    """Signature and IR of a call that works on one lanes x lanes square."""
    size = _itemsize(kind)
    lanes = lanes_of(size)
    vector = ir.VectorType(llvm_type(kind.instance_type), lanes)
    full = functools.partial(body, vector=vector, lanes=lanes, size=size)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        builder.call(_once(builder.module, f"{name}_{8 * size}", arguments, full), args[1:])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * arguments), emit


@intrinsic
def transpose_square(typingctx, kind, source, source_row, target, target_row):
    """lanes x lanes numbers transposed; rows of the source and of the target lie so many bytes apart (aligned)."""

    def body(builder, source, source_row, target, target_row, *, vector, lanes, size):
        at = [builder.add(source, builder.mul(source_row, _const(i))) for i in range(lanes)]
        rows = [load(builder, p, vector, align=vector_bytes()) for p in at]
        for i, value in enumerate(_transposed(builder, rows)):
            store(builder, value, builder.add(target, builder.mul(target_row, _const(i))), align=vector_bytes())

    return _square(kind, "transpose", 4, body)


def _masked(builder: ir.IRBuilder, vector: ir.VectorType, count: ir.Value) -> ir.Value:
    """A mask of the first `count` lanes."""
    lanes = vector.count
    bits = builder.sub(builder.shl(_const(1), count), _const(1))
    return builder.bitcast(builder.trunc(bits, ir.IntType(lanes)), ir.VectorType(ir.IntType(1), lanes))


FEW_COLUMNS = 4


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Vectors one after the other in one; there are 1, 2, 4 ..."""
    while len(parts) > 1:
        mask = ir.Constant(ir.VectorType(I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
        parts = [builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@intrinsic
def load_apart(typingctx, kind, address, distance):
    """A vector of numbers that are `distance` bytes apart."""

    vec = vec_of(kind.instance_type)

    def emit(context, builder, sig, args):
        vector, (_, place, distance) = context.get_value_type(vec), args
        value = ir.Constant(vector, ir.Undefined)
        for lane in range(vec.lanes):
            number = load(builder, place, vector.element, align=_itemsize(kind))
            value = builder.insert_element(value, number, ir.Constant(I32, lane))
            place = builder.add(place, distance)
        return value

    return vec(kind, types.int64, types.int64), emit


@intrinsic
def gather_square(typingctx, kind, table, table_row, indices, count, target, target_row):
    """`count` <= lanes columns of the rows ``indices[0:lanes]`` of a table, transposed to the target; zeros beyond.

    Few columns are put into vectors before they are transposed: what is beyond `FEW_COLUMNS` stays as it is then.
    """

    def masked_load(builder, vector, mask, size):
        kind = [vector.as_pointer(), I32, mask.type, vector]
        masked = external(builder, f"llvm.masked.load.{suffix(vector)}.p0", vector, kind)
        align, zero = ir.Constant(I32, size), ir.Constant(vector, [0.0] * vector.count)
        return lambda place: builder.call(masked, [pointer(builder, place, vector), align, mask, zero])

    def body(builder, table, table_row, indices, count, target, target_row, *, vector, lanes, size):
        def write(rows: list[ir.Value]) -> None:
            for i, value in enumerate(_transposed(builder, rows)):
                store(builder, value, builder.add(target, builder.mul(target_row, _const(i))), align=vector_bytes())

        at = []
        for i in range(lanes):
            index = load(builder, indices, I64, 8 * i, align=8)
            at.append(builder.add(table, builder.mul(index, table_row)))
        whole, part, done = (builder.function.append_basic_block(name) for name in ("whole", "part", "done"))
        if lanes > FEW_COLUMNS:
            few, many = (builder.function.append_basic_block(name) for name in ("few", "many"))
            builder.cbranch(builder.icmp_signed("<=", count, _const(FEW_COLUMNS)), few, many)
            builder.position_at_end(few)
            short = ir.VectorType(vector.element, FEW_COLUMNS)
            read = masked_load(builder, short, _masked(builder, short, count), size)
            write([_joined(builder, [read(p) for p in at[i::FEW_COLUMNS]]) for i in range(FEW_COLUMNS)])
            builder.ret_void()
            builder.position_at_end(many)
        builder.cbranch(builder.icmp_signed("==", count, _const(lanes)), whole, part)
        builder.position_at_end(whole)
        wholes = [load(builder, p, vector, align=size) for p in at]
        builder.branch(done)
        builder.position_at_end(part)
        parts = list(map(masked_load(builder, vector, _masked(builder, vector, count), size), at))
        builder.branch(done)
        builder.position_at_end(done)
        rows = []
        for full_row, part_row in zip(wholes, parts, strict=True):
            phi = builder.phi(vector)
            phi.add_incoming(full_row, whole)
            phi.add_incoming(part_row, part)
            rows.append(phi)
        write(rows)

    return _square(kind, "gather", 6, body)


@intrinsic
def scatter_square(typingctx, kind, source, source_row, table, table_row, rows, count):
    """lanes x lanes numbers transposed into `rows` consecutive rows of a table, `count` <= lanes columns of each."""

    def body(builder, source, source_row, table, table_row, rows, count, *, vector, lanes, size):
        i1 = ir.VectorType(ir.IntType(1), lanes)
        kind = [vector, vector.as_pointer(), ir.IntType(32), i1]
        masked = external(builder, f"llvm.masked.store.{suffix(vector)}.p0", VOID, kind)
        at = [builder.add(source, builder.mul(source_row, _const(i))) for i in range(lanes)]
        values = _transposed(builder, [load(builder, p, vector, align=vector_bytes()) for p in at])
        align = ir.Constant(ir.IntType(32), size)
        for i, value in enumerate(values):
            valid = builder.icmp_signed("<", _const(i), rows)
            mask = _masked(builder, vector, builder.select(valid, count, _const(0)))
            where = pointer(builder, builder.add(table, builder.mul(table_row, _const(i))), vector)
            builder.call(masked, [value, where, align, mask])

    return _square(kind, "scatter", 6, body)
