"""Floor 4: what watches a fit: callbacks with Keras' names and hooks."""

import csv
import inspect
import operator
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp._checks import number, whole
from fastbp.activations import unknown
from fastbp.history import VALIDATION

if TYPE_CHECKING:
    from fastbp.model import Model

Logs = dict[str, float]


class Callback:
    """What watches a fit: override the hooks you need, as in Keras.

    A fit enters Python about twenty times a second. Where no callback overrides a batch hook it stays so, and only ends
    of epochs are waited for; a batch hook costs one entry per step.

    ``logs`` holds the values reported: at the end of an epoch the loss, the metrics and those of the validation, at the
    end of a batch their means over the epoch so far. What a callback adds to an epoch's logs goes into the history.

    Attributes
    ----------
    model : the `Model` that is trained; ``model.stop_training = True`` ends the fit after the running batch or epoch
    params : dict with "epochs", "steps" (of an epoch, None where unknown), "verbose" and "metrics" (names reported)
    """

    model: "Model"
    params: dict[str, Any]

    def set_model(self, model: "Model") -> None:
        """Called with the model, before all else."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called with `params`, before all else."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called when a fit begins (a resumed one too)."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called when a fit returns, not when an error or Ctrl-C leaves it."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called before an epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called after an epoch and its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a step, counted from 0 in its epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a step."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called before an evaluation, the validation of a fit included."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called after an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch of an evaluation."""

    def on_divergence(self, error: FloatingPointError) -> None:
        """Called when the loss or the weights became NaN or infinite, with the last finite weights put back.

        The error is raised after it, unless a callback sets ``model.stop_training``.
        """

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on with this callback: plain data, arrays and lists of them."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave; called after `on_train_begin` of a resumed fit."""


_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end")
_TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_TEST_HOOKS = ("on_test_begin", "on_test_end", *_TEST_BATCH_HOOKS)


def _overrides(callback: Callback, hooks: Iterable[str]) -> bool:
    return any(hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)


class CallbackList:
    """The callbacks of one call, and what they need to be called for.

    Parameters
    ----------
    callbacks : None, one `Callback` or several
    model : the model
    params : see `Callback`

    Attributes
    ----------
    watches_batches, watches_epochs, watches_tests, watches_test_batches : whether any overrides such a hook

    Raises
    ------
    TypeError : something that is no `Callback`
    """

    def __init__(self, callbacks: Callback | Iterable[Callback] | None, model: "Model", **params: Any) -> None:
        if callbacks is None:
            callbacks = ()
        self.callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                hint = f", pass {callback.__name__}()" if isinstance(callback, type) else ""
                raise TypeError(f"callbacks holds {callback!r}; wanted objects of fb.callbacks.Callback{hint}")
            callback.set_params(params)
            callback.set_model(model)
        self.watches_batches = any(_overrides(c, _BATCH_HOOKS) for c in self.callbacks)
        self.watches_epochs = any(_overrides(c, _EPOCH_HOOKS) for c in self.callbacks)
        self.watches_tests = any(_overrides(c, _TEST_HOOKS) for c in self.callbacks)
        self.watches_test_batches = any(_overrides(c, _TEST_BATCH_HOOKS) for c in self.callbacks)

    def check_monitors(self, names: Iterable[str]) -> None:
        """Refuse callbacks that watch a value nobody reports; a callback of one's own may report anything."""
        if all(type(c).__module__ == __name__ for c in self.callbacks):
            for callback in self.callbacks:
                if isinstance(callback, _Monitor):
                    callback.check([*names, "learning_rate"])

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of each, in the order given."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)


class LambdaCallback(Callback):
    """A callback made of functions.

    Parameters
    ----------
    on_train_begin, on_train_end : functions of (logs)
    on_epoch_begin, on_epoch_end : functions of (epoch, logs)
    on_train_batch_begin, on_train_batch_end : functions of (batch, logs); they cost an entry of Python per step
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **others: Callable[..., Any] | None,
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **others,
        }
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for name, function in given.items():
            if name not in hooks:
                raise unknown("hook of LambdaCallback", name, hooks)
            if function is not None and not callable(function):
                raise TypeError(f"LambdaCallback: {name} must be a function, got {function!r}")
        vars(self).update({name: function for name, function in given.items() if function is not None})


class Timer(Callback):
    """Takes the time of a fit, validation and callbacks included.

    Attributes
    ----------
    epochs : list of the seconds of each epoch
    total : seconds of the fit; while it runs, of the epochs finished
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.total = 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epochs, self.total = [], 0.0
        self._lap = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        now = time.perf_counter()
        self.epochs.append(now - self._lap)
        self.total += now - self._lap
        self._lap = now

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.total += time.perf_counter() - self._lap

    def get_state(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "total": self.total + time.perf_counter() - self._lap}

    def set_state(self, state: dict[str, Any]) -> None:
        self.epochs, self.total = list(state["epochs"]), state["total"]


