"""Formulas over a row's columns, rewritten so that several threads share their loops.

Each thread takes every so manieth column.

A loop over columns may compute numbers that it forgets, write columns, and carry these from column to column:

    x = x + ... (and - ...)              each thread adds up its own; the sums are added up behind the loop
    x = maximum(x, ...), minimum         likewise
    place = where(e > x, c, place)       the highest so far and its place: of equals the first
    x = where(e > x, e, x)               (or x = maximum(x, e))
    x = where(..., e, x)                 the last that was chosen

What else it carries makes the formula one for a thread alone. The order of every sum follows from the number of
threads. Formulas are written for one row, and rewritten once more for numbers of one type (see ``scalars``).
"""

import ast
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fastbp._vector import where
from fastbp.cuda.scalars import COUNT, of_source, source_of

OWN = "_share", "_first", "_lane", "_end"
"""What a rewritten formula takes beside its own arguments: shared memory with two numbers for each thread, where those
of the row's threads begin, which of them this one is, and how many columns to go through: 0 of a row that isn't there.
All of a block's threads call it."""
ENDS = {"maximum": "_highest", "minimum": "_lowest"}


class Sharing(NamedTuple):
    """How many threads share a row, and the functions that put together what they have.

    Attributes
    ----------
    lanes : threads of a row
    total, highest, lowest : f(share, first, lane, x) -> x of all
    best : f(share, first, lane, x, y) -> the pair with the highest x, of equals that with the lowest y
    """

    lanes: int
    total: Any
    highest: Any
    lowest: Any
    best: Any


class _Unfit(Exception):
    """A formula isn't one of those."""


@functools.cache
def shared(function: Callable[..., Any], sharing: Sharing) -> Callable[..., Any] | None:
    """The formula for several threads a row, with `OWN` as further arguments; None where one thread must do it."""
    try:
        return _Splitter(function, sharing).written()
    except _Unfit:
        return None


