"""A small network as the code of its kernel knows it, and where its numbers stand in shared memory."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, Activation
from fastbp.constraints import Constraint
from fastbp.formulas.tallies import Tally
from fastbp.losses import Loss
from fastbp.program import round_up

TILES = (4, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1)
"""Results that a thread computes at once, rows x columns: the first that leaves work to half of the threads."""
ALIGNED = 4
"""Numbers that one load takes; arrays begin at multiples of it, and rows are an odd multiple of it apart: loads of
neighbouring rows meet different banks then."""
INPUTS = "a0"
"""The name, in the code, of where this batch's inputs begin."""
GROUPS = 32
"""Parts that the sum over a batch is cut into."""
PARTS = 128
"""Parts that the sum of all penalties on activations is cut into."""
OUTPUTS, NORMAL, NOISY = range(3)
"""What a penalty is on: what a layer gives, that normalised, or that with its noise."""


class Activity(NamedTuple):
    """A penalty on what passes between two layers: which op it is, and what it is on."""

    op: int
    place: int


@dataclass(frozen=True)
class Norm:
    """A normalisation between two layers, or of the network's inputs.

    Attributes
    ----------
    operation : its name, see ``operations``
    op : which op it is
    gamma, beta : where they begin among the parameters, None where there are none
    moving, ldw : where the moving means (or the given ones) begin, and how far behind them the variances do
    activation : of what is normalised
    learns : whether gamma and beta learn; of a normalisation over the batch, whether moving statistics follow too
    """

    operation: str
    op: int
    gamma: int | None
    beta: int | None
    moving: int
    ldw: int
    activation: Activation
    learns: bool

    @property
    def of_neurons(self) -> bool:
        """Whether mean and deviation are a neuron's, not a row's."""
        return self.operation in ("batch_normalization", "normalization")

    @property
    def by_batch(self) -> bool:
        """Whether they are the batch's."""
        return self.operation == "batch_normalization" and self.learns

    @property
    def fixed(self) -> bool:
        """Whether they stay as they are."""
        return self.of_neurons and not self.learns

    @property
    def centred(self) -> bool:
        """Whether the mean is taken away."""
        return self.operation != "rms_normalization"


class Matrix(NamedTuple):
    """The vectors of a column's categories.

    Attributes
    ----------
    op : which op it is
    column : of the inputs, with the category numbers
    place : the first of the columns that the vectors become
    rows, columns : categories, and numbers of a vector
    first, ldw : where it begins among the parameters, and the distance of its rows
    learns : whether it is trained, as all of a layer are or none
    """

    op: int
    column: int
    place: int
    rows: int
    columns: int
    first: int
    ldw: int
    learns: bool


