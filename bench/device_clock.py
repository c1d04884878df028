"""Time and peak of a GPU: CUDA events around whole calls, and large matrix products by the machine's own library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbp.cuda import cublas, presence
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
    """What NVIDIA's library reaches on one large product, through PyTorch or fastbp's bindings; None without both."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.gflops: float | None = None
        self._clock = DeviceClock()
        self._product: Callable[[], Any] | None = None

    def measure(self) -> None:
        """Measure once more."""
        if self._product is None:
            self._product = self._by_torch() or self._by_fastbp()
            if self._product is None:
                return
            self._product()
        product, count = self._product, PRODUCTS[self.dtype]
        seconds = self._clock(lambda: [product() for _ in range(count)])
        self.gflops = max(self.gflops or 0.0, 2 * count * EDGE**3 / seconds / 1e9)

    def _by_torch(self) -> Callable[[], Any] | None:
        try:
            import torch
        except ImportError:
            return None
        if not torch.cuda.is_available():
            return None
        kind = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
        a, b = (torch.randn(EDGE, EDGE, device="cuda", dtype=kind) for _ in range(2))

        def product() -> Any:
            torch.set_float32_matmul_precision("high" if self.dtype == "tf32" else "highest")
            return a @ b

        return product

    def _by_fastbp(self) -> Callable[[], Any] | None:
        library = cublas.library()
        if library is None:
            return None
        numbers = np.random.default_rng(0).standard_normal(EDGE * EDGE, dtype=np.float32)
        if self.dtype == "bfloat16":
            numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        arrays = cuda.device_array(EDGE * EDGE, np.float32), cuda.to_device(numbers), cuda.to_device(numbers)
        shape = cublas.Shape(*[EDGE] * 6, precision=self.dtype)
        launch = library.bind(shape, cublas.Addresses(*map(cublas.address_of, arrays)))
        if launch is None:
            return None

        def product() -> tuple[Any, ...]:
            launch(0)
            return arrays  # as long as the product is used

        return product
