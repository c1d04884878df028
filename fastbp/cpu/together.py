"""Runs of many engines, one thread each: a thread prepares and books them, others run what waits in line.

Only the thread that prepares enters Python: two that take turns there keep each other waiting and its data moving
between the cores.
"""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numba.core import types

from fastbp import program as pg
from fastbp._jit import Kernel, yield_address
from fastbp._vector import call_yield, fetch_add, load_acquire, pause, store_int, ticks
from fastbp.cpu.runs import Chain, run_chain
from fastbp.cpu.watch import clock
from fastbp.layout.objective import Outcome

if TYPE_CHECKING:
    from fastbp.cpu.engine import Engine, _Bound

SPINS = 2000
PATIENCE = 6000
"""Looks at an empty line, the first `SPINS` of them without letting others run, before a thread sleeps: some 2 ms."""
NAP = 1e-3
"""Seconds between looks at a line that stays empty."""
KEPT = 64
KEPT_BYTES = 16 << 20
"""Most bindings that wait for the next network like theirs, and bytes of their workspaces."""
PUBLISHED, CLAIMED, CLOSED, DONE, PLACES = range(0, 5 * pg.LINE, pg.LINE)
ROW, TICKS, LANDED = 2 * pg.LINE, 56, 64


class Beside:
    """What engines share that are prepared by one thread: what was made for one serves others.

    A binding (buffers, tables, addresses of rules) of a network that is through goes to the next of the same layers:
    only the place of the weights differs.
    """

    def __init__(self) -> None:
        self._free: dict[Any, list[_Bound]] = {}
        self._used: dict[Engine, list[Any]] = {}
        self._made: dict[Any, Any] = {}

    def borrowed(self, engine: "Engine", key: Any) -> "_Bound | None":
        """A like network's binding for the kind of run that `key` names, turned to this one's weights; None without."""
        self._used.setdefault(engine, []).append(key)
        kept = self._free.get((engine.program.layers, engine.dtype, key))
        if not kept:
            return None
        bound, buffer = kept.pop(), engine.weights.view(np.uint8)
        moved = buffer.ctypes.data - bound.buffer.ctypes.data
        bound.table[:, pg.W] += moved
        if bound.plan.apart is not None:
            bound.run[pg.APART] -= moved
        bound.run[pg.STOP] = engine.stop_flag.ctypes.data
        return replace(bound, buffer=buffer)

    def take_back(self, engine: "Engine") -> None:
        """Let others use what this engine was bound by, which is through: not what holds rows of its own, or copies."""
        for key in self._used.pop(engine, ()):
            bound = engine._bound.pop(key, None)
            if bound is None or bound.entries or engine.program.half:
                continue
            if bound.metrics[:, pg.TALLY_ROW].any():
                continue
            kept = [other for bounds in self._free.values() for other in bounds]
            room = sum(len(other.workspace) for other in kept) + len(bound.workspace) <= KEPT_BYTES
            if len(kept) >= KEPT or not room:
                self._free.clear()
            self._free.setdefault((engine.program.layers, engine.dtype, key), []).append(bound)

    def made(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all that ask by an equal key."""
        try:
            if key not in self._made:
                if len(self._made) >= KEPT:
                    self._made.clear()
                self._made[key] = make()
        except TypeError:  # a function of the step may be an object that can't be hashed
            return make()
        return self._made[key]


@functools.cache
def serve_kernel() -> Kernel:
    """Serve a line, by its address: run what waits there, with a number drawn by each who serves.

    ticket : the number held from an earlier call, or -1
    patience : looks at an empty line before the call is over
    most : runs before it is over
    Returns the number that is still held, -1 where the line is closed or enough was run.
    """

    def serve(line: int, ticket: int, patience: int, most: int, other: int) -> int:
        while most > 0:
            if ticket < 0:
                ticket = fetch_add(line + CLAIMED, 1)
            looks = 0
            while load_acquire(line + PUBLISHED) <= ticket:
                if load_acquire(line + CLOSED) and load_acquire(line + PUBLISHED) <= ticket:
                    return -1
                if looks >= patience:
                    return ticket
                looks += 1
                pause()
                if looks > SPINS:
                    call_yield(other)
            row = line + PLACES + pg.LINE + ROW * (ticket % load_acquire(line + PLACES))
            begin = ticks()
            run_chain(row)
            store_int(row + TICKS, ticks() - begin)
            fetch_add(row + LANDED, 1)
            fetch_add(line + DONE, 1)
            ticket, most = -1, most - 1
        return -1

    return Kernel(serve, types.int64(*[types.int64] * 5))


@functools.cache
def counter_kernel() -> Kernel:
    """Add to a counter that other threads read, and return what it was."""

    def add(address: int, amount: int) -> int:
        return fetch_add(address, amount)

    return Kernel(add, types.int64(types.int64, types.int64))


@functools.cache
def wait_kernel() -> Kernel:
    """Wait, for so many looks, until a counter has grown to a number."""

    def wait(address: int, number: int, patience: int, other: int) -> int:
        looks = 0
        while load_acquire(address) < number and looks < patience:
            looks += 1
            pause()
            if looks > SPINS:
                call_yield(other)
        return looks

    return Kernel(wait, types.int64(*[types.int64] * 4))


@dataclass(eq=False)
class _Waiting:
    """A chain that is in line or runs, with who wants to have it back."""

    token: Any
    engine: "Engine"
    chain: Chain
    since: float


class Line:
    """Runs of engines that wait for threads. One thread, the clerk, adds them, helps and takes them back; any number
    of others serve.

    Parameters
    ----------
    threads : that serve or help; more than so many runs may wait

    Attributes
    ----------
    beside : what the engines share
    """

    def __init__(self, threads: int) -> None:
        places = 4 * threads + 4
        self._memory = pg.aligned(PLACES + pg.LINE + ROW * places).view(np.int64)
        self._rows = self._memory[(PLACES + pg.LINE) // 8 :].reshape(places, -1)
        self._memory[PLACES // 8] = places
        self._address, self._places, self._ahead = self._memory.ctypes.data, places, 2 * threads
        self._waiting: dict[int, _Waiting] = {}
        self._next, self._ticket = 0, -1
        self.beside = Beside()
        self._add, self._serve = counter_kernel().call, serve_kernel().call
        self._clock = clock().call
        self._begun = time.perf_counter(), self._clock()

    @property
    def empty(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._waiting

    @property
    def unclaimed(self) -> bool:
        """Whether something waits for a thread."""
        return self._next > self._memory[CLAIMED // 8] or (0 <= self._ticket < self._next)

    @property
    def full(self) -> bool:
        """Whether enough waits."""
        return self._next - self._memory[CLAIMED // 8] >= self._ahead or self._next - self._places in self._waiting

    def add(self, engine: "Engine", request: dict[str, Any], token: Any) -> bool:
        """Prepare a run of an engine of one thread, by what `Engine.run` takes, and put it in line.

        Returns
        -------
        False where someone else has the engine, who may wait for one that is in line: come again when it is empty
        """
        if not engine.lock.acquire(blocking=self.empty):
            return False
        try:
            options = {name: value for name, value in request.items() if name not in ("held", "ending")}
            engine.beside, engine.stop_flag[0] = self.beside, 0
            around = request["held"], request["objective"], request.get("ending")
            chain = engine._chain(engine.prepare(**options), *around)
        except BaseException:
            engine.lock.release()
            raise
        finally:
            engine.beside = None
        row = self._rows[self._next % self._places]
        row[:] = 0
        row[: len(chain.row)] = chain.row
        self._waiting[self._next] = _Waiting(token, engine, chain, time.perf_counter())
        engine.settle = functools.partial(self._settle, self._next)
        self._next += 1
        self._add(self._address + PUBLISHED, 1)
        return True

    def back(self) -> Iterator[tuple[Any, Outcome, float]]:
        """What has been run: its token, outcome and seconds."""
        for ticket, one in list(self._waiting.items()):
            row = self._rows[ticket % self._places]
            if not self._landed(ticket):
                continue
            del self._waiting[ticket]
            now, count = time.perf_counter(), self._clock()
            spent, rate = int(row[TICKS // 8]), (count - self._begun[1]) / max(now - self._begun[0], 1e-9)
            one.engine.settle = None
            one.engine.lock.release()
            yield one.token, one.chain.outcome(None), spent / rate if spent and rate else now - one.since

    def _landed(self, ticket: int) -> bool:
        return bool(self._add(self._rows[ticket % self._places].ctypes.data + LANDED, 0))

    def _settle(self, ticket: int) -> None:
        """Wait until a run is done, for the clerk wants its engine, in a callback of another network."""
        while not self._landed(ticket):
            if self.unclaimed:
                self.help()
            else:
                self.wait()

    def through(self, engine: "Engine") -> None:
        """An engine won't come again: others may use what was made for it."""
        self.beside.take_back(engine)

    def help(self) -> None:
        """Run one of those that wait, if one does."""
        self._ticket = self._serve(self._address, self._ticket, 0, 1, yield_address())

    def wait(self) -> None:
        """Wait a moment until one of those that run is done."""
        done = self._next - len(self._waiting) + 1
        if wait_kernel().call(self._address + DONE, done, PATIENCE, yield_address()) >= PATIENCE:
            time.sleep(NAP)

    def serve(self) -> None:
        """Run what is in line until it is closed."""
        ticket, patience = -1, PATIENCE
        while True:
            ticket = self._serve(self._address, ticket, patience, 1 << 62, yield_address())
            if ticket < 0:
                return
            patience = 0
            time.sleep(NAP)

    def close(self) -> None:
        """Nothing more will be added."""
        self._add(self._address + CLOSED, 1)
