"""Rows of a matrix looked up by the whole numbers of a column (see ``operations.EMBEDDING``).

* forward  ``z[b][place + d] = w[code of row b][d]``                    by squares of rows, transposed
* task     ``dw[c][d] = sum over the rows b with code c of dz[b][place + d]``    in the order of the rows; the update

Where an update leaves weights alone whose gradient is 0 (plain SGD), only the rows that occur are updated.
"""

from collections.abc import Callable
from typing import Any

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import column, first_lanes, lanes, load_int, load_number, spread, store_int, where
from fastbp.cpu import penalty, updates, weights
from fastbp.cpu.pairs import stack
from fastbp.cpu.rows import at
from fastbp.cpu.squares import gather_square, transpose_square
from fastbp.cpu.thin import SQUARE
from fastbp.cpu.tile import item_bytes, panel_width, row_bytes

INDICES = 8 * 2 * 16  # bytes of a panel's row numbers, at most
WORD = 32
TOUCHED = 8 * (pg.TABLE_ROWS // WORD)  # bytes of a bit for each row of a task
FEW = 16
"""Below one in so many rows a call of the update for each of them is cheaper than one for all."""


@helper
def code_of(kind: Any, place: int, count: int) -> int:
    """The number at a place, if it is one of 0, 1 ... count - 1, else -1."""
    value = load_number(kind, place)
    if value >= 0.0 and value < count:
        code = int(value)
        if kind(code) == value:
            return code
    return -1


@helper
def clear(kind: Any, place: int, panel: int, panels: int, vectors: int) -> None:
    """A row of so many panels becomes 0."""
    for j in range(panels):
        numbers = column(kind, place + j * panel, 1)
        for i in range(vectors):
            numbers[i] = spread(kind, 0.0)


def forward(kind: Any) -> Callable[..., float]:
    """The rows of the matrix that the column names; row 0, and a 1 in UNFIT, for what names none."""

    def look_up(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        indices, turned = stack(INDICES), stack(SQUARE)
        n, width, size, item = lanes(kind), panel_width(kind), row_bytes(kind), item_bytes(kind)
        code_column, place = load_int(at(op, pg.PICKS)), load_int(at(op, pg.PICKS) + 8)
        count, halves = at(op, pg.KERNEL), 1 if at(op, pg.THIN) else 2
        dim = load_int(at(op, pg.PICKS) + 16)
        unfit = at(at(now, pg.NOW_RUN), pg.UNFIT)
        square = column(kind, turned, 1)
        for p in range(p0, p1):
            codes = at(op, pg.SKIP) + p * at(op, pg.SKIP_PANEL) + code_column * size
            for b in range(halves * n):
                code = code_of(kind, codes + b * item, count)
                if code < 0 and unfit:
                    store_int(unfit, 1)
                store_int(indices + 8 * b, max(code, 0))
            z = at(op, pg.Z) + p * at(op, pg.Z_PANEL) + place * size
            for d in range(0, dim, n):
                w = at(op, pg.W) + d // width * at(op, pg.W_PANEL) + d % width * item
                for half in range(halves):
                    rows = indices + 8 * half * n
                    if d + n <= dim:
                        gather_square(kind, w, width * item, rows, n, z + d * size + half * n * item, size)
                    else:  # a square has n neurons, and what follows the last one's is another op's
                        gather_square(kind, w, width * item, rows, dim - d, turned, n * item)
                        for i in range(dim - d):
                            column(kind, z + (d + i) * size, 1)[half] = square[i]
        return 0.0

    return look_up


def task(kind: Any) -> Callable[..., float]:
    """As `weights.task`: a tile is some rows of the matrix."""

    def add_up(run: int, row: int, count: int, stage: int, h: int, g: int) -> float:
        touched, rows, turned = stack(TOUCHED), stack(INDICES), stack(SQUARE)
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
        k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
        n, width, size, item = lanes(kind), panel_width(kind), row_bytes(kind), item_bytes(kind)
        code_column, place = load_int(at(op, pg.PICKS)), load_int(at(op, pg.PICKS) + 8)
        dim = min(load_int(at(op, pg.PICKS) + 16), j1 * width)
        line, per_panel, w_panel = width * item, width // n, at(op, pg.W_PANEL)
        w, g_panel = at(op, pg.W) + j0 * w_panel + k0 * line, (k1 - k0) * line
        if at(run, pg.GRADIENT):
            g, g_panel = w + at(run, pg.GRADIENT), w_panel
        due = stage & weights.DUE
        lazy = due and weights.may_skip(run, op)
        if stage & weights.LAST and at(op, pg.PENALTY):
            penalty.measure(kind, run, op, k0, k1, j0, j1, h)
        for word in range(0, TOUCHED, 8):
            store_int(touched + word, 0)
        if not lazy and stage & weights.MORE == 0:
            for k in range(k1 - k0):
                clear(kind, g + k * line, g_panel, j1 - j0, per_panel)
        met = 0
        vectors = column(kind, turned, 1)
        for b in range(0, count, n):
            inner = b % (2 * n) * item
            codes = at(op, pg.SKIP) + b // (2 * n) * at(op, pg.SKIP_PANEL) + code_column * size + inner
            found = False
            for i in range(min(n, count - b)):
                k = max(code_of(kind, codes + i * item, at(op, pg.KERNEL)), 0) - k0
                mine = k >= 0 and k < k1 - k0
                store_int(rows + 8 * i, k if mine else -1)
                found = found or mine
                if lazy and mine:
                    word, bit = touched + k // WORD * 8, 1 << (k % WORD)
                    if load_int(word) & bit == 0:
                        store_int(word, load_int(word) | bit)
                        clear(kind, g + k * line, g_panel, j1 - j0, per_panel)
                        met += 1
            if not found:
                continue
            dz = at(op, pg.DZ) + b // (2 * n) * at(op, pg.DZ_PANEL) + inner + place * size
            for d in range(j0 * width, dim, n):
                transpose_square(kind, dz + d * size, size, turned, n * item)
                target = g + (d // width - j0) * g_panel + d % width * item
                there = first_lanes(kind, dim - d)
                for i in range(min(n, count - b)):
                    k = load_int(rows + 8 * i)
                    if k >= 0:
                        sums = column(kind, target + k * line, 1)
                        sums[0] = sums[0] + where(there, vectors[i], 0.0)
        if lazy and met * FEW < k1 - k0:
            for first in range(0, k1 - k0, WORD):
                bits = load_int(touched + first // WORD * 8)
                for i in range(WORD if bits else 0):
                    if bits >> i & 1:
                        k = first + i
                        for j in range(j1 - j0):
                            target = g + j * g_panel + k * line
                            weights.finish(kind, run, op, k0 + k, 1, w + j * w_panel + k * line, target, h)
        elif due:
            for k in range(k1 - k0 if lazy else 0):
                if load_int(touched + k // WORD * 8) >> (k % WORD) & 1 == 0:
                    clear(kind, g + k * line, g_panel, j1 - j0, per_panel)
            for j in range(j1 - j0):
                weights.finish(kind, run, op, k0, k1 - k0, w + j * w_panel, g + j * g_panel, h)
        if due and at(op, pg.SQUARES):
            updates.squares_of(kind, run, op, k0, k1, j0, j1)
        return 0.0

    return add_up
