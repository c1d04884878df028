"""Tables of other libraries: read in place where that can be, refused by the column's name where it can't."""

import pickle
import tracemalloc
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.neural_network import MLPClassifier as TheirClassifier

import fastbp as fb
from fastbp.data.frames import as_frame
from fastbp.data.readers import load
from fastbp.data.staging import as_matrix, as_targets
from fastbp.estimators import MLPClassifier

NUMBERS = {"a": [1.0, 2.0, 3.0], "b": [4, 5, 6], "c": [True, False, True]}
WANTED = [[1.0, 4.0, 1.0], [2.0, 5.0, 0.0], [3.0, 6.0, 1.0]]
CHUNKED = pa.table({"a": pa.chunked_array([[1.0], [2.0, 3.0]]), "b": NUMBERS["b"], "c": NUMBERS["c"]})


class Capsule:
    """An array that is known by DLPack alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize(
    "table",
    [pd.DataFrame(NUMBERS), pl.DataFrame(NUMBERS), pa.table(NUMBERS), pa.record_batch(NUMBERS), CHUNKED],
    ids=["pandas", "polars", "arrow", "batch", "chunks"],
)
def test_frames_of_numbers(table: Any) -> None:
    np.testing.assert_array_equal(as_matrix(table, np.float32), WANTED)
    frame = as_frame(table)
    assert frame.names == ["a", "b", "c"] and frame.shape == (3, 3)
    np.testing.assert_array_equal(frame.numbers([0, 1, 2], slice(None)), WANTED)


def test_a_model_takes_arrow() -> None:
    model = fb.Model([fb.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    y = pa.chunked_array([[0], [1, 1]])
    model.fit(pa.table(NUMBERS), y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.predict(pa.table(NUMBERS)), model.predict(WANTED))
    np.testing.assert_array_equal(as_targets(pa.table({"y": [1.0, 2.0]}), "dense", 1, np.float32, rows=2), [[1], [2]])


def named(**options: Any) -> fb.Model:
    model = fb.Model([fb.Dense(2, activation="softmax")], **options)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_a_model_knows_its_columns_by_name(make: Any, tmp_path: Path) -> None:
    model, y = named(), [0, 1, 1]
    model.fit(make(NUMBERS), y, verbose=0)
    assert model.column_names == ["a", "b", "c"]
    model.save(tmp_path / "m.fastbp")
    turned = make({name: NUMBERS[name] for name in "cba"})
    own = turned[model.column_names] if make is not pa.table else turned.select(model.column_names)
    for one in (model, fb.load_model(tmp_path / "m.fastbp"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(one.predict(own), one.predict(WANTED))
        for task in (one.predict, lambda x, one=one: one.evaluate(x, y), lambda x, one=one: one.fit(x, y, verbose=0)):
            with pytest.raises(
                ValueError, match=r"another order: 'c' is where 'a' was .* pass x\[model.column_names\]"
            ):
                task(turned)
        with pytest.raises(ValueError, match=r"lacks 1 of the model's 3 columns, first 'c' \(is it 'cc'\?\)"):
            one.predict(make({"a": [1.0], "b": [2.0], "cc": [3.0]}))
        with pytest.raises(ValueError, match="columns that the model was not fitted to, first 'd'"):
            one.predict(make({**NUMBERS, "d": [1.0, 1.0, 1.0]}))
        with pytest.raises(ValueError, match="validation x has its columns in another order"):
            one.fit(make(NUMBERS), y, validation_data=(turned, y), verbose=0)
        one.column_names = None
        assert one.predict(turned).shape == (3, 2)


def test_columns_that_numbers_name_or_that_arrays_have_go_by_place() -> None:
    model = named()
    model.fit(pd.DataFrame(WANTED), [0, 1, 1], verbose=0)
    assert model.column_names is None
    model.predict(pd.DataFrame(NUMBERS))
    model.train_on_batch(pd.DataFrame(NUMBERS), [0, 1, 1])
    model.fit(WANTED, [0, 1, 1], verbose=0)
    assert model.column_names == ["a", "b", "c"]


def test_columns_of_many_models_of_files_and_of_estimators(tmp_path: Path) -> None:
    frame, y = pd.DataFrame(NUMBERS), [0, 1, 1]
    models = [named(), named(seed=1)]
    fb.fit_many(models, frame, y, verbose=0)
    with pytest.raises(ValueError, match="another order"):
        fb.fit_many(models, frame[["c", "b", "a"]], y, verbose=0)
    frame.assign(y=y).to_parquet(tmp_path / "t.parquet")
    frame[["c", "b", "a"]].assign(y=y).to_parquet(tmp_path / "turned.parquet")
    model = named()
    model.fit(tmp_path / "t.parquet", "y", verbose=0)
    for one in (model, models[0]):
        for task in (one.fit, one.evaluate):
            with pytest.raises(ValueError, match="another order"):
                task(tmp_path / "turned.parquet", "y", verbose=0)
    with pytest.raises(ValueError, match="another order"):
        model.predict(frame[["c", "b", "a"]])
    for kind in (MLPClassifier, TheirClassifier):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = kind((4,), max_iter=2).fit(frame, y)
        assert fb.from_sklearn(estimator).column_names == ["a", "b", "c"]


def test_a_target_of_dates_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "when": pd.to_datetime(["2026-01-01", "2026-01-02"])})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column 'when' of t\.parquet holds dates; wanted numbers or text"):
        load(tmp_path / "t.parquet", mixed=True)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_nulls_and_text_are_refused_by_the_column_s_name(make: Any) -> None:
    gaps = make({"fine": [1.0, 2.0, 3.0], "holey": [1, None, None]})
    with pytest.raises(ValueError, match=r"'holey'.*(missing values|nan)|nan at row 1 of column 'holey'"):
        as_matrix(gaps, np.float32)
    with pytest.raises(TypeError, match=r"column 'town' of x holds 'Rome' \(str\)|column 'town' of x holds text"):
        as_matrix(make({"fine": [1.0, 2.0], "town": ["Rome", "Oslo"]}), np.float32)


@pytest.mark.parametrize("kind", [pl.Struct({"x": pl.Float64, "y": pl.Float64}), pl.Array(pl.Float64, 2)])
def test_columns_of_several_values_a_row_are_refused_by_name(kind: Any) -> None:
    pairs = pl.Series([{"x": 1.0, "y": 2.0}] * 3 if kind == pl.Struct else [[1.0, 2.0]] * 3, dtype=kind)
    with pytest.raises(TypeError, match="column 'pair' of x holds several values a row"):
        as_matrix(pl.DataFrame({"fine": [1.0, 2.0, 3.0], "pair": pairs}), np.float32)


def test_arrays_by_dlpack_and_the_array_api() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert np.shares_memory(as_matrix(Capsule(array), np.float32), array)
    np.testing.assert_array_equal(as_matrix(array_api_strict.asarray(array), np.float64), array)


class Tensor:
    """What a tensor of PyTorch shows."""

    __module__ = "torch"

    def __init__(self, array: np.ndarray, device: str = "cpu", dtype: str = "torch.float32", grad: bool = True) -> None:
        self.array, self.device, self.dtype, self.grad = array, device, dtype, grad

    def detach(self) -> "Tensor":
        return Tensor(self.array, self.device, self.dtype, False)

    def float(self) -> "Tensor":
        return Tensor(self.array.astype(np.float32), self.device, "torch.float32", self.grad)

    def numpy(self) -> np.ndarray:
        assert not self.grad and self.device == "cpu" and self.dtype != "torch.bfloat16"
        return self.array


def test_tensors_are_read_where_they_are() -> None:
    array = np.ones((3, 2), np.float32)
    assert as_matrix(Tensor(array), np.float32) is array
    assert as_matrix(Tensor(array, dtype="torch.bfloat16"), np.float32).shape == (3, 2)
    with pytest.raises(TypeError, match=r"x is a tensor on cuda:0; .* pass x.cpu\(\)"):
        as_matrix(Tensor(array, "cuda:0"), np.float32)


def test_with_pytorch_itself() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency; the class above stands for it")
    x = torch.ones((3, 2), requires_grad=True)
    assert as_matrix(x, np.float32).ctypes.data == x.data_ptr()
    np.testing.assert_array_equal(as_matrix(x.bfloat16(), np.float32), np.ones((3, 2)))


ROWS, COLUMNS = 40_000, 50
SOURCE = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
DICT = {f"c{j}": SOURCE[:, j].copy() for j in range(COLUMNS)}


def added(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose columns don't lie in one block."""
    return frame.assign(more=1.0).drop(columns="c0")


