"""Floor 1: a user's own Python function, followed once with stand-ins for its arguments, and written as a formula.

What the function does to its arguments is kept as a list of steps, plain data that a model file can hold. Derivatives
are taken step by step through the same list (forward mode: what dual numbers do); both are written as straight code
over vectors and compiled like any other formula. Loops and helpers of Python run while the function is followed; what
depends on a value must be said with ``np.where``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from fastbp import _math, _vector
from fastbp._math import formula

Step = tuple[Any, ...]
Steps = tuple[Step, ...]
"""Each step's operation and the numbers of the steps that it takes; "number" has its value, "argument" its name."""

ARITHMETIC = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negative": "-{0}",
    "absolute": "abs({0})",
    "exp": "exp({0})",
    "expm1": "expm1({0})",
    "log": "where({0} > 0.0, log(maximum({0}, least)), where({0} == 0.0, one * -inf, one * nan))",
    "log1p": "where({0} > -1.0, log1p(maximum({0}, -0.9999999)), where({0} == -1.0, one * -inf, one * nan))",
    "tanh": "tanh({0})",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "sqrt": "sqrt({0})",
    "sigmoid": "logistic({0})",
    "normal_cdf": "normal_cdf({0})",
    "maximum": "maximum({0}, {1})",
    "minimum": "minimum({0}, {1})",
    "where": "where({0}, {1}, {2})",
}
MASKS = {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "=="}
LOGIC = {
    "logical_and": "where({0}, where({1}, one, one * 0.0), one * 0.0) > 0.5",
    "logical_or": "where({0}, one, where({1}, one, one * 0.0)) > 0.5",
    "logical_not": "where({0}, one * 0.0, one) > 0.5",
}
REDUCTIONS = {"sum": "{0} + {1}", "max": "maximum({0}, {1})", "min": "minimum({0}, {1})"}
START = {"sum": "one * 0.0", "max": "one * -inf", "min": "one * inf"}
OPERATIONS = {*ARITHMETIC, *MASKS, *LOGIC, *REDUCTIONS, "number", "argument", "share"}
KNOWN = (
    "+ - * / **, comparisons, and of NumPy or fb.math: abs, clip, cos, erf, exp, expm1, log, log1p, maximum, minimum, "
    "relu, sigmoid, sign, sin, softplus, sqrt, square, tanh, where, and sum, mean, max, min over axis=-1"
)


class TraceError(TypeError):
    """A function does what can't be compiled."""


class Tape:
    """Steps, each once."""

    def __init__(self, steps: Steps = ()) -> None:
        self.steps: list[Step] = []
        self._places: dict[Step, int] = {}
        self._kinds: list[str] = []
        for step in steps:
            self.add(*step)

    def add(self, *step: Any) -> "Value":
        """The value of a step, which is new or there already."""
        if step not in self._places:
            self._kinds.append(self._kind(*step))
            self._places[step] = len(self.steps)
            self.steps.append(step)
        return Value(self, self._places[step])

    def value(self, x: Any) -> "Value":
        """A number as a value, or the value itself."""
        if isinstance(x, Value):
            return x
        if not isinstance(x, Real) and not (isinstance(x, np.ndarray) and x.ndim == 0):
            raise TraceError(f"a {type(x).__name__} beside the argument; wanted numbers")
        return self.add("number", float(x))

    def apply(self, operation: str, *arguments: Any) -> "Value":
        """The value of an operation on values and numbers; what numbers alone make is a number."""
        values = [self.value(argument) for argument in arguments]
        if operation in ("add", "multiply"):
            values.sort(key=lambda value: value.place)
        numbers = [value.number for value in values]
        if operation in ("logical_and", "logical_or", "logical_not", "where"):
            masks = values[:1] if operation == "where" else values
            if not all(value.is_mask for value in masks):
                raise TraceError(f"{operation} of a number; wanted a comparison such as x > 0")
        elif any(value.is_mask for value in values):
            raise TraceError(f"{operation} of a comparison; turn it into a number with np.where(x > 0, 1.0, 0.0)")
        simple = _simple(operation, values, numbers)
        return self.add(operation, *(value.place for value in values)) if simple is None else simple

    @property
    def reduces(self) -> bool:
        """Whether something is summed over a row."""
        return any(step[0] in {*REDUCTIONS, "share"} for step in self.steps)

    def reduces_in(self, place: int) -> bool:
        """Whether something is summed over a row for this value."""
        operation, *arguments = self.steps[place]
        if operation in ("number", "argument"):
            return False
        return operation in {*REDUCTIONS, "share"} or any(self.reduces_in(one) for one in arguments)

    def kind(self, place: int) -> str:
        """What a step gives: "number", "row" (one for a row of outputs) or "element" (one for each output)."""
        return self._kinds[place]

    def _kind(self, operation: str, *arguments: Any) -> str:
        if operation in ("number", "share"):
            return "number" if operation == "number" else "row"
        if operation == "argument":
            return "element"
        if operation in REDUCTIONS:
            return "row"
        kinds = {self._kinds[argument] for argument in arguments}
        return "element" if "element" in kinds else "row" if "row" in kinds else "number"


