"""How many threads a small network's steps take: found out by trials that cost little and change no result."""

import itertools
import os
import signal
import warnings
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import fastbp as fb
from fastbp.cpu import engine as cpu_engine
from fastbp.cpu import tuning
from fastbp.cpu.tuning import LAST_GAP, TRIAL, TUNED_WORK, Tuner

PACES = MappingProxyType({16: 90e-6, 8: 60e-6, 4: 40e-6, 2: 25e-6, 1: 50e-6})


def trained(tuner: Tuner, pace: Callable[[int, float], float], seconds: float, most: int = 10**9) -> dict[int, float]:
    """Seconds that each number of threads ran while a fit of so many seconds asks and tells the tuner."""
    now, taken = 0.0, dict.fromkeys(tuner.counts, 0.0)
    while now < seconds:
        count, steps = tuner.ask()
        assert steps >= 1
        step = pace(count, now)
        run = int(max(1, min(steps, most, 0.25 / step)))
        tuner.note(count, run, run * step)
        taken[count] += run * step
        now += run * step
    return taken


@pytest.mark.parametrize("counts", [(2, 1), (16, 4, 2, 1), (8, 2, 1)])
def test_the_fastest_number_of_threads_runs(counts: tuple[int, ...]) -> None:
    tuner = Tuner(counts)
    trained(tuner, lambda count, now: PACES[count], 2.0)
    taken = trained(tuner, lambda count, now: PACES[count], 20.0)
    assert tuner.ask()[0] == 2
    assert sum(taken.values()) - taken[2] <= 0.02 * 20.0, "trials cost more than 2 %"


@pytest.mark.parametrize("most", [1, 10, 10**9], ids="runs of {} steps".format)
def test_a_change_of_the_machine_is_noticed(most: int) -> None:
    def pace(count: int, now: float) -> float:
        return 50e-6 if count == 1 else 25e-6 if int(now / 5) % 2 == 0 else 90e-6

    tuner = Tuner((2, 1))
    taken = trained(tuner, pace, 20.0, most)
    assert taken[2] == pytest.approx(10.0, abs=2 * LAST_GAP)
    # two threads slow down: known after a run and a trial; they get faster: after the longest gap
    assert taken[1] >= 10.0 - 2 * (0.25 + 20 * TRIAL)


def test_what_was_faster_lately_is_tried_at_once() -> None:
    """As when steps come one by one after a long fit: starting two threads then takes longer than they save."""
    tuner = Tuner((2, 1))
    trained(tuner, lambda count, now: 25e-6 if count == 2 else 50e-6, 5.0)
    for _ in range(3):
        taken = trained(tuner, lambda count, now: 90e-6 if count == 2 else 55e-6, 0.1, most=1)
        assert taken[2] <= 10 * TRIAL
        trained(tuner, lambda count, now: 25e-6 if count == 2 else 50e-6, 5.0)


def test_what_is_as_fast_stays() -> None:
    tuner = Tuner((2, 1))
    noise = itertools.cycle([0.99, 1.01, 1.0, 0.985, 1.02])
    taken = trained(tuner, lambda count, now: 25e-6 * next(noise), 10.0)
    assert taken[1] <= 0.02 * 10.0


def test_fits_shorter_than_a_trial_are_trials_together() -> None:
    tuner, asked = Tuner((2, 1)), []
    for _ in range(1000):
        count, _ = tuner.ask()
        asked.append(count)
        tuner.note(count, 20, 20 * (70e-6 if count == 2 else 50e-6))
    assert asked[:4] == [2, 2, 2, 1]
    assert asked[500:].count(2) <= 0.02 * 500


@pytest.mark.parametrize(
    ("widths", "batch", "threads", "counts"),
    [
        ((30, 128, 128, 2), 64, 2, (2, 1)),
        ((64, 100, 10), 200, 8, (8, 2, 1)),
        ((100, 32, 5), 32, 8, (2, 1)),  # little work: by two, cut by neurons, or by one
        ((30, 128, 128, 2), 64, 1, None),
        ((20, 10, 1), 32, 2, None),
        ((784, 2048, 2048, 10), 256, 2, None),
    ],
)
def test_who_has_a_choice(
    tuned: None, widths: tuple[int, ...], batch: int, threads: int, counts: tuple[int, ...] | None
) -> None:
    engine = network(widths, threads)._engine
    tuner = engine._tuner(batch)
    assert (tuner and tuner.counts) == counts
    if tuner is not None:
        assert tuner is network(widths, threads)._engine._tuner(batch), "another network of these layers knows less"
        assert 6 * batch * engine.program.parameter_count <= TUNED_WORK


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials, which the tests do without otherwise, and nothing known from before."""
    monkeypatch.setattr(cpu_engine, "tuner", tuning.tuner)
    tuning._tuner.cache_clear()


def network(widths: tuple[int, ...], threads: int, dtype: str = "float32") -> fb.Model:
    hidden = [fb.Dense(width, activation="relu") for width in widths[1:-1]]
    model = fb.Model([*hidden, fb.Dense(widths[-1])], threads=threads, dtype=dtype, seed=3)
    model.compile("adam", "mse")
    model.build(widths[0])
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("widths", "batch"), [((30, 128, 128, 2), 64), ((64, 100, 10), 200), ((10, 64, 64, 1), 64)])
def test_trials_in_the_midst_of_a_fit_change_no_bit(
    tuned: None, monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], batch: int, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, widths[0])), rng.standard_normal((1000, widths[-1]))
    seen = []

    def ask(tuner: Tuner) -> tuple[int, float]:
        return tuner.counts[len(seen) % len(tuner.counts)], 7

    def note(tuner: Tuner, threads: int, steps: float, seconds: float) -> None:
        assert 0 < steps <= 7
        seen.append(threads)

    monkeypatch.setattr(Tuner, "ask", ask)
    monkeypatch.setattr(Tuner, "note", note)
    results = []
    for threads in (1, 2, 4):
        model = network(widths, threads, dtype)
        history = model.fit(x, y, epochs=3, batch_size=batch, verbose=0)
        results.append(([w.tobytes() for w in model.get_weights()], history.history["loss"]))
    assert results[0] == results[1] == results[2]
    assert set(seen) >= {1, 2}


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_short_batch_counts_as_part_of_a_step(tuned: None, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A trial of long steps may be an epoch's last one alone: with less to do, the slower number of threads won."""
    noted: list[float] = []
    monkeypatch.setattr(Tuner, "ask", lambda tuner: (2, most))
    monkeypatch.setattr(Tuner, "note", lambda tuner, threads, steps, seconds: noted.append(steps))
    model, rng = network((30, 128, 128, 2), 2), np.random.default_rng(0)
    x, y = rng.standard_normal((3 * 64 + 16, 30)), rng.standard_normal((3 * 64 + 16, 2))
    model.fit(x, y, epochs=3, batch_size=64, verbose=0)
    assert sum(noted) == 3 * 3.25
    if most == 1:
        assert noted == 3 * [1, 1, 1, 0.25]


