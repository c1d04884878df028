"""Many networks on device="cuda": side by side in one launch, and beside others; each as if it were alone."""

from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda.engine import Engine
from fastbp.cuda.narrow import many, one_block

ROWS = 31


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tables of coefficients each launch side by side had."""
    found: list[int] = []

    class Watched(many._Side):
        def run(self) -> None:
            found.append(len(set(self._bases[:, 3])))
            super().run()

    monkeypatch.setattr(many, "_Side", Watched)
    return found


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks each launch side by side had."""
    found: list[int] = []

    class Watched(many._Side):
        def run(self) -> None:
            found.append(len(self._runs))
            super().run()

    monkeypatch.setattr(many, "_Side", Watched)
    return found


def networks(
    seeds: range, widths: list[int] | None = None, optimizer: Any = "adam", device: str = "cuda"
) -> list[fb.Model]:
    found = []
    for seed in seeds:
        model = make(widths or [5, 6, 2], "tanh", device=device, seed=seed)
        model.set_weights([w * (1 + 0.1 * seed) for w in model.get_weights()])
        model.compile(optimizer, "mse", metrics=["mae"])
        found.append(model)
    return found


def alone(models: list[fb.Model], **options: Any) -> list[Any]:
    """Histories and weights of fits one by one."""
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)
    found = []
    for model in models:
        history = model.fit(x, y, verbose=0, **options)
        found.append((history.history, model.get_weights()))
    return found


def same(models: list[fb.Model], histories: Any, wanted: list[Any]) -> None:
    for model, history, (values, weights) in zip(models, histories, wanted, strict=True):
        assert history.history == values
        for a, b in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ahead", [2048, 3])
def test_each_network_comes_out_as_if_alone(
    ahead: int, cuda: bool, grids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_block, "STEPS_AHEAD", ahead)
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)
    wanted = alone(networks(range(3)), batch_size=8, epochs=4)
    models = networks(range(3))
    same(models, fb.fit_many(models, x, y, batch_size=8, epochs=4, verbose=0), wanted)
    assert set(grids) == {3}


def test_other_shapes_lengths_and_devices_beside_each_other(cuda: bool, grids: list[int]) -> None:
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)

    def made() -> list[fb.Model]:
        return [
            *networks(range(2)),
            *networks(range(2, 4), [5, 4, 2], fb.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3)),
            *networks(range(4, 5), optimizer=fb.SGD(0.1, clipnorm=1.0)),
            *networks(range(5, 6), device="cpu"),
        ]

    epochs = [2, 3, 2, 2, 3, 2]
    wanted = [alone([model], batch_size=7, epochs=count)[0] for model, count in zip(made(), epochs, strict=True)]
    models = made()
    same(models, fb.fit_many(models, x, y, batch_size=7, epochs=epochs, verbose=0), wanted)
    assert 2 in grids and set(grids) <= {1, 2}


def test_folds_with_their_validation(cuda: bool, grids: list[int]) -> None:
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)
    folds = [np.flatnonzero(np.arange(ROWS) % 3 != k) for k in range(3)]
    held = [np.flatnonzero(np.arange(ROWS) % 3 == k) for k in range(3)]
    found = []
    for device in ("cuda", "cpu"):
        models = networks(range(3), device=device)
        histories = fb.fit_many(
            models, x, y, batch_size=8, epochs=2, verbose=0, rows=folds, validation_rows=held, shuffle=False
        )
        found.append([histories.last(name) for name in ("loss", "mae", "val_loss")])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert grids == [3, 3]


def test_one_that_diverges_leaves_the_others(cuda: bool) -> None:
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)
    models = networks(range(3))
    models[1].compile(fb.Adam(1e38), "mse", metrics=["mae"])
    histories = fb.fit_many(models, x, y, batch_size=8, epochs=3, verbose=0, on_divergence="ignore")
    assert list(histories.errors) == [1]
    wanted = alone(networks(range(1)), batch_size=8, epochs=3)
    same(models[:1], histories[:1], wanted)


DIFFERING: dict[str, list[Any]] = {
    "rates and momenta": [
        fb.SGD(0.1, momentum=0.9),
        fb.SGD(0.02, momentum=0.5),
        fb.SGD(fb.schedules.CosineDecay(0.1, 9), momentum=0.9),
    ],
    "decays": [fb.AdamW(0.01, weight_decay=0.1), fb.AdamW(0.02, weight_decay=0.2), fb.AdamW(0.01, beta_1=0.5)],
    "clipping": [fb.RMSprop(0.01, clipvalue=0.1), fb.RMSprop(0.01, clipvalue=0.01), fb.RMSprop(0.03, clipvalue=1.0)],
    "functions": [fb.Adam(lambda step: 0.1 / (1 + step)), fb.Adam(lambda step: 0.01), fb.Adam(0.1)],
}


@pytest.mark.parametrize("name", DIFFERING)
def test_each_network_has_its_own_coefficients(name: str, cuda: bool, tables: list[int]) -> None:
    """Rates, schedules, momenta, decays: in one launch all the same."""
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)

    def made() -> list[fb.Model]:
        return [networks(range(k, k + 1), optimizer=one)[0] for k, one in enumerate(DIFFERING[name])]

    wanted = alone(made(), batch_size=8, epochs=2)
    models = made()
    same(models, fb.fit_many(models, x, y, batch_size=8, epochs=2, verbose=0), wanted)
    assert set(tables) == {3}


def test_networks_of_one_optimizer_share_its_coefficients(cuda: bool, tables: list[int]) -> None:
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)
    wanted = alone(networks(range(3)), batch_size=8, epochs=3)
    models = networks(range(3))
    same(models, fb.fit_many(models, x, y, batch_size=8, epochs=3, verbose=0), wanted)
    assert set(tables) == {1}


@pytest.fixture
def uploads(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of what engines send to the device as data."""
    found: list[tuple[int, ...]] = []
    kept = Engine._kept

    def watched(self: Any, array: Any, send: Any) -> Any:
        def counted() -> Any:
            found.append(array.shape)
            return send()

        return kept(self, array, counted)

    monkeypatch.setattr(Engine, "_kept", watched)
    return found


HELD = {
    "a share": {"validation_split": 0.25},
    "rows of their own": {"validation_data": (inputs(9, 5), targets("mean_squared_error", 9, 2))},
}


@pytest.mark.parametrize("held, missing", [("a share", True), ("rows of their own", False)])
def test_networks_with_a_validation_train_side_by_side(
    held: str, missing: bool, cuda: bool, grids: list[int], uploads: list[tuple[int, ...]]
) -> None:
    """The rows are the same ones for all, and on the device once: in as many launches as there are epochs."""
    x, y = inputs(ROWS, 5), targets("mean_squared_error", ROWS, 2)
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, **HELD[held]}
    if missing:
        y[[3, 8], 1] = np.nan

    def made() -> list[fb.Model]:
        models = networks(range(3))
        for model in models:
            model.compile("adam", "mse", metrics=["mae"], mask_nan=missing)
        return models

    wanted, models = [], made()
    for model in made():
        wanted.append((model.fit(x, y, **options).history, model.get_weights()))
    uploads.clear()
    same(models, fb.fit_many(models, x, y, **options), wanted)
    assert grids == [3, 3]
    assert len(uploads) == len(set(uploads))
