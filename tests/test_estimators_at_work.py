"""The estimators inside scikit-learn: pipelines, searches, ensembles, inspection, routing, files; keywords."""

import tracemalloc
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from joblib import parallel_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import BaggingClassifier, StackingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from test_frames import Capsule, Tensor

import fastbp as fb
from fastbp._jit import default_threads
from fastbp.cpu.engine import Engine
from fastbp.estimators import MLPClassifier, MLPRegressor, MLPSearchCV, network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FRAME, Y = load_iris(return_X_y=True, as_frame=True)
X = FRAME.to_numpy()
XR, YR = make_regression(120, 6, noise=1.0, random_state=0)
YR = YR / YR.std()
SMALL: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 15, "random_state": 0}


def test_a_pipeline_over_mixed_columns_whose_output_is_a_frame() -> None:
    table = FRAME.assign(garden=np.where(np.arange(150) % 2, "left", "right"))
    columns = make_column_transformer((StandardScaler(), list(FRAME)), (OneHotEncoder(sparse_output=False), ["garden"]))
    pipeline = (
        make_pipeline(columns, MLPClassifier(learning_rate_init=0.05, **SMALL))
        .set_output(transform="pandas")
        .fit(table, Y)
    )
    assert list(pipeline[-1].feature_names_in_) == list(pipeline[:-1].get_feature_names_out())
    assert pipeline.score(table, Y) > 0.5
    with pytest.raises(ValueError, match=r"columns are missing|feature names"):
        pipeline.predict(table.drop(columns="garden"))


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_searches_with_processes_and_threads_find_the_same(backend: str) -> None:
    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(4,), (9,)]}
    alone = GridSearchCV(MLPClassifier(**SMALL), grid, cv=2).fit(X, Y)
    with parallel_config(backend=backend, n_jobs=2):
        together = GridSearchCV(MLPClassifier(**SMALL), grid, cv=2).fit(X, Y)
        scores = cross_val_score(MLPClassifier(**SMALL), X, Y, cv=3)
    np.testing.assert_array_equal(together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(scores, cross_val_score(MLPClassifier(**SMALL), X, Y, cv=3))


def test_calibration_stacking_and_bagging() -> None:
    calibrated = CalibratedClassifierCV(MLPClassifier(**SMALL), cv=2).fit(X, Y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    stacked = StackingClassifier([("net", MLPClassifier(**SMALL)), ("line", LogisticRegression())], cv=2, n_jobs=2).fit(
        X, Y
    )
    bagged = BaggingClassifier(MLPClassifier(learning_rate_init=0.05, **SMALL), 3, random_state=0).fit(X, Y)
    assert min(stacked.score(X, Y), bagged.score(X, Y)) > 0.7


def test_permutation_importance_finds_the_column_that_counts() -> None:
    x = np.random.default_rng(0).standard_normal((200, 3))
    regressor = MLPRegressor(solver="lbfgs", **{**SMALL, "max_iter": 60}).fit(x, 3 * x[:, 1])
    found = permutation_importance(regressor, x, 3 * x[:, 1], n_repeats=2, random_state=0, n_jobs=2)
    assert found.importances_mean.argmax() == 1


def test_metadata_reaches_the_fit_and_the_score() -> None:
    weight = np.where(Y == 2, 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        net = (
            MLPClassifier(learning_rate_init=0.05, **SMALL)
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), net).fit(
            X, Y, sample_weight=weight
        )
        weighted = get_scorer("accuracy").set_score_request(sample_weight=True)
        scores = cross_val_score(pipeline, X, Y, cv=2, scoring=weighted, params={"sample_weight": weight})
        right = pipeline.score(X, Y, sample_weight=weight)
    wanted = clone(net).fit(StandardScaler().fit_transform(X), Y, weight)
    np.testing.assert_allclose(pipeline.predict_proba(X), wanted.predict_proba(StandardScaler().fit_transform(X)))
    assert 2 not in pipeline.predict(X) and len(scores) == 2
    answers = pipeline.predict(X)
    assert right == pytest.approx(np.average(answers == Y, weights=weight))
    assert right > np.mean(answers == Y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scikit_learns_progress_bar_and_scores_of_each_epoch(solver: str, capsys: pytest.CaptureFixture[str]) -> None:
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    pytest.importorskip("rich")
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    net = MLPClassifier(solver=solver, **{**SMALL, "max_iter": 7}).set_callbacks(callback.ProgressBar(), monitor)
    net.fit(X, Y)
    assert "MLPClassifier - fit" in (said := capsys.readouterr().out) and "100%" in said
    whole, *epochs = monitor.get_logs().data
    assert [row["task_name"] for row in epochs] == ["epoch"] * net.n_iter_ == ["epoch"] * 7
    scores = [row["neg_log_loss"] for row in epochs]
    assert scores[-1] == whole["neg_log_loss"] == pytest.approx(-log_loss(Y, net.predict_proba(X)))
    assert len(set(scores)) == 7


@pytest.mark.parametrize("kind", [GridSearchCV, MLPSearchCV])
def test_scikit_learns_progress_bar_around_a_search(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")
    pytest.importorskip("rich")
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**SMALL))
    search = kind(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2)
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(X, Y)
    said = capsys.readouterr().out
    assert said.count("MLPClassifier - fit") == 5 and said.count("100%") == len(said.splitlines())


@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier(**SMALL),
        MLPRegressor(**SMALL, solver="sgd"),
        MLPClassifier(**SMALL, dropout=0.2, batch_norm=True),
    ],
    ids=["classes", "numbers", "layers"],
)
def test_skops_trusts_our_own_classes_names_alone(estimator: Any) -> None:
    fitted = clone(estimator).fit(X, Y)
    data = skops.io.dumps(fitted)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert untrusted and all(name.startswith("fastbp.") for name in untrusted)
    again = skops.io.loads(data, trusted=untrusted)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(again.partial_fit(X, Y).coefs_[0], fitted.partial_fit(X, Y).coefs_[0])


