"""Floor 1: metrics computed in the kernels beside the loss, one row and one formula each.

A formula takes the columns a (outputs), y (targets) and n (outputs of a row) and returns one value for each batch row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastbp._math import formula
from fastbp._vector import copysign, where
from fastbp.activations import unknown
from fastbp.losses import Loss


@dataclass(frozen=True)
class Metric:
    """One row of the table: a name and f(a, y, n) -> the value of each row; reported as the mean over rows.

    weighted : whether the mean is over the sample weights instead
    """

    name: str
    function: Callable[..., Any]
    aliases: tuple[str, ...] = ()
    weighted: bool = False


@formula
def categorical_accuracy(a: Any, y: Any, n: int) -> Any:
    best = a[0]
    target = y[0]
    place = best * 0.0
    wanted = place
    for c in range(1, n):
        place = where(a[c] > best, c, place)
        best = where(a[c] > best, a[c], best)
        wanted = where(y[c] > target, c, wanted)
        target = where(y[c] > target, y[c], target)
    return where(place == wanted, 1.0, best * 0.0)


@formula
def binary_accuracy(a: Any, y: Any, n: int) -> Any:
    right = a[0] * 0.0
    for c in range(n):
        right = right + where(
            where(a[c] > 0.5, 1.0, right * 0.0) == where(y[c] > 0.5, 1.0, right * 0.0), 1.0, right * 0.0
        )
    return right * (1.0 / n)


@formula
def squared_error(a: Any, y: Any, n: int) -> Any:
    value = a[0] * 0.0
    for c in range(n):
        d = a[c] - y[c]
        value = value + d * d
    return value * (1.0 / n)


@formula
def absolute_error(a: Any, y: Any, n: int) -> Any:
    value = a[0] * 0.0
    for c in range(n):
        value = value + abs(a[c] - y[c])
    return value * (1.0 / n)


@formula
def one(a: Any, y: Any, n: int) -> Any:
    return abs(copysign(1.0, a[0]))  # whatever a holds, NaN too


METRICS = {
    row.name: row
    for row in (
        Metric("categorical_accuracy", categorical_accuracy),
        Metric("binary_accuracy", binary_accuracy),
        Metric("mean_squared_error", squared_error, aliases=("mse",)),
        Metric("mean_absolute_error", absolute_error, aliases=("mae",)),
    )
}


COUNT = Metric("rows", one)
"""How many rows count in the metrics, or their weights' sum: what `METRICS` are divided by, where it isn't N."""


def get(metric: str, loss: Loss, outputs: int) -> tuple[str, Metric]:
    """(the name reported, the table row); "accuracy" is binary or categorical by loss and outputs, as in Keras."""
    if metric in ("accuracy", "acc"):
        categorical = loss.targets == "labels" or (outputs > 1 and loss.fused_with != "sigmoid")
        return metric, METRICS["categorical_accuracy" if categorical else "binary_accuracy"]
    names = {alias: row for row in METRICS.values() for alias in (row.name, *row.aliases)}
    if not isinstance(metric, str) or metric not in names:
        raise unknown("metric", metric, ["accuracy", *names])
    return metric, names[metric]
