"""Matrix products by NVIDIA's library, on tensor cores where the precision allows: cuBLASLt through nvmath-python.

A product is bound once to its operands: the description, the epilogue fused into it and the way it is computed are
settled then, and launching it is one call that waits for nothing, so that it can be captured in a CUDA graph. Where
only CuPy is installed, its cuBLAS multiplies and epilogues are left to kernels of our own; where neither is, `library`
says so once and gives None.

Matrices are plain rows. The library thinks in columns, where the same memory is the transpose: it is asked for
out^T = b^T a^T, so that its A is our b.
"""

import functools
import importlib
import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastbp import _atomic, _jit
from fastbp.cuda import device, presence

WORKSPACE = 32 << 20
"""Bytes that a product may use beside its operands; what NVIDIA recommends for Hopper."""
CANDIDATES = 8
"""Ways of computing a product that are timed against each other, those that the library thinks best of."""
ROUNDS, REPEATS = 3, 8
UNKNOWN = 7, 15
"""What the library answers to a combination that it doesn't know: "invalid value", "not supported"."""
_REAL32, _REAL64, _BFLOAT16 = 0, 1, 14  # cudaDataType_t


class Precision(NamedTuple):
    """How a product is computed.

    Attributes
    ----------
    compute : what cuBLAS calls it (cublasComputeType_t)
    factors, result : number types (cudaDataType_t); sums are of the result's, which may be rounded further (`Shape`)
    """

    compute: int
    factors: int
    result: int


PRECISIONS = {
    "float32": Precision(68, _REAL32, _REAL32),
    "tf32": Precision(77, _REAL32, _REAL32),
    "bfloat16": Precision(68, _BFLOAT16, _REAL32),
    "float64": Precision(70, _REAL64, _REAL64),
}
EPILOGUES = {
    "": "DEFAULT",
    "bias": "BIAS",
    "relu": "RELU",
    "relu, bias": "RELU_BIAS",
    "relu, mask": "RELU_AUX",
    "relu, bias, mask": "RELU_AUX_BIAS",
    "gelu_tanh": "GELU",
    "gelu_tanh, bias": "GELU_BIAS",
    "relu back": "DRELU",
    "sums": "BGRADA",
}
"""What can be fused into a product, and cuBLASLt's name of it.

bias : a row (columns,) is added
relu, gelu_tanh : the activation
mask : a bit of each number, whether relu let it pass, is written
relu back : numbers whose bit isn't set become 0
sums : the sums (columns,) of b's rows are written: the gradient of a bias
"""
MASK_MULTIPLE = 128
"""Bits of a row of the mask are a multiple of it."""


@dataclass(frozen=True)
class Shape:
    """A product (rows, depth) @ (depth, columns) of matrices that lie in plain rows.

    Attributes
    ----------
    rows, columns, depth : sizes
    ld, ld_a, ld_b : distance of the rows of out, a and b, in numbers
    flip_a, flip_b : whether a lies as (depth, rows), b as (columns, depth)
    precision : a key of `PRECISIONS`
    epilogue : a key of `EPILOGUES`
    half : whether the result is written as bfloat16, the nearest; the row of biases is of the result's type
    """

    rows: int
    columns: int
    depth: int
    ld: int
    ld_a: int
    ld_b: int
    flip_a: bool = False
    flip_b: bool = False
    precision: str = "float32"
    epilogue: str = ""
    half: bool = False

    @property
    def result(self) -> int:
        """Type of the result (cudaDataType_t)."""
        return _BFLOAT16 if self.half else PRECISIONS[self.precision].result


class Addresses(NamedTuple):
    """Where a product's operands begin on the device; 0 where there is none.

    beside : the row of biases, or where sums go
    mask : bits of the numbers that relu lets pass
    """

    out: int
    a: int
    b: int
    beside: int = 0
    mask: int = 0


Launch = Callable[[int], None]
"""Starts what is bound on a stream, by its handle."""


class Library(Protocol):
    """What multiplies."""

    name: str

    def bind(self, shape: Shape, at: Addresses) -> Launch | None:
        """What launches the product; None where the library doesn't know this shape with this epilogue."""


