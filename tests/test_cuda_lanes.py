"""Losses, activations and metrics over a row's outputs by several threads: against one thread alone."""

from typing import Any

import numpy as np
import pytest
from helpers import error, inputs, make, targets

import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.formulas.tallies import TALLIES
from fastbp.losses import LOSSES

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda import lanes, rows
from fastbp.cuda.narrow import one_block
from fastbp.cuda.shapes import shapes

ROWS, OUTPUTS = 13, 7
OF_CLASSES = ["accuracy", "f1_score", "confusion_matrix", fb.metrics.TopKCategoricalAccuracy(k=2)]


def squares(y: Any, a: Any) -> Any:
    """A loss of one's own, by rows."""
    return fb.math.sqrt(fb.math.sum((a - y) * (a - y), axis=-1) + 1.0)


def farthest(y: Any, a: Any) -> Any:
    """A metric of one's own, by rows."""
    return fb.math.max(a - y, axis=-1) - fb.math.min(a - y, axis=-1)


CASES: dict[str, tuple[Any, str, list[Any]]] = {
    "categorical_crossentropy": ("categorical_crossentropy", "softmax", OF_CLASSES),
    "labels": ("sparse_categorical_crossentropy", "softmax", ["accuracy", "f1_score", "confusion_matrix"]),
    "logits": (fb.SparseCategoricalCrossentropy(from_logits=True), "linear", ["accuracy"]),
    "focal": ("categorical_focal_crossentropy", "softmax", ["accuracy"]),
    "hinge": ("categorical_hinge", "linear", OF_CLASSES),
    "cosine": ("cosine_similarity", "tanh", ["mse", "mae"]),
    "divergence": ("kl_divergence", "softmax", ["accuracy"]),
    "single": ("mse", "tanh", ["mae", "r2_score"]),
    "own": (squares, "sigmoid", [farthest]),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes one thread do a row."""
    monkeypatch.setattr(one_block, "MOST_WORK", 0)
    return lambda: monkeypatch.setattr(rows, "shareable", lambda *_: False)


def found(name: str, dtype: str) -> list[Any]:
    """What training, an evaluation and a prediction give; rows count differently, some not at all."""
    loss, output, metrics = CASES[name]
    model = make([4, OUTPUTS], "tanh", output, dtype=dtype, device="cuda", seed=4)
    row = fb.losses.get(loss)
    x, y = inputs(ROWS, 4), targets(row.name if row.name in LOSSES else "mean_squared_error", ROWS, OUTPUTS)
    x[3], x[8] = 0.0, 0.0  # outputs that are equal
    model.compile(fb.Adam(0.05), loss, metrics=metrics, weighted_metrics=metrics[:1])
    weights = np.random.default_rng(3).integers(0, 3, ROWS).astype(float)
    history = model.fit(x, y, batch_size=5, epochs=2, sample_weight=weights, verbose=0).history
    scores = model.evaluate(x, y, batch_size=9, verbose=0, return_dict=True)
    return [*history.values(), *scores.values(), model.predict(x), *model.get_weights()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_threads_that_share_a_row_give_what_one_alone_does(name: str, dtype: str, cuda: bool, alone: Any) -> None:
    shared = found(name, dtype)
    alone()
    for a, b in zip(shared, found(name, dtype), strict=True):
        assert error(np.asarray(a, float), np.asarray(b, float)) < (2e-5 if dtype == "float32" else 1e-11)


def test_a_loss_that_diverges_in_a_shared_row(cuda: bool, alone: Any) -> None:
    model = make([4, OUTPUTS], "tanh", "softmax", device="cuda")
    before = model.get_weights()
    model.compile(fb.SGD(float(np.finfo(np.float32).max)), "categorical_crossentropy", metrics=["accuracy"])
    with pytest.raises(fb.DivergenceError):
        model.fit(
            inputs(ROWS, 4), targets("categorical_crossentropy", ROWS, OUTPUTS), batch_size=5, epochs=9, verbose=0
        )
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_which_formulas_threads_can_share() -> None:
    """All but those that carry more from column to column than a sum or the highest so far."""
    own = rows.sharing(shapes())
    coupled = [row for row in LOSSES.values() if row.coupled]
    assert len(coupled) == 6 and all(lanes.shared(row.function, own) for row in coupled)
    softmax = ACTIVATIONS["softmax"]
    assert lanes.shared(softmax.function, own) and lanes.shared(softmax.derivative, own)
    of_rows = {name for name, row in TALLIES.items() if row.loop == "rows"}
    assert {name for name in of_rows if lanes.shared(TALLIES[name].function, own) is None} == {
        "accuracy of class columns",
        "rows",
    }
    assert lanes.shared(fb.losses.SparseCategoricalCrossentropies((3, 4)).function, own) is None


def carried_twice(a: Any, n: int) -> Any:
    total = a[0]
    last = a[0]
    for c in range(1, n):
        total = total + a[c] * last
        last = a[c]
    return total


def another_column(a: Any, n: int) -> Any:
    total = a[0]
    for c in range(n):
        a[c] = total
        total = total + a[0]
    return total


def read_too_early(a: Any, n: int) -> Any:
    first = a[0]
    for c in range(n):
        a[c] = 2.0 * a[c]
    for c in range(n):
        first = first + a[c]
    return first


def written_elsewhere(a: Any, n: int) -> Any:
    total = a[0] * 0.0
    for c in range(n):
        a[c] = 2.0 * a[c]
        total = total + a[c]
    return total + a[0]


def read_within(a: Any, n: int) -> Any:
    total = a[0]
    for c in range(n):
        total = total + a[c]
        a[c] = total
    return total


def backwards(a: Any, n: int) -> Any:
    total = a[0]
    for c in range(n - 1, -1, -1):
        total = total + a[c]
    return total


def last_kept(a: Any, n: int) -> Any:
    total = a[0]
    for c in range(n):
        d = a[c]
        total = total + d
    return total + d


@pytest.mark.parametrize(
    "formula",
    [carried_twice, another_column, read_too_early, written_elsewhere, read_within, backwards, last_kept],
)
def test_what_threads_cannot_share(formula: Any) -> None:
    assert lanes.shared(formula, rows.sharing(shapes())) is None
