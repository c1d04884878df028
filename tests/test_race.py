"""The race: who takes part where, what its tables say, and that it says clearly when there is no GPU."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import contestants
import networks
import numpy as np
import pytest
import rivals
from helpers import ROOT, python

BENCH = ROOT / "bench"


def bench(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=BENCH)


def test_without_a_gpu_the_race_says_so() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "rivals.py"), "--device", "cuda"],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HOME": str(Path.home())},
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("python bench/rivals.py: error: --device cuda: device='cuda': "), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--dtype", "tf32"], "--dtype: tf32 is not among float32, float64, bfloat16"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
        (["--device", "cuda", "--memory"], "--memory measures the CPU"),
        (["--networks", "tiny-1000"], "tiny-1000 is neither among"),
    ],
)
def test_what_a_ground_does_not_know_is_refused(arguments: list[str], words: str) -> None:
    done = bench("rivals.py", *arguments)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_a_short_race(tmp_path: Path) -> None:
    """Two number types in one run, the second late; the loss is what this Python finds."""
    path = tmp_path / "race.json"
    short = ["--networks", "5-4-3@6", "--optimizers", "sgd", "--rivals", "fastbp", "--rounds", "1", "--threads", "1"]
    done = bench("rivals.py", *short, "--dtype", "float32,float64", "--limit", "1e-9", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["late"] == ["5-4-3@6, sgd, float32", "5-4-3@6, sgd, float64"]
    done = bench("rivals.py", *short, "--dtype", "float32,float64", "--json", str(path), "--markdown")
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert [result["dtype"] for result in report["results"]] == ["float32", "float64"]
    assert report["peak_gflops"].keys() == {"float32", "float64"}
    rows = [result["contestants"]["fastbp"] for result in report["results"]]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
    assert rows[0]["loss"] < report["results"][0]["loss_at_start"]
    assert "| 5-4-3 | 6 | sgd | float64 |" in done.stdout


COPIES = networks.Network("some", (5, 4, 1), batch=8, steps=6, output="sigmoid", copies=3)


@pytest.mark.parametrize("output", networks.LOSSES)
@pytest.mark.parametrize("name", ["fastbp", "torch", "jax"])
def test_copies_train_as_each_alone(name: str, output: str) -> None:
    pytest.importorskip(name) if name != "fastbp" else None
    widths = (5, 4, 1 if output == "sigmoid" else 3)
    many = networks.replace(COPIES, output=output, widths=widths)
    x, y = many.data()
    make: Any = contestants.CONTESTANTS[name]
    together = make(many, "adam", x, y, 1, "float32")
    together.run(2)
    got = together.weights()
    alone = make(networks.replace(many, copies=1), "adam", x, y, 1, "float32")
    alone.run(2)
    for array, single in zip(got, alone.weights(), strict=True):
        np.testing.assert_allclose(array[0], single, atol=1e-5)
        assert array.shape == (3, *single.shape)
    first = many.mean_loss([array[0] for array in got], x, y)
    assert abs(many.judge(got, x, y) - first) > 1e-4  # the copies are different networks
    assert many.flops_per_step == 3 * networks.replace(many, copies=1).flops_per_step


def test_networks_at_once_are_compared_with_one_by_one() -> None:
    def result(copies: int, us: float, dtype: str = "float32") -> dict[str, Any]:
        row = {"min_us": us}
        same = {"network": "tiny", "widths": [20, 10, 1], "batch": 32, "optimizer": "sgd"}
        return {**same, "dtype": dtype, "copies": copies, "contestants": {"fastbp": row}}

    (line,) = rivals.at_once([result(1, 5.0), result(1000, 25.0), result(1000, 25.0, "bfloat16")])
    assert "fastbp trains 1,000 networks at once 200 times as fast as one by one" in line


def test_the_grounds_of_both_devices_are_whole() -> None:
    """Every contestant has its packages; what is raced on a GPU are the sizes that its three ways are chosen by."""
    import device_contestants

    for table in (contestants, device_contestants):
        assert table.CONTESTANTS.keys() == table.PACKAGES.keys()
    sizes = {(network.widths, network.batch, network.copies) for network in networks.DEVICE_NETWORKS.values()}
    assert sizes == {
        ((20, 10, 1), 32, 1),
        ((20, 10, 1), 32, 1000),
        ((64, 64, 64, 16), 16384, 1),
        ((784, 256, 128, 10), 128, 1),
        ((784, 256, 128, 10), 8192, 1),
        ((784, 2048, 2048, 10), 256, 1),
        ((1024, 4096, 4096, 4096, 10), 512, 1),
        ((1024, 4096, 4096, 4096, 10), 8192, 1),
    }
    assert networks.named("mnist@8192", networks.DEVICE_NETWORKS).steps == 10
    assert networks.named("mnist@64", networks.DEVICE_NETWORKS).batch == 64


FAKE = """#!/usr/bin/env bash
# a Python on a machine with a GPU: says what it was asked for, and fails where it is told to
echo "$@" >>"$ASKED"
case "$*" in
    "-c "*) exit 0 ;;
    -) cat >/dev/null; echo "- NVIDIA X100" ;;
    *"-m pytest"*) echo "3 passed" ;;
    *gpu_small.py*) exit "$SMALL" ;;
    *ways.py*) printf '| network | batch |\\n|---|---|\\n| 20-10-1 | 32 |\\n' ;;
    *rivals.py*) printf 'skipped: jax: not installed\\n\\n| network | batch |\\n|---|---|\\n| tiny | 32 |\\n' ;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("small", [0, 9])
