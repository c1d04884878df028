"""Many small networks at once: one launch trains them side by side, a block of threads each."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastbp.cuda.blocks import rows_at_once
from fastbp.cuda.bound import constants_of
from fastbp.cuda.compiling import make_ready
from fastbp.cuda.device import cuda, simulated
from fastbp.cuda.engine import Engine, Prepared
from fastbp.cuda.narrow import one_block
from fastbp.cuda.narrow.code import FIRSTS
from fastbp.cuda.narrow.net import Network, Shared
from fastbp.cuda.presence import in_words
from fastbp.cuda.step import Launch
from fastbp.data.device_arrays import place_of
from fastbp.data.sparse import SparseRows
from fastbp.layout.objective import Outcome

SHARED_OF_ALL = 227 << 10
"""Bytes of a multiprocessor's shared memory that the blocks on it share (of an H100 or H200)."""


@in_words()
def run_together(
    requests: Sequence[tuple[Engine, dict[str, Any]]], meanwhile: contextlib.AbstractContextManager[Any]
) -> list[tuple[Outcome, float]]:
    """Runs of several engines on one device: small networks of one shape side by side, others one after the other.

    Parameters
    ----------
    requests : engines, each once, and what `Engine.run` takes
    meanwhile : entered while the kernels run

    Returns
    -------
    list of each one's outcome and seconds; those that ran side by side took the same ones
    """
    with contextlib.ExitStack() as locks:
        for engine in sorted((engine for engine, _ in requests), key=id):  # one order for all who hold several
            locks.enter_context(engine.lock)
        prepared = []
        for engine, request in requests:
            request.pop("held", None)
            prepared.append(engine.prepare(**request))
            engine.stop_flag[0] = 0
        seconds, outcomes = [0.0] * len(prepared), dict[int, Outcome]()
        with meanwhile:
            for net, places in _groups(prepared):
                begin = time.perf_counter()
                if net is None:
                    outcomes[places[0]] = prepared[places[0]].whole()
                else:
                    _Side(net, [prepared[place] for place in places]).run()
                    outcomes |= {place: prepared[place].outcome(None) for place in places}
                for place in places:
                    seconds[place] = time.perf_counter() - begin
        return [(outcomes[place], part) for place, part in enumerate(seconds)]


def _groups(prepared: Sequence[Prepared]) -> list[tuple[Network | None, list[int]]]:
    """The places of runs that one launch can do, with their network; of any other run its own place."""
    alone: list[tuple[Network | None, list[int]]] = []
    found: dict[Any, tuple[Network | None, list[int]]] = {}
    for place, one in enumerate(prepared):
        ready, keeps = one.ready, one.asked.result is not None or bool(one.asked.kept)
        sparse = isinstance(one.arrays[0], SparseRows)
        if sparse or one_block.reason(ready.layout, ready.objective, ready.optimizer, one.targets, keeps):
            alone.append((None, [place]))
            continue
        assert ready.optimizer is not None
        threads = one_block.threads(many=True)
        net = one_block.network(ready.layout, ready.objective, ready.optimizer, one.targets, threads)
        x, y, rows, weights, present = one.arrays
        data = *(place_of(array) for array in (x, y, weights, present)), rows is None
        found.setdefault((net, data), (net, []))[1].append(place)
    whole: list[tuple[Network | None, list[int]]] = []
    for shape, places in found.values():
        if rows_at_once(prepared[places[0]]) is None:
            whole.append((shape, places))
        else:
            alone += [(None, [place]) for place in places]
    return [*whole, *alone]


class _Side:
    """Runs of networks of one shape over one data set, side by side: what each has of its own stands in one array."""

    def __init__(self, net: Network, runs: Sequence[Prepared]) -> None:
        self._runs = runs
        shared = Shared(net).bytes
        blocks = 1 if simulated() else max(1, min(one_block.MANY_BLOCKS, SHARED_OF_ALL // (shared + 1024)))
        self._kernel, self._shared = one_block.written(net, blocks)
        self._threads, first = net.threads, runs[0]
        self._bases = np.zeros((len(runs), len(FIRSTS)), np.int64)
        self._bases[:, -1] = [run.steps for run in runs]
        tables = self._joined(0, [run.table for run in runs])
        params = self._joined(1, [run.params() for run in runs])
        constants = self._joined(2, [constants_of(run.ready.layout, run.ready.objective) for run in runs])
        coefficients = self._joined(3, [run.coefficients for run in runs])
        sums = self._joined(4, [run.sums for run in runs])
        chosen = [run.arrays[2] for run in runs]
        rows = np.zeros(1, np.int64) if chosen[0] is None else self._joined(5, chosen)
        self._own = [cuda.to_device(array) for array in (tables, params, sums)]
        table, weights, total = self._own
        data = first.data()
        self._arguments = (
            *(cuda.to_device(self._bases.reshape(-1)), table, weights, cuda.to_device(constants)),
            *(cuda.to_device(coefficients), total, data.x, data.y, cuda.to_device(rows), data.weights, data.present),
        )

    def _joined(self, column: int, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """All of them behind each other, each different one once; their places go into the bases."""
        places: dict[int, int] = {}
        parts, end = [], 0
        for index, array in enumerate(arrays):
            if id(array) not in places:
                places[id(array)] = end
                parts.append(array.reshape(-1))
                end += array.size
            self._bases[index, column] = places[id(array)]
        return np.concatenate(parts)

    def run(self) -> None:
        """Launch the steps, wait for them, and give each run what came of it."""
        grid, longest = len(self._runs), max(run.steps for run in self._runs)
        launch = Launch(self._kernel, (grid,), self._threads, (1, *self._arguments), self._shared)
        make_ready([launch], any(run.engine.shown for run in self._runs))
        for first in range(0, longest, one_block.STEPS_AHEAD):
            if any(run.engine.stop_flag[0] for run in self._runs):
                break
            if first:
                self._bases[:, -1] = [max(0, run.steps - first) for run in self._runs]
                self._arguments[0].copy_to_device(self._bases.reshape(-1))
            most = min(one_block.STEPS_AHEAD, longest - first)
            replace(launch, arguments=(most, *self._arguments))(0)
        tables, params, sums = (array.copy_to_host() for array in self._own)
        for run, bases in zip(self._runs, self._bases, strict=True):
            table, weights, _, _, total, *_ = bases
            run.take(
                params[weights : weights + run.params().size],
                tables[table : table + run.table.size],
                sums[total : total + run.sums.size],
            )
