"""Two ways to start the workers of a run: plain Python threads, or one ``prange`` of Numba's threading layer.

Both call the same compiled worker by its address, so they give the same bits. Threads are the default: they need no
threading layer (none to abort, none that dies in a forked child), and any number of fits may run at once.
"""

import contextlib
import ctypes
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


@functools.cache
def _core_here() -> Callable[[], int] | None:
    """Says which logical core the calling thread is on, where the system tells and lets threads choose; else None."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core: Callable[[], int] | None = getattr(ctypes.PyDLL(None), "sched_getcpu", None)
    return core


def leave_core(core: int) -> None:
    """Move the calling thread off a core, where it is on it and may use others; what it may use stays as it was.

    A pool thread often wakes up on the core of the one that woke it. The system would part them too, but only after
    milliseconds, when a short run is over.
    """
    here = _core_here()
    if here is None or here() != core:
        return
    with contextlib.suppress(OSError):  # a sandbox may forbid it, and the cores allowed may change meanwhile
        allowed = os.sched_getaffinity(0)
        if others := allowed - {core}:
            try:
                os.sched_setaffinity(0, others)
            finally:
                os.sched_setaffinity(0, allowed)


def _call_apart(call: Callable[[int, int], int], run: int, me: int, core: int) -> None:
    leave_core(core)
    call(run, me)


def by_threads(worker: Kernel, run: int, threads: int) -> None:
    """Workers 1.. on pool threads, worker 0 here. Whoever is still queued when worker 0 is through isn't needed."""
    call, here = worker.call, _core_here()
    core = -1 if here is None else here()
    with HeldBack():  # the buffers must outlive the workers
        others = [_pool().submit(_call_apart, call, run, i, core) for i in range(1, threads)]
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
