"""What a run is told of outputs, penalties, metrics, norms and updates, as columns of its table and of its own row."""

from collections.abc import Sequence

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY
from fastbp.cpu import penalty, rules, sparse
from fastbp.cpu import tallies as tally_rules
from fastbp.data.sparse import SparseRows
from fastbp.formulas.tallies import Tally
from fastbp.layout.plan import Plan
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer
from fastbp.program import Program

NEAR = 768 << 10, 4 << 20
"""Bytes of weights between which only these are asked for ahead of their update, for other threads have read them.

Asking for moments too, which are still near, made Adam's step 3 to 5 % longer at 0.24 and 0.67 million weights; without
them one with momentum was 11 % longer at 0.02 million, where tasks are short and go from thread to thread."""

FAR_TABLE = 16 << 20
"""Bytes of a table that is far from a core: asked for ahead, rows of 5 MB took 64-32-10 5 % longer, of 25 MB 14 % less;
with 100-100-5 15 MB made no difference (Zen 5)."""
LONG_ROW = 1 << 10
"""Bytes of a row that the core itself reads ahead in: 784-256-128-10 was 1 to 2 % slower otherwise."""


def inputs(run: np.ndarray, x: np.ndarray | SparseRows, entries: Sequence[np.ndarray]) -> None:
    """The rows that a run reads; sparse ones by the row of columns that is the first of `entries`."""
    if isinstance(x, SparseRows):
        sparse.point(entries[0], x)
    else:
        row = x.shape[1] * x.itemsize
        run[pg.X], run[pg.X_ROW] = x.ctypes.data, row
        # a prediction's rows follow each other, and it has little time for them: 16-16-1 +23 %, 64-32-10 +5 %
        run[pg.X_AHEAD] = row if run[pg.BACKWARD] and x.nbytes >= FAR_TABLE and row <= LONG_ROW else 0


def penalties(plan: Plan, run: np.ndarray, table: np.ndarray, constants: int) -> np.ndarray | None:
    """Room for the penalties' values, None where nothing is penalised."""
    program, counts = plan.program, []
    for layer in plan.layers:
        blocks = -(-layer.steps // penalty.BLOCK) * program.panels(layer.neurons)
        counts.append(blocks if any(layer.penalty) else 0)
    if not any(counts):
        return None
    values = np.zeros(2 * sum(counts))
    for op, count in enumerate(counts):
        if count:
            table[op, pg.PENALTY] = constants + op * pg.LINE + program.dtype.itemsize
            table[op, pg.PENALTY_SUMS] = values.ctypes.data + 8 * sum(counts[:op])
    run[pg.PENALTIES], run[pg.PENALTY_COUNT] = values.ctypes.data, sum(counts)
    run[pg.PENALTY_VALUE] = rules.penalty(program.dtype).address()
    if run[pg.BACKWARD]:
        run[pg.PENALTY_PULL] = rules.pull(program.dtype).address()
    return values


def squares(plan: Plan, run: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Room for the sums of squares of the ops' gradients (see ``cpu.updates``)."""
    program, counts = plan.program, []
    for layer in plan.layers:
        counts.append((-(-layer.steps // penalty.BLOCK) + 1) * program.panels(layer.neurons))
    values = np.zeros(sum(counts))
    for op in (op for op in plan.learning if plan.layers[op].learned):
        table[op, pg.SQUARES] = values.ctypes.data + 8 * sum(counts[:op])
    run[pg.PENALTY_VALUE] = rules.penalty(program.dtype).address()
    return values


def output(plan: Plan, run: np.ndarray, loss: Loss | None, scored: bool, parameters: np.ndarray) -> None:
    """The last activation, the loss and how the two meet."""
    layer, dtype = plan.layers[-1], plan.program.dtype
    row = layer.activation
    plain = row is IDENTITY or plan.tile_rectifies[-1]
    fused = loss is not None and loss.fused_with is not None
    if not plain and (loss is None or not fused or scored):
        run[pg.FINISH] = rules.activation(row, dtype).address()
    if loss is not None:
        run[pg.LOSS] = rules.loss(loss, dtype).address()
        parameters[0] = 1.0 / layer.fan_out if loss.mean_outputs else 1.0
        parameters[1 : 1 + len(loss.parameters)] = loss.values
        parameters[1 + len(loss.parameters)] = loss.reported
        run[pg.LOSS_PARAMETERS], run[pg.FUSED] = parameters.ctypes.data, fused
        run[pg.MEAN_ROWS] = loss.mean_rows
        if plan.backward and not fused and row is not IDENTITY:
            run[pg.FINISH_DERIVE] = rules.derivative(row, dtype).address()
    run[pg.FINISH_COUNT] = layer.fan_out if row.coupled else 2 * layer.fan_out


def tallies(program: Program, chosen: Sequence[Tally]) -> tuple[np.ndarray, np.ndarray]:
    """A row of the table for each metric, and their numbers."""
    outputs, size = program.layers[-1].fan_out, program.dtype.itemsize
    table = np.zeros((len(chosen), pg.TALLY_COLUMNS), np.int64)
    numbers = np.zeros((len(table), pg.LINE // size), program.dtype)
    place = 1
    for row, values, tally in zip(table, numbers, chosen, strict=True):
        values[: len(tally.values)] = tally.values
        kept = (2 * outputs + 1) * size if tally.loop == "kept" else 0
        rule = tally_rules.rule(tally, program.dtype).address()
        row[:] = rule, tally.weighted, 0 if kept else place, kept, values.ctypes.data
        place += tally.sums(outputs)
    return table, numbers


def update(
    run: np.ndarray, rule: int, optimizer: Optimizer, dtype: np.dtype, updates: int, *, late: bool, given: bool
) -> np.ndarray:
    """When and how `rule` is called, after so many batches; returns the numbers that the run points at.

    late : whether it has a phase of its own; given : whether it is of a gradient that isn't summed here
    """
    numbers = np.zeros(2)
    run[pg.STILL] = not (optimizer.slots or optimizer.weight_decay or late)
    run[pg.ARRAYS] = 1 if late or NEAR[0] <= run[pg.MOMENTS] < NEAR[1] else 1 + optimizer.slots
    if late:
        run[pg.LATE] = rule
        most = optimizer.global_clipnorm or optimizer.clipnorm
        if most is not None:
            numbers[0] = most
            run[pg.MOST_NORM], run[pg.CLIP_GLOBAL] = numbers.ctypes.data, optimizer.global_clipnorm is not None
    else:
        run[pg.UPDATE] = rule
    if optimizer.group > 1 and not given:
        numbers[1:].view(dtype)[0] = 1.0 / optimizer.group
        run[pg.SHARE], run[pg.AVERAGE] = numbers.ctypes.data + 8, rules.scale(dtype).address()
        run[pg.ACCUMULATE], run[pg.ACCUMULATED] = optimizer.group, updates % optimizer.group
    return numbers
