"""Products over few batch rows (at most a vector of them): lanes are neurons, so that no lane idles.

Panels of activations hold two vectors of samples; with 1 to 16 rows most of their lanes would compute nothing. Here the
weights are the vectors, in both directions; each is read once and used for all rows:

* forward   ``z[b][o]  = sum_i a[i][b] w[i][o]``    lanes are outputs; bit by bit the sums of `rows.forward`
* backward  ``da[i][b] = sum_o w[i][o] dzt[b][o]``  lanes are parts of the sum, added up last in one fixed order

Reached by address like the products of ``cpu.bfloat16``.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel, intrinsic, vector_bytes, vector_registers
from fastbp._vector import (
    column,
    fused,
    lanes,
    lanes_of,
    llvm_type,
    load,
    load_number,
    splat,
    store,
    store_number,
    where,
)
from fastbp.cpu.pairs import stack
from fastbp.cpu.rows import alone, at
from fastbp.cpu.rules import SIGNATURE
from fastbp.cpu.squares import _transposed, transpose_square
from fastbp.cpu.tile import (
    _const,
    _function,
    _itemsize,
    _Loop,
    _switch,
    geometry,
    item_bytes,
    panel_width,
    row_bytes,
)

SQUARE = 1024  # bytes of lanes x lanes numbers, at most
SCRATCH = 8 * SQUARE


def _rows(itemsize: int) -> set[int]:
    """Rows of the tiles (see `Program.thin_rows`)."""
    lanes = lanes_of(itemsize)
    return {1, min(4, lanes), lanes}


def _most_vectors(itemsize: int, rows: int) -> int:
    """Vectors of a tile of so many rows: as many as leave its sums in registers, and lie evenly apart."""
    sums = 16 if vector_registers() == 32 else 8
    panel = geometry(itemsize).panel_vectors
    return max(1, min(8 if panel == 1 else panel, sums // rows))


def _write_forward(module: ir.Module, itemsize: int, rows: int, vectors: int) -> ir.Function:
    """Sums of `rows` rows by `vectors` vectors of neurons (written once per module).

    Arguments: a (of the first row), w, c (the sums, a vector for each row), n (steps of the sum), w_next (bytes between
    the vectors of weights), c_next (bytes between the squares of sums, of which the rows beyond are 0, unless there is
    only one).
    """
    name = f"tile_thin_{8 * itemsize}_{rows}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    g = geometry(itemsize)
    number = llvm_type(types.float32 if itemsize == 4 else types.float64)
    vector, bytes_ = ir.VectorType(number, g.lanes), vector_bytes()
    function, builder = _function(module, name, 6)
    a, w, c, n, w_next, c_next = function.args
    w_at = [builder.mul(w_next, _const(j)) for j in range(vectors)]
    loop = _Loop(builder, n, [a, w, *[ir.Constant(vector, [0.0] * g.lanes)] * (rows * vectors)])
    at_, wt, *now = loop.values
    ws = [load(builder, builder.add(wt, w_at[j]), vector, align=bytes_) for j in range(vectors)]
    for i in range(rows):
        spread = splat(builder, load(builder, at_, number, i * itemsize, align=itemsize), g.lanes)
        for j in range(vectors):
            now[i * vectors + j] = fused(builder, spread, ws[j], now[i * vectors + j])
    steps = [builder.add(at_, _const(g.samples * itemsize)), builder.add(wt, _const(g.width * itemsize))]
    _, _, *sums = loop.end([*steps, *now])
    zero = ir.Constant(vector, [0.0] * g.lanes)
    for j in range(vectors):
        place = builder.add(c, builder.mul(c_next, _const(j)))
        for i in range(1 if rows == 1 else g.lanes):
            store(builder, sums[i * vectors + j] if i < rows else zero, place, i * bytes_, align=bytes_)
    builder.ret_void()
    return function


def _write_backward(module: ir.Module, itemsize: int, inputs: int, rows: int) -> ir.Function:
    """Sums of `inputs` inputs by `rows` rows, as one vector [input][row] (written once per module).

    Arguments: w (of the first input), t (dZ transposed, of the first row), c (the vector), n (panels of neurons),
    w_panel, t_panel (bytes between panels).
    """
    name = f"tile_thin_back_{8 * itemsize}_{inputs}x{rows}"
    if name in module.globals:
        return module.globals[name]
    g = geometry(itemsize)
    number = llvm_type(types.float32 if itemsize == 4 else types.float64)
    vector, bytes_ = ir.VectorType(number, g.lanes), vector_bytes()
    row = g.width * itemsize
    function, builder = _function(module, name, 6)
    w, t, c, n, w_panel, t_panel = function.args
    zero = ir.Constant(vector, [0.0] * g.lanes)
    loop = _Loop(builder, n, [w, t, *[zero] * (inputs * rows)])
    wt, tt, *now = loop.values
    for part in range(g.panel_vectors):
        ts = [load(builder, tt, vector, j * row + part * bytes_, align=bytes_) for j in range(rows)]
        for i in range(inputs):
            weight = load(builder, wt, vector, i * row + part * bytes_, align=bytes_)
            for j in range(rows):
                now[i * rows + j] = fused(builder, weight, ts[j], now[i * rows + j])
    _, _, *sums = loop.end([builder.add(wt, w_panel), builder.add(tt, t_panel), *now])
    columns = _transposed(builder, [*sums, *[zero] * (g.lanes - len(sums))])
    while len(columns) > 1:
        half = len(columns) // 2
        columns = [builder.fadd(x, y) for x, y in zip(columns[:half], columns[half:], strict=True)]
    store(builder, columns[0], c, align=bytes_)
    builder.ret_void()
    return function


def _call(kind: Any, cases: dict[int, Callable[..., ir.Function]]) -> Any:
    """Signature and IR of a call by key: (number type, key, six addresses and sizes)."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        made = {key: functools.partial(write, builder.module) for key, write in cases.items()}
        _switch(builder, args[1], made, args[2:])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 7), emit


