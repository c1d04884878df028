"""The gradient of a batch as the sum of two halves': of the slab's first panels of rows, and of the others.

For few weights and many rows. Two threads then need not read each other's activations and dZ: each sums the gradient
over the rows that it has just been through, and the weights phase adds the two up. In what order a gradient is summed
follows from shapes: one thread, or many, sum both halves in the weights phase.
"""

from typing import Any

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import column, lanes, load_int, store_int
from fastbp.cpu import penalty, rows, updates, weights
from fastbp.cpu.rows import at
from fastbp.cpu.tile import item_bytes, panel_width, prefetch_to_write
from fastbp.layout.plan import PANELS_PER_TASK


@helper
def first_rows(kind: Any, count: int) -> int:
    """Rows of the first half of so many: whole panels, perhaps none."""
    samples = 2 * lanes(kind)
    return (count + samples - 1) // samples // 2 * samples


@helper
def _sum(
    kind: Any, run: int, op: int, k0: int, k1: int, j0: int, j1: int, b0: int, b1: int, more: int, g: int, g_panel: int
) -> None:
    """Gradient at g of inputs k0:k1 and panels of neurons j0:j1, over the rows b0:b1; more: 0 begins at zero."""
    for start in range(b0, b1, weights.SAMPLES):
        end = min(b1, start + weights.SAMPLES)
        weights.sums(kind, run, op, k0, k1, j0, j1, start, end, more + start - b0, g, g_panel, 0, 0)


@helper
def _sum_apart(kind: Any, run: int, half: int, b0: int, b1: int, more: int) -> None:
    """The gradients of all ops over the rows b0:b1 of one half, each at a distance from its weights."""
    for index in range(at(run, pg.OPS)):
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * index
        if at(op, pg.SUMMED) and at(op, pg.TASK_RULE) == 0:
            g = at(op, pg.W) + at(run, pg.APART) + half * at(run, pg.APART_NEXT)
            _sum(kind, run, op, 0, at(op, pg.STEPS_IN), 0, at(op, pg.W_PANELS), b0, b1, more, g, at(op, pg.W_PANEL))


@helper
def go_through(kind: Any, now: int, half: int, lowest: int, epoch: int, first: int, batch_rows: int) -> None:
    """One half of the slab's rows, forward, back through the op `lowest`, and the sums of its gradients.

    first: place in the epoch of the slab's first row

    Where the rows go through in turns, those of each take the panels of the turn before, which are still in cache.
    """
    run, count, samples = at(now, pg.NOW_RUN), at(now, pg.NOW_COUNT), 2 * lanes(kind)
    border = first_rows(kind, count)
    start, end = (border, count) if half else (0, border)
    at_once, turn = 1, at(run, pg.TURN)
    if turn == 0:
        at_once, turn = PANELS_PER_TASK, count
    place = half * min(turn, border)
    for b0 in range(start, end, turn):
        rest = count - b0 + place  # so many rows has a slab that begins with these, at `place`
        here = first + b0 - place
        store_int(now + 8 * pg.NOW_COUNT, rest)
        b1 = min(end, b0 + turn) - b0 + place
        p0, last = place // samples, (b1 + samples - 1) // samples
        while p0 < last:
            p1 = min(p0 + at_once, last)
            skip = 0
            if b0 + turn >= end and p1 == last and at(run, pg.THREADS) == 2:
                skip = border if half else count - border  # the other half is the other worker's
            rows.gather(kind, run, here, rest, batch_rows, epoch, p0, p1, skip)
            if not rows.up(kind, now, p0, p1, 0, at(run, pg.OPS)):
                return
            rows.output(kind, run, rest, here, p0, p1, (b0 - place) // samples)
            rows.down(kind, now, here, p0, p1, lowest, at(run, pg.OPS))
            p0 = p1
        _sum_apart(kind, run, half, place, b1, b0 - start)
    store_int(now + 8 * pg.NOW_COUNT, count)


@helper
def task(kind: Any, run: int, row: int, count: int, stage: int, h: int, scratch: int) -> None:
    """As `weights.task`."""
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
    k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
    k_bytes = panel_width(kind) * item_bytes(kind)
    w_panel, panel = at(op, pg.W_PANEL), (k1 - k0) * k_bytes
    w = at(op, pg.W) + j0 * w_panel + k0 * k_bytes
    if stage & weights.LAST and at(op, pg.PENALTY):
        penalty.measure(kind, run, op, k0, k1, j0, j1, h)
    due = stage & weights.DUE
    if due:
        for j in range(j1 - j0):
            for byte in range(0, panel, pg.LINE):
                prefetch_to_write(w + j * w_panel + byte)
    border = first_rows(kind, count)
    first, second, apart = scratch, scratch + (j1 - j0) * panel, panel
    if at(run, pg.APART):
        first, apart = w + at(run, pg.APART), w_panel
        second = first + at(run, pg.APART_NEXT)
    else:
        _sum(kind, run, op, k0, k1, j0, j1, 0, border, 0, first, panel)
        _sum(kind, run, op, k0, k1, j0, j1, border, count, 0, second, panel)
    g, g_panel = scratch, panel
    if at(run, pg.GRADIENT):
        g, g_panel = w + at(run, pg.GRADIENT), w_panel
    vectors = panel // (lanes(kind) * item_bytes(kind))
    for j in range(j1 - j0):
        total = column(kind, g + j * g_panel, 1)
        one, two = column(kind, first + j * apart, 1), column(kind, second + j * apart, 1)
        for i in range(vectors):
            value = two[i]
            if border:
                value = one[i] + value
            if stage & weights.MORE:
                value = total[i] + value
            total[i] = value
        if due:
            weights.finish(kind, run, op, k0, k1 - k0, w + j * w_panel, g + j * g_panel, h)
    if due and at(op, pg.SQUARES):
        updates.squares_of(kind, run, op, k0, k1, j0, j1)
