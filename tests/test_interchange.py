"""Networks from and to scikit-learn, PyTorch and Keras: each side predicts the same, to float32's rounding."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, outputs
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression
from sklearn.neural_network import MLPClassifier, MLPRegressor

import fastbp as fb
from fastbp import estimators

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X32 = X.astype(np.float32)
XR, YR = make_regression(80, 6, n_targets=2, random_state=0)
XL, YL = make_multilabel_classification(80, 6, n_classes=4, random_state=0)
NAMES = load_iris().target_names[Y]
ROUNDING = 2e-6


def probabilities(model: fb.Model, x: np.ndarray) -> np.ndarray:
    got = model.predict(x)
    return np.hstack([1 - got, got]) if got.shape[1] == 1 else got


@pytest.mark.parametrize("home", [None, estimators], ids=["theirs", "ours"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize(
    ("x", "y"), [(X32, NAMES), (X32, Y > 0), (XL.astype(np.float32), YL), (X, Y)], ids=["text", "two", "labels", "f8"]
)
def test_classifiers_come_and_go(home: Any, activation: str, x: np.ndarray, y: np.ndarray) -> None:
    kind = MLPClassifier if home is None else estimators.MLPClassifier
    theirs = kind((9, 5), activation, random_state=1, max_iter=20).fit(x, y)
    model = fb.from_sklearn(theirs)
    assert model.dtype == x.dtype
    np.testing.assert_allclose(probabilities(model, x), theirs.predict_proba(x), atol=ROUNDING)
    back = fb.to_sklearn(model, own=home is not None)
    assert type(back) is kind
    np.testing.assert_array_equal(back.classes_, theirs.classes_)
    np.testing.assert_array_equal(back.predict(x), theirs.predict(x))
    np.testing.assert_allclose(back.predict_proba(x), theirs.predict_proba(x), atol=ROUNDING)
    before = back.coefs_[0].copy()
    back.partial_fit(x, y)
    assert (back.coefs_[0] != before).any()
    model.fit(x, np.searchsorted(theirs.classes_, y) if y.ndim == 1 else y, verbose=0)  # it comes compiled


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("loss", "y"), [("squared_error", YR), ("poisson", np.abs(YR[:, 0]))])
def test_regressors_come_and_go(own: bool, loss: str, y: np.ndarray) -> None:
    x, y = XR.astype(np.float32), y / np.abs(y).max()
    theirs = MLPRegressor(loss, (8,), random_state=1, max_iter=20, solver="sgd").fit(x, y)
    model = fb.from_sklearn(theirs)
    assert type(model.optimizer) is fb.SGD
    assert model.loss_name == ("poisson_deviance" if loss == "poisson" else "mean_squared_error")
    np.testing.assert_allclose(model.predict(x), theirs.predict(x).reshape(len(x), -1), atol=ROUNDING)
    back = fb.to_sklearn(model, own=own)
    np.testing.assert_allclose(back.predict(x), theirs.predict(x), atol=ROUNDING)
    assert back.partial_fit(x, y).loss_ < 10


def test_two_softmax_outputs_become_one_of_scikit_learns() -> None:
    model = make([4, 7, 2], "relu", "softmax", bias=False)
    theirs = fb.to_sklearn(model, classes=["no", "yes"])
    np.testing.assert_allclose(theirs.predict_proba(X32), model.predict(X32), atol=ROUNDING)
    assert set(theirs.predict(X32)) <= {"no", "yes"}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (make([3, 4, 1], "gelu"), {}, r"activations \['gelu'\]; .*own=True. makes fastbp's"),
        (make([3, 4, 1], "relu", "softplus"), {}, "'softplus' is none of scikit-learn's"),
        (make([3, 4, 1]), {"classes": [0, 1]}, "a regression has none"),
        (make([3, 4, 3], "relu", "softmax"), {"classes": [0, 1]}, "wanted 3 different classes"),
        (make([3, 4, 2], "relu", "softmax"), {"classes": ["b", "a"]}, "sorts classes"),
    ],
)
def test_what_scikit_learn_does_not_have(model: fb.Model, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fb.to_sklearn(model, **options)


def test_our_own_estimator_takes_any_activation() -> None:
    row = fb.activations.LEAKY_RELU(0.03)
    model = fb.Model([fb.Dense(5, "gelu"), fb.Dense(4, row), fb.Dense(1)])
    model.build(6)
    theirs = fb.to_sklearn(model, own=True)
    np.testing.assert_array_equal(theirs.predict(XR.astype(np.float32)), model.predict(XR)[:, 0])


def test_only_fitted_networks_come() -> None:
    for wrong in (MLPClassifier(), object(), fb.Model([fb.Dense(1)])):
        with pytest.raises(TypeError, match="wanted a fitted MLPClassifier or MLPRegressor"):
            fb.from_sklearn(wrong)
    with pytest.raises(TypeError, match="wanted a fastbp Model"):
        fb.to_sklearn(MLPClassifier())


# ---------------------------------------------------------------- PyTorch


class Tensor:
    """A tensor as far as it is asked: it gives its numbers only detached and on the CPU."""

    def __init__(self, array: np.ndarray, dtype: str = "torch.float32", steps: tuple[str, ...] = ()) -> None:
        self.array, self.dtype, self.steps = array, dtype, steps

    def detach(self) -> "Tensor":
        return Tensor(self.array, self.dtype, (*self.steps, "detach"))

    def cpu(self) -> "Tensor":
        return Tensor(self.array, self.dtype, (*self.steps, "cpu"))

    def float(self) -> "Tensor":
        return Tensor(self.array.astype(np.float32), "torch.float32", self.steps)

    def numpy(self) -> np.ndarray:
        assert self.steps == ("detach", "cpu")
        assert self.dtype != "torch.bfloat16"
        return self.array


@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_come_and_go(bias: bool) -> None:
    model = make([5, 8, 6, 3], "gelu", "softmax", bias=bias)
    state = fb.to_torch_state_dict(model, ["encoder.one", "encoder.two", "head"])
    assert next(iter(state)) == "encoder.one.weight" and state["head.weight"].shape == (3, 6)
    assert all(array.flags.c_contiguous for array in state.values())
    back = fb.from_torch_state_dict({name: Tensor(array) for name, array in state.items()}, "gelu", "softmax")
    x = inputs(9, 5)
    np.testing.assert_array_equal(back.predict(x), model.predict(x))
    wanted = np.maximum(x.astype(np.float32) @ state["encoder.one.weight"].T + state.get("encoder.one.bias", 0), 0)
    first = fb.from_torch_state_dict({n: a for n, a in state.items() if "one" in n}, output_activation="relu")
    np.testing.assert_allclose(first.predict(x), wanted, rtol=1e-5, atol=1e-6)


def mixed() -> fb.Model:
    """A model with normalisations whose numbers aren't those that they begin with."""
    layers = [fb.Dense(8, use_bias=False), fb.BatchNormalization(center=False), fb.Activation("gelu"), fb.Dropout(0.1)]
    model = fb.Model([*layers, fb.Dense(6, activation="tanh"), fb.LayerNormalization(), fb.Dense(2)])
    model.build(5)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 1.0, array.shape) for array in model.get_weights()])
    return model


def test_normalisations_come_and_go() -> None:
    model, x = mixed(), inputs(9, 5)
    state = fb.to_torch_state_dict(model)
    batch = [f"1.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert list(state) == ["0.weight", *batch, "4.weight", "4.bias", "6.weight", "6.bias", "7.weight", "7.bias"]
    np.testing.assert_array_equal(state["1.bias"], np.zeros(8))
    state["6.weight"], state["6.bias"] = np.ones(6), np.zeros(6)  # behind its activation it can't come back
    norm = model.layers[5]
    first = fb.from_torch_state_dict(
        {n: a for n, a in state.items() if n < "4"}, output_activation="gelu", epsilon=1e-3
    )
    rest = fb.from_torch_state_dict(
        {n: a for n, a in state.items() if n >= "4"}, "tanh", epsilon=norm.epsilon, activation_first=True
    )
    weights = model.get_weights()
    weights[6:8] = state["6.weight"], state["6.bias"]
    model.set_weights(weights)
    np.testing.assert_allclose(rest.predict(first.predict(x)), model.predict(x), atol=ROUNDING)
    assert [layer.kind for layer in first.layers] == ["dense", "batch_normalization", "activation"]
    assert [layer.kind for layer in rest.layers] == ["dense", "layer_normalization", "dense"]
    again = fb.to_torch_state_dict(first, ["net.lin", "net.norm"])
    assert list(again)[:2] == ["net.lin.weight", "net.norm.weight"]
    for odd, message in (
        (fb.RMSNormalization(), "no counterpart there"),
        (fb.LayerNormalization(center=False, scale=False), "no arrays"),
    ):
        with pytest.raises(ValueError, match=message):
            fb.to_torch_state_dict(built(odd))


def built(layer: Any) -> fb.Model:
    model = fb.Model([layer, fb.Dense(2)])
    model.build(5)
    return model


def test_half_precision_and_doubles() -> None:
    weight = np.ones((2, 3))
    assert fb.from_torch_state_dict({"w.weight": Tensor(weight, "torch.float64")}).dtype == np.float64
    assert fb.from_torch_state_dict({"w.weight": Tensor(weight, "torch.bfloat16")}).dtype == np.float32
    assert list(fb.to_torch_state_dict(make([2, 3, 4, 1]))) == [
        f"{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")
    ]


def test_with_pytorch_itself() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency; the shapes above stand for it")
    x = inputs(9, 5).astype(np.float32)
    norm = torch.nn.BatchNorm1d(8)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), norm, torch.nn.Tanh(), torch.nn.Linear(8, 3))
    net.train()(2 * torch.from_numpy(x) + 1)
    model = fb.from_torch_state_dict(net.eval().state_dict(), "tanh")
    np.testing.assert_allclose(model.predict(x), net(torch.from_numpy(x)).detach().numpy(), atol=ROUNDING)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    model = fb.from_torch_state_dict(net.state_dict(), "tanh")
    np.testing.assert_allclose(model.predict(x), net(torch.from_numpy(x)).detach().numpy(), atol=ROUNDING)
    other = make([5, 8, 3], "tanh")
    net.load_state_dict({name: torch.from_numpy(array) for name, array in fb.to_torch_state_dict(other).items()})
    np.testing.assert_allclose(other.predict(x), net(torch.from_numpy(x)).detach().numpy(), atol=ROUNDING)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no linear layer"),
        ({"norm.weight": np.ones(3), "norm.bias": np.ones(3)}, "no linear layer"),
        ({"prelu.weight": np.ones(1)}, r"'prelu' holds weight \(1,\); linear layers, weight \(O, I\)"),
        ({"conv.weight": np.ones((3, 2, 1))}, "linear layers"),
        ({"a.weight": np.ones((3, 2)), "b.weight": np.ones((1, 4))}, r"no chain; .*\(2, 3\), \(4, 1\)"),
        ({"a.weight": np.ones((3, 2)), "a.bias": np.ones(2)}, "3 neurons has a bias of shape"),
    ],
)
def test_state_dicts_of_other_networks(state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fb.from_torch_state_dict(state)


def test_what_holds_the_weights_is_not_the_weights() -> None:
    state = {"w.weight": np.ones((3, 2))}
    module = type("Linear", (), {"state_dict": lambda self: state})()
    with pytest.raises(TypeError, match=r"wanted names to tensors, got a Linear: pass its \.state_dict\(\)"):
        fb.from_torch_state_dict(module)
    with pytest.raises(TypeError, match=r"as in a checkpoint: pass state\['model_state'\]"):
        fb.from_torch_state_dict({"epoch": 3, "model_state": state})
    with pytest.raises(TypeError, match=r"wanted a Keras model or what its get_weights\(\) returns, got 'net.keras'"):
        fb.from_keras_weights("net.keras")
    with pytest.raises(ValueError, match=r"one after the other, .* got lists of them"):
        fb.from_keras_weights([[np.ones((3, 2)), np.ones(2)]])


def test_names_and_activations_are_as_many_as_layers() -> None:
    model = make([2, 3, 3, 1])
    with pytest.raises(ValueError, match="modules has 1 names for 3 layers"):
        fb.to_torch_state_dict(model, ["one"])
    with pytest.raises(ValueError, match="names 1 activations for 2 hidden layers"):
        fb.from_torch_state_dict(fb.to_torch_state_dict(model), ["relu"])


# ---------------------------------------------------------------- Keras


@pytest.mark.parametrize("bias", [True, False])
def test_keras_weights_are_ours(bias: bool) -> None:
    model, x = make([5, 8, 6, 3], "relu", "softmax", bias=bias), inputs(9, 5)
    back = fb.from_keras_weights(model.get_weights(), output_activation="softmax")
    np.testing.assert_array_equal(back.predict(x), model.predict(x))


def dense(arrays: list[np.ndarray], activation: str) -> Any:
    kind = type("Dense", (), {})
    layer = kind()
    layer.name, layer.get_weights = "d", lambda: arrays
    layer.activation = SimpleNamespace(__name__=activation)
    return layer


def test_a_keras_model_brings_its_activations() -> None:
    model, x = make([5, 8, 3], "silu", "sigmoid"), inputs(9, 5)
    w = model.get_weights()
    keras = SimpleNamespace(
        name="net",
        layers=[type("InputLayer", (), {})(), dense(w[:2], "swish"), dense(w[2:], "sigmoid")],
        get_weights=lambda: w,
    )
    back = fb.from_keras_weights(keras)
    np.testing.assert_array_equal(back.predict(x), model.predict(x))
    assert back.name == "net"
    with pytest.raises(ValueError, match="knows its activations"):
        fb.from_keras_weights(keras, "relu")
    odd = type("Conv1D", (), {"name": "c"})()
    with pytest.raises(ValueError, match="'c' is a Conv1D layer; those that can be taken: Dense, Activation"):
        fb.from_keras_weights(SimpleNamespace(name="n", layers=[odd], get_weights=list))
    with pytest.raises(ValueError, match="give the Keras model where it has other layers than Dense"):
        fb.from_keras_weights([w[1], w[0]])


def test_a_keras_model_brings_its_other_layers() -> None:
    model, x = mixed(), inputs(9, 5)
    w = model.get_weights()

    def layer(kind: str, arrays: list[np.ndarray], **own: Any) -> Any:
        own["activation"] = SimpleNamespace(__name__=own.get("activation", "linear"))
        return type(kind, (), {"name": kind, "get_weights": lambda self: arrays, **own})()

    plain: dict[str, Any] = {"epsilon": 1e-3, "scale": True}
    scaled = layer("Normalization", [np.full(5, 3.0, np.float32), np.full(5, 4.0, np.float32), np.array(7)])
    layers = [
        scaled,
        layer("Dense", w[:1]),
        layer("BatchNormalization", w[1:4], momentum=0.99, center=False, **plain),
        layer("Activation", [], activation="gelu"),
        layer("Dropout", [np.zeros(2)], rate=0.1),
        layer("Dense", w[4:6], activation="tanh"),
        layer("LayerNormalization", w[6:8], center=True, **plain),
        layer("Dense", w[8:]),
    ]
    back = fb.from_keras_weights(SimpleNamespace(name="net", layers=layers, get_weights=list))
    np.testing.assert_allclose(back.predict(2 * x + 3), model.predict(x), atol=ROUNDING)
    assert [one.kind for one in back.layers[1:]] == [one.kind for one in model.layers]
    for kind, amount in (("GaussianNoise", "stddev"), ("GaussianDropout", "rate"), ("AlphaDropout", "rate")):
        noisy = [layer("Dense", w[:1]), layer(kind, [], **{amount: 0.25})]
        found = fb.from_keras_weights(SimpleNamespace(name="net", layers=noisy, get_weights=list))
        assert type(found.layers[1]).__name__ == kind and getattr(found.layers[1], amount) == 0.25


def test_with_keras_itself() -> None:
    pytest.importorskip("keras", reason="Keras is no dependency; the shapes above stand for it")
    import keras

    hidden = [keras.layers.Dense(8, "gelu"), keras.layers.Dropout(0.1)]
    net = keras.Sequential([keras.layers.Input((5,)), *hidden, keras.layers.Dense(3, "softmax")])
    x = inputs(9, 5).astype(np.float32)
    model = fb.from_keras_weights(net)
    np.testing.assert_allclose(model.predict(x), net.predict(x, verbose=0), atol=ROUNDING)
    net.set_weights(make([5, 8, 3]).get_weights())
    np.testing.assert_allclose(fb.from_keras_weights(net).predict(x), net.predict(x, verbose=0), atol=ROUNDING)


def test_predictions_are_the_references() -> None:
    """What comes from elsewhere runs through the same kernels as what was made here."""
    model, x = make([5, 8, 3], "tanh"), inputs(9, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = fb.from_torch_state_dict(fb.to_torch_state_dict(model), "tanh")
    np.testing.assert_allclose(back.predict(x), outputs(model, x), atol=1e-5)


def test_a_model_shows_itself_as_a_table() -> None:
    model = fb.Model([fb.Dense(3, activation="relu", name="<first>"), fb.Dense(1)])
    assert model._repr_html_() == "<pre>Model(?-3-1, dtype=&#x27;float32&#x27;, seed=0, threads=2)</pre>".replace(
        "threads=2", f"threads={model.threads}"
    )
    model.build(2)
    page = model._repr_html_()
    assert "2 inputs, 13 parameters" in page and "<td>&lt;first&gt;</td><td>relu</td><td>3</td><td>9</td>" in page
