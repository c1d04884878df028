"""Floor 1: what noise makes of a number, a formula for each kind, for every engine.

A formula takes x (an input, or dL/da going back), u and v, uniform numbers of [0, 1), and p, the op's numbers.
"""

from collections.abc import Callable
from typing import Any

from fastbp._math import cosine_of_turns, formula, log
from fastbp._vector import sqrt, where

MIXER = ((16, 0x7FEB352D), (15, 0x846CA68B))
"""Shifts and factors of a 32-bit mixer of low bias (C. Wellons, "Hash Prospector", 2018); the last shift is 16."""


@formula
def dropout(x: Any, u: Any, v: Any, p: Any) -> Any:
    """x / (1 - rate) or 0 (Srivastava et al. 2014, the inverted form); p[1] is 1 / (1 - rate)."""
    return where(u < p[0], 0.0, x * p[1])


@formula
def dropout_gradient(da: Any, u: Any, v: Any, p: Any) -> Any:
    return where(u < p[0], 0.0, da * p[1])


@formula
def alpha_dropout(x: Any, u: Any, v: Any, p: Any) -> Any:
    """a x + b, what is dropped at selu's lower bound before (Klambauer et al. 2017); p: rate, a, b, a alpha' + b."""
    return where(u < p[0], x * 0.0 + p[3], x * p[1] + p[2])


@formula
def gaussian_noise(x: Any, u: Any, v: Any, p: Any) -> Any:
    return x + p[0] * normal(u, v)


@formula
def gaussian_noise_gradient(da: Any, u: Any, v: Any, p: Any) -> Any:
    return da


@formula
def gaussian_dropout(x: Any, u: Any, v: Any, p: Any) -> Any:
    """x times a normal number around 1 of deviation p[0] (Srivastava et al. 2014, section 10)."""
    return x * (1.0 + p[0] * normal(u, v))


@formula
def normal(u: Any, v: Any) -> Any:
    """Normal numbers of uniform ones (Box and Muller 1958)."""
    return sqrt(-2.0 * log(1.0 - u)) * cosine_of_turns(v)


FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "dropout": (dropout, dropout_gradient),
    "alpha_dropout": (alpha_dropout, dropout_gradient),
    "gaussian_noise": (gaussian_noise, gaussian_noise_gradient),
    "gaussian_dropout": (gaussian_dropout, gaussian_dropout),
}
"""Of each operation: what becomes of its inputs, and of dL/da: f(x, u, v, numbers), u and v uniform."""
