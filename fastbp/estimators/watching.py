"""Floor 5: what watches the fit of an estimator: ``fastbp.callbacks``, and the callbacks of scikit-learn 1.9."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp.callbacks import CallbackList
from fastbp.model import Model

if TYPE_CHECKING:
    from fastbp.estimators.base import BasePerceptron

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
except ModuleNotFoundError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""


class Surrogate:
    """The estimator as callbacks of ``fastbp.callbacks`` see it: what they use of a `Model`.

    Attributes
    ----------
    estimator : the estimator, for callbacks of one's own
    stop_training : set it to end the fit after the epoch
    """

    def __init__(self, estimator: "BasePerceptron") -> None:
        self.estimator, self.stop_training = estimator, False

    @property
    def learning_rate(self) -> float:
        """The rate of the next step, before the corrections of Adam."""
        return self.estimator._optimizer.next_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.estimator._optimizer.next_rate = float(rate)

    def named_weights(self) -> dict[str, NDArray[Any]]:
        """Copies of the weights by name."""
        return self.estimator.to_model().named_weights()

    def get_weights(self) -> list[NDArray[Any]]:
        """Copies of the weights, layer by layer."""
        network = self.estimator._ready()
        return network.engine.program.take(network.engine.weights)

    def set_weights(self, weights: list[ArrayLike]) -> None:
        """Put arrays, in the order of `get_weights`, in place of the network's."""
        network = self.estimator._ready()
        network.engine.program.put(network.engine.weights, [np.asarray(array) for array in weights])

    def save(self, path: str) -> None:
        """Write the model file of `to_model`."""
        self.estimator.to_model().save(path)

    def save_weights(self, path: str) -> None:
        """Write the weights of `to_model`."""
        self.estimator.to_model().save_weights(path)


class Watchers:
    """All that watches one fit, epoch by epoch.

    Parameters
    ----------
    estimator : the estimator, its ``callbacks`` and what ``set_callbacks`` gave it
    names : values that are reported for each epoch
    steps : of an epoch
    data : X, y and metadata as scikit-learn's callbacks get them

    Attributes
    ----------
    any : whether there is one
    """

    def __init__(self, estimator: "BasePerceptron", names: list[str], steps: int, data: dict[str, Any]) -> None:
        self.estimator, self.model, self.data = estimator, Surrogate(estimator), data
        epochs = estimator.max_iter
        self.ours = CallbackList(
            estimator.callbacks,
            cast(Model, self.model),
            epochs=epochs,
            steps=steps,
            verbose=int(estimator.verbose),
            metrics=names,
        )
        self.ours.check_monitors(names)
        if self.ours.watches_batches:
            raise ValueError("callbacks: estimators enter Python between epochs; hooks of batches are for fb.Model")
        self.theirs = hasattr(estimator, "_skl_callbacks")
        self.any = bool(self.ours.callbacks) or self.theirs

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around the epochs."""
        if self.theirs:
            self.root = self.estimator._init_callback_context(max_subtasks=self.estimator.max_iter)
            self.root.call_on_fit_task_begin(estimator=self.estimator, **self.data)
        self.ours.call("on_train_begin", {})
        yield
        self.ours.call("on_train_end", {})
        if self.theirs:
            self.root.call_on_fit_task_end(estimator=self.estimator, **self.data, **self._fitted)

    @property
    def _fitted(self) -> dict[str, Any]:
        return {"reconstruction_attributes": dict}  # a copy of the estimator predicts as it is

    def begin(self, epoch: int) -> None:
        """Before an epoch, counted from 0."""
        if self.theirs:
            self.task = self.root.subcontext(task_name="epoch")
            self.task.call_on_fit_task_begin(estimator=self.estimator, **self.data, **self._fitted)
        self.ours.call("on_epoch_begin", epoch, {})

    def end(self, epoch: int, values: dict[str, float]) -> bool:
        """After it; whether somebody wants the fit to end."""
        self.ours.call("on_epoch_end", epoch, values)
        stop = self.model.stop_training
        if self.theirs:
            stop |= self.task.call_on_fit_task_end(estimator=self.estimator, **self.data, **self._fitted)
        return bool(stop)
