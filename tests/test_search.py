"""`MLPSearchCV`: what scikit-learn's searches find, in their attributes, on threads."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV, GroupKFold, ParameterGrid, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbp.cpu.together import Line
from fastbp.estimators import MLPClassifier, MLPRegressor, MLPSearchCV

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

X, Y = load_iris(return_X_y=True)
XR, YR = make_regression(90, 5, noise=1.0, random_state=0)
GRID = {"hidden_layer_sizes": [(4,), (9, 3)], "alpha": [1e-4, 1.0], "learning_rate_init": [1e-3, 1e-1]}
SMALL: dict[str, Any] = {"max_iter": 8, "batch_size": 32, "random_state": 0}


def same(theirs: Any, ours: Any) -> None:
    """All that isn't seconds."""
    assert theirs.cv_results_.keys() == ours.cv_results_.keys()
    for name, wanted in theirs.cv_results_.items():
        if "time" not in name and name != "params":
            np.testing.assert_array_equal(ours.cv_results_[name], wanted, err_msg=name)
    assert (ours.best_params_, ours.best_index_) == (theirs.best_params_, theirs.best_index_)
    assert ours.n_splits_ == theirs.n_splits_ and ours.multimetric_ == theirs.multimetric_


def test_a_grid_is_grid_search_cvs() -> None:
    theirs = GridSearchCV(MLPClassifier(**SMALL), GRID, return_train_score=True).fit(X, Y)
    ours = MLPSearchCV(MLPClassifier(**SMALL), GRID, return_train_score=True).fit(X, Y)
    same(theirs, ours)
    assert ours.best_score_ == theirs.best_score_
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    np.testing.assert_array_equal(ours.classes_, [0, 1, 2])
    assert ours.n_features_in_ == 4 and ours.refit_time_ > 0


def test_draws_are_randomized_search_cvs() -> None:
    space = {"alpha": loguniform(1e-5, 1e1), "hidden_layer_sizes": [(3,), (8,)]}
    options: dict[str, Any] = {"n_iter": 5, "random_state": 3, "cv": 3}
    theirs = RandomizedSearchCV(MLPRegressor(**SMALL), space, **options).fit(XR, YR)
    ours = MLPSearchCV(MLPRegressor(**SMALL), space, **options).fit(XR, YR)
    same(theirs, ours)
    np.testing.assert_array_equal(ours.predict(XR), theirs.predict(XR))
    assert len(ours.cv_results_["params"]) == 5
    with pytest.raises(TypeError, match=r"param_grid\['alpha'\] is a distribution: set n_iter"):
        MLPSearchCV(MLPRegressor(**SMALL), space).fit(XR, YR)
    with pytest.raises(TypeError, match="is not a dict"):
        MLPSearchCV(MLPRegressor(**SMALL), ["alpha"]).fit(XR, YR)


