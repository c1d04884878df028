"""The loops that sum a tally over a panel of batch rows: see ``fastbp.formulas.tallies``.

A rule takes (a, y, n, counts, sums, p): the panel's outputs and targets, n columns, what each row counts, where the
panel's sums (float64) are written, and the tally's numbers. A loop that keeps rows takes the first one's place instead.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp._jit import Kernel, helper, vector_bytes
from fastbp._vector import column, lanes, load_number, spread, spread_numbers, store_number, total, where
from fastbp.cpu.pairs import stack
from fastbp.cpu.rules import SIGNATURE
from fastbp.cpu.tile import item_bytes
from fastbp.formulas.tallies import Tally, best

PLACES = 128
"""Bytes of two registers, at most."""


@helper
def _add(place: int, value: float) -> None:
    store_number(np.float64, place, load_number(np.float64, place) + value)


def _rows(kind: Any, step: int, function: Callable[..., Any], count: int) -> Callable[..., float]:
    def tally(a: int, y: int, n: int, counts: int, sums: int, p: int) -> float:
        numbers = spread_numbers(kind, p, count)
        result = 0.0
        for half in range(2):
            at = half * step
            value = function(column(kind, a + at, 2), column(kind, y + at, 2), n, numbers)
            weight = column(kind, counts + at, 1)[0]
            result += total(where(weight == 0.0, 0.0, value * weight))
        store_number(np.float64, sums, result)
        return 0.0

    return tally


def _hits(kind: Any, step: int, labels: int) -> Callable[..., float]:
    def tally(a: int, y: int, n: int, counts: int, sums: int, p: int) -> float:
        limit = spread(kind, load_number(kind, p))
        for i in range(3 * n + 1):
            store_number(np.float64, sums + 8 * i, 0.0)
        for half in range(2):
            at = half * step
            out, target = column(kind, a + at, 2), column(kind, y + at, 2)
            weight = column(kind, counts + at, 1)[0]
            nothing = weight * 0.0
            guess, truth = nothing, nothing
            if labels == 0:
                guess, truth = best(out, n), best(target, n)
            for c in range(n):
                if labels:
                    given = where(out[c] > limit, weight, nothing)
                    had = where(target[c] > 0.5, weight, nothing)
                else:
                    given = where(guess == c, weight, nothing)
                    had = where(truth == c, weight, nothing)
                _add(sums + 24 * c, total(where(given > 0.0, had, nothing)))
                _add(sums + 24 * c + 8, total(given))
                _add(sums + 24 * c + 16, total(had))
            _add(sums + 24 * n, total(weight))
        return 0.0

    return tally


def _pairs(kind: Any, step: int) -> Callable[..., float]:
    def tally(a: int, y: int, n: int, counts: int, sums: int, _p: int) -> float:
        places = stack(PLACES)
        item = item_bytes(kind)
        found = column(kind, places, 1)
        for i in range(n * n):
            store_number(np.float64, sums + 8 * i, 0.0)
        for half in range(2):
            at = half * step
            found[0] = best(column(kind, y + at, 2), n)
            found[1] = best(column(kind, a + at, 2), n)
            for b in range(lanes(kind)):
                weight = load_number(kind, counts + at + b * item)
                if weight != 0.0:
                    truth = np.int64(load_number(kind, places + b * item))
                    guess = np.int64(load_number(kind, places + step + b * item))
                    _add(sums + 8 * (truth * n + guess), weight)
        return 0.0

    return tally


def _targets(kind: Any, step: int) -> Callable[..., float]:
    def tally(a: int, y: int, n: int, counts: int, sums: int, _p: int) -> float:
        item = item_bytes(kind)
        for i in range(3 * n + 1):
            store_number(np.float64, sums + 8 * i, 0.0)
        for b in range(2 * lanes(kind)):
            weight = np.float64(load_number(kind, counts + b * item))
            if weight != 0.0:
                for c in range(n):
                    place = 2 * step * c + b * item
                    wanted = np.float64(load_number(kind, y + place))
                    miss = np.float64(load_number(kind, a + place)) - wanted
                    _add(sums + 24 * c, weight * wanted)
                    _add(sums + 24 * c + 8, weight * wanted * wanted)
                    _add(sums + 24 * c + 16, weight * miss * miss)
                _add(sums + 24 * n, weight)
        return 0.0

    return tally


def _kept(kind: Any, step: int) -> Callable[..., float]:
    def tally(a: int, y: int, n: int, counts: int, rows: int, _p: int) -> float:
        item = item_bytes(kind)
        for b in range(2 * lanes(kind)):
            row = rows + b * (2 * n + 1) * item
            for c in range(n):
                place = 2 * step * c + b * item
                store_number(kind, row + c * item, load_number(kind, a + place))
                store_number(kind, row + (n + c) * item, load_number(kind, y + place))
            store_number(kind, row + 2 * n * item, load_number(kind, counts + b * item))
        return 0.0

    return tally


@functools.cache
def _kernel(factory: Callable[..., Any], kind: Any, *constants: Any) -> Kernel:
    return Kernel(factory(kind, vector_bytes(), *constants), SIGNATURE)


def rule(tally: Tally, dtype: np.dtype) -> Kernel:
    """The rule that sums a tally over a panel."""
    kind: Any = dtype.type
    if tally.loop == "rows":
        return _kernel(_rows, kind, tally.function, max(1, len(tally.values)))
    if tally.loop in ("classes", "labels"):
        return _kernel(_hits, kind, int(tally.loop == "labels"))
    return _kernel({"pairs": _pairs, "targets": _targets, "kept": _kept}[tally.loop], kind)
