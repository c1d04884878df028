"""Floor 1: optimizers. A class is what a user configures, and the coefficients of its formula (see `formulas.updates`).

The coefficients of many steps are computed at once on the host, schedules and bias corrections included. Decoupled
weight decay, the average of the weights, clipping and accumulated gradients are options of all rules.

A rule moves each element by its own numbers, so that a tile is updated while it is in cache. Adafactor (Shazeer and
Stern 2018) isn't one: its second moment is made of sums over a matrix' rows and columns, its step of means over all.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from fastbp import schedules
from fastbp._checks import flag
from fastbp._settings import FRACTION, NOT_NEGATIVE, POSITIVE, Settings, is_fraction, is_not_negative, is_positive
from fastbp._spelling import answers, listed
from fastbp.activations import unknown
from fastbp.formulas.updates import (
    adadelta,
    adagrad,
    adam,
    amsgrad,
    descend,
    lion,
    momentum,
    nadam,
    nesterov,
    radam,
    rmsprop,
    rmsprop_centered,
    rmsprop_centered_momentum,
    rmsprop_momentum,
)
from fastbp.schedules import Schedule

COEFFICIENTS = 8
"""Coefficients that every formula may use; those of the options follow."""
KEEP, AVERAGE_KEEP, OVERWRITE, MOST, SCALE = range(COEFFICIENTS, COEFFICIENTS + 5)
COLUMNS = 16

Rate = float | Schedule | Callable[[int], float]


# ---------------------------------------------------------------- what users configure


def _option(default: Any) -> Any:
    return field(default=default, kw_only=True)


@dataclass(frozen=True, repr=False)
class Optimizer(Settings):
    """What all optimizers share.

    Parameters
    ----------
    learning_rate : a number, a schedule (``fb.schedules``), or a function of the step (from 0) that returns a number
    weight_decay : every step takes learning_rate * weight_decay of each weight away from it, apart from the gradient
        (Loshchilov and Hutter 2019); None for none
    use_ema : keep an exponential moving average of the weights; it replaces them when `fit` is through
    ema_momentum : share of the average that a step keeps, default 0.99
    ema_overwrite_frequency : also replace the weights by their average after so many steps each; None for not
    clipvalue : numbers of the gradient are cut to -clipvalue .. clipvalue; None for not
    clipnorm : the gradient of each kernel and each bias is scaled down to a norm of at most this; None for not
    global_clipnorm : all of the gradient is scaled down to a norm of at most this (Pascanu, Mikolov and Bengio 2013);
        None for not. Of the three one can be given. Penalties are part of what is clipped, weight decay isn't
    gradient_accumulation_steps : batches whose mean gradient makes one step; None (default) for 1. A batch between them
        changes nothing; schedules count steps, and a group of batches may go on in the next fit
    """

    learning_rate: Rate = 0.01
    weight_decay: float | None = _option(None)
    use_ema: bool = _option(False)
    ema_momentum: float = _option(0.99)
    ema_overwrite_frequency: int | None = _option(None)
    clipvalue: float | None = _option(None)
    clipnorm: float | None = _option(None)
    global_clipnorm: float | None = _option(None)
    gradient_accumulation_steps: int | None = _option(None)

    def __post_init__(self) -> None:
        for option in fields(self):
            if isinstance(option.default, bool):
                flag(f"{type(self).__name__}: {option.name}", getattr(self, option.name))
        self._check_rate("learning_rate", is_positive, POSITIVE)
        if self.weight_decay is not None:
            self._check("weight_decay", is_not_negative, NOT_NEGATIVE)
        self._check("ema_momentum", is_fraction, FRACTION)
        if self.ema_overwrite_frequency is not None:
            self._check_whole("ema_overwrite_frequency")
            if not self.use_ema:
                raise ValueError(f"{type(self).__name__}: ema_overwrite_frequency needs use_ema=True")
        clips = [name for name in ("clipvalue", "clipnorm", "global_clipnorm") if getattr(self, name) is not None]
        for name in clips:
            self._check(name, is_positive, POSITIVE)
        if len(clips) > 1:
            raise ValueError(f"{type(self).__name__}: {' and '.join(clips)} are given; clip in one way")
        if self.gradient_accumulation_steps is not None:
            self._check_whole("gradient_accumulation_steps", least=2)

    def _check_rate(self, setting: str, fits: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(self, setting)
        if (isinstance(value, Settings) and not isinstance(value, Schedule)) or isinstance(value, type):
            raise self._refusal(setting, f"{wanted}, a schedule or a function of the step")
        if not callable(value):
            self._check(setting, fits, f"{wanted}, a schedule or a function of the step")

    @property
    def name(self) -> str:
        """The name in `OPTIMIZERS`."""
        return type(self).__name__.lower()

    @property
    def formula(self) -> Callable[..., Any]:
        """The update of one element."""
        raise NotImplementedError(f"{type(self).__name__} names no formula")

    @property
    def initials(self) -> tuple[float, ...]:
        """What each of the formula's moments holds before the first step."""
        return ()

    @property
    def slots(self) -> int:
        """Arrays that this configuration keeps beside the weights: moments, their average, a sum of gradients."""
        return len(self.initials) + bool(self.use_ema) + (self.group > 1)

    @property
    def group(self) -> int:
        """Batches that make one step."""
        return self.gradient_accumulation_steps or 1

    @property
    def late(self) -> bool:
        """Whether an update needs the whole gradient first."""
        return self.clipnorm is not None or self.global_clipnorm is not None

    @property
    def width(self) -> int:
        """Coefficients of a step: the formula's, and those of the options where one is used."""
        return COLUMNS if self.weight_decay or self.use_ema or self.clipvalue or self.late else COEFFICIENTS

    def rate(self, batch: int) -> float:
        """The learning rate of a batch, counted from 0."""
        return float(self.rates(np.array([batch + 1.0]))[0])

    def rates(self, batches: np.ndarray) -> np.ndarray:
        """The learning rate of each batch's step, float64; batches count from 1."""
        return self._values("learning_rate", self._steps(batches))

    def _steps(self, batches: np.ndarray) -> np.ndarray:
        """The step, counted from 1, that each batch belongs to."""
        return np.ceil(batches / self.group)

    def _values(self, setting: str, steps: np.ndarray) -> np.ndarray:
        """A setting that may follow a schedule, for each step; steps count from 1."""
        value: Any = getattr(self, setting)
        if isinstance(value, Schedule):
            values = value.at(steps - 1.0)
        elif callable(value):
            values = np.array([_number(value(int(step) - 1)) for step in steps])
        else:
            return np.full(len(steps), value)
        wrong = ~(values >= 0) | (values >= (math.inf if setting == "learning_rate" else 1.0))
        if wrong.any():
            place = int(np.argmax(wrong))
            wanted = NOT_NEGATIVE if setting == "learning_rate" else FRACTION
            raise ValueError(
                f"{type(self).__name__}: {setting} is to be {wanted}, but {value!r} gave {values[place]:g} for step "
                f"{int(steps[place]) - 1}"
            )
        return values

    def coefficients(self, batches: np.ndarray, multiplier: float = 1.0) -> np.ndarray:
        """h of each batch's step, (len(batches), `width`) float64; batches count from 1, `multiplier` is the rate's."""
        steps, rates = self._steps(batches), self.rates(batches) * multiplier
        table = np.zeros((len(steps), self.width))
        for i, column in enumerate(self._columns(steps, rates)):
            table[:, i] = column
        if self.width == COEFFICIENTS:
            return table
        table[:, KEEP] = 1.0 - rates * (self.weight_decay or 0.0)
        table[:, AVERAGE_KEEP] = np.where(steps > 1, self.ema_momentum, 0.0)
        if self.ema_overwrite_frequency is not None:
            table[:, OVERWRITE] = steps % self.ema_overwrite_frequency == 0
        table[:, MOST] = self.clipvalue or self.clipnorm or self.global_clipnorm or 0.0
        table[:, SCALE] = 1.0
        return table

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        """What the formula finds in h[0], h[1] ...: an array over the steps or a number each."""
        raise NotImplementedError(f"{type(self).__name__} gives no coefficients")

    def config(self, batch: int = 0) -> dict[str, Any]:
        """The settings as plain data; of a function of the step its name is kept, and its value at `batch`."""
        config = super().config()
        for setting, value in config.items():
            if callable(value):
                number = float(self._values(setting, self._steps(np.array([batch + 1.0])))[0])
                config[setting] = {"function": getattr(value, "__qualname__", repr(value)), "value": number}
        return config


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