def test_several_scores_groups_weights_and_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**SMALL))
    grid = {"mlpclassifier__alpha": [1e-4, 10.0]}
    options: dict[str, Any] = {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss", "cv": GroupKFold(3)}
    passed: dict[str, Any] = {"groups": np.arange(len(X)) % 6, "mlpclassifier__sample_weight": 1.0 + Y}
    theirs = GridSearchCV(pipeline, grid, **options).fit(X, Y, **passed)
    same(theirs, MLPSearchCV(pipeline, grid, **options).fit(X, Y, **passed))


@pytest.mark.parametrize("jobs", [1, 2, -1])
def test_any_number_of_threads_finds_the_same(jobs: int) -> None:
    wanted = MLPSearchCV(MLPClassifier(**SMALL), GRID, n_jobs=3).fit(X, Y)
    same(wanted, MLPSearchCV(MLPClassifier(**SMALL), GRID, n_jobs=jobs).fit(X, Y))


class Seen:
    """A score that keeps what it sees of the fitted estimators."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {}

    def __call__(self, estimator: Any, x: Any, y: Any) -> float:
        curve = [estimator.loss_curve_, estimator.n_iter_, estimator.t_, estimator.best_loss_]
        self.found[repr((estimator, x.sum()))] = [
            *estimator.coefs_,
            *estimator.intercepts_,
            estimator._optimizer.updates,
            *curve,
        ]
        return float(estimator.score(x, y))


def booked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines whose runs are put in line from now on."""
    engines: list[Any] = []
    add: Any = Line.add

    def counting(self: Line, engine: Any, request: Any, token: Any) -> bool:
        engines.append(engine)
        return bool(add(self, engine, request, token))

    monkeypatch.setattr(Line, "add", counting)
    return engines


@pytest.mark.parametrize(
    "grid",
    [
        {"hidden_layer_sizes": [(4,), (9, 3)], "alpha": [1e-4, 1.0], "learning_rate_init": [1e-3, 1e-1]},
        {"solver": ["sgd"], "learning_rate": ["adaptive", "invscaling"], "tol": [0.1], "n_iter_no_change": [2]},
        {"dropout": [0.2], "batch_norm": [True, False], "dtype": ["float32", "float64"]},
        {"loss": ["focal", "log_loss"], "shuffle": [True, False], "batch_size": ["auto", 7]},
    ],
    ids=["sizes", "rates", "layers", "rows"],
)
def test_fits_in_line_are_those_of_the_estimator_alone(grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engines, theirs, ours = booked(monkeypatch), Seen(), Seen()
    settings: dict[str, Any] = {**SMALL, "max_iter": 40}
    same(
        GridSearchCV(MLPClassifier(**settings), grid, scoring=theirs).fit(X, Y),
        MLPSearchCV(MLPClassifier(**settings), grid, scoring=ours, n_jobs=2).fit(X, Y),
    )
    assert ours.found.keys() == theirs.found.keys()
    for name, wanted in theirs.found.items():
        for a, b in zip(wanted, ours.found[name], strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(set(engines)) == 5 * len(ParameterGrid(grid))


def test_estimators_that_work_in_parallel_themselves() -> None:
    """In the folds and in the refit, where joblib hands out tasks as earlier ones end."""
    forest, mlp = RandomForestClassifier(20, random_state=0), MLPClassifier(**SMALL)
    for estimator, grid in (
        (forest, {"max_depth": [2, 3]}),
        (make_pipeline(SelectFromModel(forest), mlp), {"mlpclassifier__alpha": [1e-3, 1.0]}),
        (GridSearchCV(mlp, {"alpha": [1e-3, 1e-2, 1e-1, 1.0]}), {"cv": [3, 4]}),
    ):
        theirs, ours = GridSearchCV(estimator, grid, cv=3), MLPSearchCV(estimator, grid, cv=3, n_jobs=2)
        same(theirs.fit(X, Y), ours.fit(X, Y))
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_what_cannot_stand_in_line_is_fitted_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = booked(monkeypatch)
    grid = {"solver": ["adam", "lbfgs"], "early_stopping": [True, False], "alpha": [1e-4, 1e-2]}
    same(
        GridSearchCV(MLPRegressor(**SMALL), grid).fit(XR, YR),
        MLPSearchCV(MLPRegressor(**SMALL), grid, n_jobs=2).fit(XR, YR),
    )
    assert len(set(engines)) == 2 * 5
    MLPSearchCV(MLPClassifier(**SMALL), GRID, n_jobs=2).fit(X, Y, sample_weight=1.0 + Y)
    for other in (
        {"random_state": None},
        {"class_weight": "balanced"},
        {"threads": 3},
        {"max_iter": 10**7, "tol": 1.0},
    ):
        MLPSearchCV(MLPClassifier(**{**SMALL, **other}), {"alpha": [1.0]}, n_jobs=2).fit(X, Y)
    assert len(set(engines)) == 2 * 5


def test_a_fit_in_line_may_fail() -> None:
    search = MLPSearchCV(
        MLPRegressor(hidden_layer_sizes=(4,), **SMALL), {"learning_rate_init": [1e-3, 1e200]}, n_jobs=2
    )
    with pytest.warns(FitFailedWarning, match="non-finite parameter"), pytest.warns(UserWarning, match="non-finite"):
        search.fit(XR, YR)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]
    with pytest.raises(ValueError, match="non-finite parameter"):
        clone(search).set_params(error_score="raise").fit(XR, YR)
    with pytest.raises(ValueError, match="'alpha' parameter of MLPRegressor must be a float in the range"):
        MLPSearchCV(
            MLPRegressor(hidden_layer_sizes=(4,), **SMALL), {"alpha": [-1.0]}, n_jobs=2, error_score="raise"
        ).fit(XR, YR)


def test_an_interrupt_in_a_score_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    engines, left = booked(monkeypatch), 3

    def interrupted(estimator: Any, x: Any, y: Any) -> float:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return float(estimator.score(x, y))

    with pytest.raises(KeyboardInterrupt):
        MLPSearchCV(MLPClassifier(**SMALL), GRID, n_jobs=2, scoring=interrupted).fit(X, Y)
    assert left == 0 and len(set(engines)) < 40
    for engine in engines:
        assert engine.settle is None and engine.lock.acquire(timeout=1)
        engine.lock.release()


def test_a_candidate_that_fails_is_scored_as_asked() -> None:
    grid = {"activation": ["relu", ["relu", "tanh"]]}  # two activations for one hidden layer
    search = MLPSearchCV(MLPClassifier((4,), **SMALL), grid)
    failed = pytest.warns(FitFailedWarning, match="2 activations for 1 hidden layers")
    with failed, pytest.warns(UserWarning, match="non-finite"):
        search.fit(X, Y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]
    assert search.best_params_ == {"activation": "relu"}
    with pytest.raises(ValueError, match="2 activations for 1 hidden layers"):
        clone(search).set_params(error_score="raise").fit(X, Y)


def test_without_refit_and_as_a_pickle() -> None:
    search = MLPSearchCV(MLPClassifier(**SMALL), {"alpha": [1e-4, 1e-2]}, refit=False).fit(X, Y)
    assert not hasattr(search, "best_estimator_") and search.best_params_["alpha"] in (1e-4, 1e-2)
    fitted = MLPSearchCV(MLPClassifier(**SMALL), {"alpha": [1e-4]}, cv=2).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


CHECKED = MLPSearchCV(MLPClassifier(max_iter=20, random_state=0), {"alpha": [1e-4, 1e-2]}, cv=2, error_score="raise")


@parametrize_with_checks([CHECKED])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)
