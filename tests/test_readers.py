"""Files and named data sets: what is in them comes out, and what is wrong with them is named."""

import csv
import gzip
import io
import os
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp.data import readers
from fastbp.data.readers import load


@pytest.fixture
def table(tmp_path):
    """Write text (or bytes) to a file and give its path."""

    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


IRIS = "length,width,species\n5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n5.9,3.0,virginica\n"


def check_iris(data):
    np.testing.assert_array_equal(data.x, [[5.1, 3.5], [4.9, 3.0], [6.2, 2.9], [5.9, 3.0]])
    np.testing.assert_array_equal(data.y, [0, 0, 1, 1])
    assert data.y.dtype == np.int64
    assert (data.feature_names, data.target_name) == (["length", "width"], "species")
    assert data.classes == ["setosa", "virginica"]


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize(
    "content",
    [
        IRIS,
        IRIS.removesuffix("\n"),
        "\ufeff" + IRIS,
        IRIS.replace("\n", "\r\n"),
        IRIS.replace(",", ";"),
        IRIS.replace(",", "\t"),
        IRIS.replace(",", ", "),
        IRIS.replace("\n", "\n\n"),
        "\n" + IRIS,
        "# " + IRIS,
        IRIS.replace("setosa", '"setosa"').replace("length", '"length"').replace("5.1", '"5.1"'),
        IRIS.replace("length", '"length"'),
    ],
)
def test_spellings_of_one_table(table, content):
    check_iris(load(table(content)))
    check_iris(load(str(table(gzip.compress(content.encode()), "data.csv.gz"))))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("head", ["a;b;y\n", ""])
def test_decimal_commas_beside_semicolons(table, head, mixed):
    data = readers.load(table(head + "1;-2,5;3,25\n1,5;2;-4e0\n7;1,25e1;3\n"), task="regression", mixed=mixed)
    assert data.x.tolist() == [[1, -2.5], [1.5, 2], [7, 12.5]] and data.y.tolist() == [3.25, -4, 3]


def test_an_arrow_stream(table, tmp_path):
    path = tmp_path / "t.arrows"
    rows = pa.table({"a": [1.0, 2.0, 3.0], "y": [1.5, 2.5, 3.5]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows)
    for name in ("t.arrows", "t.arrow"):
        data = readers.load(path.rename(tmp_path / name))
        assert data.x.tolist() == [[1], [2], [3]] and data.y.tolist() == [1.5, 2.5, 3.5]
        path = tmp_path / name


def test_quoted_delimiters_and_line_breaks(table):
    text = '"length, in ""mm""","wid\nth",y\n1,2,"a,\nb"\n3,4,c\n'
    data = load(table(text))
    assert data.feature_names == ['length, in "mm"', "wid\nth"]
    assert data.classes == ["a,\nb", "c"]
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4]])


@pytest.mark.parametrize("target", ["length", 0, "0", -3, "-3"])
def test_target_by_name_or_position(table, target):
    data = load(table("length,width,height\n1,2,3.5\n4,5,6.5\n"), target)
    assert (data.target_name, data.feature_names, data.classes) == ("length", ["width", "height"], None)
    np.testing.assert_array_equal(data.x, [[2, 3.5], [5, 6.5]])
    np.testing.assert_array_equal(data.y, [1, 4])


def test_a_name_goes_before_a_position(table):
    assert load(table("1,0,y\n1.5,2.5,3.5\n"), "0").target_name == "0"


def test_without_a_header(table):
    data = load(table("5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n"))
    assert (data.feature_names, data.target_name) == (["column0", "column1"], "column2")
    assert data.classes == ["setosa", "virginica"]
    assert len(data.x) == 3
    assert len(load(table("1,2\n3,4\n")).x) == 2
    assert len(load(table("1,2\n")).x) == 1


def test_header_of_numbers_above_a_text_column_name(table):
    data = load(table("0,1,target\n5.5,2.5,3.5\n"))
    assert (data.feature_names, data.target_name) == (["0", "1"], "target")


