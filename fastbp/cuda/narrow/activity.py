"""The code of a small network's penalties on activations: what they add to the loss and to the gradient coming back."""

from fastbp.cuda import layout as lo
from fastbp.cuda import rules
from fastbp.cuda.narrow.lines import Lines
from fastbp.cuda.narrow.net import INPUTS, PARTS, Activity


class Activities(Lines):
    """Writes the penalties on layers' inputs: on what the layer before gives, on that normalised, or with its noise."""

    before = ""
    """The rows of a batch before this block's, as code."""

    def _activities(self) -> list[tuple[int, Activity]]:
        """All penalties, each with the layer whose inputs it is on."""
        return [(index, each) for index, found in enumerate(self.net.activities) for each in found]

    def _take_strengths(self) -> None:
        """Name the strengths of penalties."""
        for _, each in self._activities():
            own = f"constants0 + {each.op * lo.CONSTANTS + lo.OWN}"
            self.put(f"first{each.op}, second{each.op} = constants[{own}], constants[{own} + 1]")

    def _share_strengths(self) -> None:
        """Name what each row counts of them; `count` is the rows of the batch."""
        for place, (_, each) in enumerate(self._activities()):
            if place == 0:
                self.put("of_rows = kind(1) / kind(count)")
            self.put(f"strong{each.op}, stronger{each.op} = first{each.op} * of_rows, second{each.op} * of_rows")

    def _activity(self, index: int, each: Activity, b: str, o: str) -> str:
        """The number of row b and neuron o that a penalty is on."""
        place = INPUTS if index == 0 else str((self.at.h, self.at.normal, self.at.into)[each.place][index])
        return f"q[u({place} + ({o}) * {self.at.ld} + {b})]"

    def _penalty(self, index: int, each: Activity, b: str, o: str) -> str:
        """What one number adds to the loss."""
        value = self.rule("penalty_of", rules.penalty(self.net.dtype))
        return f"{value}({self._activity(index, each, b, o)}, strong{each.op}, stronger{each.op})"

    def _sum_activities(self) -> None:
        """The penalties of a batch, in parts that all threads share; one that isn't finite ends the run."""
        net, at, found = self.net, self.at, self._activities()
        if not found:
            return
        with self.each(PARTS, "part"):
            self.put("active = kind(0)")
            for index, each in found:
                with self.under(f"for e in range(part, {net.batch * net.widths[index]}, {PARTS}):"):
                    self.put(f"b, o = e % {net.batch}, e // {net.batch}", "if b < count:")
                    self.put(f"    active += {self._penalty(index, each, 'b', 'o')}")
            self.put(f"d[u({at.active} + part)] = f64(active)")
            self.put("if not math.isfinite(active):", f"    n[u({at.wild})] = 1")

    def _pulled(self, index: int, place: int, number: str, b: str, o: str) -> str:
        """What comes back of what stands in a place, with the gradient of the penalties on it."""
        for each in self.net.activities[index]:
            if each.place == place:
                pull, a = self.rule("pull", rules.pull(self.net.dtype)), self._activity(index, each, b, o)
                self.put(f"pulled = {number}", f"if {self.before}{b} < count:")
                self.put(f"    pulled = {pull}(pulled, {a}, strong{each.op}, stronger{each.op})")
                number = "pulled"
        return number
