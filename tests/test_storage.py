"""The model file: what is written comes back, what is foreign is refused, what was there survives a crash."""

import json
import os
import pickle
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import fastbp as fb
from fastbp.exchange import storage

TENSORS = {
    "layers.0.kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layers.0.bias": np.zeros(4, np.float64),
    "step": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
}
META = {"layers": [{"units": 4, "activation": "relu"}], "classes": ["ä", "日本"], "rate": 1e-3, "name": None}


def check_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)


def test_round_trip(tmp_path):
    storage.write(tmp_path / "m.fastbp", TENSORS, META)
    tensors, meta = storage.read(tmp_path / "m.fastbp")
    check_equal(tensors, TENSORS)
    assert meta == META
    assert all(t.flags.writeable and t.flags.c_contiguous and t.flags.aligned for t in tensors.values())
    assert os.listdir(tmp_path) == ["m.fastbp"]


def test_any_safetensors_reader_finds_the_arrays(tmp_path):
    storage.write(str(tmp_path / "m.fastbp"), TENSORS, META)
    check_equal(load_file(tmp_path / "m.fastbp"), TENSORS)


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(
        dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8", "f2", "i1", ">i8", "?"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=5),
        elements={"allow_nan": False},
    ),
    data=st.data(),
)
def test_any_array_comes_back(tmp_path_factory, array, data):
    views = [array, array.T, np.asfortranarray(array), array[..., ::-1] if array.ndim else array]
    view = data.draw(st.sampled_from(views))
    path = tmp_path_factory.mktemp("any") / "m.fastbp"
    storage.write(path, {"a": view}, {})
    check_equal(storage.read(path)[0], {"a": view})


def test_meta_takes_numpy_values(tmp_path):
    storage.write(tmp_path / "m", {}, {"a": np.float32(0.5), "b": np.arange(3), "c": np.bool_(True), "loss": np.nan})
    meta = storage.read(tmp_path / "m")[1]
    assert (meta["a"], meta["b"], meta["c"]) == (0.5, [0, 1, 2], True)
    assert np.isnan(meta["loss"])


@pytest.mark.parametrize(
    ("tensors", "meta", "message"),
    [
        ({}, {"f": object()}, "meta holds a object"),
        ({"z": np.zeros(2, complex)}, {}, "'z' is of type complex128"),
        ({"o": np.array([None])}, {}, "'o' is of type object"),
        ({"l": np.zeros(2, "U3")}, {}, "floats, integers and booleans"),
    ],
)
def test_what_the_file_cannot_hold_is_refused(tmp_path, tensors, meta, message):
    with pytest.raises(TypeError, match=message):
        storage.write(tmp_path / "m", tensors, meta)
    assert os.listdir(tmp_path) == []


def test_truncated_at_every_length(tmp_path):
    storage.write(tmp_path / "m", TENSORS, META)
    whole = (tmp_path / "m").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut is truncated, damaged .* wanted a model file"):
            storage.read(tmp_path / "cut")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("random") / "m"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="wanted a model file that fastbp saved"):
        storage.read(path)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path_factory, at, byte):
    folder = tmp_path_factory.mktemp("flip")
    storage.write(folder / "m", TENSORS, META)
    content = bytearray((folder / "m").read_bytes())
    content[at % len(content)] = byte
    (folder / "m").write_bytes(content)
    try:
        tensors, meta = storage.read(folder / "m")
    except ValueError as error:
        assert "m " in str(error)
    else:
        assert meta == META
        assert tensors.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            np.testing.assert_array_equal(tensors[name], tensor)


def test_every_byte_of_the_tensors_is_under_the_checksum(tmp_path):
    storage.write(tmp_path / "m", TENSORS, META)
    whole = (tmp_path / "m").read_bytes()
    for at in range(8 + int.from_bytes(whole[:8], "little"), len(whole)):
        (tmp_path / "m").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"m is damaged: its checksum differs; wanted a model file"):
            storage.read(tmp_path / "m")


