"""The code of a kernel that trains a whole small network by itself: written for the network, then compiled.

One block of threads has the network to itself for as many steps as a launch asks for. Weights, moments, activations and
gradients stand in shared memory all the while; from step to step only inputs, targets and coefficients are read, ahead
of their use. Numbers of a batch stand [neuron][row] with an odd distance between neurons, so that threads of
neighbouring rows, and of neighbouring neurons, meet different banks. Behind a layer's outputs stands a row of ones,
whose product is the bias' gradient.

The phases of a step, with one barrier after each: a product forward for each layer, the loss by rows, a product back
for each layer but the first, and all gradients with their updates. What else there is to do runs beside them on the
threads that have the least to do: row numbers of the next batch beside the loss, its inputs on their way to registers
while gradients are summed, the batch's sums in two stages beside the gradients and the next batch's first product.

Each number is computed by one thread, and each sum runs in an order that follows from the shapes. So the same device
gives the same bits, and what a launch begins with doesn't change them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, Activation
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.device import cuda, simulated
from fastbp.losses import Loss
from fastbp.program import round_up
from fastbp.tallies import Tally

TILES = (4, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1)
"""Results that a thread computes at once, rows x columns: the first that leaves work to half of the threads."""
UNROLL = 16
"""Products of a tile that are written one after the other."""
GROUPS = 32
"""Parts that the sum over a batch is cut into."""
AHEAD = 8
"""Numbers that a thread keeps in registers on their way from global memory."""
HEADER = "def train(most, bases, t, params, constants, coefficients, sums, x, y, rows, weights, present):"
FIRSTS = "table0", "params0", "constants0", "coefficients0", "sums0", "rows0", "steps"
"""Numbers of a network among `bases`: where its own part of each array begins, and how many steps it does at most."""


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
    learning : the layers that are trained
    lowest : the first layer that is gone back through
    penalised : layers whose weights are penalised
    slots : arrays that the optimizer keeps beside the weights
    numbers : coefficients of a step
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
    learning: tuple[int, ...]
    lowest: int
    penalised: tuple[int, ...]
    slots: int
    numbers: int
    update: Any
    loss: Loss
    tallies: tuple[Tally, ...]
    labels: bool
    threads: int

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
    """Where everything stands in shared memory: float64 and int64 numbers first, then those of the network's type."""

    def __init__(self, net: Network) -> None:
        widths, tallies = net.widths, len(net.tallies)
        self.ld = net.batch + (4 if net.batch % 2 else 3)  # odd; a tile of rows may reach beyond the batch
        self._end = 0
        self.sums, self.partial = self._take(net.sums), self._take(net.sums * GROUPS)
        self.penalties = self._take(net.threads + GROUPS if net.penalised else 0)
        self.rows, self.wild = self._take(net.batch), self._take(1)
        self._end *= 8 // net.dtype.itemsize
        last = net.places[-1][0] + (widths[-2] + 1) * net.places[-1][1]
        self.distance = round_up(last, pg.ROW_MULTIPLE)
        self.weights = self._take(self.distance * (1 + net.slots))
        self.coefficients = self._take(len(widths) * net.numbers)
        self.inputs, self.targets = self._two(widths[0] + 1), self._two(1 if net.labels else widths[-1])
        self.scales, self.counts = self._two(1), self._two(2 if tallies else 0)
        self.values, self.marks = self._rows(1 + tallies), self._rows(2 * tallies)
        self.h, self.z, self.dz = [self.inputs], [0], [0]
        for index, row in enumerate(net.activations):
            kept = row.keeps_z or (index == len(net.activations) - 1 and row is not IDENTITY)
            self.h.append(self._rows(widths[index + 1] + 1))
            self.z.append(self._rows(widths[index + 1]) if kept else self.h[-1])
            self.dz.append(self._rows(widths[index + 1]))
        self.bytes = round_up((self._end + self.ld * TILES[0][0]) * net.dtype.itemsize, 16)

    def _take(self, count: int) -> int:
        start = self._end
        self._end += count
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


