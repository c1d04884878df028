"""Which of a launch's blocks is the last one: it finishes what the others leave in memory, instead of another launch.

Tickets are integers in device memory, 0 between launches. Which block draws the last one differs from run to run; what
it finds there, and in which order it adds it up, doesn't.
"""

from types import FunctionType
from typing import Any

from fastbp.cuda.device import cuda, inlined, package, simulated


def available() -> bool:
    """Whether kernels can draw tickets: numba-cuda-mlir (0.6) compiles no fences."""
    return package() == "numba_cuda"


def _is_last(tickets: Any, place: Any, blocks: Any, share: Any) -> Any:
    cuda.threadfence()  # what this thread has written stands before its block's ticket
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        share[0] = 0
        if cuda.atomic.add(tickets, place, 1) == blocks - 1:
            tickets[place] = 0
            share[0] = 1
    cuda.syncthreads()
    last = share[0] != 0
    cuda.threadfence()  # and is read behind the last one
    cuda.syncthreads()
    return last


def is_last_in(names: dict[str, Any]) -> Any:
    """A function for kernels, which all threads of a block call: whether all other blocks have come this far before.

    f(tickets, place, blocks, share): `blocks` draw from tickets[place]; share is shared memory, whose first number is
    overwritten

    names : the globals of the kernels' module: the simulator replaces `cuda` there alone
    """
    return inlined(FunctionType(_is_last.__code__, names, "is_last") if simulated() else _is_last)
