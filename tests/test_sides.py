"""Steps of two threads that are cut by neurons: right, and the same bits as one thread's, or many's."""

import itertools
from typing import Any

import numpy as np
import pytest
import reference
from helpers import TOLERANCE, error, inputs, targets
from test_signals import press

import fastbp as fb
from fastbp import program as pg
from fastbp._jit import Kernel
from fastbp.activations import RELU
from fastbp.constraints import MaxNorm
from fastbp.cpu.engine import Engine
from fastbp.cpu.launch import LAUNCHERS
from fastbp.cpu.tile import Geometry
from fastbp.layout import sides
from fastbp.layout.plan import Plan
from fastbp.program import LayerSpec, Program

LOSS = "mean_squared_error"
BATCH = 40
WIDTHS = [60, 96, 100, 3]
"""A middle layer whose dZ passes, too, and one whose last vector isn't full; borders that suit the tiles everywhere."""
PLAIN: list[dict[str, Any]] = [{}, {}]


def made(optimizer: Any, dtype: str, threads: int, layers: list[dict[str, Any]]) -> fb.Model:
    hidden = [fb.Dense(n, **{"activation": "tanh", **each}) for n, each in zip(WIDTHS[1:-1], layers, strict=True)]
    model = fb.Model([*hidden, fb.Dense(WIDTHS[-1])], dtype=dtype, threads=threads, seed=3)
    model.build(WIDTHS[0])
    model.compile(optimizer, LOSS, metrics=["mean_absolute_error"])
    return model


def fitted(model: fb.Model, rows: int) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    x, y = inputs(rows, WIDTHS[0]), targets(LOSS, rows, WIDTHS[-1])
    history = model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0, sample_weight=np.linspace(0.5, 2, rows))
    return model.get_weights(), history.history


def laid_out(widths: tuple[int, ...], terms: bool) -> Program:
    layers = [LayerSpec(i, o, bias=True, activation=RELU) for i, o in itertools.pairwise(widths)]
    tiles = Geometry(lanes=16, rows=12, samples=32, width=16, gradient_rows=8, gradient_vectors=3, terms=terms)
    return Program(layers, np.dtype(np.float32), tiles)


@pytest.mark.parametrize(
    ("widths", "batch", "cut"),
    [
        ((64, 100, 10), 32, True),
        ((784, 128, 10), 7, True),
        ((784, 256, 128, 10), 33, True),
        ((784, 256, 128, 10), 128, True),
        ((784, 600, 10), 128, True),
        ((784, 800, 10), 128, False),
        ((50, 1000, 1), 200, True),
        ((50, 1000, 1), 1000, False),  # what passes between layers leaves the caches
        ((100, 100, 10), 7, True),
        ((8, 64, 64, 64, 4), 7, True),
        ((30, 32, 2), 7, False),  # too little between two meetings
        ((8, 64, 64, 64, 4), 33, True),
        ((8, 64, 64, 64, 4), 65, False),  # too much passes
        ((64, 100, 10), 200, True),
        ((64, 100, 10), 300, False),  # too much is gathered twice
        ((30, 128, 128, 2), 64, True),
        ((784, 30, 784), 4, False),  # by tiles of few rows
        ((300, 1000, 1000, 3), 33, False),  # too many weights
    ],
    ids=str,
)
def test_what_is_cut_follows_from_shapes(widths: tuple[int, ...], batch: int, cut: bool) -> None:
    program = laid_out(widths, terms=False)
    assert sides.cut(program, batch) == cut
    assert bool(Plan(program, batch, 1, True, False, True, "tiles").borders) == cut


@pytest.mark.parametrize(
    ("widths", "batch", "cut"),
    [((784, 256, 128, 10), 33, True), ((784, 256, 128, 10), 128, False), ((64, 100, 10), 200, False)],
    ids=str,
)
def test_where_large_products_go_by_terms_less_is_cut(widths: tuple[int, ...], batch: int, cut: bool) -> None:
    assert sides.cut(laid_out(widths, terms=True), batch) == cut


def by_sides(model: fb.Model) -> bool:
    """Whether the model's engine last ran a step that way."""
    *_, bound = model._engine._bound.values()
    return bool(bound.run[pg.SIDES])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("last", [0, 1, 17, 33])
