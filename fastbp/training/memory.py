"""Floor 3: what a fit takes of memory, part by part, and what the machine can still give."""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.cpu import engine as cpu
from fastbp.cpu.tile import geometry
from fastbp.layout.graph import LATE, SPLIT, update_mode
from fastbp.layout.objective import EVALUATION_ROWS
from fastbp.layout.plan import lay_out
from fastbp.optimizers import Optimizer
from fastbp.program import LayerSpec, Program

RUNTIME = 59 << 20
"""What loading the kernels takes, nearly all of it Numba's own tables: on a Zen 5 58 MiB for 64-32-10 and 60
to 61 where more kernels are used, on an Intel machine with an earlier version 51 to 57, all of them in the cache."""
FREELY = 64 << 20
"""Less than that is taken without a look at what the machine has."""
UNLIMITED = 1 << 60
MIB = 1 << 20


@dataclass(frozen=True)
class Needs:
    """Bytes that a fit takes besides the user's own arrays.

    Attributes
    ----------
    parts : bytes by what they are for
    """

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    def table(self) -> list[str]:
        """A line for each part that takes something, and one for all."""
        rows = [*((name, size) for name, size in self.parts.items() if size), ("together", self.total)]
        width = max(len(name) for name, _ in rows)
        return [f"{name.ljust(width)}  {size / MIB:10,.1f} MiB" for name, size in rows]


def training(
    program: Program, threads: int, batch: int, optimizer: Optimizer, *, staged: int = 0, validates: bool = False
) -> Needs:
    """What a fit takes whose kernels are compiled already.

    Parameters
    ----------
    program : the network
    threads : as many as may be used
    batch : rows of a step
    optimizer : its arrays stand beside the weights
    staged : bytes of the data's checked copies (see ``staging.staging_bytes``)
    validates : whether rows are held out, which are evaluated in a workspace of their own
    """
    weights, lanes = program.parameter_bytes, program.tiles.lanes

    def workspace(rows: int, backward: bool) -> int:
        rows = program.thin_rows(rows, backward) or pg.round_up(rows, lanes)
        return lay_out(program, rows, 1, backward=backward).nbytes

    rows = program.thin_rows(batch) or pg.round_up(batch, lanes)
    update = update_mode(program, optimizer.late, batch if optimizer.group == 1 else 0)
    plan = lay_out(program, rows, 1, backward=True, update=update)
    written = (plan.slabs > 1 or update in (LATE, SPLIT)) and optimizer.group == 1
    held = workspace(EVALUATION_ROWS, False) if validates else 0
    if plan.nbytes + held > cpu.most_workspaces(weights * (1 + optimizer.slots)):
        held = max(0, held - plan.nbytes)  # the two take turns
    return Needs(
        {
            "parameters": weights,
            "bfloat16 copies": program.copy_bytes,
            f"{optimizer.name} moments": optimizer.slots * weights,
            "activations and their gradients": plan.nbytes + threads * sum(cpu.scratch_bytes(plan)),
            "gradient (written out)": weights if written else 0,
            "snapshot of the parameters": 0 if weights > cpu.SNAPSHOT_BYTES else weights,
            "validation": held,
            "data, checked copies": staged,
            "kernels and Numba": RUNTIME,
        }
    )


def network(layers: Sequence[LayerSpec], dtype: np.dtype, half: bool) -> Program:
    """The network as the engine lays it out; takes no memory."""
    return Program(layers, dtype, geometry(dtype.itemsize), half)


def small(program: Program, batch: int, optimizer: Optimizer, staged: int) -> bool:
    """Whether a fit certainly takes less than `FREELY`."""
    size, most = program.dtype.itemsize, max(batch, program.tiles.samples)
    numbers = 6 * most * sum(layer.fan_in + 1 + layer.fan_out for layer in program.layers)
    return (4 + optimizer.slots) * program.parameter_bytes + numbers * size + staged < FREELY


def refuse(growth: int, free: int | None, needs: Needs, remedies: Sequence[str]) -> None:
    """Raise MemoryError, with the table of what is needed and what helps, where `growth` is more than is free."""
    if free is None or growth <= free:
        return
    lines = "\n".join(f"  {line}" for line in needs.table())
    helps = "; ".join(f"({number}) {remedy}" for number, remedy in enumerate(remedies, 1))
    raise MemoryError(
        f"this takes about {growth / MIB:,.0f} MiB more memory than the process holds now, and {free / MIB:,.0f} MiB "
        f"are free:\n{lines}\nWhat helps: {helps}"
    )


# ---------------------------------------------------------------- what is free


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the least of what the system, its control groups and its limits leave.

    None where nothing is known. Swap is not counted: a fit that swaps doesn't come to an end.
    """
    return min((max(0, free) for free in _bounds(root)), default=None)


def _bounds(root: Path) -> Iterator[int]:
    if sys.platform == "win32":
        yield from _windows()
        return
    if (free := _field(root / "proc/meminfo", "MemAvailable:")) is not None:
        yield 1024 * free
    elif "SC_PHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield from _groups(root)
    import resource

    for kind, field in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):  # ulimit -v, ulimit -d
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and (used := _field(root / "proc/self/status", field)) is not None:
            yield limit - 1024 * used


def _windows() -> Iterator[int]:
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
            (name, ctypes.c_uint64) for name in ("total", "free", "pages", "free_pages", "virtual", "free_virtual", "_")
        ]

    status = Status(length=ctypes.sizeof(Status))
    kernel32: Any = vars(ctypes)["windll"].kernel32
    if kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        yield min(status.free, status.free_pages)


def _groups(root: Path) -> Iterator[int]:
    """What each control group above this process leaves, in both versions of the interface."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, files, prefix = root / "sys/fs/cgroup", ("memory.max", "memory.current"), ""
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            files, prefix = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"
        else:
            continue
        inner = Path(path.lstrip("/"))
        for group in (base / inner, *(base / parent for parent in inner.parents)):
            limit, used = (_text(group / name).strip() for name in files)
            if limit.isdigit() and used.isdigit() and int(limit) < UNLIMITED:
                # the cache of files is counted as used, and given up when memory is wanted
                cached = (_field(group / "memory.stat", f"{prefix}{kind}_file") for kind in ("active", "inactive"))
                yield int(limit) - int(used) + sum(size or 0 for size in cached)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the beginning of a line."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return None
