"""The tables' formulas as compiled loops over vectors, reached by address: compiled when a network first uses one.

A rule takes six int64 arguments (addresses and counts) and returns a float64, so that one kind of call serves all:

* activation   (a, z, n, parameter, -, -)              n vectors; a coupled one n columns
* derivative   (da, a, z, n, parameter, -)             dL/da becomes dL/dz
* loss         (dz, a, y, n, parameters, scale)        n columns; returns the panel's loss
* tally        (a, y, n, counts, sums, p)              n columns; writes the panel's sums (see ``cpu.tallies``)
* update       (w, moments, g, n, coefficients, status)   n vectors, or of -n rows of a panel the first vector each;
                                                          moments is the distance from array to array
* penalty      (w, n, strengths, -, -, -)              n vectors; returns their penalty (see ``cpu.penalty``)
* pull         (g, w, n, strengths, scale, -)          adds the penalty's gradient to n vectors of g

* constraint   (w, n, numbers, -, -, -)              brings n rows of a panel to their constraint
* scale        (g, n, number, -, -, -)               multiplies n vectors

A guarded update leaves a weight as it is where it would become NaN or infinite, and writes so into the status.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel, vector_bytes
from fastbp._vector import (
    column,
    copysign,
    fma,
    load_number,
    load_vectors,
    maximum,
    minimum,
    spread,
    spread_numbers,
    store_int,
    store_vectors,
    total,
    where,
)
from fastbp.activations import Activation
from fastbp.constraints import NUMBERS, Constraint
from fastbp.cpu.tile import geometry
from fastbp.losses import Loss
from fastbp.optimizers import AVERAGE_KEEP, KEEP, MOST, OVERWRITE, SCALE, Optimizer

SIGNATURE = types.float64(*[types.int64] * 6)


def _activation(function: Callable[..., Any], kind: Any) -> Callable[..., float]:
    def activate(a: int, z: int, n: int, parameter: int, _e: int, _f: int) -> float:
        p = load_number(kind, parameter)
        out, inp = column(kind, a, 1), column(kind, z, 1)
        for i in range(n):
            out[i] = function(inp[i], p)
        return 0.0

    return activate


def _coupled_activation(function: Callable[..., Any], kind: Any, step: int) -> Callable[..., float]:
    def activate(a: int, z: int, n: int, _d: int, _e: int, _f: int) -> float:
        for half in range(2):
            function(column(kind, a + half * step, 2), column(kind, z + half * step, 2), n)
        return 0.0

    return activate


def _derivative(function: Callable[..., Any], kind: Any) -> Callable[..., float]:
    def derive(da: int, a: int, z: int, n: int, parameter: int, _f: int) -> float:
        p = load_number(kind, parameter)
        gradient, out, inp = column(kind, da, 1), column(kind, a, 1), column(kind, z, 1)
        for i in range(n):
            gradient[i] = gradient[i] * function(inp[i], out[i], p)
        return 0.0

    return derive


def _coupled_derivative(function: Callable[..., Any], kind: Any, step: int) -> Callable[..., float]:
    def derive(da: int, a: int, _c: int, n: int, _e: int, _f: int) -> float:
        for half in range(2):
            function(column(kind, da + half * step, 2), column(kind, a + half * step, 2), n)
        return 0.0

    return derive


def _loss(
    function: Callable[..., Any], kind: Any, step: int, size: int, count: int, masked: int
) -> Callable[..., float]:
    def loss(dz: int, a: int, y: int, n: int, parameters: int, scale: int) -> float:
        each, p = load_number(kind, parameters), spread_numbers(kind, parameters + size, count)
        reported = spread(kind, load_number(kind, parameters + (1 + count) * size))
        result = 0.0
        for half in range(2):
            at = half * step
            gradient, out, target = column(kind, dz + at, 2), column(kind, a + at, 2), column(kind, y + at, 2)
            weight = column(kind, scale + at, 1)[0]
            share = weight * each
            value = spread(kind, each) * 0.0
            for c in range(n):
                v, d = function(out[c], target[c], p)
                if masked:
                    v = where(target[c] == target[c], v, 0.0)
                    d = where(target[c] == target[c], d, 0.0)
                value = value + v
                gradient[c] = where(weight == 0.0, 0.0, d * share)
            result += total(where(weight == 0.0, 0.0, value * (share * reported)))
        return result

    return loss


def _coupled_loss(function: Callable[..., Any], kind: Any, step: int, size: int, count: int) -> Callable[..., float]:
    def loss(dz: int, a: int, y: int, n: int, parameters: int, scale: int) -> float:
        p = spread_numbers(kind, parameters + size, count)
        result = 0.0
        for half in range(2):
            at = half * step
            weight = column(kind, scale + at, 1)[0]
            gradient = column(kind, dz + at, 2)
            value = function(gradient, column(kind, a + at, 2), column(kind, y + at, 2), n, weight, p)
            for c in range(n):
                gradient[c] = where(weight == 0.0, 0.0, gradient[c])
            result += total(where(weight == 0.0, 0.0, value * weight))
        return result

    return loss


def _update(
    function: Callable[..., Any],
    kind: Any,
    step: int,
    per_panel: int,
    width: int,
    slots: int,
    decays: bool,
    averages: bool,
    clips: bool,
    scaled: bool,
    guarded: bool,
) -> Callable[..., float]:
    def update(w: int, moments: int, g: int, n: int, coefficients: int, status: int) -> float:
        h = spread_numbers(kind, coefficients, width)
        wild = spread(kind, 0.0)
        weight, gradient = column(kind, w, 1), column(kind, g, 1)
        average = column(kind, w + (1 + slots) * moments, 1)
        apart = 1 if n >= 0 else per_panel
        for turn in range(abs(n)):
            i = turn * apart
            place = w + i * step + moments
            state = load_vectors(kind, place, moments, slots)
            old = weight[i]
            if decays:
                old = old * h[KEEP]
            slope = gradient[i]
            if clips:
                slope = minimum(maximum(slope, -h[MOST]), h[MOST])
            if scaled:
                slope = slope * h[SCALE]
            new, state = function(old, state, slope, h)
            store_vectors(place, moments, state)
            if guarded:
                error = new - new  # NaN where the weight is NaN or infinite
                wild = where(error == 0.0, wild, error)
                new = where(error == 0.0, new, weight[i])
            if averages:
                mean = fma(average[i], h[AVERAGE_KEEP], new * (1.0 - h[AVERAGE_KEEP]))
                average[i] = mean
                new = where(h[OVERWRITE] > 0.0, mean, new)
            weight[i] = new
        if guarded and total(wild) != 0.0:
            store_int(status, pg.OVERFLOWN)
        return 0.0

    return update


def _penalty(kind: Any, size: int) -> Callable[..., float]:
    def penalty(w: int, n: int, strengths: int, _d: int, _e: int, _f: int) -> float:
        l1, l2 = spread(kind, load_number(kind, strengths)), spread(kind, load_number(kind, strengths + size))
        weight = column(kind, w, 1)
        value = l1 * 0.0
        for i in range(n):
            value = fma(abs(weight[i]), fma(abs(weight[i]), l2, l1), value)
        return total(value)

    return penalty


def _pull(kind: Any, size: int) -> Callable[..., float]:
    def pull(g: int, w: int, n: int, strengths: int, scale: int, _f: int) -> float:
        s = spread(kind, load_number(kind, scale))
        l1 = s * spread(kind, load_number(kind, strengths))
        l2 = s * spread(kind, 2.0 * load_number(kind, strengths + size))
        gradient, weight = column(kind, g, 1), column(kind, w, 1)
        for i in range(n):
            steady = where(weight[i] == 0.0, weight[i], copysign(l1, weight[i]))
            gradient[i] = gradient[i] + fma(weight[i], l2, steady)
        return 0.0

    return pull


def _constraint(function: Callable[..., Any], kind: Any, per_panel: int) -> Callable[..., float]:
    step = vector_bytes()

    def constrain(w: int, n: int, numbers: int, _d: int, _e: int, _f: int) -> float:
        p = spread_numbers(kind, numbers, NUMBERS)
        for v in range(per_panel):
            weight = column(kind, w + v * step, per_panel)
            even = spread(kind, 0.0)
            odd = even
            for i in range(0, n - 1, 2):  # two sums, so that they don't wait for each other
                even = fma(weight[i], weight[i], even)
                odd = fma(weight[i + 1], weight[i + 1], odd)
            if n % 2:
                even = fma(weight[n - 1], weight[n - 1], even)
            squares = even + odd
            for i in range(n):
                weight[i] = function(weight[i], squares, p)
        return 0.0

    return constrain


def _scale(kind: Any, _size: int) -> Callable[..., float]:
    def scale(g: int, n: int, number: int, _d: int, _e: int, _f: int) -> float:
        factor = spread(kind, load_number(kind, number))
        gradient = column(kind, g, 1)
        for i in range(n):
            gradient[i] = gradient[i] * factor
        return 0.0

    return scale


def _kernel(factory: Callable[..., Any], function: Callable[..., Any], dtype: np.dtype, *constants: int) -> Kernel:
    kind: Any = dtype.type
    return _cached(factory, function, kind, constants)


@functools.cache
def _cached(factory: Callable[..., Any], function: Callable[..., Any], kind: Any, constants: tuple[int, ...]) -> Kernel:
    return Kernel(factory(function, kind, *constants), SIGNATURE)


def activation(row: Activation, dtype: np.dtype) -> Kernel:
    """The rule that turns Z into H."""
    if row.coupled:
        return _kernel(_coupled_activation, row.function, dtype, vector_bytes())
    return _kernel(_activation, row.function, dtype)


def derivative(row: Activation, dtype: np.dtype) -> Kernel:
    """The rule that turns dL/dH into dL/dZ."""
    if row.coupled:
        return _kernel(_coupled_derivative, row.derivative, dtype, vector_bytes())
    return _kernel(_derivative, row.derivative, dtype)


def loss(row: Loss, dtype: np.dtype) -> Kernel:
    """The rule that gives a panel's loss and its gradient."""
    constants = vector_bytes(), dtype.itemsize, len(row.parameters)
    if row.coupled:
        return _kernel(_coupled_loss, row.function, dtype, *constants)
    return _kernel(_loss, row.function, dtype, *constants, int(row.mask_nan))


