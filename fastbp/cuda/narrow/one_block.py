"""Small networks on a GPU: one block of threads trains the whole network for many steps in one launch.

What takes a step of a small network its time is waiting: for launches, for memory, for other threads. Here nothing is
launched between steps, nothing but inputs and targets leaves a multiprocessor's own memory, and only the threads of one
block wait for each other (see ``narrow.code``). A multiprocessor is one of many, so networks with more to compute are
quicker over all of them (see ``slices``); and many small networks train side by side, a block each. All numbers are
float32 (or float64), whatever precision products of larger networks are asked for: tensor cores have nothing to gain.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.activations import IDENTITY
from fastbp.cuda import device, rows, rules
from fastbp.cuda import layout as lo
from fastbp.cuda.device import cuda, kernel, simulated
from fastbp.cuda.narrow.code import FIRSTS, Writer
from fastbp.cuda.narrow.net import NOISY, NORMAL, OUTPUTS, Activity, Matrix, Network, Norm, Path, Shared
from fastbp.cuda.narrow.updates import EACH, TOGETHER
from fastbp.cuda.step import WHOLE, Launch
from fastbp.formulas.noise import FORMULAS
from fastbp.layout.graph import GIVEN
from fastbp.layout.operations import (
    ACTIVATION,
    ACTIVITY,
    ARRANGE,
    CONCATENATE,
    DENSE,
    EMBEDDING,
    FORK,
    JOIN,
    STANDARDIZE,
)

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound, Data
    from fastbp.cuda.layout import Layout
    from fastbp.layout.objective import Objective
    from fastbp.optimizers import Optimizer

THREADS = 256
MANY_THREADS, MANY_BLOCKS = 128, 8
"""Of a block among many, and how many of them are to share a multiprocessor: the compiler then uses 64 registers a
thread, some of what all threads know waits in local memory, and 1,056 networks train at once on an H200."""
SIMULATED_THREADS = 6
WIDEST = 128
NORMS = "batch_normalization", "layer_normalization", "rms_normalization", "normalization"
MOST_LAYERS = 8
"""Products of a network."""
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

    Launch by launch go matrices of categories that are penalised or held to a constraint, and what comes in another
    order: noise before a normalisation, a normalisation or noise that comes last.
    """
    between: list[str] = []
    known_layers = _layers(layout)
    for index, layer in enumerate(layout.layers):
        name = layer.operation.name
        if index in known_layers:
            known, between = True, []
        elif _is_part(layout, index):
            known = not any(layer.penalty) and layer.constraint is None
        else:
            given = layer.operation is STANDARDIZE or layer.whole_batch != layer.operation.whole_batch
            others = [each for each in between if each != ACTIVITY.name]
            is_first = index < min(known_layers, default=len(layout.layers))
            normal = name in NORMS and not others and (given or not is_first)
            known = normal or (name in FORMULAS and all(each in NORMS for each in others))
            if layer.operation is ACTIVITY:
                known = layer.activation is IDENTITY
            elif is_first and len(others) < len(between):  # of the inputs only the last numbers are kept
                known = False
            between.append(name)
        if not known:
            return f"a {name} isn't part of the code"
        if max(layer.fan_in, layer.fan_out) > WIDEST:
            return "a layer is too wide"
    if between:
        return f"a {between[-1]} comes last"
    if not layout.learning:
        return "no weights learn"
    return "there are too many layers" if sum(each.operation is DENSE for each in layout.layers) > MOST_LAYERS else ""


def _layers(layout: "Layout") -> list[int]:
    """The ops that are layers of the code.

    Others make its inputs of what the one before gives, or are part of one.
    """
    named = DENSE, FORK, JOIN, CONCATENATE, ACTIVATION, ARRANGE
    layers = enumerate(layout.layers)
    return [index for index, layer in layers if layer.operation in named and not _is_part(layout, index)]


def _is_part(layout: "Layout", op: int) -> bool:
    """Whether an op is part of a layer: of where a path ends that skips a block, its projection; of the first one, its
    matrices of categories."""
    return layout.beside(op) or layout.layers[op].operation is EMBEDDING