@intrinsic
def tile_forward(typingctx, kind, key, a, w, c, n, w_next, c_next):
    """Sums of a few rows: key = 16 * rows + vectors."""
    size = _itemsize(kind)
    cases: dict[int, Callable[..., ir.Function]] = {
        16 * rows + vectors: functools.partial(_write_forward, itemsize=size, rows=rows, vectors=vectors)
        for rows in _rows(size)
        for vectors in range(1, _most_vectors(size, rows) + 1)
        if geometry(size).panel_vectors > 1 or vectors in (1, 2, 4, 8)
    }
    return _call(kind, cases)


@intrinsic
def most_vectors(typingctx, kind, rows):
    """Vectors of the widest forward tile of so many rows."""
    size = _itemsize(kind)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        value = _const(1)
        for count in _rows(size):
            same = builder.icmp_signed("==", args[1], _const(count))
            value = builder.select(same, _const(_most_vectors(size, count)), value)
        return value

    return types.int64(kind, types.int64), emit


@intrinsic
def tile_backward(typingctx, kind, key, w, t, c, n, w_panel, t_panel):
    """Sums of a few inputs and rows: key = 32 * inputs + rows."""
    size = _itemsize(kind)
    cases: dict[int, Callable[..., ir.Function]] = {
        32 * inputs + rows: functools.partial(_write_backward, itemsize=size, inputs=inputs, rows=rows)
        for rows in _rows(size)
        for inputs in {1, lanes_of(size) // rows}
    }
    return _call(kind, cases)


def _forward(kind: Any) -> Callable[..., float]:
    def forward(op: int, p0: int, p1: int, o0: int, o1: int, _f: int) -> float:
        """Z of neurons o0:o1 from A, rectified where the op says so."""
        scratch, square = stack(SCRATCH), stack(SQUARE)
        n, width, item = lanes(kind), panel_width(kind), item_bytes(kind)
        vector = n * item
        per_panel = width // n
        rows, steps = at(op, pg.THIN), at(op, pg.STEPS_IN)
        most = most_vectors(kind, rows)
        w_panel = at(op, pg.W_PANEL)
        turned = column(kind, square, 1)
        for p in range(p0, p1):
            a = at(op, pg.A) + p * at(op, pg.A_PANEL)
            z = column(kind, at(op, pg.Z) + p * at(op, pg.Z_PANEL), 1)
            q, end = o0 // n, (o1 + n - 1) // n
            while q < end:
                w = at(op, pg.W) + q // per_panel * w_panel + q % per_panel * vector
                if per_panel == 1:
                    vectors, w_next = most, w_panel
                    while vectors > end - q:
                        vectors //= 2
                else:
                    vectors, w_next = min(most, per_panel - q % per_panel, end - q), vector
                tile_forward(kind, 16 * rows + vectors, a, w, scratch, steps, w_next, n * vector)
                for j in range(vectors):
                    found = scratch + j * n * vector
                    if rows > 1:
                        transpose_square(kind, found, vector, square, vector)
                    for o in range(min(n, o1 - (q + j) * n)):
                        if rows > 1:
                            value = turned[o]
                        else:
                            value = alone(kind, found + o * item)
                        if at(op, pg.MODE):
                            value = where(value < 0.0, 0.0, value)
                        z[2 * ((q + j) * n + o)] = value
                q += vectors
        return 0.0

    return forward


def _backward(kind: Any) -> Callable[..., float]:
    def backward(op: int, p0: int, p1: int, i0: int, i1: int, _f: int) -> float:
        """DA of the inputs i0:i1 from T, masked where the inputs were rectified."""
        square = stack(SQUARE)
        n, width, size, item = lanes(kind), panel_width(kind), row_bytes(kind), item_bytes(kind)
        rows, masked = at(op, pg.THIN), at(op, pg.MASK) > 0
        panels = (at(op, pg.OUT) + width - 1) // width
        sums = column(kind, square, 1)
        for p in range(p0, p1):
            t = at(op, pg.T) + 2 * n * p * width * item
            da = at(op, pg.DA) + p * at(op, pg.DA_PANEL)
            mask = at(op, pg.A) + p * at(op, pg.A_PANEL)
            i = i0
            while i < i1:
                inputs = n // rows if n // rows <= i1 - i else 1
                w = at(op, pg.W) + i * width * item
                tile_backward(kind, 32 * inputs + rows, w, t, square, panels, at(op, pg.W_PANEL), at(op, pg.T_PANEL))
                if rows == n:
                    value = sums[0]
                    if masked:
                        value = where(column(kind, mask + i * size, 1)[0] > 0.0, value, 0.0)
                    column(kind, da + i * size, 1)[0] = value
                elif rows == 1:
                    for r in range(inputs):
                        value = alone(kind, square + r * item)
                        if masked:
                            value = where(column(kind, mask + (i + r) * size, 1)[0] > 0.0, value, 0.0)
                        column(kind, da + (i + r) * size, 1)[0] = value
                else:
                    for r in range(inputs):
                        for b in range(rows):
                            place = (i + r) * size + b * item
                            keeps = not masked or load_number(kind, mask + place) > 0.0
                            number = load_number(kind, square + (r * rows + b) * item)
                            store_number(kind, da + place, number if keeps else kind(0.0))
                i += inputs
        return 0.0

    return backward


@functools.cache
def rule(name: str, dtype: np.dtype) -> Kernel:
    """The compiled rule "forward" or "backward" for float32 or float64."""
    return Kernel({"forward": _forward, "backward": _backward}[name](dtype.type), SIGNATURE)


def bind(table: np.ndarray, dtype: np.dtype, backward_too: bool) -> None:
    """Put the rules' addresses into the rows of a table of ops."""
    products = table[:, pg.W_PANEL] * table[:, pg.STEPS_IN] > 0
    table[products, pg.FORWARD_RULE] = rule("forward", dtype).address()
    if backward_too:
        table[products, pg.BACKWARD_RULE] = rule("backward", dtype).address()
