"""Floor 1: learning-rate schedules: what a step's rate is, computed on the host for many steps at once.

A schedule is a value: it has no state, `schedule(step)` is the rate of a step, and steps count from 0 since the model
was compiled. Where an optimizer takes a learning rate (or a momentum) it takes a schedule or a function of the step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp._settings import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Settings,
    is_fraction,
    is_not_negative,
    is_positive,
)
from fastbp._spelling import answers
from fastbp.activations import unknown


class Schedule(Settings):
    """What all schedules share: called with a step or an array of steps they give the rate of each."""

    def __call__(self, step: Any) -> Any:
        """The rate of a step (a number), or of each step of an array."""
        steps = np.asarray(step, np.float64)
        values = self.at(np.atleast_1d(steps))
        return values.reshape(steps.shape) if steps.ndim else float(values[0])

    def at(self, steps: np.ndarray) -> np.ndarray:
        """The rate of each step, float64; steps (n,) float64 count from 0."""
        raise NotImplementedError(f"{type(self).__name__} gives no values")


def _check_decay(schedule: Any) -> None:
    """What the schedules that decay from a rate over a number of steps share."""
    schedule._check("initial_learning_rate", is_not_negative, NOT_NEGATIVE)
    schedule._check("decay_steps", is_positive, POSITIVE)


def _floored(turns: np.ndarray, staircase: bool) -> np.ndarray:
    return np.floor(turns) if staircase else turns


@dataclass(frozen=True, repr=False)
class ExponentialDecay(Schedule):
    """initial_learning_rate * decay_rate ** (step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : the first rate
    decay_steps : steps in which the rate is multiplied by `decay_rate` once
    decay_rate : above 0
    staircase : whether the rate falls in steps, once every `decay_steps`, default False
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        _check_decay(self)
        self._check("decay_rate", is_positive, POSITIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        turns = _floored(steps / self.decay_steps, self.staircase)
        return np.asarray(self.initial_learning_rate * self.decay_rate**turns)


@dataclass(frozen=True, repr=False)
class StepDecay(Schedule):
    """initial_learning_rate * decay_rate ** floor(step / decay_steps): a fall every `decay_steps` steps.

    Parameters
    ----------
    initial_learning_rate : the first rate
    decay_steps : steps of a stair
    decay_rate : factor from stair to stair, above 0, default 0.1
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float = 0.1

    def __post_init__(self) -> None:
        _check_decay(self)
        self._check("decay_rate", is_positive, POSITIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        return np.asarray(self.initial_learning_rate * self.decay_rate ** np.floor(steps / self.decay_steps))


@dataclass(frozen=True, repr=False)
class PiecewiseConstantDecay(Schedule):
    """values[0] up to and including step boundaries[0], values[1] up to boundaries[1], and so on.

    Parameters
    ----------
    boundaries : increasing steps, k of them
    values : k + 1 rates
    """

    boundaries: Sequence[float]
    values: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("boundaries", "values"):
            try:
                numbers = tuple(float(number) for number in getattr(self, name))
            except (TypeError, ValueError):
                raise self._refusal(name, "a sequence of numbers") from None
            object.__setattr__(self, name, numbers)
        if not all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise self._refusal("boundaries", "increasing")
        if len(self.values) != len(self.boundaries) + 1:
            raise self._refusal("values", f"{len(self.boundaries) + 1} rates, one more than the boundaries")
        if not all(is_not_negative(rate) for rate in self.values):
            raise self._refusal("values", "numbers of at least 0")

    def at(self, steps: np.ndarray) -> np.ndarray:
        return np.asarray(self.values)[np.searchsorted(self.boundaries, steps)]


@dataclass(frozen=True, repr=False)
class InverseTimeDecay(Schedule):
    """initial_learning_rate / (1 + decay_rate * step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : the first rate
    decay_steps : steps in which the divisor grows by `decay_rate`
    decay_rate : at least 0
    staircase : whether the rate falls in steps, once every `decay_steps`, default False
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        _check_decay(self)
        self._check("decay_rate", is_not_negative, NOT_NEGATIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        turns = _floored(steps / self.decay_steps, self.staircase)
        return np.asarray(self.initial_learning_rate / (1.0 + self.decay_rate * turns))


@dataclass(frozen=True, repr=False)
class PolynomialDecay(Schedule):
    """(initial_learning_rate - end_learning_rate) * (1 - step / decay_steps) ** power + end_learning_rate.

    Parameters
    ----------
    initial_learning_rate : the first rate
    decay_steps : steps until the end, from where on the rate stays
    end_learning_rate : the last rate, default 0.0001
    power : default 1, a straight line
    cycle : whether to start again from the end, each cycle as long as all before it and one more, default False
    """

    initial_learning_rate: float
    decay_steps: float
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False

    def __post_init__(self) -> None:
        _check_decay(self)
        self._check("end_learning_rate", is_not_negative, NOT_NEGATIVE)
        self._check("power", is_positive, POSITIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        turns = np.maximum(1.0, np.ceil(steps / self.decay_steps)) if self.cycle else 1.0
        share = np.minimum(1.0, steps / (self.decay_steps * turns))
        fall = self.initial_learning_rate - self.end_learning_rate
        return np.asarray(fall * (1.0 - share) ** self.power + self.end_learning_rate)


def _half_cosine(share: np.ndarray) -> np.ndarray:
    """1 at 0, 0 at 1."""
    return np.asarray(0.5 * (1.0 + np.cos(math.pi * share)))


@dataclass(frozen=True, repr=False)
class CosineDecay(Schedule):
    """Half a cosine from the rate down to `alpha` of it (Loshchilov and Hutter 2017), after a linear warm-up if wanted.

    Parameters
    ----------
    initial_learning_rate : the first rate
    decay_steps : steps from the highest rate to the end, from where on the rate stays
    alpha : the last rate as a share of the highest, default 0
    warmup_target : the highest rate, reached on a line from `initial_learning_rate`; None: no warm-up
    warmup_steps : steps of that line, default 0
    """

    initial_learning_rate: float
    decay_steps: float
    alpha: float = 0.0
    warmup_target: float | None = None
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_decay(self)
        self._check("alpha", is_not_negative, NOT_NEGATIVE)
        self._check_whole("warmup_steps", least=0)
        if self.warmup_target is not None:
            self._check("warmup_target", is_not_negative, NOT_NEGATIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        warmup = 0 if self.warmup_target is None else self.warmup_steps
        peak = self.initial_learning_rate if self.warmup_target is None else self.warmup_target
        share = np.clip((steps - warmup) / self.decay_steps, 0.0, 1.0)
        rates = peak * ((1.0 - self.alpha) * _half_cosine(share) + self.alpha)
        line = self.initial_learning_rate + (peak - self.initial_learning_rate) * steps / max(warmup, 1)
        return np.where(steps < warmup, line, rates)


@dataclass(frozen=True, repr=False)
class CosineDecayRestarts(Schedule):
    """Half cosines one after another, each `t_mul` as long and `m_mul` as high as the one before.

    "SGDR: Stochastic Gradient Descent with Warm Restarts", Loshchilov and Hutter 2017.

    Parameters
    ----------
    initial_learning_rate : the first rate
    first_decay_steps : steps of the first half cosine
    t_mul : how much longer each is than the one before, at least 1, default 2
    m_mul : how much higher each starts, default 1
    alpha : the lowest rate as a share of the first, default 0
    """

    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        self._check("initial_learning_rate", is_not_negative, NOT_NEGATIVE)
        self._check("first_decay_steps", is_positive, POSITIVE)
        self._check("t_mul", lambda factor: 1 <= factor < math.inf, "a number of at least 1")
        self._check("m_mul", is_positive, POSITIVE)
        self._check("alpha", is_not_negative, NOT_NEGATIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        turns = steps / self.first_decay_steps
        if self.t_mul == 1.0:
            cycle = np.floor(turns)
            share = turns - cycle
        else:
            # the small number lets a step that starts a cycle fall into it in spite of rounding
            cycle = np.floor(np.log1p(turns * (self.t_mul - 1.0)) / math.log(self.t_mul) + 1e-9)
            length = self.t_mul**cycle
            share = (turns - (length - 1.0) / (self.t_mul - 1.0)) / length
        height = self.m_mul**cycle * _half_cosine(np.maximum(share, 0.0))
        return np.asarray(self.initial_learning_rate * ((1.0 - self.alpha) * height + self.alpha))


ANNEALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": _half_cosine,
    "linear": lambda share: 1.0 - share,
}


def _one_cycle(
    steps: np.ndarray, total: int, rise: float, anneal: str, first: float, middle: float, last: float
) -> np.ndarray:
    """From `first` to `middle` over a share `rise` of the steps, then to `last`; it stays there."""
    top, end = rise * total - 1.0, total - 1.0
    curve = ANNEALINGS[anneal]
    up = middle + (first - middle) * curve(np.clip(steps / top if top > 0 else steps + 1.0, 0.0, 1.0))
    down = last + (middle - last) * curve(np.clip((steps - top) / (end - top), 0.0, 1.0))
    return np.where(steps <= top, up, down)


def _check_cycle(schedule: Any) -> None:
    schedule._check_whole("total_steps", least=2)
    schedule._check("pct_start", lambda share: 0 < share < 1, "between 0 and 1")
    if schedule.anneal not in ANNEALINGS:
        raise unknown("anneal", schedule.anneal, ANNEALINGS)


@dataclass(frozen=True, repr=False)
class OneCycle(Schedule):
    """Up to a high rate and far down again (Smith and Topin 2018), with PyTorch's settings of its ``OneCycleLR``.

    Parameters
    ----------
    max_learning_rate : the highest rate
    total_steps : steps of the training, epochs * ceil(rows / batch_size)
    pct_start : share of the steps that lead up, default 0.3
    anneal : "cosine" (default) or "linear"
    div_factor : the first rate is the highest divided by it, default 25
    final_div_factor : the last rate is the first divided by it, default 1e4

    Examples
    --------
    >>> import fastbp as fb
    >>> cycle = fb.schedules.OneCycle(0.1, total_steps=1000)
    >>> optimizer = fb.SGD(cycle, momentum=cycle.momentum(), nesterov=True)
    """

    max_learning_rate: float
    total_steps: int
    pct_start: float = 0.3
    anneal: str = "cosine"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        self._check("max_learning_rate", is_positive, POSITIVE)
        self._check("div_factor", is_positive, POSITIVE)
        self._check("final_div_factor", is_positive, POSITIVE)
        _check_cycle(self)

    def at(self, steps: np.ndarray) -> np.ndarray:
        first = self.max_learning_rate / self.div_factor
        last = first / self.final_div_factor
        return _one_cycle(steps, self.total_steps, self.pct_start, self.anneal, first, self.max_learning_rate, last)

    def momentum(self, base: float = 0.85, top: float = 0.95) -> "OneCycleMomentum":
        """The momentum (or ``beta_1``) that goes with it: `top` at low rates, `base` at the highest."""
        return OneCycleMomentum(self.total_steps, base, top, self.pct_start, self.anneal)


@dataclass(frozen=True, repr=False)
class OneCycleMomentum(Schedule):
    """A momentum that falls while the rate of `OneCycle` rises.

    Parameters
    ----------
    total_steps, pct_start, anneal : as in `OneCycle`
    base : momentum at the highest rate, default 0.85
    top : momentum at the first and last rate, default 0.95
    """

    total_steps: int
    base: float = 0.85
    top: float = 0.95
    pct_start: float = 0.3
    anneal: str = "cosine"

    def __post_init__(self) -> None:
        self._check("base", is_fraction, FRACTION)
        self._check("top", is_fraction, FRACTION)
        _check_cycle(self)

    def at(self, steps: np.ndarray) -> np.ndarray:
        return _one_cycle(steps, self.total_steps, self.pct_start, self.anneal, self.top, self.base, self.top)


@dataclass(frozen=True, repr=False)
class LinearWarmup(Schedule):
    """A line from `start` to the first rate of another schedule, which then runs from its own step 0.

    Parameters
    ----------
    after : a rate, or the schedule that follows
    warmup_steps : steps of the line
    start : the first rate, default 0
    """

    after: float | Schedule
    warmup_steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.after, Schedule):
            self._check("after", is_not_negative, f"{NOT_NEGATIVE} or a schedule")
        self._check_whole("warmup_steps")
        self._check("start", is_not_negative, NOT_NEGATIVE)

    def at(self, steps: np.ndarray) -> np.ndarray:
        later = np.maximum(steps - self.warmup_steps, 0.0)
        rates = self.after.at(later) if isinstance(self.after, Schedule) else np.full(len(steps), self.after)
        line = self.start + (rates - self.start) * steps / self.warmup_steps
        return np.where(steps < self.warmup_steps, line, rates)


SCHEDULES: dict[str, type[Schedule]] = {
    cls.__name__: cls
    for cls in (
        ExponentialDecay,
        StepDecay,
        PiecewiseConstantDecay,
        InverseTimeDecay,
        PolynomialDecay,
        CosineDecay,
        CosineDecayRestarts,
        OneCycle,
        OneCycleMomentum,
        LinearWarmup,
    )
}


def from_config(config: dict[str, Any]) -> Schedule:
    """The schedule that `Schedule.config` described."""
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    return SCHEDULES[name](**{key: from_config(v) if isinstance(v, dict) else v for key, v in settings.items()})


answers(__name__)
