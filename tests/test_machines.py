"""Machines other than this one: AVX2 and SSE are run on any x86 (Numba is told another CPU), arm64 is compiled."""

import functools
import platform
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
import reference
from helpers import TOLERANCE, error, expected, inputs, make, python, side_by_side, targets
from llvmlite import ir

import fastbp as fb
from fastbp import _vector
from fastbp._jit import vector_bytes
from fastbp.cpu import engine as engine_module
from fastbp.cpu import tile

X86 = platform.machine().lower() in ("x86_64", "amd64")
LOSS = "sparse_categorical_crossentropy"
SHAPES = [([1, 1], 1), ([5, 3], 33), ([17, 33, 1], 31), ([25, 23, 24, 11], 7), ([97, 101, 10], 129), ([2, 700, 2], 96)]
SHAPES += [([97, 101, 10], 3), ([300, 40, 7], 1)]  # few rows


def check_this_machine(*dtypes: str) -> None:
    """Losses, gradients and fits against the reference, 1 thread against 2, the border of every buffer."""
    import test_bfloat16
    import test_memory

    engine_module.SERIAL_WORK = 0.0  # two threads whatever the size
    for dtype in dtypes:
        for widths, rows in SHAPES:
            if dtype == "bfloat16":
                test_bfloat16.check(make(widths, "tanh", "softmax", dtype=dtype, threads=2), LOSS, rows)
            else:
                check(widths, rows, dtype)
    if sys.platform == "linux":
        few = [case for case in test_memory.cases() if case[3] == "tanh" and case[4] in (LOSS, "mean_squared_error")]
        few = [case for case in few if case[2] in dtypes]
        test_memory.run_guarded("end", few, test_memory.everything)
    print(vector_bytes())


def check(widths: list[int], rows: int, dtype: str) -> None:
    x, labels = inputs(rows, widths[0]), targets(LOSS, rows, widths[-1])
    bits = []
    for threads in (1, 2):
        model = make(widths, "tanh", "softmax", dtype=dtype, threads=threads)
        model.compile(fb.Adam(0.01), LOSS)
        value, wanted, dx = expected(model, LOSS, x, labels)
        case = f"{widths}, {rows} rows, {dtype}, {threads} threads"
        assert abs(model.evaluate(x, labels) - value) < 10 * TOLERANCE[dtype] * max(1.0, value), case
        gradients, got_dx = model.gradients(x, labels, inputs=True)
        for got, true in zip([*gradients, got_dx], [*wanted, dx], strict=True):
            assert error(got, true) < 10 * TOLERANCE[dtype], case
        weights = reference.with_biases(model.get_weights())
        history = model.fit(x, labels, batch_size=20, epochs=3, shuffle=False, verbose=0)
        bits.append([*model.get_weights(), model.predict(x), np.array(history.history["loss"])])
    names = [layer.activation.name for layer in model.layers]
    rounded = x.astype(dtype).astype(float)
    adam = reference.Adam(0.01)
    trained, curve = reference.train(weights, names, LOSS, adam, rounded, labels, batch_size=20, epochs=3)
    np.testing.assert_allclose(bits[0][-1], curve, rtol=20 * TOLERANCE[dtype], atol=20 * TOLERANCE[dtype])
    for got, true in zip(bits[0], reference.without_biases(trained), strict=False):
        assert error(got, true) < 20 * TOLERANCE[dtype], case
    for one, two in zip(*bits, strict=True):
        np.testing.assert_array_equal(one, two, case)


NARROWER = ("haswell", "", 32), ("haswell", None, 32), ("x86-64", "", 16)
NEON = "x86-64", "", "NEON's shapes"
CHECK = "import test_machines; test_machines.check_this_machine{}"
CHECK_NEON = f"import test_machines as t; t.tile.TILES[16, 16] = t.tile.TILES[32, 16]; {CHECK}"


def check_another(cpu: str, features: str | None, shapes: Any) -> str:
    """`check_this_machine` by the instructions of another."""
    names = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    # float64 takes a training loop of its own, half a minute to compile: once for each width is enough
    dtypes = ("float32", "bfloat16") if features is None else ("float32", "float64", "bfloat16")
    if shapes == NEON[-1]:
        # no setting of Numba's: it gives these kernels a cache folder of their own
        return python(CHECK_NEON.format(dtypes), **names, NUMBA_TILES_OF="NEON")
    return python(CHECK.format(dtypes), **names)


