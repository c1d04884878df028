"""Every kernel of the CUDA engine compiles for GPUs that aren't here."""

import ast
import functools
import os
import subprocess
import sys

import pytest
from helpers import ROOT

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")


CAPABILITIES = "7.5", "10.0"
"""The oldest GPUs that are served, and the newest: `test_cuda_kept.py` compiles for one between, to machine code."""

ELSEWHERE = {
    "arrays._unfit",
    "targets._count",
    "wide.finish",
    "wide.halve",
    "wide.sum_rows",
    "wide.widen",
    "narrow.one_block.written",
    "narrow.slices.written",
}
"""Compiled by ``test_cuda_wide.py`` and ``test_cuda_narrow.py``."""


WITH_TICKETS = {"rows.output", "rows.wide_output", "products.forward", "products.input_gradient"}
"""Whose blocks are counted by an integer in memory: the last one does what is left."""


def makers() -> set[str]:
    """The functions that make kernels: modules of ``fastbp/cuda`` and their names there."""
    found = set()
    folder = ROOT / "fastbp" / "cuda"
    for path in folder.rglob("*.py"):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and path.stem != "device":
                calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
                if any(isinstance(called, ast.Name) and called.id == "kernel" for called in calls):
                    found.add(f"{module}.{node.name}")
    return found


@functools.cache
def compiled() -> list[list[str]]:
    """For each kernel and GPU: the GPU, the kernel's name, its numbers, what its code holds."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "launches.py"), *CAPABILITIES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles(capability: str) -> None:
    """Sums stay in registers, nothing is called, no atomics but tickets, and kernels of float32 hold no float64."""
    lines = [line for gpu, *line in compiled() if gpu == capability]
    names = {name.removeprefix("fastbp.cuda.") for name, *_ in lines}
    assert len(names) > 25 and names | ELSEWHERE == makers()
    for name, numbers, *held in lines:
        assert not {"local", "atomic", "call"} & set(held), (name, held)
        assert "ticket" not in held or name.removeprefix("fastbp.cuda.") in WITH_TICKETS, name
        assert "f64" not in held or numbers == "double", name
