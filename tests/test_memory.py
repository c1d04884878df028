"""Kernels allocate nothing, and touch nothing beyond their buffers: every buffer is laid against a forbidden page."""

import ctypes
import gc
import itertools
import mmap
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import pytest
from helpers import ROOT, make, python, targets
from test_layers import MIXED, made, rows_for

import fastbp as fb
from fastbp import model as model_module
from fastbp import program as program_module
from fastbp.cpu import engine as engine_module
from fastbp.cpu.engine import Engine
from fastbp.layout.plan import Plan
from fastbp.program import round_up
from fastbp.training import own_loop as own_loop_module

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="guard pages are made with Linux's mprotect")

# ---------------------------------------------------------------- nothing is allocated


def trained(steps: int, threads: int) -> None:
    """One run of so many steps, through everything that a step can do."""
    model = make([20, 300, 7], "gelu", "softmax", threads=threads)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = np.ones((steps * 64, 20), np.float32), np.zeros(steps * 64, np.int64)
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    assert model._engine is not None and model._engine.serial(64) == (threads == 1)
    model.evaluate(x, y, batch_size=64)
    model.predict(x, batch_size=64)
    model.gradients(x, y, inputs=True)


@pytest.fixture
def numba_memory() -> Iterator[Callable[[], tuple[int, int]]]:
    """(allocations, releases) by Numba's runtime so far, counted from here on."""
    from numba.core.runtime import _nrt_python as nrt
    from numba.core.runtime import rtsys

    before = nrt.memsys_stats_enabled()
    nrt.memsys_enable_stats()
    yield lambda: rtsys.get_allocation_stats()[:2]
    if not before:
        nrt.memsys_disable_stats()


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_allocate_nothing(numba_memory: Callable[[], tuple[int, int]], threads: int) -> None:
    trained(2, threads)
    before = numba_memory()
    trained(200, threads)
    assert numba_memory() == before


def test_the_count_of_allocations_counts(numba_memory: Callable[[], tuple[int, int]]) -> None:
    @numba.njit
    def allocate(n: int) -> float:
        return np.ones(n).sum()

    allocate(3)
    before = numba_memory()
    allocate(3)
    assert numba_memory() == (before[0] + 1, before[1] + 1)


def peak_of(function: Callable[[], Any]) -> int:
    """Most bytes that Python and NumPy hold at once during the call, beyond what they held before."""
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        function()
        return tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()


def test_a_serial_run_needs_no_more_memory_for_more_steps() -> None:
    model = make([6, 9, 3], "tanh", "linear", threads=1)
    model.compile("adam", "mse")
    engine, objective = model._engine, model._scoring().objective
    assert engine is not None
    x, y = np.ones((4000, 6), np.float32), np.ones((4000, 3), np.float32)

    def run(steps: int, **options: Any) -> int:
        return peak_of(lambda: engine.run(x, y, batch=1, steps=steps, objective=objective, **options))

    run(1)
    few, many = run(10), run(4000)
    assert many <= few + 1024
    run(1, optimizer=model.optimizer)
    few, many = run(1000, optimizer=model.optimizer), run(4000, optimizer=model.optimizer)
    assert many - few <= 3000 * 320  # the coefficients of a step, in float64, in the dtype and on their way


def test_a_long_fit_and_many_batch_sizes_keep_nothing() -> None:
    model = make([6, 9, 3], "tanh", "linear", threads=1)
    model.compile("adam", "mse")
    x, y = np.ones((300, 6), np.float32), np.ones((300, 3), np.float32)

    def use(rounds: int) -> None:
        model.fit(x, y, batch_size=7, epochs=rounds, verbose=0)
        model.history = None
        for batch in range(1, rounds):
            model.predict(x, batch_size=16 * batch)
            model.train_on_batch(x[:batch], y[:batch])

    tracemalloc.start()
    try:
        use(200)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        use(200)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - held < 32 << 10  # 400 calls: less than 100 bytes each
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- nothing is touched beyond a buffer

PAGE = mmap.PAGESIZE


