"""Ops beside products: activations, noise, paths that part and meet, penalties on what passes through.

A block by rows has `groups` batch rows of `lanes` threads each. `op` is where the op's fields begin in the table.
"""

import functools
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import Activation
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.device import cuda, inlined, kernel
from fastbp.cuda.rows import rows_of
from fastbp.cuda.shapes import Shapes


def by_rows(shapes: Shapes, each: Any) -> Any:
    """Kernel: each(t, op, s, b, c, work, constants) for all neurons c of all rows b of the buffers.

    Ops that stand before the closing kernel work on step t[STEP], those on the way back on the one before it.
    """
    lanes, groups = shapes.lanes, shapes.groups
    work_on = inlined(each)

    def run(t, op, back, columns, work, constants):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < t[lo.ROWS]:
            for c in range(cuda.threadIdx.x % lanes, columns, lanes):
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
def activity(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the penalty on what passes through each row, over the batch's rows, into STATE; a thread a row."""
    kind: Any = dtype.type
    rule = rules.penalty(dtype)

    def run(t, op, back, columns, work, constants):
        b = cuda.grid(1)
        if t[lo.STATUS] != pg.RUNNING or b >= t[lo.ROWS]:
            return
        own = t[op + lo.NUMBERS] + lo.OWN
        value = kind(0)
        for c in range(columns):
            value += rule(work[t[op + lo.A] + b * t[op + lo.LDA] + c], constants[own], constants[own + 1])
        work[t[op + lo.STATE] + b] = value / kind(rows_of(t, t[lo.STEP] - back))

    return kernel(run, threads=shapes.flat)


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
