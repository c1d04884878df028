"""Floor 4: a fit on disk: written while it runs, so that one that was killed goes on to the same bits.

A checkpoint is a model file (``fb.load_model`` reads it) that also holds what the fit knows: how far it came, the sums
of the running epoch, the history, the callbacks' states, and what it was begun with.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import losses, metrics
from fastbp.exchange import model_files, storage
from fastbp.training.scoring import joined

if TYPE_CHECKING:
    from fastbp.training.fit import Fit

Array = NDArray[Any]


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged or couldn't be written; the fit goes on with the one before."""


class Checkpoints:
    """The last checkpoint of a fit and the one before it.

    Parameters
    ----------
    path : the file; the one before has ".previous" after its name
    every : steps between two of them; None for the end of each epoch
    """

    def __init__(self, path: str | os.PathLike[str], every: int | None) -> None:
        self.path, self.every = Path(os.path.realpath(path)), every
        self.previous = self.path.with_name(self.path.name + ".previous")
        self._saved = -1
        self._states: list[dict[str, Any]] = []

    # -------------------------------------------------- writing

    def most(self, done: int) -> int:
        """Steps until the next checkpoint, after `done` steps of the fit."""
        return 1 << 62 if self.every is None else self.every - done % self.every

    def due(self, fit: "Fit") -> bool:
        """Whether the fit has come to a checkpoint."""
        return fit.step == 0 if self.every is None else fit.done % self.every == 0

    def save(self, fit: "Fit") -> None:
        """Write a checkpoint, if this state isn't written yet; where that fails the fit goes on, with a warning.

        Raises
        ------
        TypeError : a callback's state that a file can't hold
        DivergenceError : the weights are not finite: that is nothing to come back to
        """
        if self._saved == fit.done:
            return
        fit.check_weights()
        tensors, content = _state(fit)
        try:
            storage.write(self.path, tensors, content, previous=self.previous)
        except OSError as error:
            if self._saved < 0:
                raise
            warnings.warn(f"no checkpoint after step {fit.done}: {error}", CheckpointWarning, stacklevel=2)
            return
        self._saved = fit.done

    # -------------------------------------------------- reading

    def resume(self, fit: "Fit") -> bool:
        """Put the fit where its last readable checkpoint was; False where there is none.

        Raises
        ------
        ValueError : a checkpoint of another fit or beyond the last epoch of this one, or files that are all damaged
        """
        found = self._read()
        if found is None:
            return False
        tensors, content = found
        theirs, mine = content["fit"]["begun_with"], _plain(identity(fit))
        if (difference := _difference(theirs, mine)) is not None:
            where, there, here = difference
            raise ValueError(
                f"{self.path} is a checkpoint of another fit: {where} is {there!r} there and {here!r} here; resume "
                "with what it was begun with, name another file, or leave out resume=True to begin anew"
            )
        first, done = fit.options.initial_epoch, (content["fit"]["epoch"], content["fit"]["step"])
        if done > (fit.epochs, 0):
            raise ValueError(
                f"{self.path} is beyond epochs={fit.options.epochs}: it was written in epoch "
                f"{first + done[0] + (done[1] > 0)}; epochs is the number of the last one, so give that or more, or "
                "leave out resume=True to begin anew"
            )
        self._states = _restore(fit, tensors, content)
        self._saved = fit.done
        if fit.options.verbose:
            place = f"epoch {first + fit.epoch + 1}, step {fit.step}"
            place = place if fit.epoch < fit.epochs else f"all {fit.options.epochs} epochs are done"
            again = "" if fit.feed.seeks else "; the batches before are read again, for an iterator can't seek"
            print(f"fastbp: resumed from {self.path} ({place}){again}", file=sys.stderr)
        return True

    def restore_callbacks(self, fit: "Fit") -> None:
        """Hand the callbacks their states, when they have begun."""
        for callback, state in zip(fit.callbacks.callbacks, self._states, strict=False):
            if state:
                callback.set_state(state)

    def _read(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """The last checkpoint that is whole, with a warning where it isn't the last."""
        damage: list[str] = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                tensors, content = storage.read(path)
                if "fit" not in content:
                    raise ValueError(f"{path} is a model file, not a checkpoint: name another file for the checkpoint")
            except (OSError, ValueError) as error:
                damage.append(str(error))
                continue
            if path == self.previous:
                why = damage[0] if damage else f"{self.path} is missing"
                text = f"{why}; resuming from the checkpoint before it, {path}"
                warnings.warn(text, CheckpointWarning, stacklevel=2)
            return tensors, content
        if damage:
            raise ValueError(
                f"no checkpoint can be read: {'; '.join(damage)}. Leave out resume=True to begin anew, or name another "
                "file"
            )
        return None


# ---------------------------------------------------------------- what a fit is and knows


def identity(fit: "Fit") -> dict[str, Any]:
    """What a fit was begun with: a checkpoint is for exactly that."""
    model, feed, options = fit.model, fit.feed, fit.options
    assert model._optimizer is not None
    configs = [layer.config() for layer in model.layers]
    held = fit.held
    return {
        "input width": model.input_width,
        "layers": [
            {name: value for name, value in config.items() if "initializer" not in name and name != "name"}
            for config in configs
        ],
        "dtype": model.compute_dtype,
        "seed": model.seed,
        "optimizer": fit.begun_with,
        "loss": losses.config(fit.objective.loss) if fit.objective.loss else None,
        "metrics": [metrics.config(request) for request in model._metric_requests],
        "weighted_metrics": [metrics.config(request) for request in model._weighted_requests],
        "batch_size": feed.batch,
        "steps_per_epoch": feed.steps,
        "shuffle": feed.shuffle,
        "initial_epoch": options.initial_epoch,
        "data": feed.identity(),
        "validation data": None if held is None else held.identity(),
        "callbacks": [type(callback).__name__ for callback in fit.callbacks.callbacks],
    }


def _state(fit: "Fit") -> tuple[dict[str, Array], dict[str, Any]]:
    tensors, content = model_files.state(fit.model)
    history = fit.history
    names = ("history", "epoch", "learning_rate", "seconds", "waiting", "_epochs_of")
    rate = fit.model._optimizer.learning_rate if fit.model._optimizer else 0.0
    states: list[Any] = []
    for index, callback in enumerate(fit.callbacks.callbacks):
        states.append(_packed(callback.get_state(), f"{model_files.FIT}callback.{index}", tensors))
    for index, rows in enumerate(joined(fit.kept)):
        tensors[f"{model_files.FIT}kept.{index}"] = rows
    content["fit"] = _plain(
        {
            "begun_with": identity(fit),
            "done": fit.done,
            "epoch": fit.epoch,
            "step": fit.step,
            "sums": fit.sums.tolist(),
            "epoch_seconds": fit.epoch_seconds,
            "passes": fit.passes,
            "learning_rate": None if callable(rate) else rate,
            "stop_training": fit.model.stop_training,
            "history": {name: getattr(history, name) for name in names},
            "callbacks": states,
        }
    )
    return tensors, content


def _restore(fit: "Fit", tensors: dict[str, Array], content: dict[str, Any]) -> list[dict[str, Any]]:
    """Put all of it back but the callbacks' states, which are returned."""
    model, state = fit.model, content["fit"]
    model_files.put_state(model, tensors)
    model._updates, model._epochs_seen = content["updates"], content["epochs"]
    if state["learning_rate"] is not None:
        assert model._optimizer is not None
        model._optimizer = replace(model._optimizer, learning_rate=state["learning_rate"])
    fit.done, fit.epoch, fit.step = state["done"], state["epoch"], state["step"]
    fit.sums, fit.epoch_seconds = np.array(state["sums"]), state["epoch_seconds"]
    kept = [name for name in tensors if name.startswith(f"{model_files.FIT}kept.")]
    fit.kept = [tuple(tensors[name] for name in sorted(kept))] if kept else []
    fit.passes = state["passes"]
    fit.feed.wind(state["passes"], fit.epoch, fit.step)
    model.stop_training = state["stop_training"]
    vars(fit.history).update(state["history"])
    for values in fit.history.history.values():
        values[:] = [np.array(value) if isinstance(value, list) else value for value in values]
    return [_unpacked(packed, tensors) for packed in state["callbacks"]]


def _packed(value: Any, name: str, tensors: dict[str, Array]) -> Any:
    """The value with its arrays moved to `tensors`, under names that begin with `name`."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": {key: _packed(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [_packed(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]}
    return {"plain": value}


def _unpacked(packed: Any, tensors: Mapping[str, Array]) -> Any:
    (kind, value), *_ = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unpacked(item, tensors) for key, item in value.items()}
    return [_unpacked(item, tensors) for item in value] if kind == "list" else value


def _plain(content: Any) -> Any:
    """Plain data as a file gives it back."""
    return json.loads(json.dumps(content, default=storage.as_json))


def _difference(theirs: Any, mine: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """The first place where two plain things differ: its name, what is there, what is here."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        pairs: Iterator[tuple[str, Any, Any]] = (
            (f"{where}.{key}".lstrip("."), theirs.get(key), mine.get(key)) for key in {**theirs, **mine}
        )
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        pairs = ((f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(theirs, mine, strict=True)))
    else:
        return None if theirs == mine else (where, theirs, mine)
    return next((found for name, a, b in pairs if (found := _difference(a, b, name)) is not None), None)
