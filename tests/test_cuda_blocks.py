"""Data that doesn't fit the device: block by block, to the bits of a run over all of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda import blocks, presence

ROWS, WIDTH = 31, 5


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[tuple[int, int]]]:
    """Leaves the device some bytes of memory; gives the rows and batches of every block from then on."""
    found: list[tuple[int, int]] = []
    of_block = blocks._Block.request

    def watched(block: Any, *given: Any) -> dict[str, Any]:
        found.append((len(block.places), block.steps))
        return of_block(block, *given)

    def leave(free: int) -> list[tuple[int, int]]:
        monkeypatch.setattr(blocks, "FREELY", 0)
        monkeypatch.setattr(presence, "memory", lambda: (free, 1 << 30))
        monkeypatch.setattr(blocks._Block, "request", watched)
        return found

    return leave


def network(name: str) -> fb.Model:
    if name == "noise":
        layers = [fb.Dense(6, "tanh"), fb.Dropout(0.3), fb.BatchNormalization(), fb.Dense(2)]
    else:
        layers = [fb.Dense(6, "tanh", kernel_regularizer="l2"), fb.Dense(2)]
    return fb.Model(layers, device="cuda", seed=3)


def trained(name: str, **options: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The history of a fit, and weights and moments after it."""
    model = network(name)
    x, y = inputs(ROWS, WIDTH), targets("mean_squared_error", ROWS, 2)
    optimizer = fb.Adam(0.02, gradient_accumulation_steps=2) if name == "groups" else fb.Adam(0.02)
    model.compile(optimizer, "mse", metrics=["mae"])
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, **options).history
    assert model._engine is not None
    return history, [*model.get_weights(), *(each.copy() for each in model._engine.moments())]


def same(found: Any, wanted: Any) -> None:
    assert found[0].keys() == wanted[0].keys()
    for name, values in wanted[0].items():
        np.testing.assert_allclose(found[0][name], values, rtol=1e-13)  # float64 sums, cut at other places
    for a, b in zip(found[1], wanted[1], strict=True):
        np.testing.assert_array_equal(a, b)


OPTIONS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "in order": {"shuffle": False, "steps_per_epoch": 5},
    "weighted": {"sample_weight": np.random.default_rng(3).uniform(0, 2, ROWS)},
    "split": {"validation_split": 0.3},
    "some rows": {"validation_split": 0.3, "stratify": False, "shuffle": False},
}


@pytest.mark.parametrize("network_name", ["plain", "noise", "groups"])
@pytest.mark.parametrize("name", OPTIONS)
def test_training_goes_block_by_block_to_the_same_bits(
    name: str, network_name: str, cuda: bool, small: Callable[[int], list[tuple[int, int]]]
) -> None:
    wanted = trained(network_name, **OPTIONS[name])
    seen = small(20 * 4 * WIDTH)
    with pytest.warns(RuntimeWarning, match="doesn't fit the GPU's memory beside the rest: rows are uploaded in blo"):
        found = trained(network_name, **OPTIONS[name])
    same(found, wanted)
    assert len(set(seen)) > 1 and max(rows for rows, _ in seen) < 16


@pytest.mark.filterwarnings("ignore:the data")
def test_a_batch_that_is_cut_short_stays_with_the_one_before(
    cuda: bool, small: Callable[[int], list[tuple[int, int]]]
) -> None:
    seen = small(1)
    trained("plain", shuffle=False)
    assert seen[:7] == [*[(4, 1)] * 6, (7, 2)]


@pytest.mark.filterwarnings("ignore:the data")
def test_evaluations_and_predictions_go_block_by_block(
    cuda: bool, small: Callable[[int], list[tuple[int, int]]]
) -> None:
    model = make([WIDTH, 6, 1], "tanh", "sigmoid", device="cuda")
    model.compile("sgd", "binary_crossentropy", metrics=["auc", "accuracy"])
    x, y = inputs(ROWS, WIDTH), np.arange(ROWS) % 2
    wanted = model.evaluate(x, y, batch_size=4), model.predict(x, batch_size=4), model.predict(x, noise=True)
    seen = small(400)
    np.testing.assert_allclose(model.evaluate(x, y, batch_size=4), wanted[0], rtol=1e-13)
    rows = sum(rows for rows, _ in seen)
    assert rows == ROWS and len(seen) > 2
    np.testing.assert_array_equal(model.predict(x, batch_size=4), wanted[1])
    np.testing.assert_array_equal(model.predict(x, noise=True), wanted[2])
    assert sum(rows for rows, _ in seen) == 3 * ROWS
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.where(np.arange(ROWS)[:, None] == 29, np.nan, x), batch_size=4)


@pytest.mark.filterwarnings("ignore:the data")
def test_sparse_rows_go_block_by_block(cuda: bool, small: Callable[[int], list[tuple[int, int]]]) -> None:
    sp = pytest.importorskip("scipy.sparse")
    x = sp.random(ROWS, WIDTH, 0.4, random_state=1, format="csr")
    found = []
    for free in (None, 600):
        seen = [] if free is None else small(free)
        model = network("plain")
        model.compile("adam", "mse")
        history = model.fit(x, targets("mean_squared_error", ROWS, 2), batch_size=4, epochs=2, verbose=0).history
        found.append((history, model.get_weights()))
    same(*found)
    assert len(seen) > 2


@pytest.mark.filterwarnings("ignore:the data")
def test_many_networks_go_block_by_block(cuda: bool, small: Callable[[int], list[tuple[int, int]]]) -> None:
    x, y = inputs(ROWS, WIDTH), targets("mean_squared_error", ROWS, 2)
    folds = [np.flatnonzero(np.arange(ROWS) % 3 != k) for k in range(3)]
    found = []
    for free in (None, 400):
        seen = [] if free is None else small(free)
        models = [make([WIDTH, 4, 2], "tanh", device="cuda", seed=k) for k in range(3)]
        for model in models:
            model.compile("adam", "mse")
        fb.fit_many(models, x, y, batch_size=4, epochs=2, verbose=0, rows=folds)
        found.append([w for model in models for w in model.get_weights()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(seen) > 6


@pytest.mark.filterwarnings("ignore:the data")
def test_a_block_whose_loss_diverges_ends_the_run(cuda: bool, small: Callable[[int], list[tuple[int, int]]]) -> None:
    small(400)
    model = make([WIDTH, 6, 2], "tanh", device="cuda")
    model.compile(fb.SGD(0.0001), "mse")
    y = targets("mean_squared_error", ROWS, 2)
    y[22] = np.finfo(np.float32).max
    with pytest.raises(fb.DivergenceError) as caught:
        model.fit(inputs(ROWS, WIDTH), y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert (caught.value.epoch, caught.value.step) == (1, 6)


def test_what_fits_is_not_cut(cuda: bool, small: Callable[[int], list[tuple[int, int]]]) -> None:
    seen = small(1 << 20)
    trained("plain")
    assert seen == []


def test_a_network_larger_than_the_gpu_is_refused_with_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made; the data beside it may be of any size, and its copies are main memory's."""
    monkeypatch.setattr(presence, "memory", lambda: (100 << 20, 80 << 30))
    model = fb.Model([fb.Dense(4000, "relu"), fb.Dense(4000), fb.Dense(1)], device="cuda")
    model.compile("adam", "mse")
    words = r"and 100 MiB are free:\n  parameters +\d.*together +\d.*What helps: .*fb.SGD\(\) instead of Adam"
    with pytest.raises(MemoryError, match=f"(?s){words}"):
        model.fit(np.zeros((64, 100), np.float32), np.zeros((64, 1), np.float32))
    assert not model.built