def test_a_column_of_row_numbers_is_no_input(table):
    data = load(table(",a,y\n0,5.5,1.5\n1,6.5,2.5\n2,7.5,3.5\n"))
    assert data.feature_names == ["a"]
    assert load(table(",a,y\n7,5.5,1.5\n9,6.5,2.5\n")).feature_names == ["column0", "a"]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0, 1, 0, 1], ["0", "1"]),
        ([3, 3, 7, 7], ["3", "7"]),
        (["1.0", "2.0", "1.0", "2.0"], ["1", "2"]),
        ([-1, 1, -1, 1], ["-1", "1"]),
        ([0, 1, 2, 3], None),
        ([0, 0.5, 0, 0.5], None),
        (["b", "a", "b", "a"], ["a", "b"]),
        (["True", "False", "True", "False"], ["False", "True"]),
        ([*range(20)] * 2, [str(i) for i in range(20)]),
        ([*range(21)] * 2, None),
    ],
)
def test_the_task_follows_from_the_target(table, values, classes):
    data = load(table("x,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values))))
    assert data.classes == classes
    if classes is None:
        np.testing.assert_array_equal(data.y, np.array(values, float))
    else:
        assert [data.classes[i] for i in data.y] == [str(v).removesuffix(".0") for v in values]


def test_the_task_can_be_chosen(table):
    numbers = table("x,y\n1,3\n2,3\n3,5\n4,5\n")
    data = load(numbers, task="regression")
    assert data.classes is None and data.y.dtype == np.float64
    data = load(table("x,y\n1,0.5\n2,1\n3,2\n"), task="classification")
    assert data.classes == ["0.5", "1", "2"]
    data = load(table("x,y\n1,7\n2,unknown\n"), task="classification")
    assert data.classes == ["7", "unknown"]
    with pytest.raises(ValueError, match="line 2, column 'y': 'a' is not a finite number"):
        load(table("x,y\n1,a\n2,b\n"), task="regression")
    with pytest.raises(ValueError, match="task is 'ranking'; wanted"):
        load(numbers, task="ranking")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data.csv: is empty"),
        ("\n\n", "data.csv: is empty"),
        ("a,b,y\n", "has a header line but no rows"),
        ("a,b,y\n1,2,3\n1,two,3\n", "line 3, column 'b': 'two' is not a finite number: encode .* or ignore it"),
        ("a,b,y\n1,2,3\n\n\n1,,3\n", "line 5, column 'b': '' is not a finite number: fill it or drop the line"),
        ("a,b,y\n1,2,3\n1,NA,3\n", "line 3, column 'b': 'NA' .* fill it"),
        ("a,b,y\n1,2,3\nnan,2,3\n", "line 3, column 'a': 'nan' .* fill it"),
        ("a,b,y\n1,2,3\n1,2,-inf\n", "line 3, column 'y': '-inf'"),
        ("a,b,y\n1,2,3\n1,1_0,3\n", "line 3, column 'b': '1_0'"),
        ("a\tb\ty\n1\t2\t3\n1\t2,5\t3\n", "line 3, column 'b': '2,5' .* write decimals with a point"),
        ("a;b;y\n1;2;3\n1;2,5;x\n", "line 3, column 'y': 'x' is not a finite number"),
        ("a,b,y\n1,2,3\n1,2\n", "line 3 has 2 values, the first line has 3"),
        ("a,b,y\n1,2,3\n1,2,3,4\n", "line 3 has 4 values, the first line has 3"),
        ("a,b,y\n1,2\n", "line 2 has 2 values, the first line has 3"),
        ("a,b,y\n1,2,dog\n1,2,3,cat\n", "line 3 has 4 values"),
        ("a,b,y\n1,2,dog\n1,x,cat\n", "line 3, column 'b': 'x'"),
        ("1,2,3\n1,2\n", "line 2 has 2 values"),
        ("a,y\n1,2\n2,3\n4,dog\n", "line 4, column 'y': 'dog' is not a finite number"),
        (
            "a,y\n1,dog\n2,cat\n\n4,7\n5,dog\n",
            "line 2, column 'y': 'dog' is text in a column with numbers.*classification",
        ),
        ("a,y\n1,dog\n2,\n", "line 3, column 'y' is empty"),
        ("a,y\n1,dog\n2,NA\n", "line 3, column 'y' is 'NA', which stands for nothing: fill it or drop the line"),
        ('a,b,y\n1,2,3\n4,"5\n6,7,8\n', r"line 3 has 2 values.*quote in it is closed 2 lines below, or never"),
        ('a,b,y\n1,2,3\n4,"5\n6",7\n8,9,1\n', "line 3, column 'b': .* its quote is closed 1 line below, or never"),
        ("a,y\n1," + "z" * 99 + "\n2,3\n", r"line 2, column 'y': 'z{60} \.\.\.' is text in a column with numbers"),
        ("a,b,a\n1,2,3\n", "has two columns named 'a'"),
        ("y\n1\n2\n", "has no input column beside the target 'y'"),
        ("1 2 3\n4 5 6\n", "has no input column"),
        (b"a,y\n1,caf\xe9\n", r"data.csv: is not UTF-8 text \(byte 0xe9\): save it as UTF-8"),
        ("a,y\n1,2\n".encode("utf-16"), "is not UTF-8 text"),
        ("a,b\n" + "1,2\n" * 5000 + "1,\udce9\n".encode("utf-8", "surrogateescape").decode("latin-1"), "line 5002"),
        ("a,y\n1," + "z" * 200_000 + "\n", "field larger than field limit"),
    ],
)
def test_what_is_wrong_with_a_csv(table, content, message):
    with pytest.raises(ValueError, match=message):
        load(table(content))


