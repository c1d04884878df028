"""Two ways to start the workers of a run: plain Python threads, or one ``prange`` of Numba's threading layer.

Both call the same compiled worker by its address, so they give the same bits. Threads are the default: they need no
threading layer (none to abort, none that dies in a forked child), and any number of fits may run at once.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numba

from fastbp._jit import OPTIONS, Kernel, launch_lock
from fastbp._signals import HeldBack
from fastbp._vector import call_worker

_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    """This process's threads: a forked child makes its own."""
    pid = os.getpid()
    if pid not in _pools:
        _pools.clear()
        _pools[pid] = ThreadPoolExecutor(4 * (os.cpu_count() or 1) + 8, thread_name_prefix="fastbp")
    return _pools[pid]


def by_threads(worker: Kernel, run: int, threads: int) -> None:
    """Workers 1.. on pool threads, worker 0 here. Whoever is still queued when worker 0 is through isn't needed."""
    call = worker.call
    with HeldBack():  # the buffers must outlive the workers
        others = [_pool().submit(call, run, i) for i in range(1, threads)]
        try:
            call(run, 0)
        finally:
            wait([other for other in others if not other.cancel()])
    for other in others:
        if not other.cancelled():
            other.result()


@functools.cache
def _parallel() -> Callable[[int, int, int], None]:
    @numba.njit(parallel=True, **OPTIONS)  # type: ignore[untyped-decorator]
    def launch(address: int, run: int, threads: int) -> None:
        for i in numba.prange(threads):
            call_worker(address, run, i)

    return launch  # type: ignore[no-any-return]


def by_prange(worker: Kernel, run: int, threads: int) -> None:
    """All workers in one parallel region."""
    with launch_lock:
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        try:
            _parallel()(worker.address(), run, threads)
        finally:
            numba.set_num_threads(before)


LAUNCHERS: dict[str, Callable[[Kernel, int, int], None]] = {"threads": by_threads, "prange": by_prange}


def in_background(function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    """Run on a pool thread, so that the caller can be interrupted."""
    return _pool().submit(function, *arguments)
