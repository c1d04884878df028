"""What is watched from commit to commit, in one table: the kernels alone, training, prediction.

The gate (``scripts/speed_gate.py``) measures each commit by that commit's own table, so that a kernel and the way to
reach it change together; it compares rows that have the same name and do the same work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from networks import SETTINGS, Network, named

BATCH = 256
VECTORS = 1024
# Steps of an epoch on one thread, so few that the data stay in the core's own cache: where they come from the shared
# one, a process may be a third slower than its twin for as long as it lives.
SHORT = {"tiny": 300, "small": 100, "tab": 60, "mnist": 2, "mnist@4": 30, "wide": 1}
# All threads are timed over longer, since waking one takes a tenth of a millisecond, more or less.
LONGER = {"tab": 600, "mnist": 60, "wide": 2}

Run = Callable[[int], None]


@dataclass(frozen=True)
class Row:
    """One thing that is timed.

    Attributes
    ----------
    name : str
        Its first word is the group: a kernel, "fit" or "predict".
    work : str
        What one call does. Times of two commits are compared where this is equal.
    threads : int or None
        None: all cores that the process may use.
    make : callable
        Makes everything ready and returns ``run(n)``, which does the work `n` times.
    detect : float, default 0.05
        The gate measures until it knows whether the row has become slower by this share.
    """

    name: str
    work: str
    threads: int | None
    make: Callable[[], Run]
    detect: float = 0.05


def phase(name: str, width: int, dtype: str = "float32") -> Run:
    """One phase of a training step alone, on one thread, in the worker that training runs.

    Parameters
    ----------
    name : {"gather", "forward", "output", "backward", "gradient"}
        The products are those of the second layer of a ``width-width-width-10`` network, relu and softmax, `BATCH`
        rows. A gradient is not applied.
    width : int
    dtype : str
    """
    from fastbp import program as pg
    from fastbp.cpu.engine import worker_kernel
    from fastbp.layout.plan import PANELS_PER_TASK

    network = Network("", (width, width, width, 10), BATCH, 1)
    model = network.model("sgd", 1, dtype)
    x, y = network.data(str(model.dtype))
    model.train_on_batch(x, y)  # fills all buffers with what a step finds there
    engine, _, optimizer = model._compiled("watch")
    prepared = engine.prepare(
        x, y, batch=BATCH, steps=1, objective=model._scoring().objective, optimizer=optimizer, shuffle=True
    )
    (bound,) = engine._bound.values()
    panels = range(bound.plan.panels)
    blocks = list(pairwise([*panels[::PANELS_PER_TASK], len(panels)]))
    tasks: list[Any] = {
        "gather": [(pg.GATHER, 0, p, p + 1, 0, 0) for p in panels],
        "forward": [(pg.FORWARD, 1, lo, hi, 0, width) for lo, hi in blocks],
        "output": [(pg.OUTPUT, 0, p, p + 1, 0, 0) for p in panels],
        "backward": [(pg.BACK, 1, lo, hi, 0, width) for lo, hi in blocks],
        "gradient": [task for task in bound.plan.tasks if task[0] == pg.WEIGHTS and task[1] == 1],
    }[name]
    table = np.array(tasks, np.int64)
    # The gradients are tasks of a step's last phase, all others come before it.
    ends = [0, len(table)] if name == "gradient" else [0, len(table), len(table)]
    phases = np.array([(begin, 0, end - begin) for begin, end in pairwise(ends)], np.int64)
    run = prepared.run
    run[pg.TASKS], run[pg.PHASES], run[pg.PHASE_COUNT] = table.ctypes.data, phases.ctypes.data, len(phases)
    run[pg.UPDATE] = run[pg.COEFFICIENTS_ROW] = 0
    run[pg.WEIGHTS_PHASE] = len(phases) - 1
    call = worker_kernel(engine.dtype).call

    def go(times: int, _alive: Any = (model, prepared, table, phases)) -> None:
        run[pg.STEPS] = times
        call(run.ctypes.data, 0)

    return go


def rule(kind: str, name: str, dtype: str = "float32") -> Run:
    """One rule alone over `VECTORS` vectors: an "activation", its "derivative" or an optimizer's "update"."""
    import fastbp as fb
    from fastbp.activations import ACTIVATIONS
    from fastbp.cpu import rules
    from fastbp.cpu.tile import geometry
    from fastbp.program import aligned

    number = np.dtype(dtype)
    count = VECTORS * geometry(number.itemsize).lanes
    arrays = aligned(4 * count * number.itemsize).view(number).reshape(4, count)
    arrays[:] = np.random.default_rng(0).uniform(0.1, 1.0, arrays.shape)
    first, distance = arrays.ctypes.data, arrays.strides[0]
    if kind == "update":
        optimizer = {"sgd": fb.SGD, "adam": fb.Adam}[name](**SETTINGS[name])
        numbers = np.ascontiguousarray(optimizer.coefficients(np.array([5.0])), number)
        kernel = rules.update(optimizer, number)
        arguments: tuple[int, ...] = (first, distance, first + 3 * distance, VECTORS, numbers.ctypes.data, 0)
    else:
        row, numbers = ACTIVATIONS[name], np.zeros(1, number)
        arrays[1] = 0  # where the derivative is 1: what it multiplies must not shrink from call to call
        at = [first + i * distance for i in range(3)]
        if kind == "activation":
            kernel, arguments = rules.activation(row, number), (*at[:2], VECTORS, numbers.ctypes.data, 0, 0)
        else:
            kernel, arguments = rules.derivative(row, number), (*at, VECTORS, numbers.ctypes.data, 0)
    call = kernel.call

    def go(times: int, _alive: Any = (arrays, numbers)) -> None:
        for _ in range(times):
            call(*arguments)

    return go


