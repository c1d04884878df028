"""Small networks by one block of threads and by slices of rows: paths that part and meet again, and categories."""

from typing import Any

import numpy as np
import pytest
import reference
import reference_layers
from helpers import error, inputs, python, targets
from test_layers import descend

import fastbp as fb
from fastbp.layers import lower
from fastbp.layout.graph import update_mode
from fastbp.layout.objective import Objective
from fastbp.program import Program

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from test_cuda_narrow import alike, sliced, taken, train

from fastbp.cuda import layout, rows
from fastbp.cuda.narrow import one_block, slices
from fastbp.cuda.narrow.code import Writer
from fastbp.cuda.narrow.net import Network

__all__ = ["sliced", "taken"]


def dense(*widths: int, activation: str = "tanh", **options: Any) -> list[fb.Dense]:
    return [fb.Dense(width, activation, **options) for width in widths]


NETWORKS: dict[str, Any] = {
    "plain": lambda: [*dense(5), fb.Residual([*dense(4), fb.Dense(5)]), fb.Dense(2)],
    "of inputs": lambda: [fb.Residual([*dense(6), fb.Dense(4)], "gelu"), fb.Dense(2)],
    "projected": lambda: [*dense(5), fb.Residual(dense(4, 6), "relu"), fb.Dense(2)],
    "inputs projected": lambda: [fb.Residual(dense(3, 6), "elu"), fb.Residual(dense(3)), fb.Dense(2)],
    "nested": lambda: [
        *dense(5),
        fb.Residual([fb.Residual(dense(4, 5)), fb.Residual([fb.Activation("tanh"), *dense(7)], "silu"), *dense(5)]),
        fb.Dense(2),
    ],
    "last": lambda: [*dense(5), fb.Residual(dense(3, 2), "softplus"), fb.Residual([fb.Dense(2)])],
    "noise": lambda: [
        fb.GaussianNoise(0.1),
        fb.Residual([fb.Dropout(0.2), *dense(4), fb.Dropout(0.3)], "gelu"),
        fb.Residual([fb.GaussianDropout(0.2)]),
        fb.Residual([*dense(6), fb.GaussianNoise(0.2)]),
        fb.Dropout(0.2),
        fb.Dense(2),
    ],
    "norms": lambda: [
        fb.Residual([fb.LayerNormalization(), *dense(6), fb.Dense(4)]),
        fb.RMSNormalization(),
        fb.Dropout(0.2),
        fb.Residual([fb.LayerNormalization(), fb.Activation("elu"), *dense(5), fb.RMSNormalization()], "gelu"),
        fb.LayerNormalization(),
        fb.Dense(2),
    ],
    "batches": lambda: [
        *dense(5),
        fb.Residual([*dense(4, use_bias=False), fb.BatchNormalization(), fb.Dense(5), fb.BatchNormalization()], "relu"),
        fb.Dense(2),
    ],
    "penalties": lambda: [
        *dense(5, activity_regularizer="l2"),
        fb.Residual([fb.ActivityRegularization(0.1), fb.LayerNormalization(), *dense(6, activity_regularizer="l1")]),
        fb.ActivityRegularization(l2=0.1),
        fb.Residual([fb.Dense(6), fb.ActivityRegularization(0.01)], "tanh"),
        fb.Concatenate([fb.Dropout(0.2), fb.ActivityRegularization(0.1), fb.Dense(1)]),
        fb.Dense(2),
    ],
    "beside": lambda: [fb.Concatenate(dense(3), "silu"), fb.Concatenate([fb.Dense(2)]), fb.Dense(2)],
    "categories": lambda: [fb.Embedding({1: (5, 3), 2: (2, 1)}), *dense(5), fb.Dense(2)],
    "categories alone": lambda: [
        fb.Embedding(dict.fromkeys(range(4), (3, 2))),
        fb.LayerNormalization(),
        fb.Dropout(0.2),
        fb.Dense(2),
    ],
    "categories among others": lambda: [
        fb.Normalization(0.5, 4.0, columns=[0, 2]),
        fb.Embedding({3: (4, 2), 1: (3, 2)}),
        fb.GaussianNoise(0.1),
        fb.Residual(dense(3, 5)),
        fb.Dense(2),
    ],
    "beside, more": lambda: [
        *dense(5),
        fb.Dropout(0.2),
        fb.Concatenate([fb.LayerNormalization(), fb.Concatenate(dense(3)), fb.Residual(dense(4))], "tanh"),
        fb.Dropout(0.2),
        fb.Concatenate([fb.Dropout(0.3), fb.Residual(dense(3)), fb.RMSNormalization()]),
        fb.LayerNormalization(),
        fb.Dense(1),
        fb.Concatenate(dense(1), "tanh"),
    ],
}


