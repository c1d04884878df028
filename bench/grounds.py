"""Where a race is held: who takes part on a device, and how its name, its time and its peak are taken."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, Protocol

from networks import DEVICE_NETWORKS, NETWORKS, Network

Clock = Callable[[Callable[[], Any]], float]


class Peak(Protocol):
    """The most that the machine computes, measured again through the run; the best counts."""

    dtype: str
    gflops: float | None

    def measure(self) -> None:
        """Measure once more."""


@dataclass(frozen=True)
class Ground:
    """What a race needs to know of the place where it is held.

    Parameters
    ----------
    contestants : dict
        Makers of the contestants, by name.
    packages : dict
        What each of them is installed as.
    networks : dict
        The table of networks that are raced here.
    dtypes : tuple of str
        The number types that can be asked for.
    machine : str
        The machine's name and system.
    clock : callable
        Runs a function and returns its seconds.
    peak : callable
        Makes the `Peak` of a number type.
    judged : int or None
        Rows that the loss is computed over, the first ones; None for all.
    """

    contestants: Mapping[str, Any]
    packages: Mapping[str, tuple[str, ...]]
    networks: Mapping[str, Network]
    dtypes: tuple[str, ...]
    machine: str
    clock: Clock
    peak: Callable[[str], Peak]
    judged: int | None = None


def settle(limit: float = 0.5) -> None:
    """Wait until nobody's idle threads use the processor any more, at most `limit` seconds.

    OpenMP and BLAS threads spin for a while after their last work and would steal time from the next contestant.
    """
    end = perf_counter() + limit
    while perf_counter() < end:
        before = process_time()
        sleep(0.004)
        if process_time() - before < 0.0005:
            return


def by_processor(work: Callable[[], Any]) -> float:
    """Run the work when the processor has come to rest, and return its seconds."""
    settle()
    start = perf_counter()
    work()
    return perf_counter() - start


def machine() -> str:
    """Return the processor's name and the system in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"{name}, {platform.system()} {platform.machine()}"


class ProcessorPeak:
    """The processor's FMA peak: register-only multiply-adds on all threads."""

    def __init__(self, threads: int, dtype: str) -> None:
        self.threads, self.dtype = threads, dtype
        self.gflops: float | None = None

    def measure(self) -> None:
        """Measure once more."""
        import fastbp as fb

        settle()
        self.gflops = max(self.gflops or 0.0, fb.peak_gflops(self.dtype, self.threads))


def cpu(threads: int) -> Ground:
    """The processor with so many threads."""
    from contestants import CONTESTANTS, PACKAGES

    return Ground(
        contestants=CONTESTANTS,
        packages=PACKAGES,
        networks=NETWORKS,
        dtypes=("float32", "float64", "bfloat16"),
        machine=f"{machine()}, {threads} threads",
        clock=by_processor,
        peak=lambda dtype: ProcessorPeak(threads, dtype),
    )


def cuda(threads: int) -> Ground:
    """The current NVIDIA GPU.

    Raises
    ------
    ImportError, RuntimeError
        Where there is none that fastbp can use, with the reason.
    """
    import device_contestants as guests
    from device_clock import DeviceClock, DevicePeak, device_name

    return Ground(
        contestants=guests.CONTESTANTS,
        packages=guests.PACKAGES,
        networks=DEVICE_NETWORKS,
        dtypes=("float32", "tf32", "bfloat16"),
        machine=device_name(),
        clock=DeviceClock(),
        peak=DevicePeak,
        judged=2048,
    )


GROUNDS = {"cpu": cpu, "cuda": cuda}
