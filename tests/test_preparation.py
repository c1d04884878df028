"""Rows held out, columns standardised, classes named: what the command line does to a table before and after."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastbp.data import tabular
from fastbp.data.preparation import Preparation, held_out
from fastbp.data.readers import Dataset


@settings(deadline=None)
@given(
    y=hnp.arrays(np.int64, st.integers(1, 120), elements=st.integers(0, 5)),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
    stratify=st.booleans(),
)
def test_held_out_rows(y, fraction, seed, stratify):
    try:
        train, test = held_out(y, fraction, seed=seed, stratify=stratify)
    except ValueError as error:
        assert fraction > 0 and "holds out none" in str(error)
        assert stratify or len(y) == 1 or round(fraction * len(y)) == 0
        return
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(y)))
    assert len(train) > 0 and (len(test) > 0) == (fraction > 0)
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    np.testing.assert_array_equal(held_out(y, fraction, seed=seed, stratify=stratify)[1], test)
    for group in [y == c for c in np.unique(y)] if stratify else [np.ones(len(y), bool)]:
        taken, size = group[test].sum(), group.sum()
        assert taken < size
        assert abs(taken - fraction * size) <= 1 or taken == size - 1


def test_held_out_rows_are_drawn_by_seed():
    y = np.arange(1000)
    draws = [tuple(held_out(y, 0.3, seed=seed)[1]) for seed in range(5)]
    assert len(set(draws)) == 5
    assert [len(d) for d in draws] == [300] * 5
    share_of_first_half = np.mean([np.mean(np.array(d) < 500) for d in draws])
    assert 0.4 < share_of_first_half < 0.6


def test_each_class_is_held_out_by_its_share():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    _, test = held_out(y, 0.2, stratify=True)
    np.testing.assert_array_equal(np.bincount(y[test]), [10, 6, 4])
    with pytest.raises(ValueError, match=r"a share of .* of 3 rows holds out none"):
        held_out(np.arange(3), 0.2, stratify=True)


def table(x, y, classes=None):
    return Dataset("t", np.asarray(x), np.asarray(y), [f"f{j}" for j in range(len(x[0]))], "t", classes)


@settings(deadline=None)
@given(
    x=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    block=st.integers(1, 20),
    data=st.data(),
)
def test_columns_are_standardised_by_the_training_rows(x, block, data):
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(x) - 1), min_size=1))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabular, "_BLOCK", block)
        this = Preparation.of(table(x, x[:, 0].astype(float)), rows)
        inputs = this.inputs(x, np.float64, rows)
        whole = this.inputs(x, np.float32)
    used = x[rows].astype(np.float64)
    spread = np.ptp(used, axis=0)
    mean, scale = ([getattr(column, part) for column in this.encoder.columns_] for part in ("mean", "scale"))
    np.testing.assert_allclose(mean, used.mean(axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(scale, np.where(spread == 0, 1, used.std(axis=0)), rtol=1e-9)
    np.testing.assert_allclose(inputs, (used - mean) / scale)
    assert (inputs[:, spread == 0] == 0).all()
    assert whole.dtype == np.float32 and whole.shape == x.shape
    np.testing.assert_allclose(whole[rows], inputs, rtol=1e-6)


def test_targets_and_answers_of_a_regression():
    y = np.array([10.0, 20.0, 30.0, 1000.0])
    this = Preparation.of(table([[1.0], [2.0], [3.0], [4.0]], y), np.array([0, 1, 2]))
    targets = this.targets(y, np.float32)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets[:3], [-1.224745, 0, 1.224745], rtol=1e-6)
    np.testing.assert_allclose(this.answers(targets[:, None]), y, rtol=1e-6)
    score = this.score(this.targets(y, np.float64)[:, None], y + 3)
    assert score["rows"] == 4
    assert score["mae"] == pytest.approx(3)
    assert score["r2"] == pytest.approx(1 - 4 * 9 / (((y - y.mean()) ** 2).sum()))
    assert this.score(targets[:1, None], y[:1])["r2"] is None


def test_targets_and_answers_of_a_classification():
    y = np.array([1, 0, 1])
    this = Preparation.of(table([[1.0], [2.0], [3.0]], y, ["no", "yes"]), np.arange(3))
    assert this.targets(y, np.float32) is y
    outputs = np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]], np.float32)
    np.testing.assert_array_equal(this.answers(outputs), [1, 1, 1])
    assert this.score(outputs, y) == {"rows": 3, "accuracy": 2 / 3, "correct": 2}


def test_a_column_too_large_to_standardise():
    x = np.array([[1.0, 1e200], [2.0, -1e200]])
    with pytest.raises(ValueError, match="t: column 'f1' holds infinity, or values too large to standardise"):
        Preparation.of(table(x, [0.0, 1.0]), np.arange(2))


def test_tables_of_the_first_model_files():
    old = {"features": ["a", "b"], "target": "t", "classes": None, "mean": [1.0, 2.0], "scale": [2.0, 4.0]}
    this = Preparation.from_meta({"table": old | {"target_mean": 5.0, "target_scale": 3.0}}, "m")
    assert this.features == ["a", "b"]
    np.testing.assert_array_equal(this.inputs(np.array([[3.0, 6.0]]), np.float32), [[1.0, 1.0]])
    np.testing.assert_array_equal(this.answers(np.array([[1.0]])), [8.0])
    with pytest.raises(ValueError, match="m says nothing sound of the table"):
        Preparation.from_meta({"table": old | {"mean": [1.0]}}, "m")


def test_meta_round_trip_and_damage():
    this = Preparation.of(table([[1.0], [2.0]], [0, 1], ["a", "b"]), np.arange(2))
    meta = json.loads(json.dumps(this.to_meta()))
    assert Preparation.from_meta(meta, "m") == this
    assert Preparation.from_meta(replace(this, classes=None).to_meta(), "m").classes is None
    with pytest.raises(ValueError, match="m was saved from Python, without the names and the scaling"):
        Preparation.from_meta({}, "m")
    number = {"kind": "number", "name": "f0", "mean": 1.5, "scale": 0.5, "missing": False}
    assert meta["table"]["encoder"]["columns"] == [number]
    columns = [{**number, "scale": 0.0}, {**number, "mean": None}, {**number, "kind": "date"}, {**number, "more": 1}]
    encoders: list[object] = [{**meta["table"]["encoder"], "columns": [column]} for column in columns]
    for change in ({"encoder": encoder} for encoder in [*encoders, None, {}]):
        with pytest.raises(ValueError, match="m says nothing sound of the table"):
            Preparation.from_meta({"table": meta["table"] | change}, "m")
    for change in ({"target_scale": "x"}, {"other": 1}):
        with pytest.raises(ValueError, match="m says nothing sound of the table"):
            Preparation.from_meta({"table": meta["table"] | change}, "m")
    with pytest.raises(ValueError, match="says nothing sound"):
        Preparation.from_meta({"table": None}, "m")