@dataclass(frozen=True)
class Path:
    """A layer of the code that works number by number: where paths part or meet, or an activation by itself.

    Attributes
    ----------
    kind : "fork", "join", "concatenate", "activation", or, as the first layer, "embedding"
    other : of a fork, the layer where its paths meet; of that one, the fork
    projection : the op whose weights the path that skips a block goes through, None where it goes as it is
    passing, matrices : of an embedding, the columns of the inputs that it passes on, and what it looks up
    """

    kind: str
    other: int = -1
    projection: int | None = None
    passing: tuple[int, ...] = ()
    matrices: tuple[Matrix, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether number o of a row needs nothing of its other numbers."""
        return self.kind != "concatenate" and self.projection is None


@dataclass(frozen=True)
class Network:
    """All that the code depends on.

    Attributes
    ----------
    dtype : of all numbers
    batch : rows of a full batch
    widths : inputs, then the outputs of each layer
    paths : of each layer, what it is where it isn't a product
    biased : of each layer, whether it has biases
    places : of each layer, where its weights begin among the parameters, and the distance of their rows
    activations : of each layer
    norms : of each layer, how its inputs are normalised; None for not at all
    noises : of each layer, what noise its inputs get then, and which op that is; None for none
    activities : of each layer, the penalties on its inputs
    ops : of each layer, which op it is
    count : ops in all
    learning : the layers that are trained
    lowest : the first layer that is gone back through
    penalised : layers whose weights are penalised
    slots : arrays that the optimizer keeps beside the weights
    numbers : coefficients of a step
    clips : whether updates are by the norm of the gradient, and of what; see ``narrow.updates``, "" for not
    group : batches whose mean gradient makes one update; their sum is the last of the slots, where there are several
    constraints : layers whose kernels are brought to a constraint after each update, and to which
    update : the optimizer's rule
    loss, tallies : what is summed
    labels : whether targets are class numbers
    threads : of the block
    """

    dtype: np.dtype
    batch: int
    widths: tuple[int, ...]
    paths: tuple[Path | None, ...]
    biased: tuple[bool, ...]
    places: tuple[tuple[int, int], ...]
    activations: tuple[Activation, ...]
    norms: tuple[Norm | None, ...]
    noises: tuple[tuple[str, int] | None, ...]
    activities: tuple[tuple[Activity, ...], ...]
    ops: tuple[int, ...]
    count: int
    learning: tuple[int, ...]
    lowest: int
    penalised: tuple[int, ...]
    slots: int
    numbers: int
    clips: str
    group: int
    constraints: tuple[tuple[int, Constraint], ...]
    update: Any
    loss: Loss
    tallies: tuple[Tally, ...]
    labels: bool
    threads: int

    def fan_in(self, index: int) -> int:
        """Rows of a layer's kernel, 0 where it has none."""
        path = self.paths[index]
        if path is None:
            return self.widths[index]
        return 0 if path.kind == "fork" or path.projection is None else self.widths[path.other + 1]

    def owner(self, index: int) -> int:
        """The op that has a layer's weights."""
        path = self.paths[index]
        return self.ops[index] if path is None or path.projection is None else path.projection

    @property
    def learners(self) -> list[int]:
        """The ops that have coefficients of their own: layers, then normalisations."""
        return [
            *(self.owner(index) for index in self.learning),
            *(norm.op for norm in self.norms if norm and norm.learns),
            *(each.op for each in self.matrices if each.learns),
        ]

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """What the first layer looks up."""
        return self.paths[0].matrices if self.paths[0] else ()

    @property
    def first_matrix(self) -> int:
        """The place of the first of them among the learners."""
        return len(self.learners) - sum(each.learns for each in self.matrices)

    @property
    def sums(self) -> int:
        """Sums of a batch."""
        return 1 + sum(tally.sums(self.widths[-1]) for tally in self.tallies)

    @property
    def kept(self) -> list[tuple[int, Tally]]:
        """The tallies that keep rows, with their numbers."""
        return [(m, tally) for m, tally in enumerate(self.tallies) if tally.loop == "kept"]

    @property
    def work(self) -> int:
        """Floating-point operations of a step."""
        looked_up = sum(each.rows * each.columns for each in self.matrices)
        products = sum(self.fan_in(index) * outs for index, outs in enumerate(self.widths[1:]))
        return 6 * self.batch * (products + looked_up)

    @property
    def parameters(self) -> int:
        """Where the last of the weights that the code knows end."""
        ends = [place + (self.fan_in(i) + self.biased[i]) * ldw for i, (place, ldw) in enumerate(self.places)]
        for norm in self.norms:
            if norm is not None:
                first = (norm.gamma, norm.beta, norm.moving + norm.ldw if norm.of_neurons else None)
                ends += [place + norm.ldw for place in first if place is not None]
        return max(ends + [each.first + each.rows * each.ldw for each in self.matrices])


class Shared:
    """Where everything stands in shared memory: float64 and int64 numbers first, then those of the network's type.

    Attributes
    ----------
    weights, gradient : the weights, with the moments behind them; the gradient where it is put down
    active : parts of the sum of penalties on activations
    squares : of each array of weights, parts of the sum of its gradient's squares, and then the sums
    h, z, dz : of the inputs, then of each layer
    normal : of the inputs, then of each layer's outputs, these where they are normalised, else the outputs themselves
    into : of each layer its inputs, with their noise where they get any; of the first without
        (h, normal and into of what passes the network's inputs on are the name of their place in the code)
    ones : rows of ones, behind the layers' inputs
    means, inverses, plains, products, betas, gammas : of each layer whose inputs are normalised, of each row or neuron
        the mean and 1 / deviation; of each row the mean gradient, and that times the normalised number; of each neuron
        the gradients of beta and gamma
    """

    def __init__(self, net: Network) -> None:
        widths, tallies = net.widths, len(net.tallies)
        self.ld = round_up(net.batch + 3, ALIGNED)  # a tile of rows may reach beyond the batch
        self.ld += 0 if self.ld % (2 * ALIGNED) else ALIGNED
        self._end = 0
        self.sums, self.partial = self._take(net.sums), self._take(net.sums * GROUPS)
        arrays = 2 * len(net.learners)
        self.squares = self._take((GROUPS + 1) * arrays if net.clips else 0)
        self.penalties = self._take(net.threads + GROUPS if net.penalised else 0)
        self.active = self._take(PARTS if any(net.activities) else 0)
        self.codes = [self._take(net.batch) for _ in net.matrices]
        self.rows, self.wild = self._take(net.batch), self._take(1)
        self._end *= 8 // net.dtype.itemsize
        self.distance = round_up(net.parameters, pg.ROW_MULTIPLE)
        self.weights = self._take(self.distance * (1 + net.slots))
        self.gradient = self.weights + self.distance * net.slots
        if net.group == 1:
            self.gradient = self._take(self.distance if net.clips else 0)
        self.coefficients = self._take(len(net.learners) * net.numbers)
        self.inputs, self.targets = self._two(widths[0] + 1), self._two(1 if net.labels else widths[-1])
        self.scales, self.counts = self._two(1), self._two(2 if tallies else 0)
        self.values, self.marks = self._rows(1 + tallies), self._rows(2 * tallies)
        self.h: list[int | str] = [self.inputs]
        self.z: list[int | str] = [0]
        self.normal: list[int | str] = [self.inputs]
        self.into: list[int | str] = [self.inputs]
        self.dz = [0]
        for index, row in enumerate(net.activations):
            kept = row.keeps_z or (index == len(net.activations) - 1 and row is not IDENTITY)
            path = net.paths[index]
            if path is not None and path.kind == "fork":
                self.h.append(self.into[index] if index else INPUTS)
            else:
                self.h.append(self._rows(widths[index + 1] + 1))
            self.z.append(self._rows(widths[index + 1]) if kept else self.h[-1])
            own = path is None or index == 0 or not (path.kind == "fork" or self._unchanged(net, index))
            self.dz.append(self._rows(widths[index + 1]) if own else self.dz[index])
            last = index + 1 == len(net.activations)
            normal, noisy = (not last and found[index + 1] is not None for found in (net.norms, net.noises))
            self.normal.append(self._rows(widths[index + 1] + 1) if normal else self.h[-1])
            self.into.append(self._rows(widths[index + 1] + 1) if noisy else self.normal[-1])
        behind = zip(self.into[1:], widths[1:], strict=True)
        self.ones = [place + width * self.ld for place, width in behind if isinstance(place, int)]
        self._take_statistics(net)
        self.bytes = round_up((self._end + self.ld * TILES[0][0]) * net.dtype.itemsize, 16)

    @staticmethod
    def _unchanged(net: Network, index: int) -> bool:
        """Whether what comes back from a layer is what comes back to it."""
        path, row = net.paths[index], net.activations[index - 1]
        plain = net.norms[index] is None and net.noises[index] is None and not net.activities[index]
        return path is not None and path.kind != "concatenate" and plain and row is IDENTITY

    def _take_statistics(self, net: Network) -> None:
        """Room for what normalisations keep."""
        found = []
        for index, norm in enumerate(net.norms):
            width = net.widths[index]
            each = 0 if norm is None else width if norm.of_neurons else self.ld
            counts = each, each, each, each, *((width, width) if norm else (0, 0))
            found.append([self._take(count) for count in counts])
        self.means, self.inverses, self.plains, self.products, self.betas, self.gammas = zip(*found, strict=True)

    def _take(self, count: int) -> int:
        start = round_up(self._end, ALIGNED)
        self._end = start + count
        return start

    def _rows(self, count: int) -> int:
        return self._take(count * self.ld)

    def _two(self, count: int) -> int:
        """Room for this batch's numbers and the next one's."""
        return self._take(2 * count * self.ld)


def tile(rows: int, columns: int, threads: int) -> tuple[int, int]:
    """The tile of a product."""
    for high, wide in TILES:
        if -(-rows // high) * -(-columns // wide) >= threads // 2:
            return high, wide
    return TILES[-1]
