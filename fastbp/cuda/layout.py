"""A step on the device: the table that its kernels read, and where everything stands in the flat buffers.

Activations and gradients are plain rows: number c of batch row b of a matrix stands at ``offset + b * ld + c`` of the
workspace, with ld a multiple of 4. Offsets and distances count numbers, not bytes. The weights are in `Program`'s order
with a whole layer to a panel: row k of a kernel (I, O) begins at ``W + k * ldw``, and the biases are its row I.
"""

from dataclasses import dataclass

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY
from fastbp.layout.graph import Graph
from fastbp.layout.operations import ACTIVITY, ARRANGE, DENSE, FORK
from fastbp.optimizers import Optimizer
from fastbp.program import ROW_MULTIPLE, LayerSpec, Program, round_up

# ---- fields of a run, the beginning of the table
(
    STATUS,  # see ``program.RUNNING``: where it isn't 0 kernels return at once
    STEP,  # steps of the run that the closing kernel has closed
    FIRST_STEP,  # number of the run's first step since the first epoch
    PER_EPOCH,  # steps of an epoch
    BATCH,  # rows of a step, as the run has them
    ROWS,  # the same as the buffers have them
    N,  # rows of the data
    SHUFFLE,
    SEED,
    SUBSET,  # 1: there are row numbers of x and y that are the data
    SUBSET_EPOCH,  # how many of them each epoch has to itself, 0: all epochs have the same
    WEIGHTED,  # 1: rows have weights
    MARKED,  # 1: rows are marked as present or not
    NOISE,  # number of the first step since the weights were drawn: it names the noise
    COEFFICIENTS,  # numbers of a step among the coefficients
    SUMS,  # sums of an epoch
    GROUP,  # steps whose mean gradient makes one update
    GROUPED,  # how many of them were done before the first step of the run
    GRADIENT,  # where the gradient begins among the parameters, 0: nowhere
    UNFIT,  # becomes 1 where an input isn't finite
    KEPT,  # rows of the epoch that were kept before the run
    OPS,
    INDEX_ROW,  # columns of x
    OUTPUTS,  # columns of the outputs
    INPUT,  # where the inputs stand in the workspace,
    INPUT_LD,
    TARGET,  # the targets,
    TARGET_LD,
    SCALE,  # the weight of each row in the loss,
    COUNTS,  # what a row counts in a metric, and, ROWS further, in a weighted metric
    VALUE,  # each row's loss,
    MARKS,  # and, for each tally, the class it is given and the class it has
    MEAN_ROWS,  # 1: the loss is the mean over the rows
    LAST,  # where the fields of the last op begin
    DISTANCE,  # from the weights to their first moments, and so on
) = range(35)
RUN_FIELDS = 35

# ---- fields of an op
(
    IN,
    OUT,
    HAS_BIAS,
    LEARNED,  # rows of its weights that are learned
    KERNEL,  # those of them that are one array; what follows is another
    W,
    LDW,
    A,
    LDA,
    Z,  # before the activation; the same place as H where it isn't kept
    LDZ,
    H,
    LDH,
    DZ,
    LDDZ,
    DA,
    LDDA,
    SKIP,
    LDSKIP,
    STATE,  # what the op keeps of the batch rows, or of its neurons
    NUMBERS,  # where its own numbers stand among the constants
    KEY,  # names its noise
    RATES,  # from a step's coefficients to its own
    HAS_GAMMA,
    HAS_BETA,
    NEURONS,  # columns of its weights
    PICKS,  # where its ``LayerSpec.picks`` stand in the table, and behind them, of each of its inputs, who picks it
) = range(27)
OP_FIELDS = 27

# ---- an op's constants
PARAMETER, PENALTY, CONSTRAINT, OWN = 0, 1, 5, 8
CONSTANTS = 16
"""Numbers of an op: its activation's parameter, its penalty's strengths, its constraint's numbers, its own."""
LOSS_NUMBERS, TALLY_NUMBERS = 16, 8
"""Numbers of the loss, which follow those of the ops, and of each tally, which follow them."""


