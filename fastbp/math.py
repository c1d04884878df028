"""Floor 1: elementary functions for a user's own activations, losses and metrics; on arrays they are NumPy's.

What stands in NumPy under the same name may be written as ``np.tanh(x)`` as well.
"""

from typing import Any

import numpy as np

from fastbp import _math
from fastbp.formulas.tracing import Value

abs, exp, expm1, log, log1p = np.abs, np.exp, np.expm1, np.log, np.log1p
sqrt, square, sign, tanh, sin, cos = np.sqrt, np.square, np.sign, np.tanh, np.sin, np.cos
maximum, minimum, where, clip = np.maximum, np.minimum, np.where, np.clip
sum, mean, max, min = np.sum, np.mean, np.max, np.min


def sigmoid(x: Any) -> Any:
    """1 / (1 + e**-x)."""
    return x.tape.apply("sigmoid", x) if isinstance(x, Value) else _math.logistic(x)


def normal_cdf(x: Any) -> Any:
    """Probability that a standard normal number is below x."""
    return x.tape.apply("normal_cdf", x) if isinstance(x, Value) else _math.normal_cdf(x)


def erf(x: Any) -> Any:
    """The error function."""
    return 2.0 * normal_cdf(x * np.sqrt(2.0)) - 1.0


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def softplus(x: Any) -> Any:
    """log(1 + e**x), without overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
