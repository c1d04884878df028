"""The tables' formulas as functions of kernels: what they give in the simulator, and that they compile for GPUs."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import reference_layers
from helpers import OUTPUT, error, python, targets

import fastbp as fb
from fastbp import _math, _vector
from fastbp.activations import ACTIVATIONS
from fastbp.constraints import CONSTRAINTS, MinMaxNorm
from fastbp.formulas import noise as noise_formulas
from fastbp.formulas.tallies import TALLIES
from fastbp.losses import LOSSES
from fastbp.optimizers import AVERAGE_KEEP, KEEP, OPTIMIZERS, SCALE

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from cuda_rules_kernel import custom, variants

from fastbp.cuda import rules, scalars
from fastbp.cuda.device import cuda, kernel
from fastbp.cuda.scalars import made, scalar

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
Z = np.array([-40.0, -3.0, -0.7, -1e-3, 0.0, 1e-3, 0.4, 2.5, 20.0])


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """As in kernels: a GPU warns of nothing."""
    with np.errstate(all="ignore"):
        yield


def close(got: Any, wanted: Any, dtype: str, factor: float = 1.0) -> None:
    assert np.asarray(got).dtype == dtype
    assert error(np.asarray(got, np.float64), np.asarray(wanted, np.float64)) < factor * TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if not row.coupled])
def test_activations_and_derivatives(name: str, dtype: str) -> None:
    row, kind = ACTIVATIONS[name], np.dtype(dtype)
    z = Z.astype(dtype)
    z = z[z < 3] if name == "exponential" else z
    p = kind.type(row.parameter or 0.0)
    function, derivative = rules.activation(row, kind), rules.derivative(row, kind)
    assert rules.activation(row, kind) is function
    a = np.array([function(each, p) for each in z])
    close(a, reference.activate(name, z.astype(np.float64)), dtype)
    da = np.linspace(-2, 3, len(z)).astype(dtype)
    dz = np.array([derivative(*each, p) for each in zip(da, z, a, strict=True)])
    close(dz, reference.activate_backward(name, z.astype(np.float64), da.astype(np.float64)), dtype)


@DTYPES
def test_softmax(dtype: str) -> None:
    row, kind = ACTIVATIONS["softmax"], np.dtype(dtype)
    z = np.random.default_rng(1).normal(0, 3, (4, 7)).astype(dtype)
    z[1] *= 100
    a, da = np.empty_like(z), z[::-1].copy()
    wanted = reference.activate_backward("softmax", z.astype(np.float64), da.astype(np.float64))
    for i in range(len(z)):
        rules.activation(row, kind)(a[i], z[i], 7)
        rules.derivative(row, kind)(da[i], a[i], 7)
    close(a, reference.softmax(z.astype(np.float64)), dtype)
    assert error(da, wanted) < 50 * TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "tanh", "softplus"])
def test_what_is_not_a_number_stays_so(name: str) -> None:
    row, kind = ACTIVATIONS[name], np.dtype(np.float32)
    assert np.isnan(rules.activation(row, kind)(np.float32(np.nan), np.float32(0.2)))


@DTYPES
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("width", [1, 5])
def test_losses(name: str, width: int, dtype: str) -> None:
    if width == 1 and ("categorical" in name or name == "cosine_similarity"):
        pytest.skip("one class")
    row, kind = LOSSES[name], np.dtype(dtype)
    z = np.random.default_rng(2).normal(0, 1, (6, width)).astype(dtype)
    if name in OUTPUT and row.fused_with is None:
        z = reference.activate(OUTPUT[name], z.astype(np.float64)).astype(dtype)
    y = targets(name, 6, width)
    value, slope = reference.LOSSES[name](z.astype(np.float64), y)
    rule, numbers = rules.loss(row, kind), rules.loss_numbers(row, width, kind)
    assert rules.loss(row, kind) is rule
    weight = kind.type(1 / 6 if row.mean_rows else 1.0)
    dz, columns = np.empty_like(z), y if y.ndim == 1 else y.astype(dtype)
    values = [rule(dz[i], z[i], columns[i], width, weight, numbers) for i in range(6)]
    close(dz, slope, dtype, 10)
    assert all(type(each) is kind.type for each in values)
    assert abs(sum(values) - value) < 20 * TOLERANCE[dtype] * max(abs(value), 1)
    assert rule(dz[0], z[0] * kind.type(np.nan), columns[0], width, kind.type(0), numbers) == 0
    assert (dz[0] == 0).all()


def test_parameters_weights_and_masks_of_losses() -> None:
    kind = np.dtype(np.float64)
    row = fb.losses.Huber(0.5)
    a, y = np.array([0.1, 3.0, -1.0]), np.array([0.0, np.nan, 1.0])
    masked = replace(row, mask_nan=True, reported=0.5)
    dz = np.empty(3)
    value = rules.loss(masked, kind)(dz, a, y, 3, 2.0, rules.loss_numbers(masked, 3, kind))
    np.testing.assert_allclose(value, 0.5 * 2 / 3 * (0.005 + 0.5 * 1.75))
    np.testing.assert_allclose(dz, np.array([0.1, 0, -0.5]) * 2 / 3)
    smooth = fb.losses.SparseCategoricalCrossentropy(label_smoothing=0.2)
    value = rules.loss(smooth, kind)(dz, a, 2, 3, 1.0, rules.loss_numbers(smooth, 3, kind))
    wanted, slope = reference.categorical_crossentropy(a[None], np.eye(3)[[2]], label_smoothing=0.2)
    np.testing.assert_allclose(value, wanted)
    np.testing.assert_allclose(dz, slope[0])


@DTYPES
def test_functions_of_ones_own(dtype: str) -> None:
    kind = np.dtype(dtype)
    (activation,), losses = custom()
    z = Z[2:7].astype(dtype)
    close([rules.activation(activation, kind)(each, kind.type(0)) for each in z], np.exp(-z * z) * np.cos(z), dtype)
    derivative = rules.derivative(activation, kind)
    dz = [derivative(kind.type(1), each, each, kind.type(0)) for each in z]
    close(dz, -np.exp(-z * z) * (2 * z * np.cos(z) + np.sin(z)), dtype)
    y, a = z[::-1].copy(), z
    values = []
    for loss in losses:
        slope = np.empty(5, dtype)
        values.append(rules.loss(loss, kind)(slope, a, y, 5, kind.type(1), rules.loss_numbers(loss, 5, kind)))
        for c in range(5):
            high, low = a.astype(np.float64), a.astype(np.float64)
            high[c] += 1e-4
            low[c] -= 1e-4
            rise = [plain_loss(loss, y, each) for each in (high, low)]
            assert abs(slope[c] - (rise[0] - rise[1]) / 2e-4) < 1e-3
    np.testing.assert_allclose(values, [plain_loss(loss, y, a) for loss in losses], rtol=1e-5)


def plain_loss(loss: Any, y: np.ndarray, a: np.ndarray) -> float:
    """The value of the custom losses for a row."""
    if loss.coupled:
        return float(np.sqrt(1 + np.mean((y - a) ** 2)))
    return float(np.mean(np.log1p(np.abs(y - a)) + np.where(y > 0, np.maximum(a, 0), 0.25) + np.sin(a)))


@DTYPES
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates(name: str, dtype: str) -> None:
    """Three steps of each form of an optimizer, with all options and without, by the formula on NumPy's arrays."""
    rng, kind = np.random.default_rng(3), np.dtype(dtype)
    for optimizer in variants(name):
        slots, averages = len(optimizer.initials), optimizer.use_ema
        table = optimizer.coefficients(np.arange(1.0, 4.0))
        arrays = np.zeros((2 + slots, 4), dtype)
        arrays[0] = rng.normal(0, 1, 4)
        arrays[1 : 1 + slots] = np.array(optimizer.initials)[:, None]
        arrays[-1] = arrays[0]
        wanted = arrays.astype(np.float64)
        flat = np.concatenate([np.full(4, 7, dtype), arrays.ravel()])
        rule = rules.update(optimizer, kind)
        assert rules.update(optimizer, kind) is rule
        for h in table:
            g = rng.normal(0, 2, 4).astype(dtype)
            for i in range(4):
                assert rule(flat, 4 + i, 4, g[i], h.astype(dtype)) == 0
            old, slope = wanted[0], g.astype(np.float64)
            if optimizer.weight_decay:
                old = old * h[KEEP]
            if optimizer.clipvalue:
                slope = np.clip(slope, -1, 1)
            new, state = optimizer.formula(old, tuple(wanted[1 : 1 + slots]), slope, h)
            wanted[: 1 + slots] = [new, *state]
            if averages:
                wanted[-1] = wanted[-1] * h[AVERAGE_KEEP] + new * (1 - h[AVERAGE_KEEP])
        used = 1 + slots + averages
        close(flat[4:].reshape(arrays.shape)[:used], wanted[:used], dtype, 20)
        assert (flat[:4] == 7).all()


