"""The CUDA simulator's threads as greenlets: quick, and strict about barriers.

numba-cuda's simulator runs an OS thread for each CUDA thread and polls them: a barrier takes a millisecond. Here a
block's threads take turns between barriers, forwards and backwards alternately, so that a kernel that needs a barrier
it doesn't have gives something else than the reference; and a barrier that only some threads reach is an error.
"""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet
from numba.cuda.simulator import kernel, kernelapi

_running: "list[Thread]" = []


class Thread:
    """One CUDA thread: what the simulator's ``threading.current_thread()`` is asked for."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], block: Any, place: Any, size: Any) -> None:
        self.blockIdx, self.threadIdx = kernelapi.Dim3(*block), kernelapi.Dim3(*place)
        self.thread_id = place[0] + size[0] * (place[1] + size[1] * place[2])
        self.hub, self.fibre = getcurrent(), greenlet(lambda: self._body(function, args))

    def _body(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        with np.errstate(all="ignore"):  # a GPU doesn't warn
            function(*args)

    def syncthreads(self) -> None:
        self.hub.switch()


def _run(manager: Any, block: Any, *args: Any) -> None:
    threads = [Thread(manager._f, args, block, place, manager._block_dim) for place in np.ndindex(*manager._block_dim)]
    forwards = True
    while True:
        for thread in threads if forwards else reversed(threads):
            _running.append(thread)
            try:
                thread.fibre.switch()
            finally:
                _running.pop()
        ended = [thread.fibre.dead for thread in threads]
        if all(ended):
            return
        assert not any(ended), f"{manager._f.__qualname__}: some threads of block {block} ended while others wait"
        forwards = not forwards


def install() -> None:
    """Let the simulator run its blocks so."""
    kernel.BlockManager.run = _run
    kernelapi.threading = SimpleNamespace(current_thread=lambda: _running[-1], Lock=threading.Lock)