def test_lines_are_counted_as_editors_count_them(table):
    """A row is named by the line in which it begins, also below cells of several lines."""
    path = table('"a\nb",c,y\n1,2,3\n4,x,5\n')
    with pytest.raises(ValueError, match="line 4, column 'c': 'x'"):
        load(path)
    path = table('name,c,y\n"two\nlines",2,3\nAnn,4,5\nBob,x,7\n')
    with pytest.raises(ValueError, match="line 5, column 'c': 'x'"):
        load(path, ignore=["name"])


def test_targets_too_large_to_square(table):
    for values, row in (("1e300", 0), ("0.5\n2,-1e200", 1)):
        with pytest.raises(ValueError, match=rf"the target 'y' is \S+ in row {row}, too large to square: rescale it"):
            load(table(f"x,y\n1,{values}\n3,4\n"), task="regression")


def test_the_target_is_the_last_column_of_those_that_are_left(table):
    path = table("a,b,note,name\n1,2.5,x,Ann\n3,4.5,y,Bob\n")
    data = load(path, ignore=["note", "name"])
    assert (data.feature_names, data.target_name) == (["a"], "b")
    data = load(path, ignore=["note"], ids="name", mixed=True)
    assert (data.feature_names, data.target_name) == (["a"], "b")
    with pytest.raises(ValueError, match="the target 'note' is also to be left out: name it once"):
        load(path, "note", ignore=["note"])
    with pytest.raises(ValueError, match="no column beside those that are left out: a, b, note, name"):
        load(path, ignore=["a", "b", "note", "name"])


def test_classes_that_a_model_has_not_seen(table):
    path = table("a,y\n1,x\n2,z\n3,y\n4,z\n")
    model = {"target": "y", "columns": ["a"], "classes": ["x", "y"]}
    data = load(path, **model, mixed=True, skip=True)
    np.testing.assert_array_equal(data.y, [0, 1])
    assert data.skipped == [(line, "the target 'y' is 'z', a class the model has not seen") for line in (3, 5)]
    for more, remedy in (({}, r"\)$"), ({"mixed": True}, r"\): correct it, or use --skip-bad-rows$")):
        with pytest.raises(ValueError, match=rf"3: the target 'y' is 'z', .* \(it knows: x, y{remedy}"):
            load(path, **model, **more)
    with pytest.raises(ValueError, match=r"the target 'y' is 'x', a class the model has not seen \(it knows: q\)$"):
        load(path, **{**model, "classes": ["q"]}, mixed=True, skip=True)


