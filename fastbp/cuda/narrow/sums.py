"""The code of a small network's loss, and of what a batch adds to an epoch's sums."""

from fastbp.activations import IDENTITY
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.narrow.activity import Activities
from fastbp.cuda.narrow.net import GROUPS, PARTS
from fastbp.formulas.tallies import Tally


class Sums(Activities):
    """Writes what follows the last product: the loss by rows, then sums over the batch in stages."""

    def _loss(self) -> None:
        """Of each row the last activation, the loss, dZ, and what tallies need; a thread a row."""
        net, at = self.net, self.at
        last, outs, ld = len(net.activations) - 1, net.widths[-1], at.ld
        row, fused = net.activations[last], net.loss.fused_with is not None
        z, h, dz = at.z[-1], at.h[-1], at.dz[-1]
        numbers = net.count * lo.CONSTANTS
        with self.each(net.batch, "b"):
            self.put(
                *(f"{name} = q[{place} + b:{place} + {outs * ld} + b:{ld}]" for name, place in (("zs", z), ("hs", h))),
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
                if tally.loop == "kept":
                    continue
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
            with self.under("if sum_number == 0:"):
                self.put(f"for b in range(g, {net.batch}, {GROUPS}):", f"    part += f64(q[u({at.values} + b)])")
                if any(net.activities):
                    self.put(f"for b in range(g, {PARTS}, {GROUPS}):", f"    part += d[u({at.active} + b)]")
            first = 1
            for m, tally in enumerate(net.tallies):
                count = tally.sums(net.widths[-1])
                if not count:
                    continue
                with self.under(f"elif sum_number < {first + count}:"):
                    self._part_of_tally(m, tally, first)
                first += count
            self.put(f"d[u({at.partial} + e)] = part")

    def _keep_rows(self) -> None:
        """Outputs, targets and counts of the batch's rows go where they are kept; see ``rows.keep``."""
        net, at, ld, outs = self.net, self.at, self.at.ld, self.net.widths[-1]
        for m, tally in net.kept:
            counts = f"{at.counts} + now * {2 * ld} + {int(tally.weighted) * ld}"
            with self.each(net.batch * (2 * outs + 1), last_first=True):
                self.put(f"b, c = j // {2 * outs + 1}, j % {2 * outs + 1}", f"score = q[u({counts} + b)]")
                self.put(f"if c < {outs}:", f"    score = q[u({at.h[-1]} + c * {ld} + b)]", f"elif c < {2 * outs}:")
                if net.labels:
                    label = f"i64(q[u({at.targets} + now * {ld} + b)])"
                    self.put(f"    score = kind(1) if {label} == c - {outs} else kind(0)")
                else:
                    self.put(f"    score = q[u({at.targets} + (now * {outs} + c - {outs}) * {ld} + b)]")
                self.put("if b < count:", f"    kept{m}[(kept_before + s * batch + b) * {2 * outs + 1} + c] = score")

    def _part_of_tally(self, m: int, tally: Tally, first: int) -> None:
        net, at, ld, outs = self.net, self.at, self.at.ld, self.net.widths[-1]
        self.put(f"those = constants[constants0 + {self._tally_numbers(m)}:]")
        with self.under(f"for b in range(g, {net.batch}, {GROUPS}):"):
            self.put(f"weight = f64(q[u({at.counts} + now * {2 * ld} + {int(tally.weighted) * ld} + b)])")
            with self.under("if weight != 0.0:"):
                if tally.loop == "rows":
                    self.put(f"part += weight * f64(q[u({at.values + (1 + m) * ld} + b)])")
                    return
                self.put(f"hs = q[{at.h[-1]} + b:{at.h[-1]} + {outs * ld} + b:{ld}]", "given, had = i64(0), i64(0)")
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
        return self.net.count * lo.CONSTANTS + lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS

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
