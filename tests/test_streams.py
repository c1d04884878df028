"""Rows that aren't all in memory: the bits of the same rows in an array, whatever they come from."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import inputs, make, python, targets
from pyarrow import parquet as pq

import fastbp as fb
from fastbp.data import sources, streams
from fastbp.data.sources import Stored, StreamError, opened
from fastbp.training import streaming

ROWS, WIDTH = 203, 5
SPARSE = "sparse_categorical_crossentropy"
X = inputs(ROWS, WIDTH).astype(np.float32)
Y = targets(SPARSE, ROWS, 3)
WEIGHTS = np.random.default_rng(3).choice([0.5, 1.0, 2.0], ROWS)
Fitted = tuple[dict[str, list[Any]], list[np.ndarray]]
ODD = [0, 7, 8, 60, 61, 140, ROWS]


class Pages:
    """What gives its batches by number, as Keras' PyDataset."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(ODD) - 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(ODD[number], ODD[number + 1])
        return X[rows], self.labels[rows]


def model_for(**options: Any) -> fb.Model:
    model = make([WIDTH, 9, 3], output="softmax", **options)
    model.compile(fb.Adam(0.01), SPARSE, metrics=["accuracy", "auc"])
    return model


def fitted(x: Any, y: Any = None, **options: Any) -> Fitted:
    """History and weights of a fit in order."""
    model = model_for(threads=options.pop("threads", 2))
    settings: dict[str, Any] = {"batch_size": 16, "epochs": 3, "verbose": 0, "shuffle": False, **options}
    history = model.fit(x, y, **settings)
    return history.history, model.get_weights()


def same(
    one: tuple[dict[str, list[Any]], list[np.ndarray]], two: tuple[dict[str, list[Any]], list[np.ndarray]]
) -> None:
    assert one[0] == two[0]
    for a, b in zip(one[1], two[1], strict=True):
        np.testing.assert_array_equal(a, b)


def batches(x: np.ndarray = X, y: np.ndarray = Y, weights: np.ndarray | None = None) -> Iterator[tuple[Any, ...]]:
    """The rows in batches of odd sizes."""
    for low, high in itertools.pairwise(ODD):
        yield (x[low:high], y[low:high]) if weights is None else (x[low:high], y[low:high], weights[low:high])


