"""The code of a small network's updates by the norm of a gradient: all of it is known before a weight moves."""

from collections.abc import Iterator
from typing import NamedTuple

from fastbp.cuda.narrow_net import GROUPS
from fastbp.cuda.narrow_norms import Norms
from fastbp.optimizers import MOST

TOGETHER, EACH = "together", "each"
"""What has a norm: the whole gradient, or each array of weights."""


class Weights(NamedTuple):
    """An array of weights that learns: its place among `Network.learners`, where it begins, its rows and columns."""

    learner: int
    place: int
    ldw: int
    rows: int
    columns: int


class Clips(Norms):
    """Writes what follows gradients that were put down: norms in two stages, then the updates."""

    def _arrays(self) -> Iterator[Weights]:
        net = self.net
        for learner, index in enumerate(net.learning):
            (place, ldw), ins, outs = net.places[index], net.widths[index], net.widths[index + 1]
            yield Weights(learner, place, ldw, ins, outs)
            if net.biased[index]:
                yield Weights(learner, place + ins * ldw, ldw, 1, outs)
        learning = [(index, norm) for index, norm in enumerate(net.norms) if norm is not None and norm.learns]
        for learner, (index, norm) in enumerate(learning, len(net.learning)):
            for found in (norm.gamma, norm.beta):
                if found is not None:
                    yield Weights(learner, found, norm.ldw, 1, net.widths[index])

    def _apply(self, gradient: str) -> None:
        if self.net.clips:
            self.put(f"q[u(w + {self.at.gradient - self.at.weights})] = {gradient}")
        else:
            super()._apply(gradient)

    def _clip(self) -> None:
        """The updates, of gradients of a norm of at most the optimizer's."""
        net, at, arrays = self.net, self.at, list(self._arrays())
        count = len(arrays)
        self.put("cuda.syncthreads()")
        with self.each(count * GROUPS, "e"):
            self.put("part = 0.0")
            for m, each in enumerate(arrays):
                with (
                    self.under(f"{'if' if m == 0 else 'elif'} e < {(m + 1) * GROUPS}:"),
                    self.under(f"for k in range(e - {m * GROUPS}, {each.rows * each.columns}, {GROUPS}):"),
                ):
                    first = f"{at.gradient + each.place} + k // {each.columns} * {each.ldw} + k % {each.columns}"
                    self.put(f"slope = f64(q[u({first})])", "part += slope * slope")
            self.put(f"d[u({at.squares} + e)] = part")
        self.put("cuda.syncthreads()")
        with self.each(count):
            self.put("part = 0.0")
            with self.under(f"for g in range({GROUPS}):"):
                self.put(f"part += d[u({at.squares} + j * {GROUPS} + g)]")
            self.put(f"d[u({at.squares + count * GROUPS} + j)] = part")
        self.put("cuda.syncthreads()")
        for m, each in enumerate(arrays):
            coefficients = at.coefficients + each.learner * net.numbers
            if net.clips == EACH or m == 0:
                own = f"{m}, {m + 1}" if net.clips == EACH else f"{count}"
                self.put("part = 0.0")
                with self.under(f"for g in range({own}):"):
                    self.put(f"part += d[u({at.squares + count * GROUPS} + g)]")
                most = f"f64(q[u({coefficients + MOST})])"
                # a NaN stays one
                self.put("norm = math.sqrt(part)", f"factor = kind(1.0 if norm <= {most} else {most} / norm)")
            with self.each(each.rows * each.columns):
                self.put(
                    f"w = {at.weights + each.place} + j // {each.columns} * {each.ldw} + j % {each.columns}",
                    f"h = q[{coefficients}:{coefficients + net.numbers}]",
                    f"slope_of = q[u(w + {at.gradient - at.weights})] * factor",
                )
                super()._apply("slope_of")
