"""Floor 1: optimizers. A class is what a user configures, a formula is the update of one element, for every engine.

A formula takes the weight, its moments, the gradient and h, the step's coefficients (h[0], h[1] ...), and returns the
new weight and moments. The coefficients of many steps are computed at once on the host, bias corrections included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from fastbp._math import formula
from fastbp._vector import fma, sqrt
from fastbp.activations import unknown

COEFFICIENTS = 8
"""Coefficients that every formula may use."""


@formula
def descend(w: Any, g: Any, h: Any) -> Any:
    return fma(g, -h[0], w)


@formula
def momentum(w: Any, v: Any, g: Any, h: Any) -> Any:
    v = fma(v, h[1], g * -h[0])
    return w + v, v


@formula
def nesterov(w: Any, v: Any, g: Any, h: Any) -> Any:
    step = g * -h[0]
    v = fma(v, h[1], step)
    return w + fma(v, h[1], step), v


@formula
def adam(w: Any, m: Any, v: Any, g: Any, h: Any) -> Any:
    m = fma(m, h[1], g * h[2])
    v = fma(v, h[3], g * g * h[4])
    return fma(w, h[6], -h[0] * m / (sqrt(v) + h[5])), m, v


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share: `moments` (arrays beside the weights), `formula` and the coefficients of each step."""

    learning_rate: float = 0.01

    moments: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self._check("learning_rate", lambda rate: 0 < rate < float("inf"), "a positive number")

    def _check(self, setting: str, fits: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(self, setting)
        if isinstance(value, bool) or not isinstance(value, Real) or not fits(value):
            raise ValueError(f"{type(self).__name__}: {setting} must be {wanted}, got {value!r}")
        object.__setattr__(self, setting, float(value))  # NumPy's numbers become plain ones, as files hold them

    @property
    def name(self) -> str:
        """The name in `OPTIMIZERS`."""
        return type(self).__name__.lower()

    @property
    def slots(self) -> int:
        """Moment arrays that this configuration keeps."""
        return self.moments

    @property
    def formula(self) -> Callable[..., Any]:
        """The update of one element."""
        raise NotImplementedError(f"{type(self).__name__} names no formula")

    def coefficients(self, steps: np.ndarray) -> np.ndarray:
        """h of each step, (len(steps), COEFFICIENTS) float64; steps count from 1."""
        raise NotImplementedError(f"{type(self).__name__} gives no coefficients")

    def config(self) -> dict[str, Any]:
        """The settings as plain data: ``optimizers.from_config`` makes the optimizer again."""
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in fields(self)}}


def _columns(steps: np.ndarray, columns: Sequence[Any]) -> np.ndarray:
    table = np.zeros((len(steps), COEFFICIENTS))
    for i, column in enumerate(columns):
        table[:, i] = column
    return table


def _is_fraction(value: Any) -> bool:
    return bool(0 <= value < 1)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum * v - learning_rate * g; w += v (as in Keras).

    Parameters
    ----------
    learning_rate : step size, default 0.01
    momentum : share of the last step kept, in [0, 1), default 0
    nesterov : look ahead, w += momentum * v - learning_rate * g (Sutskever et al. 2013)
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum", _is_fraction, "in [0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, for example momentum=0.9")

    @property
    def slots(self) -> int:
        return 1 if self.momentum else 0

    @property
    def formula(self) -> Callable[..., Any]:
        if not self.momentum:
            return descend
        return nesterov if self.nesterov else momentum

    def coefficients(self, steps: np.ndarray) -> np.ndarray:
        return _columns(steps, [self.learning_rate, self.momentum])


class _AdamRule(Optimizer):
    """What Adam and AdamW share: the formula and its coefficients."""

    beta_1: float
    beta_2: float
    epsilon: float
    moments: ClassVar[int] = 2
    _decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta_1", _is_fraction, "in [0, 1)")
        self._check("beta_2", _is_fraction, "in [0, 1)")
        self._check("epsilon", lambda epsilon: 0 < epsilon < float("inf"), "a positive number")

    @property
    def formula(self) -> Callable[..., Any]:
        return adam

    def coefficients(self, steps: np.ndarray) -> np.ndarray:
        # m_hat / (sqrt(v_hat) + epsilon) = c2 / c1 * m / (sqrt(v) + c2 * epsilon)
        c1 = -np.expm1(steps * np.log(self.beta_1)) if self.beta_1 else np.ones(len(steps))
        c2 = np.sqrt(-np.expm1(steps * np.log(self.beta_2))) if self.beta_2 else np.ones(len(steps))
        rate = self.learning_rate
        keep = 1 - rate * self._decay
        return _columns(
            steps,
            [rate * c2 / c1, self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2, c2 * self.epsilon, keep],
        )


@dataclass(frozen=True)
class Adam(_AdamRule):
    """Adam (Kingma and Ba 2015, algorithm 1): w -= learning_rate * m_hat / (sqrt(v_hat) + epsilon).

    Parameters
    ----------
    learning_rate : step size, default 0.001
    beta_1, beta_2 : decay of the first and second moment, in [0, 1), default 0.9 and 0.999
    epsilon : added to the root of the second moment, default 1e-7
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


@dataclass(frozen=True)
class AdamW(_AdamRule):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w -= learning_rate * weight_decay * w as well.

    Parameters
    ----------
    learning_rate : step size, default 0.001
    weight_decay : default 0.004
    beta_1, beta_2, epsilon : as in `Adam`
    """

    learning_rate: float = 0.001
    weight_decay: float = 0.004
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("weight_decay", lambda decay: 0 <= decay < float("inf"), "a number of at least 0")

    @property
    def _decay(self) -> float:  # type: ignore[override]
        return self.weight_decay


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def get(optimizer: str | Optimizer) -> Optimizer:
    """An optimizer by name, with its defaults, or the object given."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer.lower() not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    return OPTIMIZERS[optimizer.lower()]()


def from_config(config: dict[str, Any]) -> Optimizer:
    """The optimizer that `Optimizer.config` described."""
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name](**settings)
