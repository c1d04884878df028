"""Whether a GPU can be used here, and why not: each obstacle in one sentence that says what to do."""

import functools
import gc
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fastbp.cuda import DeviceError, device

OLDEST_DRIVER = 12
"""Major version of CUDA that a driver must know at least: code for it can be had by ``fastbp[cuda12]``."""
OLDEST_GPU = {12: (5, 0), 13: (7, 5)}
"""Least compute capability that a toolkit makes code for, by its major version."""
CPU_INSTEAD = "or train on the CPU (device='cpu')"


@dataclass(frozen=True)
class Trouble:
    """What an error of the driver is answered with.

    Attributes
    ----------
    kind : the exception raised instead
    sentence : what is wrong, and what to do
    """

    kind: type[Exception]
    sentence: str


TROUBLES = {
    "CUDA_ERROR_NO_DEVICE": Trouble(
        DeviceError,
        "the NVIDIA driver is here, but shows no GPU{visible}: check nvidia-smi and how the machine or container was "
        f"given one, {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_INSUFFICIENT_DRIVER": Trouble(
        DeviceError, f"the NVIDIA driver is too old for CUDA {{toolkit}}: update the driver, {CPU_INSTEAD}"
    ),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": Trouble(
        DeviceError,
        "the parts of the NVIDIA driver are of different versions, as after an update without a restart: restart the "
        f"machine, {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": Trouble(
        DeviceError,
        "a CUDA compatibility package stands before a driver that is too old for it on this GPU: update the driver or "
        f"take the package's folder out of LD_LIBRARY_PATH, {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": Trouble(
        DeviceError,
        "the driver (CUDA {driver}) is older than the toolkit (CUDA {toolkit}) whose PTX it was to compile: install "
        "nvidia-nvjitlink of that toolkit, which makes machine code without the driver, update the driver, "
        f"{CPU_INSTEAD}",
    ),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": Trouble(
        DeviceError,
        f"CUDA {{toolkit}} makes no code for this GPU: install a newer numba-cuda for a newer GPU, {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_OUT_OF_MEMORY": Trouble(
        MemoryError,
        "the GPU's memory is full{memory}: pass a smaller batch_size, end other programs on the GPU (nvidia-smi lists "
        f"them), {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": Trouble(
        DeviceError,
        "the GPU is taken by another process (exclusive mode, or MIG without an instance): end that process or choose "
        f"another GPU by CUDA_VISIBLE_DEVICES, {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": Trouble(
        DeviceError, f"the GPU has too few registers or too little shared memory for a kernel: {CPU_INSTEAD[3:]}"
    ),
    "CUDA_ERROR_LAUNCH_TIMEOUT": Trouble(
        DeviceError,
        "a kernel ran longer than the GPU that also drives a screen allows: use a GPU without a screen, pass a smaller "
        f"batch_size, {CPU_INSTEAD}",
    ),
    "CUDA_ERROR_ECC_UNCORRECTABLE": Trouble(
        DeviceError, f"the GPU's memory has an error that it can't correct: reset or replace the GPU, {CPU_INSTEAD}"
    ),
    "CUDA_ERROR_ILLEGAL_ADDRESS": Trouble(
        DeviceError,
        "a kernel touched memory that isn't its own; the process can't use the GPU any more. Please report this with "
        "the model's summary",
    ),
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": Trouble(
        DeviceError,
        "another program part captures a CUDA graph on the stream that fastbp was to wait for: call fastbp outside of "
        "the capture",
    ),
}
"""Errors of the driver by their names."""

LINKER_TROUBLES = {
    "Unsupported .version": (
        "nvJitLink (CUDA {linker}) is older than the compiler (CUDA {toolkit}) whose PTX it was to link: install "
        f"CUDA's packages of one release (pip install -U nvidia-nvjitlink), {CPU_INSTEAD}"
    ),
    "UNRECOGNIZED_ARCH": (
        f"nvJitLink (CUDA {{linker}}) makes no code for this GPU: pip install -U nvidia-nvjitlink, {CPU_INSTEAD}"
    ),
}
"""What the linker says, and what that is answered with."""

_NAME = re.compile(r"CUDA_ERROR_[A-Z_]+")


def _driver() -> Any:
    """The package's driver object, uninitialised perhaps."""
    return device.cuda.cudadrv.driver.driver


def _version(pair: tuple[int, ...]) -> str:
    return ".".join(map(str, pair))


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver knows."""
    major, minor = _driver().get_version()
    return int(major), int(minor)


def toolkit_version() -> tuple[int, int]:
    """The CUDA that kernels are compiled with."""
    major, minor = device.cuda.runtime.get_version()
    return int(major), int(minor)


def linker_version() -> tuple[int, int] | None:
    """The CUDA that machine code is made with, without the driver; None where only the driver can."""
    with suppress(ImportError, RuntimeError):  # not installed, or without NVIDIA's own library
        major, minor = importlib.import_module("cuda.bindings.nvjitlink").version()
        return int(major), int(minor)
    return None


def _compiler_problem() -> str:
    """What is missing of CUDA's compiler, "" where nothing is."""
    missing = []
    nvvm = getattr(device.cuda.cudadrv, "nvvm", None)
    if nvvm is not None and not nvvm.is_available():
        missing.append("NVVM")
    try:
        toolkit_version()
    except RuntimeError:  # as cuda.pathfinder says it
        missing.append("NVRTC")
    if not missing:
        return ""
    return (
        f"CUDA's compiler isn't all there ({' and '.join(missing)} missing): pip install 'fastbp[cuda"
        f"{min(max(driver_version()[0], OLDEST_DRIVER), max(OLDEST_GPU))}]', or name a toolkit's folder by CUDA_HOME, "
        f"{CPU_INSTEAD}"
    )


def _links_itself() -> bool:
    """Whether machine code is made without the driver, by nvJitLink (true of packages that don't say)."""
    return bool(getattr(device.cuda.cudadrv.driver, "_have_nvjitlink", lambda: True)())


def problem() -> str:
    """Why no GPU can be used here, with what to do; "" where one can (the simulator stands for one)."""
    try:
        if device.simulated():
            return ""
        return _driver_problem() or _compiler_problem() or _version_problem()
    except ImportError as error:  # without the package, or with half of it
        return str(error)


def _driver_problem() -> str:
    driver = _driver()
    with suppress(ImportError):  # the reason is kept, and asked for below
        driver.ensure_initialized()
    reason = str(driver.initialization_error or "")
    if not reason:
        return ""
    if "NUMBA_DISABLE_CUDA" in reason:
        return "CUDA is switched off by NUMBA_DISABLE_CUDA=1: take the variable out of the environment"
    if "cannot be found" in reason:
        return (
            "no NVIDIA driver was found: install it (NVIDIA's site or your system's packages have it; in a container, "
            f"start it with the GPU, for example --gpus all), {CPU_INSTEAD}"
        )
    name = _NAME.search(reason)
    if name is not None and name[0] in TROUBLES:
        return _sentence(name[0])
    return f"the NVIDIA driver doesn't start ({' '.join(reason.split())}): check nvidia-smi, {CPU_INSTEAD}"


def _version_problem() -> str:
    driver, toolkit = driver_version(), toolkit_version()
    if driver[0] < OLDEST_DRIVER:
        return (
            f"the NVIDIA driver knows CUDA {_version(driver)} at most; fastbp needs {OLDEST_DRIVER}.0: update the "
            f"driver, {CPU_INSTEAD}"
        )
    if toolkit[0] > driver[0]:
        return (
            f"numba-cuda was installed for CUDA {toolkit[0]}, the NVIDIA driver knows CUDA {_version(driver)} at most: "
            f"pip install 'fastbp[cuda{driver[0]}]' in an environment without CUDA {toolkit[0]}'s packages, or update "
            f"the driver, {CPU_INSTEAD}"
        )
    if toolkit > driver and not _links_itself():
        return _sentence("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
    linker = linker_version()
    if linker is not None and linker < toolkit and _links_itself():
        return _linker_sentence("Unsupported .version")
    capability = tuple(device.cuda.gpus[0].compute_capability)[:2]
    if capability < OLDEST_GPU.get(toolkit[0], (0, 0)):
        older = [major for major, least in OLDEST_GPU.items() if capability >= least]
        advice = f"pip install 'fastbp[cuda{older[0]}]'" if older else "use a newer GPU"
        return (
            f"the GPU has compute capability {_version(capability)}; CUDA {toolkit[0]} makes code from "
            f"{_version(OLDEST_GPU[toolkit[0]])} on: {advice}, {CPU_INSTEAD}"
        )
    return ""


def require() -> None:
    """Pass where a GPU can be used.

    Raises
    ------
    ImportError : without the package
    DeviceError : without a GPU or a driver that fits; both say what to do
    """
    reason = problem()
    if reason:
        kind = DeviceError if device.package() else ImportError
        raise kind(f"device='cuda': {reason}")


def _sentence(name: str) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    filled = {"visible": "", "memory": "", "driver": "?", "toolkit": "?"}
    if visible is not None:
        filled["visible"] = f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    text = TROUBLES[name].sentence
    with suppress(ImportError):
        if "{toolkit}" in text:
            filled["toolkit"] = _version(toolkit_version())
        if "{driver}" in text:
            filled["driver"] = _version(driver_version())
    if "{memory}" in text and (room := memory()) is not None:
        filled["memory"] = f" ({room[0] / 2**20:,.0f} MiB free of {room[1] / 2**20:,.0f})"
    return text.format(**filled)


def _linker_sentence(words: str) -> str:
    return LINKER_TROUBLES[words].format(linker=_version(linker_version() or ()), toolkit=_version(toolkit_version()))


def memory() -> tuple[int, int] | None:
    """Bytes free and in all on the GPU; None where nobody knows (in the simulator)."""
    try:
        free, total = device.cuda.current_context().get_memory_info()
        return int(free), int(total)
    except (AttributeError, ImportError, NotImplementedError, OverflowError):
        return None


def explained(error: BaseException) -> Exception | None:
    """What an error of the CUDA libraries means to a user, to be raised instead; None for any other error."""
    if "CUDA initialized before forking" in str(error):
        return DeviceError(
            "this process was forked after its parent had used the GPU, which CUDA doesn't allow: start processes with "
            "multiprocessing.get_context('spawn'), " + CPU_INSTEAD
        )
    for words in LINKER_TROUBLES:
        if words in str(error) and "JITLINK" in type(error).__name__.upper() + str(error).upper():
            return DeviceError(_linker_sentence(words))
    found = _NAME.search(f"{getattr(getattr(error, 'code', ''), 'name', '')} {error}")
    if found is None:
        return None
    if found[0] in TROUBLES:
        return TROUBLES[found[0]].kind(_sentence(found[0]))
    return DeviceError(
        f"the GPU failed with {found[0]}: start the process again and check nvidia-smi; where it stays, please report "
        f"it, {CPU_INSTEAD}"
    )


def roomy(make: Callable[[], Any]) -> Any:
    """What `make` gives; where the GPU's memory is full, once more after what nobody uses any more was given back.

    Buffers of steps refer to each other, so that Python's collector alone finds them, and a full GPU doesn't wake it.
    """
    try:
        return make()
    except Exception as error:
        if not isinstance(explained(error), MemoryError):
            raise
    gc.collect()
    return make()


@contextmanager
def in_words() -> Iterator[None]:
    """What goes wrong inside with the driver is raised as a sentence; everything else as it is."""
    try:
        yield
    except Exception as error:
        instead = explained(error)
        if instead is None:
            raise
        raise instead from None


PRODUCT_LIBRARIES = {"nvmath": "nvmath-python", "cupy": "cupy"}
"""Modules that give products on tensor cores, first choice first, and what they are installed as."""


@functools.cache
def product_library() -> str:
    """The first of them that is installed, "" where none is."""
    return next((name for name in PRODUCT_LIBRARIES if importlib.util.find_spec(name) is not None), "")


def _installed(name: str) -> str:
    """The name with its version, where it is installed under that name."""
    with suppress(metadata.PackageNotFoundError):
        return f"{name} {metadata.version(name)}"
    return name


def _driver_release() -> str:
    """The driver's own version, "" where the system doesn't say."""
    with suppress(OSError):
        found = re.search(r"Kernel Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        return found[1] if found else ""
    return ""


def report() -> dict[str, Any]:
    """What `fastbp info` says of CUDA.

    Returns
    -------
    dict
        "problem" ("" where a GPU can be used); "package" and "products" with versions ("" where there is none); and
        where a GPU is "device", "capability", "multiprocessors", "memory_bytes", "free_bytes", "driver",
        "driver_release" and "toolkit".
    """
    found: dict[str, Any] = {"problem": problem(), "package": "", "products": ""}
    if device.package():
        found["package"] = _installed(device.package().replace("_", "-"))
    if product_library():
        found["products"] = _installed(PRODUCT_LIBRARIES[product_library()])
    if found["problem"]:
        return found
    if device.simulated():
        return {**found, "device": "numba-cuda's simulator"}
    with in_words():
        gpu, room = device.cuda.get_current_device(), memory() or (0, 0)
        name = gpu.name.decode() if isinstance(gpu.name, bytes) else str(gpu.name)
        return {
            **found,
            "device": name,
            "capability": _version(tuple(gpu.compute_capability)[:2]),
            "multiprocessors": int(gpu.MULTIPROCESSOR_COUNT),
            "free_bytes": room[0],
            "memory_bytes": room[1],
            "driver": _version(driver_version()),
            "driver_release": _driver_release(),
            "toolkit": _version(toolkit_version()),
        }


def lines(found: dict[str, Any]) -> list[str]:
    """The report in words, a line each."""
    if found["problem"]:
        return [f"no: {found['problem']}"]
    if "capability" not in found:
        return [str(found["device"])]
    release = f"{found['driver_release']} " if found["driver_release"] else ""
    return [
        f"{found['device']}, compute capability {found['capability']}, {found['multiprocessors']} multiprocessors",
        f"memory {found['memory_bytes'] / 2**30:.1f} GiB, {found['free_bytes'] / 2**30:.1f} free",
        f"driver {release}(CUDA {found['driver']}), {found['package']} with CUDA {found['toolkit']}",
        f"products by {found['products'] or 'own kernels (tensor cores: pip install nvmath-python[cu13])'}",
    ]
