"""Normalisations of activations: of each row over its neurons, and of each neuron over the batch.

gamma, beta and moving statistics are rows of the op's weights, one behind the other. What going back needs again
stands in STATE: of a row its mean and 1 / deviation, ROWS apart; of a neuron the arrays named below, LDW apart.
A block by columns has `lanes` neurons, over which `groups` threads share the batch, or a part of it; every sum has one
order.
"""

import functools
import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.cuda import layout as lo
from fastbp.cuda.device import cuda, inlined, kernel
from fastbp.cuda.rows import goes_on, rows_of, sharing
from fastbp.cuda.shapes import Shapes

CENTRE, INVERSE, SUM, PRODUCT = range(4)
"""Arrays of a batch normalisation's STATE: mean and 1 / deviation; sums of dZ and of dZ times the normalised input."""


@functools.cache
def _gamma(dtype: np.dtype) -> Any:
    kind: Any = dtype.type

    def gamma(t, op, params, o):
        return params[t[op + lo.W] + o] if t[op + lo.HAS_GAMMA] != 0 else kind(1)

    return inlined(gamma)


@functools.cache
def _beta(dtype: np.dtype) -> Any:
    kind: Any = dtype.type

    def beta(t, op, params, o):
        if t[op + lo.HAS_BETA] != 0:
            return params[t[op + lo.W] + t[op + lo.HAS_GAMMA] * t[op + lo.LDW] + o]
        return kind(0)

    return inlined(beta)


@inlined
def constants_of(t, op):
    """Where the op's row of means stands among its weights; that of variances is the next."""
    return t[op + lo.W] + (t[op + lo.HAS_GAMMA] + t[op + lo.HAS_BETA]) * t[op + lo.LDW]


# ---------------------------------------------------------------- of each row


@functools.cache
def by_rows(dtype: np.dtype, shapes: Shapes, centred: bool) -> Any:
    """Kernel: (a - mean) / deviation * gamma + beta over a row's neurons (Ba, Kiros and Hinton 2016).

    Without centring a / root mean square * gamma (Zhang and Sennrich 2019).
    """
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    gamma, beta, total = _gamma(dtype), _beta(dtype), sharing(shapes).total

    def run(t, op, params, work, constants):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        b = cuda.blockIdx.x * groups + group
        there, n = b < t[lo.ROWS], t[op + lo.OUT]
        a0, z0 = t[op + lo.A] + b * t[op + lo.LDA], t[op + lo.Z] + b * t[op + lo.LDZ]
        mean, whole, first = kind(0), kind(0), group * lanes
        for turn in range(2):
            value = kind(0)
            if there and (turn == 1 or centred):
                for c in range(lane, n, lanes):
                    d = work[a0 + c] - mean
                    value += d if turn == 0 else d * d
            whole = total(share, first, lane, value)
            if turn == 0:
                mean = whole / kind(n)
        if there:
            epsilon = constants[t[op + lo.NUMBERS] + lo.OWN]
            inverse = kind(1) / math.sqrt(whole / kind(n) + epsilon)
            if lane == 0:
                work[t[op + lo.STATE] + b] = mean
                work[t[op + lo.STATE] + t[lo.ROWS] + b] = inverse
            for c in range(lane, n, lanes):
                value = (work[a0 + c] - mean) * inverse * gamma(t, op, params, c)
                if centred:
                    value += beta(t, op, params, c)
                work[z0 + c] = value

    return kernel(run, threads=shapes.threads)