def _simple(operation: str, values: list["Value"], numbers: list[float | None]) -> "Value | None":
    """What needs no step: arithmetic of numbers, a sum with 0, a product with 0 or 1."""
    tape = values[0].tape
    if all(number is not None for number in numbers) and operation not in MASKS and operation != "where":
        with np.errstate(all="ignore"):
            return tape.add("number", float(_ON_NUMBERS[operation](*numbers)))
    if operation == "add" and 0.0 in numbers:
        return values[1 - numbers.index(0.0)]
    if operation == "subtract" and numbers[1] == 0.0:
        return values[0]
    if operation == "multiply" and 0.0 in numbers:
        return tape.value(0.0)
    if operation == "multiply" and 1.0 in numbers:
        return values[1 - numbers.index(1.0)]
    if operation == "divide" and (numbers[1] == 1.0 or numbers[0] == 0.0):
        return values[0]
    if operation == "where" and values[1].place == values[2].place:
        return values[1]
    return None


_ON_NUMBERS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ARITHMETIC if hasattr(np, name)},
    "sigmoid": _math.logistic,
    "normal_cdf": lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0)),
}


def _binary(operation: str, swapped: bool = False) -> Callable[["Value", Any], "Value"]:
    def method(self: "Value", other: Any) -> "Value":
        return self.tape.apply(operation, other, self) if swapped else self.tape.apply(operation, self, other)

    return method


def _unary(operation: str) -> Callable[["Value"], "Value"]:
    return lambda self: self.tape.apply(operation, self)


class Value:
    """Stands for an array while a function is followed: what is done to it is put on the tape."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tape: Tape, place: int) -> None:
        self.tape, self.place = tape, place

    @property
    def number(self) -> float | None:
        """The number that it always is, None where it isn't one."""
        step = self.tape.steps[self.place]
        return step[1] if step[0] == "number" else None

    @property
    def is_mask(self) -> bool:
        """Whether it is a comparison."""
        return self.tape.steps[self.place][0] in {*MASKS, *LOGIC}

    def __bool__(self) -> bool:
        raise TraceError("`if`, `and`, `or` or `not` of a value that differs from row to row; use np.where(x > 0, ...)")

    def __float__(self) -> float:
        raise TraceError("a function of single numbers, such as math.exp; use np.exp or fb.math.exp")

    def __iter__(self) -> Any:
        raise TraceError("a loop over a value; use np.sum(x, axis=-1)")

    def __getitem__(self, index: Any) -> Any:
        raise TraceError("an index; single outputs can't be named here")

    __add__, __radd__ = _binary("add"), _binary("add", swapped=True)
    __sub__, __rsub__ = _binary("subtract"), _binary("subtract", swapped=True)
    __mul__, __rmul__ = _binary("multiply"), _binary("multiply", swapped=True)
    __truediv__, __rtruediv__ = _binary("divide"), _binary("divide", swapped=True)
    __lt__, __le__, __gt__, __ge__ = (_binary(name) for name in ("less", "less_equal", "greater", "greater_equal"))
    __eq__ = _binary("equal")  # type: ignore[assignment]
    __and__, __or__ = _binary("logical_and"), _binary("logical_or")
    __neg__, __abs__, __invert__ = _unary("negative"), _unary("absolute"), _unary("logical_not")

    def __ne__(self, other: Any) -> "Value":  # type: ignore[override]
        return self.tape.apply("logical_not", self.tape.apply("equal", self, other))

    def __pow__(self, power: Any) -> "Value":
        return _power(self, self.tape.value(power))

    def __rpow__(self, base: Any) -> "Value":
        return _power(self.tape.value(base), self)

    def sum(self, axis: Any = None, **options: Any) -> "Value":
        """The sum over a row's outputs."""
        return _reduce("sum", self, axis, **options)

    def mean(self, axis: Any = None, **options: Any) -> "Value":
        """The mean over a row's outputs."""
        return _reduce("mean", self, axis, **options)

    def max(self, axis: Any = None, **options: Any) -> "Value":
        """The largest of a row's outputs."""
        return _reduce("max", self, axis, **options)

    def min(self, axis: Any = None, **options: Any) -> "Value":
        """The smallest of a row's outputs."""
        return _reduce("min", self, axis, **options)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> "Value":
        if method != "__call__" or options or ufunc.__name__ not in _UFUNCS:
            raise TraceError(
                f"np.{ufunc.__name__}{'' if method == '__call__' else '.' + method} isn't among what it knows"
            )
        return _UFUNCS[ufunc.__name__](*(self.tape.value(value) for value in inputs))

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, options: Any) -> "Value":
        if function not in _FUNCTIONS:
            raise TraceError(f"np.{function.__name__} isn't among what it knows")
        return _FUNCTIONS[function](*arguments, **options)


