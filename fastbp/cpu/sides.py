"""Steps of two threads, each of them on its side of every layer (see ``fastbp.sides``), without phases.

A side counts the panels of rows whose sums or dZ it has put where the other reads them, and waits for the other's count
where it needs theirs; weights it updates when nobody needs them any more, while it would wait.
"""

import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import fetch_add, lanes, load_acquire, store_int, ticks
from fastbp.cpu import penalty, rows, steps, weights
from fastbp.cpu.rows import at
from fastbp.cpu.tile import row_bytes
from fastbp.plan import Plan
from fastbp.sides import OWN, RUN

LINES = 3
"""Lines of a run's ``SYNC``: each side's count, and who is through."""


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
def _meet(run: int, count: int, need: int, profile: int, clock: int) -> int:
    """Until the other side has counted so far; returns the time, or -1 where the run was abandoned."""
    if profile == 0:
        return 0 if steps.wait(run, count, need) else -1
    clock = steps.book(profile + 8, clock)
    if not steps.wait(run, count, need):
        return -1
    return steps.book(profile, clock)


@helper
def _sum_own(kind: Any, op: int, p: int, count: int) -> None:
    """The sums over this side's inputs for all neurons of a panel."""
    first, end, part_panel = at(op, pg.FIRST_IN), at(op, pg.END_IN), at(op, pg.PART_PANEL)
    rows.forward_product(kind, op, p, p + 1, 0, at(op, pg.OUT), count, first, end, at(op, pg.PART), part_panel, 0)


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
        weights.task(kind, run, task, count, stage, h, scratch)


@helper
def _steps(kind: Any, whole: int, me: int) -> int:
    """This side of a run's steps; returns how many are finished."""
    samples = 2 * lanes(kind)
    run = at(whole, pg.SIDES) + 8 * pg.RUN_COLUMNS * me
    batch, per_epoch, group = at(run, pg.BATCH), at(run, pg.STEPS_PER_EPOCH), at(run, pg.ACCUMULATE)
    mine, theirs = at(run, pg.SYNC) + pg.LINE * me, at(run, pg.SYNC) + pg.LINE * (1 - me)
    scratch = at(run, pg.SCRATCH) + me * at(run, pg.SCRATCH_WORKER)
    now = at(run, pg.NOW) + pg.LINE * me
    store_int(now + 8 * pg.NOW_RUN, run)
    profile = at(whole, pg.PROFILE)
    if profile:
        profile += me * at(whole, pg.PROFILE_WORKER)
    learned = profile + 8 * (1 + at(run, pg.WEIGHTS_PHASE))
    clock = ticks()
    last, lowest = at(run, pg.OPS) - 1, at(run, pg.LOWEST)
    need = 0  # of the other side's count, for what comes next
    for s in range(at(run, pg.STEPS)):
        if me == 0 and load_acquire(at(whole, pg.STOP)):  # the other one then waits in vain
            store_int(at(run, pg.STATUS), pg.STOPPED)
            return s
        step = at(run, pg.FIRST_STEP) + s
        epoch = step // per_epoch
        first = (step - epoch * per_epoch) * batch
        count = min(batch, at(run, pg.N) - first)
        panels = (count + samples - 1) // samples
        h = at(run, pg.COEFFICIENTS) + s * at(run, pg.COEFFICIENTS_ROW)
        place = (at(run, pg.ACCUMULATED) + s) % group
        stage = (place > 0) * weights.MORE + weights.LAST + (place == group - 1) * weights.DUE
        store_int(now + 8 * pg.NOW_COUNT, count)
        op = _op(run, 0)
        for p in range(panels):
            rows.gather(kind, run, first, count, count, epoch, p, p + 1)
            rows.forward(kind, op, p, p + 1, at(op, pg.FIRST_OUT), at(op, pg.END_OUT), now)
            _sum_own(kind, op + 8 * pg.OP_COLUMNS, p, count)
            fetch_add(mine, 1)
        for index in range(1, last):
            op = _op(run, index)
            o0, o1 = at(op, pg.FIRST_OUT), at(op, pg.END_OUT)
            for p in range(panels):
                clock = _meet(run, theirs, need + p + 1, profile, clock)
                if clock < 0:
                    return s
                _join(kind, op, p, o0, o1)
                rows.activate(kind, op, p, p + 1, o0, o1)
                _sum_own(kind, op + 8 * pg.OP_COLUMNS, p, count)
                fetch_add(mine, 1)
            need += panels
        # every other panel's loss is this side's
        op = _op(run, last)
        i0, i1 = at(op, pg.FIRST_IN), min(at(op, pg.END_IN), at(op, pg.IN))
        for p in range(me, panels, 2):
            clock = _meet(run, theirs, need + p + 1, profile, clock)
            if clock < 0:
                return s
            _join(kind, op, p, 0, at(op, pg.OUT))
            rows.output(kind, run, count, first, p, p + 1, 0)
            fetch_add(mine, 1)
            if last >= lowest:
                rows.backward(kind, op, p, p + 1, i0, i1, now)
        need += panels
        for p in range(1 - me, panels, 2):
            need += 1
            clock = _meet(run, theirs, need, profile, clock)
            if clock < 0:
                return s
            rows.transpose(kind, op, p, p + 1, 0, at(op, pg.OUT))
            if last >= lowest:
                rows.backward(kind, op, p, p + 1, i0, i1, now)
        if not math.isfinite(steps.loss_of_slab(run, panels)):
            store_int(at(run, pg.STATUS), pg.DIVERGED)
            return s
        if me == 0:
            if at(run, pg.PENALTIES) and s:
                penalty.add(kind, run, s - 1)
            steps.add_sums(run, epoch, panels, count)
        if last > 1 and last >= lowest:
            fetch_add(mine, panels)
        for index in range(last, 0, -1):
            op = _op(run, index)
            if lowest - 1 <= index < last:
                i0, i1 = at(op, pg.FIRST_IN), min(at(op, pg.END_IN), at(op, pg.IN))
                o0, o1 = at(op, pg.FIRST_OUT), at(op, pg.END_OUT)
                for p in range(panels):
                    clock = _meet(run, theirs, need + p + 1, profile, clock)
                    if clock < 0:
                        return s
                    rows.transpose(kind, op, p, p + 1, o1 if me == 0 else 0, at(op, pg.OUT) if me == 0 else o0)
                    if index >= lowest:
                        rows.backward(kind, op, p, p + 1, i0, i1, now)
                        if index > 1:
                            fetch_add(mine, 1)
                need += panels
            if profile:
                clock = steps.book(profile + 8, clock)
            _learn(kind, run, op, count, stage, h, scratch)
            if profile:
                clock = steps.book(learned, clock)
        _learn(kind, run, _op(run, 0), count, stage, h, scratch)
        if profile:
            clock = steps.book(learned, clock)
    return at(run, pg.STEPS)


@helper
def share(kind: Any, run: int, me: int) -> int:
    """Do one side of a run; returns how many steps are finished."""
    finished = _steps(kind, run, me)
    through = at(run, pg.SYNC) + pg.LINE * (LINES - 1)
    fetch_add(through, 1)
    if me == 0 and at(run, pg.PENALTIES):  # what the other one measured is added after this
        steps.wait(run, through, 2)
    return finished
