"""Callbacks that watch one value of the logs."""

import operator
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastbp._checks import number, whole
from fastbp._spelling import answers
from fastbp.activations import unknown
from fastbp.callbacks.base import Callback, Logs
from fastbp.history import VALIDATION

_GREATER = ("acc", "auc", "precision", "recall", "f1", "r2", "cosine", "score")
"""Parts of the names of values that are the better the greater they are; all others the smaller."""


class Monitor(Callback):
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
                hint += " (of estimators: early_stopping=True)"
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


class EarlyStopping(Monitor):
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


class ModelCheckpoint(Monitor):
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


class ReduceLROnPlateau(Monitor):
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


answers(__name__)
