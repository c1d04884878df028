"""Learning-rate schedules: values worked by hand, refused settings, round trips, and training by them."""

import json
import math
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp import schedules
from fastbp.schedules import SCHEDULES, Schedule

CASES: list[tuple[Schedule, dict[int, float]]] = [
    (schedules.ExponentialDecay(0.1, 100, 0.25), {0: 0.1, 50: 0.05, 100: 0.025, 200: 0.1 / 16}),
    (schedules.ExponentialDecay(0.1, 100, 0.25, staircase=True), {0: 0.1, 99: 0.1, 100: 0.025, 250: 0.1 / 16}),
    (schedules.StepDecay(0.5, 10), {0: 0.5, 9: 0.5, 10: 0.05, 29: 0.005}),
    (schedules.PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.1]), {0: 1.0, 10: 1.0, 11: 0.5, 20: 0.5, 21: 0.1}),
    (schedules.InverseTimeDecay(0.1, 10, 0.5), {0: 0.1, 20: 0.05, 30: 0.04}),
    (schedules.InverseTimeDecay(0.1, 10, 0.5, staircase=True), {9: 0.1, 20: 0.05, 29: 0.05}),
    (schedules.PolynomialDecay(0.1, 100, 0.02, 2.0), {0: 0.1, 50: 0.04, 100: 0.02, 500: 0.02}),
    # a cycle ends with every hundred, so that step 150 stands at 150 / 200
    (schedules.PolynomialDecay(0.1, 100, 0.02, cycle=True), {0: 0.1, 100: 0.02, 150: 0.04, 200: 0.02}),
    (schedules.CosineDecay(0.1, 90, 0.1), {0: 0.1, 30: 0.0775, 45: 0.055, 90: 0.01, 200: 0.01}),
    (schedules.CosineDecay(0.02, 40, warmup_target=0.1, warmup_steps=8), {0: 0.02, 4: 0.06, 8: 0.1, 28: 0.05, 48: 0.0}),
    # cycles of 10, 20 and 40 steps, the second from half the height
    (schedules.CosineDecayRestarts(0.1, 10, 2.0, 0.5), {0: 0.1, 5: 0.05, 10: 0.05, 20: 0.025, 30: 0.025, 50: 0.0125}),
    (schedules.CosineDecayRestarts(0.1, 10, 1.0, alpha=0.5), {0: 0.1, 5: 0.075, 10: 0.1, 35: 0.075}),
    (schedules.OneCycle(0.1, 21, 0.5, "linear", 4.0, 10.0), {0: 0.025, 20: 0.0025, 99: 0.0025}),
    (schedules.OneCycleMomentum(21, 0.8, 0.9, 0.5, "linear"), {0: 0.9, 20: 0.9, 99: 0.9}),
    (schedules.LinearWarmup(0.1, 10), {0: 0.0, 5: 0.05, 10: 0.1, 99: 0.1}),
    (schedules.LinearWarmup(schedules.StepDecay(0.1, 5), 4, 0.02), {0: 0.02, 2: 0.06, 4: 0.1, 8: 0.1, 9: 0.01}),
]
each = pytest.mark.parametrize(("schedule", "wanted"), CASES, ids=lambda value: repr(value)[:70])


def test_every_schedule_has_a_case() -> None:
    assert {type(schedule).__name__ for schedule, _ in CASES} == SCHEDULES.keys()


@each
def test_values_by_hand(schedule: Schedule, wanted: dict[int, float]) -> None:
    for step, rate in wanted.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12, abs=1e-17)
        assert isinstance(schedule(step), float)


@each
def test_an_array_of_steps_gives_the_same_as_each_alone(schedule: Schedule, wanted: dict[int, float]) -> None:
    rates = schedule(np.arange(120))
    assert rates.shape == (120,) and rates.dtype == np.float64
    np.testing.assert_array_equal(rates, [schedule(step) for step in range(120)])
    assert np.isfinite(rates).all() and (rates >= 0).all()


@each
def test_round_trip(schedule: Schedule, wanted: dict[int, float]) -> None:
    restored = schedules.from_config(json.loads(json.dumps(schedule.config())))
    assert restored == schedule
    assert hash(restored) == hash(schedule)
    assert eval(repr(schedule), dict(SCHEDULES)) == schedule


def test_a_cosine_starts_again_exactly_where_its_cycle_does() -> None:
    schedule = schedules.CosineDecayRestarts(0.1, 7, 1.5)
    start, length = 0.0, 7.0
    for _ in range(20):
        assert schedule(math.ceil(start)) > 0.08
        start, length = start + length, 1.5 * length


