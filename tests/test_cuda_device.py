"""Where `cuda` comes from: the package, the simulator, code for GPUs that aren't there."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import python

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda import device
from fastbp.cuda.device import cuda, inlined, kernel


@inlined
def double(x):
    return x + x


@kernel
def add_doubles(out, a, b):
    """out[i] = a[i] + 2 b[i], then the sum of out in out[-1]."""
    i = cuda.threadIdx.x
    out[i] = a[i] + double(b[i])
    cuda.syncthreads()
    if i == 0:
        for j in range(cuda.blockDim.x):
            out[cuda.blockDim.x] += out[j]


def test_the_tests_run_in_the_simulator() -> None:
    assert device.package() == "numba_cuda"
    assert device.simulated()
    assert cuda.implementation == "NVIDIA"


def test_a_kernel_runs_in_the_simulator() -> None:
    out, a, b = np.zeros(5), np.arange(4.0), np.ones(4)
    add_doubles[1, 4](out, a, b)
    np.testing.assert_array_equal(out, [2, 3, 4, 5, 14])


@kernel(threads=4)
def overflow(out):
    """out becomes infinite, and their difference NaN."""
    i = cuda.threadIdx.x
    out[i] = out[i] * out[i]
    out[i + cuda.blockDim.x] = out[i] - out[i]


def test_numbers_overflow_in_silence() -> None:
    out = np.full(8, 1e300)
    overflow[1, 4](out)
    assert np.isposinf(out[:4]).all() and np.isnan(out[4:]).all()


def test_nothing_compiles_in_the_simulator() -> None:
    with pytest.raises(RuntimeError, match="NUMBA_ENABLE_CUDASIM"):
        device.compile_ptx(add_doubles, (), [(9, 0)])


def test_nothing_but_cuda_is_loaded_on_demand() -> None:
    with pytest.raises(AttributeError, match="no attribute 'opencl'"):
        device.opencl  # noqa: B018


def test_without_a_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "package", lambda: "")
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[cuda13\]'"):
        device._module.__wrapped__()
    assert not device.simulated.__wrapped__()


def test_the_successor_serves_where_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name == "numba_cuda_mlir" or None if "_cuda" in name else found(name)
    )
    assert device.package.__wrapped__() == "numba_cuda_mlir"
    monkeypatch.setattr(device, "package", lambda: "numba_cuda_mlir")
    stand_in = SimpleNamespace(jit=None)
    monkeypatch.setitem(sys.modules, "numba_cuda_mlir.cuda", stand_in)
    monkeypatch.setitem(sys.modules, "numba_cuda_mlir", SimpleNamespace(cuda=stand_in, __path__=[]))
    assert device._module.__wrapped__() is stand_in
    assert not device.simulated.__wrapped__()


def test_the_successor_compiles_the_kernels() -> None:
    """One of each maker of kernels, for GPUs that aren't here."""
    pytest.importorskip("numba_cuda_mlir", reason="numba-cuda-mlir isn't installed, numba-cuda serves")
    code = """
import os
del os.environ["NUMBA_ENABLE_CUDASIM"]
from types import SimpleNamespace
import numpy as np
from fastbp.cuda import device
device.package = lambda: "numba_cuda_mlir"
from fastbp.cuda import bound
from launches import others, steps
from numba_cuda_mlir import types

bound.cuda, bound.device = SimpleNamespace(to_device=np.ascontiguousarray), SimpleNamespace(zeros=np.zeros)
compiled = {}
for launch in [*(launch for step in steps() for launch in step), *others()]:
    name = f"{launch.kernel.py_func.__module__}.{launch.kernel.py_func.__qualname__}"
    if name not in compiled:
        signature = tuple(
            getattr(types, each.dtype.name)[::1] if isinstance(each, np.ndarray)
            else types.float64 if isinstance(each, float) else types.int64
            for each in launch.arguments
        )
        compiled[name], later = device.compile_ptx(launch.kernel, signature, [(7, 5), (9, 0)], launch.block)
        assert ".target sm_75" in compiled[name] and ".target sm_90" in later
assert len(compiled) > 30
print("compiled")
"""
    assert python(code).strip() == "compiled"


def test_numbas_own_cuda_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba.cuda", SimpleNamespace(__file__="numba/cuda/__init__.py"))
    with pytest.raises(ImportError, match="reinstall numba-cuda"):
        device._module.__wrapped__()


def test_kernels_compile_without_a_gpu() -> None:
    """No fast-math: a NaN check stays; and a product and a sum become one fused operation."""
    code = """
import os
del os.environ["NUMBA_ENABLE_CUDASIM"]
from numba import types
from fastbp.cuda import device
from fastbp.cuda.device import cuda, inlined, kernel

@inlined
def fused(a, b, c):
    return a * b + c

@kernel(threads=64)
def work(out, a, b):
    i = cuda.grid(1)
    value = fused(a[i], b[i], out[i])
    if value != value:
        value = b[i]
    out[i] = value

assert not device.simulated()
array = types.float32[::1]
capabilities = (7, 5), (9, 0), (10, 0)
codes = device.compile_ptx(work, (array, array, array), capabilities, threads=64)
for (major, minor), ptx in zip(capabilities, codes, strict=True):
    assert f".target sm_{major}{minor}" in ptx
    assert "fma.rn.f32" in ptx and "setp.nan.f32" in ptx and ".maxntid 64" in ptx, ptx
    assert "call" not in ptx and ".f64" not in ptx
print("compiled")
"""
    assert python(code).strip() == "compiled"


def test_a_small_grid_is_no_matter_of_a_warning() -> None:
    """numba-cuda warns of every grid of fewer than 128 blocks; a user's own kernels are still warned of."""
    code = """
import os
del os.environ["NUMBA_ENABLE_CUDASIM"]
import warnings
from numba.cuda.core.errors import NumbaPerformanceWarning
from numba.cuda.dispatcher import CUDADispatcher
from fastbp.cuda import device

@device.kernel(threads=64)
def work(out):
    out[0] = 1

launched = []
CUDADispatcher.call = lambda self, arguments, configured: launched.append(configured.griddim)
warnings.simplefilter("error")
device.launch(work, (3, 2), 64, 0, 0, None)
try:
    work[1, 64]
except NumbaPerformanceWarning:
    print(launched)
"""
    assert python(code).strip() == "[(3, 2, 1)]"


def test_zeros_take_at_least_one_place() -> None:
    for count in (0, 3):
        np.testing.assert_array_equal(device.zeros(count, np.float32).copy_to_host(), np.zeros(max(1, count)))
