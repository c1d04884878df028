"""Floor 1: the losses' formulas, each with its derivative, for every engine.

A formula takes a (outputs), y (targets) and p (the tuple of the loss's parameters) and returns (l, dl/da), element by
element. A loss that is *fused* with its output activation takes z instead of a, so that nothing overflows; those that
couple the neurons of a row take columns.
"""

import math
from typing import Any

from fastbp._math import exp, formula, log, log1p, logistic, tanh
from fastbp._vector import copysign, maximum, minimum, sqrt, where

EPSILON = 1e-7
"""What Keras keeps logarithms and divisors away from 0 by."""
TINY = 1e-30


@formula
def mean_squared_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return d * d, 2.0 * d


@formula
def half_squared_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return 0.5 * d * d, d


@formula
def mean_absolute_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return abs(d), where(d == 0.0, d, copysign(1.0, d))


@formula
def huber(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    near = minimum(abs(d), p[0])
    return near * (abs(d) - 0.5 * near), copysign(near, d)


@formula
def mean_absolute_percentage_error(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    scale = 100.0 / maximum(abs(y), EPSILON)
    return abs(d) * scale, where(d == 0.0, d, copysign(scale, d))


@formula
def mean_squared_logarithmic_error(a: Any, y: Any, p: Any) -> Any:
    d = log1p(maximum(a, EPSILON)) - log1p(maximum(y, EPSILON))
    return d * d, where(a > EPSILON, 2.0 * d / (a + 1.0), 0.0)


@formula
def log_cosh(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    return abs(d) + log1p(exp(-2.0 * abs(d))) - math.log(2.0), tanh(d)


@formula
def quantile(a: Any, y: Any, p: Any) -> Any:
    d = a - y
    slope = where(d > 0.0, 1.0 - p[0], where(d < 0.0, -p[0], 0.0 * d))
    return slope * d, slope


@formula
def hinge(a: Any, y: Any, p: Any) -> Any:
    margin = maximum(1.0 - y * a, 0.0)
    return margin, where(margin > 0.0, -y, 0.0)


@formula
def squared_hinge(a: Any, y: Any, p: Any) -> Any:
    margin = maximum(1.0 - y * a, 0.0)
    return margin * margin, -2.0 * margin * y


@formula
def kl_divergence(a: Any, y: Any, p: Any) -> Any:
    target = maximum(minimum(y, 1.0), EPSILON)
    share = maximum(minimum(a, 1.0), EPSILON)
    return target * log(target / share), where(a == share, -target / share, 0.0)


@formula
def _smoothed(y: Any, smoothing: Any, even: Any) -> Any:
    return y + smoothing * (even - y)


@formula
def binary_crossentropy(z: Any, y: Any, p: Any) -> Any:
    y = _smoothed(y, p[0], 0.5)
    return maximum(z, 0.0) - z * y + log1p(exp(-abs(z))), logistic(z) - y


@formula
def _power(base: Any, exponent: Any) -> Any:
    """base ** exponent, for a base of at least `TINY`."""
    return exp(exponent * log(base))


@formula
def binary_focal_crossentropy(z: Any, y: Any, p: Any) -> Any:
    gamma = p[0]
    y = _smoothed(y, p[3], 0.5)
    weight = 1.0 + p[2] * (y * p[1] + (1.0 - y) * (1.0 - p[1]) - 1.0)
    right = logistic(z)
    wrong = logistic(-z)
    miss = maximum(y * wrong + (1.0 - y) * right, TINY)
    factor = weight * _power(miss, gamma)
    value = maximum(z, 0.0) - z * y + log1p(exp(-abs(z)))
    slope = gamma * (1.0 - 2.0 * y) * (right * wrong / miss)
    return factor * value, factor * (slope * value + right - y)


@formula
def poisson(a: Any, y: Any, p: Any) -> Any:
    rate = maximum(a, 0.0) + 1e-7
    return a - y * log(rate), 1.0 - where(a >= 0.0, y / rate, 0.0)


@formula
def poisson_deviance(z: Any, y: Any, p: Any) -> Any:
    rate = exp(z)
    seen = maximum(y, 1e-30)
    return rate - y * z + where(y > 0.0, y * log(seen) - y, 0.0), rate - y


@formula
def gamma_deviance(z: Any, y: Any, p: Any) -> Any:
    ratio = y * exp(-z)
    return z - log(y) + ratio - 1.0, 1.0 - ratio


@formula
def tweedie_deviance(z: Any, y: Any, p: Any) -> Any:
    low = 1.0 - p[0]
    high = 2.0 - p[0]
    seen = y * exp(low * z)
    mean = exp(high * z)
    best = where(y > 0.0, _power(maximum(y, TINY), high), 0.0) / (low * high)
    return best - seen / low + mean / high, mean - seen


@formula
def negative_binomial_deviance(z: Any, y: Any, p: Any) -> Any:
    shape = 1.0 / p[0]
    shifted = z + log(p[0])
    spread = maximum(shifted, 0.0) + log1p(exp(-abs(shifted)))
    best = where(y > 0.0, y * log(maximum(y, TINY)), 0.0)
    value = best - y * z - (y + shape) * (log1p(p[0] * y) - spread)
    return value, (y + shape) * logistic(shifted) - y


@formula
def categorical_crossentropy(dz: Any, z: Any, y: Any, n: int, weight: Any, p: Any) -> Any:
    even = 1.0 / n
    peak = z[0]
    for c in range(1, n):
        peak = maximum(peak, z[c])
    norm = peak * 0.0
    mass = norm
    inner = norm
    for c in range(n):
        shifted = z[c] - peak
        e = exp(shifted)
        dz[c] = e
        norm = norm + e
        target = _smoothed(y[c], p[0], even)
        mass = mass + target
        inner = inner + target * shifted
    scale = mass / norm
    for c in range(n):
        dz[c] = (dz[c] * scale - _smoothed(y[c], p[0], even)) * weight
    return mass * log(norm) - inner


@formula
def categorical_focal_crossentropy(dz: Any, z: Any, y: Any, n: int, weight: Any, p: Any) -> Any:
    gamma = p[0]
    even = 1.0 / n
    peak = z[0]
    for c in range(1, n):
        peak = maximum(peak, z[c])
    norm = peak * 0.0
    for c in range(n):
        norm = norm + exp(z[c] - peak)
    log_norm = log(norm)
    value = norm * 0.0
    inner = value
    for c in range(n):
        log_share = z[c] - peak - log_norm
        share = exp(log_share)
        miss = maximum(1.0 - share, TINY)
        factor = _smoothed(y[c], p[2], even) * p[1] * _power(miss, gamma)
        value = value - factor * log_share
        # share times the derivative by the share
        slope = factor * (gamma * share / miss * log_share - 1.0)
        dz[c] = slope
        inner = inner + slope
    for c in range(n):
        dz[c] = (dz[c] - exp(z[c] - peak - log_norm) * inner) * weight
    return value


@formula
def categorical_hinge(da: Any, a: Any, y: Any, n: int, weight: Any, p: Any) -> Any:
    best = (1.0 - y[0]) * a[0]
    place = best * 0.0
    right = y[0] * a[0]
    for c in range(1, n):
        other = (1.0 - y[c]) * a[c]
        place = where(other > best, c, place)
        best = maximum(best, other)
        right = right + y[c] * a[c]
    margin = maximum(best - right + 1.0, 0.0)
    for c in range(n):
        slope = where(place == c, 1.0 - 2.0 * y[c], -y[c])
        da[c] = where(margin > 0.0, slope * weight, 0.0)
    return margin


@formula
def cosine_similarity(da: Any, a: Any, y: Any, n: int, weight: Any, p: Any) -> Any:
    square = a[0] * a[0]
    target = y[0] * y[0]
    inner = a[0] * y[0]
    for c in range(1, n):
        square = square + a[c] * a[c]
        target = target + y[c] * y[c]
        inner = inner + a[c] * y[c]
    scale = 1.0 / sqrt(maximum(square, 1e-12))
    other = 1.0 / sqrt(maximum(target, 1e-12))
    value = -inner * scale * other
    pull = where(square > 1e-12, value * scale * scale, 0.0)
    for c in range(n):
        da[c] = (-y[c] * scale * other - pull * a[c]) * weight
    return value
