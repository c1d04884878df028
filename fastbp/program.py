"""Floor 2: layers -> the int64 table that the kernels interpret. The only offset arithmetic of the package.

Letters used everywhere: B rows of a batch, I fan-in and O fan-out of a layer, L layers, P parameters. Arrays are
``x (B, I)``, ``w (I, O)``, ``b (O,)``, ``z`` before and ``a`` after the activation; the gradient of ``q`` is ``dq``.

The engine's order of the parameters: each layer is a run of panels of `width` neurons; a panel holds one row of `width`
numbers for each input and, last, the biases. Activations: panels of `samples` batch rows, one row of `samples` numbers
for each neuron and a row of ones that multiplies the biases.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastbp.activations import IDENTITY, RELU, Activation

# ---- columns of an op's row in the table (one op is one dense layer). Addresses are absolute, distances are bytes.
(
    IN,  # I
    STEPS_IN,  # I, plus one with a bias
    OUT,  # O
    W,  # weights
    W_PANEL,  # distance of weight panels
    A,  # inputs of the layer
    A_PANEL,
    Z,  # before the activation
    Z_PANEL,
    H,  # after the activation; the same place as Z where Z isn't kept
    H_PANEL,
    DZ,  # gradient of Z
    DZ_PANEL,
    DA,  # gradient of the inputs, 0 where nobody wants it
    DA_PANEL,
    T,  # dZ transposed: [weight panel][batch row][neuron]
    T_PANEL,
    MODE,  # 1: rectify in the forward tile
    MASK,  # 1: the inputs are rectified, so the backward tile masks by them
    ACTIVATE,  # rule (address), 0 for linear, for MODE 1 and for the last op (see FINISH)
    DERIVE,  # rule that turns dL/da into dL/dz, 0 for linear, for MODE 1 and for the last op
    PARAMETER,  # address of the activation's parameter
    PENALTY,  # address of the strengths (kernel L1 and L2, biases L1 and L2), 0 where there is none
    PENALTY_SUMS,  # where this op's part of them stands
    # rules that stand in for the float products, 0 where these serve; what they read (see ``cpu.bfloat16``)
    FORWARD_RULE,
    BACKWARD_RULE,
    TRANSPOSE_RULE,
    TASK_RULE,
    PACK,  # rule that packs this op's inputs,
    PACK_NEXT,  # and the next op's
    A_PAIRS,
    A_PAIRS_PANEL,
    A_PLAIN,
    A_PLAIN_PANEL,
    DZ_PAIRS,
    DZ_PAIRS_PANEL,
    WF,
    WF_PANEL,
    WB,
    WB_BLOCK,
    AMX,  # 1: by AMX tiles
    THIN,  # rows of a step over few rows (1, 4 or a vector of them; see ``cpu.thin``), 0 where its lanes are samples
) = range(42)
OP_COLUMNS = 42

# ---- columns of a run: what one launch of the workers needs to know
(
    TABLE,
    OPS,
    PHASES,  # of each phase of a step: its first task, then the bounds of each worker's own tasks
    PHASE_COUNT,
    TASKS,  # kind, op, and four bounds each
    X,
    X_ROW,
    Y,
    Y_ROW,
    LABELS,  # 1: y holds class numbers
    N,  # rows of the data
    SUBSET,  # int64 row numbers of x and y that are the data, 0: all of them
    SUBSET_EPOCH,  # bytes from an epoch's row numbers to the next epoch's, 0: the same for all
    BATCH,
    SLAB,  # rows in flight at once: a larger batch runs in slabs
    FIRST_STEP,
    STEPS,
    STEPS_PER_EPOCH,
    SHUFFLE,
    SEED,
    INDEX,  # row numbers of each panel
    SCALE,  # weight of each row in the loss
    ROW_WEIGHTS,  # (N,) numbers that multiply it, 0: none
    ROW_PRESENT,  # (N,) numbers, 0 where a row doesn't count in the metrics; 0: all rows do
    COUNTS,  # of each panel: what a row counts in a metric, and in a weighted metric
    TARGET,  # targets of each panel
    TARGET_PANEL,
    LOSS,  # rule
    LOSS_PARAMETERS,
    FUSED,  # 1: the loss works on Z of the last op
    FINISH,  # rule: the last op's activation, 0 where nobody wants it
    FINISH_DERIVE,  # rule: dL/dh of the last op becomes dL/dz, 0 where the loss gives dL/dz
    FINISH_COUNT,  # columns (of a coupled activation) or vectors that the two work on
    MEAN_ROWS,
    METRICS,  # the rule of each and which of the counts it takes
    METRIC_COUNT,
    PARTIAL,  # (panel, 1 + metrics) float64: sums of the slab
    SUMS,  # (epoch of the run, 1 + metrics) float64
    UPDATE,  # rule
    MOMENTS,  # distance of the moment arrays
    ARRAYS,  # arrays that the update writes: the weights and the moments
    COEFFICIENTS,  # (step of the run, coefficients)
    COEFFICIENTS_ROW,
    GRADIENT,  # distance from w to its gradient, 0: tiles are updated as they are finished
    SCRATCH,
    SCRATCH_WORKER,
    SYNC,
    THREADS,
    STOP,
    YIELD,
    STATUS,
    RESULT,  # predictions (N, O), or the inputs' gradient
    RESULT_ROW,
    BACKWARD,
    UNFIT,  # where to write 1 when an input isn't finite, 0: they were looked at before
    PENALTY_VALUE,  # rule
    PENALTY_PULL,  # rule
    PENALTIES,  # float64 values of the blocks of all ops in even steps, then in odd ones, 0 where nothing is penalised
    PENALTY_COUNT,  # blocks
    PROFILE,  # each worker's ticks: waiting for others, then in each phase; 0 where nobody asks
    PROFILE_WORKER,
) = range(61)
RUN_COLUMNS = 61

# ---- what STATUS says of a run
(
    RUNNING,
    STOPPED,  # on request, before a step
    DIVERGED,  # the loss of the step after those finished isn't finite; it updated nothing
    OVERFLOWN,  # a weight would not have stayed finite in the last step finished (a guarded update; see ``cpu.rules``)
) = range(4)

# ---- kinds of task
ROWS, GATHER, FORWARD, OUTPUT, BACK, INPUT_GRADIENT, WEIGHTS, SUM = range(8)
TASK_COLUMNS = 6

LINE = 64
NEURON_BLOCK = 256  # outputs of a block stay in L2 over the blocks of k
K_BLOCK = 192  # rows of a panel that stay in L1 over the neurons of a block
ROWS_OF_TILE, PANELS_OF_TILE = 32, 16  # a task of the weights phase: 32 inputs x 16 panels of neurons
FEW_TILES = 12  # a thread: below that the tasks are halved, to share them better
SLAB_ROWS, SLAB_BYTES = 1024, 4 << 20
PANELS_PER_TASK = 8
THIN_PARAMETERS = 4096  # below that a whole panel of samples costs little


class Tiles(Protocol):
    """What a program needs to know of an engine's tiles (see ``cpu.tile.Geometry``)."""

    @property
    def lanes(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def width(self) -> int: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class LayerSpec:
    """One dense layer, resolved: I, O, whether it has a bias, its activation and its penalty.

    penalty : l1 and l2 of ``l1 * sum(abs(w)) + l2 * sum(w * w)`` over the kernel, then of the biases
    """

    fan_in: int
    fan_out: int
    bias: bool
    activation: Activation
    penalty: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @property
    def steps(self) -> int:
        return self.fan_in + self.bias

    @property
    def parameters(self) -> int:
        return self.steps * self.fan_out


Piece = tuple[Any, Any, np.ndarray]
"""Part of a matrix: (first row, None, rows of it), or (row numbers, column numbers, as many values)."""

PIECE = 1 << 17  # numbers: a piece in float64 is 1 MB, and stays in cache on its way into the panels


def pieces_of(array: np.ndarray) -> Iterator[Piece]:
    """A matrix, or one row of it, in pieces of whole rows."""
    matrix = np.atleast_2d(array)
    for first, count in row_blocks(*matrix.shape):
        yield first, None, matrix[first : first + count]


def row_blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of the blocks that a matrix is drawn and copied in."""
    step = max(1, PIECE // columns)
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


def round_up(n: int, multiple: int) -> int:
    """The least multiple that is at least n."""
    return -(-n // multiple) * multiple


def _spread(nbytes: int) -> int:
    """A distance of panels off the 4 KB period, so that neighbours don't fall on the same cache sets."""
    return nbytes if nbytes < 8192 else nbytes + (1024 - nbytes) % 4096


class Program:
    """A network in the engine's order: where each weight stands, and what a step does with it.

    Parameters
    ----------
    layers : the resolved layers, first to last
    dtype : float32 or float64
    tiles : the engine's tile geometry
    half : whether products read copies in bfloat16 (of float32 only)
    """

    def __init__(self, layers: Sequence[LayerSpec], dtype: np.dtype, tiles: Tiles, half: bool = False) -> None:
        self.layers, self.dtype, self.tiles, self.half = tuple(layers), np.dtype(dtype), tiles, half
        size = self.dtype.itemsize
        self.panel_bytes, self.offsets, end = [], [], 0
        for layer in self.layers:
            panel = layer.steps * tiles.width * size
            self.panel_bytes.append(panel)
            self.offsets.append(end)
            end = round_up(end + self.panels(layer.fan_out) * panel, LINE)
        self.parameter_bytes = round_up(end, 4096) + LINE
        self.copies = np.zeros((len(self.layers), 4), np.int64)
        self.copy_bytes = self._lay_out_copies() if half else 0

    def _lay_out_copies(self) -> int:
        """Columns WF, WF_PANEL, WB and WB_BLOCK of the weights' bfloat16 copies, as offsets; returns their bytes."""
        tiles, end = self.tiles, 0
        vector = tiles.lanes * self.dtype.itemsize
        for index, layer in enumerate(self.layers):
            panel = -(-layer.steps // (2 * tiles.lanes)) * tiles.width * vector
            block = -(-layer.fan_out // (2 * tiles.lanes)) * tiles.lanes * vector
            blocks = -(-layer.fan_in // tiles.lanes) if index else 0  # nobody asks for dx in bfloat16
            # a tile of two panels reads the panel after the last
            self.copies[index] = end, panel, end + (self.panels(layer.fan_out) + 1) * panel, block
            end = int(self.copies[index, 2]) + (blocks + 1) * block
        return round_up(end, 4096) + LINE

    def panels(self, neurons: int) -> int:
        return -(-neurons // self.tiles.width)

    @property
    def parameter_count(self) -> int:
        """P, without padding."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of one row's training step: forward, backward and gradient products."""
        products = [2 * layer.fan_in * layer.fan_out for layer in self.layers]
        return 3 * sum(products) - products[0]

    # -------------------------------------------------- weights in and out

    def _view(self, flat: np.ndarray, index: int) -> np.ndarray:
        """A layer's panels in the flat array, (panels, I + bias, width)."""
        layer, size = self.layers[index], self.dtype.itemsize
        shape = (self.panels(layer.fan_out), layer.steps, self.tiles.width)
        start = self.offsets[index] // size
        return flat[start : start + int(np.prod(shape))].reshape(shape)

    def put(self, flat: np.ndarray, arrays: Iterable[np.ndarray | Iterable[Piece]]) -> None:
        """Write kernels (I, O) and biases (O,), in turn, into the engine's flat array; an array may come in pieces."""
        queue = iter(arrays)
        for index, layer in enumerate(self.layers):
            view = self._view(flat, index)
            view[-1, :, layer.fan_out - (len(view) - 1) * self.tiles.width :] = 0
            self._write(view[:, : layer.fan_in], next(queue))
            if layer.bias:
                self._write(view[:, layer.fan_in :], next(queue))

    def _write(self, view: np.ndarray, source: np.ndarray | Iterable[Piece]) -> None:
        """Fill panels (panels, rows, width) with a matrix, some rows at a time: no copy of the whole is made."""
        width, by_rows = self.tiles.width, view.transpose(1, 0, 2)
        for rows, columns, values in pieces_of(source) if isinstance(source, np.ndarray) else source:
            if columns is None:
                count, outs = values.shape
                full, target = outs // width, by_rows[rows : rows + count]
                target[:, :full] = values[:, : full * width].reshape(count, full, width)
                if outs > full * width:
                    target[:, full, : outs - full * width] = values[:, full * width :]
            else:
                by_rows[rows, columns // width, columns % width] = values

    def take(self, flat: np.ndarray) -> list[np.ndarray]:
        """Kernels (I, O) and biases (O,), in turn, copied out of the engine's flat array."""
        arrays = []
        for index, layer in enumerate(self.layers):
            view = self._view(flat, index)
            arrays.append(self._read(view[:, : layer.fan_in], layer.fan_out))
            if layer.bias:
                arrays.append(self._read(view[:, layer.fan_in :], layer.fan_out)[0].copy())
        return arrays

    def _read(self, view: np.ndarray, outs: int) -> np.ndarray:
        matrix = np.empty((view.shape[1], outs), self.dtype)
        for panel, start in zip(view, range(0, outs, self.tiles.width), strict=True):
            matrix[:, start : start + self.tiles.width] = panel[:, : outs - start]
        return matrix

    def thin_rows(self, batch: int) -> int:
        """Rows that a step of `batch` computes where they are few (see ``cpu.thin``), else 0."""
        lanes = self.tiles.lanes
        if batch > lanes or self.parameter_count < THIN_PARAMETERS or self.half:
            return 0
        return next(rows for rows in (1, min(4, lanes), lanes) if batch <= rows)

    # -------------------------------------------------- a step's table

    def plan(self, batch: int, threads: int, *, backward: bool, input_gradient: bool = False) -> "Plan":
        """Lay out a step over at most `batch` rows: once for all networks of these layers."""
        return _plan(self.layers, self.dtype, self.tiles, self.half, batch, threads, backward, input_gradient)


@functools.lru_cache(maxsize=64)
def _plan(layers: tuple[LayerSpec, ...], dtype: np.dtype, tiles: Tiles, half: bool, *step: Any) -> "Plan":
    return Plan(Program(layers, dtype, tiles, half), *step)


class Plan:
    """Buffers, phases and tasks of one kind of step, as offsets: `bind` makes them addresses.

    Attributes
    ----------
    nbytes : bytes of the workspace
    slab : most rows in flight
    slabs : how many slabs a full batch takes
    phases : (phases, 2 + threads) int64: first task, then the bounds of each worker's own tasks
    tasks : (tasks, TASK_COLUMNS) int64
    ones : (offset, count) runs of numbers that must be 1
    """

    def __init__(self, program: Program, batch: int, threads: int, backward: bool, input_gradient: bool) -> None:
        self.program, self.backward = program, backward
        tiles, size = program.tiles, program.dtype.itemsize
        row = tiles.samples * size
        widths = [program.layers[0].fan_in, *(layer.fan_out for layer in program.layers)]
        row_bytes = 2 * size * sum(widths)
        most = max(SLAB_ROWS, SLAB_BYTES // row_bytes)
        self.slab = round_up(min(batch, round_up(most, tiles.samples)), tiles.samples)
        self.slabs = -(-batch // self.slab)
        self.thin = program.thin_rows(batch)
        self.panels = self.slab // tiles.samples
        self.nbytes = 0
        self.ones: list[tuple[int, int]] = []

        def reserve(rows: int) -> tuple[int, int]:
            """(offset, distance of panels) of a buffer with `rows` rows in each panel."""
            distance = _spread(round_up(rows, tiles.lanes) * row)
            return self._take(distance * self.panels), distance

        def activations(rows: int, ones: bool) -> tuple[int, int]:
            offset, distance = reserve(rows + ones)
            if ones:
                self.ones += [((offset + p * distance + rows * row) // size, tiles.samples) for p in range(self.panels)]
            return offset, distance

        layers = program.layers
        # a layer's dZ is read for the last time when that of the layer before is written: two places in turn do. Not
        # for the float products of layers whose last vector isn't full: what is beyond their neurons must stay zero
        turning = [backward and (program.half or layer.fan_out % tiles.lanes == 0) for layer in layers]
        turns = [layer.fan_out for layer, turn in zip(layers, turning, strict=True) if turn]
        places = [reserve(max(turns)) for _ in turns[:2]]

        def gradients(index: int) -> tuple[int, int]:
            return places[index % len(places)] if turning[index] else reserve(layers[index].fan_out)

        self.table = np.zeros((len(layers), OP_COLUMNS), np.int64)
        inputs = activations(layers[0].fan_in, layers[0].bias)
        gradient = reserve(layers[0].fan_in) if input_gradient else (0, 0)
        for index, layer in enumerate(layers):
            op = self.table[index]
            last = index == len(layers) - 1
            op[[IN, STEPS_IN, OUT, THIN]] = layer.fan_in, layer.steps, layer.fan_out, self.thin
            op[W], op[W_PANEL] = program.offsets[index], program.panel_bytes[index]
            op[[A, A_PANEL]], op[[DA, DA_PANEL]] = inputs, gradient
            op[MODE] = layer.activation is RELU
            op[MASK] = index > 0 and layers[index - 1].activation is RELU
            inputs = activations(layer.fan_out, not last and layers[index + 1].bias)
            kept = (last or (backward and layer.activation.keeps_z)) and layer.activation not in (IDENTITY, RELU)
            op[[H, H_PANEL]] = inputs
            op[[Z, Z_PANEL]] = reserve(layer.fan_out) if kept else inputs
            if backward or last:
                gradient = gradients(index)
                op[[DZ, DZ_PANEL]] = gradient
            if backward:
                numbers = tiles.lanes if program.half else tiles.samples
                op[T_PANEL] = self.panels * numbers * tiles.width * size + LINE
                op[T] = self._take(int(op[T_PANEL]) * program.panels(layer.fan_out))
            if program.half:
                op[[A_PAIRS, A_PAIRS_PANEL]] = self._pairs(layer.steps)
                if backward:
                    op[[DZ_PAIRS, DZ_PAIRS_PANEL]] = self._pairs(layer.fan_out)
                    distance = _spread(round_up(layer.steps, tiles.lanes) * tiles.lanes * size)
                    op[[A_PLAIN, A_PLAIN_PANEL]] = self._take(distance * self.panels), distance
        self.index = self._take(self.panels * tiles.samples * 8)
        self.scale = self._take(self.panels * row)
        self.counts = self._take(self.panels * row * 2)
        self.target, self.target_panel = reserve(layers[-1].fan_out)
        self.phases, self.tasks = self._schedule(threads)

    def _pairs(self, numbers: int) -> tuple[int, int]:
        """(offset, distance of panels) of a buffer with a row for each pair along a sum of so many numbers."""
        tiles = self.program.tiles
        row = tiles.samples * self.program.dtype.itemsize
        distance = _spread(round_up(numbers, 2 * tiles.lanes) // 2 * row)
        return self._take(distance * self.panels), distance

    def _take(self, nbytes: int) -> int:
        offset = self.nbytes
        self.nbytes += round_up(nbytes, LINE)
        return offset

    def _schedule(self, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Phases and tasks. How the rows are cut changes who computes a number, never the number."""
        layers = self.program.layers
        work = 2 * self.slab * sum(layer.parameters for layer in layers)
        phases: list[list[tuple[int, ...]]] = []
        few_panels = self.panels < 2 * threads and threads > 1
        if few_panels and (self.thin or work / self.panels > 2e6):
            phases = self._cut_by_layers(threads)
        else:
            share = max(1, min(PANELS_PER_TASK, -(-self.panels // threads)))
            count = -(-self.panels // share)
            bounds = [self.panels * i // count for i in range(count + 1)]
            phases.append([(ROWS, 0, lo, hi, 0, 0) for lo, hi in itertools.pairwise(bounds)])
        final: list[tuple[int, ...]] = [(SUM, 0, 0, 0, 0, 0)]
        if self.backward:
            if self.thin and threads > 1:
                final += self._owned_tiles(threads)
            else:
                final += self._weight_tiles(ROWS_OF_TILE)
            if threads > 1 and len(final) <= FEW_TILES * threads and not self.program.half and not self.thin:
                final[1:] = self._weight_tiles(ROWS_OF_TILE // 2)
        phases.append(final)
        starts = np.cumsum([0, *(len(phase) for phase in phases)])
        table = [(start, *_shares(phase, threads)) for start, phase in zip(starts, phases, strict=False)]
        return np.array(table, np.int64), np.array([task for phase in phases for task in phase], np.int64)

    def _weight_tiles(self, rows: int) -> list[tuple[int, ...]]:
        """Tasks of the weights phase: `rows` inputs x PANELS_OF_TILE panels of neurons, no thin rests."""
        program = self.program
        return [
            (WEIGHTS, index, k0, k1, j0, j1)
            for index, layer in enumerate(program.layers)
            for j0, j1 in _blocks(program.panels(layer.fan_out), PANELS_OF_TILE)
            for k0, k1 in _blocks(layer.steps, rows, sliver=program.tiles.lanes // 2)
        ]

    def _owned_tiles(self, threads: int) -> list[tuple[int, ...]]:
        """Tasks of the weights phase of a thin step, thread by thread: the neurons whose sums it made going forward."""
        program = self.program
        return [
            (WEIGHTS, index, k0, k1, first + j0, first + j1)
            for thread in range(threads)
            for index, layer in enumerate(program.layers)
            for first, last in [_part(program.panels(layer.fan_out), thread, threads)]
            for j0, j1 in _blocks(last - first, PANELS_OF_TILE)
            for k0, k1 in _blocks(layer.steps, ROWS_OF_TILE, sliver=program.tiles.lanes // 2)
        ]

    def _cut_by_layers(self, threads: int) -> list[list[tuple[int, ...]]]:
        """(row block x neuron block) tasks, a phase for each product of each layer: for few rows and many cores."""
        layers, tiles = self.program.layers, self.program.tiles
        rows = list(_blocks(self.panels, PANELS_PER_TASK))

        def pieces(neurons: int) -> list[tuple[int, int]]:
            if self.thin:
                parts = [_part(self.program.panels(neurons), thread, threads) for thread in range(threads)]
                return [(j0 * tiles.width, min(neurons, j1 * tiles.width)) for j0, j1 in parts if j0 < j1]
            per_task = max(1, -(-neurons * len(rows) // (4 * threads * tiles.width)))
            return list(_blocks(neurons, min(per_task * tiles.width, NEURON_BLOCK // tiles.width * tiles.width)))

        phases: list[list[tuple[int, ...]]] = [[(GATHER, 0, p, p + 1, 0, 0) for p in range(self.panels)]]
        for index, layer in enumerate(layers):
            phases.append([(FORWARD, index, lo, hi, o0, o1) for lo, hi in rows for o0, o1 in pieces(layer.fan_out)])
        phases.append([(OUTPUT, 0, p, p + 1, 0, 0) for p in range(self.panels)])
        if self.backward:
            for index in range(len(layers) - 1, -1, -1):
                if index or self.table[0, DA_PANEL]:
                    blocks = pieces(layers[index].fan_in)
                    phases.append([(BACK, index, lo, hi, i0, i1) for lo, hi in rows for i0, i1 in blocks])
            if self.table[0, DA_PANEL]:
                phases.append([(INPUT_GRADIENT, 0, p, p + 1, 0, 0) for p in range(self.panels)])
        return phases

    def bind(self, workspace: int, parameters: int, copies: int = 0) -> np.ndarray:
        """The table with absolute addresses."""
        table = self.table.copy()
        table[:, W] += parameters
        for column in (A, Z, H, DZ, T):
            table[:, column] += workspace
        wanted = np.arange(len(table)) > 0
        wanted[0] = bool(table[0, DA_PANEL])
        table[wanted, DA] += workspace
        if self.program.half:
            table[:, WF : WB_BLOCK + 1] = self.program.copies
            table[:, WF] += copies
            table[1:, WB] += copies
            table[0, WB] = 0
            table[:, A_PAIRS] += workspace
            if self.backward:
                table[:, A_PLAIN] += workspace
                table[:, DZ_PAIRS] += workspace
        return table


def _blocks(n: int, block: int, sliver: int = 0) -> list[tuple[int, int]]:
    """0..n in runs of `block`; a rest of at most `sliver` joins the run before it."""
    runs, start = [], 0
    while start < n:
        end = min(n, start + block)
        if n - end <= sliver:
            end = n
        runs.append((start, end))
        start = end
    return runs


def _part(n: int, thread: int, threads: int) -> tuple[int, int]:
    """The thread's part of 0..n, the first ones the larger."""
    return -(-n * thread // threads), -(-n * (thread + 1) // threads)


def _shares(phase: Sequence[tuple[int, ...]], threads: int) -> list[int]:
    """Bounds of each worker's own tasks: equal parts of the area that the tasks cover."""
    area = np.cumsum([max(1, (task[3] - task[2]) * max(1, task[5] - task[4])) for task in phase])
    ends = np.array([0, *area])
    cuts = [int(np.abs(ends - area[-1] * i / threads).argmin()) for i in range(1, threads)]
    return [0, *cuts, len(phase)]