def built(name: str, **options: Any) -> fb.Model:
    model = fb.Model(NETWORKS[name](), device="cuda", seed=3, **options)
    model.build(4)
    rng = np.random.default_rng(2)
    weights = model.named_weights().items()
    model.set_weights(
        [w if label.startswith("normalization") else w + 0.3 * rng.uniform(0, 1, w.shape) for label, w in weights]
    )
    return model


def rows_for(model: fb.Model, count: int) -> np.ndarray:
    """Inputs, with category numbers in the columns that are looked up."""
    x, rng = inputs(count, 4), np.random.default_rng(6)
    for layer in model.layers:
        for column, (categories, _) in layer.columns.items() if isinstance(layer, fb.Embedding) else ():
            x[:, column] = rng.integers(0, categories, count)
    return x


def go(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps go this way from now on."""
    monkeypatch.setattr(one_block, "MOST_WORK", 8e6 if way == "block" else 0)
    monkeypatch.setattr(slices, "LEAST_ROWS", 1 if way == "slices" else 100)


@pytest.mark.parametrize("way", ["block", "slices"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_by_the_reference(
    name: str, way: str, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of gradient descent, the second batch short."""
    go(way, monkeypatch)
    model = built(name, dtype="float64")
    x, y = rows_for(model, 12), targets("mean_squared_error", 12, model.output_width)
    twin = built(name, dtype="float64")
    for step, chosen in enumerate((slice(0, 7), slice(7, 12))):
        network = reference_layers.Network(twin, step=step)
        out, back = network.run(x[chosen])
        descend(twin, network, back(reference.mean_squared_error(out, y[chosen])[1])[1])
    model.compile(fb.SGD(0.05), "mse")
    model.fit(x, y, batch_size=7, epochs=1, shuffle=False, verbose=0)
    for label, a, b in zip(model.named_weights(), model.get_weights(), twin.get_weights(), strict=True):
        assert error(a, b) < 1e-12, label
    assert taken == ["Narrow" if way == "block" else "Launches"]
    assert sliced == ([7] if way == "slices" and name != "batches" else [])


def frozen() -> fb.Model:
    """Frozen layers before a path and on it, rates, a penalty, a constraint."""
    layers = [
        *dense(5, trainable=False),
        fb.Residual([*dense(4, trainable=False), fb.Dense(6)]),
        fb.Residual(dense(6, lr_multiplier=0.5, kernel_regularizer="l2", kernel_constraint="unit_norm"), "tanh"),
        fb.Concatenate(dense(2, bias_regularizer="l1"), "gelu"),
        fb.Dense(2),
    ]
    model = fb.Model(layers, device="cuda", seed=3)
    model.build(4)
    return model


@pytest.mark.parametrize(
    "optimizer",
    [fb.Adam(0.02, weight_decay=0.1), fb.SGD(0.1, clipnorm=0.2, gradient_accumulation_steps=2)],
    ids=["adam", "late"],
)
def test_what_layers_and_optimizers_say(
    optimizer: Any, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for way in ("block", "slices", "launches"):
        go(way, monkeypatch)
        found.append(train(frozen(), "mse", optimizer, epochs=2, batch=12, metrics=["mae"]))
    alike(found[0], found[2])
    alike(found[1], found[2])
    assert taken == ["Narrow", "Launches", "Launches"] and sliced == [12]


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(
    "optimizer",
    [fb.Adam(0.02, weight_decay=0.1, use_ema=True), fb.SGD(0.1, clipnorm=0.2, gradient_accumulation_steps=2)],
    ids=["adam", "late"],
)
def test_categories(
    trainable: bool, optimizer: Any, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As launch by launch, with a rate of their own, frozen, with class numbers and weights."""
    found = []
    for way in ("block", "slices", "launches"):
        go(way, monkeypatch)
        looked_up = fb.Embedding({0: (4, 2), 2: (9, 3)}, trainable=trainable, lr_multiplier=0.5)
        layers = [looked_up, fb.BatchNormalization(trainable=False), *dense(4), fb.Dense(3, "softmax")]
        model = fb.Model(layers, device="cuda", seed=3)
        model.build(4)
        x, y = rows_for(model, 23), targets("sparse_categorical_crossentropy", 23, 3)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        weights = np.random.default_rng(3).uniform(0, 2, 23)
        history = model.fit(x, y, batch_size=12, epochs=2, sample_weight=weights, verbose=0).history
        found.append((history, [*model.get_weights(), *(each.copy() for each in model._engine.moments())]))
    alike(found[0], found[2])
    alike(found[1], found[2])
    assert taken == ["Narrow", "Launches", "Launches"] and sliced == [12]


@pytest.mark.parametrize("way", ["block", "slices"])
def test_numbers_that_are_no_categories_are_the_first_one(
    way: str, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody looked at them before, a kernel stays within the matrix."""
    go(way, monkeypatch)
    monkeypatch.setattr(fb.Embedding, "check_inputs", lambda *_: None)
    found = []
    for number in (0.0, -1.0, 5.0, 0.5, 1e30):
        model = built("categories")
        x = rows_for(model, 12)
        x[7, 1] = number
        model.compile("sgd", "mse")
        model.fit(x, targets("mean_squared_error", 12, 2), batch_size=12, verbose=0)
        found.append(model.get_weights())
    for weights in found[1:]:
        for a, b in zip(weights, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_categories_that_are_penalised_go_launch_by_launch(cuda: bool, taken: list[str]) -> None:
    for said in ({"embeddings_regularizer": "l2"}, {"embeddings_constraint": "non_neg"}):
        model = fb.Model([fb.Embedding({0: (4, 2)}, **said), fb.Dense(2)], device="cuda")
        model.compile("sgd", "mse")
        x = inputs(9, 3)
        x[:, 0] = np.arange(9) % 4
        model.fit(x, targets("mean_squared_error", 9, 2), verbose=0)
    assert taken == ["Launches"] * 2


def test_the_same_bits(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, with other numbers of threads, in several launches."""
    found = []
    for threads, ahead in ((6, 2048), (6, 2048), (13, 2)):
        monkeypatch.setattr(one_block, "SIMULATED_THREADS", threads)
        monkeypatch.setattr(one_block, "STEPS_AHEAD", ahead)
        found.append(train(built("beside, more"), "mse", "adam", epochs=1))
    for history, arrays in found[1:]:
        assert history == found[0][0]
        for a, b in zip(arrays, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("way", ["block", "slices"])
def test_paths_take_few_phases(way: str) -> None:
    """What stands before a join, or behind a fork, does its work in passing: as many barriers as without them."""
    barriers = []
    for inner in (dense(4, 5), [fb.Residual(dense(4, 5), "relu")]):
        net = code([*dense(5), *inner, *dense(5), fb.Dense(2)])
        writer = Writer(net) if way == "block" else slices.SliceWriter(slices.bare(net), ())
        barriers.append(writer.source().count("syncthreads"))
    assert barriers[0] == barriers[1]


def code(layers: list[Any], dtype: str = "float32") -> Network:
    """What the code of a network depends on."""
    optimizer = fb.Adam(0.01)
    program = Program(lower(layers, 4).specs, np.dtype(dtype), layout.Rows())
    plan = layout.Layout(program, 32, backward=True, update=update_mode(program, False))
    assert one_block.unlike(plan) == ""
    return one_block.network(plan, Objective(fb.MeanSquaredError()), optimizer, rows.NUMBERS, one_block.THREADS)


@pytest.mark.parametrize("way", ["block", "slices"])
def test_they_compile_for_gpus(way: str) -> None:
    """As the kernels of other small networks do: one in float32, the other in float64."""
    text = f"""
import os
del os.environ["NUMBA_ENABLE_CUDASIM"]
from numba import types
import fastbp as fb
from fastbp.cuda.narrow import one_block, slices
from fastbp.cuda.device import compile_ptx
from test_cuda_narrow_joins import code

layers = [
    fb.Embedding({{1: (5, 3), 2: (2, 1)}}),
    fb.Residual([fb.Dropout(0.2), fb.Dense(5, "tanh")], "relu"),
    fb.Concatenate([fb.RMSNormalization(), fb.Residual([fb.Dense(8)]), fb.Dropout(0.2)]),
    fb.Dense(2),
]
capabilities, whole = [(7, 5), (9, 0), (10, 0)], types.int64[::1]
if "{way}" == "block":
    net, number = code(layers), types.float32[::1]
    made, first = one_block.written(net)[0], (types.int64, whole, whole, number, number, number, types.float64[::1])
else:
    net, number = code(layers, "float64"), types.float64[::1]
    made, first = slices.written(slices.bare(net), ()), (whole, number, number, number, number)
signature = *first, number, number, whole, number, number
for found in compile_ptx(made, signature, capabilities, threads=net.threads):
    assert "ld.local" not in found and "call" not in found and "ld.shared" in found
print("compiled")
"""
    assert python(text).strip() == "compiled"
