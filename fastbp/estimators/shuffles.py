"""Floor 5: the orders that scikit-learn's solvers see the rows in, drawn from NumPy's generator as it draws them."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from fastbp._jit import Kernel, intrinsic

Array = NDArray[Any]


@intrinsic
def call_word(typingctx: Any, function: Any, state: Any) -> Any:
    """The next 32 random bits, by the address of a bit generator's function and of its state."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(64)])
        word = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return builder.zext(word, ir.IntType(64))

    return types.int64(types.int64, types.int64), emit


@functools.cache
def kernel() -> Kernel:
    """Writes the orders of some epochs, each a shuffle of the one before: `RandomState.shuffle`'s own loop."""

    def orders(word: int, state: int, order: Any, lines: Any) -> int:
        last = len(order) - 1
        most = 1
        while most < last:
            most = 2 * most + 1
        for line in lines:
            i, mask = last, most
            while i > 0:  # no branch on what is drawn: half of them would be mispredicted
                mask >>= int(i <= mask >> 1)
                j = call_word(word, state) & mask
                taken = int(j <= i)
                j = i + taken * (j - i)
                order[i], order[j] = order[j], order[i]
                i -= taken
            for i in range(last + 1):
                line[i] = order[i]
        return 0

    row, rows = types.Array(types.int64, 1, "C"), types.Array(types.int64, 2, "C")
    return Kernel(orders, types.int64(types.int64, types.int64, row, rows), seconds=0.5)


def orders(train: Array, random: np.random.RandomState | None) -> Callable[[int], Array]:
    """A function that gives the rows (E, M) of the next E epochs.

    Parameters
    ----------
    train : (M,) int64 numbers of the rows, fewer than 2**32
    random : shuffles them as ``RandomState.shuffle`` would, and has then drawn as much; None: they stay in order
    """
    if random is None:
        return lambda epochs: np.broadcast_to(train, (epochs, len(train)))
    bits = random._bit_generator
    word = ctypes.cast(bits.ctypes.next_uint32, ctypes.c_void_p).value
    order = np.array(train, np.int64)

    def drawn(epochs: int) -> Array:
        lines = np.empty((epochs, len(train)), np.int64)
        with bits.lock:
            kernel().entry(word, bits.ctypes.state_address, order, lines)
        return lines

    return drawn