def test_a_guarded_update_keeps_what_would_not_be_finite() -> None:
    optimizer, kind = fb.SGD(1.0, momentum=0.5), np.dtype(np.float32)
    rule, h = rules.update(optimizer, kind, guarded=True), optimizer.coefficients(np.ones(1))[0].astype(kind)
    q = np.array([3.0, 2.0, 0.0, 0.0], kind)
    assert rule(q, 0, 2, np.float32(np.inf), h) == 1
    assert rule(q, 1, 2, np.float32(0.5), h) == 0
    np.testing.assert_array_equal(q[:2], [3.0, 1.5])


def test_the_average_takes_the_weights_place_when_it_is_due() -> None:
    optimizer, kind = fb.SGD(0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2), np.dtype(np.float64)
    q = np.array([1.0, 1.0])
    for h in optimizer.coefficients(np.arange(1.0, 3.0)):
        rules.update(optimizer, kind)(q, 0, 1, 1.0, h)
    np.testing.assert_allclose(q, [0.25, 0.25])  # weights 0.5 and 0, the average from 0.5 on


def test_clipped_and_scaled_gradients() -> None:
    optimizer, kind = fb.SGD(1.0, clipnorm=1.0), np.dtype(np.float64)
    h = optimizer.coefficients(np.ones(1))[0]
    h[SCALE] = 0.25
    q = np.zeros(1)
    rules.update(optimizer, kind)(q, 0, 1, 8.0, h)
    assert q[0] == -2.0


