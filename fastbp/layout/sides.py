"""Floor 2: a step of two threads cut by neurons, laid out: each has a side of every layer, and weights of its own.

A side owns neurons of each layer but the last, and the weights that read them (of the first layer, those that make
them). No weight is then read by one thread and written by the other: all that passes between them are sums over a
side's inputs, before the activation, and dZ. Both sides gather all rows; the loss is shared among them by rows. It is
the cut of Shoeybi et al., "Megatron-LM", 2019, by the inputs of every layer but the first.

In what order a layer's inputs are summed follows from shapes, so that one thread, or many, gives the same bits.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastbp import program as pg
from fastbp.layout.operations import DENSE
from fastbp.program import LayerSpec, Program, Tiles

if TYPE_CHECKING:
    from fastbp.layout.plan import Plan

MOST = 0.6
"""The larger side's part of a layer's neurons, at most."""
WEIGHTS = 1 << 19
"""Most weights: a side's half of them stays in its second-level cache from one panel of rows to the next."""
NEURONS = 1 << 18
"""Most numbers of all layers' outputs, which stay there until their dZ comes back."""
LEAST_WORK = 0.1e6
"""Floating-point operations of a step for each time that the sides meet: below that it runs on one thread.

Where a line goes to the other core and back in 0.12 us, 64-32-10 at 32 rows (0.23 million) took 2.7 us on one thread
and 2.2 on two, 8-(3 x 64)-4 at 7 (0.15) 6.5 and 5.8, 30-32-2 at 32 (0.1) 1.6 and 1.4. On one thread the sums in halves
cost 2 to 4 %, of 64-32-10 at 7 rows 8."""
WIDE, WIDE_WORK = 128, 12e6
"""Multiply-adds of products as large in a direction, at most, where more of them go by terms (see ``cpu.terms``)."""
PASSED, MOVED = 1.0, 1.3
"""Numbers a weight, at most: sums that pass to the other side, and these with half of the inputs, gathered twice.

What is saved goes with the weights, half of which would pass each way. On a Zen 4 8-(3 x 64)-4 was 16 % faster at 0.94
passed, 64-100-10 and 100-100-5 at 1.25 and 1.16 moved 10 to 13 %; at 1.1 to 1.5 passed nothing was gained, at 1.5 to
1.8 with 2.6 moved 4 % were lost."""
PASSED_BY_TERMS, MOVED_BY_TERMS = 0.5, 1.15
"""The same where large products go by terms, measured on the Xeon that has them.

At 0.62 passed 10-(3 x 96)-2 was 7 % slower at 64 rows; at 1.0 to 1.15 moved most networks of two layers were 8 to 12 %
faster, 784-32-10 and 300-100-2 as fast, at 3.9 and 4.1 they were 33 and 15 % slower. At 1.25 64-100-10 was 7 % faster
in fits that follow each other, but a third slower where those of another library run between them."""
OWN = (
    *(pg.A, pg.T, pg.PART, pg.PART_OTHER),
    *(pg.FIRST_IN, pg.END_IN, pg.FIRST_OUT, pg.END_OUT, pg.FIRST_TASK, pg.END_TASK),
)
"""Columns of an op that a side has of its own."""
RUN = (pg.INDEX, pg.SCALE, pg.COUNTS, pg.TARGET)
"""Columns of a run that it has of its own, beside its tables and sums."""