def mask_bytes(rows: int, columns: int) -> int:
    """Bytes of the mask of a matrix."""
    return rows * -(-columns // MASK_MULTIPLE) * MASK_MULTIPLE // 8


def address_of(array: Any) -> int:
    """Where an array on the device begins (in the simulator: in memory)."""
    if device.simulated():
        return int(array.__array_interface__["data"][0])
    return int(array.__cuda_array_interface__["data"][0])


def _alignment(*addresses: int) -> int:
    """The largest power of two up to 256 that divides all of them."""
    together = functools.reduce(int.__or__, addresses, 256)
    return together & -together


# -------------------------------------------------- which way is chosen


class Choices:
    """Which way each product is computed, kept in a file: the same device gives the same bits in every process.

    Parameters
    ----------
    path : the file; None where nothing can be kept, and so nothing is timed
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, str] | None = None

    @property
    def known(self) -> dict[str, str]:
        """What is known so far."""
        if self._known is None:
            self._known = {}
            if self.path is not None:
                with suppress(OSError, ValueError, AttributeError):
                    found = json.loads(self.path.read_text())
                    self._known = {str(key): str(value) for key, value in found.items()}
        return self._known

    def get(self, key: str) -> bytes | None:
        """What was chosen for it."""
        with suppress(KeyError, ValueError):
            return bytes.fromhex(self.known[key])
        return None

    def put(self, key: str, chosen: bytes) -> None:
        """Keep a choice."""
        self.known[key] = chosen.hex()
        if self.path is not None:
            with suppress(OSError), _atomic.replacing(self.path) as part:
                part.write_text(json.dumps(self.known, indent=0) + "\n")


@functools.cache
def _choices() -> Choices:
    folder = _jit.cache_folder()
    return Choices(None if folder is None else folder / "products.json")


def _milliseconds(launch: Launch) -> float:
    """The best time of a launch on a stream of its own, by events."""
    cuda = device.cuda
    stream, begin, end = cuda.stream(), cuda.event(), cuda.event()
    best = float("inf")
    for _ in range(ROUNDS):
        begin.record(stream)
        for _ in range(REPEATS):
            launch(handle_of(stream))
        end.record(stream)
        end.synchronize()
        best = min(best, float(cuda.event_elapsed_time(begin, end)) / REPEATS)
    return best


def handle_of(stream: Any) -> int:
    """A stream's handle: of numba-cuda's streams, cuda.core's and its graph builders'; 0 for the default stream."""
    if isinstance(stream, int) or stream is None:
        return stream or 0
    inner = getattr(stream, "stream", stream)
    handle = getattr(inner, "handle", 0)
    handle = getattr(handle, "value", handle)  # ctypes' pointers
    return int(handle or 0)


# -------------------------------------------------- cuBLASLt


class CublasLt:
    """cuBLASLt through the bindings of nvmath-python.

    Parameters
    ----------
    bindings : the module ``nvmath.bindings.cublasLt``, or what stands for it
    choices : which way each product is computed
    clock : times a launch; None where nothing is to be timed
    """

    name = "cuBLASLt"

    def __init__(self, bindings: Any, choices: Choices, clock: Callable[[Launch], float] | None) -> None:
        self._lt, self._choices, self._clock = bindings, choices, clock
        try:
            self._handle = bindings.create()
        except bindings.cuBLASLtError as error:  # no RuntimeError, as missing libraries are
            raise RuntimeError(f"cuBLASLt doesn't start ({error})") from error
        self._workspace = device.cuda.device_array(WORKSPACE, np.uint8)
        self._place = f"{presence.report().get('device', '')} {bindings.get_version()}"

    def bind(self, shape: Shape, at: Addresses) -> Launch | None:
        """What launches the product; None where the library doesn't know this shape with this epilogue."""
        lt, precision = self._lt, PRECISIONS[shape.precision]
        lt_shapes = self._layouts(shape, precision.factors)
        description = self._description(shape, at, precision)
        candidates = self._candidates(description, lt_shapes, at)
        if not len(candidates):
            self._destroy(description, lt_shapes)
            return None
        number = np.float64 if precision.result == _REAL64 else np.float32
        factors = np.array([1, 0], number)
        a, b, d = lt_shapes

        def made(algorithm: np.ndarray) -> Launch:
            one, nothing = factors.ctypes.data, factors.ctypes.data + factors.itemsize
            way, room, handle = algorithm.ctypes.data, address_of(self._workspace), self._handle

            def launch(stream: int) -> None:
                lt.matmul(
                    *(handle, description, one, at.b, a, at.a, b, nothing, at.out, d, at.out, d),
                    *(way, room, WORKSPACE, stream),
                )

            launch.kept = algorithm, factors, self  # type: ignore[attr-defined]
            return launch

        chosen = self._chosen(shape, at, candidates, made)
        if chosen is None:
            self._destroy(description, lt_shapes)
            return None
        return made(chosen)

    def _put(self, setter: Callable[..., None], target: int, attribute: Any, kind: Any, value: int) -> None:
        cell = np.array(value, kind)
        setter(target, int(attribute), cell.ctypes.data, cell.nbytes)

    def _layouts(self, shape: Shape, factors: int) -> tuple[int, int, int]:
        """Of b, a and out as the library sees them, rows and columns changed places."""
        create = self._lt.matrix_layout_create
        b = (shape.depth, shape.columns) if shape.flip_b else (shape.columns, shape.depth)
        a = (shape.rows, shape.depth) if shape.flip_a else (shape.depth, shape.rows)
        return (
            create(factors, *b, shape.ld_b),
            create(factors, *a, shape.ld_a),
            create(shape.result, shape.columns, shape.rows, shape.ld),
        )

    def _description(self, shape: Shape, at: Addresses, precision: Precision) -> int:
        lt = self._lt
        description: int = lt.matmul_desc_create(precision.compute, precision.result)
        names = lt.MatmulDescAttribute
        values = {names.EPILOGUE: int(lt.Epilogue[EPILOGUES[shape.epilogue]])}
        if shape.flip_b:
            values[names.TRANSA] = 1
        if shape.flip_a:
            values[names.TRANSB] = 1
        if at.beside:
            values[names.BIAS_POINTER] = at.beside
            values[names.BIAS_DATA_TYPE] = shape.result
        if at.mask:
            values[names.EPILOGUE_AUX_POINTER] = at.mask
            values[names.EPILOGUE_AUX_LD] = -(-shape.columns // MASK_MULTIPLE) * MASK_MULTIPLE
        for attribute, value in values.items():
            kind = lt.get_matmul_desc_attribute_dtype(attribute)
            self._put(lt.matmul_desc_set_attribute, description, attribute, kind, value)
        return description

    def _candidates(self, description: int, layouts: tuple[int, int, int], at: Addresses) -> np.ndarray:
        """The ways to compute it (n, bytes), what the library thinks best first."""
        lt = self._lt
        preference = lt.matmul_preference_create()
        names = lt.MatmulPreferenceAttribute
        values = {
            names.MAX_WORKSPACE_BYTES: WORKSPACE,
            names.MIN_ALIGNMENT_A_BYTES: _alignment(at.b),
            names.MIN_ALIGNMENT_B_BYTES: _alignment(at.a),
            names.MIN_ALIGNMENT_C_BYTES: _alignment(at.out),
            names.MIN_ALIGNMENT_D_BYTES: _alignment(at.out),
        }
        try:
            for attribute, value in values.items():
                kind = lt.get_matmul_preference_attribute_dtype(attribute)
                self._put(lt.matmul_preference_set_attribute, preference, attribute, kind, value)
            found = np.zeros(CANDIDATES, lt.matmul_heuristic_result_dtype)
            count = np.zeros(1, np.int32)
            b, a, out = layouts
            try:
                lt.matmul_algo_get_heuristic(
                    *(self._handle, description, b, a, out, out, preference),
                    *(CANDIDATES, found.ctypes.data, count.ctypes.data),
                )
            except lt.cuBLASLtError as error:
                if error.status not in UNKNOWN:
                    raise
                count[0] = 0
        finally:
            lt.matmul_preference_destroy(preference)
        usable = found[: count[0]]
        ways = np.ascontiguousarray(usable[usable["state"] == 0]["algo"])
        return ways.view(np.uint8).reshape(len(ways), -1) if len(ways) else np.zeros((0, 1), np.uint8)

    def _chosen(
        self, shape: Shape, at: Addresses, candidates: np.ndarray, made: Callable[[np.ndarray], Launch]
    ) -> np.ndarray | None:
        """The way that was chosen before, else the quickest of the candidates, else the library's first.

        None where each was tried, and none works: the library is asked for what it thinks of, not for what it can.
        """
        lines = (at.out, at.a, at.b)
        key = json.dumps([self._place, *asdict(shape).values(), *map(_alignment, lines)])
        known = self._choices.get(key)
        if known is not None and len(known) == candidates.shape[1]:
            return np.frombuffer(known, np.uint8).copy()
        best = candidates[0].copy()
        if self._clock is not None and self._choices.path is not None and len(candidates) > 1:
            times = [self._timed(made(way.copy())) for way in candidates]
            if min(times) == float("inf"):
                return None
            best = candidates[int(np.argmin(times))].copy()
            self._choices.put(key, best.tobytes())
        return best

    def _timed(self, launch: Launch) -> float:
        """What the clock says of a way; infinity of one that doesn't work."""
        assert self._clock is not None
        try:
            return self._clock(launch)
        except self._lt.cuBLASLtError as error:
            if error.status not in UNKNOWN:
                raise
            return float("inf")

    def _destroy(self, description: int, layouts: Sequence[int]) -> None:
        self._lt.matmul_desc_destroy(description)
        for layout in layouts:
            self._lt.matrix_layout_destroy(layout)


# -------------------------------------------------- cuBLAS of CuPy


class Cublas:
    """cuBLAS through CuPy's bindings: products alone, without epilogues.

    Parameters
    ----------
    bindings : the module ``cupy_backends.cuda.libs.cublas``, or what stands for it
    """

    name = "cuBLAS"

    def __init__(self, bindings: Any) -> None:
        self._blas, self._handle = bindings, bindings.create()

    def bind(self, shape: Shape, at: Addresses) -> Launch | None:
        """What launches the product; None with an epilogue."""
        if shape.epilogue:
            return None
        blas, handle, precision = self._blas, self._handle, PRECISIONS[shape.precision]
        factors = np.array([1, 0], np.float64 if precision.result == _REAL64 else np.float32)
        one, nothing = factors.ctypes.data, factors.ctypes.data + factors.itemsize
        arguments = (
            *(int(shape.flip_b), int(shape.flip_a), shape.columns, shape.rows, shape.depth, one),
            *(at.b, precision.factors, shape.ld_b, at.a, precision.factors, shape.ld_a),
            *(nothing, at.out, shape.result, shape.ld, precision.compute, -1),
        )

        def launch(stream: int) -> None:
            blas.setStream(handle, stream)
            blas.gemmEx(handle, *arguments)

        launch.kept = factors  # type: ignore[attr-defined]
        return launch


@functools.cache
def library() -> Library | None:
    """What multiplies here: cuBLASLt, else cuBLAS, else None, which is said once.

    In the simulator there is none: its arrays lie in main memory.
    """
    if device.simulated():
        return None
    missing = []
    for module, name in presence.PRODUCT_LIBRARIES.items():
        try:
            if module == "nvmath":
                return CublasLt(importlib.import_module("nvmath.bindings.cublasLt"), _choices(), _milliseconds)
            return Cublas(importlib.import_module("cupy_backends.cuda.libs.cublas"))
        except (ImportError, RuntimeError) as error:  # not installed, or without NVIDIA's own library
            missing.append(f"{name}: {str(error).strip().splitlines()[0]}")
    warnings.warn(
        f"matrix products run in fastbp's own kernels, without tensor cores ({'; '.join(missing)}): wide networks "
        "train faster with pip install 'fastbp[cublas13]' (or 'fastbp[cublas12]')",
        RuntimeWarning,
        stacklevel=2,
    )
    return None
