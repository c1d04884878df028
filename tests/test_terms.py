"""Float32 products by AMX tiles: no less exact than multiply-adds, whole at every edge, the same bits in every cut."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp.cpu import machine, terms
from fastbp.layout import plan

LOSS = "sparse_categorical_crossentropy"
pytestmark = pytest.mark.skipif(not machine.amx_granted(), reason="this machine has no AMX, or its system grants none")
# inputs and neurons around the borders of a tile (16) and of two, sums around those of a step (32) and of a run (512)
SHAPES = [
    ([128, 64, 130, 3], 96),
    ([97, 101, 83, 5], 161),
    ([47, 333, 33, 48, 3], 130),
    ([700, 96, 100, 7], 77),
    ([90, 1100, 32], 200),
    ([130, 65], 1500),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers that would gain nothing go by terms too, and no step is cut by neurons."""
    monkeypatch.setattr(terms, "LEAST", 32)
    monkeypatch.setattr("fastbp.layout.sides.WEIGHTS", 0)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


def gradients(model: fb.Model, rows: int) -> list[np.ndarray]:
    x = inputs(rows, model.input_width or 0).astype(np.float32)
    found, dx = model.gradients(x, targets(LOSS, rows, model.output_width), inputs=True)
    return [*found, dx]


def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_usable", lambda program: False)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("widths", "rows"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_no_less_exact_than_multiply_adds(
    widths: list[int], rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def errors(dtype: str) -> list[np.ndarray]:
        model = make(widths, "tanh", "softmax", bias=bias, dtype=dtype)
        model.compile("sgd", LOSS)
        return gradients(model, rows)

    truth, ours = errors("float64"), errors("float32")
    off(monkeypatch)
    plain = errors("float32")
    assert any(not np.array_equal(a, b) for a, b in zip(ours, plain, strict=True))  # it was another way
    for got, other, true in zip(ours, plain, truth, strict=True):
        size = np.linalg.norm(true)
        assert np.linalg.norm(got - true) <= 1.5 * np.linalg.norm(other - true) + 1e-7 * size
        assert np.linalg.norm(got - true) < 1e-6 * size


def test_all_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers from 1e-12 to 1e12 in one sum: each keeps its 24 bits."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.integers(-12, 13, 128)
    first = (rng.standard_normal((128, 128)) / sizes[:, None]).astype(np.float32)
    second = rng.standard_normal((128, 1)).astype(np.float32)
    x = (rng.standard_normal((96, 128)) * sizes).astype(np.float32)
    a, b, c = x.astype(np.float64), first.astype(np.float64), second.astype(np.float64)
    slope = 2 * (a @ b @ c) / 96
    truth = a.T @ (slope @ c.T), (a @ b).T @ slope

    def errors() -> list[np.ndarray]:
        model = fb.Model([fb.Dense(128, use_bias=False), fb.Dense(1, use_bias=False)])
        model.build(128)
        model.set_weights([first, second])
        model.compile("sgd", "mean_squared_error")
        found = model.gradients(x, np.zeros((96, 1), np.float32))
        # by the rows of weights, each of its own size
        return [np.linalg.norm(g - t, axis=1) / np.linalg.norm(t, axis=1) for g, t in zip(found, truth, strict=True)]

    ours = errors()
    off(monkeypatch)
    for got, plain in zip(ours, errors(), strict=True):
        assert np.median(got) <= 1.2 * np.median(plain)
        assert got.max() <= 2 * plain.max()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("widths", "rows"), SHAPES)
def test_the_same_bits_for_any_number_of_threads(widths: list[int], rows: int) -> None:
    def trained(threads: int) -> list[np.ndarray]:
        model = make(widths, "relu", "softmax", threads=threads)
        model.compile(fb.Adam(1e-3), LOSS)
        x, y = inputs(2 * rows + 5, widths[0]), targets(LOSS, 2 * rows + 5, widths[-1])
        model.fit(x, y, batch_size=rows, epochs=2, verbose=0)
        return model.get_weights()

    one = trained(1)
    for threads, (a, b) in itertools.product((2, 5), enumerate(one)):
        np.testing.assert_array_equal(trained(threads)[a], b)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("optimizer", [fb.SGD(0.1, momentum=0.9), fb.SGD(0.1, global_clipnorm=0.5)])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3}])
def test_training_is_that_of_multiply_adds(
    optimizer: fb.SGD, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates tile by tile, in a phase of their own, and of sums over batches: all but rounding."""

    def trained() -> np.ndarray:
        model = make([120, 96, 112, 5], "relu", "softmax")
        model.compile(fb.SGD(**{**optimizer.settings(), **options}), LOSS)
        model.fit(inputs(1000, 120), targets(LOSS, 1000, 5), batch_size=144, epochs=3, verbose=0)
        return np.concatenate([w.ravel() for w in model.get_weights()])

    ours = trained()
    off(monkeypatch)
    plain = trained()
    assert not np.array_equal(ours, plain)
    np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_a_rows_prediction_is_the_same_bits_in_any_batch() -> None:
    model = make([1024, 1030, 3], "tanh", "softmax", threads=2)
    model.compile("sgd", LOSS)
    x = inputs(150, 1024).astype(np.float32)
    whole = model.predict(x)
    for rows in (1, 3, 16, 17, 40, 100):
        np.testing.assert_array_equal(model.predict(x[:rows]), whole[:rows])
    model.fit(x, targets(LOSS, 150, 3), verbose=0)
    assert np.isfinite(model.evaluate(x, targets(LOSS, 150, 3)))


@pytest.mark.parametrize(
    ("widths", "rows", "backward", "wanted"),
    [
        ([128, 128, 10], 1000, True, ["forward", "backward", "task"]),
        ([256, 256, 10], 64, True, ["task"]),
        ([128, 128, 10], 64, True, ["task"]),
        ([128, 128, 10], 32, True, []),
        ([128, 128, 10], 1000, False, []),
        ([127, 500, 127], 1000, True, []),
        ([1024, 1024, 10], 32, True, ["forward", "backward"]),
        ([1024, 1024, 10], 16, True, []),
        ([1024, 1024, 10], 1, False, ["forward"]),
    ],
)
def test_shapes_alone_decide(widths: list[int], rows: int, backward: bool, wanted: list[str]) -> None:
    for threads in (1, 4):
        model = make(widths, threads=threads)
        assert model._engine is not None
        assert terms.rule_names(model._engine.program, rows, backward) == wanted
    half = make(widths, dtype="bfloat16")
    assert half._engine is not None
    assert terms.rule_names(half._engine.program, rows, backward) == []


def test_many_panels_of_rows_by_halves() -> None:
    """Each thread packs some panels of its half of the rows at a time."""

    def trained(threads: int) -> list[np.ndarray]:
        model = make([10, 128, 130, 1], "relu", threads=threads)
        model.compile(fb.Adam(1e-3), "mean_squared_error")
        model.fit(inputs(1500, 10), targets("mean_squared_error", 1500, 1), batch_size=1000, verbose=0)
        return model.get_weights()

    for one, two in zip(trained(1), trained(2), strict=True):
        np.testing.assert_array_equal(one, two)
