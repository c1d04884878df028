"""The tables' formulas as functions of single numbers, for kernels: the same Python, with numbers of one type.

On the CPU a formula computes with vectors, which turn every number beside them into their own type. Plain numbers do
not: `2.0 * z` of a float32 would be a float64, and so would `z / n`. So a formula is rewritten before it is compiled:
its numbers, and what is computed of numbers alone, become constants of the type; counters that stand among numbers
(`1.0 / n`, `place == c`) are converted; functions of ``_math`` and ``_vector`` become those of single numbers below.
In the simulator the same rewritten formulas run as Python, on NumPy's scalars.
"""

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp import _math, _vector
from fastbp.cuda.device import cuda, inlined, simulated

COUNT = "n"
"""What formulas call the number of their columns."""


def _where(mask: Any, a: Any, b: Any) -> Any:
    return a if mask else b


def _maximum(a: Any, b: Any) -> Any:
    return b if a < b else a  # a NaN in `a` stays


def _minimum(a: Any, b: Any) -> Any:
    return b if a > b else a


def _quotient(a: Any, b: Any) -> Any:
    return a / b


def _product_and_sum(a: Any, b: Any, c: Any) -> Any:
    return a * b + c


def _fused(a: Any, b: Any, c: Any) -> Any:
    return cuda.fma(a, b, c)


def _of_math(name: str) -> Callable[[Any], Any]:
    """A function of the module math, which CUDA has for float32 as well."""
    names = {"math": math}
    exec(f"def {name}(x):\n    return math.{name}(x)\n", names)
    return names[name]  # type: ignore[return-value]


def _copysign(a: Any, b: Any) -> Any:
    return math.copysign(a, b)


NORMAL_CDF = """
def normal_cdf(x):
    return 0.5 * erfc(x * -0.7071067811865476)
"""


def _series(coefficients: tuple[float, ...]) -> str:
    """v of q, as code."""
    return f"    v = {coefficients[0]!r}\n" + "".join(f"    v = fma(v, q, {c!r})\n" for c in coefficients[1:])


def _cosine_of_turns(single: bool) -> str:
    series = _series(_math._SIN32 if single else _math._SIN64)
    return (
        f"def cosine_of_turns(x):\n    y = (x - 0.5) * {math.pi!r}\n    q = y * y\n{series}"
        "    sine = y * v\n    return 2.0 * sine * sine - 1.0\n"
    )


def _wave(single: bool, offset: float, sign: float) -> str:
    """The sine (of offset 0) or minus it (of 0.5) of x = (n + offset) pi + y, as `_math` has it: CUDA's own reduces
    angles of any size, by way of memory."""
    series, rounding = (_math._SIN32, _math._ROUND32) if single else (_math._SIN64, _math._ROUND64)
    high, middle, low = _math._PI32 if single else _math._PI64
    return f"""
def wave(x):
    n = (x * {1.0 / math.pi!r} - {offset} + {rounding}) - {rounding}
    odd = abs(n - 2.0 * ((n * 0.5 + {rounding}) - {rounding}))
    turns = n + {offset}
    y = fma(turns, {-low!r}, fma(turns, {-middle!r}, fma(turns, {-high!r}, x)))
    q = y * y
{_series(series)}
    return {sign} * y * v * (1.0 - 2.0 * odd)
"""


def of_source(source: str, names: dict[str, Any]) -> Callable[..., Any]:
    """The function that some code defines; the code stays with it (see `source_of`)."""
    tree = ast.parse(source)
    exec(compile(tree, "<a formula>", "exec"), names)
    function = names[next(node.name for node in tree.body if isinstance(node, ast.FunctionDef))]
    function.source = source
    return function  # type: ignore[no-any-return]


def _erfc(x: Any) -> Any:
    return math.erfc(x)


@functools.cache
def _primitives(kind: Any) -> dict[Any, Callable[..., Any]]:
    """What stands for each function of `_math` and `_vector` that formulas use."""
    if simulated():
        return {
            _math.exp: np.exp,
            _math.expm1: np.expm1,
            _math.log: np.log,
            _math.log1p: np.log1p,
            _math.tanh: np.tanh,
            _math.sin: np.sin,
            _math.cos: np.cos,
            _math.normal_cdf: lambda x: kind(_math.normal_cdf(float(x))),
            _math.cosine_of_turns: lambda x: kind(_math.cosine_of_turns(float(x))),
            _vector.where: _where,
            _vector.maximum: _maximum,
            _vector.minimum: _minimum,
            _vector.fma: _product_and_sum,
            _vector.sqrt: np.sqrt,
            _vector.root: np.sqrt,
            _vector.quotient: _quotient,
            _vector.copysign: np.copysign,
            abs: abs,
        }
    found: dict[Any, Callable[..., Any]] = {
        getattr(_math, name): inlined(_of_math(name)) for name in ("exp", "expm1", "log", "log1p", "tanh", "sin", "cos")
    }
    found |= {
        _vector.where: inlined(_where),
        _vector.maximum: inlined(_maximum),
        _vector.minimum: inlined(_minimum),
        _vector.fma: inlined(_fused),
        _vector.sqrt: inlined(_of_math("sqrt")),
        _vector.root: inlined(_of_math("sqrt")),
        _vector.quotient: inlined(_quotient),
        _vector.copysign: inlined(_copysign),
        _erfc: inlined(_of_math("erfc")),
        abs: abs,
    }
    single = kind is np.float32
    sources = {
        _math.normal_cdf: NORMAL_CDF,
        _math.cosine_of_turns: _cosine_of_turns(single),
        _math.sin: _wave(single, 0.0, 1.0),
        _math.cos: _wave(single, 0.5, -1.0),
    }
    for original, source in sources.items():
        names = {"fma": _vector.fma, "erfc": _erfc}
        found[original] = inlined(_rewritten(of_source(source, names), kind, found, frozenset()))
    return found