def forbid(address: int) -> None:
    """Whoever touches the page at the address dies of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(nbytes: int, side: str, border: int = 64) -> np.ndarray:
    """Zeroed bytes that end (up to `border`) at a forbidden page, or begin right after one."""
    size = round_up(max(nbytes, 1), border)
    room = round_up(size, PAGE)
    pages = mmap.mmap(-1, room + PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    forbid(address + room if side == "end" else address)
    return np.frombuffer(pages, np.uint8, nbytes, room - size if side == "end" else PAGE)


def copy(array: np.ndarray, side: str) -> np.ndarray:
    """The array at a forbidden page, to the item."""
    placed = guarded(array.nbytes, side, array.itemsize).view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


class GuardedNumpy:
    """NumPy whose new arrays stand at forbidden pages: what the engine makes beside `aligned`."""

    def __init__(self, side: str) -> None:
        self.side = side

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name not in ("array", "ascontiguousarray", "empty", "empty_like", "zeros"):
            return function
        return lambda *args, **kwargs: copy(np.asarray(function(*args, **kwargs)), self.side)


def take(plan: Any, nbytes: int, side: str) -> int:
    """`Plan._take`, with a page to forbid behind (or before) each buffer of the workspace."""
    size = round_up(nbytes, 64)
    offset = round_up(plan.nbytes + size, PAGE) - size if side == "end" else round_up(plan.nbytes, PAGE) + PAGE
    vars(plan).setdefault("forbidden", []).append(offset + size if side == "end" else offset - PAGE)
    plan.nbytes = round_up(offset + size, PAGE) + PAGE
    return offset


@contextmanager
def guards(side: str) -> Iterator[None]:
    """Every buffer that kernels are given stands at a forbidden page, and rows are asked for ahead of any table."""
    make_bound = Engine._make

    def make_forbidding(self: Engine, plan: Plan, *rest: Any, **named: Any) -> Any:
        bound = make_bound(self, plan, *rest, **named)
        for offset in vars(plan)["forbidden"]:
            forbid(bound.workspace.ctypes.data + offset)
        return bound

    with pytest.MonkeyPatch.context() as patch:
        for module in (engine_module, model_module, own_loop_module, program_module):
            patch.setattr(module, "np", GuardedNumpy(side))
        for module in (engine_module, own_loop_module):
            patch.setattr(module, "aligned", lambda nbytes, used=None: guarded(nbytes, side))
        patch.setattr("fastbp.cpu.binding.FAR_TABLE", 0)
        patch.setattr(Plan, "_take", lambda plan, nbytes: take(plan, nbytes, side))
        patch.setattr(Engine, "_make", make_forbidding)
        yield


SHAPES = [
    *itertools.product(
        ([1, 1], [5, 17], [17, 5, 1], [1, 97, 5], [97, 17, 97], [31, 1, 130, 15], [16, 48, 16]), (1, 7, 33, 200)
    ),
    *(([97, 517, 33], batch) for batch in (1, 7, 33)),  # with two threads cut at layers
    *(([130, 517, 141], batch) for batch in (1, 40, 129)),  # by AMX tiles where there are some
    ([31, 1, 130, 15], 3200),  # in slabs
]
OUTPUT = {
    "mean_squared_error": "linear",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}
SETTINGS = list(
    itertools.product(("float32", "float64", "bfloat16"), ("tanh", "relu", "gelu"), OUTPUT, (True, False), (1, 2))
)


def cases() -> Iterator[tuple[Any, ...]]:
    """Each shape with 7 of the 108 settings, another 7 each time: not all with all, but each with many."""
    settings = itertools.cycle(SETTINGS)
    for widths, batch in SHAPES:
        for dtype, hidden, loss, bias, threads in itertools.islice(settings, 7):
            yield widths, batch, dtype, hidden, loss, bias, threads


def everything(
    widths: list[int], batch: int, dtype: str, hidden: str, loss: str, bias: bool, threads: int, side: str = ""
) -> list[Any]:
    """What fit, evaluate, predict and gradients give for data of an odd number of rows."""
    rng = np.random.default_rng(11)
    number = "float32" if dtype == "bfloat16" else dtype
    x, y = rng.standard_normal((batch + 3, widths[0])).astype(number), targets(loss, batch + 3, widths[-1])
    y = y.astype(np.int64 if y.ndim == 1 else number)
    if side:
        x, y = copy(x, side), copy(y, side)
    model = make(widths, hidden, OUTPUT[loss], bias=bias, dtype=dtype, threads=threads)
    model.compile("adam" if bias else fb.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"] if bias else None)
    history = model.fit(x, y, batch_size=batch, epochs=2, verbose=0)
    gradients, dx = model.gradients(x, y, inputs=True)
    model.apply_gradients(gradients)
    found = [model.evaluate(x, y, batch_size=batch), *gradients, dx, *model.get_weights(), model.predict(x, batch)]
    found += [model.predict(x), model.predict(x[-1:])]  # by the short way, where the network is small
    return [history.history, *(np.array(value) for value in found)]


UPDATES: dict[str, Any] = {
    "adam": fb.Adam(0.01),
    "sgd": fb.SGD(0.1),
    "clipped": fb.SGD(0.1, global_clipnorm=0.1, gradient_accumulation_steps=2),
}


def layered_cases() -> Iterator[tuple[Any, ...]]:
    """Each network of the tests of layers with 4 of the 72 settings, another 4 each time."""
    settings = list(itertools.product(("float32", "float64", "bfloat16"), (1, 7, 33, 200), UPDATES, (1, 2)))
    order = itertools.cycle(settings[place * 29 % len(settings)] for place in range(len(settings)))
    for name in MIXED:
        for setting in itertools.islice(order, 4):
            yield name, *setting


def layered(name: str, dtype: str, batch: int, update: str, threads: int, side: str = "") -> list[Any]:
    """What a network of the tests of layers gives for data of an odd number of rows."""
    number = "float32" if dtype == "bfloat16" else dtype
    x, y = (
        rows_for(name, batch + 3).astype(number),
        np.random.default_rng(3).standard_normal((batch + 3, 3)).astype(number),
    )
    if side:
        x, y = copy(x, side), copy(y, side)
    model = made(name, dtype=dtype, threads=threads)
    model.compile(UPDATES[update], "mean_squared_error")
    history = model.fit(x, y, batch_size=batch, epochs=2, verbose=0)
    gradients, dx = model.gradients(x, y, inputs=True)
    model.apply_gradients(gradients)
    found = [model.evaluate(x, y, batch_size=batch), *gradients, dx, *model.get_weights(), model.predict(x, batch)]
    found += [model.predict(x), model.predict(x[-1:]), model.predict(x, noise=True), model.predict(x, upto=0)]
    return [history.history, *(np.array(value) for value in found)]


def run_guarded(side: str, chosen: list[tuple[Any, ...]], do: Callable[..., list[Any]]) -> None:
    """Each case at forbidden pages, then in plain memory: the same bits."""
    engine_module.SERIAL_WORK = 0.0  # two threads whatever the size
    for case in chosen:
        print(case, file=sys.stderr, flush=True)  # the last one, where the process dies
        with guards(side):
            found = do(*case, side=side)
        plain = do(*case)
        assert found[0] == plain[0]
        for a, b in zip(found[1:], plain[1:], strict=True):
            np.testing.assert_array_equal(a, b)


@linux_only
@pytest.mark.parametrize("side", ["begin", "end"])
def test_kernels_stay_within_their_buffers(side: str) -> None:
    python(f"import test_memory as t; t.run_guarded({side!r}, list(t.cases()), t.everything)")


@linux_only
@pytest.mark.parametrize("side", ["begin", "end"])
def test_the_kernels_of_layers_stay_within_their_buffers(side: str) -> None:
    python(f"import test_memory as t; t.run_guarded({side!r}, list(t.layered_cases()), t.layered)")


@linux_only
@pytest.mark.parametrize(("side", "place"), [("begin", -1), ("end", 128)])
@pytest.mark.parametrize("access", ["read", "write"])
def test_a_forbidden_page_bites(side: str, place: int, access: str) -> None:
    """The guard itself: one byte beyond a guarded buffer kills the process."""
    call = "ctypes.string_at(at, 1)" if access == "read" else "ctypes.memset(at, 0, 1)"
    code = f"import ctypes, test_memory; a = test_memory.guarded(128, {side!r}); at = a.ctypes.data + {place}; {call}"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGSEGV, done.stderr
