"""Small networks on a GPU: one block of threads trains the whole network for many steps in one launch.

What takes a step of a small network its time is waiting: for launches, for memory, for other threads. Here nothing is
launched between steps, nothing but inputs and targets leaves a multiprocessor's own memory, and only the threads of one
block wait for each other (see ``narrow_code``). A multiprocessor is one of many, so networks with more to compute are
quicker over all of them (see ``slices``); and many small networks train side by side, a block each. All numbers are
float32 (or float64), whatever precision products of larger networks are asked for: tensor cores have nothing to gain.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.cuda import device, rows, rules
from fastbp.cuda import layout as lo
from fastbp.cuda.device import cuda, kernel, simulated
from fastbp.cuda.narrow_code import FIRSTS, Writer
from fastbp.cuda.narrow_net import Network, Norm, Shared
from fastbp.cuda.narrow_updates import EACH, TOGETHER
from fastbp.cuda.step import WHOLE, Launch
from fastbp.graph import GIVEN
from fastbp.noise_formulas import FORMULAS
from fastbp.operations import DENSE, STANDARDIZE

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound, Data
    from fastbp.cuda.layout import Layout
    from fastbp.objective import Objective
    from fastbp.optimizers import Optimizer

THREADS = 256
MANY_THREADS, MANY_BLOCKS = 128, 8
"""Of a block among many, and how many of them are to share a multiprocessor: the compiler then uses 64 registers a
thread, some of what all threads know waits in local memory, and 1,056 networks train at once on an H200."""
SIMULATED_THREADS = 6
WIDEST = 128
NORMS = "batch_normalization", "layer_normalization", "rms_normalization", "normalization"
MOST_LAYERS = 8
MOST_WORK = 8e6
"""Floating-point operations of a step up to which one block is quicker than a step of several launches: at a third of
a multiprocessor's peak (some 460 GFLOP/s in float32 on an H200) these take some 50 us. Reckoned, not measured."""
MOST_SUMS = 512
STEPS_AHEAD = 2048
"""Steps of a launch: a few milliseconds of a tiny network."""


def reason(layout: "Layout", objective: "Objective", optimizer: "Optimizer | None", targets: int, keeps: bool) -> str:
    """Why a step can't be taken by one block of threads; "" where it can.

    targets : what y is, see ``rows.gather``; keeps : whether the run gives outputs or a gradient of the inputs
    """
    if optimizer is None or not layout.backward or objective.loss is None:
        return "nothing is trained"
    if keeps:
        return "outputs are kept"
    if layout.update == GIVEN:
        return "gradients are given"
    if unfit := unlike(layout):
        return unfit
    net = network(layout, objective, optimizer, targets, threads())
    if net.sums > MOST_SUMS:
        return "there are too many sums"
    if net.work > MOST_WORK:
        return "there is too much to compute for one multiprocessor"
    if Shared(net).bytes > device.shared_bytes():
        return "the network doesn't fit into a multiprocessor's memory"
    return ""


def unlike(layout: "Layout") -> str:
    """Why the code can't be written for a network's layers; "" where it can.

    Launch by launch go paths that part and meet again (`Residual`, `Concatenate`), penalties on what passes through,
    and matrices of categories, which may be larger than any shared memory.
    """
    between: list[str] = []
    products = 0
    for index, layer in enumerate(layout.layers):
        name = layer.operation.name
        if layer.operation is DENSE:
            known, between, products = True, [], products + 1
        else:
            given = layer.operation is STANDARDIZE or layer.whole_batch != layer.operation.whole_batch
            normal = name in NORMS and not between and (products > 0 or given)
            known = normal or (name in FORMULAS and all(each in NORMS for each in between))
            between.append(name)
        if not known or layout.sources[index] != index - 1:
            return f"a {name} isn't part of the code"
        if max(layer.fan_in, layer.fan_out) > WIDEST:
            return "a layer is too wide"
    if between:
        return f"a {between[-1]} comes last"
    return "there are too many layers" if len(_products(layout)) > MOST_LAYERS else ""


def _products(layout: "Layout") -> list[int]:
    """The ops that are layers of the code; the others make its inputs of what the one before gives."""
    return [index for index, layer in enumerate(layout.layers) if layer.operation is DENSE]


def threads(many: bool = False) -> int:
    """Threads of a block that is alone, or one of many."""
    return SIMULATED_THREADS if simulated() else MANY_THREADS if many else THREADS


def network(layout: "Layout", objective: "Objective", optimizer: "Optimizer", targets: int, threads: int) -> Network:
    """What the code of a step's kernel depends on."""
    assert objective.loss is not None
    first, dtype, ops = layout.layers[0], layout.program.dtype, _products(layout)
    layers = [layout.layers[op] for op in ops]
    between = [range(last + 1, op) for last, op in zip([-1, *ops], ops, strict=False)]
    named = [{layout.layers[op].operation.name: op for op in each} for each in between]
    bounded = [(op, layout.layers[op].constraint) for op in layout.learning]
    return Network(
        dtype=dtype,
        batch=layout.batch,
        widths=(first.fan_in, *(layer.fan_out for layer in layers)),
        biased=tuple(layer.bias for layer in layers),
        places=tuple((int(op[lo.W]), int(op[lo.LDW])) for op in layout.rows[ops]),
        activations=tuple(layer.activation for layer in layers),
        norms=tuple(next((_norm(layout, each[name]) for name in NORMS if name in each), None) for each in named),
        noises=tuple(next(((name, each[name]) for name in FORMULAS if name in each), None) for each in named),
        ops=tuple(ops),
        count=len(layout.layers),
        learning=tuple(ops.index(op) for op in layout.learning if op in ops),
        lowest=sum(op < layout.lowest for op in ops),
        penalised=tuple(ops.index(op) for op in layout.penalised if op in layout.learning),
        slots=optimizer.slots,
        numbers=optimizer.width + bool(layout.penalised),
        clips="" if not optimizer.late else EACH if optimizer.global_clipnorm is None else TOGETHER,
        group=optimizer.group,
        constraints=tuple((ops.index(op), row) for op, row in bounded if row is not None),
        update=rules.update(optimizer, dtype),
        loss=objective.loss,
        tallies=objective.tallies,
        labels=targets == rows.LABELS,
        threads=threads,
    )


def _norm(layout: "Layout", op: int) -> Norm:
    """An op that is a normalisation, as the code knows it."""
    layer, (w, ldw) = layout.layers[op], (int(number) for number in layout.rows[op, [lo.W, lo.LDW]])
    places = {name: w + row * ldw for row, name in enumerate(layer.rows)}
    moving = places.get("moving_mean", places.get("mean", 0))
    own = places.get("gamma"), places.get("beta"), moving, ldw, layer.activation
    return Norm(layer.operation.name, op, *own, op in layout.learning)


@functools.lru_cache(maxsize=64)
def written(net: Network, blocks: int = 1) -> tuple[Any, int]:
    """The kernel of a network, and the bytes of shared memory that it takes; `blocks` are to share a multiprocessor."""
    writer = Writer(net)
    names = writer.names
    exec(compile(writer.source(), "<the kernel of a small network>", "exec"), names)
    return kernel(names["train"], threads=net.threads, blocks=blocks), writer.at.bytes


class Narrow:
    """Steps of one network, all in one launch (see ``step.Step``)."""

    def __init__(self, bound: "Bound", data: "Data") -> None:
        optimizer = bound.optimizer
        assert optimizer is not None
        net = network(bound.layout, bound.objective, optimizer, data.targets, threads())
        made, shared = written(net)
        bases = np.zeros(len(FIRSTS), np.int64)
        bases[-1] = np.iinfo(np.int64).max
        arrays = bound.table, bound.params, bound.constants, bound.coefficients, bound.sums
        arguments = cuda.to_device(bases), *arrays, data.x, data.y, data.rows, data.weights, data.present
        self.first: Sequence[Launch] = ()
        self.launches: Sequence[Launch] = [Launch(made, (1,), net.threads, (1, *arguments), shared, WHOLE)]

    def run(self, stream: Any, steps: int) -> None:
        """See ``step.Step``."""
        launch = self.launches[0]
        replace(launch, arguments=(steps, *launch.arguments[1:]))(stream)
