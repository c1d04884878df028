"""Networks on device="cuda": against the reference, and against the CPU engine, which is."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ELEMENTWISE, OUTPUT, TOLERANCE, error, inputs, make, targets
from test_gradients import HIDDEN_AND_LOSS, check

import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS

DTYPES = ["float32", "float64"]


@pytest.fixture(params=["many launches", "one block"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks launch by launch, and by one block of threads where that can be."""
    if request.param == "many launches":
        pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
        from fastbp.cuda.narrow import one_block

        monkeypatch.setattr(one_block, "MOST_WORK", 0)


@pytest.mark.parametrize("hidden", ELEMENTWISE)
def test_every_hidden_activation(hidden: str, cuda: bool) -> None:
    dtype = DTYPES[ELEMENTWISE.index(hidden) % 2]
    widths, rows = ([70, 90, 33, 4], 300) if cuda else ([3, 9, 5, 4], 11)
    check(make(widths, hidden, "linear", dtype=dtype, device="cuda"), "mean_squared_error", rows, 20 * TOLERANCE[dtype])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str, cuda: bool) -> None:
    dtype = DTYPES[list(LOSSES).index(loss) % 2]
    hidden = next(hidden for hidden in ("tanh", "gelu", "sigmoid") if (hidden, loss) in HIDDEN_AND_LOSS)
    widths, rows = ([70, 90, 4], 300) if cuda else ([3, 5, 4], 9)
    check(
        make(widths, hidden, OUTPUT.get(loss, "linear"), dtype=dtype, device="cuda"), loss, rows, 20 * TOLERANCE[dtype]
    )


@pytest.mark.parametrize("output", ACTIVATIONS)
def test_every_output_activation(output: str, cuda: bool) -> None:
    check(
        make([6, 8, 3], "tanh", output, dtype="float64", device="cuda"), "mean_squared_error", 300 if cuda else 5, 1e-11
    )


@pytest.mark.parametrize(
    ("widths", "rows"),
    [([1, 1], 1), ([1, 1, 1], 7), ([5, 3], 33), ([17, 33, 1], 9), ([16, 16, 16], 8), ([3, 1, 30], 5), ([9, 20, 2], 12)],
)
def test_odd_shapes(widths: list[int], rows: int, cuda: bool) -> None:
    for bias in (True, False):
        check(make(widths, "tanh", bias=bias, device="cuda"), "mean_squared_error", rows, 2e-4)


# ---------------------------------------------------------------- training, beside the CPU


def both(build: Callable[[str], fb.Model]) -> tuple[fb.Model, fb.Model]:
    """The same model for the CPU and for CUDA."""
    cpu, cuda = build("cpu"), build("cuda")
    cuda.set_weights(cpu.get_weights())
    return cpu, cuda


def trained_alike(
    build: Callable[[str], fb.Model],
    compile_options: dict[str, Any],
    *,
    rows: int = 21,
    batch: int = 8,
    epochs: int = 2,
    tolerance: float = 2e-5,
    **fit: Any,
) -> tuple[fb.Model, fb.Model]:
    """Trains the model on both engines and holds histories, weights and predictions against each other."""
    models = both(build)
    loss = compile_options.get("loss", "mean_squared_error")
    x = inputs(rows, models[0].input_width or 0)
    y = targets(loss if isinstance(loss, str) else loss.name, rows, models[0].output_width)
    histories = []
    for model in models:
        model.compile(**{"loss": "mean_squared_error", "optimizer": "sgd", **compile_options})
        histories.append(model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, **fit).history)
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=20 * tolerance, atol=tolerance, err_msg=name)
    for name, a, b in zip(models[0].named_weights(), models[1].get_weights(), models[0].get_weights(), strict=True):
        assert error(a, b) < tolerance, name
    assert error(models[1].predict(x), models[0].predict(x)) < 10 * tolerance
    return models


def network(hidden: str = "tanh", output: str = "linear", **options: Any) -> Callable[[str], fb.Model]:
    return lambda device: make([5, 6, 3], hidden, output, device=device, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str, cuda: bool) -> None:
    if name != "lbfgs":
        trained_alike(network(dtype="float64"), {"optimizer": name}, tolerance=1e-9)


