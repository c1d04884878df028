"""Floor 5: `MLPSearchCV`: scikit-learn's searches, candidates and folds side by side on the threads of one process."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs, parallel_config
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils._param_validation import Interval

from fastbp._jit import default_threads
from fastbp.estimators.desk import Desk


class MLPSearchCV(BaseSearchCV):  # type: ignore[misc]
    """Search over the parameters of fastbp's estimators: ``GridSearchCV`` and ``RandomizedSearchCV`` in one.

    Every fit of a candidate on a fold is the fit that the estimator would make alone, to the bit, and gives the scores
    that scikit-learn's search gives; but the fits run side by side on threads, each outside Python's lock, over one
    copy of the data, without processes to start and to send data to. Short ones (by "sgd" or "adam" with a whole number
    as `random_state`, without early stopping, callbacks, weights of rows or a pipeline around them) are prepared and
    scored by one thread and trained by the others, fold by fold, whose rows are checked once. Of all others the last
    ones share the threads that are free.

    Parameters
    ----------
    estimator : `MLPClassifier` or `MLPRegressor`, or a pipeline that ends with one
    param_grid : dict of parameter names to lists of values, or a list of such dicts; with `n_iter` also to
        distributions, objects with ``rvs`` as in ``scipy.stats``
    n_iter : candidates to draw at random; None (default) tries all combinations
    scoring : score to choose by, as in scikit-learn: a name, a callable, or several; None for the estimator's own
    n_jobs : fits at a time; None (default) or -1 for the threads that the process may use
    refit : whether to fit the best candidate on all rows at the end, default True; a score's name with several, or a
        callable
    cv : folds: a number, a splitter, or pairs of row numbers; None for 5 folds
    verbose : as in scikit-learn, default 0
    random_state : of the candidates drawn with `n_iter`
    error_score : the score of a fit that fails, default NaN; "raise" raises
    return_train_score : whether to score the rows of training too, default False

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_,
    multimetric_, classes_, n_features_in_, feature_names_in_ : as in ``sklearn.model_selection.GridSearchCV``

    Examples
    --------
    >>> from fastbp.estimators import MLPClassifier, MLPSearchCV
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"hidden_layer_sizes": [(8,), (16,)], "learning_rate_init": [1e-3, 1e-2]}
    >>> search = MLPSearchCV(MLPClassifier(max_iter=400, random_state=0), grid).fit(X, y)
    >>> len(search.cv_results_["params"])
    4
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseSearchCV._parameter_constraints,
        "param_grid": [dict, list],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        n_iter: int | None = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable[..., Any] = True,
        cv: Any = None,
        verbose: int = 0,
        random_state: Any = None,
        error_score: float | str = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator=estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            pre_dispatch="all",
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.param_grid, self.n_iter, self.random_state = param_grid, n_iter, random_state

    def fit(self, X: Any, y: Any = None, **params: Any) -> "MLPSearchCV":
        """Fit every candidate on every fold, then the best one on all rows.

        Parameters
        ----------
        X : (n_samples, n_features) array, frame or sparse matrix
        y : targets, as the estimator takes them
        params : passed to the estimator, the splitter and the scorer, as scikit-learn's searches do

        Returns
        -------
        self
        """
        jobs = default_threads() if self.n_jobs in (None, -1) else effective_n_jobs(self.n_jobs)
        with parallel_config(backend=Desk(), n_jobs=jobs):
            return super().fit(X, y, **params)  # type: ignore[no-any-return]

    @property
    def param_distributions(self) -> Any:
        """What is drawn from with `n_iter`: `param_grid`, by the name it has in ``RandomizedSearchCV``."""
        return self.param_grid

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        kind = GridSearchCV if self.n_iter is None else RandomizedSearchCV
        grids = [self.param_grid] if isinstance(self.param_grid, Mapping) else self.param_grid
        dicts = [grid for grid in grids if isinstance(grid, Mapping)]
        drawn = [name for grid in dicts for name, values in grid.items() if hasattr(values, "rvs")]
        if self.n_iter is None and drawn:
            raise TypeError(f"param_grid[{drawn[0]!r}] is a distribution: set n_iter, how many candidates to draw")
        context = {} if callback_ctx is None else {"callback_ctx": callback_ctx}  # before 1.9 there is none
        kind._run_search(self, evaluate_candidates, **context)
