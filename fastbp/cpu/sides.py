"""Steps of two threads, each of them on its side of every layer (see ``fastbp.layout.sides``), without phases.

A side counts the panels of rows whose sums or dZ it has put where the other reads them, and waits for the other's count
where it needs theirs; weights it updates when nobody needs them any more, while it would wait. The first worker goes
through both sides until the second one is there, from a step's beginning on: alone it suffices.
"""

import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import call_rule, fetch_add, lanes, load_acquire, store_int, ticks
from fastbp.cpu import penalty, rows, steps, weights
from fastbp.cpu.rows import at
from fastbp.cpu.tile import most_rows, prefetch_to_write, row_bytes
from fastbp.layout.plan import Plan
from fastbp.layout.sides import OWN, RUN

JOINED, BEGINS, THROUGH, LINES = 2, 3, 4, 5
"""Lines of a run's ``SYNC``, behind the sides' counts: whether the second worker is there, the step that both begin
with, plus 1, and whether it is through."""


class Sides:
    """The runs and tables of a plan's sides, with addresses.

    Parameters
    ----------
    plan : with sides
    workspace, parameters : where the plan's buffers and the weights begin
    """

    def __init__(self, plan: Plan, workspace: int, parameters: int) -> None:
        assert plan.sides is not None
        self._own = np.stack([plan.bind(workspace, parameters, table=table) for table in plan.sides.tables])
        self._run = plan.sides.run + workspace
        self._tables = np.zeros_like(self._own)
        self._tasks = plan.sides.tasks
        self.runs = np.zeros((2, pg.RUN_COLUMNS), np.int64)

    def follow(self, table: np.ndarray, run: np.ndarray) -> None:
        """Take over what the whole step's table of ops and its run say now."""
        self._tables[:] = table
        self._tables[..., OWN] = self._own[..., OWN]
        run[pg.SIDES] = self.runs.ctypes.data
        self.runs[:] = run
        self.runs[:, RUN] = self._run
        self.runs[:, pg.SIDE_TASKS] = self._tasks.ctypes.data
        self.runs[:, pg.TABLE] = [table.ctypes.data for table in self._tables]


@helper
def _op(run: int, index: int) -> int:
    return at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * index


@helper
def _panels(kind: Any, count: int) -> int:
    return (count + 2 * lanes(kind) - 1) // (2 * lanes(kind))


@helper
def _post(run: int, side: int, panels: int, together: int) -> None:
    """Count panels that the other side's worker may read."""
    if together:
        fetch_add(at(run, pg.SYNC) + pg.LINE * side, panels)


@helper
def _meet(run: int, side: int, need: int, together: int, profile: int, clock: int) -> int:
    """Until the other side's worker has counted so far; returns the time, or -1 where the run was abandoned."""
    if together == 0:
        return clock
    if profile:
        clock = steps.book(profile + 8, clock)
    if not steps.wait(run, at(run, pg.SYNC) + pg.LINE * (1 - side), need, steps.FEW_SPINS):
        return -1
    return steps.book(profile, clock) if profile else 0


@helper
def _sum_own(kind: Any, op: int, p: int, count: int) -> None:
    """The sums over this side's inputs for all neurons of a panel."""
    first, end, part_panel = at(op, pg.FIRST_IN), at(op, pg.END_IN), at(op, pg.PART_PANEL)
    rows.forward_product(kind, op, p, p + 1, 0, at(op, pg.OUT), count, first, end, at(op, pg.PART), part_panel, 0)


