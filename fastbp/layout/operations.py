"""Floor 2: what an op of the table may be: a product with weights, noise, a normalisation, paths that part and meet.

A layer that a user writes becomes one op or several (see ``layers``). Engines bring the kernels: a row here says what
`plan` must know to lay a step out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes
    ----------
    name : how errors and reports call it
    rows : names of the numbers that each neuron may have, of another op than a product
    learned : those of them, the first ones, that an optimizer updates
    noise : whether it is absent from a prediction
    whole_rows : whether a row's numbers are needed all at once
    whole_batch : whether training needs sums over the batch before it
    alias : whether its output, or what comes before its activation, is its input and takes no memory
    second : whether it takes a second input, the outputs of the op ``LayerSpec.skip``
    row_state : numbers kept of each batch row
    neuron_state : numbers kept of each neuron
    """

    name: str
    rows: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    noise: bool = False
    whole_rows: bool = False
    whole_batch: bool = False
    alias: bool = False
    second: bool = False
    row_state: int = 0
    neuron_state: int = 0


DENSE = Operation("dense")
ACTIVATION = Operation("activation", alias=True)
ACTIVITY = Operation("activity_regularization", alias=True, whole_rows=True, row_state=1)
FORK = Operation("fork", alias=True)
"""Passes on; going back it adds up what both of its users give back, the second one's ahead of where that stands."""
JOIN = Operation("join", second=True)
"""The sum of two inputs of one width."""
CONCATENATE = Operation("concatenate", second=True)
"""The second input's columns, then the first one's (which are ``fan_in``)."""
ARRANGE = Operation("arrange")
"""Column ``LayerSpec.picks[o]`` of its inputs becomes column o; those with -1 are left to the ops behind it."""
EMBEDDING = Operation(
    "embedding", rows=("embeddings",), learned=("embeddings",), alias=True, second=True, whole_rows=True
)
"""Row c of its matrix (categories, dim) becomes the columns place .. place + dim of its outputs; the others pass.

``LayerSpec.picks`` is (column of the second input that holds c, place, dim). c is looked at in Python before training;
a kernel that meets another number than 0, 1 ... categories - 1 takes row 0 and writes 1 to ``UNFIT``. Going back, dA is
dZ; the gradient of row c is the sum over the batch's rows with c, in their order, of their dZ."""
DROPOUT = Operation("dropout", noise=True)
ALPHA_DROPOUT = Operation("alpha_dropout", noise=True)
GAUSSIAN_NOISE = Operation("gaussian_noise", noise=True)
GAUSSIAN_DROPOUT = Operation("gaussian_dropout", noise=True)
BATCH_NORMALIZATION = Operation(
    "batch_normalization",
    rows=("gamma", "beta", "moving_mean", "moving_variance"),
    learned=("gamma", "beta"),
    whole_batch=True,
    neuron_state=4,
)
LAYER_NORMALIZATION = Operation(
    "layer_normalization",
    rows=("gamma", "beta"),
    learned=("gamma", "beta"),
    whole_rows=True,
    row_state=2,
)
RMS_NORMALIZATION = Operation("rms_normalization", rows=("gamma",), learned=("gamma",), whole_rows=True, row_state=2)
STANDARDIZE = Operation("normalization", rows=("mean", "variance"))
