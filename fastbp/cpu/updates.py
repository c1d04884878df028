"""The update phase, for what needs the whole gradient or a neuron's whole weights first.

The weights phase has written the gradient out then, and the sums of its squares: over blocks of BLOCK inputs x one
panel of neurons, for the biases apart, added up in one order, so that norms don't depend on how the tiles are cut.
"""

import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import call_rule, lanes, load_int, load_number, store_number
from fastbp.cpu.penalty import BLOCK
from fastbp.cpu.rows import at
from fastbp.cpu.tile import item_bytes, panel_width, row_bytes
from fastbp.optimizers import COLUMNS, SCALE

FOLLOW = 8
"""The stage (see ``cpu.weights``) in which an op's moving statistics follow the batch's: this phase is never left."""


@helper
def squares_of(kind: Any, run: int, op: int, k0: int, k1: int, j0: int, j1: int) -> None:
    """Sums of squares of the gradient's blocks k0:k1 x j0:j1."""
    vectors = panel_width(kind) // lanes(kind)
    row = vectors * row_bytes(kind) // 2
    inputs = at(op, pg.KERNEL)
    blocks = (at(op, pg.STEPS_IN) + BLOCK - 1) // BLOCK
    panels = at(op, pg.W_PANELS)
    sums, rule, ones = at(op, pg.SQUARES), at(run, pg.PENALTY_VALUE), at(run, pg.SQUARE_STRENGTHS)
    for j in range(j0, j1):
        panel = at(op, pg.W) + at(run, pg.GRADIENT) + j * at(op, pg.W_PANEL)
        for k in range(k0, k1, BLOCK):
            end = min(k + BLOCK, k1)
            value = call_rule(rule, panel + k * row, (min(end, inputs) - k) * vectors, ones, 0, 0, 0)
            store_number(np.float64, sums + 8 * (j * blocks + k // BLOCK), value)
            if end > inputs:
                value = call_rule(rule, panel + inputs * row, vectors, ones, 0, 0, 0)
                store_number(np.float64, sums + 8 * (blocks * panels + j), value)


@helper
def _added(first: int, count: int) -> float:
    value = 0.0
    for i in range(count):
        value += load_number(np.float64, first + 8 * i)
    return value


@helper
def _factor(squares: float, most: float) -> float:
    """What brings a gradient down to a norm of `most`; NaN stays NaN."""
    norm = math.sqrt(squares)
    return 1.0 if norm <= most else most / norm


@helper
def factors(kind: Any, run: int, places: int) -> None:
    """What each op's gradient is multiplied by: a float64 for its kernel and one for its biases."""
    most = load_number(np.float64, at(run, pg.MOST_NORM))
    together = 0.0
    for index in range(at(run, pg.OPS)):
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * index
        if at(op, pg.SQUARES):
            panels = at(op, pg.W_PANELS)
            blocks = panels * ((at(op, pg.STEPS_IN) + BLOCK - 1) // BLOCK)
            kernel = _added(at(op, pg.SQUARES), blocks)
            biases = _added(at(op, pg.SQUARES) + 8 * blocks, panels)
            store_number(np.float64, places + 16 * index, _factor(kernel, most))
            store_number(np.float64, places + 16 * index + 8, _factor(biases, most))
            together += kernel + biases
    if at(run, pg.CLIP_GLOBAL):
        for i in range(2 * at(run, pg.OPS)):
            store_number(np.float64, places + 8 * i, _factor(together, most))


@helper
def begin(kind: Any, run: int, scratch: int) -> None:
    """What a worker needs to know in this phase, put into its scratch."""
    if at(run, pg.MOST_NORM):
        factors(kind, run, scratch + COLUMNS * item_bytes(kind))


@helper
def _move(kind: Any, run: int, place: int, vectors: int, h: int) -> None:
    """Update so many vectors of weights by the gradient that was written out."""
    call_rule(
        at(run, pg.LATE), place, at(run, pg.MOMENTS), place + at(run, pg.GRADIENT), vectors, h, at(run, pg.STATUS)
    )


@helper
def task(kind: Any, run: int, row: int, h: int, scratch: int) -> None:
    """Update the tile that the task's row names, if the weights phase didn't, and bring it to its constraint."""
    index = load_int(row + 8)
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * index
    k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
    per_panel = panel_width(kind) // lanes(kind)
    k_bytes = panel_width(kind) * item_bytes(kind)
    inputs = min(k1, at(op, pg.KERNEL))
    h += at(op, pg.RATES)
    for j in range(j0, j1):
        place = at(op, pg.W) + j * at(op, pg.W_PANEL) + k0 * k_bytes
        if at(run, pg.MOST_NORM):
            for i in range(COLUMNS):
                value = load_number(kind, h + i * item_bytes(kind))
                store_number(kind, scratch + i * item_bytes(kind), value)
            for part in range(2):
                first, last = (k0, inputs) if part == 0 else (inputs, k1)
                if first < last:
                    factor = load_number(np.float64, scratch + COLUMNS * item_bytes(kind) + 16 * index + 8 * part)
                    store_number(kind, scratch + SCALE * item_bytes(kind), kind(factor))
                    _move(kind, run, place + (first - k0) * k_bytes, (last - first) * per_panel, scratch)
        elif at(run, pg.LATE):
            _move(kind, run, place, (k1 - k0) * per_panel, h)
        if at(op, pg.CONSTRAIN):
            call_rule(at(op, pg.CONSTRAIN), place, inputs, at(op, pg.CONSTRAINT), 0, 0, 0)
    if at(op, pg.STATISTICS) and at(run, pg.WEIGHTS_PHASE):
        call_rule(at(op, pg.TASK_RULE), run, row, 0, FOLLOW, h, scratch)
    if at(op, pg.PACK_RULE):
        call_rule(at(op, pg.PACK_RULE), op, k0, k1, j0, j1, 0)
