"""What cuBLASLt and cuBLAS do, as NVIDIA describes it, in NumPy on main memory: columns first, epilogues, masks.

Enumerations, number types and records are the real bindings'; only what needs a GPU is stood in for.
"""

import ctypes
from typing import Any

import numpy as np
from nvmath.bindings import cublasLt as real

KINDS = {0: np.float32, 1: np.float64, 14: np.uint16}
SCALES = {68: 0, 77: 0, 70: 1}


def memory(address: int, count: int, kind: Any) -> np.ndarray:
    """So many numbers at an address."""
    raw = (ctypes.c_char * (count * np.dtype(kind).itemsize)).from_address(address)
    return np.frombuffer(raw, kind)


def columns(address: int, rows: int, count: int, ld: int, kind: Any) -> np.ndarray:
    """A matrix that lies column by column (rows, count), a view."""
    flat = memory(address, (count - 1) * ld + rows, kind)
    return np.lib.stride_tricks.as_strided(flat, (rows, count), (flat.itemsize, ld * flat.itemsize))


def values(array: np.ndarray) -> np.ndarray:
    """The numbers; bfloat16 stands in the upper half of float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def put(out: np.ndarray, numbers: np.ndarray) -> None:
    """Writes numbers, as the nearest bfloat16 where that is what stands there."""
    if out.dtype == np.uint16:
        bits = numbers.astype(np.float32).view(np.uint32)
        out[:] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    else:
        out[:] = numbers


def gelu(z: np.ndarray) -> np.ndarray:
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


class LtError(RuntimeError):
    """The bindings' error, which needs the library for its words."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Lt:
    """The module ``nvmath.bindings.cublasLt``.

    unknown : names of epilogues that it doesn't know for any shape
    """

    MatmulDescAttribute, MatmulPreferenceAttribute = real.MatmulDescAttribute, real.MatmulPreferenceAttribute
    Epilogue, cuBLASLtError = real.Epilogue, LtError
    matmul_heuristic_result_dtype = real.matmul_heuristic_result_dtype
    get_matmul_desc_attribute_dtype = staticmethod(real.get_matmul_desc_attribute_dtype)
    get_matmul_preference_attribute_dtype = staticmethod(real.get_matmul_preference_attribute_dtype)

    def __init__(self, unknown: tuple[str, ...] = ()) -> None:
        self.unknown = unknown
        self.objects: dict[int, Any] = {}
        self.launches: list[tuple[int, int]] = []
        self.alignments: list[tuple[int, ...]] = []

    def _new(self, thing: Any) -> int:
        self.objects[number := 1000 + len(self.objects)] = thing
        return number

    def create(self) -> int:
        return self._new("handle")

    def get_version(self) -> int:
        return 130000

    def matmul_desc_create(self, compute: int, scale: int) -> int:
        assert SCALES[compute] == scale
        return self._new({"compute": compute})

    def matrix_layout_create(self, kind: int, rows: int, count: int, ld: int) -> int:
        assert ld >= rows > 0 < count
        return self._new((KINDS[kind], rows, count, ld))

    def matmul_preference_create(self) -> int:
        return self._new({})

    def _set(self, target: int, attribute: int, buffer: int, size: int, kind: Any) -> None:
        assert size == np.dtype(kind).itemsize
        self.objects[target][attribute] = int(memory(buffer, 1, kind)[0])

    def matmul_desc_set_attribute(self, target: int, attribute: int, buffer: int, size: int) -> None:
        self._set(target, attribute, buffer, size, real.get_matmul_desc_attribute_dtype(attribute))

    def matmul_preference_set_attribute(self, target: int, attribute: int, buffer: int, size: int) -> None:
        self._set(target, attribute, buffer, size, real.get_matmul_preference_attribute_dtype(attribute))

    def _destroy(self, thing: int) -> None:
        del self.objects[thing]

    matmul_preference_destroy = matmul_desc_destroy = matrix_layout_destroy = _destroy

    def matmul_algo_get_heuristic(
        self,
        *arguments: int,
    ) -> None:
        handle, description, _, _, _, _, preference, wanted, results, count = arguments
        assert self.objects[handle] == "handle"
        names, found = self.MatmulPreferenceAttribute, self.objects[preference]
        assert found[names.MAX_WORKSPACE_BYTES] > 0
        self.alignments.append(tuple(found[getattr(names, f"MIN_ALIGNMENT_{x}_BYTES")] for x in "ABCD"))
        epilogue = self.Epilogue(self.objects[description][self.MatmulDescAttribute.EPILOGUE]).name
        if epilogue in self.unknown:
            raise LtError(15)
        number = min(3, wanted)
        table = memory(results, wanted, self.matmul_heuristic_result_dtype)
        for place in range(number):
            table[place]["algo"]["data_"][:] = place + 1
            table[place]["state"] = place == 0 and number > 2  # the first turns out not to work
        memory(count, 1, np.int32)[0] = number

    def matmul(self, *arguments: int) -> None:
        handle, description, one, a, a_layout, b, b_layout, zero, c, c_layout, d, d_layout = arguments[:12]
        way, workspace, room, stream = arguments[12:]
        assert self.objects[handle] == "handle" and workspace and room and (c, c_layout) == (d, d_layout)
        self.launches.append((int(memory(way, 1, np.uint64)[0]), stream))
        said, names = self.objects[description], self.MatmulDescAttribute
        scale = np.float64 if said["compute"] == 70 else np.float32
        assert (memory(one, 1, scale)[0], memory(zero, 1, scale)[0]) == (1, 0)
        left, right, out = self._matrix(a, a_layout), self._matrix(b, b_layout), self._matrix(d, d_layout)
        left = left.T if said.get(names.TRANSA) else left
        right = right.T if said.get(names.TRANSB) else right
        z = values(left).astype(np.float64) @ values(right).astype(np.float64)
        epilogue = self.Epilogue(said[names.EPILOGUE]).name
        rows, count = z.shape
        if "BIAS" in epilogue:
            assert KINDS[said[names.BIAS_DATA_TYPE]] == out.dtype
            z += values(memory(said[names.BIAS_POINTER], rows, out.dtype))[:, None]
        if "AUX" in epilogue or epilogue == "DRELU":
            bits = said[names.EPILOGUE_AUX_LD]
            assert bits % 128 == 0 and bits >= rows
            mask = columns(said[names.EPILOGUE_AUX_POINTER], bits // 8, count, bits // 8, np.uint8)
            if epilogue == "DRELU":
                z *= np.unpackbits(mask, axis=0, bitorder="little")[:rows]
            else:
                padded = np.zeros((bits, count), bool)
                padded[:rows] = z > 0
                mask[:] = np.packbits(padded, axis=0, bitorder="little")
        if epilogue.startswith("RELU"):
            z = np.maximum(z, 0)
        if epilogue.startswith("GELU"):
            z = gelu(z)
        if epilogue == "BGRADA":
            put(memory(said[names.BIAS_POINTER], rows, out.dtype), values(left).sum(1))
        put(out, z)

    def _matrix(self, address: int, layout: int) -> np.ndarray:
        kind, rows, count, ld = self.objects[layout]
        return columns(address, rows, count, ld, kind)


class Blas:
    """The module ``cupy_backends.cuda.libs.cublas``."""

    def __init__(self) -> None:
        self.stream = -1

    def create(self) -> int:
        return 77

    def setStream(self, handle: int, stream: int) -> None:
        self.stream = stream

    def gemmEx(self, *arguments: int) -> None:
        handle, flip_a, flip_b, m, n, k, one, a, a_kind, lda, b, b_kind, ldb, zero, c, c_kind, ldc, compute, _ = (
            arguments
        )
        assert handle == 77 and self.stream >= 0
        scale = np.float64 if compute == 70 else np.float32
        assert (memory(one, 1, scale)[0], memory(zero, 1, scale)[0]) == (1, 0)
        left = columns(a, *((k, m) if flip_a else (m, k)), lda, KINDS[a_kind])
        right = columns(b, *((n, k) if flip_b else (k, n)), ldb, KINDS[b_kind])
        left, right = (left.T if flip_a else left), (right.T if flip_b else right)
        put(columns(c, m, n, ldc, KINDS[c_kind]), values(left).astype(np.float64) @ values(right).astype(np.float64))
