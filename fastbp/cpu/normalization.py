"""Normalisations of activations: of each row over its neurons, and of each neuron over the batch.

Panels are walked neuron by neuron, two vectors of rows each. gamma, beta and moving statistics are rows of the op's
weight panels; what going back needs again (means and reciprocal deviations) stands in the op's STATE.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import (
    column,
    first_lanes,
    lanes,
    load_int,
    load_number,
    spread,
    sqrt,
    store_number,
    total,
    where,
)
from fastbp.cpu import updates, weights
from fastbp.cpu.rows import at
from fastbp.cpu.tile import item_bytes, panel_width, row_bytes

GAMMA, BETA = 1, 2
"""Bits of LEARNED: whether a neuron has the number. Those it has are the first rows of the op's weight panels."""
CENTRE, INVERSE, SUM, PRODUCT = range(4)
"""Arrays of a batch normalisation's STATE: mean and 1 / deviation; sums of dZ and of dZ times the normalised input."""


@helper
def own(kind: Any, op: int, row: int, o: int) -> int:
    """Where the number of neuron o stands in a row of the op's weight panels."""
    width = panel_width(kind)
    return at(op, pg.W) + o // width * at(op, pg.W_PANEL) + (row * width + o % width) * item_bytes(kind)


@helper
def gamma_of(kind: Any, op: int, o: int) -> float:
    """A neuron's gamma, 1 where it has none."""
    return load_number(kind, own(kind, op, 0, o)) if at(op, pg.LEARNED) & GAMMA else kind(1.0)


@helper
def beta_of(kind: Any, op: int, o: int) -> float:
    """A neuron's beta, 0 where it has none."""
    return load_number(kind, own(kind, op, at(op, pg.LEARNED) & GAMMA, o)) if at(op, pg.LEARNED) & BETA else kind(0.0)


@helper
def constants(kind: Any, op: int) -> int:
    """The row behind the learned ones: a mean, and next to it a variance."""
    return (at(op, pg.LEARNED) & GAMMA) + at(op, pg.LEARNED) // BETA


@helper
def kept(kind: Any, op: int, array: int, o: int) -> int:
    """Where the number of neuron o stands in an array of STATE."""
    return at(op, pg.STATE) + array * at(op, pg.STATE_PANEL) + o * item_bytes(kind)


