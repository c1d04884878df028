"""The tables' formulas as functions that kernels call, made when a network first uses one: of single numbers or a row.

Each is asked for by its table row and the type of the numbers, like the CPU engine's rules, and is made once:

* activation(row, dtype)       f(z, p) -> a; a coupled one f(a, z, n) writes a[0:n]
* derivative(row, dtype)       f(da, z, a, p) -> dz; a coupled one f(da, a, n) turns da[0:n] into dz
* loss(row, dtype)             f(dz, a, y, n, weight, numbers) -> the row's loss; writes dz[0:n]
* tally(row, dtype, labels)    see `TallyRule`
* update(optimizer, dtype, guarded)   f(q, i, distance, g, h) -> 1 where weight i would not stay finite, else 0
* penalty(dtype), pull(dtype)  f(w, l1, l2) -> its penalty; f(g, w, l1, l2) -> g and the penalty's gradient
* constraint(row, dtype)       f(w, squares, p) -> w
* noise(name, dtype)           a pair f(x, u, v, p) -> the noisy number, f(da, u, v, p) -> its gradient
* uniform(dtype)               f(key, row, neuron key) -> a number of [0, 1)
* mix(), shuffled()            the counters of ``fastbp.formulas.counters``

a, z, dz, y, numbers, h and p are anything that an index picks a number from: arrays, their slices, tuples (p of an
elementwise activation is the number itself). All numbers are of the type that was asked for, `weight` and `g` too;
float32 rules hold no float64 arithmetic. Labels: y is then the class number of the row, not an array. Nothing here
looks at threads: a kernel decides which thread works on which number, so the order of every sum is the kernel's.

`numbers` of a loss is what ``1 / n`` where the loss is a mean over outputs (else 1), the loss's parameters in turn, and
the factor it is reported by (`loss_numbers` gives them). A fused loss takes z for a and gives dL/dz. `weight` is what
the row's loss counts: its sample weight, divided by the batch's rows where the loss is their mean; a weight of 0 makes
loss and gradient 0, whatever the row holds.

An update reads and writes q[i], the weight, q[i + distance], q[i + 2 * distance] ..., its moments, and, last, its
average where the optimizer keeps one: weights and moments may stand in global or in shared memory. g is its gradient,
h the step's coefficients. A guarded update leaves a weight as it is where it would become NaN or infinite.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastbp._vector import copysign, fma, maximum, minimum, where
from fastbp.activations import IDENTITY, Activation
from fastbp.constraints import Constraint
from fastbp.cuda.device import inlined, simulated
from fastbp.cuda.lanes import Sharing, shared
from fastbp.cuda.scalars import made, of_source, scalar
from fastbp.formulas import counters, tallies
from fastbp.formulas import noise as noise_formulas
from fastbp.formulas.tallies import Tally
from fastbp.losses import Loss
from fastbp.optimizers import AVERAGE_KEEP, KEEP, MOST, OVERWRITE, SCALE, Optimizer


class TallyRule(NamedTuple):
    """What a tally sums, in two steps, so that one thread can mark a row and many can add up their sums.

    Attributes
    ----------
    marks : f(a, y, n, p) -> two whole numbers of the row: of "classes" and "pairs" the class given and the class it
        has, else 0, 0
    term : f(k, given, had, a, y, n, p) -> what the row adds to sum number k, a number of the rules' type; of "targets"
        a float64, as sums of squares around no mean need
    """

    marks: Callable[..., Any]
    term: Callable[..., Any]


def _of_row(
    function: Callable[..., Any], dtype: np.dtype, sharing: Sharing | None, labels: tuple[str, ...] = ()
) -> Any:
    """The rule of a formula over columns, with `lanes.OWN` as further arguments where threads share a row.

    None where they can't.
    """
    found = function if sharing is None else shared(function, sharing)
    return None if found is None else scalar(found, dtype, labels)


@functools.cache
def activation(row: Activation, dtype: np.dtype, sharing: Sharing | None = None) -> Any:
    """The rule that turns z into a; a coupled one may share its row among threads."""
    return _of_row(row.function, dtype, sharing if row.coupled else None)


@functools.cache
def derivative(row: Activation, dtype: np.dtype, sharing: Sharing | None = None) -> Any:
    """The rule that turns dL/da into dL/dz, likewise."""
    if row.coupled:
        return _of_row(row.derivative, dtype, sharing)
    if row is IDENTITY:
        return made("def derive(da, z, a, p):\n    return da\n", dtype)
    return made("def derive(da, z, a, p):\n    return da * slope(z, a, p)\n", dtype, slope=row.derivative)


def _numbers(name: str, first: int, count: int) -> str:
    """A tuple of numbers that follow each other, as code."""
    return "(" + "".join(f"{name}[{first + i}], " for i in range(count)) + ")"


COUPLED_LOSS = """
def loss(dz, a, y, n, weight, numbers):
    value = function(dz, a, y, n, weight, {parameters})
    for c in range(n):
        dz[c] = where(weight == 0.0, 0.0, dz[c])
    return where(weight == 0.0, 0.0, value * weight)