class Loader:
    """What can be iterated again and again, as a data loader: lists of x and y."""

    def __iter__(self) -> Iterator[list[Any]]:
        return map(list, batches())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 rows, of chunks of 2."""
    monkeypatch.setattr(streams, "BLOCK_BYTES", 64 * 4 * (WIDTH + 3))
    monkeypatch.setattr(streams, "CHUNK_BYTES", 2 * 4 * (WIDTH + 3))


def saved(folder: Path, kind: str) -> tuple[Any, Any]:
    """x and y of the rows on disk."""
    np.save(folder / "y.npy", Y)
    if kind == "npy":
        np.save(folder / "x.npy", X)
        return str(folder / "x.npy"), folder / "y.npy"
    if kind == "memmap of doubles":
        np.save(folder / "x.npy", X.astype(np.float64))
        return np.load(folder / "x.npy", mmap_mode="r"), Y
    if kind == "folders":
        for name, array in (("x", X), ("y", Y)):
            (folder / name).mkdir()
            for part, (low, high) in enumerate(itertools.pairwise(ODD)):
                np.save(folder / name / f"part-{part}.npy", array[low:high])
        return folder / "x", folder / "y"
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    (folder / "table").mkdir()
    for part, (low, high) in enumerate([(0, 90), (90, ROWS)]):
        columns = {f"c{j}": X[low:high, j] for j in range(WIDTH)} | {"label": Y[low:high]}
        pq.write_table(pa.table(columns), folder / "table" / f"{part}.parquet", row_group_size=40)
    return folder / "table", "label"


STORED = ("npy", "memmap of doubles", "folders", "parquet")
STREAMS: dict[str, Callable[[], Any]] = {
    "function": lambda: batches,
    "loader": Loader,
    "generator": lambda: (batch for _ in range(3) for batch in batches()),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("options", [{}, {"steps_per_epoch": 5}, {"validation_split": 0.2}, {"batch_size": 500}])
def test_rows_on_disk_are_the_bits_of_an_array(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    same(fitted(*saved(tmp_path, kind), **options), fitted(X, Y, **options))


@pytest.mark.parametrize("kind", ["function", "loader"])
@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"batch_size": 1}, {"batch_size": 500}])
def test_batches_cut_anew_are_the_bits_of_an_array(kind: str, options: dict[str, Any]) -> None:
    same(fitted(STREAMS[kind](), **options), fitted(X, Y, **options))


@pytest.mark.parametrize("kind", STREAMS)
def test_epochs_of_so_many_steps_go_on_where_the_last_one_stopped(kind: str) -> None:
    """Three passes of 203 rows, one after the other: 38 whole batches of 16."""
    options = {"epochs": 2, "steps_per_epoch": 19}
    same(fitted(STREAMS[kind](), **options), fitted(np.tile(X, (3, 1)), np.tile(Y, 3), **options))


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_each_batch_is_a_step_where_no_batch_size_is_given(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handed on one by one, or as many as a block holds."""
    monkeypatch.setattr(streams, "BLOCK_SECONDS", seconds)
    model, twin = model_for(), model_for()
    equal = [(X[i : i + 20], Y[i : i + 20], WEIGHTS[i : i + 20]) for i in range(0, 200, 20)]
    given = [*batches(weights=WEIGHTS), *equal]
    losses = [twin.train_on_batch(*batch)[0] for batch in given]
    history = model.fit(iter(given), verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    mean = np.average(losses, weights=[len(x) for x, _, _ in given])
    assert history.history["loss"] == [pytest.approx(mean)]
    assert history.params["steps"] is None and 0 <= history.waiting[0] <= 1


def test_an_endless_generator_is_read_no_further_than_needed() -> None:
    read = []

    def endless() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            read.append(len(read))
            yield X[:20], Y[:20]

    model, rows = model_for(), endless()
    model.fit(rows, steps_per_epoch=4, epochs=3, verbose=0)
    assert (model._updates, len(read)) == (12, 12)
    model.fit(rows, steps_per_epoch=2, verbose=0)
    assert (model._updates, len(read)) == (14, 14)
    model.fit(rows, batch_size=8, steps_per_epoch=5, verbose=0)
    assert (model._updates, len(read)) == (19, 16)


def test_a_block_shuffle_visits_every_row_once_in_its_own_order() -> None:
    source = Stored(sources._column(np.arange(ROWS)[:, None], "x"), sources._column(np.arange(ROWS), "y"), None)
    orders = []
    for key in ([0, 0], [0, 1], [1, 0]):
        blocks = list(streams.stored_blocks(source, 64, key, True))
        assert [block.count for block in blocks] == [64, 64, 64, 11]
        assert len({block.seed for block in blocks}) == 4 and all(block.shuffle for block in blocks)
        for block in blocks:
            np.testing.assert_array_equal(block.rows[0][:, 0], block.rows[1])
        orders.append(np.concatenate([block.rows[1] for block in blocks]))
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(ROWS))
        later = list(streams.stored_blocks(source, 64, key, True, start=2))
        np.testing.assert_array_equal(later[0].rows[1], blocks[2].rows[1])
    assert len({tuple(order) for order in orders}) == 3
    assert np.mean(np.abs(np.diff(orders[0])) == 1) < 0.7  # chunks of 2


@pytest.mark.parametrize("kind", STORED)
def test_a_shuffled_fit_is_the_same_for_any_number_of_threads(kind: str, tmp_path: Path) -> None:
    x, y = saved(tmp_path, kind)
    found = [fitted(x, y, shuffle=True, threads=threads) for threads in (1, 2)]
    same(*found)
    ordered = fitted(x, y)[0]["loss"]
    assert found[0][0]["loss"] != ordered and len(set(found[0][0]["loss"])) == 3


