"""Where a residual block's paths part and meet, and ops that only pass on."""

from collections.abc import Callable
from typing import Any

from fastbp import program as pg
from fastbp._vector import column
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
