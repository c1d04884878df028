"""Every kernel of the CUDA engine, as launches of steps that are made without a GPU, compiled to PTX.

    python tests/launches.py 7.5 9.0

compiles them for sm_75 and sm_90 and prints a line for each: the GPU, the kernel's name and what its code holds.
"""

import functools
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np

import fastbp as fb
from fastbp.cuda import arrays, bound, device, layout, products, rows, targets, weights
from fastbp.cuda.narrow import slices
from fastbp.cuda.shapes import DEVICE
from fastbp.cuda.step import Launch
from fastbp.formulas.tallies import TALLIES
from fastbp.layers import lower
from fastbp.layout.objective import Objective
from fastbp.program import Program


def launches(
    layers: list[Any],
    loss: Any,
    optimizer: Any,
    tallies: list[Any],
    *,
    batch: int = 100,
    width: int = 100,
    update: str = "",
    backward: bool = True,
    dtype: str = "float32",
    precision: str = "float32",
    sparse: bool = False,
) -> list[Launch]:
    """The launches of a step, over arrays of the host: only their types matter."""
    program = Program(lower(layers, width).specs, np.dtype(dtype), layout.Rows())
    labels = loss is not None and loss.targets == "labels"
    plan = layout.Layout(
        program,
        batch,
        backward=backward,
        input_gradient=backward,
        noise=backward,
        update=update,
        labels=labels,
        tallies=len(tallies),
    )
    numbers, whole = np.zeros(8, dtype), np.zeros(8, np.int64)
    make_products = functools.partial(products.Tiles, precision=precision)
    buffers = numbers, np.zeros(8), numbers, make_products, DEVICE
    step = bound.Bound(plan, Objective(loss, tuple(tallies)), optimizer, *buffers)
    kept = tuple(numbers for tally in tallies if tally.loop == "kept")
    targets = rows.LABELS if labels else rows.NUMBERS
    entries = (whole, np.zeros(8, np.int32)) if sparse else (None, None)
    arrays = numbers, whole if labels else numbers, whole, numbers, numbers
    return step.launches(bound.Data(*arrays, targets, numbers, kept, *entries))


def steps() -> Iterator[list[Launch]]:
    """Steps that together have every kernel."""
    of_labels = [tally for tally in TALLIES.values() if tally.loop != "targets"]
    everything = [
        fb.Embedding({0: (9, 4)}, embeddings_constraint="max_norm"),
        fb.Dense(40, "relu", kernel_regularizer="l2"),
        fb.Dropout(0.5),
        fb.AlphaDropout(0.1),
        fb.BatchNormalization(),
        fb.LayerNormalization(),
        fb.Residual([fb.Dense(10, "gelu")]),
        fb.Concatenate([fb.Dense(10)], "tanh"),
        fb.ActivityRegularization(l2=0.1),
        fb.GaussianNoise(0.1),
        fb.GaussianDropout(0.1),
        fb.RMSNormalization(),
        fb.Dense(10, "softmax"),
    ]
    cross_entropy, error = (fb.losses.get(name) for name in ("sparse_categorical_crossentropy", "mse"))
    yield launches(everything, cross_entropy, fb.Adam(), of_labels, update="tiles")
    yield launches(everything, cross_entropy, None, [])
    yield launches(everything, None, None, [], backward=False)
    late = fb.SGD(momentum=0.9, global_clipnorm=1.0, gradient_accumulation_steps=2)
    yield launches([fb.Dense(3, "silu"), fb.Dense(2)], error, late, [TALLIES["targets"]], update="late")
    yield launches([fb.Dense(3)], error, fb.SGD(clipnorm=1.0), [], update="given")
    for batch, width in ((1000, 1000), (4000, 4000)):  # the larger tiles
        yield launches([fb.Dense(width, "gelu"), fb.Dense(1)], error, fb.SGD(), [], batch=batch, width=width)
    yield launches([fb.Dense(9)], error, fb.SGD(), [], batch=20_000, sparse=True)  # sums in parts
    parts = [fb.BatchNormalization(), fb.LayerNormalization(), fb.Dense(40, "sigmoid", kernel_constraint="max_norm")]
    yield launches(parts, error, fb.SGD(), [TALLIES["targets"]], batch=20_000)
    cut = [fb.Dense(256, "tanh"), fb.Dense(256, "relu"), fb.Dense(9)]  # sums of products in parts
    yield launches(cut, error, fb.Adam(), [], width=784)
    of_rows = [tally for tally in TALLIES.values() if tally.loop != "kept"]
    yield launches([fb.Dense(100, "softmax")], cross_entropy, fb.SGD(), of_labels)
    for loss, output in (("kl_divergence", "softmax"), ("cosine_similarity", "tanh"), ("categorical_hinge", "linear")):
        yield launches([fb.Dense(100, output)], fb.losses.get(loss), fb.SGD(), of_rows)
    for precision in ("tf32", "bfloat16"):
        yield launches([fb.Dense(9, "gelu"), fb.Dense(1)], error, fb.Adam(), [], precision=precision)
    yield launches([fb.Dense(9, "gelu"), fb.Dense(1)], error, fb.Adam(), [], dtype="float64")


