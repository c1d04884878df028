"""`Model` as people use it: Keras' habits, wrong uses and their answers, arrays of any kind, files, copies, output."""

import copy
import json
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp._jit import Kernel
from fastbp.cpu.engine import Engine
from fastbp.cpu.serving import Server
from fastbp.exchange import storage
from fastbp.history import History
from fastbp.initializers import INITIALIZERS
from fastbp.reports.progress import resolve_verbose

SPARSE = "sparse_categorical_crossentropy"
X, Y = inputs(40, 4), targets("mean_squared_error", 40, 2)
LABELS = targets(SPARSE, 40, 3)


def regression(**options: Any) -> fb.Model:
    model = fb.Model([fb.Dense(6, "tanh"), fb.Dense(2)], **options)
    model.compile("adam", "mse")
    return model


def classifier(**options: Any) -> fb.Model:
    model = fb.Model([fb.Dense(6, "tanh"), fb.Dense(3, "softmax")], **options)
    model.compile("adam", SPARSE, metrics=["accuracy"])
    return model


def same_bits(one: list[np.ndarray], two: list[np.ndarray]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be compiled and nothing may run."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a kernel was reached")

    monkeypatch.setattr(Engine, "run", refuse)
    monkeypatch.setattr(Engine, "apply", refuse)
    monkeypatch.setattr(Kernel, "address", refuse)


# ---------------------------------------------------------------- Keras' habits


def test_sequential_add_and_the_width_of_the_inputs() -> None:
    def started(*layers: Any) -> fb.Model:
        model = fb.Sequential()
        for layer in layers:
            model.add(layer)
        model.add(fb.Dense(1, activation="sigmoid"))
        return model

    models = [
        started(fb.Dense(10, activation="relu", input_shape=(20,))),
        started(fb.Dense(10, activation="relu", input_shape=20)),
        started(fb.Dense(10, activation="relu", input_dim=20)),
        started(fb.Dense(10, activation="relu", input_dim=np.int64(20))),
        started(fb.Input(shape=(20,)), fb.Dense(10, activation="relu")),
        started(fb.Input(20), fb.Dense(10, activation="relu", input_dim=20)),
        fb.Sequential([fb.Dense(10, "relu", input_shape=[20]), fb.Dense(1, "sigmoid")]),
        fb.Model([fb.Dense(10, "relu"), fb.Dense(1, "sigmoid", input_dim=10)]),
    ]
    assert models[-1].input_width is None
    models[-1].build(20)
    for model in models:
        assert isinstance(model, fb.Model)
        assert (model.input_width, model.output_width, len(model.layers)) == (20, 1, 2)
        assert [w.shape for w in model.get_weights()] == [(20, 10), (10,), (10, 1), (1,)]
        assert model.built
        same_bits(model.get_weights(), models[0].get_weights())


