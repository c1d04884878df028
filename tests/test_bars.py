"""Bars: rich's on a terminal, tqdm's where there is no rich and in notebooks, lines elsewhere."""

import importlib.util
import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastbp as fb
from fastbp.reports import bars
from fastbp.reports.progress import resolve_verbose

X = np.random.default_rng(0).standard_normal((64, 3))
Y = X.sum(axis=1)
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CURSOR_BACK = "\x1b[?25h"


def sit_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called by the test itself: its stderr is another than that of the fixtures."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Jupyter's kernel puts into the process."""
    kind = type("ZMQInteractiveShell", (), {"config": {}})
    shell = type("Shell", (kind,), {})()  # Colab's is a subclass
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def fitted(**options: Any) -> fb.History:
    model = fb.Model([fb.Dense(1)])
    model.compile("sgd", "mse")
    return model.fit(X, Y, epochs=7, **options)


def test_a_terminal_gets_richs_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    sit_at_a_terminal(monkeypatch)
    history = fitted()
    out, err = capsys.readouterr()
    last = CODES.sub("", err).rstrip("\n").split("\r")[-1]
    assert out == "" and "\x1b[" in err and CURSOR_BACK in err
    assert "epoch 7/7" in last and "100%" in last and f"loss {history.history['loss'][-1]:.4g}" in last
    assert "samples/s" in last and "|" not in last


@pytest.mark.parametrize("lack", ["rich", "cursor"])
def test_a_terminal_without_it_gets_tqdms(
    lack: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sit_at_a_terminal(monkeypatch)
    if lack == "rich":
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rich" else find(name, *a))
    else:
        monkeypatch.setenv("TERM", "dumb")
    fitted()
    last = capsys.readouterr().err.rstrip("\n").split("\r")[-1]
    assert re.search(r"epoch 7/7 100%\|.{20}\|", last) and "samples/s" in last


def test_a_notebook_gets_a_bar_of_tqdms(notebook: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert bars.in_notebook() and not bars.has_rich() and resolve_verbose("auto") == 1
    fitted()
    assert "epoch 7/7 100%|" in capsys.readouterr().err


def test_elsewhere_there_is_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    assert not bars.in_notebook() and resolve_verbose("auto") == 2
    fitted()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"epoch {n}/7" for n in range(1, 8)]
    assert all("loss " in line and "\x1b" not in line for line in lines)


@pytest.mark.parametrize("kind", ["rich", "tqdm"])
def test_a_bar_moves_goes_on_and_is_closed_by_an_error(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sit_at_a_terminal(monkeypatch)
    monkeypatch.setattr(bars, "REFRESH", 0.0)
    if kind == "rich":
        pytest.importorskip("rich")
    else:
        monkeypatch.setattr(bars, "has_rich", lambda: False)
    with pytest.raises(ZeroDivisionError), bars.bar(8, "[red]text") as bar:
        bar.begin(2)
        bar.update()
        assert bar.place == 3
        bar.move(6, "a [b] c", at_once=True)
        bar.describe("other")
        bar.move(7)
        assert 1 / 0
    err = capsys.readouterr().err
    text = CODES.sub("", err)
    assert "[red]text" in text and "other" in text and "a [b] c" in text
    assert re.findall(r"(\d+)%", text)[-1] in ("87", "88") and " 25%" in text
    assert kind == "tqdm" or CURSOR_BACK in err
