"""A step bound to buffers: the launches that it is made of, in order."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastbp.activations import IDENTITY
from fastbp.constraints import Constraint
from fastbp.cuda import device, normalization, ops, products, rows, rules, tickets, weights
from fastbp.cuda import layout as lo
from fastbp.cuda.device import cuda
from fastbp.cuda.layout import Layout
from fastbp.cuda.shapes import Shapes, shapes
from fastbp.cuda.step import BACKWARD, FORWARD, GATHER, LOSS, WEIGHTS, Launch, of_phase
from fastbp.formulas.noise import FORMULAS
from fastbp.layout import operations
from fastbp.layout.graph import GIVEN, LATE
from fastbp.layout.objective import Objective
from fastbp.layout.operations import DENSE
from fastbp.optimizers import Optimizer
from fastbp.program import ROW_MULTIPLE, round_up

PART = 4096
"""Numbers of a task of `weights`."""
JOINING = {
    "join": (ops.join, ops.join_back),
    "concatenate": (ops.concatenate, ops.concatenate_back),
    "arrange": (ops.arrange, ops.arrange_back),
}
"""Kernels of operations that put columns together."""
WHOLE_ROWS = {"layer_normalization": True, "rms_normalization": False}
"""Normalisations of a row, and whether they take its mean away."""


@dataclass(frozen=True)
class Data:
    """The device arrays that a run reads and writes, one number long where there is nothing.

    Attributes
    ----------
    x, y, rows, weights, present : see ``Engine.prepare``
    targets : what y is, see ``rows.gather``
    result : for the outputs or the inputs' gradient, None where nobody wants them
    kept : for the rows of each tally that keeps them
    starts, columns : of sparse rows, whose numbers are x, see ``rows.gather``; None of others
    """

    x: Any
    y: Any
    rows: Any
    weights: Any
    present: Any
    targets: int
    result: Any = None
    kept: tuple[Any, ...] = ()
    starts: Any = None
    columns: Any = None


def constants_of(layout: Layout, objective: Objective) -> np.ndarray:
    """The numbers of the ops, of the loss and of the tallies."""
    numbers, loss = np.zeros(lo.LOSS_NUMBERS + lo.TALLY_NUMBERS * max(1, len(objective.tallies))), objective.loss
    if loss is not None:
        own = rules.loss_numbers(loss, layout.layers[-1].fan_out, layout.program.dtype)
        numbers[: len(own)] = own
    for m, tally in enumerate(objective.tallies):
        first = lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS
        numbers[first : first + len(tally.values)] = tally.values
    return np.concatenate([layout.constants, numbers]).astype(layout.program.dtype)


@dataclass
class Bound:
    """A layout with its buffers, and the way that a step takes.

    Attributes
    ----------
    layout : the ops and where their numbers are
    objective : what is computed beside the outputs
    optimizer : whose formula updates, None where nothing is trained; rates may differ from run to run
    params : weights, moments and the gradient
    sums : (epochs, SUMS) float64, the epochs of a run
    coefficients : room for those of a run's steps
    table, constants, work : see ``layout``
    rule : the optimizer's, None where nothing is trained
    element : what the products' kernels do with each gradient, where updates are fused with them
    """

    layout: Layout
    objective: Objective
    optimizer: Optimizer | None
    params: Any
    sums: Any
    coefficients: Any
    make_products: Callable[["Bound"], products.Products]
    shapes: Shapes = field(default_factory=shapes)

    def __post_init__(self) -> None:
        layout, loss = self.layout, self.objective.loss
        self.dtype = layout.program.dtype
        self.table = cuda.to_device(layout.table)
        self.work = self.zeros(layout.size)
        self.constants = cuda.to_device(constants_of(layout, self.objective))
        penalised = bool(layout.penalised) and layout.backward
        rule = None if self.optimizer is None else rules.update(self.optimizer, self.dtype)
        self.element = None if rule is None else weights.fused(self.dtype, rule, penalised)
        self.rule, self._penalised = rule, penalised
        self.products = self.make_products(self)
        scored = loss is not None
        self._penalties = self.tasks(layout.penalised) if scored or layout.backward else np.empty((0, weights.TASK))
        self._penalty_values = self.zeros(len(self._penalties), np.float64)[: len(self._penalties)]

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace."""
        return self.layout.size * self.dtype.itemsize

    def upload(self, array: np.ndarray) -> Any:
        """An array on the device."""
        return cuda.to_device(np.ascontiguousarray(array))

    def zeros(self, count: int, dtype: Any = None) -> Any:
        """So many zeros on the device (at least one), of the network's type by default."""
        return device.zeros(count, self.dtype if dtype is None else dtype)

    # -------------------------------------------------- launches

    def _by_rows(self, kernel: Any, op: int, columns: int, *, back: bool = False) -> Launch:
        """A kernel of ``ops``, over the rows of the buffers."""
        arguments = self.table, Layout.field(op), int(back), columns, self.work, self.constants
        return Launch(kernel, self.shapes.grid(self.layout.batch, columns), self.shapes.threads, arguments)

    @property
    def _row_grid(self) -> tuple[int, int]:
        return self.shapes.grid(self.layout.batch)

    def _flat(self, kernel: Any, count: int, *arguments: Any) -> Launch:
        """A kernel with a thread for each of `count` things."""
        return Launch(kernel, (-(-count // self.shapes.flat),), self.shapes.flat, arguments)

    def tasks(self, indices: list[int]) -> np.ndarray:
        """The tasks of ``weights`` for all that ops learn."""
        found = []
        for index in indices:
            layer = self.layout.layers[index]
            w, ldw = (int(number) for number in self.layout.rows[index, [lo.W, lo.LDW]])
            for part, (low, high) in enumerate(((0, layer.kernel), (layer.kernel, layer.learned))):
                for first in range(w + low * ldw, w + high * ldw, PART):
                    found.append((Layout.field(index), part, first, min(first + PART, w + high * ldw)))
        return np.array(found, np.int64).reshape(-1, weights.TASK)

    def launches(self, data: Data) -> list[Launch]:
        """A step of a run over some data."""
        if self.layout.update == GIVEN:
            return of_phase(WEIGHTS, [self._given(), *self._late_update(), *self._constraints()])
        found = [*of_phase(GATHER, self._beginning(data)), *of_phase(FORWARD, self._forward())]
        found += of_phase(LOSS, self._end(data))
        if self.layout.backward:
            found += [*of_phase(BACKWARD, self._backward()), *of_phase(WEIGHTS, self._learning())]
        if data.result is not None:
            found.append(replace(self._scatter(data), phase=found[-1].phase))
        return found

    def _beginning(self, data: Data) -> Iterator[Launch]:
        sparse = data.starts is not None
        entries = (data.starts, data.columns) if sparse else (self.table, self.table)
        arguments = self.table, self.work, data.x, *entries, data.y, data.rows, data.weights, data.present
        made = rows.gather(self.dtype, self.shapes, data.targets, sparse)
        width = 1 if sparse else max(self.layout.layers[0].fan_in, self.layout.layers[-1].fan_out)
        grid = self.shapes.grid(self.layout.batch, width)
        yield Launch(made, grid, self.shapes.threads, arguments, 8 * self.shapes.groups)

    def _forward(self) -> Iterator[Launch]:
        layers, last = self.layout.layers, len(self.layout.layers) - 1
        for index, layer in enumerate(layers):
            yield from self.products.forward(index) if layer.operation is DENSE else self._op(index)
            if not self.layout.fused[index] and layer.activation is not IDENTITY and index < last:
                made = ops.activate(self.dtype, self.shapes, layer.activation)
                yield self._by_rows(made, index, layer.fan_out)

    def _op(self, index: int) -> Iterator[Launch]:
        """Another op than a product, going forward."""
        layer, dtype, sizes = self.layout.layers[index], self.dtype, self.shapes
        name, field = layer.operation.name, Layout.field(index)
        normal = self.table, field, self.params, self.work, self.constants
        if name in FORMULAS:
            yield self._by_rows(ops.noise(dtype, sizes, name, False), index, layer.fan_out)
        elif name in JOINING:
            yield self._by_rows(JOINING[name][0](dtype, sizes), index, layer.fan_out)
        elif name == "embedding":
            made = ops.embed(dtype, sizes)
            yield Launch(made, self._row_grid, sizes.threads, (self.table, field, self.params, self.work))
        elif name == "activity_regularization":
            arguments = self.table, field, layer.fan_out, self.work, self.constants
            made, shared = ops.activity(dtype, sizes), sizes.threads * dtype.itemsize
            yield Launch(made, self._row_grid, sizes.threads, arguments, shared)
        elif name in WHOLE_ROWS:
            made = normalization.by_rows(dtype, sizes, WHOLE_ROWS[name])
            yield Launch(made, self._row_grid, sizes.threads, normal, sizes.threads * dtype.itemsize)
        elif layer.whole_batch and self.layout.backward:
            own = self.table, field, self.work, self.constants
            whole, join = functools.partial(normalization.statistics, dtype, sizes), normalization.join_statistics
            yield from self._down(layer.fan_out, whole, join(dtype, sizes), own, 1)
            yield Launch(normalization.by_batch(dtype, sizes), self._row_grid, sizes.threads, normal)
        elif name in ("batch_normalization", "normalization"):
            made = normalization.by_constants(dtype, sizes, int(name == "batch_normalization"), False)
            yield Launch(made, self._row_grid, sizes.threads, normal)

    def _op_back(self, index: int) -> Iterator[Launch]:
        """Another op than a product, going back: dA of dZ."""
        layer, dtype, sizes = self.layout.layers[index], self.dtype, self.shapes
        name, field = layer.operation.name, Layout.field(index)
        normal = self.table, field, self.params, self.work, self.constants
        if name in FORMULAS:
            yield self._by_rows(ops.noise(dtype, sizes, name, True), index, layer.fan_out, back=True)
        elif name in JOINING:
            yield self._by_rows(JOINING[name][1](dtype, sizes), index, layer.fan_in, back=True)
        elif name == "fork":
            yield self._by_rows(ops.fork_back(dtype, sizes), index, layer.fan_out, back=True)
        elif name == "activity_regularization":
            yield self._by_rows(ops.activity_back(dtype, sizes), index, layer.fan_out, back=True)
        elif name in WHOLE_ROWS:
            made = normalization.by_rows_back(dtype, sizes, WHOLE_ROWS[name])
            yield Launch(made, self._row_grid, sizes.threads, normal, 2 * sizes.threads * dtype.itemsize)
        elif layer.whole_batch:
            yield Launch(normalization.by_batch_back(dtype, sizes), self._row_grid, sizes.threads, normal)
        elif name in ("batch_normalization", "normalization"):
            made = normalization.by_constants(dtype, sizes, int(name == "batch_normalization"), True)
            yield Launch(made, self._row_grid, sizes.threads, normal)

    def _end(self, data: Data) -> Iterator[Launch]:
        """The last activation, the loss, the sums."""
        layout, dtype, sizes, loss = self.layout, self.dtype, self.shapes, self.objective.loss
        row, tallies = layout.layers[-1].activation, self.objective.tallies
        fused = loss is not None and loss.fused_with is not None
        finish = row if loss is None or not fused or tallies else None
        derive = row if layout.backward and not fused else None
        yield from self._penalty()
        own = self.table, self.work, self.constants, self.zeros(1, np.int64), *self._summed
        kind = dtype, sizes, finish, loss, derive, tallies, layout.backward
        wide = layout.layers[-1].fan_out >= sizes.wide and rows.shareable(dtype, sizes, finish, loss, derive)
        if wide:
            yield Launch(rows.wide_output(*kind), self._row_grid[:1], sizes.threads, own, 16 * sizes.threads)
        else:
            made, grid = rows.output(*kind), (-(-layout.batch // sizes.flat),)
            yield Launch(made, grid, sizes.flat, own, 16 * sizes.flat)
        if not tickets.available():
            yield self._close()
        yield from self._tallied(data, wide)

    def closing(self, data: Data) -> Iterator[Launch]:
        """The sums of a batch, of its rows' losses, outputs and targets; it counts the step."""
        yield from self._penalty()
        yield self._close()
        yield from self._tallied(data)

    def _close(self) -> Launch:
        made, block = rows.close(self.dtype, self.shapes, self.layout.backward), self.shapes.single
        return Launch(made, (1,), block, (self.table, self.work, *self._summed), 16 * block)

    def _penalty(self) -> Iterator[Launch]:
        if len(self._penalties):
            arguments = self.upload(self._penalties.ravel()), self.params, self.constants, self._penalty_values
            made, block = weights.penalties(self.dtype, self.shapes), self.shapes.single
            yield Launch(made, (len(self._penalties),), block, (self.table, *arguments), 8 * block)

    @property
    def _summed(self) -> tuple[Any, ...]:
        """What closing a step takes beside the workspace."""
        states = np.array([self.layout.rows[op, lo.STATE] for op in self.layout.active], np.int64)
        place = cuda.to_device(np.append(states, 0))[: len(states)]
        return self.sums, self._penalty_values, self.coefficients, place

    def _tallied(self, data: Data, wide: bool = False) -> Iterator[Launch]:
        """The tallies of a step that is closed; `wide` where threads shared its rows' outputs."""
        layout, dtype, sizes, tallies = self.layout, self.dtype, self.shapes, self.objective.tallies
        column, keeping = 1, iter(data.kept)
        for m, tally in enumerate(tallies):
            labels, count = data.targets == rows.LABELS, tally.sums(layout.layers[-1].fan_out)
            if tally.loop == "kept":
                kept = self.table, self.work, next(keeping), int(tally.weighted)
                yield Launch(rows.keep(dtype, sizes, labels), self._row_grid, sizes.threads, kept)
                continue
            sums = self.table, self.work, self.sums, self.constants, m, column
            yield Launch(rows.tally(dtype, sizes, tally, labels, wide), (count,), sizes.single, sums, 8 * sizes.single)
            column += count

    def _backward(self) -> Iterator[Launch]:
        layout = self.layout
        for index in range(len(layout.layers) - 1, -1, -1):
            layer = layout.layers[index]
            if layer.whole_batch and (index >= layout.lowest or index in layout.learning):
                yield from self._sums_back(index, False)
            if index < layout.lowest:
                continue
            if layer.operation is DENSE:
                yield from self.products.input_gradient(index)
                continue
            yield from self._op_back(index)
            before = layout.befores[index]
            if before >= 0 and (row := layout.layers[before].activation) is not IDENTITY:
                made = ops.derive(self.dtype, self.shapes, row)
                yield self._by_rows(made, before, layout.layers[before].fan_out, back=True)

    def _sums_back(self, index: int, of_rows: bool) -> Iterator[Launch]:
        sizes, fan_out = self.shapes, self.layout.layers[index].fan_out
        arguments = self.table, Layout.field(index), self.work, self.params
        whole = functools.partial(normalization.sums_back, self.dtype, sizes, of_rows)
        yield from self._down(fan_out, whole, normalization.join_sums(self.dtype, sizes, of_rows), arguments, 2)

    def _down(
        self, columns: int, whole: Callable[[bool], Any], join: Any, arguments: tuple[Any, ...], sums: int
    ) -> Iterator[Launch]:
        """Sums down the batch, `sums` at once: by ``whole(False)``, or of parts by ``whole(True)`` and then `join`."""
        sizes = self.shapes
        parts = sizes.parts(self.layout.batch, columns)
        partial = self.zeros(2 * parts * round_up(columns, ROW_MULTIPLE)) if parts > 1 else self.work
        grid, shared = (-(-columns // sizes.lanes), parts), sums * sizes.threads * self.dtype.itemsize
        yield Launch(whole(parts > 1), grid, sizes.threads, (*arguments, partial), shared)
        if parts > 1:
            yield self._flat(join, columns, *arguments, partial, parts)

    # -------------------------------------------------- updates

    @property
    def fused(self) -> bool:
        """Whether each gradient goes into its weight's update right behind its sum."""
        return self.optimizer is not None and not self._late

    @property
    def _late(self) -> bool:
        """Whether every gradient is written out before an update."""
        return self.layout.update in (LATE, GIVEN) or (self.optimizer is not None and self.optimizer.group > 1)

    def _learning(self) -> Iterator[Launch]:
        """The gradients of the weights, and their updates."""
        layout = self.layout
        yield from self.products.weight_gradients(layout.learning, self.fused)
        others = [index for index in layout.learning if layout.layers[index].operation is not DENSE]
        for index in others:
            if layout.layers[index].operation is operations.BATCH_NORMALIZATION:
                made = normalization.learn_by_batch(self.dtype, self.shapes)
                arguments = self.table, Layout.field(index), self.work, self.params, self.constants
                yield self._flat(made, layout.layers[index].fan_out, *arguments, int(self.optimizer is not None))
            elif layout.layers[index].operation is operations.EMBEDDING:
                yield from self._embedding_gradient(index)
            else:
                yield from self._sums_back(index, True)
        if self.optimizer is None and self._penalised:
            tasks = self.tasks([index for index in layout.penalised if index in layout.learning])
            own = self.upload(tasks.ravel()), self.params, self.constants, self.coefficients
            made = weights.penalise(self.dtype, self.shapes)
            yield Launch(made, (len(tasks),), self.shapes.flat, (self.table, *own))
        if self.optimizer is not None:
            yield from self._late_update() if self._late else self._update(others)
            yield from self._constraints()

    def _embedding_gradient(self, index: int) -> Iterator[Launch]:
        sizes, layer, field = self.shapes, self.layout.layers[index], Layout.field(index)
        blocks = max(1, min(1024, layer.parameters // sizes.flat))
        yield Launch(ops.clear_gradient(self.dtype, sizes), (blocks,), sizes.flat, (self.table, field, self.params))
        arguments = self.table, field, self.params, self.work
        made, shared = ops.embed_gradient(self.dtype, sizes), sizes.threads * self.dtype.itemsize
        yield Launch(made, (self.layout.batch,), sizes.threads, arguments, shared)

    def _late_update(self) -> Iterator[Launch]:
        yield from self._update(self.layout.learning)

    def _update(self, indices: list[int]) -> Iterator[Launch]:
        """Updates by gradients that were written out."""
        tasks = self.tasks(indices)
        if not len(tasks):
            return
        optimizer, given = self.optimizer, self.layout.update == GIVEN
        assert optimizer is not None
        how = 1 if given else optimizer.group, self._penalised and not given
        table, clipped = self.upload(tasks.ravel()), optimizer.late
        scales = cuda.to_device(np.ones(2 * len(self.layout.layers), self.dtype))
        if clipped:
            partial, together = self.zeros(len(tasks), np.float64), optimizer.global_clipnorm is not None
            most = float(optimizer.global_clipnorm or optimizer.clipnorm or 0.0)
            made = weights.squares(self.dtype, self.shapes, *how)
            arguments = self.table, table, self.params, self.constants, self.coefficients, partial
            yield Launch(made, (len(tasks),), self.shapes.single, arguments, 8 * self.shapes.single)
            first = np.flatnonzero(np.append(True, (tasks[1:, :2] != tasks[:-1, :2]).any(1)))
            places = 2 * ((tasks[first, 0] - lo.RUN_FIELDS) // lo.OP_FIELDS) + tasks[first, 1]
            arrays = self.upload(np.column_stack([places, first, np.append(first[1:], len(tasks))]).ravel())
            made = weights.factors(self.dtype, self.shapes, together)
            own = self.table, arrays, partial, most, scales
            yield Launch(made, (len(first),), self.shapes.single, own, 8 * self.shapes.single)
        made = weights.update(self.dtype, self.shapes, self.rule, *how, clipped)
        arguments = self.table, table, self.params, self.constants, self.coefficients, scales
        yield Launch(made, (len(tasks),), self.shapes.flat, arguments)

    def updating(self) -> Iterator[Launch]:
        """What follows gradients that were all written out."""
        yield from self._late_update()
        yield from self._constraints()

    def _constraints(self) -> Iterator[Launch]:
        for index in self.layout.learning:
            bound: Constraint | None = self.layout.layers[index].constraint
            if bound is not None:
                yield from self._constraint(index, bound)

    def _constraint(self, index: int, bound: Constraint) -> Iterator[Launch]:
        sizes, layer, field = self.shapes, self.layout.layers[index], Layout.field(index)
        parts = sizes.parts(layer.kernel, layer.neurons)
        partial = self.zeros(parts * layer.neurons)
        grid, shared = (-(-layer.neurons // sizes.lanes), parts), sizes.threads * self.dtype.itemsize
        made = weights.lengths(self.dtype, sizes)
        yield Launch(made, grid, sizes.threads, (self.table, field, self.params, partial), shared)
        arguments = self.table, field, self.params, self.constants, partial, parts
        grid = sizes.grid(layer.kernel)
        yield Launch(weights.constrain(self.dtype, sizes, bound), grid, sizes.threads, arguments)

    def _given(self) -> Launch:
        return Launch(rows.count_step(self.dtype), (1,), 1, (self.table,))

    def _scatter(self, data: Data) -> Launch:
        layer = self.layout.layers[0] if self.layout.backward else self.layout.layers[-1]
        place, ld, columns = lo.H, lo.LDH, layer.fan_out
        index = len(self.layout.layers) - 1
        if self.layout.backward:
            place, ld, columns, index = lo.DA, lo.LDDA, layer.fan_in, 0
        where = (int(number) for number in self.layout.rows[index, [place, ld]])
        made = rows.scatter(self.dtype, self.shapes)
        return Launch(made, self._row_grid, self.shapes.threads, (self.table, self.work, data.result, *where, columns))
