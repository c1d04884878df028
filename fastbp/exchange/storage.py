"""Floor 2: the model file, the safetensors layout with one metadata key, written so that no crash leaves half of it.

Layout: a safetensors file whose metadata holds one key, ``fastbp``, a JSON object:

- ``format_version``: 2. Files of version 1 load too: they have no checksum.
- ``checksum``: CRC-32 over ``meta`` as ``json.dumps(meta, sort_keys=True)`` gives it in UTF-8, then for each tensor, by
  name, over ``"<name> <dtype> <shape>"`` in NumPy's words and over its bytes, little-endian and C-contiguous.
- ``meta``: plain data. For a model: ``layers`` (a list of dicts with ``kind`` and what the layer was made with),
  ``input_width``, ``dtype``, ``seed``, ``name``, ``optimizer``, ``loss``, ``metrics``, ``weighted_metrics``,
  ``updates``, ``epochs``, ``columns`` (names of the inputs' columns, or null) and the user's own ``meta`` (with a
  table: how its columns become inputs).

Tensors: ``<layer>.kernel`` (I, O), ``<layer>.bias`` (O,) and the optimizer's arrays, ``optimizer.<slot>.<the same>``.
Any safetensors reader finds them; nothing in the file can run code.
"""

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fastbp._atomic import replacing

FORMAT_VERSION = 2

_KEY = "fastbp"
_FOREIGN = {
    b"PK\x03\x04": "a zip file, as PyTorch (.pt), Keras (.keras) and NumPy (.npz) write them",
    b"\x80": "a pickle, as joblib and PyTorch write them",
    b"\x89HDF": "an HDF5 file, as Keras writes them (.h5)",
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"\x1f\x8b": "a gzip file",
}


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    *,
    previous: str | os.PathLike[str] | None = None,
) -> None:
    """Write a model file; an interrupted write leaves the file that was there before.

    Parameters
    ----------
    path : str or path
        The file, replaced if it exists. The folder must exist.
    tensors : mapping of str to ndarray
        Floats of 16, 32 or 64 bits, integers or booleans, of any shape, order and strides.
    meta : mapping
        What else belongs to the model: JSON's types; NumPy numbers and arrays become numbers and lists.
    previous : str or path, optional
        What the file that was there before is called from now on, in the same folder. After a crash at any
        moment `path` is whole (one of the two, where the file system has no hard links).

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    TypeError
        If `meta` or `tensors` hold a type that the file cannot.
    OSError
        If the file cannot be written.
    """
    # The package writes an array's memory as it lies there, so that any other order would be stored as garbage.
    plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise TypeError(
                f"tensor {name!r} is of type {array.dtype}; a model file holds floats, integers and booleans"
            )
    content = json.loads(json.dumps(dict(meta), default=as_json))
    text = json.dumps({"format_version": FORMAT_VERSION, "checksum": _checksum(plain, content), "meta": content})
    with replacing(path, previous=previous) as part:
        try:
            save_file(plain, part, metadata={_KEY: text})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from None


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a model file.

    Parameters
    ----------
    path : str or path
        A file that :func:`write` made.

    Returns
    -------
    tensors : dict of str to ndarray
        Writable, C-contiguous arrays.
    meta : dict
        As it was written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, damaged, of another kind, or of a newer version of the format.
    """
    with open(path, "rb") as start:
        head = start.read(8)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                _refuse(path, "is a safetensors file of another program")
            meta, wanted = _meta(path, metadata[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        what = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
        _refuse(path, f"is {what}" if what else f"is truncated, damaged or of another kind ({error})")
    if wanted is not None and wanted != _checksum(tensors, meta):
        _refuse(path, "is damaged: its checksum differs")
    return tensors, meta


def _refuse(path: str | os.PathLike[str], what: str) -> NoReturn:
    raise ValueError(
        f"{os.fspath(path)} {what}; wanted a model file that fastbp saved: give that file, or train and save the model "
        "again"
    )


def _checksum(tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> int:
    """CRC-32 of every byte of the tensors and of the plain data, as the module's text says."""
    total = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), copy=False)
        total = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return total


def _meta(path: str | os.PathLike[str], text: str) -> tuple[dict[str, Any], int | None]:
    """(plain data, checksum), None in files of version 1."""
    try:
        content = json.loads(text)
        version, meta = content["format_version"], content["meta"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        _refuse(path, f"has damaged metadata ({error})")
    if not isinstance(version, int) or not isinstance(meta, dict):
        _refuse(path, "has damaged metadata")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{os.fspath(path)} was saved by a newer fastbp: it has format version {version}, this one reads up to "
            f"{FORMAT_VERSION}; pip install --upgrade fastbp"
        )
    if version == 1:
        return meta, None
    if not isinstance(content.get("checksum"), int):
        _refuse(path, "has damaged metadata")
    return meta, content["checksum"]


def as_json(value: Any) -> Any:
    """What JSON holds for a NumPy number or array; ``json.dumps`` asks for it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"meta holds a {type(value).__name__} ({value!r}); wanted dict, list, str, numbers, bool or None")