@dataclass(frozen=True, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum * v - learning_rate * g; w += v (as in Keras).

    Parameters
    ----------
    learning_rate : step size, default 0.01
    momentum : share of the last step kept, in [0, 1), or a schedule of it, default 0
    nesterov : look ahead, w += momentum * v - learning_rate * g (Sutskever et al. 2013)
    weight_decay, use_ema ... : see `Optimizer`
    """

    momentum: Rate = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rate("momentum", is_fraction, FRACTION)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, for example momentum=0.9")

    @property
    def initials(self) -> tuple[float, ...]:
        return (0.0,) if self.momentum else ()

    @property
    def formula(self) -> Callable[..., Any]:
        if not self.momentum:
            return descend
        return nesterov if self.nesterov else momentum

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        return rates, self._values("momentum", steps)


@dataclass(frozen=True, repr=False)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), epsilon inside the root as in Keras: w -= learning_rate * g / sqrt(v + epsilon).

    Parameters
    ----------
    learning_rate : step size, default 0.001
    rho : decay of v, the mean of g * g, in [0, 1), default 0.9
    momentum : share of the last step kept, in [0, 1), or a schedule of it, default 0
    epsilon : default 1e-7
    centered : divide by the deviation, v minus the square of the gradient's own mean (Graves 2013), default False
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    rho: float = 0.9
    momentum: Rate = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("rho", is_fraction, FRACTION)
        self._check_rate("momentum", is_fraction, FRACTION)
        self._check("epsilon", is_positive, POSITIVE)

    @property
    def initials(self) -> tuple[float, ...]:
        return (0.0,) * (1 + bool(self.centered) + bool(self.momentum))

    @property
    def formula(self) -> Callable[..., Any]:
        if self.centered:
            return rmsprop_centered_momentum if self.momentum else rmsprop_centered
        return rmsprop_momentum if self.momentum else rmsprop

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        return rates, self.rho, 1 - self.rho, self.epsilon, self._values("momentum", steps)


@dataclass(frozen=True, repr=False)
class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): v += g * g; w -= learning_rate * g / sqrt(v + epsilon).

    Parameters
    ----------
    learning_rate : step size, default 0.001
    initial_accumulator_value : v before the first step, at least 0, default 0.1
    epsilon : default 1e-7
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    initial_accumulator_value: float = 0.1
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("initial_accumulator_value", is_not_negative, NOT_NEGATIVE)
        self._check("epsilon", is_positive, POSITIVE)

    @property
    def initials(self) -> tuple[float, ...]:
        return (self.initial_accumulator_value,)

    @property
    def formula(self) -> Callable[..., Any]:
        return adagrad

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        return rates, self.epsilon


@dataclass(frozen=True, repr=False)
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): steps in the ratio of the root mean squares of past steps and of past gradients.

    Parameters
    ----------
    learning_rate : factor of the step, default 0.001 as in Keras (the paper's is 1)
    rho : decay of both means, in [0, 1), default 0.95
    epsilon : added to both means, default 1e-7
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    rho: float = 0.95
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("rho", is_fraction, FRACTION)
        self._check("epsilon", is_positive, POSITIVE)

    @property
    def initials(self) -> tuple[float, ...]:
        return 0.0, 0.0

    @property
    def formula(self) -> Callable[..., Any]:
        return adadelta

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        return rates, self.rho, 1 - self.rho, self.epsilon


def _correction(beta: Any, steps: np.ndarray) -> np.ndarray:
    """1 - beta ** step, without cancellation."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(steps * np.log(beta)))


class _AdamRule(Optimizer):
    """What Adam and its relatives share: two moments, their decays, and most of the coefficients."""

    beta_1: Rate
    beta_2: float
    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rate("beta_1", is_fraction, FRACTION)
        self._check("beta_2", is_fraction, FRACTION)
        self._check("epsilon", is_positive, POSITIVE)

    @property
    def initials(self) -> tuple[float, ...]:
        return (0.0,) * (3 if getattr(self, "amsgrad", False) else 2)

    @property
    def formula(self) -> Callable[..., Any]:
        return amsgrad if getattr(self, "amsgrad", False) else adam

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        # m_hat / (sqrt(v_hat) + epsilon) = c2 / c1 * m / (sqrt(v) + c2 * epsilon)
        beta = self._values("beta_1", steps)
        c1, c2 = _correction(beta, steps), np.sqrt(_correction(self.beta_2, steps))
        return rates * c2 / c1, beta, 1 - beta, self.beta_2, 1 - self.beta_2, c2 * self.epsilon


@dataclass(frozen=True, repr=False)
class Adam(_AdamRule):
    """Adam (Kingma and Ba 2015, algorithm 1): w -= learning_rate * m_hat / (sqrt(v_hat) + epsilon).

    Parameters
    ----------
    learning_rate : step size, default 0.001
    beta_1 : decay of the first moment, in [0, 1), or a schedule of it, default 0.9
    beta_2 : decay of the second moment, in [0, 1), default 0.999
    epsilon : added to the root of the second moment, default 1e-7
    amsgrad : divide by the largest second moment so far (Reddi, Kale and Kumar 2018), default False
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    beta_1: Rate = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    amsgrad: bool = False


@dataclass(frozen=True, repr=False)
class AdamW(_AdamRule):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w -= learning_rate * weight_decay * w as well.

    Parameters
    ----------
    learning_rate : step size, default 0.001
    weight_decay : default 0.004
    beta_1, beta_2, epsilon, amsgrad : as in `Adam`
    use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    weight_decay: float | None = 0.004
    beta_1: Rate = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    amsgrad: bool = False


@functools.lru_cache(maxsize=8)
def _log_products(beta: float, decay: float) -> np.ndarray:
    """log of the product of Nadam's momenta over steps 1..n, until 1 minus the product is 1."""
    count = 1 if beta == 0 else 2 + int(-40.0 / math.log(beta))
    steps = np.arange(1.0, count + 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.cumsum(np.log(beta * (1.0 - 0.5 * 0.96 ** (steps * decay)))))


@dataclass(frozen=True, repr=False)
class Nadam(_AdamRule):
    """Adam with Nesterov's momentum (Dozat 2016), its momentum warmed up as in the paper and in PyTorch's ``NAdam``.

    Parameters
    ----------
    learning_rate : step size, default 0.001
    beta_1, beta_2 : decay of the first and second moment, in [0, 1), default 0.9 and 0.999
    epsilon : added to the root of the second moment, default 1e-7
    momentum_decay : how fast the momentum rises to `beta_1`, default 0.004 (Keras has 1)
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    momentum_decay: float = 0.004

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta_1", is_fraction, FRACTION)
        self._check("momentum_decay", is_not_negative, NOT_NEGATIVE)

    @property
    def formula(self) -> Callable[..., Any]:
        return nadam

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        _, beta, take, beta_2, take_2, epsilon = super()._columns(steps, rates)
        c2 = np.sqrt(_correction(beta_2, steps))
        now = beta * (1.0 - 0.5 * 0.96 ** (steps * self.momentum_decay))
        following = beta * (1.0 - 0.5 * 0.96 ** ((steps + 1.0) * self.momentum_decay))
        products = _log_products(self.beta_1, self.momentum_decay)
        places = np.minimum(steps.astype(np.int64), len(products))
        product, longer = products[places - 1], products[np.minimum(places, len(products) - 1)]
        of_m = rates * c2 * following / -np.expm1(longer)
        of_g = rates * c2 * (1.0 - now) / -np.expm1(product)
        return of_m, beta, take, beta_2, take_2, epsilon, of_g


@dataclass(frozen=True, repr=False)
class RAdam(_AdamRule):
    """Adam whose adaptive step waits until the second moment can be trusted (Liu et al. 2020), as in PyTorch.

    Parameters
    ----------
    learning_rate : step size, default 0.001
    beta_1 : decay of the first moment, in [0, 1), or a schedule of it, default 0.9
    beta_2 : decay of the second moment, in [0, 1), default 0.999
    epsilon : added to the root of the second moment before its correction, default 1e-7
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    beta_1: Rate = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    @property
    def formula(self) -> Callable[..., Any]:
        return radam

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        _, beta, take, beta_2, take_2, _ = super()._columns(steps, rates)
        correction = _correction(beta_2, steps)
        longest = 2.0 / (1.0 - beta_2) - 1.0
        length = longest - 2.0 * steps * (1.0 - correction) / correction
        adaptive = length > 5.0
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            rectified = np.where(adaptive, np.sqrt(correction * share), 1.0)
        epsilon = np.where(adaptive, self.epsilon, 1.0)
        return rates / _correction(beta, steps) * rectified, beta, take, beta_2, take_2, epsilon, adaptive


@dataclass(frozen=True, repr=False)
class Lion(Optimizer):
    """Lion (Chen et al. 2023): w -= learning_rate * sign(beta_1 * m + (1 - beta_1) * g); m decays by beta_2.

    Parameters
    ----------
    learning_rate : step size, default 0.001; 3 to 10 times smaller than Adam's suits
    beta_1 : share of m in the step, in [0, 1), or a schedule of it, default 0.9
    beta_2 : decay of m, in [0, 1), default 0.99
    weight_decay, use_ema ... : see `Optimizer`
    """

    learning_rate: Rate = 0.001
    beta_1: Rate = 0.9
    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rate("beta_1", is_fraction, FRACTION)
        self._check("beta_2", is_fraction, FRACTION)

    @property
    def initials(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def formula(self) -> Callable[..., Any]:
        return lion

    def _columns(self, steps: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        beta = self._values("beta_1", steps)
        return rates, beta, 1 - beta, self.beta_2, 1 - self.beta_2


OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.__name__.lower(): cls for cls in (SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, Nadam, RAdam, Lion)
}


@dataclass(frozen=True, repr=False)
class LBFGS(Optimizer):
    """L-BFGS by SciPy (Liu and Nocedal 1989): all rows in every step, a line search for its length; for small data.

    An epoch of ``fit`` is an iteration; the search ends early where it has converged. float64 lets it come closest.

    Parameters
    ----------
    history_size : corrections that stand for the Hessian, default 10
    tolerance_grad : a gradient smaller than this everywhere ends the search, default 1e-5
    tolerance_change : so does a loss that falls by less than this share, default 2.2e-9
    max_line_search : most evaluations of a line search, default 20
    max_evaluations : most evaluations of the loss in a fit, default 1 000 000
    """

    learning_rate: Rate = field(default=1.0, init=False)
    weight_decay: float | None = field(default=None, init=False)
    use_ema: bool = field(default=False, init=False)
    ema_momentum: float = field(default=0.99, init=False)
    ema_overwrite_frequency: int | None = field(default=None, init=False)
    clipvalue: float | None = field(default=None, init=False)
    clipnorm: float | None = field(default=None, init=False)
    global_clipnorm: float | None = field(default=None, init=False)
    gradient_accumulation_steps: int | None = field(default=None, init=False)
    history_size: int = 10
    tolerance_grad: float = 1e-5
    tolerance_change: float = 2.2e-9
    max_line_search: int = 20
    max_evaluations: int = 1_000_000

    def __post_init__(self) -> None:
        for setting in ("history_size", "max_line_search", "max_evaluations"):
            self._check_whole(setting)
        for setting in ("tolerance_grad", "tolerance_change"):
            self._check(setting, is_not_negative, NOT_NEGATIVE)


_ALL: dict[str, type[Optimizer]] = {**OPTIMIZERS, "lbfgs": LBFGS}


def get(optimizer: str | Optimizer) -> Optimizer:
    """An optimizer by name, with its defaults, or the object given."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if (name := listed(optimizer, _ALL)) is None:
        raise unknown("optimizer", optimizer, _ALL)
    return _ALL[name]()


def from_config(config: dict[str, Any]) -> Optimizer:
    """The optimizer that `Optimizer.config` described."""
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in _ALL:
        raise unknown("optimizer", name, _ALL)
    return _ALL[name](**{key: _restored(key, value) for key, value in settings.items()})


def _restored(setting: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "function" not in value:
        return schedules.from_config(value)
    warnings.warn(
        f"{setting} was the function {value['function']}, which a model file can't hold: it stays at "
        f"{value['value']:g} from here on; compile the model again, or use one of fb.schedules",
        stacklevel=2,
    )
    return value["value"]


answers(__name__)
