"""Penalties on what passes through an op: their value beside the loss, their pull on dL/da.

l1 * sum(abs(a)) + l2 * sum(a * a) over a batch, divided by its rows, as in Keras.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._vector import column, copysign, first_lanes, fma, lanes, load_number, spread, store_number, total, where
from fastbp.cpu.rows import at
from fastbp.cpu.tile import item_bytes


def value(kind: Any) -> Callable[..., float]:
    """The penalty of each panel, into its place of STATE."""

    def measure(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        n = lanes(kind)
        l1 = spread(kind, load_number(kind, at(op, pg.NUMBERS)))
        l2 = spread(kind, load_number(kind, at(op, pg.NUMBERS) + item_bytes(kind)))
        for p in range(p0, p1):
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            found = 0.0
            for half in range(2):
                there = first_lanes(kind, at(now, pg.NOW_COUNT) - (2 * p + half) * n)
                sums = spread(kind, 0.0)
                for o in range(o1):
                    size = abs(a[2 * o + half])
                    sums = sums + where(there, size * fma(size, l2, l1), 0.0)
                found += total(sums)
            store_number(np.float64, at(op, pg.STATE) + p * at(op, pg.STATE_PANEL), found / at(now, pg.NOW_ROWS))
        return 0.0

    return measure


def pull(kind: Any) -> Callable[..., float]:
    """DA, which stands in the place of DZ: the penalty's gradient is added."""

    def add(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        n, rows = lanes(kind), at(now, pg.NOW_ROWS)
        l1 = spread(kind, kind(load_number(kind, at(op, pg.NUMBERS)) / rows))
        l2 = spread(kind, kind(2.0 * load_number(kind, at(op, pg.NUMBERS) + item_bytes(kind)) / rows))
        for p in range(p0, p1):
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            for half in range(2):
                there = first_lanes(kind, at(now, pg.NOW_COUNT) - (2 * p + half) * n)
                for i in range(2 * o0 + half, 2 * o1, 2):
                    steady = where(a[i] == 0.0, 0.0, copysign(l1, a[i]))
                    dz[i] = dz[i] + where(there, fma(a[i], l2, steady), 0.0)
        return 0.0

    return add
