"""What steps are multiplied by: the optimizer's numbers of each step of a run, the same array for runs that share them.

Of a thousand networks that train side by side with one optimizer, one table is computed and uploaded, not a thousand.
"""

import functools
from contextlib import suppress

import numpy as np

from fastbp.optimizers import Optimizer
from fastbp.schedules import Schedule

KEPT = 4
"""Tables that are kept: of a tiny network's longest run one takes some 3 MB."""


def of_steps(
    optimizer: Optimizer | None,
    updates: int,
    steps: int,
    rates: tuple[float, ...],
    dtype: np.dtype,
    penalty_scales: np.ndarray | None = None,
    penalised: bool = False,
) -> tuple[np.ndarray, list[int]]:
    """The coefficients of a run's steps, and which of the rates each op has.

    Parameters
    ----------
    updates : steps before the run
    rates : of each op, what the learning rate is multiplied by
    penalty_scales : (steps,) what multiplies the penalties in each step, 1 by default
    penalised : whether there is anything to penalise

    Returns
    -------
    (different rates, steps, numbers) of dtype, which nobody writes to; and a place in it for each op
    """
    if penalty_scales is None and not _asks_python(optimizer):
        with suppress(TypeError):  # settings that can't be hashed
            return _kept(optimizer, updates, steps, rates, dtype, penalised)
    scales = np.ones(steps) if penalty_scales is None else penalty_scales
    return _made(optimizer, updates, steps, rates, dtype, scales if penalised else None)


def _asks_python(optimizer: Optimizer | None) -> bool:
    """Whether a setting follows a function of the user's, which may answer otherwise the next time."""
    settings = {} if optimizer is None else vars(optimizer)
    return any(callable(value) and not isinstance(value, Schedule) for value in settings.values())


@functools.lru_cache(maxsize=KEPT)
def _kept(
    optimizer: Optimizer | None, updates: int, steps: int, rates: tuple[float, ...], dtype: np.dtype, penalised: bool
) -> tuple[np.ndarray, list[int]]:
    return _made(optimizer, updates, steps, rates, dtype, np.ones(steps) if penalised else None)


def _made(
    optimizer: Optimizer | None,
    updates: int,
    steps: int,
    rates: tuple[float, ...],
    dtype: np.dtype,
    scales: np.ndarray | None,
) -> tuple[np.ndarray, list[int]]:
    different = list(dict.fromkeys(rates))
    tables = [np.zeros((steps, 0))]
    if optimizer is not None:
        numbers = np.arange(updates + 1, updates + steps + 1, dtype=np.float64)
        tables = [optimizer.coefficients(numbers, rate) for rate in different]
    if scales is not None:
        tables = [np.column_stack([each, scales]) for each in tables]
    places = [different.index(rate) if optimizer is not None else 0 for rate in rates]
    return np.stack(tables).astype(dtype), places