def fit(name: str, optimizer: str, steps: int, threads: int | None, dtype: str = "float32") -> Run:
    """Epochs of so many steps of a network of the race, through ``Model.fit``."""
    network = replace(named(name), steps=steps)
    x, y = network.data()
    model = network.model(optimizer, threads, dtype)

    def go(times: int) -> None:
        model.fit(x, y, network.batch, times, verbose=0, shuffle=False)

    return go


def predict(name: str, rows: int, dtype: str = "float32") -> Run:
    """``Model.predict`` of prepared rows, on one thread."""
    network = named(name)
    model = network.model("sgd", 1, dtype)
    x = np.random.default_rng(0).standard_normal((rows, network.widths[0]), dtype=np.float32)

    def go(times: int) -> None:
        for _ in range(times):
            model.predict(x)

    return go


def table() -> Iterator[Row]:
    """The rows of the gate."""
    for name in ("gather", "output"):
        yield Row(f"{name} float32", f"320 inputs, {BATCH} rows", 1, partial(phase, name, 320))
    for width, dtype in ((160, "float32"), (960, "float32"), (960, "bfloat16")):
        for name in ("forward", "backward", "gradient"):
            work = f"{width} to {width}, {BATCH} rows"
            yield Row(f"{name} {width} {dtype}", work, 1, partial(phase, name, width, dtype))
    for kind, name in (("activation", "tanh"), ("derivative", "tanh"), ("update", "sgd"), ("update", "adam")):
        yield Row(f"{kind} {name} float32", f"{VECTORS} vectors", 1, partial(rule, kind, name))
    for name, steps in SHORT.items():
        work = f"{steps} steps of {named(name)}"
        for optimizer in SETTINGS:
            yield Row(f"fit {name} {optimizer} float32", work, 1, partial(fit, name, optimizer, steps, 1))
    work = f"{SHORT['mnist']} steps of {named('mnist')}"
    yield Row("fit mnist adam bfloat16", work, 1, partial(fit, "mnist", "adam", SHORT["mnist"], 1, "bfloat16"))
    for name, steps in LONGER.items():
        work, make = f"{steps} steps of {named(name)}", partial(fit, name, "adam", steps, None)
        # Neighbours' work and the way data lies between the cores move these by 4 to 6 % from process to process.
        yield Row(f"fit {name} adam float32, all threads", work, None, make, detect=0.15)
    for name, rows in (("tiny", 1), ("mnist", 512)):
        yield Row(
            f"predict {name} float32, {rows} rows", f"{rows} rows, {named(name)}", 1, partial(predict, name, rows)
        )


ROWS = {row.name: row for row in table()}