class Writer:
    """Writes the kernel of a network; `names` is what it finds among its globals."""

    before = ""
    """The rows of a batch before this block's, as code."""

    def __init__(self, net: Network) -> None:
        self.net, self.at, self.scored = net, self.place(net), bool(net.tallies)
        kind: Any = net.dtype.type
        self.names: dict[str, Any] = {
            "cuda": cuda,
            "math": math,
            "np": np,
            "kind": kind,
            "u": int if simulated() else np.uint64,
            "f64": np.float64,
            "i64": np.int64,
            "of_double": np.dtype(np.float64),
            "of_int": np.dtype(np.int64),
            "of_kind": net.dtype,
            "mix": rules.mix(),
            "shuffled": rules.shuffled(),
            "update": net.update,
            "__name__": __name__,
        }
        self.lines: list[str] = []
        self._depth = 1

    @staticmethod
    def place(net: Network) -> Shared:
        """Where everything stands."""
        return Shared(net)

    # -------------------------------------------------- lines

    def put(self, *lines: str) -> None:
        """Write lines."""
        self.lines += ["    " * self._depth + line for line in lines]

    def under(self, head: str) -> "_Under":
        """Write a head and what follows under it."""
        return _Under(self, head)

    def rule(self, name: str, made: Any) -> str:
        """Name a rule."""
        self.names[name] = made
        return name

    def each(self, count: int | str, name: str = "j", *, last_first: bool = False) -> "_Under":
        """Share `count` things among the threads; `last_first` begins with the last thread."""
        first, threads = "last" if last_first else "i", self.net.threads
        if isinstance(count, int) and count <= threads:
            self.put(f"{name} = {first}")
            return self.under(f"if {name} < {count}:")
        return self.under(f"for {name} in range({first}, {count}, {threads}):")

    # -------------------------------------------------- the kernel

    def source(self) -> str:
        """All of it."""
        net = self.net
        self.put(
            "d = cuda.shared.array(0, of_double)",
            "n = cuda.shared.array(0, of_int)",
            "q = cuda.shared.array(0, of_kind)",
            "i = i64(cuda.threadIdx.x)",
            f"last = {net.threads - 1} - i",
            f"base = {len(FIRSTS)} * i64(cuda.blockIdx.x)",
            *(f"{name} = bases[base + {k}]" for k, name in enumerate(FIRSTS)),
            "steps = min(steps, most)",
            f"if t[table0 + {lo.STATUS}] != {pg.RUNNING}:",
            "    return",
        )
        fields = {"done": lo.STEP, "first": lo.FIRST_STEP, "per_epoch": lo.PER_EPOCH, "batch": lo.BATCH, "total": lo.N}
        fields |= {"mixing": lo.SHUFFLE, "seed": lo.SEED, "subset": lo.SUBSET, "own_rows": lo.SUBSET_EPOCH}
        fields |= {"weighted": lo.WEIGHTED, "marked": lo.MARKED, "mean": lo.MEAN_ROWS, "distance": lo.DISTANCE}
        fields |= {"width": lo.COEFFICIENTS, "columns": lo.SUMS}
        self.put(*(f"{name} = t[table0 + {field}]" for name, field in fields.items()))
        self.put("began = first // per_epoch", "bits = i64(1)", "while (i64(1) << bits) < total:", "    bits += 1")
        self._take_parameters()
        self._begin()
        with self.under("for s in range(done, done + steps):"):
            self._step()
        self._end()
        return "\n".join([HEADER, *self.lines, ""])

    def _take_parameters(self) -> None:
        for index, row in enumerate(self.net.activations):
            if row.parameter is not None:
                self.put(f"own{index} = constants[constants0 + {index * lo.CONSTANTS + lo.PARAMETER}]")
            else:
                self.put(f"own{index} = kind(0)")

    def _begin(self) -> None:
        """Weights and moments into shared memory, rows of ones, the first batch."""
        net, at = self.net, self.at
        for array in range(1 + net.slots):
            with self.each(at.distance):
                self.put(f"q[u({at.weights + array * at.distance} + j)] = params[params0 + {array} * distance + j]")
        with self.each(at.ld):
            for parity in range(2):
                self.put(f"q[u({at.inputs + (parity * (net.widths[0] + 1) + net.widths[0]) * at.ld} + j)] = kind(1)")
            for index in range(1, len(net.widths)):
                self.put(f"q[u({at.h[index] + net.widths[index] * at.ld} + j)] = kind(1)")
        with self.each(net.sums, last_first=True):
            self.put("d[u(j)] = 0.0")
        self.put("if i == 0:", f"    n[u({at.wild})] = 0")
        self.put("finished, before, belonged = i64(0), i64(0), i64(0)")
        self._choose_rows("first + done", "(done & 1)")
        self.put("cuda.syncthreads()")
        fetch, store = self._ahead("(done & 1)")
        self.put(*fetch, *store, "cuda.syncthreads()")

    def _step(self) -> None:
        net, at = self.net, self.at
        layers = len(net.activations)
        self.put(
            "number = first + s",
            "now = s & 1",
            "more = s + 1 < done + steps",
            "epoch = number // per_epoch - began",
            "count = min(batch, total - number % per_epoch * batch)",
            f"a0 = {at.inputs} + now * {(net.widths[0] + 1) * at.ld}",
        )
        for index in range(layers):
            if index == 0:
                self._fetch_coefficients()
            self._forward(index)
            if index == 0:
                self._store_coefficients()
                with self.under("if finished > 0:"):
                    self._sum_up(flush=True)
            self.put("cuda.syncthreads()")
        self._loss()
        with self.under("if more:"):
            self._choose_rows("number + 1", "(1 - now)")
        if net.penalised:
            with self.under("if finished > 0:"):
                self._add_penalties(flush=True)
        self.put(
            "cuda.syncthreads()",
            f"if n[u({at.wild})] != 0:",
            "    if i == 0:",
            f"        t[table0 + {lo.STATUS}] = {pg.DIVERGED}",
            "    before = i64(0)",
            "    break",
        )
        for index in range(layers - 1, max(net.lowest, 1) - 1, -1):
            self._back(index)
            self.put("cuda.syncthreads()")
        fetch, store = self._ahead("(1 - now)")
        with self.under("if more:"):
            self.put(*fetch)
        self._learn()
        self._sum_parts()
        with self.under("if more:"):
            self.put(*store)
        self.put("finished, before, belonged = finished + 1, count, epoch", "cuda.syncthreads()")

    def _end(self) -> None:
        """The last sums, then weights and moments out of shared memory."""
        net, at = self.net, self.at
        with self.under("if before > 0:"):
            self._sum_up(flush=False)
        if net.penalised:
            self.put("cuda.syncthreads()")
            with self.under("if before > 0:"):
                self._add_penalties(flush=False)
        self.put("cuda.syncthreads()")
        with self.each(net.sums, last_first=True):
            self.put("sums[sums0 + belonged * columns + j] += d[u(j)]")
        for array in range(1 + net.slots):
            with self.each(at.distance):
                self.put(f"params[params0 + {array} * distance + j] = q[u({at.weights + array * at.distance} + j)]")
        self.put("if i == 0:", f"    t[table0 + {lo.STEP}] = done + finished")

    # -------------------------------------------------- the batch

    def _choose_rows(self, number: str, parity: str) -> None:
        """Row numbers of a batch, and what each row counts; rows beyond the batch repeat its last, and count 0."""
        net, at = self.net, self.at
        self.put(
            f"place = ({number}) % per_epoch * batch",
            "there = min(batch, total - place)",
            f"key = mix(seed ^ mix(({number}) // per_epoch)) if mixing != 0 else i64(0)",
        )
        with self.each(net.batch, last_first=True):
            self.put(
                f"row = place + min({self.before}j, there - 1)",
                "if mixing != 0:",
                "    row = shuffled(row, total, bits, key)",
                "if subset != 0:",
                f"    row = rows[rows0 + own_rows * (({number}) // per_epoch - began) + row]",
                f"n[u({at.rows} + j)] = row",
                "weight, counted = kind(1), kind(1)",
                "if weighted != 0:",
                "    weight = weights[row]",
                "if marked != 0:",
                "    counted = present[row]",
                f"if {self.before}j >= there:",
                "    weight, counted = kind(0), kind(0)",
                "share = kind(1) / kind(there) if mean != 0 else kind(1)",
                f"q[u({at.scales} + {parity} * {at.ld} + j)] = share * weight",
            )
            self._keep_counts(parity)

    def _keep_counts(self, parity: str) -> None:
        """What a row counts in a metric, and in a weighted one."""
        at = self.at
        if self.net.tallies:
            self.put(
                f"q[u({at.counts} + {parity} * {2 * at.ld} + j)] = counted",
                f"q[u({at.counts} + {parity} * {2 * at.ld} + {at.ld} + j)] = counted * weight",
            )

    def _ahead(self, parity: str) -> tuple[list[str], list[str]]:
        """Lines that read inputs and targets of the rows chosen, and lines that put them into shared memory.

        The first numbers of each thread wait in registers between the two.
        """
        net, at = self.net, self.at
        fetch: list[str] = []
        store: list[str] = []
        parts = [("x", net.widths[0], at.inputs, net.widths[0] + 1)]
        if not net.labels:
            parts.append(("y", net.widths[-1], at.targets, net.widths[-1]))
        for name, width, place, rows in parts:
            source = f"{name}[n[u({at.rows} + {{e}} // {width})] * {width} + {{e}} % {width}]"
            target = f"q[u({place} + {parity} * {rows * at.ld} + {{e}} % {width} * {at.ld} + {{e}} // {width})]"
            unfit = ["    if not math.isfinite({v}):", f"        t[table0 + {lo.UNFIT}] = 1"] if name == "x" else []
            whole = -(-net.batch * width // net.threads)
            for m in range(min(whole, AHEAD)):
                e, v = f"(i + {m * net.threads})", f"ahead_{name}{m}"
                inside = f"if {e} < {net.batch * width}:"
                fetch += [f"{v} = kind(0)", inside, f"    {v} = {source.format(e=e)}"]
                store += [inside, f"    {target.format(e=e)} = {v}", *(line.format(v=v) for line in unfit)]
            if whole > AHEAD:
                store += [
                    f"for e in range(i + {AHEAD * net.threads}, {net.batch * width}, {net.threads}):",
                    f"    value = {source.format(e='e')}",
                    f"    {target.format(e='e')} = value",
                    *(line.format(v="value") for line in unfit),
                ]
        if net.labels:
            label, target = f"y[n[u({at.rows} + {{e}})]]", f"q[u({at.targets} + {parity} * {at.ld} + {{e}})]"
            fetch += ["label = i64(0)", f"if i < {net.batch}:", f"    label = {label.format(e='i')}"]
            store += [f"if i < {net.batch}:", f"    {target.format(e='i')} = kind(label)"]
            if net.batch > net.threads:
                store += [f"for e in range(i + {net.threads}, {net.batch}, {net.threads}):"]
                store += [f"    {target.format(e='e')} = kind({label.format(e='e')})"]
        return fetch, store

    def _fetch_coefficients(self) -> None:
        """This step's coefficients, of each layer its own, on their way to shared memory."""
        net, count = self.net, len(self.net.learning) * self.net.numbers
        for m in range(-(-count // net.threads)):
            e = f"(last + {m * net.threads})"
            self.put(f"c{m} = kind(0)")
            with self.under(f"if {e} < {count}:"):
                self.put("rates = i64(0)")
                for place, index in enumerate(net.learning):
                    field = lo.Layout.field(index) + lo.RATES
                    self.put(f"if {e} // {net.numbers} == {place}:", f"    rates = t[table0 + {field}]")
                self.put(f"c{m} = coefficients[coefficients0 + rates + s * width + {e} % {net.numbers}]")

    def _store_coefficients(self) -> None:
        net, at, count = self.net, self.at, len(self.net.learning) * self.net.numbers
        for m in range(-(-count // net.threads)):
            e = f"(last + {m * net.threads})"
            self.put(f"if {e} < {count}:", f"    q[u({at.coefficients} + {e})] = c{m}")

    # -------------------------------------------------- products

    def _sums(self, high: int, wide: int, length: int, left: str, right: str, start: Sequence[str]) -> None:
        """s{r}{c}, sums over k of `left` (of r and k) times `right` (of c and k), in the order of k."""
        for r in range(high):
            for c in range(wide):
                self.put(f"s{r}{c} = {start[c]}")

        def terms(k: str) -> Iterator[str]:
            yield from (f"l{r} = q[u({left.format(r=r, k=k)})]" for r in range(high))
            yield from (f"r{c} = q[u({right.format(c=c, k=k)})]" for c in range(wide))
            yield from (f"s{r}{c} += l{r} * r{c}" for r in range(high) for c in range(wide))

        unroll = max(1, min(4, UNROLL // (high * wide)))
        rest = length % unroll
        if length >= unroll:
            with self.under(f"for k in range(0, {length - rest}, {unroll}):"):
                for m in range(unroll):
                    self.put(*terms(f"(k + {m})" if m else "k"))
        for m in range(length - rest, length):
            self.put(*terms(str(m)))

    def _h(self, index: int) -> str:
        """Where the inputs of layer `index` begin."""
        return "a0" if index == 0 else str(self.at.h[index])

    def _forward(self, index: int) -> None:
        """H of layer `index`, and Z where it is kept; of the last layer Z alone."""
        net, at = self.net, self.at
        row, ins, outs = net.activations[index], net.widths[index], net.widths[index + 1]
        final = index == len(net.activations) - 1
        (place, ldw), ld = net.places[index], at.ld
        high, wide = tile(net.batch, outs, net.threads)
        down, across = -(-net.batch // high), -(-outs // wide)
        w = at.weights + place
        with self.each(down * across):
            self.put(f"b, o = j % {down}, j // {down} * {wide}")
            bias = [f"q[u({w + ins * ldw + c} + o)]" if net.biased[index] else "kind(0)" for c in range(wide)]
            left = f"{self._h(index)} + {{k}} * {ld} + b + {{r}} * {down}"
            self._sums(high, wide, ins, left, f"{w} + {{k}} * {ldw} + o + {{c}}", bias)
            for c in range(wide):
                with self.under(f"if o + {c} < {outs}:" if outs % wide else "if True:"):
                    for r in range(high):
                        where = f"(o + {c}) * {ld} + b + {r * down}"
                        if at.z[index + 1] != at.h[index + 1]:
                            self.put(f"q[u({at.z[index + 1]} + {where})] = s{r}{c}")
                        if final or row is IDENTITY:
                            value = f"s{r}{c}"
                        else:
                            rule = self.rule(f"activate{index}", rules.activation(row, net.dtype))
                            value = f"{rule}(s{r}{c}, own{index})"
                        if not final or row is IDENTITY:
                            self.put(f"q[u({at.h[index + 1]} + {where})] = {value}")

    def _back(self, index: int) -> None:
        """dZ of the layer before from dZ of layer `index`."""
        net, at = self.net, self.at
        ins, outs, row = net.widths[index], net.widths[index + 1], net.activations[index - 1]
        (place, ldw), ld = net.places[index], at.ld
        high, wide = tile(net.batch, ins, net.threads)
        down, across = -(-net.batch // high), -(-ins // wide)
        w = at.weights + place
        with self.each(down * across):
            self.put(f"b, o = j % {down}, j // {down} * {wide}")
            left = f"{at.dz[index + 1]} + {{k}} * {ld} + b + {{r}} * {down}"
            self._sums(high, wide, outs, left, f"{w} + (o + {{c}}) * {ldw} + {{k}}", ["kind(0)"] * wide)
            for c in range(wide):
                with self.under(f"if o + {c} < {ins}:" if ins % wide else "if True:"):
                    for r in range(high):
                        where = f"(o + {c}) * {ld} + b + {r * down}"
                        value = f"s{r}{c}"
                        if row is not IDENTITY:
                            rule = self.rule(f"derive{index - 1}", rules.derivative(row, net.dtype))
                            z, h = f"q[u({at.z[index]} + {where})]", f"q[u({at.h[index]} + {where})]"
                            value = f"{rule}(s{r}{c}, {z}, {h}, own{index - 1})"
                        self.put(f"q[u({at.dz[index]} + {where})] = {value}")

    def _learn(self) -> None:
        """All gradients, each followed by its weight's update."""
        net, at = self.net, self.at
        if net.penalised:
            self.put("penalty = 0.0")
        tiles, counts = [], []
        for index in net.learning:
            rows, outs = net.widths[index] + net.biased[index], net.widths[index + 1]
            high, wide = tile(rows, outs, net.threads)
            tiles.append((rows, outs, high, wide))
            counts.append(round_up(-(-rows // high) * -(-outs // wide), 32 if net.threads % 32 == 0 else 1))
        with self.each(sum(counts), "item"):
            first = 0
            for place, (index, count, found) in enumerate(zip(net.learning, counts, tiles, strict=True)):
                head = f"if item < {first + count}:" if place == 0 else f"elif item < {first + count}:"
                with self.under(head):
                    self._learn_layer(place, index, first, *found)
                first += count
        if net.penalised:
            self.put(f"d[u({at.penalties} + i)] = penalty")

    def _learn_layer(self, place: int, index: int, first: int, rows: int, outs: int, high: int, wide: int) -> None:
        net, at = self.net, self.at
        across = -(-outs // wide)
        (offset, ldw), ld = net.places[index], at.ld
        with self.under(f"if item < {first + across * -(-rows // high)}:"):
            self.put(
                f"k0, o = (item - {first}) // {across} * {high}, (item - {first}) % {across} * {wide}",
                f"h = q[{at.coefficients + place * net.numbers}:{at.coefficients + (place + 1) * net.numbers}]",
            )
            left = f"{self._h(index)} + (k0 + {{r}}) * {ld} + {{k}}"
            right = f"{at.dz[index + 1]} + (o + {{c}}) * {ld} + {{k}}"
            self._sums(high, wide, net.batch, left, right, ["kind(0)"] * wide)
            for r in range(high):
                for c in range(wide):
                    limits = [f"k0 + {r} < {rows}"] * (rows % high > 0) + [f"o + {c} < {outs}"] * (outs % wide > 0)
                    with self.under(f"if {' and '.join(limits) or 'True'}:"):
                        self.put(f"w = {at.weights + offset} + (k0 + {r}) * {ldw} + o + {c}")
                        if index in net.penalised:
                            self._penalise(index, r, c)
                        self._apply(f"s{r}{c}")

    def _apply(self, gradient: str) -> None:
        """What becomes of the gradient of weight w."""
        self.put(f"update(q, w, {self.at.distance}, {gradient}, h)")

    def _penalise(self, index: int, r: int, c: int) -> None:
        net = self.net
        value, pull = self.rule("penalty_of", rules.penalty(net.dtype)), self.rule("pull", rules.pull(net.dtype))
        strengths = index * lo.CONSTANTS + lo.PENALTY
        self.put(
            f"own = constants0 + {strengths} + (2 if k0 + {r} >= {net.widths[index]} else 0)",
            "l1, l2 = constants[own], constants[own + 1]",
            f"scale = h[{net.numbers - 1}]",
            f"penalty += f64({value}(q[u(w)], l1, l2) * scale)",
            f"s{r}{c} = {pull}(s{r}{c}, q[u(w)], l1 * scale, l2 * scale)",
        )

    # -------------------------------------------------- loss and sums

    def _loss(self) -> None:
        """Of each row the last activation, the loss, dZ, and what tallies need; a thread a row."""
        net, at = self.net, self.at
        last, outs, ld = len(net.activations) - 1, net.widths[-1], at.ld
        row, fused = net.activations[last], net.loss.fused_with is not None
        z, h, dz = at.z[-1], at.h[-1], at.dz[-1]
        numbers = len(net.activations) * lo.CONSTANTS
        with self.each(net.batch, "b"):
            self.put(
                *(f"{name} = q[{place} + b:{place + outs * ld} + b:{ld}]" for name, place in (("zs", z), ("hs", h))),
                f"dzs = q[{dz} + b:{dz + outs * ld} + b:{ld}]",
                f"numbers = constants[constants0 + {numbers}:]",
                f"scale = q[u({at.scales} + now * {ld} + b)]",
            )
            if net.labels:
                self.put(f"ys = i64(q[u({at.targets} + now * {ld} + b)])")
            else:
                first = f"{at.targets} + now * {outs * ld} + b"
                self.put(f"y0 = {first}", f"ys = q[y0:y0 + {outs * ld}:{ld}]")
            if row is not IDENTITY and (not fused or self.scored):
                finish = self.rule("finish", rules.activation(row, net.dtype))
                if row.coupled:
                    self.put(f"{finish}(hs, zs, {outs})")
                else:
                    self.put(f"for o in range({outs}):", f"    hs[o] = {finish}(zs[o], own{last})")
            loss = self.rule("loss", rules.loss(net.loss, net.dtype))
            self.put(f"value = {loss}(dzs, {'zs' if fused else 'hs'}, ys, {outs}, scale, numbers)")
            self.put(f"q[u({at.values} + b)] = value", "if not math.isfinite(value):", f"    n[u({at.wild})] = 1")
            if not fused and row is not IDENTITY:
                derive = self.rule("finish_back", rules.derivative(row, net.dtype))
                if row.coupled:
                    self.put(f"{derive}(dzs, hs, {outs})")
                else:
                    self.put(f"for o in range({outs}):", f"    dzs[o] = {derive}(dzs[o], zs[o], hs[o], own{last})")
            for m, tally in enumerate(net.tallies):
                rule = rules.tally(tally, net.dtype, net.labels)
                marks, term = self.rule(f"marks{m}", rule.marks), self.rule(f"term{m}", rule.term)
                self.put(f"those = numbers[{lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS}:]")
                if tally.loop == "rows":
                    self.put(f"q[u({at.values + (1 + m) * ld} + b)] = {term}(0, 0, 0, hs, ys, {outs}, those)")
                elif tally.loop in ("classes", "pairs"):
                    self.put(
                        f"given, had = {marks}(hs, ys, {outs}, those)",
                        f"q[u({at.marks + 2 * m * ld} + b)] = kind(given)",
                        f"q[u({at.marks + (2 * m + 1) * ld} + b)] = kind(had)",
                    )

    def _sum_parts(self) -> None:
        """Each sum over the batch in parts: of the rows g, g + GROUPS ..."""
        net, at = self.net, self.at
        with self.each(net.sums * GROUPS, "e", last_first=True):
            self.put(f"sum_number, g, part = e // {GROUPS}, e % {GROUPS}, 0.0")
            with self.under("if sum_number == 0:"), self.under(f"for b in range(g, {net.batch}, {GROUPS}):"):
                self.put(f"part += f64(q[u({at.values} + b)])")
            first = 1
            for m, tally in enumerate(net.tallies):
                count = tally.sums(net.widths[-1])
                with self.under(f"elif sum_number < {first + count}:"):
                    self._part_of_tally(m, tally, first)
                first += count
            self.put(f"d[u({at.partial} + e)] = part")

    def _part_of_tally(self, m: int, tally: Tally, first: int) -> None:
        net, at, ld, outs = self.net, self.at, self.at.ld, self.net.widths[-1]
        self.put(f"those = constants[constants0 + {self._tally_numbers(m)}:]")
        with self.under(f"for b in range(g, {net.batch}, {GROUPS}):"):
            self.put(f"weight = f64(q[u({at.counts} + now * {2 * ld} + {int(tally.weighted) * ld} + b)])")
            with self.under("if weight != 0.0:"):
                if tally.loop == "rows":
                    self.put(f"part += weight * f64(q[u({at.values + (1 + m) * ld} + b)])")
                    return
                self.put(f"hs = q[{at.h[-1]} + b:{at.h[-1] + outs * ld} + b:{ld}]", "given, had = i64(0), i64(0)")
                if tally.loop in ("classes", "pairs"):
                    self.put(
                        f"given = i64(q[u({at.marks + 2 * m * ld} + b)])",
                        f"had = i64(q[u({at.marks + (2 * m + 1) * ld} + b)])",
                    )
                if net.labels:
                    self.put(f"ys = i64(q[u({at.targets} + now * {ld} + b)])")
                else:
                    self.put(f"y0 = {at.targets} + now * {outs * ld} + b", f"ys = q[y0:y0 + {outs * ld}:{ld}]")
                term = f"term{m}(sum_number - {first}, given, had, hs, ys, {outs}, those)"
                self.put(f"part += weight * f64({term})")

    def _tally_numbers(self, m: int) -> int:
        return len(self.net.activations) * lo.CONSTANTS + lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS

    def _sum_up(self, flush: bool) -> None:
        """The batch before is added to its epoch's sums; `flush` writes them out where that epoch is over."""
        net, at = self.net, self.at
        with self.each(net.sums, last_first=True):
            self.put("whole = 0.0")
            with self.under(f"for g in range({GROUPS}):"):
                self.put(f"whole += d[u({at.partial} + j * {GROUPS} + g)]")
            self.put("if j == 0 and mean != 0:", "    whole *= before", "d[u(j)] += whole")
            if flush:
                with self.under(f"if belonged != epoch{' and j > 0' if net.penalised else ''}:"):
                    self.put("sums[sums0 + belonged * columns + j] += d[u(j)]", "d[u(j)] = 0.0")
        if net.penalised:
            parts = at.penalties + net.threads
            with self.each(GROUPS, "g", last_first=True):
                self.put("whole = 0.0")
                with self.under(f"for k in range(g, {net.threads}, {GROUPS}):"):
                    self.put(f"whole += d[u({at.penalties} + k)]")
                self.put(f"d[u({parts} + g)] = whole")

    def _add_penalties(self, flush: bool) -> None:
        net, at = self.net, self.at
        with self.under("if last == 0:"):
            self.put("whole = 0.0")
            with self.under(f"for g in range({GROUPS}):"):
                self.put(f"whole += d[u({at.penalties + net.threads} + g)]")
            self.put("d[u(0)] += whole * before if mean != 0 else whole")
            if flush:
                with self.under("if belonged != epoch:"):
                    self.put("sums[sums0 + belonged * columns] += d[u(0)]", "d[u(0)] = 0.0")


class _Under:
    """What is written meanwhile stands one step further in."""

    def __init__(self, writer: Writer, head: str) -> None:
        writer.put(head)
        self._writer = writer

    def __enter__(self) -> None:
        self._writer._depth += 1

    def __exit__(self, *error: object) -> None:
        self._writer._depth -= 1
