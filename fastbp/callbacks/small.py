"""Callbacks of a few lines: functions, times, what happens at NaN, gradients, a rate for each epoch."""

import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp._spelling import answers
from fastbp.activations import unknown
from fastbp.callbacks.base import Callback, Logs


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


answers(__name__)
