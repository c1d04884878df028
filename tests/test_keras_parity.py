"""The same network trained by fastbp and by Keras, by Keras' conventions; Keras rounds some of it to float32."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp import schedules
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS, Optimizer

if importlib.util.find_spec("keras") is None or importlib.util.find_spec("torch") is None:
    pytest.skip("Keras and PyTorch (its backend here) are not installed", allow_module_level=True)
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="Keras is not installed")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

BATCH, EPOCHS = 16, 4
X, Y = inputs(48, 9), targets("sparse_categorical_crossentropy", 48, 3)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def theirs(weights: list[np.ndarray], output: str | None = None) -> Any:
    model = keras.Sequential([keras.layers.Dense(12, activation="tanh"), keras.layers.Dense(3, activation=output)])
    model.build((None, 9))
    model.set_weights(weights)
    return model


# --- optimizers -------------------------------------------------------------------------------------------------------
# Keras adds Adam's epsilon to a root that isn't corrected: it is made too small to matter.
RATE = 0.03

PAIRS: list[tuple[Optimizer, str, dict[str, Any]]] = [
    (fb.SGD(RATE), "SGD", {}),
    (fb.SGD(RATE, 0.9), "SGD", {"momentum": 0.9}),
    (fb.SGD(RATE, 0.9, nesterov=True), "SGD", {"momentum": 0.9, "nesterov": True}),
    (fb.SGD(RATE, weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    (fb.SGD(RATE, clipvalue=0.01), "SGD", {"clipvalue": 0.01}),
    (fb.SGD(RATE, clipnorm=0.05), "SGD", {"clipnorm": 0.05}),
    (fb.SGD(RATE, global_clipnorm=0.05), "SGD", {"global_clipnorm": 0.05}),
    (fb.SGD(RATE, gradient_accumulation_steps=3), "SGD", {"gradient_accumulation_steps": 3}),
    (fb.RMSprop(RATE, 0.8), "RMSprop", {"rho": 0.8}),
    (fb.RMSprop(RATE, 0.8, 0.7), "RMSprop", {"rho": 0.8, "momentum": 0.7}),
    (fb.RMSprop(RATE, 0.8, centered=True, epsilon=1e-3), "RMSprop", {"rho": 0.8, "centered": True, "epsilon": 1e-3}),
    (fb.Adagrad(RATE), "Adagrad", {}),
    (fb.Adadelta(RATE, 0.9), "Adadelta", {"rho": 0.9}),
    (fb.Adam(RATE, 0.8, 0.95, 1e-30), "Adam", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-30}),
    (fb.Adam(RATE, epsilon=1e-30, weight_decay=0.1), "Adam", {"epsilon": 1e-30, "weight_decay": 0.1}),
    (fb.AdamW(RATE, epsilon=1e-30), "AdamW", {"epsilon": 1e-30}),
    (fb.Nadam(RATE, momentum_decay=1.0, epsilon=1e-30), "Nadam", {"epsilon": 1e-30}),
    (fb.Lion(RATE), "Lion", {}),
]


@pytest.mark.parametrize(("optimizer", "name", "settings"), PAIRS, ids=lambda value: repr(value)[:60])
def test_optimizers(optimizer: Optimizer, name: str, settings: dict[str, Any]) -> None:
    ours = make([9, 12, 3], "tanh", "softmax", dtype="float64")
    model = theirs(ours.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(getattr(keras.optimizers, name)(learning_rate=RATE, **settings), loss)
    model.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    ours.compile(optimizer, "sparse_categorical_crossentropy")
    ours.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sample_weight", "class_weight"])
def test_weights_of_rows(kind: str) -> None:
    """Divided by the batch's rows, not by the weights' sum."""
    ours = make([9, 12, 3], "tanh", "softmax", dtype="float64")
    model = theirs(ours.get_weights(), "softmax")
    given = {"sample_weight": np.linspace(0.0, 3.0, len(X)), "class_weight": {0: 0.5, 1: 2.0, 2: 1.0}}
    for one, sgd in ((ours, fb.SGD(RATE)), (model, keras.optimizers.SGD(RATE))):
        one.compile(sgd, "sparse_categorical_crossentropy")
        one.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, **{kind: given[kind]})
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_every_optimizer_that_keras_has_is_compared() -> None:
    """Keras has no RAdam."""
    assert {optimizer.name for optimizer, _, _ in PAIRS} == OPTIMIZERS.keys() - {"radam"}


# --- losses -----------------------------------------------------------------------------------------------------------

OF_KERAS: list[tuple[Any, str, Any]] = [
    (fb.MeanSquaredError(), "linear", "MeanSquaredError"),
    (fb.MeanAbsoluteError(), "linear", "MeanAbsoluteError"),
    (fb.MeanAbsolutePercentageError(), "linear", "MeanAbsolutePercentageError"),
    (fb.MeanSquaredLogarithmicError(), "softplus", "MeanSquaredLogarithmicError"),
    (fb.Huber(0.7), "linear", ("Huber", {"delta": 0.7})),
    (fb.LogCosh(), "linear", "LogCosh"),
    (fb.Hinge(), "linear", "Hinge"),
    (fb.SquaredHinge(), "linear", "SquaredHinge"),
    (fb.CategoricalHinge(), "linear", "CategoricalHinge"),
    (fb.KLDivergence(), "softmax", "KLDivergence"),
    (fb.Poisson(), "softplus", "Poisson"),
    (fb.CosineSimilarity(), "linear", "CosineSimilarity"),
    (fb.BinaryCrossentropy(label_smoothing=0.1), "sigmoid", ("BinaryCrossentropy", {"label_smoothing": 0.1})),
    (
        fb.BinaryFocalCrossentropy(True, 0.3, 1.5),
        "sigmoid",
        ("BinaryFocalCrossentropy", {"apply_class_balancing": True, "alpha": 0.3, "gamma": 1.5}),
    ),
    (fb.CategoricalCrossentropy(label_smoothing=0.1), "softmax", ("CategoricalCrossentropy", {"label_smoothing": 0.1})),
    (
        fb.CategoricalFocalCrossentropy(0.3, 1.5),
        "softmax",
        ("CategoricalFocalCrossentropy", {"alpha": 0.3, "gamma": 1.5}),
    ),
    (fb.SparseCategoricalCrossentropy(), "softmax", "SparseCategoricalCrossentropy"),
]


@pytest.mark.parametrize(("loss", "output", "named"), OF_KERAS, ids=lambda value: repr(value)[:60])
def test_losses(loss: Any, output: str, named: Any) -> None:
    ours = make([9, 12, 3], "tanh", output, dtype="float64")
    ours.compile("sgd", loss)
    y = targets(loss.name, 48, 3)
    name, settings = (named, {}) if isinstance(named, str) else named
    model = theirs(ours.get_weights(), output)
    value = getattr(keras.losses, name)(**settings)(torch.tensor(y), model(torch.tensor(X)))
    value.backward()
    assert ours.evaluate(X, y) == pytest.approx(value.item(), rel=1e-5)
    for gradient, variable in zip(ours.gradients(X, y), model.trainable_variables, strict=True):
        np.testing.assert_allclose(gradient, variable.value.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_every_loss_that_keras_has_is_compared() -> None:
    classes = {"".join(part.title() for part in name.split("_")).lower() for name in LOSSES}
    kinds = {name.lower() for name in dir(keras.losses) if isinstance(getattr(keras.losses, name), type)}
    assert {loss.name.replace("_", "") for loss, _, _ in OF_KERAS} == classes & kinds


# --- schedules --------------------------------------------------------------------------------------------------------

CURVES: list[tuple[Any, str, dict[str, Any]]] = [
    (schedules.ExponentialDecay, "ExponentialDecay", {"decay_steps": 7, "decay_rate": 0.5}),
    (schedules.ExponentialDecay, "ExponentialDecay", {"decay_steps": 7, "decay_rate": 0.5, "staircase": True}),
    (schedules.InverseTimeDecay, "InverseTimeDecay", {"decay_steps": 7, "decay_rate": 0.5}),
    (schedules.PolynomialDecay, "PolynomialDecay", {"decay_steps": 30, "end_learning_rate": 0.01, "power": 2.0}),
    (schedules.PolynomialDecay, "PolynomialDecay", {"decay_steps": 9, "end_learning_rate": 0.01, "cycle": True}),
    (schedules.CosineDecay, "CosineDecay", {"decay_steps": 40, "alpha": 0.1}),
    (schedules.CosineDecay, "CosineDecay", {"decay_steps": 40, "warmup_target": 0.3, "warmup_steps": 8}),
    (schedules.CosineDecayRestarts, "CosineDecayRestarts", {"first_decay_steps": 6, "t_mul": 2.0, "m_mul": 0.8}),
]


@pytest.mark.parametrize(("kind", "name", "settings"), CURVES, ids=lambda value: repr(value)[-60:])
def test_schedules(kind: Callable[..., Any], name: str, settings: dict[str, Any]) -> None:
    wanted = getattr(keras.optimizers.schedules, name)(0.1, **settings)
    curve = kind(0.1, **settings)
    np.testing.assert_allclose(curve(np.arange(60)), [float(wanted(step)) for step in range(60)], rtol=1e-5, atol=1e-9)


def test_piecewise_constant_decay() -> None:
    wanted = keras.optimizers.schedules.PiecewiseConstantDecay([6, 15], [0.1, 0.02, 0.004])
    curve = schedules.PiecewiseConstantDecay([6, 15], [0.1, 0.02, 0.004])
    np.testing.assert_allclose(curve(np.arange(30)), [float(wanted(step)) for step in range(30)], rtol=1e-6)


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BatchNormalization", "LayerNormalization"])
def test_normalisations(kind: str) -> None:
    ours = fb.Model([fb.Dense(12), getattr(fb, kind)(), fb.Dense(3)], dtype="float64")
    model = keras.Sequential([keras.layers.Dense(12), getattr(keras.layers, kind)(), keras.layers.Dense(3)])
    ours.build(9)
    model.build((None, 9))
    model.set_weights(ours.get_weights())
    y = targets("mean_squared_error", 48, 3)
    for one, sgd in ((ours, fb.SGD(RATE)), (model, keras.optimizers.SGD(RATE))):
        one.compile(sgd, "mean_squared_error")
        one.fit(X, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_embeddings_and_penalties() -> None:
    codes = np.random.default_rng(0).integers(0, 40, (48, 1))
    ours = fb.Model(
        [
            fb.Embedding({0: (40, 5)}, embeddings_regularizer="l2"),
            fb.Dense(6, "tanh", kernel_regularizer="l1", activity_regularizer=fb.regularizers.L1L2(0.02, 0.03)),
            fb.Dense(3, bias_regularizer=fb.regularizers.L2(0.1)),
        ],
        dtype="float64",
    )
    ours.build(1)
    hidden = {"kernel_regularizer": "l1", "activity_regularizer": keras.regularizers.L1L2(0.02, 0.03)}
    model = keras.Sequential(
        [
            keras.layers.Embedding(40, 5, embeddings_regularizer="l2"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, "tanh", **hidden),
            keras.layers.Dense(3, bias_regularizer=keras.regularizers.L2(0.1)),
        ]
    )
    model.build((None, 1))
    model.set_weights(ours.get_weights())
    y = targets("mean_squared_error", 48, 3)
    losses = []
    for one, adam in ((ours, fb.Adam(RATE, epsilon=1e-30)), (model, keras.optimizers.Adam(RATE, epsilon=1e-30))):
        one.compile(adam, "mean_squared_error")
        losses.append(one.fit(codes, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_blocks_and_constraints() -> None:
    """A block whose inputs are added to its outputs, one whose inputs stand beside them, and a largest norm."""
    ours = fb.Model(
        [
            fb.Dense(12, "tanh", kernel_constraint=fb.constraints.MaxNorm(0.9)),
            fb.Residual([fb.Dense(12, "relu"), fb.Dense(12)], activation="tanh"),
            fb.Concatenate([fb.Dense(5, "tanh"), fb.RMSNormalization()]),
            fb.Dense(3, kernel_constraint="unit_norm"),
        ],
        dtype="float64",
    )
    ours.build(9)
    dense, given = keras.layers.Dense, keras.Input((9,))
    x = dense(12, "tanh", kernel_constraint=keras.constraints.MaxNorm(0.9))(given)
    x = keras.layers.Activation("tanh")(keras.layers.Add()([x, dense(12)(dense(12, "relu")(x))]))
    x = keras.layers.Concatenate()([x, keras.layers.RMSNormalization()(dense(5, "tanh")(x))])
    model = keras.Model(given, dense(3, kernel_constraint="unit_norm")(x))
    model.set_weights(ours.get_weights())
    y = targets("mean_squared_error", 48, 3)
    for one, sgd in ((ours, fb.SGD(RATE, 0.9)), (model, keras.optimizers.SGD(RATE, 0.9))):
        one.compile(sgd, "mean_squared_error")
        one.fit(X, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
