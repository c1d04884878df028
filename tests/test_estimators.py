"""scikit-learn's estimators: its own classes' results, its own checks, and what goes beyond them."""

import pickle
import warnings
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastbp as fb
from fastbp.cpu.engine import Engine
from fastbp.estimators import MLPClassifier, MLPRegressor, network, shuffles

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

X, Y = make_classification(230, 12, n_informative=6, n_classes=3, random_state=0)
XR, YR = make_regression(230, 9, n_targets=2, noise=1.0, random_state=0)
YR = YR / YR.std()
XL, YL = make_multilabel_classification(150, 10, random_state=1)
# scaled: scikit-learn clips probabilities before the logarithm, which shows in the loss of outputs that saturate
XL = (XL - XL.mean(axis=0)) / XL.std(axis=0)
DATA: dict[str, Any] = {
    "classes": (X, Y),
    "two classes": (X, Y > 0),
    "labels": (XL, YL),
    "numbers": (XR, YR),
    "one number": (XR, YR[:, 0]),
    "counts": (XR, np.random.default_rng(0).poisson(2.0, 230).astype(float)),
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"alpha": 3.0, "hidden_layer_sizes": (20, 7), "activation": "tanh"},
    {"solver": "sgd", "learning_rate_init": 0.05, "activation": "logistic", "batch_size": 37},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 0.05, "n_iter_no_change": 2},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.3, "nesterovs_momentum": False},
    {"solver": "sgd", "momentum": 0, "shuffle": False, "alpha": 0},
    {"early_stopping": True, "hidden_layer_sizes": 30, "n_iter_no_change": 3},
]


def pair(kind: str, **settings: Any) -> tuple[Any, Any]:
    """Their estimator and ours for a kind of data."""
    regression = kind in ("numbers", "one number", "counts")
    settings = {"random_state": 3, "max_iter": 25, **({"loss": "poisson"} if kind == "counts" else {}), **settings}
    theirs, ours = (TheirRegressor, MLPRegressor) if regression else (TheirClassifier, MLPClassifier)
    return theirs(**settings), ours(**settings)


def same(theirs: Any, ours: Any, x: Any, tolerance: float = 1e-9) -> None:
    """Everything that a fit leaves behind agrees but for rounding."""
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(theirs, name) == getattr(ours, name), name
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        wanted, got = getattr(theirs, name, None), getattr(ours, name, None)
        assert (wanted is None) == (got is None), name
        if wanted is not None:
            np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance, err_msg=name)
    for wanted, got in zip(theirs.coefs_ + theirs.intercepts_, ours.coefs_ + ours.intercepts_, strict=True):
        assert wanted.dtype == got.dtype
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(theirs, method):
            wanted, got = getattr(theirs, method)(x), getattr(ours, method)(x)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


@parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", DATA)
def test_results_are_scikit_learns(kind: str, settings: dict[str, Any]) -> None:
    x, y = DATA[kind]
    theirs, ours = pair(kind, **settings)
    same(theirs.fit(x, y), ours.fit(x, y), x)


@pytest.mark.parametrize("kind", ["classes", "two classes", "labels", "one number", "counts"])
def test_lbfgs_is_scikit_learns(kind: str) -> None:
    x, y = DATA[kind]
    theirs, ours = pair(kind, solver="lbfgs", max_iter=8, alpha=0.3)
    same(theirs.fit(x, y), ours.fit(x, y), x, 1e-6)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["classes", "two classes", "one number", "counts"])
def test_sample_weights_are_scikit_learns(kind: str, solver: str) -> None:
    x, y = DATA[kind]
    weight = np.random.default_rng(1).uniform(0.1, 3, len(x))
    theirs, ours = pair(kind, solver=solver, max_iter=8, alpha=0.5, batch_size=50)
    same(theirs.fit(x, y, weight), ours.fit(x, y, weight), x, 1e-6 if solver == "lbfgs" else 1e-9)


