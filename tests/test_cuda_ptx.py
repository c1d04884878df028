"""Every kernel of the CUDA engine compiles for GPUs that aren't here."""

import functools
import os
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

import pytest
from helpers import ROOT, side_by_side

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")


CAPABILITIES = "7 5", "9 0", "10 0"


def compiled(capability: str) -> subprocess.CompletedProcess[str]:
    """A line for each kernel: its name, its numbers, what its code holds."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "launches.py"), *capability.split()]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@functools.cache
def started() -> dict[str, Future[Any]]:
    return side_by_side(compiled, {capability: (capability,) for capability in CAPABILITIES})


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles(capability: str) -> None:
    """Sums stay in registers, nothing is called, no atomics, and float32 kernels hold no float64 arithmetic."""
    done = started()[capability].result()
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len({name for name, *_ in lines}) > 25
    for name, numbers, *held in lines:
        assert not {"local", "atom", "call"} & set(held), (name, held)
        assert "f64" not in held or numbers == "double", name
