"""Floor 4: one call of ``Model.fit``: chunks of steps in the engine, bookkeeping and callbacks between them."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp._signals import HeldBack
from fastbp.callbacks import CallbackList, Logs
from fastbp.cpu.peak import peak_gflops
from fastbp.data.feeds import Feed, Piece
from fastbp.data.staging import Sample
from fastbp.history import VALIDATION, History
from fastbp.layout.objective import EVALUATION_ROWS, Outcome
from fastbp.optimizers import Optimizer
from fastbp.reports.progress import Progress
from fastbp.training.checkpoint import Checkpoints
from fastbp.training.options import Held, Options
from fastbp.training.scoring import by_epoch, joined, plain
from fastbp.training.weighting import without_missing

if TYPE_CHECKING:
    from fastbp.devices import Engine
    from fastbp.model import Model

CHUNK_SECONDS = 0.25
"""Python is entered about so often during a fit: for progress, signals and the end of epochs."""
CAUTIOUS_RATE = 2e9
"""FLOP/s that any machine and network reach: the first chunk is made for them, or for what this network reached in a
fit before, so that it is never a long one."""
SNAPSHOT_SECONDS = 10.0
SNAPSHOT_SHARE = 0.02
"""Share of the time that may go into snapshots of the weights."""

Array = NDArray[Any]


class DivergenceError(FloatingPointError):
    """The loss or the weights became NaN or infinite.

    After a fit the model holds the weights of its last snapshot: the fit's first, or those at the end of an epoch (or
    after 10 seconds of a longer one) where copying them took less than 2 % of the time. A network whose weights take
    more than 16 MB keeps no such copy: it holds the last weights, each as it was before it would have become NaN or
    infinite.

    Attributes
    ----------
    epoch, step : where it happened, counted from 1: the epoch's number and the step in it
    """

    def __init__(self, epoch: int, step: int, what: str, rate: float, snapshot: bool = False) -> None:
        self.epoch, self.step = epoch, step
        kept = "the last finite snapshot of its weights" if snapshot else "its last finite weights"
        super().__init__(
            f"{what} became NaN or infinite in epoch {epoch}, step {step}; the model holds {kept}. What helps: (1) a "
            f"smaller learning rate than {rate:g}, say {min(rate / 10, 0.1):g}; (2) inputs and targets scaled to about "
            "mean 0 and deviation 1; (3) a bounded activation such as tanh, or a smaller initial scale of the weights."
        )


class Fit:
    """One call of `Model.fit`: chunks of steps in the engine, bookkeeping and callbacks between them.

    Attributes
    ----------
    epoch : epochs finished in this fit
    step, sums : finished steps of the running epoch, and their sums of loss and metrics
    kept : what was kept of the rows of these steps, for metrics that need them all, in pieces
    done : finished steps of this fit
    begun_with : the optimizer's settings at the beginning; callbacks may change them
    """

    def __init__(
        self,
        model: "Model",
        engine: "Engine",
        feed: Feed,
        options: Options,
        held: Held | None = None,
        callbacks: Any = None,
    ) -> None:
        self.model, self.engine, self.feed, self.options, self.held = model, engine, feed, options, held
        self.scores = model._scoring()
        self.objective, names = self.scores.objective, self.scores.names
        reported = [*names, *(VALIDATION + name for name in names if held is not None)]
        params = {"epochs": options.epochs, "steps": feed.steps, "verbose": options.verbose, "metrics": reported}
        self.callbacks = CallbackList(callbacks, model, **params)
        numbers = self.scores.scalars
        self.callbacks.check_monitors([*numbers, *(VALIDATION + name for name in numbers if held is not None)])
        self.epochs = options.epochs - options.initial_epoch
        self.history = model.history = History(options.epochs, feed.steps)
        dtype, threads, flops = model.compute_dtype, engine.threads, engine.program.flops_per_row
        self.progress = Progress(
            options.verbose, self.epochs, feed.rows(1, 0), feed.steps, lambda: peak(dtype, threads, model.device), flops
        )
        # the kernels validate after every epoch themselves, if nobody looks at the batches of it
        watched = self.callbacks.watches_tests or not feed.spans_epochs or self.scores.keeps
        plain = held is not None and held.epochs == 1 and held.batch == EVALUATION_ROWS and not watched
        self._chainable = held.sample if held is not None and plain else None
        self._waited = 0.0
        self._one_epoch = self.callbacks.watches_epochs or not feed.spans_epochs or self.scores.keeps
        self.epoch = self.step = self.done = 0
        self.begun_with = self._optimizer.config()
        self.checkpoints = None
        if options.checkpoint is not None:
            self.checkpoints = Checkpoints(options.checkpoint, options.checkpoint_every)
            self._one_epoch |= options.checkpoint_every is None
        self.sums = np.zeros(self.objective.columns(model.output_width))
        self.kept: list[tuple[Array, ...]] = []
        self._keeping: tuple[Array, ...] = ()
        self.epoch_seconds = 0.0
        self.passes = model._epochs_seen
        pace = min(feed.batch * flops / CAUTIOUS_RATE, engine.pace.get(feed.batch, np.inf))
        self._steps = max(1, int(CHUNK_SECONDS / pace))
        self._begun = self.snapshot_cost = self.since_snapshot = 0.0
        self.snapshot_epoch = 0

    def run(self) -> History:
        """All of it."""
        try:
            with self.engine.holding_data(*self.arrays):
                self.start()
                while not self.finished:
                    self.chunk()
                self.finish()
        except KeyboardInterrupt:
            self.history.interrupted = True
            if self.options.on_interrupt == "raise":
                raise
            self.callbacks.call("on_train_end", self._last())
        finally:
            self.feed.close()
            self.progress.close()
        return self.history

    @property
    def arrays(self) -> list[Any]:
        """What stays as it is in memory while the fit runs, of training and validation."""
        samples = getattr(self.feed, "sample", None), None if self.held is None else self.held.sample
        return [array for sample in samples if sample is not None for array in sample.arrays]

    def start(self) -> None:
        """What precedes the first chunk."""
        self.model.stop_training = False
        resumed = self.checkpoints is not None and self.options.resume and self.checkpoints.resume(self)
        stopped = self.model.stop_training
        self._begun = time.perf_counter()
        self.engine.keep_snapshot()
        self.snapshot_cost = time.perf_counter() - self._begun
        self.callbacks.call("on_train_begin", {})
        if self.checkpoints is not None:
            if resumed:
                self.progress.resume(self.done)
                self.checkpoints.restore_callbacks(self)
                self.model.stop_training = stopped
            self.checkpoints.save(self)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or a callback or the time ends the fit."""
        return self.epoch >= self.epochs or self.model.stop_training or bool(self.history.stopped)

    def finish(self) -> None:
        """What follows the last chunk: the end of an epoch that was cut short, and a look at the weights.

        Raises
        ------
        DivergenceError : the model holds its last finite snapshot
        """
        if self.checkpoints is not None:
            self.checkpoints.save(self)
        if self.step:
            self._end_epochs(self.sums[None], None, np.array([self.epoch_seconds]))
        self.check_weights()
        if self._optimizer.use_ema:
            self.engine.use_average(self._optimizer)
        self.callbacks.call("on_train_end", self._last())

    def chunk(self) -> None:
        """Some of the steps that are left, as many as take a moment.

        Raises
        ------
        DivergenceError : the model holds its last finite snapshot
        KeyboardInterrupt : what was finished is booked
        """
        with self._saved_before():
            request, start = self.request(), time.perf_counter()
        with HeldBack() as signals:
            with self._saved_before():
                outcome = self.engine.run(**request)
            seconds = time.perf_counter() - start
            self.count(outcome.steps)
            outcome.interrupt = outcome.interrupt or signals.take()
            if not self.callbacks.callbacks:  # nobody's code that could take long: nothing comes between
                self.book(outcome, seconds)
                return
        self.book(outcome, seconds)

    @contextlib.contextmanager
    def _saved_before(self) -> Iterator[None]:
        """Ctrl-C while a callback, the data or buffers are waited for: nothing of the chunk is done, all is saved."""
        try:
            yield
        except KeyboardInterrupt:
            if self.checkpoints is not None:
                self.checkpoints.save(self)
            raise

    def request(self) -> dict[str, Any]:
        """What the engine is to run next; `book` takes what comes of it."""
        if self.step == 0:
            self.callbacks.call("on_epoch_begin", self.options.initial_epoch + self.epoch, {})
        if self.callbacks.watches_batches:
            self.callbacks.call("on_train_batch_begin", self.step, {})
        piece, model = self._piece(), self.model
        chained = self._chainable
        if chained is not None and not self.engine.chains(piece.batch, int(self.feed.rows(1, 0)), len(chained)):
            chained = None
        one_epoch = self._one_epoch or (self.held is not None and chained is None)
        left = self.feed.length - self.step + (0 if one_epoch else (self.epochs - 1 - self.epoch) * self.feed.length)
        most = 1 if self.callbacks.watches_batches else self._steps
        steps = min(most, left, piece.steps, self.engine.steps_per_run(piece.batch, chained is not None))
        if self.checkpoints is not None:
            steps = min(steps, self.checkpoints.most(self.done))
        rows = self.feed.rows(self.epoch, self.step + steps) - self.feed.rows(self.epoch, self.step)
        if self.scores.keeps:
            self._keeping = self.objective.kept(model.output_width, int(rows), model.dtype)
        return {
            "x": piece.sample.x,
            "y": piece.sample.y,
            **piece.sample.beside,
            "held": chained,
            "batch": piece.batch,
            "first_step": piece.first_step,
            "steps": steps,
            "objective": self.objective,
            "optimizer": self._optimizer,
            "updates": model._updates,
            "carried": self.sums,
            "kept": self._keeping,
            "shuffle": piece.shuffle,
            "seed": piece.seed,
        }

    def _piece(self) -> Piece:
        """What comes next of the data; whatever it raises ends the fit, and the steps before that are booked."""
        try:
            return self.feed.piece(self.epoch, self.step)
        except Exception as error:
            self.history.stopped = "stopped by the data"
            if self.step:
                self._end_epochs(self.sums[None], None, np.array([self.epoch_seconds]))
            error.add_note(f"{self.done} steps were done; model.history holds them")
            raise

    def count(self, steps: int) -> None:
        """Count steps that the engine has finished; what they came to is booked after it."""
        self.step += steps
        self.done += steps
        self.model._updates += steps

    def book(self, outcome: Outcome, seconds: float) -> None:
        """Account for what the engine did in `seconds`, steps that are counted already.

        Raises
        ------
        DivergenceError, KeyboardInterrupt : see `chunk`
        """
        self._account(outcome, seconds)
        if outcome.interrupt is not None and self.checkpoints is not None:
            self.checkpoints.save(self)
        outcome.completed()
        if outcome.diverged:
            self._diverged(outcome.diverged)
        elif self.checkpoints is not None and self.checkpoints.due(self):
            self.checkpoints.save(self)
        self._keep(seconds)
        if outcome.steps:
            self.engine.pace[self.feed.batch] = pace = max(seconds, 1e-6) / outcome.steps
            self._steps = max(1, min(8 * self._steps, int(CHUNK_SECONDS / pace)))
        limit = self.options.max_time
        if limit is not None and time.perf_counter() - self._begun >= limit:
            self.history.stopped = f"stopped after max_time={limit:g} s"

    @property
    def _optimizer(self) -> Optimizer:
        """The model's optimizer now: callbacks may have set its learning rate."""
        assert self.model.optimizer is not None
        return self.model.optimizer

    def _account(self, outcome: Outcome, seconds: float) -> None:
        """Book the steps that are finished, the batch that a callback watches, and the epochs that they end."""
        first, length = self.step - outcome.steps, self.feed.length
        seen, ended = self.feed.rows(self.epoch, first), self.step // length
        if self._keeping:
            done = int(self.feed.rows(self.epoch, self.step) - seen)
            self.kept.append(tuple(rows[:done] for rows in self._keeping))
        shares = np.diff((length * np.arange(len(outcome.sums) + 1)).clip(first, self.step))
        shares = shares * (seconds / max(1, outcome.steps))
        shares[0] += self.epoch_seconds
        if self.callbacks.watches_batches and outcome.steps:
            self.sums = outcome.sums[0]
            self.callbacks.call("on_train_batch_end", first, self._means())
        if ended:
            self._end_epochs(outcome.sums[:ended], outcome.held, shares[:ended])
        if ended < len(outcome.sums):
            self.sums, self.epoch_seconds = outcome.sums[ended], float(shares[ended])
        self.progress.advance(outcome.steps, self.feed.rows(self.epoch, self.step) - seen, seconds)

    def _means(self) -> Logs:
        """Loss and metrics over the epoch so far; those that need all rows come at its end."""
        values = self.scores.values(self.sums, self.feed.rows(self.epoch, self.step) - self.feed.rows(self.epoch, 0))
        return dict(zip(values, plain(values.values()), strict=True))

    def _last(self) -> Logs:
        return {name: values[-1] for name, values in self.history.history.items()}

    def _end_epochs(self, sums: Array, held: Array | None, seconds: Array) -> None:
        """Report epochs that are over (the last perhaps cut short), with their validation, made here if it is due."""
        model, epoch, length = self.model, self.epoch, self.feed.length
        first, cut = self.options.initial_epoch + epoch, min(self.step, length)
        numbers = np.arange(epoch, epoch + len(sums))
        rows = self.feed.rows(numbers, cut) - self.feed.rows(numbers, 0)
        model._epochs_seen = self.passes + self.feed.passes(epoch + len(sums) - 1, cut)
        self.epoch, self.step = epoch + len(sums), max(0, self.step - length * len(sums))
        self.sums, self.epoch_seconds = np.zeros_like(self.sums), 0.0
        kept, self.kept = joined(self.kept), []
        rates, columns = self._optimizer.rates(model._updates - self.step - (numbers[::-1] - epoch) * length), {}
        if self.held is not None and (held is not None or self.held.due(first)):
            if held is None:
                found = evaluated(model, self.held.samples(), self.held.batch, self.callbacks)
                checked = {name: value[None] for name, value in found.items()}
            else:
                assert self.held.sample is not None
                checked = self.scores.values(held, len(self.held.sample))
                sums = sums[: len(held)]  # Ctrl-C may have stopped the last epoch's validation
            columns = {VALIDATION + name: by_epoch(values) for name, values in checked.items()}
        if len(sums) == 0:
            return
        trained = self.scores.values(sums, rows[: len(sums)], kept)
        columns = {name: by_epoch(values) for name, values in trained.items()} | columns
        waited = self.feed.waited()
        share = (waited - self._waited) / max(1e-9, float(seconds.sum()) + waited - self._waited)
        self._waited = waited
        report: dict[str, Any] = {"first": first, "waiting": [share] * len(sums)}
        if self.callbacks.watches_epochs:
            logs = {name: values[0] for name, values in columns.items()}
            try:
                self.callbacks.call("on_epoch_end", first, logs)
            finally:
                columns = {name: [value] for name, value in logs.items()}
                self.history.extend(columns, rates=rates[:1].tolist(), seconds=seconds[:1].tolist(), **report)
        else:
            done = slice(len(sums))
            self.history.extend(columns, rates=rates[done].tolist(), seconds=seconds[done].tolist(), **report)
        self.progress.extend(epoch, columns, seconds[: len(sums)].tolist(), rows.tolist(), share)

    def _keep(self, seconds: float) -> None:
        """Snapshot the weights at the end of an epoch, or of a while, when its cost doesn't matter."""
        self.since_snapshot += seconds
        due = self.epoch > self.snapshot_epoch or self.since_snapshot > SNAPSHOT_SECONDS
        if due and self.snapshot_cost <= SNAPSHOT_SHARE * self.since_snapshot:
            self.snapshot_epoch = self.epoch
            start = time.perf_counter()
            self.check_weights()
            self.engine.keep_snapshot()
            self.snapshot_cost, self.since_snapshot = time.perf_counter() - start, 0.0

    def check_weights(self) -> None:
        """Raise `DivergenceError` where a weight isn't finite."""
        if not self.engine.finite():
            self._diverged("the weights")

    def _diverged(self, what: str) -> None:
        updates = self.model._updates
        self.engine.restore_snapshot()
        self.model._reset_optimizer()
        # the weights are lost in the last step that is booked, the loss in the one after it
        length = self.feed.length
        epoch, step = divmod(self.epoch * length + self.step - (what == "the weights"), length)
        epoch, rate = self.options.initial_epoch + epoch, self._optimizer.rate(updates)
        self.history.error = error = DivergenceError(epoch + 1, step + 1, what, rate, not self.engine.guarded)
        self.history.stopped = f"stopped by NaN in epoch {error.epoch}, step {error.step}"
        self.callbacks.call("on_divergence", error)
        if not self.model.stop_training:
            raise error