"""

LOSS = """
def loss(dz, a, y, n, weight, numbers):
    share = weight * numbers[0]
    total = share * 0.0
    for c in range(n):
        value, slope = function(a[c], y[c], {parameters})
        {masked}
        total = total + value
        dz[c] = where(weight == 0.0, 0.0, slope * share)
    return where(weight == 0.0, 0.0, total * (share * numbers[{last}]))
"""
MASKED = "value, slope = where(y[c] == y[c], value, 0.0), where(y[c] == y[c], slope, 0.0)"


@functools.cache
def loss(row: Loss, dtype: np.dtype, sharing: Sharing | None = None) -> Any:
    """The rule that gives a row's loss and its gradient; y is a label where the loss is of labels.

    sharing : how threads share the row, None for one alone; the rule is None where they can't
    """
    labels = ("y",) if row.targets == "labels" else ()
    count = len(row.parameters)
    source = (COUPLED_LOSS if row.coupled else LOSS).format(
        parameters=_numbers("numbers", 1, count), last=1 + count, masked=MASKED if row.mask_nan else ""
    )
    return _of_row(of_source(source, {"function": row.function, "where": where}), dtype, sharing, labels)


def loss_numbers(row: Loss, outputs: int, dtype: np.dtype) -> np.ndarray:
    """The `numbers` that a loss's rule takes."""
    share = 1.0 / outputs if row.mean_outputs else 1.0
    return np.array([share, *row.values, row.reported], dtype)


UPDATE = """
def update(q, i, distance, g, h):
    old = q[i]{decay}
    slope = g
    {clip}
    {scale}
    new, state = function(old, {state}, slope, h)
    {store}
    {guard}
    {average}
    q[i] = new
    return {wild}
"""
GUARD = """error = new - new
    wild = where(error == 0.0, 0.0, 1.0)
    new = where(error == 0.0, new, q[i])"""
AVERAGE = """mean = fma(q[i + {place}], h[{keep}], new * (1.0 - h[{keep}]))
    q[i + {place}] = mean
    new = where(h[{overwrite}] > 0.0, mean, new)"""


@functools.cache
def _update(
    function: Callable[..., Any],
    dtype: np.dtype,
    slots: int,
    decays: bool,
    averages: bool,
    clips: bool,
    scaled: bool,
    guarded: bool,
) -> Any:
    places = [f"{k} * distance" for k in range(1, 2 + slots)]
    source = UPDATE.format(
        decay=f" * h[{KEEP}]" if decays else "",
        clip=f"slope = minimum(maximum(slope, -h[{MOST}]), h[{MOST}])" if clips else "",
        scale=f"slope = slope * h[{SCALE}]" if scaled else "",
        state="(" + "".join(f"q[i + {place}], " for place in places[:slots]) + ")",
        store="\n    ".join(f"q[i + {place}] = state[{k}]" for k, place in enumerate(places[:slots])),
        guard=GUARD if guarded else "",
        average=AVERAGE.format(place=places[slots], keep=AVERAGE_KEEP, overwrite=OVERWRITE) if averages else "",
        wild="wild" if guarded else "0.0",
    )
    names: dict[str, Any] = {"where": where, "maximum": maximum, "minimum": minimum, "fma": fma}
    return made(source, dtype, function=function, **names)


def update(optimizer: Optimizer, dtype: np.dtype, guarded: bool = False) -> Any:
    """The rule that moves a weight by its gradient."""
    slots, decays, averages = len(optimizer.initials), bool(optimizer.weight_decay), bool(optimizer.use_ema)
    clipping = optimizer.clipvalue is not None, optimizer.late
    return _update(optimizer.formula, dtype, slots, decays, averages, *clipping, guarded)


PENALTY = """
def penalty(w, l1, l2):
    return abs(w) * fma(abs(w), l2, l1)
"""
PULL = """
def pull(g, w, l1, l2):
    steady = where(w == 0.0, w, copysign(l1, w))
    return g + fma(w, 2.0 * l2, steady)
"""


@functools.cache
def penalty(dtype: np.dtype) -> Any:
    """The rule that gives the penalty of a weight."""
    return made(PENALTY, dtype, fma=fma)


@functools.cache
def pull(dtype: np.dtype) -> Any:
    """The rule that adds a penalty's gradient; l1 and l2 are the strengths times the step's scale of penalties."""
    return made(PULL, dtype, fma=fma, where=where, copysign=copysign)


@functools.cache
def constraint(row: Constraint, dtype: np.dtype) -> Any:
    """The rule that brings a weight to its constraint, by the sum of the squares of its neuron's weights."""
    return scalar(row.formula, dtype)


@functools.cache
def noise(name: str, dtype: np.dtype) -> tuple[Any, Any]:
    """The rules of an operation that draws noise: of its inputs, and of dL/da."""
    forward, backward = noise_formulas.FORMULAS[name]
    return scalar(forward, dtype), scalar(backward, dtype)


# ---------------------------------------------------------------- tallies