def others() -> Iterator[Launch]:
    """Kernels that belong to no step, or to steps that are written for a network."""
    numbers, whole = np.zeros(8, np.float32), np.zeros(8, np.int64)
    yield Launch(weights.finite(numbers.dtype, DEVICE), (1,), DEVICE.flat, (numbers, 8, whole))
    closing = whole, numbers, np.zeros(8), np.zeros(8), numbers, whole
    yield Launch(rows.close(numbers.dtype, DEVICE, True), (1,), DEVICE.single, closing)
    yield Launch(slices.add_up(numbers.dtype, DEVICE), (1,), DEVICE.flat, (whole, numbers, numbers, 2, 4))
    alone = [(arrays._gather(numbers.dtype), (numbers, whole, 3, numbers))]
    alone.append((arrays._put(numbers.dtype), (numbers, 12, 3, 4, numbers, 0, 4)))
    for given in (numbers, whole, np.zeros(8), np.zeros(8, np.uint8)):
        alone += [(targets._look(), (given, 0.0, 1.0, 0, whole)), (targets._convert(whole.dtype), (given, 0, whole))]
        alone.append((targets._convert(numbers.dtype), (given, 0, numbers)))
    for labels, y in ((True, whole), (False, numbers)):
        alone += [(targets._mark(labels, cleared), (y, 3, numbers, y, whole)) for cleared in (False, True)]
    alone += [
        (targets._classify(numbers.dtype, False), (numbers, 3, whole, whole)),
        (targets._pick(), (whole, numbers, numbers)),
        (targets._multiply(), (numbers, numbers, numbers)),
    ]
    for kernel, arguments in alone:
        yield Launch(kernel, (1,), DEVICE.flat, arguments)


def type_of(argument: Any) -> Any:
    """How a kernel is compiled for an argument."""
    if isinstance(argument, np.ndarray):
        return numba.typeof(argument)
    return numba.types.float64 if isinstance(argument, float) else numba.types.int64


def main(capabilities: list[tuple[int, int]]) -> None:
    """Compiles them all."""
    bound.cuda, bound.device = SimpleNamespace(to_device=np.ascontiguousarray), SimpleNamespace(zeros=np.zeros)
    every = [*(launch for step in steps() for launch in step), *others()]
    seen = {(launch.kernel, tuple(map(type_of, launch.arguments))): launch for launch in every}
    for (kernel, signature), launch in seen.items():
        name = f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}".removesuffix(".<locals>.run")
        doubles = sum(numba.types.float64 in (part, getattr(part, "dtype", None)) for part in signature)
        codes = device.compile_ptx(kernel, signature, capabilities, launch.block)
        for (major, minor), code in zip(capabilities, codes, strict=True):
            assert f".target sm_{major}{minor}" in code
            held = [part for part in ("local", "f64", "call") if re.search(rf"\.{part}\b|\b{part}\.", code)]
            atomics = re.findall(r"\b(?:atom|red)\.\S+", code)
            held += {"ticket" if re.search(r"\.add\.u64$", one) else "atomic" for one in atomics}
            print(f"{major}.{minor}", name, "double" if doubles else "single", *held)


if __name__ == "__main__":
    main([(int(major), int(minor)) for major, _, minor in (given.partition(".") for given in sys.argv[1:])])
