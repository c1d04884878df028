"""The kernels alone, on one thread: the FMA peak, and the three products of a layer with the loops around their tiles.

This reaches below the public names, so it can fail on commits that arrange the kernels otherwise.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

PRODUCTS = ("forward", "backward", "gradient")


class Peak:
    """What the shares of peak are measured against: register-only multiply-adds; as a time, so that less is better."""

    params = (["float32", "float64"],)
    param_names = ("dtype",)
    unit = "ns/MFLOP"

    def track_peak(self, dtype: str) -> float:
        import fastbp as fb

        return 1e6 / max(fb.peak_gflops(dtype, 1) for _ in range(20))


@cache
def product(name: str, dtype: str) -> Callable[..., None]:
    """Compile the loops of one product over a whole layer: all panels of rows, all neurons or all tiles of weights."""
    import numba

    from fastbp import program as pg
    from fastbp.cpu import rows, weights

    kind: Any = np.dtype(dtype).type
    task_bytes = 8 * pg.TASK_COLUMNS

    def forward(op: int, panels: int, width: int, run: int, tasks: int, count: int, batch: int, scratch: int) -> None:
        rows.forward(kind, op, 0, panels, 0, width)

    def backward(op: int, panels: int, width: int, run: int, tasks: int, count: int, batch: int, scratch: int) -> None:
        rows.backward(kind, op, 1, 0, panels, 0, width)

    def gradient(op: int, panels: int, width: int, run: int, tasks: int, count: int, batch: int, scratch: int) -> None:
        for task in range(count):
            weights.task(kind, run, tasks + task_bytes * task, batch, 0, False, 0, scratch)

    loops = {"forward": forward, "backward": backward, "gradient": gradient}
    return numba.njit(nogil=True, error_model="numpy")(loops[name])


class Products:
    """The second layer of a ``width-width-width`` network, relu, 256 rows, one thread; a gradient is not applied."""

    params = (list(PRODUCTS), [128, 1024], ["float32", "float64"])
    param_names = ("product", "width", "dtype")
    sample_time = 0.05
    batch = 256

    def setup(self, name: str, width: int, dtype: str) -> None:
        from fastbp import program as pg
        from fastbp.activations import RELU
        from fastbp.cpu.engine import aligned
        from fastbp.cpu.tile import geometry
        from fastbp.plan import lay_out

        number = np.dtype(dtype)
        layers = [pg.LayerSpec(width, width, True, RELU)] * 2
        program = pg.Program(layers, number, geometry(number.itemsize))
        plan = lay_out(program, self.batch, 1, backward=True)
        parameters, workspace = aligned(program.parameter_bytes), aligned(plan.nbytes)
        for buffer in (parameters, workspace):
            numbers = buffer[: len(buffer) // number.itemsize * number.itemsize].view(number)
            numbers[:] = np.random.default_rng(0).standard_normal(len(numbers))
        table = plan.bind(workspace.ctypes.data, parameters.ctypes.data)
        run = np.zeros(pg.RUN_COLUMNS, np.int64)
        run[pg.TABLE] = table.ctypes.data
        tasks = plan.tasks[(plan.tasks[:, 0] == pg.WEIGHTS) & (plan.tasks[:, 1] == 1)]
        scratch = aligned(2 * pg.ROWS_OF_TILE * pg.PANELS_OF_TILE * program.tiles.width * number.itemsize)
        self.kept = parameters, workspace, table, run, tasks, scratch
        op = table[1:].ctypes.data
        places = run.ctypes.data, tasks.ctypes.data, len(tasks), self.batch, scratch.ctypes.data
        self.arguments = op, plan.panels, width, *places
        self.product = product(name, dtype)
        self.product(*self.arguments)

    def time_product(self, name: str, width: int, dtype: str) -> None:
        self.product(*self.arguments)
