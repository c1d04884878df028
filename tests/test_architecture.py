"""The house: imports go down the floors only, jit flags stand in one place, files are small, what is public is said."""

import ast
import graphlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT, python

import fastbp as fb

PACKAGE = ROOT / "fastbp"
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ENTRANCES = {"fastbp", "fastbp.__main__"}  # the table of contents and the command: above all floors

FLOORS = {
    "fastbp._jit": 0,
    "fastbp._vector": 0,
    "fastbp._math": 0,
    "fastbp._signals": 0,
    "fastbp.activations": 1,
    "fastbp.formulas": 1,
    "fastbp.losses": 1,
    "fastbp.metrics": 1,
    "fastbp.optimizers": 1,
    "fastbp.schedules": 1,
    "fastbp.layers": 2,
    "fastbp.layout": 2,
    "fastbp.program": 2,
    "fastbp.cpu": 3,
    "fastbp.cuda": 3,
    "fastbp.model": 4,
    "fastbp.callbacks": 4,
    "fastbp.estimators": 5,
    "fastbp.cli": 5,
}
"""The floors of the design. Any other module states its own in the first line of its docstring: "Floor 2: ..."."""

inner = pytest.mark.parametrize("module", sorted(SOURCES.keys() - ENTRANCES))


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def stated_floor(module: str) -> int | None:
    found = re.match(r"Floor (\d)[:,]", ast.get_docstring(tree(module)) or "")
    return int(found[1]) if found else None


def floor(module: str) -> int:
    """By the table (a package's holds for its modules), else by the module's own word."""
    package = ".".join(module.split(".")[:2])
    if package in FLOORS:
        return FLOORS[package]
    stated = stated_floor(module)
    assert stated is not None, f'{module}: begin its docstring with "Floor N: ..."'
    return stated


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that is run, functions included; what only type checkers read is left out."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from statements(child)


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports anywhere."""
    found = set()
    for node in statements(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            source = node.module or ""
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in SOURCES else source for a in node.names}
    return {name for name in found if name in SOURCES}


@inner
def test_imports_only_go_down(module: str) -> None:
    for other in imported(module) - {"fastbp"}:
        assert floor(other) <= floor(module), f"{module} (floor {floor(module)}) imports {other} ({floor(other)})"


def test_modules_of_one_floor_make_no_circle() -> None:
    order = list(graphlib.TopologicalSorter({m: imported(m) for m in SOURCES.keys() - ENTRANCES}).static_order())
    assert order.index("fastbp._jit") < order.index("fastbp.cpu.engine") < order.index("fastbp.model")


@inner
def test_a_floor_that_is_stated_is_the_designs(module: str) -> None:
    assert stated_floor(module) in (None, floor(module))


@inner
def test_engines_do_not_know_each_other(module: str) -> None:
    engines = {"fastbp.cpu", "fastbp.cuda"}
    own = ".".join(module.split(".")[:2])
    if own in engines:
        assert not any(name.startswith(tuple(engines - {own})) for name in imported(module))


@inner
def test_one_module_imports_cuda(module: str) -> None:
    """Which package gives `cuda`, and the flags of its kernels, are said in `cuda.device` alone."""
    if module == "fastbp.cuda.device":
        return
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        assert not any(name.startswith(("numba.cuda", "numba_cuda", "cuda.")) for name in names), node.lineno
    if module.startswith("fastbp.cuda."):
        flagged = {"cuda.jit", "cuda.compile", "cuda.compile_ptx"}
        assert not any(isinstance(n, ast.Attribute) and ast.unparse(n) in flagged for n in ast.walk(tree(module)))


MAKERS = {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil", "register_jitable"}


@inner
def test_jit_flags_stand_in_one_place(module: str) -> None:
    """What Numba compiles has the flags of `_jit.OPTIONS`; a launcher may add `parallel`, nobody fastmath or cache."""
    if module == "fastbp._jit":
        return
    code = tree(module)
    theirs = {
        alias.asname or alias.name
        for node in ast.walk(code)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba")
        for alias in node.names
    }
    calls = {id(node.func): node for node in ast.walk(code) if isinstance(node, ast.Call)}
    for node in ast.walk(code):
        of_numba = isinstance(node, ast.Attribute) and ast.unparse(node).startswith("numba.") and node.attr in MAKERS
        if of_numba or (isinstance(node, ast.Name) and node.id in MAKERS & theirs):
            where = f"{module}, line {node.lineno}"
            assert id(node) in calls, f"{where}: without the flags of _jit.OPTIONS"
            flags = {keyword.arg: ast.unparse(keyword.value) for keyword in calls[id(node)].keywords}
            assert "OPTIONS" in flags.pop(None, ""), f"{where}: without the flags of _jit.OPTIONS"
            assert flags.keys() <= {"parallel"}, f"{where}: other flags than _jit.OPTIONS"


@pytest.mark.parametrize("module", SOURCES)
def test_files_stay_small(module: str) -> None:
    lines = len(SOURCES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= 700, f"{module} has {lines} lines: it is two files"


# ---------------------------------------------------------------- docstrings


def public_definitions(module: str) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a module; a formula of a table is its own description."""
    for node in tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if "formula" not in decorators:
                yield node


