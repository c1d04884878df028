"""The code of a small network's normalisations: of a row over its neurons, or of a neuron over the batch.

One stands between two layers: what the first one gives is normalised, goes through an activation and then through
noise, if any. Each way there are two phases: the sums, of a row or of a neuron by one thread, then number by number.
Where mean and deviation are given, as the network's inputs' are, what is needed of them is computed once a launch.
"""

from collections.abc import Callable

from fastbp.activations import IDENTITY
from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.narrow.net import OUTPUTS, Norm
from fastbp.cuda.narrow.sums import Sums

Drawing = Callable[[bool, str, str, str], str]
"""Noise as code of (back, number, row, column)."""


class Norms(Sums):
    """Writes the normalisations of layers' inputs; `index` is the layer whose inputs they are."""

    def _norm(self, index: int) -> Norm:
        norm = self.net.norms[index]
        assert norm is not None
        return norm

    def _centred(self, index: int, b: str, o: str, number: str = "") -> str:
        """The number of row b and neuron o, by default the one that stands there, less its mean."""
        norm, place = self._norm(index), number or f"q[u({self.at.h[index]} + ({o}) * {self.at.ld} + {b})]"
        mean = f"q[u({self.at.means[index]} + {o if norm.of_neurons else b})]"
        return f"({place} - {mean})" if norm.centred else place

    def _normal(self, index: int, b: str, o: str, number: str = "") -> str:
        """The same, divided by the deviation."""
        inverse = f"q[u({self.at.inverses[index]} + {o if self._norm(index).of_neurons else b})]"
        return f"{self._centred(index, b, o, number)} * {inverse}"

    def _gamma(self, index: int, o: str) -> str:
        gamma = self._norm(index).gamma
        return "" if gamma is None else f" * q[u({self.at.weights + gamma} + {o})]"

    def _before_activation(self, index: int, b: str, o: str, number: str = "") -> str:
        beta = self._norm(index).beta
        more = "" if beta is None else f" + q[u({self.at.weights + beta} + {o})]"
        return f"{self._normal(index, b, o, number)}{self._gamma(index, o)}{more}"

    def _after_activation(self, index: int, b: str, o: str, number: str = "") -> str:
        norm, value = self._norm(index), self._before_activation(index, b, o, number)
        if norm.activation is IDENTITY:
            return value
        rule = self.rule(f"activate_normal{index}", rules.activation(norm.activation, self.net.dtype))
        return f"{rule}({value}, {self._parameter(norm)})"

    @staticmethod
    def _epsilon(norm: Norm) -> str:
        behind = norm.operation == "batch_normalization"  # behind its momentum
        return f"constants[constants0 + {norm.op * lo.CONSTANTS + lo.OWN + behind}]"

    def _take_given(self) -> None:
        """Means and 1 / deviations that are given, at the beginning of a launch."""
        for index, norm in enumerate(self.net.norms):
            if norm is None or not norm.fixed:
                continue
            with self.each(self.net.widths[index]):
                mean, variance = (f"params[params0 + {place} + j]" for place in (norm.moving, norm.moving + norm.ldw))
                inverse = f"kind(1) / math.sqrt({variance} + {self._epsilon(norm)})"
                self.put(f"q[u({self.at.means[index]} + j)] = {mean}")
                self.put(f"q[u({self.at.inverses[index]} + j)] = {inverse}")

    def _statistics(self, index: int) -> None:
        """Means and 1 / deviations, in two passes; between barriers."""
        net, at, norm = self.net, self.at, self._norm(index)
        if norm.fixed:
            self.put("cuda.syncthreads()")
            return
        things, length = (net.widths[index], "count") if norm.by_batch else (net.batch, str(net.widths[index]))
        b, o = ("k", "j") if norm.by_batch else ("j", "k")
        self.put("cuda.syncthreads()")
        with self.each(things):
            if norm.centred:
                self.put("total_of = kind(0)")
                with self.under(f"for k in range({length}):"):
                    self.put(f"total_of += q[u({at.h[index]} + {o} * {at.ld} + {b})]")
                self.put(f"q[u({at.means[index]} + j)] = total_of / kind({length})")
            self.put("squares = kind(0)")
            with self.under(f"for k in range({length}):"):
                self.put(f"off = {self._centred(index, b, o)}", "squares += off * off")
            inverse = f"kind(1) / math.sqrt(squares / kind({length}) + {self._epsilon(norm)})"
            self.put(f"q[u({at.inverses[index]} + j)] = {inverse}")
        self.put("cuda.syncthreads()")

    def _normalise(self, index: int, noise: Drawing | None) -> None:
        """The inputs of a layer, of what the one before gave."""
        net, at = self.net, self.at
        with self.each(net.batch * net.widths[index]):
            self.put(f"b, o = j % {net.batch}, j // {net.batch}", f"normal = {self._after_activation(index, 'b', 'o')}")
            self.put(f"q[u({at.normal[index]} + o * {at.ld} + b)] = normal")
            if noise is not None:
                self.put(f"q[u({at.into[index]} + o * {at.ld} + b)] = {noise(False, 'normal', 'b', 'o')}")

    @staticmethod
    def _parameter(norm: Norm) -> str:
        return f"constants[constants0 + {norm.op * lo.CONSTANTS + lo.PARAMETER}]"

    def _through_activation(self, index: int, number: str, b: str, o: str) -> str:
        """What comes back of a normalised number's activation."""
        norm = self._norm(index)
        if norm.activation is IDENTITY:
            return number
        rule = self.rule(f"derive_normal{index}", rules.derivative(norm.activation, self.net.dtype))
        h = f"q[u({self.at.normal[index]} + ({o}) * {self.at.ld} + {b})]"
        return f"{rule}({number}, {self._before_activation(index, b, o)}, {h}, {self._parameter(norm)})"

    def _normalise_back(self, index: int) -> None:
        """dZ of the layer before, in the place of what came back of the normalised numbers."""
        net, at, norm = self.net, self.at, self._norm(index)
        width, ld, dz = net.widths[index], at.ld, at.dz[index]
        self.put("cuda.syncthreads()")
        if not norm.of_neurons:
            with self.each(net.batch):
                self.put("plain_of, product_of = kind(0), kind(0)")
                with self.under(f"for k in range({width}):"):
                    self.put(
                        f"off = q[u({dz} + k * {ld} + j)]{self._gamma(index, 'k')}",
                        "plain_of += off",
                        f"product_of += off * ({self._normal(index, 'j', 'k')})",
                    )
                if norm.centred:
                    self.put(f"q[u({at.plains[index]} + j)] = plain_of / kind({width})")
                self.put(f"q[u({at.products[index]} + j)] = product_of / kind({width})")
        if norm.learns:
            with self.each(width, last_first=True):
                self.put("plain_of, product_of = kind(0), kind(0)")
                with self.under(f"for k in range({'count' if norm.by_batch else net.batch}):"):
                    self.put(
                        f"off = q[u({dz} + j * {ld} + k)]",
                        "plain_of += off",
                        f"product_of += off * ({self._normal(index, 'k', 'j')})",
                    )
                self.put(f"q[u({at.betas[index]} + j)], q[u({at.gammas[index]} + j)] = plain_of, product_of")
        if not norm.fixed:
            self.put("cuda.syncthreads()")
        row = net.activations[index - 1]
        with self.each(net.batch * width):
            self.put(f"b, o = j % {net.batch}, j // {net.batch}", f"back = q[u({dz} + o * {ld} + b)]")
            gamma, normal = self._gamma(index, "o"), self._normal(index, "b", "o")
            inverse = f"q[u({at.inverses[index]} + {'o' if norm.of_neurons else 'b'})]"
            if norm.by_batch:
                mean = f"q[u({at.betas[index]} + o)] + {normal} * q[u({at.gammas[index]} + o)]"
                self.put(f"back = (back - ({mean}) / kind(count)) * {inverse}{gamma}")
                self.put("if b >= count:", "    back = kind(0)")
            elif norm.fixed:
                self.put(f"back *= {inverse}{gamma}")
            else:
                less = f" - q[u({at.plains[index]} + b)]" if norm.centred else ""
                self.put(f"back = (back{gamma}{less} - {normal} * q[u({at.products[index]} + b)]) * {inverse}")
            if (pulled := self._pulled(index, OUTPUTS, "back", "b", "o")) != "back":
                self.put(f"back = {pulled}")
            if row is not IDENTITY:
                rule = self.rule(f"derive{index - 1}", rules.derivative(row, net.dtype))
                z, h = (f"q[u({place} + o * {ld} + b)]" for place in (at.z[index], at.h[index]))
                self.put(f"back = {rule}(back, {z}, {h}, own{index - 1})")
            self.put(f"q[u({dz} + o * {ld} + b)] = back")

    def _learn_norms(self) -> None:
        """gamma and beta learn, and the moving statistics of batches follow."""
        net, at = self.net, self.at
        place = len(net.learning)
        for index, norm in enumerate(net.norms):
            if norm is None or not norm.learns:
                continue
            with self.each(net.widths[index], last_first=True):
                first = at.coefficients + place * net.numbers
                self.put(f"h = q[{first}:{first + net.numbers}]")
                for weight, sums in ((norm.gamma, at.gammas), (norm.beta, at.betas)):
                    if weight is not None:
                        self.put(f"w = {at.weights + weight} + j")
                        self._apply(f"q[u({sums[index]} + j)]")
                if norm.by_batch:
                    self._follow(index, norm)
            place += 1

    def _follow(self, index: int, norm: Norm) -> None:
        at, own = self.at, norm.op * lo.CONSTANTS + lo.OWN
        self.put(
            f"keep, epsilon = constants[constants0 + {own}], constants[constants0 + {own + 1}]",
            f"take, inverse = kind(1) - keep, q[u({at.inverses[index]} + j)]",
            f"w = {at.weights + norm.moving} + j",
            f"q[u(w)] = q[u(w)] * keep + q[u({at.means[index]} + j)] * take",
            f"w += {norm.ldw}",
            "q[u(w)] = q[u(w)] * keep + (kind(1) / (inverse * inverse) - epsilon) * take",
        )

    def _apply(self, gradient: str) -> None:
        """What becomes of the gradient of weight w."""
        self.put(f"update(q, w, {self.at.distance}, {gradient}, h)")
