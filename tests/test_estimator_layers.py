"""What the estimators' networks can do beyond scikit-learn's: dropout, batch normalisation, several class columns."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score

import fastbp as fb
from fastbp.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
XR, YR = make_regression(120, 6, noise=1.0, random_state=0)
YR = YR / YR.std()
SMALL: dict[str, Any] = {"hidden_layer_sizes": (12, 8), "max_iter": 15, "random_state": 0}
STILL: dict[str, Any] = {**SMALL, "solver": "sgd", "momentum": 0, "learning_rate_init": 1e-12, "batch_size": 120}


# ---------------------------------------------------------------- dropout


def test_dropout_draws_anew_in_each_step_of_training_alone() -> None:
    plain, dropped = (MLPRegressor(dropout=rate, alpha=0, **STILL).fit(XR, YR) for rate in (0.0, 0.5))
    assert np.ptp(plain.loss_curve_) < 1e-9
    assert len(set(dropped.loss_curve_)) == 15 and np.ptp(dropped.loss_curve_) > 1e-3
    np.testing.assert_allclose(dropped.predict(XR), plain.predict(XR), atol=1e-8)
    again = clone(dropped).fit(XR, YR)
    assert again.loss_curve_ == dropped.loss_curve_
    assert clone(dropped).set_params(random_state=1).fit(XR, YR).loss_curve_[0] != dropped.loss_curve_[0]


def test_dropout_of_each_layer_and_in_partial_fits() -> None:
    losses = []
    for dropout in (0.4, [0.4, 0.0], (0.0, 0.4), [0, 0]):
        regressor = MLPRegressor(dropout=dropout, **STILL)
        losses += [regressor.partial_fit(XR, YR).loss_ for _ in range(3)]
    assert len(set(losses[:9])) == 9 and np.ptp(losses[9:]) < 1e-9
    assert [
        type(layer).__name__ for layer in MLPRegressor(dropout=[0, 0.4], **STILL).fit(XR, YR).to_model().layers
    ] == [
        "Dense",
        "Dense",
        "Dropout",
        "Dense",
    ]


@pytest.mark.parametrize("dropout", [[0.5], 1.0, [0.5, 1.0], -0.1, ["a", 0.1]], ids=str)
def test_dropout_that_makes_no_sense(dropout: Any) -> None:
    with pytest.raises(ValueError, match="dropout"):
        MLPRegressor(dropout=dropout, **SMALL).fit(XR, YR)


@pytest.mark.parametrize("settings", [{"dropout": 0.2}, {"batch_norm": True}], ids=str)
def test_lbfgs_has_neither(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='take "adam" or "sgd"'):
        MLPRegressor(solver="lbfgs", **settings, **SMALL).fit(XR, YR)
    MLPRegressor(solver="lbfgs", dropout=[0, 0], **{**SMALL, "max_iter": 2}).fit(XR, YR)


# ---------------------------------------------------------------- batch normalisation


@pytest.mark.parametrize("activation", ["relu", "identity", ["tanh", "gelu"]], ids=str)
def test_batch_normalisation_is_the_models(activation: Any) -> None:
    settings = {**STILL, "learning_rate_init": 0.05, "alpha": 0, "shuffle": False}
    ours = MLPRegressor(batch_norm=True, activation=activation, **settings).partial_fit(XR, YR)
    model = ours.to_model()
    model.compile(fb.SGD(0.05), replace(fb.losses.LOSSES["half_squared_error"], mean_rows=True))
    for _ in range(4):
        ours.partial_fit(XR, YR)
    model.fit(XR, YR, batch_size=120, epochs=4, shuffle=False, verbose=0)
    wanted = model.get_weights()
    arrays = []
    for layer, (coef, intercept) in enumerate(zip(ours.coefs_, ours.intercepts_, strict=True)):
        arrays += [coef, intercept, *(ours.batch_norms_[layer] if layer < 2 else ())]
    for got, want in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    np.testing.assert_allclose(ours.predict(XR), model.predict(XR)[:, 0], atol=1e-12)


def test_moving_statistics_come_with_the_weights() -> None:
    ours = MLPClassifier(batch_norm=True, learning_rate_init=0.02, **SMALL).fit(X, Y)
    assert ours.score(X, Y) > 0.8 and [rows.shape for rows in ours.batch_norms_] == [(4, 12), (4, 8)]
    hidden = np.maximum(
        _normalised(X @ ours.coefs_[0] + ours.intercepts_[0], ours.batch_norms_[0]),
        0,
    )
    hidden = np.maximum(_normalised(hidden @ ours.coefs_[1] + ours.intercepts_[1], ours.batch_norms_[1]), 0)
    logits = hidden @ ours.coefs_[2] + ours.intercepts_[2]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(ours.predict_proba(X), shares / shares.sum(axis=1, keepdims=True), atol=1e-9)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.partial_fit(X, Y).predict_proba(X), ours.partial_fit(X, Y).predict_proba(X))
    ours.batch_norms_[0][1] += 1.0
    assert np.abs(ours.predict_proba(X) - again.predict_proba(X)).max() > 1e-3
    with pytest.raises(ValueError, match=r"batch_norm=False wants batch_norms_ of the shapes \[\]"):
        ours.set_params(batch_norm=False).predict(X)


def _normalised(z: Any, rows: Any) -> Any:
    gamma, beta, mean, variance = rows
    return (z - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def test_threads_and_early_stopping_with_both() -> None:
    settings = {**SMALL, "hidden_layer_sizes": (64,), "dropout": 0.3, "batch_norm": True, "early_stopping": True}
    rows = np.tile(X, (8, 1))
    found = [MLPClassifier(threads=n, **settings).fit(rows, np.tile(Y, 8)) for n in (1, 2)]
    np.testing.assert_array_equal(found[0].coefs_[0], found[1].coefs_[0])
    np.testing.assert_array_equal(found[0].batch_norms_[0], found[1].batch_norms_[0])
    assert found[0].best_validation_score_ == max(found[0].validation_scores_)


# ---------------------------------------------------------------- several columns of classes


NAMES = np.array(["few", "many"])[(X[:, 0] > 0).astype(int)]
SEVERAL = np.stack([Y, np.digitize(X[:, 1], [-0.5, 0.5]), (X[:, 2] > 0).astype(int)], axis=1)


def test_several_columns_of_classes() -> None:
    ours = MLPClassifier(learning_rate_init=0.02, **{**SMALL, "max_iter": 200}).fit(X, SEVERAL)
    assert [classes.tolist() for classes in ours.classes_] == [[0, 1, 2], [0, 1, 2], [0, 1]]
    assert ours.n_outputs_ == 8
    shares = ours.predict_proba(X)
    assert [share.shape for share in shares] == [(150, 3), (150, 3), (150, 2)]
    for share, log in zip(shares, ours.predict_log_proba(X), strict=True):
        np.testing.assert_allclose(share.sum(axis=1), 1.0)
        np.testing.assert_allclose(np.log(share), log)
    found = ours.predict(X)
    assert found.shape == SEVERAL.shape and found.dtype == SEVERAL.dtype
    np.testing.assert_array_equal(found, np.stack([share.argmax(axis=1) for share in shares], axis=1))
    right = (found == SEVERAL).all(axis=1)
    assert ours.score(X, SEVERAL) == right.mean() > 0.9
    weight = np.arange(150.0)
    assert ours.score(X, SEVERAL, weight) == pytest.approx(np.average(right, weights=weight))
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict(X), found)
    model = ours.to_model()
    logits = model.predict(X)[:, :3]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), shares[0])
    assert model.evaluate(X, SEVERAL) == pytest.approx(
        -np.sum([np.log(s[range(150), y]).mean() for s, y in zip(shares, SEVERAL.T, strict=True)])
    )
    assert fb.from_sklearn(ours).meta["classes"] == [[0, 1, 2], [0, 1, 2], [0, 1]]


def test_the_loss_of_several_columns_and_its_gradient() -> None:
    settings = {**STILL, "hidden_layer_sizes": (5,), "activation": "tanh", "alpha": 0.0, "batch_size": 150}
    ours = MLPClassifier(**{**settings, "learning_rate_init": 0.1}).partial_fit(
        X, SEVERAL, classes=[*map(range, (3, 3, 2))]
    )
    before = [array.copy() for array in (*ours.coefs_, *ours.intercepts_)]
    shares = ours.predict_proba(X)
    ours.partial_fit(X, SEVERAL)
    assert ours.loss_ == pytest.approx(sum(log_loss(y, share) for y, share in zip(SEVERAL.T, shares, strict=True)))
    targets = np.hstack([np.eye(n)[y] for n, y in zip((3, 3, 2), SEVERAL.T, strict=True)])
    hidden = np.tanh(X @ before[0] + before[2])
    dz = (np.hstack(shares) - targets) / len(X)
    dh = dz @ before[1].T * (1 - hidden**2)
    gradient = [X.T @ dh, hidden.T @ dz, dh.sum(axis=0), dz.sum(axis=0)]
    for old, new, slope in zip(before, (*ours.coefs_, *ours.intercepts_), gradient, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * slope, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_of_several_columns_is_safe_at_any_logits(dtype: str) -> None:
    ours = MLPClassifier(dtype=dtype, **STILL).fit(X, SEVERAL)
    for array in ours.coefs_:
        array *= 50
    logits = ours.to_model().predict(X).astype(np.float64)
    assert np.abs(logits).max() > 1e3
    wanted = 0.0
    for start, y in zip((0, 3, 6), SEVERAL.T, strict=True):
        own = logits[:, start : start + (2 if start == 6 else 3)]
        wanted += np.mean(np.logaddexp.reduce(own, axis=1) - own[np.arange(150), y])
    ours.set_params(alpha=0.0, batch_size=150).partial_fit(X, SEVERAL)
    assert ours.loss_ == pytest.approx(wanted, rel=1e-4 if dtype == "float32" else 1e-9)


def test_several_columns_of_names_weighted_and_stopped_early() -> None:
    y = np.stack([NAMES, np.array(["a", "b", "c"])[Y]], axis=1)
    ours = MLPClassifier(class_weight="balanced", early_stopping=True, learning_rate_init=0.02, **SMALL).fit(X, y)
    assert set(np.unique(ours.predict(X))) <= {"few", "many", "a", "b", "c"}
    assert max(ours.validation_scores_) <= 1.0 and len(ours.validation_scores_) == ours.n_iter_
    ours.fit(X[:120], y[:120], X_val=X[120:], y_val=y[120:])
    assert max(ours.validation_scores_) == pytest.approx(ours.score(X[120:], y[120:]))
    assert cross_val_score(clone(ours), X, y, cv=2).shape == (2,)
    assert cross_val_score(clone(ours), X, y.astype(object), cv=2).shape == (2,)


def test_parts_of_several_columns_and_what_does_not_fit() -> None:
    ours = MLPClassifier(**SMALL)
    classes = [np.array([0, 1, 2]), np.array([0, 1, 2, 3]), np.array([0, 1])]
    ours.partial_fit(X[:10], SEVERAL[:10], classes=classes).partial_fit(X, SEVERAL)
    assert ours.n_outputs_ == 9 and ours.predict_proba(X)[1].shape == (150, 4)
    with pytest.raises(ValueError, match="not the same as on last call"):
        ours.partial_fit(X, SEVERAL, classes=classes[:2])
    with pytest.raises(ValueError, match="the network was made for 3 columns of classes"):
        ours.partial_fit(X, SEVERAL[:, :2])
    with pytest.raises(ValueError, match=r"column 2 of y has the classes \[0 7\], the network was made for \[0 1\]"):
        ours.partial_fit(X, SEVERAL * [1, 1, 7])
    with pytest.raises(ValueError, match=r"y has the shape \(150, 2\), the predictions \(150, 3\)"):
        ours.score(X, SEVERAL[:, :2])
    with pytest.raises(ValueError, match="are learned by loss="):
        MLPClassifier(loss="focal", **SMALL).fit(X, SEVERAL)
    warm = MLPClassifier(warm_start=True, **SMALL).fit(X, SEVERAL)
    assert warm.fit(X, SEVERAL).n_iter_ == 15
    with pytest.raises(ValueError, match="column 0 of y has the classes"):
        warm.fit(X[Y > 0], SEVERAL[Y > 0])
