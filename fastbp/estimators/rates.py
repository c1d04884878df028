"""Floor 5: scikit-learn's solvers: their learning rates over epochs and steps, and the rule that the engine applies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.formulas import updates as update_formulas
from fastbp.optimizers import Optimizer
from fastbp.schedules import Schedule

Array = NDArray[Any]

SMALLEST_RATE = 1e-6
"""An adaptive rate is not divided further below this."""


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class StepRule(Optimizer):
    """An update rule whose coefficients are given for each step of one run.

    Parameters
    ----------
    update : formula of ``fastbp.formulas.updates``
    slots_kept : arrays that it keeps beside the weights, which begin as zeros
    rates : (steps,) learning rates
    columns : the formula's coefficients: (steps,) arrays or numbers
    weight_decay : see `Optimizer`
    """

    update: Callable[..., Any]
    slots_kept: int
    rates_of_steps: Array
    columns: tuple[Any, ...]

    __eq__, __hash__ = object.__eq__, object.__hash__  # `Optimizer` compares options, which don't tell rates apart

    def __post_init__(self) -> None:
        """Estimators check their parameters themselves."""

    @property
    def name(self) -> str:
        """What it is called while its kernel compiles."""
        return self.update.__name__

    @property
    def formula(self) -> Callable[..., Any]:
        return self.update

    @property
    def initials(self) -> tuple[float, ...]:
        return (0.0,) * self.slots_kept

    def rates(self, steps: Array) -> Array:
        """The learning rates of the steps, counted from 1."""
        return self.rates_of_steps[steps.astype(np.int64) - 1]

    def _columns(self, steps: Array, rates: Array) -> list[Any]:
        places = steps.astype(np.int64) - 1
        return [column[places] if isinstance(column, np.ndarray) else column for column in self.columns]


class SGDRates:
    """Momentum, and a rate that stays, falls with the samples seen, or is divided when nothing improves.

    Parameters
    ----------
    rate : the first learning rate
    schedule : "constant", "invscaling" (rate / (t + 1) ** power after each epoch, t samples seen), "adaptive", or one
        of ``fastbp.schedules``, which names the rate of each step
    power : of "invscaling"
    momentum : share of the last step kept
    nesterov : look ahead (Sutskever et al. 2013)
    options : weight_decay, clipvalue, clipnorm, global_clipnorm of `Optimizer`

    Attributes
    ----------
    learning_rate : the rate of the next step
    updates : steps so far
    """

    def __init__(
        self,
        rate: float,
        schedule: str | Schedule,
        power: float,
        momentum: float,
        nesterov: bool,
        options: Mapping[str, Any],
    ) -> None:
        self.initial, self.schedule, self.power = float(rate), schedule, float(power)
        self.momentum, self.nesterov, self.options = float(momentum), bool(nesterov), dict(options)
        self.learning_rate, self.updates = self.initial, 0
        self.advance(0, 0)

    @property
    def next_rate(self) -> float:
        """What callbacks see and set."""
        return self.learning_rate

    @next_rate.setter
    def next_rate(self, rate: float) -> None:
        _check_settable(self.schedule)
        self.learning_rate = rate

    def rule(self, epochs: int, per_epoch: int, samples: int, seen: int) -> StepRule:
        """The rule of the next `epochs` of `per_epoch` steps over `samples` rows; `seen` were seen before."""
        rates = np.full(epochs, self.learning_rate)
        if self.schedule == "invscaling":
            rates[1:] = [self._inverse(seen + samples * epoch) for epoch in range(1, epochs)]
        steps = np.repeat(rates, per_epoch)
        if isinstance(self.schedule, Schedule):
            steps = self.schedule.at(self.updates + np.arange(float(len(steps))))
        formula = update_formulas.descend
        if self.momentum:
            formula = update_formulas.nesterov if self.nesterov else update_formulas.momentum
        return StepRule(
            update=formula,
            slots_kept=1 if self.momentum else 0,
            rates_of_steps=steps,
            columns=(steps, self.momentum),
            **self.options,
        )

    def _inverse(self, seen: int) -> float:
        return float(self.initial / (seen + 1) ** self.power)

    def advance(self, steps: int, seen: int) -> None:
        """`steps` more are done, at the end of an epoch; `seen` samples were seen so far."""
        self.updates += steps
        if isinstance(self.schedule, Schedule):
            self.learning_rate = self.schedule(self.updates)
        if self.schedule == "invscaling":
            self.learning_rate = self._inverse(seen)

    def stop_or_slow_down(self) -> str:
        """Nothing improved for long: what to say, "Stopping." unless the rate was divided by 5 instead."""
        if self.schedule != "adaptive":
            return "Stopping."
        if self.learning_rate <= SMALLEST_RATE:
            return "Learning rate too small. Stopping."
        self.learning_rate /= 5.0
        return f"Setting learning rate to {self.learning_rate:f}"


class AdamRates:
    """Adam with its epsilon beside the uncorrected root (Kingma and Ba 2015, the end of section 2).

    Parameters
    ----------
    rate : learning rate
    schedule : names the rate of each step in place of `rate`, where it is one of ``fastbp.schedules``
    beta_1, beta_2 : decay of the first and second moment
    epsilon : added to the root of the second moment
    options : weight_decay, clipvalue, clipnorm, global_clipnorm of `Optimizer`

    Attributes
    ----------
    updates : steps so far
    """

    def __init__(
        self,
        rate: float,
        schedule: str | Schedule,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        options: Mapping[str, Any],
    ) -> None:
        self.initial, self.beta_1, self.beta_2 = float(rate), float(beta_1), float(beta_2)
        self.schedule, self.epsilon, self.options = schedule, float(epsilon), dict(options)
        self.updates = 0

    @property
    def learning_rate(self) -> float:
        """With the bias corrections of the last step."""
        return float(self._corrected(np.array([float(self.updates)]))[0]) if self.updates else self.initial

    @property
    def next_rate(self) -> float:
        """What callbacks see and set: the rate before its corrections."""
        return float(self._plain(np.array([self.updates + 1.0]))[0])

    @next_rate.setter
    def next_rate(self, rate: float) -> None:
        _check_settable(self.schedule)
        self.initial = rate

    def _plain(self, steps: Array) -> Array:
        """The rates before their corrections; steps count from 1."""
        if isinstance(self.schedule, Schedule):
            return self.schedule.at(steps - 1.0)
        return np.full(len(steps), self.initial)

    def _corrected(self, steps: Array) -> Array:
        rates: Array = self._plain(steps) * np.sqrt(1 - self.beta_2**steps) / (1 - self.beta_1**steps)
        return rates

    def rule(self, epochs: int, per_epoch: int, samples: int, seen: int) -> StepRule:
        """The rule of the next `epochs` of `per_epoch` steps."""
        numbers = self.updates + np.arange(1.0, epochs * per_epoch + 1)
        return StepRule(
            update=update_formulas.adam,
            slots_kept=2,
            rates_of_steps=self._plain(numbers),
            columns=(
                self._corrected(numbers),
                self.beta_1,
                1 - self.beta_1,
                self.beta_2,
                1 - self.beta_2,
                self.epsilon,
            ),
            **self.options,
        )

    def advance(self, steps: int, seen: int) -> None:
        """`steps` more are done."""
        self.updates += steps

    def stop_or_slow_down(self) -> str:
        """Nothing improved for long: what to say."""
        return "Stopping."


def _check_settable(schedule: str | Schedule) -> None:
    if isinstance(schedule, Schedule):
        raise TypeError(
            f'learning_rate follows {schedule!r}, so it can\'t be set; name "constant" to set it by callbacks'
        )


Rates = SGDRates | AdamRates
