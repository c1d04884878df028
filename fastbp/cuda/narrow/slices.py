"""Narrow networks over large batches: a block of threads takes a slice of the rows through the whole network and back.

Activations never leave a multiprocessor's memory: a block has all weights beside them, and sums its own rows' gradient.
The blocks' gradients are added up, in their order, by a second launch, and the update follows as for any network whose
gradients are written out. The code of the phases is that of ``narrow.code``.
"""

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import program as pg
from fastbp.cuda import device, rows
from fastbp.cuda import layout as lo
from fastbp.cuda.device import cuda, kernel, simulated
from fastbp.cuda.narrow import one_block
from fastbp.cuda.narrow.code import Writer
from fastbp.cuda.narrow.net import INPUTS, Network, Shared
from fastbp.cuda.rows import goes_on
from fastbp.cuda.shapes import Shapes
from fastbp.cuda.step import FORWARD, LOSS, WEIGHTS, Launch, of_phase
from fastbp.layout.graph import GIVEN
from fastbp.program import round_up

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound, Data
    from fastbp.formulas.tallies import Tally

ROWS = 128, 64, 32, 16
"""Rows of a slice, the most that fit are taken."""
SIMULATED_ROWS = (5,)
BLOCKS = 128
"""Most blocks, each with slices of its own: most of a large GPU's multiprocessors, whatever it has, so that sums have
one order."""
SIMULATED_BLOCKS = 2
LEAST_ROWS = 512
"""Batches of fewer rows leave most multiprocessors idle."""
HEADER = "def slices(t, params, constants, work, partial, x, y, rows, weights, present):"


class SliceShared(Shared):
    """Where a slice's numbers stand: there is no next batch, and the weights' gradient stands beside them."""

    def __init__(self, net: Network) -> None:
        super().__init__(net)
        self.gradient = self._end
        self.bytes = round_up((self._end + self.distance + self.ld * 4) * net.dtype.itemsize, 16)

    def _two(self, count: int) -> int:
        return self._take(count * self.ld)


class SliceWriter(Writer):
    """Writes the kernel of a slice."""

    at: SliceShared
    before = "beyond + "

    def __init__(self, net: Network, tallies: "tuple[Tally, ...]") -> None:
        super().__init__(net)
        self.scored = bool(tallies)
        self._marked = rows.marking(tallies, net.dtype, net.labels)

    @staticmethod
    def place(net: Network) -> Shared:
        return SliceShared(net)

    def source(self) -> str:
        net, at = self.net, self.at
        self.put(
            *self.shared("n", "int"),
            *self.shared("q", "kind"),
            "i, table0, constants0, params0, rows0 = i64(cuda.threadIdx.x), 0, 0, 0, 0",
            f"last = {net.threads - 1} - i",
            f"if t[{lo.STATUS}] != {pg.RUNNING}:",
            "    return",
        )
        fields = {"first": lo.FIRST_STEP, "per_epoch": lo.PER_EPOCH, "batch": lo.BATCH, "total": lo.N}
        fields |= {"mixing": lo.SHUFFLE, "seed": lo.SEED, "subset": lo.SUBSET, "own_rows": lo.SUBSET_EPOCH}
        fields |= {"weighted": lo.WEIGHTED, "marked": lo.MARKED, "mean": lo.MEAN_ROWS, "all_rows": lo.ROWS}
        self.put(*(f"{name} = t[{field}]" for name, field in fields.items()))
        self.put("began = first // per_epoch", "bits = i64(1)", "while (i64(1) << bits) < total:", "    bits += 1")
        self.put(f"step, drawn = t[{lo.STEP}], t[{lo.NOISE}]", f"number, now, {INPUTS} = first + step, 0, {at.inputs}")
        self._take_parameters()
        self.put("count = min(batch, total - number % per_epoch * batch)")
        self._share_strengths()
        with self.each(at.distance):
            self.put(f"q[u({at.weights} + j)] = params[j]", f"q[u({at.gradient} + j)] = kind(0)")
        with self.each(at.ld):
            self.put(f"q[u({at.inputs + net.widths[0] * at.ld} + j)] = kind(1)")
            for place in at.ones:
                self.put(f"q[u({place} + j)] = kind(1)")
        self._take_given()
        with self.under(
            f"for piece in range(cuda.blockIdx.x, (all_rows + {net.batch - 1}) // {net.batch}, cuda.gridDim.x):"
        ):
            self._slice()
        with self.each(at.distance):
            self.put(f"partial[{at.distance} * i64(cuda.blockIdx.x) + j] = q[u({at.gradient} + j)]")
        return "\n".join([HEADER, *self.lines, ""])

    def _slice(self) -> None:
        net = self.net
        self.put(f"beyond = i64(piece) * {net.batch}")
        self._choose_rows("number", "0")
        self.put("cuda.syncthreads()")
        fetch, store = self._ahead("0", "step")
        self.put(*fetch, *store, "cuda.syncthreads()")
        for index in range(len(net.activations)):
            self._forward(index)
            self.barrier()
        self._loss()
        self._write_out()
        self._write_activities()
        self.put("cuda.syncthreads()")
        for index in range(len(net.activations) - 1, max(net.lowest, 1) - 1, -1):
            self._back(index)
            self.barrier()
        self._learn()
        self.put("cuda.syncthreads()")

    def _write_out(self) -> None:
        """What the sums of the whole batch need of each row, into the workspace."""
        net, at, ld, outs = self.net, self.at, self.at.ld, self.net.widths[-1]
        with self.each(net.batch, "b"), self.under("if beyond + b < all_rows:"):
            self.put(f"place = t[{lo.VALUE}] + beyond + b", f"work[place] = q[u({at.values} + b)]")
            if self.scored:
                marked = self.rule("mark", self._marked)
                self.put(
                    f"op = t[{lo.LAST}]",
                    f"hs = q[{at.h[-1]} + b:{at.h[-1]} + {outs * ld} + b:{ld}]",
                    f"numbers = constants[{net.count * lo.CONSTANTS}:]",
                    f"h0 = t[op + {lo.H}] + (beyond + b) * t[op + {lo.LDH}]",
                    f"for o in range({outs}):",
                    "    work[h0 + o] = hs[o]",
                    f"y0 = t[{lo.TARGET}] + (beyond + b) * t[{lo.TARGET_LD}]",
                )
                if net.labels:
                    self.put(f"ys = i64(q[u({at.targets} + b)])", "work[y0] = kind(ys)")
                else:
                    self.put(f"ys = q[{at.targets} + b:{at.targets + outs * ld} + b:{ld}]")
                    self.put(f"for o in range({outs}):", "    work[y0 + o] = ys[o]")
                self.put(f"{marked}(work, t[{lo.MARKS}] + beyond + b, all_rows, hs, ys, {outs}, numbers)")

    def _write_activities(self) -> None:
        """What penalties add to each row's loss, into the workspace; see ``ops.activity``."""
        for index, each in self._activities():
            with self.each(self.net.batch, "b"), self.under("if beyond + b < all_rows:"):
                self.put("active = kind(0)", f"for o in range({self.net.widths[index]}):")
                self.put(f"    active += {self._penalty(index, each, 'b', 'o')}")
                self.put(f"work[t[{lo.Layout.field(each.op) + lo.STATE}] + beyond + b] = active")

    def _keep_counts(self, parity: str) -> None:
        if self.scored:
            self.put(
                "if beyond + j < all_rows:",
                f"    work[t[{lo.COUNTS}] + beyond + j] = counted",
                f"    work[t[{lo.COUNTS}] + all_rows + beyond + j] = counted * weight",
            )

    def _apply(self, gradient: str) -> None:
        self.put(f"q[u(w + {self.at.gradient - self.at.weights})] += {gradient}")