def test_a_keras_script_runs_as_it_is() -> None:
    rng = np.random.default_rng(0)
    x_train, y_train = rng.random((1000, 20)), rng.integers(0, 2, size=(1000, 1))
    model = fb.Sequential()
    model.add(fb.Dense(10, activation="relu", input_shape=(20,)))
    model.add(fb.Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer=fb.SGD(learning_rate=0.01), metrics=["accuracy"])
    history = model.fit(x_train, y_train, epochs=3, batch_size=32, validation_split=0.1, verbose=0)
    assert sorted(history.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    loss, accuracy = model.evaluate(x_train, y_train, verbose=0)
    assert 0 < loss < 1
    assert 0 <= accuracy <= 1
    assert model.predict(x_train[:5]).shape == (5, 1)


def test_positional_arguments_are_in_kerass_order() -> None:
    by_name, by_place = classifier(), fb.Model([fb.Dense(6, "tanh"), fb.Dense(3, "softmax")])
    by_place.compile("adam", SPARSE, ["accuracy"])
    one = by_name.fit(x=X, y=LABELS, batch_size=7, epochs=3, verbose=0)
    two = by_place.fit(X, LABELS, 7, 3, 0)
    assert one.history == two.history
    assert by_name.evaluate(x=X, y=LABELS, batch_size=9, verbose=0) == by_place.evaluate(X, LABELS, 9, 0)
    same_bits([by_name.predict(x=X, batch_size=5)], [by_place.predict(X, 5, 0)])
    layer = fb.Dense(3, "relu", False, "zeros", "ones")
    assert (layer.units, layer.activation.name, layer.use_bias) == (3, "relu", False)
    assert (layer.kernel_initializer, layer.bias_initializer) == ("zeros", "ones")


def test_history() -> None:
    model = classifier()
    assert model.history is None
    history = model.fit(X, LABELS, epochs=3, verbose=0, validation_data=(X[:9], LABELS[:9]))
    assert model.history is history
    assert isinstance(history, History)
    assert history.epoch == [0, 1, 2]
    assert history.params == {"epochs": 3, "steps": 2}
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    for values in history.history.values():
        assert len(values) == 3
        assert all(type(value) is float for value in values)
    assert not history.interrupted
    last = history.history["val_accuracy"][-1]
    assert repr(history).startswith("History(3 of 3 epochs: loss ")
    assert repr(history).endswith(f"val_accuracy {last:.4g})")
    assert model.fit(X, LABELS, verbose=0).epoch == [0]


def test_history_of_a_fit_that_was_stopped() -> None:
    history = History(5, 10)
    assert repr(history) == "History(no epoch finished)"
    history.append({"loss": np.float32(0.5)})
    history.interrupted = True
    assert repr(history) == "History(1 of 5 epochs, interrupted: loss 0.5)"


def test_evaluate_forms() -> None:
    plain, watched = make([4, 5, 3], output="softmax"), make([4, 5, 3], output="softmax")
    plain.compile("sgd", SPARSE)
    watched.compile("sgd", SPARSE, metrics=["accuracy", "mse"])
    loss = plain.evaluate(X, LABELS)
    assert isinstance(loss, float)
    values = watched.evaluate(X, LABELS)
    assert values[0] == loss
    assert watched.metrics_names == ["loss", "accuracy", "mse"]
    assert plain.metrics_names == ["loss"]
    assert watched.evaluate(X, LABELS, return_dict=True) == dict(zip(watched.metrics_names, values, strict=True))
    assert plain.evaluate(X, LABELS, return_dict=True) == {"loss": loss}
    for batch in (1, 7, 40, 1000):
        assert watched.evaluate(X, LABELS, batch_size=batch) == pytest.approx(values, rel=1e-6)


def test_train_on_batch_gives_the_loss_before_the_step() -> None:
    plain, watched = regression(), classifier()
    plain.build(4)
    before = plain.evaluate(X, Y)
    assert plain.train_on_batch(X, Y) == pytest.approx(before, rel=1e-6)
    assert plain.evaluate(X, Y) < before
    loss, accuracy = watched.train_on_batch(X, LABELS)
    assert 0 < loss < 10
    assert 0 <= accuracy <= 1


def test_weights_are_copies_in_kerass_shapes() -> None:
    model = fb.Model([fb.Dense(5, use_bias=False, input_dim=3), fb.Dense(2)], dtype="float64")
    weights = model.get_weights()
    assert [(w.shape, w.dtype) for w in weights] == [((3, 5), np.float64), ((5, 2), np.float64), ((2,), np.float64)]
    assert all(w.flags.owndata and w.flags.writeable for w in weights)
    weights[0][:] = 7
    assert not (model.get_weights()[0] == 7).any()
    model.set_weights([w.tolist() for w in weights])
    same_bits(model.get_weights(), weights)
    model.set_weights([np.asfortranarray(w.astype(">f4")) for w in weights])
    assert (model.get_weights()[0] == 7).all()


def test_set_weights_builds_the_model() -> None:
    model = fb.Model([fb.Dense(2)])
    model.set_weights([np.ones((3, 2)), np.zeros(2)])
    np.testing.assert_array_equal(model.predict([[1.0, 2.0, 3.0]]), [[6.0, 6.0]])


def test_sizes() -> None:
    model = fb.Model([fb.Dense(256, "relu"), fb.Dense(100, use_bias=False), fb.Dense(10)])
    model.build(784)
    assert model.count_params() == 784 * 256 + 256 + 256 * 100 + 100 * 10 + 10
    assert model.count_params() == sum(w.size for w in model.get_weights())
    # forward and gradient products of every layer, and the back-propagation of all but the first
    products = [784 * 256, 256 * 100, 100 * 10]
    assert model.flops_per_sample == 2 * (3 * sum(products) - products[0])


def test_summary_says_what_there_is() -> None:
    model = fb.Model([fb.Dense(256, "relu", name="wide"), fb.Dense(10, "softmax")], threads=1, name="digits")
    model.build(784)
    lines: list[str] = []
    assert model.summary(print_fn=lines.append) is None
    assert lines[0] == "digits: 784 inputs, float32, 1 threads"
    rows = [line.split() for line in lines]
    assert ["layer", "activation", "outputs", "parameters", "bytes", "FLOP/sample"] in rows
    assert ["wide", "relu", "256", "200,960", "803,840", "802,816"] in rows
    assert ["dense", "softmax", "10", "2,570", "10,280", "15,360"] in rows
    assert lines[-1] == "203,530 parameters, 814,120 bytes, 818,176 FLOP to train on one sample"
    table = [line for line in lines[1:-1] if not line.startswith("-")]
    assert len({len(line) for line in table}) == 1
    assert model.flops_per_sample == 802_816 + 15_360


def test_summary_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    model = regression()
    model.build(4)
    model.summary()
    assert "parameters" in capsys.readouterr().out


def test_layers_are_told_apart_by_number() -> None:
    model = fb.Model([fb.Dense(1), fb.Dense(1, name="dense_1"), fb.Dense(1), fb.Dense(1, name="last")])
    model.build(1)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert [line.split()[0] for line in lines[3:7]] == ["dense", "dense_1", "dense_2", "last"]


def test_repr() -> None:
    model = fb.Model([fb.Dense(5, "relu", use_bias=False), fb.Dense(2)], dtype="float64", seed=3, threads=2)
    assert repr(model) == "Model(?-5-2, dtype='float64', seed=3, threads=2)"
    model.build(7)
    assert repr(model) == "Model(7-5-2, dtype='float64', seed=3, threads=2)"
    assert repr(model.layers[0]) == "Dense(5, activation='relu', use_bias=False)"
    assert repr(fb.Input((4,))) == "Input(4)"


def test_compile_takes_names_in_any_case_and_objects() -> None:
    model = fb.Model([fb.Dense(2)])
    model.compile(loss="MSE")
    assert model.optimizer == fb.Adam()
    model.compile(fb.SGD(0.5, momentum=0.9), fb.Huber(delta=2.0), metrics="mae")
    assert model.optimizer == fb.SGD(0.5, momentum=0.9)
    assert (model.loss_name, model.metrics_names) == ("huber", ["loss", "mae"])


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), "float32", np.float64, "float64"], ids=repr)
def test_dtypes(dtype: Any) -> None:
    model = fb.Model([fb.Dense(2)], dtype=dtype)
    assert model.dtype == np.dtype(dtype)
    assert model.predict(X).dtype == np.dtype(dtype)


def test_compiling_again_keeps_the_weights_and_forgets_the_moments() -> None:
    model, fresh = regression(), regression()
    model.fit(X, Y, epochs=3, verbose=0)
    weights = model.get_weights()
    model.compile("adam", "mse")
    same_bits(model.get_weights(), weights)
    fresh.build(4)
    fresh.set_weights(weights)
    assert model.train_on_batch(X, Y) == fresh.train_on_batch(X, Y)
    same_bits(model.get_weights(), fresh.get_weights())