@pytest.mark.parametrize("module", SOURCES)
def test_what_is_public_has_a_docstring(module: str) -> None:
    assert ast.get_docstring(tree(module)), module
    if not module.rpartition(".")[2].startswith("_"):
        silent = [node.name for node in public_definitions(module) if not ast.get_docstring(node)]
        assert silent == []


@pytest.mark.parametrize("name", fb.__all__)
def test_the_methods_of_public_classes_have_docstrings(name: str) -> None:
    value = getattr(fb, name)
    if inspect.isclass(value):
        members = {key: getattr(value, key) for key in dir(value) if not key.startswith("_")}
        described = {k: m for k, m in members.items() if callable(m) or isinstance(m, property)}
        silent = [key for key, member in described.items() if not inspect.getdoc(member)]
        assert silent == []


# ---------------------------------------------------------------- guests of the process


def test_the_table_of_contents_is_whole() -> None:
    """What `__init__` shows to type checkers is what it loads, and every module that it names exists."""
    shown = {
        alias.asname for node in ast.walk(tree("fastbp")) if isinstance(node, ast.ImportFrom) for alias in node.names
    } - {None, "TYPE_CHECKING"}
    assert shown <= set(fb.__all__)
    assert set(fb.__all__) - shown <= {"__version__", *fb._MODULES}
    assert set(dir(fb)) == set(fb.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Convolution'"):
        fb.Convolution  # noqa: B018


def test_numbas_settings_are_left_alone() -> None:
    """Neither the import nor a fit changes what other users of Numba in the process see.

    Modules of CUDA kernels import numba-cuda, which adds settings of its own: nobody imports them for the CPU.
    """
    code = """
import os
import sys
import sklearn  # sets variables of OpenMP when it is imported
import numba
from numba.core import config

def settings():
    values = {name: repr(value) for name, value in vars(config).items() if name.isupper()}
    return values, dict(os.environ), numba.get_num_threads()

before = settings()
import importlib, pkgutil
import fastbp as fb
for found in pkgutil.walk_packages(fb.__path__, "fastbp."):
    if not found.name.endswith("__main__") and not found.name.startswith("fastbp.cuda."):
        importlib.import_module(found.name)
import fastbp.cuda.device
assert settings() == before
model = fb.Model([fb.Dense(2)], threads=2)
model.compile("sgd", "mse")
model.fit([[1.0], [2.0]], [[1.0, 2.0], [3.0, 4.0]], verbose=0)
assert settings() == before
assert "numba.cuda" not in sys.modules
print(len(before[0]))
"""
    assert int(python(code)) > 50


def test_no_test_or_module_names_this_workplace() -> None:
    """Paths of one person's machine have no place in a project."""
    folders = [PACKAGE, ROOT / "tests", ROOT / "scripts", ROOT / "bench"]
    home = re.compile(r"[\"'(\s](/home/|/Users/|/root/|C:\\\\Users)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path != Path(__file__) and ".asv" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if home.search(line)
    ]
    assert found == []
