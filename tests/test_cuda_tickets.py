"""What a launch's last block does for the others: whichever it is, the same bits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from numba.cuda.simulator import kernel as simulator

import fastbp as fb
from fastbp import losses
from fastbp.cuda import device, products, shapes
from fastbp.cuda.engine import Engine
from fastbp.cuda.narrow import one_block
from fastbp.layout.objective import Objective

pytestmark = pytest.mark.skipif(not device.simulated(), reason="it is about the simulator's blocks")


class Backwards:
    """NumPy, as the simulator's module sees it: blocks run from the last to the first."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def ndindex(*sizes: int) -> Any:
        return reversed(list(np.ndindex(*sizes)))


def trained(monkeypatch: pytest.MonkeyPatch, outputs: int, steps: int = 3) -> tuple[list[np.ndarray], list[int]]:
    """Weights and sums after some steps, and how many parts each product's sums had."""
    parts: list[int] = []
    cut = products.Tiles._cut

    def watched(self: products.Tiles, *sizes: Any) -> Any:
        found = cut(self, *sizes)
        parts.append(found[2][1])
        return found

    monkeypatch.setattr(one_block, "reason", lambda *_: "it is not asked for")
    monkeypatch.setattr(products.Tiles, "_cut", watched)
    model = fb.Model([fb.Dense(9, activation="tanh", kernel_regularizer="l2"), fb.Dense(outputs)], seed=3)
    model.build(13)
    engine = Engine(model._network(13).specs, np.dtype("float32"))
    engine.program.put(engine.weights, model.get_weights())
    rule = fb.SGD(0.1, momentum=0.9)
    engine.reserve_moments(rule)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((4 * steps, n)).astype(np.float32) for n in (13, outputs))
    sums = engine.run(x, y, batch=4, steps=steps, objective=Objective(losses.get("mse")), optimizer=rule).sums
    return [*engine.program.take(engine.weights), sums], parts


@pytest.mark.parametrize("outputs", [1, 8])
def test_whichever_block_is_the_last(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs by a thread a row, and by several; sums of products cut into two parts."""
    found, parts = trained(monkeypatch, outputs)
    assert max(parts) == 2
    monkeypatch.setattr(simulator, "np", Backwards())
    for got, want in zip(trained(monkeypatch, outputs)[0], found, strict=True):
        np.testing.assert_array_equal(got, want)


def test_parts_of_a_sum_are_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = trained(monkeypatch, 8)
    monkeypatch.setattr(shapes, "SIMULATED", replace(shapes.SIMULATED, turns=1000))
    shapes.shapes.cache_clear()
    try:
        whole, parts = trained(monkeypatch, 8)
    finally:
        shapes.shapes.cache_clear()
    assert max(parts) == 1
    for got, want in zip(found, whole, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("depth", [*range(1, 40), 255, 256, 257, 784, 5000])
def test_every_part_has_terms(depth: int) -> None:
    bound: Any = type("Bound", (), {"shapes": shapes.DEVICE, "table": None, "work": None})()
    bound.layout = type("Layout", (), {"batch": 100, "backward": True})()
    bound.zeros = lambda *_: None
    for columns in (1, 40, 200):
        cut, grid, (terms, parts, *_) = products.Tiles(bound)._cut(shapes.DEVICE.tiles[0], columns, depth)
        assert cut == (parts > 1) and grid == (4, -(-columns // 32) * parts)
        assert (parts - 1) * terms < depth <= parts * terms
        bound.layout.backward = False
        assert products.Tiles(bound)._cut(shapes.DEVICE.tiles[0], columns, depth)[2][1] == 1
        bound.layout.backward = True
        assert parts == 1 or (terms % 16 == 0 and terms >= 8 * 16 and grid[0] * grid[1] <= shapes.DEVICE.busy)
