"""Floor 5: `MLPClassifier`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target

from fastbp.activations import Activation
from fastbp.estimators.base import BasePerceptron
from fastbp.estimators.heads import Heads
from fastbp.estimators.labels import binarizer, distinct, numbers, plain, several
from fastbp.estimators.wording import described
from fastbp.losses import LOSSES, Loss, SparseCategoricalCrossentropies
from fastbp.schedules import Schedule

Array = NDArray[Any]

MULTICLASS = LOSSES["sparse_categorical_crossentropy"]
BINARY = replace(LOSSES["binary_crossentropy"], mean_outputs=False)
CRITERIA = {
    "log_loss": (MULTICLASS, BINARY),
    "focal": (LOSSES["sparse_categorical_focal_crossentropy"], LOSSES["binary_focal_crossentropy"]),
}
"""Losses of softmax and of logistic outputs."""


@described
class MLPClassifier(ClassifierMixin, BasePerceptron):  # type: ignore[misc]
    """A multilayer perceptron for classes: scikit-learn's ``MLPClassifier``, trained by fastbp's kernels.

    Parameters, attributes and methods, their defaults and errors are scikit-learn's, and so are the initial weights,
    the held-out rows and the order of the rows for a `random_state`: results are those of scikit-learn but for
    rounding. The loss is computed from logits, not from clipped probabilities. Sparse rows stay sparse in training.
    Binary and multilabel targets have logistic outputs, more than two classes softmax outputs. Beyond scikit-learn's
    class y may have several columns of classes: one network learns them together, `predict` returns them side by side,
    `predict_proba` a list with each column's, and `score` counts the rows that are right in all of them.

    Parameters
    ----------
    {parameters}
    loss : beyond scikit-learn: "log_loss" (default), "focal" (Lin et al. 2017: well-classified rows count less), or a
        row of ``fastbp.losses``: for softmax outputs one of class numbers such as
        ``fb.SparseCategoricalFocalCrossentropy(gamma=1.0)``, for logistic ones one of probabilities such as
        ``fb.BinaryCrossentropy(label_smoothing=0.1)``
    class_weight : beyond scikit-learn: weights of the classes as a dict by label, "balanced" (each class counts alike),
        or None; several labels a row take a list of dicts

    Attributes
    ----------
    classes_ : the class labels, sorted; of several columns of classes a list with those of each
    {attributes}

    Examples
    --------
    >>> from fastbp.estimators import MLPClassifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = MLPClassifier((32,), random_state=0, max_iter=400).fit(X, y)
    >>> bool(classifier.score(X, y) > 0.95)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BasePerceptron._parameter_constraints,
        "loss": [StrOptions(set(CRITERIA)), Loss],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    classes_: Array | list[Array]
    class_weight: Any
    _label_binarizer: LabelBinarizer

    def __init__(
        self,
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
        loss: str | Loss = "log_loss",
        class_weight: Any = None,
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
    ) -> "MLPClassifier":
        """Fit the network to rows and their classes.

        Parameters
        ----------
        X : (n_samples, n_features) array, frame or sparse matrix
        y : (n_samples,) class labels, (n_samples, n_classes) zeros and ones for several labels a row, or
            (n_samples, n_columns) class labels
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
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, classes: Any = None
    ) -> "MLPClassifier":
        """Go on training with one pass over these rows.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        classes : all class labels there will be, of several columns a list with those of each; needed at the first call

        Returns
        -------
        self
        """
        if classes is not None and len(classes) and np.ndim(classes[0]) == 1:
            self._check_columns([np.unique(labels) for labels in classes])
        elif self._heads is None and _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    # -------------------------------------------------- targets

    _score_name = "accuracy"

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[Any, Array]:
        X, y = self._validated(X, y, known=self._number_type(X), reset=reset, multi_output=True)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _check_columns(self, classes: list[Array]) -> None:
        """Take over the classes of several columns that `partial_fit` was given, or refuse others than there are."""
        known = getattr(self, "classes_", classes)
        if len(known) != len(classes) or not all(map(np.array_equal, known, classes)):
            raise ValueError(f"`classes={classes}` is not the same as on last call to partial_fit, was: {known}")
        self.classes_ = classes

    @property
    def _heads(self) -> Heads | None:
        """Several columns of classes; None of one, and before a fit."""
        classes = getattr(self, "classes_", None)
        return Heads(classes) if isinstance(classes, list) else None

    def _encoded(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array, Array | None]:
        X, y = self._checked(X, y, reset)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            if several(y):
                self.classes_ = [np.unique(column) for column in y.T]
            else:
                self._label_binarizer = binarizer(y)
                self.classes_ = self._label_binarizer.classes_
        else:
            self._check_known(y, same=self.warm_start)
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which sees some of the rows at a time: pass "
                "compute_class_weight('balanced', classes=classes, y=all_targets) as a dict"
            )
        for weights in self.class_weight if isinstance(self.class_weight, list) else [self.class_weight]:
            if isinstance(weights, dict) and (odd := [w for w in weights.values() if not 0 <= w < math.inf]):
                raise ValueError(f"class_weight must be numbers from 0, got {odd[0]!r}")
        of_classes = None if self.class_weight is None else compute_sample_weight(self.class_weight, y)
        return X, self._codes(y), of_classes

    def _encoded_held(self, X: Any, y: Any) -> tuple[Any, Array]:
        X, y = self._checked(X, y, False)
        self._check_known(y, same=False)
        return X, self._codes(y)

    def _codes(self, y: Array) -> Array:
        """Class numbers (N,), (N, O) booleans, or what `Heads` makes of several columns."""
        if self._heads is not None:
            return self._heads.targets(y)
        if self._label_binarizer.y_type_ == "multiclass":
            return numbers(y, np.asarray(self.classes_))
        if y.ndim == 1:
            return np.asarray(y == self.classes_[-1])[:, None] & (len(self.classes_) > 1)
        return self._label_binarizer.transform(y).astype(bool)

    def _check_known(self, y: Array, same: bool) -> None:
        """Refuse targets of other columns or classes; `same`: refuse all others than the network has."""
        if self._heads is not None:
            self._heads.check(y, same)
        else:
            self._check_classes(distinct(y), same)

    def _check_classes(self, classes: Array, same: bool) -> None:
        """Refuse classes that the network has no outputs for; `same`: refuse all others than those it has."""
        if same:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _outputs_wanted(self, y: Array) -> tuple[int, str]:
        if self._heads is not None:
            return self._heads.outputs, "identity"
        return (len(self.classes_), "softmax") if y.ndim == 1 else (y.shape[1], "logistic")

    def _criterion(self) -> Loss:
        if self._heads is not None:
            if self.loss != "log_loss":
                raise ValueError(f'several columns of classes are learned by loss="log_loss" alone, got {self.loss!r}')
            return SparseCategoricalCrossentropies(self._heads.counts)
        softmax = self.out_activation_ == "softmax"
        if isinstance(self.loss, str):
            return replace(CRITERIA[self.loss][not softmax], mean_outputs=False)
        wanted = "labels" if softmax else "probabilities"
        if self.loss.targets != wanted:
            kind = "class numbers" if softmax else "probabilities"
            raise ValueError(
                f"loss {self.loss.name!r} is not one of {kind}, which the {self.out_activation_} outputs want here: "
                f"take one such as {CRITERIA['focal'][not softmax].name}"
            )
        return replace(self.loss, mean_outputs=False)

    def _stratification(self, y: Array) -> Array | None:
        return y.astype(bool) if self.n_outputs_ == 1 else None

    def _scored(self, outputs: Array, y: Array, weight: Array | None) -> float:
        if self._heads is not None:
            right = self._heads.right(outputs, y)
        else:
            right = outputs.argmax(axis=1) == y if y.ndim == 1 else ((outputs > 0.5) == (y > 0.5)).all(axis=1)
        return float(np.average(right, weights=weight))

    # -------------------------------------------------- predictions

    def predict(self, X: Any) -> Array:
        """Classes of rows X (n_samples, n_features).

        Returns
        -------
        (n_samples,) labels, (n_samples, n_classes) zeros and ones, or (n_samples, n_columns) labels, as y was
        """
        outputs = self._outputs(X)
        if self._heads is not None:
            return self._heads.labels(outputs)
        labels: Array = self._label_binarizer.inverse_transform(outputs.ravel() if self.n_outputs_ == 1 else outputs)
        return labels

    def predict_proba(self, X: Any) -> Any:
        """Probability (n_samples, n_classes) of each class, in the order of `classes_`; a list of several columns'."""
        outputs = self._outputs(X)
        if self._heads is not None:
            return [np.exp(column) for column in self._heads.log_probabilities(outputs)]
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithm of `predict_proba`."""
        if self._heads is not None:
            return self._heads.log_probabilities(self._outputs(X))
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy: the share of rows, by weight, that `predict` is right about, in all columns of several.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        """
        if self._heads is None:
            whole = (
                sample_weight is None and isinstance(y, np.ndarray) and plain(y) and plain(np.asarray(self.classes_))
            )
            if whole and len(found := self.predict(X)) == len(y):
                return float(np.average(y == found))  # what scikit-learn comes to after checks of both, some 0.5 ms
            return float(super().score(X, y, sample_weight))
        truth, found = np.asarray(y), self.predict(X)
        if truth.shape != found.shape:
            raise ValueError(
                f"y has the shape {truth.shape}, the predictions {found.shape}: give all columns of classes"
            )
        right = (truth == found).all(axis=1)
        return float(np.average(right, weights=None if sample_weight is None else np.asarray(sample_weight)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags
