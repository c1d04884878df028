"""What a fit takes and does, on device="cuda", beside the CPU engine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import error, inputs, make, targets

import fastbp as fb

LABELS = "sparse_categorical_crossentropy"
ROWS = 26


@pytest.fixture(params=["many launches", "one block"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks launch by launch, and by one block of threads where that can be."""
    if request.param == "many launches":
        pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
        monkeypatch.setattr("fastbp.cuda.narrow.one_block.MOST_WORK", 0)


def models(loss: str = LABELS, **options: Any) -> list[fb.Model]:
    made = []
    for device in ("cpu", "cuda"):
        model = make([5, 6, 3], "tanh", "softmax" if loss == LABELS else "linear", device=device, **options)
        model.compile(fb.Adam(0.02), loss, metrics=["accuracy"] if loss == LABELS else None)
        made.append(model)
    return made


def alike(found: list[fb.Model], tolerance: float = 2e-5) -> None:
    """Histories and weights of both."""
    cpu, cuda = found
    assert cpu.history is not None and cuda.history is not None
    assert cpu.history.history.keys() == cuda.history.history.keys()
    for name, values in cpu.history.history.items():
        np.testing.assert_allclose(cuda.history.history[name], values, rtol=1e-3, atol=tolerance, err_msg=name)
    for a, b in zip(cuda.get_weights(), cpu.get_weights(), strict=True):
        assert error(a, b) < tolerance


X, Y = inputs(ROWS, 5), targets(LABELS, ROWS, 3)

OPTIONS: dict[str, dict[str, Any]] = {
    "class weights": {"class_weight": "balanced"},
    "validation data": {"validation_data": (X[:9], Y[:9], np.linspace(0, 2, 9))},
    "stratified": {"validation_split": 0.3, "stratify": True, "shuffle": False},
    "steps of an epoch": {"steps_per_epoch": 3, "epochs": 3},
    "early stopping": {"epochs": 6, "callbacks": fb.callbacks.EarlyStopping("loss", min_delta=0.1, patience=1)},
    "a look at every batch": {"callbacks": fb.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, cuda: bool) -> None:
    found = models()
    for model in found:
        model.fit(X, Y, **{"batch_size": 8, "epochs": 2, "verbose": 0, **OPTIONS[name]})
    alike(found)


def test_targets_that_are_missing(cuda: bool) -> None:
    found = models("mse")
    y = targets("mean_squared_error", ROWS, 3)
    y[::3, 0], y[4] = np.nan, np.nan
    for model in found:
        model.compile(fb.SGD(0.1), "mse", metrics=["mae"], mask_nan=True)
        model.fit(X, y, batch_size=8, epochs=2, verbose=0)
    alike(found)


def test_batches_of_a_generator_that_writes_to_the_same_array(cuda: bool) -> None:
    """What is read once isn't held on the device, though the array is the same."""
    found = models()

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        x, y = np.empty((8, 5), np.float32), np.empty(8, np.int64)
        for first in range(0, 24, 8):
            x[:], y[:] = X[first : first + 8], Y[first : first + 8]
            yield x, y

    for model in found:
        model.fit(batches, epochs=2, verbose=0, validation_data=batches)
    alike(found)


def test_sparse_rows(cuda: bool) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    x = np.where(np.abs(X) > 0.8, X, 0.0)
    _, dense = models()
    dense.fit(x, Y, batch_size=8, epochs=2, verbose=0, validation_split=0.2)
    model = models()[1]
    model.fit(sparse.csr_matrix(x), Y, batch_size=8, epochs=2, verbose=0, validation_split=0.2)
    for a, b in zip(model.get_weights(), dense.get_weights(), strict=True):
        assert error(a, b) < 1e-6
    np.testing.assert_array_equal(model.predict(sparse.csr_matrix(x)), model.predict(x))


def test_batch_by_batch(cuda: bool) -> None:
    found = models()
    for model in found:
        values = [model.train_on_batch(X[:8], Y[:8], np.arange(8.0)) for _ in range(3)]
        values += [model.test_on_batch(X, Y), model.evaluate(X, Y, batch_size=7)]
        if model.device == "cpu":
            wanted = values
    np.testing.assert_allclose(values, wanted, rtol=1e-4)


def test_a_fit_is_resumed_to_the_same_bits(tmp_path: Path, cuda: bool) -> None:
    whole, first, rest = (models()[1] for _ in range(3))
    options = {"batch_size": 8, "verbose": 0}
    whole.fit(X, Y, epochs=4, checkpoint=tmp_path / "whole", **options)
    first.fit(X, Y, epochs=2, checkpoint=tmp_path / "half", **options)
    rest.fit(X, Y, epochs=4, checkpoint=tmp_path / "half", resume=True, **options)
    for a, b in zip(rest.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_profile_says_where_a_step_goes(cuda: bool) -> None:
    model = models()[1]
    weights = model.get_weights()
    found = fb.profile(model, X, Y, batch_size=8, seconds=0.05)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert list(found.parts) in (
        ["steps", "launch", "python"],
        ["gather", "forward", "loss", "backward", "weights", "launch", "python"],
    )
    assert sum(found.shares.values()) == pytest.approx(1)
    assert all(share > 0 for name, share in found.shares.items() if name not in ("launch", "python"))
    text = repr(found)
    assert "cuda" in text.splitlines()[0] and "of the FMA peak" not in text and "launching and waiting" in text
    written = found.to_dict()
    assert written["peak_gflops"] is None and "share_of_peak" not in written
    assert repr(type(found).from_dict(json.loads(json.dumps(written, allow_nan=False)))) == text
    assert type(found).merged([found, found]).parts.keys() == found.parts.keys()
    pytest.importorskip("matplotlib")
    assert found.plot().get_title().endswith("cuda")


def test_slices_of_rows_have_phases_too(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbp.cuda.narrow.one_block.MOST_WORK", 0)
    monkeypatch.setattr("fastbp.cuda.narrow.slices.LEAST_ROWS", 1)
    found = fb.profile(models()[1], X, Y, batch_size=8, seconds=0.05)
    assert list(found.parts) == ["forward", "loss", "weights", "launch", "python"]


def test_all_rows_at_once_by_lbfgs(cuda: bool) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed")
    found = models("mse", dtype="float64")
    y = targets("mean_squared_error", ROWS, 3)
    for model in found:
        model.compile(fb.LBFGS(), "mse")
        model.fit(X, y, epochs=4, verbose=0)
    alike(found, 1e-7)


def test_gradients_by_layer_and_the_search_for_a_rate(cuda: bool) -> None:
    cpu, found = models()
    for name, norm in cpu.gradient_report(X, Y).norms.items():
        assert found.gradient_report(X, Y).norms[name] == pytest.approx(norm, rel=1e-4)
    before = [array.copy() for array in found.get_weights()]
    curves = [fb.find_learning_rate(model, X, Y, batch_size=8, start=1e-4, end=0.1, steps=20) for model in (cpu, found)]
    np.testing.assert_allclose(curves[1].rates, curves[0].rates)
    np.testing.assert_allclose(curves[1].losses, curves[0].losses, rtol=1e-3)
    for a, b in zip(found.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
