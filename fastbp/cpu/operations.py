"""Which kernels an op is made of: the one place where operations meet their rules."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import Kernel
from fastbp.activations import IDENTITY, RELU
from fastbp.cpu import activity, embedding, noise, normalization, paths, rules
from fastbp.cpu.rules import SIGNATURE
from fastbp.formulas.noise import FORMULAS
from fastbp.layout.operations import ACTIVITY, DENSE
from fastbp.layout.plan import Plan
from fastbp.program import LayerSpec

BITS = {"gamma": normalization.GAMMA, "beta": normalization.BETA}
Column = int
Parts = dict[Column, tuple[Callable[..., Any], tuple[Any, ...]]]
"""Column of an op's row -> who makes the rule, and of what beside the type of number."""


def _noise(name: str) -> Parts:
    forward, backward = FORMULAS[name]
    return {
        pg.FORWARD_RULE: (noise.rule, (forward, True)),
        pg.BACKWARD_RULE: (noise.rule, (backward, False)),
    }


def _by_rows(centred: int) -> Parts:
    return {
        pg.FORWARD_RULE: (normalization.forward_by_rows, (centred,)),
        pg.BACKWARD_RULE: (normalization.backward_by_rows, (centred,)),
        pg.TASK_RULE: (normalization.task_by_rows, ()),
    }


TRAINING: dict[str, Parts] = {
    "activation": {pg.FORWARD_RULE: (paths.nothing, ()), pg.BACKWARD_RULE: (paths.nothing, ())},
    "activity_regularization": {pg.FORWARD_RULE: (activity.value, ()), pg.BACKWARD_RULE: (activity.pull, ())},
    "fork": {pg.FORWARD_RULE: (paths.nothing, ()), pg.BACKWARD_RULE: (paths.fork_back, ())},
    "join": {pg.FORWARD_RULE: (paths.join, ()), pg.BACKWARD_RULE: (paths.join_back, ())},
    "concatenate": {pg.FORWARD_RULE: (paths.concatenate, ()), pg.BACKWARD_RULE: (paths.concatenate_back, ())},
    "arrange": {pg.FORWARD_RULE: (paths.arrange, ()), pg.BACKWARD_RULE: (paths.arrange_back, ())},
    "embedding": {
        pg.FORWARD_RULE: (embedding.forward, ()),
        pg.BACKWARD_RULE: (paths.nothing, ()),
        pg.TASK_RULE: (embedding.task, ()),
    },
    "layer_normalization": _by_rows(1),
    "rms_normalization": _by_rows(0),
    "batch_normalization": {
        pg.FORWARD_RULE: (normalization.forward_by_batch, ()),
        pg.BACKWARD_RULE: (normalization.backward_by_batch, ()),
        pg.TASK_RULE: (normalization.task_by_batch, ()),
        pg.STATISTICS: (normalization.statistics, ()),
        pg.STATISTICS_BACK: (normalization.statistics_back, ()),
    },
    "normalization": {
        pg.FORWARD_RULE: (normalization.by_constants, (0,)),
        pg.BACKWARD_RULE: (normalization.backward_by_constants, (0,)),
    },
    **{name: _noise(name) for name in FORMULAS},
}
"""The rules of each operation but the product, whose loops are the worker's own."""

STILL: dict[str, Parts] = {
    "batch_normalization": {
        pg.FORWARD_RULE: (normalization.by_constants, (1,)),
        pg.BACKWARD_RULE: (normalization.backward_by_constants, (1,)),
    }
}
"""The rules of operations that go by constants in a prediction, and where they are frozen."""


@functools.cache
def _rule(factory: Callable[..., Any], arguments: tuple[Any, ...], dtype: np.dtype) -> Kernel:
    return Kernel(factory(dtype.type, *arguments), SIGNATURE)


def parts(layer: LayerSpec, backward: bool) -> Parts:
    """The rules that the op needs in training, or in a prediction."""
    found = TRAINING.get(layer.operation.name, {})
    if layer.operation.name in STILL and not (backward and layer.trainable):
        found = STILL[layer.operation.name]
    return found if backward else {column: part for column, part in found.items() if column == pg.FORWARD_RULE}


def kernels(layers: tuple[LayerSpec, ...], dtype: np.dtype, backward: bool) -> Iterator[tuple[str, Kernel]]:
    """The rules of a network's ops and of their activations, with what to call them while they compile."""
    dense = all(layer.operation is DENSE for layer in layers)
    for layer in layers:
        name = layer.operation.name.replace("_", " ")
        for factory, arguments in parts(layer, backward).values():
            yield name, _rule(factory, arguments, dtype)
        row = layer.activation
        if row is not IDENTITY and not (row is RELU and dense):
            yield row.name, rules.activation(row, dtype)
            if backward:
                yield row.name, rules.derivative(row, dtype)


def every(dtype: np.dtype) -> Iterator[tuple[str, Kernel]]:
    """The rules of all operations, with what to call them."""
    for table in (TRAINING, STILL):
        for name, found in table.items():
            for factory, arguments in found.values():
                yield name.replace("_", " "), _rule(factory, arguments, dtype)


def bind(table: np.ndarray, plan: Plan, numbers: np.ndarray) -> list[np.ndarray]:
    """Put what each op's own rules need into its row of the table: their addresses, and those of its numbers.

    Returns the arrays of whole numbers among them, which must outlive the table.
    """
    dtype, chosen = plan.program.dtype, [np.array(layer.picks, np.int64) for layer in plan.layers]
    for index, (op, layer) in enumerate(zip(table, plan.layers, strict=True)):
        for column, (factory, arguments) in parts(layer, plan.backward).items():
            op[column] = _rule(factory, arguments, dtype).address()
        numbers[index, : len(layer.numbers)] = layer.numbers
        op[pg.ACTIVITY] = layer.operation is ACTIVITY
        op[pg.NUMBERS], op[pg.KEY] = numbers[index:].ctypes.data, layer.key
        op[pg.PICKS] = chosen[index].ctypes.data
        op[pg.LEARNED] = sum(bit for row, bit in BITS.items() if row in layer.rows)
        row, last = layer.activation, index == len(table) - 1
        if row is IDENTITY or last:
            continue
        if not plan.tile_rectifies[index]:
            op[pg.ACTIVATE] = rules.activation(row, dtype).address()
        if plan.backward and not plan.tile_masks[index]:
            op[pg.DERIVE] = rules.derivative(row, dtype).address()
    return chosen
