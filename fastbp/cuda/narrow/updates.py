"""The code of a small network's updates that wait: for the norm of a gradient, for a group of batches, for constraints.

Where an update needs all of a gradient before a weight moves, gradients are put down: each batch's, or the sum of a
group's, which stands where the optimizer keeps it beside its moments. Constraints follow updates, a thread a neuron.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fastbp.constraints import NUMBERS
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.narrow.net import GROUPS
from fastbp.cuda.narrow.norms import Norms
from fastbp.optimizers import MOST

TOGETHER, EACH = "together", "each"
"""What has a norm: the whole gradient, or each array of weights."""


class Weights(NamedTuple):
    """An array of weights that learns.

    Attributes
    ----------
    learner : its place among `Network.learners`
    place, ldw : where it begins, and the distance of its rows
    rows, columns : its shape
    penalty : where the strengths of its penalty stand among the constants; None where there is none
    """

    learner: int
    place: int
    ldw: int
    rows: int
    columns: int
    penalty: int | None


class Updates(Norms):
    """Writes what follows gradients that were put down: norms in two stages, the updates, then constraints."""

    def _arrays(self) -> Iterator[Weights]:
        net = self.net
        for learner, index in enumerate(net.learning):
            (place, ldw), ins, outs = net.places[index], net.fan_in(index), net.widths[index + 1]
            strengths = net.ops[index] * lo.CONSTANTS + lo.PENALTY
            first, second = (strengths, strengths + 2) if index in net.penalised else (None, None)
            yield Weights(learner, place, ldw, ins, outs, first)
            if net.biased[index]:
                yield Weights(learner, place + ins * ldw, ldw, 1, outs, second)
        learning = [(index, norm) for index, norm in enumerate(net.norms) if norm is not None and norm.learns]
        for learner, (index, norm) in enumerate(learning, len(net.learning)):
            for found in (norm.gamma, norm.beta):
                if found is not None:
                    yield Weights(learner, found, norm.ldw, 1, net.widths[index], None)

        matrices = [each for each in net.matrices if each.learns]
        for learner, each in enumerate(matrices, net.first_matrix):
            yield Weights(learner, each.first, each.ldw, each.rows, each.columns, None)

    def _apply(self, gradient: str) -> None:
        net, place = self.net, f"q[u(w + {self.at.gradient - self.at.weights})]"
        if net.group > 1:
            self.put(f"{place} = {place} + {gradient} if goes_on else {gradient}")
        elif net.clips:
            self.put(f"{place} = {gradient}")
        else:
            super()._apply(gradient)

    def _finish(self) -> None:
        """What follows once all gradients of a batch are summed."""
        net = self.net
        late = net.group > 1 or bool(net.clips)
        if not late and not net.constraints:
            return
        self.put("cuda.syncthreads()")
        with self.under("if is_due:" if net.group > 1 else "if True:"):
            if late:
                arrays = list(self._arrays())
                if net.clips:
                    self._squares(arrays)
                self._move(arrays)
                if net.constraints:
                    self.put("cuda.syncthreads()")
            self._constrain()

    def _strengths(self, first: str) -> None:
        """Name the strengths of a penalty and what the step multiplies them by; `first` is the first one's place."""
        self.put(
            f"strengths = constants0 + {first}",
            "l1, l2 = constants[strengths], constants[strengths + 1]",
            f"scale = h[{self.net.numbers - 1}]",
        )

    def _pull(self, gradient: str) -> None:
        """Add the gradient of weight w's penalty."""
        pull = self.rule("pull", rules.pull(self.net.dtype))
        self.put(f"{gradient} = {pull}({gradient}, q[u(w)], l1 * scale, l2 * scale)")

    def _slope(self, each: Weights, k: str) -> None:
        """slope_of, the gradient of number k of an array, weight w, as an update takes it."""
        net, at = self.net, self.at
        coefficients = at.coefficients + each.learner * net.numbers
        self.put(
            f"w = {at.weights + each.place} + {k} // {each.columns} * {each.ldw} + {k} % {each.columns}",
            f"h = q[{coefficients}:{coefficients + net.numbers}]",
            f"slope_of = q[u(w + {at.gradient - at.weights})]",
        )
        if net.group > 1:
            self.put(f"slope_of *= kind({1.0 / net.group!r})")
            if each.penalty is not None:
                self._strengths(str(each.penalty))
                self._pull("slope_of")

    def _squares(self, arrays: list[Weights]) -> None:
        """The sum of the squares of each array's gradient."""
        at, count = self.at, len(arrays)
        with self.each(count * GROUPS, "e"):
            self.put("part = 0.0")
            for m, each in enumerate(arrays):
                with (
                    self.under(f"{'if' if m == 0 else 'elif'} e < {(m + 1) * GROUPS}:"),
                    self.under(f"for k in range(e - {m * GROUPS}, {each.rows * each.columns}, {GROUPS}):"),
                ):
                    self._slope(each, "k")
                    self.put("slope = f64(slope_of)", "part += slope * slope")
            self.put(f"d[u({at.squares} + e)] = part")
        self.put("cuda.syncthreads()")
        with self.each(count):
            self.put("part = 0.0")
            with self.under(f"for g in range({GROUPS}):"):
                self.put(f"part += d[u({at.squares} + j * {GROUPS} + g)]")
            self.put(f"d[u({at.squares + count * GROUPS} + j)] = part")
        self.put("cuda.syncthreads()")

    def _move(self, arrays: list[Weights]) -> None:
        """The updates, where it is asked for of gradients of a norm of at most the optimizer's."""
        net, at, count = self.net, self.at, len(arrays)
        for m, each in enumerate(arrays):
            if net.clips == EACH or (net.clips and m == 0):
                own = f"{m}, {m + 1}" if net.clips == EACH else f"{count}"
                self.put("part = 0.0")
                with self.under(f"for g in range({own}):"):
                    self.put(f"part += d[u({at.squares + count * GROUPS} + g)]")
                most = f"f64(q[u({at.coefficients + each.learner * net.numbers + MOST})])"
                # a NaN stays one
                self.put("norm = math.sqrt(part)", f"factor = kind(1.0 if norm <= {most} else {most} / norm)")
            with self.each(each.rows * each.columns):
                self._slope(each, "j")
                if net.clips:
                    self.put("slope_of *= factor")
                super()._apply("slope_of")

    def _constrain(self) -> None:
        """Kernels are brought to their constraints."""
        net, at = self.net, self.at
        for index, row in net.constraints:
            (place, ldw), numbers = net.places[index], net.ops[index] * lo.CONSTANTS + lo.CONSTRAINT
            rule = self.rule(f"constrain{index}", rules.constraint(row, net.dtype))
            down = f"for w in range({at.weights + place} + j, {at.weights + place + net.widths[index] * ldw}, {ldw}):"
            with self.each(net.widths[index + 1]):
                self.put("squared = kind(0)")
                with self.under(down):
                    self.put("squared += q[u(w)] * q[u(w)]")
                self.put(f"bounds = constants[constants0 + {numbers}:constants0 + {numbers + NUMBERS}]")
                with self.under(down):
                    self.put(f"q[u(w)] = {rule}(q[u(w)], squared, bounds)")
