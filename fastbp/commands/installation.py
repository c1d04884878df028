"""Floor 5: this machine and installation in words and figures."""

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from fastbp import _checks, _jit


def versions() -> dict[str, str]:
    """What computes here, with its versions."""
    import fastbp

    found = {name: metadata.version(name) for name in ("numpy", "numba", "llvmlite")}
    return {"fastbp": fastbp.__version__, "python": platform.python_version(), **found}


def machine() -> dict[str, Any]:
    """What decides how fast it computes."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "vector_bits": 8 * _jit.vector_bytes(),
    }


def cpu_name() -> str:
    """The processor's name, as its maker writes it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def kernels() -> dict[str, Any]:
    """Where compiled kernels are kept, and which of them are there."""
    from fastbp.cpu import catalogue

    folder = _jit.cache_folder()
    if folder is None:
        return {"folder": None, "bytes": 0, "older_bytes": 0, "kept": {}}
    kept = {}
    for dtype in _checks.DTYPES:
        (_, loop), *rules = catalogue.kernels(dtype, everything=True)
        kept[dtype] = {"loop": loop.kept, "rules": sum(rule.kept for _, rule in rules), "of": len(rules)}
    older = sum(_bytes_in(other) for other in folder.parent.iterdir() if other.is_dir() and other != folder)
    return {"folder": str(folder), "bytes": _bytes_in(folder), "older_bytes": older, "kept": kept}


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
