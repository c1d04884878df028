"""Floor 2: IDX, the format of MNIST and its kin: big-endian arrays behind a header of their sizes, often gzipped."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx_labels(images: Path) -> Path | None:
    """Find the labels' file beside the images', by MNIST's names, packed or not."""
    bare = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    found = (images.with_name(name) for name in (bare, f"{bare}.gz"))
    return next((p for p in found if p.is_file() and "images" in images.name), None)


def idx_array(path: Path) -> NDArray[Any]:
    """Read one file; ValueError says what is wrong with it."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 4:
            raise ValueError(
                f"{path.name}: is no IDX file: it begins with {head.hex(' ') or 'nothing'}; wanted 00 00, a type's "
                "code and the number of dimensions"
            )
        sizes = file.read(4 * head[3])
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * head[3], 4))
        dtype = np.dtype(_TYPES[head[2]])
        size = math.prod(shape) * dtype.itemsize
        # No file unpacks to more than 1032 times its size: a header that lies allocates nothing.
        values = file.read(size + 1) if size <= 1032 * path.stat().st_size else b""
    if len(sizes) < 4 * head[3] or len(values) < size:
        raise ValueError(f"{path.name}: is truncated: it should hold {shape} values of {dtype.itemsize} bytes")
    if len(values) > size:
        raise ValueError(f"{path.name}: is damaged: it holds more than the {shape} values that it announces")
    return np.frombuffer(values, dtype).reshape(shape)
