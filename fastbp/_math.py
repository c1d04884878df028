"""Floor 0: elementary functions of the formulas, branch-free, a few units in the last place from exact.

The series are plain Taylor sums on a reduced argument, with as many terms as the precision needs, so that nothing has
to be believed. On NumPy arrays (outside jitted code) they are NumPy's own.
"""

import math
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload, register_jitable

from fastbp._jit import OPTIONS
from fastbp._vector import (
    Vec,
    copysign,
    exponent,
    fma,
    mantissa,
    maximum,
    minimum,
    power_of_two,
    quotient,
    rounding,
    where,
)

formula = register_jitable(**{k: v for k, v in OPTIONS.items() if k != "nogil"})
"""Decorator: a plain function of numbers or vectors that kernels may call."""

# 1/n! for expm1(r) = r + r^2 (1/2! + r/3! + ...), |r| <= ln(2)/2: the first term left out is below half an ulp.
_EXP32 = tuple(1.0 / math.factorial(n) for n in range(7, 1, -1))
_EXP64 = tuple(1.0 / math.factorial(n) for n in range(13, 1, -1))
# 2^(n-1)/n! for (e^2r - 1)/2 = r + r^2 (2/2! + 4r/3! + ...), |r| <= ln(2)/4
_TANH32 = tuple(2.0 ** (n - 1) / math.factorial(n) for n in range(7, 1, -1))
_TANH64 = tuple(2.0 ** (n - 1) / math.factorial(n) for n in range(13, 1, -1))
# 2/(2n+1) for log(m) = 2 atanh(s), s = (m - 1)/(m + 1), s^2 <= 0.0295.
_LOG32 = tuple(2.0 / (2 * n + 1) for n in range(4, 0, -1))
_LOG64 = tuple(2.0 / (2 * n + 1) for n in range(11, 0, -1))
# (-1)^n / (2n+1)! for sin(y) / y as a polynomial in y^2, abs(y) <= pi / 2.
_SIN32 = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(6, -1, -1))
_SIN64 = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(11, -1, -1))
# pi in three parts, whose products with small whole numbers are exact (Cody and Waite 1980; Moshier's Cephes, times 4).
_PI32 = (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7)
_PI64 = (3.14159250259399414064, 1.509957883172319266944e-7, 1.07806057163162381058e-14)
LOG2E, LN2 = 1.4426950408889634, 0.6931471805599453
# ln 2 in two parts; the high one has few bits, so that n * high is exact.
_LN2_32 = (0.693359375, -2.12194440054690583e-4)
_LN2_64 = (0.693147180369123816490, 1.90821492927058770002e-10)
# e^(x^2) erfc(x) (1 + 2x) as a polynomial in t = (x - 3) / (x + 3), x >= 0 (the form of Shepherd and Laframboise,
# "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981), fitted to SciPy's erfcx: relative error 7e-8 and 2e-15.
_ERFC32 = (
    -9.25871172e-05,
    -0.000513871498,
    0.0018751735,
    0.00228655567,
    -0.0237636498,
    0.0684095541,
    -0.119275252,
    0.129627511,
    -0.0475621594,
    -0.135620239,
    1.25300806,
)
_ERFC64 = (
    -1.8167041974259703e-09,
    -7.1781941709040639e-09,
    2.0373174164523162e-08,
    8.5272881690524251e-08,
    -1.0290904536072446e-07,
    -5.9116566503758033e-07,
    3.1322019178937372e-07,
    3.4479176618576353e-06,
    -6.9941013337861181e-07,
    -2.0085280314018032e-05,
    4.9338648639031256e-06,
    0.00012509313936653893,
    -0.00010515482768581186,
    -0.00077983066743144021,
    0.0018886893591614166,
    0.0025293915672533777,
    -0.023770514799860358,
    0.068308027364768237,
    -0.11927366342266929,
    0.12964515870200391,
    -0.047562294353264353,
    -0.13562110612457379,
    1.2530080582697285,
)
_ROUND32, _ROUND64 = 1.5 * 2.0**23, 1.5 * 2.0**52


def exp(x: Any) -> Any:
    """e**x; 0 below the least normal number, infinity above the largest power of two."""
    return np.exp(x)


def expm1(x: Any) -> Any:
    """e**x - 1, accurate near 0."""
    return np.expm1(x)


def log(x: Any) -> Any:
    """Natural logarithm of a positive normal number."""
    return np.log(x)


def log1p(x: Any) -> Any:
    """log(1 + x) for x >= 0, accurate near 0."""
    return np.log1p(x)


@formula
def _horner(coefficients: Any, x: Any) -> Any:
    value = fma(coefficients[0], x, coefficients[1])
    for c in coefficients[2:]:
        value = fma(value, x, c)
    return value


def _reduced(x: Any) -> Any:
    """(2**n, e**r - 1) of x = n ln 2 + r with abs(r) <= ln(2) / 2."""
    n = np.round(x * LOG2E)
    return 2.0**n, np.expm1(x - n * math.log(2.0))


@overload(_reduced)
def _reduced_vec(x: Any) -> Any:
    single = x.dtype == types.float32
    shift = rounding(x.dtype)
    ln2_high, ln2_low = _LN2_32 if single else _LN2_64
    series = _EXP32 if single else _EXP64

    def impl(x: Any) -> Any:
        shifted = fma(x, LOG2E, shift)
        n = shifted - shift
        r = fma(n, -ln2_low, fma(n, -ln2_high, x))
        return power_of_two(shifted), fma(r * r, _horner(series, r), r)

    return impl


