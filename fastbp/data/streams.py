"""Floor 2: sources -> blocks of rows in memory, read ahead by a thread of their own; the feeds that hand them on."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any, Generic, TypeVar

import numpy as np

from fastbp.data.feeds import Passes, Piece
from fastbp.data.sources import Rows, Source, Stored, Stream, StreamError, shape_of
from fastbp.data.sparse import is_sparse, staged_bytes
from fastbp.data.staging import Sample

BLOCK_BYTES = 32 << 20
"""Rows in memory at a time; two blocks more are read ahead."""
CHUNK_BYTES = 1 << 20
"""Rows that follow each other on disk and stay together when blocks are shuffled."""
BLOCK_SECONDS = 0.05
"""A block of batches from an iterator is handed on after so long, full or not."""
AHEAD = 2
READ: Rows = (None, None, None)
"""What a block keeps of its rows when they are staged."""
ENDLESS = 1 << 62

Stage = Callable[[Rows, str], Sample]
"""Rows as they were read -> checked for the kernels; the text says in errors which they are."""
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """Rows for some steps.

    Attributes
    ----------
    rows : as they were read
    count : how many
    batch : rows of a step; the last may have fewer
    name : which they are, for errors
    last : whether an epoch of unknown length ends with them
    seed, shuffle : the order of the rows in it
    parts : number and first row of each batch of an iterator in it; or of each run of rows on disk the first row there
        and the first row here
    """

    rows: Rows
    count: int
    batch: int
    name: str = ""
    last: bool = False
    seed: int = 0
    shuffle: bool = False
    parts: tuple[tuple[int, int], ...] = ()

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return -(-self.count // self.batch)

    def part(self, first: int, stop: int, **changed: Any) -> "Block":
        """Some of its rows."""
        x, y, weights = (None if part is None else part[first:stop] for part in self.rows)
        return replace(self, rows=(x, y, weights), count=stop - first, **changed)


class Prefetch(Generic[T]):
    """An iterator that a thread is ahead of.

    Attributes
    ----------
    waited : seconds that were spent waiting for it
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self.waited = items, 0.0
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fastbp reader", daemon=True)
        self._thread.start()

    def _put(self, item: T | None, error: BaseException | None) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put((item, error), timeout=0.1)
                return

    def _work(self) -> None:
        try:
            for item in self._items:
                self._put(item, None)
                if self._closed.is_set():
                    return
        except BaseException as error:  # whatever a user's iterator raises is raised where it is read
            self._put(None, error)
        else:
            self._put(None, None)

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        start = time.perf_counter()
        while True:
            with contextlib.suppress(queue.Empty):
                item, error = self._queue.get(timeout=0.1)  # Ctrl-C is noticed in between
                break
        self.waited += time.perf_counter() - start
        if error is not None:
            self.close()
            raise error
        if item is None:
            self.close()
            raise StopIteration
        return item

    def close(self) -> None:
        """Let the thread end; what it has read ahead is dropped."""
        self._closed.set()


# ---------------------------------------------------------------- blocks


def _bytes(part: Any) -> int:
    if is_sparse(part):
        return staged_bytes(part, part.dtype)
    return getattr(part, "nbytes", 0) or np.asarray(part).nbytes


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    if is_sparse(parts[0]):
        from scipy.sparse import vstack

        return vstack(parts, "csr")
    return np.concatenate([np.asarray(part) for part in parts])


