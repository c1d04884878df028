"""L1 and L2 penalties in the weights phase: their value over the weights before a step, their pull on the gradient.

A penalty is l1 * sum(abs(w)) + l2 * sum(w * w), with a pair of strengths for a layer's kernel and one for its biases,
times a scale that each step may have of its own. Values are summed over blocks of BLOCK inputs x one panel of neurons,
and the blocks in one order, so that they don't depend on how the tiles are cut.
"""

from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import call_rule, lanes, load_number, store_number
from fastbp.cpu.rows import at
from fastbp.cpu.tile import item_bytes, panel_width, row_bytes

BLOCK = pg.ROWS_OF_TILE // 2
"""Inputs of a block: tasks of the weights phase begin at its multiples."""


@helper
def scale_of(kind: Any, run: int, h: int) -> int:
    """Where the scale of a step's penalties stands: behind its coefficients."""
    return h + at(run, pg.COEFFICIENTS_ROW) - item_bytes(kind)


@helper
def place_of(run: int, step: int) -> int:
    """Where the values of a step begin: training has two places in turn, for an evaluation's weights stay."""
    return 8 * (step & 1) * at(run, pg.PENALTY_COUNT) * at(run, pg.BACKWARD)


@helper
def measure(kind: Any, run: int, op: int, k0: int, k1: int, j0: int, j1: int, h: int) -> None:
    """Values of the blocks k0:k1 x j0:j1 of an op, before its weights change."""
    vectors = panel_width(kind) // lanes(kind)
    row = vectors * row_bytes(kind) // 2
    inputs, steps = at(op, pg.KERNEL), at(op, pg.STEPS_IN)
    step = (h - at(run, pg.COEFFICIENTS)) // at(run, pg.COEFFICIENTS_ROW)
    blocks = (steps + BLOCK - 1) // BLOCK
    sums = at(op, pg.PENALTY_SUMS) + place_of(run, step)
    strengths, rule = at(op, pg.PENALTY), at(run, pg.PENALTY_VALUE)
    for j in range(j0, j1):
        panel = at(op, pg.W) + j * at(op, pg.W_PANEL)
        for k in range(k0, k1, BLOCK):
            end = min(k + BLOCK, k1)
            value = call_rule(rule, panel + k * row, (min(end, inputs) - k) * vectors, strengths, 0, 0, 0)
            if end > inputs:
                value += call_rule(rule, panel + inputs * row, vectors, strengths + 2 * item_bytes(kind), 0, 0, 0)
            store_number(np.float64, sums + 8 * (j * blocks + k // BLOCK), value)


@helper
def measure_all(kind: Any, run: int) -> None:
    """Values of all blocks, for an evaluation."""
    for index in range(at(run, pg.OPS)):
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * index
        if at(op, pg.PENALTY):
            measure(kind, run, op, 0, at(op, pg.STEPS_IN), 0, at(op, pg.W_PANELS), at(run, pg.COEFFICIENTS))


@helper
def pull(kind: Any, run: int, op: int, k: int, rows: int, w: int, g: int, h: int) -> None:
    """Add the penalty's gradient to rows k:k+rows of one panel's gradient."""
    vectors = panel_width(kind) // lanes(kind)
    row = vectors * row_bytes(kind) // 2
    strengths, rule, scale = at(op, pg.PENALTY), at(run, pg.PENALTY_PULL), scale_of(kind, run, h)
    kernel = min(k + rows, at(op, pg.KERNEL)) - k
    call_rule(rule, g, w, kernel * vectors, strengths, scale, 0)
    if kernel < rows:
        biases = strengths + 2 * item_bytes(kind)
        call_rule(rule, g + kernel * row, w + kernel * row, vectors, biases, scale, 0)


@helper
def add(kind: Any, run: int, step: int) -> None:
    """Add a finished step's penalty to the loss of its epoch."""
    count = at(run, pg.PENALTY_COUNT)
    first = at(run, pg.PENALTIES) + place_of(run, step)
    value = 0.0
    for i in range(count):
        value += load_number(np.float64, first + 8 * i)
    h = at(run, pg.COEFFICIENTS) + step * at(run, pg.COEFFICIENTS_ROW)
    value *= load_number(kind, scale_of(kind, run, h))
    number, per_epoch, batch = at(run, pg.FIRST_STEP) + step, at(run, pg.STEPS_PER_EPOCH), at(run, pg.BATCH)
    epoch = number // per_epoch
    if at(run, pg.MEAN_ROWS):
        value *= min(batch, at(run, pg.N) - (number - epoch * per_epoch) * batch)
    sums = at(run, pg.SUMS) + 8 * at(run, pg.SUM_COUNT) * (epoch - at(run, pg.FIRST_STEP) // per_epoch)
    store_number(np.float64, sums, load_number(np.float64, sums) + value)
