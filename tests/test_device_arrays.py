"""Arrays of other libraries on a GPU: what their protocols say, by arrays in main memory that claim to be there."""

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastbp.data import device_arrays
from fastbp.data.device_arrays import OnDevice, found, on_host


class Interface:
    """An array with ``__cuda_array_interface__``, as CuPy's; `changes` says otherwise."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.array, self._changes = array, changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        own = self.array.__array_interface__
        told = {key: own[key] for key in ("shape", "typestr", "data", "strides")}
        return {**told, "version": 3, "stream": None, **self._changes}

    def get(self) -> np.ndarray:
        return self.array.copy()


class Packed:
    """An array with DLPack, as JAX's; NumPy's own capsule in main memory."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (2, 0)) -> None:
        self.array, self._device, self.streams = array, device, list[Any]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


@pytest.mark.parametrize("make", [Interface, Packed])
@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "uint8", "bool"])
def test_an_array_is_found_where_it_is(make: Any, kind: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(kind)
    got = found(make(array))
    assert got is not None and got.plain
    assert (got.address, got.shape, got.dtype) == (array.ctypes.data, (2, 3), array.dtype)
    assert (len(got), got.ndim, got.size, got.nbytes) == (2, 2, 6, array.nbytes)
    assert found(got) is got


@pytest.mark.parametrize("make", [Interface, Packed])
def test_strided_arrays_are_not_plain(make: Any) -> None:
    array = np.zeros((4, 6), np.float32)
    for view, plain in (
        (array[::2], False),
        (array[:, :3], False),
        (array.T, False),
        (array[:1, :], True),
        (array[1:], True),
    ):
        got = found(make(view))
        assert got is not None and got.plain == plain


def test_an_array_of_another_byte_order_or_place_is_not_plain() -> None:
    swapped = np.zeros((2, 2), np.dtype(np.float32).newbyteorder())
    assert not found(Interface(swapped)).plain
    crooked = np.zeros(17, np.uint8)[1:].view(np.float32)
    assert not found(Interface(crooked)).plain


def test_rows_are_cut_as_views() -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    got = found(Interface(array))
    part = got[1:3]
    assert (part.address, part.shape) == (array[1:].ctypes.data, (2, 3)) and part.owner is got.owner
    assert got[5:].shape == (0, 3) and got[:-1].shape == (3, 3)
    with pytest.raises(ValueError, match="runs of rows"):
        got[::2]


def test_what_is_in_main_memory_is_not_found() -> None:
    for x in (np.zeros(3), [1.0], "text", None, Packed(np.zeros(3), (1, 0))):
        assert found(x) is None
        assert on_host(x) is x


def test_a_stream_is_handed_on() -> None:
    array = np.zeros((2, 2), np.float32)
    assert found(Interface(array, stream=77)).stream == 77
    assert found(Interface(array, stream=77)).__cuda_array_interface__["stream"] == 77
    packed = Packed(array)
    assert found(packed).stream is None and packed.streams == [device_arrays.LEGACY_STREAM]
    with pytest.raises(TypeError, match="x names stream 0, which its protocol forbids"):
        found(Interface(array, stream=0))


def test_masks_and_strange_numbers_are_refused() -> None:
    array = np.zeros((2, 2), np.float32)
    with pytest.raises(TypeError, match="y is an array with a mask"):
        found(Interface(array, mask=array), "y")
    packed = Packed(array)
    holder = device_arrays._Holder

    class Half(holder):
        def __init__(self, capsule: Any) -> None:
            super().__init__(capsule)
            self.tensor.dtype.code, self.tensor.dtype.bits = 4, 16

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError, match="x holds bfloat16; wanted float32"):
        patch.setattr(device_arrays, "_Holder", Half)
        found(packed)


def test_the_interface_goes_round() -> None:
    array = np.zeros((3, 2), np.float32)
    array.flags.writeable = False
    once = found(Interface(array))
    again = found(Interface(array, **once.__cuda_array_interface__))
    assert again == once and not again.writable


@pytest.mark.parametrize("make", [Interface, Packed])
def test_memory_is_kept_as_long_as_it_is_read(make: Any) -> None:
    class Kept(np.ndarray):
        """An array that can be watched."""

    array = np.zeros((2, 3), np.float32).view(Kept)
    gone = weakref.ref(array)
    got = found(make(array))
    del array
    part = got[1:]
    del got
    gc.collect()
    assert gone() is not None
    del part
    gc.collect()
    assert gone() is None


def test_what_is_given_away_lives_until_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = found(Interface(array, strides=(12, 4)))
    assert given.__dlpack_device__() == (2, 0)
    monkeypatch.setattr(device_arrays, "CUDA", 1)  # for whoever takes it here
    before = len(device_arrays._given)
    taken = np.from_dlpack(given)
    assert taken.ctypes.data == array.ctypes.data and taken.tolist() == array.tolist()
    array[1, 2] = 7
    assert taken[1, 2] == 7 and len(device_arrays._given) == before + 1
    del taken
    gc.collect()
    assert len(device_arrays._given) == before
    capsule = given.__dlpack__()
    assert len(device_arrays._given) == before + 1
    del capsule
    gc.collect()
    assert len(device_arrays._given) == before


def test_what_can_not_be_given_away_is_refused() -> None:
    array = np.zeros((2, 3), np.float32)
    given = found(Interface(array))
    for options in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="where it is"):
            given.__dlpack__(**options)
    with pytest.raises(BufferError, match="where it is"):
        found(Interface(array, data=(array.ctypes.data, True))).__dlpack__()
    with pytest.raises(BufferError, match="wait for it"):
        found(Interface(array, stream=5)).__dlpack__()


def test_a_capsule_is_used_once() -> None:
    array = np.zeros(3, np.float32)
    before = sys.getrefcount(array)
    capsule = array.__dlpack__()
    got = device_arrays._by_dlpack(capsule, 0, "x")
    assert "used_dltensor" in repr(capsule)
    with pytest.raises(ValueError):
        device_arrays._by_dlpack(capsule, 0, "x")
    del capsule
    gc.collect()
    assert sys.getrefcount(array) > before
    del got
    gc.collect()
    assert sys.getrefcount(array) == before


def test_torch_says_where_its_tensors_are() -> None:
    array = np.ones((2, 2), np.float32)

    class Device(str):
        index = 3

    class Tensor(Interface):
        __module__ = "torch"
        device: Any = Device("cuda")

        def detach(self) -> Any:
            return self

        def cpu(self) -> Any:
            return SimpleNamespace(numpy=lambda: array)

    tensor = Tensor(array)
    assert found(tensor).ordinal == 3
    assert on_host(tensor) is array
    tensor.device = Device("cpu")
    assert found(tensor) is None


def test_arrays_come_to_main_memory_by_their_own_means() -> None:
    array = np.arange(4.0)
    np.testing.assert_array_equal(on_host(Interface(array)), array)
    np.testing.assert_array_equal(on_host(Packed(array)), array)
    lost = SimpleNamespace(__cuda_array_interface__=Interface(array).__cuda_array_interface__)
    with pytest.raises(TypeError, match="y is a SimpleNamespace on a GPU that can't be copied from here"):
        on_host(lost, "y")


def test_the_address_is_of_the_class() -> None:
    assert repr(OnDevice(16, (2,), np.dtype("f4"))).startswith(
        "OnDevice(address=16, shape=(2,), dtype=dtype('float32')"
    )