@pytest.mark.parametrize(
    "table",
    [np.asfortranarray(SOURCE), pd.DataFrame(DICT), added(pd.DataFrame(DICT)), pl.DataFrame(DICT), pa.table(DICT)],
    ids=["fortran", "pandas", "pandas of blocks", "polars", "arrow"],
)
def test_float64_frames_are_staged_without_a_second_copy(table: Any) -> None:
    tracemalloc.start()
    try:
        staged = as_matrix(table, np.float32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert staged.shape == (ROWS, COLUMNS)
    assert peak < 1.2 * staged.nbytes, "a second copy in float64 would be twice as much"


# ---------------------------------------------------------------- numbers and text


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pl.DataFrame, pa.table, dict], ids=["pandas", "polars", "arrow", "dict"]
)
def test_mixed_frames(make: Any) -> None:
    frame = as_frame(make({"n": [1, None, 3], "t": ["x", None, "y"], "b": [True, False, None]}))
    np.testing.assert_array_equal(frame.columns[0], [1, np.nan, 3])
    assert frame.columns[1].tolist() == ["x", None, "y"]
    np.testing.assert_array_equal(frame.columns[2].astype(float), [1, 0, np.nan])
    assert frame[np.array([2, 0])].columns[1].tolist() == ["y", "x"]


