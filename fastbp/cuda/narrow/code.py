"""The code of a kernel that trains a whole small network by itself: written for the network, then compiled.

One block of threads has the network to itself for as many steps as a launch asks for. Weights, moments, activations and
gradients stand in shared memory all the while; from step to step only inputs, targets and coefficients are read, ahead
of their use. Numbers of a batch stand [neuron][row], at distances for which loads of neighbouring rows, four numbers
each, and those of neighbouring neurons, meet different banks; rows and columns of a thread's tile lie apart where that
makes neighbours of neighbouring threads' loads. Behind a layer's outputs stands a row of ones, whose product is the
gradient of the biases.

Noise of a layer's inputs is drawn where they are computed, and again where the gradient comes back.

The phases of a step, with one barrier after each: a product forward for each layer, the loss by rows, a product back
for each layer but the first, and all gradients with their updates. A normalisation adds two each way (see
``narrow.norms``), norms of gradients and constraints some behind the gradients (see ``narrow.updates``); where paths
part and meet, most often none (see ``narrow.joins``). What else is to do runs beside them on the threads that have the
least to do: row numbers of the next batch beside the loss, its inputs on their way to registers while gradients are
summed, the batch's sums in two stages beside the gradients and the next batch's first product.

Each number is computed by one thread, and each sum runs in an order that follows from the shapes. So the same device
gives the same bits, and what a launch begins with doesn't change them.
"""

from collections.abc import Iterator, Sequence

from fastbp import program as pg
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.narrow.joins import Joins
from fastbp.cuda.narrow.net import INPUTS, tile
from fastbp.cuda.narrow.norms import Drawing
from fastbp.program import round_up

UNROLL = 64
"""Products of a tile that are written one after the other: loads of several steps of a sum are then on their way at
once, and those of neighbours in memory become one."""
AHEAD = 8
"""Numbers that a thread keeps in registers on their way from global memory."""
HEADER = "def train(most, bases, t, params, constants, coefficients, sums, x, y, rows, weights, present{kept}):"
NOISE = "noise", "noise_back"
FIRSTS = "table0", "params0", "constants0", "coefficients0", "sums0", "rows0", "steps"
"""Numbers of a network among `bases`: where its own part of each array begins, and how many steps it does at most."""