def test_skops_and_joblib_take_models_too(tmp_path: Path) -> None:
    model = fb.Model([fb.Dense(4, activation="relu"), fb.BatchNormalization(), fb.Dropout(0.2), fb.Dense(1)])
    model.compile("adam", "mse")
    model.fit(XR, YR, verbose=0)
    data = skops.io.dumps(model)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert untrusted and all(name.startswith("fastbp.") for name in untrusted)
    joblib.dump(model, tmp_path / "model.joblib")
    for again in (skops.io.loads(data, trusted=untrusted), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(again.predict(XR), model.predict(XR))
        assert again.history.history == model.history.history


def test_fits_at_once_share_the_cores() -> None:
    with network.crowd.member():
        assert network.crowd.share(4) == 4
        with network.crowd.member(), network.crowd.member():
            assert network.crowd.share(4) == 1
        assert network.crowd.share(5) == 5
    with parallel_config(backend="loky", inner_max_num_threads=1):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(default_threads)() for _ in range(2))
    assert found == [1, 1]


# ---------------------------------------------------------------- keywords beyond scikit-learn's


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_schedule_names_the_rate_of_each_step(solver: str) -> None:
    constant = fb.schedules.PiecewiseConstantDecay([10_000], [0.01, 0.0])
    settings = {**SMALL, "solver": solver, "batch_size": 32, "max_iter": 4}
    plain = MLPRegressor(learning_rate_init=0.01, **settings).fit(XR, YR)
    scheduled = MLPRegressor(learning_rate=constant, **settings).fit(XR, YR)
    np.testing.assert_allclose(scheduled.coefs_[0], plain.coefs_[0], rtol=1e-12)
    ended = fb.schedules.PiecewiseConstantDecay([7], [0.01, 0.0])  # the 9th step of 4 an epoch is in the third
    still = MLPRegressor(learning_rate=ended, **{**settings, "momentum": 0}).fit(XR, YR)
    assert still.loss_curve_[2] == pytest.approx(still.loss_curve_[3], rel=1e-6)
    assert still._optimizer.next_rate == 0.0
    with pytest.raises(TypeError, match="so it can't be set"):
        still._optimizer.next_rate = 0.1


