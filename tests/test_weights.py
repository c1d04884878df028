"""Sample weights, class weights, missing targets and stratified splits, against sums of the reference over rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from helpers import OUTPUT, TOLERANCE, error, expected, inputs, make, outputs, targets

import fastbp as fb
from fastbp.losses import LOSSES
from fastbp.training.fit import Fit

SPARSE = "sparse_categorical_crossentropy"
ELEMENTWISE = [name for name, row in LOSSES.items() if not row.coupled]
X = inputs(37, 5)
WEIGHTS = np.random.default_rng(2).uniform(0, 3, 37) * (np.arange(37) % 4 != 1)


def model_for(loss: str, dtype: str = "float64", widths: tuple[int, ...] = (5, 7, 3), **options: Any) -> fb.Model:
    model = make(list(widths), "tanh", OUTPUT.get(loss, "linear"), dtype=dtype)
    model.compile(fb.SGD(0.01), loss, **options)
    return model


def by_rows(model: fb.Model, loss: str, y: np.ndarray, weights: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The weighted loss and gradient as sums of the reference's over single rows, divided as Keras divides."""
    parts = [expected(model, loss, X[i : i + 1], y[i : i + 1]) for i in range(len(X))]
    share = weights / len(X) if LOSSES[loss].mean_rows else weights
    value = sum(w * part[0] for w, part in zip(share, parts, strict=True))
    sums = [sum(w * part[1][i] for w, part in zip(share, parts, strict=True)) for i in range(len(parts[0][1]))]
    return float(value), sums  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_sample_weights_multiply_the_rows_losses(loss: str, dtype: str) -> None:
    model, y = model_for(loss, dtype), targets(loss, 37, 3)
    value, gradients = by_rows(model, loss, y, WEIGHTS)
    assert model.evaluate(X, y, sample_weight=WEIGHTS) == pytest.approx(value, rel=20 * TOLERANCE[dtype])
    assert model.test_on_batch(X, y, WEIGHTS) == pytest.approx(value, rel=20 * TOLERANCE[dtype])
    for got, wanted in zip(model.gradients(X, y, sample_weight=WEIGHTS), gradients, strict=True):
        assert error(got, wanted) < 20 * TOLERANCE[dtype]
    before = model.get_weights()
    assert model.train_on_batch(X, y, WEIGHTS) == pytest.approx(value, rel=20 * TOLERANCE[dtype])
    for old, new, gradient in zip(before, model.get_weights(), gradients, strict=True):
        assert error(old - new, 0.01 * gradient) < 2e3 * TOLERANCE[dtype]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_of_weight_zero_may_overflow(loss: str) -> None:
    found = []
    for junk in (0.0, 3e38):
        model, x, y = model_for(loss, "float32", (5, 3)), X.astype(np.float32), targets(loss, 37, 3)
        x[WEIGHTS == 0] = junk
        found.append([np.float64(model.evaluate(x, y, sample_weight=WEIGHTS))])
        found[-1] += model.gradients(x, y, sample_weight=WEIGHTS)
    for a, b in zip(*found, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", [SPARSE, "mean_squared_error"])
def test_weights_of_one_change_no_bit(loss: str) -> None:
    plain, weighted, y = model_for(loss, "float32"), model_for(loss, "float32"), targets(loss, 37, 3)
    first = plain.fit(X, y, batch_size=8, epochs=3, verbose=0)
    second = weighted.fit(X, y, batch_size=8, epochs=3, verbose=0, sample_weight=np.ones(37))
    assert first.history == second.history
    for a, b in zip(plain.get_weights(), weighted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_weights_follow_their_rows_through_shuffles(threads: int) -> None:
    """Rows of weight 0 leave no trace, whatever they hold; the validation's weights weigh its loss."""
    found = []
    for junk in (0.0, 1e4):
        model = make([5, 300, 200, 2], "tanh", threads=threads)
        model.compile("adam", "mse", metrics=["mae"])
        y = targets("mean_squared_error", 37, 2)
        y[WEIGHTS == 0] = junk
        history = model.fit(X, y, batch_size=8, epochs=4, verbose=0, validation_split=0.3, sample_weight=list(WEIGHTS))
        found.append(([history.history["loss"], history.history["val_loss"]], model.get_weights()))
        assert history.history["val_loss"][-1] == model.evaluate(X[25:], y[25:], sample_weight=WEIGHTS[25:])[0]
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_data_may_be_weighted() -> None:
    model, y = model_for("mean_squared_error"), targets("mean_squared_error", 37, 3)
    history = model.fit(X, y, verbose=0, validation_data=(X, y, WEIGHTS))
    assert history.history["val_loss"] == [model.evaluate(X, y, sample_weight=WEIGHTS)]


def test_metrics_are_weighted_only_where_that_is_asked_for() -> None:
    y = targets(SPARSE, 37, 3)
    model = model_for(SPARSE, metrics=["accuracy", "mse"], weighted_metrics=["accuracy", "mae"])
    assert model.metrics_names == ["loss", "accuracy", "mse", "weighted_accuracy", "mae"]
    p, hot = outputs(model, X), np.eye(3)[y]
    right, distance = p.argmax(1) == y, np.abs(p - hot).mean(1)
    plain = [right.mean(), ((p - hot) ** 2).mean()]
    by_weight = [np.average(right, weights=WEIGHTS), np.average(distance, weights=WEIGHTS)]
    assert model.evaluate(X, y, sample_weight=WEIGHTS)[1:] == pytest.approx([*plain, *by_weight], rel=1e-12)
    assert model.evaluate(X, y)[1:] == pytest.approx([*plain, right.mean(), distance.mean()], rel=1e-12)
    history = model.fit(X, y, batch_size=40, verbose=0, sample_weight=WEIGHTS, validation_data=(X, y, WEIGHTS))
    values = {name: values[0] for name, values in history.history.items()}
    assert [values[name] for name in model.metrics_names[1:]] == pytest.approx([*plain, *by_weight], rel=1e-12)
    assert [values[f"val_{name}"] for name in model.metrics_names] == model.evaluate(X, y, sample_weight=WEIGHTS)


# ---------------------------------------------------------------- class weights


@pytest.mark.parametrize(
    ("loss", "outputs", "form"),
    [
        (SPARSE, 3, lambda c: c),
        ("categorical_crossentropy", 3, lambda c: np.eye(3)[c]),
        ("binary_crossentropy", 1, lambda c: np.minimum(c, 1)[:, None]),
        ("hinge", 1, lambda c: 2.0 * np.minimum(c, 1)[:, None] - 1),
    ],
)
@pytest.mark.parametrize("choice", [{0: 2.0, 1: 0.5}, {1: 3}, "balanced"])
def test_class_weights_are_sample_weights(
    loss: str, outputs: int, form: Callable[[np.ndarray], np.ndarray], choice: Any
) -> None:
    classes = np.array([0, 0, 0, 1, 0, 1, 2] * 5 + [0, 1])
    y, labels = form(classes), classes if outputs == 3 else np.minimum(classes, 1)
    if choice == "balanced":
        counts = np.bincount(labels)
        weights = (len(labels) / (len(counts) * counts))[labels]
    else:
        weights = np.array([choice.get(c, 1.0) for c in labels])
    one, two = (model_for(loss, widths=(5, 7, outputs)) for _ in range(2))
    one.fit(X, y, epochs=2, verbose=0, class_weight=choice)
    two.fit(X, y, epochs=2, verbose=0, sample_weight=weights)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    both = model_for(loss, widths=(5, 7, outputs)).train_on_batch(X, y, WEIGHTS, choice)
    assert both == pytest.approx(model_for(loss, widths=(5, 7, outputs)).train_on_batch(X, y, WEIGHTS * weights))


def test_balanced_counts_the_rows_that_are_trained_on() -> None:
    y = np.array([0] * 20 + [1] * 10 + [0] * 7)
    one, two = (model_for(SPARSE) for _ in range(2))
    one.fit(X, y, verbose=0, validation_split=0.2, class_weight="balanced")
    two.fit(X[:29], y[:29], verbose=0, sample_weight=np.where(y[:29] == 0, 29 / 40, 29 / 18))
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


# ---------------------------------------------------------------- missing targets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_missing_targets_leave_no_loss_and_no_gradient(loss: str, dtype: str) -> None:
    """Each element's loss by the reference, those without a target left out; the gradient by central differences."""
    model, y = model_for(loss, dtype, mask_nan=True, metrics=["mae"]), targets(loss, 37, 3)
    y = np.where(np.random.default_rng(4).random((37, 3)) < 0.3, np.nan, y)
    truth = model_for(loss, "float64", mask_nan=True)
    truth.set_weights(model.get_weights())
    a = outputs(truth, X)
    linear = make([5, 7, 3], dtype="float64")
    linear.set_weights(model.get_weights())
    inner = outputs(linear, X) if loss in reference.PAIRED_ACTIVATION else a
    function = reference.LOSSES[loss]
    cells = [(i, c) for i, c in np.ndindex(37, 3) if not np.isnan(y[i, c])]
    total = sum(function(inner[i : i + 1, c : c + 1], y[i : i + 1, c : c + 1])[0] for i, c in cells)
    value, mae = model.evaluate(X, y)
    row = LOSSES[loss]
    assert value == pytest.approx(total / ((3 if row.mean_outputs else 1) * (37 if row.mean_rows else 1)), rel=1e-5)
    whole = ~np.isnan(y).any(axis=1)
    assert mae == pytest.approx(np.abs(a - y)[whole].mean(), rel=1e-5)
    gradients, weights = model.gradients(X, y), [w.astype(np.float64) for w in model.get_weights()]
    assert all(np.isfinite(g).all() for g in gradients)
    for index, place in ((0, (2, 3)), (1, (4,)), (2, (5, 1)), (3, (2,))):
        sides = []
        for h in (1e-5, -1e-5):
            moved = [w.copy() for w in weights]
            moved[index][place] += h
            truth.set_weights(moved)
            sides.append(truth.evaluate(X, y))
        assert gradients[index][place] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("loss", [SPARSE, "categorical_crossentropy", "binary_crossentropy", "mean_squared_error"])
def test_rows_without_a_target_are_rows_of_weight_0(loss: str) -> None:
    width = 3 if "categorical" in loss else 1
    gaps, y = np.arange(37) % 3 == 0, targets(loss, 37, width).astype(float)
    missing = np.where(gaps if y.ndim == 1 else gaps[:, None], np.nan, y)
    masked = model_for(loss, widths=(5, 7, width), mask_nan=True, metrics=["accuracy"])
    weighted = model_for(loss, widths=(5, 7, width), weighted_metrics=["accuracy"])
    first = masked.fit(X, missing, batch_size=8, epochs=3, verbose=0, validation_data=(X, missing))
    second = weighted.fit(
        X, y, batch_size=8, epochs=3, verbose=0, sample_weight=1.0 - gaps, validation_data=(X, y, 1.0 - gaps)
    )
    for name in first.history:
        assert first.history[name] == pytest.approx(second.history[name], rel=1e-12)
    for a, b in zip(masked.get_weights(), weighted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    plain = model_for(loss, widths=(5, 7, width))
    with pytest.raises(ValueError, match="NaN or infinity"):
        plain.fit(X, missing, verbose=0)


def test_a_model_file_remembers_what_may_be_missing(tmp_path: Any) -> None:
    model = model_for("mean_squared_error", mask_nan=True, weighted_metrics=["mae"])
    y = np.where(X[:, :3] > 1, np.nan, X[:, :3])
    model.save(tmp_path / "model")
    twin = fb.load_model(tmp_path / "model")
    assert twin.evaluate(X, y, return_dict=True) == model.evaluate(X, y, return_dict=True)


# ---------------------------------------------------------------- stratified splits


@pytest.mark.parametrize("form", [lambda c: c, lambda c: np.eye(3)[c]])
def test_a_stratified_split_takes_its_share_of_each_class(
    form: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = np.array([0] * 60 + [1] * 30 + [2] * 10)
    x, y = inputs(100, 5), form(classes)
    fits: list[Fit] = []
    start = Fit.start
    monkeypatch.setattr(Fit, "start", lambda self: (fits.append(self), start(self)))
    model = model_for(SPARSE if y.ndim == 1 else "categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, verbose=0, validation_split=0.2, stratify=True)
    assert fits[0].held is not None
    train, held = fits[0].feed.sample.rows, fits[0].held.sample.rows
    assert train is not None and held is not None
    assert sorted([*train, *held]) == list(range(100))
    assert np.bincount(classes[held]).tolist() == [12, 6, 2]
    assert len(set(held.tolist()) & set(range(80, 100))) < 20  # not the last rows
    twin = model_for(SPARSE if y.ndim == 1 else "categorical_crossentropy", metrics=["accuracy"])
    history = twin.fit(x[train], y[train], verbose=0, validation_data=(x[held], y[held]))
    assert model.history is not None and model.history.history == history.history
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- wrong weights


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sample_weight": np.ones(36)}, ValueError, r"sample_weight has shape \(36,\); wanted .*\(37,\)"),
        ({"sample_weight": np.ones((37, 2))}, ValueError, r"sample_weight has shape \(37, 2\); wanted one weight"),
        ({"sample_weight": 2.0}, ValueError, r"sample_weight has shape \(\); wanted one weight for each row"),
        ({"sample_weight": -np.ones(37)}, ValueError, r"sample_weight\[0\] is -1; wanted weights from 0"),
        ({"sample_weight": np.full(37, np.nan)}, ValueError, r"sample_weight contains NaN"),
        ({"sample_weight": ["a"] * 37}, TypeError, r"sample_weight holds text"),
        ({"sample_weight": np.zeros(37)}, ValueError, r"sample_weight is 0 for all 37 rows"),
        ({"class_weight": {3: 1.0}}, ValueError, r"names the class 3; classes go from 0 to 2"),
        ({"class_weight": {"a": 1.0}}, ValueError, r"names the class 'a'"),
        ({"class_weight": {0: -1.0}}, ValueError, r"class_weight of class 0 must be a number from 0, got -1\.0"),
        ({"class_weight": {0: None}}, ValueError, r"class_weight of class 0 must be a number"),
        ({"class_weight": "balance"}, ValueError, r'class_weight must be "balanced" or a dict'),
        ({"stratify": True}, ValueError, r"stratify=True chooses the rows of validation_split: give a share"),
        ({"validation_freq": 2}, ValueError, r"validation_freq is about a validation: give validation_data"),
        ({"validation_split": 0.001, "stratify": True}, ValueError, r"holds out none"),
        ({"validation_split": 1.5, "stratify": True}, ValueError, r"validation_split is 1\.5; it is a share"),
    ],
)
def test_wrong_weights(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model_for(SPARSE).fit(X, targets(SPARSE, 37, 3), verbose=0, **options)


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        ("mean_squared_error", X[:, :3], r"class_weight needs targets that name classes; loss 'mean_squared_error'"),
        ("binary_crossentropy", targets("binary_crossentropy", 37, 3), r"3 outputs with loss .* as many labels"),
    ],
)
def test_class_weights_need_classes(loss: str, y: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model_for(loss).fit(X, y, verbose=0, class_weight="balanced")