def test_fitting_again_goes_on_learning() -> None:
    model = regression()
    losses = [model.fit(X, X[:, :2], epochs=100, verbose=0).history["loss"][-1] for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_validation_of_a_split_leaves_out_the_last_rows() -> None:
    x, y = np.ones((10, 1)), np.zeros((10, 1))
    x[8:], y[8:] = 1e3, 1e3
    model = fb.Model([fb.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    history = model.fit(x, y, batch_size=10, validation_split=0.2, verbose=0)
    assert history.history["loss"][0] == 1.0
    assert model.get_weights()[0][0, 0] == pytest.approx(0.98)


# ---------------------------------------------------------------- initialisers


SCALED = [n for n in INITIALIZERS if n.endswith(("uniform", "normal")) and not n.startswith(("random", "truncated"))]


@pytest.mark.parametrize("name", SCALED)
def test_initialisers_have_their_variance(name: str) -> None:
    fan_in, fan_out = 300, 200
    scales = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in, "uniform": 0.05**2 / 3}
    scale = scales[name.split("_")[0]]
    model = fb.Model([fb.Dense(fan_out, kernel_initializer=name, input_dim=fan_in)], dtype="float64")
    kernel, bias = model.get_weights()
    n = kernel.size
    assert abs(kernel.mean()) < 6 * math.sqrt(scale / n)
    # the variance of a sample variance is (kurtosis - 1) / n: 0.8 of a uniform, below 2 of a normal that is cut
    assert abs(kernel.var() / scale - 1) < 6 * math.sqrt((0.8 if name.endswith("uniform") else 2) / n)
    bound = math.sqrt(3 * scale) if name.endswith("uniform") else 2 * math.sqrt(scale) / 0.8796256610342398
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    shares = np.histogram(kernel, [-bound, -bound / 2, 0, bound / 2, bound])[0] / n
    inner = 0.25 if name.endswith("uniform") else (math.erf(1 / math.sqrt(2)) / math.erf(math.sqrt(2))) / 2
    np.testing.assert_allclose(shares, [0.5 - inner, inner, inner, 0.5 - inner], atol=6 * 0.5 / math.sqrt(n))
    assert (bias == 0).all()


@pytest.mark.parametrize(
    ("name", "deviation", "most"),
    [
        ("random_uniform", 0.05 / math.sqrt(3), 0.05),
        ("random_normal", 0.05, math.inf),
        ("truncated_normal", 0.05 * 0.8796256610342398, 0.1),
    ],
)
def test_initialisers_of_one_scale_are_those_of_keras(name: str, deviation: float, most: float) -> None:
    kernel = fb.Model([fb.Dense(200, kernel_initializer=name, input_dim=300)], dtype="float64").get_weights()[0]
    assert kernel.std() == pytest.approx(deviation, rel=0.02)  # 60,000 numbers: 0.3 % of a normal
    assert abs(kernel.mean()) < 6 * deviation / math.sqrt(kernel.size)
    assert np.abs(kernel).max() <= most
    assert (np.abs(kernel).max() > 0.15) == (name == "random_normal")


@pytest.mark.parametrize(("fan_in", "fan_out"), [(40, 7), (7, 40), (12, 12), (5, 1)])
def test_orthogonal_kernels_keep_lengths(fan_in: int, fan_out: int) -> None:
    kernels = []
    for seed in (1, 2):
        layer = fb.Dense(fan_out, kernel_initializer="orthogonal", input_dim=fan_in)
        kernels.append(fb.Model([layer], dtype="float64", seed=seed).get_weights()[0])
    for kernel in kernels:
        squares = kernel.T @ kernel if fan_in >= fan_out else kernel @ kernel.T
        np.testing.assert_allclose(squares, np.eye(min(fan_in, fan_out)), atol=1e-14)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_an_identity_kernel_passes_its_inputs_on() -> None:
    model = fb.Model([fb.Dense(5, kernel_initializer="identity", input_dim=3)], dtype="float64")
    x = inputs(4, 3).astype(np.float64)
    np.testing.assert_array_equal(model.predict(x), np.c_[x, np.zeros((4, 2))])


def test_layers_are_found_by_name_and_number() -> None:
    model = fb.Model([fb.Dense(3), fb.Dense(2), fb.Dense(1, name="out")])
    assert model.get_layer("dense_1") is model.get_layer(index=1) is model.layers[1]
    assert model.get_layer("out") is model.get_layer(index=-1)
    with pytest.raises(
        ValueError, match=r"unknown layer 'outt'\. Did you mean 'out'\? Valid names: dense, dense_1, out"
    ):
        model.get_layer("outt")
    with pytest.raises(ValueError, match="index must be a whole number below 3, got 3"):
        model.get_layer(index=3)
    with pytest.raises(ValueError, match="give one of the two"):
        model.get_layer()


def test_a_model_that_is_called_predicts() -> None:
    model = fb.Model([fb.Dense(3), fb.Dense(2)])
    x = np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(model(x), model.predict(x))


def test_an_initialiser_of_ones_own() -> None:
    model = fb.Model(
        [fb.Dense(3, kernel_initializer=np.ones, input_dim=2), fb.Dense(1, bias_initializer=lambda s: [7])]
    )
    assert (model.get_weights()[0] == 1).all() and model.get_weights()[3] == [7]
    with pytest.raises(ValueError, match=r"kernel_initializer of Dense.*wanted an array of shape \(2, 3\), got \(3,\)"):
        fb.Model([fb.Dense(3, kernel_initializer=lambda shape: np.ones(3), input_dim=2)]).build()


def test_plain_and_given_initialisers() -> None:
    kernel = np.arange(6.0).reshape(3, 2)
    model = fb.Model(
        [
            fb.Dense(2, kernel_initializer=kernel, bias_initializer=[5, 6], input_dim=3),
            fb.Dense(1, kernel_initializer="ones", bias_initializer="ones"),
            fb.Dense(2, kernel_initializer="zeros"),
        ]
    )
    weights = model.get_weights()
    for got, wanted in zip(weights, [kernel, [5, 6], np.ones((2, 1)), [1], np.zeros((1, 2)), [0, 0]], strict=True):
        np.testing.assert_array_equal(got, wanted)
    kernel[:] = 0
    same_bits(model.get_weights(), weights)


def test_each_layer_and_seed_has_its_own_numbers() -> None:
    def kernels(seed: int) -> list[np.ndarray]:
        return fb.Model([fb.Dense(8, input_dim=8), fb.Dense(8)], seed=seed).get_weights()[::2]

    first, second = kernels(0)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, kernels(1)[0])
    same_bits(kernels(0), [first, second])
    assert np.isfinite(kernels(2**63 - 1)).all()


# ---------------------------------------------------------------- wrong uses and their answers


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda: fb.Dense(0), ValueError, r"units must be a whole number of at least 1, got 0"),
        (lambda: fb.Dense(2.0), ValueError, r"units must be a whole number of at least 1, got 2\.0"),
        (lambda: fb.Dense(True), ValueError, r"units must be .* got True"),
        (lambda: fb.Dense("3"), ValueError, r"units must be .* got '3'"),
        (lambda: fb.Dense(3, "rleu"), ValueError, r"unknown activation 'rleu'. Did you mean 'relu'\? .*gelu.*tanh"),
        (lambda: fb.Dense(3, 3), ValueError, r"unknown activation 3.*Valid names: .*tanh"),
        (lambda: fb.Dense(3, kernel_initializer="he"), ValueError, r"unknown kernel_initializer 'he'.*he_normal"),
        (lambda: fb.Dense(3, bias_initializer="zero"), ValueError, r"bias_initializer 'zero'. Did you mean 'zeros'\?"),
        (lambda: fb.Dense(3, input_shape=(3, 4)), ValueError, r"one width such as \(20,\), got \(3, 4\)"),
        (lambda: fb.Dense(3, input_shape=()), ValueError, r"one width such as \(20,\), got \(\)"),
        (lambda: fb.Dense(3, use_bias="no"), ValueError, r"Dense: use_bias must be True or False, got 'no'"),
        (lambda: fb.Dense(3, trainable=2), ValueError, r"Dense: trainable must be True or False, got 2"),
        (lambda: fb.Dense(3, input_dim=0), ValueError, r"input width must be a whole number of at least 1, got 0"),
        (lambda: fb.Dense(3, input_dim=2.5), ValueError, r"input width must be .* got 2\.5"),
        (lambda: fb.Input(None), ValueError, r"width must be known, such as \(20,\), got None"),
        (lambda: fb.Input((None,)), ValueError, r"width must be known, such as \(20,\), got \(None,\)"),
        (lambda: fb.Model([3]), TypeError, r"wanted a layer such as fb\.Dense\(10\), got 3"),
        (lambda: fb.Model([fb.Dense(3, "softmax"), fb.Dense(2)]), ValueError, r"softmax couples .* last layer only"),
        (lambda: fb.Model([fb.Dense(3), fb.Input(3)]), ValueError, r"an Input stands once, before all other layers"),
        (lambda: fb.Model([fb.Input(3), fb.Input(3)]), ValueError, r"an Input stands once"),
        (
            lambda: fb.Model([fb.Input(3), fb.Dense(2, input_dim=4)]),
            ValueError,
            r"takes 4 inputs, .* before it gives 3",
        ),
        (
            lambda: fb.Model([fb.Dense(3), fb.Dense(2, input_dim=4)]),
            ValueError,
            r"takes 4 inputs, .* before it gives 3",
        ),
        (
            lambda: fb.Model(dtype="float16"),
            ValueError,
            r"dtype must be 'float32', 'float64' or 'bfloat16', got 'float16'",
        ),
        (lambda: fb.Model(dtype=int), ValueError, r"dtype must be"),
        (lambda: fb.Model(seed=-1), ValueError, r"seed must be a whole number from 0 .* got -1"),
        (lambda: fb.Model(seed=0.5), ValueError, r"seed must be .* got 0\.5"),
        (lambda: fb.Model(seed=True), ValueError, r"seed must be .* got True"),
        (lambda: fb.Model(seed=2**63), ValueError, r"seed must be a whole number from 0 to 2\*\*63 - 1"),
        (lambda: fb.Model(threads=0), ValueError, r"threads must be a whole number of at least 1, got 0"),
        (lambda: fb.Model(threads=True), ValueError, r"threads must be .* got True"),
        (lambda: fb.Huber(0), ValueError, r"delta must be above 0, got 0"),
    ],
)
def test_wrong_layers_and_models(wrong: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wrong()


@pytest.mark.parametrize(
    ("output", "arguments", "words"),
    [
        ("linear", {"loss": None}, r'name a loss, for example loss="sparse_categorical_crossentropy"'),
        (
            "linear",
            {"loss": "mean_sqared_error"},
            r"unknown loss .*Did you mean 'mean_squared_error'\?.*Valid names:.*mse",
        ),
        ("linear", {"loss": fb.Huber}, r"loss=Huber makes a loss: call it, fb\.Huber\(\)"),
        ("linear", {"loss": "mse", "optimizer": "adma"}, r"unknown optimizer 'adma'. Did you mean 'adam'\?.*sgd"),
        (
            "linear",
            {"loss": "mse", "optimizer": fb.Adam},
            r"unknown optimizer <class .*It is a class: give an object of it, Adam\(\)\.",
        ),
        (
            "linear",
            {"loss": "mse", "metrics": ["acuracy"]},
            r"unknown metric 'acuracy'. Did you mean 'accuracy'\?.*mae",
        ),
        ("linear", {"loss": "mse", "metrics": [None]}, r"unknown metric None"),
        ("relu", {"loss": SPARSE}, r'needs softmax outputs, the last layer has \'relu\': .*activation="softmax"'),
        ("linear", {"loss": SPARSE}, r"fb\.SparseCategoricalCrossentropy\(from_logits=True\)"),
        (
            "linear",
            {"loss": "binary_crossentropy"},
            r'activation="sigmoid", .*fb\.BinaryCrossentropy\(from_logits=True\)',
        ),
        ("softmax", {"loss": "binary_crossentropy"}, r"needs sigmoid outputs, the last layer has \'softmax\'"),
        ("softmax", {"loss": fb.CategoricalCrossentropy(from_logits=True)}, r"needs linear outputs.*'softmax'"),
        ("sigmoid", {"loss": "categorical_crossentropy"}, r"needs softmax outputs"),
    ],
)
def test_wrong_compile(output: str, arguments: dict[str, Any], words: str) -> None:
    model = fb.Model([fb.Dense(2, output)])
    with pytest.raises(ValueError, match=words):
        model.compile(**arguments)
    with pytest.raises(RuntimeError, match="isn't compiled"):
        model.fit(X, Y, verbose=0)


def test_a_loss_that_a_later_layer_does_not_suit_is_refused_too(no_kernels: None) -> None:
    model = fb.Sequential()
    model.compile("adam", SPARSE)
    model.add(fb.Dense(3))
    with pytest.raises(ValueError, match="needs softmax outputs, the last layer has 'linear'"):
        model.fit(X, LABELS, verbose=0)


def test_models_that_are_not_ready_say_what_is_missing(tmp_path: Path, no_kernels: None) -> None:
    bare = fb.Model([fb.Dense(2)])
    for name, call in {
        "fit": lambda: bare.fit(X, Y),
        "evaluate": lambda: bare.evaluate(X, Y),
        "gradients": lambda: bare.gradients(X, Y),
        "train_on_batch": lambda: bare.train_on_batch(X, Y),
        "apply_gradients": lambda: bare.apply_gradients([]),
    }.items():
        with pytest.raises(RuntimeError, match=rf"^{name}: the model isn't compiled; call model\.compile\("):
            call()
    for call in (bare.get_weights, bare.count_params, bare.summary, lambda: bare.save(tmp_path / "m")):
        with pytest.raises(
            RuntimeError, match=r"input width isn't known yet: call build\(width\) or fit, or give input_dim"
        ):
            call()
    for call in (lambda: bare.set_weights([]), lambda: bare.flops_per_sample):
        with pytest.raises(RuntimeError, match="input width isn't known yet"):
            call()
    bare.compile("adam", "mse")
    with pytest.raises(RuntimeError, match="apply_gradients: the model isn't built"):
        bare.apply_gradients([])
    empty = fb.Model()
    empty.compile("adam", "mse")
    for call in (lambda: empty.fit(X, Y), lambda: empty.predict(X), lambda: empty.output_width, lambda: empty.build(3)):
        with pytest.raises(RuntimeError, match="has no layers"):
            call()
    assert not bare.built
    assert os.listdir(tmp_path) == []


def test_a_built_model_is_closed() -> None:
    model = regression()
    model.build(4)
    model.build(4)
    with pytest.raises(RuntimeError, match="add: the model is built already; add all layers before"):
        model.add(fb.Dense(1))
    with pytest.raises(ValueError, match="takes 4 columns, got data with 5"):
        model.build(5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch_size": 0}, ValueError, r"batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, ValueError, r"batch_size must be .* got 1\.5"),
        ({"batch_size": True}, ValueError, r"batch_size must be .* got True"),
        ({"epochs": -1}, ValueError, r"epochs must be a whole number of at least 1, got -1"),
        ({"epochs": "3"}, ValueError, r"epochs must be .* got '3'"),
        ({"epochs": False}, ValueError, r"epochs must be .* got False"),
        ({"verbose": "x"}, ValueError, r'verbose must be "auto", 0 \(silent\), 1 \(bar\) or 2 .* got \'x\''),
        ({"verbose": 3}, ValueError, r"verbose must be .* got 3"),
        ({"validation_data": X}, ValueError, r"validation_data must be a pair \(x, y\)"),
        ({"validation_data": (X, Y, X)}, ValueError, r"validation sample_weight has shape \(40, 4\); wanted one"),
        ({"validation_data": (X, Y, Y, X)}, ValueError, r"validation_data must be a pair \(x, y\) or \(x, y, sample_"),
        ({"validation_data": 3}, ValueError, r"validation_data must be a pair \(x, y\)"),
        ({"validation_data": (X[:, :3], Y)}, ValueError, r"validation x has 3 columns.* takes 4 columns"),
        ({"validation_data": (X, Y[:5])}, ValueError, r"validation y has shape \(5, 2\), but x has 40 rows"),
        ({"validation_data": (X, np.full_like(Y, np.nan))}, ValueError, r"validation y contains NaN"),
        ({"validation_split": 1.0}, ValueError, r"validation_split is 1\.0; it is a share"),
        ({"validation_split": -0.5}, ValueError, r"validation_split is -0\.5; it is a share"),
        ({"validation_split": 0.999}, ValueError, r"leaves 0 to train on"),
    ],
)
def test_wrong_options_of_fit(options: dict[str, Any], error: type[Exception], words: str, no_kernels: None) -> None:
    with pytest.raises(error, match=words):
        regression().fit(X, Y, **{"verbose": 0, **options})


