"""Sparse rows: trained on and predicted from as they are, to the bits of the same rows as an array where those are
summed in their order."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make, targets

import fastbp as fb
from fastbp.cpu import terms
from fastbp.data.sparse import SparseRows, as_sparse
from fastbp.layout import plan

scipy_sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")

SPARSE = "sparse_categorical_crossentropy"


def rows(count: int, width: int, share: float = 0.1, seed: int = 0) -> Any:
    """Random rows, some of them empty; the first and the last column occur."""
    rng = np.random.default_rng(seed)
    x = scipy_sparse.random(count, width, share, "csr", np.float64, rng, data_rvs=rng.standard_normal).tolil()
    x[1 % count, 0], x[2 % count, width - 1] = 1.5, -2.5
    return x.tocsr()


def fitted(x: Any, y: Any, widths: list[int], optimizer: Any, **options: Any) -> tuple[fb.Model, dict[str, Any]]:
    model = make(widths, options.pop("hidden", "relu"), "softmax", **options.pop("model", {}))
    model.compile(optimizer, SPARSE, metrics=["accuracy"])
    settings: dict[str, Any] = {"batch_size": 32, "epochs": 3, "verbose": 0, **options}
    return model, model.fit(x, y, **settings).history


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dense rows by multiply-adds, each sum in the order of the rows and of the entries."""
    monkeypatch.setattr(terms, "_usable", lambda program: False)
    monkeypatch.setattr(plan, "PASSED_BY_HALVES", math.inf)
    monkeypatch.setattr(plan, "FEW_NEURONS", 0)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("widths", "batch"),
    [
        ([300, 70, 5], 32),
        ([300, 70, 5], 7),
        ([37, 19, 5], 1),
        ([1, 3, 5], 16),
        ([530, 5], 203),
        ([90, 200, 40, 5], 100),
    ],
)
def test_the_bits_are_those_of_dense_rows(widths: list[int], batch: int, dtype: str) -> None:
    """Forward and backward, one thread or two, few rows and many, with a last short batch."""
    x = rows(203, widths[0])
    y = targets(SPARSE, 203, 5)
    for optimizer in (fb.SGD(0.1), fb.SGD(0.1, momentum=0.9), fb.Adam(0.01)):
        for hidden, threads in (("relu", 1), ("tanh", 2)):
            same = {"hidden": hidden, "model": {"dtype": dtype, "threads": threads}, "batch_size": batch}
            dense, history = fitted(x.toarray(), y, widths, optimizer, **same)
            model, other = fitted(x, y, widths, optimizer, **same)
            assert other == history
            for a, b in zip(model.get_weights(), dense.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.predict(x), dense.predict(x.toarray()))
    assert model.evaluate(x, y) == dense.evaluate(x.toarray(), y)