def test_bad_bytes_deep_in_the_file(table):
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load(table(b"a,b\n" + b"1,2\n" * 50_000 + b"1,\xe9\n"))


def test_missing_target_and_the_nearest_name(table):
    path = table("Length,width,species\n1,2,3\n")
    with pytest.raises(
        ValueError, match=r"no column 'specie'; did you mean 'species'\? \(there are: Length, width, sp"
    ):
        load(path, "specie")
    with pytest.raises(ValueError, match="no column 'length'; did you mean 'Length'"):
        load(path, "length")
    with pytest.raises(ValueError, match="no column 3; its 3 columns are numbered from 0"):
        load(path, 3)
    with pytest.raises(ValueError, match="no column 'colour'"):
        load(path, ignore=["colour"])
    wide = table(",".join(f"c{j}" for j in range(30)) + "\n" + ",".join("5" * 30) + "\n")
    with pytest.raises(ValueError, match=r"c11 \.\.\. \(30 in all\)"):
        load(wide, "zzz")


def test_ignored_columns_may_hold_anything(table):
    data = load(table("name,a,b,y\nAnn,1,2,3.5\nBob,3,,4.5\n"), ignore=["name", "b"])
    assert data.feature_names == ["a"]
    np.testing.assert_array_equal(data.x, [[1], [3]])
    np.testing.assert_array_equal(data.y, [3.5, 4.5])


def test_columns_of_a_trained_model(table):
    path = table("id,b,extra,a\nx1,2,?,1\nx2,4,?,3\n")
    data = load(path, columns=["a", "b"])
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4]])
    assert (data.feature_names, data.y, data.target_name) == (["a", "b"], None, None)
    data = load(path, "id", columns=["b", "a"], classes=["x2", "x1"])
    np.testing.assert_array_equal(data.x, [[2, 1], [4, 3]])
    np.testing.assert_array_equal(data.y, [1, 0])
    assert load(path, "species", columns=["a"]).y is None
    with pytest.raises(ValueError, match=r"lacks 2 of the model's 3 columns: 'B' \(is it 'b'\?\), 'zzzz'"):
        load(path, columns=["a", "B", "zzzz"])
    with pytest.raises(
        ValueError, match=r"line 3: the target 'id' is 'x2', a class the model has not seen .it knows: x1"
    ):
        load(path, "id", columns=["a"], classes=["x1", "x3"])


def test_numeric_classes_of_a_trained_model(table):
    data = load(table("a,y\n1,7.0\n2,3\n"), "y", columns=["a"], classes=["3", "5", "7"])
    np.testing.assert_array_equal(data.y, [2, 0])
    data = load(table("a,y\n1,7.0\n2,3\n"), "y", columns=["a"], task="regression")
    np.testing.assert_array_equal(data.y, [7, 3])


def test_columns_without_names(table):
    path = table("1,2,3.5\n4,5,6.5\n")
    for columns in (["column0", "column1"], ["column0", "column1", "column2"], ["column2", "column0"]):
        data = load(path, columns=columns)
        assert data.x.shape == (2, len(columns))
    np.testing.assert_array_equal(data.x, [[3.5, 1], [6.5, 4]])
    with pytest.raises(ValueError, match="has no header line; the model finds its columns by name: a, b"):
        load(path, columns=["a", "b"])


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3, st.text("ab,;\"' é\n", min_size=1)),
        min_size=1,
        max_size=8,
    ),
    dialect=st.sampled_from([{}, {"lineterminator": "\n"}, {"quoting": csv.QUOTE_ALL}]),
    delimiter=st.sampled_from(",;\t"),
)
def test_any_table_comes_back(tmp_path_factory, rows, dialect, delimiter):
    rows = [(*numbers, text.strip() or "blank") for *numbers, text in rows]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, **dialect).writerows([["a", "b", "c", "y"], *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    data = load(path, task="classification")
    np.testing.assert_array_equal(data.x, [row[:3] for row in rows])
    assert [data.classes[i] for i in data.y] == [row[3] for row in rows]
    assert data.classes == sorted(set(data.classes))


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["d.csv", "d.npy", "d.npz", "d-images-idx3-ubyte", "d.csv.gz"]),
    content=st.binary(max_size=200),
)
def test_random_bytes_are_read_or_refused(tmp_path_factory, name, content):
    path = tmp_path_factory.mktemp("random") / name
    path.write_bytes(content)
    try:
        data = load(path)
    except ValueError as error:
        assert str(error).startswith(name)
    else:
        assert np.isfinite(data.x).all() and len(data.x) == len(data.y)