def test_files_of_version_1_load():
    """This one was written by the version before checksums."""
    path = Path(__file__).parent / "data" / "model-1.safetensors"
    model = fb.load_model(path)
    assert model.meta == {"note": "as the first version wrote it"}
    np.testing.assert_allclose(model.predict([[0.5, -1.0]]), [[0.26206297, 0.34757584, 0.39036113]], rtol=1e-6)
    assert (model.optimizer.momentum, model._updates) == (0.9, 2)


def test_pickles_and_other_formats_are_named_and_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / "m.joblib").write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb()))
    np.save(tmp_path / "m.npy", np.zeros(3))
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for name, what in {"m.joblib": "a pickle", "m.pt": "a zip", "m.npy": "a NumPy array", "m.h5": "an HDF5"}.items():
        with pytest.raises(ValueError, match=f"{name} is {what}"):
            storage.read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_header_whose_length_looks_like_a_pickle(tmp_path):
    """A safetensors file begins with its header's length, and 128 is also how a pickle begins."""
    for padding in range(200):
        storage.write(tmp_path / "m", {}, {"p": " " * padding})
        if (tmp_path / "m").read_bytes()[0] == 0x80:
            break
    else:
        raise AssertionError("no padding gave a header of 128 + 256 n bytes")
    assert storage.read(tmp_path / "m") == ({}, {"p": " " * padding})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "of another program"),
        ({"format": "pt"}, "of another program"),
        ({"fastbp": "{"}, "damaged metadata"),
        ({"fastbp": "[1]"}, "damaged metadata"),
        ({"fastbp": '{"format_version": "1", "meta": {}}'}, "damaged metadata"),
        ({"fastbp": '{"format_version": 1, "meta": []}'}, "damaged metadata"),
        ({"fastbp": '{"format_version": 2, "meta": {}}'}, "damaged metadata"),
        ({"fastbp": '{"format_version": 2, "meta": {}, "checksum": 1}'}, "its checksum differs"),
        ({"fastbp": "[" * 100_000}, "damaged metadata"),
        ({"fastbp": json.dumps({"format_version": storage.FORMAT_VERSION + 1, "meta": {}})}, "newer fastbp.*upgrade"),
    ],
)
def test_foreign_and_newer_files(tmp_path, metadata, message):
    save_file({"a": np.zeros(2)}, tmp_path / "m", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        storage.read(tmp_path / "m")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.read(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        storage.write(tmp_path / "no" / "m", {}, {})
    with pytest.raises(IsADirectoryError, match="is a folder"):
        storage.write(tmp_path, {}, {})
    with pytest.raises(FileExistsError, match=f"{os.devnull} is a device or a pipe: name a file"):
        storage.write(os.devnull, {}, {})


@pytest.mark.parametrize("function", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk on fire"), KeyboardInterrupt()])
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, function, error):
    def fail(*args, **kwargs):
        raise error

    storage.write(tmp_path / "m", {"a": np.ones(3)}, {"n": 1})
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        storage.write(tmp_path / "m", {"a": np.zeros(3)}, {"n": 2})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["m"]
    tensors, meta = storage.read(tmp_path / "m")
    assert meta == {"n": 1}
    np.testing.assert_array_equal(tensors["a"], np.ones(3))


@pytest.mark.skipif(os.name != "posix", reason="file modes and symbolic links as POSIX has them")
def test_mode_follows_the_umask_and_links_are_followed(tmp_path):
    before = os.umask(0o027)
    try:
        storage.write(tmp_path / "m", TENSORS, META)
        assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640
        (tmp_path / "link").symlink_to(tmp_path / "m")
        os.umask(0o022)
        storage.write(tmp_path / "link", {}, {"through": "link"})
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert storage.read(tmp_path / "m")[1] == {"through": "link"}
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o644
