"""Layers and what stands beside them, on device="cuda", beside the CPU engine."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from helpers import error, inputs, targets
from test_cuda_engine import trained_alike

import fastbp as fb

Layers = Callable[[], Sequence[Any]]

NETWORKS: dict[str, Layers] = {
    "dropout": lambda: [fb.Dense(8, activation="relu"), fb.Dropout(0.3), fb.Dense(3)],
    "dropout of inputs": lambda: [fb.Dropout(0.3), fb.Dense(3)],
    "alpha dropout": lambda: [fb.Dense(8, activation="selu"), fb.AlphaDropout(0.3), fb.Dense(3)],
    "gaussian": lambda: [fb.GaussianNoise(0.3), fb.Dense(6, activation="gelu"), fb.GaussianDropout(0.2), fb.Dense(3)],
    "batch": lambda: [fb.Dense(8, use_bias=False), fb.BatchNormalization(), fb.Activation("silu"), fb.Dense(3)],
    "batch first": lambda: [
        fb.BatchNormalization(center=False),
        fb.Dense(4, "tanh"),
        fb.BatchNormalization(),
        fb.Dense(3),
    ],
    "layer": lambda: [fb.Dense(8, activation="tanh"), fb.LayerNormalization(), fb.Dense(3)],
    "rms": lambda: [fb.LayerNormalization(scale=False), fb.Dense(7), fb.RMSNormalization(), fb.Dense(3)],
    "residual": lambda: [fb.Residual([fb.Dense(4, "tanh"), fb.Dense(5)], "relu"), fb.Dense(3)],
    "residual, projected": lambda: [fb.Residual([fb.Dense(4, "tanh"), fb.Dropout(0.2), fb.Dense(6)]), fb.Dense(3)],
    "residual, nested": lambda: [
        fb.Dense(5),
        fb.Residual([fb.Residual([fb.Dense(5, "tanh")]), fb.LayerNormalization()]),
        fb.Dense(3),
    ],
    "concatenate": lambda: [fb.Concatenate([fb.Dense(4, "tanh")], "silu"), fb.Concatenate([fb.Dense(2)]), fb.Dense(3)],
    "activity": lambda: [fb.Dense(6, "gelu"), fb.ActivityRegularization(l1=0.01, l2=0.02), fb.Dense(3)],
    "penalties": lambda: [
        fb.Dense(6, "tanh", kernel_regularizer=fb.regularizers.L1L2(0.01, 0.02)),
        fb.Dense(3, bias_regularizer="l2"),
    ],
    "constraints": lambda: [
        fb.Dense(6, "tanh", kernel_constraint=fb.constraints.MaxNorm(0.7)),
        fb.Dense(3, kernel_constraint="unit_norm"),
    ],
    "frozen": lambda: [_frozen(fb.Dense(6, "tanh")), _frozen(fb.BatchNormalization()), fb.Dense(3)],
    "rates": lambda: [fb.Dense(6, "tanh", lr_multiplier=0.1), fb.Dense(3, lr_multiplier=3.0)],
}


def _frozen(layer: Any) -> Any:
    layer.trainable = False
    return layer


def build(layers: Layers, dtype: str = "float32") -> Callable[[str], fb.Model]:
    def made(device: str) -> fb.Model:
        model = fb.Model(layers(), dtype=dtype, device=device, seed=4)
        model.build(5)
        return model

    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_train_as_on_the_cpu(name: str, cuda: bool) -> None:
    cpu, device = trained_alike(build(NETWORKS[name]), {"optimizer": fb.Adam(0.02)}, epochs=1, tolerance=5e-5)
    x, y = inputs(7, 5), targets("mean_squared_error", 7, 3)
    assert device.evaluate(x, y) == pytest.approx(cpu.evaluate(x, y), rel=1e-4)
    for a, b in zip(*(model.gradients(x, y, inputs=True) for model in (device, cpu)), strict=True):
        for got, wanted in zip(a, b, strict=True):
            assert error(got, wanted) < 2e-4


@pytest.mark.parametrize("name", ["batch", "layer", "penalties", "residual, projected", "concatenate"])
def test_layers_with_the_whole_gradient_first(name: str, cuda: bool) -> None:
    optimizer = fb.Adam(0.02, global_clipnorm=0.5, gradient_accumulation_steps=2)
    trained_alike(build(NETWORKS[name], "float64"), {"optimizer": optimizer}, tolerance=1e-9)


@pytest.mark.parametrize("optimizer", [fb.SGD(0.1), fb.Adam(0.1, clipnorm=0.5)], ids=["sgd", "adam"])
def test_embeddings(optimizer: Any, cuda: bool) -> None:
    models = [
        fb.Model([fb.Embedding({0: (4, 2), 2: (3, 5)}), fb.Dense(4, "tanh"), fb.Dense(2)], device=device, seed=4)
        for device in ("cpu", "cuda")
    ]
    x, y = inputs(21, 4), targets("mean_squared_error", 21, 2)
    rng = np.random.default_rng(0)
    x[:, 0], x[:, 2] = rng.integers(0, 4, 21), rng.integers(0, 3, 21)
    for model in models:
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    for a, b in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        assert error(a, b) < 2e-5
    assert error(models[1].predict(x), models[0].predict(x)) < 1e-4


def test_outputs_of_a_layer_and_noise_in_predictions(cuda: bool) -> None:
    models = [build(NETWORKS["dropout"])(device) for device in ("cpu", "cuda")]
    models[1].set_weights(models[0].get_weights())
    x = inputs(9, 5)
    for options in ({"upto": 0}, {"noise": True}, {"noise": True, "upto": 1}):
        a, b = (model.predict(x, **options) for model in models)
        assert error(b, a) < 1e-5
