"""Floor 2: layers -> the int64 table that the kernels interpret. The only offset arithmetic of the package.

Letters used everywhere: B rows of a batch, I fan-in and O fan-out of a layer, L layers, P parameters. Arrays are
``x (B, I)``, ``w (I, O)``, ``b (O,)``, ``z`` before and ``a`` after the activation; the gradient of ``q`` is ``dq``.

The engine's order of the parameters: each layer is a run of panels of `width` neurons; a panel holds one row of `width`
numbers for each input and, last, the biases. Where an engine's tiles name no width, one panel holds all of a layer's
neurons: plain rows. Activations: panels of `samples` batch rows, one row of `samples` numbers
for each neuron and a row of ones that multiplies the biases. Other ops than products have panels of as many rows as a
neuron has numbers (see ``operations``).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fastbp._signals import HeldBack
from fastbp.activations import Activation
from fastbp.constraints import Constraint
from fastbp.layout.operations import DENSE, Operation

# ---- columns of an op's row in the table (an op is a product, or what stands between two). Addresses are absolute,
# distances are bytes.
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
    RATES,  # distance from a step's coefficients to this op's own, which its multiplier of the learning rate is in
    SQUARES,  # where the sums of squares of its gradient stand, 0 where nobody asks (see ``cpu.updates``)
    CONSTRAIN,  # rule that brings the kernel to its constraint, 0 where there is none
    CONSTRAINT,  # address of the constraint's numbers
    PACK_RULE,  # rule that packs weights after an update
    SPARSE,  # address of what it reads sparse rows by (see ``cpu.sparse``), 0 where its inputs are dense
    KERNEL,  # rows of its panels that are one array of weights; what follows is another
    BEFORE,  # distance back to the op whose dZ this one's DA is, 0 where there is none
    PACK_TO,  # distance on to the op whose inputs PACK_NEXT packs,
    PACK_TO_TOO,  # and to another one, 0 where there is none
    SKIP,  # a second input: what a join adds; the second gradient that a fork adds
    SKIP_PANEL,
    STATE,  # what the op keeps of the batch rows (in panels) or of its neurons (one array after the other)
    STATE_PANEL,
    NUMBERS,  # address of the op's own numbers
    KEY,  # names the op's noise
    LEARNED,  # 1: it has a gamma; plus 2: it has a beta
    STATISTICS,  # rule: sums over the batch before the op,
    STATISTICS_BACK,  # and before its way back
    ACTIVITY,  # 1: each panel of STATE holds a penalty (float64) that is part of the loss
    ONES,  # 1: a row of ones follows the network's inputs, which a product with a bias reads
    W_PANELS,  # weight panels
    PICKS,  # address of int64: the op's ``LayerSpec.picks``
    TERMS,  # distance from a worker's scratch to its room for terms (see ``cpu.terms``), 0 where nobody asks
    SUMMED,  # 1: its gradient is summed by halves of the rows (see ``cpu.halves``)
    FEW,  # neurons of the last panel where their gradient is summed along the samples, 0 where it isn't
    SINGLE,  # 1: tiles of one vector go through a panel whose rows fill no more
    BORDER,  # inputs before this one are summed apart from the others (see ``cpu.sides``), 0: all in one sum
    PART,  # where the second sum goes; on a side, that of its own inputs
    PART_PANEL,
    PART_OTHER,  # of a side's row: distance to the other side's sum,
    FIRST_IN,  # its inputs, neurons and tasks
    END_IN,
    FIRST_OUT,
    END_OUT,
    FIRST_TASK,
    END_TASK,
) = range(79)
OP_COLUMNS = 79

# ---- columns of a run: what one launch of the workers needs to know
(
    TABLE,
    OPS,
    PHASES,  # of each phase of a step: its first task, then the bounds of each worker's own tasks
    PHASE_COUNT,
    TASKS,  # kind, op, and four bounds each
    X,
    X_ROW,
    X_AHEAD,  # bytes of a row where those of the next panel are asked for meanwhile, else 0
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
    SHUFFLE,  # bits of the row numbers, 0: rows in order
    SEED,
    INDEX,  # row numbers of each panel, then of the panel that follows each
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
    METRICS,  # a row of TALLY_COLUMNS for each
    METRIC_COUNT,
    PARTIAL,  # (panel, SUM_COUNT) float64: sums of the slab
    SUMS,  # (epoch of the run, SUM_COUNT) float64
    UPDATE,  # rule
    MOMENTS,  # distance of the moment arrays
    ARRAYS,  # arrays that are asked for ahead of their update: the weights, perhaps the moments
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
    SUM_COUNT,  # 1, of the loss, and those of the metrics
    WEIGHTS_PHASE,  # number of the phase that sums the gradient; one that updates by the whole of it may follow
    LATE,  # rule of that phase's update, 0 where the weights phase updates
    MOST_NORM,  # address of the largest norm (float64) of a gradient, 0 for any
    CLIP_GLOBAL,  # 1: of all ops' gradients together, else of each array's
    SQUARE_STRENGTHS,  # address of (0, 1): the penalty that is a sum of squares
    ACCUMULATE,  # steps whose mean gradient makes one update
    ACCUMULATED,  # how many of them were done before the first step of the run
    AVERAGE,  # rule that divides the sum of their gradients, 0 for one step an update
    SHARE,  # address of 1 / ACCUMULATE
    NOISE,  # number of the first step since the weights were drawn: it names the noise
    NOW,  # of each worker, a line long: what it works on (see below)
    ACTIVITIES,  # 1: some op penalises what it passes on
    STILL,  # 1: an update leaves weights as they are whose gradient is 0, but for penalties
    APART,  # distance from w to the gradient of the first half, 0: the weights phase sums both
    APART_NEXT,  # and from there to that of the second
    TURN,  # rows of a half that go through, panel by panel, before the next take their place; 0: each has its own
    BEFORE_STEP,  # int64 and (SUM_COUNT) float64: a step's number in the run plus 1, and the sums before it; 0: no step
    # is left once its sums are added
    SIDES,  # the two runs of a step that is cut by neurons (see ``cpu.sides``), 0: it goes by phases
    SIDE_TASKS,  # of such a run, its tasks
    LOWEST,  # the first op that is gone back through
) = range(83)
RUN_COLUMNS = 83

# ---- columns of NOW: what an op's rule may ask about the slab of rows that it works on
(
    NOW_RUN,
    NOW_STEP,  # NOISE plus the step of the run
    NOW_FIRST,  # place in the batch of the slab's first row
    NOW_COUNT,  # rows of the slab
    NOW_ROWS,  # rows of the batch
    NOW_PACKED,  # names what the worker's scratch holds of this slab, 0: nothing (see ``cpu.terms``)
    NOW_STOP,  # address of a number that isn't 0 where the slab is to be left
    NOW_NEVER,  # 0
) = range(8)

# ---- columns of a metric's row
(
    TALLY_RULE,
    TALLY_COUNTS,  # which of the two counts it takes
    TALLY_PLACE,  # its first sum among the panel's; where it keeps rows, the place of the epoch's first
    TALLY_ROW,  # bytes of a row kept, 0: it takes sums
    TALLY_NUMBERS,  # address of its numbers
) = range(5)
TALLY_COLUMNS = 5

# ---- what STATUS says of a run
(
    RUNNING,
    STOPPED,  # on request, before a step
    DIVERGED,  # the loss of the step after those finished isn't finite; it updated nothing
    OVERFLOWN,  # a weight would not have stayed finite in the last step finished (a guarded update; see ``cpu.rules``)
) = range(4)

# ---- kinds of task
(
    ROWS,  # op: whether to gather; from op n0 forward, and back again through op n1
    UP,  # op: whether to gather; forward through the ops n0:n1
    DOWN,  # back through the ops n0:n1
    GATHER,
    FORWARD,
    OUTPUT,
    BACK,
    INPUT_GRADIENT,
    STATISTICS_UP,
    STATISTICS_DOWN,
    WEIGHTS,
    SUM,
    MEASURE,
    APPLY,
    HALF,  # op: which half of the panels; back through op n1, and the sums of its gradient
) = range(15)
TASK_COLUMNS = 6

LINE = 64
ROW_MULTIPLE = 4  # numbers: rows of plain matrices begin at multiples of 16 bytes
NEURON_BLOCK = 256  # outputs of a block stay in L2 over the blocks of k
K_BLOCK = 192  # rows of a panel that stay in L1 over the neurons of a block
ROWS_OF_TILE, PANELS_OF_TILE = 32, 16  # a task of the weights phase: 32 inputs x 16 panels of neurons
TABLE_ROWS = ROWS_OF_TILE * PANELS_OF_TILE  # of one panel of an embedding: as large a task, as each looks at all rows
SLAB_ROWS = 1024
TOUCHED_BYTES = 32 << 20
THIN_PARAMETERS = 2048  # below that a whole panel of samples costs little, but for one row
THIN_OUTPUTS, MANY_PARAMETERS = 64, 1 << 18
SETTABLE = "penalty", "trainable", "rate", "constraint", "numbers"
"""What of a `LayerSpec` may change between runs."""


class Tiles(Protocol):
    """What a program needs to know of an engine's tiles (see ``cpu.tile.Geometry``)."""

    @property
    def lanes(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def terms(self) -> bool: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class LayerSpec:
    """One op, resolved: I, O, whether it has a bias, its activation, and what holds for its weights.

    penalty : l1 and l2 of ``l1 * sum(abs(w)) + l2 * sum(w * w)`` over the kernel, then of the biases
    trainable : whether training changes them
    rate : what the learning rate is multiplied by
    constraint : what the kernel is brought back to after each update
    operation : what it does
    numbers : the operation's own numbers
    rows : of another op than a product, the names of its neurons' own numbers
    source : number of the op whose outputs it takes, -1 for the network's inputs, None for the op before
    skip : number of the op whose outputs are the second input, -1 for the network's inputs
    key : names its noise
    matrix : of another op than a product, the shape of its parameters where they are one matrix
    picks : of an op that chooses columns, which ones (see ``operations``)
    """

    fan_in: int
    fan_out: int
    bias: bool
    activation: Activation
    penalty: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    trainable: bool = True
    rate: float = 1.0
    constraint: Constraint | None = None
    operation: Operation = DENSE
    numbers: tuple[float, ...] = ()
    rows: tuple[str, ...] = ()
    source: int | None = None
    skip: int | None = None
    key: int = 0
    matrix: tuple[int, int] | None = None
    picks: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Rows of a panel of its parameters."""
        if self.matrix is not None:
            return self.matrix[0]
        return self.fan_in + self.bias if self.operation is DENSE else len(self.rows)

    @property
    def neurons(self) -> int:
        """Columns of its parameters, which stand in panels."""
        return self.fan_out if self.matrix is None else self.matrix[1]

    @property
    def learned(self) -> int:
        """Rows of a panel, the first ones, that an optimizer may update."""
        if self.operation is DENSE or self.matrix is not None:
            return self.steps
        return sum(row in self.operation.learned for row in self.rows)

    @property
    def kernel(self) -> int:
        """Rows of a panel, the first ones, that are one array of weights; the learned rows behind it are another."""
        if self.matrix is not None:
            return self.steps
        return self.fan_in if self.operation is DENSE else min(1, self.learned)

    @property
    def whole_batch(self) -> bool:
        """Whether training needs sums over the batch before it (a frozen normalisation goes by its constants)."""
        return self.operation.whole_batch and self.trainable

    @property
    def arrays(self) -> list[tuple[int, tuple[int, ...]]]:
        """Its parameters as users see them: the first row of a panel and the shape of each."""
        if self.matrix is not None:
            return [(0, self.matrix)]
        if self.operation is DENSE:
            kernel: tuple[int, tuple[int, ...]] = 0, (self.fan_in, self.fan_out)
            return [kernel, (self.fan_in, (self.fan_out,))] if self.bias else [kernel]
        return [(row, (self.fan_out,)) for row in range(self.steps)]

    @property
    def parameters(self) -> int:
        """How many numbers they are."""
        return self.steps * self.neurons


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


def blocks(n: int, block: int, sliver: int = 0) -> list[tuple[int, int]]:
    """0..n in runs of `block`; a rest of at most `sliver` joins the run before it."""
    runs, start = [], 0
    while start < n:
        end = min(n, start + block)
        if n - end <= sliver:
            end = n
        runs.append((start, end))
        start = end
    return runs


def round_up(n: int, multiple: int) -> int:
    """The least multiple that is at least n."""
    return -(-n // multiple) * multiple


def aligned(nbytes: int, used: int | None = None) -> np.ndarray:
    """Zeroed bytes on a cache line, large ones on a huge page: np.empty asks the system for those, np.zeros doesn't.

    used : how many are wanted now (default all); the others aren't touched, so that the system needn't provide them yet

    Ctrl-C is noticed in between: a system may provide less than 1 GB a second.
    """
    border = 1 << 21 if nbytes > 1 << 21 else LINE
    raw = np.empty(nbytes + border, np.uint8)
    start = -raw.ctypes.data % border
    end = start + (nbytes if used is None else used)
    for first in range(start, end, TOUCHED_BYTES):
        raw[first : min(end, first + TOUCHED_BYTES)].fill(0)
        if end - start > TOUCHED_BYTES:
            HeldBack.heed()
    return raw[start : start + nbytes]


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
            panel = layer.steps * self.panel_width(layer.neurons) * size
            self.panel_bytes.append(panel)
            self.offsets.append(end)
            end = round_up(end + self.panels(layer.neurons) * panel, LINE)
        # moments follow at this distance: a line apart, each store would look like the next load (tab 3 % slower)
        self.parameter_bytes = round_up(end, 4096) + 17 * LINE
        self.sources = [i - 1 if layer.source is None else layer.source for i, layer in enumerate(self.layers)]
        self.copies = np.zeros((len(self.layers), 4), np.int64)
        self.copy_bytes = self._lay_out_copies() if half else 0

    def _lay_out_copies(self) -> int:
        """Columns WF, WF_PANEL, WB and WB_BLOCK of the weights' bfloat16 copies, as offsets; returns their bytes."""
        tiles, end = self.tiles, 0
        vector = tiles.lanes * self.dtype.itemsize
        for index, layer in enumerate(self.layers):
            if layer.operation is not DENSE:
                continue
            panel = -(-layer.steps // (2 * tiles.lanes)) * tiles.width * vector
            block = -(-layer.fan_out // (2 * tiles.lanes)) * tiles.lanes * vector
            blocks = -(-layer.fan_in // tiles.lanes) if index else 0  # nobody asks for dx in bfloat16
            # a tile of two panels reads the panel after the last
            self.copies[index] = end, panel, end + (self.panels(layer.fan_out) + 1) * panel, block
            end = int(self.copies[index, 2]) + (blocks + 1) * block
        return round_up(end, 4096) + LINE

    def described(self, layers: Sequence[LayerSpec]) -> "Program":
        """The program with what may change of layers after they were built; itself where nothing did.

        Raises
        ------
        RuntimeError : something else did
        """
        if tuple(layers) == self.layers:
            return self
        pairs = zip(self.layers, layers, strict=True)
        if [replace(old, **{name: getattr(new, name) for name in SETTABLE}) for old, new in pairs] != list(layers):
            raise RuntimeError(
                "a layer's units, bias or activation were changed after the model was built; make a new model. "
                "Penalties, constraints, trainable and lr_multiplier may be set"
            )
        return Program(layers, self.dtype, self.tiles, self.half)

    def panel_width(self, neurons: int) -> int:
        """Neurons of a panel: all of a layer's, a few for padding, where the engine's tiles name no width."""
        return self.tiles.width or round_up(neurons, ROW_MULTIPLE)

    def panels(self, neurons: int) -> int:
        """How many panels hold a layer's neurons."""
        return -(-neurons // self.panel_width(neurons))

    @property
    def parameter_count(self) -> int:
        """P, without padding."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of one row's training step: forward, backward and gradient products."""
        products = [2 * layer.fan_in * layer.fan_out for layer in self.layers if layer.operation is DENSE]
        return 3 * sum(products) - sum(products[:1])

    # -------------------------------------------------- weights in and out

    def _view(self, flat: np.ndarray, index: int) -> np.ndarray:
        """A layer's panels in the flat array, (panels, I + bias, width)."""
        layer, size = self.layers[index], self.dtype.itemsize
        shape = (self.panels(layer.neurons), layer.steps, self.panel_width(layer.neurons))
        start = self.offsets[index] // size
        return flat[start : start + int(np.prod(shape))].reshape(shape)

    def put(self, flat: np.ndarray, arrays: Iterable[np.ndarray | Iterable[Piece]]) -> None:
        """Write kernels (I, O) and biases (O,), in turn, into the engine's flat array; an array may come in pieces."""
        queue = iter(arrays)
        for index, layer in enumerate(self.layers):
            view = self._view(flat, index)
            view[-1, :, layer.neurons - (len(view) - 1) * view.shape[2] :] = 0
            for row, shape in layer.arrays:
                self._write(view[:, row : row + (shape[0] if len(shape) == 2 else 1)], next(queue))

    def _write(self, view: np.ndarray, source: np.ndarray | Iterable[Piece]) -> None:
        """Fill panels (panels, rows, width) with a matrix, some rows at a time: no copy of the whole is made."""
        width, by_rows = view.shape[2], view.transpose(1, 0, 2)
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
            for row, shape in layer.arrays:
                if len(shape) == 2:
                    arrays.append(self._read(view[:, row : row + shape[0]], layer.neurons))
                else:
                    arrays.append(self._read(view[:, row : row + 1], layer.fan_out)[0].copy())
        return arrays

    def copy_trained(self, flat: np.ndarray, other: np.ndarray) -> None:
        """Write another flat array's numbers over those of the layers that are trained."""
        for index, layer in enumerate(self.layers):
            if layer.trainable:
                np.copyto(self._view(flat, index)[:, : layer.learned], self._view(other, index)[:, : layer.learned])

    def _read(self, view: np.ndarray, outs: int) -> np.ndarray:
        matrix = np.empty((view.shape[1], outs), self.dtype)
        width = view.shape[2]
        for panel, start in zip(view, range(0, outs, width), strict=True):
            matrix[:, start : start + width] = panel[:, : outs - start]
        return matrix

    def thin_rows(self, batch: int, backward: bool = True) -> int:
        """Rows that a step of `batch` computes where they are few (see ``cpu.thin``), else 0.

        One row always goes so, more than four train so only where weights are many or the last layer is wide.
        """
        lanes = self.tiles.lanes
        if batch > lanes or self.half or (batch > 1 and self.parameter_count < THIN_PARAMETERS):
            return 0
        narrow = self.layers[-1].fan_out < THIN_OUTPUTS and self.parameter_count < MANY_PARAMETERS
        if backward and batch > 4 and narrow:
            return 0
        return next(rows for rows in (1, min(4, lanes), lanes) if batch <= rows)
