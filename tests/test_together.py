"""Runs in line for threads: what like networks share meanwhile, and that they come out as alone."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import inputs

import fastbp as fb
from fastbp.cpu.engine import Engine

X, Y = inputs(70, 6), np.random.default_rng(1).integers(0, 3, 70)


class Falling:
    """A learning rate by the step that can't be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, step: int) -> float:
        return 0.1 / (1 + step)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Falling)


def networks(kind: str, count: int = 7) -> list[fb.Model]:
    """Like networks, each with weights, an order of the rows and noise of its own."""
    models = []
    for seed in range(count):
        pull = fb.regularizers.L2(0.01) if kind == "penalised" else None
        layers: list[Any] = [fb.Dense(9, activation="tanh", kernel_regularizer=pull), fb.Dense(3, activation="softmax")]
        if kind == "dropout":
            layers.insert(1, fb.Dropout(0.3))
        model = fb.Model(layers, seed=seed)
        optimizer: Any = fb.SGD(Falling()) if kind == "unhashable" else fb.Adam(0.01)
        if kind == "clipped":
            optimizer = fb.Adam(0.01, global_clipnorm=0.1)
        elif kind == "rates":
            optimizer = fb.Adam(0.01 + 0.01 * (seed % 2))
        metrics = ["auc", "accuracy"] if kind == "keeps rows" else ["accuracy"]
        model.compile(optimizer, "categorical_crossentropy", metrics=metrics)
        models.append(model)
    return models


KINDS = ["plain", "by halves", "dropout", "penalised", "clipped", "rates", "keeps rows", "unhashable"]


@pytest.mark.parametrize("kind", KINDS)
def test_like_networks_come_out_as_alone(kind: str) -> None:
    x, y = X, np.eye(3)[Y]
    together, alone = networks(kind), networks(kind)
    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "verbose": 0, "validation_data": (x[:20], y[:20])}
    if kind == "by halves":
        options["batch_size"] = len(x)
    histories = fb.fit_many(together, x, y, threads=1, **options)
    for model, other, history in zip(together, alone, histories, strict=True):
        expected = other.fit(x, y, **options)
        assert history.history == expected.history
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The engines that make bindings of their own from now on."""
    made: list[Engine] = []
    make_bound: Callable[..., Any] = Engine._make

    def counting(self: Engine, *arguments: Any) -> Any:
        made.append(self)
        return make_bound(self, *arguments)

    monkeypatch.setattr(Engine, "_make", counting)
    return made


def test_a_binding_is_made_once_for_like_networks_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made, released = counted(monkeypatch), []
    monkeypatch.setattr(Engine, "release", lambda self: released.append(list(self._bound)))
    fb.fit_many(networks("plain", 40), X, np.eye(3)[Y], threads=1, verbose=0)
    assert len(made) == len(set(made)) < 20
    assert released == [[]] * 40


def test_networks_with_penalties_share_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    fb.fit_many(networks("penalised", 40), X, np.eye(3)[Y], threads=1, verbose=0)
    assert len(made) == len(set(made)) < 20


class Looking(fb.callbacks.Callback):
    """Calls a function after each epoch."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.look()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_more_networks_than_places_and_several_runs_each(threads: int) -> None:
    """A callback that watches epochs cuts a training in runs of one epoch."""
    together, alone = networks("plain", 30), networks("plain", 30)
    epochs = [1 + seed % 7 for seed in range(30)]
    seen: list[int] = []
    watching = [Looking(lambda seed=seed: seen.append(seed)) if seed % 2 else None for seed in range(30)]  # type: ignore[misc]
    fb.fit_many(together, X, np.eye(3)[Y], 16, epochs, 0, watching, threads=threads)
    assert sorted(seen) == sorted(seed for seed in range(1, 30, 2) for _ in range(epochs[seed]))
    for seed, (model, other) in enumerate(zip(together, alone, strict=True)):
        other.fit(X, np.eye(3)[Y], 16, epochs[seed], 0)
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_callback_leaves_every_network_usable(threads: int) -> None:
    def fail() -> None:
        raise RuntimeError("enough")

    models = networks("plain", 12)
    callbacks = [Looking(fail) if seed == 4 else None for seed in range(12)]
    with pytest.raises(RuntimeError, match="enough"):
        fb.fit_many(models, X, np.eye(3)[Y], 16, 3, 0, callbacks, threads=threads)
    histories = fb.fit_many(models, X, np.eye(3)[Y], 16, 3, 0, threads=threads)
    assert np.isfinite(histories.last()).all()
    assert all(model._engine.settle is None and not model._engine._bound for model in models)  # type: ignore[union-attr]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_callback_may_use_another_network(threads: int) -> None:
    """It waits until the run of that one is over: what it finds are whole epochs."""
    models, alone = networks("plain", 9), networks("plain", 1)[0]
    found: list[float] = []
    one_hot = np.eye(3)[Y]
    for model in models:
        model.fit(X, one_hot, 16, verbose=0)
    losses = [alone.evaluate(X, one_hot, verbose=0)[0] for _ in range(20) if alone.fit(X, one_hot, 16, verbose=0)]
    callbacks = [Looking(lambda: found.append(models[0].evaluate(X, one_hot, verbose=0)[0])) for _ in models]
    fb.fit_many(models, X, one_hot, 16, 8, 0, callbacks, threads=threads)
    assert len(found) == 9 * 8 and set(found) <= set(losses)


def test_a_network_that_someone_else_holds_is_waited_for() -> None:
    models, alone = networks("plain", 6), networks("plain", 6)[3]
    for model in models:
        model.fit(X, np.eye(3)[Y], 16, verbose=0)
    held = models[3]._engine
    assert isinstance(held, Engine)
    with held.lock:
        fitting = threading.Thread(
            target=fb.fit_many, args=(models, X, np.eye(3)[Y], 16, [9, 8, 7, 6, 5, 4], 0), kwargs={"threads": 2}
        )
        fitting.start()
        while models[0]._epochs_seen < 10:
            time.sleep(0.001)
    fitting.join()
    alone.fit(X, np.eye(3)[Y], 16, verbose=0)
    alone.fit(X, np.eye(3)[Y], 16, 6, verbose=0)
    for a, b in zip(models[3].get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
