"""Time and peak of a GPU: CUDA events around whole calls, and large matrix products by the machine's own library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbp.cuda import presence
from fastbp.cuda.device import cuda

EDGE = 8192
"""Rows and columns of the product that the peak is measured by."""
PRODUCTS = {"float32": 2, "tf32": 10, "bfloat16": 20}
"""So many of them take some 40 ms on an H200 by its data sheet."""


def device_name() -> str:
    """Return the GPU's name with its driver in words.

    Raises
    ------
    ImportError, RuntimeError
        Where fastbp can't use one, with the reason.
    """
    presence.require()
    found = presence.report()
    return f"{found['device']}, driver for CUDA {found['driver']}"


class DeviceClock:
    """Seconds between two events on the device, around work that begins and ends with nothing in flight."""

    def __init__(self) -> None:
        self._begin, self._end = cuda.event(), cuda.event()

    def __call__(self, work: Callable[[], Any]) -> float:
        cuda.synchronize()
        self._begin.record()
        work()
        cuda.synchronize()
        self._end.record()
        self._end.synchronize()
        return float(cuda.event_elapsed_time(self._begin, self._end)) / 1e3


class DevicePeak:
    """What cuBLAS reaches on one large product through PyTorch; None where PyTorch isn't there."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.gflops: float | None = None
        self._clock = DeviceClock()
        self._factors: tuple[Any, Any] | None = None

    def measure(self) -> None:
        """Measure once more."""
        try:
            import torch
        except ImportError:
            return
        if not torch.cuda.is_available():
            return
        torch.set_float32_matmul_precision("high" if self.dtype == "tf32" else "highest")
        kind = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
        if self._factors is None:
            a, b = (torch.randn(EDGE, EDGE, device="cuda", dtype=kind) for _ in range(2))
            self._factors = a, b
            a @ b
        a, b = self._factors
        count = PRODUCTS[self.dtype]
        seconds = self._clock(lambda: [a @ b for _ in range(count)])
        self.gflops = max(self.gflops or 0.0, 2 * count * EDGE**3 / seconds / 1e9)