@DTYPES
def test_penalties(dtype: str) -> None:
    kind = np.dtype(dtype)
    w, l1, l2 = np.array([-2.0, 0.0, 0.5], dtype), kind.type(0.1), kind.type(0.3)
    value, pull = rules.penalty(kind), rules.pull(kind)
    close([value(each, l1, l2) for each in w], 0.1 * abs(w) + 0.3 * w * w, dtype)
    got = [pull(kind.type(1), each, l1, l2) for each in w]
    close(got, 1 + 0.1 * np.sign(w) + 0.6 * w, dtype)


@DTYPES
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints(name: str, dtype: str) -> None:
    kind: Any = np.dtype(dtype)
    row = MinMaxNorm(0.5, 0.8, 0.7) if name == "min_max_norm" else CONSTRAINTS[name]()
    w = np.array([0.6, -3.0, 0.0], dtype)
    squares, p = kind.type((w * w).sum()), np.array([*row.numbers, 0, 0, 0], dtype)
    wanted = row.formula(w.astype(np.float64), np.float64(squares), p.astype(np.float64))
    close([rules.constraint(row, kind)(each, squares, p) for each in w], wanted, dtype)


# ---------------------------------------------------------------- tallies


SUMMED = [name for name, row in TALLIES.items() if row.loop != "kept"]