def stored_blocks(source: Stored, rows: int, key: list[int], shuffle: bool, start: int = 0) -> Iterator[Block]:
    """The blocks of one pass over rows on disk.

    Parameters
    ----------
    source : the rows
    rows : of a block; the last may have fewer
    key : names the order of the chunks and of the rows in each block
    shuffle : whether the chunks come in an order of their own; else they are the rows as they stand
    start : the first block wanted
    """
    total, chunk = len(source), max(1, rows // max(1, BLOCK_BYTES // CHUNK_BYTES))
    chunks = source.chunks(chunk) if shuffle else [(0, total)]
    if shuffle:
        order = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(len(chunks))
        chunks = [chunks[i] for i in order]
    ends = np.cumsum([stop - first for first, stop in chunks])
    for index in range(start, -(-total // rows)):
        low, high = index * rows, min(total, (index + 1) * rows)
        read: list[Rows] = []
        parts = []
        i = int(np.searchsorted(ends, low, "right"))
        while low < high:
            first, stop = chunks[i]
            begin = first + low - (int(ends[i]) - (stop - first))
            taken = min(high - low, stop - begin)
            read.append(source.read(begin, begin + taken))
            parts.append((begin, low - index * rows))
            low, i = low + taken, i + 1
        x, y, weights = (_joined(list(columns)) for columns in zip(*read, strict=True))
        seed = int(np.random.SeedSequence([*key, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        name = f"block {index + 1}" if shuffle else f"rows {index * rows:,} to {high - 1:,}"
        count = high - index * rows
        yield Block((x, y, weights), count, rows, name, seed=seed, shuffle=shuffle, parts=tuple(parts))


def stream_blocks(batches: Iterator[Rows], batch: int | None, first: int = 1) -> Iterator[Block]:
    """The blocks of an iterator's batches, the last of which says so.

    Parameters
    ----------
    batches : what it gives; where it raises, the whole steps before that come first
    batch : rows of a step; None where each batch is one
    first : number of the first batch, for errors
    """
    held: list[Rows] = []
    parts: list[tuple[int, int]] = []
    rows, size, nbytes, begun = 0, batch, 0, 0.0

    def block(count: int, last: bool) -> Block:
        nonlocal held, parts, rows, nbytes
        x, y, weights = (_joined(list(columns)) for columns in zip(*held, strict=True))
        assert size is not None
        inside = tuple(part for part in parts if part[1] < count)
        numbers = inside[0][0], inside[-1][0]
        name = f"batch {numbers[0]}" if numbers[0] == numbers[1] else f"batches {numbers[0]} to {numbers[1]}"
        whole = Block((x, y, weights), rows, size, name, last, parts=inside)
        parts = [(n, max(0, at - count)) for (n, at), (_, end) in pairwise([*parts, (0, rows)]) if end > count]
        held, nbytes, rows = [], 0, rows - count
        if rows:
            left = whole.part(count, whole.count).rows
            held, nbytes = [left], _bytes(left[0])
            return whole.part(0, count)
        return whole

    try:
        for number, item in enumerate(batches, first):
            full = nbytes >= BLOCK_BYTES or (held and time.perf_counter() - begun > BLOCK_SECONDS)
            if batch is None:
                if held and (full or shape_of(item[0])[0] != size):
                    yield block(rows, False)
                size = shape_of(item[0])[0]
            elif full and rows >= batch:
                yield block(rows // batch * batch, False)
            if not held:
                begun = time.perf_counter()
            held.append(item)
            parts.append((number, rows))
            rows += shape_of(item[0])[0]
            nbytes += _bytes(item[0])
    except Exception:
        if size and rows >= size:
            yield block(rows // size * size, False)
        raise
    if held:
        yield block(rows, True)


def fitting(block: Block, stage: Stage) -> Iterator[tuple[Block, Sample]]:
    """A block of an iterator's batches for the kernels.

    Where a batch in it doesn't fit, the whole steps before that batch, and then the error, which names it.
    """
    try:
        sample = stage(block.rows, block.name)
    except (TypeError, ValueError):
        for (number, first), (_, stop) in pairwise([*block.parts, (0, block.count)]):
            try:
                stage(block.part(first, stop).rows, f"batch {number}")
            except (TypeError, ValueError):
                if before := first // block.batch * block.batch:
                    fit = block.part(0, before, last=False)
                    yield fit, stage(fit.rows, fit.name)
                raise
        raise
    yield block, sample


def fitting_rows(block: Block, stage: Stage, source: Stored) -> Sample:
    """A block of rows on disk for the kernels; where a row doesn't fit the error names it by its number there."""
    try:
        return stage(block.rows, block.name)
    except (TypeError, ValueError):
        low, high = 0, block.count
        while high - low > 1:
            middle = (low + high) // 2
            try:
                stage(block.part(low, middle).rows, block.name)
            except (TypeError, ValueError):
                high = middle
            else:
                low = middle
        first, at = max((part for part in block.parts if part[1] <= low), key=lambda part: part[1])
        number = source.numbers[first + low - at]
        row = f"row {number:,}"
        try:
            stage(block.part(low, high).rows, row)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace(f" ({row})[0", f"[{number}")) from None
        raise


# ---------------------------------------------------------------- feeds


class StoredFeed(Passes):
    """Rows on disk, a block in memory at a time.

    Parameters
    ----------
    source : the rows
    stage : makes them what the kernels read
    row_bytes : of a row in memory
    options : those of `Passes`; a shuffle is of chunks, and of the rows in a block
    """

    def __init__(self, source: Stored, stage: Stage, row_bytes: int, **options: Any) -> None:
        super().__init__(len(source), **options)
        self._source, self._stage, self.spans_epochs = source, stage, False
        self._rows = max(1, BLOCK_BYTES // (row_bytes * self.batch)) * self.batch
        self._blocks: Prefetch[tuple[Block, Sample]] | None = None
        self._block: tuple[Block, Sample] | None = None
        self._place = 0  # steps before the block
        self._waited = 0.0

    def _read(self, done: int) -> Iterator[tuple[Block, Sample]]:
        """The blocks from the one that step `done` is in."""
        per_block = self._rows // self.batch
        passes, steps = divmod(done, self.per_pass)
        for number in count(self.first_pass + passes):
            for block in stored_blocks(self._source, self._rows, [self.seed, number], self.shuffle, steps // per_block):
                sample = fitting_rows(block, self._stage, self._source)
                yield replace(block, batch=self.batch, rows=READ), sample
            steps = 0

    def piece(self, epoch: int, step: int) -> Piece:
        """What comes next after `step` steps of the fit's epoch `epoch` (from 0)."""
        done = epoch * self.steps + step
        if self._blocks is None:
            self._blocks = Prefetch(self._read(done))
            passes, steps = divmod(done, self.per_pass)
            per_block = self._rows // self.batch
            self._place = passes * self.per_pass + steps // per_block * per_block
        while self._block is None or done >= self._place + self._block[0].steps:
            if self._block is not None:
                self._place += self._block[0].steps
            self._block = next(self._blocks)
        block, sample = self._block
        first = done - self._place
        return Piece(sample, self.batch, first, block.steps - first, block.seed, block.shuffle)

    def waited(self) -> float:
        """Seconds spent waiting for rows so far."""
        return 0.0 if self._blocks is None else self._blocks.waited

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._blocks is not None:
            self._blocks.close()

    def identity(self) -> dict[str, Any]:
        """What the rows are, as plain data."""
        return self._source.identity


class StreamFeed:
    """Batches of an iterator, those that come next in memory.

    Parameters
    ----------
    source : the batches
    stage : makes them what the kernels read
    batch : rows of a step; None where each batch is one
    steps : steps of an epoch; None where an epoch is all that one iterator gives
    epochs : of the fit: no more is read than they need

    Attributes
    ----------
    batch : rows of a step, of the first one where they differ
    """

    spans_epochs = seeks = shuffle = False

    def __init__(self, source: Stream, stage: Stage, *, batch: int | None, steps: int | None, epochs: int) -> None:
        self._source, self._stage, self._cut, self.steps, self._epochs = source, stage, batch, steps, epochs
        self.batch = batch or source.first_rows
        self.per_pass = steps
        self._blocks: Prefetch[tuple[Block, Sample | None]] | None = None
        self._epoch = self._begun = 0  # the running epoch, and the steps before it
        self._known: list[tuple[int, int, int]] = []  # of its blocks: step and rows before, rows of a step
        self._end, self._rows, self._ended = 0, 0, False
        self._sample: Sample | None = None
        self._skip = 0

    @property
    def length(self) -> int:
        """Steps of the running epoch; endless until its last block is there."""
        if self.steps is not None:
            return self.steps
        return self._end - self._begun if self._ended else ENDLESS

    def _read(self) -> Iterator[tuple[Block, Sample | None]]:
        """All blocks, unstaged as far as they were done before."""
        done = 0
        for block in self._all():
            skipped = done + block.steps <= self._skip
            done += block.steps
            if skipped:
                yield replace(block, rows=READ), None
                continue
            for part, sample in fitting(block, self._stage):
                yield replace(part, rows=READ), sample

    def _all(self) -> Iterator[Block]:
        if self.steps is None:
            for _ in range(self._epochs):
                yield from stream_blocks(self._source.batches(), self._cut)
            return
        yield from stream_blocks(self._enough(self.steps * self._epochs), self._cut)

    def _enough(self, steps: int) -> Iterator[Rows]:
        """The batches that so many steps take, of one iterator after the other."""
        wanted = steps if self._cut is None else steps * self._cut
        while wanted > 0:
            before = wanted
            for item in self._source.batches():
                rows = shape_of(item[0])[0]
                if self._cut is not None and rows > wanted:
                    x, y, weights = (None if part is None else part[:wanted] for part in item)
                    item = x, y, weights
                yield item
                wanted -= 1 if self._cut is None else rows
                if wanted <= 0:
                    return
            if self._source.once or wanted == before:
                return

    def piece(self, epoch: int, step: int) -> Piece:
        """What comes next after `step` steps of the fit's epoch `epoch` (from 0).

        Raises
        ------
        StreamError : there are no more batches
        """
        if self._blocks is None:
            self._blocks = Prefetch(self._read())
            self._wind()
        if epoch != self._epoch:
            self._advance()
        done = self._begun + step
        while done >= self._end:
            self._next(f"epoch {epoch + 1} wanted its step {step + 1}")
        place, _, batch = self._known[-1]
        assert self._sample is not None
        return Piece(self._sample, batch, done - place, self._end - done, 0, False)

    def _next(self, wanted: str) -> None:
        """Take the next block."""
        assert self._blocks is not None
        item = next(self._blocks, None)
        if item is None:
            raise StreamError(
                f"the batches ended after {self._end} steps, and {wanted}; what was learned stays. Give fewer epochs "
                "or steps_per_epoch, or a function that makes a fresh iterator"
            )
        block, self._sample = item
        self._known.append((self._end, self._rows, block.batch))
        self._end, self._rows, self._ended = self._end + block.steps, self._rows + block.count, block.last

    def _advance(self) -> None:
        """Go to the next epoch, in which the last block may still have steps."""
        self._begun += self.length
        self._epoch += 1
        self._known = [known for known in self._known if known is self._known[-1]]
        self._ended = self._ended and self._begun < self._end

    def wind(self, first_pass: int, epoch: int, step: int) -> None:
        """Go to a place in a fit by reading what was read before it."""
        self._target = epoch, step
        if self.steps is not None:
            self._skip = epoch * self.steps + step

    def _wind(self) -> None:
        """Pass over what was done before."""
        epoch, step = getattr(self, "_target", (0, 0))
        while self._epoch < epoch or self._end - self._begun < step:
            if self._end - self._begun >= self.length:
                self._advance()
            else:
                self._next(f"the checkpoint was made in epoch {epoch + 1} after step {step}")

    def rows(self, epoch: Any, step: int) -> Any:
        """Rows seen before that, for the running epoch, its end, or an array of it."""
        number = int(np.ravel(epoch)[-1])
        if number > self._epoch:
            step += self.length
        place = self._begun + min(step, ENDLESS)
        rows = 0
        for first, before, batch in self._known:
            if first <= place:
                rows = min(self._rows, before + (place - first) * batch)
        later = [before for first, before, _ in self._known if first > place]
        rows = min([rows, *later])
        return rows if np.ndim(epoch) == 0 else np.full(np.shape(epoch), rows)

    def passes(self, epoch: int, step: int) -> int:
        """Epochs begun before that."""
        return epoch + (step > 0)

    def waited(self) -> float:
        """Seconds spent waiting for batches so far."""
        return 0.0 if self._blocks is None else self._blocks.waited

    def close(self) -> None:
        """End the thread that reads ahead."""
        if self._blocks is not None:
            self._blocks.close()

    def identity(self) -> dict[str, Any]:
        """What the batches are, as plain data."""
        return self._source.identity


def samples(source: Source, stage: Stage, batch: int, row_bytes: int, steps: int | None = None) -> Prefetch[Sample]:
    """The rows of a source once, in order, as samples of whole batches (those of an iterator as they come).

    Parameters
    ----------
    source : the rows
    stage : makes them what the kernels read
    batch : rows of a step
    row_bytes : of a row in memory
    steps : batches wanted; by default all
    """

    def read() -> Iterator[Sample]:
        if isinstance(source, Stored):
            rows = max(1, BLOCK_BYTES // (row_bytes * batch)) * batch
            wanted = source if steps is None else source.part(0, min(len(source), steps * batch))
            for block in stored_blocks(wanted, rows, [0], False):
                yield fitting_rows(block, stage, wanted)
            return
        batches = source.batches()
        some = batches if steps is None else (b for _, b in zip(range(steps), batches, strict=False))
        for block in stream_blocks(some, None):
            for _, sample in fitting(block, stage):
                yield sample

    return Prefetch(read())
