"""Small networks on a GPU: one block of threads trains the whole network for many steps in one launch.

What takes a step of a small network its time is waiting: for launches, for memory, for other threads. Here nothing is
launched between steps, nothing but inputs and targets leaves a multiprocessor's own memory, and only the threads of one
block wait for each other (see ``narrow_code``). A multiprocessor is one of many, so networks with more to compute are
quicker over all of them, launch by launch; and many small networks train side by side, a block each.
"""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.cuda import device, rows
from fastbp.cuda import layout as lo
from fastbp.cuda.device import cuda, kernel, simulated
from fastbp.cuda.narrow_code import FIRSTS, Network, Writer
from fastbp.operations import DENSE

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound, Data

THREADS = 256
SIMULATED_THREADS = 6
WIDEST = 128
MOST_LAYERS = 8
MOST_WORK = 8e6
"""Floating-point operations of a step up to which one block is quicker than a step of several launches: at a third of
a multiprocessor's peak (some 460 GFLOP/s in float32 on an H200) these take some 50 us. Reckoned, not measured."""
MOST_SUMS = 512
STEPS_AHEAD = 2048
"""Steps of a launch: a few milliseconds of a tiny network."""


def reason(bound: "Bound", data: "Data") -> str:
    """Why a step can't be taken by one block of threads; "" where it can."""
    layout, objective, optimizer = bound.layout, bound.objective, bound.optimizer
    if optimizer is None or not layout.backward or objective.loss is None:
        return "nothing is trained"
    if data.result is not None or data.kept:
        return "outputs are kept"
    if optimizer.late or optimizer.group > 1:
        return "the update needs the whole gradient first"
    for index, layer in enumerate(layout.layers):
        if layer.operation is not DENSE or layout.sources[index] != index - 1:
            return f"a {layer.operation.name} isn't part of the code"
        if layer.constraint is not None and layer.trainable:
            return "a layer has a constraint"
        if max(layer.fan_in, layer.fan_out) > WIDEST:
            return "a layer is too wide"
    if len(layout.layers) > MOST_LAYERS:
        return "there are too many layers"
    net = network(bound, data, threads())
    if net.sums > MOST_SUMS:
        return "there are too many sums"
    if net.work > MOST_WORK:
        return "there is too much to compute for one multiprocessor"
    if written(net)[1] > device.shared_bytes():
        return "the network doesn't fit into a multiprocessor's memory"
    return ""


def threads() -> int:
    """Threads of a block."""
    return SIMULATED_THREADS if simulated() else THREADS


def network(bound: "Bound", data: "Data", threads: int) -> Network:
    """What the code of a bound step's kernel depends on."""
    layout, optimizer = bound.layout, bound.optimizer
    assert optimizer is not None and bound.objective.loss is not None
    first = layout.layers[0]
    return Network(
        dtype=bound.dtype,
        batch=layout.batch,
        widths=(first.fan_in, *(layer.fan_out for layer in layout.layers)),
        biased=tuple(layer.bias for layer in layout.layers),
        places=tuple((int(op[lo.W]), int(op[lo.LDW])) for op in layout.rows),
        activations=tuple(layer.activation for layer in layout.layers),
        learning=tuple(layout.learning),
        lowest=layout.lowest,
        penalised=tuple(index for index in layout.penalised if index in layout.learning),
        slots=optimizer.slots,
        numbers=optimizer.width + bool(layout.penalised),
        update=bound.rule,
        loss=bound.objective.loss,
        tallies=bound.objective.tallies,
        labels=data.targets == rows.LABELS,
        threads=threads,
    )


@functools.lru_cache(maxsize=64)
def written(net: Network) -> tuple[Any, int]:
    """The kernel of a network, and the bytes of shared memory that it takes."""
    writer = Writer(net)
    names = writer.names
    exec(compile(writer.source(), "<the kernel of a small network>", "exec"), names)
    return kernel(names["train"], threads=net.threads), writer.at.bytes


class Narrow:
    """Steps of one network, all in one launch (see ``step.Step``)."""

    def __init__(self, bound: "Bound", data: "Data") -> None:
        net = network(bound, data, threads())
        self._kernel, self._shared = written(net)
        self._threads = net.threads
        bases = np.zeros(len(FIRSTS), np.int64)
        bases[-1] = np.iinfo(np.int64).max
        arrays = bound.table, bound.params, bound.constants, bound.coefficients, bound.sums
        self._arguments = cuda.to_device(bases), *arrays, data.x, data.y, data.rows, data.weights, data.present

    def run(self, stream: Any, steps: int) -> None:
        """See ``step.Step``."""
        device.launch(self._kernel, 1, self._threads, stream, self._shared, steps, *self._arguments)