@pytest.mark.parametrize("settings", [{}, {"solver": "sgd"}, {"early_stopping": True}], ids=str)
def test_counts_below_zero_are_learned_as_by_scikit_learn(settings: dict[str, Any]) -> None:
    theirs, ours = pair("counts", tol=0.0, n_iter_no_change=30, **settings)
    theirs.fit(XR, YR[:, 0])
    with pytest.warns(UserWarning, match="loss='poisson' is of counts, and y has negative values"):
        ours.fit(XR, YR[:, 0])
    assert np.isfinite(ours.loss_)
    np.testing.assert_allclose(ours.predict(XR), theirs.predict(XR), rtol=1e-9)


def test_held_out_rows_are_weighted_as_scikit_learns() -> None:
    weight = np.random.default_rng(1).uniform(0.1, 3, len(XR))
    theirs, ours = pair("numbers", early_stopping=True)
    same(theirs.fit(XR, YR, weight), ours.fit(XR, YR, weight), XR)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fits_after_a_fit_and_a_pickle_are_scikit_learns(solver: str) -> None:
    theirs, ours = pair("classes", solver=solver, max_iter=3)
    theirs.fit(X, Y), ours.fit(X, Y)
    for turn in range(3):
        rows = slice(50 * turn, 50 * turn + 70)
        ours = pickle.loads(pickle.dumps(ours))
        theirs.partial_fit(X[rows], Y[rows]), ours.partial_fit(X[rows], Y[rows])
    same(theirs, ours, X)


def test_warm_starts_are_scikit_learns() -> None:
    theirs, ours = pair("one number", warm_start=True, max_iter=4)
    for _ in range(3):
        theirs.fit(XR, YR[:, 0]), ours.fit(XR, YR[:, 0])
        same(theirs, ours, XR)
    ours.set_params(hidden_layer_sizes=(7,))
    with pytest.raises(ValueError, match="9-100-1, parameters and data ask for 9-7-1"):
        ours.fit(XR, YR[:, 0])


def test_weights_written_by_the_user_count() -> None:
    theirs, ours = pair("classes", max_iter=3)
    theirs.fit(X, Y), ours.fit(X, Y)
    for estimator in (theirs, ours):
        estimator.coefs_[0][:] *= 0.5
        estimator.intercepts_[1] = estimator.intercepts_[1] + 1
    same(theirs, ours, X)
    theirs.partial_fit(X, Y), ours.partial_fit(X, Y)
    same(theirs, ours, X)