def test_categories_that_are_numbers_are_text() -> None:
    for values, names in (([3, 1, 3], ["3", "1", "3"]), ([1.0, 2.5, 1.0], ["1", "2.5", "1"])):
        assert as_frame(pd.DataFrame({"t": pd.Categorical(values)})).columns[0].tolist() == names
        assert as_frame(pa.table({"t": pa.array(values).dictionary_encode()})).columns[0].tolist() == names
    assert as_frame(pd.DataFrame({"t": pd.Categorical([1, None])})).columns[0].tolist() == ["1", None]
    names = fb.TabularEncoder().fit(pd.DataFrame({"t": pd.Categorical([3, 1])})).feature_names_out_
    assert names == ["t=1", "t=3"]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_decimals_are_numbers(make: Any) -> None:
    table = make({"price": [Decimal("1.25"), None, Decimal("7")]})
    np.testing.assert_array_equal(as_frame(table).columns[0], [1.25, np.nan, 7.0])
    np.testing.assert_array_equal(as_matrix(make({"price": [Decimal("1.25")]}), np.float32), [[1.25]])


def test_categories_are_text() -> None:
    values = ["x", "y", "x"]
    for column in (pd.Categorical(values), pa.array(values).dictionary_encode()):
        make = pa.table if isinstance(column, pa.Array) else pd.DataFrame
        assert as_frame(make({"t": column})).columns[0].tolist() == values
    assert as_frame(pl.DataFrame({"t": pl.Series(values, dtype=pl.Categorical)})).columns[0].tolist() == values


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (pd.DataFrame({"day": pd.to_datetime(["2020-01-01"])}), TypeError, "column 'day' of x holds dates"),
        (pd.DataFrame({"odd": [[1], [2]]}), TypeError, r"column 'odd' of x holds \[1\] \(list\)"),
        (pd.DataFrame({"odd": ["a", 1]}), TypeError, "column 'odd' of x holds 'a' .* throughout"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "two columns named 'a'"),
        ({"a": [1, 2], "b": [1]}, ValueError, r"columns of \[1, 2\] rows"),
        ({"a": [[1, 2]]}, ValueError, r"column 'a' of x has shape \(1, 2\)"),
        (np.zeros(3), TypeError, r"x has shape \(3,\)"),
        (pl.DataFrame({"a": []}), ValueError, "rows; wanted the same, at least one"),
    ],
)
def test_what_is_no_table(table: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_frame(table)
