"""`TabularEncoder`: numbers standardised, categories one-hot, gaps filled and flagged; the same again from a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp as fb
from fastbp.data.tabular import CategoryColumn, NumberColumn
from fastbp.estimators import MLPClassifier

TABLE = pd.DataFrame(
    {
        "age": [20.0, 40.0, np.nan, 60.0],
        "town": ["Rome", "Oslo", None, "Rome"],
        "fixed": [7, 7, 7, 7],
        "sex": ["f", "m", "m", "f"],
    }
)
NAMES = ["age", "age is missing", "town=Oslo", "town=Rome", "town is missing", "fixed", "sex=f", "sex=m"]


def test_what_columns_become() -> None:
    encoder = fb.TabularEncoder()
    got = encoder.fit_transform(TABLE)
    assert encoder.feature_names_out_ == NAMES and encoder.feature_names_in_ == list(TABLE)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    z = (np.array([20.0, 40.0, 40.0, 60.0]) - 40.0) / np.sqrt(800 / 3)
    wanted = np.column_stack(
        [z, [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0], [0] * 4, [1, 0, 0, 1], [0, 1, 1, 0]]
    )
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert encoder.columns_[2] == NumberColumn("fixed", 7.0, 1.0)
    assert repr(encoder) == "TabularEncoder(4 columns -> 8)"


def test_columns_are_found_by_name_and_rows_chosen() -> None:
    encoder = fb.TabularEncoder().fit(TABLE)
    moved = TABLE[["sex", "fixed", "town", "age"]].assign(more="x")
    np.testing.assert_array_equal(encoder.transform(moved), encoder.transform(TABLE))
    rows = np.array([3, 0])
    np.testing.assert_array_equal(encoder.transform(TABLE, rows=rows), encoder.transform(TABLE)[rows])


def test_the_mean_is_of_the_rows_named() -> None:
    encoder = fb.TabularEncoder().fit(TABLE, rows=np.array([0, 1]))
    assert encoder.columns_[0] == NumberColumn("age", 30.0, 10.0, True)  # gaps elsewhere are known too
    assert encoder.transform(TABLE).shape == (4, len(NAMES))


def test_rare_categories_share_a_column() -> None:
    table = {"c": ["a"] * 3 + ["b"] * 2 + ["d", "e"]}
    encoder = fb.TabularEncoder(max_categories=2).fit(table)
    assert encoder.columns_ == [CategoryColumn("c", ["a", "b"], other=True)]
    np.testing.assert_array_equal(encoder.transform({"c": ["b", "e", "new"]}), [[0, 1, 0], [0, 0, 1], [0, 0, 1]])


def test_numbers_may_name_categories() -> None:
    encoder = fb.TabularEncoder(categorical=["code"]).fit({"code": [3, 1, 3], "x": [1.0, 2.0, 3.0]})
    assert encoder.feature_names_out_ == ["code=1", "code=3", "x"]
    np.testing.assert_array_equal(encoder.transform({"code": [1.0], "x": [2.0]}), [[1, 0, 0]])


def test_what_training_did_not_see() -> None:
    encoder = fb.TabularEncoder().fit({"n": [1.0, 2.0], "c": ["a", "b"]})
    new = {"n": [1.0, np.nan, np.inf], "c": ["a", "z", None]}
    places = [(problem.row, problem.column) for problem in encoder.problems(new)]
    assert places == [(1, "c"), (1, "n"), (2, "c"), (2, "n")]
    with pytest.raises(
        ValueError, match=r"row 1, column 'c': 'z' is a category that training didn't see \(it saw 'a', 'b'"
    ):
        encoder.transform({"n": [1.0, 1.0], "c": ["a", "z"]})
    with pytest.raises(ValueError, match=r"row 1, column 'n': is empty, which it never was in training"):
        encoder.transform({"n": [1.0, np.nan], "c": ["a", "a"]})
    with pytest.raises(ValueError, match=r"row 0, column 'n': is infinite"):
        encoder.transform({"n": [-np.inf], "c": ["a"]})
    lenient = fb.TabularEncoder(unknown="ignore").fit({"n": [1.0, 3.0], "c": ["a", "b"]})
    np.testing.assert_array_equal(lenient.transform({"n": [np.nan], "c": ["z"]}), [[0, 0, 0]])


@pytest.mark.parametrize(
    ("options", "table", "message"),
    [
        ({}, {"a": [np.nan, np.nan], "b": [1, 2]}, "column 'a' holds only missing values"),
        ({}, {"a": [None, None], "b": ["x", None]}, "column 'a' holds only missing values"),
        ({}, {"a": [1.0, np.inf]}, "column 'a' holds infinity"),
        ({"categorical": ["no"]}, {"a": [1.0]}, "categorical names 'no', which is no column: a"),
    ],
)
def test_what_cannot_be_learned(options: Any, table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fb.TabularEncoder(**options).fit(table)


def test_options_and_order_are_checked() -> None:
    with pytest.raises(ValueError, match="max_categories"):
        fb.TabularEncoder(0)
    with pytest.raises(ValueError, match='"error" or "ignore"'):
        fb.TabularEncoder(unknown="drop")
    with pytest.raises(NotFittedError, match="isn't fitted"):
        fb.TabularEncoder().transform(TABLE)
    encoder = fb.TabularEncoder().fit(TABLE)
    with pytest.raises(ValueError, match=r"lacks 1 of 4 columns, first 'age' \(is it 'agee'\?\)"):
        encoder.transform(TABLE.rename(columns={"age": "agee"}))
    with pytest.raises(ValueError, match="matrix has 2 columns; the encoder was fitted to 4"):
        encoder.transform(np.zeros((3, 2)))


def test_it_is_kept_in_the_model_file(tmp_path: Path) -> None:
    encoder = fb.TabularEncoder()
    x, y = encoder.fit_transform(TABLE), [0, 1, 1, 0]
    model = fb.Model([fb.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, verbose=0)
    model.meta.update(encoder.to_meta())
    model.save(tmp_path / "m.fastbp")
    again = fb.load_model(tmp_path / "m.fastbp")
    found = fb.TabularEncoder.from_meta(again.meta)
    np.testing.assert_array_equal(again.predict(found.transform(TABLE)), model.predict(x))
    with pytest.raises(ValueError, match="holds no encoder"):
        fb.TabularEncoder.from_meta({})


cells = st.one_of(st.none(), st.sampled_from(["a", "b", "ä ö", "1", ""]))
numbers = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 9), block=st.integers(1, 5))
def test_any_table_comes_through_a_file(data: st.DataObject, rows: int, block: int) -> None:
    text = data.draw(st.lists(cells, min_size=rows, max_size=rows).filter(any))
    number = data.draw(st.lists(numbers, min_size=rows, max_size=rows).filter(lambda c: not np.isnan(c).all()))
    table = {"t": np.array([*text, None], object)[:-1], "n": number}
    encoder = fb.TabularEncoder(max_categories=2).fit(table)
    again = fb.TabularEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder
    got = encoder.transform(table, np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastbp.data.tabular._BLOCK", block)
        np.testing.assert_array_equal(again.transform(table, np.float64), got)
    category, last = encoder.columns_[0], len(encoder.columns_[0].names_out)
    assert isinstance(category, CategoryColumn)
    assert (got[:, :last].sum(axis=1) == 1).all()
    known = ~np.isnan(number)
    assert abs(got[known, last].mean()) < 1e-6 and (got[~known, last] == 0).all()
    if not known.all():
        np.testing.assert_array_equal(got[:, last + 1], ~known)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_step_of_a_pipeline() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=60), "town": rng.choice(["Rome", "Oslo", "Ulm"], 60)})
    frame.loc[::7, "size"] = np.nan
    steps = make_pipeline(
        fb.TabularEncoder(unknown="ignore"), MLPClassifier((4,), learning_rate_init=0.05, max_iter=30, random_state=0)
    )
    grid = {"tabularencoder__max_categories": [1, 3], "tabularencoder__categorical": [[], ["town"]]}
    search = GridSearchCV(steps, grid, cv=3, error_score="raise").fit(frame, frame["town"])
    assert search.best_params_["tabularencoder__max_categories"] == 3 and search.best_score_ > 0.8
    names = search.best_estimator_[:-1].get_feature_names_out()
    assert names.tolist() == ["size", "size is missing", "town=Oslo", "town=Rome", "town=Ulm"]
    copy = clone(search.best_estimator_[0])
    assert copy.get_params() == search.best_estimator_[0].get_params() and repr(copy) == "TabularEncoder()"
    with pytest.raises(NotFittedError):
        clone(steps).predict(frame)


def test_results_are_frames_where_they_are_asked_for() -> None:
    wanted = fb.TabularEncoder().fit_transform(TABLE)
    table = TABLE.set_axis([7, 5, 3, 1])
    encoder = clone(fb.TabularEncoder().set_output(transform="pandas"))
    found = encoder.fit_transform(table)
    assert list(found) == NAMES and list(found.index) == [7, 5, 3, 1]
    np.testing.assert_array_equal(found, wanted)
    assert encoder.set_output().set_output(transform="polars").transform(TABLE).columns == NAMES
    assert isinstance(encoder.set_output(transform="default").transform(TABLE), np.ndarray)
    with config_context(transform_output="pandas"):
        steps = make_pipeline(fb.TabularEncoder(), StandardScaler())
        assert [name.split("__")[-1] for name in steps.fit_transform(TABLE)] == NAMES
        assert isinstance(encoder.transform(TABLE), np.ndarray)  # its own word goes before
    assert (
        list(
            make_pipeline(fb.TabularEncoder(), StandardScaler())
            .set_output(transform="pandas")
            .fit(TABLE)
            .transform(TABLE)
        )
        == NAMES
    )
    with pytest.raises(ValueError, match='must be "default", "pandas" or "polars"'):
        encoder.set_output(transform="numpy")


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_text_where_numbers_were_is_named(make: Any) -> None:
    encoder = fb.TabularEncoder().fit(make({"size": [1.0, 3.0], "town": ["x", "y"]}))
    odd = make({"size": ["2", "two", "3"], "town": ["x", "z", "y"]})
    text = "'two' is text, and was a number in training: correct it"
    assert ("size", text) in [(problem.column, problem.text) for problem in encoder.problems(odd)]
    with pytest.raises(ValueError, match=f"row 1, column 'size': {text}"):
        encoder.transform(odd)
    np.testing.assert_array_equal(encoder.transform(make({"size": ["2"], "town": ["x"]})), [[0, 1, 0]])


def test_wrong_parameters_leave_the_old_ones() -> None:
    encoder = fb.TabularEncoder(max_categories=5)
    with pytest.raises(ValueError, match="no parameter 'most'; there are max_categories, categorical, unknown, codes"):
        encoder.set_params(most=3)
    with pytest.raises(ValueError, match="unknown must be"):
        encoder.set_params(max_categories=7, unknown="drop")
    assert encoder.get_params() == fb.TabularEncoder(5).get_params()
