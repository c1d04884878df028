"""Floor 4: predictions that stop at a layer or that draw noise as training does."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import devices
from fastbp._checks import whole
from fastbp.activations import unknown
from fastbp.data.sources import opened
from fastbp.layers import Layer, lower
from fastbp.layout.objective import EVALUATION_ROWS, Objective
from fastbp.training import streaming

if TYPE_CHECKING:
    from fastbp.model import Model


def predict(
    model: "Model",
    x: Any,
    batch_size: int | None,
    upto: Layer | str | int | None,
    noise: bool,
    out: NDArray[Any] | str | None,
) -> NDArray[Any]:
    """See ``Model.predict``."""
    if opened(x) is not None:
        raise TypeError("predict: with upto or noise x must be rows in memory, not files or an iterator")
    rows = model._inputs(x, "predict")
    assert model.input_width is not None
    count = len(model.layers) if upto is None else _place(model, upto) + 1
    network = lower(model.layers[:count], model.input_width)
    if not noise and all(spec.operation.noise for spec in network.specs):
        result = streaming.outputs_for(model, len(rows), out, rows.shape[1])
        devices.copy(result, rows)
        return result if out is None or isinstance(out, str) else out
    batch = EVALUATION_ROWS if batch_size is None else whole("batch_size", batch_size)
    engine = model._ready(Objective(), False, None, False, min(batch, len(rows)), network.specs)
    result = streaming.outputs_for(model, len(rows), out, network.width)
    drawn = model._draws if noise else None
    model._draws += -(-len(rows) // batch) if noise else 0
    engine.run(rows, batch=batch, result=result, noise=drawn, seed=model.seed, upto=tuple(network.specs)).completed()
    return result if out is None or isinstance(out, str) else out


def _place(model: "Model", layer: Layer | str | int) -> int:
    if isinstance(layer, Layer):
        if layer not in model.layers:
            raise ValueError(f"predict: upto={layer!r} is not one of the model's layers")
        return model.layers.index(layer)
    if isinstance(layer, str):
        if layer not in model._names():
            raise unknown("layer", layer, model._names())
        return model._names().index(layer)
    count = len(model.layers)
    if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not -count <= layer < count:
        raise ValueError(f"predict: upto must be a layer, its name or its number from 0 to {count - 1}, got {layer!r}")
    return int(layer) % count
