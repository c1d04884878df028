"""The worker: one thread's share of a run of steps. All workers run this; the first alone suffices."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import (
    call_rule,
    fetch_add,
    flush_denormals,
    lanes,
    load_acquire,
    load_int,
    load_number,
    restore_denormals,
    store_int,
    store_number,
    ticks,
)
from fastbp.cpu import halves, penalty, rows, sides, steps, updates, weights
from fastbp.cpu.rows import at

SIGNATURE = types.int64(types.int64, types.int64)


@helper
def _keep_sums(run: int, epoch: int, step: int) -> None:
    """Keep an epoch's sums as they are before a step's are added, for that step may be left."""
    columns, kept = at(run, pg.SUM_COUNT), at(run, pg.BEFORE_STEP)
    first_epoch = at(run, pg.FIRST_STEP) // at(run, pg.STEPS_PER_EPOCH)
    sums = at(run, pg.SUMS) + 8 * columns * (epoch - first_epoch)
    for m in range(columns):
        store_number(np.float64, kept + 8 * (1 + m), load_number(np.float64, sums + 8 * m))
    store_int(kept, step + 1)


@helper
def _loose(run: int, slab_stage: int, place: int) -> bool:
    """Whether a slab's weights phase may be left: what it writes is begun anew or thrown away then.

    Not where it updates weights, nor where the mean of several steps' gradients holds earlier ones. A run that trains
    must have a phase behind it, in which workers who are through learn that others left it.
    """
    if at(run, pg.BEFORE_STEP) == 0 or place:
        return False
    if slab_stage & weights.LAST == 0:
        return True
    return at(run, pg.UPDATE) == 0 and (slab_stage & weights.DUE != 0 or at(run, pg.LATE) == 0)


@helper
def _perform(kind: Any, now: int, task: int, epoch: int, first: int, batch_rows: int) -> None:
    """One task of the phases before the last. first: place in the epoch of the slab's first row."""
    samples = 2 * lanes(kind)
    run, count = at(now, pg.NOW_RUN), at(now, pg.NOW_COUNT)
    code, index = load_int(task), load_int(task + 8)
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * index
    p0, p1 = load_int(task + 16), min(load_int(task + 24), (count + samples - 1) // samples)
    n0, n1 = load_int(task + 32), load_int(task + 40)
    if code == pg.HALF:
        halves.go_through(kind, now, index, n1, epoch, first, batch_rows)
    elif code == pg.ROWS or code == pg.UP:
        if index:
            rows.gather(kind, run, first, count, batch_rows, epoch, p0, p1, 0)
        if code == pg.UP:
            rows.up(kind, now, p0, p1, n0, n1)
        elif rows.up(kind, now, p0, p1, n0, at(run, pg.OPS)):
            rows.output(kind, run, count, first, p0, p1, 0)
            if at(run, pg.BACKWARD):
                rows.down(kind, now, first, p0, p1, n1, at(run, pg.OPS))
    elif code == pg.DOWN:
        rows.down(kind, now, first, p0, p1, n0, n1)
    elif code == pg.GATHER:
        rows.gather(kind, run, first, count, batch_rows, epoch, p0, p1, 0)
    elif code == pg.FORWARD:
        rows.forward(kind, op, p0, p1, n0, n1, now)
    elif code == pg.OUTPUT:
        rows.output(kind, run, count, first, p0, p1, 0)
    elif code == pg.BACK:
        rows.backward(kind, op, p0, p1, n0, n1, now)
    elif code == pg.INPUT_GRADIENT:
        rows.input_gradient(kind, run, count, first, p0, p1)
    elif code == pg.STATISTICS_UP:
        call_rule(at(op, pg.STATISTICS), op, p0, p1, n0, n1, now)
    elif code == pg.STATISTICS_DOWN:
        call_rule(at(op, pg.STATISTICS_BACK), op, p0, p1, n0, n1, now)


@helper
def _sum_weights(kind: Any, run: int, task: int, count: int, stage: int, h: int, scratch: int) -> None:
    """A task of the weights phase, by the op's own rule where it has one; stage: see `weights.task`."""
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(task + 8)
    if load_int(task) == pg.MEASURE:
        if at(op, pg.SQUARES):
            k0, k1, j0, j1 = load_int(task + 16), load_int(task + 24), load_int(task + 32), load_int(task + 40)
            updates.squares_of(kind, run, op, k0, k1, j0, j1)
    elif at(op, pg.TASK_RULE):
        call_rule(at(op, pg.TASK_RULE), run, task, count, stage, h, scratch)
    elif at(op, pg.SUMMED):
        halves.task(kind, run, task, count, stage, h, scratch)
    else:
        weights.task(kind, run, task, count, stage, h, scratch)


@helper
def _share(kind: Any, run: int, me: int) -> int:
    """Do this worker's share of the run; returns how many steps are finished."""
    samples = 2 * lanes(kind)
    batch, slab, per_epoch = at(run, pg.BATCH), at(run, pg.SLAB), at(run, pg.STEPS_PER_EPOCH)
    threads, phases, weights_phase = at(run, pg.THREADS), at(run, pg.PHASE_COUNT), at(run, pg.WEIGHTS_PHASE)
    group = at(run, pg.ACCUMULATE)
    done = at(run, pg.SYNC)
    counters = done + pg.LINE
    scratch = at(run, pg.SCRATCH) + me * at(run, pg.SCRATCH_WORKER)
    now = at(run, pg.NOW) + pg.LINE * me
    store_int(now + 8 * pg.NOW_RUN, run)
    profile = at(run, pg.PROFILE)
    if profile:
        profile += me * at(run, pg.PROFILE_WORKER)
    clock = ticks()
    need, mine = 0, 0
    for s in range(at(run, pg.STEPS)):
        step = at(run, pg.FIRST_STEP) + s
        epoch = step // per_epoch
        batch0 = (step - epoch * per_epoch) * batch
        batch_rows = min(batch, at(run, pg.N) - batch0)
        h = at(run, pg.COEFFICIENTS) + s * at(run, pg.COEFFICIENTS_ROW)
        place = (at(run, pg.ACCUMULATED) + s) % group
        for slab0 in range(0, batch_rows, slab):
            last = slab0 + slab >= batch_rows
            due = last and place == group - 1
            stage = (slab0 + place > 0) * weights.MORE + last * weights.LAST + due * weights.DUE
            count = min(slab, batch_rows - slab0)
            store_int(now + 8 * pg.NOW_STEP, at(run, pg.NOISE) + s)
            store_int(now + 8 * pg.NOW_FIRST, slab0)
            store_int(now + 8 * pg.NOW_COUNT, count)
            store_int(now + 8 * pg.NOW_ROWS, batch_rows)
            store_int(now + 8 * pg.NOW_PACKED, 0)
            # the sum of several steps' gradients can't give back the slabs of a step that is left
            left = at(run, pg.STOP) if slab0 == 0 or place == 0 else now + 8 * pg.NOW_NEVER
            store_int(now + 8 * pg.NOW_STOP, left)
            panels = (count + samples - 1) // samples
            for phase in range(phases):
                if phase > weights_phase and not due:
                    break
                final = phase == weights_phase
                bounds = at(run, pg.PHASES) + 8 * (2 + threads) * phase
                first_task = at(run, pg.TASKS) + 8 * pg.TASK_COLUMNS * load_int(bounds)
                if threads > 1 and not steps.wait(run, done, need, steps.SPINS):
                    return s
                if profile and threads > 1:
                    clock = steps.book(profile, clock)
                if final and at(run, pg.BACKWARD):
                    if load_int(at(run, pg.STATUS)) == pg.OVERFLOWN:
                        return s
                    if not math.isfinite(steps.loss_of_slab(run, panels)):
                        store_int(at(run, pg.STATUS), pg.DIVERGED)
                        return s
                if phase > weights_phase:
                    updates.begin(kind, run, scratch)
                loose = final and _loose(run, stage, place)
                need += load_int(bounds + 8 * (1 + threads))
                for turn in range(threads):
                    owner = (me + turn) % threads
                    low, high = load_int(bounds + 8 * (1 + owner)), load_int(bounds + 8 * (2 + owner))
                    i = low
                    if turn and load_acquire(counters + pg.LINE * owner) >= high - low:
                        continue  # a read costs the owner less than a claim
                    while True:
                        if threads > 1:
                            i = low + fetch_add(counters + pg.LINE * owner, 1)
                        if i >= high:
                            break
                        task = first_task + 8 * pg.TASK_COLUMNS * i
                        if final:
                            if loose and load_acquire(left):
                                store_int(at(run, pg.STATUS), pg.STOPPED)
                                return s
                            if load_int(task) == pg.SUM:
                                if slab0 == 0 and at(run, pg.PENALTIES):
                                    if s:
                                        penalty.add(kind, run, s - 1)
                                    elif at(run, pg.BACKWARD) == 0:
                                        penalty.measure_all(kind, run)
                                if slab0 == 0 and at(run, pg.BEFORE_STEP):
                                    _keep_sums(run, epoch, s)
                                steps.add_sums(run, epoch, panels, batch_rows)
                            else:
                                _sum_weights(kind, run, task, count, stage, h, scratch)
                        elif phase > weights_phase:
                            updates.task(kind, run, task, h, scratch)
                        else:
                            if load_acquire(left):
                                store_int(at(run, pg.STATUS), pg.STOPPED)
                                return s
                            _perform(kind, now, task, epoch, batch0 + slab0, batch_rows)
                            if load_acquire(left):  # the task may have been left in the middle
                                store_int(at(run, pg.STATUS), pg.STOPPED)
                                return s
                        i += 1
                        mine += 1
                    if mine and threads > 1:
                        fetch_add(done, mine)  # once a run of tasks: each time the line comes from another core
                        mine = 0
                if profile:
                    clock = steps.book(profile + 8 * (1 + phase), clock)
                counters += pg.LINE * threads
    if threads > 1 and me == 0 and at(run, pg.PENALTIES):
        steps.wait(run, done, need, steps.SPINS)
    return at(run, pg.STEPS)


def make(kind: Any) -> Callable[[int, int], int]:
    """The worker for numbers of `kind` (np.float32 or np.float64)."""

    def worker(run: int, me: int) -> int:
        mode = flush_denormals()
        finished = sides.share(kind, run, me) if at(run, pg.SIDES) else _share(kind, run, me)
        if me == 0 and finished and at(run, pg.PENALTIES):
            kept = at(run, pg.BEFORE_STEP)
            if kept == 0 or load_int(kept) != finished + 1:
                penalty.add(kind, run, finished - 1)  # the others' are added beside the next step's sums
        restore_denormals(mode)
        store_int(at(run, pg.STATUS) + 8 * (1 + me), finished)
        return finished

    return worker