def forward_by_rows(kind: Any, centred: int) -> Callable[..., float]:
    """(a - mean) / deviation * gamma + beta over a row's neurons (Ba, Kiros and Hinton 2016); without centring
    a / root mean square * gamma (Zhang and Sennrich 2019)."""
    item = np.dtype(kind).itemsize

    def forward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        step = lanes(kind) * item
        epsilon = load_number(kind, at(op, pg.NUMBERS))
        share = kind(1.0) / kind(o1)
        for i in range(2 * p0, 2 * p1):
            half = i % 2 * step
            a = column(kind, at(op, pg.A) + i // 2 * at(op, pg.A_PANEL) + half, 2)
            z = column(kind, at(op, pg.Z) + i // 2 * at(op, pg.Z_PANEL) + half, 2)
            state = column(kind, at(op, pg.STATE) + i // 2 * at(op, pg.STATE_PANEL) + half, 2)
            mean = spread(kind, 0.0)
            if centred:
                for o in range(o1):
                    mean = mean + a[o]
                mean = mean * share
            square = spread(kind, 0.0)
            for o in range(o1):
                square = square + (a[o] - mean) * (a[o] - mean)
            inverse = 1.0 / sqrt(square * share + epsilon)
            state[0] = mean
            state[1] = inverse
            for o in range(o1):
                value = (a[o] - mean) * inverse * gamma_of(kind, op, o)
                if centred:
                    value = value + beta_of(kind, op, o)
                z[o] = value
        return 0.0

    return forward


def backward_by_rows(kind: Any, centred: int) -> Callable[..., float]:
    """DA from DZ, by the chain rule through mean and deviation."""
    item = np.dtype(kind).itemsize

    def backward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        step = lanes(kind) * item
        share = kind(1.0) / kind(o1)
        for i in range(2 * p0, 2 * p1):
            half = i % 2 * step
            a = column(kind, at(op, pg.A) + i // 2 * at(op, pg.A_PANEL) + half, 2)
            dz = column(kind, at(op, pg.DZ) + i // 2 * at(op, pg.DZ_PANEL) + half, 2)
            da = column(kind, at(op, pg.DA) + i // 2 * at(op, pg.DA_PANEL) + half, 2)
            state = column(kind, at(op, pg.STATE) + i // 2 * at(op, pg.STATE_PANEL) + half, 2)
            mean, inverse = state[0], state[1]
            plain = spread(kind, 0.0)
            product = spread(kind, 0.0)
            for o in range(o1):
                d = dz[o] * gamma_of(kind, op, o)
                product = product + d * ((a[o] - mean) * inverse)
                if centred:
                    plain = plain + d
            plain = plain * share
            product = product * share
            for o in range(o1):
                d = dz[o] * gamma_of(kind, op, o)
                da[o] = (d - plain - (a[o] - mean) * inverse * product) * inverse
        return 0.0

    return backward


def task_by_rows(kind: Any) -> Callable[..., float]:
    """The task of the weights phase: sums over the batch of dZ times the normalised input, and of dZ; their update."""
    item = np.dtype(kind).itemsize

    def task(run: int, row: int, count: int, stage: int, h: int, g: int) -> float:
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
        n, width, size = lanes(kind), panel_width(kind), row_bytes(kind)
        for j in range(load_int(row + 32), load_int(row + 40)):
            w = at(op, pg.W) + j * at(op, pg.W_PANEL)
            target = w + at(run, pg.GRADIENT) if at(run, pg.GRADIENT) else g
            for o in range(j * width, (j + 1) * width):
                gamma, beta = 0.0, 0.0
                if o < at(op, pg.OUT):
                    products, plain = spread(kind, 0.0), spread(kind, 0.0)
                    for b in range(0, count, n):
                        panel, half = b // (2 * n), b // n % 2 * n * item
                        a = column(kind, at(op, pg.A) + panel * at(op, pg.A_PANEL) + o * size + half, 1)[0]
                        d = column(kind, at(op, pg.DZ) + panel * at(op, pg.DZ_PANEL) + o * size + half, 1)[0]
                        state = column(kind, at(op, pg.STATE) + panel * at(op, pg.STATE_PANEL) + half, 2)
                        there = first_lanes(kind, count - b)
                        products = products + where(there, d * ((a - state[0]) * state[1]), 0.0)
                        plain = plain + where(there, d, 0.0)
                    gamma, beta = total(products), total(plain)
                write(kind, op, target, o % width, gamma, beta, stage)
            close(kind, run, op, row, j, w, target, stage, h)
        return 0.0

    return task


@helper
def write(kind: Any, op: int, target: int, place: int, gamma: float, beta: float, stage: int) -> None:
    """Put or, after earlier slabs and batches, add a neuron's gradients."""
    there = target + place * item_bytes(kind)
    for bit in range(GAMMA, BETA + 1):
        if at(op, pg.LEARNED) & bit:
            value = gamma if bit == GAMMA else beta
            if stage & weights.MORE:
                value += load_number(kind, there)
            store_number(kind, there, kind(value))
            there += panel_width(kind) * item_bytes(kind)


@helper
def close(kind: Any, run: int, op: int, row: int, j: int, w: int, target: int, stage: int, h: int) -> None:
    """What follows the sums of panel j: their update, where it is due."""
    learned = load_int(row + 24)
    if stage & weights.DUE and learned:
        weights.finish(kind, run, op, 0, learned, w, target, h)
        if at(op, pg.SQUARES):
            updates.squares_of(kind, run, op, 0, learned, j, j + 1)


def statistics(kind: Any) -> Callable[..., float]:
    """Mean and reciprocal deviation of neurons o0:o1 over the batch, in two passes (Ioffe and Szegedy 2015)."""

    def measure(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        n, size, item = lanes(kind), row_bytes(kind), item_bytes(kind)
        count = at(now, pg.NOW_COUNT)
        epsilon = load_number(kind, at(op, pg.NUMBERS) + item)
        for o in range(o0, o1):
            sums = spread(kind, 0.0)
            for b in range(0, count, n):
                a = at(op, pg.A) + b // (2 * n) * at(op, pg.A_PANEL) + o * size + b // n % 2 * n * item
                sums = sums + where(first_lanes(kind, count - b), column(kind, a, 1)[0], 0.0)
            mean = kind(total(sums) / count)
            squares = spread(kind, 0.0)
            for b in range(0, count, n):
                a = at(op, pg.A) + b // (2 * n) * at(op, pg.A_PANEL) + o * size + b // n % 2 * n * item
                off = where(first_lanes(kind, count - b), column(kind, a, 1)[0] - mean, 0.0)
                squares = squares + off * off
            store_number(kind, kept(kind, op, CENTRE, o), mean)
            store_number(kind, kept(kind, op, INVERSE, o), kind(1.0 / np.sqrt(total(squares) / count + epsilon)))
        return 0.0

    return measure


def statistics_back(kind: Any) -> Callable[..., float]:
    """Sums over the batch of dZ and of dZ times the normalised input, for neurons o0:o1."""

    def measure(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        n, size, item = lanes(kind), row_bytes(kind), item_bytes(kind)
        count = at(now, pg.NOW_COUNT)
        for o in range(o0, o1):
            mean = load_number(kind, kept(kind, op, CENTRE, o))
            plain, products = spread(kind, 0.0), spread(kind, 0.0)
            for b in range(0, count, n):
                place = o * size + b // n % 2 * n * item
                a = column(kind, at(op, pg.A) + b // (2 * n) * at(op, pg.A_PANEL) + place, 1)[0]
                dz = column(kind, at(op, pg.DZ) + b // (2 * n) * at(op, pg.DZ_PANEL) + place, 1)[0]
                d = where(first_lanes(kind, count - b), dz, 0.0)
                plain = plain + d
                products = products + d * where(first_lanes(kind, count - b), a - mean, 0.0)
            inverse = load_number(kind, kept(kind, op, INVERSE, o))
            store_number(kind, kept(kind, op, SUM, o), kind(total(plain)))
            store_number(kind, kept(kind, op, PRODUCT, o), kind(total(products) * inverse))
        return 0.0

    return measure


def forward_by_batch(kind: Any) -> Callable[..., float]:
    """(a - mean) / deviation * gamma + beta with the batch's own mean and deviation."""

    def forward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            z = column(kind, at(op, pg.Z) + p * at(op, pg.Z_PANEL), 1)
            for o in range(o0, o1):
                mean = load_number(kind, kept(kind, op, CENTRE, o))
                scale = load_number(kind, kept(kind, op, INVERSE, o)) * gamma_of(kind, op, o)
                beta = beta_of(kind, op, o)
                z[2 * o] = (a[2 * o] - mean) * scale + beta
                z[2 * o + 1] = (a[2 * o + 1] - mean) * scale + beta
        return 0.0

    return forward


def backward_by_batch(kind: Any) -> Callable[..., float]:
    """DA from DZ and its sums over the batch; 0 in rows that pad the batch."""

    def backward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        n = lanes(kind)
        count = at(now, pg.NOW_COUNT)
        share = kind(1.0 / count)
        for p in range(p0, p1):
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            da = column(kind, at(op, pg.DA) + p * at(op, pg.DA_PANEL), 1)
            for o in range(o0, o1):
                mean = load_number(kind, kept(kind, op, CENTRE, o))
                inverse = load_number(kind, kept(kind, op, INVERSE, o))
                scale = inverse * gamma_of(kind, op, o)
                plain = load_number(kind, kept(kind, op, SUM, o)) * share
                slope = load_number(kind, kept(kind, op, PRODUCT, o)) * share * inverse
                for half in range(2):
                    value = (dz[2 * o + half] - plain - (a[2 * o + half] - mean) * slope) * scale
                    da[2 * o + half] = where(first_lanes(kind, count - (2 * p + half) * n), value, 0.0)
        return 0.0

    return backward


def task_by_batch(kind: Any) -> Callable[..., float]:
    """The task of the weights phase: gamma and beta learn, the moving statistics follow the batch's.

    Where updates have a phase of their own, the statistics do that there (see ``updates.FOLLOW``), but here where none
    is due.
    """

    def task(run: int, row: int, count: int, stage: int, h: int, g: int) -> float:
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
        width, item = panel_width(kind), item_bytes(kind)
        keep, epsilon = load_number(kind, at(op, pg.NUMBERS)), load_number(kind, at(op, pg.NUMBERS) + item)
        moving = constants(kind, op)
        whole_but_early = stage & (weights.LAST | weights.DUE) == weights.LAST
        follows = at(run, pg.UPDATE) or (at(run, pg.LATE) and whole_but_early) or stage == updates.FOLLOW
        for j in range(load_int(row + 32), load_int(row + 40)):
            if follows:
                for o in range(j * width, min((j + 1) * width, at(op, pg.OUT))):
                    inverse = load_number(kind, kept(kind, op, INVERSE, o))
                    variance = kind(1.0) / (inverse * inverse) - epsilon
                    follow(kind, own(kind, op, moving, o), load_number(kind, kept(kind, op, CENTRE, o)), keep)
                    follow(kind, own(kind, op, moving + 1, o), variance, keep)
            if stage == updates.FOLLOW:
                continue
            w = at(op, pg.W) + j * at(op, pg.W_PANEL)
            target = w + at(run, pg.GRADIENT) if at(run, pg.GRADIENT) else g
            for o in range(j * width, (j + 1) * width):
                gamma, beta = kind(0.0), kind(0.0)
                if o < at(op, pg.OUT):
                    gamma = load_number(kind, kept(kind, op, PRODUCT, o))
                    beta = load_number(kind, kept(kind, op, SUM, o))
                write(kind, op, target, o % width, gamma, beta, stage)
            close(kind, run, op, row, j, w, target, stage, h)
        return 0.0

    return task


@helper
def follow(kind: Any, place: int, value: float, keep: float) -> None:
    """Move the number at a place toward the value."""
    store_number(kind, place, load_number(kind, place) * keep + value * (kind(1.0) - keep))


def by_constants(kind: Any, epsilon_place: int) -> Callable[..., float]:
    """(a - mean) / deviation * gamma + beta with the mean and variance of the op's own rows."""

    def forward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            z = column(kind, at(op, pg.Z) + p * at(op, pg.Z_PANEL), 1)
            for o in range(o0, o1):
                mean = load_number(kind, own(kind, op, constants(kind, op), o))
                scale, beta = scale_of(kind, op, o, epsilon_place), beta_of(kind, op, o)
                z[2 * o] = (a[2 * o] - mean) * scale + beta
                z[2 * o + 1] = (a[2 * o + 1] - mean) * scale + beta
        return 0.0

    return forward


def backward_by_constants(kind: Any, epsilon_place: int) -> Callable[..., float]:
    """DA from DZ of inputs that constants standardise."""

    def backward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            da = column(kind, at(op, pg.DA) + p * at(op, pg.DA_PANEL), 1)
            for o in range(o0, o1):
                scale = scale_of(kind, op, o, epsilon_place)
                da[2 * o] = dz[2 * o] * scale
                da[2 * o + 1] = dz[2 * o + 1] * scale
        return 0.0

    return backward


@helper
def scale_of(kind: Any, op: int, o: int, epsilon_place: int) -> float:
    """gamma / deviation of a neuron, by the variance of its own row."""
    epsilon = load_number(kind, at(op, pg.NUMBERS) + epsilon_place * item_bytes(kind))
    variance = load_number(kind, own(kind, op, constants(kind, op) + 1, o))
    return kind(1.0 / np.sqrt(variance + epsilon)) * gamma_of(kind, op, o)
