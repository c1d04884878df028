"""Where the time goes: the workers' counters add up, cost no bit of the result, and exist on every machine."""

import json
import re
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from helpers import inputs, make, targets
from llvmlite import ir

import fastbp as fb
from fastbp import _vector, program
from fastbp.cpu import engine as engine_module
from fastbp.cpu.watch import Watch, clock
from fastbp.exchange.model_files import state
from fastbp.reports.profiling import Repeats

LOSS = "sparse_categorical_crossentropy"


# ---------------------------------------------------------------- the workers' counters


@pytest.mark.parametrize("threads", [1, 2])
def test_the_parts_of_a_run_add_up(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SERIAL_WORK", 0.0)
    x, y = inputs(4000, 40), targets(LOSS, 4000, 5)
    weights = []
    for watch in (None, Watch()):
        model = make([40, 20, 5], "tanh", "softmax", threads=threads)  # by phases, in which each thread waits
        model.compile("adam", LOSS)
        model._engine.watch = watch
        model.fit(x, y, epochs=3, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    parts = watch.parts()
    assert parts.keys() == {"rows", "weights", "waiting", "launch"}
    assert sum(parts.values()) == pytest.approx(watch.seconds, rel=1e-9)
    assert min(parts.values()) >= 0
    assert min(parts["rows"], parts["weights"]) > 0
    assert (parts["waiting"] > 0) == (threads > 1)
    assert watch.launches >= 1


def test_a_prediction_has_no_weights_phase_to_speak_of() -> None:
    model = make([40, 256, 256, 5], "tanh", "softmax", threads=1)
    model.predict(inputs(3000, 40))
    model._engine.watch = watch = Watch()
    model.predict(inputs(3000, 40))
    assert watch.parts()["rows"] > 0
    plans = [bound.plan for bound in model._engine._bound.values()]
    for plan in plans:
        assert plan.tasks[plan.phases[plan.weights_phase, 0] :, 0].tolist() == [program.SUM]


def test_the_clock_goes_forward_and_keeps_its_rate() -> None:
    values = [clock().call() for _ in range(1000)]
    assert values == sorted(values) and values[0] < values[-1]


@pytest.mark.parametrize(
    ("triple", "counter"),
    [
        ("x86_64-unknown-linux-gnu", r"\brdtsc\b"),
        ("x86_64-pc-windows-msvc", r"\brdtsc\b"),
        ("aarch64-unknown-linux-gnu", r"(?i)\bcntvct_el0\b"),
        ("arm64-apple-darwin", r"(?i)\bcntvct_el0\b"),
    ],
)
def test_every_machine_has_a_counter_that_a_program_may_read(triple: str, counter: str) -> None:
    """Not arm64's cycle counter, which LLVM's readcyclecounter reads: that is the system's, a program would die."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple).create_target_machine()
    except RuntimeError as error:
        pytest.skip(f"this llvmlite compiles for no such machine: {error}")
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), "now")
    builder = ir.IRBuilder(function.append_basic_block())
    _, emit = _vector.ticks._defn(None)
    builder.ret(emit(None, builder, None, ()))
    assert re.search(counter, target.emit_assembly(llvm.parse_assembly(str(module))))


# ---------------------------------------------------------------- fb.profile


def trained(threads: int = 2, rows: int = 500) -> tuple[fb.Model, np.ndarray, np.ndarray]:
    model = make([12, 24, 5], "tanh", "softmax", threads=threads)
    model.compile("adam", LOSS, metrics=["accuracy"])
    x, y = inputs(rows, 12), targets(LOSS, rows, 5)
    model.fit(x, y, epochs=2, verbose=0)
    return model, x, y


@pytest.fixture(scope="module")
def profile() -> fb.Profile:
    model, x, y = trained()
    return fb.profile(model, x, y, batch_size=50, seconds=0.05)


def test_profiling_leaves_the_model_as_it_is() -> None:
    one, x, y = trained()
    other, _, _ = trained()
    history, engine = one.history, one._engine
    profile = fb.profile(one, x, y, batch_size=50, seconds=0.02)
    assert profile.seconds.min() > 0
    assert one.history is history and one._engine is engine and engine.watch is None
    for model in (one, other):
        model.fit(x, y, epochs=2, verbose=0)
    assert one.history.history == other.history.history
    (tensors, content), (wanted, content_wanted) = state(one), state(other)
    assert content == content_wanted
    for name in wanted:
        np.testing.assert_array_equal(tensors[name], wanted[name], name)


def test_profiling_builds_no_model() -> None:
    model = fb.Model([fb.Dense(3)])
    model.compile("sgd", "mse")
    profile = fb.profile(model, inputs(40, 6), inputs(40, 3), seconds=0.01)
    assert profile.subject["network"] == "6-3" and profile.subject["batch_size"] == 32
    assert not model.built and model.input_width is None and model.history is None


def test_the_figures_say_the_same(profile: fb.Profile) -> None:
    s = profile.subject
    assert (s["network"], s["dtype"], s["optimizer"], s["loss"]) == ("12-24-5", "float32", "adam", LOSS)
    assert (s["batch_size"], s["threads"], s["steps"]) == (50, 2, s["rows"] // 50 * s["epochs"])
    assert s["rows"] % 50 == 0 and 50 <= s["rows"] <= 500  # fewer where the machine is busy
    assert len(profile.seconds) == len(profile.start) == len(profile.peaks) >= 3
    assert profile.samples_per_second.median * profile.us_per_step.median == pytest.approx(50e6)
    assert profile.flops == s["rows"] * s["epochs"] * (4 * 12 * 24 + 6 * 24 * 5)
    assert profile.share_of_peak.values == pytest.approx(profile.flops / profile.seconds / profile.peaks.max() / 1e9)
    assert 0 < profile.share_of_peak.minimum < 1
    assert list(profile.shares) == ["rows", "weights", "waiting", "launch", "python"]
    assert sum(profile.shares.values()) == pytest.approx(1)
    assert min(profile.shares["rows"], profile.shares["weights"], profile.shares["python"]) > 0
    assert profile.staging.min() > 0


def test_minimum_median_and_spread() -> None:
    repeats = Repeats(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert (repeats.minimum, repeats.median) == (1.0, 3.0)
    assert repeats.spread == pytest.approx((4 - 2) / 3)
    assert repr(repeats) == "3 (minimum 1, spread 66.7%)"


def test_a_profile_is_a_table(profile: fb.Profile) -> None:
    lines = repr(profile).splitlines()
    assert lines[0] == "12-24-5, float32, batch 50, adam, 1 thread of 2"
    named = {line.split()[0]: line for line in lines if line}
    assert {"us/step", "samples/s", "peak", "staging", "start", *profile.shares} <= named.keys()
    assert f"{profile.samples_per_second.median:,.0f}" in named["samples/s"]
    assert f"{profile.shares['rows']:.1%}" in named["rows"]
    assert max(map(len, lines)) < 90


def test_a_profile_is_plain_data_and_back(profile: fb.Profile) -> None:
    content = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
    assert content["us_per_step"]["median"] == profile.us_per_step.median
    assert content["shares"] == profile.shares
    again = fb.Profile.from_dict(content)
    assert again.to_dict() == profile.to_dict()
    twice = fb.Profile.merged([profile, again])
    assert len(twice.seconds) == 2 * len(profile.seconds)
    assert twice.us_per_step.median == pytest.approx(profile.us_per_step.median)
    assert twice.shares == pytest.approx(profile.shares)


def test_profiles_of_repeats_of_other_lengths_are_merged_by_their_work(profile: fb.Profile) -> None:
    content = profile.to_dict()
    content["epochs"] *= 2
    content["steps"] *= 2
    content["flops"] *= 2
    for values in (content["raw"]["seconds"], *content["raw"]["parts"].values()):
        values[:] = [2 * value for value in values]
    merged = fb.Profile.merged([profile, fb.Profile.from_dict(content)])
    assert merged.us_per_step.median == pytest.approx(profile.us_per_step.median)
    assert merged.shares == pytest.approx(profile.shares)


def test_where_an_epoch_takes_long_the_first_rows_are_measured() -> None:
    model, x, y = trained(rows=40_000)
    profile = fb.profile(model, x, y, batch_size=30, seconds=0.01)
    assert profile.subject["epochs"] == 1
    assert profile.subject["rows"] == 30 * profile.subject["steps"] < 40_000


def test_a_profile_is_drawn(profile: fb.Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"backend": "agg"}):
        from matplotlib import pyplot

        axes = profile.plot()
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == pytest.approx([share * profile.us_per_step.median for share in profile.shares.values()])
        assert profile.plot(axes) is axes and len(axes.patches) == 2 * len(widths)
        pyplot.close("all")


def test_drawing_without_matplotlib_says_what_to_install(profile: fb.Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[plot\]'"):
        profile.plot()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "3"])
def test_seconds_that_are_no_time_are_refused(seconds: object) -> None:
    model, x, y = trained()
    with pytest.raises(ValueError, match="seconds must be"):
        fb.profile(model, x, y, seconds=seconds)


def test_mistakes_are_answered_as_fit_answers_them() -> None:
    model, x, y = trained()
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        fb.profile(model, x, y, batch_size=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        fb.profile(model, np.full_like(x, np.nan), y)
    with pytest.raises(RuntimeError, match=r"profile: the model isn't compiled"):
        fb.profile(fb.Model([fb.Dense(5)]), x, y)


def test_a_loss_that_diverges_is_said_and_leaves_the_model() -> None:
    model = make([4, 6, 2], "linear")
    model.compile(fb.SGD(1e20), "mse")
    y = 1e25 * inputs(100, 2)  # a busy machine measures one step only, so that it must be the first
    weights = model.get_weights()
    with pytest.raises(fb.DivergenceError):
        fb.profile(model, inputs(100, 4), y, seconds=0.01)
    for one, two in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, two)
