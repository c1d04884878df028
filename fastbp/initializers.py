"""Floor 2: how fresh weights are drawn."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp.activations import unknown
from fastbp.program import Piece, pieces_of, row_blocks

Initializer = Callable[[np.random.Generator, int, int, tuple[int, int]], Iterator[Piece]]
"""(rng, I, O, shape) -> float64 pieces of a matrix of that shape: a large layer is never held in float64."""


def _uniform(scale: Callable[[int, int], float]) -> Initializer:
    def draw(rng: np.random.Generator, i: int, o: int, shape: tuple[int, int]) -> Iterator[Piece]:
        for first, count in row_blocks(*shape):
            yield first, None, rng.uniform(-1.0, 1.0, (count, shape[1])) * math.sqrt(3.0 * scale(i, o))

    return draw


def _normal(scale: Callable[[int, int], float]) -> Initializer:
    # a normal cut at two deviations, widened so that the deviation is what the formula says (as Keras does)
    def draw(rng: np.random.Generator, i: int, o: int, shape: tuple[int, int]) -> Iterator[Piece]:
        factor = math.sqrt(scale(i, o)) / 0.87962566103423978
        wild = []
        for first, count in row_blocks(*shape):
            values = rng.standard_normal((count, shape[1]))
            wild.append(first * shape[1] + np.flatnonzero(np.abs(values) > 2.0))
            yield first, None, values * factor
        places = np.concatenate(wild)
        while len(places):
            values = rng.standard_normal(len(places))
            yield places // shape[1], places % shape[1], values * factor
            places = places[np.abs(values) > 2.0]

    return draw


def _constant(value: float) -> Initializer:
    return lambda rng, i, o, shape: pieces_of(np.broadcast_to(value, shape))


def _glorot(i: int, o: int) -> float:
    return 2.0 / (i + o)


def _he(i: int, o: int) -> float:
    return 2.0 / i


def _lecun(i: int, o: int) -> float:
    return 1.0 / i


INITIALIZERS: dict[str, Initializer] = {
    "glorot_uniform": _uniform(_glorot),
    "glorot_normal": _normal(_glorot),
    "he_uniform": _uniform(_he),
    "he_normal": _normal(_he),
    "lecun_uniform": _uniform(_lecun),
    "lecun_normal": _normal(_lecun),
    "uniform": _uniform(lambda i, o: 0.05**2 / 3.0),
    "zeros": _constant(0.0),
    "ones": _constant(1.0),
}
"""Glorot and Bengio 2010, He et al. 2015, LeCun et al. 1998; fan-in and fan-out are the kernel's rows and columns.
"uniform" goes from -0.05 to 0.05, as in Keras."""


def checked(initializer: str | ArrayLike, label: str) -> Any:
    """The initialiser's name, or the given array.

    Raises
    ------
    ValueError : a name that `INITIALIZERS` doesn't have
    """
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise unknown(label, initializer, INITIALIZERS)
        return initializer
    given = np.asarray(initializer)
    return given if given.dtype in (np.float32, np.float64) else given.astype(np.float64)


def name_of(initializer: Any) -> str:
    """How a configuration names it: a given array is part of the weights."""
    return initializer if isinstance(initializer, str) else "zeros"


def draw(
    initializer: Any, rng: np.random.Generator, fans: tuple[int, int], shape: tuple[int, ...], label: str
) -> Iterator[Piece]:
    """An array of that shape, in pieces drawn when they are asked for; `label` names it in errors."""
    if isinstance(initializer, str):
        return INITIALIZERS[initializer](rng, *fans, (math.prod(shape[:-1]), shape[-1]))
    if initializer.shape != shape:
        raise ValueError(f"{label}: wanted an array of shape {shape}, got {initializer.shape}")
    if not math.isfinite(initializer.min()) or not math.isfinite(initializer.max()):
        raise ValueError(f"{label}: the array holds NaN or infinity")
    return pieces_of(initializer)
