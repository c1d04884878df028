"""Runs ``pytest -m gpu`` without a GPU, on a stand-in for NVIDIA's driver (see README.md beside this file).

    python scripts/gpu_standin/run.py -m gpu tests/test_cuda_engine.py

What isn't listed by --help goes to pytest. The exit code is pytest's, or 1 where a call was wrong.
"""

import argparse
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = "driver.c", "fibres.c"
OPTIONS = "-std=gnu11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"

DECLARED = re.compile(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(")
RENAMED = re.compile(r"#\s*define\s+(cu[A-Z]\w*)\s+(?:__CUDA_API_PT[DS][SZ]\()?(cu[A-Z]\w*)")
ANSWERED = re.compile(r"^(?:CUresult |SUCCEEDS\()(cu[A-Z]\w*)", re.MULTILINE)


def headers() -> Path:
    """The folder of CUDA 13's ``cuda.h``, from NVIDIA's wheels."""
    spec = importlib.util.find_spec("nvidia")
    for place in [] if spec is None else spec.submodule_search_locations or []:
        folder = Path(place) / "cu13" / "include"
        if (folder / "cuda.h").exists():
            return folder
    raise SystemExit("the stand-in needs cuda.h, of CUDA 13's wheels, which isn't here: pip install 'fastbp[cuda13]'")


def compiler() -> str:
    """The C compiler: ``$CC``, or the system's."""
    wanted = os.environ.get("CC", "cc")
    found = shutil.which(wanted)
    if found is None:
        raise SystemExit(f"the stand-in needs a C compiler, and there is no {wanted}: install gcc, or name one in CC")
    return found


def calls(header: str, driver: str) -> str:
    """A line of C for each call that ``cuda.h`` knows: who answers it, or that nobody does.

    Parameters
    ----------
    header : the text of ``cuda.h``, which declares some calls under a newer version's name
    driver : the text of ``driver.c``
    """
    renamed = dict(RENAMED.findall(header))
    answered = {renamed.get(name, name) for name in ANSWERED.findall(driver)}
    lines = []
    for name in sorted({*DECLARED.findall(header), *renamed, *renamed.values()}):
        target = renamed.get(name, name)
        lines.append(f"ANSWERED({name}, {target})" if target in answered else f"UNANSWERED({name})")
    return "\n".join([*lines, ""])


def build(folder: Path) -> Path:
    """Compile ``libcuda.so.1`` into a folder: its path."""
    include, command = headers(), compiler()
    header = (include / "cuda.h").read_text(encoding="utf-8", errors="replace")
    (folder / "calls.h").write_text(calls(header, (HERE / "driver.c").read_text(encoding="utf-8")), encoding="utf-8")
    library = folder / "libcuda.so.1"
    sources = [str(HERE / name) for name in SOURCES]
    seen = [f"-I{HERE}", f"-I{folder}", "-isystem", str(include)]
    named = ["-o", str(library), "-Wl,-soname,libcuda.so.1", "-lm", "-pthread"]
    subprocess.run([command, *OPTIONS, *seen, *sources, *named], check=True)
    return library


def before(first: Path, name: str) -> str:
    """The value of a path variable with a folder in front."""
    return os.pathsep.join(filter(None, [str(first), os.environ.get(name, "")]))


def environment(library: Path, wrong: Path, options: argparse.Namespace) -> dict[str, str]:
    """What a process runs with that is to find the stand-in in the driver's place."""
    names = {
        "LD_LIBRARY_PATH": before(library.parent, "LD_LIBRARY_PATH"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), before(HERE.parent, "PYTHONPATH")]),
        "STANDIN_LIBRARY": str(library),
        "STANDIN_WRONG": str(wrong),
        "STANDIN_CAPABILITY": options.capability,
        "STANDIN_CUDA": str(options.cuda),
    }
    if options.calls is not None:
        names["STANDIN_CALLS"] = str(options.calls.resolve())
    return {**os.environ, **names}


def report(wrong: Path) -> bool:
    """Print what was flagged, each kind once with its count: whether there was anything."""
    found = Counter(wrong.read_text(encoding="utf-8", errors="replace").splitlines()) if wrong.exists() else Counter()
    if found:
        print(f"{found.total()} calls were WRONG, which a GPU or its driver would have refused or paid for:")
    for line, count in found.most_common():
        print(f"  {count} x {line}")
    return bool(found)


def parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The stand-in's own options, and pytest's."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--calls", type=Path, metavar="FILE", help="write every call of the driver there (many)")
    parser.add_argument("--capability", default="9.0", help="the GPU's compute capability (default: 9.0)")
    parser.add_argument("--cuda", type=int, default=13000, help="the driver's CUDA version (default: 13000)")
    return parser.parse_known_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """The command: its exit code."""
    options, tests = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # pytest ends with this process
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SystemExit(f"the stand-in runs on Linux on x86-64 alone, and this is {sys.platform} {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="gpu_standin_") as place:
        folder = Path(place)
        wrong = folder / "wrong.txt"
        library = build(folder)
        command = [sys.executable, "-m", "pytest", "-p", "gpu_standin.plugin", *tests]
        code = subprocess.run(command, env=environment(library, wrong, options)).returncode
        return 1 if report(wrong) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
