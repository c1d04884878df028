"""The first layer over sparse rows: its products are over the entries alone, in the order of the dense ones.

The sums are bit by bit those of the dense products: what is left out would have added 0.

* index     before a step's products: where each row's entries of each block of inputs begin
* forward   ``z[b] = sum over the entries (i, v) of row b of v w[i] + bias``    lanes are neurons
* task      ``dw[i] = sum over the rows b with an entry (i, v) of v dz[b]``     lanes are neurons; and the update

Where an update leaves weights alone whose gradient is 0 (plain SGD), only the inputs that occur are updated.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel, intrinsic
from fastbp._vector import I64, column, fma, lanes, load, load_int, load_number, spread, store, where
from fastbp.cpu import penalty, updates, weights
from fastbp.cpu.pairs import stack
from fastbp.cpu.rows import at
from fastbp.cpu.rules import SIGNATURE
from fastbp.cpu.squares import transpose_square
from fastbp.cpu.thin import SQUARE
from fastbp.cpu.tile import item_bytes, panel_width
from fastbp.data.sparse import SparseRows
from fastbp.layout.plan import Plan
from fastbp.program import Program

# ---- columns of an op's sparse row
(
    STARTS,
    COLUMNS,
    VALUES,
    INDEX,  # row numbers of the slab
    CELLS,  # (blocks + 1, rows) int32: how many entries of a row stand before a block of inputs
    CELLS_ROW,  # bytes from a block to the next
    GRAIN,  # inputs of a block
) = range(7)
SPARSE_COLUMNS = 7
VECTORS = 4
"""Vectors of neurons whose sums run together: entries are read once for them."""
SQUARES = VECTORS * SQUARE

I32 = ir.IntType(32)


@intrinsic
def load_int32(typingctx, address):
    """The int32 at an address, as int64."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.sext(load(builder, args[0], I32, align=4), I64)

    return types.int64(types.int64), emit