def _power(base: Value, power: Value) -> Value:
    n = power.number
    if n is None:
        return base.tape.apply("exp", power * base.tape.apply("log", base))
    if n == int(n) and 0 <= abs(n) <= 64:
        value, square, left = base.tape.value(1.0), base, int(abs(n))
        while left:
            value = value * square if left % 2 else value
            square, left = square * square, left // 2
        return value if n >= 0 else 1.0 / value
    if n == 0.5:
        return base.tape.apply("sqrt", base)
    return base.tape.apply("exp", n * base.tape.apply("log", base))


def _reduce(operation: str, value: Value, axis: Any = None, **options: Any) -> Value:
    if not (axis in (-1, 1) or (axis is None and operation == "mean")) or options.pop("keepdims", False) or options:
        raise TraceError(f"{operation} over axis={axis!r}; wanted axis=-1, over a row's outputs")
    kind = value.tape.kind(value.place)
    if kind != "element" or value.is_mask:
        raise TraceError(f"{operation} of what isn't a number for each output")
    if operation == "mean":
        return _reduce("sum", value, -1) * value.tape.add("share")
    return value.tape.add(operation, value.place)


def _sign(x: Value) -> Value:
    apply = x.tape.apply
    return apply("where", x > 0.0, 1.0, apply("where", x < 0.0, -1.0, 0.0))


def _plain_ufunc(operation: str) -> Callable[..., Value]:
    return lambda *values: values[0].tape.apply(operation, *values)


_UFUNCS: dict[str, Callable[..., Value]] = {
    **{name: _plain_ufunc(name) for name in {*ARITHMETIC, *MASKS, *LOGIC} - {"where", "sigmoid", "normal_cdf"}},
    "true_divide": _plain_ufunc("divide"),
    "fabs": _plain_ufunc("absolute"),
    "not_equal": lambda a, b: a != b,
    "power": _power,
    "float_power": _power,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1.0 / x,
    "positive": lambda x: x,
    "sign": _sign,
    "exp2": lambda x: (x * math.log(2.0)).tape.apply("exp", x * math.log(2.0)),
    "log2": lambda x: x.tape.apply("log", x) * (1.0 / math.log(2.0)),
    "log10": lambda x: x.tape.apply("log", x) * (1.0 / math.log(10.0)),
    "bitwise_and": _plain_ufunc("logical_and"),
    "bitwise_or": _plain_ufunc("logical_or"),
    "invert": _plain_ufunc("logical_not"),
}


def _of_any(values: Sequence[Any]) -> Tape:
    return next(value.tape for value in values if isinstance(value, Value))


def _where(mask: Any, a: Any, b: Any) -> Value:
    return _of_any((mask, a, b)).apply("where", mask, a, b)


def _clip(x: Any, low: Any = None, high: Any = None, **bounds: Any) -> Value:
    low, high = bounds.pop("min", low), bounds.pop("max", high)
    tape = _of_any((x, low, high))
    x = x if low is None else tape.apply("maximum", x, low)
    return tape.value(x if high is None else tape.apply("minimum", x, high))


_FUNCTIONS: dict[Any, Callable[..., Value]] = {
    np.where: _where,
    np.clip: _clip,
    np.sum: functools.partial(_reduce, "sum"),
    np.mean: functools.partial(_reduce, "mean"),
    np.max: functools.partial(_reduce, "max"),
    np.min: functools.partial(_reduce, "min"),
    np.zeros_like: lambda x: x.tape.value(0.0),
    np.ones_like: lambda x: x.tape.value(1.0),
}


