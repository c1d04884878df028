"""The estimators with device="cuda", beside the CPU; in the simulator, and on a GPU by ``pytest -m gpu``."""

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import make_classification, make_regression

from fastbp.cuda import presence
from fastbp.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = make_classification(24, 4, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0)
XR, YR = make_regression(24, 4, random_state=0)
YR = YR / YR.std()
SMALL: dict[str, Any] = {"hidden_layer_sizes": (5,), "max_iter": 3, "batch_size": 10, "random_state": 0}
CASES: dict[str, Any] = {
    "adam": (MLPClassifier(**SMALL), Y),
    "two classes": (MLPClassifier(**SMALL), Y > 0),
    "sgd": (MLPClassifier(solver="sgd", learning_rate="invscaling", alpha=0.1, **SMALL), Y),
    "lbfgs": (MLPRegressor(solver="lbfgs", **SMALL), YR),
    "poisson": (MLPRegressor("poisson", activation="tanh", **SMALL), np.abs(YR)),
    "layers": (MLPRegressor(dropout=0.3, batch_norm=True, activation="gelu", global_clipnorm=1.0, **SMALL), YR),
    "columns": (MLPClassifier(**SMALL), np.stack([Y, 2 - Y], axis=1)),
    "stopped early": (MLPRegressor(early_stopping=True, **SMALL), YR),
}


@pytest.mark.parametrize("case", CASES)
def test_fits_on_the_device_are_the_cpus(case: str, cuda: bool) -> None:
    estimator, y = CASES[case]
    weight = np.linspace(0.5, 2.0, 24) if case in ("adam", "lbfgs") else None
    x = XR if isinstance(estimator, MLPRegressor) else X
    cpu = pickle.loads(pickle.dumps(estimator)).fit(x, y, weight)
    other = pickle.loads(pickle.dumps(estimator)).set_params(device="cuda").fit(x, y, weight)
    assert other._network.device == "cuda"
    tolerance = 1e-6 if case == "lbfgs" else 1e-9
    for wanted, got in zip(cpu.coefs_ + cpu.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    assert other.loss_ == pytest.approx(cpu.loss_, rel=1e-6)
    np.testing.assert_allclose(other.predict(x), cpu.predict(x), rtol=1e-5, atol=1e-6)
    assert other.to_model().device == "cuda"


def test_a_fit_goes_on_on_another_device_and_sparse_rows_become_dense(cuda: bool) -> None:
    rows = np.where(np.abs(X) > 1.0, X, 0.0)
    cpu, other = (MLPClassifier(device=device, **SMALL).fit(sparse.csr_array(rows), Y) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(other.coefs_[0], cpu.coefs_[0], rtol=1e-9)
    other.set_params(device="cpu").partial_fit(rows, Y)
    np.testing.assert_allclose(other.coefs_[0], cpu.partial_fit(rows, Y).coefs_[0], rtol=1e-9)


def test_a_pickle_goes_on_without_a_gpu_but_no_fit_begins(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(MLPRegressor(device="cuda", **SMALL).fit(XR, YR))
    wanted = pickle.loads(data).predict(XR)
    monkeypatch.setattr(presence, "problem", lambda: "there is no GPU")
    with pytest.warns(UserWarning, match="was on a GPU and goes on on the CPU: there is no GPU"):
        np.testing.assert_allclose(pickle.loads(data).predict(XR), wanted, rtol=1e-9)

    def absent() -> None:
        raise RuntimeError("there is no GPU")

    monkeypatch.setattr(presence, "require", absent)
    with pytest.raises(RuntimeError, match="there is no GPU"):
        MLPRegressor(device="cuda", **SMALL).fit(XR, YR)


def test_devices_have_names() -> None:
    with pytest.raises(ValueError, match="'device' parameter"):
        MLPRegressor(device="tpu").fit(XR, YR)
    assert MLPRegressor(device="auto", **SMALL).fit(XR, YR)._network.device == "cpu"