@pytest.mark.parametrize("widths", [[300, 140, 5], [530, 5], [37, 19, 5]], ids=str)
def test_dense_rows_in_another_order_agree_to_rounding(widths: list[int]) -> None:
    """By AMX tiles, by halves, along the samples."""
    x, y = rows(203, widths[0]), targets(SPARSE, 203, 5)
    dense, _ = fitted(x.toarray(), y, widths, fb.SGD(0.1), batch_size=100)
    model, _ = fitted(x, y, widths, fb.SGD(0.1), batch_size=100)
    for a, b in zip(model.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.usefixtures("in_order")
def test_a_large_batch_runs_in_slabs() -> None:
    x = rows(2600, 40, 0.2)
    y = targets(SPARSE, 2600, 5)
    dense, _ = fitted(x.toarray(), y, [40, 33, 5], fb.SGD(0.1), batch_size=2500)
    model, _ = fitted(x, y, [40, 33, 5], fb.SGD(0.1), batch_size=2500)
    for a, b in zip(model.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    "optimizer",
    [
        fb.SGD(0.1, weight_decay=0.1),
        fb.SGD(0.1, use_ema=True),
        fb.SGD(0.1, global_clipnorm=0.5),
        fb.SGD(0.1, clipvalue=0.001),
        fb.SGD(0.1, gradient_accumulation_steps=3),
        fb.Adagrad(0.1),
        fb.AdamW(0.01),
    ],
    ids=str,
)
def test_what_changes_weights_without_a_gradient_changes_them_all(optimizer: Any) -> None:
    x, y = rows(203, 300), targets(SPARSE, 203, 5)
    dense, history = fitted(x.toarray(), y, [300, 70, 5], optimizer)
    model, other = fitted(x, y, [300, 70, 5], optimizer)
    assert other == history
    for a, b in zip(model.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    "options", [{"kernel_regularizer": "l2"}, {"kernel_constraint": "max_norm"}, {"trainable": False}]
)
def test_what_a_layer_says_of_its_weights_holds(options: dict[str, Any]) -> None:
    x, y = rows(203, 300), targets(SPARSE, 203, 5)
    found = []
    for given in (x, x.toarray()):
        model = fb.Model([fb.Dense(70, "relu", **options), fb.Dense(5, "softmax")])
        model.compile(fb.SGD(0.5), SPARSE)
        found.append((model.fit(given, y, 32, epochs=3, verbose=0).history, model.get_weights()))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("in_order")
def test_what_fit_does_with_rows_it_does_with_sparse_ones(tmp_path: Path) -> None:
    """Held-out rows, weights, folds, checkpoints, single batches and gradients."""
    x, y = rows(203, 120), targets(SPARSE, 203, 5)
    weights = np.random.default_rng(3).choice([0.0, 0.5, 2.0], 203)
    options: dict[str, Any] = {"validation_split": 0.2, "sample_weight": weights, "class_weight": "balanced"}
    found = [fitted(given, y, [120, 40, 5], fb.SGD(0.1), **options)[1] for given in (x, x.toarray())]
    assert found[0] == found[1]
    chosen = [np.arange(0, 203, 2), np.arange(90)]
    trained = []
    for given in (x, x.toarray()):
        models = [make([120, 40, 5], output="softmax", seed=seed) for seed in range(2)]
        for model in models:
            model.compile("adam", SPARSE)
        fb.fit_many(models, given, y, epochs=2, rows=chosen, verbose=0)
        trained.append([w for model in models for w in model.get_weights()])
    for a, b in zip(*trained, strict=True):
        np.testing.assert_array_equal(a, b)
    one, two = (make([120, 40, 5], output="softmax") for _ in range(2))
    for model in (one, two):
        model.compile("sgd", SPARSE)
    assert one.train_on_batch(x, y) == two.train_on_batch(x.toarray(), y)
    for a, b in zip(one.gradients(x, y), two.gradients(x.toarray(), y), strict=True):
        np.testing.assert_array_equal(a, b)
    path = tmp_path / "fit"
    whole, _ = fitted(x, y, [120, 40, 5], fb.Adam(0.01), epochs=4)
    fitted(x, y, [120, 40, 5], fb.Adam(0.01), epochs=2, checkpoint=path)
    resumed, _ = fitted(x, y, [120, 40, 5], fb.Adam(0.01), epochs=4, checkpoint=path, resume=True)
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    x.data[7] += 1
    with pytest.raises(ValueError, match=r"data.digest is"):
        fitted(x, y, [120, 40, 5], fb.Adam(0.01), checkpoint=path, resume=True)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "bsr_array"])
def test_any_sparse_form_and_number_is_read(kind: str) -> None:
    x = rows(50, 30)
    for number in (np.float32, np.float64, np.int16, np.bool_):
        given = getattr(scipy_sparse, kind)(x.astype(number))
        staged = as_sparse(given, np.float32, "x")
        assert isinstance(staged, SparseRows) and staged.shape == (50, 30)
        got = scipy_sparse.csr_array((staged.values, staged.columns, staged.starts), staged.shape)
        np.testing.assert_array_equal(got.toarray(), x.astype(number).toarray().astype(np.float32))