@pytest.mark.parametrize(
    "optimizer",
    [
        fb.SGD(0.1, momentum=0.9, nesterov=True),
        fb.Adam(0.01, clipnorm=0.05),
        fb.Adam(0.01, global_clipnorm=0.05),
        fb.Adam(0.01, clipvalue=0.01, weight_decay=0.1),
        fb.SGD(0.1, gradient_accumulation_steps=2),
        fb.Adam(0.01, gradient_accumulation_steps=3, global_clipnorm=0.1),
        fb.Adam(fb.schedules.CosineDecay(0.01, 5), use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=2),
        fb.RMSprop(0.01, momentum=0.5, centered=True),
    ],
    ids=lambda optimizer: repr(optimizer)[:60],
)
def test_options_of_optimizers(optimizer: fb.optimizers.Optimizer, cuda: bool) -> None:
    trained_alike(network(), {"optimizer": optimizer})


@pytest.mark.parametrize(
    ("loss", "metrics"),
    [
        ("sparse_categorical_crossentropy", ["accuracy", "confusion_matrix", "auc"]),
        ("categorical_crossentropy", ["accuracy", "f1_score"]),
        ("binary_crossentropy", ["accuracy", "precision", "recall"]),
        ("mean_squared_error", ["mae", "r2_score"]),
    ],
)
def test_metrics(loss: str, metrics: list[str], cuda: bool) -> None:
    output = OUTPUT.get(loss, "linear")
    weights = np.random.default_rng(3).integers(0, 3, 21).astype(float)
    known = [name for name in metrics if name in fb.metrics.METRICS or name == "accuracy"]
    options = {"loss": loss, "metrics": known, "weighted_metrics": known[:1]}
    trained_alike(network(output=output), options, sample_weight=weights, validation_split=0.3)


def test_the_same_bits_twice(cuda: bool) -> None:
    models = [make([5, 6, 3], "gelu", device="cuda", seed=3) for _ in range(2)]
    x, y = inputs(21, 5), targets("mean_squared_error", 21, 3)
    for model in models:
        model.compile("adam", "mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(models[0].predict(x[:3]), models[0].predict(x)[:3])


def test_a_loss_that_diverges_leaves_the_last_snapshot(cuda: bool) -> None:
    model = make([5, 6, 3], "tanh", device="cuda")
    before = model.get_weights()
    model.compile(fb.SGD(1e30), "mse")
    with pytest.raises(fb.DivergenceError):
        model.fit(inputs(21, 5), targets("mean_squared_error", 21, 3), batch_size=4, epochs=3, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_travels_between_devices(cuda: bool, tmp_path: Path) -> None:
    model = make([5, 6, 3], "tanh", device="cuda")
    x, y = inputs(21, 5), targets("mean_squared_error", 21, 3)
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.fastbp")
    loaded = [fb.load_model(tmp_path / "model.fastbp", device=device) for device in ("cpu", "cuda")]
    pickled = pickle.loads(pickle.dumps(model))
    assert [one.device for one in (*loaded, pickled)] == ["cpu", "cuda", "cuda"]
    for one in (model, *loaded, pickled):
        one.fit(x, y, batch_size=8, verbose=0)
    for one in (*loaded, pickled):
        for a, b in zip(one.get_weights(), model.get_weights(), strict=True):
            assert error(a, b) < 1e-6


def test_a_file_is_not_blamed_for_a_gpu_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbp.cuda import presence

    make([5, 3]).save(tmp_path / "model.fastbp")
    monkeypatch.setattr(presence, "problem", lambda: "no NVIDIA driver was found")
    with pytest.raises(RuntimeError, match="device='cuda': no NVIDIA driver was found"):
        fb.load_model(tmp_path / "model.fastbp", device="cuda")


def test_gradients_can_be_taken_and_given(cuda: bool) -> None:
    models = both(network())
    x, y = inputs(9, 5), targets("mean_squared_error", 9, 3)
    for model in models:
        model.compile(fb.Adam(0.01, global_clipnorm=0.1, gradient_accumulation_steps=2), "mse")
        for _ in range(3):
            model.apply_gradients(model.gradients(x, y))
    for a, b in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        assert error(a, b) < 1e-5


def test_which_device_is_there() -> None:
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'auto', got 'gpu'"):
        fb.Model([fb.Dense(1)], device="gpu")
    small = make([3, 2], device="auto")
    assert small.device == "cpu"
    lines: list[str] = []
    small.summary(print_fn=lines.append)
    assert "a step over 128 rows takes 0.00307 million operations, and below 10 a GPU is expected to lose" in lines[0]
    assert "an estimate, not measured" in lines[0]
    assert make([784, 64, 10], device="auto").device == "cuda"  # the simulator stands for a GPU


def test_auto_says_what_it_picked_where_someone_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make([3, 2], device="auto")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    make([3, 2], device="auto")
    assert capsys.readouterr().err.startswith("device='auto' is 'cpu': a step over 128 rows takes 0.00307 million")


def test_precisions_of_products(tmp_path: Path) -> None:
    for options, wanted in (
        ({"precision": "tf32"}, ("tf32", "float32")),
        ({"precision": "bfloat16"}, ("bfloat16", "float32")),
        ({"dtype": "bfloat16"}, ("bfloat16", "float32")),
        ({"dtype": "float64"}, ("float64", "float64")),
        ({"precision": "float32"}, ("float32", "float32")),
    ):
        model = make([5, 6, 3], "tanh", device="cuda", **options)
        assert (model.compute_dtype, model.dtype.name) == wanted
        assert model.predict(np.ones((2, 5))).dtype == model.dtype
    model = make([5, 6, 3], "tanh", device="cuda", precision="tf32")
    model.save(tmp_path / "model.fastbp")
    again = [fb.load_model(tmp_path / "model.fastbp", device=device) for device in ("cuda", "cpu")]
    assert [one.compute_dtype for one in again] == ["tf32", "float32"]
    np.testing.assert_allclose(again[1].predict(np.ones((2, 5))), model.predict(np.ones((2, 5))), rtol=2e-3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"precision": "tf32"}, "TF32 is computed with on a GPU only: pass device="),
        ({"precision": "half"}, "precision must be 'float32', 'tf32', 'bfloat16' or None, got 'half'"),
        ({"precision": "tf32", "dtype": "float64"}, "precision='tf32' is about float32 numbers, not dtype='float64'"),
    ],
)
def test_precisions_that_make_no_sense_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fb.Model([fb.Dense(1)], **options)


