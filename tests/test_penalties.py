"""L1 and L2 penalties inside the weights phase: gradient, update and reported value, against plain NumPy."""

import itertools
from typing import Any

import numpy as np
import pytest
import reference
from helpers import TOLERANCE, error

from fastbp.activations import ACTIVATIONS
from fastbp.cpu.engine import Engine
from fastbp.layout.objective import Objective
from fastbp.losses import LOSSES
from fastbp.optimizers import SGD
from fastbp.program import LayerSpec, aligned

RATE, BATCH, EPOCHS = 0.05, 12, 2
STRENGTHS = [(0.003, 0.02, 0.01, 0.004), (0.0, 0.0, 0.0, 0.0), (0.0, 0.05, 0.0, 0.0)]
SHAPES = [([5, 7, 3], True), ([5, 7, 3], False), ([16, 33, 17, 2], True), ([40, 1, 70], True), ([150, 33, 70, 3], True)]


def made(widths: list[int], bias: bool, dtype: str, threads: int) -> tuple[Engine, list[LayerSpec], list[np.ndarray]]:
    """An engine with penalties on some layers, and its weights; one of them is exactly 0."""
    rng = np.random.default_rng(3)
    specs, arrays = [], []
    for index, (i, o) in enumerate(itertools.pairwise(widths)):
        name = "tanh" if index < len(widths) - 2 else "linear"
        specs.append(LayerSpec(i, o, bias, ACTIVATIONS[name], STRENGTHS[index % 3]))
        arrays += [rng.standard_normal((i, o)) / np.sqrt(i)] + ([rng.standard_normal(o)] if bias else [])
    arrays[0][0, 0] = 0.0
    engine = Engine(specs, np.dtype(dtype), threads)
    engine.program.put(engine.weights, arrays)
    return engine, specs, arrays