@functools.cache
def started() -> dict[Any, Future[Any]]:
    return side_by_side(check_another, {machine: machine for machine in (*NARROWER, NEON)})


@pytest.mark.skipif(not X86, reason="these CPU names are of x86")
@pytest.mark.parametrize(("cpu", "features", "width"), NARROWER, ids=str)
def test_narrower_vectors_compute_the_same(cpu: str, features: str | None, width: int) -> None:
    if cpu == "haswell" and not (llvm.get_host_cpu_features().get("avx2") and llvm.get_host_cpu_features().get("fma")):
        pytest.skip("this machine has no AVX2")
    assert started()[cpu, features, width].result().split()[-1] == str(width)


@pytest.mark.skipif(not X86, reason="arm64 computes with these shapes by itself")
def test_the_shapes_of_arm64_compute_the_same() -> None:
    """NEON's tiles and panels, written in SSE: vectors of 16 bytes either way."""
    assert started()[NEON].result().split()[-1] == "16"


# ---------------------------------------------------------------- the tiles' machine code, compiled for any machine

MACHINES = {
    # triple, CPU, (vector registers, vector bytes), whether it has fused multiply-adds, how a product looks
    "NEON on Linux": ("aarch64-unknown-linux-gnu", "generic", (32, 16), True, r"\bfmla(\.\S+)?\s+v"),
    "NEON on macOS": ("arm64-apple-darwin", "apple-m1", (32, 16), True, r"\bfmla(\.\S+)?\s+v"),
    "SSE": ("x86_64-unknown-linux-gnu", "x86-64", (16, 16), False, r"\bmulp[sd]\b"),
    "AVX2": ("x86_64-unknown-linux-gnu", "haswell", (16, 32), True, r"\bvfn?madd\d+p[sd]\b.*ymm"),
    "AVX-512": ("x86_64-unknown-linux-gnu", "skylake-avx512", (32, 64), True, r"\bvfn?madd\d+p[sd]\b.*zmm"),
}


def tiles(itemsize: int) -> Iterator[tile._Tile]:
    """Every micro-kernel of the geometry in force."""
    g = tile.geometry(itemsize)
    for product in ("forward", "backward"):
        yield from (
            tile._Tile(product, itemsize, height, count) for height in tile.row_counts(g.rows) for count in (1, 2)
        )
    for count in range(1, g.gradient_vectors + 1):
        yield from (tile._Tile("gradient", itemsize, height, count) for height in tile.gradient_heights(g, count))


@pytest.mark.parametrize("machine", MACHINES)
def test_tiles_keep_their_sums_in_registers(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of each tile is its multiply-adds, calls nothing (no ``fmaf`` for each number) and touches no stack."""
    triple, cpu, (registers, width), has_fma, product = MACHINES[machine]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    except RuntimeError as error:
        pytest.skip(f"this llvmlite compiles for no such machine: {error}")
    for module in (_vector, tile):
        monkeypatch.setattr(module, "vector_bytes", lambda: width)
    monkeypatch.setattr(_vector, "has_fma", lambda: has_fma)
    monkeypatch.setattr(tile, "vector_registers", lambda: registers)
    monkeypatch.setattr(tile, "geometry", tile.geometry.__wrapped__)
    for itemsize in (4, 8):
        code = ir.Module()
        code.triple = triple
        written = {tile._write(code, kind).name: kind for kind in tiles(itemsize)}
        assembly = target.emit_assembly(llvm.parse_assembly(str(code)))
        functions = re.split(r"^_?(tile_\w+):", assembly, flags=re.MULTILINE)
        found = dict(zip(functions[1::2], functions[2::2], strict=True))
        assert found.keys() == written.keys()
        for name, kind in written.items():
            assert not re.search(r"^\s+(call|bl)\w*\s", found[name], re.MULTILINE), name
            # basic blocks: up to a label or the jump back
            blocks = re.split(r"^\S+:|^\s+(?:b\.\w+|j\w+)\s.*$", found[name], flags=re.MULTILINE)
            loops = [block for block in blocks if re.search(product, block)]
            assert [len(re.findall(product, block)) for block in loops] == [kind.height * kind.vectors], name
            if has_fma:  # without, the product of a 4 x 3 tile needs a register more than SSE has
                assert not re.search(r"%rsp|\bsp\b", loops[0]), f"{name} spills:\n{loops[0]}"
