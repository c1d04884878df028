"""Floor 0: checks of single settings: what came, what was wanted."""

import math
from numbers import Real
from typing import Any

import numpy as np

DTYPES = ("float32", "float64", "bfloat16")
"""The types of number that a model may compute in."""


def whole(name: str, value: Any, least: int = 1) -> int:
    """The value as an int, if it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """The value as a bool, if it is one, or 0 or 1."""
    if not isinstance(value, (bool, int, np.bool_, np.integer)) or value not in (0, 1):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def number(name: str, value: Any) -> float:
    """The value as a float, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)
