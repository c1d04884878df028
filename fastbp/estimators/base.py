"""Floor 5: what the classifier and the regressor share: parameters, weights, and the course of a fit."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbp import activations
from fastbp._jit import default_threads
from fastbp.activations import ACTIVATIONS, Activation
from fastbp.callbacks import Callback
from fastbp.estimators.lbfgs import minimise
from fastbp.estimators.network import Network, Samples, crowd, staged
from fastbp.estimators.rates import AdamRates, Rates, SGDRates
from fastbp.estimators.watching import CallbackSupportMixin, Watchers
from fastbp.layers import Dense
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.objective import Objective
from fastbp.schedules import Schedule

Array = NDArray[Any]

STOCHASTIC = ("sgd", "adam")
CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")
ORDER_NUMBERS = 1 << 20
"""Most row numbers, 8 bytes each, that the orders of a chunk of epochs take."""

_NAMES = {name for row in ACTIVATIONS.values() if not row.coupled for name in (row.name, *row.aliases)}


def _from(low: float, closed: str = "left", high: float | None = None, kind: type = Real) -> Any:
    return Interval(kind, low, high, closed=closed)


class BasePerceptron(CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What `MLPClassifier` and `MLPRegressor` share."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", _from(1, kind=Integral)],
        "activation": [StrOptions(_NAMES), Activation, list, tuple],
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
        "weight_decay": [_from(0)],
        "clipvalue": [_from(0, "neither"), None],
        "clipnorm": [_from(0, "neither"), None],
        "global_clipnorm": [_from(0, "neither"), None],
        "callbacks": [Callback, list, tuple, None],
        "dtype": [StrOptions({"float32", "float64"}), Options(type, {np.float32, np.float64}), None],
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
    weight_decay: float
    clipvalue: float | None
    clipnorm: float | None
    global_clipnorm: float | None
    callbacks: Any
    dtype: Any
    threads: int | None

    def _keep(self, given: dict[str, Any]) -> None:
        """Store what ``__init__`` was given, as it was given."""
        for name in self._get_param_names():
            setattr(self, name, given[name])

    # -------------------------------------------------- weights
    # They live in the network; lists that were handed out or set hold from then until the next step of training.

    @property
    def coefs_(self) -> list[Array]:
        """Weights (I, O) of each layer; what is written into them counts."""
        return self._lists("coefs_")[0]

    @coefs_.setter
    def coefs_(self, arrays: list[Array]) -> None:
        self._lists_given = (arrays, self.intercepts_ if hasattr(self, "intercepts_") else [])

    @property
    def intercepts_(self) -> list[Array]:
        """Biases (O,) of each layer; what is written into them counts."""
        return self._lists("intercepts_")[1]

    @intercepts_.setter
    def intercepts_(self, arrays: list[Array]) -> None:
        self._lists_given = (self.coefs_ if hasattr(self, "coefs_") else [], arrays)

    _lists_given: tuple[list[Array], list[Array]] | None = None
    _network: Network | None = None
    _moments: list[list[Array]] | None = None

    def _lists(self, asked: str) -> tuple[list[Array], list[Array]]:
        if self._lists_given is None:
            if self._network is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {asked!r}")
            self._lists_given = self._network.take()
        return self._lists_given

    @property
    def _has_weights(self) -> bool:
        return self._network is not None or self._lists_given is not None

    def _rows(self) -> tuple[Activation, ...]:
        """The activation of each layer."""
        return (*_hidden_rows(self.activation, self.n_layers_ - 2), activations.get(self.out_activation_))

    def _ready(self) -> Network:
        """The network, with the weights that the lists hold where they were handed out."""
        rows = self._rows()
        if self._lists_given is None:
            assert self._network is not None
            if self._network.activations == rows and self._network.alpha == self.alpha:
                return self._network
        coefs, intercepts = self._lists("coefs_")
        known = self._network
        if (
            known is not None
            and known.takes(coefs, intercepts)
            and (known.activations, known.alpha) == (rows, self.alpha)
        ):
            known.put(coefs, intercepts)
            return known
        moments = self._moments if known is None else known.moments()
        self._network = Network(coefs, intercepts, rows, self.alpha)
        if moments:
            self._network.put_moments(moments, self._optimizer.rule(1, 1, 1, 0))
        self._moments = None
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        network = state.pop("_network", None)
        if network is not None:
            state["_lists_given"] = self._lists("coefs_")
            state["_moments"] = network.moments()
        return state

    # -------------------------------------------------- what the two differ in

    n_outputs_: int
    n_layers_: int
    n_iter_: int
    t_: int
    out_activation_: str
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    _no_improvement_count: int
    _optimizer: Rates

    @abstractmethod
    def _encoded(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array, Array | None]:
        """X checked, targets as the kernels read them ((N, O) numbers or (N,) class numbers), weights of classes."""

    @abstractmethod
    def _encoded_held(self, X: Any, y: Any) -> tuple[Any, Array]:
        """The same for rows to validate on, once `_encoded` has run."""

    @abstractmethod
    def _outputs_wanted(self, y: Array) -> tuple[int, str]:
        """Number of outputs and their activation for such targets."""

    @abstractmethod
    def _criterion(self) -> Loss:
        """The loss to descend, of the sum over outputs."""

    @abstractmethod
    def _scored(self, outputs: Array, y: Array, weight: Array | None) -> float:
        """Score of outputs on held-out targets."""

    _score_name: ClassVar[str]

    def _stratification(self, y: Array) -> Array | None:
        """What the held-out rows are drawn evenly from."""
        return None

    # -------------------------------------------------- the course of a fit

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        incremental: bool,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Any:
        sizes = _sizes(self.hidden_layer_sizes)
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        fresh = not self._has_weights or not (self.warm_start or incremental)
        watched = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
        X, y, of_classes = self._encoded(X, y, incremental, fresh)
        given = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        held = self._given_held(X_val, y_val, sample_weight_val)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        random = check_random_state(self.random_state)
        outputs, activation = self._outputs_wanted(y)
        self.n_outputs_ = outputs
        if fresh:
            self.out_activation_, self.n_layers_ = activation, len(sizes) + 2
            self._initialise(random, [X.shape[1], *sizes, outputs], self._number_type(X))
        with crowd.member():
            network = self._ready()
            self._check_shape([X.shape[1], *sizes, outputs], network)
            self._lists_given = None
            data = Samples(staged(X, network.dtype), _cast(y, network.dtype), _product(given, of_classes))
            train = np.arange(len(data))
            if self.early_stopping and self.solver != "lbfgs" and held is None:
                train, held = self._split(X, y, given, random)
            if held is not None:
                held = Samples(staged(held.x, network.dtype), _cast(held.y, network.dtype), held.weight)
            if self.solver == "lbfgs":
                self._fit_lbfgs(network, data, watched)
            else:
                self._fit_stochastic(network, data, train, held, incremental, random, watched)
        if not network.engine.finite():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _check_shape(self, units: list[int], network: Network) -> None:
        """Refuse to train a network further that is not the one the parameters and the data ask for."""
        layers = network.engine.program.layers
        found = [layers[0].fan_in, *(layer.fan_out for layer in layers)]
        if found != units:
            raise ValueError(
                f"the weights are those of a network {'-'.join(map(str, found))}, parameters and data ask for "
                f"{'-'.join(map(str, units))}: fit without warm_start, or set the parameters back"
            )

    def _given_held(self, X: Any, y: Any, weight: ArrayLike | None) -> Samples | None:
        """Rows to validate on that `fit` was given."""
        if X is None and y is None:
            return None
        if X is None or y is None:
            missing, there = ("X_val", "y_val") if X is None else ("y_val", "X_val")
            raise ValueError(f"{there} is provided, but {missing} was not provided.")
        if not self.early_stopping:
            raise ValueError("X_val and y_val are for early stopping: set early_stopping=True")
        X, y = self._encoded_held(X, y)
        return Samples(X, y, None if weight is None else _check_sample_weight(weight, X, dtype=np.float64))

    def _split(self, X: Any, y: Array, weight: Array | None, random: np.random.RandomState) -> tuple[Array, Samples]:
        """(numbers of the rows to train on, the rest)."""
        train, held = train_test_split(
            np.arange(len(y)),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=self._stratification(y),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return train, Samples(X[held], y[held], None if weight is None else weight[held])

    def _number_type(self, X: Any) -> np.dtype[Any]:
        """The weights' type: as X, but float64 for L-BFGS, whose line search needs it."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        return np.dtype(np.float64 if self.solver == "lbfgs" else X.dtype)

    def _initialise(self, random: np.random.RandomState, units: list[int], dtype: np.dtype[Any]) -> None:
        """Draw the weights as Glorot and Bengio (2010), narrower before logistic neurons, and begin all counts."""
        coefs, intercepts = [], []
        logistic = [row.name == "sigmoid" for row in _hidden_rows(self.activation, max(1, len(units) - 2))]
        logistic = [*logistic[: len(units) - 2], all(logistic)]
        for (fan_in, fan_out), narrow in zip(pairwise(units), logistic, strict=True):
            bound = np.sqrt((2.0 if narrow else 6.0) / (fan_in + fan_out))
            coefs.append(random.uniform(-bound, bound, (fan_in, fan_out)).astype(dtype))
            intercepts.append(random.uniform(-bound, bound, fan_out).astype(dtype))
        self._lists_given, self._network, self._moments = (coefs, intercepts), None, None
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
            self.__dict__.pop(name, None)

    def _threads(self) -> int:
        return default_threads() if self.threads is None else self.threads

    # -------------------------------------------------- solvers

    def _fit_lbfgs(self, network: Network, data: Samples, watched: dict[str, Any]) -> None:
        network.engine.threads = crowd.share(self._threads())
        watchers, loss = Watchers(self, ["loss"], 1, watched), self._criterion()
        self.n_iter_ = 0

        def iterated(value: float) -> bool:
            self.loss_ = value
            self.n_iter_ += 1
            self._say(f"Iteration {self.n_iter_}, loss = {value:.8f}")
            stop = watchers.end(self.n_iter_ - 1, {"loss": value})
            if not stop and self.n_iter_ < self.max_iter:
                watchers.begin(self.n_iter_)
            return stop

        network.compile(Objective(loss), None, len(data), bool(self.verbose))
        with watchers.watch():
            watchers.begin(0)
            watch = iterated if watchers.any or self.verbose else None
            self.loss_, self.n_iter_ = minimise(network, data, loss, self.tol, self.max_iter, self.max_fun, watch)

    def _rates(self, network: Network, incremental: bool) -> Rates:
        """The optimizer: the one that was, where a partial fit goes on."""
        if incremental and hasattr(self, "_optimizer"):
            return self._optimizer
        options = {name: getattr(self, name) for name in ("weight_decay", *CLIPS)}
        if len(clips := [name for name in CLIPS if options[name] is not None]) > 1:
            raise ValueError(f"{' and '.join(clips)} are given; clip in one way")
        if self.solver == "sgd":
            self._optimizer = SGDRates(
                self.learning_rate_init,
                self.learning_rate,
                self.power_t,
                self.momentum,
                self.nesterovs_momentum,
                options,
            )
        else:
            self._optimizer = AdamRates(
                self.learning_rate_init, self.learning_rate, self.beta_1, self.beta_2, self.epsilon, options
            )
        network.engine.reserve_moments(self._optimizer.rule(1, 1, 1, 0))
        return self._optimizer

    def _batch(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(200, rows)
        if self.batch_size > rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=4
            )
        return min(int(self.batch_size), rows)

    def _fit_stochastic(
        self,
        network: Network,
        data: Samples,
        train: Array,
        held: Samples | None,
        incremental: bool,
        random: np.random.RandomState,
        watched: dict[str, Any],
    ) -> None:
        rates, loss = self._rates(network, incremental), self._criterion()
        self._begin_curves()
        batch, engine, threads = self._batch(len(train)), network.engine, self._threads()
        network.compile(Objective(loss), rates.rule(1, 1, 1, 0), batch, bool(self.verbose))
        per_epoch = -(-len(train) // batch)
        orders = _orders(train, random if self.shuffle else None)
        names = ["loss"] if held is None else ["loss", f"val_{self._score_name}"]
        watchers = Watchers(self, names, per_epoch, watched)
        one_by_one = bool(incremental or held is not None or data.weight is not None or watchers.any or self.verbose)
        limit, self.n_iter_ = 1 if incremental else self.max_iter, 0
        if held is not None:
            engine.keep_snapshot()
        with watchers.watch(), _warned_interrupt():
            while self.n_iter_ < limit:
                epochs = 1 if one_by_one else self._epochs_ahead(len(train))
                watchers.begin(self.n_iter_)
                engine.threads = crowd.share(threads)
                rule = rates.rule(epochs, per_epoch, len(train), self.t_)
                outcome = network.train(data, orders(epochs), batch, rule, loss)
                if outcome.diverged:
                    engine.weights.fill(np.nan)
                    outcome.sums[outcome.steps // per_epoch :] = np.nan
                finished = epochs if outcome.diverged else outcome.steps // per_epoch
                for total in outcome.sums[:finished, 0]:
                    self.t_ += len(train)
                    rates.advance(per_epoch, self.t_)
                    self._end_epoch(float(total) / len(train), network, held)
                if outcome.interrupt is not None:
                    raise outcome.interrupt
                curves = (self.loss_curve_, self.validation_scores_)
                values = {name: curve[-1] for name, curve in zip(names, curves, strict=False) if curve}
                if watchers.end(self.n_iter_ - 1, values) or self._patience_is_over(rates, incremental):
                    break
                if self.n_iter_ == self.max_iter and not incremental:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=5,
                    )
        if held is not None:
            engine.restore_snapshot()

    def _patience_is_over(self, rates: Rates, incremental: bool) -> bool:
        """Whether too many epochs brought no improvement; an adaptive rate is divided before that ends the fit."""
        if incremental or self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Validation score" if self.early_stopping else "Training loss"
        said = rates.stop_or_slow_down()
        self._say(
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs. {said}"
        )
        if said.endswith("Stopping."):
            return True
        self._no_improvement_count = 0
        return False

    def _begin_curves(self) -> None:
        """What a fit watches; a warm start goes on with what the last fit saw."""
        self.loss_curve_ = getattr(self, "loss_curve_", [])
        if self.early_stopping:
            self.best_loss_ = None
            if getattr(self, "validation_scores_", None) is None:
                self.validation_scores_, self.best_validation_score_ = [], -np.inf
        else:
            self.validation_scores_ = self.best_validation_score_ = None
            if getattr(self, "best_loss_", None) is None:
                self.best_loss_ = np.inf

    def _epochs_ahead(self, rows: int) -> int:
        """How many epochs may run before anything is to be decided: a fit can't end before its patience is used up."""
        patience = self.n_iter_no_change - self._no_improvement_count + 1
        return int(max(1, min(self.max_iter - self.n_iter_, patience, ORDER_NUMBERS // rows)))

    def _end_epoch(self, loss: float, network: Network, held: Samples | None) -> None:
        self.n_iter_ += 1
        self.loss_ = loss
        self.loss_curve_.append(loss)
        self._say(f"Iteration {self.n_iter_}, loss = {loss:.8f}")
        if held is None:
            assert self.best_loss_ is not None
            worse, better = loss > self.best_loss_ - self.tol, loss < self.best_loss_
            if better:
                self.best_loss_ = loss
        else:
            assert self.validation_scores_ is not None and self.best_validation_score_ is not None
            score = float(self._scored(network.predict(held.x), held.y, held.weight))
            self.validation_scores_.append(score)
            self._say(f"Validation score: {score:f}")
            worse, better = score < self.best_validation_score_ + self.tol, score > self.best_validation_score_
            if better:
                self.best_validation_score_ = score
                network.engine.keep_snapshot()
        self._no_improvement_count = self._no_improvement_count + 1 if worse else 0

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)

    # -------------------------------------------------- the network as it is

    def to_model(self) -> Model:
        """The network as a `fastbp.Model` of its own, to be saved, evaluated or trained in Keras' words.

        Returns
        -------
        Model
            With these weights, compiled with the loss that was fitted; its outputs are those of the last layer.
        """
        check_is_fitted(self)
        network = self._ready()
        layers = network.engine.program.layers
        dense = [Dense(layer.fan_out, activation=layer.activation) for layer in layers]
        model = Model(dense, dtype=network.dtype.name, threads=self.threads, name=type(self).__name__)
        model.build(network.inputs)
        model.set_weights(network.engine.program.take(network.engine.weights))
        model.compile("adam", replace(self._criterion(), mean_outputs=True, reported=1.0))
        return model

    # -------------------------------------------------- predictions

    def _outputs(self, X: Any) -> Array:
        """Outputs (N, O) of the network for rows as users hold them."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        with crowd.member():
            network = self._ready()
            network.engine.threads = crowd.share(self._threads())
            return network.predict(X)

    def _is_stochastic(self) -> bool:
        """Whether ``partial_fit`` exists."""
        if self.solver not in STOCHASTIC:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@contextmanager
def _warned_interrupt() -> Iterator[None]:
    """Ctrl-C ends a fit with a warning, as in scikit-learn; the epochs so far count."""
    try:
        yield
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=6)


def _product(one: Array | None, other: Array | None) -> Array | None:
    return other if one is None else one if other is None else one * other


def _sizes(hidden_layer_sizes: Any) -> list[int]:
    return list(hidden_layer_sizes) if isinstance(hidden_layer_sizes, Iterable) else [hidden_layer_sizes]


def _hidden_rows(activation: Any, layers: int) -> list[Activation]:
    """One activation for all hidden layers, or each layer's own."""
    if isinstance(activation, (str, Activation)):
        return [_row(activation)] * layers
    rows = [_row(each) for each in activation]
    if len(rows) != layers:
        raise ValueError(f"activation names {len(rows)} activations for {layers} hidden layers: give one, or one each")
    return rows


def _row(activation: str | Activation) -> Activation:
    row = activations.get(activation)
    if row.coupled:
        raise ValueError(f"activation {row.name!r} couples the neurons of a row and can't be that of a hidden layer")
    table = ACTIVATIONS[row.name]
    return table if row.parameter == table.parameter else row  # clone copies rows, the engine knows its own


def _cast(y: Array, dtype: np.dtype[Any]) -> Array:
    """Class numbers stay whole; all else becomes (N, O) of the network's type."""
    if y.dtype == np.int64 and y.ndim == 1:
        return np.ascontiguousarray(y)
    return np.ascontiguousarray(y.reshape(len(y), -1), dtype)


def _orders(train: Array, random: np.random.RandomState | None) -> Any:
    """A function that gives the rows of the next epochs: as scikit-learn shuffles them, or as they are."""
    place = np.arange(len(train))

    def lines(epochs: int) -> Array:
        nonlocal place
        if random is None:
            return np.broadcast_to(train, (epochs, len(train)))
        orders = np.empty((epochs, len(train)), np.int64)
        for line in orders:
            moves = np.arange(len(train))
            random.shuffle(moves)
            place = place[moves]
            np.take(train, place, out=line)
        return orders

    return lines


PARAMETERS = """\
hidden_layer_sizes : neurons of each hidden layer, default (100,)
activation : "identity", "logistic", "tanh" or "relu" (default); beyond scikit-learn any row of
    ``fastbp.activations``, or a list with one for each hidden layer
solver : "adam" (default), "sgd" or "lbfgs"
alpha : strength of the L2 penalty ``alpha / 2 * sum(w ** 2) / rows`` (weights, not biases), default 0.0001
batch_size : rows of a step, default "auto": 200, or all where there are fewer
learning_rate : for "sgd": "constant" (default), "invscaling" (``learning_rate_init / (t_ + 1) ** power_t`` after each
    epoch) or "adaptive" (divided by 5 whenever `n_iter_no_change` epochs bring no improvement); beyond scikit-learn one
    of ``fastbp.schedules``, for "sgd" and "adam", in place of `learning_rate_init`
learning_rate_init : step size, default 0.001
power_t : exponent of "invscaling", default 0.5
max_iter : most epochs, or iterations of "lbfgs", default 200
shuffle : whether each epoch has its own order of the rows, default True
random_state : of initial weights, held-out rows and orders: None, a number or a ``RandomState``
tol : an epoch counts as an improvement if it betters the best loss (or score) by this, default 1e-4
verbose : whether to print each epoch's loss
warm_start : whether `fit` goes on from the weights that are there, default False
momentum : for "sgd", share of the last step kept, 0 to 1, default 0.9
nesterovs_momentum : for "sgd", whether the momentum looks ahead, default True
early_stopping : hold out rows, end when their score stops improving, and keep the best weights, default False
validation_fraction : share of the rows held out, default 0.1
beta_1, beta_2 : for "adam", decay of its two moments, default 0.9 and 0.999
epsilon : for "adam", added to the root of the second moment, default 1e-8
n_iter_no_change : epochs without improvement that end a fit, default 10
max_fun : for "lbfgs", most evaluations of the loss, default 15000
weight_decay : beyond scikit-learn: each step of "sgd" or "adam" also takes ``learning rate * weight_decay`` of every
    weight and bias away from it (Loshchilov and Hutter 2019), default 0
clipvalue, clipnorm, global_clipnorm : beyond scikit-learn: the gradient of a step, penalty included, is cut number by
    number, or scaled down to this norm, of each array or of all of them; None (default) for not; one can be given
callbacks : beyond scikit-learn: ``fastbp.callbacks``, called after each epoch with "loss", and with `early_stopping`
    the held-out rows' "val_accuracy" or "val_r2"; their ``model.estimator`` is the estimator
dtype : beyond scikit-learn: "float32" or "float64"; None for the type of X, and float64 with "lbfgs"
threads : beyond scikit-learn: most threads; None for those the process may use, shared by fits that run at once"""

ATTRIBUTES = """\
coefs_, intercepts_ : weights (I, O) and biases (O,) of each layer
loss_ : loss of the last epoch, penalty included
loss_curve_ : loss of each epoch (not with "lbfgs")
best_loss_ : least of them; None with `early_stopping`
validation_scores_, best_validation_score_ : accuracy or R2 of the held-out rows at each epoch, and the best; None
    without `early_stopping`
n_iter_ : epochs or iterations of the last fit
t_ : rows seen so far, counted each time
n_features_in_, feature_names_in_ : width and column names of the rows
n_layers_, n_outputs_ : layers, inputs and outputs included; outputs
out_activation_ : activation of the outputs: "identity", "logistic", "softmax" or "exp" (by name)"""


def described(estimator: type) -> type:
    """Fill the docstring's places with what the estimators share."""
    shared = {"parameters": PARAMETERS, "attributes": ATTRIBUTES}
    texts = {name: text.replace("\n", "\n    ") for name, text in shared.items()}
    estimator.__doc__ = (estimator.__doc__ or "").format_map(texts)
    return estimator