def test_the_check_on_a_gpu_leaves_its_table(small: int, tmp_path: Path) -> None:
    fake, out = tmp_path / "python", tmp_path / "out"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHON": str(fake),
        "OUT": str(out),
        "WORK": str(tmp_path),
        "ASKED": str(tmp_path / "asked"),
    }
    command = ["bash", str(ROOT / "scripts" / "gpu_check.sh")]
    done = subprocess.run(command, env={**environment, "SMALL": str(small)}, capture_output=True, text=True)
    assert done.returncode == bool(small), done.stderr
    table = (out / "table.md").read_text()
    for words in (
        "- NVIDIA X100",
        "| tests | passed |",
        "- skipped: jax: not installed",
        "| tiny | 32 |",
        "| 20-10-1 | 32 |",
    ):
        assert words in table
    assert ("FAILED | exit code 9" in table) == bool(small)
    asked = (tmp_path / "asked").read_text()
    assert "test_cuda_wide.py" in asked and "--part 1/" in asked
    if small:
        (tmp_path / "asked").unlink()
        done = subprocess.run(command, env={**environment, "PARTS": "ways race"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        table = (out / "table.md").read_text()
        assert "| ways | passed |" in table and "| race | passed |" in table
        assert "| small |" not in table and "| tests |" not in table and "racecheck" not in table


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_check_says_what_is_missing_and_what_it_could_not_get(tmp_path: Path) -> None:
    """A Python with nothing in it, and a folder of wheels that has nothing for it: the table is there all the same."""
    bare, out, wheels = tmp_path / "python", tmp_path / "out", tmp_path / "wheels"
    bare.write_text(f'#!/usr/bin/env bash\nunset PYTHONPATH PYTHONHOME\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    wheels.mkdir()
    environment = {**os.environ, "PYTHON": str(bare), "OUT": str(out), "WORK": str(tmp_path), "WHEELS": str(wheels)}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    table = (out / "table.md").read_text()
    for words in (
        "- nvidia-smi: ",
        f"- Python {sys.version.split()[0]} (",
        "nothing; without numpy, llvmlite, numba",
        f"- installed from {wheels}: nothing; not to be had: numpy, llvmlite, numba",
        "Nothing ran: ",
    ):
        assert words in table, table


def test_packages_wanted_are_those_of_the_project() -> None:
    import gpu_packages

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = {**gpu_packages.NEEDED, **gpu_packages.WELCOME}
    extras = project["optional-dependencies"]
    for wanted in (*project["dependencies"], *extras["cuda13"], *extras["cublas13"], *extras["test"]):
        name, _, least = wanted.partition(";")[0].partition(">=")
        name = name.partition("[")[0]
        if name in given:
            assert given[name] == least, name
    assert {wanted.partition(">=")[0] for wanted in project["dependencies"]} <= gpu_packages.NEEDED.keys()


@pytest.mark.parametrize(
    ("versions", "libraries", "cuda", "wanted"),
    [
        ({}, (), 13, ["numpy", "numba"]),
        ({"numpy": "2.1.0", "numba": "0.61.2"}, (), 13, ["numba"]),
        ({"numpy": "2.1.0", "numba": "0.62.0rc1", "cuda-pathfinder": "1.4"}, ("nvvm",), 12, ["nvidia-nvjitlink-cu12"]),
        ({"numpy": "1.26", "numba": "1.0", "cuda-pathfinder": "1.4"}, ("nvvm", "nvJitLink"), 13, []),
        (
            *({"numpy": "1.26", "numba": "1.0", "cuda-pathfinder": "1.4"}, ("nvJitLink",), 13),
            ["nvidia-nvvm", "nvidia-nvjitlink"],
        ),
    ],
)
def test_what_is_lacking(
    versions: dict[str, str], libraries: tuple[str, ...], cuda: int, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_packages

    monkeypatch.setattr(gpu_packages, "loads", lambda library: library in libraries)
    some = {name: gpu_packages.LIBRARIES[name] for name in ("nvvm", "nvJitLink")}
    found = gpu_packages.lacking({"numpy": "1.26", "numba": "0.62"}, some, cuda, lambda name: versions.get(name, ""))
    assert found == wanted


def test_packages_are_put_beside_a_python(tmp_path: Path) -> None:
    """By the index, or of a folder of wheels as far as they are there; .pth files are obeyed."""
    import gpu_packages

    asked: list[list[str]] = []

    def run(command: list[str]) -> int:
        asked.append(command)
        return int("--no-index" not in command)

    folder, wheels, names = tmp_path / "packages", tmp_path / "wheels", ["numba-cuda", "nvidia-nvvm"]
    assert gpu_packages.install(folder, names, wheels, run) == names
    assert asked[-1][-3:] == [str(folder), "numba-cuda>=0.30", "nvidia-nvvm"]
    wheels.mkdir()
    assert gpu_packages.install(folder, names, wheels, run) == names and len(asked) == 1
    (wheels / "numba_cuda-0.31-py3-none-any.whl").touch()
    assert gpu_packages.install(folder, names, wheels, run) == ["nvidia-nvvm"]
    assert asked[-1][-5:] == ["--find-links", str(wheels), "--target", str(folder), "numba-cuda>=0.30"]
    (folder / "some.pth").write_text("import sys; sys.obeyed = True\n")
    code = "import site, sys; print(sys.obeyed, site.getsitepackages()[0])"
    assert python(code, PYTHONPATH=str(folder)) == f"True {folder}\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_check_without_a_gpu_says_why(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "OUT": str(tmp_path),
        "WORK": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = ["bash", str(ROOT / "scripts" / "gpu_check.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Nothing ran: device='cuda': " in (tmp_path / "table.md").read_text()


def test_the_ways_of_a_step_are_timed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the simulator, with a clock that only counts: each way is gone, or says why it can't be."""
    pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
    import ways

    from fastbp.cuda import captured
    from fastbp.cuda.narrow import one_block

    gone: list[str] = []
    plain, block = captured.Launches.run, one_block.Narrow.run
    monkeypatch.setattr(captured.Launches, "run", lambda *given: (gone.append("launches"), plain(*given)))
    monkeypatch.setattr(one_block.Narrow, "run", lambda *given: (gone.append("one block"), block(*given)))

    def clock(work: Any) -> float:
        work()
        return 1.0

    narrow_net = networks.Network("narrow", (5, 4, 3), batch=4, steps=2)
    wide_net = networks.Network("wide", (3, 130, 2), batch=2, steps=1)
    lines = ways.compare([narrow_net, wide_net], "sgd", ["float32"], clock)
    assert lines[2] == "| 5-4-3 | 4 | float32 | 500,000.0 | 500,000.0 | - | - | 500,000.0 |"
    assert lines[3] == "| 3-130-2 | 2 | float32 | 1,000,000.0 | 1,000,000.0 | - | - | - |"
    assert "wide, float32, one block: a layer is too wide" in lines
    assert "narrow, float32, graphs, library: neither nvmath-python nor CuPy is installed" in lines
    assert gone.index("one block") > gone.index("launches")