def spoilt(value: Any, dtype: Any = None) -> np.ndarray:
    x = X.astype(dtype or float)
    x[3, 2] = value
    return x


BAD_INPUTS = [
    (spoilt(np.nan), ValueError, r"x contains NaN or infinity: 1 of 160 values, the first nan at x\[3, 2\]"),
    (spoilt(-np.inf), ValueError, r"the first -inf at x\[3, 2\]"),
    (spoilt(1e300), ValueError, r"x\[3, 2\] is 1e\+300, too large for float32.*dtype='float64'"),
    (spoilt("a", object), TypeError, r"x holds 'a' \(str\) at \[3, 2\]; wanted numbers"),
    (X + 0j, TypeError, r"x holds complex numbers"),
    (X.astype(str), TypeError, r"x holds text"),
    (None, TypeError, r"x is None"),
    ("digits", TypeError, r"x is text \('digits'\)"),
    (X[:0], ValueError, r"x is empty: it has no rows"),
    (X[:, :0], ValueError, r"x is empty: it has no columns"),
    (X[0], ValueError, r"x has one dimension.*reshape\(-1, 1\).*reshape\(1, -1\)"),
    (X[None], ValueError, r"x has 3 dimensions"),
    (X[:, :3], ValueError, r"x has 3 columns.* the model takes 4 columns"),
]


