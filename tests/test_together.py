"""Runs that follow each other on one thread: what like networks share meanwhile, and that they come out as alone."""

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


@pytest.mark.parametrize("kind", ["plain", "dropout", "penalised", "clipped", "rates", "keeps rows", "unhashable"])
def test_like_networks_come_out_as_alone(kind: str) -> None:
    x, y = X, np.eye(3)[Y]
    together, alone = networks(kind), networks(kind)
    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "verbose": 0, "validation_data": (x[:20], y[:20])}
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
    assert sum(len(kept) for kept in released) == len(made)


def test_networks_with_sums_of_their_own_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    fb.fit_many(networks("penalised", 10), X, np.eye(3)[Y], threads=1, verbose=0)
    assert len(set(made)) == 10