@functools.cache
def add_up(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the blocks' gradients, (blocks, count), into the gradient, each number's in the order of the blocks."""
    kind: Any = dtype.type

    def run(t, partial, params, blocks, count):
        j = cuda.grid(1)
        if t[lo.STATUS] != pg.RUNNING or j >= count:
            return
        total = kind(0)
        for block in range(blocks):
            total += partial[block * count + j]
        place = t[lo.GRADIENT] + j
        params[place] = params[place] + total if goes_on(t) else total

    return kernel(run, threads=shapes.flat)


@functools.lru_cache(maxsize=64)
def written(net: Network, tallies: "tuple[Tally, ...]") -> Any:
    """The kernel of a slice."""
    writer = SliceWriter(net, tallies)
    names = writer.names
    exec(compile(writer.source(), "<the kernel of a slice of rows>", "exec"), names)
    return kernel(names["slices"], threads=net.threads)


def bare(net: Network) -> Network:
    """A network without what is done to gradients once they are summed."""
    return replace(net, slots=0, numbers=0, update=None, tallies=(), penalised=(), clips="", group=1, constraints=())


def network(bound: "Bound", targets: int) -> Network | None:
    """What the code depends on, with the rows of a slice for a batch; None where none of them fits."""
    layout, optimizer = bound.layout, bound.optimizer
    assert optimizer is not None
    whole = one_block.network(layout, bound.objective, optimizer, targets, one_block.threads())
    plain, found = bare(whole), None
    for count in SIMULATED_ROWS if simulated() else ROWS:
        net = replace(plain, batch=count)
        if SliceShared(net).bytes <= device.shared_bytes():
            found = net
            if layout.batch >= count * BLOCKS // 2:
                break
    return found


def reason(bound: "Bound", data: "Data") -> str:
    """Why a step can't be taken by slices of rows; "" where it can."""
    layout = bound.layout
    if bound.optimizer is None or not layout.backward or bound.objective.loss is None or layout.update == GIVEN:
        return "nothing is trained by rows"
    if bound.products.precision != layout.program.dtype.name:
        return "tensor cores are asked for"
    if data.result is not None:
        return "outputs or the inputs' gradient are kept"
    if layout.batch < LEAST_ROWS:
        return "there are few rows"
    if unfit := one_block.unlike(layout):
        return unfit
    if any(layer.whole_batch for layer in layout.layers):
        return "a normalisation needs the whole batch at once"
    return "" if network(bound, data.targets) else "no slice of rows fits into a multiprocessor's memory"


def launches(bound: "Bound", data: "Data") -> list[Launch]:
    """A step of a run over some data."""
    net = network(bound, data.targets)
    assert net is not None
    at, layout, sizes = SliceShared(net), bound.layout, bound.shapes
    blocks = min(-(-layout.batch // net.batch), SIMULATED_BLOCKS if simulated() else BLOCKS)
    partial = bound.zeros(blocks * at.distance)
    arrays = bound.table, bound.params, bound.constants, bound.work, partial
    arguments = *arrays, data.x, data.y, data.rows, data.weights, data.present
    through = Launch(written(net, bound.objective.tallies), (blocks,), net.threads, arguments, at.bytes)
    own = bound.table, partial, bound.params, blocks, at.distance
    added = Launch(add_up(bound.dtype, sizes), (-(-at.distance // sizes.flat),), sizes.flat, own)
    ending = of_phase(WEIGHTS, [added, *bound.updating()])
    return [*of_phase(FORWARD, [through]), *of_phase(LOSS, bound.closing(data)), *ending]
