"""Floor 4: one call of ``Model.fit``: chunks of steps in the engine, bookkeeping between them."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp.callbacks import History, Progress
from fastbp.cpu.engine import Engine, Outcome
from fastbp.cpu.peak import peak_gflops
from fastbp.optimizers import Optimizer

if TYPE_CHECKING:
    from fastbp.model import Model

CHUNK_SECONDS = 0.05
"""Python is entered about so often during a fit: for progress, signals and the end of epochs."""
SNAPSHOT_SECONDS = 10.0
SNAPSHOT_SHARE = 0.02
"""Share of the time that may go into snapshots of the weights."""

Array = NDArray[Any]


class DivergenceError(FloatingPointError):
    """The loss or the weights became NaN or infinite; the model holds its last finite snapshot.

    Attributes
    ----------
    epoch, step : where it happened, counted from 1 in this fit and in the epoch
    """

    def __init__(self, epoch: int, step: int, what: str, rate: float) -> None:
        self.epoch, self.step = epoch, step
        super().__init__(
            f"{what} became NaN or infinite in epoch {epoch}, step {step}; the model holds the last finite snapshot of "
            f"its weights. What helps: (1) a smaller learning rate than {rate:g}, say {rate / 10:g}; (2) inputs and "
            "targets scaled to about mean 0 and deviation 1; (3) a bounded activation such as tanh, or a smaller "
            "initial scale of the weights."
        )


class Fit:
    """One call of `Model.fit`: chunks of steps in the engine, bookkeeping between them."""

    def __init__(
        self,
        model: "Model",
        engine: Engine,
        optimizer: Optimizer,
        x: Array,
        y: Array,
        validation: tuple[Array, Array] | None,
        batch: int,
        epochs: int,
        verbose: int,
        shuffle: bool,
    ) -> None:
        self.model, self.engine, self.optimizer = model, engine, optimizer
        self.x, self.y, self.validation = x, y, validation
        self.batch = min(batch, len(x))
        self.per_epoch = -(-len(x) // self.batch)
        self.epochs, self.shuffle = epochs, bool(shuffle)
        self.objective = model._objective()
        self.history = model.history = History(epochs, self.per_epoch)
        dtype, threads, flops = model.dtype.name, engine.threads, engine.program.flops_per_row
        self.progress = Progress(verbose, epochs, len(x), self.per_epoch, lambda: _peak(dtype, threads), flops)
        self.sums = np.zeros(1 + len(self.objective.metrics))
        self.epoch_seconds = 0.0
        self.done = 0
        start = time.perf_counter()
        engine.keep_snapshot()
        self.snapshot_cost, self.since_snapshot = time.perf_counter() - start, 0.0
        self.snapshot_epoch = 0

    def run(self) -> History:
        total, chunk = self.epochs * self.per_epoch, 1
        try:
            while self.done < total:
                steps = min(chunk, total - self.done, self.engine.steps_per_run(self.batch))
                if self.validation is not None:
                    steps = min(steps, self.per_epoch - self.done % self.per_epoch)
                start = time.perf_counter()
                outcome = self._steps(steps)
                seconds = time.perf_counter() - start
                self._account(outcome, seconds)
                outcome.completed()
                if outcome.diverged:
                    self._diverged("the loss")
                self._keep(seconds)
                chunk = max(1, min(8 * chunk, int(steps * CHUNK_SECONDS / max(seconds, 1e-6))))
            self._check_weights()
        except KeyboardInterrupt:
            self.history.interrupted = True
            raise
        finally:
            self.progress.close()
        return self.history

    def _steps(self, steps: int) -> Outcome:
        model = self.model
        return self.engine.run(
            self.x,
            self.y,
            batch=self.batch,
            first_step=model._epochs_seen * self.per_epoch + self.done % self.per_epoch,
            steps=steps,
            objective=self.objective,
            optimizer=self.optimizer,
            updates=model._updates,
            carried=self.sums,
            shuffle=self.shuffle,
            seed=model.seed,
        )

    def _account(self, outcome: Outcome, seconds: float) -> None:
        """Book the steps that are finished, and the epochs that they end."""
        first, self.done = self.done, self.done + outcome.steps
        self.model._updates += outcome.steps
        rows = 0
        for offset, sums in enumerate(outcome.sums):
            epoch = first // self.per_epoch + offset
            begin, end = max(first, epoch * self.per_epoch), min(self.done, (epoch + 1) * self.per_epoch)
            if end <= begin:
                continue
            share = seconds * (end - begin) / outcome.steps
            self.epoch_seconds += share
            self.sums = sums
            rows += self._rows(end) - self._rows(begin)
            if end == (epoch + 1) * self.per_epoch:
                self._end_epoch(epoch)
        self.progress.advance(outcome.steps, rows, seconds)

    def _rows(self, step: int) -> int:
        """Rows seen in the first `step` steps."""
        return step // self.per_epoch * len(self.x) + min(len(self.x), step % self.per_epoch * self.batch)

    def _end_epoch(self, epoch: int) -> None:
        model = self.model
        names = model.metrics_names
        values = dict(zip(names, model._means(self.sums, len(self.x)), strict=True))
        self.sums = np.zeros_like(self.sums)
        model._epochs_seen += 1
        if self.validation is not None:
            held = model._evaluate(*self.validation)
            values |= {f"val_{name}": value for name, value in zip(names, held, strict=True)}
        self.history.append(values)
        self.progress.epoch(epoch, values, self.epoch_seconds)
        self.epoch_seconds = 0.0

    def _keep(self, seconds: float) -> None:
        """Snapshot the weights at the end of an epoch, or of a while, when its cost doesn't matter."""
        self.since_snapshot += seconds
        due = self.done // self.per_epoch > self.snapshot_epoch or self.since_snapshot > SNAPSHOT_SECONDS
        if due and self.snapshot_cost <= SNAPSHOT_SHARE * self.since_snapshot:
            self.snapshot_epoch = self.done // self.per_epoch
            start = time.perf_counter()
            self._check_weights()
            self.engine.keep_snapshot()
            self.snapshot_cost, self.since_snapshot = time.perf_counter() - start, 0.0

    def _check_weights(self) -> None:
        if not self.engine.finite():
            self._diverged("the weights")

    def _diverged(self, what: str) -> None:
        self.engine.restore_snapshot()
        self.model._reset_optimizer()
        epoch, step = divmod(self.done, self.per_epoch)
        raise DivergenceError(epoch + 1, step + 1, what, self.optimizer.learning_rate)


_peaks: dict[tuple[str, int], float] = {}


def _peak(dtype: str, threads: int) -> float:
    """The machine's peak in GFLOP/s, measured once per process."""
    if (dtype, threads) not in _peaks:
        _peaks[dtype, threads] = peak_gflops(dtype, threads)
    return _peaks[dtype, threads]
