"""Micro-kernels of bfloat16: products of pairs of 16-bit numbers, summed in float32.

A pair is two bfloat16 in one 32-bit lane, neighbours along the sum of the product; a block is as many pairs as a vector
has lanes. All three products are one shape: rows of the broadcast side are one vector register long (a block of pairs),
rows of the vector side hold a pair for each lane::

    c[row][lane] += sum_pairs a[row][pair] . v[pair][lane]

Three ways to compute it: AMX tiles of 16 x 16 sums (x86 servers), the AVX512_BF16 dot product, and two float32
multiply-adds a pair elsewhere.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import RequireLiteralValue

from fastbp._jit import intrinsic, vector_bytes, vector_registers
from fastbp._vector import I32, I64, Vec, external, fused, lanes_of, load, pointer, splat, store
from fastbp.cpu.machine import has_amx, has_dot
from fastbp.cpu.tile import VOID, _const, _function, _Loop, _once, _switch

BYTE = ir.IntType(8)
MATRIX_ROWS = 16  # of an AMX tile
AMX_BYTES = 64  # of its configuration, and of its rows


class _Bfloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite doesn't name."""

    def _to_string(self) -> str:
        return "bfloat"

    __str__ = _to_string

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


BFLOAT = _Bfloat()


# ---------------------------------------------------------------- float32 to bfloat16


