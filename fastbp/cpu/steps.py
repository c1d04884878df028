"""What a worker does beside the numbers of a step: it waits for others, adds sums up, and books its time."""

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import call_yield, load_acquire, load_int, load_number, pause, store_int, store_number, ticks
from fastbp.cpu.rows import at

SPINS = 2000
"""How often a worker looks before it lets others run: longer than most waits."""
FEW_SPINS = 100
"""The same where nobody else can do the other's work: the system may have put both on one core for a while."""


@helper
def loss_of_slab(run: int, panels: int) -> float:
    """The sum over so many panels of rows."""
    value = 0.0
    for p in range(panels):
        value += load_number(np.float64, at(run, pg.PARTIAL) + 8 * p * at(run, pg.SUM_COUNT))
    return value


@helper
def add_sums(run: int, epoch: int, panels: int, batch_rows: int) -> None:
    """Add the slab's loss and metrics to the epoch's: the loss weighted by rows where it is their mean."""
    columns = at(run, pg.SUM_COUNT)
    first_epoch = at(run, pg.FIRST_STEP) // at(run, pg.STEPS_PER_EPOCH)
    sums = at(run, pg.SUMS) + 8 * columns * (epoch - first_epoch)
    for m in range(columns):
        value = 0.0
        for p in range(panels):
            value += load_number(np.float64, at(run, pg.PARTIAL) + 8 * (p * columns + m))
        if m == 0 and at(run, pg.MEAN_ROWS):
            value *= batch_rows
        store_number(np.float64, sums + 8 * m, load_number(np.float64, sums + 8 * m) + value)


@helper
def wait(run: int, done: int, need: int, most: int) -> bool:
    """Until `need` tasks are finished: spin so often, then let others run. False where the run was abandoned."""
    spins = 0
    while load_acquire(done) < need:
        pause()
        spins += 1
        if spins > most:
            if load_acquire(at(run, pg.STATUS)) == pg.STOPPED:
                return False
            call_yield(at(run, pg.YIELD))
    return True


@helper
def book(place: int, since: int) -> int:
    """Add the ticks since `since` to the counter at `place`, and return the time."""
    now = ticks()
    store_int(place, load_int(place) + now - since)
    return now