@DTYPES
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", SUMMED)
def test_tallies(name: str, labels: bool, dtype: str) -> None:
    row, kind, n = TALLIES[name], np.dtype(dtype), 4
    if labels and row.loop == "targets":
        pytest.skip("labels are no numbers")
    rng = np.random.default_rng(4)
    a = rng.uniform(0.05, 0.95, (9, n)).astype(dtype)
    classes = rng.integers(0, n, 9)
    y = np.eye(n)[classes].astype(dtype)
    p = np.array(row.values or (0.0,), dtype)
    p[0] = 2 if name == "top-k accuracy" else p[0]
    marks, term = rules.tally(row, kind, labels)
    assert rules.tally(row, kind, labels).term is term
    for i in range(9):
        target = classes[i] if labels else y[i]
        found = [term(k, *marks(a[i], target, n, p), a[i], target, n, p) for k in range(row.sums(n))]
        assert np.asarray(found).dtype == ("float64" if row.loop == "targets" else dtype)
        np.testing.assert_allclose(found, sums_of_row(row, a[i], y[i], n, p), rtol=1e-5, atol=1e-6)


def sums_of_row(row: Any, a: np.ndarray, y: np.ndarray, n: int, p: np.ndarray) -> Any:
    """What a row adds to each sum, as `Tally` says it."""
    a, y = a.astype(np.float64), y.astype(np.float64)
    if row.loop == "rows":
        return [row.function(a, y, n, p.astype(np.float64))]
    if row.loop == "targets":
        return [*np.stack([y, y * y, (a - y) ** 2], 1).ravel(), 1]
    given, had = (a > p[0], y > 0.5) if row.loop == "labels" else (np.arange(n) == a.argmax(), y == y.max())
    if row.loop == "pairs":
        return (had[:, None] & given[None, :]).ravel()
    return [*np.stack([given & had, given, had], 1).ravel(), 1]


def test_a_tally_that_keeps_rows_has_no_rule() -> None:
    with pytest.raises(ValueError, match="keeps rows"):
        rules.tally(TALLIES["scores"], np.dtype(np.float32))


# ---------------------------------------------------------------- noise and counters


@DTYPES
@pytest.mark.parametrize("name", noise_formulas.FORMULAS)
def test_noise(name: str, dtype: str) -> None:
    kind = np.dtype(dtype)
    forward, backward = noise_formulas.FORMULAS[name]
    p = np.array([0.3, 1.25, 0.5, -0.7], dtype)
    x, u, v = np.random.default_rng(5).uniform(0, 1, (3, 20)).astype(dtype)
    for rule, formula in zip(rules.noise(name, kind), (forward, backward), strict=True):
        got = [rule(*each, p) for each in zip(x, u, v, strict=True)]
        close(got, formula(*(each.astype(np.float64) for each in (x, u, v)), p.astype(np.float64)), dtype, 10)


@DTYPES
def test_draws_are_those_of_the_documented_counter(dtype: str) -> None:
    single = dtype == "float32"
    wanted = reference_layers.uniforms(11, 3, 5, 6, 4, single)
    mix, uniform = rules.mix(), rules.uniform(np.dtype(dtype))
    key = int(mix(11 ^ mix(3 ^ mix(5))))
    for which in range(2):
        got = [[uniform(key, row, int(mix(key + 2 * o + which))) for o in range(4)] for row in range(6)]
        np.testing.assert_array_equal(got, wanted[which])
        assert np.asarray(got).dtype == dtype


def test_an_epochs_order_is_a_permutation() -> None:
    order = [rules.shuffled()(i, 100, 7, 12345) for i in range(100)]
    assert sorted(order) == list(range(100)) and order != sorted(order)


