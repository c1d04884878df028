"""Ctrl-C in the middle of a step: how soon it is left, and that what was begun of it leaves no trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import inputs, targets
from test_signals import press

import fastbp as fb
from fastbp import program as pg
from fastbp._signals import HeldBack
from fastbp.callbacks import LambdaCallback
from fastbp.cpu import engine as engine_module
from fastbp.cpu.engine import Engine
from fastbp.cpu.tile import geometry
from fastbp.exchange.model_files import state
from fastbp.layout import graph, plan
from fastbp.layout.graph import SPLIT
from fastbp.layout.plan import lay_out
from fastbp.program import LayerSpec, Program

SPARSE = "sparse_categorical_crossentropy"
LAYERS: dict[str, Any] = {
    "plain": lambda: [fb.Dense(40, activation="relu")],
    "normalised": lambda: [
        fb.Dense(40, activation="relu", kernel_regularizer="l2", bias_regularizer="l1"),
        fb.BatchNormalization(),
        fb.Dropout(0.2),
        fb.BatchNormalization(center=False, scale=False),
    ],
    "bound": lambda: [
        fb.Dense(40, activation="tanh", kernel_constraint="max_norm", trainable=False),
        fb.Dense(30, activation="tanh", kernel_constraint="unit_norm", lr_multiplier=0.5),
        fb.LayerNormalization(),
    ],
}


def network(kind: str, optimizer: Any = "adam", threads: int = 2, **options: Any) -> fb.Model:
    model = fb.Model([*LAYERS[kind](), fb.Dense(5, activation="softmax")], threads=threads, **options)
    model.compile(optimizer, SPARSE, metrics=["accuracy"])
    model.build(20)
    return model


def same(one: fb.Model, two: fb.Model) -> None:
    """Weights, moments and history, to the bit."""
    (tensors, content), (wanted, content_wanted) = state(one), state(two)
    assert content == content_wanted
    assert one.history is not None and two.history is not None
    assert one.history.history == two.history.history
    for name in wanted:
        np.testing.assert_array_equal(tensors[name], wanted[name], name)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum of gradients counts as a long one."""
    monkeypatch.setattr(graph, "LONG_SUM", 0.0)
    monkeypatch.setattr(engine_module, "SERIAL_WORK", 0.0)


