"""Where paths part and meet, and ops that pass on or put columns elsewhere."""

from collections.abc import Callable
from typing import Any

from fastbp import program as pg
from fastbp._vector import column, load_int, spread
from fastbp.cpu.rows import at


def nothing(kind: Any) -> Callable[..., float]:
    """The op's outputs are its inputs, or what its activation makes of them; dA is dZ."""

    def pass_on(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        return 0.0

    return pass_on


def join(kind: Any) -> Callable[..., float]:
    """Z = A + SKIP, for neurons o0:o1 (He et al., "Deep residual learning", 2015)."""

    def add(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            z = column(kind, at(op, pg.Z) + p * at(op, pg.Z_PANEL), 1)
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            skip = column(kind, at(op, pg.SKIP) + p * at(op, pg.SKIP_PANEL), 1)
            for i in range(2 * o0, 2 * o1):
                z[i] = a[i] + skip[i]
        return 0.0

    return add


def join_back(kind: Any) -> Callable[..., float]:
    """DA = DZ; the other path reads DZ itself."""

    def copy(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            da = column(kind, at(op, pg.DA) + p * at(op, pg.DA_PANEL), 1)
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            for i in range(2 * o0, 2 * o1):
                da[i] = dz[i]
        return 0.0

    return copy


def fork_back(kind: Any) -> Callable[..., float]:
    """DA, which stands in the place of DZ: the sum of what both paths give back."""

    def add(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            skip = column(kind, at(op, pg.SKIP) + p * at(op, pg.SKIP_PANEL), 1)
            for i in range(2 * o0, 2 * o1):
                dz[i] = dz[i] + skip[i]
        return 0.0

    return add


def concatenate(kind: Any) -> Callable[..., float]:
    """Z = SKIP beside A, for neurons o0:o1 (Huang et al., "Densely connected convolutional networks", 2017)."""

    def put(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        border = 2 * (at(op, pg.OUT) - at(op, pg.IN))
        for p in range(p0, p1):
            z = column(kind, at(op, pg.Z) + p * at(op, pg.Z_PANEL), 1)
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            skip = column(kind, at(op, pg.SKIP) + p * at(op, pg.SKIP_PANEL), 1)
            for i in range(2 * o0, min(2 * o1, border)):
                z[i] = skip[i]
            for i in range(max(2 * o0, border), 2 * o1):
                z[i] = a[i - border]
        return 0.0

    return put


def concatenate_back(kind: Any) -> Callable[..., float]:
    """DA is the later part of DZ; the other path reads the first part itself."""

    def copy(op: int, p0: int, p1: int, i0: int, i1: int, now: int) -> float:
        border = 2 * (at(op, pg.OUT) - at(op, pg.IN))
        for p in range(p0, p1):
            da = column(kind, at(op, pg.DA) + p * at(op, pg.DA_PANEL), 1)
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            for i in range(2 * i0, 2 * i1):
                da[i] = dz[i + border]
        return 0.0

    return copy


def arrange(kind: Any) -> Callable[..., float]:
    """Column o of Z is the column of A that PICKS names, for o0:o1; what it names -1 stays as it is."""

    def put(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
        for p in range(p0, p1):
            z = column(kind, at(op, pg.Z) + p * at(op, pg.Z_PANEL), 1)
            a = column(kind, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
            for o in range(o0, o1):
                i = load_int(at(op, pg.PICKS) + 8 * o)
                if i >= 0:
                    z[2 * o] = a[2 * i]
                    z[2 * o + 1] = a[2 * i + 1]
        return 0.0

    return put


def arrange_back(kind: Any) -> Callable[..., float]:
    """DA from DZ: 0 in columns that went nowhere."""

    def copy(op: int, p0: int, p1: int, i0: int, i1: int, now: int) -> float:
        for p in range(p0, p1):
            da = column(kind, at(op, pg.DA) + p * at(op, pg.DA_PANEL), 1)
            dz = column(kind, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
            for i in range(2 * i0, 2 * i1):
                da[i] = spread(kind, 0.0)
            for o in range(at(op, pg.OUT)):
                i = load_int(at(op, pg.PICKS) + 8 * o)
                if i0 <= i < i1:
                    da[2 * i] = dz[2 * o]
                    da[2 * i + 1] = dz[2 * o + 1]
        return 0.0

    return copy
