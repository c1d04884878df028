"""Products by NVIDIA's libraries: what they are asked for, by stand-ins; on a GPU, what they answer."""

import itertools
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
pytest.importorskip("nvmath.bindings.cublasLt", reason="nvmath-python isn't made for this system")
from cublas_stand_in import Blas, Lt, gelu

from fastbp.cuda import cublas, device
from fastbp.cuda.cublas import Addresses, Choices, CublasLt, Shape


def start(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


def rounded(array: np.ndarray) -> np.ndarray:
    """The bits of bfloat16, cut off."""
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def stored(matrix: np.ndarray, ld: int, kind: Any) -> np.ndarray:
    """Plain rows with a gap behind each, which holds NaN."""
    out = np.full((len(matrix), ld), 12345 if kind == np.uint16 else np.nan, kind)
    out[:, : matrix.shape[1]] = rounded(matrix) if kind == np.uint16 else matrix
    return out


@pytest.fixture
def lt() -> Lt:
    return Lt()


def made(lt: Lt, path: Path | None = None, clock: Any = None) -> CublasLt:
    return CublasLt(lt, Choices(path), clock)


def product(
    library: Any, rows: int, columns: int, depth: int, flip_a: bool, flip_b: bool, precision: str, epilogue: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Runs one; gives out, what was wanted of the plain product, both in float64, the row beside and the mask."""
    rng = np.random.default_rng(rows * columns)
    result = np.float64 if precision == "float64" else np.float32
    factor = np.uint16 if precision == "bfloat16" else result
    a, b = rng.standard_normal((rows, depth)), rng.standard_normal((depth, columns))
    if precision == "bfloat16":
        a, b = ((rounded(m).astype(np.uint32) << 16).view(np.float32).astype(float) for m in (a, b))
    ld_a, ld_b, ld = (rows if flip_a else depth) + 3, (depth if flip_b else columns) + 1, columns + 2
    left = stored(a.T if flip_a else a, ld_a, factor)
    right = stored(b.T if flip_b else b, ld_b, factor)
    out = np.full((rows, ld), np.nan, result)
    beside = rng.standard_normal(columns).astype(result) if "bias" in epilogue or epilogue == "sums" else None
    mask = None
    if "mask" in epilogue or epilogue == "relu back":
        mask = rng.integers(0, 256, cublas.mask_bytes(rows, columns)).astype(np.uint8)
    shape = Shape(rows, columns, depth, ld, ld_a, ld_b, flip_a, flip_b, precision, epilogue)
    launch = library.bind(shape, Addresses(start(out), start(left), start(right), start(beside), start(mask)))
    assert launch is not None
    launch(5)
    assert np.isnan(out[:, columns:]).all()
    return out[:, :columns].astype(float), a @ b, b, beside, mask


FLIPS = list(itertools.product([False, True], repeat=2))


@pytest.mark.parametrize("precision", cublas.PRECISIONS)
@pytest.mark.parametrize("flip_a, flip_b", FLIPS)
def test_plain_rows_are_multiplied(lt: Lt, flip_a: bool, flip_b: bool, precision: str) -> None:
    for library in (made(lt), cublas.Cublas(Blas())):
        out, wanted, *_ = product(library, 5, 7, 4, flip_a, flip_b, precision, "")
        np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("epilogue", cublas.EPILOGUES)
def test_epilogues_do_what_their_names_say(lt: Lt, epilogue: str) -> None:
    out, z, b, beside, mask = product(made(lt), 5, 150, 4, False, False, "float32", epilogue)
    bits = None if mask is None else np.unpackbits(mask.reshape(5, -1), axis=1, bitorder="little")[:, :150]
    if "bias" in epilogue:
        z = z + beside
    if "mask" in epilogue:
        np.testing.assert_array_equal(bits, z > 0)
    if epilogue == "relu back":
        z = z * bits
    elif epilogue == "sums":
        np.testing.assert_allclose(beside, b.sum(0), rtol=1e-5, atol=1e-5)
    elif "relu" in epilogue:
        z = np.maximum(z, 0)
    elif "gelu" in epilogue:
        z = gelu(z)
    np.testing.assert_allclose(out, z, rtol=1e-5, atol=1e-5)


def test_what_the_library_does_not_know_is_left_to_others() -> None:
    lt = Lt(unknown=("BIAS",))
    before = len(lt.objects)
    library = made(lt)
    shape = Shape(4, 4, 4, 4, 4, 4, epilogue="bias")
    room = np.zeros(64, np.float32)
    assert library.bind(shape, Addresses(*[start(room)] * 4)) is None
    assert len(lt.objects) == before + 1  # the handle
    assert cublas.Cublas(Blas()).bind(shape, Addresses(*[start(room)] * 4)) is None


def test_the_library_is_told_how_operands_are_aligned(lt: Lt) -> None:
    room = np.zeros(4096, np.uint8)
    base = start(room) + -start(room) % 256
    made(lt).bind(Shape(2, 2, 2, 2, 2, 2), Addresses(base + 256, base + 16, base + 4))
    assert lt.alignments == [(4, 16, 256, 256)]  # its A is our b


# ---------------------------------------------------------------- which way is chosen


def bind(library: CublasLt, rows: int = 2) -> int:
    """Binds a product, launches it, and gives the way it was computed."""
    room = np.zeros(64 * rows, np.float32)
    launch = library.bind(Shape(rows, 2, 2, 2, 2, 2), Addresses(*[start(room)] * 3))
    assert launch is not None
    launch(0)
    return library._lt.launches[-1][0]


def test_the_quickest_way_is_kept_for_the_next_process(tmp_path: Path) -> None:
    path, times = tmp_path / "products.json", iter([5.0, 3.0])
    library = made(Lt(), path, lambda launch: next(times))
    assert bind(library) == 3  # of 2 and 3: the first doesn't work
    assert bind(library) == 3  # known now, and not timed again
    assert len(json.loads(path.read_text())) == 1
    again = made(Lt(), path, lambda launch: pytest.fail("timed again"))
    assert bind(again) == 3


def test_ways_that_do_not_work_after_all_are_left_out(tmp_path: Path) -> None:
    broken = Lt.cuBLASLtError(15)

    def clock(launch: Any) -> float:
        if launch.kept[0].view(np.uint64)[0] in refused:
            raise broken
        return 1.0

    refused = {2}
    assert bind(made(Lt(), tmp_path / "some.json", clock)) == 3
    refused = {2, 3}
    library = made(Lt(), tmp_path / "none.json", clock)
    room = np.zeros(64, np.float32)
    assert library.bind(Shape(2, 2, 2, 2, 2, 2), Addresses(*[start(room)] * 3)) is None
    broken.status = 13
    with pytest.raises(Lt.cuBLASLtError):
        library.bind(Shape(2, 2, 2, 2, 2, 2), Addresses(*[start(room)] * 3))


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "{"])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "products.json"
    path.write_text(text)
    assert bind(made(Lt(), path, lambda launch: 1.0)) == 2
    assert made(Lt(), path, None)._choices.known


def test_without_a_place_to_keep_choices_the_librarys_first_is_taken() -> None:
    assert bind(made(Lt(), None, lambda launch: pytest.fail("what can't be kept isn't timed"))) == 2


# ---------------------------------------------------------------- what is installed


def test_a_library_that_does_not_start_is_as_a_missing_one(lt: Lt, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise lt.cuBLASLtError(1)

    monkeypatch.setattr(lt, "create", refuse)
    with pytest.raises(RuntimeError, match=r"cuBLASLt doesn't start .*status 1"):
        made(lt)


def test_the_simulator_has_no_library() -> None:
    assert cublas.library.__wrapped__() is None


def test_libraries_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "simulated", lambda: False)
    found: dict[str, Any] = {"cupy_backends.cuda.libs.cublas": Blas()}

    def load(name: str) -> Any:
        if name not in found:
            raise ImportError(f"No module named {name!r}")
        return found[name]

    monkeypatch.setattr(cublas, "importlib", SimpleNamespace(import_module=load))
    assert cublas.library.__wrapped__().name == "cuBLAS"
    found.clear()
    with pytest.warns(RuntimeWarning, match=r"own kernels.*nvmath-python: No module.*cupy: No module.*\[cublas13\]"):
        assert cublas.library.__wrapped__() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cublas.handle_of(0)


def test_streams_of_all_kinds_have_handles() -> None:
    builder = SimpleNamespace(stream=SimpleNamespace(handle=9))
    assert [cublas.handle_of(s) for s in (0, None, 7, SimpleNamespace(handle=8), builder)] == [0, 0, 7, 8, 9]
    assert cublas.handle_of(SimpleNamespace(handle=SimpleNamespace(value=None))) == 0


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:matrix products run in fastbp's own kernels")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("epilogue", cublas.EPILOGUES)
@pytest.mark.parametrize("flip_a, flip_b", FLIPS)
def test_the_real_library_agrees_with_the_stand_in(flip_a: bool, flip_b: bool, epilogue: str, precision: str) -> None:
    library = cublas.library()
    if library is None or library.name != "cuBLASLt":
        pytest.skip("nvmath-python isn't installed with cuBLAS")
    rows, columns, depth, cuda = 96, 64, 160, device.cuda
    rng = np.random.default_rng(3)
    kind = np.uint16 if precision == "bfloat16" else np.float32
    a, b = rng.standard_normal((rows, depth)), rng.standard_normal((depth, columns))
    arrays = [a.T if flip_a else a, b.T if flip_b else b]
    host = [np.ascontiguousarray(rounded(m) if kind == np.uint16 else m.astype(np.float32)) for m in arrays]
    host += [np.zeros((rows, columns), np.float32), rng.standard_normal(columns).astype(np.float32)]
    host.append(rng.integers(0, 256, cublas.mask_bytes(rows, columns)).astype(np.uint8))
    shape = Shape(
        rows, columns, depth, columns, host[0].shape[1], host[1].shape[1], flip_a, flip_b, precision, epilogue
    )
    wants = [1, 1, 1, "bias" in epilogue or epilogue == "sums", "mask" in epilogue or epilogue == "relu back"]

    def addresses(arrays: list[Any], at: Any) -> Addresses:
        left, right, out, beside, mask = (at(array) if want else 0 for array, want in zip(arrays, wants, strict=True))
        return Addresses(out, left, right, beside, mask)

    on_device = [cuda.to_device(array) for array in host]
    launch = library.bind(shape, addresses(on_device, cublas.address_of))
    if launch is None:
        pytest.skip(f"this cuBLASLt doesn't know {epilogue!r} for {precision}")
    launch(0)
    cuda.synchronize()
    stand_in = made(Lt()).bind(shape, addresses(host, start))
    assert stand_in is not None
    stand_in(0)
    coarse = {"float32": 1e-4, "tf32": 5e-2, "bfloat16": 1e-3}[precision]
    np.testing.assert_allclose(on_device[2].copy_to_host(), host[2], atol=coarse)
    np.testing.assert_allclose(on_device[3].copy_to_host(), host[3], atol=coarse)
    bits = (
        np.unpackbits(one.reshape(rows, -1), 1, bitorder="little") for one in (on_device[4].copy_to_host(), host[4])
    )
    got, wanted = (each[:, :columns] for each in bits)  # what stands behind a row's bits is nobody's
    assert np.mean(got != wanted) < 0.01  # relu's border may fall to either side