# ---------------------------------------------------------------- the update in a phase of its own


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("kind", "optimizer", "options"),
    [
        ("plain", fb.SGD(0.1), {"dtype": "float64"}),
        ("plain", fb.Adam(use_ema=True, weight_decay=0.01), {"dtype": "bfloat16"}),
        ("normalised", fb.SGD(0.05, momentum=0.9, clipvalue=0.01), {}),
        ("normalised", fb.SGD(0.05, global_clipnorm=0.1), {}),
        ("bound", fb.Adam(), {}),
    ],
)
def test_an_update_apart_gives_the_same_bits(
    kind: str, optimizer: Any, options: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = inputs(150, 20), targets(SPARSE, 150, 5)
    monkeypatch.setattr(engine_module, "SERIAL_WORK", 0.0)
    wanted, model = network(kind, optimizer, threads, **options), network(kind, optimizer, threads, **options)
    wanted.fit(x, y, batch_size=64, epochs=2, verbose=0)
    monkeypatch.setattr(graph, "LONG_SUM", 0.0)
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    assert model._engine is not None
    modes = {bound.plan.update for bound in model._engine._bound.values()}  # type: ignore[union-attr]
    assert modes == {SPLIT if optimizer.global_clipnorm is None else graph.LATE}
    same(model, wanted)


@pytest.mark.parametrize(
    ("widths", "batch", "whole", "apart"),
    [
        ([1024, 4096, 4096, 4096, 10], 512, False, False),
        ([1024, 4096, 4096, 4096, 10], 600, False, True),
        ([1024, 2048, 2048, 10], 100_000, False, False),  # slabs of 1,024 rows
        ([1024, 2048, 2048, 10], 100_000, True, True),  # all rows at once
        ([784, 256, 128, 10], 128, True, False),
    ],
)
def test_which_sums_are_long(widths: list[int], batch: int, whole: bool, apart: bool) -> None:
    layers = [fb.Dense(width) for width in widths[1:]]
    if whole:
        layers.insert(1, fb.BatchNormalization())  # type: ignore[arg-type]
    specs = fb.layers.lower(layers, widths[0]).specs
    program = Program(specs, np.dtype(np.float32), geometry(4))
    assert (graph.update_mode(program, False, batch) == SPLIT) == apart
    assert graph.update_mode(program, False) == ""
    assert graph.update_mode(program, True, batch) == graph.LATE


def test_a_long_sum_over_few_entries_is_short() -> None:
    specs = fb.layers.lower([fb.Dense(256), fb.Dense(10)], 1_000_000).specs
    program = Program(specs, np.dtype(np.float32), geometry(4))
    assert graph.update_mode(program, False, 1024) == SPLIT
    assert graph.update_mode(program, False, 1024, is_sparse=True) == ""


@pytest.mark.parametrize("batch", [64, 2048])
@pytest.mark.parametrize("width", [512, 4096, 16384])
def test_a_task_is_left_after_a_moment(width: int, batch: int) -> None:
    """Between two of a task's products Ctrl-C is noticed, so none is longer than 0.2 s at 50 GFLOP/s a core."""
    spec = LayerSpec(width, width, True, fb.activations.get("relu"))
    program = Program([spec, spec], np.dtype(np.float32), geometry(4))
    found = lay_out(program, batch, 2, backward=True)
    rows = np.array([task for task in found.tasks if task[0] in (pg.ROWS, pg.HALF, pg.FORWARD, pg.BACK)])
    samples = (rows[:, 3] - rows[:, 2]) * program.tiles.samples
    neurons = np.where(np.isin(rows[:, 0], (pg.ROWS, pg.HALF)), width, rows[:, 5] - rows[:, 4])
    assert (2 * samples * neurons * width).max() <= max(plan.TASK_WORK, 2 * program.tiles.samples * width**2)
    assert samples.min() > 0


# ---------------------------------------------------------------- steps that are left


class Leaving:
    """Stops runs as soon as the first of their weights phases has begun: when the first slab's loss is summed.

    Attributes
    ----------
    armed : whether to
    runs : the runs stopped, after they are over
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed, self.runs = True, []
        prepare, start = Engine.prepare, Engine._start

        def prepared(engine: Engine, *arguments: Any, **options: Any) -> Any:
            run = prepare(engine, *arguments, **options)
            stops = self.armed and options.get("optimizer") is not None
            run.run[pg.STOP] = run.before.ctypes.data if stops else engine.stop_flag.ctypes.data
            self.runs += [run] if stops else []
            return run

        def started(*arguments: Any) -> None:
            start(*arguments)
            if self.armed:
                press()

        monkeypatch.setattr(Engine, "prepare", prepared)
        monkeypatch.setattr(Engine, "_start", started)


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> Leaving:
    return Leaving(monkeypatch)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("kind", LAYERS)
def test_a_long_sum_of_gradients_is_left_at_once(kind: str, leaving: Leaving) -> None:
    """By one thread: the other of two may have taken what is left of the step just before."""
    x, y = inputs(300, 20), targets(SPARSE, 300, 5)
    model = network(kind, threads=1)
    before = state(model)[0]
    engine = model._engine
    assert isinstance(engine, Engine)
    engine._gradient_buffer().fill(np.nan)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=100, epochs=3, verbose=0)
    (run,) = leaving.runs
    assert run.status[0] == pg.STOPPED and run.status[1:].max() == 0
    assert not run.sums.any()
    for name, tensor in state(model)[0].items():
        np.testing.assert_array_equal(tensor, before[name], name)
    tasks = len(run.plan.tasks[run.plan.phases[run.plan.weights_phase, 0] :])
    written = np.isfinite(engine._gradient_buffer())
    assert not written.any() and tasks > 1
    leaving.armed = False
    wanted = network(kind, threads=1)
    for each in (model, wanted):
        each.fit(x, y, batch_size=100, epochs=3, verbose=0)
    same(model, wanted)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_left_in_a_sum_goes_on_from_its_checkpoint(threads: int, leaving: Leaving, tmp_path: Path) -> None:
    """The epoch's loss, metrics and penalties hold nothing of the step that was left."""
    leaving.armed = False
    x, y = inputs(300, 20), targets(SPARSE, 300, 5)
    wanted, model = network("normalised", threads=threads), network("normalised", threads=threads)
    options: dict[str, Any] = {"batch_size": 50, "epochs": 3, "verbose": 0}
    wanted.fit(x, y, **options)

    def arm(batch: int, logs: Any) -> None:
        leaving.armed = model._updates == 8

    options |= {"checkpoint": tmp_path / "fit", "checkpoint_every": 10**6}
    arms = LambdaCallback(on_train_batch_end=arm)
    history = model.fit(x, y, on_interrupt="return", callbacks=arms, **options)
    if threads == 1:  # see the test above
        assert history.interrupted and model._updates == 8
    leaving.armed = False
    again = network("normalised", threads=threads)
    again.fit(x, y, resume=True, callbacks=LambdaCallback(on_train_batch_end=lambda batch, logs: None), **options)
    same(again, wanted)


@pytest.mark.parametrize("group", [None, 2])
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_of_several_slabs_is_left_between_them(
    threads: int, step: int, group: int | None, leaving: Leaving
) -> None:
    """Not the later ones of several steps whose gradients are added up: what was added can't be taken back."""
    rows = 1500
    x, y = inputs(3 * rows, 150), targets(SPARSE, 3 * rows, 5)
    leaving.armed = False

    def made() -> fb.Model:
        layers = [fb.Dense(130, activation="tanh"), fb.Dense(5, activation="softmax")]
        model = fb.Model(layers, dtype="float64", threads=threads)
        model.compile(fb.SGD(0.1, momentum=0.9, gradient_accumulation_steps=group), SPARSE)
        model.build(150)
        return model

    model, wanted = made(), made()
    for i in range(step):
        model.train_on_batch(x[i * rows :][:rows], y[i * rows :][:rows])
    leaving.armed = True
    with pytest.raises(KeyboardInterrupt):
        model.train_on_batch(x[step * rows :][:rows], y[step * rows :][:rows])
    (run,) = leaving.runs
    assert run.plan.slabs == 2
    leaving.armed = False
    assert model._updates == step + (step == 1 and group == 2)
    for i in range(3):
        wanted.train_on_batch(x[i * rows :][:rows], y[i * rows :][:rows])
        if i >= model._updates:
            model.train_on_batch(x[i * rows :][:rows], y[i * rows :][:rows])
    assert model._updates == 3
    (tensors, _), (others, _) = state(model), state(wanted)
    for name in others:
        np.testing.assert_array_equal(tensors[name], others[name], name)


def test_a_gradient_of_ones_own_is_left_too(monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> None:
    model = network("plain")
    prepare, runs = Engine.prepare, []

    def prepared(engine: Engine, *arguments: Any, **options: Any) -> Any:
        run = prepare(engine, *arguments, **options)
        run.run[pg.STOP] = run.before.ctypes.data
        runs.append(run)
        return run

    monkeypatch.setattr(Engine, "prepare", prepared)
    with pytest.raises(KeyboardInterrupt), HeldBack():
        press()
        model.gradients(inputs(9, 20), targets(SPARSE, 9, 5))
    assert runs[0].status[0] == pg.STOPPED


# ---------------------------------------------------------------- before a run begins


def test_what_came_before_a_run_ends_it_at_once(ctrl_c: None) -> None:
    stopped: list[str] = []
    with pytest.raises(KeyboardInterrupt), HeldBack():
        press()
        with HeldBack(lambda: stopped.append("inner")) as inner:
            assert stopped == ["inner"]
            assert isinstance(inner.take(), KeyboardInterrupt)
            raise KeyboardInterrupt


def test_memory_that_takes_long_to_get_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> None:
    monkeypatch.setattr(pg, "TOUCHED_BYTES", 64)
    with HeldBack():
        assert not pg.aligned(1000).any()
        press()
        with pytest.raises(KeyboardInterrupt):
            pg.aligned(1000)
        assert not pg.aligned(64).any()


@pytest.mark.usefixtures("ctrl_c")
def test_a_fit_left_while_buffers_are_made_is_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, y = inputs(300, 20), targets(SPARSE, 300, 5)
    model, wanted = network("plain"), network("plain")
    options: dict[str, Any] = {"epochs": 2, "verbose": 0, "checkpoint": tmp_path / "fit", "checkpoint_every": 10**6}
    prepare = Engine.prepare

    def prepared(engine: Engine, *arguments: Any, **given: Any) -> Any:
        if model._updates == 3:
            press()
            monkeypatch.setattr(pg, "TOUCHED_BYTES", 64)
            pg.aligned(1000)
        return prepare(engine, *arguments, **given)

    monkeypatch.setattr(Engine, "prepare", prepared)
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, callbacks=watch, **options)
    monkeypatch.undo()
    assert model._updates == 3
    again = network("plain")
    again.fit(x, y, resume=True, callbacks=watch, **options)
    wanted.fit(x, y, epochs=2, verbose=0)
    same(again, wanted)
