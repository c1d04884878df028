"""Floor 2: how fresh weights are drawn."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp._spelling import listed
from fastbp.activations import unknown
from fastbp.program import Piece, pieces_of, row_blocks

_CUT = 0.87962566103423978
"""Deviation of a standard normal that is cut at two deviations."""
Own = Callable[[tuple[int, ...]], ArrayLike]
"""A user's own function: the shape that is wanted -> an array of it."""
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
        factor = math.sqrt(scale(i, o)) / _CUT
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


def _cut(deviation: float) -> Initializer:
    # a normal cut at two deviations, as Keras' TruncatedNormal: what is left deviates less
    return _normal(lambda i, o: (deviation * _CUT) ** 2)


def _plain(deviation: float) -> Initializer:
    def draw(rng: np.random.Generator, i: int, o: int, shape: tuple[int, int]) -> Iterator[Piece]:
        for first, count in row_blocks(*shape):
            yield first, None, rng.standard_normal((count, shape[1])) * deviation

    return draw


def _orthogonal(rng: np.random.Generator, i: int, o: int, shape: tuple[int, int]) -> Iterator[Piece]:
    # the signs of R's diagonal make the draw uniform over all orthogonal matrices (Mezzadri 2007)
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q *= np.where(np.diagonal(r) < 0.0, -1.0, 1.0)
    yield from pieces_of(q if shape[0] >= shape[1] else q.T)


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
    "random_uniform": _uniform(lambda i, o: 0.05**2 / 3.0),
    "random_normal": _plain(0.05),
    "truncated_normal": _cut(0.05),
    "orthogonal": _orthogonal,
    "identity": lambda rng, i, o, shape: pieces_of(np.eye(*shape)),
    "zeros": _constant(0.0),
    "ones": _constant(1.0),
}
"""Glorot and Bengio 2010, He et al. 2015, LeCun et al. 1998; fan-in and fan-out are the kernel's rows and columns.
"uniform" and "random_uniform" go from -0.05 to 0.05, "random_normal" and "truncated_normal" (cut at two of them) have
the deviation 0.05, as in Keras. "orthogonal" has columns (rows, where those are fewer) of length 1 at right angles
(Saxe et al. 2013); "identity" is 1 on the diagonal."""


def checked(initializer: str | ArrayLike | Own, label: str) -> Any:
    """The initialiser's name, the given array, or the function that makes it.

    Raises
    ------
    ValueError : a name that `INITIALIZERS` doesn't have
    """
    if isinstance(initializer, str):
        if (name := listed(initializer, INITIALIZERS)) is None:
            raise unknown(label, initializer, INITIALIZERS, "; or an array, or a function of its shape")
        return name
    if callable(initializer):
        return initializer
    given = np.asarray(initializer)
    return given if given.dtype in (np.float32, np.float64) else given.astype(np.float64)


def name_of(initializer: Any) -> str:
    """How a configuration names it: an array, given or made by a function, is part of the weights."""
    return initializer if isinstance(initializer, str) else "zeros"


def draw(
    initializer: Any, rng: np.random.Generator, fans: tuple[int, int], shape: tuple[int, ...], label: str
) -> Iterator[Piece]:
    """An array of that shape, in pieces drawn when they are asked for; `label` names it in errors."""
    if isinstance(initializer, str):
        return INITIALIZERS[initializer](rng, *fans, (math.prod(shape[:-1]), shape[-1]))
    if callable(initializer):
        initializer = np.asarray(initializer(shape), np.float64)
    if initializer.shape != shape:
        raise ValueError(f"{label}: wanted an array of shape {shape}, got {initializer.shape}")
    if not math.isfinite(initializer.min()) or not math.isfinite(initializer.max()):
        raise ValueError(f"{label}: the array holds NaN or infinity")
    return pieces_of(initializer)
