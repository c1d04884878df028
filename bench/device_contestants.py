"""The contestants of the race on a GPU: those of ``contestants.py`` at the strong form they have there.

Number types: "float32" is IEEE single precision everywhere, "tf32" lets matrix products round their factors to TF32,
"bfloat16" means what it does on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from contestants import PACKAGES as ON_CPU
from contestants import Factory, Fastbp, Jax, TorchEager
from networks import Network


class DeviceFastbp(Fastbp):
    """fastbp through its public doors, ``Model.fit`` and ``fit_many``, with ``device="cuda"``."""

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        options = {"precision": "tf32"} if dtype == "tf32" else {}
        kept = "float32" if dtype == "tf32" else dtype
        super().__init__(network, optimizer, x, y, threads, kept, device="cuda", **options)


class DeviceJax(Jax):
    """JAX with a whole epoch under ``lax.scan`` on the GPU; many networks under ``vmap``."""

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        import jax

        if jax.default_backend() != "gpu":
            raise ImportError("this JAX was installed without CUDA")
        # by default JAX computes float32 products in TF32 where the device can
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if dtype == "tf32" else "float32")
        super().__init__(network, optimizer, x, y, threads, dtype)


class DeviceTorch(TorchEager):
    """PyTorch as most people write it, with the fused optimizer, the data on the GPU."""

    device = "cuda"

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        import torch

        if not torch.cuda.is_available():
            raise ImportError("this PyTorch was installed without CUDA")
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        super().__init__(network, optimizer, x, y, threads, dtype)
        self._wait = torch.cuda.synchronize

    def run(self, epochs: int) -> None:
        super().run(epochs)
        self._wait()


class DeviceTorchCompile(DeviceTorch):
    """PyTorch with ``torch.compile(mode="reduce-overhead")``: forward and backward replayed as CUDA graphs."""

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        super().__init__(network, optimizer, x, y, threads, dtype)
        import torch

        loss_of = self._loss_of

        class Net(torch.nn.Module):  # parameters of a module stay where they are; other inputs are copied each step
            def __init__(self, parameters: list[Any]) -> None:
                super().__init__()
                self.arrays = torch.nn.ParameterList(parameters)

            def forward(self, xb: Any, yb: Any) -> Any:
                return loss_of(list(self.arrays), xb, yb)

        torch.compiler.reset()
        self._loss = torch.compile(Net(self._params), mode="reduce-overhead")
        self._begin = torch.compiler.cudagraph_mark_step_begin

    def _step(self, xb: Any, yb: Any) -> None:
        self._begin()
        self._rule.zero_grad()
        self._loss(xb, yb).backward()
        self._rule.step()


class DeviceTorchGraph(DeviceTorch):
    """PyTorch with a whole epoch, fused optimizer included, captured by hand in one CUDA graph that is replayed."""

    capturable = True

    def __init__(
        self, network: Network, optimizer: str, x: np.ndarray, y: np.ndarray, threads: int, dtype: str
    ) -> None:
        super().__init__(network, optimizer, x, y, threads, dtype)
        import torch

        start = [p.detach().clone() for p in self._params]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is made at the first steps must be there before the capture
            for xb, yb in self._batches[:3]:
                self._step(xb, yb)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.no_grad():
            for p, w in zip(self._params, start, strict=True):
                p.copy_(w)
            for state in self._rule.state.values():
                for value in state.values():
                    if torch.is_tensor(value):
                        value.zero_()
        self._rule.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for xb, yb in self._batches:
                self._step(xb, yb)

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self._graph.replay()
        self._wait()


CONTESTANTS: dict[str, Factory] = {
    "fastbp": DeviceFastbp,
    "jax": DeviceJax,
    "torch": DeviceTorch,
    "torch.compile": DeviceTorchCompile,
    "torch.graph": DeviceTorchGraph,
}
PACKAGES = {
    "fastbp": (*ON_CPU["fastbp"], "numba-cuda"),
    "jax": (*ON_CPU["jax"], "jax-cuda13-plugin", "jax-cuda12-plugin"),
    "torch": ON_CPU["torch"],
    "torch.compile": ON_CPU["torch"],
    "torch.graph": ON_CPU["torch"],
}