@dataclass(frozen=True)
class Rows:
    """The order of numbers, as `Program` knows tiles: a layer's neurons are one row, a batch row is one sample."""

    lanes: int = ROW_MULTIPLE
    samples: int = 1
    width: int = 0
    terms: bool = False


def ld_of(width: int) -> int:
    """Distance of the rows of a matrix."""
    return round_up(width, ROW_MULTIPLE)


def _picks(layer: LayerSpec) -> np.ndarray:
    """An op's picks, and of each of its inputs the place that it goes to, -1 where it goes nowhere."""
    picks = np.array(layer.picks, np.int64)
    if layer.operation is not ARRANGE:
        return picks
    taken = np.full(layer.fan_in, -1)
    for place, column in enumerate(picks):
        if column >= 0:
            taken[column] = place
    return np.concatenate([picks, taken])


class Layout(Graph):
    """Where a step over `batch` rows finds and leaves its numbers.

    Parameters
    ----------
    batch : rows
    labels : whether targets are class numbers
    tallies : how many tallies there are
    others : see `Graph`

    Attributes
    ----------
    table : (RUN_FIELDS + ops * OP_FIELDS + picks,) int64, what doesn't change from run to run
    size : numbers of the workspace
    befores : of each op, the one whose dZ its dA is, -1 where there is none
    fused : of each op, whether its product's kernel applies the activation
    constants : (ops * CONSTANTS,) float64
    """

    def __init__(
        self,
        program: Program,
        batch: int,
        *,
        backward: bool,
        input_gradient: bool = False,
        noise: bool = False,
        update: str = "",
        labels: bool = False,
        tallies: int = 0,
    ) -> None:
        super().__init__(program, backward, input_gradient, noise or backward, update)
        self.batch, self.size = batch, 0
        count = len(self.layers)
        picks = [_picks(layer) for layer in self.layers]
        end = RUN_FIELDS + count * OP_FIELDS
        self.table = np.concatenate([np.zeros(end, np.int64), *picks])
        self.rows = self.table[RUN_FIELDS:end].reshape(count, OP_FIELDS)
        self.rows[:, PICKS] = end + np.cumsum([0, *(len(each) for each in picks)])[:-1]
        self.fused = [layer.operation is DENSE for layer in self.layers]
        self.fused[-1] = False  # the loss may take what is before the last activation
        self.befores = [-1] * count
        self.constants = np.zeros(count * CONSTANTS)
        self._lay_out_activations()
        if backward:
            self._lay_out_gradients()
        else:
            self.rows[-1, [DZ, LDDZ]] = self._matrix(self.layers[-1].fan_out)  # a loss writes it
        for index, layer in enumerate(self.layers):
            kept = layer.operation.row_state * batch
            if layer.operation.neuron_state and backward:
                kept = layer.operation.neuron_state * ld_of(layer.fan_out)
            if kept:
                self.rows[index, STATE] = self._take(kept)
            own = self.constants[index * CONSTANTS : (index + 1) * CONSTANTS]
            bound = layer.constraint.numbers if layer.constraint else ()
            own[PARAMETER] = layer.activation.parameter or 0.0
            own[PENALTY:CONSTRAINT] = layer.penalty
            own[CONSTRAINT : CONSTRAINT + len(bound)] = bound
            own[OWN : OWN + len(layer.numbers)] = layer.numbers
        table = self.table
        table[[OPS, ROWS, INDEX_ROW, OUTPUTS]] = count, batch, self.layers[0].fan_in, self.layers[-1].fan_out
        table[LAST] = self.field(count - 1)
        table[[TARGET, TARGET_LD]] = self._matrix(1 if labels else self.layers[-1].fan_out)
        table[SCALE], table[COUNTS] = self._take(batch), self._take(2 * batch)
        table[VALUE], table[MARKS] = self._take(batch), self._take(2 * tallies * batch)

    @staticmethod
    def field(index: int) -> int:
        """Where the fields of an op begin."""
        return RUN_FIELDS + index * OP_FIELDS

    def _take(self, count: int) -> int:
        offset = self.size
        self.size += round_up(count, pg.LINE)
        return offset

    def _matrix(self, width: int) -> tuple[int, int]:
        """(offset, distance of rows) of a matrix with a row for each of the batch."""
        return self._take(self.batch * ld_of(width)), ld_of(width)

    def _lay_out_activations(self) -> None:
        """What goes forward: sizes, weights, A, Z and H."""
        program, size = self.program, self.program.dtype.itemsize
        inputs = self._matrix(self.layers[0].fan_in)
        self.table[[INPUT, INPUT_LD]] = inputs
        for index, layer in enumerate(self.layers):
            op, source, place = self.rows[index], self.sources[index], self.places[index]
            op[[IN, OUT, HAS_BIAS]] = layer.fan_in, layer.fan_out, layer.bias
            op[[LEARNED, KERNEL, KEY]] = layer.learned, layer.kernel, layer.key
            op[W], op[LDW], op[NEURONS] = (
                program.offsets[place] // size,
                program.panel_width(layer.neurons),
                layer.neurons,
            )
            op[HAS_GAMMA], op[HAS_BETA] = "gamma" in layer.rows, "beta" in layer.rows
            op[NUMBERS] = index * CONSTANTS
            op[[A, LDA]] = inputs if source < 0 else self.rows[source, [H, LDH]]
            if layer.operation.second:
                skip = self.skips[index]
                op[[SKIP, LDSKIP]] = inputs if skip < 0 else self.rows[skip, [H, LDH]]
            if self.owner(index) != index:
                op[[Z, LDZ, H, LDH]] = op[[A, LDA, A, LDA]]
                continue
            op[[H, LDH]] = op[[Z, LDZ]] = self._matrix(layer.fan_out)
            if layer.operation.alias:
                op[[Z, LDZ]] = op[[A, LDA]]
            elif layer.activation is not IDENTITY and (
                index == len(self.layers) - 1 or (self.backward and layer.activation.keeps_z) or not self.fused[index]
            ):
                op[[Z, LDZ]] = self._matrix(layer.fan_out)

    def _lay_out_gradients(self) -> None:
        """What comes back: dZ of each op. dA of an op is dZ of the one before."""
        layers, rows = self.layers, self.rows
        rows[-1, [DZ, LDDZ]] = self._matrix(layers[-1].fan_out)
        for index in range(len(layers) - 1, -1, -1):
            op, layer, source = rows[index], layers[index], self.sources[index]
            beside = self.beside(index)
            if beside:
                op[[DZ, LDDZ]] = rows[self.skips.index(index), [DZ, LDDZ]]
            if layer.operation is FORK:
                join = rows[self.skips.index(index)] if index in self.skips else None
                op[[SKIP, LDSKIP]] = rows[index + 1, [DA, LDDA]] if join is None else join[[DZ, LDDZ]]
            if index < self.lowest:
                continue
            op[[DA, LDDA]] = op[[DZ, LDDZ]] if layer.operation.alias else self._matrix(layer.fan_in)
            if source >= 0 and not beside:
                rows[source, [DZ, LDDZ]] = op[[DA, LDDA]]
                self.befores[index] = source

    def beside(self, index: int) -> bool:
        """Whether an op is the projection of a residual block, whose dZ is the join's."""
        return index in self.skips and self.layers[index].operation is DENSE

    @property
    def penalised(self) -> list[int]:
        """Ops whose weights are penalised."""
        return [index for index, layer in enumerate(self.layers) if any(layer.penalty)]

    @property
    def active(self) -> list[int]:
        """Ops that penalise what passes through them."""
        return [index for index, layer in enumerate(self.layers) if layer.operation is ACTIVITY]


def bytes_by_part(program: Program, batch: int, optimizer: Optimizer) -> dict[str, int]:
    """What a fit takes of the device's memory, by what it is for, beside the data, which is there as far as it fits."""
    weights = program.parameter_bytes
    return {
        "parameters": weights,
        "optimizer state": optimizer.slots * weights,
        "gradient": weights,
        "snapshot of the parameters": weights,
        "activations and their gradients": Layout(program, batch, backward=True).size * program.dtype.itemsize,
    }