class TerminateOnNaN(Callback):
    """Ends the fit quietly where the loss or the weights become NaN or infinite, instead of a `DivergenceError`.

    The model holds the last finite snapshot of its weights either way.
    """

    def on_divergence(self, error: FloatingPointError) -> None:
        print(f"fastbp: TerminateOnNaN: {error}", file=sys.stderr)
        self.model.stop_training = True


class GradientNorms(Callback):
    """Reports the norm of each layer's gradient after each epoch, as "gradient_<layer>" in logs and history.

    Parameters
    ----------
    x, y : the rows that the gradient is taken over, some hundred of the training data's
    verbose : 1 prints the table of ``model.gradient_report`` on stderr
    """

    def __init__(self, x: Any, y: Any, verbose: int = 0) -> None:
        self.x, self.y, self.verbose = x, y, verbose

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        report = self.model.gradient_report(self.x, self.y)
        if logs is not None:
            logs |= {f"gradient_{name}": norm for name, norm in report.norms.items()}
        if self.verbose:
            print(f"epoch {epoch + 1}\n{report}", file=sys.stderr)


# ---------------------------------------------------------------- callbacks that watch one value

_GREATER = ("acc", "auc", "precision", "recall", "f1", "r2", "cosine", "score")
"""Parts of the names of values that are the better the greater they are; all others the smaller."""


class _Monitor(Callback):
    """What the callbacks share that watch one value of the logs."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        name = type(self).__name__
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'{name}: mode must be "auto", "min" or "max", got {mode!r}')
        self.monitor, self.mode = str(monitor), mode
        self.min_delta = abs(number(f"{name}: min_delta", min_delta))
        if mode == "auto":
            mode = "max" if any(part in self.monitor for part in _GREATER) else "min"
        self._better = operator.lt if mode == "min" else operator.gt
        self._sign = 1 if mode == "min" else -1

    def check(self, names: Iterable[str]) -> None:
        """Refuse to watch a value that isn't among the names reported."""
        if self.monitor not in names:
            hint = ""
            if self.monitor.startswith(VALIDATION) and not any(name.startswith(VALIDATION) for name in names):
                hint = "; values of the validation need validation_data or validation_split"
            raise ValueError(f"{type(self).__name__}: {unknown('value to monitor', self.monitor, names)}{hint}")

    def _value(self, logs: Logs | None) -> float | None:
        """The value watched; None in an epoch without validation."""
        logs = logs or {}
        if self.monitor in logs:
            return float(logs[self.monitor])
        self.check(self.params["metrics"])
        return None

    def _improves(self, value: float, best: float | None) -> bool:
        return best is None or bool(self._better(value + self._sign * self.min_delta, best))


