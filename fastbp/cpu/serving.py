"""Prediction of few rows on the calling thread: one call of compiled code, its arguments prepared beforehand.

What it leaves out of a run is what costs more than the numbers: threads, a look at the values in Python, and an array
or an address looked up for each argument.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel
from fastbp._vector import call_worker, load_int, store_int

if TYPE_CHECKING:
    from fastbp.cpu.engine import Engine

SERVED_WORK = 1e8
"""Above so many floating-point operations, half a millisecond, threads are worth their start of a quarter of one."""
WORKSPACE = 1 << 20
MOST_PANELS = 8


@functools.cache
def kernel(dtype: np.dtype) -> Kernel:
    """The compiled entry for numbers of a type."""

    def serve(x: Any, result: Any, run: int, worker: int) -> int:
        batch, unfit = load_int(run + 8 * pg.BATCH), load_int(run + 8 * pg.UNFIT)
        steps = (x.shape[0] + batch - 1) // batch
        store_int(run + 8 * pg.X, x.ctypes.data)
        store_int(run + 8 * pg.RESULT, result.ctypes.data)
        store_int(run + 8 * pg.N, x.shape[0])
        store_int(run + 8 * pg.STEPS, steps)
        store_int(run + 8 * pg.STEPS_PER_EPOCH, steps)
        store_int(unfit, 0)
        call_worker(worker, run, 0)
        return load_int(unfit)

    number: Any = types.float32 if dtype == np.float32 else types.float64
    matrix = number[:, ::1]
    return Kernel(serve, types.int64(matrix, matrix, types.int64, types.int64), seconds=0.2)


class Server:
    """Predicts for one engine what is small enough; its kernels must be ready.

    Parameters
    ----------
    engine : whose weights are used; it makes another server when its buffers have moved
    worker : address of the compiled worker
    """

    def __init__(self, engine: "Engine", worker: int) -> None:
        program = engine.program
        first, last = program.layers[0], program.layers[-1]
        self._engine, self._lock, self._half = engine, engine.lock, program.half
        self._dtype, self._inputs, self._outputs = engine.dtype, first.fan_in, last.fan_out
        self._lanes = program.tiles.lanes
        self._most = most_rows(engine)
        self._call, self._worker = kernel(engine.dtype).entry, worker
        self._kept: dict[int, Any] = {}
        self._runs = [0] * (self._lanes + 1)
        self._many = self._prepare(0)
        self._table = self._kept[0][0].table

    def _prepare(self, count: int) -> int:
        """The address of the block of arguments for batches of `count` rows (0: for any number of them)."""
        engine, program = self._engine, self._engine.program
        thin = program.thin_rows(count, backward=False) if count else 0
        if thin not in self._kept:
            samples = program.tiles.samples
            panel = (
                2 * samples * engine.dtype.itemsize * sum(layer.fan_in + 1 + layer.fan_out for layer in program.layers)
            )
            batch = thin or samples * max(1, min(MOST_PANELS, WORKSPACE // panel))
            bound = engine.bind_alone(batch)
            cells, run = np.zeros(4, np.int64), bound.run
            size = engine.dtype.itemsize
            run[pg.X_ROW], run[pg.RESULT_ROW], run[pg.BATCH] = self._inputs * size, self._outputs * size, batch
            # STOP is never set; STATUS and what the worker has done; SUMS
            run[pg.STOP], run[pg.STATUS], run[pg.UNFIT] = (cells[i:].ctypes.data for i in (0, 1, 3))
            sums = np.zeros(1)
            run[pg.SUMS] = sums.ctypes.data
            self._kept[thin] = bound, cells, sums
        address = int(self._kept[thin][0].run.ctypes.data)
        if count:
            self._runs[count] = address
        return address

    def __call__(self, x: np.ndarray) -> np.ndarray | None:
        """Outputs (N, O) of x (N, I), None where x is not for this way: another shape or type, too many rows, NaN."""
        if x.ndim != 2:
            return None
        count, inputs = x.shape
        if inputs != self._inputs or not 0 < count <= self._most:
            return None
        result = np.empty((count, self._outputs), self._dtype)
        with self._lock:
            run = self._many if count > self._lanes else self._runs[count] or self._prepare(count)
            if self._half:
                self._engine.refresh_copies(self._table)
            try:
                unfit = self._call(x, result, run, self._worker)
            except TypeError:  # another dtype, order or alignment, or read-only: the entry takes none of these
                return None
        return None if unfit else result


def most_rows(engine: "Engine") -> int:
    """Most rows that are predicted this way, 0 where the network is too large for it."""
    work = 2 * engine.program.parameter_count
    return int(SERVED_WORK // work) if 4 * work <= SERVED_WORK else 0
