"""The one module that imports `cuda`, and hides which package gives it; the only flags that CUDA kernels have.

`numba-cuda` gives ``numba.cuda``, and alone has a simulator (``NUMBA_ENABLE_CUDASIM=1``, set before Numba is imported).
`numba-cuda-mlir`, its successor, serves where it is installed alone. The ``numba.cuda`` that comes with Numba itself is
deprecated and taken by nobody. All is loaded when it is first asked for: importing numba-cuda adds settings to Numba,
and takes a quarter of a second, so that only who wants a GPU imports a module of kernels:

    from fastbp.cuda.device import cuda, inlined, kernel
"""

import contextlib
import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.cuda import kept

if TYPE_CHECKING:
    cuda: Any
    """``numba.cuda``, or what takes its place."""

PACKAGES = {"numba_cuda": "numba.cuda", "numba_cuda_mlir": "numba_cuda_mlir.cuda"}
"""The packages that `cuda` may come from, first choice first, and their module of it."""

# fastmath would delete checks for NaN, and make divisions and roots coarse. Contracting a * b + c to one fused
# operation is what libNVVM does anyway. Kernels aren't optimised again when they are linked (`lto` below): all that
# they call is part of them, and the PTX that tests see is what runs.
OPTIONS: dict[str, Any] = {"fastmath": False}
INLINED: dict[str, Any] = {**OPTIONS, "device": True, "forceinline": True}


def __getattr__(name: str) -> Any:
    if name == "cuda":
        return _Simulated() if simulated() else _module()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Simulated:
    """The simulator's `cuda` of the kernel that runs.

    The simulator itself replaces `cuda` among the globals of a kernel, but not in other modules that it calls.
    """

    def __init__(self) -> None:
        self._running = importlib.import_module("numba.cuda.simulator.kernel")._get_kernel_context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._running() or _module(), name)


@functools.cache
def package() -> str:
    """The name of the installed package that `cuda` comes from; "" where there is none."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is not None), "")


@functools.cache
def _module() -> Any:
    if not package():
        raise ImportError(
            "CUDA needs numba-cuda: pip install 'fastbp[cuda13]', or 'fastbp[cuda12]' for a driver of CUDA 12 (the "
            "numba.cuda that comes with Numba is deprecated and isn't used)"
        )
    module = importlib.import_module(PACKAGES[package()])
    if package() == "numba_cuda" and getattr(module, "implementation", "") != "NVIDIA":
        raise ImportError(
            f"numba-cuda is installed, but numba.cuda came from {module.__file__}: something imported it before "
            "numba-cuda could take its place. Import fastbp first, or reinstall numba-cuda"
        )
    return module


@functools.cache
def simulated() -> bool:
    """Whether kernels run in numba-cuda's simulator: one Python thread for each CUDA thread, no types, no warps."""
    if package() != "numba_cuda":
        return False
    _module()
    return bool(importlib.import_module("numba.cuda.core.config").ENABLE_CUDASIM)


def kernel(function: Callable[..., Any] | None = None, *, threads: int | None = None, blocks: int = 1) -> Any:
    """Decorator: an entry point, ``kernel[blocks, threads, stream, shared_bytes](...)``, compiled at its first launch.

    Parameters
    ----------
    function : the kernel
    threads : most threads of a block it is launched with, None where any number may be: the compiler then knows how
        many registers a thread may use
    blocks : so many blocks of that size are to fit a multiprocessor
    """
    if function is None:
        return lambda function: kernel(function, threads=threads, blocks=blocks)
    if simulated():
        return _module().jit(_quiet(function), **OPTIONS)
    bounds = {} if threads is None else {"launch_bounds": (threads, blocks)}
    if package() != "numba_cuda":
        return _module().jit(function, **bounds, **OPTIONS)
    return kept.keep(_module().jit(function, lto=False, **bounds, **OPTIONS))


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel without NumPy's warnings: a GPU computes with infinities and NaN in silence."""
    silence = np.errstate

    def run(*arguments: Any) -> None:
        with silence(all="ignore"):
            function(*arguments)

    return functools.wraps(function)(run)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: a function that kernels call and that becomes part of them; a plain function in the simulator."""
    return function if simulated() else _module().jit(function, **INLINED)


def zeros(count: int, dtype: Any) -> Any:
    """So many zeros on the device (at least one), set there: a workspace may be larger than the host's free memory."""
    if simulated() or package() != "numba_cuda":
        return _module().to_device(np.zeros(max(1, count), dtype))
    array = _module().device_array(max(1, count), dtype)
    array.gpu_data.memset(0)
    return array