def update(optimizer: Optimizer, dtype: np.dtype, guarded: bool = False) -> Kernel:
    """The rule that moves weights by their gradient."""
    slots, decays, averages = len(optimizer.initials), bool(optimizer.weight_decay), bool(optimizer.use_ema)
    clipping = optimizer.clipvalue is not None, optimizer.late
    of_panel = geometry(dtype.itemsize).panel_vectors
    constants = vector_bytes(), of_panel, optimizer.width, slots, decays, averages, *clipping, guarded
    return _kernel(_update, optimizer.formula, dtype, *constants)


def constraint(row: Constraint, dtype: np.dtype) -> Kernel:
    """The rule that brings a panel of weights to their constraint."""
    return _kernel(_constraint, row.formula, dtype, geometry(dtype.itemsize).panel_vectors)


@functools.cache
def _fixed(factory: Callable[..., Any], dtype: np.dtype) -> Kernel:
    kind: Any = dtype.type
    return Kernel(factory(kind, dtype.itemsize), SIGNATURE)


def penalty(dtype: np.dtype) -> Kernel:
    """The rule that gives the penalty of weights."""
    return _fixed(_penalty, dtype)


def pull(dtype: np.dtype) -> Kernel:
    """The rule that adds a penalty's gradient."""
    return _fixed(_pull, dtype)


def scale(dtype: np.dtype) -> Kernel:
    """The rule that multiplies vectors by a number."""
    return _fixed(_scale, dtype)
