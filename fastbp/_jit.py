"""Floor 0: the only jit flags of the package, the kernels' cache folder, the machine's vectors and threads, one lock.

Nothing here compiles at import. Two decorators make every kernel:

* `helper`: a jitted function that other jitted functions call; never cached on its own.
* `Kernel`: an entry point of plain numbers, reached by its address: compiled on first use, kept in the cache folder,
  called with the GIL released.
"""

import contextlib
import ctypes
import functools
import gc
import hashlib
import os
import re
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numba
import numba.extending
from numba.core import caching, types
from numba.core.compiler_lock import global_compiler_lock

from fastbp._linking import Function, Helper

# No fast-math flags: sums are vectorised by hand (`_vector`, `cpu.tile`), so that their order is written, not chosen.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

launch_lock = threading.RLock()
"""Held around every parallel launch: Numba's workqueue layer aborts the process when two threads launch at once."""


def helper(function: Callable[..., Any]) -> Any:
    """Decorator: a jitted function that other jitted functions call; never cached on its own."""
    return Helper(function, OPTIONS)


intrinsic: Any = numba.extending.intrinsic


# ---------------------------------------------------------------- the cache folder


class CacheWarning(UserWarning):
    """The kernels can't be kept on disk, so every process compiles them again."""


def _user_cache() -> Path:
    if named := os.environ.get("FASTBP_CACHE_DIR"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fastbp" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastbp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastbp"


KERNEL_SOURCES = (
    "_*.py",
    "activations.py",
    "constraints.py",
    "losses.py",
    "optimizers.py",
    "program.py",
    "schedules.py",
    "cpu/*.py",
    "data/__init__.py",
    "data/sparse.py",
    "estimators/shuffles.py",
    "formulas/*.py",
    "layout/*.py",
)
"""Every source that a compiled kernel can depend on (a test compares this with the imports)."""


NOT_IN_THE_CODE = (
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_THREADING_LAYER_PRIORITY",
    "NUMBA_CACHE_DIR",
    "NUMBA_ENABLE_CUDASIM",
)
"""Settings of Numba that change no compiled code for the CPU (joblib sets the first in its workers)."""


def _sources() -> str:
    """Hash of the kernels' sources and of Numba's settings: Numba's own key knows one file and no setting."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(path for pattern in KERNEL_SOURCES for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    settings = {k: v for k, v in os.environ.items() if k.startswith("NUMBA_") and k not in NOT_IN_THE_CODE}
    digest.update(repr(sorted(settings.items())).encode())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """The folder of the compiled kernels, made on first call, or None (with one warning) where none can be trusted.

    Cache files are pickles, so the folder must be the user's own and closed to others.
    """
    try:
        folder = _user_cache() / f"numba-{numba.__version__}-{_sources()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix":
            info = folder.stat()
            if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"{folder} belongs to someone else or is writable by others")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled kernels can't be kept on disk ({error}): every process will compile them again. "
            "Set FASTBP_CACHE_DIR to a private folder that you can write to.",
            CacheWarning,
            stacklevel=2,
        )
        return None
    return folder


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Puts a kernel's cache files into `cache_folder`, whose name carries what Numba's own key leaves out."""

    def __init__(self, folder: Path, py_file: str, line: int) -> None:
        self.folder, self.line = folder, line
        self._py_file = py_file  # named in Numba's warning of what can't be cached (NUMBA_OPT=0)

    def get_cache_path(self) -> str:
        return str(self.folder)

    def get_source_stamp(self) -> str:
        return self.folder.name

    def get_disambiguator(self) -> str:
        return str(self.line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator | None":
        folder = cache_folder()
        return None if folder is None else cls(folder, py_file, py_func.__code__.co_firstlineno)


class _Impl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: ClassVar = [_Locator]


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _Impl

    def holds(self, signature: Any, target_context: Any) -> bool:
        """Whether the files of a compiled kernel are there."""
        target_context.refresh()
        name = self._cache_file._load_index().get(self._index_key(signature, target_context.codegen()))
        return name is not None and os.path.exists(self._cache_file._data_path(name))


# ---------------------------------------------------------------- kernels by address


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Garbage collected less often: the compiler makes millions of objects that stay, 8 % of its time goes by there."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], 50_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Kernel:
    """A jitted entry point of numbers (or arrays, see `entry`), made ready when its address is first asked for.

    Attributes
    ----------
    dispatcher : the Numba dispatcher
    signature : argument types, mostly int64, and the return type
    seconds : about how long it takes to compile, for whoever shows progress
    """

    def __init__(self, function: Callable[..., Any], signature: Any, seconds: float = 0.2) -> None:
        self.dispatcher = Function(function, OPTIONS)
        self.signature, self.seconds = signature, seconds
        self._address = 0
        self._result: Any = None
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether this process has it."""
        return self._address != 0

    @functools.cached_property
    def _cache(self) -> _KernelCache | None:
        return None if cache_folder() is None else _KernelCache(self.dispatcher.py_func)

    @property
    def kept(self) -> bool:
        """Whether the cache folder has it."""
        return self._cache is not None and self._cache.holds(self.signature, self.dispatcher.targetctx)

    def load(self) -> bool:
        """Take the kernel from the cache folder; whether it is ready now. Compiles nothing."""
        with self._lock:
            if not self._address and self._cache is not None:
                with global_compiler_lock:
                    self._take(self._cache.load_overload(self.signature, self.dispatcher.targetctx))
            return self._address != 0

    def address(self) -> int:
        """The function's address (C calling convention); loads or compiles it on first call."""
        if not self._address and not self.load():
            with self._lock:
                if not self._address:
                    if self._cache is not None:
                        self.dispatcher._cache = self._cache
                    with _collecting_seldom():
                        self.dispatcher.compile(self.signature)
                    self._take(self.dispatcher.overloads[self.signature.args])
        return self._address

    def _take(self, result: Any) -> None:
        if result is not None:
            self._result = result  # owns the code
            self._address = result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)

    @functools.cached_property
    def entry(self) -> Callable[..., Any]:
        """The kernel as Numba's own function, which takes arrays too: releases the GIL, and compiles nothing more.

        Raises TypeError for arguments that aren't of the signature's types, orders and alignments.
        """
        self.address()
        if not self.dispatcher.overloads:
            self.dispatcher.add_overload(self._result)
        self.dispatcher.disable_compile()
        return self.dispatcher  # type: ignore[no-any-return]

    @functools.cached_property
    def call(self) -> Callable[..., Any]:
        """The kernel as a ctypes function: releases the GIL, checks nothing."""
        kinds: dict[Any, Any] = {types.int64: ctypes.c_int64, types.float64: ctypes.c_double}
        prototype = ctypes.CFUNCTYPE(kinds[self.signature.return_type], *(kinds[a] for a in self.signature.args))
        return prototype(self.address())


# ---------------------------------------------------------------- the machine


@functools.cache
def vector_bytes() -> int:
    """Bytes of the widest vector the compiler uses for the target CPU: 64 (AVX-512), 32 (AVX) or 16 (SSE, NEON)."""
    text = _assembly_of_probe()
    if re.search(r"%?\bzmm\d", text):
        return 64
    return 32 if re.search(r"%?\bymm\d", text) else 16


@functools.cache
def has_fma() -> bool:
    """Whether the target CPU multiplies and adds in one instruction."""
    return re.search(r"\bvfn?madd|\bfmla\b", _assembly_of_probe()) is not None


@functools.cache
def vector_registers() -> int:
    """How many vector registers the target CPU has."""
    return 32 if vector_bytes() == 64 or target_machine()[0].startswith(("aarch64", "arm64")) else 16


def target_machine() -> tuple[str, str, str]:
    """(triple, CPU name, features) that Numba compiles for."""
    from numba.core.registry import cpu_target

    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, cpu, features


@functools.cache
def _assembly_of_probe() -> str:
    """Assembly of a 16-float fused multiply-add for Numba's target: the compiler knows each CPU name, we don't."""
    import llvmlite.binding as llvm

    triple, cpu, features = target_machine()
    if numba.config.CPU_NAME and os.environ.get("NUMBA_CPU_FEATURES") is None:
        features = ""  # NUMBA_CPU_NAME alone keeps the host's features in Numba; the user means the named CPU's own
    v = "<16 x float>"
    module = llvm.parse_assembly(
        f'target triple = "{triple}"\n'
        f"declare {v} @llvm.fma.v16f32({v}, {v}, {v})\n"
        f"define void @probe(ptr %p, {v} %a, {v} %b) {{\n"
        f"  %c = load {v}, ptr %p\n  %d = call {v} @llvm.fma.v16f32({v} %a, {v} %b, {v} %c)\n"
        f"  store {v} %d, ptr %p\n  ret void\n}}\n"
    )
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=2)
    return machine.emit_assembly(module)


def default_threads() -> int:
    """Threads to use when the user names none: cores this process may run on, within quotas and the usual variables.

    The least of: the affinity mask, the cgroup CPU quota (rounded down), ``FASTBP_NUM_THREADS``,
    ``NUMBA_NUM_THREADS`` and ``OMP_NUM_THREADS`` where they are set; at least 1.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for name in ("FASTBP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            counts.append(int(value))
    if (quota := _cgroup_quota()) is not None:
        counts.append(int(quota))
    return max(1, min(counts))


@functools.cache
def _cgroup_quota() -> float | None:
    """CPUs that the control group granted this process when it was first asked, or None without a quota."""
    try:
        parts = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if parts[0] != "max":
            return float(parts[0]) / float(parts[1])
        return None
    except (OSError, ValueError, IndexError):
        pass
    try:
        quota = float(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period = float(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


@functools.cache
def yield_address() -> int:
    """Address of the system's "let another thread run" (no arguments), handed to the kernels as data."""
    if sys.platform == "win32":
        function: Any = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0