class _Splitter:
    def __init__(self, function: Callable[..., Any], sharing: Sharing) -> None:
        tree = ast.parse(source_of(function))
        self._node = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
        self._names, self._sharing = dict(function.__globals__), sharing
        self._names |= {f"_{name}": join for name, join in sharing._asdict().items() if name != "lanes"}
        self._joins = 0

    def written(self) -> Callable[..., Any]:
        """The new function."""
        node = self._node
        node.decorator_list, node.returns = [], None
        if ast.get_docstring(node) is not None:
            del node.body[0]
        for argument in node.args.args:
            argument.annotation = None
        node.args.args += [ast.arg(name) for name in OWN]
        self._stored = _columns(node, ast.Store)
        body: list[ast.stmt] = []
        written: set[str] = set()
        looked: set[str] = set()
        for place, statement in enumerate(node.body):
            stores, loads = _columns(statement, ast.Store), _columns(statement, ast.Load)
            if isinstance(statement, ast.For):
                if stores & looked:  # other threads may still have to read there
                    raise _Unfit
                before = self._joins
                body += self._loop(statement, node.body[place + 1 :])
                written, looked = written | stores, looked if self._joins == before else set()
            elif isinstance(statement, (ast.Assign, ast.Return)) and not stores and not loads & written:
                body.append(self._calling(statement))
                looked |= loads
            else:
                raise _Unfit
        if not self._joins:
            raise _Unfit
        node.body = body
        return of_source(ast.unparse(ast.fix_missing_locations(node)) + "\n", self._names)

    def _calling(self, statement: ast.stmt) -> ast.stmt:
        """The statement, where formulas over columns that it calls are shared too."""
        for call in [part for part in ast.walk(statement) if isinstance(part, ast.Call)]:
            name = ast.unparse(call.func)
            callee = self._names.get(name)
            if not inspect.isfunction(callee) or COUNT not in inspect.signature(callee).parameters:
                continue
            if (inner := shared(callee, self._sharing)) is None:
                raise _Unfit
            call.func = ast.Name(f"{name}_shared", ast.Load())
            call.args += [ast.Name(word, ast.Load()) for word in OWN]
            self._names[f"{name}_shared"] = inner
            self._joins += 1
        return statement

    def _loop(self, loop: ast.For, later: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The loop over a thread's own columns, what stands before it and what follows."""
        first, c, lanes = _first(loop), ast.unparse(loop.target), self._sharing.lanes
        carried = [
            name
            for name in dict.fromkeys(_assigned(loop.body))
            if _reads_first(name, loop.body) or _reads_first(name, later)
        ]
        body = [self._checked(statement, carried, c) for statement in loop.body]
        before: list[ast.stmt] = []
        within: list[ast.stmt] = []
        after: list[ast.stmt] = []
        rest = list(body)
        while rest:
            statement = rest.pop(0)
            names = [name for name in _assigned([statement]) if name in carried]
            if not names:
                if any(_reads(statement.value, name) for name in carried):
                    raise _Unfit
                within.append(statement)
                continue
            if rest and (top := _highest(statement, rest[0], c)) is not None:
                names.append(top)
                after += _lines(f"{top}, {names[0]} = _best(_share, _first, _lane, {top}, {names[0]})")
                within += [statement, rest.pop(0)]
            else:
                begin, inner, end = self._carried(statement, names[0], c)
                before, within, after = before + begin, within + inner, after + end
            own = set(within[-2:] if len(names) > 1 else within[-1:])
            others = [other for other in body if other not in own and other is not statement]
            if any(name in _assigned(others) or any(_reads(one.value, name) for one in others) for name in names):
                raise _Unfit
        self._joins += len(after)
        turns = f"range(_lane, _end, {lanes})"
        if first:
            turns = f"range(_lane + ({lanes} if _lane < {first} else 0), _end, {lanes})"
        loop.iter, loop.body = ast.parse(turns, mode="eval").body, list[ast.stmt](within)
        return [*before, loop, *after]

    def _checked(self, statement: ast.stmt, carried: Sequence[str], c: str) -> ast.Assign:
        """A statement of a loop that looks at one column, with numbers for vectors of zeros."""
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise _Unfit
        for part in ast.walk(statement):
            elsewhere = isinstance(part, ast.Subscript) and ast.unparse(part.slice) != c
            if elsewhere and ast.unparse(part.value) in self._stored:  # type: ignore[attr-defined]
                raise _Unfit
            callee = self._names.get(ast.unparse(part.func)) if isinstance(part, ast.Call) else None
            if inspect.isfunction(callee) and COUNT in inspect.signature(callee).parameters:
                raise _Unfit
        for name in carried:
            statement.value = _Zeros(name).visit(statement.value)
        return statement

    def _carried(
        self, statement: ast.Assign, name: str, c: str
    ) -> tuple[list[ast.stmt], list[ast.stmt], list[ast.stmt]]:
        """What stands before, in and behind a loop for a number that it carries by itself."""
        value = statement.value
        if _count(value, name) != 1 or not isinstance(statement.targets[0], ast.Name):
            raise _Unfit
        leaf = _leftmost(value)
        if leaf is not None and leaf.id == name:
            leaf.id = f"{name}_part"
            within = _lines(f"{name}_part = {ast.unparse(value)}")
            joined = f"{name} = {name} + _total(_share, _first, _lane, {name}_part)"
            return _lines(f"{name}_part = 0.0"), within, _lines(joined)
        if isinstance(value, ast.Call) and len(value.args) > 1:
            function, arguments = ast.unparse(value.func), [ast.unparse(argument) for argument in value.args]
            if function in ENDS and arguments[0] == name:
                return [], [statement], _lines(f"{name} = {ENDS[function]}(_share, _first, _lane, {name})")
            if self._names.get(function) is where and arguments[2] == name:
                chosen = _lines(f"{name}_at = {function}({arguments[0]}, {c} + 1.0, {name}_at)")
                joined = f"{name}_at, {name} = _best(_share, _first, _lane, {name}_at, {name})"
                return _lines(f"{name}_at = 0.0"), [*chosen, statement], _lines(joined)
        raise _Unfit


def _columns(statement: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    """The names of what a statement writes to, or reads from, by a place."""
    parts = (part for part in ast.walk(statement) if isinstance(part, ast.Subscript))
    return {ast.unparse(part.value) for part in parts if isinstance(part.ctx, context)}


class _Zeros(ast.NodeTransformer):
    """``name * 0.0``, a vector of zeros, becomes the number."""

    def __init__(self, name: str) -> None:
        self._name = name

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if ast.unparse(node) == f"{self._name} * 0.0":
            return ast.Constant(0.0)
        self.generic_visit(node)
        return node


def _lines(code: str) -> list[ast.stmt]:
    return ast.parse(code).body


def _first(loop: ast.For) -> int:
    """The first column of a loop over all of them, or all but some."""
    found = ast.unparse(loop.iter)
    for first, wanted in ((0, f"range({COUNT})"), (1, f"range(1, {COUNT})")):
        if found == wanted:
            return first
    raise _Unfit


def _names_of(statement: ast.AST) -> Iterator[ast.Name]:
    return (part for part in ast.walk(statement) if isinstance(part, ast.Name))


def _assigned(statements: Sequence[ast.stmt]) -> list[str]:
    """The names that statements assign to."""
    return [part.id for each in statements for part in _names_of(each) if isinstance(part.ctx, ast.Store)]


def _count(node: ast.AST, name: str) -> int:
    return sum(part.id == name for part in _names_of(node))


def _reads(node: ast.AST, name: str) -> bool:
    return any(part.id == name and isinstance(part.ctx, ast.Load) for part in _names_of(node))


def _reads_first(name: str, statements: Sequence[ast.stmt]) -> bool:
    """Whether what a name holds before these statements, or is given by the last turn of a loop, may be read."""
    for statement in statements:
        if isinstance(statement, ast.For):
            if _reads_first(name, statement.body):
                return True
        elif isinstance(statement, ast.Assign):
            if _reads(statement.value, name):
                return True
            if any(ast.unparse(part) == name for part in _parts(statement)):
                return False
        elif _reads(statement, name):
            return True
    return False


def _parts(statement: ast.Assign) -> list[ast.expr]:
    target = statement.targets[0]
    return target.elts if isinstance(target, ast.Tuple) else [target]


def _leftmost(node: ast.expr) -> ast.Name | None:
    """The first term of sums and differences, where it is a name."""
    while isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        node = node.left
    return node if isinstance(node, ast.Name) else None


def _highest(place: ast.Assign, top: ast.Assign, c: str) -> str | None:
    """The name of the highest number so far, where two statements keep it and its place."""
    name, highest = ast.unparse(place.targets[0]), ast.unparse(top.targets[0])
    if not (isinstance(place.value, ast.Call) and isinstance(top.value, ast.Call) and len(place.value.args) == 3):
        return None
    test, chosen, kept = (ast.unparse(argument) for argument in place.value.args)
    number = test.removesuffix(f" > {highest}")
    if ast.unparse(place.value.func) != "where" or (chosen, kept) != (c, name) or number == test or highest == name:
        return None
    wanted = f"where({test}, {number}, {highest})", f"maximum({highest}, {number})"
    return highest if ast.unparse(top.value) in wanted and not _reads(place.value.args[0], name) else None
