"""Metrics: their values against scikit-learn's, in every precision, at every batch size and number of threads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, outputs, targets

import fastbp as fb
from fastbp import metrics
from fastbp.metrics import METRICS

sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")

SPARSE = "sparse_categorical_crossentropy"
ROWS, CLASSES = 203, 4
ALL = range(CLASSES)
X = inputs(ROWS, 5)
LABELS = np.random.default_rng(1).choice(CLASSES, ROWS, p=[0.5, 0.3, 0.15, 0.05])
BINARY = (LABELS > 0).astype(float)[:, None]
MULTI = np.random.default_rng(2).integers(0, 2, (ROWS, 3)).astype(float)
NUMBERS = 3.0 + inputs(ROWS, 2, seed=9)
WEIGHTS = np.random.default_rng(3).choice([0.0, 0.5, 2.0], ROWS)

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], Any]


def confusion(normalize: str | None = None) -> Measure:
    return lambda y, p, w: sk.confusion_matrix(y, p.argmax(1), sample_weight=w, normalize=normalize, labels=ALL)


def hits(measure: str, average: str | None) -> Measure:
    score = getattr(sk, f"{measure}_score")
    return lambda y, p, w: score(y, p.argmax(1), average=average, sample_weight=w, zero_division=0)


def top(k: int) -> Measure:
    return lambda y, p, w: sk.top_k_accuracy_score(y, p, k=k, sample_weight=w, labels=ALL)


def pooled(score: Callable[..., Any], of: Callable[[np.ndarray], np.ndarray] = lambda p: p) -> Measure:
    """Of all decisions alike."""
    return lambda y, p, w: score(
        np.eye(CLASSES)[y].ravel(), of(p.ravel()), sample_weight=None if w is None else np.repeat(w, CLASSES)
    )


def against_the_rest(score: Callable[..., Any], combine: Callable[..., Any]) -> Measure:
    return lambda y, p, w: combine([score(y == c, p[:, c], sample_weight=w) for c in ALL], y, w)


Table = list[tuple[Any, Measure]]
CATEGORICAL: Table = [
    ("accuracy", lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w)),
    ("sparse_categorical_accuracy", lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w)),
    *((metrics.TopKCategoricalAccuracy(k), top(k)) for k in (1, 2, 3)),
    ("precision", hits("precision", "macro")),
    ("recall", hits("recall", "macro")),
    ("f1_score", hits("f1", "macro")),
    *((metrics.Precision(average=a), hits("precision", a)) for a in ("micro", "weighted", None)),
    *((metrics.Recall(average=a), hits("recall", a)) for a in ("micro", "weighted", None)),
    *((metrics.F1Score(average=a), hits("f1", a)) for a in ("micro", "weighted", None)),
    (metrics.Recall(class_id=2), lambda y, p, w: sk.recall_score(y == 2, p.argmax(1) == 2, sample_weight=w)),
    (metrics.Precision(0.3, "micro"), pooled(sk.precision_score, lambda p: p > 0.3)),
    ("confusion_matrix", confusion()),
    *((metrics.ConfusionMatrix(normalize=n), confusion(n)) for n in ("true", "pred", "all")),
    ("log_loss", lambda y, p, w: sk.log_loss(y, p, sample_weight=w, labels=ALL)),
    ("auc", against_the_rest(sk.roc_auc_score, lambda areas, y, w: np.mean(areas))),
    (metrics.AUC(average="micro"), pooled(sk.roc_auc_score)),
    (
        metrics.AUC(average="weighted"),
        against_the_rest(sk.roc_auc_score, lambda areas, y, w: np.average(areas, weights=np.bincount(y, w))),
    ),
    (metrics.AUC("PR", average=None), against_the_rest(sk.average_precision_score, lambda areas, y, w: areas)),
]
ONE_OUTPUT: Table = [
    ("accuracy", lambda y, p, w: sk.accuracy_score(y, p > 0.5, sample_weight=w)),
    (metrics.BinaryAccuracy(0.3), lambda y, p, w: sk.accuracy_score(y, p > 0.3, sample_weight=w)),
    ("precision", lambda y, p, w: sk.precision_score(y, p > 0.5, sample_weight=w)),
    (metrics.Recall(0.6), lambda y, p, w: sk.recall_score(y, p > 0.6, sample_weight=w)),
    (metrics.F1Score(threshold=0.4), lambda y, p, w: sk.f1_score(y, p > 0.4, sample_weight=w)),
    ("confusion_matrix", lambda y, p, w: sk.confusion_matrix(y, p > 0.5, sample_weight=w)),
    ("auc", lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w)),
    (metrics.AUC("PR"), lambda y, p, w: sk.average_precision_score(y, p, sample_weight=w)),
    ("log_loss", lambda y, p, w: sk.log_loss(y, p, sample_weight=w)),
]
LABELLED: Table = [
    ("precision", lambda y, p, w: sk.precision_score(y, p > 0.5, average="macro", sample_weight=w)),
    (metrics.F1Score(average=None), lambda y, p, w: sk.f1_score(y, p > 0.5, average=None, sample_weight=w)),
    ("confusion_matrix", lambda y, p, w: sk.multilabel_confusion_matrix(y, p > 0.5, sample_weight=w)),
    ("auc", lambda y, p, w: sk.roc_auc_score(y, p, average="macro", sample_weight=w)),
]
REGRESSION: Table = [
    ("mse", lambda y, p, w: sk.mean_squared_error(y, p, sample_weight=w)),
    ("root_mean_squared_error", lambda y, p, w: np.sqrt(sk.mean_squared_error(y, p, sample_weight=w))),
    ("mae", lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w)),
    ("r2_score", lambda y, p, w: sk.r2_score(y, p, sample_weight=w)),
]
KINDS: dict[str, tuple[str, str, np.ndarray, Table]] = {
    "classes": (SPARSE, "softmax", LABELS, CATEGORICAL),
    "one output": ("binary_crossentropy", "sigmoid", BINARY, ONE_OUTPUT),
    "labels": ("binary_crossentropy", "sigmoid", MULTI, LABELLED),
    "numbers": ("mean_squared_error", "linear", NUMBERS, REGRESSION),
}


def model_for(kind: str, dtype: str = "float64", threads: int = 1, **options: Any) -> tuple[fb.Model, np.ndarray]:
    """A compiled model and its targets."""
    loss, output, y, _ = KINDS[kind]
    width = CLASSES if y.ndim == 1 else y.shape[1]
    model = make([5, 9, width], output=output, dtype=dtype, threads=threads)
    model.compile("adam", options.pop("loss", loss), **options)
    return model, y


def wanted(kind: str, model: fb.Model, weights: np.ndarray | None = None, rows: slice = slice(None)) -> list[Any]:
    """scikit-learn's values of the model's own outputs."""
    p, y = np.asarray(model.predict(X), float)[rows], KINDS[kind][2][rows]
    y = y[:, 0] if kind == "one output" else y
    p = p[:, 0] if kind == "one output" else p / p.sum(1, keepdims=True) if kind == "classes" else p
    return [measure(y, p, None if weights is None else weights[rows]) for _, measure in KINDS[kind][3]]


def check(got: list[Any], expected: list[Any], tolerance: float) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert np.shape(one) == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_metrics_are_scikit_learns(kind: str, dtype: str) -> None:
    """Plain and weighted, of evaluate, of one batch, and of the validation in a fit."""
    asked = [request for request, _ in KINDS[kind][3]]
    model, y = model_for(kind, dtype, metrics=asked, weighted_metrics=asked)
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    expected = wanted(kind, model) + wanted(kind, model, WEIGHTS)
    for batch in (1, 32, 300):
        check(model.evaluate(X, y, batch, sample_weight=WEIGHTS)[1:], expected, tolerance)
    check(model.test_on_batch(X, y, WEIGHTS)[1:], expected, tolerance)
    named = model.evaluate(X, y, sample_weight=WEIGHTS, return_dict=True)
    history = model.fit(X, y, epochs=2, verbose=0, validation_data=(X, y, WEIGHTS)).history
    assert list(named) == model.metrics_names and set(history) == {*named, *(f"val_{name}" for name in named)}
    after = wanted(kind, model) + wanted(kind, model, WEIGHTS)
    check([history[f"val_{name}"][1] for name in model.metrics_names[1:]], after, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_training_metrics_are_of_the_outputs_before_each_step(kind: str) -> None:
    """At a rate of next to nothing they are those of the model, whatever the order and the batches."""
    asked = [request for request, _ in KINDS[kind][3]]
    found = []
    for threads, batch in ((1, 32), (2, 32), (1, 5), (1, ROWS)):
        model, y = model_for(kind, threads=threads, metrics=asked)
        model.learning_rate = 1e-300
        history = model.fit(X, y, batch, epochs=2, verbose=0).history
        found.append(history)
        for epoch in range(2):
            check([history[name][epoch] for name in model.metrics_names[1:]], wanted(kind, model), 1e-12)
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name])


def test_metrics_over_parts_of_a_pass() -> None:
    """An epoch that is no pass over the data scores its own rows, and what is kept of them is kept over passes."""
    model, _ = model_for("classes", metrics=["auc", "confusion_matrix", "accuracy"])
    model.learning_rate = 1e-300
    history = model.fit(X, LABELS, batch_size=50, epochs=4, steps_per_epoch=3, shuffle=False, verbose=0).history
    p = model.predict(X)
    order = np.concatenate([np.arange(ROWS)] * 3)
    lengths = [150, 103, 150, 103]  # passes of 50, 50, 50, 50 and 3 rows, three batches an epoch
    starts = np.cumsum([0, *lengths])
    for epoch in range(4):
        rows = order[starts[epoch] : starts[epoch + 1]]
        area = np.mean([sk.roc_auc_score(LABELS[rows] == c, p[rows, c]) for c in range(CLASSES)])
        assert history["auc"][epoch] == pytest.approx(area, rel=1e-12)
        np.testing.assert_array_equal(
            history["confusion_matrix"][epoch],
            sk.confusion_matrix(LABELS[rows], p[rows].argmax(1), labels=ALL),
        )


def test_the_confusion_matrix_in_the_history() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    model, _ = model_for("classes", metrics=["confusion_matrix", "accuracy"])
    history = model.fit(X, LABELS, epochs=3, verbose=0, validation_split=0.2)
    assert [matrix.sum() for matrix in history.history["confusion_matrix"]] == [162] * 3
    assert isinstance(history.to_frame(), pandas.DataFrame)
    assert "confusion" not in repr(history) and "confusion" not in history._repr_html_()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert len(history.plot().axes) == 3  # loss, accuracy, learning rate
    with pytest.raises(ValueError, match="confusion_matrix"):
        model.fit(X, LABELS, verbose=0, callbacks=fb.callbacks.EarlyStopping("confusion_matrix"))


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_rows_without_targets_count_in_no_metric(kind: str) -> None:
    _, _, y, table = KINDS[kind]
    gaps = np.arange(ROWS) % 3 == 1
    holes = y.astype(float)
    holes[gaps] = np.nan
    asked = [request for request, _ in table]
    masked, _ = model_for(kind, metrics=asked, mask_nan=True)
    whole, _ = model_for(kind, metrics=asked)
    check(masked.evaluate(X, holes)[1:], whole.evaluate(X[~gaps], y[~gaps])[1:], 1e-12)


def test_metrics_of_logits_are_those_of_probabilities() -> None:
    """A binary logit above 0 is class 1, as its probability is above 0.5."""
    for kind, loss in (("classes", fb.SparseCategoricalCrossentropy(True)), ("labels", fb.BinaryCrossentropy(True))):
        asked = ["accuracy", "precision", "auc", "log_loss", "confusion_matrix"]
        asked += [metrics.Recall(0.3)] if kind == "labels" else []
        probable, y = model_for(kind, metrics=asked)
        logits = make([5, 9, probable.output_width], output="linear", dtype="float64")
        logits.set_weights(probable.get_weights())
        logits.compile("adam", loss, metrics=asked)
        check(logits.evaluate(X, y)[1:], probable.evaluate(X, y)[1:], 1e-9)
    with pytest.raises(ValueError, match=r"threshold=0.3 is about probabilities, and the outputs are logits"):
        logits = make([5, 9, CLASSES], output="linear")
        logits.compile("adam", fb.SparseCategoricalCrossentropy(True), metrics=[metrics.Recall(0.3)])
        logits.evaluate(X, LABELS)


def test_hinge_outputs_are_cut_at_0() -> None:
    model = make([5, 9, 1], output="linear", dtype="float64")
    model.compile("sgd", "hinge", metrics=["accuracy", "precision"])
    y, margin = 2 * BINARY - 1, outputs(model, X)
    expected = [sk.accuracy_score(y > 0, margin > 0), sk.precision_score(y > 0, margin > 0)]
    check(model.evaluate(X, y)[1:], expected, 1e-12)


def test_r2_of_numbers_far_from_0_and_of_constant_ones() -> None:
    """In float32 the squares of 1e4 + noise would leave nothing of the noise."""
    model = make([5, 2], dtype="float32")
    model.compile("sgd", "mse", metrics=["r2_score"])
    for y in (1e4 + NUMBERS, np.full_like(NUMBERS, 0.1)):
        p, exact = np.asarray(model.predict(X), float), y.astype(np.float32).astype(float)
        assert model.evaluate(X, y)[1] == pytest.approx(sk.r2_score(exact, p), rel=1e-5)


def test_an_area_of_one_class_is_nan_and_equal_scores_count_half() -> None:
    for truth in (np.zeros(5, bool), np.ones(5, bool), np.zeros(0, bool)):
        assert np.isnan(metrics.roc_area(truth, np.arange(len(truth)) / 7, np.ones(len(truth))))
    rng = np.random.default_rng(0)
    truth, scores, weights = rng.random(500) < 0.3, rng.integers(0, 9, 500) / 9, rng.random(500)
    assert metrics.roc_area(truth, scores, weights) == pytest.approx(
        sk.roc_auc_score(truth, scores, sample_weight=weights)
    )
    assert metrics.average_precision(truth, scores, weights) == pytest.approx(
        sk.average_precision_score(truth, scores, sample_weight=weights)
    )
    assert np.isnan(metrics.average_precision(np.zeros(3, bool), np.ones(3), np.ones(3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_area_of_rows_that_count_alike_is_exact_for_numbers_of_any_kind(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    few = np.array([-1e30, -2.5, -1e-40, -0.0, 0.0, 1e-40, 0.5, 0.75, 1e30], dtype)
    for count in (2, 3, 40, 500):
        for scores in (rng.choice(few, count), rng.standard_normal(count).astype(dtype)):
            truth = rng.random(count) < 0.4
            truth[:2] = True, False
            area = metrics.roc_area(truth, scores, np.ones(count))
            assert area == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)


def test_the_class_of_equal_targets_is_the_first() -> None:
    y = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32)
    expected = [[False, True, False], [True, False, False], [False, False, True], [True, False, False]]
    np.testing.assert_array_equal(metrics._class_of_each(y), expected)
    np.testing.assert_array_equal(metrics._class_of_each(np.asfortranarray(y[1:3])), expected[1:3])


def test_fit_many_reports_what_fit_does() -> None:
    asked = [request for request, _ in CATEGORICAL]
    rows = [np.arange(0, ROWS, 2), np.arange(150), np.arange(ROWS)]
    many = [model_for("classes", metrics=asked)[0] for _ in rows]
    alone = [model_for("classes", metrics=asked)[0] for _ in rows]
    histories = fb.fit_many(many, X, LABELS, 20, epochs=3, rows=rows, validation_rows=rows, verbose=0)
    for history, model, chosen in zip(histories, alone, rows, strict=True):
        x, y = X[chosen], LABELS[chosen]
        expected = model.fit(x, y, 20, epochs=3, verbose=0, validation_data=(x, y)).history
        assert list(history.history) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(history.history[name], values, err_msg=name)


def test_a_killed_fit_goes_on_with_what_it_kept(tmp_path: Path) -> None:
    class Stop(fb.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert "auc" not in logs and "accuracy" in logs  # it wants all rows of the epoch
            if self.model._updates == 9:
                raise KeyboardInterrupt

    asked = ["auc", "confusion_matrix", "accuracy"]
    whole, _ = model_for("classes", metrics=asked)
    expected = whole.fit(X, LABELS, 32, epochs=3, verbose=0).history
    path = tmp_path / "fit"
    with pytest.raises(KeyboardInterrupt):
        model_for("classes", metrics=asked)[0].fit(
            X, LABELS, 32, epochs=3, verbose=0, callbacks=Stop(), checkpoint=path, checkpoint_every=4
        )
    path_of, _ = model_for("classes", metrics=asked)
    with pytest.raises(ValueError, match="callbacks is"):
        path_of.fit(X, LABELS, 32, epochs=3, verbose=0, checkpoint=path, checkpoint_every=4, resume=True)
    resumed, _ = model_for("classes", metrics=asked)
    stop = Stop()
    vars(stop)["on_train_batch_end"] = lambda batch, logs=None: None
    got = resumed.fit(
        X, LABELS, 32, epochs=3, verbose=0, callbacks=stop, checkpoint=path, checkpoint_every=4, resume=True
    ).history
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_metrics_are_kept_in_a_model_file(tmp_path: Path) -> None:
    asked = [metrics.Precision(0.3, class_id=1), metrics.Precision(0.3, class_id=2), "auc"]
    model, _ = model_for("classes", metrics=asked, weighted_metrics=[metrics.AUC("PR", name="area")])
    assert model.metrics_names == ["loss", "precision", "precision_1", "auc", "area"]
    model.save(tmp_path / "model")
    other = fb.load_model(tmp_path / "model")
    assert other.metrics_names == model.metrics_names
    assert other.evaluate(X, LABELS) == model.evaluate(X, LABELS)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_losses_they_go_with_are_finite(name: str) -> None:
    """Each row of the table under one loss of each kind: a value, or a sentence why not."""
    for kind in KINDS:
        model, y = model_for(kind, "float32", metrics=[name])
        try:
            value = model.evaluate(X, y)[1]
        except ValueError as error:
            assert name.split("_")[0] in str(error), error
        else:
            assert np.isfinite(value).all()


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: metrics.TopKCategoricalAccuracy(0), "TopKCategoricalAccuracy: k must be a whole number of at least 1"),
        (lambda: metrics.Precision(average="mean"), r'Precision: average must be "macro"'),
        (lambda: metrics.F1Score(class_id=-1), "F1Score: class_id must be a whole number of at least 0"),
        (lambda: metrics.AUC("ROCK"), r'AUC: curve must be "ROC" or "PR"'),
        (lambda: metrics.Recall("high"), "Recall: threshold must be a number"),
        (lambda: metrics.ConfusionMatrix(normalize="rows"), "ConfusionMatrix: normalize must be None"),
        (lambda: model_for("classes", metrics=["precison"]), r"unknown metric 'precison'. Did you mean 'precision'"),
        (lambda: model_for("classes", metrics=[metrics.Recall(class_id=9)])[0].evaluate(X, LABELS), "go from 0 to 3"),
        (lambda: model_for("numbers", metrics=["binary_crossentropy"])[0].evaluate(X, NUMBERS), "use log_loss"),
        (lambda: model_for("labels", metrics=["top_k_categorical_accuracy"])[0].evaluate(X, MULTI), "needs classes"),
    ],
)
def test_what_makes_no_sense_is_refused(make_it: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_it()


def test_targets_of_the_table_are_scored_by_reference_formulas() -> None:
    """Top-k where scores are equal: all that equal the k-th are among them."""
    model = make([5, 4], output="softmax", dtype="float64")
    model.set_weights([np.zeros((5, 4)), np.zeros(4)])
    model.compile("sgd", "categorical_crossentropy", metrics=[metrics.TopKCategoricalAccuracy(1), "accuracy"])
    y = targets("categorical_crossentropy", ROWS, 4)
    assert model.evaluate(X, y)[1:] == pytest.approx([1.0, y[:, 0].mean()])
