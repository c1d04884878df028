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
def _together(threads: int) -> Any:
    """The sum over a block's threads, in one order, for all of them: f(share, value)."""

    def together(share, value):
        x, width = cuda.threadIdx.x, threads // 2
        share[x] = value
        cuda.syncthreads()
        while width > 0:
            if x < width:
                share[x] += share[x + width]
            cuda.syncthreads()
            width //= 2
        return share[0]

    return inlined(together)


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
    whole, together = _whole(dtype, group, penalised), _together(threads)

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
        value = together(share, value)
        if x == 0:
            partial[cuda.blockIdx.x] = value

    return kernel(run, threads=threads)


@functools.cache
def factors(dtype: np.dtype, shapes: Shapes, whole: bool) -> Any:
    """Kernel: what each array's gradient is multiplied by for a norm of at most `most`, a block an array.

    arrays (3 * blocks,): each one's place among scales, its first task and the end of its tasks
    partial (tasks,) float64: sums of squares; scales (2 * ops,)
    whole : whether the norm is of all arrays together
    """
    kind: Any = dtype.type
    threads, double, together = shapes.single, np.dtype(np.float64), _together(shapes.single)

    def run(t, arrays, partial, most, scales):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING or not is_due(t):
            return
        array = 3 * cuda.blockIdx.x
        first, end = np.int64(0), np.int64(partial.size)
        if not whole:
            first, end = arrays[array + 1], arrays[array + 2]
        value = 0.0
        for task in range(first + cuda.threadIdx.x, end, threads):
            value += partial[task]
        norm = math.sqrt(together(share, value))
        if cuda.threadIdx.x == 0:
            scales[arrays[array]] = kind(1.0 if norm <= most else most / norm)  # NaN stays NaN

    return kernel(run, threads=threads)


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
def lengths(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: sums of squares of the weights of each neuron of an op, of every gridDim.y-th run of `groups` rows.

    partial (parts, neurons)
    """
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups

    def run(t, op, params, partial):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING or not is_due(t):
            return
        lane, group = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes
        o, squared = cuda.blockIdx.x * lanes + lane, kind(0)
        there = o < t[op + lo.NEURONS]
        if there:
            for k in range(cuda.blockIdx.y * groups + group, t[op + lo.KERNEL], cuda.gridDim.y * groups):
                w = params[t[op + lo.W] + k * t[op + lo.LDW] + o]
                squared += w * w
        share[cuda.threadIdx.x] = squared
        cuda.syncthreads()
        if there and group == 0:
            for g in range(1, groups):
                squared += share[g * lanes + lane]
            partial[cuda.blockIdx.y * t[op + lo.NEURONS] + o] = squared

    return kernel(run, threads=shapes.threads)


@functools.cache
def constrain(dtype: np.dtype, shapes: Shapes, row: Constraint) -> Any:
    """Kernel: brings the kernel of an op to its constraint, by `lengths`, after an update; a block `groups` rows."""
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    rule = rules.constraint(row, dtype)

    def run(t, op, params, constants, partial, parts):
        k = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if t[lo.STATUS] != pg.RUNNING or not is_due(t) or k >= t[op + lo.KERNEL]:
            return
        own, neurons = t[op + lo.NUMBERS] + lo.CONSTRAINT, t[op + lo.NEURONS]
        p = constants[own : own + 3]
        for o in range(cuda.threadIdx.x % lanes, neurons, lanes):
            squared = kind(0)
            for part in range(parts):
                squared += partial[part * neurons + o]
            i = t[op + lo.W] + k * t[op + lo.LDW] + o
            params[i] = rule(params[i], squared, p)

    return kernel(run, threads=shapes.threads)


@functools.cache
def penalties(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the penalty of each task's weights into values (blocks,) float64, before the step is closed."""
    threads, double = shapes.single, np.dtype(np.float64)
    rule, together = rules.penalty(dtype), _together(threads)

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
        value = together(share, value)
        if x == 0:
            values[cuda.blockIdx.x] = value

    return kernel(run, threads=threads)


@functools.cache
def finite(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: found[0] becomes 1 where one of the first `count` numbers isn't finite."""

    def run(params, count, found):
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            if not math.isfinite(params[i]):
                found[0] = 1

    return kernel(run, threads=shapes.flat)
