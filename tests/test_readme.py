"""What the README says that a test proves: the test is there, and has tests in it."""

import ast
import re

import pytest
from helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"\b(test_\w+)(?:\.py)?\b", README)))


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_is_there(name: str) -> None:
    path = ROOT / "tests" / f"{name}.py"
    assert path.is_file(), f"the README names {name}, which tests/ hasn't"
    functions = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in functions) or (
        "sklearn" in path.read_text(encoding="utf-8")  # scikit-learn's own tests, collected by import
    )


def test_every_feature_names_what_proves_it() -> None:
    table = README[README.index("| | | proven by `tests/` |") :].split("\n\n", 1)[0].splitlines()[2:]
    assert len(table) > 12
    for line in table:
        assert re.search(r"\btest_\w+", line.strip("|").split("|")[-1]), f"no test stands behind {line[:60]!r}"


def test_files_that_are_named_are_there() -> None:
    named = set(re.findall(r"`((?:bench|scripts|fastbp)/[\w/]+(?:\.\w+|/))`", README))
    assert len(named) > 3
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == []
