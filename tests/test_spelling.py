"""Arguments that nothing takes: every public name answers with those that it takes and the nearest."""

import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbp as fb
from fastbp._spelling import ATTRIBUTES, nearest

MODULES = ("activations", "callbacks", "constraints", "layers", "losses", "metrics", "optimizers", "regularizers")
ANSWERING = ("Model", "History", "Histories", "Profile", "LearningRateCurve", "TabularEncoder")


def public() -> dict[str, Callable[..., Any]]:
    """Whatever users call by name: classes and functions of the table of contents and of the public modules."""
    found = {name: getattr(fb, name) for name in fb.__all__ if callable(getattr(fb, name))}
    for module in (*MODULES, "schedules"):
        for name, value in vars(getattr(fb, module)).items():
            own = getattr(value, "__module__", "").startswith(f"fastbp.{module}")
            if own and name[0].isupper() and (inspect.isclass(value) or inspect.isfunction(value)):
                found[f"{module}.{name}"] = value
        if hasattr(getattr(fb, module), "custom"):
            found[f"{module}.custom"] = getattr(fb, module).custom
    return found


def methods() -> dict[str, Callable[..., Any]]:
    return {
        f"{owner}.{name}": getattr(getattr(fb, owner), name)
        for owner in ANSWERING
        for name, value in vars(getattr(fb, owner)).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, classmethod))
    }


def takes(value: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(value).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


PUBLIC = public() | methods()
EXEMPT = {
    "DivergenceError",  # raised, not made by users
    "callbacks.Callback",  # takes nothing, which Python says itself; a subclass has its own
    "callbacks.TerminateOnNaN",
    "constraints.Constraint",
    "callbacks.LambdaCallback",  # takes any hook, and refuses others by name itself
    "callbacks.CallbackList",
    "Histories",  # a list
    "layers.Layer",
    "layers.Network",
    "schedules.Schedule",
    "TabularEncoder.set_params",  # takes any, as scikit-learn's, and lists the valid ones itself
}


def test_all_that_is_public_is_looked_at() -> None:
    assert {"Model", "Model.fit", "Model.predict", "Model.load", "Adam", "Dense", "fit_many", "Huber"} <= PUBLIC.keys()
    assert {"callbacks.EarlyStopping", "metrics.AUC", "schedules.CosineDecay", "losses.custom"} <= PUBLIC.keys()
    assert len(PUBLIC) > 150
    assert PUBLIC.keys() >= EXEMPT


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - EXEMPT))
def test_an_unknown_argument_is_answered_by_those_there_are(name: str) -> None:
    value, owner = PUBLIC[name], name.split(".", 1)[1] if name.split(".")[0] in (*MODULES, "schedules") else name
    own = takes(value)
    unbound = "." in owner and not inspect.ismethod(value)
    given: tuple[Any, ...] = (fb.Model(), [[1.0]]) if name == "Model.predict" else (object(),) if unbound else ()
    with pytest.raises(TypeError) as caught:
        value(*given, qqq=1)
    listed = f"It takes: {', '.join(own)}" if own else "It takes no arguments"
    assert str(caught.value).endswith(f"has no argument 'qqq'. {listed}")
    assert (caught.value.__cause__ is None and caught.value.__suppress_context__) or name == "Model.predict"
    for argument in own[len(given) - unbound :]:
        with pytest.raises(TypeError, match=f"has no argument '{argument}_'") as caught:
            value(*given, **{f"{argument}_": 1})
        assert f"Did you mean {argument!r}?" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.fit([[1.0]], [1.0], epoch=3), "Model.fit has no argument 'epoch'. Did you mean 'epochs'?"),
        (lambda model: model.predict([[1.0]], batchsize=3), "Model.predict has no argument 'batchsize'. Did you mean"),
        (lambda model: model.predict(X=[[1.0]]), "Model.predict has no argument 'X'. Did you mean 'x'?"),
        (lambda model: model.compile(optimiser="adam"), "Model.compile has no argument 'optimiser'. Did you mean"),
        (lambda model: fb.Adam(learing_rate=1.0), "Adam has no argument 'learing_rate'. Did you mean 'learning_rate'?"),
        (lambda model: fb.Adam(lr=1.0), "Adam has no argument 'lr'. Did you mean 'learning_rate'?"),
        (lambda model: fb.Adam(betas=(0.9, 0.99)), "Did you mean 'beta_1' and 'beta_2'?"),
        (lambda model: fb.Dense(out_features=3), "Dense has no argument 'out_features'. Did you mean 'units'?"),
        (lambda model: fb.Dense(3, bias=False), "Dense has no argument 'bias'. Did you mean 'use_bias'?"),
        (lambda model: fb.Dropout(p=0.5), "Dropout has no argument 'p'. Did you mean 'rate'?"),
        (lambda model: fb.fit_many([model], [[1.0]], [1.0], max_iter=3), "fit_many has no argument 'max_iter'"),
        (lambda model: fb.callbacks.EarlyStopping(patients=3), "Did you mean 'patience'?"),
        (lambda model: fb.Model(fb.Dense(1)), "layers must be a list of layers, such as fb.Model([fb.Dense(10)])"),
        (lambda model: model.predict(), "x is None; wanted a table of numbers"),
        (
            lambda model: fb.Model(fb.Dense(2), fb.Dense(1)),
            "arguments layers; got 2. Give lists as lists, and all else",
        ),
    ],
)
def test_what_newcomers_write(call: Callable[[fb.Model], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        call(fb.Model([fb.Dense(1)]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("get", "name", "meant"),
    [
        (fb.losses.get, "bce", "binary_crossentropy"),
        (fb.losses.get, "MeanSquaredError", "mean_squared_error"),
        (fb.losses.get, "KLD", "kl_divergence"),
        (fb.metrics.get, "AUC", "auc"),
        (fb.metrics.get, "RootMeanSquaredError", "rmse"),
        (fb.metrics.get, "MSE", "mse"),
        (fb.activations.get, "LeakyReLU", "leaky_relu"),
        (fb.optimizers.get, "RMSprop", "RMSprop"),
        (lambda name: fb.Dense(1, kernel_initializer=name).config(), "HeNormal", "he_normal"),
        (lambda name: fb.Dense(1, kernel_regularizer=name).config(), "L1L2", "l1"),
    ],
)
def test_keras_names_are_taken_as_they_are(get: Callable[[str], Any], name: str, meant: str) -> None:
    found = get(name)
    assert meant in (str(found) if isinstance(found, dict) else getattr(found, "name", "") + repr(found))


@pytest.mark.parametrize(
    ("get", "name", "message"),
    [
        (fb.losses.get, "cross_entropy", "'sparse_categorical_crossentropy' or 'categorical_crossentropy' or 'binary"),
        (fb.losses.get, "squared_error", "Did you mean 'mean_squared_error'?"),
        (lambda name: fb.Dense(1, kernel_initializer=name), "kaiming_normal", "Did you mean 'he_normal'?"),
        (lambda name: fb.Dense(1, kernel_initializer=name), "sparse", "or an array, or a function of its shape"),
        (fb.activations.get, "swoosh", "or a function of z, such as lambda z: z * fb.math.tanh"),
    ],
)
def test_names_of_other_tools_are_answered(get: Callable[[str], Any], name: str, message: str) -> None:
    with pytest.raises(ValueError, match="unknown") as caught:
        get(name)
    assert message in str(caught.value)


SHARED = {"ema_momentum", "ema_overwrite_frequency", "clipvalue", "clipnorm", "global_clipnorm"}
SHARED |= {"gradient_accumulation_steps"}
"""Arguments that `Optimizer` describes for all optimizers."""


@pytest.mark.parametrize("name", [n for n in sorted(PUBLIC) if "." not in n or n.split(".")[0] in MODULES])
def test_what_is_taken_is_described(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    shared = SHARED if "see `Optimizer`" in text else set()
    internal = {"DivergenceError", "Histories", "layers.Network", "metrics.Metric", "losses.Loss"}
    missing = [one for one in takes(PUBLIC[name]) if not re.search(rf"\b{one}\b", text) and one not in shared]
    assert not missing or name in internal


def test_attributes_of_other_tools_are_answered() -> None:
    model = fb.Model([fb.Dense(1)])
    for name, message in {
        "state_dict": "What stands for it: fb.to_torch_state_dict(model)",
        "predict_proba": "What stands for it: model.predict(x)",
        "evalute": "Did you mean 'evaluate'?",
        "xyzzy": "Model has no attribute 'xyzzy'.",
    }.items():
        with pytest.raises(AttributeError) as caught:
            getattr(model, name)
        assert message in str(caught.value) and not hasattr(model, name)
    for name, there in ATTRIBUTES.items():
        assert not hasattr(fb.Model, name), "it is there, so nothing stands for it"
        for owner, used in re.findall(r"\b(fb|model)\.(\w+)", there):
            assert hasattr({"fb": fb, "model": fb.Model}[owner], used), there
    with pytest.raises(AttributeError) as found:
        fb.Droput  # noqa: B018
    assert (found.value.name, found.value.obj) == ("Droput", fb)


def test_signatures_pickles_and_other_errors_stay_as_they_are() -> None:
    assert takes(fb.Model.predict) == ["x", "batch_size", "verbose", "upto", "noise", "out"]
    assert takes(fb.Model.fit)[:4] == ["x", "y", "batch_size", "epochs"]
    assert inspect.signature(fb.Adam).parameters["learning_rate"].default == 1e-3
    assert (fb.Model.fit.__doc__ or "").startswith("Train for `epochs` passes")
    assert pickle.loads(pickle.dumps(fb.Adam(0.1))) == fb.Adam(0.1)
    assert pickle.loads(pickle.dumps(fb.Huber)) is fb.Huber
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'units'"):
        fb.Dense()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional argument"):
        fb.Dropout(0.1, 0.2, 0.3, 0.4, 0.5)  # type: ignore[call-arg, misc]

    def own(y: Any, a: Any) -> Any:
        return np.square(y - a, dty=1)  # type: ignore[call-overload]

    with pytest.raises(TypeError) as caught:
        fb.losses.custom(own)
    assert "has no argument" not in str(caught.value)


def test_a_subclass_of_ones_own_has_its_own_arguments() -> None:
    class Mine(fb.callbacks.EarlyStopping):
        def __init__(self, note: str, **options: Any) -> None:
            super().__init__(**options)
            self.note = note

    assert Mine("x", patience=3).patience == 3
    with pytest.raises(TypeError, match=r"EarlyStopping has no argument 'patince'. Did you mean 'patience'?"):
        Mine("x", patince=3)


def test_the_nearest_name() -> None:
    assert nearest("relo", ["relu", "elu"]) == " Did you mean 'relu'?"
    assert nearest("Adam", ["adam"]) == " Did you mean 'adam'?"
    assert nearest("xyz", ["relu"]) == ""
    assert nearest("lr", ["decay"]) == ""
