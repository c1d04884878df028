"""Floor 5: `MLPRegressor`."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from fastbp import losses
from fastbp.activations import Activation
from fastbp.estimators.base import BasePerceptron
from fastbp.estimators.wording import described
from fastbp.losses import LOSSES, Loss
from fastbp.schedules import Schedule

Array = NDArray[Any]

CRITERIA = {
    "squared_error": replace(LOSSES["half_squared_error"], mean_rows=True),
    "poisson": LOSSES["poisson_deviance"],
    "absolute_error": LOSSES["mean_absolute_error"],
    "huber": LOSSES["huber"],
    "log_cosh": LOSSES["log_cosh"],
    "quantile": LOSSES["quantile"],
}
"""Losses by scikit-learn's names, of the sum over outputs; only of "poisson" the sum is reported, else the mean."""


@described
class MLPRegressor(RegressorMixin, BasePerceptron):  # type: ignore[misc]
    """A multilayer perceptron for numbers: scikit-learn's ``MLPRegressor``, trained by fastbp's kernels.

    Parameters, attributes and methods, their defaults and errors are scikit-learn's, and so are the initial weights,
    the held-out rows and the order of the rows for a `random_state`: results are those of scikit-learn but for
    rounding, but for "lbfgs" with several outputs (see ``lbfgs.minimise``). Sparse rows stay sparse in training.

    Parameters
    ----------
    loss : "squared_error" (half of it, as in scikit-learn) or "poisson" (half the deviance; exponential output,
        y >= 0: below that, where scikit-learn's loss is NaN, without the part that y alone has, and with a warning);
        beyond scikit-learn "absolute_error", "huber", "log_cosh", "quantile" (the median), a row of
        ``fastbp.losses`` such as ``fb.Quantile(0.9)``, or a function as ``Model.compile`` takes it
    {parameters}

    Attributes
    ----------
    {attributes}

    Examples
    --------
    >>> from fastbp.estimators import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(200, 5, random_state=0)
    >>> regressor = MLPRegressor((32,), random_state=0, solver="lbfgs", max_iter=400).fit(X, y)
    >>> bool(regressor.score(X, y) > 0.95)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BasePerceptron._parameter_constraints,
        "loss": [StrOptions(set(CRITERIA)), Loss, callable],
    }

    def __init__(
        self,
        loss: str | Loss | Callable[[Any, Any], Any] = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str | Activation | Callable[[Any], Any] | Sequence[Any] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        callbacks: Any = None,
        device: str = "cpu",
        dtype: Any = None,
        threads: int | None = None,
    ) -> None:
        self._keep(locals())

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> "MLPRegressor":
        """Fit the network to rows and their targets.

        Parameters
        ----------
        X : (n_samples, n_features) array, frame or sparse matrix
        y : (n_samples,) or (n_samples, n_outputs) numbers
        sample_weight : (n_samples,) weights of the rows
        X_val, y_val, sample_weight_val : beyond scikit-learn: rows to validate on with `early_stopping`, in place of
            held-out ones

        Returns
        -------
        self
        """
        fitted = self._fit(X, y, sample_weight, False, X_val, y_val, sample_weight_val)
        return fitted  # type: ignore[no-any-return]

    @available_if(BasePerceptron._is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> "MLPRegressor":
        """Go on training with one pass over these rows; parameters as for `fit`.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    # -------------------------------------------------- targets

    _score_name = "r2"

    def _encoded(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array, None]:
        X, y = self._validated(X, y, known=self._number_type(X), reset=reset, multi_output=True, y_numeric=True)
        return X, self._column(y), None

    def _encoded_held(self, X: Any, y: Any) -> tuple[Any, Array]:
        X, y, _ = self._encoded(X, y, False, False)
        return X, y

    def _column(self, y: Array) -> Array:
        """Targets (N, O)."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and y.min() < 0:
            warnings.warn(
                "loss='poisson' is of counts, and y has negative values: another loss suits them", stacklevel=6
            )
        return y.reshape(len(y), -1)

    def _outputs_wanted(self, y: Array) -> tuple[int, str]:
        return y.shape[1], "exp" if self.loss == "poisson" else "identity"

    def _criterion(self) -> Loss:
        loss = CRITERIA[self.loss] if isinstance(self.loss, str) else losses.get(self.loss)
        return replace(loss, mean_outputs=False, reported=1.0 if self.loss == "poisson" else 1 / self.n_outputs_)

    def _scored(self, outputs: Array, y: Array, weight: Array | None) -> float:
        return float(r2_score(y, outputs, sample_weight=weight)) if np.isfinite(outputs).all() else np.nan

    # -------------------------------------------------- predictions

    def predict(self, X: Any) -> Array:
        """Values (n_samples,) or (n_samples, n_outputs) for rows X (n_samples, n_features)."""
        outputs = self._outputs(X)
        return outputs.ravel() if outputs.shape[1] == 1 else outputs
