"""Kernels as machine code without a driver; kept on disk, and found again by all that the compiler sees of them."""

from pathlib import Path

import numpy as np
import pytest
from helpers import python

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
import fastbp as fb
from fastbp.cuda import kept, rules
from fastbp.cuda.layout import STATUS

COMPILE = """
import sys
from standing import machine_code, stand_in
stand_in({capability})
import numpy as np
import fastbp as fb
from fastbp.cuda import rules
from fastbp.cuda.narrow import one_block
from launches import launches, type_of
from test_cuda_narrow import _net

optimizer, dtype = fb.Adam(), np.dtype(np.float32)
step = launches([fb.Dense(9, "gelu"), fb.Dense(1)], fb.losses.get("mse"), optimizer, [], update="tiles")
found = {{(each.kernel, tuple(map(type_of, each.arguments))) for each in step}}
if {narrow}:
    update = rules.update(optimizer, dtype)
    net = _net(numbers=optimizer.width, update=update, widths=(3, 2, 1), places=((0, 4), (16, 4)))
    from numba import types
    number, whole = types.float32[::1], types.int64[::1]
    arrays = whole, whole, number, number, number, types.float64[::1], number, number, whole, number, number
    found.add((one_block.written(net)[0], (types.int64, *arrays)))
compiled = 0
codes = []
for kernel, signature in sorted(found, key=lambda one: str(one)):
    codes.append(machine_code(kernel, signature))
    compiled += sum(kernel._cache_misses.values())
    assert codes[-1][:4] == b"\\x7fELF"
import hashlib
print(len(codes), compiled, hashlib.sha256(b"".join(sorted(codes))).hexdigest())
"""


def run(folder: Path, capability: tuple[int, int], narrow: bool = False) -> tuple[int, int, str]:
    """Kernels asked for, how many were compiled, a digest of their machine code."""
    code = COMPILE.format(capability=capability, narrow=narrow)
    count, compiled, digest = python(code, FASTBP_CACHE_DIR=str(folder)).split()
    return int(count), int(compiled), digest


def test_machine_code_is_made_without_a_driver(tmp_path: Path) -> None:
    """By nvJitLink, for each GPU its own: no driver ever sees PTX that is newer than itself."""
    found = [run(tmp_path, capability) for capability in ((7, 5), (10, 0))]
    assert all(count == compiled > 5 for count, compiled, _ in found)
    assert found[0][2] != found[1][2]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    count, compiled, code = run(tmp_path, (9, 0), True)
    assert count == compiled > 5
    assert run(tmp_path, (9, 0), True) == (count, 0, code)
    files = sorted(tmp_path.rglob("*.kernel"))
    assert len(files) == count
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].write_bytes(b"")
    assert run(tmp_path, (9, 0), True)[:2] == (count, 2)  # names in the code depend on what was compiled before


# ---------------------------------------------------------------- what a kernel is known by


def of(factor: object, helper: object = abs) -> object:
    def run(x):  # type: ignore[no-untyped-def]
        return helper(x) * factor + STATUS  # type: ignore[operator]

    return run


def test_what_a_function_sees_is_what_it_is_known_by(monkeypatch: pytest.MonkeyPatch) -> None:
    same = kept.fingerprint(of(np.float32(2)))
    assert kept.fingerprint(of(np.float32(2))) == same
    other = [of(np.float32(3)), of(np.float64(2)), of(np.float32(2), of(1)), of(np.float32(2), of(2)), of((2, "a"))]
    found = [same, *map(kept.fingerprint, other)]
    monkeypatch.setitem(of.__globals__, "STATUS", STATUS + 1)
    found.append(kept.fingerprint(of(np.float32(2))))
    assert len(set(found)) == len(found)


def test_constants_of_modules_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbp.cuda import rows

    before = kept.fingerprint(rows.rows_of)
    assert kept.fingerprint(rows.rows_of) == before != kept.fingerprint(rows.epoch_of)
    monkeypatch.setattr("fastbp.cuda.layout.BATCH", 99)
    assert kept.fingerprint(rows.rows_of) != before


def test_a_formula_is_seen_through_its_rule() -> None:
    dtype = np.dtype(np.float32)
    names = "relu", "tanh", "gelu", "softplus", "elu"
    rows = [fb.activations.get(name) for name in names]
    found = [kept.fingerprint(rule(row, dtype)) for row in rows for rule in (rules.activation, rules.derivative)]
    found.append(kept.fingerprint(rules.activation(rows[2], np.dtype(np.float64))))
    assert len(set(found)) == len(found)


def test_what_no_other_process_would_know_is_not_kept() -> None:
    with pytest.raises(kept.UnknownError, match="no name that the next process would know"):
        kept.fingerprint(of(object()))


def test_kernels_of_one_name_are_the_same_code() -> None:
    code = """
import re
from collections import defaultdict
from standing import stand_in
stand_in((9, 0))
from fastbp.cuda import device, kept
from launches import steps, type_of
named = defaultdict(dict)
for step in steps():
    for each in step:
        signature = tuple(map(type_of, each.arguments))
        named[kept.fingerprint(each.kernel), signature][each.kernel] = each.block
assert len(named) > 90
for (_, signature), kernels in named.items():
    if len(kernels) > 1:
        codes = [device.compile_ptx(kernel, signature, [(9, 0)], block)[0] for kernel, block in kernels.items()]
        assert len({re.sub(r"_Z\\w+|smem_\\d+", "", code) for code in codes}) == 1, list(kernels)
print("named")
"""
    assert python(code).strip() == "named"


# ---------------------------------------------------------------- whoever waits sees it


def test_whoever_waits_for_the_compiler_is_told(tmp_path: Path) -> None:
    code = """
import sys
from standing import stand_in
stand_in((9, 0))
import fastbp as fb
from fastbp.training import compilation
from fastbp.cuda import compiling
from launches import launches
sys.stderr = sys.stdout
compilation.DELAY = 0.0
step = launches([fb.Dense(1)], fb.losses.get("mse"), fb.SGD(), [], update="tiles")[:3]
waiting = compiling.Waiting(step[0])
assert waiting.name == "rows gather" and waiting.seconds > 0.1
found = not waiting.ready and not waiting.load()
compiling.make_ready(step, {shown})
assert waiting.ready
compiling.make_ready(step, True)
print("found" if found else "loaded")
"""
    folder = str(tmp_path)
    said = python(code.format(shown=True), FASTBP_CACHE_DIR=folder)
    assert said.count("compiling kernels, once per machine") == said.count("kernels ready after") == 1
    assert said.endswith("found\n")
    assert python(code.format(shown=True), FASTBP_CACHE_DIR=folder) == "loaded\n"
