"""Launches without a GPU and without the simulator: on the stand-in for a driver, which must find planted faults."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or shutil.which(os.environ.get("CC", "cc")) is None,
    reason="the stand-in needs Linux on x86-64 and a C compiler",
)

FAULTS = {
    "some_threads_do_not_reach_a_barrier": "threads ended while others waited at a barrier",
    "shared_memory_is_too_small": "a block wrote beyond its 28 bytes of shared memory",
    "more_threads_than_compiled_for": "32 threads, compiled for 8",
    "a_copy_is_too_long": "404 bytes reach beyond an allocation of 400",
    "memory_is_freed_twice": "memory is freed that nobody allocated",
}
"""A planted fault, and what the stand-in says of it."""


def stand_in(which: str, *options: str, files: tuple[str, ...] = ("launched.py",)) -> tuple[int, str]:
    """The exit code and the report of those tests."""
    script = str(ROOT / "scripts" / "gpu_standin" / "run.py")
    command = [sys.executable, script, *options, "-m", "gpu", "-p", "no:cacheprovider"]
    command += [str(ROOT / "tests" / file) for file in files]
    done = subprocess.run([*command, "-k", which], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_launches_and_graphs_run(tmp_path: Path) -> None:
    code, said = stand_in("right", "--calls", str(tmp_path / "calls"))
    assert code == 0 and "3 passed" in said, said
    calls = (tmp_path / "calls").read_text()
    for kernel in ("gather", "forward", "output", "weight_gradients"):
        assert re.search(rf"^launch \w*{kernel}\w*: grid .* into a capturing stream$", calls, re.MULTILINE), kernel
    assert re.search(r"^launch \w*forward\w*: grid 1 2 1,", calls, re.MULTILINE)  # a sum in two parts
    assert re.search(r"^graph of [1-9]\d* launches into the legacy stream$", calls, re.MULTILINE)


def test_planted_faults_are_found() -> None:
    code, said = stand_in("fault")
    assert code == 1
    assert f"1 failed, {len(FAULTS)} passed" in said and "test_fault_a_barrier_is_missing" in said, said
    wrong = said[said.index("calls were WRONG") :]
    for fault, sentence in FAULTS.items():
        assert sentence in wrong, (fault, wrong)


def test_targets_and_weights_are_read_where_they_are() -> None:
    code, said = stand_in("of_a_device", files=("test_cuda_targets.py", "test_cuda_arrays.py"))
    assert code == 0 and "2 passed" in said, said
