"""Floor 5: what the classifier and the regressor share: from data as users hold it to a fit, and predictions."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbp.data.frames import columns_of, foreign
from fastbp.data.staging import as_matrix
from fastbp.devices import checked
from fastbp.estimators.course import Course, Trainings
from fastbp.estimators.network import Network, Samples, crowd
from fastbp.estimators.parameters import CLIPS, STOCHASTIC
from fastbp.estimators.shape import hidden_rows, sizes_of
from fastbp.losses import LOSSES
from fastbp.model import Model
from fastbp.schedules import Schedule

Array = NDArray[Any]

Encoded = Callable[["BasePerceptron"], tuple[Any, Array, Array | None]]
"""What `BasePerceptron._encoded` returns, and is to leave in the estimator."""


class BasePerceptron(Course):
    """What `MLPClassifier` and `MLPRegressor` share."""

    n_outputs_: int

    @abstractmethod
    def _encoded(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array, Array | None]:
        """X checked, targets as the kernels read them ((N, O) numbers or (N,) class numbers), weights of classes."""

    @abstractmethod
    def _encoded_held(self, X: Any, y: Any) -> tuple[Any, Array]:
        """The same for rows to validate on, once `_encoded` has run."""

    @abstractmethod
    def _outputs_wanted(self, y: Array) -> tuple[int, str]:
        """Number of outputs and their activation for such targets."""

    def _stratification(self, y: Array) -> Array | None:
        """What the held-out rows are drawn evenly from."""
        return None

    # -------------------------------------------------- the course of a fit

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        incremental: bool,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Any:
        course = self._course(X, y, sample_weight, incremental, (X_val, y_val, sample_weight_val))
        with suppress(StopIteration):
            training = next(course)
            while True:
                try:
                    outcome = training.run()
                except BaseException as error:
                    training = course.throw(error)
                else:
                    training = course.send(outcome)
        return self

    def _course(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        incremental: bool,
        validation: tuple[Any, Any, ArrayLike | None],
        encoded: Encoded | None = None,
    ) -> Trainings:
        """The fit. `encoded`: stands in for `_encoded`, for an estimator that may share its checks with others."""
        sizes = sizes_of(self.hidden_layer_sizes)
        if odd := [size for size in sizes if not isinstance(size, Integral)]:
            raise ValueError(f"hidden_layer_sizes must be whole numbers, got {odd[0]!r}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        checked(self.device, "float32")
        fresh = not self._has_weights or not (self.warm_start or incremental)
        watched = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
        X, y, of_classes = self._encoded(X, y, incremental, fresh) if encoded is None else encoded(self)
        given = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        held = self._given_held(*validation)
        if self.solver == "lbfgs":
            self._refuse_for_lbfgs()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        random = check_random_state(self.random_state)
        outputs, activation = self._outputs_wanted(y)
        self.n_outputs_ = outputs
        if fresh:
            self.out_activation_, self.n_layers_ = activation, len(sizes) + 2
            self._initialise(random, [X.shape[1], *sizes, outputs], self._number_type(X) or X.dtype)
        with crowd.member():
            network = self._ready()
            self._check_shape([X.shape[1], *sizes, outputs], network)
            self._lists_given = None
            data = Samples(network.staged(X), _cast(y, network.dtype), _product(given, of_classes))
            train = np.arange(len(data))
            if self.early_stopping and self.solver != "lbfgs" and held is None:
                train, held = self._split(X, y, given, random)
            if held is not None:
                held = Samples(network.staged(held.x), _cast(held.y, network.dtype), held.weight)
            arrays = [array for samples in (data, held) if samples for array in (samples.x, samples.y, samples.weight)]
            with network.engine.holding_data(*arrays):
                if self.solver == "lbfgs":
                    self._fit_lbfgs(network, data, watched)
                else:
                    yield from self._fit_stochastic(network, data, train, held, incremental, random, watched)
        if not network.engine.finite():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )

    def _refuse_for_lbfgs(self) -> None:
        """Refuse what scikit-learn's class hasn't and the search along lines can't heed."""
        if self.batch_norm or np.any(self.dropout):
            raise ValueError(
                'dropout and batch_norm make the loss another one in each step, which solver="lbfgs" can\'t heed; take '
                '"adam" or "sgd"'
            )
        odd = [name for name in CLIPS if getattr(self, name) is not None]
        odd += ["weight_decay"] * bool(self.weight_decay) + ["a schedule"] * isinstance(self.learning_rate, Schedule)
        if odd:
            raise ValueError(
                f'{odd[0]} is about the steps of "adam" and "sgd"; solver="lbfgs" has none of that kind: leave it out '
                "(alpha is the penalty that it heeds)"
            )

    def _validated(self, X: Any, *y: Any, known: np.dtype[Any] | None, reset: bool = False, **of_y: Any) -> Any:
        """What scikit-learn's ``validate_data`` returns, X in the number type that is `known` at once.

        A frame of numbers is converted a block at a time, without a copy of it in another type or order.
        """
        X, y = _in_memory(X, "X"), tuple(_in_memory(targets, "y") for targets in y)
        checks = {"accept_sparse": ["csr", "csc"], "dtype": known or (np.float64, np.float32), "order": "C", **of_y}
        odd = ""
        if columns_of(X) is not None:
            try:
                rows = as_matrix(X, known or np.float64, name="X")
                validate_data(self, X, reset=reset, skip_check_array=True)
                return (check_X_y if y else check_array)(rows, *y, estimator=self, **checks)
            except TypeError as error:  # other columns than numbers: as scikit-learn converts them
                odd = str(error)
        try:
            return validate_data(self, X, *y, reset=reset, **checks)
        except (TypeError, ValueError) as error:
            if odd:
                error.add_note(odd)
            raise

    def _check_shape(self, units: list[int], network: Network) -> None:
        """Refuse to train a network further that is not the one the parameters and the data ask for."""
        found = network.units
        if found != units:
            raise ValueError(
                f"the weights are those of a network {'-'.join(map(str, found))}, parameters and data ask for "
                f"{'-'.join(map(str, units))}: fit without warm_start, or set the parameters back"
            )

    def _given_held(self, X: Any, y: Any, weight: ArrayLike | None) -> Samples | None:
        """Rows to validate on that `fit` was given."""
        if X is None and y is None:
            return None
        if X is None or y is None:
            missing, there = ("X_val", "y_val") if X is None else ("y_val", "X_val")
            raise ValueError(f"{there} is provided, but {missing} was not provided.")
        if not self.early_stopping:
            raise ValueError("X_val and y_val are for early stopping: set early_stopping=True")
        X, y = self._encoded_held(X, y)
        return Samples(X, y, None if weight is None else _check_sample_weight(weight, X, dtype=np.float64))

    def _split(self, X: Any, y: Array, weight: Array | None, random: np.random.RandomState) -> tuple[Array, Samples]:
        """(numbers of the rows to train on, the rest)."""
        train, held = train_test_split(
            np.arange(len(y)),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=self._stratification(y),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return train, Samples(X[held], y[held], None if weight is None else weight[held])

    def _number_type(self, X: Any) -> np.dtype[Any] | None:
        """The weights' type: as X (None for an array's), but float64 for L-BFGS, whose line search needs it."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        frame = columns_of(X)
        if frame is None and self.solver != "lbfgs":
            return None
        columns = frame[1] if frame else ()
        types = {str(getattr(column, "dtype", getattr(column, "type", ""))).lower() for column in columns}
        single = types and types <= {"float32", "float"} and self.solver != "lbfgs"
        return np.dtype(np.float32 if single else np.float64)

    def _initialise(self, random: np.random.RandomState, units: list[int], dtype: np.dtype[Any]) -> None:
        """Draw the weights as Glorot and Bengio (2010), narrower before logistic neurons, and begin all counts."""
        coefs, intercepts = [], []
        logistic = [row.name == "sigmoid" for row in hidden_rows(self.activation, max(1, len(units) - 2))]
        logistic = [*logistic[: len(units) - 2], all(logistic)]
        for (fan_in, fan_out), narrow in zip(pairwise(units), logistic, strict=True):
            bound = np.sqrt((2.0 if narrow else 6.0) / (fan_in + fan_out))
            coefs.append(random.uniform(-bound, bound, (fan_in, fan_out)).astype(dtype))
            intercepts.append(random.uniform(-bound, bound, fan_out).astype(dtype))
        fresh = [np.repeat([[1.0], [0.0], [0.0], [1.0]], width, axis=1).astype(dtype) for width in units[1:-1]]
        norms = fresh if self.batch_norm else []
        self._lists_given, self._network, self._moments = (coefs, intercepts, norms), None, None
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
            self.__dict__.pop(name, None)

    # -------------------------------------------------- the network as it is

    def to_model(self) -> Model:
        """The network as a `fastbp.Model` of its own, to be saved, evaluated or trained in Keras' words.

        Returns
        -------
        Model
            With these weights; its outputs are those of the last layer, of several columns of classes the logits of
            each. It is compiled with the loss that was fitted, unless that is a function of one's own.
        """
        check_is_fitted(self)
        network = self._ready()
        layers = network.shape.layers(network.units[1:])
        own: dict[str, Any] = {"threads": self.threads, "device": network.device, "name": type(self).__name__}
        model = Model(layers, dtype=network.dtype.name, **own)
        model.build(network.units[0])
        model.set_weights(network.engine.program.take(network.engine.weights))
        model.column_names = list(getattr(self, "feature_names_in_", ())) or None
        loss = self._criterion()
        if isinstance(loss.targets, tuple):
            model.compile("adam", loss)
        elif loss.name in LOSSES:
            model.compile("adam", replace(loss, mean_outputs=True, reported=1.0))
        return model

    # -------------------------------------------------- predictions

    def _outputs(self, X: Any) -> Array:
        """Outputs (N, O) of the network for rows as users hold them."""
        check_is_fitted(self)
        X = self._validated(X, known=self._ready().dtype)
        with crowd.member():
            network = self._ready()
            network.engine.threads = crowd.share(self._threads())
            return network.predict(X)

    def _is_stochastic(self) -> bool:
        """Whether ``partial_fit`` exists."""
        if self.solver not in STOCHASTIC:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _in_memory(x: Any, name: str) -> Any:
    """A tensor, or an array of another library, as NumPy's over the same memory; anything else as it is."""
    x = foreign(x, name)
    return np.asarray(x) if hasattr(x, "__array_namespace__") and not isinstance(x, np.ndarray) else x


def _product(one: Array | None, other: Array | None) -> Array | None:
    return other if one is None else one if other is None else one * other


def _cast(y: Array, dtype: np.dtype[Any]) -> Array:
    """Class numbers stay whole; all else becomes (N, O) of the network's type."""
    if y.dtype == np.int64 and y.ndim == 1:
        return np.ascontiguousarray(y)
    return np.ascontiguousarray(y.reshape(len(y), -1), dtype)