def _path(layout: "Layout", ops: list[int], op: int) -> Path | None:
    """What a layer of the code is where it isn't a product."""
    operation = layout.layers[op].operation
    if operation is DENSE:
        return None
    if operation is ACTIVATION:
        return Path("activation")
    if operation is ARRANGE:
        return _embedding(layout, op)
    skip = layout.skips[op]
    if operation is FORK:
        skip = op + 1 if layout.beside(op + 1) else op
        return Path("fork", ops.index(layout.skips.index(skip)), skip if skip != op else None)
    projects = layout.beside(skip)
    return Path(operation.name, ops.index(skip - projects), skip if projects else None)


def threads(many: bool = False) -> int:
    """Threads of a block that is alone, or one of many."""
    return SIMULATED_THREADS if simulated() else MANY_THREADS if many else THREADS


def _embedding(layout: "Layout", op: int) -> Path:
    """The first layer of a network that looks up categories."""
    matrices = []
    for index, layer in enumerate(layout.layers):
        if layer.operation is EMBEDDING:
            assert layer.matrix is not None
            (rows, columns), (column, place, _) = layer.matrix, layer.picks
            first, ldw = (int(number) for number in layout.rows[index, [lo.W, lo.LDW]])
            matrices.append(Matrix(index, column, place, rows, columns, first, ldw, index in layout.learning))
    passing = tuple(column for column in layout.layers[op].picks if column >= 0)
    return Path("embedding", passing=passing, matrices=tuple(matrices))


def network(layout: "Layout", objective: "Objective", optimizer: "Optimizer", targets: int, threads: int) -> Network:
    """What the code of a step's kernel depends on."""
    assert objective.loss is not None
    first, dtype, ops = layout.layers[0], layout.program.dtype, _layers(layout)
    layers, paths = [layout.layers[op] for op in ops], [_path(layout, ops, op) for op in ops]
    owners = [
        path.projection if path and path.projection and path.kind != "fork" else op
        for op, path in zip(ops, paths, strict=True)
    ]
    between = [
        [each for each in range(last + 1, op) if not _is_part(layout, each)]
        for last, op in zip([-1, *ops], ops, strict=False)
    ]
    named = [{layout.layers[op].operation.name: op for op in each} for each in between]
    bounded = [(op, layout.layers[op].constraint) for op in layout.learning]
    return Network(
        dtype=dtype,
        batch=layout.batch,
        widths=(first.fan_in, *(layer.fan_out for layer in layers)),
        paths=tuple(paths),
        biased=tuple(layer.bias for layer in layers),
        places=tuple((int(op[lo.W]), int(op[lo.LDW])) for op in layout.rows[owners]),
        activations=tuple(layer.activation for layer in layers),
        norms=tuple(next((_norm(layout, each[name]) for name in NORMS if name in each), None) for each in named),
        noises=tuple(next(((name, each[name]) for name in FORMULAS if name in each), None) for each in named),
        activities=tuple(_activities(layout, each) for each in between),
        ops=tuple(ops),
        count=len(layout.layers),
        learning=tuple(owners.index(op) for op in layout.learning if op in owners),
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


def _activities(layout: "Layout", ops: list[int]) -> tuple[Activity, ...]:
    """The penalties among the ops between two layers."""
    found, place = [], OUTPUTS
    for op in ops:
        name = layout.layers[op].operation.name
        if name == ACTIVITY.name:
            found.append(Activity(op, place))
        else:
            place = NOISY if name in FORMULAS else NORMAL
    return tuple(found)


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
        given = data.x, data.y, data.rows, data.weights, data.present, *data.kept
        arguments = cuda.to_device(bases), *arrays, *given
        self.first: Sequence[Launch] = ()
        self.launches: Sequence[Launch] = [Launch(made, (1,), net.threads, (1, *arguments), shared, WHOLE)]

    def run(self, stream: Any, steps: int) -> None:
        """See ``step.Step``."""
        launch = self.launches[0]
        replace(launch, arguments=(steps, *launch.arguments[1:]))(stream)
