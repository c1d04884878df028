"""`MLPSearchCV`: what scikit-learn's searches find, in their attributes, on threads."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

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