def test_a_profile_says_how_many_threads_it_took(tuned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tuner, "ask", lambda tuner: (1, 1000))
    model, rng = network((30, 128, 128, 2), 2), np.random.default_rng(0)
    x, y = rng.standard_normal((640, 30)), rng.standard_normal((640, 2))
    found = fb.profile(model, x, y, batch_size=64, seconds=0.2)
    assert (found.subject["threads"], found.subject["threads_used"]) == (2, 1)
    assert "1 thread of 2" in str(found)


@pytest.fixture
def runs(tuned: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(threads, steps) of each run that is trained; trials stand still at the most threads and 7 steps a run."""
    monkeypatch.setattr(Tuner, "ask", lambda tuner: (tuner.counts[0], 7))
    made: list[tuple[int, int]] = []
    prepare = cpu_engine.Engine.prepare

    def prepared(self: cpu_engine.Engine, *arrays: Any, **options: Any) -> Any:
        found = prepare(self, *arrays, **options)
        if options.get("optimizer") is not None:
            made.append((found.threads, options["steps"]))
        return found

    monkeypatch.setattr(cpu_engine.Engine, "prepare", prepared)
    return made


CUT = 100, 32, 5  # at 32 rows on one thread, or on two by neurons


def rows_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, CUT[0])), rng.standard_normal((count, CUT[-1]))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_trial_cuts_no_run_that_ends_itself(runs: list[tuple[int, int]]) -> None:
    """An estimator's epochs are drawn, and counted, from the beginning of a run."""
    pytest.importorskip("sklearn")
    from fastbp.estimators import MLPRegressor

    x, y = rows_of(1000)
    one, two = (
        MLPRegressor(hidden_layer_sizes=CUT[1:-1], batch_size=32, max_iter=20, random_state=0, threads=threads).fit(
            x, y
        )
        for threads in (1, 2)
    )
    assert runs[-1] == (1, 20 * 32)
    assert one.loss_curve_ == two.loss_curve_
    for a, b in zip(one.coefs_, two.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_trial_cuts_no_run_with_validations_in_it(runs: list[tuple[int, int]]) -> None:
    x, y = rows_of(640)
    network(CUT, 2).fit(x, y, epochs=3, batch_size=32, verbose=0, validation_data=rows_of(64))
    assert runs == [(1, 60)]


def test_networks_that_share_the_cores_take_their_share(
    runs: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread each while more of them wait, whatever was tried before; all threads are tried after it."""
    monkeypatch.setattr("fastbp.training.many.SHORT_WORK", 0)
    x, y = rows_of(640)
    models = [network(CUT, 2) for _ in range(3)]
    models[0].fit(x, y, batch_size=32, verbose=0)
    assert {threads for threads, _ in runs} == {2}
    runs.clear()
    fb.fit_many(models, x, y, batch_size=32, threads=1, verbose=0)
    assert {threads for threads, _ in runs} == {1}
    runs.clear()
    models[1].fit(x, y, batch_size=32, verbose=0)
    assert {threads for threads, _ in runs} == {2} and max(steps for _, steps in runs) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
def test_a_forked_child_waits_for_no_thread_of_its_parent(tuned: None) -> None:
    """Another thread may learn at that moment, from a like network; in the child it is gone, and its lock stays."""
    model, (x, y) = network(CUT, 2), rows_of(320)
    model.fit(x, y, batch_size=32, verbose=0)
    tuner = model._engine._tuner(32)
    assert tuner is not None
    with tuner._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are other threads
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends it, where it hangs
            status = 1
            try:
                model.fit(x, y, batch_size=32, verbose=0)
                status = 0
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
