"""Ops beside products: activations, noise, paths that part and meet, penalties on what passes through.

A block by rows has `groups` batch rows of `lanes` threads each. `op` is where the op's fields begin in the table.
"""

import functools
import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import Activation
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.device import cuda, inlined, kernel
from fastbp.cuda.rows import goes_on, rows_of
from fastbp.cuda.shapes import Shapes


def by_rows(shapes: Shapes, each: Any) -> Any:
    """Kernel: each(t, op, s, b, c, work, constants) for all neurons c of all rows b of the buffers (``Shapes.grid``).

    Ops that stand before the closing kernel work on step t[STEP], those on the way back on the one before it.
    """
    lanes, groups = shapes.lanes, shapes.groups
    work_on = inlined(each)

    def run(t, op, back, columns, work, constants):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < t[lo.ROWS]:
            first, apart = cuda.threadIdx.x % lanes + lanes * cuda.blockIdx.y, lanes * cuda.gridDim.y
            for c in range(first, columns, apart):
                work_on(t, op, t[lo.STEP] - back, b, c, work, constants)

    return kernel(run, threads=shapes.threads)


@functools.cache
def activate(dtype: np.dtype, shapes: Shapes, row: Activation) -> Any:
    """Kernel: H of Z."""
    rule = rules.activation(row, dtype)

    def each(t, op, s, b, c, work, constants):
        value = rule(work[t[op + lo.Z] + b * t[op + lo.LDZ] + c], constants[t[op + lo.NUMBERS] + lo.PARAMETER])
        work[t[op + lo.H] + b * t[op + lo.LDH] + c] = value

    return by_rows(shapes, each)


@functools.cache
def derive(dtype: np.dtype, shapes: Shapes, row: Activation) -> Any:
    """Kernel: dL/dH, which stands in the place of dZ, becomes dZ."""
    rule = rules.derivative(row, dtype)

    def each(t, op, s, b, c, work, constants):
        place = t[op + lo.DZ] + b * t[op + lo.LDDZ] + c
        z, h = work[t[op + lo.Z] + b * t[op + lo.LDZ] + c], work[t[op + lo.H] + b * t[op + lo.LDH] + c]
        work[place] = rule(work[place], z, h, constants[t[op + lo.NUMBERS] + lo.PARAMETER])

    return by_rows(shapes, each)


@functools.cache
def noise(dtype: np.dtype, shapes: Shapes, name: str, back: bool) -> Any:
    """Kernel: Z of A, or dA of dZ, with the noise of the op, the step and the place of the row in its batch."""
    rule, draw, mix = rules.noise(name, dtype)[back], rules.uniform(dtype), rules.mix()

    def each(t, op, s, b, c, work, constants):
        key = mix(t[lo.SEED] ^ mix(t[op + lo.KEY] ^ mix(t[lo.NOISE] + s)))
        u, v = draw(key, b, mix(key + 2 * c)), draw(key, b, mix(key + 2 * c + 1))
        own = t[op + lo.NUMBERS] + lo.OWN
        p = constants[own : own + 4]
        if back:
            value = rule(work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + c], u, v, p)
            work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = value
        else:
            value = rule(work[t[op + lo.A] + b * t[op + lo.LDA] + c], u, v, p)
            work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] = value

    return by_rows(shapes, each)


@functools.cache
def join(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: Z = A + SKIP (He et al., "Deep residual learning", 2015)."""

    def each(t, op, s, b, c, work, constants):
        value = work[t[op + lo.A] + b * t[op + lo.LDA] + c] + work[t[op + lo.SKIP] + b * t[op + lo.LDSKIP] + c]
        work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] = value

    return by_rows(shapes, each)


@functools.cache
def join_back(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: dA = dZ; the other path reads dZ itself."""

    def each(t, op, s, b, c, work, constants):
        work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + c]

    return by_rows(shapes, each)


@functools.cache
def fork_back(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: dA, which stands in the place of dZ: the sum of what both paths give back."""

    def each(t, op, s, b, c, work, constants):
        place = t[op + lo.DZ] + b * t[op + lo.LDDZ] + c
        work[place] = work[place] + work[t[op + lo.SKIP] + b * t[op + lo.LDSKIP] + c]

    return by_rows(shapes, each)


@functools.cache
def concatenate(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: Z = SKIP beside A (Huang et al., "Densely connected convolutional networks", 2017)."""

    def each(t, op, s, b, c, work, constants):
        border = t[op + lo.OUT] - t[op + lo.IN]
        if c < border:
            value = work[t[op + lo.SKIP] + b * t[op + lo.LDSKIP] + c]
        else:
            value = work[t[op + lo.A] + b * t[op + lo.LDA] + c - border]
        work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] = value

    return by_rows(shapes, each)


@functools.cache
def concatenate_back(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: dA is the later part of dZ; the other path reads the first part itself."""

    def each(t, op, s, b, c, work, constants):
        border = t[op + lo.OUT] - t[op + lo.IN]
        work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + c + border]

    return by_rows(shapes, each)


@functools.cache
def arrange(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: column o of Z is the column of A that is picked; what is picked -1 stays as it is."""

    def each(t, op, s, b, c, work, constants):
        i = t[t[op + lo.PICKS] + c]
        if i >= 0:
            work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] = work[t[op + lo.A] + b * t[op + lo.LDA] + i]

    return by_rows(shapes, each)


