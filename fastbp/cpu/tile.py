"""Micro-kernels as vector IR: a tile of MR rows by a few vectors of sums stays in registers over a whole k loop.

Everything a matrix product needs beyond registers is plain jitted code in `rows` and `weights`. All three products
broadcast a number and multiply it into contiguous vectors, so nothing but dZ is ever transposed:

* forward   ``z[o][b]  = sum_i w[i][o] a[i][b]``   lanes are samples, the broadcast walks one weight panel
* backward  ``da[i][b] = sum_o w[i][o] dz[o][b]``  lanes are samples, the broadcast walks from panel to panel
* gradient  ``dw[i][o] = sum_b a[i][b] dzt[b][o]`` lanes are neurons, the sum runs over all rows of the batch

Addresses are int64 bytes. Weight panels are `Geometry.width` neurons wide, sample panels `Geometry.samples` rows.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types

from fastbp._jit import helper, intrinsic, vector_bytes, vector_registers
from fastbp._vector import I32, I64, external, fused, lanes_of, llvm_type, load, pointer, splat, store
from fastbp.cpu.machine import amx_granted
from fastbp.program import LINE

VOID = ir.VoidType()


@dataclass(frozen=True)
class Geometry:
    """Shape of the register tiles and of the panels in memory, for one number type on one machine.

    Attributes
    ----------
    lanes : numbers in a vector register
    rows : most rows (BLIS' MR) of a tile whose lanes are samples
    samples : batch rows in a panel of activations, two vectors
    width : neurons in a panel of weights
    gradient_rows, gradient_vectors : the tile whose lanes are neurons
    terms : whether large products go by other tiles (see ``cpu.terms``)
    """

    lanes: int
    rows: int
    samples: int
    width: int
    gradient_rows: int
    gradient_vectors: int
    terms: bool = False

    @property
    def panel_vectors(self) -> int:
        return self.width // self.lanes


# By register count and vector bytes: (MR, vectors in a weight panel, gradient MR, gradient vectors).
# 16 registers hold 6 x 2 sums or 4 x 3 (and nothing wider). 32 hold 8 x 2 at full rate already, but loads cost power,
# and so clock: 12 x 2 has 14 of them for 24 multiply-adds, 8 x 3 has 11, 8 x 2 has 10 for 16.
TILES = {(32, 64): (12, 1, 8, 3), (16, 32): (6, 3, 4, 3), (16, 16): (6, 3, 4, 3), (32, 16): (12, 3, 8, 3)}

GROUP = 4
"""Rows of a forward tile that lie in one weight panel."""


@functools.cache
def geometry(itemsize: int) -> Geometry:
    """The tile shapes for numbers of `itemsize` bytes on this machine."""
    rows, panel, gradient_rows, gradient_vectors = TILES[vector_registers(), vector_bytes()]
    lanes = lanes_of(itemsize)
    # a tile crosses a panel's border only between groups of its rows
    rows = next(n for n in row_counts(rows) if panel * lanes % n == 0 or panel * lanes % GROUP == 0)
    terms = itemsize == 4 and amx_granted()
    return Geometry(lanes, rows, 2 * lanes, panel * lanes, gradient_rows, gradient_vectors, terms)


def row_counts(most: int) -> tuple[int, ...]:
    """Tile heights from `most` down: any number of rows is a sum of them, the largest first."""
    return tuple(n for n in (12, 8, 6, 4, 2, 1) if n <= most)


def gradient_heights(g: Geometry, vectors: int) -> tuple[int, ...]:
    """Heights of the gradient tiles of so many vectors: up to as many sums as in the widest tile, or a row more.

    A tile of one row waits for each of its sums; with the odd ones none but a single row needs it.
    """
    even = row_counts(min(12, g.gradient_rows * g.gradient_vectors // vectors))
    return (*(n + 1 for n in even if n in (12, 8, 4, 2) and vector_registers() > 16), *even)


def _shape(kind: Any, choose: Callable[[Geometry], int]) -> Any:
    """Signature and IR of a number of the geometry: a constant to the compiler."""
    value = choose(geometry(_itemsize(kind)))
    return types.int64(kind), lambda context, builder, sig, args: _const(value)


@intrinsic
def panel_width(typingctx, kind):
    """Neurons in a panel of weights."""
    return _shape(kind, lambda g: g.width)


@intrinsic
def item_bytes(typingctx, kind):
    """Bytes of a number."""
    return types.int64(kind), lambda context, builder, sig, args: _const(_itemsize(kind))


@intrinsic
def row_bytes(typingctx, kind):
    """Bytes of one row of a panel of activations: two vectors."""
    return _shape(kind, lambda g: g.samples * (vector_bytes() // g.lanes))


@intrinsic
def most_rows(typingctx, kind):
    """Height of the tallest tile whose lanes are samples."""
    return _shape(kind, lambda g: g.rows)


@intrinsic
def gradient_sums(typingctx, kind):
    """Vectors of sums of a tile whose lanes are neurons, one of an even number of rows."""
    return _shape(kind, lambda g: g.gradient_rows * g.gradient_vectors)


@intrinsic
def has_odd_tiles(typingctx, kind):
    """Whether there are tiles of odd numbers of rows whose lanes are neurons."""
    return _shape(kind, lambda g: int(9 in gradient_heights(g, g.gradient_vectors)))


@intrinsic
def most_gradient_vectors(typingctx, kind):
    """Width of the widest tile whose lanes are neurons, in vectors."""
    return _shape(kind, lambda g: g.gradient_vectors)


@helper
def tile_height(n: int, most: int) -> int:
    """Rows of the next tile where n are left."""
    if n >= most:
        return most
    if n >= 8:
        return 8
    if n >= 6:
        return 6
    if n >= 4:
        return 4
    return 2 if n >= 2 else 1


@helper
def gradient_height(kind: Any, n: int, vectors: int) -> int:
    """Rows of the next tile of so many vectors whose lanes are neurons, where n rows are left: the odd ones first."""
    tall = gradient_sums(kind)
    if vectors == 2:  # a division takes as long as some rows
        tall //= 2
    elif vectors > 2:
        tall //= vectors
    tall = min(12, tall)
    if n % 2 and n > 1 and has_odd_tiles(kind):
        if n > 8:
            return 13 if n > 12 and tall > 8 else 9
        return 5 if n == 5 else 3
    return tile_height(n, tall)


def _const(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


class _Loop:
    """``for i in range(n)`` (n >= 1) with values carried from turn to turn."""

    def __init__(self, builder: ir.IRBuilder, n: ir.Value, carried: Sequence[ir.Value]) -> None:
        self.builder, self.n = builder, n
        before = builder.block
        self.body = builder.function.append_basic_block("loop")
        self.exit = builder.function.append_basic_block("exit")
        builder.branch(self.body)
        builder.position_at_end(self.body)
        self.i = builder.phi(I64)
        self.i.add_incoming(_const(0), before)
        self.values = []
        for value in carried:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            self.values.append(phi)

    def end(self, values: Sequence[ir.Value]) -> list[ir.Value]:
        builder = self.builder
        last = builder.block
        after = builder.add(self.i, _const(1))
        self.i.add_incoming(after, last)
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, last)
        builder.cbranch(builder.icmp_signed("<", after, self.n), self.body, self.exit)
        builder.position_at_end(self.exit)
        return list(values)


def _function(module: ir.Module, name: str, arguments: int) -> tuple[ir.Function, ir.IRBuilder]:
    function = ir.Function(module, ir.FunctionType(VOID, [I64] * arguments), name)
    function.linkage = "internal"
    for attribute in ("noinline", "nounwind"):
        function.attributes.add(attribute)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _once(module: ir.Module, name: str, arguments: int, body: Callable[..., None]) -> ir.Function:
    if name in module.globals:
        return module.globals[name]
    function, builder = _function(module, name, arguments)
    body(builder, *function.args)
    builder.ret_void()
    return function


def _prefetch(
    builder: ir.IRBuilder, address: ir.Value, offset: int = 0, locality: int = 2, write: bool = False
) -> None:
    i32 = ir.IntType(32)
    byte = ir.IntType(8).as_pointer()
    function = external(builder, "llvm.prefetch.p0", VOID, [byte, i32, i32, i32])
    builder.call(
        function,
        [
            pointer(builder, address, ir.IntType(8), offset),
            ir.Constant(i32, int(write)),
            ir.Constant(i32, locality),
            ir.Constant(i32, 1),
        ],
    )


def _prefetch_next(builder: ir.IRBuilder, address: ir.Value, nbytes: int, locality: int = 3) -> None:
    """Ask for the lines of what follows so many bytes and is as long."""
    for byte in range(nbytes, 2 * nbytes, LINE):
        _prefetch(builder, address, byte, locality)


@dataclass(frozen=True)
class _Tile:
    """What is fixed when one micro-kernel is written: the product, the number type and the tile's height and width."""

    product: str
    itemsize: int
    height: int
    vectors: int

    @property
    def name(self) -> str:
        return f"tile_{self.product}_{8 * self.itemsize}_{self.height}x{self.vectors}"


def _write(module: ir.Module, tile: _Tile) -> ir.Function:
    """The micro-kernel (written once per module).

    Arguments: a, v (addresses of the broadcast numbers and of the vectors), c (the sums), n (steps of the sum),
    accumulate (0: begin at zero, else at c), mode (1: rectify; gradient: ask for the next tile's broadcast numbers),
    a_outer, v_outer (bytes to the next panel; forward: how much further than in one panel the second group of rows
    lies), c_vector (bytes between the vectors of a row of sums; forward: how much further the third group lies), extra
    (forward: what to prefetch, a_outer bytes further each step; backward: address of the activations that mask;
    gradient: distance of the dz vectors).
    """
    if tile.name in module.globals:
        return module.globals[tile.name]
    g = geometry(tile.itemsize)
    size, mr, nv = tile.itemsize, tile.height, tile.vectors
    number = llvm_type(types.float32 if size == 4 else types.float64)
    vector = ir.VectorType(number, g.lanes)
    bytes_ = vector_bytes()
    panel, row = g.width * size, g.samples * size
    # bytes: between rows of the broadcast, between steps of the broadcast, between steps of the vectors, rows of sums
    a_row, a_step, v_step, c_row = {
        "forward": (size, panel, row, row),
        "backward": (panel, size, row, row),
        "gradient": (row, size, panel, panel),
    }[tile.product]
    block = {"forward": None, "backward": g.width, "gradient": g.samples}[tile.product]

    function, builder = _function(module, tile.name, 10)
    a, v, c, n, accumulate, mode, a_outer, v_outer, c_vector, extra = function.args
    if tile.product == "gradient" and g.panel_vectors == 1:
        v_at = [builder.mul(extra, _const(j)) for j in range(nv)]
        c_at = [builder.mul(c_vector, _const(j)) for j in range(nv)]
    else:
        v_at = c_at = [_const(j * bytes_) for j in range(nv)]
    c_rows = [[builder.add(c, builder.add(c_at[j], _const(i * c_row))) for j in range(nv)] for i in range(mr)]

    more, begin = function.append_basic_block("more"), function.append_basic_block("begin")
    entry = builder.block
    builder.cbranch(builder.icmp_signed("!=", accumulate, _const(0)), more, begin)
    builder.position_at_end(more)
    earlier = [load(builder, c_rows[i][j], vector, align=bytes_) for i in range(mr) for j in range(nv)]
    if tile.product == "backward":  # large, as it goes in blocks: what the next tile begins and ends with
        _prefetch_next(builder, c, mr * row)
        masked = function.append_basic_block("masked")
        builder.cbranch(builder.icmp_signed("==", mode, _const(1)), masked, begin)
        builder.position_at_end(masked)
        _prefetch_next(builder, extra, mr * row)
    builder.branch(begin)
    builder.position_at_end(begin)
    zero = ir.Constant(vector, [0.0] * g.lanes)
    sums = []
    for value in earlier:
        phi = builder.phi(vector)
        phi.add_incoming(value, more)
        if tile.product == "backward":
            phi.add_incoming(value, masked)
        phi.add_incoming(zero, entry)
        sums.append(phi)

    crosses = tile.product == "forward" and g.width % g.rows != 0

    def step(a: ir.Value, v: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
        groups = [a, builder.add(a, v_outer), builder.add(a, c_vector)] if crosses else [a] * mr
        vs = [load(builder, builder.add(v, v_at[j]), vector, align=bytes_) for j in range(nv)]
        out = list(sums)
        for i in range(mr):
            at = groups[i // GROUP]
            spread = splat(builder, load(builder, at, number, i * a_row, align=size), g.lanes)
            for j in range(nv):
                out[i * nv + j] = fused(builder, spread, vs[j], out[i * nv + j])
        return out

    if block is None:
        loop = _Loop(builder, n, [a, v, extra, *sums])
        at, vt, ahead, *now = loop.values
        _prefetch(builder, ahead)
        now = step(at, vt, now)
        after = [builder.add(at, _const(a_step)), builder.add(vt, _const(v_step)), builder.add(ahead, a_outer)]
        _, _, _, *sums = loop.end([*after, *now])
    else:
        outer = _Loop(builder, builder.sdiv(builder.add(n, _const(block - 1)), _const(block)), [a, v, *sums])
        a_panel, v_panel, *now = outer.values
        left = builder.sub(n, builder.mul(outer.i, _const(block)))
        inner_n = builder.select(builder.icmp_signed("<", left, _const(block)), left, _const(block))
        if tile.product == "backward":
            _prefetch_next(builder, a_panel, mr * a_row, locality=2)
        if tile.product == "gradient":
            far, inside = function.append_basic_block("far"), function.append_basic_block("inside")
            builder.cbranch(builder.icmp_signed("==", mode, _const(1)), far, inside)
            builder.position_at_end(far)
            _prefetch_next(builder, a_panel, mr * a_row)
            builder.branch(inside)
            builder.position_at_end(inside)
        inner = _Loop(builder, inner_n, [a_panel, v_panel, *now])
        at, vt, *now = inner.values
        now = step(at, vt, now)
        _, _, *now = inner.end([builder.add(at, _const(a_step)), builder.add(vt, _const(v_step)), *now])
        _, _, *sums = outer.end([builder.add(a_panel, a_outer), builder.add(v_panel, v_outer), *now])

    idle = [] if tile.product == "gradient" else range(nv, g.samples // g.lanes)

    def write(values: Sequence[ir.Value]) -> None:
        for i in range(mr):
            for j in range(nv):
                store(builder, values[i * nv + j], c_rows[i][j], align=bytes_)
            for j in idle:
                store(builder, zero, c_rows[i][0], j * bytes_, align=bytes_)
        builder.ret_void()

    if tile.product == "gradient":
        write(sums)
        return function
    rectify, plain = function.append_basic_block("rectify"), function.append_basic_block("plain")
    builder.cbranch(builder.icmp_signed("==", mode, _const(1)), rectify, plain)
    builder.position_at_end(plain)
    write(sums)
    builder.position_at_end(rectify)
    if tile.product == "forward":
        write([builder.select(builder.fcmp_ordered("<", s, zero), zero, s) for s in sums])
    else:
        masks = [load(builder, extra, vector, i * row + j * bytes_, align=bytes_) for i in range(mr) for j in range(nv)]
        write([builder.select(builder.fcmp_ordered(">", m, zero), s, zero) for m, s in zip(masks, sums, strict=True)])
    return function


def _switch(builder: ir.IRBuilder, key: ir.Value, cases: Mapping[int, Callable[[], ir.Function]], args: Any) -> None:
    """Call ``cases[key]()`` with the arguments."""
    function = builder.function
    end, other = function.append_basic_block("end"), function.append_basic_block("other")
    switch = builder.switch(key, other)
    for number, make in cases.items():
        block = function.append_basic_block(f"case{number}")
        switch.add_case(_const(number), block)
        with builder.goto_block(block):
            builder.call(make(), args)
            builder.branch(end)
    builder.position_at_end(other)
    builder.unreachable()
    builder.position_at_end(end)


def _itemsize(kind: Any) -> int:
    return int(kind.instance_type.bitwidth // 8)


def _product(kind: Any, product: str, widths: Sequence[int]) -> Any:
    """Signature and IR of a micro-kernel call: (number type, 16 * height + vectors, ten addresses and sizes)."""
    size = _itemsize(kind)
    g = geometry(size)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        cases = {
            16 * h + w: functools.partial(_write, builder.module, _Tile(product, size, h, w))
            for w in widths
            for h in (gradient_heights(g, w) if product == "gradient" else row_counts(g.rows))
        }
        _switch(builder, args[1], cases, args[2:])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 11), emit


@intrinsic
def tile_forward(typingctx, kind, key, a, v, c, n, accumulate, mode, a_outer, v_outer, c_vector, extra):
    """Tile of ``z = w a``: lanes are samples, key = 16 * rows + vectors; with one, the other is set to zero."""
    return _product(kind, "forward", (1, 2))


@intrinsic
def tile_backward(typingctx, kind, key, a, v, c, n, accumulate, mode, a_outer, v_outer, c_vector, extra):
    """Tile of ``da = w dz``: lanes are samples, key = 16 * rows + vectors; with one, the other is set to zero."""
    return _product(kind, "backward", (1, 2))


@intrinsic
def tile_gradient(typingctx, kind, key, a, v, c, n, accumulate, mode, a_outer, v_outer, c_vector, extra):
    """Tile of ``dw = a dzt``: lanes are neurons, key = 16 * rows + vectors."""
    return _product(kind, "gradient", range(1, geometry(_itemsize(kind)).gradient_vectors + 1))


# ---------------------------------------------------------------- few neurons


def _summed(builder: ir.IRBuilder, values: Sequence[ir.Value]) -> ir.Value:
    """A vector whose lane i is the sum of vector i's lanes; there are at most as many as lanes."""
    n = values[0].type.count
    rows = [*values, *[ir.Constant(values[0].type, [0.0] * n)] * (n - len(values))]
    s = n // 2
    while s:
        low = [n + lane - s if lane & s else lane for lane in range(n)]
        high = [n + lane if lane & s else lane + s for lane in range(n)]
        rows = [
            builder.fadd(*(builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, n), m)) for m in (low, high)))
            for a, b in zip(rows[:s], rows[s:], strict=True)
        ]
        s //= 2
    return rows[0]


def _write_dots(module: ir.Module, itemsize: int, height: int, neurons: int) -> ir.Function:
    """`height` inputs by `neurons` of the last panel (written once per module); arguments as in `tile_dots`."""
    name = f"tile_dots_{8 * itemsize}_{height}x{neurons}"
    if name in module.globals:
        return module.globals[name]
    g, bytes_ = geometry(itemsize), vector_bytes()
    number = llvm_type(types.float32 if itemsize == 4 else types.float64)
    vector = ir.VectorType(number, g.lanes)
    zero = ir.Constant(vector, [0.0] * g.lanes)
    function, builder = _function(module, name, 7)
    a, dz, c, n, accumulate, a_panel, dz_panel = function.args
    panels = builder.lshr(builder.add(n, _const(1)), _const(1))
    loop = _Loop(builder, panels, [a, dz, *[zero] * (height * neurons)])
    at, slopes, *sums = loop.values
    full = builder.icmp_signed("<", builder.add(builder.add(loop.i, loop.i), _const(1)), n)

    def read(address: ir.Value, row: int, half: int) -> ir.Value:
        value = load(builder, address, vector, (2 * row + half) * bytes_, align=bytes_)
        return builder.select(full, value, zero) if half else value

    for half in range(2):
        vs = [read(slopes, o, half) for o in range(neurons)]
        for i in range(height):
            value = read(at, i, half)
            for o in range(neurons):
                sums[i * neurons + o] = fused(builder, value, vs[o], sums[i * neurons + o])
    _, _, *sums = loop.end([builder.add(at, a_panel), builder.add(slopes, dz_panel), *sums])
    total = _summed(builder, sums)
    more = builder.icmp_signed("!=", accumulate, _const(0))
    for i in range(height):
        order = [i * neurons + lane if lane < neurons else g.lanes for lane in range(g.lanes)]
        row = builder.shuffle_vector(total, zero, ir.Constant(ir.VectorType(I32, g.lanes), order))
        place = i * g.width * itemsize
        earlier = builder.select(more, load(builder, c, vector, place, align=bytes_), zero)
        store(builder, builder.fadd(earlier, row), c, place, align=bytes_)
    builder.ret_void()
    return function


def _dot_rows(lanes: int, neurons: int) -> int:
    """Inputs of the tallest tile: its sums fit one vector."""
    return min(8, lanes >> (neurons - 1).bit_length())


@intrinsic
def tile_dots(typingctx, kind, key, a, dz, c, n, accumulate, a_panel, dz_panel):
    """Tile of ``dw = a dz`` for the few neurons of a layer's last panel: lanes are samples, the sum ends across them.

    key: 16 * rows + neurons, at most half as many as lanes; a, dz: panels of samples, n vectors; c: the sums, as
    `tile_gradient` lays them out, zero beyond the neurons in one vector; accumulate: 0 sets them, else adds to them.
    """
    size = _itemsize(kind)
    lanes = lanes_of(size)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        cases = {
            16 * h + o: functools.partial(_write_dots, builder.module, size, h, o)
            for o in range(1, lanes // 2 + 1)
            for h in (8, 4, 2, 1)
            if h <= _dot_rows(lanes, o)
        }
        _switch(builder, args[1], cases, args[2:])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 8), emit


@intrinsic
def prefetch_to_read(typingctx, address):
    """Ask for the cache line at an address, to be read soon."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        _prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def prefetch_to_write(typingctx, address):
    """Ask for the cache line at an address, to be written soon: it is taken from other cores' caches meanwhile."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        _prefetch(builder, args[0], locality=3, write=True)
        return context.get_dummy_value()

    return types.void(types.int64), emit
