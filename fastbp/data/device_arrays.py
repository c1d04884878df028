"""Floor 2: arrays of other libraries that lie on a GPU (CuPy, PyTorch, Numba, JAX): what they are, and whose.

Two protocols say where an array lies: ``__cuda_array_interface__`` (version 3) and DLPack. Either gives an `OnDevice`,
which holds on to the memory as long as someone reads it, and knows the stream that must be waited for.
"""

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

CUDA, CUDA_MANAGED = 2, 13
"""DLPack's numbers of devices."""
LEGACY_STREAM = 1
"""The default stream, as both protocols call it: what fastbp launches into."""
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLPack's codes of number types


@dataclass(frozen=True)
class OnDevice:
    """An array on a GPU, where it is.

    Attributes
    ----------
    address : where it begins
    shape, dtype : as of NumPy's arrays
    strides : bytes from an item to the next, along each axis; None where it is C-contiguous
    stream : handle of the stream that writes it still, None where there is nothing to wait for
    ordinal : number of the GPU, None where nobody says
    writable : whether it may be written
    owner : whoever keeps the memory
    read : copies it to main memory; None where only its owner can
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None = None
    stream: int | None = None
    ordinal: int | None = None
    writable: bool = True
    owner: Any = field(default=None, repr=False, compare=False)
    read: "Callable[[OnDevice], NDArray[Any]] | None" = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes on the GPU."""
        return self.size * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether its numbers follow each other in C's order, aligned: what kernels read."""
        wanted, step = [], self.dtype.itemsize
        for length in reversed(self.shape):
            wanted.append(step)
            step *= length
        follows = self.strides is None or all(
            got == want or length == 1
            for got, want, length in zip(self.strides, reversed(wanted), self.shape, strict=True)
        )
        return follows and self.address % self.dtype.itemsize == 0 and self.dtype.isnative

    def __getitem__(self, rows: slice) -> "OnDevice":
        """A run of its rows, as a view."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("an array on a GPU is cut into runs of rows only")
        row = self.nbytes // max(1, len(self))
        return replace(self, address=self.address + start * row, shape=(max(0, stop - start), *self.shape[1:]))

    def copy_to_host(self) -> NDArray[Any]:
        """A copy in main memory.

        Raises
        ------
        TypeError : its library offers none
        """
        if self.read is not None:
            return self.read(self)
        return np.asarray(on_host(self.owner))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array, for any library that reads this protocol."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, not self.writable),
            "strides": self.strides,
            "stream": self.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where it is, as DLPack says it."""
        return CUDA, self.ordinal or 0

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The array, for any library that reads this protocol: over the same memory, which lives as long as theirs.

        Raises
        ------
        BufferError : a copy or another device is asked for, it is read-only, or someone still writes it
        """
        if copy or dl_device not in (None, self.__dlpack_device__()) or not self.writable:
            raise BufferError("an array on a GPU is given where it is, to read and write: no copy, no other device")
        if self.stream is not None:
            raise BufferError("the array may still be written on a stream: wait for it first")
        return _capsule(self)


def place_of(array: Any) -> Any:
    """What names an array's numbers while it lives: where they lie, so that two views of the same are the same."""
    if isinstance(array, np.ndarray):
        return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
    if isinstance(array, OnDevice):
        return array.address, array.shape, array.strides, array.dtype.str
    return id(array)


def found(x: Any, name: str = "x") -> OnDevice | None:
    """What `x` is on a GPU; None where it isn't there.

    Raises
    ------
    TypeError : an array whose numbers NumPy has no type for, or that masks some of them
    """
    if isinstance(x, OnDevice):
        return x
    if type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach"):
        if not str(x.device).startswith("cuda"):
            return None
        x = x.detach()  # tensors that gradients are taken of don't say where they are
    interface = getattr(x, "__cuda_array_interface__", None)
    if interface is not None:
        return _by_interface(x, interface, name)
    if hasattr(x, "__dlpack_device__") and hasattr(x, "__dlpack__"):
        kind, ordinal = x.__dlpack_device__()
        if int(kind) in (CUDA, CUDA_MANAGED):
            return _by_dlpack(x.__dlpack__(stream=LEGACY_STREAM), int(ordinal), name)
    return None


