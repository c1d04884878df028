"""Floor 5: the parameters that the classifier and the regressor share."""

import functools
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, Options, StrOptions

from fastbp.activations import ACTIVATIONS, Activation
from fastbp.callbacks import Callback
from fastbp.devices import DEVICES
from fastbp.estimators.watching import CallbackSupportMixin
from fastbp.schedules import Schedule

STOCHASTIC = ("sgd", "adam")
CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")

_NAMES = {name for row in ACTIVATIONS.values() if not row.coupled for name in (row.name, *row.aliases)}


def _from(low: float, closed: str = "left", high: float | None = None, kind: type = Real) -> Any:
    return Interval(kind, low, high, closed=closed)


class Parameters(CallbackSupportMixin, BaseEstimator):  # type: ignore[misc]
    """The parameters, as they were given."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", _from(1, kind=Integral)],
        "activation": [StrOptions(_NAMES), Activation, list, tuple, callable],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
        "alpha": [_from(0)],
        "batch_size": [StrOptions({"auto"}), _from(1, kind=Integral)],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule],
        "learning_rate_init": [_from(0, "neither")],
        "power_t": [_from(0)],
        "max_iter": [_from(1, kind=Integral)],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [_from(0)],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [_from(0, "both", 1)],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [_from(0, "left", 1)],
        "beta_1": [_from(0, "left", 1)],
        "beta_2": [_from(0, "left", 1)],
        "epsilon": [_from(0, "neither")],
        "n_iter_no_change": [_from(1, kind=Integral), Options(Real, {np.inf})],
        "max_fun": [_from(1, kind=Integral)],
        "dropout": [_from(0, "left", 1), list, tuple],
        "batch_norm": ["boolean"],
        "weight_decay": [_from(0)],
        "clipvalue": [_from(0, "neither"), None],
        "clipnorm": [_from(0, "neither"), None],
        "global_clipnorm": [_from(0, "neither"), None],
        "callbacks": [Callback, list, tuple, None],
        "device": [StrOptions(set(DEVICES))],
        "dtype": [
            StrOptions({"float32", "float64"}),
            Options(type, {np.float32, np.float64}),
            Options(np.dtype, {np.dtype(np.float32), np.dtype(np.float64)}),
            None,
        ],
        "threads": [_from(1, kind=Integral), None],
    }

    hidden_layer_sizes: Any
    activation: Any
    solver: str
    alpha: float
    batch_size: Any
    learning_rate: str | Schedule
    learning_rate_init: float
    power_t: float
    max_iter: int
    loss: Any
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    dropout: Any
    batch_norm: bool
    weight_decay: float
    clipvalue: float | None
    clipnorm: float | None
    global_clipnorm: float | None
    callbacks: Any
    device: str
    dtype: Any
    threads: int | None

    @classmethod
    @functools.cache
    def _get_param_names(cls) -> list[str]:
        """Asked for some five times a fit in a search, where looking at the signature took 0.2 ms each."""
        return list(super()._get_param_names())

    def _keep(self, given: dict[str, Any]) -> None:
        """Store what ``__init__`` was given, as it was given."""
        for name in self._get_param_names():
            setattr(self, name, given[name])
