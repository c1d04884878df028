"""The elementary functions, against NumPy in extended precision."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba.core import types

from fastbp import _math, _vector
from fastbp._jit import Kernel
from fastbp._vector import column, lanes_of
from fastbp.program import aligned


def _loop(function: Callable[..., Any], kind: Any) -> Callable[..., int]:
    def loop(a: int, z: int, n: int) -> int:
        out, inp = column(kind, a, 1), column(kind, z, 1)
        for i in range(n):
            out[i] = function(inp[i])
        return 0

    return loop


def evaluate(function: Callable[..., Any], z: np.ndarray) -> np.ndarray:
    lanes = lanes_of(z.dtype.itemsize)
    vectors = -(-len(z) // lanes)
    source, target = (aligned(vectors * lanes * z.dtype.itemsize).view(z.dtype) for _ in range(2))
    source[: len(z)] = z
    kernel = Kernel(_loop(function, z.dtype.type), types.int64(*[types.int64] * 3))
    kernel.call(target.ctypes.data, source.ctypes.data, vectors)
    return target[: len(z)].copy()


def grid(low: float, high: float, dtype: type) -> np.ndarray:
    z = np.linspace(low, high, 20_001)
    near_zero = np.geomspace(1e-12, max(abs(low), abs(high)) if low <= 0 else 1.0, 5_000)
    if low <= 0:
        z = np.concatenate([z, near_zero[near_zero < high], -near_zero[near_zero < -low]])
    return z.astype(dtype)


CASES = [
    ("exp", -80.0, 80.0, np.exp, 2),
    ("expm1", -20.0, 20.0, np.expm1, 2),
    ("log", 1e-30, 1e3, np.log, 2),
    ("log", 0.5, 2.0, np.log, 2),
    ("log1p", 0.0, 1.0, np.log1p, 2),
    ("tanh", -10.0, 10.0, np.tanh, 3),
    ("sin", -1.5, 1.5, np.sin, 2),
    ("cos", -1.5, 1.5, np.cos, 3),
    ("logistic", -30.0, 30.0, lambda z: 1 / (1 + np.exp(-z)), 3),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "low", "high", "truth", "ulp"), CASES)
def test_within_a_few_units_in_the_last_place(
    name: str, low: float, high: float, truth: Callable[[Any], Any], ulp: float, dtype: type
) -> None:
    z = grid(low, high, dtype)
    wanted = truth(z.astype(np.longdouble))
    got = evaluate(getattr(_math, name), z)
    spacing = np.spacing(np.abs(wanted).astype(dtype)).astype(np.longdouble)
    assert float((np.abs(got - wanted) / spacing).max()) <= ulp


@pytest.mark.parametrize("name", ["sin", "cos"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1.5e-7), (np.float64, 3e-16)])
def test_angles_of_many_turns(name: str, dtype: type, tolerance: float) -> None:
    z = grid(-3000.0, 3000.0, dtype)
    assert np.abs(evaluate(getattr(_math, name), z) - getattr(np, name)(z.astype(np.longdouble))).max() <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_normal_cdf(dtype: type, tolerance: float) -> None:
    z = grid(-6.0, 6.0, dtype)
    wanted = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2.0)) for v in z])
    assert np.abs(evaluate(_math.normal_cdf, z) - wanted).max() <= tolerance
    tail = grid(-6.0, -1.0, dtype)
    wanted = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2.0)) for v in tail])
    assert np.abs(evaluate(_math.normal_cdf, tail) / wanted - 1).max() <= 40 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "logistic", "normal_cdf"])
def test_nan_stays_nan(name: str, dtype: type) -> None:
    assert np.isnan(evaluate(getattr(_math, name), np.array([np.nan], dtype))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_at_the_ends(dtype: type) -> None:
    z = np.array([-np.inf, -1e4, 1e4, np.inf, 0.0], dtype)
    np.testing.assert_array_equal(evaluate(_math.exp, z), np.array([0, 0, np.inf, np.inf, 1], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_odd_and_ends_at_one(dtype: type) -> None:
    z = np.concatenate([grid(0.0, 30.0, dtype), np.array([0.0, 1e30, np.finfo(dtype).max, np.inf], dtype)])
    found, mirrored = evaluate(_math.tanh, z), evaluate(_math.tanh, -z)
    assert found.max() == 1
    np.testing.assert_array_equal(found[z > 20], 1)
    np.testing.assert_array_equal(mirrored, -found)
    np.testing.assert_array_equal(np.signbit(mirrored), ~np.signbit(found))


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "logistic"])
def test_numpy_arrays_take_the_same_functions(name: str) -> None:
    z = np.linspace(0.1, 2.0, 20)
    truth = {"logistic": lambda v: 1 / (1 + np.exp(-v))}.get(name, getattr(np, name, None))
    assert truth is not None
    np.testing.assert_allclose(getattr(_math, name)(z), truth(z), rtol=1e-13)


def _over_three(z: Any) -> Any:
    return _vector.quotient(z, z * 0.0 + 3.0)


def _under_one(z: Any) -> Any:
    return _vector.quotient(z * 0.0 + 1.0, z)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_roots_and_quotients(dtype: type) -> None:
    """To two units in the last place; 0, infinity and NaN as they should be."""
    z = np.concatenate([np.geomspace(1e-37, 1e37, 20_001), np.linspace(1.0, 4.0, 20_001)]).astype(dtype)
    spacing = np.finfo(dtype).eps
    cases = (
        (_math.formula(_under_one), 1 / z),
        (_math.formula(_over_three), z / 3),
        (_vector.root, np.sqrt(z)),
    )
    for function, wanted in cases:
        found = evaluate(function, z)
        assert np.abs(found / wanted - 1).max() < 2 * spacing
    ends = evaluate(_vector.root, np.array([0.0, np.nan, np.finfo(dtype).max, np.inf], dtype))
    assert ends[0] == 0 and np.isnan(ends[1])
    assert ends[3] >= ends[2] == pytest.approx(float(np.sqrt(np.finfo(dtype).max)), rel=4 * float(spacing))
