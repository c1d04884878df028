"""What becomes of gradients: penalties, norms, updates, constraints.

A gradient goes into its weight's update right behind its sum (`fused`), or is written out first where an update needs
all of it (`update`): for clipping by norm, of several batches, of what a user gives. Then blocks take runs of numbers:
a task is (op's fields, 0 for a kernel or 1 for what follows it, first number, end), numbers counted from the weights'
beginning. The few numbers that pad rows are 0 and stay it.
"""

import functools
import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.constraints import Constraint
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.device import cuda, inlined, kernel
from fastbp.cuda.rows import is_due
from fastbp.cuda.shapes import Shapes

TASK = 4
"""Numbers of a task."""


@functools.cache
def _pulled(dtype: np.dtype) -> Any:
    """The gradient of a weight with that of its penalty: f(t, op, part, i, g, params, constants, h)."""
    rule = rules.pull(dtype)

    def pulled(t, op, part, i, g, params, constants, h):
        own = t[op + lo.NUMBERS] + lo.PENALTY + 2 * part
        l1, l2 = constants[own], constants[own + 1]
        if l1 != 0 or l2 != 0:
            scale = h[t[lo.COEFFICIENTS] - 1]
            g = rule(g, params[i], l1 * scale, l2 * scale)
        return g

    return inlined(pulled)


@functools.cache
def fused(dtype: np.dtype, optimizer_rule: Any, penalised: bool) -> Any:
    """What ``products.weight_gradients`` does with each gradient: the update of its weight."""
    pulled = _pulled(dtype)

    def element(t, op, k, i, g, params, constants, coefficients):
        first = (t[lo.STEP] - 1) * t[lo.COEFFICIENTS] + t[op + lo.RATES]
        h = coefficients[first : first + t[lo.COEFFICIENTS]]
        if penalised:
            g = pulled(t, op, 1 if k >= t[op + lo.KERNEL] else 0, i, g, params, constants, h)
        optimizer_rule(params, i, t[lo.DISTANCE], g, h)

    return inlined(element)


@functools.cache
def _whole(dtype: np.dtype, group: int, penalised: bool) -> Any:
    """A gradient that was written out, as an update takes it: the mean of the group's batches, and the penalty's."""
    kind: Any = dtype.type
    pulled, share = _pulled(dtype), kind(1.0 / group)

    def whole(t, op, part, i, params, constants, h):
        g = params[t[lo.GRADIENT] + i]
        if group > 1:
            g *= share
        if penalised:
            g = pulled(t, op, part, i, g, params, constants, h)
        return g

    return inlined(whole)


