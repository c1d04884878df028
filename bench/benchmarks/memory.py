"""What a fit takes from the system, and what its steps allocate."""

import tracemalloc
from pathlib import Path

from footprint import grow_apart, needed
from networks import NETWORKS

from . import THREADS


class Growth:
    """Growth of the resident set in a fresh process, over what must be there (see ``footprint.py``)."""

    params = (["mnist", "wide", "large"], ["float32", "bfloat16"])
    param_names = ("network", "dtype")
    unit = "x needed"

    def setup(self, name: str, dtype: str) -> None:
        if not Path("/proc/self/clear_refs").exists():
            raise NotImplementedError("asv skips what needs Linux's /proc")

    def track_peak_growth(self, name: str, dtype: str) -> float:
        """The most that two epochs with Adam hold."""
        return grow_apart("fastbp", name, "adam", THREADS, dtype)["peak"] / needed(NETWORKS[name], "adam", dtype)


class Allocations:
    """What a warm fit allocates: nothing in the kernels; in Python as much however many steps there are."""

    params = (["tiny", "mnist"], [1, THREADS])
    param_names = ("network", "threads")

    def setup(self, name: str, threads: int) -> None:
        self.network = NETWORKS[name]
        self.x, self.y = self.network.data()
        self.model = self.network.model("adam", threads)
        self.fit(2)

    def fit(self, epochs: int) -> None:
        self.model.fit(self.x, self.y, self.network.batch, epochs, verbose=0)

    def track_kernel_allocations_per_step(self, name: str, threads: int) -> float:
        """Allocations by Numba's runtime: 0, or a kernel makes arrays."""
        from numba.core.runtime import _nrt_python as nrt
        from numba.core.runtime import rtsys

        nrt.memsys_enable_stats()
        before = rtsys.get_allocation_stats().alloc
        self.fit(2)
        return (rtsys.get_allocation_stats().alloc - before) / (2 * self.network.steps)

    def track_python_bytes(self, name: str, threads: int) -> int:
        """Most bytes that Python and NumPy hold at once during a fit of two epochs, beyond what was there."""
        return self._peak(2)

    def track_python_bytes_per_step(self, name: str, threads: int) -> float:
        """How much more that is where the fit has twelve epochs instead of two, for each step more."""
        return (self._peak(12) - self._peak(2)) / (10 * self.network.steps)

    def _peak(self, epochs: int) -> int:
        tracemalloc.start()
        self.fit(epochs)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    track_python_bytes.unit = "bytes"
    track_python_bytes_per_step.unit = "bytes"