# ---------------------------------------------------------------- NPY and NPZ


def saved(save, *args, **kwargs):
    file = io.BytesIO()
    save(file, *args, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "u1"])
def test_npy_is_a_table(table, dtype):
    values = np.asfortranarray(np.arange(12).reshape(4, 3).astype(dtype))
    values[:, 2] = [5, 6, 5, 6]
    data = load(table(saved(np.save, values), "t.npy"))
    np.testing.assert_array_equal(data.x, values[:, :2])
    assert data.x.dtype == (np.float64 if values.itemsize == 8 else np.float32)
    assert (data.feature_names, data.target_name, data.classes) == (["column0", "column1"], "column2", ["5", "6"])
    data = load(table(saved(np.save, values), "t.npy"), 0)
    np.testing.assert_array_equal(data.x, values[:, 1:])
    np.testing.assert_array_equal(data.y, values[:, 0])


def test_npz_with_x_and_y(table):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    for x, y in (("x", "y"), ("X", "Y"), ("data", "target")):
        path = table(saved(np.savez, **{x: images, y: np.array(["b", "a", "b", "a"])}), "t.npz")
        data = load(path)
        np.testing.assert_array_equal(data.x, images.reshape(4, 6))
        assert (data.x.dtype, data.classes, data.y.tolist(), data.test) == (np.float32, ["a", "b"], [1, 0, 1, 0], None)
    data = load(path, columns=[f"pixel{j}" for j in range(6)])
    assert data.y is None and data.x.shape == (4, 6)
    with pytest.raises(ValueError, match="has 6 columns; the model takes 5"):
        load(path, columns=list("abcde"))


