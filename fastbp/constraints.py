"""Floor 1: constraints that weights are brought back to after each update. One row and one formula each.

A formula takes the weight, s, the sum of the squares of its neuron's weights (inputs of one output: axis 0 of the
kernel), and p, the constraint's numbers, and returns the new weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastbp._math import formula
from fastbp._settings import NOT_NEGATIVE, POSITIVE, Settings, is_not_negative, is_positive
from fastbp._spelling import answers
from fastbp._vector import maximum, minimum, sqrt
from fastbp.activations import unknown

EPSILON = 1e-7
"""What Keras adds to the norms that it divides by."""
NUMBERS = 3
"""Numbers that a formula may use."""


@formula
def max_norm(w: Any, s: Any, p: Any) -> Any:
    norm = sqrt(s)
    return w * (minimum(norm, p[0]) / (norm + EPSILON))


@formula
def min_max_norm(w: Any, s: Any, p: Any) -> Any:
    norm = sqrt(s)
    wanted = p[2] * minimum(maximum(norm, p[0]), p[1]) + (1.0 - p[2]) * norm
    return w * (wanted / (norm + EPSILON))


@formula
def unit_norm(w: Any, s: Any, p: Any) -> Any:
    return w / (sqrt(s) + EPSILON)


@formula
def non_neg(w: Any, s: Any, p: Any) -> Any:
    return maximum(w, 0.0)


class Constraint(Settings):
    """What all constraints share."""

    @property
    def formula(self) -> Callable[..., Any]:
        """The row's formula."""
        raise NotImplementedError(f"{type(self).__name__} names no formula")

    @property
    def numbers(self) -> tuple[float, ...]:
        """p."""
        return ()

    def _check_axis(self) -> None:
        axis: Any = getattr(self, "axis", 0)
        if axis not in (0, (0,), [0]):
            raise ValueError(
                f"{type(self).__name__}: axis must be 0 (the norm over a neuron's inputs), got {axis!r}; norms over "
                "other axes aren't computed in the kernels"
            )


@dataclass(frozen=True, repr=False)
class MaxNorm(Constraint):
    """A neuron's weights are scaled down to a norm of at most `max_value` (Srebro et al. 2005), as in Keras.

    Parameters
    ----------
    max_value : largest norm, default 2
    axis : 0, the norm is over a neuron's inputs
    """

    max_value: float = 2.0
    axis: int = 0

    def __post_init__(self) -> None:
        self._check("max_value", is_positive, POSITIVE)
        self._check_axis()

    @property
    def formula(self) -> Callable[..., Any]:
        return max_norm

    @property
    def numbers(self) -> tuple[float, ...]:
        return (self.max_value,)


@dataclass(frozen=True, repr=False)
class MinMaxNorm(Constraint):
    """A neuron's weights are scaled to a norm within bounds, as in Keras.

    Parameters
    ----------
    min_value, max_value : the bounds, default 0 and 1
    rate : share of the way that an update goes there, in (0, 1], default 1
    axis : 0, the norm is over a neuron's inputs
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: int = 0

    def __post_init__(self) -> None:
        self._check("min_value", is_not_negative, NOT_NEGATIVE)
        self._check("max_value", lambda value: is_positive(value) and value >= self.min_value, "at least min_value")
        self._check("rate", lambda value: 0 < value <= 1, "in (0, 1]")
        self._check_axis()

    @property
    def formula(self) -> Callable[..., Any]:
        return min_max_norm

    @property
    def numbers(self) -> tuple[float, ...]:
        return self.min_value, self.max_value, self.rate


@dataclass(frozen=True, repr=False)
class UnitNorm(Constraint):
    """A neuron's weights are scaled to a norm of 1, as in Keras.

    Parameters
    ----------
    axis : 0, the norm is over a neuron's inputs
    """

    axis: int = 0

    def __post_init__(self) -> None:
        self._check_axis()

    @property
    def formula(self) -> Callable[..., Any]:
        return unit_norm


@dataclass(frozen=True, repr=False)
class NonNeg(Constraint):
    """Weights below 0 become 0, as in Keras."""

    @property
    def formula(self) -> Callable[..., Any]:
        return non_neg


CONSTRAINTS: dict[str, type[Constraint]] = {
    "max_norm": MaxNorm,
    "min_max_norm": MinMaxNorm,
    "unit_norm": UnitNorm,
    "non_neg": NonNeg,
}


def get(constraint: Any, label: str = "constraint") -> Constraint | None:
    """The constraint of a name, an object, the plain data that its ``config()`` gave, or None for none.

    Raises
    ------
    ValueError : names that aren't in `CONSTRAINTS`, and other things; `label` says what they were given for
    """
    if constraint is None or isinstance(constraint, Constraint):
        return constraint
    names = CONSTRAINTS | {kind.__name__: kind for kind in CONSTRAINTS.values()}
    settings = dict(constraint) if isinstance(constraint, dict) else {"name": constraint}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        example = 'a name such as "non_neg", fb.constraints.MaxNorm(3.0) or None'
        raise ValueError(f"{label} must be {example}, got {constraint!r}")
    if name not in names:
        raise unknown(label, name, CONSTRAINTS)
    return names[name](**settings)


answers(__name__)
