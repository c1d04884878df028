"""The border: whatever array comes in, the kernels see a checked one, or the user sees what is wrong with it."""

import decimal
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.stride_tricks import as_strided

from fastbp.data import staging
from fastbp.data.staging import MISSING_LABEL, Sample, as_matrix, as_targets, split_at

DTYPES = [
    *("float16", "float32", "float64", ">f2", ">f4", ">f8", "longdouble"),
    *("int8", "uint8", "int16", ">i2", "int32", "int64", ">i8", "uint64", "bool"),
]


def reference(x, dtype):
    """The plain way: NumPy's own cast."""
    return np.array(x).astype(dtype, order="C")


@st.composite
def matrices(draw):
    """A finite matrix in any type, order, byte order, stride and alignment, read-only or not."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    elements = (
        st.floats(-1e4, 1e4, width=16)
        if dtype.kind == "f"
        else st.booleans()
        if dtype.kind == "b"
        else st.integers(0, 99)
    )
    values = draw(hnp.arrays(dtype.newbyteorder("=") if dtype.kind == "f" else dtype, shape, elements=elements))
    values = values.astype(dtype)
    form = draw(st.sampled_from(["C", "F", "transposed", "reversed", "every second", "unaligned", "list", "broadcast"]))
    match form:
        case "F":
            values = np.asfortranarray(values)
        case "transposed":
            values = values.T
        case "reversed":
            values = values[::-1, ::-1]
        case "every second":
            values = np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)[::2, ::2]
        case "unaligned":
            memory = np.zeros(values.nbytes + 1, np.uint8)
            shifted = memory[1:].view(values.dtype).reshape(values.shape)
            shifted[...] = values
            values = shifted
        case "list":
            return values.tolist()
        case "broadcast":
            values = np.broadcast_to(values[:1], values.shape)
    if draw(st.booleans()):
        values = values.view()
        values.flags.writeable = False
    return values


@settings(max_examples=400, deadline=None)
@given(x=matrices(), dtype=st.sampled_from([np.float32, np.float64]), block=st.integers(1, 40))
def test_any_array_is_staged(x, dtype, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_BLOCK", block)
        staged = as_matrix(x, dtype)
    assert staged.dtype == dtype and staged.dtype.isnative
    assert staged.flags.c_contiguous and staged.flags.aligned
    assert staged.ctypes.data % staged.itemsize == 0
    np.testing.assert_array_equal(staged, reference(x, dtype))


@settings(max_examples=300, deadline=None)
@given(
    x=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-1e300, 1e300)),
    bad=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from([np.nan, np.inf, -np.inf])), max_size=4
    ),
    fortran=st.booleans(),
    block=st.integers(1, 40),
)
def test_nan_and_infinity_are_found_wherever_they_stand(x, bad, fortran, block):
    for row, column, value in bad:
        x[row % x.shape[0], column % x.shape[1]] = value
    cells = np.argwhere(~np.isfinite(x))
    x = np.asfortranarray(x) if fortran else x
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_BLOCK", block)
        if len(cells) == 0:
            np.testing.assert_array_equal(as_matrix(x, np.float64), x)
            return
        with pytest.raises(ValueError, match="NaN or infinity") as caught:
            as_matrix(x, np.float64)
    row, column = cells[0]
    assert f"{len(cells)} of {x.size} values, the first {x[row, column]} at x[{row}, {column}]" in str(caught.value)


def test_an_overflowing_sum_is_no_false_alarm():
    x = np.full((3, 4), np.finfo(np.float32).max)
    assert as_matrix(x, np.float32).dtype == np.float32
    x[1] *= -1
    np.testing.assert_array_equal(as_matrix(x, np.float64), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_that_fits_is_not_copied(dtype):
    x = np.ones((5, 3), dtype)
    assert as_matrix(x, dtype) is x
    x.flags.writeable = False
    assert as_matrix(x, dtype) is x
    y = np.ones((5, 1), dtype)
    assert as_targets(y, "dense", 1, dtype, rows=5) is y
    assert np.shares_memory(as_targets(y[:, 0], "probabilities", 1, dtype, rows=5), y)
    labels = np.zeros(5, np.int64)
    assert np.shares_memory(as_targets(labels, "labels", 2, dtype, rows=5), labels)


def test_the_input_is_left_alone():
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    as_matrix(x, np.float32)[...] = -1
    np.testing.assert_array_equal(x, np.arange(6).reshape(2, 3))


def test_values_too_large_for_float32():
    x = np.array([[1.0, 2.0], [-1e39, 3.0]])
    with pytest.raises(ValueError, match=r"x\[1, 0\] is -1e\+39, too large for float32 \(at most 3.4e\+38\).*float64"):
        as_matrix(x, np.float32)
    assert as_matrix(x, np.float64)[1, 0] == -1e39


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([["a", "b"]], "x holds text .the first: a.*wanted real numbers"),
        (np.array([[b"a"]]), "x holds text"),
        (np.array([["1.5"]]), "x holds text"),
        (np.zeros((2, 2), complex), "complex numbers; wanted real numbers: pass .real or .imag"),
        (np.array([["2020-01-01"]], "M8[D]"), "dates .the first: 2020-01-01"),
        (np.zeros((2, 2), "m8[s]"), "time spans"),
        (np.zeros((2, 2), "i4,f4"), "records"),
        (np.array([[1, 2], [3, object()]], object), r"x holds <object .* \(object\) at \[1, 1\]"),
        (np.array([[1, "2"]], object), r"x holds '2' \(str\) at \[0, 1\]"),
        (np.array([[1, 10**400]], object), r"\(int\) at \[0, 1\]"),
        (np.array([[1, 2j]], object), r"2j \(complex\)"),
        (None, "x is None; wanted a table of numbers"),
        ("data.csv", "x is text .'data.csv'."),
        ((v for v in [[1.0]]), "x is a generator"),
        ({"a": [1.0]}, "x is a dict"),
    ],
)
def test_no_numbers(x, message):
    with pytest.raises(TypeError, match=message):
        as_matrix(x, np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(5), r"one dimension, shape \(5,\).*x.reshape\(-1, 1\) for 5 rows of one column, x.reshape\(1, -1\)"),
        (np.zeros((2, 3, 4)), r"3 dimensions.*x.reshape\(len\(x\), -1\)"),
        (3.0, "0 dimensions"),
        (np.zeros((0, 4)), "it has no rows .0 rows; shape .0, 4.*"),
        (np.zeros((4, 0)), "it has no columns"),
        ([], "one dimension"),
        ([[]], "it has no columns"),
        ([[1, 2], [3]], r"x is ragged: x\[1\] has 1 values, x\[0\] has 2"),
        ([[1, None]], r"x contains NaN or infinity: 1 of 2 values, the first nan at x\[0, 1\]"),
        (np.ma.masked_equal([[1, 2]], 2), "1 masked values"),
    ],
)
def test_wrong_shapes_and_gaps(x, message):
    with pytest.raises(ValueError, match=message):
        as_matrix(x, np.float32)


def test_width():
    assert as_matrix([[1, 2]], np.float32, width=2).shape == (1, 2)
    with pytest.raises(ValueError, match=r"inputs has 2 columns, shape .1, 2.; the model takes 3 columns"):
        as_matrix([[1, 2]], np.float32, name="inputs", width=3)


def test_objects_that_are_numbers_and_masks_that_hide_nothing():
    x = np.array([[1, 2.5], [True, decimal.Decimal("0.5")]], object)
    np.testing.assert_array_equal(as_matrix(x, np.float32), [[1, 2.5], [1, 0.5]])
    np.testing.assert_array_equal(as_matrix(np.ma.array([[1.0, 2.0]]), np.float32), [[1, 2]])


# ---------------------------------------------------------------- frames


@pytest.fixture(params=["pandas", "polars"])
def frames(request):
    return pytest.importorskip(request.param)


@pytest.mark.parametrize(
    "columns",
    [
        {"a": [1.0, 2.0], "b": [3.0, 4.0]},
        {"a": [1, 2], "b": [0.5, 1.5]},
        {"a": [True, False], "b": [0.5, 1.5], "c": [3, 4]},
        {"a": [True, False]},
        {"a": np.array([1, 2], np.int8), "b": np.array([3, 4], np.uint64)},
    ],
)
def test_frames(frames, columns):
    frame = frames.DataFrame(columns)
    staged = as_matrix(frame, np.float32)
    assert staged.dtype == np.float32 and staged.flags.c_contiguous
    np.testing.assert_array_equal(staged, np.column_stack([np.asarray(c, float) for c in columns.values()]))
    np.testing.assert_array_equal(as_matrix(frame[::-1], np.float32), staged[::-1])


def test_frames_name_the_column(frames):
    with pytest.raises(TypeError, match=r"column 'city' of x holds 'Paris' \(str\) at \[0\]"):
        as_matrix(frames.DataFrame({"age": [1.0, 2.0], "city": ["Paris", "Rome"]}), np.float32)
    with pytest.raises(ValueError, match=r"NaN or infinity.* in row 1 of column 'b'|nan at row 1 of column 'b'"):
        as_matrix(frames.DataFrame({"a": [1.0, 2.0], "b": [1.0, np.nan]}), np.float32)
    with pytest.raises(ValueError, match=r"'b'.*NaN or infinity.*first in row 1|nan at row 1 of column 'b'"):
        as_matrix(frames.DataFrame({"a": [1, 2], "b": [1.0, np.nan]}), np.float32)
    with pytest.raises(ValueError, match="-inf at row 0 of column 'b'"):
        as_matrix(frames.DataFrame({"a": [1, 2], "b": [-np.inf, 1.0]}), np.float32)
    with pytest.raises(ValueError, match=r"row 1 of column 'b' is 1e\+39, too large"):
        as_matrix(frames.DataFrame({"a": [1, 2], "b": [0.0, 1e39]}), np.float32)


def test_pandas_nullable_and_repeated_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([1, None, None], "Int64"), "b": [1.0, 2.0, 3.0]})
    with pytest.raises(
        ValueError, match=r"column 'a' of x contains NaN or infinity: 2 missing values, the first in row 1"
    ):
        as_matrix(frame, np.float32)
    np.testing.assert_array_equal(as_matrix(frame[:1], np.float32), [[1, 1]])
    twice = pandas.DataFrame([[1, 2.5], [3, 4.5]], columns=["a", "a"])
    np.testing.assert_array_equal(as_matrix(twice, np.float64), twice.to_numpy())
    with pytest.raises(ValueError, match="it has no rows"):
        as_matrix(frame[:0], np.float32)


def test_polars_nulls():
    polars = pytest.importorskip("polars")
    with pytest.raises(
        ValueError, match=r"column 'a' of x contains NaN or infinity: 1 missing value, the first in row 1"
    ):
        as_matrix(polars.DataFrame({"a": [1, None], "b": [True, False]}), np.float32)


def test_series(frames):
    y = as_targets(frames.Series([1, 2]), "dense", 1, np.float32, rows=2)
    np.testing.assert_array_equal(y, [[1], [2]])
    labels = as_targets(frames.DataFrame({"y": [1, 0]}), "labels", 2, np.float32, rows=2)
    np.testing.assert_array_equal(labels, [1, 0])
    with pytest.raises(ValueError, match="y contains NaN or infinity: 1 missing value, the first in row 1"):
        as_targets(frames.Series([1, None]), "dense", 1, np.float32, rows=2)
    with pytest.raises(ValueError, match="one dimension"):
        as_matrix(frames.Series([1.0, 2.0]), np.float32)


# ---------------------------------------------------------------- targets


@settings(max_examples=200, deadline=None)
@given(y=matrices(), dtype=st.sampled_from([np.float32, np.float64]))
def test_dense_targets(y, dtype):
    rows, outputs = np.shape(y)
    wanted = reference(y, dtype)
    np.testing.assert_array_equal(as_targets(y, "dense", outputs, dtype, rows=rows), wanted)
    if outputs == 1:
        np.testing.assert_array_equal(as_targets(np.ravel(y), "dense", 1, dtype, rows=rows), wanted)


@settings(max_examples=200, deadline=None)
@given(
    labels=hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 6)),
    dtype=st.sampled_from([d for d in DTYPES if d != "bool"]),
    column=st.booleans(),
    step=st.sampled_from([1, 2, -1]),
)
def test_labels(labels, dtype, column, step):
    y = labels.astype(dtype)[::step]
    staged = as_targets(y.reshape(-1, 1) if column else y, "labels", 7, np.float32, rows=len(y))
    assert staged.dtype == np.int64 and staged.flags.c_contiguous and staged.shape == y.shape
    np.testing.assert_array_equal(staged, labels[::step])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 3], r"y\[2\] is 3: the model's last layer has 3 outputs, so class numbers go from 0 to 2"),
        ([0, 1, 3], r"go from 0 to 2: give that layer 4 outputs"),
        ([0, 1, 900], r"go from 0 to 2: number the classes from 0, np.unique\(y, return_inverse=True\)\[1\]"),
        ([1, 2, 3], r"y\[2\] is 3: .*: pass y - 1"),
        ([0, -1, 1], r"y\[1\] is -1"),
        ([0, 1.5, 1], r"y\[1\] is 1.5: class numbers are whole.*mean_squared_error"),
        ([0, np.nan, 1], r"y\[1\] is nan: NaN or infinity is no class"),
        ([0, 1, np.inf], r"y\[2\] is inf"),
        (np.array([0, 1, 2**63], np.uint64), r"y\[2\] is 9223372036854775808"),
        (np.eye(3), r"one column per class.*np.argmax\(y, axis=1\)"),
        (np.zeros((3, 2)), r"one class number per row, shape \(3,\)"),
        (np.zeros((3, 1, 1)), "one class number per row"),
        ([0, 1], r"y has shape \(2,\), but x has 3 rows"),
        (2, r"y has shape \(\), but x has 3 rows"),
    ],
)
def test_bad_labels(y, message):
    with pytest.raises(ValueError, match=message):
        as_targets(y, "labels", 3, np.float32, rows=3)


def test_text_labels_show_the_way():
    with pytest.raises(TypeError, match=r"y holds text .the first: cat.*np.unique\(y, return_inverse=True\)"):
        as_targets(["cat", "dog"], "labels", 2, np.float32, rows=2)


def test_boolean_labels():
    np.testing.assert_array_equal(as_targets([True, False], "labels", 2, np.float32, rows=2), [1, 0])
    with pytest.raises(ValueError, match=r"y\[0\] is True: the model's last layer has 1 output,"):
        as_targets([True, False], "labels", 1, np.float32, rows=2)


@pytest.mark.parametrize(
    ("y", "outputs", "message"),
    [
        (np.zeros((4, 2)), 2, "but x has 3 rows"),
        (np.zeros(3), 2, r"pass y of shape \(3, 2\); class numbers go with loss='sparse_categorical_crossentropy'"),
        (np.zeros((3, 1)), 2, r"y has shape \(3, 1\); the model's last layer wants \(3, 2\)"),
        (np.zeros((3, 2, 1)), 2, "wants"),
        ([0, np.nan, 1], 1, r"y contains NaN or infinity: 1 of 3 values, the first nan at y\[1\]"),
    ],
)
def test_bad_dense_targets(y, outputs, message):
    with pytest.raises(ValueError, match=message):
        as_targets(y, "dense", outputs, np.float32, rows=3)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=st.floats(-2, 2)))
def test_probabilities(y):
    bad = np.argwhere((y < 0) | (y > 1))
    if len(bad) == 0:
        np.testing.assert_array_equal(as_targets(y, "probabilities", y.shape[1], np.float64, rows=len(y)), y)
        return
    with pytest.raises(ValueError, match="wants targets from 0 to 1") as caught:
        as_targets(y, "probabilities", y.shape[1], np.float64, rows=len(y))
    assert str(caught.value).startswith(f"y[{bad[0][0]}, {bad[0][1]}] is ")


RANGES = {
    "not_negative": ([0.0, 1.5, 1e30], [-1.0, -1e-30], "targets of at least 0: leave those rows out"),
    "positive": ([1e-30, 1.0, 1e30], [0.0, -1.0], "targets above 0: leave those rows out"),
    "signs": ([-1.0, 1.0], [0.5, 2.0, 0.0], "targets -1 and 1, or 0 and 1: say which is which"),
}


@pytest.mark.parametrize("kind", RANGES)
def test_targets_of_a_range(kind):
    good, bad, words = RANGES[kind]
    y = np.array(good, np.float32)[:, None]
    assert as_targets(y, kind, 1, np.float32, rows=len(y)) is y
    gaps = np.append(y, np.float32(np.nan))[:, None]
    assert as_targets(gaps, kind, 1, np.float32, rows=len(gaps), missing=True) is gaps
    for value in bad:
        with pytest.raises(ValueError, match=rf"y\[{len(good)}\] is {value:g}; this loss wants {words}"):
            as_targets([*good, value], kind, 1, np.float32, rows=len(good) + 1)


def test_what_kernels_take_for_zero_is_not_positive():
    with pytest.raises(ValueError, match="this loss wants targets above 0"):
        as_targets([1.0, 1e-40], "positive", 1, np.float32, rows=2)
    as_targets([1.0, 1e-40], "positive", 1, np.float64, rows=2)


def test_zeros_and_ones_are_signs():
    y = np.array([[0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(as_targets(y, "signs", 2, np.float64, rows=2), [[-1.0, 1.0], [1.0, 1.0]])
    assert y.min() == 0
    ones = np.ones((3, 1))
    assert as_targets(ones, "signs", 1, np.float64, rows=3) is ones


# ---------------------------------------------------------------- validation split


@given(rows=st.integers(2, 200), share=st.floats(0.001, 0.999))
def test_validation_split_is_the_last_rows_by_keras_rule(rows, share):
    at = math.floor(rows * (1.0 - share))
    if at in (0, rows):
        with pytest.raises(ValueError, match=f"of {rows} rows leaves {at} to train on"):
            split_at(rows, share)
        return
    assert split_at(rows, share) == at


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, np.nan, True, "0.1"])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match=r"validation_split is .*between 0 and 1"):
        split_at(4, share)


def test_parts_of_a_sample_are_views():
    arrays = [np.arange(12.0).reshape(6, 2), np.arange(6), np.ones(6), np.zeros(6)]
    x, y, weights, present = arrays
    part = Sample(x, y, weights=weights, present=present).part(slice(2, 5))
    for got, whole in zip((part.x, part.y, part.weights, part.present), arrays, strict=True):
        np.testing.assert_array_equal(got, whole[2:5])
        assert np.shares_memory(got, whole)
    some = Sample(x, y, rows=np.array([3, 1, 1])).first(2)
    assert len(some) == 2 and some.rows.tolist() == [3, 1]


# ---------------------------------------------------------------- missing targets


@pytest.mark.parametrize(
    "make",
    [
        np.array,
        list,
        lambda y: pytest.importorskip("pandas").Series(y),
        lambda y: pytest.importorskip("pandas").array(y, dtype="Float64"),
        lambda y: pytest.importorskip("polars").Series([None if v != v else v for v in y]),
    ],
)
def test_targets_may_be_missing_where_that_is_asked_for(make):
    y = make([1.0, np.nan, 3.0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        as_targets(y, "dense", 1, np.float64, rows=3)
    np.testing.assert_array_equal(as_targets(y, "dense", 1, np.float64, rows=3, missing=True)[:, 0], [1, np.nan, 3])
    labels = as_targets(y, "labels", 4, np.float64, rows=3, missing=True)
    assert labels.dtype == np.int64 and labels.tolist() == [1, MISSING_LABEL, 3]


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        ([np.nan, np.inf], "dense", r"y contains NaN or infinity: .*first inf at y\[1\]"),
        ([np.nan, 1e300], "dense", r"y\[1\] is 1e\+300, too large for float32"),
        ([np.nan, 2.0], "probabilities", r"y\[1\] is 2; this loss wants targets from 0 to 1"),
        ([np.nan, 7.0], "labels", r"y\[1\] is 7\.0: .*from 0 to 0"),
    ],
)
def test_what_is_not_missing_is_still_checked(y, kind, message):
    with pytest.raises(ValueError, match=message):
        as_targets(y, kind, 1, np.float32, rows=2, missing=True)


def test_overlapping_strides_are_read_through_a_copy():
    x = as_strided(np.arange(6, dtype=np.float32), (4, 3), (4, 4))
    staged = as_matrix(x, np.float32)
    assert not np.shares_memory(staged, x)
    np.testing.assert_array_equal(staged, [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]])
