"""Every script under scripts/examples, against the same mathematics in float64 NumPy."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike
from reference import SGD, Adam, Weights, forward, loss_and_gradients, train, with_biases, without_biases

import fastbp as fb

EXAMPLES = Path(__file__).resolve().parent.parent / "scripts" / "examples"

#: Largest difference allowed, relative and absolute; after up to 10,000 steps 1e-15 and 2e-6 were measured.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def example(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


def assert_close(got: ArrayLike, want: ArrayLike, dtype: str) -> None:
    assert_allclose(np.asarray(got), np.asarray(want), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def assert_weights(model: fb.Model, want: Weights, dtype: str) -> None:
    for array, expected in zip(model.get_weights(), without_biases(want), strict=True):
        assert array.dtype == dtype
        assert_close(array, expected, dtype)


@dtypes
def test_one_layer(dtype: str) -> None:
    script = example("one_layer")
    start, model, history = script.main(dtype=dtype)
    expected, losses = train(
        with_biases(start), ["sigmoid"], "half_squared_error", SGD(1.0), script.X, script.Y, epochs=10_000
    )
    assert_weights(model, expected, dtype)
    assert_close(history.history["loss"], losses, dtype)
    assert_allclose(model.predict(script.X), script.Y, atol=0.02)


@dtypes
def test_sigmoid_regression(dtype: str) -> None:
    script = example("sigmoid_regression")
    start, model, history = script.main(dtype=dtype)
    expected, losses = train(with_biases(start), ["sigmoid"], "mse", SGD(1.0), script.X, script.Y, epochs=1000)
    assert_weights(model, expected, dtype)
    assert_close(history.history["loss"], losses, dtype)
    assert losses[-1] < 1e-3
    _, gradients, _ = loss_and_gradients(expected, ["sigmoid"], "mse", script.X, script.Y)
    assert_allclose(np.concatenate([g.ravel() for g in without_biases(gradients)]), 0, atol=1e-4)


@dtypes
def test_train_step(dtype: str) -> None:
    script = example("train_step")
    start, model, scores = script.main(dtype=dtype)
    x, y = script.make_data()
    assert len(x) % script.BATCH, "the last batch is a short one"
    weights, activations, adam = with_biases(start), ["relu", "softmax"], Adam(0.001)
    for loss, accuracy in scores:
        weights, _ = train(weights, activations, "categorical_crossentropy", adam, x, y, batch_size=script.BATCH)
        expected, _, _ = loss_and_gradients(weights, activations, "categorical_crossentropy", x, y)
        outputs = forward(weights, activations, x)
        assert_close(loss, expected, dtype)
        assert_allclose(
            accuracy, (outputs.argmax(axis=1) == y.argmax(axis=1)).mean(), atol=1e-12 if dtype == "float64" else 2e-3
        )
    assert_weights(model, weights, dtype)
    assert scores[-1][1] > 0.9


@dtypes
def test_xor(dtype: str) -> None:
    script = example("xor")
    start, model, history = script.main(dtype=dtype)
    weights, activations, epochs = with_biases(start), ["sigmoid", "sigmoid"], len(history.epoch)
    expected, losses = train(weights, activations, "half_squared_error", SGD(2.0), script.X, script.Y, epochs=epochs)
    assert_weights(model, expected, dtype)
    assert_close(history.history["loss"], losses, dtype)
    assert_allclose(model.predict(script.X), script.Y, atol=0.05)


def test_keras_example() -> None:
    script = example("keras_example")
    start, model, history, score = script.main(shuffle=False)
    x, y, activations = script.x_train, script.y_train, ["relu", "sigmoid"]
    expected, losses = train(with_biases(start), activations, "binary_crossentropy", SGD(0.01), x, y, epochs=10)
    assert_weights(model, expected, "float32")
    assert_allclose(history.history["loss"], losses, rtol=1e-6)
    loss, _, _ = loss_and_gradients(expected, activations, "binary_crossentropy", x, y)
    assert_allclose(score[0], loss, rtol=1e-6)
    # a row within float32's rounding of one half may fall on either side
    accuracy = ((forward(expected, activations, x) > 0.5) == y).mean()
    assert_allclose(score[1], accuracy, atol=2e-3)
    assert sorted(history.history) == ["accuracy", "loss"]


def test_mixed_columns_search() -> None:
    search, score = example("mixed_columns_search").main()
    assert score > 0.8
    assert len(search.cv_results_["params"]) == 8


def test_parquet_report(tmp_path: Path) -> None:
    model, page, predicted, error = example("parquet_report").main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rents.parquet", "m.fastbp", "r.html", "new.csv"}
    assert "Permutation importance" in page and len(model) > 1000
    assert list(predicted.columns) == ["flat", "rent"] and len(predicted) == 400
    assert error < 100


def test_served_by_onnxruntime() -> None:
    here, served, accuracy = example("served_by_onnxruntime").main()
    assert_allclose(served, here, atol=1e-5)
    assert accuracy > 0.85


def test_ensemble_calibration(tmp_path: Path) -> None:
    errors, accuracy = example("ensemble_calibration").main(tmp_path / "c.png")
    assert errors[-1] < np.mean(errors[:-1]) and accuracy > 0.75
    assert (tmp_path / "c.png").stat().st_size > 5000


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_run_as_scripts(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert not any("nan" in line for line in lines)


def test_embeddings() -> None:
    model, scores = example("embeddings").main()
    assert scores[0] > 0.9
    assert [type(layer).__name__ for layer in model.layers] == ["Embedding", "Dense", "Dense", "Dense"]