def evaluated(
    model: "Model", samples: Iterable[Sample], batch: int, callbacks: CallbackList | None = None
) -> dict[str, Array]:
    """The loss and the metrics over the rows of some samples, by name.

    Runs batch by batch where a callback watches the batches.
    """
    scores = model._scoring()
    objective = scores.objective
    assert objective.loss is not None
    callbacks = CallbackList(None, model) if callbacks is None else callbacks
    each = callbacks.watches_test_batches
    sums = np.zeros((1, objective.columns(model.output_width)))
    pieces: list[tuple[Array, ...]] = []
    seen = done = 0

    def logs(values: dict[str, Array]) -> Logs:
        return dict(zip(values, plain(values.values()), strict=True))

    callbacks.call("on_test_begin", {})
    for found in samples:
        sample = without_missing(found, objective.loss)
        engine = model._ready(objective, False, None, False, min(batch, len(sample)))
        rows, kept = len(sample), objective.kept(model.output_width, len(sample), model.dtype)
        steps = -(-rows // batch)
        for step in range(steps if each else 1):
            if each:
                callbacks.call("on_test_batch_begin", done + step, {})
            outcome = engine.run(
                sample.x,
                sample.y,
                **sample.beside,
                batch=batch,
                first_step=step,
                steps=1 if each else steps,
                objective=objective,
                carried=sums[0],
                kept=tuple(place[step * batch :] for place in kept),
            )
            sums = outcome.completed().sums
            if each:
                values = scores.values(sums[0], seen + min(rows, (step + 1) * batch))
                callbacks.call("on_test_batch_end", done + step, logs(values))
        pieces.append(tuple(place[:rows] for place in kept))
        seen, done = seen + rows, done + steps
    values = scores.values(sums[0], seen, joined(pieces))
    callbacks.call("on_test_end", logs(values))
    return values


_peaks: dict[tuple[str, int], float] = {}


def peak(dtype: str, threads: int, device: str = "cpu") -> float:
    """The machine's peak in GFLOP/s, measured once per process; 0 for a GPU, whose peak nobody measures."""
    if device != "cpu":
        return 0.0
    if (dtype, threads) not in _peaks:
        _peaks[dtype, threads] = peak_gflops(dtype, threads)
    return _peaks[dtype, threads]
