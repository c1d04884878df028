"""A small network as the code of its kernel knows it, and where its numbers stand in shared memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, Activation
from fastbp.constraints import Constraint
from fastbp.losses import Loss
from fastbp.program import round_up
from fastbp.tallies import Tally

TILES = (4, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1)
"""Results that a thread computes at once, rows x columns: the first that leaves work to half of the threads."""
ALIGNED = 4
"""Numbers that one load takes; arrays begin at multiples of it, and rows are an odd multiple of it apart: loads of
neighbouring rows meet different banks then."""
GROUPS = 32
"""Parts that the sum over a batch is cut into."""


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


@dataclass(frozen=True)
class Network:
    """All that the code depends on.

    Attributes
    ----------
    dtype : of all numbers
    batch : rows of a full batch
    widths : inputs, then the outputs of each layer
    biased : of each layer, whether it has biases
    places : of each layer, where its weights begin among the parameters, and the distance of their rows
    activations : of each layer
    norms : of each layer, how its inputs are normalised; None for not at all
    noises : of each layer, what noise its inputs get then, and which op that is; None for none
    ops : of each layer, which op it is
    count : ops in all
    learning : the layers that are trained
    lowest : the first layer that is gone back through
    penalised : layers whose weights are penalised
    slots : arrays that the optimizer keeps beside the weights
    numbers : coefficients of a step
    clips : whether updates are by the norm of the gradient, and of what; see ``narrow_updates``, "" for not
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
    biased: tuple[bool, ...]
    places: tuple[tuple[int, int], ...]
    activations: tuple[Activation, ...]
    norms: tuple[Norm | None, ...]
    noises: tuple[tuple[str, int] | None, ...]
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

    @property
    def learners(self) -> list[int]:
        """The ops that have coefficients of their own: layers, then normalisations."""
        return [self.ops[index] for index in self.learning] + [norm.op for norm in self.norms if norm and norm.learns]

    @property
    def sums(self) -> int:
        """Sums of a batch."""
        return 1 + sum(tally.sums(self.widths[-1]) for tally in self.tallies)

    @property
    def work(self) -> int:
        """Floating-point operations of a step."""
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return 6 * self.batch * sum(a * b for a, b in pairs)


class Shared:
    """Where everything stands in shared memory: float64 and int64 numbers first, then those of the network's type.

    Attributes
    ----------
    weights, gradient : the weights, with the moments behind them; the gradient where it is put down
    squares : of each array of weights, parts of the sum of its gradient's squares, and then the sums
    h, z, dz : of the inputs, then of each layer
    normal : of the inputs, then of each layer's outputs, these where they are normalised, else the outputs themselves
    into : of each layer its inputs, with their noise where they get any; of the first without
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
        self.rows, self.wild = self._take(net.batch), self._take(1)
        self._end *= 8 // net.dtype.itemsize
        last = net.places[-1][0] + (widths[-2] + 1) * net.places[-1][1]
        self.distance = round_up(last, pg.ROW_MULTIPLE)
        self.weights = self._take(self.distance * (1 + net.slots))
        self.gradient = self.weights + self.distance * net.slots
        if net.group == 1:
            self.gradient = self._take(self.distance if net.clips else 0)
        self.coefficients = self._take(len(net.learners) * net.numbers)
        self.inputs, self.targets = self._two(widths[0] + 1), self._two(1 if net.labels else widths[-1])
        self.scales, self.counts = self._two(1), self._two(2 if tallies else 0)
        self.values, self.marks = self._rows(1 + tallies), self._rows(2 * tallies)
        self.h, self.z, self.dz, self.normal, self.into = [self.inputs], [0], [0], [self.inputs], [self.inputs]
        for index, row in enumerate(net.activations):
            kept = row.keeps_z or (index == len(net.activations) - 1 and row is not IDENTITY)
            self.h.append(self._rows(widths[index + 1] + 1))
            self.z.append(self._rows(widths[index + 1]) if kept else self.h[-1])
            self.dz.append(self._rows(widths[index + 1]))
            last = index + 1 == len(net.activations)
            normal, noisy = (not last and found[index + 1] is not None for found in (net.norms, net.noises))
            self.normal.append(self._rows(widths[index + 1] + 1) if normal else self.h[-1])
            self.into.append(self._rows(widths[index + 1] + 1) if noisy else self.normal[-1])
        self._take_statistics(net)
        self.bytes = round_up((self._end + self.ld * TILES[0][0]) * net.dtype.itemsize, 16)

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