def test_npz_with_a_test_set(table):
    x, y = np.random.default_rng(0).random((10, 3)), np.array([4, 9] * 5)
    path = table(saved(np.savez_compressed, x_train=x, y_train=y[:, None], x_test=x[:3] + 1, y_test=y[:3]), "mnist.npz")
    data = load(path)
    assert data.classes == data.test.classes == ["4", "9"]
    np.testing.assert_array_equal(data.test.x, x[:3] + 1)
    np.testing.assert_array_equal(data.test.y, [0, 1, 0])
    trained = load(path, "y", columns=data.feature_names, classes=data.classes)
    np.testing.assert_array_equal(trained.x, data.test.x)
    np.testing.assert_array_equal(trained.y, data.test.y)
    data = load(path, task="regression")
    np.testing.assert_array_equal(data.test.y, [4, 9, 4])
    path = table(saved(np.savez, x_train=x, y_train=y, x_test=x, y_test=y + 1), "t.npz")
    with pytest.raises(ValueError, match="is '5', a class the model has not seen"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.npy", saved(np.save, np.zeros(3)), r"holds an array of shape \(3,\); wanted a table"),
        ("t.npy", saved(np.save, np.zeros((0, 3))), r"shape \(0, 3\)"),
        ("t.npy", saved(np.save, np.array([[1, None]])), "is no plain NumPy array"),
        ("t.npy", pickle.dumps([1]), "is no plain NumPy array"),
        ("t.npy", saved(np.save, np.zeros((3, 3)))[:-1], "truncated"),
        ("t.npy", saved(np.save, np.array([["a", "b"]])), "holds text"),
        ("t.npy", saved(np.save, np.array([[1.0, np.nan, 0], [1, 1, 0]])), r"t.npy contains NaN or infinity.*\[0, 1\]"),
        ("t.npy", saved(np.save, np.array([[1.0, np.nan]])), "the target 'column1' contains NaN"),
        ("t.npz", saved(np.savez, a=np.zeros(3)), "has the arrays a; wanted x and y"),
        (
            "t.npz",
            saved(np.savez, x=np.zeros((3, 1)), y=np.zeros(2)),
            r"target has shape \(2,\); wanted one value for .* 3",
        ),
        ("t.npz", saved(np.savez, x=np.zeros((3, 1)), y=np.eye(3)), r"y.argmax\(axis=1\)"),
        ("t.npz", saved(np.savez, x=np.zeros(3), y=np.zeros(3)), r"the inputs have shape \(3,\)"),
        ("t.npz", saved(np.savez, x=np.zeros((1, 1)), y=np.array([1j])), "holds complex128 values"),
        ("t.npz", saved(np.savez, x=np.array([[None]]), y=np.zeros(1)), "is no .npz file of plain arrays"),
        ("t.npz", saved(np.savez, x=np.zeros((1, 1), complex), y=np.zeros(1)), "complex numbers"),
        ("t.npz", saved(np.savez, x=np.zeros((9, 9)), y=np.zeros(9))[:500], "t.npz: "),
        ("t.npz", saved(np.save, np.zeros((2, 2))), "is no .npz file of plain arrays"),
        ("t.npz", b"", "t.npz: "),
    ],
)
def test_what_is_wrong_with_arrays(table, name, content, message):
    with pytest.raises(ValueError, match=message):
        load(table(content, name))


