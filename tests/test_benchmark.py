"""fastbp bench: measuring in fresh processes, the file, and what counts as a change."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import make

import fastbp as fb
from fastbp.losses import LOSSES
from fastbp.reports import benchmark, comparison
from fastbp.reports.benchmark import Benchmark

STEPS, EPOCHS = 100, 5


def profile(us: float, rng: np.random.Generator, peak: float = 100.0, **parts: float) -> fb.Profile:
    """A process whose steps take about `us`, some of them longer, as the given shares say."""
    times = us * (1 + 0.02 * rng.exponential(size=9)) * 1e-6 * STEPS * EPOCHS
    shares = {"rows": 0.5, "weights": 0.3, "waiting": 0.1, "launch": 0.06, "python": 0.04} | parts
    subject = {"network": "4-3", "dtype": "float32", "threads": 2, "optimizer": "sgd", "loss": "mse"}
    subject |= {"batch_size": 10, "rows": 10 * STEPS, "epochs": EPOCHS, "steps": STEPS * EPOCHS, "shuffle": True}
    return fb.Profile(
        subject,
        1e9,
        times,
        {name: share * times for name, share in shares.items()},
        np.full(3, 20e-6) * rng.normal(1, 0.01, 3),
        np.full(9, 30e-6),
        peak * rng.uniform(0.97, 1, 9),
    )


def bench(us: float, seed: int, count: int = 8, peak: float = 100.0, **parts: float) -> Benchmark:
    rng = np.random.default_rng(seed)
    processes = [profile(us * rng.normal(1, 0.01), rng, peak, **parts) for _ in range(count)]
    return Benchmark(
        {"network": "4-3", "threads": 2, "device": "cpu"}, {"cpu": "one"}, {"fastbp": "1"}, "today", processes
    )


# ---------------------------------------------------------------- beyond noise


@pytest.mark.parametrize(("m", "n"), [(4, 4), (4, 7), (5, 5), (6, 4), (3, 9)])
def test_the_interval_leaves_out_what_mann_and_whitney_allow(m: int, n: int) -> None:
    """The distribution of U, counted out over every order of the values."""
    counts = np.zeros(m * n + 1)
    for places in itertools.combinations(range(m + n), m):
        counts[sum(place - i for i, place in enumerate(places))] += 1
    below = np.cumsum(counts) / counts.sum()
    for tail in (0.005, 0.025, 0.05, 0.1):
        wanted = max((u for u in range(m * n + 1) if below[u] <= tail), default=-1)
        assert comparison._left_out(m, n, tail) == wanted


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Under noise of one side and with outliers, where the mean's interval would not."""
    rng = np.random.default_rng(0)
    held, narrow = 0, []
    for _ in range(1000):
        one, two = 1 + 0.05 * rng.pareto(2.0, (2, 8))
        change = comparison.ratio(one, 1.1 * two)
        held += change.low <= 1.1 <= change.high
        narrow.append(change.high / change.low)
    assert 940 <= held <= 985
    assert np.median(narrow) < 1.35


def test_changes_are_ratios_or_differences() -> None:
    before, now = np.array([1.0, 1.1, 1.2, 1.3]), np.array([2.0, 2.2, 2.4, 2.6])
    change = comparison.ratio(before, now)
    assert change.estimate == pytest.approx(2.0)
    assert (change.low, change.high) == pytest.approx((2 / 1.3, 2.6))
    other = change.inverse()
    assert (other.estimate, other.low, other.high) == pytest.approx((0.5, 1 / 2.6, 1.3 / 2))
    gap = comparison.difference(before, now)
    assert (gap.estimate, gap.low, gap.high) == pytest.approx((1.15, 0.7, 1.6))


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 3 measurements can't be compared with 95% confidence"):
        comparison.difference(np.arange(3.0), np.arange(3.0))


def test_verdicts() -> None:
    for low, high, wanted in ((1.04, 1.2, "worse"), (1.02, 1.2, "same"), (0.8, 0.96, "better"), (0.8, 1.5, "same")):
        assert comparison.Change(1.0, low, high).verdict(0.03) == wanted
    assert comparison.Change(0.1, 0.04, 0.2).verdict(0.03, nothing=0.0) == "worse"


def verdicts(before: Benchmark, now: Benchmark, **options: float) -> dict[str, str]:
    comparison = benchmark.compare(before, now, **options)
    return {row.name: row.verdict for row in comparison.rows} | {"all": comparison.verdict}


def test_the_same_program_is_the_same() -> None:
    found = [verdicts(bench(100, seed), bench(100, seed + 1000)) for seed in range(40)]
    assert [v["all"] for v in found].count("same") == 40


@pytest.mark.parametrize(("factor", "wanted"), [(1.1, "worse"), (0.9, "better")])
def test_a_slower_or_faster_program_is_found(factor: float, wanted: str) -> None:
    found = [verdicts(bench(100, seed), bench(100 * factor, seed + 1000)) for seed in range(40)]
    assert [v["all"] for v in found].count(wanted) >= 39
    assert all(v["us/step"] == v["samples/s"] == v["peak"] for v in found)
    assert verdicts(bench(100, 1), bench(100 * factor, 2), threshold=0.2)["all"] == "same"


