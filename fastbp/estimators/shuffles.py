"""Floor 5: the orders that scikit-learn's solvers see the rows in, drawn from NumPy's generator as it draws them."""

import ctypes
import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from fastbp._jit import Kernel, intrinsic
from fastbp._vector import load_int, store_int

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
    """Shuffles rows in place so many times, each order from the one before: `RandomState.shuffle`'s own loop.

    Its block of int64: addresses of a bit generator's function and of its state, of the rows, how many, and where each
    order is copied to in turn, or 0.
    """

    def orders(block: int, epochs: int) -> int:
        word, state, order, last = load_int(block), load_int(block + 8), load_int(block + 16), load_int(block + 24) - 1
        lines = load_int(block + 32)
        most = 1
        while most < last:
            most = 2 * most + 1
        for epoch in range(epochs):
            i, mask = last, most
            while i > 0:  # no branch on what is drawn: half of them would be mispredicted
                mask >>= int(i <= mask >> 1)
                j = call_word(word, state) & mask
                taken = int(j <= i)
                j = order + 8 * (i + taken * (j - i))
                here, there = load_int(order + 8 * i), load_int(j)
                store_int(order + 8 * i, there)
                store_int(j, here)
                i -= taken
            if lines:
                line = lines + 8 * (last + 1) * epoch
                for i in range(last + 1):
                    store_int(line + 8 * i, load_int(order + 8 * i))
        return 0

    return Kernel(orders, types.int64(types.int64, types.int64), seconds=0.3)


class Orders:
    """The rows that the epochs of a fit see, in their orders.

    Parameters
    ----------
    train : (M,) int64 numbers of the rows, fewer than 2**32
    random : shuffles them as ``RandomState.shuffle`` would, and has then drawn as much; None: they stay in order

    Attributes
    ----------
    order : (M,) int64, the rows as the last epoch saw them
    """

    def __init__(self, train: Array, random: np.random.RandomState | None) -> None:
        self.order, self._bits = np.array(train, np.int64), None if random is None else random._bit_generator
        self._block = np.zeros(5, np.int64)
        if self._bits is not None:
            word = ctypes.cast(self._bits.ctypes.next_uint32, ctypes.c_void_p).value or 0
            self._block[:4] = word, self._bits.ctypes.state_address, self.order.ctypes.data, len(train)

    def drawn(self, epochs: int) -> Array:
        """The rows (epochs, M) of the next epochs."""
        if self._bits is None:
            return self.coming(epochs)
        lines = np.empty((epochs, len(self.order)), np.int64)
        self._block[4] = lines.ctypes.data
        with self._bits.lock:
            kernel().call(self._block.ctypes.data, epochs)
        return lines

    def coming(self, epochs: int) -> Array:
        """`order` as the rows (epochs, M) of epochs before each of which `before` is called."""
        return np.broadcast_to(self.order, (epochs, len(self.order)))

    def before(self) -> tuple[int, int]:
        """The function that is called before each epoch and its block, see `Ending`: only where nobody else draws."""
        if self._bits is None:
            return 0, 0
        self._block[4] = 0
        return kernel().address(), self._block.ctypes.data
