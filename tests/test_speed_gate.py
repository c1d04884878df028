"""The gate: its bounds hold on made-up measurements, its rows run, its processes answer, slow-downs can be planted."""

import ast
import math
import random
from pathlib import Path

import networks
import numpy as np
import plant_slowdown
import pytest
import speed_gate
import watched
from helpers import ROOT
from speed_gate import Failure, Gate, Row, Side

from fastbp import program as pg
from fastbp._jit import cache_folder

pytest.importorskip("scipy", reason="the gate's bounds are scipy's")

NOWHERE = Side("base", ROOT, ROOT)


class Imagined(Gate):
    """A gate whose pairs of processes are drawn: `noise` between pairs, HEAD slower by `slow` in its first row."""

    def __init__(self, seed: int, noise: float, slow: float, rows: int = 20) -> None:
        super().__init__(NOWHERE, Side("head", ROOT, ROOT), 0.02, math.inf, [])
        self.rows = [Row(f"row {i}", 1, 0.05) for i in range(rows)]
        self.noise, self.slow, self.random = noise, math.log1p(slow), random.Random(seed)

    def _pair(self, other: Side, rows: list[Row], turn: int) -> None:
        for row in rows:
            shift = self.slow if row is self.rows[0] and other is self.head else 0.0
            row.seconds.append(1.0)
            (row.same if other is self.base else row.other).append(self.random.gauss(shift, self.noise))

    def verdicts(self) -> list[str]:
        self.run()
        return [row.verdict for row in self.rows]


@pytest.mark.parametrize("noise", [0.005, 0.01])
def test_a_slowdown_of_5_percent_is_caught(noise: float) -> None:
    verdicts = [Imagined(seed, noise, 0.05).verdicts() for seed in range(60)]
    assert sum(v[0] == "slower" for v in verdicts) >= 57
    assert all("slower" not in v[1:] for v in verdicts)


@pytest.mark.parametrize("noise", [0.005, 0.03, 0.1])
@pytest.mark.parametrize("change", [0.0, 0.019, -0.1])
def test_what_stays_below_the_threshold_passes(noise: float, change: float) -> None:
    failed = sum("slower" in Imagined(seed, noise, change).verdicts() for seed in range(60))
    assert failed <= 3


def test_a_noisy_row_is_unclear_and_a_faster_one_is_said_to_be() -> None:
    assert "open" in Imagined(0, 0.2, 0.05).verdicts()
    assert Imagined(0, 0.005, -0.1).verdicts()[0] == "faster"


def test_the_report_tells_ratio_and_bounds() -> None:
    gate = Imagined(0, 0.01, 0.05)
    gate.run()
    row = gate.report()["rows"][0]
    assert row["low"] < row["ratio"] < row["high"]
    assert row["ratio"] == pytest.approx(1.05, abs=0.02)


@pytest.mark.parametrize("name", ["gather", "forward", "output", "backward", "gradient"])
def test_each_phase_runs_alone(name: str) -> None:
    run = watched.phase(name, 32)
    model, prepared, *_ = run.__defaults__[0]  # type: ignore[attr-defined]
    (bound,) = model._engine._bound.values()
    arrays = [array for array in bound.kept if isinstance(array, np.ndarray)]
    (scratch,) = (array for array in arrays if array.ctypes.data == prepared.run[pg.SCRATCH])
    buffers = [bound.workspace[: bound.plan.index].view(np.float32), scratch.view(np.float32)]
    for buffer in buffers:
        buffer[:] = 2.0
    run(2)
    changed = sum(int((buffer != 2.0).sum()) for buffer in buffers)
    assert changed >= (32 * 32 if name == "gradient" else 10 * watched.BATCH)  # it does its work


@pytest.mark.parametrize(("kind", "name"), [("activation", "tanh"), ("derivative", "tanh"), ("update", "adam")])
def test_each_rule_runs_alone(kind: str, name: str) -> None:
    watched.rule(kind, name)(2)


def test_the_rows_are_those_of_the_kernels_and_networks() -> None:
    names = [row.name for row in watched.table()]
    assert len(set(names)) == len(names)
    for start in ("forward", "backward", "gradient", "update adam", "fit tiny", "fit wide", "predict"):
        assert any(name.startswith(start) for name in names)


def test_processes_measure_in_turns() -> None:
    folder = cache_folder()
    assert folder is not None
    side = Side("here", ROOT, folder.parent)
    row = Row("activation tanh float32", 1, 0.05)
    with speed_gate.processes(side, side) as (base, head):
        speed_gate.together((base, head), "rows")
        ratio = row.measure(base, head, speed_gate.usable_cores(), 0)
        with pytest.raises(Failure, match="here: KeyError: 'no such row'"):
            base.ask("make", "no such row", speed_gate.usable_cores())
    assert math.isfinite(ratio)
    assert row.times > 1
    assert row.seconds[0] > 0


def test_an_unknown_commit_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="neither a commit nor a folder"):
        speed_gate.unpack("no-such-commit", tmp_path)


@pytest.mark.parametrize("name", plant_slowdown.PLANTS)
def test_slowdowns_can_be_planted_in_the_kernels_as_they_are(name: str) -> None:
    path, plant = plant_slowdown.PLANTS[name]
    source = (ROOT / path).read_text(encoding="utf-8")
    planted = plant(source)
    ast.parse(planted)
    assert planted != source
    if name in ("forward", "backward"):  # a part of the neurons, not of anything else
        low, high = {"forward": ("o0", "o1"), "backward": ("i0", "i1")}[name]
        assert f"{low}, {low} + ({high} - {low}) // 160 * 8, now)" in planted


def test_a_network_is_named_by_the_table_or_by_its_widths() -> None:
    assert networks.named("tiny") is networks.NETWORKS["tiny"]
    assert networks.named("mnist@7").widths == networks.NETWORKS["mnist"].widths
    assert networks.named("mnist@7").batch == 7
    made = networks.named("784-333-10@100")
    assert (made.widths, made.batch, made.output) == ((784, 333, 10), 100, "softmax")
    assert networks.named("20-10-1").output == "sigmoid"
    for wrong in ("nonsense", "784", "784-0-10", "tiny@0", "tiny@x"):
        with pytest.raises(ValueError, match=wrong):
            networks.named(wrong)
