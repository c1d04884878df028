"""Ctrl-C at the worst moments: while workers are started, in a short run on the main thread, inside the machinery."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp._signals import HeldBack
from fastbp.cpu import engine as engine_module
from fastbp.cpu.engine import Engine

pytestmark = pytest.mark.usefixtures("ctrl_c")
MSE = "mean_squared_error"


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


# ---------------------------------------------------------------- the block


def test_what_is_raised_waits_for_the_end_of_the_block() -> None:
    before, done = handlers(), []
    with pytest.raises(KeyboardInterrupt), HeldBack(lambda: done.append("stopped")):
        press()
        done.append("after it")
    assert done == ["stopped", "after it"]
    assert handlers() == before


def test_what_is_taken_is_not_raised() -> None:
    with HeldBack() as signals:
        assert signals.take() is None
        press()
        assert isinstance(signals.take(), KeyboardInterrupt)


def test_the_innermost_block_is_stopped_and_hands_on_what_it_does_not_take() -> None:
    stopped: list[str] = []
    with pytest.raises(KeyboardInterrupt), HeldBack(lambda: stopped.append("outer")) as outer:
        with HeldBack(lambda: stopped.append("inner")) as inner:
            press()
            assert isinstance(inner.take(), KeyboardInterrupt)
        assert outer.take() is None
        with HeldBack(lambda: stopped.append("inner")):
            press()
        assert isinstance(outer.take(), KeyboardInterrupt)
        press()
    assert stopped == ["inner", "inner", "outer"]


def test_a_handler_that_raises_nothing_runs_at_once_and_stops_nothing() -> None:
    done: list[str] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: done.append("handled"))
    try:
        with HeldBack(lambda: done.append("stopped")):
            press()
            done.append("after it")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["handled", "after it"]


def test_an_error_of_the_block_does_not_lose_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, HeldBack():
        press()
        raise ValueError("of the block")
    assert isinstance(caught.value.__context__, ValueError)


def test_a_signal_that_is_ignored_stays_so_and_other_threads_have_none() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldBack():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    found: list[Any] = []

    def elsewhere() -> None:
        with HeldBack() as signals:
            found.extend([signals.take(), *handlers()])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [None, *handlers()]


# ---------------------------------------------------------------- while kernels run


def network(widths: list[int]) -> fb.Model:
    model = make(widths, threads=2)
    model.compile("adam", MSE)
    return model


def pressed(monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, when: str) -> None:
    """Ctrl-C before or after the first call of a function."""
    function, presses = getattr(owner, name), [press]

    def call(*arguments: Any, **options: Any) -> Any:
        if when == "before" and presses:
            presses.pop()()
        result = function(*arguments, **options)
        if presses:
            presses.pop()()
        return result

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "owner", "widths", "rows"),
    [("_start", Engine, [5, 7, 2], 40), ("in_background", engine_module, [300, 300, 3], 2000)],
)
def test_steps_that_are_done_are_counted(
    name: str, owner: Any, widths: list[int], rows: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run on the main thread, and a long one whose workers have just been started."""
    model, twin = network(widths), network(widths)
    x, y = inputs(rows, widths[0]), targets(MSE, rows, widths[-1])
    for each in (model, twin):
        each.fit(x, y, verbose=0)
    done = model._updates
    pressed(monkeypatch, name, owner, when)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=1000, verbose=0)
    assert model.history is not None and model.history.interrupted
    steps, sample = model._updates - done, twin._sample(x, y)
    assert steps == 0 if when == "before" else steps == 2000 if name == "_start" else steps < 1000
    engine, _, optimizer = twin._compiled("test")
    options: dict[str, Any] = {
        "objective": twin._scoring().objective,
        "optimizer": optimizer,
        "shuffle": True,
        "batch": 32,
    }
    if steps:
        engine.run(sample.x, sample.y, first_step=done, steps=steps, updates=done, seed=twin.seed, **options)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("call", ["train_on_batch", "apply_gradients"])
def test_an_update_of_ones_own_loop_is_counted(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network([5, 7, 2])
    x, y = inputs(9, 5), targets(MSE, 9, 2)
    gradients = model.gradients(x, y)
    update: Callable[[], Any] = {
        "train_on_batch": lambda: model.train_on_batch(x, y),
        "apply_gradients": lambda: model.apply_gradients(gradients),
    }[call]
    pressed(monkeypatch, "run" if call == "train_on_batch" else "apply", model._engine, "after")
    with pytest.raises(KeyboardInterrupt):
        update()
    assert model._updates == 1


@pytest.mark.skipif(os.name != "posix", reason="sends itself signals")
def test_many_interrupts_at_any_moment_leave_whole_steps() -> None:
    model = network([20, 30, 2])
    x, y = inputs(100, 20), targets(MSE, 100, 2)
    model.fit(x, y, verbose=0)
    over = threading.Event()

    def annoy() -> None:
        while not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.0007)

    before, counted, seen = signal.getsignal(signal.SIGINT), 0, []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    thread = threading.Thread(target=annoy)
    thread.start()
    try:
        while len(seen) < 100:  # a handler that raises nothing changes nothing
            model.train_on_batch(x, y)
            counted += 1
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    twin = network([20, 30, 2])
    twin.fit(x, y, verbose=0)
    for _ in range(counted):
        twin.train_on_batch(x, y)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
