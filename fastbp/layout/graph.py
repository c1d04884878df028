"""Floor 2: which ops of a network a step goes through, which of them learn, and how far back it goes."""

from fastbp.activations import IDENTITY
from fastbp.layout.operations import DENSE
from fastbp.program import SLAB_ROWS, LayerSpec, Program

TILES, LATE, SPLIT, GIVEN = "tiles", "late", "split", "given"
"""How a plan heeds what layers say of their weights: updates by tiles, in a phase of their own, by the norms of the
whole gradient or without them, or by a gradient given.

With "" it doesn't: every gradient is summed, and updated in the same phase where there is an optimizer."""
LONG_SUM = 4e10
"""Above so many floating-point operations (0.2 s at 200 GFLOP/s) a sum of gradients updates nothing, so that Ctrl-C may
end a step in the middle of it: the update has a phase of its own."""


def update_mode(program: Program, late: bool, batch: int = 0, is_sparse: bool = False) -> str:
    """What a training step's plan is laid out with.

    late : whether the optimizer needs the whole gradient first
    batch : rows of a step; 0 where a long sum of gradients may update as it goes
    is_sparse : whether the first layer's inputs are, so that its sum is short
    """
    layers = program.layers
    if late:
        return LATE
    rows = batch if any(layer.whole_batch for layer in layers) else min(batch, SLAB_ROWS)
    learning = (layer.parameters for layer in layers[is_sparse:] if layer.operation is DENSE and layer.trainable)
    if 2 * rows * sum(learning) > LONG_SUM:
        return SPLIT
    return TILES if any(not layer.trainable or layer.constraint for layer in layers) else ""


class Graph:
    """The ops of a step.

    Parameters
    ----------
    program : the network
    backward : whether the step goes back
    input_gradient : whether it goes back as far as the network's inputs
    noise : whether what draws noise is part of it
    update : see `TILES`

    Attributes
    ----------
    layers : what the rows of the table are: the program's layers, in a prediction without noise
    places : which of the program's layers these are
    sources : the op whose outputs each takes, -1 for the inputs
    lowest : the first op that is gone back through
    learning : ops whose parameters are updated
    skips : the op whose outputs a join adds, -1 for the inputs and where nothing is added
    users : the ops that take the outputs of each
    program, backward, update : as they were given
    """

    def __init__(
        self, program: Program, backward: bool, input_gradient: bool = False, noise: bool = False, update: str = ""
    ) -> None:
        self.program, self.backward, self.update = program, backward, update
        self.places = [i for i, layer in enumerate(program.layers) if noise or not layer.operation.noise]
        self.layers = [program.layers[i] for i in self.places]
        self.sources = [self._live(program.sources[i]) for i in self.places]
        self.skips = [-1 if layer.skip is None else self._live(layer.skip) for layer in self.layers]
        self.users = [[k for k, s in enumerate(self.sources) if s == i] for i in range(len(self.layers))]
        self.learning = [i for i, layer in enumerate(self.layers) if self._learns(layer)]
        self.lowest = 0 if input_gradient else self._lowest()

    def _live(self, op: int) -> int:
        """The op of this plan whose outputs op number `op` of the program passes on."""
        while op >= 0 and op not in self.places:
            op = self.program.sources[op]
        return self.places.index(op) if op >= 0 else -1

    def _learns(self, layer: LayerSpec) -> bool:
        """Whether the op has a task in the weights phase."""
        if layer.operation.whole_batch:
            return layer.trainable
        return layer.learned > 0 and (layer.trainable or not self.update)

    def _lowest(self) -> int:
        """The first op that something learned stands before."""
        learned: list[bool] = []
        for index in range(len(self.layers)):
            if any(learned[i] for i in (self.sources[index], self.skips[index]) if i >= 0):
                return index
            learned.append(index in self.learning)
        return len(self.layers)

    def owner(self, index: int) -> int:
        """The op whose outputs, in memory, those of op `index` are; -1 for the inputs."""
        while index >= 0 and self.layers[index].operation.alias and self.layers[index].activation is IDENTITY:
            index = self.sources[index]
        return index