class EarlyStopping(_Monitor):
    """Ends the fit when a value has not become better for a while.

    Parameters
    ----------
    monitor : name of the value, default "val_loss"
    min_delta : what counts as better must be so by more than this, default 0
    patience : epochs without a better value after which the fit ends, default 0
    verbose : 1 says so on stderr
    mode : "min", "max", or "auto" (by the name: accuracy, auc, r2 and their like are the better the greater)
    baseline : value to be beaten for the patience to begin anew, None for none
    restore_best_weights : whether the model gets the best epoch's weights at the end
    start_from_epoch : epochs before this one (from 0) are not watched

    Attributes
    ----------
    best, best_epoch : the best value and its epoch
    stopped_epoch : the epoch after which the fit was ended, 0 where it was not
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = whole("EarlyStopping: patience", patience, least=0)
        self.start_from_epoch = whole("EarlyStopping: start_from_epoch", start_from_epoch, least=0)
        self.baseline = None if baseline is None else number("EarlyStopping: baseline", baseline)
        self.verbose, self.restore_best_weights = verbose, bool(restore_best_weights)
        self._clear()

    def _clear(self) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._clear()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self._value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if self._improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self._improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            best = "" if self.best is None else f", best {self.best:.4g} in epoch {self.best_epoch + 1}"
            print(f"epoch {self.stopped_epoch + 1}: early stopping ({self.monitor}{best})", file=sys.stderr)
        if self.restore_best_weights and self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        names = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")
        return {name: getattr(self, name) for name in names}

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class ModelCheckpoint(_Monitor):
    """Saves the model while it is trained, each file written atomically.

    Parameters
    ----------
    filepath : the file, with places for the epoch (from 1) and the values reported if you like:
        ``"digits-{epoch:02d}-{val_loss:.3f}.fastbp"``
    monitor, mode : the value watched, as for `EarlyStopping`
    verbose : 1 says so on stderr
    save_best_only : save only what is better than what was saved before
    save_weights_only : leave out the optimizer's state; read by ``model.load_weights``
    save_freq : "epoch", or a number of batches (which costs an entry of Python per step)
    initial_value_threshold : with `save_best_only`, the value to be beaten first, None for none

    Attributes
    ----------
    best : the best value saved, None before
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = bool(save_best_only), bool(save_weights_only)
        self.best = initial_value_threshold
        if save_freq != "epoch":
            self._every = whole("ModelCheckpoint: save_freq", save_freq)
            self._seen = 0
            vars(self).update(on_train_batch_end=self._after_batch)
        self.save_freq = save_freq

    def check(self, names: Iterable[str]) -> None:
        if self.save_best_only:
            super().check(names)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch + 1
        if self.save_freq == "epoch":
            self._save(epoch, logs or {})

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self._save(self._epoch, {"batch": batch + 1, **(logs or {})})

    def _save(self, epoch: int, logs: Mapping[str, float]) -> None:
        if self.save_best_only:
            value = self._value(dict(logs))
            if value is None or not self._improves(value, self.best):
                return
            self.best = value
        try:
            path = self.filepath.format(**{**logs, "epoch": epoch + 1})
        except (KeyError, IndexError) as error:
            names = ", ".join(["epoch", *logs])
            raise ValueError(f"ModelCheckpoint: filepath {self.filepath!r} names {error}; there are: {names}") from None
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            print(f"epoch {epoch + 1}: saved {path}", file=sys.stderr)

    def get_state(self) -> dict[str, Any]:
        return {"best": self.best} | ({} if self.save_freq == "epoch" else {"_seen": self._seen, "_epoch": self._epoch})

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by a factor when a value has not become better for a while.

    Parameters
    ----------
    monitor, mode, min_delta : as for `EarlyStopping`; `min_delta` defaults to 1e-4
    factor : in (0, 1), default 0.1
    patience : epochs without a better value after which the rate is reduced, default 10
    verbose : 1 says so on stderr
    cooldown : epochs after a reduction that are not counted, default 0
    min_lr : the rate is not reduced below this, default 0
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = number("ReduceLROnPlateau: factor", factor)
        if not 0 < self.factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be in (0, 1), got {factor!r}")
        self.patience = whole("ReduceLROnPlateau: patience", patience, least=0)
        self.cooldown = whole("ReduceLROnPlateau: cooldown", cooldown, least=0)
        self.min_lr, self.verbose = number("ReduceLROnPlateau: min_lr", min_lr), verbose
        self._clear()

    def _clear(self) -> None:
        self.best: float | None = None
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._clear()
        self.model.learning_rate = self.model.learning_rate  # refuses a schedule now, not epochs later

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.learning_rate
        value = self._value(logs)
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self._improves(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooldown_counter <= 0:
            self.wait += 1
            before = self.model.learning_rate
            if self.wait >= self.patience and before > self.min_lr:
                self.model.learning_rate = max(before * self.factor, self.min_lr)
                if self.verbose:
                    rate = self.model.learning_rate
                    print(f"epoch {epoch + 1}: learning rate reduced to {rate:.4g}", file=sys.stderr)
                self.cooldown_counter, self.wait = self.cooldown, 0

    def get_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best", "wait", "cooldown_counter")}

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class LearningRateScheduler(Callback):
    """Asks a function for the learning rate of each epoch.

    Parameters
    ----------
    schedule : function of (epoch, learning_rate), or of (epoch), that returns the epoch's rate
    verbose : 1 says so on stderr
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(f"LearningRateScheduler: schedule must be a function of (epoch, rate), got {schedule!r}")
        self.schedule, self.verbose = schedule, verbose
        self._two = True
        try:
            inspect.signature(schedule).bind(0, 0.0)
        except TypeError:
            self._two = False
        except ValueError:  # a builtin that doesn't tell its signature
            pass

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate: Any = self.schedule(epoch, self.model.learning_rate) if self._two else self.schedule(epoch)
        if not isinstance(rate, (int, float, np.number)):
            raise TypeError(f"LearningRateScheduler: the schedule must return a number, got {rate!r} (epoch {epoch})")
        self.model.learning_rate = float(rate)
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {float(rate):.4g}", file=sys.stderr)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.learning_rate


# ---------------------------------------------------------------- callbacks that write


class CSVLogger(Callback):
    """Writes each epoch's values as a line of a CSV file, on disk as soon as the epoch is over.

    Parameters
    ----------
    filename : the file
    separator : between the values, default ","
    append : go on with a file that exists, instead of beginning it anew
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename, self.separator, self.append = Path(filename), str(separator), bool(append)
        if not self.filename.absolute().parent.is_dir():
            raise FileNotFoundError(f"CSVLogger: the folder {self.filename.parent} does not exist: make it first")
        self._names: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._names = []
        if self.append and self.filename.exists() and self.filename.stat().st_size:
            with self.filename.open(newline="", encoding="utf-8") as file:
                self._names = next(csv.reader(file, delimiter=self.separator))[1:]
        else:
            self.filename.write_text("", encoding="utf-8")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        with self.filename.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=self.separator, lineterminator="\n")
            if not self._names:
                self._names = [name for name in self.params["metrics"] if name not in logs]
                self._names = [*logs, *self._names]
                writer.writerow(["epoch", *self._names])
            writer.writerow([epoch, *(logs.get(name, "") for name in self._names)])

    def get_state(self) -> dict[str, Any]:
        return {"names": self._names, "text": self.filename.read_text(encoding="utf-8")}

    def set_state(self, state: dict[str, Any]) -> None:
        self._names = list(state["names"])
        self.filename.write_text(state["text"], encoding="utf-8")


