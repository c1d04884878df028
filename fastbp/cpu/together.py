"""Runs of several engines, one after the other on one thread and entered once; what like networks need is made once."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import program as pg
from fastbp.cpu.runs import start_chains
from fastbp.objective import Outcome

if TYPE_CHECKING:
    from fastbp.cpu.engine import Engine, _Bound


class Beside:
    """What engines share whose runs follow each other on one thread, while these are prepared.

    A binding (buffers, tables, addresses of rules) of one network serves others of the same layers: only the place of
    the weights differs. It is given back with the runs, for who comes next may be on another thread.
    """

    def __init__(self) -> None:
        self._bound: dict[Any, _Bound] = {}
        self._borrowed: list[tuple[Engine, Any]] = []
        self._made: dict[Any, Any] = {}

    def borrowed(self, engine: "Engine", key: Any) -> "_Bound | None":
        """A like network's binding for the kind of run that `key` names, turned to this one's weights; None without."""
        lent = self._bound.get((engine.program.layers, engine.dtype, key))
        if lent is None:
            return None
        table, run = lent.table.copy(), lent.run.copy()
        table[:, pg.W] += engine.weights.ctypes.data - lent.buffer.ctypes.data
        run[pg.TABLE], run[pg.STOP] = table.ctypes.data, engine.stop_flag.ctypes.data
        self._borrowed.append((engine, key))
        return replace(lent, buffer=engine.weights.view(np.uint8), table=table, run=run)

    def lend(self, engine: "Engine") -> None:
        """Let others use what this engine has bound: not what holds sums or rows of its own, or copies of weights."""
        own = {key: bound for key, bound in engine._bound.items() if (engine, key) not in self._borrowed}
        for key, bound in own.items():
            keeps = bound.metrics[:, pg.TALLY_ROW].any() or bound.entries or bound.penalties is not None
            if not keeps and not engine.program.half:
                self._bound.setdefault((engine.program.layers, engine.dtype, key), bound)

    def made(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all that ask by an equal key."""
        try:
            if key not in self._made:
                self._made[key] = make()
        except TypeError:  # a function of the step may be an object that can't be hashed
            return make()
        return self._made[key]

    def give_back(self) -> None:
        """Take every borrowed binding from its engine."""
        for engine, key in self._borrowed:
            engine._bound.pop(key, None)


def run_together(
    requests: "Sequence[tuple[Engine, dict[str, Any]]]", meanwhile: contextlib.AbstractContextManager[Any]
) -> list[tuple[Outcome, float]]:
    """Runs of several engines, one after the other on this thread, entered once.

    Parameters
    ----------
    requests : engines of one thread, each once, and what `Engine.run` takes
    meanwhile : entered while the kernels run

    Returns
    -------
    list of each one's outcome and seconds
    """
    with contextlib.ExitStack() as locks:
        for engine in sorted((engine for engine, _ in requests), key=id):  # one order for all who hold several
            locks.enter_context(engine.lock)
        chains, beside = [], Beside()
        try:
            for engine, request in requests:
                options = {name: value for name, value in request.items() if name != "held"}
                engine.beside = beside
                chains.append(engine._chain(engine.prepare(**options), request["held"], request["objective"]))
                engine.beside, engine.stop_flag[0] = None, 0
                beside.lend(engine)
            with meanwhile:
                seconds = start_chains(chains)
        finally:
            for engine, _ in requests:
                engine.beside = None
            beside.give_back()
        return [(chain.outcome(None), part) for chain, part in zip(chains, seconds, strict=True)]