@pytest.mark.parametrize("clip", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_clipping_bounds_a_step(clip: str) -> None:
    settings = {**SMALL, "solver": "sgd", "momentum": 0, "max_iter": 1, "batch_size": 120, "learning_rate_init": 1.0}
    start = MLPRegressor(**{**settings, "learning_rate_init": 1e-300}).fit(XR, 100 * YR)
    moved = MLPRegressor(**settings, **{clip: 1e-3}).fit(XR, 100 * YR)
    steps = [b - a for a, b in zip(start.coefs_ + start.intercepts_, moved.coefs_ + moved.intercepts_, strict=True)]
    sizes = {
        "clipvalue": max(np.abs(step).max() for step in steps),
        "clipnorm": max(np.linalg.norm(step) for step in steps),
        "global_clipnorm": np.sqrt(sum((step**2).sum() for step in steps)),
    }
    assert sizes[clip] == pytest.approx(1e-3, rel=1e-6)
    with pytest.raises(ValueError, match="clip in one way"):
        MLPRegressor(**settings, clipnorm=1.0, clipvalue=1.0).fit(XR, YR)


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (Y, "focal"),
        (Y == 0, "focal"),
        (Y, fb.SparseCategoricalCrossentropy(label_smoothing=0.1)),
        (Y == 0, fb.BinaryCrossentropy(label_smoothing=0.1)),
        (Y == 0, fb.BinaryFocalCrossentropy(gamma=1.0)),
    ],
    ids=["focal", "focal of two", "smoothed", "smoothed of two", "focal of gamma 1"],
)
def test_losses_of_classifiers_descend(y: Any, loss: Any) -> None:
    fitted = MLPClassifier(loss=loss, learning_rate_init=0.02, **{**SMALL, "max_iter": 150}).fit(X, y)
    assert fitted.loss_curve_[-1] < 0.7 * fitted.loss_curve_[0] and fitted.score(X, y) > 0.8
    assert fitted.loss_ != MLPClassifier(learning_rate_init=0.02, **{**SMALL, "max_iter": 150}).fit(X, y).loss_


def test_a_loss_that_the_outputs_do_not_suit() -> None:
    with pytest.raises(ValueError, match="is not one of class numbers, which the softmax outputs want"):
        MLPClassifier(loss=fb.BinaryCrossentropy(), **SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="is not one of probabilities, which the logistic outputs want"):
        MLPClassifier(loss=fb.SparseCategoricalCrossentropy(), **SMALL).fit(X, Y == 0)


