"""L-BFGS in ``Model.fit``: SciPy's own minimum, iterations as epochs, and what it can't do."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import inputs, targets

import fastbp as fb

pytest.importorskip("scipy", reason="L-BFGS is SciPy's")

LOSS = "mean_squared_error"


def made(optimizer: Any = "lbfgs", dtype: str = "float64", **options: Any) -> fb.Model:
    layers = [fb.Dense(6, "tanh", kernel_regularizer=fb.regularizers.L2(0.001)), fb.Dense(2, **options)]
    model = fb.Model(layers, dtype=dtype, threads=2)
    model.compile(optimizer, LOSS, metrics=["mae"])
    return model


X, Y = inputs(200, 4), targets(LOSS, 200, 2)


def test_it_is_scipys_search_over_the_reported_loss() -> None:
    """Held against SciPy called by hand with `gradients` and `evaluate`."""
    from scipy.optimize import minimize

    model = made(fb.LBFGS(history_size=5))
    history = model.fit(X, Y, epochs=30, verbose=0)
    other = made("sgd")
    other.build(4)
    shapes = [w.shape for w in other.get_weights()]
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        other.set_weights([a.reshape(s) for a, s in zip(np.split(flat, cuts), shapes, strict=True)])
        return other.evaluate(X, Y)[0], np.concatenate([g.ravel() for g in other.gradients(X, Y)])

    start = np.concatenate([w.ravel() for w in other.get_weights()])
    options = {"maxiter": 30, "maxcor": 5, "gtol": 1e-5, "ftol": 2.2e-9}
    found = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    assert history.history["loss"][-1] == pytest.approx(found.fun, rel=1e-9)
    assert len(history.history["loss"]) == found.nit
    value(found.x)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_each_epoch_is_an_iteration_and_reports_the_weights_after_it() -> None:
    model, seen = made(), []

    def look(epoch: int, logs: dict[str, float]) -> None:
        seen.append((logs, model.evaluate(X[:150], Y[:150]), model.evaluate(X[150:], Y[150:])))

    history = model.fit(
        X, Y, epochs=8, validation_split=0.25, callbacks=fb.callbacks.LambdaCallback(on_epoch_end=look), verbose=0
    )
    assert len(seen) == 8
    for logs, train, held in seen:
        assert [logs["loss"], logs["mae"]] == pytest.approx(train, rel=1e-12)
        assert [logs["val_loss"], logs["val_mae"]] == pytest.approx(held, rel=1e-12)
    losses = history.history["loss"]
    assert all(b < a for a, b in itertools.pairwise(losses))


def test_it_ends_where_it_has_converged() -> None:
    model = fb.Model([fb.Dense(2)], dtype="float64")
    model.compile(fb.LBFGS(tolerance_grad=1e-9, tolerance_change=0), LOSS)
    history = model.fit(X, Y, epochs=500, verbose=0)
    assert len(history.history["loss"]) < 100
    assert "stopped by L-BFGS: CONVERGENCE" in history.stopped
    best = np.linalg.lstsq(np.column_stack([X, np.ones(200)]), Y, rcond=None)[0]
    np.testing.assert_allclose(np.vstack(model.get_weights()), best, rtol=1e-6, atol=1e-8)


def test_a_callback_ends_it() -> None:
    model = made()
    history = model.fit(
        X,
        Y,
        epochs=50,
        callbacks=fb.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 3)
        ),
        verbose=0,
    )
    assert len(history.history["loss"]) == 4
    assert model.evaluate(X, Y)[0] == pytest.approx(history.history["loss"][-1], rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_numbers_descend_too(dtype: str) -> None:
    history = made(dtype=dtype).fit(X, Y, epochs=10, verbose=0)
    assert history.history["loss"][-1] < 0.9 * history.history["loss"][0]


def test_weights_rows_and_frozen_layers() -> None:
    """Rows that weigh nothing are not there; frozen layers stay."""
    weights = np.r_[np.ones(100), np.zeros(100)]
    one, other = made(), made()
    one.fit(X, Y, sample_weight=2 * weights, epochs=5, verbose=0)
    one_more = made()
    one_more.fit(X[:100], Y[:100], epochs=5, verbose=0)
    for a, b in zip(one.get_weights(), one_more.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    other.layers[0].trainable = False
    other.build(4)
    before = other.get_weights()
    other.fit(X, Y, epochs=5, verbose=0)
    np.testing.assert_array_equal(before[0], other.get_weights()[0])
    assert not np.array_equal(before[2], other.get_weights()[2])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    x, y = inputs(300, 150), targets(LOSS, 300, 2)
    found = []
    for threads in (1, 2, 3):
        model = fb.Model([fb.Dense(130, "tanh"), fb.Dense(2)], threads=threads)
        model.compile("lbfgs", LOSS)
        model.fit(x, y, epochs=4, verbose=0)
        found.append(model.get_weights())
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_files_keep_it(tmp_path: Path) -> None:
    model = made(fb.LBFGS(history_size=7))
    model.fit(X, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model")
    loaded = fb.load_model(tmp_path / "model")
    assert loaded.optimizer == fb.LBFGS(history_size=7)
    assert loaded.fit(X, Y, epochs=3, verbose=0).history == model.fit(X, Y, epochs=3, verbose=0).history


def test_what_it_cannot_do_is_said() -> None:
    for options, message in (
        ({"batch_size": 10}, "batch_size makes no sense with LBFGS, whose every step looks at all rows: leave it out"),
        ({"checkpoint": "there"}, "checkpoint makes no sense with LBFGS"),
    ):
        with pytest.raises(ValueError, match=message):
            made().fit(X, Y, verbose=0, **options)
    for layer, message in (
        (fb.Dropout(0.5), "dropout layer has noise"),
        (fb.BatchNormalization(), "statistics of batch"),
    ):
        model = fb.Model([layer, fb.Dense(2)])
        model.compile(fb.LBFGS(), "mean_squared_error")
        with pytest.raises(ValueError, match=message):
            model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"has a kernel_constraint, which LBFGS can't heed"):
        made(kernel_constraint="non_neg").fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"only fit can use it"):
        made().train_on_batch(X, Y)
    with pytest.raises(ValueError, match=r"models\[0\]: LBFGS looks at all rows|only fit can use it"):
        fb.fit_many([made()], X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"LBFGS: history_size must be a whole number of at least 1, got 0"):
        fb.LBFGS(history_size=0)
    with pytest.raises(TypeError, match="learning_rate"):
        fb.LBFGS(learning_rate=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="Did you mean 'lbfgs'"):
        made("lbgfs")


def test_a_search_that_begins_at_infinity_is_refused() -> None:
    model = made()
    with pytest.raises(fb.DivergenceError, match="the loss became NaN or infinite in epoch 1"):
        model.fit(1e200 * X, 1e200 * Y, epochs=3, verbose=0)