@functools.cache
def arrange_back(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: dA from dZ; 0 in columns that went nowhere."""
    kind: Any = dtype.type

    def each(t, op, s, b, c, work, constants):
        o = t[t[op + lo.PICKS] + t[op + lo.OUT] + c]
        value = work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + o] if o >= 0 else kind(0)
        work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = value

    return by_rows(shapes, each)


@inlined
def code_of(t, op, b, work):
    """The row of the op's matrix that batch row b names; -1 where it names none."""
    value = work[t[op + lo.SKIP] + b * t[op + lo.LDSKIP] + t[t[op + lo.PICKS]]]
    if math.isfinite(value) and math.floor(value) == value:
        code = np.int64(value)
        if code >= 0 and code < t[op + lo.KERNEL]:
            return code
    return np.int64(-1)


@functools.cache
def embed(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the rows of the matrix that a column names, into their columns; row 0, and UNFIT, for what names none."""
    lanes, groups = shapes.lanes, shapes.groups

    def run(t, op, params, work):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < t[lo.ROWS]:
            code = code_of(t, op, b, work)
            if code < 0:
                t[lo.UNFIT] = 1
                code = np.int64(0)
            z0 = t[op + lo.Z] + b * t[op + lo.LDZ] + t[t[op + lo.PICKS] + 1]
            w0 = t[op + lo.W] + code * t[op + lo.LDW]
            for d in range(cuda.threadIdx.x % lanes, t[op + lo.NEURONS], lanes):
                work[z0 + d] = params[w0 + d]

    return kernel(run, threads=shapes.threads)


@functools.cache
def clear_gradient(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the op's gradient is 0, unless this step adds to it."""
    kind: Any = dtype.type

    def run(t, op, params):
        if t[lo.STATUS] != pg.RUNNING or goes_on(t):
            return
        first = t[lo.GRADIENT] + t[op + lo.W]
        for i in range(cuda.grid(1), t[op + lo.LEARNED] * t[op + lo.LDW], cuda.gridsize(1)):
            params[first + i] = kind(0)

    return kernel(run, threads=shapes.flat)


@functools.cache
def embed_gradient(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: adds to row c of the gradient the sum of dZ over the batch's rows with c; a block a row of the batch.

    The first row with a number sums for all of them, each of `groups` for every so many rows.
    """
    kind: Any = dtype.type
    lanes, groups, threads = shapes.lanes, shapes.groups, shapes.threads

    def run(t, op, params, work):
        share = cuda.shared.array(0, dtype)
        b, count = np.int64(cuda.blockIdx.x), rows_of(t, t[lo.STEP] - 1)
        if t[lo.STATUS] != pg.RUNNING or b >= count:
            return
        thread = cuda.threadIdx.x
        code, other = code_of(t, op, b, work), b - 1 - thread
        if thread == 0:
            share[0] = kind(0)
        cuda.syncthreads()
        while other >= 0:
            if code_of(t, op, other, work) == code:
                share[0] = kind(1)
                break
            other -= threads
        cuda.syncthreads()
        if share[0] != kind(0):
            return
        cuda.syncthreads()
        lane, group, neurons, ld = thread % lanes, thread // lanes, t[op + lo.NEURONS], t[op + lo.LDDZ]
        d0 = t[op + lo.DZ] + t[t[op + lo.PICKS] + 1]
        g0 = t[lo.GRADIENT] + t[op + lo.W] + max(code, 0) * t[op + lo.LDW]
        for first in range(0, neurons, lanes):
            d, value = first + lane, kind(0)
            if d < neurons:
                for row in range(b + group, count, groups):
                    if code_of(t, op, row, work) == code:
                        value += work[d0 + row * ld + d]
            share[thread] = value
            cuda.syncthreads()
            if group == 0 and d < neurons:
                for g in range(1, groups):
                    value += share[g * lanes + lane]
                params[g0 + d] += value
            cuda.syncthreads()

    return kernel(run, threads=threads)


@functools.cache
def activity(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the penalty on what passes through each row, over the batch's rows, into STATE."""
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    rule = rules.penalty(dtype)

    def run(t, op, columns, work, constants):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        lane, first = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes * lanes
        b, value = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes, kind(0)
        if b < t[lo.ROWS]:
            own = t[op + lo.NUMBERS] + lo.OWN
            for c in range(lane, columns, lanes):
                value += rule(work[t[op + lo.A] + b * t[op + lo.LDA] + c], constants[own], constants[own + 1])
        share[first + lane] = value
        cuda.syncthreads()
        if lane == 0 and b < t[lo.ROWS]:
            for other in range(1, lanes):
                value += share[first + other]
            work[t[op + lo.STATE] + b] = value / kind(rows_of(t, t[lo.STEP]))

    return kernel(run, threads=shapes.threads)


@functools.cache
def activity_back(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: dA, which stands in the place of dZ: the penalty's gradient is added."""
    kind: Any = dtype.type
    rule = rules.pull(dtype)

    def each(t, op, s, b, c, work, constants):
        count = rows_of(t, s)
        if b < count:
            own, place = t[op + lo.NUMBERS] + lo.OWN, t[op + lo.DZ] + b * t[op + lo.LDDZ] + c
            share = kind(1) / kind(count)
            value = work[t[op + lo.A] + b * t[op + lo.LDA] + c]
            work[place] = rule(work[place], value, constants[own] * share, constants[own + 1] * share)

    return by_rows(shapes, each)
