"""Launches by the real numba-cuda, for ``scripts/gpu_standin/run.py``: right ones, and faults that it must find.

    python scripts/gpu_standin/run.py -m gpu tests/launched.py -k right

No ``test_*.py``: only ``test_gpu_standin.py`` names it.
"""

from typing import Any

import numpy as np
import pytest
import reference
from cuda.bindings import driver
from helpers import error, inputs, make, targets

import fastbp as fb
from fastbp.cuda import device, presence
from fastbp.cuda.device import cuda, kernel
from fastbp.cuda.narrow import one_block

pytestmark = pytest.mark.gpu
THREADS = 8


def test_right_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several launches; the later ones are replayed as graphs."""
    monkeypatch.setattr(one_block, "MOST_WORK", 0)
    model = make([260, 3], output="tanh", device="cuda")
    model.compile(fb.SGD(0.05), "mse")
    x, y = inputs(90, 260), targets("mean_squared_error", 90, 3)  # so many inputs are summed by two blocks
    began = [weights.astype(np.float64) for weights in model.get_weights()]
    wanted, losses = reference.train(
        began, ["tanh"], "mean_squared_error", reference.SGD(0.05), x.astype(np.float32), y, batch_size=2, epochs=2
    )
    history = model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-5)
    for got, weights in zip(model.get_weights(), wanted, strict=True):
        assert error(got, weights) < 1e-5


@kernel(threads=THREADS)
def turn(out, a, waits):
    """out[i] = a[-1 - i], by shared memory; `waits`: of so many threads that reach the barrier between the two."""
    shared = cuda.shared.array(0, out.dtype)
    i = cuda.threadIdx.x
    shared[i] = a[i]
    if i < waits:
        cuda.syncthreads()
    out[i] = shared[cuda.blockDim.x - 1 - i]


def turned(waits: int, threads: int = THREADS, places: int = THREADS) -> np.ndarray:
    a = np.arange(threads, dtype=np.float32)
    out = cuda.to_device(np.zeros_like(a))
    device.launch(turn, (1,), threads, 0, 4 * places, out, cuda.to_device(a), waits)
    return np.asarray(out.copy_to_host())


def test_right_barriers() -> None:
    np.testing.assert_array_equal(turned(THREADS), np.arange(THREADS)[::-1])


def test_right_words_of_a_full_memory() -> None:
    with pytest.raises(MemoryError, match=r"GPU.*MiB free of [\d,]+\)") as caught, presence.in_words():
        cuda.device_array(1 << 50, np.uint8)
    assert "batch" in str(caught.value)


def test_fault_a_barrier_is_missing() -> None:
    np.testing.assert_array_equal(turned(0), np.arange(THREADS)[::-1])


def test_fault_some_threads_do_not_reach_a_barrier() -> None:
    turned(THREADS // 2)


def test_fault_shared_memory_is_too_small() -> None:
    turned(THREADS, places=THREADS - 1)


def test_fault_more_threads_than_compiled_for() -> None:
    turned(4 * THREADS, 4 * THREADS, 4 * THREADS)


def test_fault_a_copy_is_too_long() -> None:
    there, here = cuda.to_device(np.zeros(100, np.float32)), np.zeros(101, np.float32)
    driver.cuMemcpyDtoH(here.ctypes.data, address(there), here.nbytes)


def test_fault_memory_is_freed_twice() -> None:
    there = cuda.to_device(np.zeros(4))
    driver.cuMemFree(address(there))  # and again when the array goes
    driver.cuMemFree(address(there))


def address(there: Any) -> int:
    return int(there.__cuda_array_interface__["data"][0])