def test_float32_is_kept_and_dtype_overrules_it() -> None:
    for given, wanted in ((None, "float32"), ("float64", "float64"), (np.float32, "float32")):
        ours = MLPClassifier(max_iter=5, dtype=given, random_state=0).fit(X.astype(np.float32), Y)
        assert {array.dtype.name for array in ours.coefs_ + ours.intercepts_} == {wanted}
        assert ours.predict_proba(X.astype(np.float32)).dtype == wanted


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_rows_are_the_dense_ones(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = np.where(np.abs(X) > 0.5, X, 0.0)
    weight = np.random.default_rng(1).uniform(0.1, 3, len(X))
    options: dict[str, Any] = {"random_state": 0, "max_iter": 5, "batch_size": 20, "solver": solver, "alpha": 0.1}
    wanted = MLPClassifier(**options).fit(dense, Y, weight)
    for above, kind in ((16, sparse.csr_matrix), (0, sparse.csr_matrix), (0, sparse.csc_array)):
        monkeypatch.setattr(network, "DENSE_ABOVE", above)
        got = MLPClassifier(**options).fit(kind(dense), Y, weight)
        same(wanted, got, kind(dense), 1e-9)


def test_threads_and_processes_give_the_same_results() -> None:
    rows, targets = make_classification(1500, 60, n_informative=20, random_state=0)
    found = [MLPClassifier(max_iter=3, random_state=0, threads=n).fit(rows, targets).coefs_[0] for n in (1, 2)]
    np.testing.assert_array_equal(*found)
    estimator = make_pipeline(StandardScaler(), MLPClassifier((20,), max_iter=5, random_state=0))
    alone = cross_val_score(estimator, X, Y, cv=3)
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend):
            np.testing.assert_array_equal(cross_val_score(estimator, X, Y, cv=3, n_jobs=2), alone)


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.PCG64])
def test_orders_are_those_of_numpys_shuffle(bits: Any, count: int) -> None:
    train = np.random.default_rng(0).permutation(3 * count)[:count]
    ours, theirs = (np.random.RandomState(bits(5)) for _ in range(2))
    rows, place = shuffles.Orders(train, ours), np.arange(count)
    for epochs in (1, 3):
        for line in rows.drawn(epochs):
            moves = np.arange(count)
            theirs.shuffle(moves)
            place = place[moves]
            np.testing.assert_array_equal(line, train[place])
    assert ours.randint(1 << 30) == theirs.randint(1 << 30)
    np.testing.assert_array_equal(shuffles.Orders(train, None).drawn(2), [train, train])


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate_init": 0.05, "tol": 1e-2},
        {"learning_rate_init": 0.05, "n_iter_no_change": 1, "tol": 0.0, "shuffle": False},
        {"learning_rate_init": 1e-12, "tol": 0.0, "max_iter": 30},  # losses that differ in their last bits, if at all
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5, "tol": 1e-2, "n_iter_no_change": 2},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "tol": 1e-3, "alpha": 0.0},
        {"n_iter_no_change": np.inf, "max_iter": 12, "dropout": 0.2},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_that_ends_within_a_run_is_the_one_that_is_looked_at_each_epoch(
    options: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, run = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda *a, **k: entered.append("ending" in k) or run(*a, **k))
    settings: dict[str, Any] = {"max_iter": 300, "batch_size": 32, "threads": 1, "dtype": dtype, **options}
    ours = MLPClassifier((9,), random_state=3, **settings).fit(X, Y)
    assert all(entered) and len(entered) < ours.n_iter_
    entered.clear()
    watched = MLPClassifier((9,), random_state=3, callbacks=[fb.callbacks.Callback()], **settings).fit(X, Y)
    assert not any(entered) and len(entered) == watched.n_iter_ == ours.n_iter_
    assert ours.loss_curve_ == watched.loss_curve_ and (ours.t_, ours.loss_) == (watched.t_, watched.loss_)
    for a, b in zip(ours.coefs_ + ours.intercepts_, watched.coefs_ + watched.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_generator_of_ones_own_has_drawn_is_what_the_fit_used() -> None:
    ours, theirs = (np.random.RandomState(5) for _ in range(2))
    settings: dict[str, Any] = {"max_iter": 200, "learning_rate_init": 0.05, "tol": 1e-2, "threads": 1}
    fits = [
        MLPClassifier((9,), random_state=random, callbacks=callbacks, **settings).fit(X, Y)
        for random, callbacks in ((ours, None), (theirs, [fb.callbacks.Callback()]))
    ]
    assert fits[0].n_iter_ == fits[1].n_iter_ < 200
    assert ours.randint(1 << 30) == theirs.randint(1 << 30)


def test_grid_search_and_clone() -> None:
    grid = {"alpha": [1e-4, 1.0], "activation": ["relu", fb.activations.SILU]}
    search = GridSearchCV(MLPClassifier((10,), max_iter=5, random_state=0), grid, cv=2).fit(X, Y)
    copy = clone(search.best_estimator_)
    assert not hasattr(copy, "coefs_")
    same(search.best_estimator_, copy.fit(X, Y), X)


def test_number_types_as_numpy_has_them() -> None:
    for dtype in ("float32", np.float32, np.dtype("float32")):
        ours = clone(MLPRegressor(dtype=dtype, max_iter=2)).fit(XR, YR)
        assert ours.coefs_[0].dtype == np.float32
    with pytest.raises(ValueError, match="The 'dtype' parameter"):
        MLPRegressor(dtype=np.dtype("int32")).fit(XR, YR)


def test_functions_of_ones_own() -> None:
    plain: dict[str, Any] = {"hidden_layer_sizes": (8, 5), "random_state": 0, "max_iter": 5}
    swish = MLPRegressor(activation=lambda z: z / (1.0 + fb.math.exp(-z)), **plain).fit(XR, YR)
    mixed = MLPRegressor(activation=["silu", lambda z: z / (1.0 + fb.math.exp(-z))], **plain).fit(XR, YR)
    theirs = MLPRegressor(activation="silu", **plain).fit(XR, YR)
    for ours in (swish, mixed, clone(mixed).fit(XR, YR)):
        np.testing.assert_allclose(ours.predict(XR), theirs.predict(XR), rtol=1e-9)
    half = MLPRegressor(loss=lambda y, p: (p - y) ** 2 / 2, **plain).fit(XR, YR[:, 0])
    np.testing.assert_allclose(half.predict(XR), MLPRegressor(**plain).fit(XR, YR[:, 0]).predict(XR), rtol=1e-9)


def test_activations_of_each_layer() -> None:
    rows = ["gelu", fb.activations.LEAKY_RELU(0.05)]
    ours = MLPRegressor(hidden_layer_sizes=(8, 6), activation=rows, max_iter=3, random_state=0).fit(XR, YR)
    model = ours.to_model()
    assert [layer.activation.name for layer in model.layers] == ["gelu", "leaky_relu", "linear"]
    np.testing.assert_array_equal(model.predict(XR), ours.predict(XR))
    with pytest.raises(ValueError, match="names 2 activations for 1 hidden"):
        clone(ours).set_params(hidden_layer_sizes=(8,)).fit(XR, YR)
    with pytest.raises(ValueError, match="couples the neurons"):
        MLPRegressor(activation=["softmax"]).fit(XR, YR)


@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_losses_beyond_scikit_learn_descend(loss: str) -> None:
    ours = MLPRegressor(loss, random_state=0, max_iter=60, alpha=0).fit(XR, YR)
    assert ours.loss_ < 0.5 * ours.loss_curve_[0]
    error = np.abs(ours.predict(XR) - YR)
    value = error if loss == "absolute_error" else np.where(error <= 1, error**2 / 2, error - 0.5)
    assert value.mean() == pytest.approx(ours.loss_, rel=0.2)


def test_class_weights_are_sample_weights() -> None:
    by_label = {0: 1.0, 1: 5.0, 2: 0.5}
    weight = np.array([by_label[label] for label in Y])
    ours = MLPClassifier(max_iter=5, random_state=0, class_weight=by_label).fit(X, Y)
    same(MLPClassifier(max_iter=5, random_state=0).fit(X, Y, weight), ours, X)
    with pytest.raises(ValueError, match="'balanced' is not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])
    for odd in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"class_weight must be numbers from 0, got {odd}"):
            MLPClassifier(class_weight={0: 1.0, 1: odd}).fit(X, Y)


def test_weight_decay_shrinks_weights() -> None:
    norms = []
    for decay in (0.0, 5.0):
        ours = MLPClassifier(max_iter=20, random_state=0, weight_decay=decay).fit(X, Y)
        norms.append(sum(np.square(coef).sum() for coef in ours.coefs_))
    assert norms[1] < 0.8 * norms[0]


def test_a_given_validation_set() -> None:
    ours = MLPClassifier(max_iter=8, random_state=0, early_stopping=True)
    ours.fit(X[:150], Y[:150], X_val=X[150:], y_val=Y[150:])
    assert ours.t_ == 150 * ours.n_iter_
    assert max(ours.validation_scores_) == pytest.approx(ours.score(X[150:], Y[150:]))
    with pytest.raises(ValueError, match="y_val was not provided"):
        ours.fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="set early_stopping=True"):
        MLPClassifier().fit(X, Y, X_val=X, y_val=Y)