# ---------------------------------------------------------------- rewriting


def scaled(x, n, p):
    """A formula with all that is rewritten."""
    total = x[0] * 0.0
    for c in range(n):
        total = total + _math.exp(-2.0 * x[c]) / n + c * EIGHTH
    return total + p[0]


EIGHTH = 0.125
exp = _math.exp


def counted(x, n):
    """Labels passed on, counters compared with numbers."""
    found = 0.0 * (1.0 / n)
    for c in range(n):
        found = found + x[c] * c
    return found


def passes(x, n):
    return counted(x, n) + 2.0


def calls_what_is_not_there(x):
    return unknown_function(x)  # noqa: F821


def test_rewritten_formulas_keep_their_type() -> None:
    kind = np.dtype(np.float32)
    got = scalar(passes, kind, ("x",))(3, 5)
    assert type(got) is np.float32 and got == 5
    row = np.arange(5, dtype=np.float32)
    got = scalar(passes, kind)(row, 5)
    assert type(got) is np.float32 and got == 32
    twice = made("def twice(x):\n    return 2.0 * once(x)\n", kind, once=scalar(passes, kind, ("x",)))
    assert callable(twice)


@DTYPES
def test_what_stands_for_functions_that_cuda_computes_otherwise(dtype: str) -> None:
    kind = np.dtype(dtype)
    names = {"fma": _vector.fma, "erfc": math_erfc}
    single, x = dtype == "float32", np.linspace(-30, 30, 401).astype(dtype)
    for offset, sign, wanted in ((0.0, 1.0, np.sin), (0.5, -1.0, np.cos)):
        wave = made(scalars._wave(single, offset, sign), kind, **names)
        close([wave(each) for each in x], wanted(x.astype(np.float64)), dtype)
    turns = np.linspace(0, 1, 101).astype(dtype)
    cosine = made(scalars._cosine_of_turns(single), kind, **names)
    close([cosine(each) for each in turns], np.cos(2 * np.pi * turns.astype(np.float64)), dtype)
    cdf = made(scalars.NORMAL_CDF, kind, **names)
    close([kind.type(cdf(each)) for each in x], reference.normal_cdf(x.astype(np.float64)), dtype)


def math_erfc(x):
    """A function that is made for kernels already."""
    return np.float64(math.erfc(x))


math_erfc.rewritten = True


def test_a_formula_of_unknown_functions_is_refused() -> None:
    with pytest.raises(NameError, match="unknown_function"):
        scalar(calls_what_is_not_there, np.dtype(np.float32))


@kernel
def activated(out, z, p, function):
    i = cuda.grid(1)
    if i < len(z):
        out[i] = function(z[i], p)


def test_a_rule_runs_in_a_kernel() -> None:
    z, out = Z.astype(np.float32), np.zeros(len(Z), np.float32)
    activated[3, 4](out, z, np.float32(0), rules.activation(ACTIVATIONS["gelu"], z.dtype))
    close(out, reference.gelu(Z), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_rule_compiles_for_gpus(dtype: str) -> None:
    """And float32 rules compute nothing in float64; the check of a guarded update is there."""
    code = f"""
import os
del os.environ["NUMBA_ENABLE_CUDASIM"]
import numpy as np
from cuda_rules_kernel import every_rule, signature
from fastbp.cuda.device import compile_ptx

kind = np.{dtype}
work = every_rule(kind)
capabilities = ((7, 5), (9, 0), (10, 0)) if kind is np.float32 else ((9, 0),)
for (major, minor), code in zip(capabilities, compile_ptx(work, signature(kind), capabilities), strict=True):
    assert f".target sm_{{major}}{{minor}}" in code
    assert (".f64" in code) == (kind is np.float64)
    assert "call" not in code
    assert "fma.rn." in code
print("compiled")
"""
    assert python(code).strip() == "compiled"
