"""Gradients that are summed by halves of the rows: right, and the same bits whoever sums them."""

from typing import Any

import numpy as np
import pytest
import reference
from helpers import TOLERANCE, error, inputs, targets

import fastbp as fb
from fastbp import program as pg
from fastbp.constraints import MaxNorm

LOSS = "mean_squared_error"
BATCH = 200
WIDTHS = [20, 37, 18, 3]
LAYERS: list[dict[str, Any]] = [{"trainable": False}, {"kernel_regularizer": "l2", "kernel_constraint": MaxNorm(0.9)}]


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to do."""
    monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)


def made(optimizer: Any, dtype: str, threads: int, layers: list[dict[str, Any]]) -> fb.Model:
    hidden = [fb.Dense(n, activation="tanh", **each) for n, each in zip(WIDTHS[1:-1], layers, strict=True)]
    model = fb.Model([*hidden, fb.Dense(WIDTHS[-1])], dtype=dtype, threads=threads)
    model.build(WIDTHS[0])
    rng = np.random.default_rng(7)
    model.set_weights([0.3 * rng.standard_normal(w.shape) for w in model.get_weights()])
    model.compile(optimizer, LOSS)
    return model


def fitted(model: fb.Model, rows: int) -> list[np.ndarray]:
    x, y = inputs(rows, WIDTHS[0]), targets(LOSS, rows, WIDTHS[-1])
    model.fit(x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0)
    return model.get_weights()


def kinds(model: fb.Model) -> set[int]:
    """Of the tasks that the model's engine last laid out."""
    *_, bound = model._engine._bound.values()
    return set(bound.plan.tasks[:, 0])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("last", [0, 1, 33, 147])
def test_training_is_the_references(last: int, dtype: str) -> None:
    """A short last batch too, of one panel of rows, whose first half has none, or of several."""
    model = made(fb.SGD(0.1, momentum=0.5), dtype, 2, [{}, {}])
    weights = [w.astype(np.float64) for w in model.get_weights()]
    rows = 2 * BATCH + last
    found = fitted(model, rows)
    assert pg.HALF in kinds(model)
    x, y = inputs(rows, WIDTHS[0]), targets(LOSS, rows, WIDTHS[-1])
    names = [layer.activation.name for layer in model.layers]
    wanted, _ = reference.train(
        weights, names, LOSS, reference.SGD(0.1, momentum=0.5), x, y, batch_size=BATCH, epochs=3
    )
    for got, truth in zip(found, wanted, strict=True):
        assert error(got, truth) < 10 * TOLERANCE[dtype]


def test_a_vector_without_rows_leaves_no_trace() -> None:
    """Nothing is summed of it, even where an activation isn't finite at 0, which it holds."""
    logarithmic = [fb.Dense(n, lambda z: np.log(np.abs(z))) for n in WIDTHS[1:-1]]
    model = fb.Model([*logarithmic, fb.Dense(WIDTHS[-1])], threads=2, seed=1)
    model.compile(fb.SGD(1e-3), LOSS)
    before, after = fitted(model, BATCH), fitted(model, BATCH)
    assert all(np.isfinite(w).all() for w in after)
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layers", [[{}, {}], LAYERS], ids=["plain", "layers of all kinds"])
@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2}, {"global_clipnorm": 0.1}, {"clipvalue": 0.01}], ids=str
)
def test_any_number_of_threads_gives_the_same_bits(
    options: dict[str, Any], layers: list[dict[str, Any]], dtype: str
) -> None:
    found = []
    for threads in (1, 2, 3, 5):
        model = made(fb.Adam(0.01, **options), dtype, threads, layers)
        found.append(fitted(model, 2 * BATCH + 20))
        assert (pg.HALF in kinds(model)) == (threads <= 2)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("last", [0, 1, 260])
def test_rows_in_turns(last: int) -> None:
    """Later rows take the places of earlier ones; losses, metrics and sums are those of rows that all have one."""
    batch, width = 700, 3
    x, y = (
        inputs(2 * batch + last, WIDTHS[0]),
        np.eye(width)[np.random.default_rng(1).integers(0, width, 2 * batch + last)],
    )
    weights = np.random.default_rng(2).uniform(0.5, 2, len(x))
    found, histories = [], []
    for threads in (1, 2, 3):
        model = made(fb.SGD(0.1, momentum=0.5), "float32", threads, [{}, {}])
        before = [w.astype(np.float64) for w in model.get_weights()]
        model.compile(fb.SGD(0.1, momentum=0.5), LOSS, metrics=["auc"], weighted_metrics=["mae"])
        history = model.fit(x, y, batch_size=batch, epochs=2, sample_weight=weights, verbose=0)
        histories.append(history.history)
        found.append(model.get_weights())
        *_, bound = model._engine._bound.values()
        assert bound.run[pg.TURN] * 2 < batch
        assert (pg.HALF in kinds(model)) == (threads <= 2)
    assert histories[0] == histories[1] == histories[2]
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    model = made(fb.SGD(0.1, momentum=0.5), "float32", 2, [{}, {}])
    model.fit(x, y, batch_size=batch, epochs=2, shuffle=False, verbose=0)
    names = [layer.activation.name for layer in model.layers]
    wanted, _ = reference.train(before, names, LOSS, reference.SGD(0.1, momentum=0.5), x, y, batch_size=batch, epochs=2)
    for got, truth in zip(model.get_weights(), wanted, strict=True):
        assert error(got, truth) < 10 * TOLERANCE["float32"]


def test_the_gradient_written_out_is_the_same() -> None:
    x, y = inputs(BATCH, WIDTHS[0]), targets(LOSS, BATCH, WIDTHS[-1])
    one, two = (made("sgd", "float64", threads, [{}, {}]) for threads in (1, 2))
    for a, b in zip(one.gradients(x, y), two.gradients(x, y), strict=True):
        np.testing.assert_array_equal(a, b)
    assert pg.HALF in kinds(two)