def test_one_cycle_by_hand() -> None:
    cycle = schedules.OneCycle(0.1, 21, 0.5, "linear", 4.0, 10.0)
    # the top is at step 9.5: 0.025 rises by 0.075 over 9.5 steps, and falls to 0.0025 over 10.5
    assert cycle(4) == pytest.approx(0.025 + 0.075 * 4 / 9.5)
    assert cycle(15) == pytest.approx(0.1 - 0.0975 * 5.5 / 10.5)
    assert cycle.momentum(0.8, 0.9) == schedules.OneCycleMomentum(21, 0.8, 0.9, 0.5, "linear")
    assert cycle.momentum(0.8, 0.9)(4) == pytest.approx(0.9 - 0.1 * 4 / 9.5)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("ExponentialDecay", {"initial_learning_rate": -0.1}, "initial_learning_rate must be a number of at least 0"),
    ("ExponentialDecay", {"decay_steps": 0}, "decay_steps must be a positive number, got 0"),
    ("ExponentialDecay", {"decay_rate": math.nan}, "decay_rate must be a positive number, got nan"),
    ("StepDecay", {"decay_rate": 0}, "decay_rate must be a positive number, got 0"),
    ("PiecewiseConstantDecay", {"boundaries": [1, 1]}, r"boundaries must be increasing, got \(1.0, 1.0\)"),
    ("PiecewiseConstantDecay", {"boundaries": 3}, "boundaries must be a sequence of numbers, got 3"),
    ("PiecewiseConstantDecay", {"values": [0.1]}, "values must be 3 rates, one more than the boundaries"),
    ("PiecewiseConstantDecay", {"values": [0.1, -1, 1]}, "values must be numbers of at least 0"),
    ("InverseTimeDecay", {"decay_rate": -1}, "decay_rate must be a number of at least 0"),
    ("PolynomialDecay", {"end_learning_rate": "x"}, "end_learning_rate must be"),
    ("PolynomialDecay", {"power": 0}, "power must be a positive number"),
    ("CosineDecay", {"alpha": -1}, "alpha must be"),
    ("CosineDecay", {"warmup_steps": 0.5}, "warmup_steps must be a whole number of at least 0"),
    ("CosineDecay", {"warmup_target": True}, "warmup_target must be"),
    ("CosineDecayRestarts", {"first_decay_steps": 0}, "first_decay_steps must be"),
    ("CosineDecayRestarts", {"t_mul": 0.5}, "t_mul must be a number of at least 1"),
    ("CosineDecayRestarts", {"m_mul": 0}, "m_mul must be"),
    ("OneCycle", {"max_learning_rate": 0}, "max_learning_rate must be"),
    ("OneCycle", {"total_steps": 1}, "total_steps must be a whole number of at least 2"),
    ("OneCycle", {"pct_start": 1}, "pct_start must be between 0 and 1"),
    ("OneCycle", {"anneal": "cosin"}, "unknown anneal 'cosin'. Did you mean 'cosine'"),
    ("OneCycleMomentum", {"base": 1}, r"base must be in \[0, 1\)"),
    ("LinearWarmup", {"after": "cosine"}, "after must be a number of at least 0 or a schedule"),
    ("LinearWarmup", {"warmup_steps": 0}, "warmup_steps must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD)
def test_bad_settings(name: str, settings: dict[str, Any], message: str) -> None:
    good = next(schedule for schedule, _ in CASES if type(schedule).__name__ == name)
    with pytest.raises(ValueError, match=message):
        SCHEDULES[name](**{**{key: getattr(good, key) for key in good.settings()}, **settings})


def test_the_steps_of_a_schedule_go_on_from_fit_to_fit_and_through_a_file(tmp_path: Any) -> None:
    x, y = inputs(60, 5), targets("mean_squared_error", 60, 2)
    schedule = schedules.LinearWarmup(schedules.CosineDecayRestarts(0.1, 7), 5)
    whole, parts = make([5, 9, 2]), make([5, 9, 2])
    for model in (whole, parts):
        model.compile(fb.SGD(schedule, momentum=0.9), "mse")
    whole.fit(x, y, batch_size=8, epochs=4, verbose=0)
    parts.fit(x, y, batch_size=8, epochs=1, verbose=0)
    parts.save(tmp_path / "part.fastbp")
    parts = fb.load_model(tmp_path / "part.fastbp")
    assert parts.optimizer == fb.SGD(schedule, momentum=0.9)
    parts.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_trained_by_a_function_can_be_saved_and_says_what_is_lost(tmp_path: Any) -> None:
    x, y = inputs(60, 5), targets("mean_squared_error", 60, 2)
    model = make([5, 9, 2])
    model.compile(fb.SGD(lambda step: 0.1 / (1 + step)), "mse")
    model.fit(x, y, batch_size=20, epochs=3, verbose=0)
    model.save(tmp_path / "model.fastbp")
    with pytest.warns(UserWarning, match=r"stays at 0\.01 from here on; compile the model again"):
        restored = fb.load_model(tmp_path / "model.fastbp")
    assert restored.optimizer == fb.SGD(0.1 / 10)


def test_a_bad_function_stops_the_fit_before_it_begins() -> None:
    model = make([5, 9, 2])
    model.compile(fb.SGD(lambda step: None), "mse")  # type: ignore[arg-type, return-value]
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"learning_rate is to be a number of at least 0, but .* gave nan for step 0"):
        model.fit(inputs(60, 5), targets("mean_squared_error", 60, 2), verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_rate_of_a_divergence_is_the_schedules() -> None:
    model = make([5, 9, 2], "linear")
    model.compile(fb.SGD(schedules.PiecewiseConstantDecay([2], [1e-3, 1e9])), "mse")
    with pytest.raises(fb.DivergenceError, match=r"a smaller learning rate than 1e\+09, say 0\.1;"):
        model.fit(inputs(60, 5), targets("mean_squared_error", 60, 2), batch_size=10, epochs=20, verbose=0)
