"""Floor 2: what an engine is asked for: a run of steps over batches of rows."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from fastbp.data.sparse import SparseRows
from fastbp.layout.objective import Objective
from fastbp.optimizers import Optimizer
from fastbp.program import LayerSpec


@dataclass(slots=True, eq=False)
class Request:
    """A run of steps over batches of rows; without `steps`, one pass over the data.

    Parameters
    ----------
    x : (N, I) C-contiguous, of the engine's dtype, or sparse; on the device by choice, where the engine has one
    y : (N, O) of the dtype, or (N,) int64 labels; None for a prediction
    rows : (M,) int64, which rows of x and y are the data, in this order, repeats allowed; None for all of them;
        (E, M) with a line of its own for each epoch that the run touches
    weights : (N,) of the dtype, what each row's loss is multiplied by
    present : (N,) of the dtype, 1 or 0: whether each row counts in the metrics
    batch : rows of a step, as many as there are at most
    first_step : number of the first step since the first epoch; it names the batch, and with `seed` the shuffle
    steps : how many
    objective : loss and tallies
    optimizer : trains where given; `updates` counts the updates already made
    penalty_scales : (steps,) what the penalties of each step are multiplied by, 1 by default
    gradient : flat array that receives the gradient instead, in the order of the weights
    given : the gradient that the optimizer is to use; no rows are looked at
    result : (N, O) array for the outputs, or (N, I) for the inputs' gradient beside `gradient`
    carried : sums of the first epoch's steps that were run before; its sums go on from there
    noise : number of the first step, which names the noise of dropout and its kin; where nothing is trained, None
        leaves the noise out. By default `updates` in training
    upto : of a prediction, the network's first ops, the last one perhaps without its activation; None for all
    unfit : int64, whose first becomes 1 where an input isn't finite; None where all of x has been looked at
    kept : arrays of `Objective.kept` for the rows of the run's steps, all of one epoch
    """

    x: Any
    y: Any = None
    _: KW_ONLY
    batch: int
    rows: np.ndarray | None = None
    weights: Any = None
    present: Any = None
    first_step: int = 0
    steps: int | None = None
    objective: Objective = field(default_factory=Objective)
    optimizer: Optimizer | None = None
    updates: int = 0
    penalty_scales: np.ndarray | None = None
    gradient: np.ndarray | None = None
    given: np.ndarray | None = None
    result: Any = None
    carried: np.ndarray | None = None
    noise: int | None = None
    upto: tuple[LayerSpec, ...] | None = None
    unfit: np.ndarray | None = None
    kept: Sequence[np.ndarray] = ()
    shuffle: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.batch = max(1, min(self.batch, self.count))

    @property
    def count(self) -> int:
        """Rows of an epoch."""
        return len(self.x) if self.rows is None else int(self.rows.shape[-1])

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.batch)

    @property
    def length(self) -> int:
        """Steps of the run."""
        return self.per_epoch if self.steps is None else self.steps

    @property
    def epochs(self) -> int:
        """Epochs that the run touches."""
        return (self.first_step + self.length - 1) // self.per_epoch - self.first_step // self.per_epoch + 1

    @property
    def backward(self) -> bool:
        """Whether gradients are wanted."""
        return self.optimizer is not None or self.gradient is not None

    @property
    def is_sparse(self) -> bool:
        """Whether the inputs are sparse rows."""
        return isinstance(self.x, SparseRows)