PLAIN_SHARED = 48 << 10
"""Bytes of shared memory that a launch may ask for without more."""


@functools.cache
def shared_bytes() -> int:
    """Most bytes of shared memory that `launch` gives a block."""
    if simulated() or package() != "numba_cuda":
        return PLAIN_SHARED
    return int(_module().get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)


def launch(function: Any, grid: Any, block: int, stream: Any, shared: int, *arguments: Any) -> None:
    """Launch a kernel; one that takes more than 48 KB of shared memory is allowed to, which numba-cuda leaves out."""
    if shared > PLAIN_SHARED and not simulated():
        _allow(function, tuple(map(function.typeof_pyval, arguments)), shared)
    with _unadvised():
        configured = function[grid, block, stream, shared]
    configured(*arguments)


_advice = threading.Lock()


@contextlib.contextmanager
def _unadvised() -> Iterator[None]:
    """Inside, numba-cuda doesn't warn of launches of fewer than 128 blocks: small networks have small grids."""
    if package() != "numba_cuda":
        yield
        return
    config: Any = importlib.import_module("numba.cuda.core.config")
    with _advice:
        before, config.CUDA_LOW_OCCUPANCY_WARNINGS = config.CUDA_LOW_OCCUPANCY_WARNINGS, 0
        try:
            yield
        finally:
            config.CUDA_LOW_OCCUPANCY_WARNINGS = before


def _allow(function: Any, signature: tuple[Any, ...], shared: int) -> None:
    allowed = function.__dict__.setdefault("shared_allowed", {})
    if allowed.get(signature, 0) < shared:
        driver: Any = importlib.import_module("numba.cuda.cudadrv.driver")
        entry = function.compile(signature)._codelibrary.get_cufunc()
        attribute = driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.driver.cuKernelSetAttribute(attribute, shared, entry.handle, entry.device.id)
        allowed[signature] = shared


def compile_ptx(
    function: Any,
    signature: tuple[Any, ...],
    capabilities: Sequence[tuple[int, int]],
    threads: int | None = None,
    blocks: int = 1,
) -> list[str]:
    """The PTX code of a kernel, for each of some GPUs: needs no GPU and no driver.

    Parameters
    ----------
    function : what `kernel` made, or a plain function
    signature : Numba types of the arguments
    capabilities : the compute capabilities to compile for, for example [(7, 5), (9, 0)]; Numba's part, most of the time
        of compiling, is done for the first of them alone (numba-cuda 0.30 makes the same of all from 7.5 on)
    threads, blocks : see `kernel`

    Raises
    ------
    RuntimeError : in the simulator, which compiles nothing
    """
    if simulated():
        raise RuntimeError("the simulator compiles nothing: unset NUMBA_ENABLE_CUDASIM before Numba is imported")
    bounds = None if threads is None else (threads, blocks)
    what: tuple[Any, ...] = getattr(function, "py_func", function), tuple(signature)
    how: dict[str, Any] = {"device": False, "abi": "numba", "launch_bounds": bounds, **OPTIONS}
    if package() != "numba_cuda":
        codes = []
        for capability in capabilities:
            with _known_as(capability):
                codes.append(str(_module().compile_ptx(*what, cc=capability, **how)[0]))
        return codes
    with _standing_for(capabilities[0]):
        compiler: Any = importlib.import_module("numba.cuda.compiler")
        library, _ = compiler._compile_pyfunc_with_fixup(*what, cc=capabilities[0], **how)
        return [str(library.get_asm_str(cc=capability)) for capability in capabilities]


@contextlib.contextmanager
def _standing_for(capability: tuple[int, int]) -> Iterator[None]:
    """A stand-in for the GPU: numba-cuda asks the one at hand what to compile device functions for (0.30; the kernel's
    own capability decides what code comes out)."""
    dispatcher: Any = importlib.import_module("numba.cuda.dispatcher")
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


@contextlib.contextmanager
def _known_as(capability: tuple[int, int]) -> Iterator[None]:
    """numba-cuda-mlir (0.6) asks the GPU at hand what it is, whatever it compiles for, and remembers that."""
    tools: Any = importlib.import_module("numba_cuda_mlir.tools")
    before, tools._cached_cc = tools._cached_cc, capability
    try:
        yield
    finally:
        tools._cached_cc = before