@pytest.mark.parametrize("kind", ["npy", "parquet", "memmap of doubles"])
def test_evaluate_and_predict_read_what_fit_reads(kind: str, tmp_path: Path) -> None:
    x, y = saved(tmp_path, kind)
    model = model_for()
    assert model.evaluate(x, y, batch_size=16) == model.evaluate(X, Y, batch_size=16)
    assert model.evaluate(x, y, batch_size=16, steps=3) == model.evaluate(X[:48], Y[:48], batch_size=16)
    inputs_only = opened(x, None if kind != "parquet" else "label")
    assert inputs_only is not None
    expected = model.predict(X)
    if kind != "parquet":
        np.testing.assert_array_equal(model.predict(x, batch_size=16), expected)
        out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (ROWS, 3))
        assert np.shares_memory(model.predict(x, batch_size=16, out=out), out)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_evaluate_and_predict_take_batches() -> None:
    model = model_for()
    expected = model.evaluate(X, Y)
    assert model.evaluate(batches) == pytest.approx(expected, rel=1e-6)
    assert model.evaluate(batches()) == pytest.approx(expected, rel=1e-6)
    assert model.evaluate(batches(), steps=3) == pytest.approx(model.evaluate(X[:60], Y[:60]), rel=1e-6)
    np.testing.assert_array_equal(model.predict(batches()), model.predict(X))
    np.testing.assert_array_equal(model.predict(x for x, _ in batches()), model.predict(X))
    out = np.empty((ROWS, 3), np.float32)
    np.testing.assert_array_equal(model.predict(X, out=out), model.predict(batches, out=np.empty_like(out)))
    with pytest.raises(ValueError, match=r"out has 100 rows; x gives more: 140"):
        model.predict(batches(), out=out[:100])
    with pytest.raises(ValueError, match=r"out has shape \(100, 3\) and type float32; wanted a C-ordered \(203, 3\)"):
        model.predict(X, out=out[:100])


@pytest.mark.parametrize("form", ["pair of paths", "generator", "function", "loader", "weighted"])
def test_a_validation_reads_what_a_fit_reads(form: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if form == "pair of paths":
        given: Any = saved(tmp_path, "npy")
    elif form == "generator":
        given, options = (batch for _ in range(3) for batch in batches()), {"validation_steps": len(ODD) - 1}
    elif form == "weighted":
        given = (*saved(tmp_path, "npy"), WEIGHTS)
    else:
        given = STREAMS[form]()
    got, expected = (
        fitted(X, Y, validation_data=data, **more)[0]
        for data, more in ((given, options), ((X, Y, WEIGHTS) if form == "weighted" else (X, Y), {}))
    )
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name] == pytest.approx(values, rel=1e-5), name


def test_weights_and_missing_targets_on_disk(tmp_path: Path) -> None:
    holes = Y.astype(float)
    holes[::4] = np.nan
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "weights.npy", WEIGHTS)
    found = []
    for x, weights in ((tmp_path / "x.npy", str(tmp_path / "weights.npy")), (X, WEIGHTS)):
        model = model_for()
        model.compile("adam", SPARSE, mask_nan=True, metrics=["accuracy"], weighted_metrics=["accuracy"])
        options: dict[str, Any] = {"sample_weight": weights, "class_weight": {1: 2.0}, "epochs": 2, "verbose": 0}
        history = model.fit(x, holes, 16, shuffle=False, **options)
        found.append((history.history, model.get_weights()))
    same(*found)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", ["npy", "parquet", "function", "pages"])