@intrinsic
def store_int32(typingctx, address, value):
    """Write an int64 as int32 at an address."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        store(builder, builder.trunc(args[1], I32), args[0], align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


def _index(kind: Any) -> Callable[..., float]:
    def index(op: int, p0: int, p1: int, _d: int, _e: int, _f: int) -> float:
        """The cells of the panels p0:p1."""
        sparse = at(op, pg.SPARSE)
        grain, step = at(sparse, GRAIN), at(sparse, CELLS_ROW)
        blocks = (at(op, pg.IN) + grain - 1) // grain
        samples = 2 * lanes(kind)
        for place in range(p0 * samples, p1 * samples):
            row = load_int(at(sparse, INDEX) + 8 * place)
            first, last = load_int(at(sparse, STARTS) + 8 * row), load_int(at(sparse, STARTS) + 8 * row + 8)
            cell = at(sparse, CELLS) + 4 * place
            block = 0
            for entry in range(first, last):
                until = load_int32(at(sparse, COLUMNS) + 4 * entry) // grain
                while block <= until:
                    store_int32(cell + block * step, entry - first)
                    block += 1
            while block <= blocks:
                store_int32(cell + block * step, last - first)
                block += 1
        return 0.0

    return index


def _forward(kind: Any) -> Callable[..., float]:
    def forward(op: int, p0: int, p1: int, o0: int, o1: int, _f: int) -> float:
        """Z of neurons o0:o1 from the entries, rectified where the op says so."""
        squares, turned = stack(SQUARES), stack(SQUARE)
        n, width, item = lanes(kind), panel_width(kind), item_bytes(kind)
        vector, per_panel = n * item, width // n
        sparse = at(op, pg.SPARSE)
        starts, columns, values = at(sparse, STARTS), at(sparse, COLUMNS), at(sparse, VALUES)
        w, w_panel, inputs = at(op, pg.W), at(op, pg.W_PANEL), at(op, pg.IN)
        biases = at(op, pg.STEPS_IN) > inputs
        line = width * item
        square = column(kind, turned, 1)
        for half in range(2 * p0, 2 * p1):
            if at(op, pg.THIN) and half % 2:
                continue
            z = column(kind, at(op, pg.Z) + half // 2 * at(op, pg.Z_PANEL), 1)
            q, end = o0 // n, (o1 + n - 1) // n
            while q < end:
                vectors = min(VECTORS, end - q)
                q1, q2, q3 = min(q + 1, end - 1), min(q + 2, end - 1), min(q + 3, end - 1)
                w0 = w + q // per_panel * w_panel + q % per_panel * vector
                w1 = w + q1 // per_panel * w_panel + q1 % per_panel * vector
                w2 = w + q2 // per_panel * w_panel + q2 % per_panel * vector
                w3 = w + q3 // per_panel * w_panel + q3 % per_panel * vector
                for b in range(n):
                    row = load_int(at(sparse, INDEX) + 8 * (half * n + b))
                    s0 = spread(kind, 0.0)
                    s1, s2, s3 = s0, s0, s0
                    for entry in range(load_int(starts + 8 * row), load_int(starts + 8 * row + 8)):
                        place = load_int32(columns + 4 * entry) * line
                        value = spread(kind, load_number(kind, values + entry * item))
                        s0 = fma(value, column(kind, w0 + place, 1)[0], s0)
                        s1 = fma(value, column(kind, w1 + place, 1)[0], s1)
                        s2 = fma(value, column(kind, w2 + place, 1)[0], s2)
                        s3 = fma(value, column(kind, w3 + place, 1)[0], s3)
                    if biases:
                        s0 = s0 + column(kind, w0 + inputs * line, 1)[0]
                        s1 = s1 + column(kind, w1 + inputs * line, 1)[0]
                        s2 = s2 + column(kind, w2 + inputs * line, 1)[0]
                        s3 = s3 + column(kind, w3 + inputs * line, 1)[0]
                    target = squares + b * vector
                    column(kind, target, 1)[0] = s0
                    column(kind, target + n * vector, 1)[0] = s1
                    column(kind, target + 2 * n * vector, 1)[0] = s2
                    column(kind, target + 3 * n * vector, 1)[0] = s3
                for j in range(vectors):
                    transpose_square(kind, squares + j * n * vector, vector, turned, vector)
                    for o in range(min(n, o1 - (q + j) * n)):
                        result = square[o]
                        if at(op, pg.MODE):
                            result = where(result < 0.0, 0.0, result)
                        z[2 * ((q + j) * n + o) + half % 2] = result
                q += vectors
        return 0.0

    return forward


def _task(kind: Any) -> Callable[..., float]:
    def task(run: int, row: int, count: int, stage: int, h: int, g: int) -> float:
        """As `weights.task`, over the entries of the tile's inputs."""
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
        sparse = at(op, pg.SPARSE)
        k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
        n, width, item = lanes(kind), panel_width(kind), item_bytes(kind)
        line, inputs, per_panel = width * item, at(op, pg.IN), width // n
        w_panel, t_panel = at(op, pg.W_PANEL), at(op, pg.T_PANEL)
        w, t = at(op, pg.W) + j0 * w_panel + k0 * line, at(op, pg.T) + j0 * t_panel
        g_panel = (k1 - k0) * line
        if at(run, pg.GRADIENT):
            g, g_panel = w + at(run, pg.GRADIENT), w_panel
        due = stage & weights.DUE
        lazy = due and weights.may_skip(run, op)
        if stage & weights.LAST and at(op, pg.PENALTY):
            penalty.measure(kind, run, op, k0, k1, j0, j1, h)
        if stage & weights.MORE == 0:
            for j in range(j1 - j0):
                cells = column(kind, g + j * g_panel, 1)
                for i in range((k1 - k0) * per_panel):
                    cells[i] = spread(kind, 0.0)
        touched = np.int64(0)
        first_cell = at(sparse, CELLS) + k0 // at(sparse, GRAIN) * at(sparse, CELLS_ROW)
        last_cell = at(sparse, CELLS) + (min(k1, inputs) + at(sparse, GRAIN) - 1) // at(sparse, GRAIN) * at(
            sparse, CELLS_ROW
        )
        for b in range(count):
            begin, end = load_int32(first_cell + 4 * b), load_int32(last_cell + 4 * b)
            if begin == end and k1 <= inputs:
                continue
            start = load_int(at(sparse, STARTS) + 8 * load_int(at(sparse, INDEX) + 8 * b))
            for j in range(j1 - j0):
                dz = column(kind, t + j * t_panel + b * line, 1)
                for entry in range(start + begin, start + end):
                    i = load_int32(at(sparse, COLUMNS) + 4 * entry) - k0
                    touched |= np.int64(1) << i
                    value = spread(kind, load_number(kind, at(sparse, VALUES) + entry * item))
                    total = column(kind, g + j * g_panel + i * line, 1)
                    for part in range(per_panel):
                        total[part] = fma(value, dz[part], total[part])
                if k1 > inputs:
                    total = column(kind, g + j * g_panel + (inputs - k0) * line, 1)
                    for part in range(per_panel):
                        total[part] = total[part] + dz[part]
        if k1 > inputs:
            touched |= np.int64(1) << (inputs - k0)
        if due and lazy:
            for i in range(k1 - k0):
                if touched >> i & 1:
                    for j in range(j1 - j0):
                        place = j * w_panel + i * line
                        weights.finish(kind, run, op, k0 + i, 1, w + place, g + j * g_panel + i * line, h)
        elif due:
            for j in range(j1 - j0):
                weights.finish(kind, run, op, k0, k1 - k0, w + j * w_panel, g + j * g_panel, h)
        if due and at(op, pg.SQUARES):
            updates.squares_of(kind, run, op, k0, k1, j0, j1)
        return 0.0

    return task


@functools.cache
def rule(name: str, dtype: np.dtype) -> Kernel:
    """The compiled rule "index", "forward" or "task" for float32 or float64."""
    return Kernel({"index": _index, "forward": _forward, "task": _task}[name](dtype.type), SIGNATURE)


RULES = ("index", "forward", "task")


def bind(program: Program, plan: Plan, table: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Let the first op read sparse rows: (its sparse row, its cells), which must outlive the table."""
    dtype = program.dtype
    table[0, pg.FORWARD_RULE] = rule("forward", dtype).address()
    row, cells = np.zeros(SPARSE_COLUMNS, np.int64), np.zeros((0, 0), np.int32)
    if plan.backward:
        own = plan.tasks[(plan.tasks[:, 0] == pg.WEIGHTS) & (plan.tasks[:, 1] == 0)]
        grain = int(np.gcd.reduce(np.append(own[:, 2], pg.ROWS_OF_TILE)))
        blocks = -(-program.layers[0].fan_in // grain)
        cells = np.zeros((blocks + 1, plan.panels * program.tiles.samples), np.int32)
        row[GRAIN], row[CELLS], row[CELLS_ROW] = grain, cells.ctypes.data, cells.strides[0]
        table[0, pg.TASK_RULE] = rule("task", dtype).address()
        table[0, pg.PACK] = rule("index", dtype).address()
    row[INDEX] = index
    table[0, pg.SPARSE] = row.ctypes.data
    return row, cells


def point(row: np.ndarray, x: SparseRows) -> None:
    """Let a run read these rows."""
    row[STARTS], row[COLUMNS], row[VALUES] = x.starts.ctypes.data, x.columns.ctypes.data, x.values.ctypes.data
