"""Floor 4: the one place that picks an engine: the CPU's, or CUDA's, which is loaded only where it is asked for."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp._checks import DTYPES
from fastbp.cpu.engine import Engine as CPUEngine
from fastbp.cpu.watch import Watch as CPUWatch
from fastbp.data import staging
from fastbp.data.device_arrays import OnDevice, found, on_host
from fastbp.layout.objective import Outcome
from fastbp.layout.operations import DENSE
from fastbp.optimizers import Optimizer
from fastbp.program import LayerSpec, Program
from fastbp.training import memory, weighting
from fastbp.training.memory import Needs

if TYPE_CHECKING:
    from fastbp.cuda.engine import Engine as CUDAEngine
    from fastbp.cuda.watch import Watch as CUDAWatch
    from fastbp.model import Model

    Engine = CPUEngine | CUDAEngine

DEVICES = "cpu", "cuda", "auto"
PRECISIONS = "float32", "tf32", "bfloat16"
"""What the factors of products may be rounded to, where the numbers are float32."""
AUTO_ROWS, AUTO_WORK = 128, 1e7
"""Where the device is "auto", a network whose step over so many rows takes less operations stays on the CPU.

An estimate, not yet measured on a device: a GPU's step, a chain of launches, is reckoned to take some 25 us whatever
the network, and two cores compute 5 to 10 million operations in that time (the README's race: 200 to 400 GFLOP/s)."""


def checked(device: str, dtype: str, precision: str | None = None) -> tuple[str, str]:
    """What products are computed in, and the device that a user asked for, if it is there; "auto" is settled later.

    Raises
    ------
    ValueError : no such device or precision, or one that another choice excludes
    ImportError, RuntimeError : "cuda" without the package, a GPU or a driver that fits
    """
    if dtype not in (*DTYPES, "tf32"):
        raise ValueError(f"dtype must be {', '.join(map(repr, DTYPES[:-1]))} or {DTYPES[-1]!r}, got {dtype!r}")
    if device not in DEVICES:
        raise ValueError(f"device must be {', '.join(map(repr, DEVICES[:-1]))} or {DEVICES[-1]!r}, got {device!r}")
    if precision is not None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be {', '.join(map(repr, PRECISIONS))} or None, got {precision!r}")
        if dtype not in ("float32", precision):
            raise ValueError(f"precision={precision!r} is about float32 numbers, not dtype={dtype!r}: give one of them")
        if precision == "tf32" and device == "cpu":
            raise ValueError('TF32 is computed with on a GPU only: pass device="cuda" (or "auto"), or no precision')
        dtype = precision
    if device == "cuda":
        from fastbp.cuda import presence

        presence.require()
    return dtype, device


def there(device: str) -> str:
    """The device, if it can be used here, else, with a warning, the CPU: for models that come from another machine."""
    if device == "cuda":
        from fastbp.cuda import presence

        if problem := presence.problem():
            warnings.warn(f"the model was on a GPU and goes on on the CPU: {problem}", stacklevel=3)
            return "cpu"
    return device


def picked(device: str, specs: Sequence[LayerSpec]) -> tuple[str, str]:
    """Where a network is trained, and why "auto" chose that ("" where it was told)."""
    if device != "auto":
        return device, ""
    products = [2 * spec.fan_in * spec.fan_out for spec in specs if spec.operation is DENSE]
    work = AUTO_ROWS * (3 * sum(products) - sum(products[:1]))
    said = f"a step over {AUTO_ROWS} rows takes {work / 1e6:,.3g} million operations"
    if work < AUTO_WORK:
        return "cpu", f"{said}, and below {AUTO_WORK / 1e6:,.0f} a GPU is expected to lose: an estimate, not measured"
    from fastbp.cuda import presence

    if problem := presence.problem():
        return "cpu", problem
    return "cuda", said


def place(model: "Model", width: int) -> str:
    """The device that a model of inputs so wide is or will be on."""
    return model.device if model.device != "auto" else picked("auto", model._network(width).specs)[0]


def engine(model: "Model", specs: Sequence[LayerSpec]) -> "Engine":
    """An engine with fresh buffers for the model's network, on the device that it asks for and is told."""
    asked = model.device
    model.device, model._device_reason = picked(asked, specs)
    if asked == "auto" and sys.stderr.isatty():
        print(f"device='auto' is {model.device!r}: {model._device_reason}", file=sys.stderr)
    if model.device == "cpu" and model.compute_dtype == "tf32":  # a model that was on a GPU
        model.compute_dtype = "float32"
    return made(model.device, specs, model.dtype, model.threads, model.compute_dtype)


def made(device: str, specs: Sequence[LayerSpec], dtype: np.dtype, threads: int, computed: str = "float32") -> "Engine":
    """An engine with fresh buffers on a device that was picked; products are computed in what `computed` names."""
    if device == "cpu":
        return CPUEngine(specs, dtype, threads, half=computed == "bfloat16")
    from fastbp.cuda import wide
    from fastbp.cuda.engine import Engine as CUDAEngine

    engine = CUDAEngine(specs, dtype)
    engine.products = wide.chooser(computed if dtype == np.float32 else dtype.name)
    return engine


def seen(rows: Any, name: str, device: str = "cuda", x: Any = None) -> Any:
    """Rows that ``staging.as_matrix`` gave of `x`; on a GPU their values are looked at there.

    Where "auto" chose the CPU since, they come to main memory.

    Raises
    ------
    ValueError : NaN or infinity
    """
    if isinstance(rows, OnDevice):
        if device == "cpu":
            return staging.as_matrix(on_host(x, name), rows.dtype, name=name)
        from fastbp.cuda import arrays

        arrays.check_finite(rows, name)
        return replace(rows, read=arrays.host)
    return rows


def targets(y: Any, kind: Any, outputs: int, dtype: np.dtype, device: str, **options: Any) -> Any:
    """What ``staging.as_targets`` gives; of an array on a GPU, where the kernels run there and it fits, `OnDevice`.

    Its values are looked at there, and converted where they are of another type. What is strided, of several columns of
    class numbers or of a type that kernels don't read goes through main memory, as does what is amiss, for the words.

    Raises
    ------
    TypeError, ValueError : as ``staging.as_targets``
    """
    there = _taken(y, kind, outputs, dtype, device, **options)
    return staging.as_targets(y, kind, outputs, dtype, **options) if there is None else there


def row_weights(weights: Any, rows: int, dtype: np.dtype, device: str, name: str) -> Any:
    """What ``weighting.sample_weights`` gives, as `targets`."""
    there = _taken(weights, "weights", 1, dtype, device, rows=rows, name=name)
    return weighting.sample_weights(weights, rows, dtype, name=name) if there is None else there


def _taken(y: Any, kind: Any, outputs: int, dtype: np.dtype, device: str, *, name: str, **options: Any) -> Any:
    """Targets on a GPU, None where they aren't taken there."""
    if device != "cuda" or (there := found(y, name)) is None:
        return None
    from fastbp.cuda import presence, targets

    with presence.in_words():
        return targets.taken(there, kind, outputs, dtype, name=name, **options)


def room(shape: tuple[int, int], dtype: np.dtype) -> OnDevice:
    """An array on the GPU, for outputs that stay there."""
    from fastbp.cuda import arrays, presence

    with presence.in_words():
        return arrays.empty(shape, dtype)


def weights(engine: "Engine", out: str | None) -> list[Any]:
    """See ``Model.get_weights``.

    Raises
    ------
    ValueError : an `out` that isn't "device", or of an engine that is on the CPU
    """
    if out is None:
        return engine.program.take(engine.weights)
    if out != "device" or isinstance(engine, CPUEngine):
        raise ValueError(f'out={out!r}: wanted None, or "device" of a model with device="cuda"')
    return engine.views()


def put_weights(engine: "Engine", given: Sequence[Any]) -> bool:
    """Whether weights were on the GPU where the engine is, fitted, and so were copied there."""
    if isinstance(engine, CPUEngine):
        return False
    there = [found(array, f"array {index}") for index, array in enumerate(given)]
    arrays = [array for array in there if array is not None]
    return len(arrays) == len(there) and engine.put(arrays)


def copy(out: Any, rows: Any) -> None:
    """Write rows to an array of their shape and type, each of them in main memory or on the GPU."""
    if not isinstance(out, OnDevice) and not isinstance(rows, OnDevice):
        np.copyto(out, rows)
        return
    from fastbp.cuda import arrays, presence

    with presence.in_words():
        arrays.copy(out, rows)


def together() -> Callable[..., list[tuple[Outcome, float]]]:
    """What runs several engines of a GPU at once."""
    from fastbp.cuda.narrow.many import run_together

    return run_together


def network(device: str, specs: Sequence[LayerSpec], dtype: np.dtype, half: bool) -> Program:
    """The network as an engine lays it out; takes no memory."""
    if device == "cpu":
        return memory.network(specs, dtype, half)
    from fastbp.cuda.layout import Rows

    return Program(specs, dtype, Rows())


def training(device: str, program: Program, threads: int, batch: int, optimizer: Optimizer, **options: Any) -> Needs:
    """What a fit takes of the device's memory: see ``memory.training``; of a GPU's beside the data."""
    if device == "cpu":
        return memory.training(program, threads, batch, optimizer, **options)
    from fastbp.cuda.layout import bytes_by_part

    return Needs(bytes_by_part(program, batch, optimizer))


def available(device: str) -> int | None:
    """Bytes of the device's memory that are free, None where nobody knows."""
    if device == "cpu":
        return memory.available()
    from fastbp.cuda import presence

    found = presence.memory()
    return None if found is None else found[0]


def watch(device: str) -> "CPUWatch | CUDAWatch":
    """What books where the time of an engine's runs goes."""
    if device == "cpu":
        return CPUWatch()
    from fastbp.cuda.watch import Watch

    return Watch()
