"""Several columns of class numbers, learned by one network: the softmax of each, side by side."""

from pathlib import Path

import numpy as np
import pytest
from helpers import inputs

import fastbp as fb

CLASSES = 3, 1, 2, 4
BORDERS = list(zip(np.cumsum([0, *CLASSES]), np.cumsum(CLASSES), strict=False))
ROWS = 101
X = inputs(ROWS, 5)
Y = np.random.default_rng(7).integers(0, CLASSES, (ROWS, len(CLASSES)))


def make(dtype: str = "float64", hidden: int = 9, **options: object) -> fb.Model:
    model = fb.Model([fb.Dense(hidden, "tanh"), fb.Dense(sum(CLASSES))], dtype=dtype, seed=3, **options)
    model.compile("sgd", fb.SparseCategoricalCrossentropies(CLASSES), metrics=["accuracy"])
    return model


def by_hand(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row's loss and accuracy, and the loss's gradient, in float64."""
    value, right, dz = np.zeros(len(z)), np.zeros(len(z)), np.zeros(z.shape)
    for column, (low, high) in enumerate(BORDERS):
        own, target = z[:, low:high].astype(float), np.eye(high - low)[y[:, column]]
        shares = np.exp(own - own.max(axis=1, keepdims=True))
        value += np.log(shares.sum(axis=1)) + own.max(axis=1) - own[target == 1]
        shares /= shares.sum(axis=1, keepdims=True)
        right += own.argmax(axis=1) == y[:, column]
        dz[:, low:high] = shares - target
    return value, right / len(y[0]), dz


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_the_sum_of_cross_entropies(dtype: str, tolerance: float, threads: int) -> None:
    model = make(dtype, threads=threads)
    loss, accuracy = model.evaluate(X, Y)
    z = model.predict(X)
    values, right, dz = by_hand(z, Y)
    assert loss == pytest.approx(values.mean(), rel=tolerance)
    assert accuracy == pytest.approx(right.mean())
    found = model.gradients(X, Y)
    hidden = model.predict(X, upto=0)
    np.testing.assert_allclose(found[2], hidden.T @ dz / ROWS, atol=10 * tolerance)
    np.testing.assert_allclose(found[3], dz.mean(axis=0), atol=10 * tolerance)


def test_central_differences() -> None:
    model, step = make(hidden=2), 1e-6
    gradients, weights = model.gradients(X, Y), model.get_weights()
    for w, g in zip(weights, gradients, strict=True):
        for place in np.ndindex(w.shape):
            kept, values = w[place], []
            for sign in (1, -1):
                w[place] = kept + sign * step
                model.set_weights(weights)
                values.append(model.evaluate(X, Y)[0])
            w[place] = kept
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(g[place], abs=2e-8, rel=2e-6)


def test_huge_logits() -> None:
    model = make("float32")
    model.build(5)
    model.set_weights([w * 1e4 for w in model.get_weights()])
    loss, _ = model.evaluate(X, Y)
    assert loss == pytest.approx(by_hand(model.predict(X), Y)[0].mean(), rel=1e-5)
    assert all(np.isfinite(g).all() for g in model.gradients(X, Y))


def test_a_device_trains_them_too(cuda: bool) -> None:
    ours, other = make(hidden=4), make(hidden=4, device="cuda")
    for model in (ours, other):
        model.fit(X, Y, epochs=2, batch_size=40, verbose=0)
    np.testing.assert_allclose(other.evaluate(X, Y), ours.evaluate(X, Y), rtol=1e-9)


def test_rows_with_a_missing_class_are_left_out() -> None:
    model = make()
    model.compile("sgd", fb.SparseCategoricalCrossentropies(CLASSES), metrics=["accuracy"], mask_nan=True)
    gaps = Y.astype(float)
    gaps[[4, 50], [2, 0]] = np.nan
    rest = np.delete(np.arange(ROWS), [4, 50])
    missing, whole = model.evaluate(X, gaps), model.evaluate(X[rest], Y[rest])
    assert missing[1] == pytest.approx(whole[1])
    assert missing[0] * ROWS == pytest.approx(whole[0] * len(rest))


def test_files_and_many(tmp_path: Path) -> None:
    model = make()
    wanted = model.evaluate(X, Y)
    model.save(tmp_path / "m.fastbp")
    assert fb.Model.load(tmp_path / "m.fastbp").evaluate(X, Y) == wanted
    alone, together = make(), [make(), make()]
    alone.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    fb.fit_many(together, X, Y, epochs=2, batch_size=16, verbose=0)
    np.testing.assert_array_equal(alone.predict(X), together[1].predict(X))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (Y[:, :3], r"y has shape \(101, 3\); this loss wants class numbers of shape \(101, 4\)"),
        (Y[:, 0], r"y has shape \(101,\); this loss wants class numbers of shape \(101, 4\)"),
        (Y + np.array([0, 0, 2, 0]), r"y\[:, 2\]\[0\] is .*: column 2 has 2 classes, so class numbers go from 0 to 1"),
        (Y + 0.5, r"y\[:, 0\]\[0\] is .*: class numbers are whole"),
        (np.where(Y == Y, np.nan, 0), "NaN"),
    ],
)
def test_wrong_targets(y: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make().fit(X, y, verbose=0)


def test_wrong_uses() -> None:
    for classes in ("ab", [], [2, 0], [2.0]):
        with pytest.raises(ValueError, match="wanted how many classes each column has, got"):
            fb.SparseCategoricalCrossentropies(classes)  # type: ignore[arg-type]
    loss = fb.SparseCategoricalCrossentropies([3, 2])
    model = fb.Model([fb.Dense(6)])
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match="last layer has 6 outputs; y's columns have 5 classes"):
        model.fit(X, Y[:, :2], verbose=0)
    with pytest.raises(ValueError, match="needs linear outputs, the last layer has 'softmax'"):
        fb.Model([fb.Dense(5, "softmax")]).compile("sgd", loss)
    model = fb.Model([fb.Dense(5)])
    with pytest.raises(ValueError, match="auc doesn't go with several columns of classes: accuracy does"):
        model.compile("sgd", loss, metrics=["auc"])
        model.fit(X, Y[:, :2], verbose=0)