@overload(expm1)
def _expm1(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None
    low, high = (-87.0, 88.0) if x.dtype == types.float32 else (-708.0, 709.0)

    def impl(x: Any) -> Any:
        scale, rest = _reduced(minimum(maximum(x, low), high))
        return fma(scale, rest, scale - 1.0)

    return impl


@overload(exp)
def _exp(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None
    low, high = (-87.3, 88.37) if x.dtype == types.float32 else (-708.3, 709.4)

    def impl(x: Any) -> Any:
        scale, rest = _reduced(minimum(maximum(x, low), high))
        return where(x < low, 0.0, where(x > high, math.inf, scale * (rest + 1.0)))

    return impl


@overload(log)
def _log(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None
    single = x.dtype == types.float32
    ln2_high, ln2_low = _LN2_32 if single else _LN2_64
    series = _LOG32 if single else _LOG64

    def impl(x: Any) -> Any:
        e = exponent(x)
        m = mantissa(x) - 1.0
        s = m / (m + 2.0)
        square = s * s
        # log(1 + m) = m - s (m - square-series): the leading m is exact, the rest is small
        tail = s * (m - square * _horner(series, square))
        value = fma(e, ln2_high, m - (tail - e * ln2_low))
        return where(x < math.inf, value, x)

    return impl


@overload(log1p)
def _log1p(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None

    def impl(x: Any) -> Any:
        y = 1.0 + x
        return log(y) + (x - (y - 1.0)) / y

    return impl


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return np.tanh(x)


@overload(tanh)
def _tanh(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None
    single = x.dtype == types.float32
    low, shift, series = -10.0 if single else -20.0, rounding(x.dtype), _TANH32 if single else _TANH64

    def impl(x: Any) -> Any:
        # tanh|x| = (1 - e) / (1 + e), both halved, of e = e^(-2|x|) = 2^n (1 + 2p) with -|x| = n ln(2)/2 + r
        y = maximum(-abs(x), low)
        shifted = fma(y, 2.0 * LOG2E, shift)
        n = shifted - shift
        r = fma(n, -0.5 * LN2, y)
        p = fma(r * r, _horner(series, r), r)
        scale = power_of_two(shifted)
        rest = fma(-scale, p, fma(scale, -0.5, 0.5))
        return copysign(quotient(rest, 1.0 - rest), x)

    return impl


@formula
def logistic(x: Any) -> Any:
    """1 / (1 + e**-x)."""
    return 1.0 / (1.0 + exp(-x))


def sin(x: Any) -> Any:
    """Sine, of an angle up to some thousands (beyond that digits are lost)."""
    return np.sin(x)


def cos(x: Any) -> Any:
    """Cosine, as `sin`."""
    return np.cos(x)


def _sine_of_rest(x: Any, offset: float) -> Any:
    """(-1)**n sin(y) of x = (n + offset) pi + y with abs(y) <= pi / 2."""
    n = np.round(x / math.pi - offset)
    return np.sin(x - (n + offset) * math.pi) * (1.0 - 2.0 * (n % 2))


@overload(_sine_of_rest)
def _sine_of_rest_vec(x: Any, offset: Any) -> Any:
    single = x.dtype == types.float32
    rounding, series = (_ROUND32, _SIN32) if single else (_ROUND64, _SIN64)
    high, middle, low = _PI32 if single else _PI64

    def impl(x: Any, offset: Any) -> Any:
        n = (x * (1.0 / math.pi) - offset + rounding) - rounding
        odd = abs(n - 2.0 * ((n * 0.5 + rounding) - rounding))
        turns = n + offset
        y = fma(turns, -low, fma(turns, -middle, fma(turns, -high, x)))
        return y * _horner(series, y * y) * (1.0 - 2.0 * odd)

    return impl


@overload(sin)
def _sin(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None

    def impl(x: Any) -> Any:
        return _sine_of_rest(x, 0.0)

    return impl


@overload(cos)
def _cos(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None

    def impl(x: Any) -> Any:
        return -_sine_of_rest(x, 0.5)

    return impl


def cosine_of_turns(x: Any) -> Any:
    """cos(2 pi x) for x of [0, 1], within a few units of the last place of 1."""
    return np.cos(2.0 * np.pi * x)


@overload(cosine_of_turns)
def _cosine_of_turns(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None
    series = _SIN32 if x.dtype == types.float32 else _SIN64

    def impl(x: Any) -> Any:
        y = (x - 0.5) * math.pi
        sine = y * _horner(series, y * y)
        return 2.0 * sine * sine - 1.0

    return impl


def normal_cdf(x: Any) -> Any:
    """Probability that a standard normal number is below x."""
    return 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


@overload(normal_cdf)
def _normal_cdf(x: Any) -> Any:
    if not isinstance(x, Vec):
        return None
    series = _ERFC32 if x.dtype == types.float32 else _ERFC64

    def impl(x: Any) -> Any:
        y = abs(x) * math.sqrt(0.5)
        t = (y - 3.0) / (y + 3.0)
        tail = 0.5 * exp(-0.5 * x * x) * _horner(series, t) / (1.0 + 2.0 * y)
        return where(x > 0.0, 1.0 - tail, tail)

    return impl
