"""What a user configures: refused settings, round trips, and the coefficients of each step against their definition."""

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastbp as fb
from fastbp import optimizers
from fastbp.optimizers import COEFFICIENTS, OPTIMIZERS, Optimizer

NOT_NUMBERS = [None, "0.1", True, [0.1], float("nan"), float("inf"), 1j]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [0, 0.0, -0.1, *NOT_NUMBERS])
def test_the_learning_rate_is_a_positive_number(name: str, rate: Any) -> None:
    with pytest.raises(ValueError, match=r"^\w+: learning_rate must be a positive number, got ") as caught:
        OPTIMIZERS[name](learning_rate=rate)
    assert str(caught.value).startswith(OPTIMIZERS[name].__name__)
    assert repr(rate) in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "setting", "bad", "wanted"),
    [
        (fb.SGD, "momentum", [-0.1, 1, 1.5, *NOT_NUMBERS], "in [0, 1)"),
        (fb.Adam, "beta_1", [-0.1, 1, 1.5, *NOT_NUMBERS], "in [0, 1)"),
        (fb.Adam, "beta_2", [-0.1, 1, 1.5, *NOT_NUMBERS], "in [0, 1)"),
        (fb.Adam, "epsilon", [0, -1e-7, *NOT_NUMBERS], "a positive number"),
        (fb.AdamW, "beta_1", [1.0], "in [0, 1)"),
        (fb.AdamW, "weight_decay", [-0.1, *NOT_NUMBERS], "a number of at least 0"),
    ],
)
def test_other_settings_are_in_their_range(cls: type[Optimizer], setting: str, bad: list[Any], wanted: str) -> None:
    for value in bad:
        with pytest.raises(ValueError) as caught:
            cls(**{setting: value})
        assert str(caught.value) == f"{cls.__name__}: {setting} must be {wanted}, got {value!r}"


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match=r"nesterov=True needs a momentum above 0, for example momentum=0\.9"):
        fb.SGD(0.1, nesterov=True)


@pytest.mark.parametrize("number", [1, np.int64(1), np.float32(0.5), np.float64(0.5), Fraction(1, 2)], ids=repr)
def test_any_real_number_will_do(number: Any) -> None:
    assert fb.Adam(number) == fb.Adam(float(number))
    assert json.loads(json.dumps(fb.Adam(number).config()))["learning_rate"] == number


def test_defaults_and_order_are_those_of_keras() -> None:
    assert fb.SGD().config() == {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0, "nesterov": False}
    adam = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    assert fb.Adam().config() == {"name": "adam", **adam}
    assert fb.AdamW().config() == {"name": "adamw", **adam, "weight_decay": 0.004}
    assert fb.SGD(0.1, 0.9, True) == fb.SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_round_trip(name: str) -> None:
    settings = {"sgd": {"momentum": 0.9, "nesterov": True}, "adam": {"beta_1": 0.5}, "adamw": {"weight_decay": 0.25}}
    for optimizer in (OPTIMIZERS[name](), OPTIMIZERS[name](learning_rate=0.1, **settings.get(name, {}))):
        config = optimizer.config()
        assert config["name"] == name
        assert optimizers.from_config(config) == optimizer
        assert config["name"] == name  # the caller's dict is left alone


def test_foreign_configs() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'lion'"):
        optimizers.from_config({"name": "lion", "learning_rate": 0.1})
    with pytest.raises(ValueError, match="unknown optimizer None"):
        optimizers.from_config({"learning_rate": 0.1})
    with pytest.raises(TypeError, match="amsgrad"):
        optimizers.from_config({"name": "adam", "amsgrad": True})
    with pytest.raises(ValueError, match="learning_rate must be"):
        optimizers.from_config({"name": "adam", "learning_rate": "0.1"})


def test_get() -> None:
    assert optimizers.get("Adam") == fb.Adam()
    mine = fb.SGD(0.5)
    assert optimizers.get(mine) is mine
    for wrong in ("adma", "rmsprop", None, 3, fb.Adam):
        with pytest.raises(ValueError, match=r"unknown optimizer .*Valid names: adam, adamw, sgd"):
            optimizers.get(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Did you mean 'adam'"):
        optimizers.get("adma")


def test_moments_are_kept_only_where_they_are_needed() -> None:
    assert [o.slots for o in (fb.SGD(), fb.SGD(0.1, 0.9), fb.SGD(0.1, 0.9, True), fb.Adam(), fb.AdamW())] == [
        0,
        1,
        1,
        2,
        2,
    ]
    rules = [o.formula for o in (fb.SGD(), fb.SGD(0.1, 0.9), fb.SGD(0.1, 0.9, True), fb.Adam())]
    assert len(set(rules)) == 4
    assert fb.AdamW().formula is fb.Adam().formula


# ---------------------------------------------------------------- coefficients


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_coefficients_of_a_step_do_not_depend_on_its_company(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    table = optimizer.coefficients(np.arange(1.0, 101.0))
    assert table.shape == (100, COEFFICIENTS)
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
        assert h[6] == 1.0


def test_adam_forgets_the_correction_in_the_end() -> None:
    h = fb.Adam(0.001).coefficients(np.array([1e9]))[0]
    assert h[0] == 0.001
    assert h[5] == 1e-7


def test_adamw_lets_the_weights_decay_apart_from_the_gradient() -> None:
    steps = np.array([1.0, 5.0])
    plain, decayed = fb.Adam(0.01).coefficients(steps), fb.AdamW(0.01, weight_decay=0.5).coefficients(steps)
    np.testing.assert_array_equal(decayed[:, 6], [1 - 0.01 * 0.5] * 2)
    np.testing.assert_array_equal(np.delete(decayed, 6, axis=1), np.delete(plain, 6, axis=1))