def test_entries_that_are_there_twice_are_summed_and_rows_are_sorted() -> None:
    x = scipy_sparse.csr_array(([1.0, 2.0, 4.0, 8.0], [3, 1, 3, 0], [0, 3, 4]), (2, 5))
    staged = as_sparse(x, np.float32, "x")
    np.testing.assert_array_equal(staged.columns, [1, 3, 0])
    np.testing.assert_array_equal(staged.values, [2.0, 5.0, 8.0])
    assert x.nnz == 4  # the caller's is left alone


def test_rows_that_already_fit_are_not_copied() -> None:
    x = rows(50, 30).astype(np.float32)
    staged = as_sparse(x, np.float32, "x")
    assert np.shares_memory(staged.values, x.data) and np.shares_memory(staged.columns, x.indices)


def damaged(**change: Any) -> Any:
    x = rows(50, 30)
    for name, value in change.items():
        setattr(x, name, value)
    return x


def holed(value: float) -> Any:
    x = rows(50, 30)
    x.data[4] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (holed(np.nan), r"contains NaN or infinity .*: nan at x\[\d+, \d+\]"),
        (holed(1e300), "too large for float32"),
        (damaged(indices=np.full(rows(50, 30).nnz, 30, np.int32)), "damaged sparse matrix|calls itself sorted"),
        (damaged(indices=rows(50, 30).indices[::-1].copy()), "calls itself sorted"),
        (rows(50, 30) * 1j, "wanted real numbers"),
        (rows(50, 31), "the model takes 30 columns"),
    ],
)
def test_bad_sparse_rows_are_refused(x: Any, message: str) -> None:
    model = make([30, 7, 5], output="softmax")
    model.compile("sgd", SPARSE)
    if hasattr(x, "has_canonical_format") and "calls" in message:
        x.has_canonical_format = True
    for call in (lambda: model.fit(x, np.zeros(50, int), verbose=0), lambda: model.predict(x)):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_what_sparse_rows_can_not_do_is_said() -> None:
    x, y = rows(50, 30), targets(SPARSE, 50, 5)
    model = make([30, 7, 5], output="softmax")
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match="inputs=True gives a dense dx"):
        model.gradients(x, y, inputs=True)
    with pytest.raises(TypeError, match="sparse rows are for x"):
        model.fit(x.toarray(), x)
    half = make([30, 7, 5], output="softmax", dtype="bfloat16")
    half.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match='make it dtype="float32"'):
        half.fit(x, y)


def test_layers_after_the_first_know_nothing_of_it() -> None:
    x, y = rows(203, 300), targets(SPARSE, 203, 5)
    found = []
    for given in (x, x.toarray()):
        block = fb.Residual([fb.Dense(24, "relu"), fb.Dense(24)])
        layers = [fb.Dense(24, "relu"), fb.BatchNormalization(), fb.Dropout(0.3), block, fb.Dense(5, "softmax")]
        model = fb.Model(layers)
        model.compile("adam", SPARSE)
        found.append((model.fit(given, y, 32, epochs=3, verbose=0).history, model.predict(given)))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    model = fb.Model([fb.Dropout(0.3), fb.Dense(5, "softmax")])
    model.compile("adam", SPARSE)
    with pytest.raises(ValueError, match="only a Dense layer can read, and the first layer is"):
        model.fit(x, y)


def test_sparse_batches_of_an_iterator() -> None:
    x, y = rows(203, 300), targets(SPARSE, 203, 5)

    def batches() -> Any:
        for low in range(0, 203, 30):
            yield x[low : low + 30], y[low : low + 30]

    whole, history = fitted(x, y, [300, 20, 5], fb.Adam(0.01), shuffle=False)
    model, other = fitted(batches, None, [300, 20, 5], fb.Adam(0.01))
    assert other == history
    np.testing.assert_array_equal(model.predict(batches), whole.predict(x))
