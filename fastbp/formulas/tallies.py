"""Floor 1: what the kernels sum over the rows beside the loss: one formula each, or a loop of ``cpu.tallies``.

A formula takes the columns a (outputs), y (targets), n (outputs of a row) and p (its numbers) and returns one value for
each batch row. ``fastbp.metrics`` makes what is reported of the sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastbp._math import exp, formula, log, log1p
from fastbp._vector import copysign, maximum, where
from fastbp.formulas.class_columns import accuracy

EPSILON = 1e-7
"""What Keras keeps probabilities away from 0 by."""

SUMS: dict[str, Callable[[int], int]] = {
    "rows": lambda outputs: 1,
    "classes": lambda outputs: 3 * outputs + 1,
    "labels": lambda outputs: 3 * outputs + 1,
    "pairs": lambda outputs: outputs * outputs,
    "targets": lambda outputs: 3 * outputs + 1,
    "kept": lambda outputs: 0,
}
"""How many sums each loop of ``cpu.tallies`` takes, by the outputs of a row."""


@dataclass(frozen=True)
class Tally:
    """What the kernels sum over the rows.

    Attributes
    ----------
    name : what it is called while it compiles
    function : f(a, y, n, p) -> the value of each row; of the loop "rows" only
    loop : "rows": one sum of the formula. "classes": of each class the rows that have it and are given it, that are
        given it, that have it; last all rows. The highest output is the class given. "labels": the same of each output
        that is above p[0]. "pairs": rows of each class (first) and class given. "targets": of each output the sums of
        y, y * y and (a - y)**2; last all rows. "kept": no sum, each row's outputs, targets and count are kept
    values : p
    weighted : whether a row counts its sample weight, instead of 1
    """

    name: str
    function: Callable[..., Any] | None = None
    loop: str = "rows"
    values: tuple[float, ...] = ()
    weighted: bool = False

    def sums(self, outputs: int) -> int:
        """How many sums it takes."""
        return SUMS[self.loop](outputs)


@formula
def best(a: Any, n: int) -> Any:
    """The place of the highest column, the first of equals."""
    top = a[0]
    place = top * 0.0
    for c in range(1, n):
        place = where(a[c] > top, c, place)
        top = where(a[c] > top, a[c], top)
    return place


@formula
def categorical_accuracy(a: Any, y: Any, n: int, p: Any) -> Any:
    return where(best(a, n) == best(y, n), 1.0, a[0] * 0.0)


@formula
def top_k_accuracy(a: Any, y: Any, n: int, p: Any) -> Any:
    wanted = best(y, n)
    score = a[0]
    for c in range(1, n):
        score = where(wanted == c, a[c], score)
    above = score * 0.0
    for c in range(n):
        above = above + where(a[c] > score, 1.0, score * 0.0)
    return where(above < p[0], 1.0, score * 0.0)


@formula
def binary_accuracy(a: Any, y: Any, n: int, p: Any) -> Any:
    right = a[0] * 0.0
    for c in range(n):
        right = right + where(
            where(a[c] > p[0], 1.0, right * 0.0) == where(y[c] > 0.5, 1.0, right * 0.0), 1.0, right * 0.0
        )
    return right * (1.0 / n)


@formula
def squared_error(a: Any, y: Any, n: int, p: Any) -> Any:
    value = a[0] * 0.0
    for c in range(n):
        d = a[c] - y[c]
        value = value + d * d
    return value * (1.0 / n)


@formula
def absolute_error(a: Any, y: Any, n: int, p: Any) -> Any:
    value = a[0] * 0.0
    for c in range(n):
        value = value + abs(a[c] - y[c])
    return value * (1.0 / n)


@formula
def binary_log_loss(a: Any, y: Any, n: int, p: Any) -> Any:
    value = a[0] * 0.0
    for c in range(n):
        value = value - y[c] * log(maximum(a[c], EPSILON)) - (1.0 - y[c]) * log(maximum(1.0 - a[c], EPSILON))
    return value * (1.0 / n)


@formula
def binary_log_loss_of_logits(z: Any, y: Any, n: int, p: Any) -> Any:
    value = z[0] * 0.0
    for c in range(n):
        value = value + maximum(z[c], 0.0) - z[c] * y[c] + log1p(exp(-abs(z[c])))
    return value * (1.0 / n)


@formula
def categorical_log_loss(a: Any, y: Any, n: int, p: Any) -> Any:
    value = a[0] * 0.0
    for c in range(n):
        value = value - y[c] * log(maximum(a[c], EPSILON))
    return value


@formula
def categorical_log_loss_of_logits(z: Any, y: Any, n: int, p: Any) -> Any:
    peak = z[0]
    for c in range(1, n):
        peak = maximum(peak, z[c])
    norm = peak * 0.0
    mass = norm
    inner = norm
    for c in range(n):
        norm = norm + exp(z[c] - peak)
        mass = mass + y[c]
        inner = inner + y[c] * (z[c] - peak)
    return mass * log(norm) - inner


@formula
def one(a: Any, y: Any, n: int, p: Any) -> Any:
    return abs(copysign(1.0, a[0]))  # whatever a holds, NaN too


TALLIES = {
    row.name: row
    for row in (
        Tally("categorical accuracy", categorical_accuracy),
        Tally("accuracy of class columns", accuracy),
        Tally("top-k accuracy", top_k_accuracy, values=(5.0,)),
        Tally("binary accuracy", binary_accuracy, values=(0.5,)),
        Tally("squared error", squared_error),
        Tally("absolute error", absolute_error),
        Tally("binary log loss", binary_log_loss),
        Tally("binary log loss of logits", binary_log_loss_of_logits),
        Tally("categorical log loss", categorical_log_loss),
        Tally("categorical log loss of logits", categorical_log_loss_of_logits),
        Tally("rows", one),
        Tally("hits of classes", loop="classes"),
        Tally("hits of labels", loop="labels", values=(0.5,)),
        Tally("pairs of classes", loop="pairs"),
        Tally("targets", loop="targets"),
        Tally("scores", loop="kept"),
    )
}
COUNT = TALLIES["rows"]
"""How many rows count in the metrics, or their weights' sum: what means are divided by, where it isn't N."""