def _by_interface(x: Any, interface: dict[str, Any], name: str) -> OnDevice:
    if interface.get("mask") is not None:
        raise TypeError(
            f"{name} is an array with a mask: networks need every number; fill it and pass the array itself"
        )
    stream = interface.get("stream")
    if stream == 0:
        raise TypeError(
            f"{name} names stream 0, which its protocol forbids (1 is the default stream): update {type(x).__module__}"
        )
    address, read_only = interface["data"]
    strides, index = interface.get("strides"), getattr(getattr(x, "device", None), "index", None)
    return OnDevice(
        int(address or 0),
        tuple(int(length) for length in interface["shape"]),
        np.dtype(interface["typestr"]),
        None if strides is None else tuple(int(step) for step in strides),
        None if stream is None else int(stream),
        index if isinstance(index, int) else None,
        not read_only,
        x,
    )


# -------------------------------------------------- DLPack


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_UNUSED, _USED = b"dltensor", b"used_dltensor"
_deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_is_valid, _pointer_of_dying = (  # of capsules that are being freed, which no Python variable may hold
    ctypes.PYFUNCTYPE(kind, ctypes.c_void_p, ctypes.c_char_p)((name, ctypes.pythonapi))
    for name, kind in (("PyCapsule_IsValid", ctypes.c_int), ("PyCapsule_GetPointer", ctypes.c_void_p))
)
_given: dict[int, Any] = {}
"""What was given away by DLPack and isn't given back, by address: the array, and what describes it."""


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _give_back(managed: int) -> None:
    _given.pop(managed, None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _unused(capsule: int) -> None:
    """What nobody took is given back with its capsule."""
    if _is_valid(capsule, _UNUSED):
        _given.pop(_pointer_of_dying(capsule, _UNUSED), None)


def _capsule(array: OnDevice) -> Any:
    """An array as DLPack's capsule."""
    axes = ctypes.c_int64 * array.ndim
    shape, strides = axes(*array.shape), None
    if array.strides is not None:
        strides = axes(*(step // array.dtype.itemsize for step in array.strides))
    code = next(code for code, kind in _KINDS.items() if kind == array.dtype.kind)
    kind = _Type(code, 8 * array.dtype.itemsize, 1)
    where = _Device(*array.__dlpack_device__())
    managed = _Managed(_Tensor(array.address, where, array.ndim, kind, shape, strides, 0), None, None)
    managed.deleter = ctypes.cast(_give_back, ctypes.c_void_p).value
    address = ctypes.addressof(managed)
    _given[address] = managed, shape, strides, array
    return _new(address, _UNUSED, ctypes.cast(_unused, ctypes.c_void_p))


class _Holder:
    """Keeps a tensor that was handed over, and gives it back when nobody reads it any more."""

    def __init__(self, capsule: Any) -> None:
        address = _pointer(capsule, _UNUSED)
        managed = _Managed.from_address(address)
        _rename(capsule, _USED)  # from here on it is ours to delete
        self.tensor: _Tensor = managed.tensor
        if managed.deleter:
            weakref.finalize(self, _deleter(managed.deleter), address)


def _by_dlpack(capsule: Any, ordinal: int, name: str) -> OnDevice:
    holder = _Holder(capsule)
    tensor = holder.tensor
    code, bits = tensor.dtype.code, tensor.dtype.bits
    if code not in _KINDS or tensor.dtype.lanes != 1:
        called = "bfloat16" if code == 4 else f"a type that NumPy doesn't have (DLPack's code {code})"
        raise TypeError(f"{name} holds {called}; wanted float32 or another of NumPy's real types: convert it first")
    dtype = np.dtype(np.bool_ if _KINDS[code] == "b" else f"{_KINDS[code]}{bits // 8}")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    return OnDevice((tensor.data or 0) + tensor.offset, shape, dtype, strides, None, ordinal, True, holder)


# -------------------------------------------------- into main memory


def on_host(x: Any, name: str = "x") -> Any:
    """A copy of `x` in main memory by its own library's means, if it is on a GPU; else `x`.

    Raises
    ------
    TypeError : an array that offers none
    """
    if found(x, name) is None:
        return x
    if hasattr(x, "cpu"):  # PyTorch
        return x.detach().cpu().numpy()
    for method in ("get", "copy_to_host"):  # CuPy, Numba
        if callable(getattr(x, method, None)):
            return getattr(x, method)()
    if hasattr(x, "__array__"):  # JAX
        return np.asarray(x)
    raise TypeError(
        f"{name} is a {type(x).__name__} on a GPU that can't be copied from here: copy it to main memory first"
    )