class Ender(fb.callbacks.Callback):
    """Ends a fit after its third epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        assert logs["loss"] == self.model.estimator.loss_  # type: ignore[attr-defined]
        self.model.stop_training = epoch == 2


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_callbacks_watch_and_end_a_fit(solver: str) -> None:
    assert MLPClassifier(random_state=0, solver=solver, callbacks=[Ender()]).fit(X, Y).n_iter_ == 3
    with pytest.raises(ValueError, match="hooks of batches"):
        MLPClassifier(callbacks=fb.callbacks.LambdaCallback(on_train_batch_end=print)).fit(X, Y)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_callbacks_that_look_at_weights_leave_a_fit_alone(solver: str, early: bool) -> None:
    seen: list[Any] = []

    def look(epoch: int, logs: Any) -> None:
        seen.append(ours.coefs_[0])

    settings: dict[str, Any] = {"random_state": 0, "solver": solver, "max_iter": 6, "early_stopping": early}
    ours = MLPClassifier(callbacks=fb.callbacks.LambdaCallback(on_epoch_end=look), **settings)
    ours.fit(X, Y)
    same(MLPClassifier(**settings).fit(X, Y), ours, X)
    assert len(seen) == 6 and all(np.abs(a - b).max() > 0 for a, b in pairwise(seen))


def test_weights_that_a_callback_writes_count() -> None:
    def clear(epoch: int, logs: Any) -> None:
        if epoch == 2:
            ours.coefs_[0][:] = 0.0

    plain: dict[str, Any] = {"random_state": 0, "solver": "sgd", "learning_rate_init": 1e-9, "max_iter": 5}
    ours = MLPClassifier(callbacks=fb.callbacks.LambdaCallback(on_epoch_end=clear), **plain)
    ours.fit(X, Y)
    assert np.abs(ours.coefs_[0]).max() < 1e-3 < np.abs(ours.coefs_[1]).max()


def test_callbacks_of_scikit_learn() -> None:
    pytest.importorskip("sklearn.callback")
    seen: list[float] = []

    class Watcher:
        def setup(self, estimator: Any, context: Any) -> None: ...

        def teardown(self, estimator: Any, context: Any) -> None: ...

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None: ...

        def on_fit_task_end(self, estimator: Any, context: Any, *, X: Any, y: Any, fitted_estimator: Any) -> bool:
            seen.append(fitted_estimator.score(X, y))
            return len(seen) == 4

    ours = MLPClassifier(random_state=0).set_callbacks(Watcher()).fit(X, Y)
    assert ours.n_iter_ == 4
    assert seen[3] == ours.score(X, Y)


def test_a_loss_that_diverges_ends_as_in_scikit_learn() -> None:
    settings: dict[str, Any] = {"solver": "sgd", "learning_rate_init": 1e3, "max_iter": 6, "activation": "identity"}
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(**settings).fit(XR, 1e3 * YR)
    ours = MLPRegressor(**settings, early_stopping=True, random_state=0).fit(XR, 1e3 * YR)
    assert ours.n_iter_ == 6
    assert np.isnan(ours.loss_curve_[-1]) and np.isnan(ours.validation_scores_[-1])
    assert np.isfinite(ours.predict(XR)).all()


def test_errors_are_scikit_learns() -> None:
    for settings in (
        {"alpha": -1},
        {"solver": "hadoken"},
        {"hidden_layer_sizes": -1},
        {"beta_1": 1.0},
        {"momentum": 2},
    ):
        messages = []
        for kind in (TheirClassifier, MLPClassifier):
            with pytest.raises(ValueError) as found:
                kind(**settings).fit(X, Y)
            messages.append(str(found.value))
        if settings.keys() != {"solver"}:
            assert messages[0] == messages[1]
    for sizes in ((8, 5.5), [float("nan")]):
        with pytest.raises(ValueError, match=r"hidden_layer_sizes must be whole numbers, got (5\.5|nan)"):
            MLPClassifier(hidden_layer_sizes=sizes).fit(X, Y)
    for own in (
        {"dropout": 0.1},
        {"weight_decay": 0.1},
        {"clipnorm": 1.0},
        {"learning_rate": fb.schedules.CosineDecay(0.1, 9)},
    ):
        with pytest.raises(ValueError, match='solver="lbfgs"'):
            MLPClassifier(solver="lbfgs", **own).fit(X, Y)
    with pytest.raises(ValueError, match="early_stopping=True"):
        MLPClassifier(callbacks=fb.callbacks.EarlyStopping("val_loss")).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(*load_iris(return_X_y=True))
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