def borders(layers: Sequence[LayerSpec], tiles: Tiles, batch: int) -> list[int]:
    """The first neuron of the second side in each layer but the last; none where steps aren't cut so."""
    parameters = sum(layer.parameters for layer in layers)
    slab, rows = pg.round_up(batch, tiles.samples), pg.round_up(batch, tiles.lanes)
    passed = slab * sum(layer.fan_out for layer in layers[1:])
    moved = passed + slab * layers[0].fan_in / 2
    if any(layer.operation is not DENSE for layer in layers):
        return []
    most = (PASSED_BY_TERMS, MOVED_BY_TERMS) if tiles.terms else (PASSED, MOVED)
    if len(layers) < 2 or passed > most[0] * parameters or moved > most[1] * parameters:
        return []
    if parameters >= WEIGHTS or slab * sum(layer.fan_out for layer in layers) > NEURONS:
        return []
    if 6 * rows * parameters < LEAST_WORK * 2 * (len(layers) - 1):
        return []
    wide = sum(layer.fan_in * layer.fan_out for layer in layers if min(layer.fan_in, layer.fan_out) >= WIDE)
    if tiles.terms and rows * wide > WIDE_WORK:
        return []
    grain = math.lcm(tiles.width, pg.ROWS_OF_TILE // 2)
    found = [round(layer.fan_out / 2 / grain) * grain for layer in layers[:-1]]
    for border, layer in zip(found, layers, strict=False):
        if max(border, layer.fan_out - border) > MOST * layer.fan_out:
            return []
    return found


def cut(program: Program, batch: int) -> bool:
    """Whether training steps over `batch` rows are cut so."""
    if program.half or program.thin_rows(batch):
        return False
    return bool(borders(program.layers, program.tiles, batch))


@dataclass(frozen=True)
class Sides:
    """What the two sides have of their own, as offsets.

    Attributes
    ----------
    tables : (2, ops, OP_COLUMNS) int64: the plan's, with what is in `OWN`
    run : (2, columns of `RUN`) int64
    tasks : (tasks, TASK_COLUMNS) int64 of the weights, named by `FIRST_TASK` and `END_TASK`
    """

    tables: np.ndarray
    run: np.ndarray
    tasks: np.ndarray


def lay_out(plan: "Plan", take: Callable[[int], int]) -> Sides:
    """The sides of a plan with borders; `take` gives the offset of so many bytes."""
    layers, last = plan.layers, len(plan.layers) - 1
    tables = np.stack([plan.table, plan.table])
    second, panels = tables[1], plan.panels
    second[0, pg.A] = take(panels * int(second[0, pg.A_PANEL]))
    for op, layer in zip(second, layers, strict=True):
        op[pg.T] = take(int(op[pg.T_PANEL]) * plan.program.panels(layer.fan_out))
    for first, other in zip(tables[0, 1:], second[1:], strict=True):
        other[pg.PART] = take(panels * int(first[pg.PART_PANEL]))
        first[pg.PART_OTHER] = other[pg.PART] - first[pg.PART]
        other[pg.PART_OTHER] = -first[pg.PART_OTHER]
    tasks: list[tuple[int, ...]] = []
    for side, table in enumerate(tables):
        ends = [plan.borders[i] if i < last else 0 for i in range(last + 1)]
        for index, (op, layer) in enumerate(zip(table, layers, strict=True)):
            op[[pg.FIRST_OUT, pg.END_OUT]] = ((0, ends[index]), (ends[index], layer.fan_out))[side]
            before = ends[index - 1] if index else 0
            op[[pg.FIRST_IN, pg.END_IN]] = ((0, before), (before, layer.steps))[side]
            op[pg.FIRST_TASK] = len(tasks)
            if index in plan.learning:
                tasks += _tasks(plan, index, side, before, ends[0])
            op[pg.END_TASK] = len(tasks)
    samples = plan.program.tiles.samples
    row = samples * plan.program.dtype.itemsize
    numbers, scales, counts = take(2 * panels * samples * 8), take(panels * row), take(2 * panels * row)
    others = numbers, scales, counts, take(panels * plan.target_panel)
    run = np.array([(plan.index, plan.scale, plan.counts, plan.target), others], np.int64)
    return Sides(tables, run, np.array(tasks, np.int64))


def _tasks(plan: "Plan", index: int, side: int, border: int, first_border: int) -> list[tuple[int, ...]]:
    """A side's tasks of an op: of the first one by neurons, of the others by inputs."""
    program, layer = plan.program, plan.layers[index]
    k, j = (0, layer.steps), (0, program.panels(layer.fan_out))
    if index:
        k = ((0, border), (border, layer.steps))[side]
    else:
        panel = first_border // program.tiles.width
        j = ((0, panel), (panel, j[1]))[side]
    return [
        (pg.WEIGHTS, index, k[0] + k0, k[0] + k1, j[0] + j0, j[0] + j1)
        for j0, j1 in pg.blocks(j[1] - j[0], pg.PANELS_OF_TILE)
        for k0, k1 in pg.blocks(k[1] - k[0], pg.ROWS_OF_TILE, sliver=program.tiles.lanes // 2)
    ]
