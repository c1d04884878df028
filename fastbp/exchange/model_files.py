"""Floor 4: what a model file holds: a model as arrays and plain data, and back."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import losses, metrics, optimizers
from fastbp.data.device_arrays import on_host
from fastbp.exchange import storage
from fastbp.layers import Embedding, Layer

if TYPE_CHECKING:
    from fastbp.model import Model

Array = NDArray[Any]

FIT = "fit."
"""Tensors whose names begin so are a checkpoint's, beside the model's own."""


def labels(model: "Model") -> list[str]:
    """The names that the arrays of ``get_weights`` have in files."""
    model.build()
    assert model.input_width is not None
    return model._network(model.input_width).labels


def state(model: "Model") -> tuple[dict[str, Array], dict[str, Any]]:
    """(tensors, plain data) of the whole model."""
    tensors = model.named_weights()
    ordered = list(tensors)
    assert model._engine is not None
    for slot, moment in enumerate(model._engine.moments(), start=1):
        arrays = model._engine.program.take(moment)
        tensors |= {f"optimizer.{slot}.{label}": array for label, array in zip(ordered, arrays, strict=True)}
    content = {
        "layers": [{**layer.config(), "name": name} for layer, name in zip(model.layers, model._names(), strict=True)],
        "input_width": model.input_width,
        "dtype": model.compute_dtype,
        "seed": model.seed,
        "name": model.name,
        "optimizer": model._optimizer.config(model._updates) if model._optimizer else None,
        "loss": losses.config(model._loss) if model._loss else None,
        "metrics": [metrics.config(request) for request in model._metric_requests],
        "weighted_metrics": [metrics.config(request) for request in model._weighted_requests],
        "updates": model._updates,
        "epochs": model._epochs_seen,
        "meta": model.meta,
        "columns": model.column_names,
    }
    return tensors, content


def settings(content: dict[str, Any]) -> dict[str, Any]:
    """What ``Model`` is made with, by a file's plain data."""
    return {"dtype": content["dtype"], "seed": content["seed"], "name": content["name"]}


def restored(model: "Model", tensors: dict[str, Array], content: dict[str, Any]) -> "Model":
    """The model, empty so far, filled with what `state` gave.

    Raises
    ------
    KeyError, TypeError, ValueError : content that is damaged or of another version
    """
    for config in content["layers"]:
        model.add(Layer.from_config(config))
    if content["optimizer"] is not None:
        model._optimizer = optimizers.from_config(content["optimizer"])
    if content["loss"] is not None:
        model._loss = losses.from_config(content["loss"])
        model._loss_name = model._loss.name
    model._metric_requests = [metrics.from_config(request) for request in content["metrics"]]
    model._weighted_requests = [metrics.from_config(one) for one in content.get("weighted_metrics", ())]
    model.build(content["input_width"])
    put_state(model, tensors)
    model._updates, model._epochs_seen = int(content["updates"]), int(content["epochs"])
    model.meta, model.column_names = dict(content["meta"]), content.get("columns")
    return model


def put_state(model: "Model", tensors: dict[str, Array]) -> None:
    """Put the weights and the optimizer's arrays of `state` into a built model.

    Raises
    ------
    ValueError : tensors of another network or optimizer
    """
    assert model._engine is not None
    tensors = {name: array for name, array in tensors.items() if not name.startswith(FIT)}
    ordered = labels(model)
    slots = range(1, 1 + len(model._engine.moments()))
    wanted = [*ordered, *(f"optimizer.{slot}.{label}" for slot in slots for label in ordered)]
    if sorted(tensors) != sorted(wanted):
        raise ValueError(f"wanted the tensors {wanted}, got {sorted(tensors)}")
    model.set_weights([tensors[label] for label in ordered])
    for slot, moment in enumerate(model._engine.moments(), start=1):
        arrays = [tensors[f"optimizer.{slot}.{label}"] for label in ordered]
        model._engine.program.put(moment, checked(model, arrays, "load"))


def checked(model: "Model", arrays: Sequence[ArrayLike], task: str) -> list[Array]:
    """The arrays, if they are as many, as large and as finite as those of ``get_weights``.

    Raises
    ------
    TypeError, ValueError : they are not; `task` says where they came from
    """
    assert model._engine is not None
    wanted = [shape for layer in model._engine.program.layers for _, shape in layer.arrays]
    given = [np.asarray(on_host(array, f"array {index}")) for index, array in enumerate(arrays)]
    if len(given) != len(wanted):
        raise ValueError(f"{task}: wanted {len(wanted)} arrays ({wanted}), got {len(given)}")
    limit = float(np.finfo(model.dtype).max)
    for index, (array, shape) in enumerate(zip(given, wanted, strict=True)):
        if array.shape != shape:
            raise ValueError(f"{task}: array {index} must have the shape {shape}, got {array.shape}")
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{task}: array {index} must hold numbers, got dtype {array.dtype}")
        if not -limit <= float(array.min()) <= float(array.max()) <= limit:  # without a copy; NaN is refused too
            raise ValueError(f"{task}: array {index} holds NaN, infinity or numbers beyond {limit:.2g}")
    return given


def load_weights(model: "Model", path: str | os.PathLike[str]) -> None:
    """Put a file's weights into a network of the same shape: see ``Model.load_weights``."""
    tensors, _ = storage.read(path)
    given = {name: array for name, array in tensors.items() if not name.startswith(("optimizer.", FIT))}
    first = next((array for name, array in given.items() if name.endswith(".kernel")), None)
    if not model.built and first is not None:
        grown = sum(layer.width(0) or 0 for layer in model.layers if isinstance(layer, Embedding))
        model.build(model.input_width or len(first) - grown)
    ordered = labels(model)
    if sorted(given) != sorted(ordered):
        raise ValueError(f"{os.fspath(path)} holds the weights {sorted(given)}; this network has {ordered}")
    model.set_weights([given[label] for label in ordered])
