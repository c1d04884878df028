"""Floor 4: the one place that picks an engine: the CPU's, or CUDA's, which is loaded only where it is asked for."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import memory
from fastbp.cpu.engine import Engine as CPUEngine
from fastbp.memory import Needs
from fastbp.optimizers import Optimizer
from fastbp.program import LayerSpec, Program

if TYPE_CHECKING:
    from fastbp.cuda.engine import Engine as CUDAEngine
    from fastbp.model import Model

    Engine = CPUEngine | CUDAEngine

DEVICES = "cpu", "cuda", "auto"
AUTO_PARAMETERS = 100_000
"""Networks of fewer parameters stay on the CPU where the device is "auto"."""


def checked(device: str, compute_dtype: str) -> str:
    """The device that a user asked for, if it is there; of "auto" nothing is asked yet.

    Raises
    ------
    ValueError : no such device, or a type of number that it doesn't compute with
    ImportError, RuntimeError : "cuda" without the package, a GPU or a driver that fits
    """
    if device not in DEVICES:
        raise ValueError(f"device must be {', '.join(map(repr, DEVICES[:-1]))} or {DEVICES[-1]!r}, got {device!r}")
    if device == "cuda":
        if compute_dtype == "bfloat16":
            raise ValueError('dtype="bfloat16" is computed with on the CPU only: pass device="cpu" or another dtype')
        from fastbp.cuda import presence

        presence.require()
    return device


def there(device: str) -> str:
    """The device, if it can be used here, else, with a warning, the CPU: for models that come from another machine."""
    if device == "cuda":
        from fastbp.cuda import presence

        if problem := presence.problem():
            warnings.warn(f"the model was on a GPU and goes on on the CPU: {problem}", stacklevel=3)
            return "cpu"
    return device


def picked(device: str, specs: Sequence[LayerSpec], compute_dtype: str) -> tuple[str, str]:
    """Where a network is trained, and why "auto" chose that ("" where it was told)."""
    if device != "auto":
        return device, ""
    if compute_dtype == "bfloat16":
        return "cpu", "bfloat16 is computed with on the CPU only"
    count = sum(spec.parameters for spec in specs)
    if count < AUTO_PARAMETERS:
        return "cpu", f"{count:,} parameters are few for a GPU"
    from fastbp.cuda import presence

    if problem := presence.problem():
        return "cpu", problem
    return "cuda", f"{count:,} parameters"


def engine(model: "Model", specs: Sequence[LayerSpec]) -> "Engine":
    """An engine with fresh buffers for the model's network, on the device that it asks for and is told."""
    model.device, model._device_reason = picked(model.device, specs, model.compute_dtype)
    return made(model.device, specs, model.dtype, model.threads, half=model.compute_dtype == "bfloat16")


def made(device: str, specs: Sequence[LayerSpec], dtype: np.dtype, threads: int, half: bool = False) -> "Engine":
    """An engine with fresh buffers on a device that was picked."""
    if device == "cpu":
        return CPUEngine(specs, dtype, threads, half=half)
    from fastbp.cuda.engine import Engine as CUDAEngine

    return CUDAEngine(specs, dtype)


def network(device: str, specs: Sequence[LayerSpec], dtype: np.dtype, half: bool) -> Program:
    """The network as an engine lays it out; takes no memory."""
    if device == "cpu":
        return memory.network(specs, dtype, half)
    from fastbp.cuda.layout import Rows

    return Program(specs, dtype, Rows())


def training(device: str, program: Program, threads: int, batch: int, optimizer: Optimizer, **options: Any) -> Needs:
    """What a fit takes of the device's memory: see ``memory.training``."""
    if device == "cpu":
        return memory.training(program, threads, batch, optimizer, **options)
    from fastbp.cuda.layout import bytes_by_part

    return Needs(bytes_by_part(program, batch, optimizer, options.get("staged", 0)))


def available(device: str) -> int | None:
    """Bytes of the device's memory that are free, None where nobody knows."""
    if device == "cpu":
        return memory.available()
    from fastbp.cuda import presence

    found = presence.memory()
    return None if found is None else found[0]