class Writer(Joins):
    """Writes the kernel of a network."""

    def source(self) -> str:
        """All of it."""
        net = self.net
        self.put(
            *self.shared("d", "double"),
            *self.shared("n", "int"),
            *self.shared("q", "kind"),
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
        fields |= {"width": lo.COEFFICIENTS, "columns": lo.SUMS, "drawn": lo.NOISE, "grouped": lo.GROUPED}
        self.put(*(f"{name} = t[table0 + {field}]" for name, field in fields.items()))
        self.put("began = first // per_epoch", "bits = i64(1)", "while (i64(1) << bits) < total:", "    bits += 1")
        if net.kept:
            self.put(f"kept_before = first % per_epoch * batch - t[table0 + {lo.KEPT}]")
        self._take_parameters()
        self._begin()
        with self.under("for s in range(done, done + steps):"):
            self._step()
        self._end()
        kept = "".join(f", kept{m}" for m, _ in net.kept)
        return "\n".join([HEADER.format(kept=kept), *self.lines, ""])

    def _take_parameters(self) -> None:
        for index, row in enumerate(self.net.activations):
            if row.parameter is not None:
                self.put(f"own{index} = constants[constants0 + {self.net.ops[index] * lo.CONSTANTS + lo.PARAMETER}]")
            else:
                self.put(f"own{index} = kind(0)")
        self._take_strengths()

    def _begin(self) -> None:
        """Weights and moments into shared memory, rows of ones, the first batch."""
        net, at = self.net, self.at
        for array in range(1 + net.slots):
            with self.each(at.distance):
                self.put(f"q[u({at.weights + array * at.distance} + j)] = params[params0 + {array} * distance + j]")
        with self.each(at.ld):
            for parity in range(2):
                self.put(f"q[u({at.inputs + (parity * (net.widths[0] + 1) + net.widths[0]) * at.ld} + j)] = kind(1)")
            for place in at.ones:
                self.put(f"q[u({place} + j)] = kind(1)")
        with self.each(net.sums, last_first=True):
            self.put("d[u(j)] = 0.0")
        self._take_given()
        self.put("if i == 0:", f"    n[u({at.wild})] = 0")
        self.put("finished, before, belonged = i64(0), i64(0), i64(0)")
        self._choose_rows("first + done", "(done & 1)")
        self.put("cuda.syncthreads()")
        fetch, store = self._ahead("(done & 1)", "done")
        self.put(*fetch, *store, "cuda.syncthreads()")

    def _step(self) -> None:
        net, at = self.net, self.at
        layers = len(net.activations)
        self.put(
            "number, step = first + s, s",
            "now = s & 1",
            "more = s + 1 < done + steps",
            "epoch = number // per_epoch - began",
            "count = min(batch, total - number % per_epoch * batch)",
            f"{INPUTS} = {at.inputs} + now * {(net.widths[0] + 1) * at.ld}",
        )
        self._share_strengths()
        if net.group > 1:
            self.put(f"goes_on = (grouped + s) % {net.group} != 0", f"is_due = (grouped + s + 1) % {net.group} == 0")
        for index in range(layers):
            if index == 0:
                self._fetch_coefficients()
            self._forward(index)
            if index == 0:
                self._store_coefficients()
                with self.under("if finished > 0:"):
                    self._sum_up(flush=True)
            self.barrier()
        self._loss()
        self._sum_activities()
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
            self.barrier()
        fetch, store = self._ahead("(1 - now)", "(s + 1)")
        with self.under("if more:"):
            self.put(*fetch)
        self._learn()
        self._sum_parts()
        self._keep_rows()
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

    def _ahead(self, parity: str, step: str) -> tuple[list[str], list[str]]:
        """Lines that read inputs and targets of the rows chosen, and lines that put them into shared memory.

        The first numbers of each thread wait in registers between the two. `step` is the one that they are for.
        """
        net, at = self.net, self.at
        fetch: list[str] = []
        store: list[str] = []
        with self.aside() as written:
            noise = self._noise(0, step)
        store += written

        def stored(name: str, number: str, e: str, width: int) -> str:
            row, column = f"{e} // {width}", f"{e} % {width}"
            if name == "x" and net.norms[0] is not None:
                number = self._after_activation(0, row, column, number)
            return noise(False, number, row, column) if name == "x" and noise is not None else number

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
                given = stored(name, v, e, width)
                store += [inside, f"    {target.format(e=e)} = {given}", *(line.format(v=v) for line in unfit)]
            if whole > AHEAD:
                store += [
                    f"for e in range(i + {AHEAD * net.threads}, {net.batch * width}, {net.threads}):",
                    f"    value = {source.format(e='e')}",
                    f"    {target.format(e='e')} = {stored(name, 'value', 'e', width)}",
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
        net, count = self.net, len(self.net.learners) * self.net.numbers
        for m in range(-(-count // net.threads)):
            e = f"(last + {m * net.threads})"
            self.put(f"c{m} = kind(0)")
            with self.under(f"if {e} < {count}:"):
                self.put("rates = i64(0)")
                for place, op in enumerate(net.learners):
                    field = lo.Layout.field(op) + lo.RATES
                    self.put(f"if {e} // {net.numbers} == {place}:", f"    rates = t[table0 + {field}]")
                self.put(f"c{m} = coefficients[coefficients0 + rates + s * width + {e} % {net.numbers}]")

    def _store_coefficients(self) -> None:
        net, at, count = self.net, self.at, len(self.net.learners) * self.net.numbers
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

    def _noise(self, index: int, step: str) -> Drawing | None:
        """What draws the noise of layer `index`'s inputs, as code of (back, number, row, column); None without any.

        step : the step of the run, as code; what does not change from number to number is written now
        """
        found = self.net.noises[index]
        if found is None:
            return None
        name, op = found
        made = rules.noise(name, self.net.dtype)
        rows = [self.rule(f"{word}{index}", each) for word, each in zip(NOISE, made, strict=True)]
        draw, own = self.rule("draw", rules.uniform(self.net.dtype)), op * lo.CONSTANTS + lo.OWN
        self.put(
            f"key{index} = mix(seed ^ mix(t[table0 + {lo.Layout.field(op) + lo.KEY}] ^ mix(drawn + {step})))",
            f"p{index} = constants[constants0 + {own}:constants0 + {own + 4}]",
        )

        def code(back: bool, number: str, row: str, column: str) -> str:
            key = f"key{index}"
            u, v = (f"{draw}({key}, {self.before}{row}, mix({key} + 2 * ({column}) + {k}))" for k in range(2))
            return f"{rows[back]}({number}, {u}, {v}, p{index})"

        return code

    def _forward(self, index: int) -> None:
        """H of layer `index`, and Z where it is kept; of the last layer Z alone."""
        if self._joins_forward(index):
            return
        net, at, chain = self.net, self.at, self._chain_forward(index)
        ins, outs = net.fan_in(index), net.widths[index + 1]
        (place, ldw), ld, behind = net.places[index], at.ld, chain[-1] + 1
        high, wide = tile(net.batch, outs, net.threads)
        down, across = -(-net.batch // high), -(-outs // wide)
        w = at.weights + place
        normal = behind < len(net.activations) and net.norms[behind] is not None
        last = behind if normal else len(net.activations)
        if index == 0 and net.matrices:
            self._look_up(self._noise(1, "step") if last > 1 else None)
        elif not self._is_idle(chain):
            noises = {each: self._noise(each + 1, "step") if each + 1 < last else None for each in chain}
            with self.each(down * across):
                self.put(f"b, o = j % {down}, j // {down} * {wide}")
                if ins:
                    bias = [f"q[u({w + ins * ldw + c} + o)]" if net.biased[index] else "kind(0)" for c in range(wide)]
                    left = f"{self._multiplied(index)} + {{k}} * {ld} + b + {{r}} * {down}"
                    self._sums(high, wide, ins, left, f"{w} + {{k}} * {ldw} + o + {{c}}", bias)
                for c in range(wide):
                    with self.under(f"if o + {c} < {outs}:" if outs % wide else "if True:"):
                        for r in range(high):
                            self._give(chain, noises, f"s{r}{c}", f"b + {r * down}", f"o + {c}")
        if normal:
            self._statistics(behind)
            self._normalise(behind, self._noise(behind, "step"))

    def _back(self, index: int) -> None:
        """dZ of the layer before from dZ of layer `index`."""
        if self._joins_back(index):
            return
        net, at, chain = self.net, self.at, self._chain_back(index)
        path, ins, ld = net.paths[index], net.widths[index], at.ld
        product = index if path is None else path.other
        (place, ldw), outs = net.places[product], net.widths[product + 1]
        w = at.weights + place
        high, wide = tile(net.batch, ins, net.threads)
        down, across = -(-net.batch // high), -(-ins // wide)
        if not self._is_idle_back(chain):
            noises = {each: self._noise(each, "step") for each in chain}
            with self.each(down * across):
                self.put(f"b, o = j % {down}, j // {down} * {wide}")
                if path is None or (path.kind == "fork" and path.projection is not None):
                    left = f"{at.dz[product + 1]} + {{k}} * {ld} + b + {{r}} * {down}"
                    self._sums(high, wide, outs, left, f"{w} + (o + {{c}}) * {ldw} + {{k}}", ["kind(0)"] * wide)
                for c in range(wide):
                    with self.under(f"if o + {c} < {ins}:" if ins % wide else "if True:"):
                        for r in range(high):
                            self._give_back(chain, noises, f"s{r}{c}", f"b + {r * down}", f"o + {c}")
        if net.norms[chain[-1]] is not None:
            self._normalise_back(chain[-1])

    def _learn(self) -> None:
        """All gradients, each followed by its weight's update."""
        net, at = self.net, self.at
        if net.penalised:
            self.put("penalty = 0.0")
        tiles, counts = [], []
        for index in net.learning:
            rows, outs = net.fan_in(index) + net.biased[index], net.widths[index + 1]
            high, wide = tile(rows, outs, net.threads)
            tiles.append((rows, outs, high, wide))
            counts.append(round_up(-(-rows // high) * -(-outs // wide), 32 if net.threads % 32 == 0 else 1))
        if counts:
            with self.each(sum(counts), "item"):
                first = 0
                for place, (index, count, found) in enumerate(zip(net.learning, counts, tiles, strict=True)):
                    head = f"if item < {first + count}:" if place == 0 else f"elif item < {first + count}:"
                    with self.under(head):
                        self._learn_layer(place, index, first, *found)
                    first += count
        if net.penalised:
            self.put(f"d[u({at.penalties} + i)] = penalty")
        self._learn_norms()
        self._learn_embeddings()
        self._finish()

    def _learn_layer(self, place: int, index: int, first: int, rows: int, outs: int, high: int, wide: int) -> None:
        net, at = self.net, self.at
        across, down = -(-outs // wide), -(-rows // high)
        (offset, ldw), ld = net.places[index], at.ld
        with self.under(f"if item < {first + across * down}:"):
            self.put(
                f"k0, o = (item - {first}) // {across}, (item - {first}) % {across}",
                f"h = q[{at.coefficients + place * net.numbers}:{at.coefficients + (place + 1) * net.numbers}]",
            )
            left = f"{self._multiplied(index)} + (k0 + {{r}} * {down}) * {ld} + {{k}}"
            right = f"{at.dz[index + 1]} + (o + {{c}} * {across}) * {ld} + {{k}}"
            self._sums(high, wide, net.batch, left, right, ["kind(0)"] * wide)
            for r in range(high):
                for c in range(wide):
                    limits = [f"k0 + {r * down} < {rows}"] * (rows % high > 0) + [f"o + {c * across} < {outs}"] * (
                        outs % wide > 0
                    )
                    with self.under(f"if {' and '.join(limits) or 'True'}:"):
                        self.put(f"w = {at.weights + offset} + (k0 + {r * down}) * {ldw} + o + {c * across}")
                        if index in net.penalised:
                            self._penalise(index, f"k0 + {r * down}", f"s{r}{c}")
                        self._apply(f"s{r}{c}")

    def _penalise(self, index: int, row: str, gradient: str) -> None:
        net, value = self.net, self.rule("penalty_of", rules.penalty(self.net.dtype))
        first = net.ops[index] * lo.CONSTANTS + lo.PENALTY
        self._strengths(f"{first} + (2 if {row} >= {net.widths[index]} else 0)")
        self.put(f"penalty += f64({value}(q[u(w)], l1, l2) * scale)")
        if net.group == 1:
            self._pull(gradient)