@functools.cache
def tally(row: Tally, dtype: np.dtype, labels: bool = False) -> TallyRule:
    """The rule that sums a tally; `labels` where y is the class number of a row."""
    kind: Any = np.dtype(dtype).type
    if row.loop in ("classes", "pairs"):
        term = _of_classes(kind) if row.loop == "classes" else _of_pairs(kind)
        return TallyRule(inlined(_marks(dtype, labels)), inlined(term))
    if row.loop == "rows":
        places = ("y",) if labels else ()
        source = "def term(k, given, had, a, y, n, p):\n    return function(a, y, n, p)\n"
        return TallyRule(inlined(_unmarked), made(source, dtype, places, function=row.function))
    if row.loop == "kept":
        raise ValueError(f"tally {row.name!r} keeps rows and sums nothing: there is no rule for it")
    return TallyRule(inlined(_unmarked), inlined(_of_targets if row.loop == "targets" else _of_labels(kind, labels)))


@functools.cache
def tally_of_row(row: Tally, dtype: np.dtype, labels: bool, sharing: Sharing) -> Any:
    """The rule of a tally of rows, f(a, y, n, p) and `lanes.OWN`, by threads that share them; None where they can't."""
    assert row.function is not None
    return _of_row(row.function, dtype, sharing, ("y",) if labels else ())


@functools.cache
def best(dtype: np.dtype, sharing: Sharing) -> Any:
    """The rule f(a, n) and `lanes.OWN` that finds the highest column, by threads that share a row."""
    return _of_row(tallies.best, dtype, sharing)


def _unmarked(a: Any, y: Any, n: Any, p: Any) -> Any:
    return 0, 0


def _marks(dtype: np.dtype, labels: bool) -> Callable[..., Any]:
    best = scalar(tallies.best, dtype)

    def marks(a: Any, y: Any, n: Any, p: Any) -> Any:
        return int(best(a, n)), int(best(y, n))

    def marks_by_label(a: Any, y: Any, n: Any, p: Any) -> Any:
        return int(best(a, n)), int(y)

    return marks_by_label if labels else marks


def _of_classes(kind: Any) -> Callable[..., Any]:
    one, zero = kind(1), kind(0)

    def term(k: Any, given: Any, had: Any, a: Any, y: Any, n: Any, p: Any) -> Any:
        c, which = k // 3, k % 3
        if which == 0:
            return one if c == n or (given == c and had == c) else zero
        return one if c == (given if which == 1 else had) else zero

    return term


def _of_pairs(kind: Any) -> Callable[..., Any]:
    one, zero = kind(1), kind(0)

    def term(k: Any, given: Any, had: Any, a: Any, y: Any, n: Any, p: Any) -> Any:
        return one if k == had * n + given else zero

    return term


def _of_labels(kind: Any, labels: bool) -> Callable[..., Any]:
    one, zero, half = kind(1), kind(0), kind(0.5)

    def term(k: Any, given: Any, had: Any, a: Any, y: Any, n: Any, p: Any) -> Any:
        c, which = k // 3, k % 3
        if c == n:
            return one
        is_had = (y == c) if labels else (y[c] > half)
        if which == 2:
            return one if is_had else zero
        return one if a[c] > p[0] and (which == 1 or is_had) else zero

    return term


def _of_targets(k: Any, given: Any, had: Any, a: Any, y: Any, n: Any, p: Any) -> Any:
    c, which = k // 3, k % 3
    if c == n:
        return 1.0
    wanted = np.float64(y[c])
    if which == 0:
        return wanted
    if which == 1:
        return wanted * wanted
    miss = np.float64(a[c]) - wanted
    return miss * miss


# ---------------------------------------------------------------- counters


@functools.cache
def mix() -> Any:
    """``counters.mix`` for kernels."""
    return counters.mix if simulated() else inlined(counters.mix.py_func)


@functools.cache
def shuffled() -> Any:
    """``counters.shuffled`` for kernels."""
    return counters.shuffled if simulated() else inlined(counters.shuffled.py_func)


(_SHIFT, _FACTOR), (_NEXT_SHIFT, _NEXT_FACTOR) = noise_formulas.MIXER
_LOW = 0xFFFFFFFF


def _mixed(x: Any) -> Any:
    x = ((x ^ (x >> _SHIFT)) * _FACTOR) & _LOW
    x = ((x ^ (x >> _NEXT_SHIFT)) * _NEXT_FACTOR) & _LOW
    return x ^ (x >> 16)


@functools.cache
def uniform(dtype: np.dtype) -> Any:
    """The rule that draws: ``mix32(mix32(row ^ key) ^ neuron key)``, the low 32 bits of each, as a number of [0, 1)."""
    mixed = inlined(_mixed)
    kind: Any = np.dtype(dtype).type
    scale = kind(2.0**-24 if kind is np.float32 else 2.0**-32)

    def draw(key: Any, row: Any, neuron_key: Any) -> Any:
        return kind(mixed(mixed((row ^ key) & _LOW) ^ (neuron_key & _LOW))) * scale

    def draw_short(key: Any, row: Any, neuron_key: Any) -> Any:
        return kind(np.int32(mixed(mixed((row ^ key) & _LOW) ^ (neuron_key & _LOW)) >> 8)) * scale

    return inlined(draw_short if kind is np.float32 else draw)
