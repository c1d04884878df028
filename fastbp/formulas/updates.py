"""Floor 1: the update of one element, a formula for each kind of optimizer, for every engine.

A formula takes the weight, a tuple of its moments, the gradient and h, the step's coefficients (h[0], h[1] ...), and
returns the new weight and the tuple of new moments.
"""

from typing import Any

from fastbp._math import formula
from fastbp._vector import copysign, fma, maximum, quotient, root, sqrt, where


@formula
def descend(w: Any, s: Any, g: Any, h: Any) -> Any:
    return fma(g, -h[0], w), ()


@formula
def momentum(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = fma(s[0], h[1], g * -h[0])
    return w + v, (v,)


@formula
def nesterov(w: Any, s: Any, g: Any, h: Any) -> Any:
    step = g * -h[0]
    v = fma(s[0], h[1], step)
    return w + fma(v, h[1], step), (v,)


@formula
def _decayed(average: Any, keep: Any, value: Any, take: Any) -> Any:
    return fma(average, keep, value * take)


@formula
def rmsprop(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = _decayed(s[0], h[1], g * g, h[2])
    return w - quotient(h[0] * g, root(v + h[3])), (v,)


@formula
def rmsprop_momentum(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = _decayed(s[0], h[1], g * g, h[2])
    b = fma(s[1], h[4], quotient(h[0] * g, root(v + h[3])))
    return w - b, (v, b)


@formula
def rmsprop_centered(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = _decayed(s[0], h[1], g * g, h[2])
    m = _decayed(s[1], h[1], g, h[2])
    # rounding can make the variance of a steady gradient negative
    return w - quotient(h[0] * g, root(maximum(fma(-m, m, v), 0.0) + h[3])), (v, m)


@formula
def rmsprop_centered_momentum(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = _decayed(s[0], h[1], g * g, h[2])
    m = _decayed(s[1], h[1], g, h[2])
    b = fma(s[2], h[4], quotient(h[0] * g, root(maximum(fma(-m, m, v), 0.0) + h[3])))
    return w - b, (v, m, b)


@formula
def adagrad(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = fma(g, g, s[0])
    return w - quotient(h[0] * g, root(v + h[1])), (v,)


@formula
def adadelta(w: Any, s: Any, g: Any, h: Any) -> Any:
    v = _decayed(s[0], h[1], g * g, h[2])
    step = g * sqrt((s[1] + h[3]) / (v + h[3]))
    return fma(step, -h[0], w), (v, _decayed(s[1], h[1], step * step, h[2]))


@formula
def adam(w: Any, s: Any, g: Any, h: Any) -> Any:
    m = _decayed(s[0], h[1], g, h[2])
    v = _decayed(s[1], h[3], g * g, h[4])
    return w - quotient(h[0] * m, root(v) + h[5]), (m, v)


@formula
def amsgrad(w: Any, s: Any, g: Any, h: Any) -> Any:
    m = _decayed(s[0], h[1], g, h[2])
    v = _decayed(s[1], h[3], g * g, h[4])
    most = maximum(s[2], v)
    return w - quotient(h[0] * m, root(most) + h[5]), (m, v, most)


@formula
def nadam(w: Any, s: Any, g: Any, h: Any) -> Any:
    m = _decayed(s[0], h[1], g, h[2])
    v = _decayed(s[1], h[3], g * g, h[4])
    return w - quotient(fma(h[0], m, h[6] * g), root(v) + h[5]), (m, v)


@formula
def radam(w: Any, s: Any, g: Any, h: Any) -> Any:
    m = _decayed(s[0], h[1], g, h[2])
    v = _decayed(s[1], h[3], g * g, h[4])
    return w - quotient(h[0] * m, fma(root(v), h[6], h[5])), (m, v)


@formula
def lion(w: Any, s: Any, g: Any, h: Any) -> Any:
    c = _decayed(s[0], h[1], g, h[2])
    return fma(where(c == 0.0, c, copysign(1.0, c)), -h[0], w), (_decayed(s[0], h[3], g, h[4]),)
