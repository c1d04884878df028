"""Rows that don't fit the device: a run over them in blocks of steps, each of which is uploaded when it is due.

A block holds the rows of some batches in the order in which they are due, so that the steps over it are those of the
whole run: the same batches, the same noise, the same bits of the weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp._jit import helper
from fastbp.cuda import arrays, presence
from fastbp.data.device_arrays import OnDevice
from fastbp.data.sparse import SparseRows
from fastbp.formulas import counters
from fastbp.layout.objective import Outcome
from fastbp.layout.request import Request

if TYPE_CHECKING:
    from fastbp.cuda.engine import Prepared

FREELY = 64 << 20
"""Bytes that are uploaded without a look at what is free."""
SHARE = 0.4
"""Of what is free that a block may take: the one before it may still be there."""


@helper
def _ordered(first: Any, end: Any, n: Any, key: Any) -> Any:
    """The rows at the places from `first` to `end` of the order that a key names."""
    bits = np.int64(1)
    while (np.int64(1) << bits) < n:
        bits += 1
    found = np.empty(end - first, np.int64)
    for i in range(first, end):
        found[i - first] = counters.shuffled(i, n, bits, key)
    return found


@helper
def _key(seed: Any, epoch: Any) -> Any:
    return counters.mix(np.int64(seed) ^ counters.mix(np.int64(epoch)))


def size(array: Any) -> int:
    """Bytes that an array takes on the device, beside what is there."""
    if array is None or isinstance(array, OnDevice):
        return 0
    return sum(part.nbytes for part in array.parts) if isinstance(array, SparseRows) else int(array.nbytes)


def rows_at_once(prepared: "Prepared") -> int | None:
    """How many rows a block may have; None where all of them fit."""
    engine, asked = prepared.engine, prepared.asked
    used = [*prepared.arrays, asked.result, *asked.kept]
    if sum(map(size, used)) <= FREELY or asked.given is not None:
        return None
    needed = sum(size(array) for array in used if not engine.has_sent(array))
    prepared.ready.bound  # noqa: B018 (what is free is what the step's own buffers leave)
    room = presence.memory()
    if room is None or needed <= room[0] - FREELY:
        return None
    x, *others = prepared.arrays
    count = len(x)
    of_a_row = max(1, -(-sum(size(array) for array in (x, *others[:1], *others[2:])) // count))
    return max(1, int(SHARE * room[0]) // of_a_row)


def run(prepared: "Prepared", most: int) -> Outcome:
    """What `Engine.run` does, block by block.

    Parameters
    ----------
    prepared : the whole run
    most : rows of a block, if a batch has no more
    """
    engine = prepared.engine
    total = sum(map(size, prepared.arrays)) / 2**30
    engine.say_once(
        f"the data ({total:,.1f} GiB) doesn't fit the GPU's memory beside the rest: rows are uploaded in blocks, in "
        "each epoch anew, which takes longer"
    )
    sums, done, kept_rows, diverged = prepared.sums.copy(), 0, 0, ""
    for block in _blocks(prepared.asked, most):
        if engine.stop_flag[0]:
            break
        inner = engine.prepared(block.request(prepared.asked, sums[block.epoch], done, kept_rows))
        inner.start()
        inner.ready.forget()
        outcome = inner.outcome(None)
        sums[block.epoch] = outcome.sums[0]
        done, diverged, kept_rows = done + outcome.steps, outcome.diverged, kept_rows + len(block.places)
        if diverged or outcome.steps < block.steps:
            break
    return Outcome(done, diverged, sums)


@dataclass(frozen=True)
class _Block:
    """Some batches of one epoch.

    Attributes
    ----------
    epoch : the run's
    places : in the epoch's order of rows
    rows : which rows of the data these are
    steps : batches
    """

    epoch: int
    places: range
    rows: Any
    steps: int

    def request(self, asked: Request, carried: np.ndarray, done: int, kept_rows: int) -> Request:
        """The run over it; `done` steps of the whole run, and as many rows of those that are kept, came before."""
        noise, scales, result = asked.noise, asked.penalty_scales, asked.result
        return replace(
            asked,
            x=taken(asked.x, self.rows),
            y=taken(asked.y, self.rows),
            rows=None,
            weights=taken(asked.weights, self.rows),
            present=taken(asked.present, self.rows),
            first_step=0,
            steps=self.steps,
            shuffle=False,
            carried=carried.copy(),
            updates=asked.updates + (done if noise is None else 0),
            noise=None if noise is None else noise + done,
            penalty_scales=None if scales is None else scales[done : done + self.steps],
            kept=tuple(place[kept_rows : kept_rows + len(self.places)] for place in asked.kept),
            result=None if result is None else result[self.places.start : self.places.stop],
        )


def _blocks(asked: Request, most: int) -> Iterator[_Block]:
    """The run's steps, cut at the ends of epochs; a batch that is cut short stays with the one before it."""
    count, chosen, batch, per_epoch, first = asked.count, asked.rows, asked.batch, asked.per_epoch, asked.first_step
    step, end, at_once = first, first + asked.length, max(1, most // batch)
    while step < end:
        epoch, within = divmod(step, per_epoch)
        stop = min(end - epoch * per_epoch, per_epoch, within + at_once)
        if stop == per_epoch - 1 and count % batch and end - epoch * per_epoch >= per_epoch:
            stop = per_epoch
        places = range(within * batch, min(count, stop * batch))
        rows: Any = slice(places.start, places.stop)
        if asked.shuffle:
            key = _key(np.int64(asked.seed), np.int64(epoch))
            rows = _ordered(places.start, places.stop, count, key)
        if chosen is not None:
            rows = (chosen[epoch - first // per_epoch] if chosen.ndim == 2 else chosen)[rows]
        yield _Block(epoch - first // per_epoch, places, rows, stop - within)
        step += stop - within


def taken(array: Any, rows: Any) -> Any:
    """Some rows of an array, a view where they are a run."""
    if array is None or isinstance(rows, slice):
        return None if array is None else array[rows]
    if isinstance(array, OnDevice):
        return arrays.gathered(array, rows)
    if not isinstance(array, SparseRows):
        return array[rows]
    lengths = array.starts[rows + 1] - array.starts[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(array.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
    return SparseRows(starts, array.columns[entries], array.values[entries], array.width)
