"""Small networks by one block of threads: against the same networks launch by launch, and what the code is made of."""

from typing import Any

import numpy as np
import pytest
from helpers import error, inputs, make, python, targets

import fastbp as fb
from fastbp.activations import ACTIVATIONS

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda import ways
from fastbp.cuda.narrow import one_block, slices
from fastbp.cuda.narrow.net import GROUPS, Shared, tile

ROWS = 23


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that steps of training went."""
    found: list[str] = []
    step_of = ways.step_of

    def watched(bound: Any, data: Any) -> Any:
        step = step_of(bound, data)
        if bound.optimizer is not None:
            found.append(type(step).__name__.replace("Graphs", "Launches"))  # on a GPU they are replayed
        return step

    monkeypatch.setattr(ways, "step_of", watched)
    return found


def train(model: fb.Model, loss: Any, optimizer: Any, *, epochs: int = 3, batch: int = 7, **options: Any) -> Any:
    """The history of a fit, and weights and moments after it."""
    name = fb.losses.get(loss).name
    x, y = inputs(ROWS, model.input_width or 0), targets(name, ROWS, model.output_width)
    compiled = {key: options.pop(key) for key in ("metrics", "weighted_metrics") if key in options}
    model.compile(optimizer, loss, **compiled)
    history = model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, **options).history
    return history, [*model.get_weights(), *(each.copy() for each in model._engine.moments())]


def alike(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    assert got[0].keys() == wanted[0].keys()
    for name, values in wanted[0].items():
        np.testing.assert_allclose(got[0][name], values, rtol=20 * tolerance, atol=tolerance, err_msg=name)
    for a, b in zip(got[1], wanted[1], strict=True):
        assert error(a, b) < tolerance


NETWORKS: dict[str, tuple[list[int], str, str, Any, Any, dict[str, Any]]] = {
    "tiny": ([20, 10, 1], "tanh", "sigmoid", "binary_crossentropy", fb.Adam(0.01), {"metrics": ["accuracy"]}),
    "one layer": ([3, 2], "tanh", "linear", "mse", fb.SGD(0.1, momentum=0.9, nesterov=True), {}),
    "deep": ([4, 5, 1, 6, 3], "gelu", "softmax", "sparse_categorical_crossentropy", fb.RMSprop(0.01), {}),
    "wide": ([5, 37, 2], "relu", "linear", "huber", fb.Adam(0.01, amsgrad=True, clipvalue=0.01), {"metrics": ["mae"]}),
    "classes": (
        [6, 8, 4],
        "silu",
        "softmax",
        "sparse_categorical_crossentropy",
        "nadam",
        {"metrics": ["accuracy", "confusion_matrix", "f1_score"], "weighted_metrics": ["accuracy"]},
    ),
    "targets": ([4, 6, 3], "elu", "linear", "mse", fb.AdamW(0.01), {"metrics": ["r2_score", "mae"]}),
    "not fused": ([4, 6, 3], "selu", "softmax", "kl_divergence", fb.Lion(0.01), {}),
    "averaged": ([4, 6, 2], "tanh", "linear", "mse", fb.Adam(0.01, use_ema=True, ema_overwrite_frequency=2), {}),
    "clipped": ([4, 6, 5, 3], "tanh", "linear", "mse", fb.Adam(0.02, global_clipnorm=0.1), {}),
    "each clipped": ([4, 6, 3], "tanh", "linear", "mse", fb.SGD(0.1, clipnorm=0.3, weight_decay=0.1), {}),
    "grouped": ([4, 6, 3], "tanh", "linear", "mse", fb.Adam(0.05, gradient_accumulation_steps=5, use_ema=True), {}),
    "scheduled": ([4, 6, 2], "softplus", "exponential", "poisson", fb.SGD(fb.schedules.CosineDecay(0.1, 9)), {}),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_block_trains_like_many_launches(
    name: str, dtype: str, cuda: bool, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, hidden, output, loss, optimizer, options = NETWORKS[name]
    if "weighted_metrics" in options:
        options = {**options, "sample_weight": np.random.default_rng(3).integers(0, 3, ROWS).astype(float)}
    build = lambda: make(widths, hidden, output, dtype=dtype, device="cuda", seed=4)  # noqa: E731
    found = train(build(), loss, optimizer, **options)
    assert set(taken) == {"Narrow"}
    monkeypatch.setattr(one_block, "MOST_WORK", 0)
    alike(found, train(build(), loss, optimizer, **options), 1e-5 if dtype == "float32" else 1e-11)
    assert taken[-1] == "Launches"


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of any size go by slices of rows, and nothing by one block; the batches that did."""
    found: list[int] = []
    launches = slices.launches

    def watched(bound: Any, data: Any) -> Any:
        found.append(bound.layout.batch)
        return launches(bound, data)

    monkeypatch.setattr(one_block, "MOST_WORK", 0)
    monkeypatch.setattr(slices, "LEAST_ROWS", 1)
    monkeypatch.setattr(slices, "launches", watched)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_slices_of_rows_train_like_many_launches(
    name: str, cuda: bool, sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, hidden, output, loss, optimizer, options = NETWORKS[name]
    if "weighted_metrics" in options:
        options = {**options, "sample_weight": np.random.default_rng(3).integers(0, 3, ROWS).astype(float)}
    dtype = "float32" if len(name) % 2 else "float64"
    build = lambda: make(widths, hidden, output, dtype=dtype, device="cuda", seed=4)  # noqa: E731
    found = train(build(), loss, optimizer, batch=13, **options)
    assert set(sliced) == {13}
    monkeypatch.setattr(slices, "LEAST_ROWS", 100)
    alike(found, train(build(), loss, optimizer, batch=13, **options), 1e-5 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize(
    "optimizer",
    [fb.Adam(0.02, global_clipnorm=0.1), fb.SGD(0.1, gradient_accumulation_steps=2)],
    ids=["norms", "groups"],
)
def test_slices_with_all_that_layers_and_optimizers_say(
    optimizer: Any, cuda: bool, sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for least in (1, 100):
        monkeypatch.setattr(slices, "LEAST_ROWS", least)
        model = regularised()
        model.build(4)
        model.layers[1].kernel_constraint = fb.constraints.NonNeg()
        found.append(train(model, "mse", optimizer, batch=12, metrics=["mae"]))
    alike(*found)
    assert set(sliced) == {12}


@pytest.mark.parametrize("outputs", [1, 3])
def test_rows_that_are_kept(
    outputs: int, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For metrics of whole epochs, by weight too, beside metrics that are sums: by each way the same, in parts too."""
    loss = "binary_crossentropy" if outputs == 1 else "sparse_categorical_crossentropy"
    output = "sigmoid" if outputs == 1 else "softmax"
    weights = np.random.default_rng(3).integers(0, 3, ROWS).astype(float)
    options: dict[str, Any] = {"metrics": ["auc", "accuracy"], "weighted_metrics": ["auc"], "sample_weight": weights}
    found = []
    monkeypatch.setattr(one_block, "STEPS_AHEAD", 3)
    for most, least in ((8e6, 1), (0, 1), (0, 100)):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        monkeypatch.setattr(slices, "LEAST_ROWS", least)
        model = make([4, 5, outputs], "tanh", output, device="cuda", seed=4)
        found.append(train(model, loss, "adam", batch=5, **options))
    alike(found[0], found[2])
    alike(found[1], found[2])
    assert taken == ["Narrow", "Launches", "Launches"] and set(sliced) == {5}


def test_a_loss_that_diverges_in_a_slice(cuda: bool, sliced: list[int]) -> None:
    model = make([5, 6, 3], "tanh", device="cuda")
    before = model.get_weights()
    model.compile(fb.SGD(1e30), "mse")
    with pytest.raises(fb.DivergenceError):
        model.fit(inputs(ROWS, 5), targets("mean_squared_error", ROWS, 3), batch_size=12, epochs=3, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_slices_that_do_not_fit_are_not_taken(cuda: bool, sliced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices.device, "shared_bytes", lambda: 4096)
    train(make([20, 40, 1], device="cuda"), "mse", "adam", epochs=1)
    assert sliced == []


def regularised(**options: Any) -> fb.Model:
    """Penalties of kernels and biases, rates of layers, a frozen one, no biases."""
    strong = fb.regularizers.L1L2(0.01, 0.02)
    layers = [
        fb.Dense(6, activation="tanh", kernel_regularizer=strong, bias_regularizer=fb.regularizers.L2(0.1)),
        fb.Dense(5, activation="relu", lr_multiplier=0.5),
        fb.Dense(4, activation="tanh", trainable=False),
        fb.Dense(2, use_bias=False, kernel_regularizer=strong),
    ]
    return fb.Model(layers, device="cuda", seed=3, **options)


GROUP = {"gradient_accumulation_steps": 3}


@pytest.mark.parametrize("clips", [{}, {"global_clipnorm": 0.2}, {"clipnorm": 0.1}], ids=["", "together", "each"])
@pytest.mark.parametrize("group", [{}, GROUP], ids=["", "grouped"])
@pytest.mark.parametrize("frozen_first", [False, True])
def test_what_layers_say_of_their_weights(
    frozen_first: bool,
    group: dict[str, Any],
    clips: dict[str, Any],
    cuda: bool,
    taken: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for most in (one_block.MOST_WORK, 0):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        model = regularised()
        model.build(4)
        model.layers[0].trainable = not frozen_first
        model.layers[1].kernel_constraint = fb.constraints.MinMaxNorm(0.5, 0.9, rate=0.7)
        model.layers[2].kernel_constraint = fb.constraints.UnitNorm()  # of a frozen layer: nothing happens
        model.layers[3].kernel_constraint = fb.constraints.NonNeg()
        found.append(train(model, "mse", fb.Adam(0.02, **clips, **group)))
    alike(*found)
    assert taken[0] == "Narrow" and taken[-1] == "Launches"


@pytest.mark.parametrize("norm", [False, True])
def test_neither_threads_nor_launches_change_the_bits(norm: bool, cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same twice."""
    found = []
    for threads, ahead in ((6, 2048), (6, 2048), (6, 5), (3, 2048), (13, 1)):
        monkeypatch.setattr(one_block, "SIMULATED_THREADS", threads)
        monkeypatch.setattr(one_block, "STEPS_AHEAD", ahead)
        model = make([5, 9, 3], "gelu", "softmax", device="cuda", seed=4)
        if norm:
            between = fb.LayerNormalization(), fb.Dense(6, "tanh"), fb.BatchNormalization()
            model = fb.Model([fb.Dense(9, "gelu"), *between, fb.Dense(3, "softmax")], device="cuda", seed=4)
            model.build(5)
        optimizer = fb.Adam(global_clipnorm=0.3 if norm else None)
        found.append(train(model, "sparse_categorical_crossentropy", optimizer, metrics=["accuracy", "f1_score"]))
    for history, arrays in found[1:]:
        assert history == found[0][0]
        for a, b in zip(arrays, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_loss_that_diverges_ends_the_launch(cuda: bool, taken: list[str]) -> None:
    model = make([5, 6, 3], "tanh", device="cuda")
    before = model.get_weights()
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 3)
    model.compile(fb.SGD(0.0001), "mse")
    with pytest.raises(fb.DivergenceError) as caught:
        y[-1] = np.finfo(np.float32).max
        model.fit(x, y, batch_size=7, epochs=2, shuffle=False, verbose=0)
    assert (caught.value.epoch, caught.value.step) == (1, 4)
    assert taken == ["Narrow"]
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_that_are_chosen_weighted_and_masked(
    cuda: bool, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subsets of rows, targets that are NaN, an epoch's end in the middle of a launch."""
    found = []
    for most in (one_block.MOST_WORK, 0):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        model = make([4, 5, 2], "tanh", device="cuda", seed=1)
        x, y = inputs(ROWS, 4), targets("mean_squared_error", ROWS, 2)
        y[3, 0] = y[9] = np.nan
        model.compile("sgd", "mse", metrics=["mae"], mask_nan=True)
        weights = np.random.default_rng(3).uniform(0, 2, ROWS)
        history = model.fit(x, y, batch_size=4, epochs=5, sample_weight=weights, validation_split=0.2, verbose=0)
        found.append((history.history, model.get_weights()))
    alike(*found)
    assert taken[0] == "Narrow" and taken[-1] == "Launches"


def noisy(kind: str) -> fb.Model:
    """Noise of inputs and of activations, of each kind; an activation whose slope is computed of what noise changes."""
    layers = {
        "dropout": [fb.Dense(6, "tanh"), fb.Dropout(0.3), fb.Dense(5, "gelu"), fb.Dropout(0.2), fb.Dense(2)],
        "alpha": [fb.Dense(6, "selu"), fb.AlphaDropout(0.2), fb.Dense(2)],
        "inputs": [fb.GaussianNoise(0.3), fb.Dense(6, "sigmoid"), fb.GaussianDropout(0.2), fb.Dense(2)],
        "frozen": [
            fb.Dropout(0.2),
            fb.Dense(6, "tanh", trainable=False),
            fb.Dropout(0.3),
            fb.Dense(5, "relu", kernel_regularizer="l2", lr_multiplier=0.5),
            fb.GaussianDropout(0.3),
            fb.Dense(2),
        ],
    }
    model = fb.Model(layers[kind], device="cuda", seed=3)
    model.build(4)
    return model


@pytest.mark.parametrize("kind", ["dropout", "alpha", "inputs", "frozen"])
def test_noise_is_part_of_the_code(
    kind: str, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one block, in several launches of several steps, by slices of rows, and launch by launch: the same noise."""
    found = []
    monkeypatch.setattr(one_block, "STEPS_AHEAD", 3)
    for most, least in ((8e6, 1), (0, 1), (0, 100)):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        monkeypatch.setattr(slices, "LEAST_ROWS", least)
        found.append(train(noisy(kind), "mse", fb.Adam(0.02), batch=12, metrics=["mae"]))
    alike(found[0], found[2])
    alike(found[1], found[2])
    assert taken == ["Narrow", "Launches", "Launches"] and set(sliced) == {12}
    monkeypatch.setattr(one_block, "MOST_WORK", 8e6)
    model = noisy(kind)
    model.compile("sgd", "mse")
    np.testing.assert_array_equal(model.predict(inputs(9, 4)), model.predict(inputs(9, 4)))


def normalised(kind: str, dtype: str) -> fb.Model:
    """Normalisations of each kind, with an activation or noise behind them, with rates of their own, frozen, bare."""
    layers = {
        "rows": [
            *(fb.Dense(6, "tanh"), fb.LayerNormalization(), fb.Dropout(0.3)),
            *(fb.Dense(5, "gelu"), fb.RMSNormalization(lr_multiplier=0.5), fb.layers.Activation("elu"), fb.Dense(2)),
        ],
        "batches": [
            *(fb.Dense(6, use_bias=False), fb.BatchNormalization(0.8), fb.layers.Activation("silu")),
            fb.GaussianNoise(0.1),
            *(fb.Dense(5, "tanh", kernel_regularizer="l2"), fb.BatchNormalization(lr_multiplier=0.5), fb.Dense(2)),
        ],
        "frozen": [
            *(fb.Dense(6, "tanh", trainable=False), fb.LayerNormalization(scale=False)),
            *(fb.Dense(4, "softplus"), fb.RMSNormalization(trainable=False), fb.Dense(2)),
        ],
        "alone": [
            *(fb.Dense(6, "tanh", trainable=False), fb.LayerNormalization(), fb.Dense(2, trainable=False)),
        ],
        "given": [
            *(fb.Normalization(mean=[0.1, -0.2, 0.3, 0.0], variance=[2.0, 0.5, 1.0, 3.0]), fb.GaussianDropout(0.1)),
            *(fb.Dense(6, "tanh"), fb.BatchNormalization(trainable=False), fb.Dense(5, "gelu")),
            *(fb.Normalization(mean=0.5, variance=2.0), fb.layers.Activation("tanh"), fb.Dropout(0.2), fb.Dense(2)),
        ],
        "bare": [
            *(fb.Dense(6, "tanh"), fb.LayerNormalization(center=False, scale=False)),
            *(fb.Dense(4, "tanh"), fb.BatchNormalization(center=False, scale=False), fb.Dense(2)),
        ],
    }
    model = fb.Model(layers[kind], device="cuda", seed=3, dtype=dtype)
    model.build(4)
    rng = np.random.default_rng(2)
    model.set_weights([w + 0.2 * rng.uniform(0, 1, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["rows", "batches", "frozen", "bare", "given", "alone"])
def test_normalisations_are_part_of_the_code(
    kind: str, dtype: str, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one block, by slices of rows where no batch is needed whole, and launch by launch; a short last batch too."""
    found = []
    monkeypatch.setattr(one_block, "STEPS_AHEAD", 3)
    for most, least in ((8e6, 1), (0, 1), (0, 100)):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        monkeypatch.setattr(slices, "LEAST_ROWS", least)
        model = normalised(kind, dtype)
        optimizer = fb.Adam(0.02, weight_decay=0.1, clipnorm=0.3 if dtype == "float64" else None)
        history, arrays = train(model, "mse", optimizer, batch=12, metrics=["mae"])
        found.append((history, [*arrays, model.predict(inputs(9, 4))]))
    tolerance = 1e-5 if dtype == "float32" else 1e-11
    alike(found[0], found[2], tolerance)
    alike(found[1], found[2], tolerance)
    assert taken == ["Narrow", "Launches", "Launches"]
    assert sliced == ([] if kind in ("batches", "bare") else [12])


def penalised(kind: str, dtype: str) -> fb.Model:
    """Penalties on what layers give, on that normalised, and with its noise; on inputs; twice in one place."""
    both, active = fb.regularizers.L1L2(0.3, 0.2), fb.ActivityRegularization
    layers = {
        "outputs": [
            *(fb.Dense(6, "tanh", activity_regularizer=both, kernel_regularizer="l2"), fb.Dropout(0.3), active(l2=0.4)),
            *(fb.Dense(5, "gelu", activity_regularizer="l1"), active(l2=0.1), fb.Dense(3), active(0.2), fb.Dense(2)),
        ],
        "rows": [
            *(fb.Dense(6, "silu"), active(0.1, 0.2), fb.LayerNormalization(), active(l2=0.3)),
            *(fb.GaussianNoise(0.1), active(l1=0.3), fb.Dense(5, "relu"), fb.RMSNormalization(), active(0.1)),
            fb.Dense(2),
        ],
        "batches": [
            *(fb.Dense(6), active(0.1, 0.2), fb.BatchNormalization(), fb.layers.Activation("tanh"), active(l2=0.3)),
            fb.Dense(2),
        ],
        "inputs": [active(0.1, 0.2), fb.Dense(6, "tanh", trainable=False), active(l2=0.3), fb.Dense(2)],
        "noisy inputs": [fb.GaussianNoise(0.2), active(0.1, 0.2), fb.Dense(6, "tanh"), active(l2=0.3), fb.Dense(2)],
    }
    model = fb.Model(layers[kind], device="cuda", seed=3, dtype=dtype)
    model.build(4)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["outputs", "rows", "batches", "inputs", "noisy inputs"])
def test_penalties_on_activations_are_part_of_the_code(
    kind: str, dtype: str, cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one block, by slices of rows, and launch by launch; the last batch has fewer rows."""
    found = []
    for most, least in ((8e6, 1), (0, 1), (0, 100)):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        monkeypatch.setattr(slices, "LEAST_ROWS", least)
        optimizer = fb.Adam(0.02, global_clipnorm=0.3 if dtype == "float64" else None)
        found.append(train(penalised(kind, dtype), "mse", optimizer, batch=12, epochs=2, metrics=["mae"]))
    tolerance = 1e-5 if dtype == "float32" else 1e-11
    alike(found[0], found[2], tolerance)
    alike(found[1], found[2], tolerance)
    assert taken == ["Narrow", "Launches", "Launches"]
    assert sliced == ([] if kind == "batches" else [12])


def test_a_penalty_that_overflows_ends_the_launch(
    cuda: bool, taken: list[str], sliced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss itself is finite: what is penalised has no weight in it."""
    for most, least in ((8e6, 1), (0, 1), (0, 100)):
        monkeypatch.setattr(one_block, "MOST_WORK", most)
        monkeypatch.setattr(slices, "LEAST_ROWS", least)
        model = fb.Model([fb.Dense(3), fb.ActivityRegularization(l2=0.1), fb.Dense(2)], device="cuda")
        model.build(4)
        model.set_weights([np.full((4, 3), 1e20), np.zeros(3), np.zeros((3, 2)), np.zeros(2)])
        before = model.get_weights()
        with pytest.raises(fb.DivergenceError), np.errstate(over="ignore"):
            train(model, "mse", "sgd", batch=12)
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
    assert taken == ["Narrow", "Launches", "Launches"] and len(sliced) == 1


def test_other_layers_and_sizes_go_launch_by_launch(
    cuda: bool, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [
        fb.Model([fb.LayerNormalization(), fb.Dense(2)], device="cuda"),
        fb.Model([fb.Dense(4), fb.Dense(2), fb.RMSNormalization()], device="cuda"),
        fb.Model([fb.BatchNormalization(), fb.Dense(2)], device="cuda"),
        fb.Model([fb.Dense(4), fb.Dropout(0.2), fb.BatchNormalization(), fb.Dense(2)], device="cuda"),
        fb.Model([fb.Dense(4), fb.Dropout(0.2), fb.GaussianNoise(0.1), fb.Dense(2)], device="cuda"),
        fb.Model([fb.Dense(2), fb.Dropout(0.2)], device="cuda"),
        fb.Model([fb.ActivityRegularization(l2=0.1), fb.GaussianNoise(0.1), fb.Dense(2)], device="cuda"),
        fb.Model([fb.Dense(one_block.WIDEST + 1), fb.Dense(2)], device="cuda"),
        fb.Model([*(fb.Dense(2) for _ in range(one_block.MOST_LAYERS)), fb.Dense(2)], device="cuda"),
        fb.Model([fb.Dense(2, trainable=False)], device="cuda"),
    ]
    for model in models:
        model.build(3)
        train(model, "mse", "sgd", epochs=1)
    monkeypatch.setattr(one_block.device, "shared_bytes", lambda: 4096)
    train(make([20, 10, 1], device="cuda"), "mse", "adam", epochs=1)
    assert taken == ["Launches"] * 11


def test_every_activation_stands_in_the_code() -> None:
    """Hidden ones but softmax; what reads z has it."""
    for name, row in ACTIVATIONS.items():
        if not row.coupled:
            at = Shared(_net(hidden=name))
            assert (at.z[1] != at.h[1]) == row.keeps_z
            assert at.ld % 8 == 4 and at.bytes % 16 == 0  # loads of four numbers, each row's from other banks
            starts = at.weights, at.inputs, *at.h, *at.z[1:], *at.dz[1:]
            assert not any(start % 4 for start in starts)


def _net(hidden: str = "relu", **options: Any) -> Any:
    """A network as the code sees it."""
    row = fb.activations.get(hidden)
    fields: dict[str, Any] = {
        "dtype": np.dtype(np.float32),
        "batch": 32,
        "widths": (20, 10, 1),
        "paths": (None, None),
        "biased": (True, True),
        "places": ((0, 12), (256, 4)),
        "activations": (row, fb.activations.IDENTITY),
        "norms": (None, None),
        "noises": (None, None),
        "activities": ((), ()),
        "ops": (0, 1),
        "count": 2,
        "learning": (0, 1),
        "lowest": 1,
        "penalised": (),
        "slots": 2,
        "numbers": 8,
        "clips": "",
        "group": 1,
        "constraints": (),
        "update": None,
        "loss": fb.MeanSquaredError(),
        "tallies": (),
        "labels": False,
        "threads": 256,
    }
    return one_block.Network(**{**fields, **options})


def test_the_memory_of_a_small_network() -> None:
    net = _net()
    assert net.work == 6 * 32 * (20 * 10 + 10)
    assert Shared(net).bytes < 16 << 10
    assert Shared(_net(dtype=np.dtype(np.float64))).bytes > Shared(net).bytes
    assert Shared(net).partial == 4 and GROUPS == 32


@pytest.mark.parametrize(
    ("rows", "columns", "threads", "wanted"),
    [(32, 10, 256, (1, 2)), (32, 1, 256, (1, 1)), (32, 64, 512, (2, 4)), (256, 64, 256, (4, 4)), (7, 3, 2, (4, 4))],
)
def test_tiles_leave_work_to_all(rows: int, columns: int, threads: int, wanted: tuple[int, int]) -> None:
    assert tile(rows, columns, threads) == wanted


@pytest.mark.parametrize(("precision", "first"), [("float32", 0), ("float64", 1)])
def test_kernels_of_small_networks_compile_for_gpus(precision: str, first: int) -> None:
    """Nothing of a thread's own lands in local memory, nothing is called; float64 by the network of more parts."""
    code = f"""
import os
del os.environ["NUMBA_ENABLE_CUDASIM"]
import numpy as np
from numba import types
import fastbp as fb
from dataclasses import replace
from fastbp.cuda import rules
from fastbp.cuda.narrow import one_block, slices
from fastbp.cuda.device import compile_ptx
from fastbp.cuda.narrow.net import Activity, Norm
from fastbp.formulas.tallies import TALLIES
from test_cuda_narrow import _net

dtype = np.dtype("{precision}")
number = types.{precision}[::1]
whole = types.int64[::1]
optimizer = fb.Adam(0.01, weight_decay=0.1)
names = "categorical accuracy", "hits of classes", "targets"
losses = fb.SparseCategoricalCrossentropy(), fb.MeanSquaredError()
capabilities = (7, 5), (10, 0)
tanh = fb.activations.get("tanh")
given = Norm("normalization", 0, None, None, 0, 8, fb.activations.IDENTITY, False)
by_rows, by_batch = (Norm(name + "_normalization", 3, 88, 96, 104, 8, tanh, True) for name in ("layer", "batch"))
for loss, norm in [*zip(losses, (by_rows, by_batch))][{first}:]:
    labels = loss.targets == "labels"
    net = _net(
        hidden="gelu", dtype=dtype, widths=(8, 6, 3), places=((16, 8), (120, 4)), loss=loss, labels=labels,
        tallies=tuple(TALLIES[name] for name in ("scores", *names[: 2 if labels else 3])), penalised=(0, 1),
        numbers=optimizer.width + 1, update=rules.update(optimizer, dtype), clips="" if labels else "together",
        slots=2 + labels, group=1 + labels, constraints=((1, fb.constraints.MinMaxNorm(0.5)),),
        norms=(given, norm), noises=(("gaussian_noise", 1), ("dropout", 4)), ops=(2, 5), count=6,
        activities=((Activity(1, 2),), tuple(Activity(4, place) for place in range(3))),
    )
    made, shared = one_block.written(net)
    arrays = number, number, number, types.float64[::1], number, whole if labels else number, whole, *[number] * 3
    codes = compile_ptx(made, (types.int64, whole, whole, *arrays), capabilities, threads=net.threads)
    for (major, minor), code in zip(capabilities, codes, strict=True):
        assert f".target sm_{{major}}{{minor}}" in code
        assert "ld.local" not in code and "call" not in code and "ld.shared" in code
    plain = replace(net, slots=0, numbers=0, update=None, tallies=(), penalised=(), clips="", group=1, constraints=())
    plain = replace(plain, norms=(given, by_rows))
    made = slices.written(plain, net.tallies)
    arrays = number, number, number, number, number, whole if labels else number, whole, number, number
    for code in compile_ptx(made, (whole, *arrays), capabilities, threads=net.threads):
        assert "ld.local" not in code and "call" not in code and "ld.shared" in code
print("compiled")
"""
    assert python(code).strip() == "compiled"