def _rounded(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Bits of a float32 vector plus half a unit of bfloat16, ties to even: the upper half is the rounded number."""
    kind = ir.VectorType(I32, value.type.count)

    def constant(number: int) -> ir.Constant:
        return ir.Constant(kind, [number] * kind.count)

    bits = builder.bitcast(value, kind)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    return builder.add(bits, builder.add(odd, constant(0x7FFF)))


def _pack(typingctx: Any, low: Vec, high: Vec, emit: Callable[..., ir.Value]) -> Any:
    return low(low, high), lambda context, builder, sig, args: emit(builder, *args)


@intrinsic
def paired(typingctx, low, high):
    """Two float32 vectors as one of pairs: lane i holds low[i] and high[i] in bfloat16."""

    def emit(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
        kind = ir.VectorType(I32, low.type.count)
        lower = builder.lshr(_rounded(builder, low), ir.Constant(kind, [16] * kind.count))
        upper = builder.and_(_rounded(builder, high), ir.Constant(kind, [0xFFFF0000] * kind.count))
        return builder.bitcast(builder.or_(lower, upper), low.type)

    return _pack(typingctx, low, high, emit)


@intrinsic
def narrowed(typingctx, first, second):
    """Two float32 vectors as one of twice as many bfloat16, in order."""

    def emit(builder: ir.IRBuilder, first: ir.Value, second: ir.Value) -> ir.Value:
        n = first.type.count
        if has_dot():
            kind = ir.VectorType(BFLOAT, 2 * n)
            name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
            both = builder.call(external(builder, name, kind, [first.type] * 2), [second, first])
            return builder.bitcast(both, first.type)
        kind = ir.VectorType(ir.IntType(16), 2 * n)
        parts = [builder.bitcast(_rounded(builder, value), kind) for value in (first, second)]
        upper = ir.Constant(ir.VectorType(I32, 2 * n), list(range(1, 4 * n, 2)))
        return builder.bitcast(builder.shuffle_vector(*parts, upper), first.type)

    return _pack(typingctx, first, second, emit)


@intrinsic
def stack(typingctx, nbytes):
    """Address of so many bytes (a literal) of this call's own, on a cache line."""
    if not isinstance(nbytes, types.IntegerLiteral):
        raise RequireLiteralValue(nbytes)
    count = nbytes.literal_value

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        with builder.goto_entry_block():  # Numba's own helper would fill it with zeros, byte by byte
            place = builder.alloca(ir.ArrayType(BYTE, count))
        place.align = 64
        return builder.ptrtoint(place, I64)

    return types.int64(nbytes), emit


# ---------------------------------------------------------------- vectors


def dot_pairs(builder: ir.IRBuilder, c: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """c plus, lane by lane, the dot product of two pairs (`has_dot` only); a and b are vectors of any 32-bit type."""
    pair = ir.VectorType(BFLOAT, 2 * c.type.count)
    dot = external(builder, "llvm.x86.avx512bf16.dpbf16ps.512", c.type, [c.type, pair, pair])
    return builder.call(dot, [c, builder.bitcast(a, pair), builder.bitcast(b, pair)])


@functools.cache
def tallest() -> int:
    """Rows of the tallest tile of vectors: 8 x 2 sums with the dot product, fewer where pairs are taken apart."""
    return 8 if has_dot() or vector_registers() == 32 else 4


def _write_vectors(module: ir.Module, height: int, vectors: int) -> ir.Function:
    """The micro-kernel of `height` rows (written once per module); arguments as in `tile_pairs`."""
    name = f"tile_pairs_{height}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    lanes, bytes_ = lanes_of(4), vector_bytes()
    vector, word = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(I32, lanes)
    function, builder = _function(module, name, 14)
    a, _, a_outer, v, v_step, v_next, v_outer, c, c_row, c_next, n, accumulate, mode, mask = function.args
    rows = [builder.add(c, builder.mul(c_row, _const(i))) for i in range(height)]
    places = [builder.add(row, builder.mul(c_next, _const(j))) for row in rows for j in range(vectors)]

    more, begin = function.append_basic_block("more"), function.append_basic_block("begin")
    entry = builder.block
    builder.cbranch(builder.icmp_signed("!=", accumulate, _const(0)), more, begin)
    builder.position_at_end(more)
    earlier = [load(builder, place, vector, align=bytes_) for place in places]
    builder.branch(begin)
    builder.position_at_end(begin)
    zero = ir.Constant(vector, [0.0] * lanes)
    sums: list[ir.Value] = []
    for value in earlier:
        phi = builder.phi(vector)
        phi.add_incoming(value, more)
        phi.add_incoming(zero, entry)
        sums.append(phi)

    def halves(value: ir.Value) -> tuple[ir.Value, ir.Value]:
        kind = value.type
        shift = ir.Constant(kind, 16 if kind == I32 else [16] * lanes)
        keep = ir.Constant(kind, 0xFFFF0000 if kind == I32 else [0xFFFF0000] * lanes)
        to = ir.FloatType() if kind == I32 else vector
        return builder.bitcast(builder.shl(value, shift), to), builder.bitcast(builder.and_(value, keep), to)

    def step(a: ir.Value, v: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
        vs = [load(builder, builder.add(v, builder.mul(v_next, _const(j))), word, align=bytes_) for j in range(vectors)]
        out = list(sums)
        if has_dot():
            for i in range(height):
                spread = splat(builder, load(builder, a, I32, i * bytes_), lanes)
                for j in range(vectors):
                    out[i * vectors + j] = dot_pairs(builder, out[i * vectors + j], spread, vs[j])
            return out
        parts = [halves(value) for value in vs]
        for i in range(height):
            for k, number in enumerate(halves(load(builder, a, I32, i * bytes_))):
                spread = splat(builder, number, lanes)
                for j in range(vectors):
                    out[i * vectors + j] = fused(builder, spread, parts[j][k], out[i * vectors + j])
        return out

    outer = _Loop(builder, n, [a, v, *sums])
    a_block, v_block, *now = outer.values
    inner = _Loop(builder, _const(lanes), [a_block, v_block, *now])
    at, vt, *now = inner.values
    now = step(at, vt, now)
    _, _, *now = inner.end([builder.add(at, _const(4)), builder.add(vt, v_step), *now])
    _, _, *sums = outer.end([builder.add(a_block, a_outer), builder.add(v_block, v_outer), *now])

    def write(values: Sequence[ir.Value]) -> None:
        for value, place in zip(values, places, strict=True):
            store(builder, value, place, align=bytes_)
        builder.ret_void()

    blocks = [function.append_basic_block(name) for name in ("plain", "rectify", "mask")]
    switch = builder.switch(mode, blocks[0])
    for number, block in enumerate(blocks[1:], start=1):
        switch.add_case(_const(number), block)
    builder.position_at_end(blocks[0])
    write(sums)
    builder.position_at_end(blocks[1])
    write([builder.select(builder.fcmp_ordered("<", s, zero), zero, s) for s in sums])
    builder.position_at_end(blocks[2])
    masks = [load(builder, builder.add(mask, builder.sub(place, c)), vector, align=bytes_) for place in places]
    write([builder.select(builder.fcmp_ordered(">", m, zero), s, zero) for m, s in zip(masks, sums, strict=True)])
    return function


@intrinsic
def tallest_pairs(typingctx):
    """Rows of the tallest tile of `tile_pairs`."""
    return types.int64(), lambda context, builder, sig, args: _const(tallest())


@intrinsic
def tile_pairs(
    typingctx, key, a, a_second, a_outer, v, v_step, v_next, v_outer, c, c_row, c_next, n, accumulate, mode, mask
):
    """A tile of sums in vector registers.

    key: 4 * rows + vectors (1 or 2); a: the broadcast side, rows one vector register apart, a_outer bytes to the next
    block; v: the vector side, v_step bytes to the next pair, v_next to the next vector, v_outer to the next block;
    c: the sums, c_row and c_next bytes between rows and vectors; n: blocks; accumulate: 0 begins at zero; mode: 1
    rectifies the sums, 2 sets those to zero where `mask`, laid out as c, isn't positive; a_second: unused.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        heights = [n for n in (8, 4, 2, 1) if n <= tallest()]
        cases = {
            4 * height + vectors: functools.partial(_write_vectors, builder.module, height, vectors)
            for height in heights
            for vectors in (1, 2)
        }
        _switch(builder, args[0], cases, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), emit


# ---------------------------------------------------------------- AMX tiles


def _amx(builder: ir.IRBuilder, name: str, kinds: Sequence[ir.Type], arguments: Sequence[ir.Value]) -> None:
    builder.call(external(builder, f"llvm.x86.{name}", VOID, list(kinds)), list(arguments))


def _tile_number(number: int) -> ir.Constant:
    return ir.Constant(BYTE, number)


Access = Callable[[str, int, ir.Value, ir.Value], None]
Sums = dict[tuple[int, int], int]


def _matrix(builder: ir.IRBuilder, tall: int, wide: int) -> tuple[Access, Sums, Callable[[], None]]:
    """Loading and storing a tile, the numbers of the tiles of sums, and the products of tiles 4, 5 by tiles 6, 7."""
    address = [BYTE, BYTE.as_pointer(), I64]
    sums = {(i, j): 2 * i + j for i in range(tall) for j in range(wide)}

    def access(name: str, number: int, place: ir.Value, row: ir.Value) -> None:
        _amx(builder, name, address, [_tile_number(number), pointer(builder, place, BYTE), row])

    def multiply() -> None:
        for (i, j), number in sums.items():
            _amx(builder, "tdpbf16ps", [BYTE] * 3, [_tile_number(k) for k in (number, 4 + i, 6 + j)])

    return access, sums, multiply


def _begin_sums(
    function: ir.Function,
    builder: ir.IRBuilder,
    access: Access,
    sums: Sums,
    c: ir.Value,
    c_row: ir.Value,
    c_second: ir.Value,
    c_next: ir.Value,
    accumulate: ir.Value,
) -> dict[tuple[int, int], ir.Value]:
    """The tiles of sums as they are in memory or, where nothing is accumulated, zero; returns their places."""
    places = {(i, j): builder.add(c, builder.mul(c_next, _const(j))) for i, j in sums}
    places = {(i, j): builder.add(place, c_second) if i else place for (i, j), place in places.items()}
    more, zero, begin = (function.append_basic_block(name) for name in ("more", "zero", "begin"))
    builder.cbranch(builder.icmp_signed("!=", accumulate, _const(0)), more, zero)
    builder.position_at_end(more)
    for key, number in sums.items():
        access("tileloadd64", number, places[key], c_row)
    builder.branch(begin)
    builder.position_at_end(zero)
    for number in sums.values():
        _amx(builder, "tilezero", [BYTE], [_tile_number(number)])
    builder.branch(begin)
    builder.position_at_end(begin)
    return places


def _write_matrix(module: ir.Module, tall: int, wide: int) -> ir.Function:
    """`tall` x `wide` AMX tiles of sums (each 1 or 2; written once per module); arguments as in `tile_matrix`."""
    name = f"tile_matrix_{tall}x{wide}"
    if name in module.globals:
        return module.globals[name]
    function, builder = _function(module, name, 12)
    a, a_second, a_outer, v, v_step, v_next, v_outer, c, c_row, c_next, n, accumulate = function.args
    access, sums, multiply = _matrix(builder, tall, wide)
    c_second = builder.mul(c_row, _const(MATRIX_ROWS))
    places = _begin_sums(function, builder, access, sums, c, c_row, c_second, c_next, accumulate)
    loop = _Loop(builder, n, [a, v])
    at, vt = loop.values
    for i in range(tall):
        access("tileloadd64", 4 + i, builder.add(at, a_second) if i else at, _const(AMX_BYTES))
    for j in range(wide):
        access("tileloadd64", 6 + j, builder.add(vt, v_next) if j else vt, v_step)
    multiply()
    loop.end([builder.add(at, a_outer), builder.add(vt, v_outer)])
    for key, number in sums.items():
        access("tilestored64", number, places[key], c_row)
    builder.ret_void()
    return function


@intrinsic
def tile_matrix(typingctx, key, a, a_second, a_outer, v, v_step, v_next, v_outer, c, c_row, c_next, n, accumulate):
    """Sums in AMX tiles: key = 4 * (1 or 2 tiles of 16 rows) + (1 or 2 vectors); a_second: bytes from the first tile's
    rows of `a` to the second's; the rest as in `tile_pairs`. Between `amx_begin` and `amx_end`."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            cases = {4 * i + j: functools.partial(_write_matrix, builder.module, i, j) for i in (1, 2) for j in (1, 2)}
            _switch(builder, args[0], cases, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 13), emit


TERM_BYTES = 1024
"""Of an AMX tile: 16 rows of 32 bfloat16, or of 16 pairs."""
TERMS = 3  # bfloat16 numbers that sum to a float32


def _terms(builder: ir.IRBuilder, value: ir.Value) -> list[ir.Value]:
    """Bits whose upper halves are the terms of a float32 vector: what is left of each after those before it."""
    kind = ir.VectorType(I32, value.type.count)
    terms, left = [], value
    for _ in range(TERMS):
        bits = builder.add(builder.bitcast(left, kind), ir.Constant(kind, [0x8000] * kind.count))  # to nearest
        terms.append(bits)
        upper = builder.and_(bits, ir.Constant(kind, [0xFFFF0000] * kind.count))
        left = builder.fsub(left, builder.bitcast(upper, value.type))
    return terms


def _merged(builder: ir.IRBuilder, low: ir.Value, high: ir.Value, paired: bool) -> ir.Value:
    """The upper halves of two vectors of 32-bit numbers as one vector: in pairs (see `paired`), or in order."""
    n = low.type.count
    kind = ir.VectorType(ir.IntType(16), 2 * n)
    order = [2 * (i // 2) + 1 + (i % 2) * 2 * n if paired else 2 * i + 1 for i in range(2 * n)]
    upper = ir.Constant(ir.VectorType(I32, 2 * n), order)
    return builder.shuffle_vector(builder.bitcast(low, kind), builder.bitcast(high, kind), upper)


def _store_terms(builder: ir.IRBuilder, low: ir.Value, high: ir.Value, place: ir.Value, row: int, paired: bool) -> None:
    for i, (a, b) in enumerate(zip(_terms(builder, low), _terms(builder, high), strict=True)):
        store(builder, _merged(builder, a, b, paired), place, i * TERM_BYTES + row * AMX_BYTES, align=AMX_BYTES)


@intrinsic
def store_terms(typingctx, low, high, place, paired):
    """The terms of two float32 vectors, in pairs (see `paired`) or in order, as one row of three tiles in a run.

    paired : a literal, 1 or 0
    """
    if not isinstance(paired, types.IntegerLiteral):
        raise RequireLiteralValue(paired)
    pairs = bool(paired.literal_value)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        _store_terms(builder, args[0], args[1], args[2], 0, pairs)
        return context.get_dummy_value()

    return types.void(low, high, place, paired), emit


@intrinsic
def pack_terms(typingctx, paired, source, row, second, place):
    """The terms of 16 times two float32 vectors as whole tiles.

    paired : a literal: 1 packs pairs along the rows (see `paired`), 0 keeps the order
    source : address of the first vector; row : bytes to the next two; second : bytes from one of two to the other
    """
    if not isinstance(paired, types.IntegerLiteral):
        raise RequireLiteralValue(paired)
    pairs = bool(paired.literal_value)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        builder.call(_packing(builder.module, pairs), args[1:])
        return context.get_dummy_value()

    return types.void(paired, *[types.int64] * 4), emit


def _packing(module: ir.Module, pairs: bool) -> ir.Function:
    """What `pack_terms` calls (written once per module)."""

    def body(builder: ir.IRBuilder, source: ir.Value, row: ir.Value, second: ir.Value, place: ir.Value) -> None:
        vector = ir.VectorType(ir.FloatType(), lanes_of(4))
        for i in range(MATRIX_ROWS):
            at = builder.add(source, builder.mul(row, _const(i)))
            low = load(builder, at, vector, align=AMX_BYTES)
            high = load(builder, builder.add(at, second), vector, align=AMX_BYTES)
            _store_terms(builder, low, high, place, i, pairs)

    return _once(module, f"pack_terms_{int(pairs)}", 4, body)


PRODUCTS = (0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)
"""Which terms' products make one of float32, the smallest first; each is loaded once but the first term of a."""


def _multiply_terms(
    builder: ir.IRBuilder, tall: int, wide: int, number: int, a: Sequence[ir.Value], v: Sequence[ir.Value]
) -> None:
    """Product `number` of PRODUCTS for one step; a, v: where the step's tiles of each operand begin."""
    access, _, multiply = _matrix(builder, tall, wide)
    before = PRODUCTS[number - 1] if number else (-1, -1)
    for first, places, term, held in zip((4, 6), (a, v), PRODUCTS[number], before, strict=True):
        if term != held:
            for i, place in enumerate(places):
                access("tileloadd64", first + i, builder.add(place, _const(term * TERM_BYTES)), _const(AMX_BYTES))
    multiply()


def _write_terms(module: ir.Module, tall: int, wide: int) -> ir.Function:
    """`tall` x `wide` AMX tiles of sums of products of terms (written once per module); see `tile_terms`."""
    name = f"tile_terms_{tall}x{wide}"
    if name in module.globals:
        return module.globals[name]
    function, builder = _function(module, name, 10)
    a, a_second, v, v_second, c, c_row, c_second, c_next, n, accumulate = function.args
    access, sums, _ = _matrix(builder, tall, wide)
    places = _begin_sums(function, builder, access, sums, c, c_row, c_second, c_next, accumulate)
    loop = _Loop(builder, n, [a, v])
    at, vt = loop.values
    left = [at, builder.add(at, a_second)][:tall]
    right = [vt, builder.add(vt, v_second)][:wide]
    for number in range(len(PRODUCTS)):
        _multiply_terms(builder, tall, wide, number, left, right)
    loop.end([builder.add(at, _const(TERMS * TERM_BYTES)), builder.add(vt, _const(TERMS * TERM_BYTES))])
    for key, number in sums.items():
        access("tilestored64", number, places[key], c_row)
    builder.ret_void()
    return function


@intrinsic
def begin_square(typingctx, c, c_row, c_second, c_next, accumulate):
    """Two by two tiles of sums in registers, as `tile_terms` begins; `multiply_square` and `end_square` follow."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            access, sums, _ = _matrix(builder, 2, 2)
            _begin_sums(builder.function, builder, access, sums, *args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), emit


def _write_product(module: ir.Module, number: int) -> ir.Function:
    """One of the products of a step of a square (written once per module); see `multiply_square`."""
    name = f"tile_product_{number}"
    if name in module.globals:
        return module.globals[name]
    function, builder = _function(module, name, 4)
    a, a_second, v, v_second = function.args
    _multiply_terms(builder, 2, 2, number, [a, builder.add(a, a_second)], [v, builder.add(v, v_second)])
    builder.ret_void()
    return function


@intrinsic
def multiply_square(typingctx, number, a, a_second, v, v_second):
    """Product `number` of PRODUCTS, which come in turn, of one step of a square; arguments as of `tile_terms`.

    What stands between two of these runs while the tiles multiply.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            cases = {i: functools.partial(_write_product, builder.module, i) for i in range(len(PRODUCTS))}
            _switch(builder, args[0], cases, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), emit


@intrinsic
def end_square(typingctx, c, c_row, c_second, c_next):
    """Write a square's sums."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            access, sums, _ = _matrix(builder, 2, 2)
            c, c_row, c_second, c_next = args
            for (i, j), number in sums.items():
                place = builder.add(c, c_next) if j else c
                access("tilestored64", number, builder.add(place, c_second) if i else place, c_row)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@intrinsic
def tile_terms(typingctx, key, a, a_second, v, v_second, c, c_row, c_second, c_next, n, accumulate):
    """Sums of float32 products in AMX tiles, each number as three bfloat16 terms.

    key: 4 * (1 or 2 tiles of 16 rows) + (1 or 2 vectors); a, v: the operands, three tiles for each 32 numbers of the
    sum; a_second, v_second: bytes to the second tile's; c: the sums, c_row bytes between rows, c_second to the second
    16 of them, c_next between vectors; n: steps of 32; accumulate: 0 begins at zero. Six products of nine: the others
    are below a float32's last bit.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            cases = {4 * i + j: functools.partial(_write_terms, builder.module, i, j) for i in (1, 2) for j in (1, 2)}
            _switch(builder, args[0], cases, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), emit


def _write_few_terms(module: ir.Module, wide: int) -> ir.Function:
    """`tile_few_terms` of one or two panels (written once per module)."""
    name = f"tile_few_terms_{wide}"
    if name in module.globals:
        return module.globals[name]
    function, builder = _function(module, name, 9)
    a, w, w_panel, strip, c, c_row, c_next, n, accumulate = function.args
    access, sums, _ = _matrix(builder, 1, wide)
    places = _begin_sums(function, builder, access, sums, c, c_row, _const(0), c_next, accumulate)
    vector = _const(AMX_BYTES)
    strips = [builder.add(strip, _const(j * TERMS * TERM_BYTES)) for j in range(wide)]
    loop = _Loop(builder, n, [a, w])
    at, wt = loop.values
    for j, place in enumerate(strips):
        source = builder.add(wt, w_panel) if j else wt
        builder.call(_packing(module, True), [source, _const(2 * AMX_BYTES), vector, place])
    for number in range(len(PRODUCTS)):
        _multiply_terms(builder, 1, wide, number, [at], strips)
    loop.end([builder.add(at, _const(TERMS * TERM_BYTES)), builder.add(wt, _const(2 * MATRIX_ROWS * AMX_BYTES))])
    for key, number in sums.items():
        access("tilestored64", number, places[key], c_row)
    builder.ret_void()
    return function


@intrinsic
def tile_few_terms(typingctx, wide, a, w, w_panel, strip, c, c_row, c_next, n, accumulate):
    """As `tile_terms` of 16 rows, of weights that aren't packed: each 32 rows of a panel are, right before their use.

    wide: panels, 1 or 2; w, w_panel: the first one, and bytes to the second; strip: room for 32 rows of both
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            cases = {j: functools.partial(_write_few_terms, builder.module, j) for j in (1, 2)}
            _switch(builder, args[0], cases, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), emit


@intrinsic
def multiply_tiles(typingctx, turns):
    """Products of AMX tiles in registers, four sums in turn; the result is dropped."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            for number in range(8):
                _amx(builder, "tilezero", [BYTE], [_tile_number(number)])
            loop = _Loop(builder, args[0], [])
            for number in range(4):
                tiles = [_tile_number(k) for k in (number, 4 + number // 2, 6 + number % 2)]
                _amx(builder, "tdpbf16ps", [BYTE] * 3, tiles)
            loop.end([])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def amx_begin(typingctx):
    """Configure this thread's tiles: eight of 16 rows of 64 bytes."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            shape = [1] + [0] * 15 + [AMX_BYTES, 0] * 8 + [0] * 16 + [MATRIX_ROWS] * 8 + [0] * 8
            kind = ir.ArrayType(BYTE, AMX_BYTES)
            place = cgutils.global_constant(builder.module, "amx_tiles", ir.Constant(kind, shape))
            _amx(builder, "ldtilecfg", [BYTE.as_pointer()], [builder.bitcast(place, BYTE.as_pointer())])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def amx_end(typingctx):
    """Give the tiles back."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if has_amx():
            _amx(builder, "tilerelease", [], [])
        return context.get_dummy_value()

    return types.void(), emit