def test_progress_on_a_gpu_shows_no_share_of_the_cpus_peak(capsys: pytest.CaptureFixture[str]) -> None:
    model = make([5, 6, 3], "tanh", device="cuda", precision="tf32")
    model.compile("sgd", "mse")
    model.fit(inputs(8, 5), inputs(8, 3), verbose=2)
    said = capsys.readouterr().err
    assert "samples/s" in said and "peak" not in said


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_products_of_rounded_factors(precision: str, way: None, cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear network, whose gradients are products of rounded factors: as NumPy rounds them."""
    monkeypatch.setattr("fastbp.cuda.narrow.one_block.MOST_WORK", 0)
    model = make([6, 3], device="cuda", precision=precision)
    x, y = inputs(9, 6).astype(np.float32), targets("mean_squared_error", 9, 3).astype(np.float32)
    model.compile("sgd", "mse")
    kernel, bias = model.get_weights()
    outputs = rounded(x, precision) @ rounded(kernel, precision) + bias
    assert error(model.predict(x), outputs) < 1e-6
    assert error(outputs, x @ kernel + bias) > 1e-5
    slope = (2 / y.size * (outputs - y)).astype(np.float32)
    (dw, _), dx = model.gradients(x, y, inputs=True)
    assert error(dw, rounded(x, precision).T @ rounded(slope, precision)) < 1e-5
    assert error(dx, rounded(slope, precision) @ rounded(kernel, precision).T) < 1e-5


def rounded(numbers: np.ndarray, precision: str) -> np.ndarray:
    """To 10 or 7 bits behind the point, the nearest; ties don't occur."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    bits = {"tf32": 11, "bfloat16": 8}[precision]
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)


@pytest.mark.parametrize("group", [None, 2])
def test_sums_over_many_rows_are_cut_in_parts(
    group: int | None, way: None, cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastbp.cuda import products

    monkeypatch.setattr("fastbp.cuda.narrow.one_block.MOST_WORK", 0)
    monkeypatch.setattr("fastbp.cuda.narrow.slices.LEAST_ROWS", 1 << 40)
    seen: list[int] = []
    learn = products.learn
    monkeypatch.setattr(products, "learn", lambda *options: seen.append(1) or learn(*options))
    optimizer = fb.Adam(0.02, gradient_accumulation_steps=group)
    rows = 3000 if cuda else 46
    trained_alike(network(), {"optimizer": optimizer}, rows=rows, batch=rows * 2 // 3)
    assert seen