def test_training_is_the_references(last: int, dtype: str) -> None:
    """A short last batch too, of one panel of rows or of several."""
    model = made(fb.SGD(0.1, momentum=0.5), dtype, 2, PLAIN)
    weights = [w.astype(np.float64) for w in model.get_weights()]
    rows = 2 * BATCH + last
    x, y = inputs(rows, WIDTHS[0]), targets(LOSS, rows, WIDTHS[-1])
    history = model.fit(x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0).history
    assert by_sides(model)
    names = [layer.activation.name for layer in model.layers]
    wanted, losses = reference.train(
        weights, names, LOSS, reference.SGD(0.1, momentum=0.5), x, y, batch_size=BATCH, epochs=3
    )
    for got, truth in zip(model.get_weights(), wanted, strict=True):
        assert error(got, truth) < 10 * TOLERANCE[dtype]
    np.testing.assert_allclose(history["loss"], losses, rtol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "layers",
    [PLAIN, [{"trainable": False}, {"kernel_regularizer": "l2"}], [{"activation": "swish"}, {"use_bias": False}]],
    ids=["plain", "frozen and penalised", "Z kept, no biases"],
)
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"clipvalue": 0.01}], ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    options: dict[str, Any], layers: list[dict[str, Any]], dtype: str
) -> None:
    found = []
    for threads in (1, 2, 3, 5):
        model = made(fb.Adam(0.01, **options), dtype, threads, layers)
        found.append(fitted(model, 2 * BATCH + 33))
        assert by_sides(model) == (threads == 2)
    for weights, history in found[1:]:
        assert history == found[0][1]
        for a, b in zip(found[0][0], weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("what", [{"global_clipnorm": 0.1}, {}], ids=["norms", "constraints"])
def test_what_needs_whole_gradients_goes_by_phases(what: dict[str, Any]) -> None:
    """With the same sums."""
    layers = PLAIN if what else [{"kernel_constraint": MaxNorm(0.9)}, {}]
    found = []
    for threads in (1, 2):
        model = made(fb.SGD(0.1, **what), "float32", threads, layers)
        found.append(fitted(model, 3 * BATCH))
        assert not by_sides(model)
    assert found[0][1] == found[1][1]


def test_the_gradient_written_out_is_the_same() -> None:
    x, y = inputs(BATCH, WIDTHS[0]), targets(LOSS, BATCH, WIDTHS[-1])
    one, two = (made("sgd", "float64", threads, PLAIN) for threads in (1, 2))
    for a, b in zip(one.gradients(x, y), two.gradients(x, y), strict=True):
        np.testing.assert_array_equal(a, b)
    assert by_sides(two)


def test_a_loss_that_is_not_finite_ends_both_sides_before_the_update() -> None:
    """At the same step as on one thread."""
    found = []
    for threads in (1, 2):
        model = made(fb.SGD(1e12), "float32", threads, PLAIN)
        with pytest.raises(fb.DivergenceError) as caught:
            fitted(model, 5 * BATCH)
        found.append(str(caught.value))
        assert by_sides(model) == (threads == 2)
    assert found[0] == found[1]


@pytest.mark.parametrize("order", [(0,), (0, 1)], ids=str)
def test_the_first_worker_suffices(order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second one never comes, or comes when all is done; also where the loss diverges."""

    def launch(worker: Kernel, run: int, threads: int) -> None:
        for me in order:
            worker.call(run, me)

    layers = [{}, {"kernel_regularizer": "l2"}]
    one, two = (made(fb.Adam(0.01), "float32", threads, layers) for threads in (1, 2))
    wanted = fitted(one, 3 * BATCH)
    monkeypatch.setitem(LAUNCHERS, "threads", launch)
    found = fitted(two, 3 * BATCH)
    assert by_sides(two)
    assert found[1] == wanted[1]
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(fb.DivergenceError, match="step 3"):
        fitted(made(fb.SGD(1e12), "float32", 2, PLAIN), 5 * BATCH)


def test_ctrl_c_ends_both_sides_between_steps(monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> None:
    """The run is stopped as soon as its first loss is added: what is there then is one step."""
    x, y = inputs(5 * BATCH, WIDTHS[0]), targets(LOSS, 5 * BATCH, WIDTHS[-1])
    one, wanted = (made(fb.SGD(0.1), "float32", 2, PLAIN) for _ in range(2))
    wanted.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    prepare, start, runs = Engine.prepare, Engine._start, []

    def prepared(*arguments: Any, **options: Any) -> Any:
        runs.append(prepare(*arguments, **options))
        runs[-1].run[pg.STOP] = runs[-1].sums.ctypes.data
        return runs[-1]

    def started(*arguments: Any) -> None:
        start(*arguments)
        press()

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "prepare", prepared)
        patch.setattr(Engine, "_start", started)
        with pytest.raises(KeyboardInterrupt):
            one.fit(x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0)
    (run,) = runs
    assert by_sides(one)
    assert run.status[0] == pg.STOPPED
    assert run.status[1:].max() == 1
    for a, b in zip(one.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
