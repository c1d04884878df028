"""What a Python has of what ``gpu_check.sh`` needs, and how the rest gets to a machine that reaches no network.

    python scripts/gpu_packages.py                     # a line of what is here; exit code 3: something is missing
    python scripts/gpu_packages.py --missing           # the names of what is, a line each
    python scripts/gpu_packages.py --install FOLDER    # puts it into FOLDER, from the wheels in gpu_wheels/ or by pip
                                                       # (twice: the first finds what looks for libraries)
    python scripts/gpu_packages.py --download gpu_wheels --python 3.12 nvmath-python pytest

The last one is for another machine, with a network: it fetches wheels of these names (by default of all that a machine
with nothing but a driver needs, some 290 MB) for that Python on Linux. Nothing but Python itself is needed here.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = 3, 11
NEEDED = {
    "numpy": "1.26",
    "llvmlite": "0.45",
    "numba": "0.62",
    "tqdm": "4.64",
    "safetensors": "0.4.3",
    "packaging": "20",
    "cuda-pathfinder": "1.4",
    "cuda-bindings": "12.9.1",
    "cuda-core": "0.5.1",
    "numba-cuda": "0.30",
}
"""Packages without which nothing runs, and the oldest versions that do."""
LIBRARIES = {
    "nvvm": {12: "nvidia-cuda-nvcc-cu12", 13: "nvidia-nvvm"},
    "nvrtc": {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"},
    "nvJitLink": {12: "nvidia-nvjitlink-cu12", 13: "nvidia-nvjitlink"},
}
"""NVIDIA's own libraries, of a toolkit on the machine or of these packages, by the CUDA that the driver knows."""
WELCOME = {"pytest": "8", "nvmath-python": "0.8"}
"""What part of the check is left out without."""
RIVALS = "torch", "jax", "cupy-cuda13x", "cupy-cuda12x"
"""What is said to be here or not, and never installed."""
SITE = """import os, site

here, known = os.path.dirname(__file__), site.getsitepackages
site.addsitedir(here)
site.getsitepackages = lambda prefixes=None: [here, *known(prefixes)]
"""
"""Makes a folder in PYTHONPATH one of the places of packages: its .pth files are obeyed (numba-cuda takes the place of
numba.cuda by one), and NVIDIA's libraries are found in it."""
DRIVER_CUDA = re.compile(r"CUDA (?:UMD )?Version: *(\d+)")


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.match(r"[\d.]*\d", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def installed(name: str) -> str:
    """A package's version, "" without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def loads(library: str) -> bool:
    """Whether NVIDIA's library is found, as numba-cuda looks for it."""
    try:
        importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib(library)
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def driver_cuda() -> int:
    """The major version of CUDA that the driver knows, by nvidia-smi; 13 where it doesn't say."""
    try:
        said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 13
    found = DRIVER_CUDA.search(said)
    return max(12, min(13, int(found[1]))) if found else 13


def lacking(
    wanted: Mapping[str, str], libraries: Mapping[str, Mapping[int, str]], cuda: int, version: Callable[[str], str]
) -> list[str]:
    """The names of packages that are missing or too old; of libraries only where something can look for them.

    A compiler comes with its linker: an older one refuses the newer one's code.

    version : gives a package's version, "" without it
    """
    names = [name for name, least in wanted.items() if numbers(version(name)) < numbers(least)]
    looking = libraries if version("cuda-pathfinder") else {}
    missing = {library for library in looking if not loads(library)}
    missing |= {"nvJitLink"} & looking.keys() if "nvvm" in missing else set()
    return names + [packages[cuda] for library, packages in looking.items() if library in missing]


def line() -> str:
    """What this Python has, in words."""
    names = [*NEEDED, *WELCOME, *RIVALS]
    there = [f"{name} {installed(name)}" for name in names if installed(name)]
    there += [f"{library} of CUDA's" for library in LIBRARIES if loads(library)]
    missing = [name for name in (*names, *LIBRARIES) if not installed(name) and not (name in LIBRARIES and loads(name))]
    version = ".".join(map(str, sys.version_info[:3]))
    said = f"{', '.join(there) or 'nothing'}; without {', '.join(missing) or 'none'}"
    return f"Python {version} ({sys.executable}): {said}"


def pip(wheels: Path) -> list[str]:
    """How pip is called here: this Python's, or one that lies among the wheels as a wheel itself."""
    done = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    carried = sorted(wheels.glob("pip-*.whl"))
    if done.returncode and carried:
        return [sys.executable, str(carried[-1] / "pip")]
    return [sys.executable, "-m", "pip"]


def install(folder: Path, names: Sequence[str], wheels: Path, run: Callable[..., int] = subprocess.call) -> list[str]:
    """Put packages into a folder that stands in PYTHONPATH; the names of those that couldn't be.

    All in one call: pip replaces what two packages share of a folder that it didn't make in the same one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    source, given = list[str](), {**NEEDED, **WELCOME}
    found = list(names)
    if wheels.is_dir():
        source = ["--no-index", "--find-links", str(wheels)]
        found = [name for name in names if any(wheels.glob(f"{name.replace('-', '_')}-*.whl"))]
    command = [*pip(wheels), "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", *source]
    wanted = [f"{name}>={given[name]}" if name in given else name for name in found]
    if wanted and run([*command, "--target", str(folder), *wanted]):
        found = []
    return [name for name in names if name not in found]


def download(folder: Path, python: str, names: Sequence[str]) -> int:
    """Fetch wheels for another machine; pip's exit code."""
    fixed = ["--only-binary", ":all:", "--no-deps", "--python-version", python, "--dest", str(folder)]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]
    options = [part for platform in platforms for part in ("--platform", platform)]
    code = subprocess.call([sys.executable, "-m", "pip", "download", "--quiet", *fixed, *options, *names])
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    print(f"{folder}: {size / 2**20:,.1f} MiB")
    return code


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--missing", action="store_true", help="print the names of what is missing")
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="put what is missing into a folder")
    parser.add_argument("--download", type=Path, metavar="FOLDER", help="fetch wheels for another machine")
    parser.add_argument("--python", default="3.12", help="of that machine (default: %(default)s)")
    parser.add_argument("names", nargs="*", help="what to fetch")
    args = parser.parse_args(arguments)
    if args.download is not None:
        all_names = [*NEEDED, *WELCOME, *(packages[13] for packages in LIBRARIES.values()), "iniconfig", "pluggy"]
        return download(args.download, args.python, args.names or all_names)
    if sys.version_info[:2] < OLDEST_PYTHON:
        print(
            f"Python {sys.version.split()[0]} ({sys.executable}): too old, {'.'.join(map(str, OLDEST_PYTHON))} or newer"
        )
        return 4
    cuda = driver_cuda()
    needed = lacking(NEEDED, LIBRARIES, cuda, installed)
    welcome = lacking(WELCOME, {}, cuda, installed)
    if args.install is not None:
        wheels = Path(os.environ.get("WHEELS", ROOT / "gpu_wheels"))
        wanted = [*needed, *welcome]
        wanted += [name for name in ("iniconfig", "pluggy", "pygments") if "pytest" in welcome and not installed(name)]
        failed = install(args.install, wanted, wheels)
        where = f"from {wheels}" if wheels.is_dir() else "by pip from its index"
        got = [name for name in wanted if name not in failed]
        print(f"installed {where}: {', '.join(got) or 'nothing'}; not to be had: {', '.join(failed) or 'none'}")
        return 0
    if args.missing:
        print("\n".join([*needed, *welcome]))
    else:
        print(line())
    return 3 if needed else 0


if __name__ == "__main__":
    sys.exit(main())
