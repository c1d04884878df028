"""Floor 4: a model in words and figures, and whether training it fits the machine."""

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastbp import devices
from fastbp.activations import IDENTITY
from fastbp.data import staging
from fastbp.layers import Activation, Dense
from fastbp.layout.operations import DENSE
from fastbp.training import memory

if TYPE_CHECKING:
    from fastbp.model import Model


def _rows(model: "Model") -> Iterator[tuple[str, str, int, int, int]]:
    """Of each layer: its name, its activation ("" for none), outputs, parameters and operations per sample."""
    assert model._engine is not None and model.input_width is not None
    specs, network = model._engine.program.layers, model._network(model.input_width)
    first = next((spec for spec in specs if spec.operation is DENSE), None)
    start = 0
    for name, (layer, width), (end, _) in zip(model._names(), model.outputs(), network.ends, strict=True):
        own, start = specs[start:end], end
        products = [spec for spec in own if spec.operation is DENSE]
        flops = sum(2 * spec.fan_in * spec.fan_out * (2 if spec is first else 3) for spec in products)
        shown = layer.activation is not IDENTITY or isinstance(layer, (Dense, Activation))
        yield name, layer.activation.name * shown, width or 0, sum(spec.parameters for spec in own), flops


def _place(model: "Model") -> str:
    """Where it trains, and why where that was left open."""
    where = f"{model.threads} threads" if model.device == "cpu" else model.device
    return f"{where} ({model._device_reason})" if model._device_reason else where


def lines(model: "Model", batch: int) -> list[str]:
    """The layers as a table, their sums, and for a compiled model what training takes of memory."""
    engine = model._engine
    assert engine is not None
    size, rows = model.dtype.itemsize, [("layer", "activation", "outputs", "parameters", "bytes", "FLOP/sample")]
    for name, activation, width, count, flops in _rows(model):
        rows.append((name, activation, f"{width:,}", f"{count:,}", f"{count * size:,}", f"{flops:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    table = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    count, rule = model.count_params(), "-" * len(table[0])
    specs = model._network(model.input_width or 0).specs
    learned = sum(spec.learned * spec.neurons for spec in specs if spec.trainable)
    fixed = f" ({learned:,} trainable, {count - learned:,} not)" if learned < count else ""
    found = [f"{model.name}: {model.input_width} inputs, {model.compute_dtype}, {_place(model)}"]
    found += [line.rstrip() for line in (table[0], rule, *table[1:], rule)]
    found.append(
        f"{count:,} parameters{fixed}, {count * size:,} bytes, {model.flops_per_sample:,} FLOP to train on one sample"
    )
    if model.optimizer is not None:
        needs = devices.training(model.device, engine.program, engine.threads, batch, model.optimizer)
        parts = ", ".join(f"{name} {part / memory.MIB:,.1f}" for name, part in needs.parts.items() if part)
        total = f"{needs.total / memory.MIB:,.1f} MiB"
        found.append(f"memory to train in batches of {batch} rows, beside the data: {total} ({parts})")
    return found


def page(model: "Model") -> str:
    """The same as HTML, for notebooks: a table where the model is built."""
    if not model.built:
        return f"<pre>{html.escape(repr(model))}</pre>"
    rows = []
    for name, activation, width, count, _ in _rows(model):
        cells = (name, activation, f"{width:,}", f"{count:,}")
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("layer", "activation", "outputs", "parameters"))
    caption = f"{model.name}: {model.input_width:,} inputs, {model.count_params():,} parameters, {model.compute_dtype}"
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{''.join(rows)}</table>"


def check_fit(model: "Model", x: Any, batch: int, validates: bool) -> None:
    """Raise MemoryError, with a table and what helps, where a fit of the rows would not fit the machine."""
    shape: tuple[int, ...] = getattr(x, "shape", ())
    optimizer = model.optimizer
    width = model.input_width or (shape[1] if len(shape) == 2 else 0)
    if optimizer is None or not model.layers or not width or len(shape) != 2:
        return
    half, engine = model.compute_dtype == "bfloat16", model._engine
    specs = model._network(width).specs
    device, _ = devices.picked(model.device, specs)
    program = engine.program if engine is not None else devices.network(device, specs, model.dtype, half)
    staged, batch = staging.staging_bytes(x, model.dtype), min(batch, shape[0])
    if memory.small(program, batch, optimizer, staged):
        return
    needs = devices.training(device, program, model.threads, batch, optimizer, staged=staged, validates=validates)
    held = 0 if engine is None else engine.resident_bytes + memory.RUNTIME
    remedies = []
    if batch > 1 and needs.parts["activations and their gradients"] > needs.total // 10:
        remedies.append(f"smaller batches than batch_size={batch}")
    if optimizer.slots:
        remedies.append(f"fb.SGD() instead of {type(optimizer).__name__}, which keeps {optimizer.slots} more arrays")
    if model.dtype.itemsize == 8:
        remedies.append('dtype="float32"')
    if staged:
        remedies.append(f"x as a C-contiguous array of {model.dtype.name}, which is read in place")
    remedies.append("narrower layers")
    memory.refuse(needs.total - held, devices.available(device), needs, remedies)
    if device != "cpu":  # the copies are made in main memory
        memory.refuse(staged, memory.available(), memory.Needs({"data, checked copies": staged}), remedies[-2:-1])


def check_build(model: "Model", width: int) -> None:
    """Raise MemoryError where the weights alone would not fit the machine."""
    network = model._network(width)
    specs, half = network.specs, model.compute_dtype == "bfloat16"
    program = memory.network(specs, model.dtype, half)
    size = program.parameter_bytes + program.copy_bytes
    if size > memory.FREELY:
        largest = max(specs, key=lambda spec: spec.parameters)
        if not largest.matrix:
            largest = max(specs, key=lambda spec: spec.fan_out)
        place = next(i for i, (end, _) in enumerate(network.ends) if specs.index(largest) < end)
        needs = memory.Needs({"parameters": program.parameter_bytes, "bfloat16 copies": program.copy_bytes})
        fewer = "fewer categories or a smaller dim than" if largest.matrix else "narrower layers than"
        remedies = [f"{fewer} {model.layers[place]!r}"] + ['dtype="float32"'] * (model.dtype.itemsize == 8)
        memory.refuse(size, memory.available(), needs, remedies)