@pytest.mark.parametrize(("x", "error", "words"), BAD_INPUTS)
def test_bad_inputs_are_refused_before_any_kernel(x: Any, error: type[Exception], words: str, no_kernels: None) -> None:
    model = regression()
    model.build(4)
    weights = model.get_weights()
    for call in (
        lambda: model.fit(x, Y, verbose=0),
        lambda: model.evaluate(x, Y),
        lambda: model.predict(x),
        lambda: model.gradients(x, Y),
        lambda: model.train_on_batch(x, Y),
    ):
        with pytest.raises(error, match=words):
            call()
    same_bits(model.get_weights(), weights)


@pytest.mark.parametrize(
    ("output", "loss", "y", "error", "words"),
    [
        ("linear", "mse", Y[:7], ValueError, r"y has shape \(7, 2\), but x has 40 rows"),
        ("linear", "mse", Y[:, :1], ValueError, r"y has shape \(40, 1\); .* wants \(40, 2\)"),
        ("linear", "mse", Y[:, 0], ValueError, r"2 outputs: pass y of shape \(40, 2\)"),
        ("linear", "mse", np.where(Y > 1, np.nan, Y), ValueError, r"y contains NaN or infinity"),
        ("linear", "mse", None, TypeError, r"y is None"),
        ("linear", "mse", Y.astype(str), TypeError, r"y holds text"),
        ("linear", "mse", Y * 1j, TypeError, r"y holds complex numbers"),
        (
            "softmax",
            SPARSE,
            np.arange(40) % 3,
            ValueError,
            r"y\[2\] is 2: .*2 outputs, so class numbers go from 0 to 1",
        ),
        ("softmax", SPARSE, np.arange(40) % 2 - 1, ValueError, r"y\[0\] is -1: "),
        ("softmax", SPARSE, np.arange(40) % 2 + 1, ValueError, r"from 0 to 1: pass y - 1"),
        ("softmax", SPARSE, np.arange(40) % 2 / 2, ValueError, r"y\[1\] is 0\.5: class numbers are whole"),
        (
            "softmax",
            SPARSE,
            np.eye(2)[np.arange(40) % 2],
            ValueError,
            r"np\.argmax\(y, axis=1\).*categorical_crossentropy",
        ),
        ("softmax", SPARSE, np.array(["a", "b"] * 20), TypeError, r"np\.unique\(y, return_inverse=True\)"),
        ("softmax", "categorical_crossentropy", np.arange(40) % 2, ValueError, r"class numbers go with loss='sparse"),
        ("sigmoid", "binary_crossentropy", 2 * Y, ValueError, r"targets from 0 to 1"),
    ],
)
def test_bad_targets_are_refused_before_any_kernel(
    output: str, loss: str, y: Any, error: type[Exception], words: str, no_kernels: None
) -> None:
    model = fb.Model([fb.Dense(2, output)])
    model.compile("adam", loss)
    for call in (model.fit, model.evaluate, model.gradients, model.train_on_batch):
        with pytest.raises(error, match=words):
            call(X, y)
    assert not model.built  # a wrong y must not fix the width of x


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda w: w[:-1], ValueError, r"wanted 4 arrays .*\(4, 6\).*, got 3"),
        (lambda w: [*w, w[0]], ValueError, r"wanted 4 arrays .*, got 5"),
        (lambda w: [], ValueError, r"wanted 4 arrays .*, got 0"),
        (lambda w: [w[0].T, *w[1:]], ValueError, r"array 0 must have the shape \(4, 6\), got \(6, 4\)"),
        (lambda w: [w[0], w[1][None], *w[2:]], ValueError, r"array 1 must have the shape \(6,\), got \(1, 6\)"),
        (lambda w: [w[0] * np.nan, *w[1:]], ValueError, r"array 0 holds NaN, infinity or numbers beyond 3\.4e\+38"),
        (lambda w: [*w[:3], w[3] + 1e300], ValueError, r"array 3 holds NaN, infinity or numbers beyond 3\.4e\+38"),
        (lambda w: [w[0], w[1], -np.inf + w[2], w[3]], ValueError, r"array 2 holds NaN, infinity"),
        (lambda w: [w[0] + 1j, *w[1:]], TypeError, r"array 0 must hold numbers, got dtype complex"),
        (lambda w: [w[0].astype(object), *w[1:]], TypeError, r"array 0 must hold numbers, got dtype object"),
    ],
)
def test_wrong_weights_and_gradients(
    change: Callable[[list[np.ndarray]], Any], error: type[Exception], words: str, no_kernels: None
) -> None:
    model = regression()
    model.build(4)
    weights = model.get_weights()
    wrong = change([w.astype(np.float64) for w in weights])
    with pytest.raises(error, match=rf"set_weights: {words}"):
        model.set_weights(wrong)
    with pytest.raises(error, match=rf"apply_gradients: {words}"):
        model.apply_gradients(wrong)
    same_bits(model.get_weights(), weights)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (fb.Dense(2, kernel_initializer=np.ones((2, 4))), r"kernel_initializer of Dense.*\(4, 2\), got \(2, 4\)"),
        (
            fb.Dense(2, bias_initializer=np.ones(3)),
            r"bias_initializer of Dense.*wanted an array of shape \(2,\), got \(3,\)",
        ),
        (fb.Dense(2, kernel_initializer=np.full((4, 2), np.nan)), r"kernel_initializer of .* holds NaN or infinity"),
    ],
)
def test_given_arrays_that_do_not_fit(layer: fb.Dense, words: str, no_kernels: None) -> None:
    model = fb.Model([layer])
    with pytest.raises(ValueError, match=words):
        model.build(4)
    assert not model.built