class MLflow(Callback):
    """Logs the values of each epoch and the learning rate to MLflow's active run.

    Raises
    ------
    ImportError : mlflow isn't installed
    """

    def __init__(self) -> None:
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise ImportError("MLflow needs mlflow: pip install 'fastbp[mlflow]'") from error

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        import mlflow

        values = {"learning_rate": self.model.learning_rate, **(logs or {})}
        mlflow.log_metrics({name: float(v) for name, v in values.items() if np.ndim(v) == 0}, step=epoch)


class TensorBoard(Callback):
    """Writes the loss, the metrics and the learning rate of each epoch for TensorBoard, with tensorboardX.

    Training goes to the folder "train" in `log_dir`, validation to "validation", under Keras' names ("epoch_loss" ...).

    Parameters
    ----------
    log_dir : the folder, default "logs"
    histogram_freq : epochs between histograms of all weights, default 0 for none
    update_freq : "epoch", or a number of batches after which the running values are written too (which costs an entry
        of Python per step); "batch" is 1

    Raises
    ------
    ImportError : tensorboardX isn't installed
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] = "logs", histogram_freq: int = 0, update_freq: str | int = "epoch"
    ) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise ImportError("TensorBoard needs tensorboardX: pip install 'fastbp[tensorboard]'") from error
        self.log_dir = Path(log_dir)
        self.histogram_freq = whole("TensorBoard: histogram_freq", histogram_freq, least=0)
        self.update_freq = update_freq
        self._writers: dict[str, Any] = {}
        if update_freq != "epoch":
            self._every = 1 if update_freq == "batch" else whole("TensorBoard: update_freq", update_freq)
            self._seen = 0
            vars(self).update(on_train_batch_end=self._after_batch)

    def _writer(self, which: str) -> Any:
        if which not in self._writers:
            from tensorboardX import SummaryWriter

            self._writers[which] = SummaryWriter(str(self.log_dir / which))
        return self._writers[which]

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            for name, value in (logs or {}).items():
                if np.ndim(value) == 0:
                    self._writer("train").add_scalar(f"batch_{name}", value, self._seen)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for name, value in {"learning_rate": self.model.learning_rate, **(logs or {})}.items():
            which = "validation" if name.startswith(VALIDATION) else "train"
            if np.ndim(value):
                continue
            self._writer(which).add_scalar(f"epoch_{name.removeprefix(VALIDATION)}", value, epoch)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for name, array in self.model.named_weights().items():
                self._writer("train").add_histogram(name, array, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def get_state(self) -> dict[str, Any]:
        return {} if self.update_freq == "epoch" else {"_seen": self._seen}

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
