"""Compiled kernels kept on disk: a second process loads what the first one compiled.

Numba's own cache knows a kernel by its file and by what its closure pickles to. Kernels here are closures over formulas
that are made of tables, and some are written for a network: a kernel is known by all that the compiler sees of it
instead, by its code, constants, globals, and those of every function that it calls (see `fingerprint`), and by the
versions and the GPU that it is compiled with. So a change anywhere in it finds nothing, and nothing else does.

Files stand in the folder of the CPU's kernels, which is the user's own: they hold pickles (see ``_jit.cache_folder``).
"""

import copy
import functools
import hashlib
import importlib
import inspect
import pickle
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from fastbp import _atomic, _jit

PACKAGES = "numba", "numba-cuda", "cuda-core", "cuda-bindings", "numpy"
"""Their versions are part of what a kernel is known by."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype)
DIGEST = hashlib.sha256


class UnknownError(TypeError):
    """A kernel sees something that isn't known from one process to the next."""


def fingerprint(function: Any) -> str:
    """A digest of all that a compiler sees of a function, the same in every process.

    Parameters
    ----------
    function : what ``device.kernel`` made, or a plain function

    Raises
    ------
    UnknownError : it sees an object that isn't a number, text, a type, a function or a module
    """
    walk = _Walk()
    walk.see(function)
    return walk.digest.hexdigest()


class _Walk:
    """Goes through everything that a function sees, each thing once."""

    def __init__(self) -> None:
        self.digest = DIGEST()
        self._seen: dict[int, int] = {}
        self._keep: list[Any] = []  # an id is a name only as long as its owner lives

    def _put(self, *words: Any) -> None:
        for word in words:
            self.digest.update(f"{word}\0".encode())

    def see(self, value: Any) -> None:
        """Take a value into the digest."""
        if isinstance(value, PLAIN):
            self._put(type(value).__name__, getattr(value, "dtype", ""), repr(value))
        elif isinstance(value, (tuple, list)):
            self._put(type(value).__name__, len(value))
            for part in value:
                self.see(part)
        elif isinstance(value, frozenset):
            self._put("frozenset", *sorted(map(repr, value)))
        elif isinstance(value, (type, BuiltinFunctionType, np.ufunc)):
            self._put("named", getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
        elif isinstance(value, ModuleType):
            self._put("module", value.__name__)
        elif id(value) in self._seen:
            self._put("again", self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._keep.append(value)
            self._see_more(value)

    def _see_more(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, CodeType):
            self._put("code", value.co_code.hex(), value.co_flags, value.co_argcount, *value.co_names)
            self._put(*value.co_varnames, *value.co_freevars, *value.co_cellvars)
            self.see(value.co_consts)
        elif isinstance(getattr(value, "py_func", None), FunctionType):
            self._put("compiled", *(f"{name}={option!r}" for name, option in sorted(value.targetoptions.items())))
            self.see(value.py_func)
        elif type(value).__module__.startswith(("numba.", "numba_cuda")):
            self._put("numba's", type(value).__qualname__, getattr(value, "__name__", repr(value)))
        else:
            raise UnknownError(f"a kernel sees {value!r}, which has no name that the next process would know")

    def _function(self, function: FunctionType) -> None:
        self._put("function", function.__name__)
        self.see(function.__code__)
        self.see(function.__defaults__)
        for cell in function.__closure__ or ():
            self.see(cell.cell_contents)
        names = _names(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            found = function.__globals__[name]
            self._put("global", name)
            self.see(found)
            if isinstance(found, ModuleType) and found.__name__.partition(".")[0] == "fastbp":
                for attribute in sorted(names & vars(found).keys()):
                    self._put("attribute", attribute)
                    self.see(vars(found)[attribute])


def _names(code: CodeType) -> set[str]:
    """The names of globals and attributes that some code, and the code within it, asks for."""
    found = set(code.co_names)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            found |= _names(part)
    return found


@functools.cache
def _versions() -> str:
    found = [f"python {sys.version_info[:2]}"]
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return " ".join(found)


def folder() -> Path | None:
    """Where kernels are kept; None where nothing can be."""
    found = _jit.cache_folder()
    return None if found is None else found / "cuda"


class Kept:
    """What stands in the place of Numba's cache of one kernel: it asks for `load_overload`, then `save_overload`.

    Parameters
    ----------
    kernel : the dispatcher
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    @functools.cached_property
    def _known(self) -> str:
        """The kernel's own part of its name, "" where it has none."""
        with suppress(UnknownError):
            return fingerprint(self._kernel)
        return ""

    @property
    def cache_path(self) -> str:
        """The folder, for Numba's statistics."""
        return str(folder() or "")

    def _file(self, signature: Any, context: Any) -> Path | None:
        place = folder()
        if place is None or not self._known:
            return None
        words = self._known, repr(signature), _versions(), repr(context.codegen().magic_tuple())
        return place / f"{DIGEST(' '.join(words).encode()).hexdigest()[:40]}.kernel"

    def holds(self, signature: Any) -> bool:
        """Whether the kernel's file is there."""
        path = self._file(signature, self._kernel.targetctx)
        return path is not None and path.exists()

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The kernel for arguments of these types; None where it isn't there, or its file is damaged."""
        path = self._file(signature, context)
        if path is None:
            return None
        with suppress(OSError):
            content = path.read_bytes()
            digest, payload = content[: DIGEST().digest_size], content[DIGEST().digest_size :]
            if DIGEST(payload).digest() == digest:
                return _dispatcher()._Kernel._rebuild(**pickle.loads(payload))
        return None

    def save_overload(self, signature: Any, kernel: Any) -> None:
        """Keep a kernel that was compiled, without the texts on the way to its machine code."""
        path = self._file(signature, self._kernel.targetctx)
        if path is None:
            return
        states = kernel._reduce_states()
        library = copy.copy(states["codelibrary"])
        library._llvm_strs, library._ptx_cache, library._linkerinfo_cache = [], {}, {}
        payload = importlib.import_module("numba.cuda.serialize").dumps({**states, "codelibrary": library})
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with _atomic.replacing(path) as part:
                part.write_bytes(DIGEST(payload).digest() + payload)

    def flush(self) -> None:
        """Nothing stands in memory."""


def _dispatcher() -> Any:
    return importlib.import_module("numba.cuda.dispatcher")


def keep(kernel: Any) -> Any:
    """Let a kernel be kept on disk: the kernel itself."""
    assert inspect.isfunction(kernel.py_func)
    kernel._cache = Kept(kernel)
    return kernel
