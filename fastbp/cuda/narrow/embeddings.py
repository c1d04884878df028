"""The code of a small network's `Embedding`, its first layer: vectors looked up by category, and their gradients.

The matrices stand in shared memory among the other weights. Each number of a matrix has a thread that goes through the
batch and adds what comes back to the rows with its category, in their order.
"""

from fastbp.cuda import layout as lo
from fastbp.cuda.narrow.net import INPUTS
from fastbp.cuda.narrow.norms import Drawing
from fastbp.cuda.narrow.updates import Updates


class Embeddings(Updates):
    """Writes the first layer of a network that looks categories up."""

    def _look_up(self, noise: Drawing | None) -> None:
        """The columns that pass, then the vectors; category numbers that are none are row 0, and noticed."""
        net, at = self.net, self.at
        path = net.paths[0]
        assert path is not None
        runs: list[list[int]] = []
        for o, column in enumerate(path.passing):
            if runs and column == path.passing[o - 1] + 1:
                runs[-1][2] += 1
            else:
                runs.append([o, column, 1])
        for o, column, width in runs:
            with self.each(net.batch * width):
                self.put(f"b, o = j % {net.batch}, j // {net.batch}")
                self.put(f"value = q[u({INPUTS} + ({column} + o) * {at.ld} + b)]")
                self._keep(f"{o} + o", noise)
        for each, codes in zip(path.matrices, at.codes, strict=True):
            with self.each(net.batch * each.columns):
                self.put(
                    f"b, o = j % {net.batch}, j // {net.batch}",
                    f"value, code = q[u({INPUTS} + {each.column * at.ld} + b)], i64(0)",
                    f"if value >= kind(0) and value < kind({each.rows}) and math.floor(value) == value:",
                    "    code = i64(value)",
                    "else:",
                    f"    t[table0 + {lo.UNFIT}] = 1",
                    "if o == 0:",
                    f"    n[u({codes} + b)] = code",
                    f"value = q[u({at.weights + each.first} + code * {each.ldw} + o)]",
                )
                self._keep(f"{each.place} + o", noise)

    def _keep(self, o: str, noise: Drawing | None) -> None:
        at = self.at
        self.put(f"q[u({at.h[1]} + ({o}) * {at.ld} + b)] = value")
        if noise is not None:
            self.put(f"q[u({at.into[1]} + ({o}) * {at.ld} + b)] = {noise(False, 'value', 'b', o)}")

    def _learn_embeddings(self) -> None:
        """Each number's gradient, followed by its update."""
        net, at = self.net, self.at
        for learner, (each, codes) in enumerate(zip(net.matrices, at.codes, strict=True), net.first_matrix):
            if not each.learns:
                return
            first = at.coefficients + learner * net.numbers
            with self.each(each.rows * each.columns, last_first=True):
                self.put(f"k, o, slope_of = j // {each.columns}, j % {each.columns}, kind(0)")
                with self.under(f"for b in range({net.batch}):"), self.under(f"if n[u({codes} + b)] == k:"):
                    self.put(f"slope_of += q[u({at.dz[1]} + ({each.place} + o) * {at.ld} + b)]")
                self.put(f"w = {at.weights + each.first} + k * {each.ldw} + o", f"h = q[{first}:{first + net.numbers}]")
                self._apply("slope_of")