@functools.cache
def by_rows_back(dtype: np.dtype, shapes: Shapes, centred: bool) -> Any:
    """Kernel: dA from dZ, by the chain rule through mean and deviation."""
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    gamma = _gamma(dtype)

    def run(t, op, params, work, constants):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        b = cuda.blockIdx.x * groups + group
        there, n = b < t[lo.ROWS], t[op + lo.OUT]
        a0, d0 = t[op + lo.A] + b * t[op + lo.LDA], t[op + lo.DZ] + b * t[op + lo.LDDZ]
        first, other = group * lanes, (groups + group) * lanes
        plain, product, mean, inverse = kind(0), kind(0), kind(0), kind(0)
        if there:
            mean, inverse = work[t[op + lo.STATE] + b], work[t[op + lo.STATE] + t[lo.ROWS] + b]
            for c in range(lane, n, lanes):
                d = work[d0 + c] * gamma(t, op, params, c)
                product += d * ((work[a0 + c] - mean) * inverse)
                if centred:
                    plain += d
        share[first + lane], share[other + lane] = plain, product
        cuda.syncthreads()
        width = lanes // 2
        while width > 0:
            if lane < width:
                share[first + lane] += share[first + lane + width]
                share[other + lane] += share[other + lane + width]
            cuda.syncthreads()
            width //= 2
        if there:
            plain, product = share[first] / kind(n), share[other] / kind(n)
            for c in range(lane, n, lanes):
                d = work[d0 + c] * gamma(t, op, params, c)
                value = (d - plain - (work[a0 + c] - mean) * inverse * product) * inverse
                work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = value

    return kernel(run, threads=shapes.threads)


# ---------------------------------------------------------------- sums over the batch, by columns


@functools.cache
def _settled(dtype: np.dtype) -> Any:
    """Writes a neuron's mean, and 1 / deviation of its variance: f(t, op, work, constants, c, mean, variance)."""
    kind: Any = dtype.type

    def settled(t, op, work, constants, c, mean, variance):
        epsilon = constants[t[op + lo.NUMBERS] + lo.OWN + 1]
        work[t[op + lo.STATE] + CENTRE * t[op + lo.LDW] + c] = mean
        work[t[op + lo.STATE] + INVERSE * t[op + lo.LDW] + c] = kind(1) / math.sqrt(variance + epsilon)

    return inlined(settled)


@functools.cache
def statistics(dtype: np.dtype, shapes: Shapes, cut: bool) -> Any:
    """Kernel: mean and reciprocal deviation of each neuron over the batch, in two passes (Ioffe and Szegedy 2015).

    cut : whether the grid's second axis cuts the batch in parts, whose means, and sums of squares around these, go into
        partial (2, parts, LDW) instead
    """
    kind: Any = dtype.type
    lanes, groups, settled = shapes.lanes, shapes.groups, _settled(dtype)

    def run(t, op, work, constants, partial):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        c, count = cuda.blockIdx.x * lanes + lane, rows_of(t, t[lo.STEP])
        parts, part = np.int64(cuda.gridDim.y), np.int64(cuda.blockIdx.y)
        first, end = count * part // parts, count * (part + 1) // parts
        there, mean, size = c < t[op + lo.OUT], kind(0), kind(max(1, end - first))
        for turn in range(2):
            value = kind(0)
            if there:
                for b in range(first + group, end, groups):
                    d = work[t[op + lo.A] + b * t[op + lo.LDA] + c] - mean
                    value += d if turn == 0 else d * d
            share[group * lanes + lane] = value
            cuda.syncthreads()
            value = kind(0)
            for g in range(groups):
                value += share[g * lanes + lane]
            cuda.syncthreads()
            if turn == 0:
                mean = value / size
            elif there and group == 0:
                if cut:
                    partial[part * t[op + lo.LDW] + c] = mean
                    partial[(parts + part) * t[op + lo.LDW] + c] = value
                else:
                    settled(t, op, work, constants, c, mean, value / size)

    return kernel(run, threads=shapes.threads)