# ---------------------------------------------------------------- following a function


def follow(
    function: Callable[..., Any], arguments: Sequence[str], what: str, tape: Tape | None = None, constant: bool = False
) -> tuple[Tape, int]:
    """The tape of a function of so many arguments, and the place of what it returns (which may be `constant`).

    Raises
    ------
    TypeError : the function does what can't be compiled; `what` names it
    """
    tape = Tape() if tape is None else tape
    try:
        result = function(*(tape.add("argument", name) for name in arguments))
        if constant and isinstance(result, Real):
            result = tape.value(result)
        if not isinstance(result, Value) or (result.number is not None and not constant) or result.is_mask:
            raise TraceError(f"it returns {_described(result)}; wanted a number for each row")
    except Exception as error:  # whatever the user's function raises
        raise TypeError(f"{what} can't be compiled: {error}. It may use {KNOWN}") from error
    return tape, result.place


def _described(result: Any) -> str:
    if isinstance(result, Value):
        return f"always {result.number:g}" if result.number is not None else "a comparison"
    return repr(result)


def named(function: Callable[..., Any], name: str | None, taken: Any) -> str:
    """What a function is called, unless a table has that name."""
    own: str = name or str(getattr(function, "__name__", type(function).__name__))
    own = "custom" if own == "<lambda>" else own
    return f"custom_{own}" if own in taken else own


def unwrapped(tape: Tape, place: int) -> tuple[int, bool]:
    """What a mean or sum over the outputs is taken of, and whether it is a mean; other values as they are, a mean."""
    operation, *arguments = tape.steps[place]
    if operation == "sum":
        return arguments[0], False
    parts = {tape.steps[one][0]: one for one in arguments} if operation == "multiply" else {}
    if parts.keys() == {"sum", "share"}:
        return tape.steps[parts["sum"]][1], True
    return place, True


def mean_of(tape: Tape, place: int, what: str) -> int:
    """A value for each row: the mean over the outputs where there is one for each."""
    if tape.kind(place) == "row":
        return place
    if tape.reduces_in(place):
        raise TypeError(f"{what} can't be compiled: it mixes sums over a row with single outputs in what it returns")
    return _reduce("mean", Value(tape, place), -1).place


def derivative_of(tape: Tape, place: int, argument: str) -> int:
    """The place of a step's derivative by an argument."""
    return derivative(tape, place, tape.add("argument", argument).place).place


def derivative(tape: Tape, place: int, by: int) -> Value:
    """The derivative of a step by another one, put on the same tape."""
    slopes: dict[int, Value | None] = {by: tape.value(1.0)}

    def slope(at: int) -> Value | None:
        if at not in slopes:
            slopes[at] = _slope(at)
        return slopes[at]

    def _slope(at: int) -> Value | None:
        operation, *arguments = tape.steps[at]
        if operation in ("number", "argument", "share", *REDUCTIONS, *MASKS, *LOGIC):
            return None
        values = [Value(tape, argument) for argument in arguments]
        inner = [None if value.is_mask else slope(value.place) for value in values]
        if all(one is None for one in inner):
            return None
        found = _SLOPES[operation](Value(tape, at), values, [tape.value(0.0) if one is None else one for one in inner])
        return None if found.number == 0.0 else found

    found = slope(place)
    return tape.value(0.0) if found is None else found


_SLOPES: dict[str, Callable[[Value, list[Value], list[Value]], Value]] = {
    "add": lambda v, x, d: d[0] + d[1],
    "subtract": lambda v, x, d: d[0] - d[1],
    "multiply": lambda v, x, d: d[0] * x[1] + x[0] * d[1],
    "divide": lambda v, x, d: (d[0] - v * d[1]) / x[1],
    "negative": lambda v, x, d: -d[0],
    "absolute": lambda v, x, d: d[0] * _sign(x[0]),
    "exp": lambda v, x, d: d[0] * v,
    "expm1": lambda v, x, d: d[0] * (v + 1.0),
    "log": lambda v, x, d: d[0] / x[0],
    "log1p": lambda v, x, d: d[0] / (x[0] + 1.0),
    "tanh": lambda v, x, d: d[0] * (1.0 - v * v),
    "sin": lambda v, x, d: d[0] * v.tape.apply("cos", x[0]),
    "cos": lambda v, x, d: -d[0] * v.tape.apply("sin", x[0]),
    "sqrt": lambda v, x, d: d[0] * 0.5 / v,
    "sigmoid": lambda v, x, d: d[0] * (v * (1.0 - v)),
    "normal_cdf": lambda v, x, d: d[0] * (1.0 / math.sqrt(2.0 * math.pi)) * v.tape.apply("exp", x[0] * x[0] * -0.5),
    "maximum": lambda v, x, d: v.tape.apply("where", x[0] >= x[1], d[0], d[1]),
    "minimum": lambda v, x, d: v.tape.apply("where", x[0] <= x[1], d[0], d[1]),
    "where": lambda v, x, d: v.tape.apply("where", x[0], d[1], d[2]),
}


