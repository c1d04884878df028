"""The learning-rate range test: what it sees, what it suggests, and that it leaves the model alone."""

import sys
from typing import Any

import numpy as np
import pytest
import reference
from helpers import inputs, make, targets

import fastbp as fb


def problem(rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    x = inputs(rows, 6)
    return x, np.tanh(x @ inputs(6, 2, seed=9))


def test_the_curve_is_the_loss_of_each_step_by_the_reference() -> None:
    x, y = problem(64)
    model = make([6, 8, 2], dtype="float64")
    model.compile(fb.SGD(0.123, momentum=0.5), "mse")
    curve = fb.find_learning_rate(model, x, y, batch_size=64, start=1e-5, end=0.1, steps=30)
    np.testing.assert_allclose(curve.rates, np.geomspace(1e-5, 0.1, 30))
    weights = reference.with_biases(model.get_weights())
    optimizer = reference.SGD(lambda step: curve.rates[step], momentum=0.5)
    for loss in curve.losses:
        wanted, gradients, _ = reference.loss_and_gradients(weights, ["tanh", "linear"], "mse", x, y)
        assert loss == pytest.approx(wanted, rel=1e-10)
        optimizer.update(reference.without_biases(weights), reference.without_biases(gradients))


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("optimizer", [fb.SGD(0.1, 0.9), fb.Adam(use_ema=True), fb.Adam(fb.schedules.OneCycle(1, 9))])
def test_the_model_is_left_as_it_is(optimizer: Any, built: bool) -> None:
    x, y = problem()
    models = []
    for tested in (False, True):
        model = fb.Model([fb.Dense(8, "tanh"), fb.Dense(2)], seed=3)
        model.compile(optimizer, "mse", metrics=["mae"])
        if built:
            model.fit(x, y, epochs=2, verbose=0)
        if tested:
            before = model.history
            fb.find_learning_rate(model, x, y)
            assert model.history is before and model.built == built
            assert model.optimizer == optimizer
        models.append(model)
    histories = [model.fit(x, y, epochs=3, verbose=0).history for model in models]
    assert histories[0] == histories[1]
    for a, b in zip(*([m._engine.weights, *m._engine.moments()] for m in models), strict=True):  # type: ignore[union-attr]
        np.testing.assert_array_equal(a, b)


def test_the_suggestion_trains_and_the_end_of_the_curve_does_not() -> None:
    x, y = problem()
    model = make([6, 16, 2], "relu")
    model.compile("sgd", "mse")
    curve = fb.find_learning_rate(model, x, y, batch_size=32, end=1e3)
    assert 1e-4 < curve.suggestion < curve.rates[-1] < 1e3
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) < 200
    before = model.evaluate(x, y)
    start = model.get_weights()
    model.compile(fb.SGD(curve.suggestion), "mse")
    assert model.fit(x, y, epochs=5, verbose=0).history["loss"][-1] < 0.8 * before
    model.set_weights(start)
    model.compile(fb.SGD(curve.rates[-1]), "mse")
    with pytest.raises(fb.DivergenceError):
        model.fit(x, y, epochs=50, verbose=0)
    assert repr(curve).startswith(
        f"LearningRateCurve(suggestion {curve.suggestion:.2g}; {len(curve.rates)} steps from 1e-07"
    )


def test_weights_of_rows_count() -> None:
    x, y = problem(32)
    model = make([6, 8, 2])
    model.compile("sgd", "mse")
    weights = np.arange(32.0)
    curve = fb.find_learning_rate(model, x, y, sample_weight=weights, steps=20)
    assert curve.losses[0] == pytest.approx(model.evaluate(x, y, sample_weight=weights), rel=1e-5)


def test_classes_and_a_loss_summed_over_rows_will_do() -> None:
    x = inputs(100, 6)
    for loss, output in (("sparse_categorical_crossentropy", "softmax"), ("half_squared_error", "linear")):
        model = make([6, 8, 3], output=output)
        model.compile("adam", loss)
        y = targets(loss, 100, 3)
        curve = fb.find_learning_rate(model, x, y, batch_size=100, steps=20, end=1e-6)
        np.testing.assert_allclose(curve.losses, model.evaluate(x, y), rtol=1e-3)


def test_bad_options() -> None:
    x, y = problem()
    model = make([6, 8, 2])
    with pytest.raises(RuntimeError, match="find_learning_rate: the model isn't compiled"):
        fb.find_learning_rate(model, x, y)
    model.compile("sgd", "mse")
    for options, message in (
        ({"start": 0.0}, "start must be above 0 and below end, got start=0.0 and end=10.0"),
        ({"start": 1.0, "end": 0.5}, "start must be above 0 and below end"),
        ({"end": float("nan")}, "end must be a number"),
        ({"steps": 3}, "steps must be a whole number of at least 20"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            fb.find_learning_rate(model, x, y, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the loss is NaN or infinite from the first steps on, at a rate of 1e-07"):
        fb.find_learning_rate(model, x, 1e30 * y)


def test_it_is_drawn(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    x, y = problem()
    model = make([6, 8, 2])
    model.compile("sgd", "mse")
    curve = fb.find_learning_rate(model, x, y)
    figure = curve.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    lines = figure.axes[0].get_lines()
    np.testing.assert_array_equal(lines[0].get_ydata(), curve.losses)
    assert list(lines[2].get_xdata()) == [curve.suggestion] * 2


def test_drawing_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem()
    model = make([6, 8, 2])
    model.compile("sgd", "mse")
    curve = fb.find_learning_rate(model, x, y, steps=20)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[plot\]'"):
        curve.plot()