def test_pickles_are_not_opened(table, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    bomb = np.empty((1, 2), object)
    bomb[0, 0] = Bomb()
    for name, content in (("t.npy", saved(np.save, bomb)), ("t.npz", saved(np.savez, x=bomb, y=bomb))):
        with pytest.raises(ValueError, match=name):
            load(table(content, name))
    assert not (tmp_path / "exploded").exists()


# ---------------------------------------------------------------- IDX


def idx(array, code=0x08, dtype=">u1"):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(dtype).tobytes()


IMAGES = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([7, 3, 7, 3])


@pytest.mark.parametrize("packed", [(False, False), (True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    "names", [("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("images.idx", "labels.idx")]
)
def test_idx(table, packed, names):
    path, _ = (
        table(gzip.compress(content) if gz else content, name + ".gz" * gz)
        for name, content, gz in zip(names, (idx(IMAGES), idx(LABELS)), packed, strict=True)
    )
    data = load(path)
    np.testing.assert_array_equal(data.x, IMAGES.reshape(4, 6))
    assert data.x.dtype == np.float32
    assert (data.classes, data.y.tolist(), data.test) == (["3", "7"], [1, 0, 1, 0], None)
    assert load(path, columns=data.feature_names).y is None


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
def test_idx_types(table, code, dtype):
    path = table(idx(IMAGES[:, 0], code, dtype), "a-images.idx2-ubyte".replace("2", "3"))
    table(idx(LABELS), "a-labels.idx1-ubyte")
    np.testing.assert_array_equal(load(path).x, IMAGES[:, 0])


def test_idx_test_set_beside_it(table):
    path = table(idx(IMAGES), "train-images-idx3-ubyte")
    table(idx(LABELS), "train-labels-idx1-ubyte")
    table(gzip.compress(idx(IMAGES[:1] + 1)), "t10k-images-idx3-ubyte")
    table(idx(LABELS[:1]), "t10k-labels-idx1-ubyte")
    data = load(path)
    np.testing.assert_array_equal(data.test.x, IMAGES[:1].reshape(1, 6) + 1)
    np.testing.assert_array_equal(data.test.y, [1])
    assert load(path, "y", columns=data.feature_names, classes=data.classes).test is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"\x89PNG", "is no IDX file: it begins with 89 50 4e 47"),
        (idx(IMAGES)[:10], "is truncated: it should hold"),
        (idx(IMAGES)[:-1], r"is truncated: it should hold \(4, 2, 3\) values of 1 bytes"),
        (idx(IMAGES) + b"x", "holds more than"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-12], "Compressed file ended"),
        (gzip.compress(idx(IMAGES)[:-1], mtime=0), "is truncated"),
        (bytes([0, 0, 14, 4]) + b"\xff" * 16, "is truncated"),
        (gzip.compress(bytes([0, 0, 14, 4]) + b"\xff" * 16, mtime=0), "is truncated"),
        (idx(IMAGES[:0]), r"the inputs have shape \(0, 2, 3\)"),
        (idx(LABELS), r"the inputs have shape \(4,\)"),
    ],
)
def test_what_is_wrong_with_an_idx_file(table, content, message):
    path = table(content, "a-images-idx3-ubyte")
    table(idx(LABELS), "a-labels-idx1-ubyte")
    with pytest.raises(ValueError, match=f"a-images-idx3-ubyte: .*{message}"):
        load(path)


def test_idx_labels_are_missing_or_too_few(table):
    path = table(idx(IMAGES), "a-images-idx3-ubyte")
    with pytest.raises(ValueError, match="the file of its labels is not beside it: wanted as in"):
        load(path)
    with pytest.raises(ValueError, match="its name lacks the word images"):
        load(table(idx(IMAGES), "pixels.idx"))
    table(idx(LABELS[:3]), "a-labels-idx1-ubyte")
    with pytest.raises(ValueError, match=r"the target has shape \(3,\); wanted one value for each of the 4 rows"):
        load(path)


# ---------------------------------------------------------------- named sets, names of files


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1797, 64), list("0123456789")),
        ("iris", (150, 4), ["setosa", "versicolor", "virginica"]),
        ("wine", (178, 13), ["class_0", "class_1", "class_2"]),
        ("breast_cancer", (569, 30), ["benign", "malignant"]),
        ("diabetes", (442, 10), None),
    ],
)
def test_sets_of_scikit_learn(name, shape, classes):
    datasets = pytest.importorskip("sklearn.datasets")
    data = load(name)
    assert (data.x.shape, data.classes, data.target_name) == (shape, classes, readers.BUILTIN[name])
    bunch = getattr(datasets, f"load_{name}")()
    np.testing.assert_array_equal(data.x, bunch.data)
    if classes is None:
        np.testing.assert_array_equal(data.y, bunch.target)
    else:
        names = [str(c) for c in bunch.target_names]
        assert [classes[i] for i in data.y] == [names[i] for i in bunch.target]
    some = load(name, columns=data.feature_names[::-2])
    np.testing.assert_array_equal(some.x, bunch.data[:, ::-2])
    assert some.y is None
    with pytest.raises(ValueError, match=f"its target is {data.target_name!r}, not 'x'"):
        load(name, "x")


def test_scikit_learn_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"reading digits needs scikit-learn: pip install 'fastbp\[sklearn\]'"):
        load("digits")


def test_files_that_are_not_there_or_of_no_known_format(table, tmp_path):
    path = table("a,y\n1,2\n", "train.csv")
    with pytest.raises(FileNotFoundError, match=r"no file .*trian.csv; did you mean train.csv\?"):
        load(tmp_path / "trian.csv")
    with pytest.raises(FileNotFoundError, match=r"did you mean digits\?"):
        load("digit")
    with pytest.raises(FileNotFoundError, match="nor a data set of that name: digits, iris"):
        load("no/such/file")
    with pytest.raises(ValueError, match="is a folder; wanted a file"):
        load(tmp_path)
    with pytest.raises(ValueError, match="is of no known format; wanted"):
        load(path.rename(tmp_path / "train.xlsx"))