@functools.cache
def penalise(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: adds the penalties' gradients to one that was written out for a user."""
    threads, whole = shapes.flat, _whole(dtype, 1, True)

    def run(t, tasks, params, constants, coefficients):
        if t[lo.STATUS] != pg.RUNNING:
            return
        task = TASK * cuda.blockIdx.x
        op, part, first, end = tasks[task], tasks[task + 1], tasks[task + 2], tasks[task + 3]
        row = (t[lo.STEP] - 1) * t[lo.COEFFICIENTS]
        h = coefficients[row : row + t[lo.COEFFICIENTS]]
        for i in range(first + cuda.threadIdx.x, end, threads):
            params[t[lo.GRADIENT] + i] = whole(t, op, part, i, params, constants, h)

    return kernel(run, threads=threads)


@functools.cache
def squares(dtype: np.dtype, shapes: Shapes, group: int, penalised: bool) -> Any:
    """Kernel: the sum of the squares of each task's gradient into partial (blocks,) float64."""
    threads, double = shapes.single, np.dtype(np.float64)
    whole = _whole(dtype, group, penalised)

    def run(t, tasks, params, constants, coefficients, partial):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING or not is_due(t):
            return
        x, task = cuda.threadIdx.x, TASK * cuda.blockIdx.x
        op, part, first, end = tasks[task], tasks[task + 1], tasks[task + 2], tasks[task + 3]
        row = (t[lo.STEP] - 1) * t[lo.COEFFICIENTS] + t[op + lo.RATES]
        h = coefficients[row : row + t[lo.COEFFICIENTS]]
        value = 0.0
        for i in range(first + x, end, threads):
            g = np.float64(whole(t, op, part, i, params, constants, h))
            value += g * g
        share[x] = value
        cuda.syncthreads()
        width = threads // 2
        while width > 0:
            if x < width:
                share[x] += share[x + width]
            cuda.syncthreads()
            width //= 2
        if x == 0:
            partial[cuda.blockIdx.x] = share[0]

    return kernel(run, threads=threads)


@functools.cache
def factors(dtype: np.dtype, shapes: Shapes, together: bool) -> Any:
    """Kernel of one thread: what each array's gradient is multiplied by for a norm of at most `most`.

    scales (2 * ops,), partial (tasks,) float64: sums of squares
    together : whether the norm is of all arrays
    """
    kind: Any = dtype.type

    def run(t, tasks, partial, most, scales):
        if t[lo.STATUS] != pg.RUNNING or not is_due(t):
            return
        blocks, k, total = partial.size, 0, 0.0
        if together:
            for block in range(blocks):
                total += partial[block]
        while k < blocks:
            op, part, squared = tasks[TASK * k], tasks[TASK * k + 1], 0.0
            while k < blocks and tasks[TASK * k] == op and tasks[TASK * k + 1] == part:
                squared += partial[k]
                k += 1
            norm = math.sqrt(total if together else squared)
            scale = 1.0 if norm <= most else most / norm  # NaN stays NaN
            scales[2 * ((op - lo.RUN_FIELDS) // lo.OP_FIELDS) + part] = kind(scale)

    return kernel(run, threads=1)


@functools.cache
def update(dtype: np.dtype, shapes: Shapes, optimizer_rule: Any, group: int, penalised: bool, clipped: bool) -> Any:
    """Kernel: moves the weights of each task by the gradient that was written out."""
    threads, whole = shapes.flat, _whole(dtype, group, penalised)

    def run(t, tasks, params, constants, coefficients, scales):
        if t[lo.STATUS] != pg.RUNNING or not is_due(t):
            return
        task = TASK * cuda.blockIdx.x
        op, part, first, end = tasks[task], tasks[task + 1], tasks[task + 2], tasks[task + 3]
        row = (t[lo.STEP] - 1) * t[lo.COEFFICIENTS] + t[op + lo.RATES]
        h = coefficients[row : row + t[lo.COEFFICIENTS]]
        for i in range(first + cuda.threadIdx.x, end, threads):
            g = whole(t, op, part, i, params, constants, h)
            if clipped:
                g *= scales[2 * ((op - lo.RUN_FIELDS) // lo.OP_FIELDS) + part]
            optimizer_rule(params, i, t[lo.DISTANCE], g, h)

    return kernel(run, threads=threads)


@functools.cache
def constrain(dtype: np.dtype, shapes: Shapes, row: Constraint) -> Any:
    """Kernel: brings the kernel of an op to its constraint, after an update; a thread a neuron."""
    kind: Any = dtype.type
    rule = rules.constraint(row, dtype)

    def run(t, op, params, constants):
        o = cuda.grid(1)
        if t[lo.STATUS] != pg.RUNNING or not is_due(t) or o >= t[op + lo.NEURONS]:
            return
        own = t[op + lo.NUMBERS] + lo.CONSTRAINT
        p = constants[own : own + 3]
        place, squared = t[op + lo.W] + o, kind(0)
        for k in range(t[op + lo.KERNEL]):
            w = params[place + k * t[op + lo.LDW]]
            squared += w * w
        for k in range(t[op + lo.KERNEL]):
            i = place + k * t[op + lo.LDW]
            params[i] = rule(params[i], squared, p)

    return kernel(run, threads=shapes.flat)


@functools.cache
def penalties(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the penalty of each task's weights into values (blocks,) float64, before the step is closed."""
    threads, double = shapes.single, np.dtype(np.float64)
    rule = rules.penalty(dtype)

    def run(t, tasks, params, constants, values):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING:
            return
        x, task = cuda.threadIdx.x, TASK * cuda.blockIdx.x
        op, part, first, end = tasks[task], tasks[task + 1], tasks[task + 2], tasks[task + 3]
        own = t[op + lo.NUMBERS] + lo.PENALTY + 2 * part
        value = 0.0
        for i in range(first + x, end, threads):
            value += np.float64(rule(params[i], constants[own], constants[own + 1]))
        share[x] = value
        cuda.syncthreads()
        width = threads // 2
        while width > 0:
            if x < width:
                share[x] += share[x + width]
            cuda.syncthreads()
            width //= 2
        if x == 0:
            values[cuda.blockIdx.x] = share[0]

    return kernel(run, threads=threads)


@functools.cache
def finite(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: found[0] becomes 1 where one of the first `count` numbers isn't finite."""

    def run(params, count, found):
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            if not math.isfinite(params[i]):
                found[0] = 1

    return kernel(run, threads=shapes.flat)
