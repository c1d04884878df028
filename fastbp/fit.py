"""Floor 4: one call of ``Model.fit``: chunks of steps in the engine, bookkeeping between them."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp.callbacks import History, Progress
from fastbp.cpu.engine import Engine, Outcome
from fastbp.cpu.peak import peak_gflops
from fastbp.data import Sample
from fastbp.optimizers import Optimizer

if TYPE_CHECKING:
    from fastbp.model import Model

CHUNK_SECONDS = 0.05
"""Python is entered about so often during a fit: for progress, signals and the end of epochs."""
CAUTIOUS_RATE = 2e9
"""FLOP/s that any machine and network reach: the first chunk is made for them, so that it is never a long one."""
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
        data: Sample,
        validation: Sample | None,
        batch: int,
        epochs: int,
        verbose: int,
        shuffle: bool,
    ) -> None:
        self.model, self.engine, self.optimizer = model, engine, optimizer
        self.data, self.validation = data, validation
        self.batch = min(batch, len(data))
        self.per_epoch = -(-len(data) // self.batch)
        self.epochs, self.shuffle = epochs, bool(shuffle)
        self.total = epochs * self.per_epoch
        self.objective = model._objective()
        self.history = model.history = History(epochs, self.per_epoch)
        dtype, threads, flops = model.compute_dtype, engine.threads, engine.program.flops_per_row
        self.progress = Progress(verbose, epochs, len(data), self.per_epoch, lambda: _peak(dtype, threads), flops)
        self.sums = np.zeros(1 + len(self.objective.metrics))
        self.epoch_seconds = 0.0
        self.done = 0
        self._steps = max(1, int(CHUNK_SECONDS * CAUTIOUS_RATE / (self.batch * flops)))
        start = time.perf_counter()
        engine.keep_snapshot()
        self.snapshot_cost, self.since_snapshot = time.perf_counter() - start, 0.0
        self.snapshot_epoch = 0

    def run(self) -> History:
        """All of it."""
        try:
            while self.done < self.total:
                self.chunk()
            self.check_weights()
        except KeyboardInterrupt:
            self.history.interrupted = True
            raise
        finally:
            self.progress.close()
        return self.history

    def chunk(self) -> None:
        """Some of the steps that are left, as many as take a moment.

        Raises
        ------
        DivergenceError : the model holds its last finite snapshot
        KeyboardInterrupt : what was finished is booked
        """
        steps = min(self._steps, self.total - self.done, self.engine.steps_per_run(self.batch))
        held = self.validation
        if held is not None and not self.engine.chains(self.batch, len(held)):
            held, steps = None, min(steps, self.per_epoch - self.done % self.per_epoch)
        start = time.perf_counter()
        outcome = self.engine.run(
            self.data.x,
            self.data.y,
            rows=self.data.rows,
            held=held,
            batch=self.batch,
            first_step=self.model._epochs_seen * self.per_epoch + self.done % self.per_epoch,
            steps=steps,
            objective=self.objective,
            optimizer=self.optimizer,
            updates=self.model._updates,
            carried=self.sums,
            shuffle=self.shuffle,
            seed=self.model.seed,
        )
        seconds = time.perf_counter() - start
        self._account(outcome, seconds)
        outcome.completed()
        if outcome.diverged:
            self._diverged("the loss")
        self._keep(seconds)
        self._steps = max(1, min(8 * self._steps, int(steps * CHUNK_SECONDS / max(seconds, 1e-6))))

    def _account(self, outcome: Outcome, seconds: float) -> None:
        """Book the steps that are finished, and the epochs that they end."""
        first, self.done = self.done, self.done + outcome.steps
        epoch, ended = first // self.per_epoch, self.done // self.per_epoch - first // self.per_epoch
        self.model._updates += outcome.steps
        borders = self.per_epoch * np.arange(epoch, epoch + len(outcome.sums) + 1)
        shares = np.diff(borders.clip(first, self.done)) * (seconds / max(1, outcome.steps))
        shares[0] += self.epoch_seconds
        if ended:
            self._end_epochs(epoch, outcome.sums[:ended], outcome.held, shares[:ended])
            self.sums, self.epoch_seconds = np.zeros_like(self.sums), 0.0
        if ended < len(outcome.sums):
            self.sums, self.epoch_seconds = outcome.sums[ended], float(shares[ended])
        self.progress.advance(outcome.steps, self._rows(self.done) - self._rows(first), seconds)

    def _rows(self, step: int) -> int:
        """Rows seen in the first `step` steps."""
        return step // self.per_epoch * len(self.data) + min(len(self.data), step % self.per_epoch * self.batch)

    def _end_epochs(self, first: int, sums: Array, held: Array | None, seconds: Array) -> None:
        """Write the epochs from `first` on into the history, with their validation (made here, where it wasn't)."""
        model = self.model
        model._epochs_seen += len(sums)
        names, columns = model.metrics_names, {}
        if self.validation is not None:
            held = model._evaluated(self.validation) if held is None else held
            columns = _columns([f"val_{name}" for name in names], model._means(held, len(self.validation)))
            sums = sums[: len(held)]  # Ctrl-C may have stopped the last epoch's validation
        columns = _columns(names, model._means(sums, len(self.data))) | columns
        self.history.extend(columns)
        self.progress.extend(first, columns, seconds[: len(sums)].tolist())

    def _keep(self, seconds: float) -> None:
        """Snapshot the weights at the end of an epoch, or of a while, when its cost doesn't matter."""
        self.since_snapshot += seconds
        due = self.done // self.per_epoch > self.snapshot_epoch or self.since_snapshot > SNAPSHOT_SECONDS
        if due and self.snapshot_cost <= SNAPSHOT_SHARE * self.since_snapshot:
            self.snapshot_epoch = self.done // self.per_epoch
            start = time.perf_counter()
            self.check_weights()
            self.engine.keep_snapshot()
            self.snapshot_cost, self.since_snapshot = time.perf_counter() - start, 0.0

    def check_weights(self) -> None:
        """Raise `DivergenceError` where a weight isn't finite."""
        if not self.engine.finite():
            self._diverged("the weights")

    def _diverged(self, what: str) -> None:
        self.engine.restore_snapshot()
        self.model._reset_optimizer()
        epoch, step = divmod(self.done, self.per_epoch)
        raise DivergenceError(epoch + 1, step + 1, what, self.optimizer.learning_rate)


def _columns(names: list[str], means: Array) -> dict[str, list[float]]:
    return dict(zip(names, means.T.tolist(), strict=True))


_peaks: dict[tuple[str, int], float] = {}


def _peak(dtype: str, threads: int) -> float:
    """The machine's peak in GFLOP/s, measured once per process."""
    if (dtype, threads) not in _peaks:
        _peaks[dtype, threads] = peak_gflops(dtype, threads)
    return _peaks[dtype, threads]