def test_a_gradient_of_an_infinite_loss_is_refused() -> None:
    model = fb.Model([fb.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    with pytest.raises(FloatingPointError, match=r"gradients: the loss of these rows is NaN or infinite"):
        model.gradients([[1e30]], [[0.0]])
    with pytest.raises(fb.DivergenceError, match=r"the loss became NaN or infinite in epoch 1, step 1"):
        model.train_on_batch([[1e30]], [[0.0]])
    assert model.get_weights()[0][0, 0] == 1.0


# ---------------------------------------------------------------- arrays that just work


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def misaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "misaligned": misaligned,
    "every other row and column": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),
    "list": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "objects": lambda x: x.astype(object),
    "DataFrame": lambda x: pd.DataFrame(x),
    "mixed DataFrame": lambda x: pd.DataFrame(
        {f"c{j}": x[:, j].astype(["f8", "i4"][j % 2]) for j in range(x.shape[1])}
    ),
    "memoryview": memoryview,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_any_kind_give_the_same_bits(form: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    x, y = (rng.integers(-9, 9, (33, width)).astype(dtype) for width in (7, 4))  # exact in every type
    found = []
    for a, b in ((x, y), (FORMS[form](x), FORMS[form](y))):
        model = make([7, 5, 4], dtype=dtype)
        model.compile(fb.Adam(0.01), "mse")
        history = model.fit(a, b, batch_size=10, epochs=2, verbose=0, validation_data=(a, b))
        gradients, dx = model.gradients(a, b, inputs=True)
        values = [np.array(v) for v in history.history.values()]
        found.append([*values, *model.get_weights(), model.predict(a), *gradients, dx, np.array(model.evaluate(a, b))])
    same_bits(*found)


@pytest.mark.parametrize("kind", ["int8", "uint64", ">i4", "float32", "bool", "list", "column", "Series"])
def test_labels_of_any_kind_give_the_same_bits(kind: str) -> None:
    labels = np.arange(33) % 2
    given = {"list": labels.tolist(), "column": labels[:, None], "Series": pd.Series(labels, index=range(50, 83))}
    found = []
    for y in (labels, given[kind] if kind in given else labels.astype(kind)):
        model = make([4, 5, 2], output="softmax")
        model.compile("adam", SPARSE, metrics=["accuracy"])
        history = model.fit(X[:33], y, batch_size=10, epochs=2, verbose=0)
        found.append([*model.get_weights(), np.array(history.history["accuracy"])])
    same_bits(*found)


def test_the_users_arrays_are_left_alone() -> None:
    x, y = X.astype(np.float32), Y.astype(np.float32)
    kept = x.copy(), y.copy()
    model = regression()
    model.fit(x, y, epochs=2, verbose=0)
    predictions, (gradients, dx) = model.predict(x), model.gradients(x, y, inputs=True)
    model.apply_gradients(gradients)
    np.testing.assert_array_equal(y, kept[1])
    for array in (predictions, dx, *gradients, *model.get_weights()):
        assert array.flags.writeable
        array[:] = 0
    np.testing.assert_array_equal(x, kept[0])
    assert model.get_weights()[0].any()


# ---------------------------------------------------------------- files and copies

COPIES: dict[str, Callable[[fb.Model, Path], fb.Model]] = {
    "file": lambda m, path: (m.save(path), fb.load_model(path))[1],
    "Model.load": lambda m, path: (m.save(str(path)), fb.Model.load(str(path)))[1],
    "pickle": lambda m, path: pickle.loads(pickle.dumps(m)),
    "deepcopy": lambda m, path: copy.deepcopy(m),
    "copy": lambda m, path: copy.copy(m),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [fb.SGD(0.05), fb.SGD(0.05, 0.9, True), fb.Adam(0.01), fb.AdamW(0.01)], ids=repr)
@pytest.mark.parametrize("way", COPIES)
def test_training_goes_on_in_a_copy_with_the_same_bits(way: str, optimizer: Any, dtype: str, tmp_path: Path) -> None:
    model = make([4, 9, 3], "gelu", "softmax", dtype=dtype, seed=5)
    model.compile(optimizer, SPARSE, metrics=["accuracy"])
    model.fit(X, LABELS, batch_size=7, epochs=3, verbose=0)
    weights, predictions = model.get_weights(), model.predict(X)
    twin = COPIES[way](model, tmp_path / "m.fastbp")
    same_bits(twin.get_weights(), weights)
    same_bits([twin.predict(X)], [predictions])
    assert twin.evaluate(X, LABELS) == model.evaluate(X, LABELS)
    one, two = (m.fit(X, LABELS, batch_size=7, epochs=3, verbose=0) for m in (model, twin))
    assert one.history == two.history
    same_bits(model.get_weights(), twin.get_weights())
    assert not np.array_equal(twin.get_weights()[0], weights[0])


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_the_same_model_and_not_the_same_memory(way: str, tmp_path: Path) -> None:
    layers = [
        fb.Dense(5, fb.activations.LEAKY_RELU(0.3), use_bias=False, name="slopes"),
        fb.Dense(4, "silu", kernel_initializer=np.full((5, 4), 0.25), bias_initializer="ones"),
        fb.Dense(2, name="optimizer"),
    ]
    model = fb.Model(layers, seed=9, name="mine", threads=2)
    model.compile(fb.AdamW(0.01, weight_decay=0.5), fb.Huber(0.7), metrics=["mae"])
    model.meta = {"classes": ["a", "ä"], "scale": [1.5, 2.0], "none": None}
    model.fit(X, Y, verbose=0)
    twin = COPIES[way](model, tmp_path / "m.fastbp")
    assert repr(twin.layers) == repr(model.layers)
    assert [layer.activation for layer in twin.layers] == [layer.activation for layer in model.layers]
    assert [layer.name for layer in twin.layers] == ["slopes", "dense", "optimizer"]
    for name in ("dtype", "seed", "name", "meta", "optimizer", "metrics_names", "input_width", "output_width"):
        assert getattr(twin, name) == getattr(model, name), name
    assert twin.evaluate(X, Y) == model.evaluate(X, Y)
    weights = model.get_weights()
    twin.set_weights([0 * w for w in weights])
    twin.train_on_batch(X, Y)
    same_bits(model.get_weights(), weights)
    if "file" not in way and way != "Model.load":
        assert twin.history is not None
        assert twin.history.history == model.history.history
        assert twin.threads == 2


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_model_without_weights_can_be_copied(way: str, tmp_path: Path) -> None:
    model = regression(seed=4)
    twin = COPIES[way](model, tmp_path)
    assert not twin.built
    for m in (model, twin):
        m.fit(X, Y, verbose=0)
    same_bits(model.get_weights(), twin.get_weights())


def test_a_model_that_was_never_compiled_can_be_saved(tmp_path: Path) -> None:
    model = make([3, 4, 2], "selu", "softmax")
    model.save(tmp_path / "m")
    loaded = fb.load_model(tmp_path / "m", threads=1)
    assert loaded.threads == 1
    same_bits([loaded.predict(np.eye(3))], [model.predict(np.eye(3))])
    with pytest.raises(RuntimeError, match="isn't compiled"):
        loaded.fit(np.eye(3), [0, 1, 0], verbose=0)


def test_the_file_is_open_to_others(tmp_path: Path) -> None:
    """Names and shapes are as documented, for any reader of safetensors."""
    model = fb.Model([fb.Dense(3, "relu", input_dim=4), fb.Dense(2, use_bias=False, name="last")])
    model.compile("adam", "mse")
    model.train_on_batch(X, Y)
    model.save(tmp_path / "m.fastbp")
    tensors, content = storage.read(tmp_path / "m.fastbp")
    shapes = {"dense.kernel": (4, 3), "dense.bias": (3,), "last.kernel": (3, 2)}
    moments = {f"optimizer.{i}.{name}": shape for i in (1, 2) for name, shape in shapes.items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes | moments
    same_bits([tensors[name] for name in shapes], model.get_weights())
    assert (content["input_width"], content["dtype"], content["updates"]) == (4, "float32", 1)
    assert content["optimizer"]["name"] == "adam"
    json.dumps(content)


def test_broken_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "m.fastbp"
    model = regression()
    model.fit(X, Y, verbose=0)
    model.save(path)
    whole = path.read_bytes()
    for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ValueError, match=r"m\.fastbp is truncated, damaged .*wanted a model file that fastbp saved"
        ):
            fb.load_model(path)
    path.write_bytes(pickle.dumps(model.get_weights()))
    with pytest.raises(ValueError, match="is a pickle"):
        fb.load_model(path)
    with pytest.raises(FileNotFoundError):
        fb.load_model(tmp_path / "none")
    with pytest.raises(ValueError, match=r"^threads must be a whole number of at least 1, got 0"):
        fb.load_model(path, threads=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, c: c.pop("dtype"), "'dtype'"),
        (lambda t, c: c.update(dtype="int8"), "dtype must be"),
        (lambda t, c: c.update(layers=[{"kind": "conv"}]), "unknown layer kind 'conv'"),
        (lambda t, c: c.update(layers=[]), "has no layers"),
        (lambda t, c: c.update(input_width=None), "input width isn't known"),
        (lambda t, c: c["layers"][0].update(units=5), "shape"),
        (lambda t, c: c["layers"][0].update(activation="swoosh"), "unknown activation 'swoosh'"),
        (lambda t, c: c["layers"][0].update(colour="red"), "colour"),
        (lambda t, c: c["optimizer"].update(name="ftrl"), "unknown optimizer 'ftrl'"),
        (lambda t, c: c["loss"].update(name="ctc"), "unknown loss 'ctc'"),
        (lambda t, c: t.pop("dense.kernel"), "wanted the tensors"),
        (lambda t, c: t.pop("optimizer.2.dense_1.bias"), "wanted the tensors"),
        (lambda t, c: t.update(more=np.zeros(3)), "wanted the tensors"),
        (lambda t, c: t["dense.kernel"].__setitem__((0, 0), np.nan), "holds NaN"),
        (lambda t, c: c.update(meta=None), "NoneType"),
    ],
)
def test_files_whose_content_is_wrong(change: Callable[[Any, Any], Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.fastbp"
    model = regression()
    model.build(4)
    model.save(path)
    tensors, content = storage.read(path)
    storage.write(path, tensors, content)
    fb.load_model(path)
    change(tensors, content)
    storage.write(path, tensors, content)
    with pytest.raises(ValueError, match=rf"(?s)m\.fastbp doesn't hold a model that this version can read: .*{words}"):
        fb.load_model(path)


@pytest.mark.parametrize("name", ["optimizer", "optimizer.1", "a.b", "kernel", "ä", "1", "with space"])
def test_a_layer_may_have_any_name(name: str, tmp_path: Path) -> None:
    model = fb.Model([fb.Dense(2, name=name), fb.Dense(2, name=name), fb.Dense(2)])
    model.compile(fb.SGD(0.1, momentum=0.9), "mse")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m")
    same_bits(fb.load_model(tmp_path / "m").get_weights(), model.get_weights())


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("verbose", [2, "auto"])
def test_a_pipe_gets_plain_lines(verbose: Any, capsys: pytest.CaptureFixture[str]) -> None:
    history = classifier().fit(X, LABELS, epochs=12, verbose=verbose, validation_split=0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(character == "\n" or character.isprintable() for character in err)
    lines = [line for line in err.splitlines() if not line.startswith("fastbp: ")]  # a cold cache is announced
    assert len(lines) == 12
    for number, line in enumerate(lines):
        assert line.startswith(f"epoch {number + 1:2d}/12  loss {history.history['loss'][number]:.4g}  accuracy ")
        assert f"val_loss {history.history['val_loss'][number]:.4g}  " in line
        assert line.endswith(" of peak")
        assert "samples/s" in line


def test_the_bar_ends_with_the_final_loss(capsys: pytest.CaptureFixture[str]) -> None:
    history = classifier().fit(X, LABELS, epochs=7, verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip("\n").split("\r")[-1]
    assert "epoch 7/7" in last
    assert "100%" in last
    assert f"loss {history.history['loss'][-1]:.4g}" in last
    assert err.endswith("\n")


@pytest.mark.parametrize(("terminal", "wanted"), [(True, 1), (False, 2)])
def test_auto_is_a_bar_where_someone_watches(terminal: bool, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert resolve_verbose("auto") == wanted
    assert [resolve_verbose(v) for v in (0, 1, 2, False, True)] == [0, 1, 2, 0, 1]


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    model.fit(X, LABELS, epochs=2, verbose=0)
    model.evaluate(X, LABELS)
    model.predict(X)
    model.train_on_batch(X, LABELS)
    assert capsys.readouterr() == ("", "")


def test_evaluate_says_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    loss, accuracy = model.evaluate(X, LABELS, verbose=1)
    err = capsys.readouterr().err
    assert err == f"loss {loss:.4g}  accuracy {accuracy:.4g}\n"


# ---------------------------------------------------------------- the short way of a prediction


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each prediction that took the short way."""
    counts: list[int] = []
    call = Server.__call__

    def counted(self: Server, x: np.ndarray) -> np.ndarray | None:
        result = call(self, x)
        if result is not None:
            counts.append(len(result))
        return result

    monkeypatch.setattr(Server, "__call__", counted)
    return counts


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("widths", [[20, 10, 1], [7, 65, 64, 5], [33, 5], [300, 128, 2]], ids=str)
def test_few_rows_take_the_short_way_with_the_same_bits(widths: list[int], dtype: str, served: list[int]) -> None:
    model = make(widths, "gelu", "softmax", dtype=dtype, threads=2)
    x = inputs(300, widths[0]).astype(model.dtype)
    wanted = model.predict(x, batch_size=50)
    for rows in (1, 2, 4, 5, 16, 17, 33, 257, 300):
        same_bits([model.predict(x[:rows])], [wanted[:rows]])
    assert served == [1, 2, 4, 5, 16, 17, 33, 257, 300]


def test_the_short_way_follows_the_weights(served: list[int]) -> None:
    for dtype in ("float32", "bfloat16"):
        model = fb.Model([fb.Dense(2, kernel_initializer="ones", input_dim=3)], dtype=dtype)
        x = np.ones((1, 3), np.float32)
        for factor in (1.0, 2.0):
            model.set_weights([np.full((3, 2), factor), np.zeros(2)])
            model.predict(x)
            assert (model.predict(x) == 3 * factor).all()
        for optimizer in ("adam", fb.SGD(0.1)):  # with moments, and without: the buffers move
            model.compile(optimizer, "mse")
            model.fit(x, [[1.0, 1.0]], epochs=3, verbose=0)
            kernel, bias = model.get_weights()
            np.testing.assert_allclose(model.predict(x), (x @ kernel + bias), rtol=0.02)
            model.predict(x)
    assert len(served) >= 8


@pytest.mark.parametrize("form", FORMS)
def test_what_the_short_way_does_not_take_goes_the_long_one(form: str, served: list[int]) -> None:
    model = make([7, 5, 4])
    x = np.random.default_rng(2).integers(-9, 9, (3, 7)).astype(np.float32)
    wanted = model.predict(x)
    same_bits([model.predict(FORMS[form](x))], [wanted])
    assert served == []


@pytest.mark.parametrize(("x", "error", "words"), BAD_INPUTS)
@pytest.mark.parametrize("rows", [40, 4000])
def test_bad_inputs_of_a_prediction(rows: int, x: Any, error: type[Exception], words: str) -> None:
    model = make([4, 30, 2], "relu", threads=2)  # which would make a number of NaN
    model.predict(X.astype(np.float32))
    with pytest.raises(error, match=words):
        model.predict(x)
    if isinstance(x, np.ndarray) and x.dtype == float and x.shape == X.shape and not np.isfinite(x).all():
        many = np.resize(X, (rows, 4)).astype(np.float32)
        many[:40] = x
        with pytest.raises(error, match=words.replace("160", str(4 * rows))):
            model.predict(many)


def test_few_rows_in_many_threads(served: list[int]) -> None:
    model = make([20, 10, 1])
    x = inputs(64, 20).astype(np.float32)
    wanted, wrong = model.predict(x), []

    def predict(first: int) -> None:
        for i in range(2000):
            row = (first + i) % 64
            if model.predict(x[row : row + 1]) != wanted[row]:
                wrong.append(row)

    workers = [threading.Thread(target=predict, args=(8 * i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert len(served) == 16_000


@pytest.mark.parametrize("rows", [1, 3, 16, 17])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_number_that_is_not_finite_is_found_in_few_rows(rows: int, dtype: str) -> None:
    model = make([37, 150, 2], "relu", dtype=dtype)
    x = inputs(rows, 37).astype(np.float32)
    model.predict(x)
    for row in (0, rows - 1):
        for column in (0, 36):
            wrong = x.copy()
            wrong[row, column] = np.inf
            with pytest.raises(ValueError, match=rf"the first inf at x\[{row}, {column}\]"):
                model.predict(wrong)
    assert np.isfinite(model.predict(x)).all()