# ---------------------------------------------------------------- code


_NAMES: dict[str, Any] = {
    **{
        name: getattr(_math, name)
        for name in ("exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "logistic", "normal_cdf")
    },
    **{name: getattr(_vector, name) for name in ("maximum", "minimum", "where", "sqrt", "copysign")},
    "inf": math.inf,
    "nan": math.nan,
    "least": float(np.finfo(np.float32).tiny),
    "__name__": __name__,  # Numba's cache imports it again
}


@functools.cache
def compiled(source: str) -> Callable[..., Any]:
    """The formula that some code defines as ``made``: one for equal code."""
    names = dict(_NAMES)
    exec(compile(source, "<a user's function>", "exec"), names)
    names["made"].source = source  # for engines that rewrite it
    return formula(names["made"])  # type: ignore[no-any-return]


class Code:
    """Lines of code for the steps of a tape."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.lines = tape, list[str]()
        self._written: set[int] = set()

    def needs(self, places: Sequence[int]) -> list[int]:
        """The steps that these are made of, in order; reductions stand for themselves."""
        found: set[int] = set()
        queue = list(places)
        while queue:
            place = queue.pop()
            operation, *arguments = self.tape.steps[place]
            if place not in found:
                found.add(place)
                if operation not in ("number", "argument", "share", *REDUCTIONS):
                    queue += arguments
        return sorted(found)

    def write(self, places: Sequence[int], indent: str) -> None:
        """Lines that compute these values, as far as they aren't there."""
        for place in self.needs(places):
            operation, *arguments = self.tape.steps[place]
            if operation in ("number", "argument", *REDUCTIONS) or place in self._written:
                continue
            self._written.add(place)
            self.lines.append(f"{indent}v{place} = {self._expression(operation, arguments)}")

    def _expression(self, operation: str, arguments: list[int]) -> str:
        if operation == "share":
            return "one * (1.0 / n)"
        names = [self.name(argument) for argument in arguments]
        if operation in MASKS:
            return f"{self.vector(arguments[0])} {MASKS[operation]} {names[1]}"
        if operation == "where":
            names = [names[0], *(self.vector(argument) for argument in arguments[1:])]
        return (ARITHMETIC | LOGIC)[operation].format(*names)

    def name(self, place: int) -> str:
        """What a step's value is called."""
        operation, *rest = self.tape.steps[place]
        if operation == "number":
            return f"({rest[0]!r})"
        return str(rest[0]) if operation == "argument" else f"v{place}"

    def vector(self, place: int) -> str:
        """The same, a number as a vector."""
        name = self.name(place)
        return f"(one * {name})" if self.tape.steps[place][0] == "number" else name

    def reductions(self, places: Sequence[int]) -> list[int]:
        """The reductions among the steps that these are made of."""
        return [place for place in self.needs(places) if self.tape.steps[place][0] in REDUCTIONS]

    def reduce(self, found: Sequence[int], what: str) -> None:
        """Lines that take reductions over the columns a and y."""
        for place in found:
            self.lines.append(f"    v{place} = {START[self.tape.steps[place][0]]}")
        self.lines += ["    for c in range(n):", "        a_c = a[c]", "        y_c = y[c]"]
        inner = [self.tape.steps[place][1] for place in found]
        if self.reductions(inner) or any(self.tape.steps[place][0] == "share" for place in self.needs(inner)):
            raise TypeError(f"{what} can't be compiled: the terms of a sum over a row hold another such sum")
        before = set(self._written)
        self.write(inner, "        ")
        self._written = before
        for place in found:
            operation, term = self.tape.steps[place]
            self.lines.append(f"        v{place} = {REDUCTIONS[operation].format(f'v{place}', self.vector(term))}")

    def source(self, header: str, first: str) -> str:
        """The function."""
        return "\n".join([f"def made({header}):", f"    one = abs(copysign(1.0, {first}))", *self.lines, ""])


def elementwise(tape: Tape, places: Sequence[int], header: str) -> Callable[..., Any]:
    """A formula of the arguments in `header` that returns these values."""
    code = Code(tape)
    code.write(places, "    ")
    values = ", ".join(code.vector(place) for place in places)
    code.lines.append(f"    return {values}")
    return compiled(code.source(header, header.split(",")[0]))


def by_rows(tape: Tape, place: int, what: str) -> Callable[..., Any]:
    """A formula (a, y, n, p) of columns that returns a value for each row."""
    code = Code(tape)
    code.reduce(code.reductions([place]), what)
    code.write([place], "    ")
    code.lines.append(f"    return {code.vector(place)}")
    return compiled(code.source("a, y, n, p", "a[0]"))


def loss_by_rows(tape: Tape, place: int, by: str, what: str) -> Callable[..., Any]:
    """A formula (da, a, y, n, weight, p) of columns that returns each row's value and writes its slope by `by`."""
    code = Code(tape)
    found = code.reductions([place])
    if tape.kind(place) != "row":
        raise TypeError(f"{what} can't be compiled: it mixes sums over a row with single outputs in what it returns")
    if any(tape.steps[one][0] != "sum" for one in found):
        raise TypeError(f"{what} can't be compiled: a maximum or minimum over a row has no derivative here")
    variable = tape.add("argument", by).place
    inner = [derivative(tape, tape.steps[one][1], variable) for one in found]
    outer = [derivative(tape, place, one) for one in found]
    code.reduce(found, what)
    code.write([place, *(value.place for value in outer)], "    ")
    code.lines += ["    for c in range(n):", "        a_c = a[c]", "        y_c = y[c]"]
    slope = tape.value(0.0)
    for one, other in zip(inner, outer, strict=True):
        slope = slope + one * other
    code.write([slope.place], "        ")
    code.lines.append(f"        da[c] = where(weight == 0.0, one * 0.0, weight * {code.vector(slope.place)})")
    code.lines.append(f"    return {code.vector(place)}")
    return compiled(code.source("da, a, y, n, weight, p", "a[0]"))


def kept(tape: Tape, *places: int) -> Steps:
    """The steps that these are made of, as plain data, renumbered; the last ones are these in turn."""
    found: dict[int, int] = {}
    steps: list[Step] = []

    def visit(place: int) -> int:
        if place not in found:
            operation, *arguments = tape.steps[place]
            if operation not in ("number", "argument"):
                arguments = [visit(argument) for argument in arguments]
            found[place] = len(steps)
            steps.append((operation, *arguments))
        return found[place]

    results = [visit(place) for place in places]
    return (*steps, ("results", *results))


def restored(steps: Any, *counts: int) -> tuple[Tape, list[int]]:
    """The tape and the results, one of so many, of what `kept` gave, read from a file.

    Raises
    ------
    ValueError : something else, or an operation that isn't known
    """
    try:
        *body, (last, *results) = [tuple(step) for step in steps]
        sound = (
            last == "results"
            and len(results) in counts
            and all(isinstance(r, int) and 0 <= r < len(body) for r in results)
        )
        for place, (operation, *arguments) in enumerate(body):
            sound &= operation in OPERATIONS
            if operation == "number":
                sound &= len(arguments) == 1 and isinstance(arguments[0], float)
            elif operation == "argument":
                sound &= arguments in (["z"], ["a_c"], ["y_c"])
            else:
                sound &= all(isinstance(one, int) and 0 <= one < place for one in arguments)
                sound &= len(arguments) == _ARITY[operation]
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError("a function of one's own in the file is damaged, or of a newer version")
    return Tape(tuple(body)), results


_ARITY = {
    **{name: 1 + max(int(d) for d in template if d.isdigit() and d in "012") for name, template in LOGIC.items()},
    **dict.fromkeys(MASKS, 2),
    **dict.fromkeys(REDUCTIONS, 1),
    **dict.fromkeys(ARITHMETIC, 1),
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum", "minimum"), 2),
    "where": 3,
    "logical_not": 1,
    "logical_and": 2,
    "logical_or": 2,
    "share": 0,
}