def test_a_slower_machine_is_no_slower_program() -> None:
    found = verdicts(bench(100, 1), bench(112, 2, peak=100 / 1.12))
    assert (found["us/step"], found["peak"], found["all"]) == ("worse", "same", "same")


def test_without_a_peak_the_step_alone_decides() -> None:
    def on_gpu(us: float, seed: int) -> Benchmark:
        found = bench(us, seed)
        processes = [dataclasses.replace(profile, peaks=np.empty(0)) for profile in found.processes]
        return dataclasses.replace(found, processes=processes)

    found = verdicts(on_gpu(100, 1), on_gpu(112, 2))
    assert (found["us/step"], found["all"]) == ("worse", "worse") and "peak" not in found


def test_the_part_that_grew_is_named() -> None:
    """Parts count by what they add to the step: the launch doubles here, and is 6 % of the step."""
    found = verdicts(bench(100, 1), bench(106, 2, launch=0.12))
    assert found["launch"] == "worse"
    assert {found[name] for name in ("rows", "weights", "waiting", "python", "staging", "start")} == {"same"}


def test_a_comparison_is_a_table_and_plain_data() -> None:
    comparison = benchmark.compare(bench(100, 1), bench(120, 2))
    head, *lines = comparison.table()
    assert head.split() == ["before", "now", "change", "95%", "interval", "verdict"]
    named = {line.split()[0]: line for line in lines}
    assert list(named) == [
        *("us/step", "samples/s", "peak"),
        *("rows", "weights", "waiting", "launch", "python"),
        *("staging", "start"),
    ]
    row = comparison.rows[0]
    assert f"{row.change.estimate - 1:+.1%}" in named["us/step"] and named["us/step"].endswith("worse")
    assert comparison.rows[1].change.estimate == pytest.approx(1 / row.change.estimate)
    assert max(map(len, lines)) < 90
    content = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert content["verdict"] == "worse" and content["rows"][0]["change"]["low"] == row.change.low


# ---------------------------------------------------------------- the file


def test_a_file_holds_everything(tmp_path: Path) -> None:
    one, path = bench(100, 1), tmp_path / "b.json"
    one.save(str(path))
    two = Benchmark.load(str(path))
    assert two.to_dict() == one.to_dict()
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]
    assert {v for k, v in verdicts(one, two).items()} == {"same"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no file that fastbp bench --save wrote, or it is damaged"),
        ("[1, 2]", "is no file that fastbp bench --save wrote"),
        ('{"format": "else", "version": 1}', "is no file that fastbp bench --save wrote"),
        ('{"format": "fastbp bench", "version": 1, "processes": [{}]}', "is no file that .* or it is damaged"),
        ('{"format": "fastbp bench", "version": 2}', "was written by a newer fastbp"),
        (
            '{"format": "fastbp bench", "version": 1, "processes": [], "subject": {}, "machine": {}, "versions": {}, '
            '"made": ""}',
            "holds no measurement",
        ),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Benchmark.load(str(path))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="is no file that"):
        Benchmark.load(str(tmp_path / "b"))


def test_what_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.installation, "machine", lambda: {"cpu": "two"})
    found = benchmark.differences({"network": "4-3", "threads": 1, "device": "cpu", "rows": 5}, bench(100, 1))
    assert sorted(found) == ["cpu: two, there one", "rows: 5, there None", "threads: 1, there 2"]


# ---------------------------------------------------------------- measuring


@pytest.mark.parametrize("loss", LOSSES)
def test_made_up_rows_suit_every_loss(loss: str) -> None:
    model = make([6, 4], output=LOSSES[loss].fused_with or "softplus")
    model.compile("sgd", loss)
    x, y = benchmark.made_up(model, 50)
    history = model.fit(x, y, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert len(x) == len(y) == 50


def test_each_process_measures_the_model_on_the_data() -> None:
    model = make([8, 16, 3], "tanh", "softmax", threads=1)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = benchmark.made_up(model, 200)
    weights, seen = model.get_weights(), []
    subject = benchmark.rehearse(model, x, y, batch_size=50, data="mine")
    found = benchmark.measure(model, x, y, subject, seconds=0.1, processes=2, advance=lambda: seen.append(1))
    assert (len(found.processes), len(seen)) == (2, 2)
    assert found.subject == {
        "network": "8-16-3",
        "activations": ["tanh", "softmax"],
        "dtype": "float32",
        "threads": 1,
        "device": "cpu",
        "optimizer": "Adam(learning_rate=0.001)",
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "batch_size": 50,
        "data": "mine",
        "rows": 200,
        "shuffle": True,
    }
    for one in found.processes:
        assert one.subject["rows"] == 200 and one.subject["threads"] == 1
        assert one.us_per_step.minimum > 0
    assert found.whole.subject["network"] == "8-16-3"
    for one, two in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_process_that_fails_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ChildProcessError, match=r"^a measuring process ended with code 1: FileNotFoundError: .*model.fastbp'$"
    ):
        benchmark._in_a_process(tmp_path, {"threads": 1, "device": "cpu"})
