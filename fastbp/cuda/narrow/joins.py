"""The code of a small network's paths that part and meet again, and of what else is done number by number.

A block whose inputs skip it begins with a layer that passes them on and ends with one that puts both paths together
(see ``narrow.net.Path``). Neither takes a phase where what stands before it, or, going back, behind it, can do its
work on each number in passing. The product of a path that skips a block is summed where the paths meet; its gradient
with respect to its inputs where they parted.
"""

from fastbp.activations import IDENTITY
from fastbp.cuda import rules
from fastbp.cuda.narrow.embeddings import Embeddings
from fastbp.cuda.narrow.net import INPUTS, NOISY, NORMAL, OUTPUTS, Path
from fastbp.cuda.narrow.norms import Drawing


class Joins(Embeddings):
    """Writes what each layer makes of its numbers, and which layers are computed together."""

    def _path(self, index: int) -> Path | None:
        return self.net.paths[index] if 0 <= index < len(self.net.paths) else None

    def _joins_forward(self, index: int) -> bool:
        """Whether a layer is computed in passing, by the phase of the one before."""
        path, before = self._path(index), self._path(index - 1)
        if index == 0 or path is None or (before is not None and before.kind == "embedding"):
            return False
        return path.passes and self.net.norms[index] is None

    def _joins_back(self, index: int) -> bool:
        """Whether a layer is gone back through in passing, by the phase of the one behind."""
        path, last = self._path(index), len(self.net.paths) - 1
        if index < max(self.net.lowest, 1) or index == last or path is None or self.net.norms[index + 1] is not None:
            return False
        return path.kind != "concatenate" and (path.kind != "fork" or path.passes)

    def _chain_forward(self, index: int) -> list[int]:
        """The layers that the phase of a layer computes, in their order."""
        chain = [index]
        while self._joins_forward(chain[-1] + 1):
            chain.append(chain[-1] + 1)
        return chain

    def _chain_back(self, index: int) -> list[int]:
        """The layers that are gone back through in the phase of one, in their order."""
        chain = [index]
        while self._joins_back(chain[-1] - 1):
            chain.append(chain[-1] - 1)
        return chain

    def _is_idle(self, chain: list[int]) -> bool:
        """Whether a phase forward has nothing to do: paths part, and nothing is done to the numbers."""
        path, behind = self.net.paths[chain[0]], chain[0] + 1
        if len(chain) > 1 or path is None or path.kind != "fork":
            return False
        return self.net.norms[behind] is not None or self.net.noises[behind] is None

    def _is_idle_back(self, chain: list[int]) -> bool:
        """Whether one going back has nothing to do."""
        path, dz = self.net.paths[chain[0]], self.at.dz
        return len(chain) == 1 and path is not None and path.kind != "fork" and dz[chain[0]] == dz[chain[0] + 1]

    def _multiplied(self, index: int) -> str:
        """Where the numbers begin that the weights of a layer are multiplied by."""
        path = self.net.paths[index]
        found = self.at.into[index] if path is None else self.at.h[path.other + 1]
        return INPUTS if path is None and index == 0 else str(found)

    def _at(self, place: int | str, b: str, o: str) -> str:
        return f"q[u({place} + ({o}) * {self.at.ld} + {b})]"

    def _arriving(self, index: int, total: str, in_passing: bool, b: str, o: str) -> str:
        """Number (b, o) of a layer before its activation; `total` is the sum of its product, if it has one.

        in_passing : whether its input of the same place has just been computed: `value`
        """
        path = self.net.paths[index]
        if path is None:
            return total
        into = INPUTS if index == 0 else self.at.into[index]
        came = "value" if in_passing else self._at(into, b, o)
        if path.kind in ("fork", "activation"):
            return came
        skipped = self._at(self.at.h[path.other + 1], b, o)
        if path.kind == "join":
            return f"{came} + {skipped if path.projection is None else total}"
        border = self.net.widths[path.other + 1]
        return f"{skipped} if {o} < {border} else {self._at(into, b, f'{o} - {border}')}"

    def _give(self, chain: list[int], noises: dict[int, Drawing | None], total: str, b: str, o: str) -> None:
        """Number (b, o) of each layer of a chain, as it is kept and as the next one takes it."""
        net, at = self.net, self.at
        for index in chain:
            row, path, behind = net.activations[index], net.paths[index], index + 1
            final = behind == len(net.activations)
            self.put(f"value = {self._arriving(index, total, index != chain[0], b, o)}")
            if at.z[behind] != at.h[behind]:
                self.put(f"{self._at(at.z[behind], b, o)} = value")
            if not final and row is not IDENTITY:
                rule = self.rule(f"activate{index}", rules.activation(row, net.dtype))
                self.put(f"value = {rule}(value, own{index})")
            if (not final or row is IDENTITY) and (path is None or path.kind != "fork"):
                self.put(f"{self._at(at.h[behind], b, o)} = value")
            if (noise := noises[index]) is not None:
                self.put(f"value = {noise(False, 'value', b, o)}", f"{self._at(at.into[behind], b, o)} = value")

    def _returning(self, index: int, total: str, in_passing: bool, b: str, o: str) -> str:
        """The gradient of a layer's input (b, o), of dZ of what it is; see `_arriving`."""
        path, dz = self.net.paths[index], self.at.dz
        if path is None:
            return total
        if path.kind == "concatenate":
            return self._at(dz[index + 1], b, f"{o} + {self.net.widths[path.other + 1]}")
        came = "value" if in_passing else self._at(dz[index + 1], b, o)
        if path.kind != "fork":
            return came
        return f"{came} + {self._at(dz[path.other + 1], b, o) if path.projection is None else total}"

    def _give_back(self, chain: list[int], noises: dict[int, Drawing | None], total: str, b: str, o: str) -> None:
        """dZ of what stands before each layer of a chain, where that is kept."""
        net, dz = self.net, self.at.dz
        for index in chain:
            before, row = self._path(index - 1), net.activations[index - 1]
            value = self._pulled(index, NOISY, self._returning(index, total, index != chain[0], b, o), b, o)
            if (noise := noises[index]) is not None:
                value = noise(True, value, b, o)
            value = self._pulled(index, NORMAL, value, b, o)
            if net.norms[index] is not None:
                value = self._through_activation(index, value, b, o)
            else:
                value = self._pulled(index, OUTPUTS, value, b, o)
            if net.norms[index] is None and row is not IDENTITY:
                rule = self.rule(f"derive{index - 1}", rules.derivative(row, net.dtype))
                z, h = self._at(self.at.z[index], b, o), self._at(self.at.h[index], b, o)
                value = f"{rule}({value}, {z}, {h}, own{index - 1})"
            self.put(f"value = {value}")
            parted = before is not None and before.kind == "fork"
            if index == chain[-1] or not parted:  # where paths part, the sum of both is yet to come
                self.put(f"{self._at(dz[index], b, o)} = value")
