"""What a run is before and after: prepared, linked with others into a chain, and what came of it."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel
from fastbp._vector import call_worker, load_int, store_int, ticks
from fastbp.objective import DIVERGED, Outcome
from fastbp.plan import Plan


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
    """

    def __init__(self, train: Prepared, check: Prepared | None, worker: int) -> None:
        self.kept = train, check
        self.work, self.sums = train.work, train.sums
        self.held: np.ndarray | None = None
        if check is None:
            self.runs, self.status = train.run[None], train.status[None]
        else:
            self._link(train, check)
        self.row = worker, self.runs.ctypes.data, self.status.ctypes.data, len(self.runs), 0

    def _link(self, train: Prepared, check: Prepared) -> None:
        per_epoch, first, steps = (int(train.run[i]) for i in (pg.STEPS_PER_EPOCH, pg.FIRST_STEP, pg.STEPS))
        starts = np.arange(first // per_epoch * per_epoch, first + steps, per_epoch).clip(min=first)
        ends = np.append(starts[1:], first + steps)
        checks = (first + steps) // per_epoch - first // per_epoch
        self.held = held = np.zeros((checks, train.sums.shape[1]))
        self.runs = np.empty((len(starts) + checks, pg.RUN_COLUMNS), np.int64)
        self.status = np.zeros((len(self.runs), 2), np.int64)
        trained, checked = self.runs[0::2], self.runs[1::2]
        trained[:], checked[:] = train.run, check.run
        trained[:, pg.FIRST_STEP], trained[:, pg.STEPS] = starts, ends - starts
        trained[:, pg.COEFFICIENTS] += (starts - first) * trained[:, pg.COEFFICIENTS_ROW]
        trained[:, pg.ACCUMULATED] += starts - first
        trained[:, pg.NOISE] += starts - first
        trained[:, pg.SUBSET] += np.arange(len(starts)) * trained[:, pg.SUBSET_EPOCH]
        trained[:, pg.SUMS] += np.arange(len(starts)) * self.sums.strides[0]
        checked[:, pg.SUMS] = held.ctypes.data + np.arange(checks) * held.strides[0]
        self.runs[:, pg.STATUS] = self.status.ctypes.data + np.arange(len(self.runs)) * self.status.strides[0]
        self.work += checks * check.work

    def outcome(self, interrupt: BaseException | None) -> Outcome:
        """What was done."""
        steps = int(self.status[0::2, 1].sum())
        diverged = DIVERGED.get(int(self.status[0::2, 0].max()), "")
        if self.status[0::2, 0].any():
            left = int(self.status[0::2, 0].argmax())
            self.kept[0].take_back(int(self.status[2 * left, 1]), left)
        if self.held is None:
            return Outcome(steps, diverged, self.sums, interrupt)
        checked = int((self.status[1::2, 1] == self.runs[1::2, pg.STEPS]).sum())
        return Outcome(steps, diverged, self.sums, interrupt, self.held[:checked])


@functools.cache
def chain_kernel() -> Kernel:
    """Chains one after the other in one call: each until one of its runs doesn't end by itself."""

    def chains(table: int, count: int) -> int:
        for row in range(table, table + 40 * count, 40):
            work, runs, status, length = load_int(row), load_int(row + 8), load_int(row + 16), load_int(row + 24)
            begin = ticks()
            for i in range(length):
                call_worker(work, runs + 8 * pg.RUN_COLUMNS * i, 0)
                if load_int(status + 16 * i):
                    break
            store_int(row + 32, ticks() - begin)
        return count

    return Kernel(chains, types.int64(types.int64, types.int64))


def start_chains(chains: Sequence[Chain]) -> list[float]:
    """Do them all, on this thread; returns the seconds of each."""
    table = np.array([chain.row for chain in chains], np.int64)
    begin = time.perf_counter()
    chain_kernel().call(table.ctypes.data, len(table))
    seconds = time.perf_counter() - begin
    spent = table[:, -1] if table[:, -1].any() else np.ones(len(table))
    return (spent * (seconds / spent.sum())).tolist()  # type: ignore[no-any-return]