@pytest.mark.parametrize(
    "loss", ["log_cosh", "quantile", fb.Quantile(0.9)], ids=["log_cosh", "quantile", "quantile of 0.9"]
)
def test_losses_of_regressors_descend(loss: Any) -> None:
    fitted = MLPRegressor(loss, learning_rate_init=0.02, **{**SMALL, "max_iter": 60}).fit(XR, YR)
    assert fitted.loss_curve_[-1] < 0.5 * fitted.loss_curve_[0]


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_first_fit_says_that_it_compiles(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], bool]] = []

    class NotReady:
        ready = False

    def remember(needed: Any, shown: bool) -> None:
        asked.append(([name for name, _ in needed], shown))

    monkeypatch.setattr(network, "compile_kernels", remember)
    original = Engine.kernels
    monkeypatch.setattr(Engine, "kernels", lambda *given: [*original(*given), ("another", NotReady())])
    MLPRegressor(solver=solver, verbose=solver == "adam", **{**SMALL, "max_iter": 1}).fit(XR, YR)
    ((names, shown),) = asked
    assert {"training loop", "half_squared_error", "another"} <= set(names)
    assert shown == (solver == "adam")
    assert solver == "lbfgs" or {"adam", "nesterov"} & set(names)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_frames_of_other_libraries(kind: str) -> None:
    wanted = MLPClassifier(**SMALL).fit(FRAME, Y)
    frame = framed(kind, {name: FRAME[name].to_numpy() for name in FRAME})
    fitted = MLPClassifier(**SMALL).fit(frame, Y)
    np.testing.assert_array_equal(fitted.predict_proba(frame), wanted.predict_proba(FRAME))
    assert fitted.coefs_[0].dtype == np.float64
    single = framed(kind, {name: FRAME[name].to_numpy(np.float32) for name in FRAME})
    assert MLPClassifier(**SMALL).fit(single, Y).coefs_[0].dtype == np.float32
    assert MLPClassifier(solver="lbfgs", **SMALL).fit(single, Y).coefs_[0].dtype == np.float64
    gaps = framed(kind, {"whole": [1.0, 2.0, 3.0, 4.0], "holes": [1.0, None, 3.0, 4.0]})
    with pytest.raises(ValueError, match="'holes'"):
        MLPClassifier(**SMALL).fit(gaps, Y[48:52])
    with pytest.raises(ValueError, match="could not convert string to float") as refused:
        MLPClassifier(**SMALL).fit(framed(kind, {"text": ["a", "b", "c", "d"]}), Y[48:52])
    assert "'text'" in refused.value.__notes__[0]


@pytest.mark.parametrize("kind", [Capsule, Tensor])
def test_tensors_of_other_libraries(kind: Any) -> None:
    """Such as NumPy can't read by itself: known by DLPack alone, and one that asks for gradients."""
    wanted = MLPClassifier(**SMALL).fit(X, Y)
    fitted = MLPClassifier(**SMALL).fit(kind(X), kind(Y.to_numpy()))
    np.testing.assert_array_equal(fitted.predict_proba(kind(X)), wanted.predict_proba(X))
    with pytest.raises(TypeError, match=r"X is a tensor on cuda:0; .* pass X.cpu\(\)"):
        fitted.predict(Tensor(X, "cuda:0"))


def test_columns_that_are_no_numbers_are_named() -> None:
    for odd in (np.datetime64("2020-01-01", "s"), pd.Interval(0, 1)):
        with pytest.raises(TypeError) as refused:
            MLPClassifier(**SMALL).fit(FRAME.assign(odd=odd), Y)
        assert "column 'odd' of X holds" in refused.value.__notes__[0]


def framed(kind: str, columns: dict[str, Any]) -> Any:
    """A frame of a library, which is there or skips the test."""
    if kind == "pandas":
        return pd.DataFrame(columns)
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame(columns)
    return pytest.importorskip("pyarrow").table(columns)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_frames_are_staged_without_a_second_copy(kind: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    frame = framed(kind, {f"c{j}": rng.standard_normal(80_000) for j in range(50)})
    y = rng.standard_normal(80_000).astype(dtype)
    regressor = MLPRegressor(hidden_layer_sizes=(2,), max_iter=1, batch_size=4000, dtype=dtype)
    regressor.fit(np.zeros((4000, 50)), y[:4000])  # loads the kernels
    tracemalloc.start()
    try:
        regressor.fit(frame, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    staged = 80_000 * 50 * np.dtype(dtype).itemsize
    assert staged < peak < staged + 11e6, (
        "a second copy would be 16 MB or more; workspaces, orders and targets are less"
    )


def test_columns_that_hold_more_than_numbers_are_scikit_learns_to_convert() -> None:
    codes = pd.DataFrame({"numbers": FRAME.iloc[:, 0], "categories": pd.Categorical(np.arange(150) % 3)})
    wanted = MLPClassifier(**SMALL).fit(codes.to_numpy(np.float64), Y)
    found = MLPClassifier(**SMALL).fit(codes, Y)
    np.testing.assert_array_equal(found.coefs_[0], wanted.coefs_[0])
    with pytest.raises(ValueError, match="feature names"):
        found.predict(codes.rename(columns={"numbers": "others"}))