def test_balanced_classes_are_those_of_an_array(
    kind: str, missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TARGETS_READ", 50)
    labels = np.where(np.arange(ROWS) % 5 == 0, np.nan, Y) if missing else Y
    np.save(tmp_path / "x.npy", X)
    if kind == "parquet":
        frame = pytest.importorskip("pandas").DataFrame(X, columns=[f"c{i}" for i in range(WIDTH)])
        frame.assign(label=labels).to_parquet(tmp_path / "t.parquet")
    given = {
        "npy": (tmp_path / "x.npy", labels),
        "parquet": (tmp_path / "t.parquet", "label"),
        "function": (lambda: batches(X, labels), None),
        "pages": (Pages(labels), None),
    }[kind]
    found = []
    for x, y in (given, (X, labels)):
        model = model_for()
        model.compile("adam", SPARSE, mask_nan=missing, metrics=["accuracy"])
        options: dict[str, Any] = {"class_weight": "balanced", "epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(x, y, 16, **options)
        found.append((history.history, model.get_weights()))
    same(*found)


# ---------------------------------------------------------------- what goes wrong


def test_a_generator_that_ends_early_leaves_what_was_learned() -> None:
    model = model_for()
    with pytest.raises(StreamError, match=r"ended after 6 steps, and epoch 2 wanted its step 3") as caught:
        model.fit(batches(), steps_per_epoch=4, epochs=2, verbose=0)
    twin = model_for()
    for batch in batches():
        twin.train_on_batch(*batch)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.history is not None and len(model.history.history["loss"]) == 2
    assert "stopped by the data" in repr(model.history) and "6 steps were done" in caught.value.__notes__[0]


def wide() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield X[:9], Y[:9]
    yield X[:9], Y[:9]
    yield X[:9, :3], Y[:9]


def short() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield X[:9], Y[:9]
    yield X[:9], Y[:8]


def holed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield X[:9], Y[:9]
    yield np.full((9, WIDTH), np.nan, np.float32), Y[:9]


def broken() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield X[:9], Y[:9]
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("stream", "kind", "message"),
    [
        (wide, StreamError, r"x of batch 3 has the shape \(9, 3\); wanted \(rows, 5\)"),
        (short, StreamError, "y of batch 2 has 8 rows, x has 9"),
        (holed, ValueError, r"the first nan at x \(batch 2\)\[0, 0\]"),
        (broken, OSError, "the disk is gone"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(
    stream: Callable[[], Any], kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_SECONDS", 0.0)
    model = model_for()
    with pytest.raises(kind, match=message):
        model.fit(stream(), verbose=0)
    assert model.history is not None and model._updates <= 2
    with pytest.raises(kind, match=message):
        model.evaluate(stream)


@pytest.mark.parametrize(("stream", "good"), [(wide, 2), (short, 1), (holed, 1), (broken, 1)])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_what_comes_before_a_batch_that_does_not_fit_is_learned(
    stream: Callable[[], Any], good: int, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_SECONDS", 60.0)  # all of it is read as one block
    model, twin = model_for(), model_for()
    with pytest.raises((ValueError, OSError)) as caught:
        model.fit(stream(), batch_size=batch_size, verbose=0)
    size = batch_size or 9
    rows = good * 9 // size * size
    x, y = np.concatenate([X[:9]] * good)[:rows], np.concatenate([Y[:9]] * good)[:rows]
    twin.fit(x, y, batch_size=size, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.history is not None and len(model.history.history["loss"]) == 1
    assert f"{rows // size} steps were done; model.history holds them" in caught.value.__notes__
    assert "stopped by the data" in repr(model.history)


def test_a_batch_of_several_that_were_cut_anew_is_named_after_its_rows_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "BLOCK_SECONDS", 0.0)  # each batch goes on at once, but for what is left of a step

    def last_holed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from ((X[:3], Y[:3]) for _ in range(5))
        yield np.full((3, WIDTH), np.nan, np.float32), Y[:3]

    with pytest.raises(ValueError, match=r"the first nan at x \(batch 6\)\[0, 0\]"):
        model_for().fit(last_holed(), batch_size=4, verbose=0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_on_disk_that_does_not_fit_is_named(
    shuffle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", 2048)
    monkeypatch.setattr(streams, "CHUNK_BYTES", 256)
    x, y = X.copy(), Y.copy()
    x[150, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"the first nan at x\[150, 3\]"):
        model_for().fit(tmp_path / "x.npy", y, shuffle=shuffle, verbose=0)
    with pytest.raises(ValueError, match=r"the first nan at x\[150, 3\]"):
        model_for().predict(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\[150, 3\]"):
        model_for().fit(tmp_path / "x.npy", y, shuffle=shuffle, validation_split=0.5, verbose=0)
    np.save(tmp_path / "x.npy", X)
    y[77] = 3
    with pytest.raises(ValueError, match=r"y\[77\] is 3: the model's last layer has 3 outputs"):
        model_for().fit(tmp_path / "x.npy", y, shuffle=shuffle, verbose=0)


@pytest.mark.parametrize("kind", ["npy", "folder", "parquet"])
def test_rows_on_disk_are_held_out_by_class(kind: str, tmp_path: Path) -> None:
    y = np.sort(Y)  # the last rows are of one class
    path: Any = tmp_path / "t.parquet"
    if kind == "parquet":
        pa_table = pa.table({**{f"c{j}": X[:, j] for j in range(WIDTH)}, "y": y})
        pq.write_table(pa_table, path, row_group_size=50)
    elif kind == "npy":
        np.save(path := tmp_path / "x.npy", X)
    else:
        path = tmp_path
        for part, (low, high) in enumerate(itertools.pairwise(ODD)):
            np.save(tmp_path / f"{part}.npy", X[low:high])
    options: dict[str, Any] = {"validation_split": 0.3, "stratify": True}
    wanted = fitted(X, y, **options)
    same(fitted(path, "y" if kind == "parquet" else y, **options), wanted)
    assert 0 < wanted[0]["val_accuracy"][-1] < 1
    shuffled = fitted(path, "y" if kind == "parquet" else y, shuffle=True, class_weight="balanced", **options)
    assert len(shuffled[0]["val_loss"]) == 3


def test_a_row_of_those_held_out_by_class_is_named(tmp_path: Path) -> None:
    x = X.copy()
    model = model_for()
    for row in (5, 150):  # one is trained on, the other not
        x[:] = X
        x[row, 3] = np.nan
        np.save(tmp_path / f"{row}.npy", x)  # a thread may still read the other
        with pytest.raises(ValueError, match=rf"x\[{row}, 3\]"):
            model.fit(tmp_path / f"{row}.npy", Y, validation_split=0.3, stratify=True, verbose=0)


def narrow() -> fb.Model:
    model = make([1, 3, 2], output="softmax")
    model.compile("sgd", SPARSE)
    return model


def test_columns_of_parquet_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    full, holes = pa.table({"a": [1.0, 2.0], "y": [0, 1]}), pa.table({"a": [1.0, None], "y": [0, 1]})
    pq.write_table(full, tmp_path / "1.parquet")
    pq.write_table(pa.concat_tables([full, holes]), tmp_path / "2.parquet", row_group_size=2)
    with pytest.raises(ValueError, match=r"column 'a' of .*2.parquet has missing values, the first in row 3: fill"):
        narrow().fit(tmp_path, "y", verbose=0)
    pq.write_table(pa.table({"a": ["u", "v"], "y": [0, 1]}), tmp_path / "text.parquet")
    with pytest.raises(TypeError, match=r"column 'a' of .*text.parquet holds string; wanted numbers"):
        narrow().fit(tmp_path / "text.parquet", "y", verbose=0)
    (tmp_path / "bad.parquet").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"bad.parquet is no Parquet file, or is damaged"):
        narrow().fit(tmp_path / "bad.parquet", "y", verbose=0)


def test_what_an_iterator_raises_says_at_which_batch() -> None:
    def failing() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield X[:9], Y[:9]
        yield X[:9], Y[:9]
        raise KeyError("the third")

    with pytest.raises(KeyError, match="the third") as caught:
        model_for().fit(failing(), verbose=0)
    assert any("batch 3; what was learned before it stays" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": batches, "y": Y}, "x gives batches of .* itself: leave out y"),
        ({"x": "nowhere.npy", "y": Y}, "no such file or folder"),
        ({"x": iter([])}, "gives no batch"),
        ({"x": iter([(X, Y, WEIGHTS, 1)])}, "batch 1 has 4 parts"),
        ({"x": iter([X])}, r"there are no targets; fit wants \(x, y\)"),
        ({"x": X}, "y is None"),
        ({"x": batches(), "class_weight": "balanced"}, "all targets before the fit, and x can be gone through once"),
        ({"x": batches, "class_weight": "balanced", "steps_per_epoch": 3}, "with steps_per_epoch x may have no end"),
        ({"x": batches, "validation_split": 0.2, "stratify": True}, "needs rows that can be counted"),
        ({"x": iter([{"x": X, "y": Y}])}, r"batch 1 is a dict; wanted \(x, y\)"),
        ({"x": lambda: None}, "x is a function that returned None; wanted one that returns an iterator"),
        ({"x": iter([(X[0], Y[0])])}, r"the shape \(5,\); wanted \(rows, columns\) \(a loader's batch, not one row"),
        ({"x": iter([(X, Y), (X[:0], Y[:0])])}, "batch 2 has no rows"),
        ({"x": batches, "validation_split": 0.2}, "give validation_data beside an iterator"),
        ({"x": batches, "validation_data": batches(), "epochs": 2}, "give validation_steps"),
    ],
)
def test_what_can_not_be_read_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        model_for().fit(options.pop("x"), options.pop("y", None), verbose=0, **options)


def test_one_iterator_does_for_one_epoch_only() -> None:
    with pytest.raises(ValueError, match="2 epochs over an iterator that can be gone through once"):
        model_for().fit(batches(), epochs=2, verbose=0)


def test_folders_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds none; wanted an .npy or .parquet file"):
        model_for().fit(tmp_path / "empty", Y)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="y has 9 rows, x has 203"):
        model_for().fit(tmp_path / "x.npy", Y[:9])
    with pytest.raises(ValueError, match="fit: y is missing"):
        model_for().fit(tmp_path / "x.npy")
    x, _ = saved(tmp_path, "parquet")
    with pytest.raises(ValueError, match="has no column 'price'; it has 'c0'"):
        model_for().fit(x, "price")
    with pytest.raises(TypeError, match="y and sample_weight name columns"):
        model_for().fit(x, Y)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path) -> None:
    x, _ = saved(tmp_path, "parquet")
    code = f"""
import sys
sys.modules["pyarrow"] = sys.modules["pyarrow.parquet"] = None
from fastbp.data.sources import opened
try:
    opened({str(x)!r}, "label")
except ImportError as error:
    print(error)
"""
    assert "pip install 'fastbp[arrow]'" in python(code)


# ---------------------------------------------------------------- to be continued


class Stop(fb.callbacks.Callback):
    """Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model._updates == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [*STORED, "function", "generator"])
@pytest.mark.parametrize("steps", [None, 7])
def test_a_killed_fit_goes_on_to_the_same_bits(
    kind: str, steps: int | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if kind == "generator" and steps is None:
        pytest.skip("one iterator does for one epoch only")

    def source() -> tuple[Any, Any]:
        return (STREAMS[kind](), None) if kind in STREAMS else (found, y)

    found, y = saved(tmp_path, kind) if kind in STORED else (None, None)
    options: dict[str, Any] = {"shuffle": True, "steps_per_epoch": steps}
    whole = fitted(*source(), callbacks=Stop(-1), **options)
    for after in (9, 14, 22 if steps is None else 20):
        path = tmp_path / f"fit-{after}"
        with pytest.raises(KeyboardInterrupt):
            fitted(*source(), callbacks=Stop(after), checkpoint=path, checkpoint_every=3, **options)
        capfd.readouterr()
        resumed = fitted(
            *source(), callbacks=Stop(-1), checkpoint=path, checkpoint_every=3, resume=True, **options | {"verbose": 2}
        )
        same(resumed, whole)
        assert ("are read again" in capfd.readouterr().err) == (kind in STREAMS)


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    x, y = saved(tmp_path, "npy")
    fitted(x, y, checkpoint=tmp_path / "fit")
    np.save(tmp_path / "other.npy", X + 1)
    with pytest.raises(ValueError, match=r"data.digest is"):
        fitted(tmp_path / "other.npy", y, checkpoint=tmp_path / "fit", resume=True)


def test_waiting_for_rows_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def slow() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in batches():
            time.sleep(0.01)
            yield batch

    model = model_for()
    history = model.fit(slow, epochs=2, verbose=2)
    assert len(history.waiting) == 2 and all(0 < share <= 1 for share in history.waiting)
    assert "waiting for data" in capfd.readouterr().err
    assert model.fit(X, Y, epochs=2, verbose=0).waiting == [0.0, 0.0]
