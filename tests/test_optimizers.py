"""What a user configures: refused settings, round trips, and the coefficients of each step against their definition."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastbp as fb
from fastbp import optimizers
from fastbp.optimizers import AVERAGE_KEEP, COEFFICIENTS, KEEP, OPTIMIZERS, OVERWRITE, Optimizer

NOT_NUMBERS = [None, "0.1", True, [0.1], float("nan"), float("inf"), 1j]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0, 0.0, -0.1, *NOT_NUMBERS])
def test_the_learning_rate_is_a_positive_number(name: str, rate: Any) -> None:
    wanted = r"^\w+: learning_rate must be a positive number, a schedule or a function of the step, got "
    with pytest.raises(ValueError, match=wanted) as caught:
        OPTIMIZERS[name](learning_rate=rate)
    assert str(caught.value).startswith(OPTIMIZERS[name].__name__)
    assert repr(rate) in str(caught.value)


FRACTION = ("in [0, 1)", [-0.1, 1, 1.5, *NOT_NUMBERS])
POSITIVE = ("a positive number", [0, -1e-7, *NOT_NUMBERS])
NOT_NEGATIVE = ("a number of at least 0", [-0.1, *NOT_NUMBERS])
RANGES = {
    "momentum": FRACTION,
    "rho": FRACTION,
    "beta_1": FRACTION,
    "beta_2": FRACTION,
    "ema_momentum": FRACTION,
    "epsilon": POSITIVE,
    "weight_decay": ("a number of at least 0", [-0.1, *NOT_NUMBERS[1:]]),  # None is for none
    "initial_accumulator_value": NOT_NEGATIVE,
    "momentum_decay": NOT_NEGATIVE,
    "ema_overwrite_frequency": ("a whole number of at least 1", [0, -1, 1.5, True, "2", math.nan, math.inf]),
    "clipvalue": ("a positive number", [0, -0.1, *NOT_NUMBERS[1:]]),
    "clipnorm": ("a positive number", [0, -0.1, *NOT_NUMBERS[1:]]),
    "global_clipnorm": ("a positive number", [0, -0.1, *NOT_NUMBERS[1:]]),
    "gradient_accumulation_steps": ("a whole number of at least 2", [1, 0, 1.5, True, "2", math.nan, math.inf]),
    **dict.fromkeys(
        ["nesterov", "centered", "amsgrad", "use_ema"], ("True or False", ["False", 2, 0.5, None, math.nan])
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_setting_is_in_its_range(name: str) -> None:
    cls = OPTIMIZERS[name]
    for setting in cls().settings():
        if setting == "learning_rate":
            continue
        wanted, bad = RANGES[setting]
        for value in bad:
            with pytest.raises(ValueError) as caught:
                cls(**{"use_ema": True, setting: value})
            message = str(caught.value).replace(", a schedule or a function of the step", "")
            assert message == f"{cls.__name__}: {setting} must be {wanted}, got {value!r}"


def test_what_needs_company_says_so() -> None:
    with pytest.raises(ValueError, match=r"SGD: ema_overwrite_frequency needs use_ema=True"):
        fb.SGD(ema_overwrite_frequency=3)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match=r"nesterov=True needs a momentum above 0, for example momentum=0\.9"):
        fb.SGD(0.1, nesterov=True)


@pytest.mark.parametrize("number", [1, np.int64(1), np.float32(0.5), np.float64(0.5), Fraction(1, 2)], ids=repr)
def test_any_real_number_will_do(number: Any) -> None:
    assert fb.Adam(number) == fb.Adam(float(number))
    assert json.loads(json.dumps(fb.Adam(number).config()))["learning_rate"] == number


OPTIONS = {
    "weight_decay": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "clipvalue": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "gradient_accumulation_steps": None,
}
BETAS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
DEFAULTS = {
    fb.SGD: {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
    fb.RMSprop: {"learning_rate": 0.001, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
    fb.Adagrad: {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
    fb.Adadelta: {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7},
    fb.Adam: {"learning_rate": 0.001, **BETAS, "amsgrad": False},
    fb.AdamW: {"learning_rate": 0.001, **BETAS, "amsgrad": False, "weight_decay": 0.004},
    fb.Nadam: {"learning_rate": 0.001, **BETAS, "momentum_decay": 0.004},
    fb.RAdam: {"learning_rate": 0.001, **BETAS},
    fb.Lion: {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.99},
}


def test_defaults_and_order_are_those_of_keras() -> None:
    assert set(DEFAULTS) == set(OPTIMIZERS.values())
    for cls, settings in DEFAULTS.items():
        assert cls().config() == {"name": cls.__name__.lower(), **OPTIONS, **settings}
    assert fb.SGD(0.1, 0.9, True) == fb.SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    assert fb.RMSprop(0.1, 0.8, 0.5, 1e-3, True) == fb.RMSprop(
        learning_rate=0.1, rho=0.8, momentum=0.5, epsilon=1e-3, centered=True
    )
    assert fb.Adam(0.1, 0.8, 0.9, 1e-3) == fb.Adam(learning_rate=0.1, beta_1=0.8, beta_2=0.9, epsilon=1e-3)
    assert fb.AdamW(0.1, 0.2, 0.8) == fb.AdamW(learning_rate=0.1, weight_decay=0.2, beta_1=0.8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_a_value(name: str) -> None:
    one = OPTIMIZERS[name](learning_rate=0.125)
    assert one == OPTIMIZERS[name](learning_rate=0.125)
    assert one != OPTIMIZERS[name](learning_rate=0.25)
    assert hash(one) == hash(OPTIMIZERS[name](learning_rate=0.125))
    assert repr(one).startswith(f"{OPTIMIZERS[name].__name__}(learning_rate=0.125")
    with pytest.raises(AttributeError):
        one.learning_rate = 1.0  # type: ignore[misc]


CASES: list[Optimizer] = [
    *(cls() for cls in OPTIMIZERS.values()),
    fb.SGD(0.1, 0.9, True, weight_decay=0.5),
    fb.SGD(fb.schedules.OneCycle(0.1, 50), momentum=fb.schedules.OneCycle(0.1, 50).momentum()),
    fb.RMSprop(momentum=0.5, centered=True, use_ema=True, ema_overwrite_frequency=7),
    fb.Adam(fb.schedules.LinearWarmup(fb.schedules.CosineDecay(0.1, 100), 10), 0.5, amsgrad=True, use_ema=True),
    fb.Adam(fb.schedules.PiecewiseConstantDecay([10, 20], [0.1, 0.2, 0.3])),
    fb.AdamW(weight_decay=0.25, ema_momentum=0.5),
]


@pytest.mark.parametrize("optimizer", CASES, ids=repr)
def test_config_round_trip(optimizer: Optimizer) -> None:
    config = json.loads(json.dumps(optimizer.config()))
    assert config["name"] == optimizer.name
    assert optimizers.from_config(config) == optimizer
    assert config["name"] == optimizer.name  # the caller's dict is left alone


@pytest.mark.parametrize("optimizer", CASES, ids=repr)
def test_repr_is_the_call_that_makes_it(optimizer: Optimizer) -> None:
    names = {**{cls.__name__: cls for cls in OPTIMIZERS.values()}, **fb.schedules.SCHEDULES}
    assert eval(repr(optimizer), names) == optimizer


def test_a_function_of_the_step_is_kept_by_its_value() -> None:
    def falling(step: int) -> float:
        return 0.5 / (1 + step)

    config = json.loads(json.dumps(fb.Adam(falling).config(4)))
    with pytest.warns(UserWarning, match=r"learning_rate was the function .*falling.* stays at 0\.1 "):
        assert optimizers.from_config(config) == fb.Adam(0.1)


def test_foreign_configs() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'ftrl'"):
        optimizers.from_config({"name": "ftrl", "learning_rate": 0.1})
    with pytest.raises(ValueError, match="unknown optimizer None"):
        optimizers.from_config({"learning_rate": 0.1})
    with pytest.raises(TypeError, match="gradient_noise"):
        optimizers.from_config({"name": "adam", "gradient_noise": True})
    with pytest.raises(ValueError, match="learning_rate must be"):
        optimizers.from_config({"name": "adam", "learning_rate": "0.1"})
    with pytest.raises(ValueError, match=r"unknown schedule 'Cosine'.*Did you mean 'CosineDecay'"):
        optimizers.from_config({"name": "adam", "learning_rate": {"name": "Cosine"}})


def test_get() -> None:
    assert optimizers.get("Adam") == fb.Adam()
    mine = fb.SGD(0.5)
    assert optimizers.get(mine) is mine
    valid = ", ".join(sorted([*OPTIMIZERS, "lbfgs"]))
    for wrong in ("adma", "adamax", None, 3, fb.Adam):
        with pytest.raises(ValueError, match=rf"unknown optimizer .*Valid names: {valid}"):
            optimizers.get(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Did you mean 'adam'"):
        optimizers.get("adma")


SLOTS: list[tuple[Optimizer, int]] = [
    (fb.SGD(), 0),
    (fb.SGD(0.1, 0.9), 1),
    (fb.SGD(0.1, 0.9, True), 1),
    (fb.SGD(0.1, fb.schedules.OneCycleMomentum(10)), 1),
    (fb.RMSprop(), 1),
    (fb.RMSprop(momentum=0.5), 2),
    (fb.RMSprop(centered=True), 2),
    (fb.RMSprop(momentum=0.5, centered=True), 3),
    (fb.Adagrad(), 1),
    (fb.Adadelta(), 2),
    (fb.Adam(), 2),
    (fb.Adam(amsgrad=True), 3),
    (fb.AdamW(), 2),
    (fb.Nadam(), 2),
    (fb.RAdam(), 2),
    (fb.Lion(), 1),
]


def test_moments_are_kept_only_where_they_are_needed() -> None:
    assert {type(optimizer) for optimizer, _ in SLOTS} == set(OPTIMIZERS.values())
    assert [optimizer.slots for optimizer, _ in SLOTS] == [slots for _, slots in SLOTS]
    assert [replace(optimizer, use_ema=True).slots for optimizer, _ in SLOTS] == [slots + 1 for _, slots in SLOTS]
    assert len({optimizer.formula for optimizer, _ in SLOTS}) == len(SLOTS) - 2
    assert fb.AdamW().formula is fb.Adam().formula
    assert fb.Adagrad(initial_accumulator_value=0.25).initials == (0.25,)


# ---------------------------------------------------------------- coefficients


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_coefficients_of_a_step_do_not_depend_on_its_company(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    table = optimizer.coefficients(np.arange(1.0, 101.0))
    assert table.shape == (100, optimizer.width)
    assert table.dtype == np.float64
    for first, last in ((1, 1), (7, 30), (100, 100)):
        part = optimizer.coefficients(np.arange(float(first), last + 1.0))
        np.testing.assert_array_equal(part, table[first - 1 : last])


def test_sgd_has_the_rate_and_the_momentum() -> None:
    table = fb.SGD(0.125, momentum=0.75).coefficients(np.array([1.0, 9.0]))
    np.testing.assert_array_equal(table[:, :2], [[0.125, 0.75]] * 2)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.25), (0.0, 0.999), (0.9, 0.0), (0.0, 0.0), (0.99, 0.999999)])
def test_adam_corrects_both_moments(betas: tuple[float, float]) -> None:
    """m_hat / (sqrt(v_hat) + epsilon) of the paper in exact fractions, at m and v of any size."""
    rate, epsilon = 0.001, 1e-7
    adam = fb.Adam(rate, *betas, epsilon)
    for step in (1, 2, 3, 10, 100, 1000):
        h = adam.coefficients(np.array([float(step)]))[0]
        c1, c2 = (float(1 - Fraction(beta) ** step) for beta in betas)
        for m, v in ((1.0, 1.0), (-3e-4, 1e-9), (1e5, 1e12), (1e-9, 0.0)):
            wanted = rate * (m / c1) / (np.sqrt(v / c2) + epsilon)
            assert h[0] * m / (np.sqrt(v) + h[5]) == pytest.approx(wanted, rel=1e-9)
        assert list(h[1:5]) == [betas[0], 1 - betas[0], betas[1], 1 - betas[1]]


def test_adam_forgets_the_correction_in_the_end() -> None:
    h = fb.Adam(0.001).coefficients(np.array([1e9]))[0]
    assert h[0] == 0.001
    assert h[5] == 1e-7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_apart_from_the_gradient(name: str) -> None:
    steps = np.array([1.0, 5.0])
    plain = OPTIMIZERS[name](learning_rate=0.01, weight_decay=0.0).coefficients(steps)
    decayed = OPTIMIZERS[name](learning_rate=0.01, weight_decay=0.5).coefficients(steps)
    np.testing.assert_array_equal(decayed[:, KEEP], [1 - 0.01 * 0.5] * 2)
    np.testing.assert_array_equal(decayed[:, :COEFFICIENTS], plain)


def test_the_average_begins_with_the_weights_of_the_first_step() -> None:
    table = fb.SGD(use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=2).coefficients(np.arange(1.0, 6.0))
    assert list(table[:, AVERAGE_KEEP]) == [0.0, 0.75, 0.75, 0.75, 0.75]
    assert list(table[:, OVERWRITE]) == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_gives_each_step_its_own_rate(name: str) -> None:
    steps, rates = np.arange(1.0, 21.0), fb.schedules.CosineDecay(0.1, 30)
    scheduled = OPTIMIZERS[name](learning_rate=rates).coefficients(steps)
    called = OPTIMIZERS[name](learning_rate=lambda step: rates(step)).coefficients(steps)
    np.testing.assert_array_equal(scheduled, called)
    for step, row in zip(steps, scheduled, strict=True):
        alone = OPTIMIZERS[name](learning_rate=rates(step - 1)).coefficients(np.array([step]))[0]
        np.testing.assert_array_equal(row, alone)
    assert OPTIMIZERS[name](learning_rate=rates).rate(7) == rates(7)
    half = OPTIMIZERS[name](learning_rate=fb.schedules.CosineDecay(0.05, 30)).coefficients(steps)
    np.testing.assert_allclose(OPTIMIZERS[name](learning_rate=rates).coefficients(steps, 0.5), half, rtol=1e-14)


@pytest.mark.parametrize(
    ("bad", "shown"), [(lambda step: -1.0 if step == 3 else 1.0, "-1"), (lambda step: math.nan, "nan")]
)
def test_a_function_that_gives_no_rate_is_named_with_its_step(bad: Callable[[int], float], shown: str) -> None:
    step = 3 if shown == "-1" else 0
    with pytest.raises(ValueError, match=rf"SGD: learning_rate is to be .* gave {shown} for step {step}"):
        fb.SGD(bad).coefficients(np.arange(1.0, 9.0))
    with pytest.raises(ValueError, match=r"Adam: beta_1 is to be in \[0, 1\), but .* gave 1 for step 0"):
        fb.Adam(beta_1=lambda step: 1.0).coefficients(np.array([1.0]))


def test_nadams_products_do_not_end() -> None:
    """From where 1 minus the product of the momenta is 1 on, only the momentum itself moves."""
    late = fb.Nadam().coefficients(np.array([1e3, 1e6, 1e9]))
    np.testing.assert_allclose(late[1:, 0], 0.001 * 0.9, rtol=1e-9)
    np.testing.assert_allclose(late[1:, 6], 0.001 * 0.1, rtol=1e-9)


@pytest.mark.parametrize("beta_2", [0.0, 0.5, 0.6, 0.75, 0.9, 0.999])
def test_radam_never_divides_by_nothing(beta_2: float) -> None:
    assert np.isfinite(fb.RAdam(beta_2=beta_2).coefficients(np.arange(1.0, 50.0))).all()