@functools.cache
def join_statistics(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the parts' means and sums of squares put together (Chan, Golub and LeVeque 1983); a thread a neuron."""
    kind: Any = dtype.type
    settled = _settled(dtype)

    def run(t, op, work, constants, partial, parts):
        c = cuda.grid(1)
        if t[lo.STATUS] != pg.RUNNING or c >= t[op + lo.OUT]:
            return
        count, ld, mean, squares = rows_of(t, t[lo.STEP]), t[op + lo.LDW], kind(0), kind(0)
        for part in range(parts):
            size = kind(count * (part + 1) // parts - count * part // parts)
            mean += partial[part * ld + c] * (size / kind(count))
        for part in range(parts):
            size = kind(count * (part + 1) // parts - count * part // parts)
            d = partial[part * ld + c] - mean
            squares += partial[(parts + part) * ld + c] + size * (d * d)
        settled(t, op, work, constants, c, mean, squares / kind(count))

    return kernel(run, threads=shapes.flat)


@functools.cache
def _summed(dtype: np.dtype, of_rows: bool) -> Any:
    """Puts a neuron's two sums where they belong, see `sums_back`: f(t, op, work, params, c, plain, products)."""
    kind: Any = dtype.type

    def summed(t, op, work, params, c, plain, products):
        state, ld = t[op + lo.STATE], t[op + lo.LDW]
        if of_rows:
            into, adding = t[lo.GRADIENT] + t[op + lo.W] + c, goes_on(t)
            if t[op + lo.HAS_GAMMA] != 0:
                params[into] = products + (params[into] if adding else kind(0))
                into += ld
            if t[op + lo.HAS_BETA] != 0:
                params[into] = plain + (params[into] if adding else kind(0))
        else:
            work[state + SUM * ld + c] = plain
            work[state + PRODUCT * ld + c] = products * work[state + INVERSE * ld + c]

    return inlined(summed)


@functools.cache
def sums_back(dtype: np.dtype, shapes: Shapes, of_rows: bool, cut: bool) -> Any:
    """Kernel: sums over the batch of dZ and of dZ times the normalised input, of each neuron.

    of_rows : whether mean and deviation are each row's, not each neuron's; the sums are then gamma's and beta's
        gradients
    cut : as in `statistics`; the parts' sums go into partial (2, parts, LDW)
    """
    kind: Any = dtype.type
    lanes, groups, summed = shapes.lanes, shapes.groups, _summed(dtype, of_rows)

    def run(t, op, work, params, partial):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        c, count = cuda.blockIdx.x * lanes + lane, rows_of(t, t[lo.STEP] - 1)
        parts, part = np.int64(cuda.gridDim.y), np.int64(cuda.blockIdx.y)
        there, state, ld = c < t[op + lo.OUT], t[op + lo.STATE], t[op + lo.LDW]
        plain, products = kind(0), kind(0)
        if there:
            for b in range(count * part // parts + group, count * (part + 1) // parts, groups):
                d = work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + c]
                a = work[t[op + lo.A] + b * t[op + lo.LDA] + c]
                plain += d
                if of_rows:
                    products += d * ((a - work[state + b]) * work[state + t[lo.ROWS] + b])
                else:
                    products += d * (a - work[state + CENTRE * ld + c])
        share[group * lanes + lane], share[(groups + group) * lanes + lane] = plain, products
        cuda.syncthreads()
        if there and group == 0:
            plain, products = kind(0), kind(0)
            for g in range(groups):
                plain += share[g * lanes + lane]
                products += share[(groups + g) * lanes + lane]
            if cut:
                partial[part * ld + c] = plain
                partial[(parts + part) * ld + c] = products
            else:
                summed(t, op, work, params, c, plain, products)

    return kernel(run, threads=shapes.threads)


@functools.cache
def join_sums(dtype: np.dtype, shapes: Shapes, of_rows: bool) -> Any:
    """Kernel: the parts' sums of `sums_back` added up in their order; a thread a neuron."""
    kind: Any = dtype.type
    summed = _summed(dtype, of_rows)

    def run(t, op, work, params, partial, parts):
        c = cuda.grid(1)
        if t[lo.STATUS] != pg.RUNNING or c >= t[op + lo.OUT]:
            return
        ld, plain, products = t[op + lo.LDW], kind(0), kind(0)
        for part in range(parts):
            plain += partial[part * ld + c]
            products += partial[(parts + part) * ld + c]
        summed(t, op, work, params, c, plain, products)

    return kernel(run, threads=shapes.flat)


@functools.cache
def by_batch(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: (a - mean) / deviation * gamma + beta with the batch's own mean and deviation."""
    lanes, groups = shapes.lanes, shapes.groups
    gamma, beta = _gamma(dtype), _beta(dtype)

    def run(t, op, params, work, constants):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < t[lo.ROWS]:
            state, ld = t[op + lo.STATE], t[op + lo.LDW]
            for c in range(cuda.threadIdx.x % lanes, t[op + lo.OUT], lanes):
                scale = work[state + INVERSE * ld + c] * gamma(t, op, params, c)
                value = work[t[op + lo.A] + b * t[op + lo.LDA] + c] - work[state + CENTRE * ld + c]
                work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] = value * scale + beta(t, op, params, c)

    return kernel(run, threads=shapes.threads)


@functools.cache
def by_batch_back(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: dA from dZ and its sums over the batch; 0 in rows beyond the batch."""
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    gamma = _gamma(dtype)

    def run(t, op, params, work, constants):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < t[lo.ROWS]:
            state, ld, count = t[op + lo.STATE], t[op + lo.LDW], rows_of(t, t[lo.STEP] - 1)
            share = kind(1) / kind(count)
            for c in range(cuda.threadIdx.x % lanes, t[op + lo.OUT], lanes):
                inverse = work[state + INVERSE * ld + c]
                plain, slope = work[state + SUM * ld + c] * share, work[state + PRODUCT * ld + c] * share * inverse
                value = work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + c] - plain
                value -= (work[t[op + lo.A] + b * t[op + lo.LDA] + c] - work[state + CENTRE * ld + c]) * slope
                value *= inverse * gamma(t, op, params, c)
                work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = value if b < count else kind(0)

    return kernel(run, threads=shapes.threads)


@functools.cache
def learn_by_batch(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: writes the gradients of gamma and beta, and lets the moving statistics follow; a thread a neuron.

    following : 1 where this step trains
    """
    kind: Any = dtype.type

    def run(t, op, work, params, constants, following):
        o = cuda.grid(1)
        if t[lo.STATUS] != pg.RUNNING or o >= t[op + lo.OUT]:
            return
        state, ld = t[op + lo.STATE], t[op + lo.LDW]
        into, adding = t[lo.GRADIENT] + t[op + lo.W] + o, goes_on(t)
        if t[op + lo.HAS_GAMMA] != 0:
            params[into] = work[state + PRODUCT * ld + o] + (params[into] if adding else kind(0))
            into += ld
        if t[op + lo.HAS_BETA] != 0:
            params[into] = work[state + SUM * ld + o] + (params[into] if adding else kind(0))
        if following != 0:
            own = t[op + lo.NUMBERS] + lo.OWN
            keep, epsilon, inverse = constants[own], constants[own + 1], work[state + INVERSE * ld + o]
            moving = constants_of(t, op) + o
            take = kind(1) - keep
            params[moving] = params[moving] * keep + work[state + CENTRE * ld + o] * take
            variance = kind(1) / (inverse * inverse) - epsilon
            params[moving + ld] = params[moving + ld] * keep + variance * take

    return kernel(run, threads=shapes.flat)


@functools.cache
def by_constants(dtype: np.dtype, shapes: Shapes, epsilon_place: int, back: bool) -> Any:
    """Kernel: (a - mean) / deviation * gamma + beta with the op's own mean and variance; `back`, dA of dZ."""
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    gamma, beta = _gamma(dtype), _beta(dtype)

    def run(t, op, params, work, constants):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < t[lo.ROWS]:
            epsilon, own = constants[t[op + lo.NUMBERS] + lo.OWN + epsilon_place], constants_of(t, op)
            for c in range(cuda.threadIdx.x % lanes, t[op + lo.OUT], lanes):
                scale = kind(1) / math.sqrt(params[own + t[op + lo.LDW] + c] + epsilon) * gamma(t, op, params, c)
                if back:
                    work[t[op + lo.DA] + b * t[op + lo.LDDA] + c] = (
                        work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + c] * scale
                    )
                else:
                    value = (work[t[op + lo.A] + b * t[op + lo.LDA] + c] - params[own + c]) * scale
                    work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] = value + beta(t, op, params, c)

    return kernel(run, threads=shapes.threads)
