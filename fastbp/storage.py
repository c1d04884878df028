"""Floor 2: the model file, the safetensors layout with one metadata key, written so that no crash leaves half of it.

Layout: a safetensors file whose metadata holds one key, ``fastbp``: a JSON object with ``format_version`` and ``meta``.
Any safetensors reader finds the arrays; nothing in the file can run code.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FORMAT_VERSION = 1

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
        What the file that was there before is called from now on, in the same folder. After a crash at any moment one
        of the two is whole.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    TypeError
        If `meta` or `tensors` hold a type that the file cannot.
    OSError
        If the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist: make it, or save the model elsewhere")
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to save the model in")
    text = json.dumps({"format_version": FORMAT_VERSION, "meta": dict(meta)}, default=as_json)
    # The package writes an array's memory as it lies there, so that any other order would be stored as garbage.
    plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise TypeError(
                f"tensor {name!r} is of type {array.dtype}; a model file holds floats, integers and booleans"
            )
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    mode = _create(part)
    try:
        try:
            save_file(plain, part, metadata={_KEY: text})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from None
        os.chmod(part, mode)  # the package makes its files 0600
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        if previous is not None and target.exists():
            os.replace(target, previous)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(target.parent)


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
            meta = _meta(path, metadata[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        what = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
        _refuse(path, f"is {what}" if what else f"is truncated, damaged or of another kind ({error})")
    return tensors, meta


def _refuse(path: str | os.PathLike[str], what: str) -> NoReturn:
    raise ValueError(
        f"{os.fspath(path)} {what}; wanted a model file that fastbp saved: give that file, or train and save the model "
        "again"
    )


def _meta(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
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
    return meta


def as_json(value: Any) -> Any:
    """What JSON holds for a NumPy number or array; ``json.dumps`` asks for it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"meta holds a {type(value).__name__} ({value!r}); wanted dict, list, str, numbers, bool or None")


def _create(path: Path) -> int:
    """Create the file and return the mode that the user's umask gives it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where folders can be synced (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