def scalar(function: Callable[..., Any], dtype: np.dtype, labels: tuple[str, ...] = ()) -> Any:
    """A formula of a table as a function of single numbers, or of a row's numbers, that kernels may call.

    Parameters
    ----------
    function : the formula
    dtype : type of all numbers that it is given and gives, float32 or float64
    labels : arguments that stand for a row with a 1 at one place and else 0: the function takes the place instead
    """
    kind: Any = np.dtype(dtype).type
    return _scalar(function, kind, frozenset(labels))


@functools.cache
def _scalar(function: Callable[..., Any], kind: Any, labels: frozenset[str]) -> Any:
    return inlined(_rewritten(function, kind, _primitives(kind), labels))


def made(source: str, dtype: np.dtype, labels: tuple[str, ...] = (), **names: Any) -> Any:
    """A function for kernels from code that is written like a formula.

    Parameters
    ----------
    source : one function definition
    dtype, labels : as in `scalar`
    names : formulas, and functions for kernels as `scalar` gives them, that it calls
    """
    kind: Any = np.dtype(dtype).type
    return inlined(_rewritten(of_source(source, dict(names)), kind, _primitives(kind), frozenset(labels)))


def source_of(function: Callable[..., Any]) -> str:
    """A function's code; one that was made from text carries it."""
    return getattr(function, "source", None) or textwrap.dedent(inspect.getsource(function))


def _rewritten(
    function: Callable[..., Any], kind: Any, primitives: dict[Any, Callable[..., Any]], labels: frozenset[str]
) -> Callable[..., Any]:
    definition = next(node for node in ast.parse(source_of(function)).body if isinstance(node, ast.FunctionDef))
    rewriter = _Rewriter(definition, function.__globals__, kind, primitives, labels)
    tree = ast.Module([rewriter.definition()], [])
    names = rewriter.names
    exec(compile(ast.fix_missing_locations(tree), f"<{definition.name} of single numbers>", "exec"), names)
    names[definition.name].rewritten = True
    return names[definition.name]  # type: ignore[no-any-return]


class _Rewriter(ast.NodeTransformer):
    """Rewrites a formula; `names` is what the new one finds among its globals."""

    def __init__(
        self,
        definition: ast.FunctionDef,
        known: dict[str, Any],
        kind: Any,
        primitives: dict[Any, Callable[..., Any]],
        labels: frozenset[str],
    ) -> None:
        self._definition, self._known, self._kind = definition, known, kind
        self._primitives, self._labels = primitives, labels
        arguments = {argument.arg for argument in definition.args.args}
        loops = [node for node in ast.walk(definition) if isinstance(node, ast.For)]
        self._counters = {COUNT} & arguments | {ast.unparse(loop.target) for loop in loops}
        self._numbers: dict[str, str] = {}
        self.names: dict[str, Any] = {"_kind": kind, "range": range, "abs": abs, "__name__": __name__}

    def definition(self) -> ast.FunctionDef:
        """The new function."""
        node = self._definition
        node.decorator_list, node.returns = [], None
        for argument in node.args.args:
            argument.annotation = None
        if ast.get_docstring(node) is not None:
            del node.body[0]
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def _number(self, value: float) -> ast.Name:
        name = self._numbers.setdefault(repr(value), f"_{len(self._numbers)}")
        self.names[name] = self._kind(value)
        return ast.Name(name, ast.Load())

    def _constant(self, node: ast.AST) -> float | None:
        """The value of an expression of numbers alone."""
        if not isinstance(node, (ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.BinOp, ast.UnaryOp)):
            return None
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and not (
                self._known.get(part.id) is math or isinstance(self._known.get(part.id), float)
            ):
                return None
            if not isinstance(part, (ast.expr, ast.operator, ast.unaryop, ast.expr_context)):
                return None
        value = eval(compile(ast.Expression(node), "<a number>", "eval"), dict(self._known))  # type: ignore[arg-type]
        return value if isinstance(value, (int, float)) else None

    def visit(self, node: ast.AST) -> Any:
        constant = self._constant(node)
        return super().visit(node) if constant is None else self._number(constant)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self._counters:
            return ast.Call(ast.Name("_kind", ast.Load()), [node], [])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in self._labels:
            same = ast.Compare(node.value, [ast.Eq()], [node.slice])
            return ast.IfExp(same, self._number(1.0), self._number(0.0))
        return node

    def visit_For(self, node: ast.For) -> ast.For:
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        name = ast.unparse(node.func)
        function = self._known.get(name, abs if name == "abs" else None)
        if function in self._primitives:
            self.names[name] = self._primitives[function]
            taken = [""] * len(node.args)
        elif function is None:
            raise NameError(f"a formula calls {name}, which isn't among its globals")
        elif hasattr(function, "rewritten") or not inspect.isfunction(function):
            self.names[name] = function
            taken = [""] * len(node.args)
        else:
            taken = list(inspect.signature(function).parameters)
            labels = frozenset(
                parameter
                for parameter, argument in zip(taken, node.args, strict=True)
                if isinstance(argument, ast.Name) and argument.id in self._labels
            )
            name = "_".join([name, *sorted(labels)])
            self.names[name] = _scalar(function, self._kind, labels)
        arguments = [
            argument if parameter == COUNT or ast.unparse(argument) in self._labels else self.visit(argument)
            for parameter, argument in zip(taken, node.args, strict=True)
        ]
        return ast.Call(ast.Name(name, ast.Load()), arguments, [])