@helper
def _sum_beside(kind: Any, run: int, op: int, p: int, count: int) -> None:
    """As `_sum_own`, asking meanwhile for a panel of the last dZ that passes to the other side, which has read it."""
    first, end, part_panel = at(op, pg.FIRST_IN), at(op, pg.END_IN), at(op, pg.PART_PANEL)
    before = _op(run, at(run, pg.OPS) - 2)
    size, tall, outs = row_bytes(kind), most_rows(kind), at(op, pg.OUT)
    place = at(before, pg.DZ) + p * at(before, pg.DZ_PANEL) + at(before, pg.FIRST_OUT) * size
    lines = (at(before, pg.END_OUT) - at(before, pg.FIRST_OUT)) * size // pg.LINE
    for o in range(0, outs, tall):
        to = lines * min(o + tall, outs) // outs
        for line in range(lines * o // outs, to):
            prefetch_to_write(place + line * pg.LINE)
        rows.forward_product(
            kind, op, p, p + 1, o, min(o + tall, outs), count, first, end, at(op, pg.PART), part_panel, 0
        )


@helper
def _join(kind: Any, op: int, p: int, o0: int, o1: int) -> None:
    """Z of neurons o0:o1 of a panel, from both sides' sums."""
    size = row_bytes(kind)
    one = at(op, pg.PART) + p * at(op, pg.PART_PANEL) + o0 * size
    z = at(op, pg.Z) + p * at(op, pg.Z_PANEL) + o0 * size
    rows.add_parts(kind, z, one, one + at(op, pg.PART_OTHER), 2 * (o1 - o0), at(op, pg.MODE))


@helper
def _learn(kind: Any, run: int, op: int, count: int, stage: int, h: int, scratch: int) -> None:
    """This side's weights of an op."""
    for i in range(at(op, pg.FIRST_TASK), at(op, pg.END_TASK)):
        task = at(run, pg.SIDE_TASKS) + 8 * pg.TASK_COLUMNS * i
        if at(op, pg.TASK_RULE):
            call_rule(at(op, pg.TASK_RULE), run, task, count, stage, h, scratch)
        else:
            weights.task(kind, run, task, count, stage, h, scratch)


@helper
def _up(kind: Any, run: int, now: int, side: int, first: int, count: int, epoch: int, together: int) -> None:
    """Rows into the first layer, and the sums of the second."""
    op = _op(run, 0)
    for p in range(_panels(kind, count)):
        rows.gather(kind, run, first, count, count, epoch, p, p + 1, 0)
        rows.ask_ahead(kind, run, count, p, p + 1, 0, 2)
        rows.forward(kind, op, p, p + 1, at(op, pg.FIRST_OUT), at(op, pg.END_OUT), now)
        rows.ask_ahead(kind, run, count, p, p + 1, 1, 2)
        if together and at(run, pg.OPS) > 2:
            _sum_beside(kind, run, op + 8 * pg.OP_COLUMNS, p, count)
        else:
            _sum_own(kind, op + 8 * pg.OP_COLUMNS, p, count)
        _post(run, side, 1, together)


@helper
def _across(
    kind: Any, run: int, side: int, index: int, count: int, need: int, together: int, profile: int, clock: int
) -> int:
    """This side's neurons of a middle layer, and the sums of the next one; returns the time, or -1."""
    op = _op(run, index)
    o0, o1 = at(op, pg.FIRST_OUT), at(op, pg.END_OUT)
    for p in range(_panels(kind, count)):
        clock = _meet(run, side, need + p + 1, together, profile, clock)
        if clock < 0:
            return clock
        _join(kind, op, p, o0, o1)
        rows.activate(kind, op, p, p + 1, o0, o1)
        _sum_own(kind, op + 8 * pg.OP_COLUMNS, p, count)
        _post(run, side, 1, together)
    return clock


@helper
def _back(kind: Any, run: int, now: int, index: int, p: int) -> None:
    """dZ of this side's neurons before a layer, of a panel, where somebody learns from it."""
    op = _op(run, index)
    if index >= at(run, pg.LOWEST):
        rows.backward(kind, op, p, p + 1, at(op, pg.FIRST_IN), min(at(op, pg.END_IN), at(op, pg.IN)), now)


@helper
def _own_losses(
    kind: Any, run: int, now: int, side: int, first: int, count: int, need: int, together: int, profile: int, clock: int
) -> int:
    """The losses of every other panel of rows; returns the time, or -1."""
    last = at(run, pg.OPS) - 1
    op = _op(run, last)
    for p in range(side, _panels(kind, count), 2):
        clock = _meet(run, side, need + p + 1, together, profile, clock)
        if clock < 0:
            return clock
        _join(kind, op, p, 0, at(op, pg.OUT))
        rows.output(kind, run, count, first, p, p + 1, 0)
        _post(run, side, 1, together)
        _back(kind, run, now, last, p)
    return clock


@helper
def _other_losses(
    kind: Any, run: int, now: int, side: int, count: int, need: int, together: int, profile: int, clock: int
) -> int:
    """On from the other side's losses; returns the time, or -1."""
    last = at(run, pg.OPS) - 1
    op = _op(run, last)
    for p in range(1 - side, _panels(kind, count), 2):
        need += 1
        clock = _meet(run, side, need, together, profile, clock)
        if clock < 0:
            return clock
        rows.transpose(kind, op, p, p + 1, 0, at(op, pg.OUT), count)
        _back(kind, run, now, last, p)
    if last > 1 and last >= at(run, pg.LOWEST):
        _post(run, side, _panels(kind, count), together)
    return clock


@helper
def _down(
    kind: Any,
    run: int,
    now: int,
    side: int,
    index: int,
    count: int,
    need: int,
    together: int,
    profile: int,
    clock: int,
) -> int:
    """Back through a middle layer, by the other side's dZ too; returns the time, or -1."""
    op = _op(run, index)
    o0, o1 = (at(op, pg.END_OUT), at(op, pg.OUT)) if side == 0 else (0, at(op, pg.FIRST_OUT))
    for p in range(_panels(kind, count)):
        clock = _meet(run, side, need + p + 1, together, profile, clock)
        if clock < 0:
            return clock
        rows.transpose(kind, op, p, p + 1, o0, o1, count)
        _back(kind, run, now, index, p)
        if index > 1 and index >= at(run, pg.LOWEST):
            _post(run, side, 1, together)
    return clock


@helper
def _steps(kind: Any, whole: int, me: int) -> int:
    """This worker's part of a run's steps; returns how many are finished, as far as it knows."""
    runs, row, line = at(whole, pg.SIDES), 8 * pg.RUN_COLUMNS, pg.LINE
    sync, nows, scratch = at(whole, pg.SYNC), at(whole, pg.NOW), at(whole, pg.SCRATCH)
    batch, per_epoch, group = at(whole, pg.BATCH), at(whole, pg.STEPS_PER_EPOCH), at(whole, pg.ACCUMULATE)
    profile = at(whole, pg.PROFILE)
    if profile:
        profile += me * at(whole, pg.PROFILE_WORKER)
    learned = profile + 8 * (1 + at(whole, pg.WEIGHTS_PHASE))
    clock = ticks()
    begin, together, end = 0, 0, 2
    if me:
        fetch_add(sync + line * JOINED, 1)
        if not steps.wait(whole, sync + line * BEGINS, 1, steps.FEW_SPINS):
            return 0
        begin, together = load_acquire(sync + line * BEGINS) - 1, 1
        if begin == at(whole, pg.STEPS):
            return 0
    for side in range(me, end):
        store_int(nows + line * side + 8 * pg.NOW_RUN, runs + row * side)
        store_int(nows + line * side + 8 * pg.NOW_STOP, nows + line * side + 8 * pg.NOW_NEVER)
    last, lowest = at(whole, pg.OPS) - 1, at(whole, pg.LOWEST)
    need = 0  # of the other side's count, for what comes next
    for s in range(begin, at(whole, pg.STEPS)):
        if me == 0:
            if load_acquire(at(whole, pg.STOP)):  # the other one then waits in vain
                store_int(at(whole, pg.STATUS), pg.STOPPED)
                return s
            if together == 0 and load_acquire(sync + line * JOINED):
                fetch_add(sync + line * BEGINS, s + 1)
                together, end = 1, 1
        step = at(whole, pg.FIRST_STEP) + s
        epoch = step // per_epoch
        first = (step - epoch * per_epoch) * batch
        count = min(batch, at(whole, pg.N) - first)
        panels = _panels(kind, count)
        h = at(whole, pg.COEFFICIENTS) + s * at(whole, pg.COEFFICIENTS_ROW)
        place = (at(whole, pg.ACCUMULATED) + s) % group
        stage = (place > 0) * weights.MORE + weights.LAST + (place == group - 1) * weights.DUE
        for side in range(me, end):
            store_int(nows + line * side + 8 * pg.NOW_COUNT, count)
            store_int(nows + line * side + 8 * pg.NOW_PACKED, 0)
            _up(kind, runs + row * side, nows + line * side, side, first, count, epoch, together)
        for index in range(1, last):
            for side in range(me, end):
                clock = _across(kind, runs + row * side, side, index, count, need, together, profile, clock)
                if clock < 0:
                    return s
            need += panels
        for side in range(me, end):
            run, now = runs + row * side, nows + line * side
            clock = _own_losses(kind, run, now, side, first, count, need, together, profile, clock)
            if clock < 0:
                return s
        need += panels
        for side in range(me, end):
            run, now = runs + row * side, nows + line * side
            clock = _other_losses(kind, run, now, side, count, need, together, profile, clock)
            if clock < 0:
                return s
        need += (panels + me) // 2
        if not math.isfinite(steps.loss_of_slab(whole, panels)):
            store_int(at(whole, pg.STATUS), pg.DIVERGED)
            return s
        if me == 0:
            if at(whole, pg.PENALTIES) and s:
                penalty.add(kind, whole, s - 1)
            steps.add_sums(whole, epoch, panels, count)
        for index in range(last, -1, -1):
            if 0 < index < last and index >= lowest - 1:
                for side in range(me, end):
                    run, now = runs + row * side, nows + line * side
                    clock = _down(kind, run, now, side, index, count, need, together, profile, clock)
                    if clock < 0:
                        return s
                need += panels
            if profile:
                clock = steps.book(profile + 8, clock)
            for side in range(me, end):
                run = runs + row * side
                _learn(kind, run, _op(run, index), count, stage, h, scratch + me * at(run, pg.SCRATCH_WORKER))
            if profile:
                clock = steps.book(learned, clock)
        if together == 0:
            need = 0
    return at(whole, pg.STEPS)


@helper
def share(kind: Any, run: int, me: int) -> int:
    """Do one side of a run, or both; returns how many steps are finished."""
    finished = _steps(kind, run, me)
    sync = at(run, pg.SYNC)
    if me:
        fetch_add(sync + pg.LINE * THROUGH, 1)
    elif load_acquire(sync + pg.LINE * BEGINS) == 0:
        fetch_add(sync + pg.LINE * BEGINS, at(run, pg.STEPS) + 1)  # whoever comes now has nothing to do
    elif at(run, pg.PENALTIES):  # what the other one measured is added after this
        steps.wait(run, sync + pg.LINE * THROUGH, 1, steps.FEW_SPINS)
    return finished
