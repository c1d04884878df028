"""Floor 1: penalties on weights, added to the loss: what a user configures. The kernels know their strengths alone."""

from dataclasses import dataclass
from typing import Any

from fastbp._settings import NOT_NEGATIVE, Settings, is_not_negative
from fastbp._spelling import answers, listed
from fastbp.activations import unknown


@dataclass(frozen=True, repr=False)
class L1L2(Settings):
    """The penalty l1 * sum(abs(w)) + l2 * sum(w * w) (Zou and Hastie 2005, the elastic net), as in Keras.

    Parameters
    ----------
    l1 : strength of the absolute values, at least 0, default 0
    l2 : strength of the squares, at least 0, default 0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        self._check("l1", is_not_negative, NOT_NEGATIVE)
        self._check("l2", is_not_negative, NOT_NEGATIVE)

    @property
    def strengths(self) -> tuple[float, float]:
        """(l1, l2)."""
        return self.l1, self.l2


@dataclass(frozen=True, repr=False)
class L1(Settings):
    """The penalty l1 * sum(abs(w)) (Tibshirani 1996), as in Keras.

    Parameters
    ----------
    l1 : strength, at least 0, default 0.01
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        self._check("l1", is_not_negative, NOT_NEGATIVE)

    @property
    def strengths(self) -> tuple[float, float]:
        """(l1, 0)."""
        return self.l1, 0.0


@dataclass(frozen=True, repr=False)
class L2(Settings):
    """The penalty l2 * sum(w * w) (Hoerl and Kennard 1970), as in Keras: without the factor 1/2 of other tools.

    Parameters
    ----------
    l2 : strength, at least 0, default 0.01
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        self._check("l2", is_not_negative, NOT_NEGATIVE)

    @property
    def strengths(self) -> tuple[float, float]:
        """(0, l2)."""
        return 0.0, self.l2


l1, l2, l1_l2 = L1, L2, L1L2
"""Keras' other names."""

Regularizer = L1 | L2 | L1L2

REGULARIZERS: dict[str, Regularizer] = {"l1": L1(), "l2": L2(), "l1_l2": L1L2(0.01, 0.01)}
"""What the names stand for."""
_KINDS: dict[str, type[Regularizer]] = {kind.__name__: kind for kind in (L1, L2, L1L2)}


def get(regularizer: Any, label: str = "regularizer") -> Regularizer | None:
    """The penalty of a name, an object, the plain data that its ``config()`` gave, or None for none.

    Raises
    ------
    ValueError : names that aren't in `REGULARIZERS`, and other things; `label` says what they were given for
    """
    if regularizer is None or isinstance(regularizer, Regularizer):
        return regularizer
    if isinstance(regularizer, dict):
        settings = dict(regularizer)
        name = settings.pop("name", None)
        if name not in _KINDS:
            raise unknown(label, name, _KINDS)
        return _KINDS[name](**settings)
    if not isinstance(regularizer, str):
        raise ValueError(f'{label} must be a name such as "l2", fb.regularizers.L2(0.01) or None, got {regularizer!r}')
    if (name := listed(regularizer, REGULARIZERS)) is None:
        raise unknown(label, regularizer, REGULARIZERS)
    return REGULARIZERS[name]


def strengths(kernel: Regularizer | None, bias: Regularizer | None) -> tuple[float, float, float, float]:
    """l1 and l2 of the kernel, then of the biases."""
    none = 0.0, 0.0
    return *(kernel.strengths if kernel else none), *(bias.strengths if bias else none)


answers(__name__)
