"""Floor 5: the course of a fit: the solvers, epoch by epoch, and when they end."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from fastbp._jit import default_threads
from fastbp.estimators.lbfgs import minimise
from fastbp.estimators.network import Network, Samples, Training, crowd
from fastbp.estimators.parameters import CLIPS
from fastbp.estimators.rates import AdamRates, Rates, SGDRates
from fastbp.estimators.shuffles import Orders
from fastbp.estimators.watching import Watchers
from fastbp.estimators.weights import Weights
from fastbp.layout.objective import Ending, Objective, Outcome
from fastbp.losses import Loss

Array = NDArray[Any]

ORDER_NUMBERS = 1 << 20
"""Most row numbers, 8 bytes each, that the orders of a chunk of epochs take."""
STEPS_AHEAD = 4096
"""Most steps of a run that may end early: their coefficients are computed beforehand, some 0.1 us each."""

Trainings = Generator[Training, Outcome, None]
"""A fit that stands still wherever something is to be trained, until it is given what came of that."""


class Course(Weights, ABC):
    """An estimator that can be trained on rows that are staged."""

    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    n_iter_: int
    t_: int
    _no_improvement_count: int
    _score_name: ClassVar[str]

    @abstractmethod
    def _criterion(self) -> Loss:
        """The loss to descend, of the sum over outputs."""

    @abstractmethod
    def _scored(self, outputs: Array, y: Array, weight: Array | None) -> float:
        """Score of outputs on held-out targets."""

    def _threads(self) -> int:
        return default_threads() if self.threads is None else self.threads

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
            self._lists_given = None  # those that a callback looked at
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
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=5
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
    ) -> Trainings:
        rates, loss = self._rates(network, incremental), self._criterion()
        seed = int(random.randint(1 << 31)) if any(network.shape.dropout) else 0
        self._begin_curves()
        batch, engine, threads = self._batch(len(train)), network.engine, self._threads()
        network.compile(Objective(loss), rates.rule(1, 1, 1, 0), batch, bool(self.verbose))
        per_epoch = -(-len(train) // batch)
        rows = Orders(train, random if self.shuffle else None)
        names = ["loss"] if held is None else ["loss", f"val_{self._score_name}"]
        watchers = Watchers(self, names, per_epoch, watched)
        one_by_one = bool(incremental or held is not None or data.weight is not None or watchers.any or self.verbose)
        own = not self.shuffle or isinstance(self.random_state, Integral)  # nobody else draws from `random` meanwhile
        ahead = own and not one_by_one and per_epoch <= STEPS_AHEAD
        limit, self.n_iter_ = 1 if incremental else self.max_iter, 0
        if held is not None:
            engine.keep_snapshot()
        with watchers.watch(), _warned_interrupt():
            while self.n_iter_ < limit:
                watchers.begin(self.n_iter_)
                engine.threads = crowd.share(threads)
                self._hold_weights()
                ending = None
                if ahead and network.ends_itself(batch):
                    epochs = min(self.max_iter - self.n_iter_, STEPS_AHEAD // per_epoch)
                    ending, order = self._ending(rows), rows.coming(epochs)
                else:
                    epochs = 1 if one_by_one else self._epochs_ahead(len(train))
                    order = rows.drawn(epochs)
                rule = rates.rule(epochs, per_epoch, len(train), self.t_)
                outcome = yield Training(network, data, order, batch, rule, loss, rates.updates, seed, ending)
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
                        stacklevel=6,
                    )
        if held is not None:
            self._lists_given = None
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

    def _ending(self, rows: Orders) -> Ending:
        """What ends a run of epochs: patience that is used up."""
        assert self.best_loss_ is not None
        count, most = self._no_improvement_count, float(self.n_iter_no_change)
        return Ending(self.best_loss_, self.tol, len(rows.order), count, most, *rows.before())

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


@contextmanager
def _warned_interrupt() -> Iterator[None]:
    """Ctrl-C ends a fit with a warning, as in scikit-learn; the epochs so far count."""
    try:
        yield
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=7)
