"""What a run is before and after: prepared, linked with others into a chain, and what came of it."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel, helper
from fastbp._vector import call_worker, load_int, load_number
from fastbp.layout.objective import DIVERGED, Ending, Outcome
from fastbp.layout.plan import Plan


@dataclass
class Prepared:
    """A run that can start: its block of arguments, and the arrays that it points at and that must outlive it.

    Attributes
    ----------
    run : (RUN_COLUMNS,) int64, shared by all runs of one kind: the next `prepare` of that kind overwrites it
    threads : workers wanted
    work : floating-point operations
    sums, status : what the workers write
    before : (1 + columns of sums) float64, see ``program.BEFORE_STEP``
    plan : the phases and tasks of a step
    kept : what the block points at
    """

    run: np.ndarray
    threads: int
    work: int
    sums: np.ndarray
    status: np.ndarray
    before: np.ndarray
    plan: Plan
    kept: tuple[Any, ...]

    def outcome(self, interrupt: BaseException | None) -> Outcome:
        """What the workers, all of them back, have done."""
        done = int(self.status[1:].max())
        first, per_epoch = int(self.run[pg.FIRST_STEP]), int(self.run[pg.STEPS_PER_EPOCH])
        self.take_back(done, (first + done) // per_epoch - first // per_epoch)
        return Outcome(done, DIVERGED.get(int(self.status[0]), ""), self.sums, interrupt)

    def batches(self, steps: int) -> float:
        """As many full batches as its first steps are, by their rows: the last one of an epoch may be short."""
        first, per_epoch, count, batch = (int(self.run[i]) for i in (pg.FIRST_STEP, pg.STEPS_PER_EPOCH, pg.N, pg.BATCH))
        epochs = (first + steps) // per_epoch - first // per_epoch
        rest = (first + steps) % per_epoch - first % per_epoch
        return (epochs * count + rest * batch) / batch

    def take_back(self, done: int, epoch: int) -> None:
        """Give an epoch's sums back what a step added to them that was left, the one after `done` steps."""
        if self.before[:1].view(np.int64)[0] == done + 1:
            self.sums[epoch] = self.before[1:]


class Chain:
    """Runs of one thread one after the other: the epochs of a training run, each with its validation after it.

    Parameters
    ----------
    train : steps of training
    check : one pass over the rows of the validation; None without one
    worker : address of the compiled worker
    ending : what may end it before its last epoch, without a validation, from whole epochs

    Attributes
    ----------
    row : address of the worker, addresses of the runs and of their status, how many runs, addresses of its `Ending`
    """

    def __init__(self, train: Prepared, check: Prepared | None, worker: int, ending: Ending | None = None) -> None:
        self.work, self.sums = train.work, train.sums
        self.held: np.ndarray | None = None
        self._stride = 1 if check is None else 2
        if check is None and ending is None:
            self.runs, self.status = train.run[None], train.status[None]
        else:
            self._link(train, check)
        numbers, asked = np.empty(0), (0, 0, 0)
        if ending is not None:
            numbers = np.array([ending.best, ending.tol, ending.rows, ending.count, ending.most])
            asked = numbers.ctypes.data, ending.before, ending.block
        self.kept = train, check, numbers
        self.row = worker, self.runs.ctypes.data, self.status.ctypes.data, len(self.runs), *asked

    def _link(self, train: Prepared, check: Prepared | None) -> None:
        per_epoch, first, steps = (int(train.run[i]) for i in (pg.STEPS_PER_EPOCH, pg.FIRST_STEP, pg.STEPS))
        starts = np.arange(first // per_epoch * per_epoch, first + steps, per_epoch).clip(min=first)
        ends = np.append(starts[1:], first + steps)
        checks = 0 if check is None else (first + steps) // per_epoch - first // per_epoch
        self.runs = np.empty((len(starts) + checks, pg.RUN_COLUMNS), np.int64)
        self.status = np.zeros((len(self.runs), 2), np.int64)
        trained = self.runs[:: self._stride]
        trained[:] = train.run
        trained[:, pg.FIRST_STEP], trained[:, pg.STEPS] = starts, ends - starts
        trained[:, pg.COEFFICIENTS] += (starts - first) * trained[:, pg.COEFFICIENTS_ROW]
        trained[:, pg.ACCUMULATED] += starts - first
        trained[:, pg.NOISE] += starts - first
        trained[:, pg.SUBSET] += np.arange(len(starts)) * trained[:, pg.SUBSET_EPOCH]
        trained[:, pg.SUMS] += np.arange(len(starts)) * self.sums.strides[0]
        if check is not None:
            self.held = held = np.zeros((checks, train.sums.shape[1]))
            checked = self.runs[1::2]
            checked[:] = check.run
            checked[:, pg.SUMS] = held.ctypes.data + np.arange(checks) * held.strides[0]
            self.work += checks * check.work
        self.runs[:, pg.STATUS] = self.status.ctypes.data + np.arange(len(self.runs)) * self.status.strides[0]

    def outcome(self, interrupt: BaseException | None) -> Outcome:
        """What was done."""
        trained = self.status[:: self._stride]
        steps = int(trained[:, 1].sum())
        diverged = DIVERGED.get(int(trained[:, 0].max()), "")
        if trained[:, 0].any():
            left = int(trained[:, 0].argmax())
            self.kept[0].take_back(int(trained[left, 1]), left)
        if self.held is None:
            return Outcome(steps, diverged, self.sums, interrupt)
        checked = int((self.status[1::2, 1] == self.runs[1::2, pg.STEPS]).sum())
        return Outcome(steps, diverged, self.sums, interrupt, self.held[:checked])


NEARLY = 1e-12
"""What two ways to round a mean may differ by, relative to it."""


@helper
def run_chain(row: int) -> None:
    """The chain of a `Chain.row`, until one of its runs doesn't end by itself, or its `Ending`."""
    work, runs, status, length = load_int(row), load_int(row + 8), load_int(row + 16), load_int(row + 24)
    ending, before, block = load_int(row + 32), load_int(row + 40), load_int(row + 48)
    best, worse = 0.0, 0.0
    if ending:
        best, worse = load_number(np.float64, ending), load_number(np.float64, ending + 24)
    for i in range(length):
        run = runs + 8 * pg.RUN_COLUMNS * i
        if before:
            call_worker(before, block, 1)
        call_worker(work, run, 0)
        if load_int(status + 16 * i):
            break
        if ending:
            tol, rows = load_number(np.float64, ending + 8), load_number(np.float64, ending + 16)
            loss = load_number(np.float64, load_int(run + 8 * pg.SUMS)) / rows
            worse = worse + 1.0 if loss + NEARLY * abs(loss) > best - tol else 0.0
            best = min(best, loss)
            if worse > load_number(np.float64, ending + 32):
                break


@functools.cache
def chain_kernel() -> Kernel:
    """A chain in one call."""

    def chain(row: int) -> int:
        run_chain(row)
        return 0

    return Kernel(chain, types.int64(types.int64))


def start_chain(chain: Chain) -> None:
    """Do it, on this thread."""
    row = np.array(chain.row, np.int64)
    chain_kernel().call(row.ctypes.data)