def plain(
    specs: list[LayerSpec], arrays: list[np.ndarray], x: np.ndarray, y: np.ndarray, scales: np.ndarray
) -> tuple[list[np.ndarray], list[float]]:
    """The weights after some epochs of descent, and each epoch's sum over rows of loss and penalty."""
    queue, sums, step = [a.copy() for a in arrays], [], 0
    names = [spec.activation.name for spec in specs]
    for _ in range(EPOCHS):
        sums.append(0.0)
        for start in range(0, len(x), BATCH):
            rows = slice(start, min(start + BATCH, len(x)))
            weights = iter(queue)
            nested = [part for spec in specs for part in (next(weights), next(weights) if spec.bias else None)]
            value, gradients, _ = reference.loss_and_gradients(nested, names, "mean_squared_error", x[rows], y[rows])
            flat = [g for g in gradients if g is not None]
            pairs = [s.penalty[p : p + 2] for s in specs for p in ((0, 2) if s.bias else (0,))]
            for place, (weight, (l1, l2)) in enumerate(zip(queue, pairs, strict=True)):
                value += scales[step] * (l1 * np.abs(weight).sum() + l2 * np.square(weight).sum())
                pull = l1 * np.sign(weight) + 2 * l2 * weight
                queue[place] = weight - RATE * (flat[place] + scales[step] * pull)
            sums[-1] += value * len(x[rows])
            step += 1
    return queue, sums


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("widths", "bias"), SHAPES)
def test_descent_with_penalties(widths: list[int], bias: bool, threads: int, dtype: str) -> None:
    engine, specs, arrays = made(widths, bias, dtype, threads)
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((30, widths[0])), rng.standard_normal((30, widths[-1]))
    scales = rng.uniform(0.5, 2, EPOCHS * 3)
    wanted, sums = plain(specs, arrays, x, y, scales)
    options: dict[str, Any] = {
        "batch": BATCH,
        "steps": EPOCHS * 3,
        "objective": Objective(LOSSES["mean_squared_error"]),
    }
    outcome = engine.run(x.astype(dtype), y.astype(dtype), optimizer=SGD(RATE), penalty_scales=scales, **options)
    for got, array in zip(engine.program.take(engine.weights), wanted, strict=True):
        assert error(got, array) < 20 * TOLERANCE[dtype]
    np.testing.assert_allclose(outcome.sums[:, 0], sums, rtol=20 * TOLERANCE[dtype])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    found = []
    for threads in (1, 2, 3):
        engine, _, _ = made([150, 130, 70, 3], True, "float32", threads)
        rng = np.random.default_rng(5)
        x, y = rng.standard_normal((60, 150)).astype("f4"), rng.standard_normal((60, 3)).astype("f4")
        assert engine.serial(60) is (threads == 1)
        objective = Objective(LOSSES["mean_squared_error"])
        outcome = engine.run(x, y, batch=60, steps=5, objective=objective, optimizer=SGD(RATE))
        found.append([outcome.sums, engine.weights.copy()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_gradient_written_out_includes_the_penalty() -> None:
    engine, specs, arrays = made([40, 17, 5], True, "float64", 2)
    x, y = np.random.default_rng(5).standard_normal((2, 50, 40))[0], np.zeros((50, 5))
    gradient = aligned(engine.program.parameter_bytes).view(engine.dtype)
    objective = Objective(LOSSES["mean_squared_error"])
    outcome = engine.run(x, y, batch=50, objective=objective, gradient=gradient, penalty_scales=np.array([0.5]))
    names = [spec.activation.name for spec in specs]
    value, wanted, _ = reference.loss_and_gradients(arrays, names, "mean_squared_error", x, y)
    l1, l2, bias_l1, bias_l2 = np.array(STRENGTHS[0]) / 2
    value += l1 * np.abs(arrays[0]).sum() + l2 * np.square(arrays[0]).sum()
    value += bias_l1 * np.abs(arrays[1]).sum() + bias_l2 * np.square(arrays[1]).sum()
    wanted[0] = wanted[0] + l1 * np.sign(arrays[0]) + 2 * l2 * arrays[0]
    wanted[1] = wanted[1] + bias_l1 * np.sign(arrays[1]) + 2 * bias_l2 * arrays[1]
    assert outcome.sums[0, 0] / 50 == pytest.approx(value, rel=1e-12)
    for got, array in zip(engine.program.take(gradient), wanted, strict=True):
        assert array is not None
        assert error(got, array) < 1e-11


def test_runs_in_pieces_report_what_one_run_reports() -> None:
    """Where a run ends amid an epoch, its last step's penalty is in its sums, and is not counted again."""
    x, y = np.random.default_rng(5).standard_normal((2, 30, 5))
    found = []
    for pieces in ([6], [1, 1, 1, 1, 1, 1], [2, 4], [4, 2]):
        engine, _, _ = made([5, 9, 5], True, "float64", 1)
        sums, done = np.zeros((2, 1)), 0
        for steps in pieces:
            options: dict[str, Any] = {"first_step": done, "updates": done, "carried": sums[done // 3]}
            objective = Objective(LOSSES["mean_squared_error"])
            outcome = engine.run(x, y, batch=BATCH, steps=steps, objective=objective, optimizer=SGD(RATE), **options)
            sums[done // 3 : (done + steps - 1) // 3 + 1] = outcome.sums
            done += steps
        found.append(sums)
    for sums in found[1:]:
        np.testing.assert_allclose(sums, found[0], rtol=1e-14)


def test_bfloat16_products_are_penalised_like_any() -> None:
    x, y = np.random.default_rng(5).standard_normal((2, 64, 40)).astype("f4")
    specs = [LayerSpec(40, 70, True, ACTIVATIONS["tanh"], p) for p in (STRENGTHS[0], STRENGTHS[1])]
    found = []
    for spec in specs:
        layers = [spec, LayerSpec(70, 40, True, ACTIVATIONS["linear"])]
        engine = Engine(layers, np.dtype("float32"), 1, half=True)
        rng = np.random.default_rng(3)
        arrays = [rng.standard_normal(s) / 6 for s in ((40, 70), (70,), (70, 40), (40,))]
        engine.program.put(engine.weights, arrays)
        objective = Objective(LOSSES["mean_squared_error"])
        outcome = engine.run(x, y, batch=64, steps=1, objective=objective, optimizer=SGD(RATE))
        found.append((engine.program.take(engine.weights), outcome.sums[0, 0] / 64))
    (penalised, value), (free, other) = found
    l1, l2, bias_l1, bias_l2 = STRENGTHS[0]
    kernel, bias = arrays[0], arrays[1]
    assert error(free[0] - penalised[0], RATE * (l1 * np.sign(kernel) + 2 * l2 * kernel)) < 1e-3
    assert error(free[1] - penalised[1], RATE * (bias_l1 * np.sign(bias) + 2 * bias_l2 * bias)) < 1e-3
    of_kernel = l1 * np.abs(kernel).sum() + l2 * np.square(kernel).sum()
    of_bias = bias_l1 * np.abs(bias).sum() + bias_l2 * np.square(bias).sum()
    assert value - other == pytest.approx(of_kernel + of_bias, rel=1e-5)
