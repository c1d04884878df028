"""What begins and ends the way of a batch: gathering its rows, the loss, the sums, outputs written out.

`t` is the table of ``layout``; `work` the workspace, `constants` the ops' and the loss's numbers. A block by rows has
`groups` batch rows of `lanes` threads each.
"""

import functools
import math
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, Activation
from fastbp.cuda import layout as lo
from fastbp.cuda import rules, tickets
from fastbp.cuda.device import cuda, inlined, kernel
from fastbp.cuda.lanes import Sharing
from fastbp.cuda.shapes import Shapes
from fastbp.formulas.tallies import Tally
from fastbp.losses import Loss

NO_TARGETS, NUMBERS, LABELS = range(3)


@inlined
def rows_of(t, s):
    """Rows of the batch of step s of the run: the last one of an epoch may have fewer."""
    within = (t[lo.FIRST_STEP] + s) % t[lo.PER_EPOCH]
    return min(t[lo.BATCH], t[lo.N] - within * t[lo.BATCH])


@inlined
def epoch_of(t, s):
    """Which epoch of the run its step s is in."""
    return (t[lo.FIRST_STEP] + s) // t[lo.PER_EPOCH] - t[lo.FIRST_STEP] // t[lo.PER_EPOCH]


@inlined
def goes_on(t):
    """Whether the last step closed adds to the gradient of those before it."""
    return (t[lo.GROUPED] + t[lo.STEP] - 1) % t[lo.GROUP] != 0


@inlined
def is_due(t):
    """Whether the last step closed ends with an update."""
    return (t[lo.GROUPED] + t[lo.STEP]) % t[lo.GROUP] == 0


@functools.cache
def gather(dtype: np.dtype, shapes: Shapes, targets: int, sparse: bool) -> Any:
    """Kernel: inputs (ROWS, I), targets, and what each row counts. Rows beyond the batch repeat its last, and count 0.

    Blocks along the grid's second axis share the columns of dense rows (``Shapes.grid``).

    x (N, I), y (N, O) or labels (N,), rows (M,) or (E, M) row numbers, weights (N,), present (N,)
    sparse : x are the numbers that aren't 0, columns (int32) where each stands in its row, and starts (N + 1,) where
        each row's begin and the last one's end
    """
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups
    mix, shuffled = rules.mix(), rules.shuffled()
    places_type = np.dtype(np.int64)

    def run(t, work, x, starts, columns, y, rows, weights, present):
        places = cuda.shared.array(0, places_type)
        if t[lo.STATUS] != pg.RUNNING:
            return
        s = t[lo.STEP]
        group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        b = cuda.blockIdx.x * groups + group
        count = rows_of(t, s)
        number = t[lo.FIRST_STEP] + s
        if lane == 0 and b < t[lo.ROWS]:
            row = number % t[lo.PER_EPOCH] * t[lo.BATCH] + min(b, count - 1)
            if t[lo.SHUFFLE] != 0:
                bits = np.int64(1)
                while (np.int64(1) << bits) < t[lo.N]:
                    bits += 1
                row = shuffled(row, t[lo.N], bits, mix(t[lo.SEED] ^ mix(number // t[lo.PER_EPOCH])))
            if t[lo.SUBSET] != 0:
                row = rows[t[lo.SUBSET_EPOCH] * epoch_of(t, s) + row]
            places[group] = row
            weight, counted = kind(1), kind(1)
            if t[lo.WEIGHTED] != 0:
                weight = weights[row]
            if t[lo.MARKED] != 0:
                counted = present[row]
            if b >= count:
                weight = counted = kind(0)
            share = kind(1) / kind(count) if t[lo.MEAN_ROWS] != 0 else kind(1)
            if cuda.blockIdx.y == 0:
                work[t[lo.SCALE] + b] = share * weight
                work[t[lo.COUNTS] + b] = counted
                work[t[lo.COUNTS] + t[lo.ROWS] + b] = counted * weight
                if targets == LABELS:
                    work[t[lo.TARGET] + b * t[lo.TARGET_LD]] = kind(y[row])
        cuda.syncthreads()
        inputs, width = t[lo.INPUT] + b * t[lo.INPUT_LD], t[lo.INDEX_ROW]
        if sparse:
            if b < t[lo.ROWS]:
                for c in range(lane, width, lanes):
                    work[inputs + c] = kind(0)
            cuda.syncthreads()
        if b < t[lo.ROWS]:
            row = places[group]
            if sparse:
                for e in range(starts[row] + lane, starts[row + 1], lanes):
                    work[inputs + columns[e]] = x[e]
            else:
                apart, source = lanes * cuda.gridDim.y, row * width
                c = lane + lanes * cuda.blockIdx.y
                while c < width:  # four are read before the first is written: else each would wait for the one before
                    c1, c2, c3 = c + apart, c + 2 * apart, c + 3 * apart
                    v0, v1, v2, v3 = x[source + c], kind(0), kind(0), kind(0)
                    if c1 < width:
                        v1 = x[source + c1]
                    if c2 < width:
                        v2 = x[source + c2]
                    if c3 < width:
                        v3 = x[source + c3]
                    work[inputs + c] = v0
                    if c1 < width:
                        work[inputs + c1] = v1
                    if c2 < width:
                        work[inputs + c2] = v2
                    if c3 < width:
                        work[inputs + c3] = v3
                    if not (math.isfinite(v0) and math.isfinite(v1) and math.isfinite(v2) and math.isfinite(v3)):
                        t[lo.UNFIT] = 1
                    c += 4 * apart
            if targets == NUMBERS:
                outputs = t[lo.OUTPUTS]
                for c in range(lane + lanes * cuda.blockIdx.y, outputs, lanes * cuda.gridDim.y):
                    work[t[lo.TARGET] + b * t[lo.TARGET_LD] + c] = y[row * outputs + c]

    return kernel(run, threads=shapes.threads)


def _nothing(h: Any, z: Any, n: Any, p: Any) -> None:
    pass


@functools.cache
def _finish(row: Activation | None, dtype: np.dtype) -> Any:
    """The last activation over a row: f(h, z, n, p)."""
    if row is None or row is IDENTITY:
        return inlined(_nothing)
    rule = rules.activation(row, dtype)

    def coupled(h: Any, z: Any, n: Any, p: Any) -> None:
        rule(h, z, n)

    def each(h: Any, z: Any, n: Any, p: Any) -> None:
        for c in range(n):
            h[c] = rule(z[c], p)

    return inlined(coupled if row.coupled else each)


def _kept(dz: Any, z: Any, h: Any, n: Any, p: Any) -> None:
    pass


@functools.cache
def _finish_back(row: Activation | None, dtype: np.dtype) -> Any:
    """dL/dh of a row becomes dL/dz: f(dz, z, h, n, p)."""
    if row is None or row is IDENTITY:
        return inlined(_kept)
    rule = rules.derivative(row, dtype)

    def coupled(dz: Any, z: Any, h: Any, n: Any, p: Any) -> None:
        rule(dz, h, n)

    def each(dz: Any, z: Any, h: Any, n: Any, p: Any) -> None:
        for c in range(n):
            dz[c] = rule(dz[c], z[c], h[c], p)

    return inlined(coupled if row.coupled else each)


def _unmarked(work: Any, place: Any, rows: Any, a: Any, y: Any, n: Any, numbers: Any) -> None:
    pass


@functools.cache
def marking(tallies: tuple[Tally, ...], dtype: np.dtype, labels: bool) -> Any:
    """What tallies mark of a row, written for all of them: f(work, place, rows, a, y, n, constants)."""
    if not tallies:
        return inlined(_unmarked)
    before, m = marking(tallies[:-1], dtype, labels), len(tallies) - 1
    if tallies[-1].loop not in ("classes", "pairs"):
        return before
    marks, numbers = rules.tally(tallies[-1], dtype, labels).marks, lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS

    def marked(work: Any, place: Any, rows: Any, a: Any, y: Any, n: Any, constants: Any) -> None:
        before(work, place, rows, a, y, n, constants)
        given, had = marks(a, y, n, constants[numbers:])
        work[place + 2 * m * rows] = given
        work[place + (2 * m + 1) * rows] = had

    return inlined(marked)


@functools.cache
def _closed(threads: int, backward: bool) -> Any:
    """What `close` does, by a block of so many threads: f(t, work, share, sums, penalties, scales, states)."""

    def closed(t, work, share, sums, penalties, scales, states):
        i = cuda.threadIdx.x
        s, rows = t[lo.STEP], t[lo.ROWS]
        count = rows_of(t, s)
        value = 0.0
        for b in range(i, rows, threads):
            value += np.float64(work[t[lo.VALUE] + b])
            if b < count:
                for k in range(states.size):
                    value += np.float64(work[states[k] + b])
        share[i] = value
        value = 0.0
        for k in range(i, penalties.size, threads):
            value += penalties[k]
        share[threads + i] = value
        cuda.syncthreads()
        width = threads // 2
        while width > 0:
            if i < width:
                share[i] += share[i + width]
                share[threads + i] += share[threads + i + width]
            cuda.syncthreads()
            width //= 2
        if i == 0:
            if backward and not math.isfinite(share[0]):
                t[lo.STATUS] = pg.DIVERGED
            else:
                total = share[0]
                if penalties.size > 0:
                    total += share[threads] * np.float64(scales[(s + 1) * t[lo.COEFFICIENTS] - 1])
                if t[lo.MEAN_ROWS] != 0:
                    total *= count
                sums[epoch_of(t, s) * t[lo.SUMS]] += total
                t[lo.STEP] = s + 1

    return inlined(closed)


def _left(t: Any, work: Any, share: Any, drawn: Any, sums: Any, penalties: Any, scales: Any, states: Any) -> None:
    pass


@functools.cache
def _ending(threads: int, backward: bool) -> Any:
    """What blocks of so many threads end with, of which the last closes the step; nothing where they draw no tickets.

    f(t, work, share, drawn, sums, penalties, scales, states), drawn (1,) int64: the tickets
    """
    if not tickets.available():
        return inlined(_left)
    is_last, closed = tickets.is_last_in(globals()), _closed(threads, backward)

    def ending(t, work, share, drawn, sums, penalties, scales, states):
        if is_last(drawn, 0, cuda.gridDim.x, share):
            closed(t, work, share, sums, penalties, scales, states)

    return inlined(ending)


@functools.cache
def close(dtype: np.dtype, shapes: Shapes, backward: bool) -> Any:
    """Kernel of one block: adds the batch's loss and penalties to the epoch's, and counts the step.

    Where the loss isn't finite and something is to be trained, the step isn't counted, and all that follows returns.
    sums (epochs, SUMS) float64, penalties (blocks,) float64, scales: the steps' coefficients, the last of a step's
    multiplies the penalties; states: where ops have put what each row adds to the loss
    """
    threads, double = shapes.single, np.dtype(np.float64)
    closed = _closed(threads, backward)

    def run(t, work, sums, penalties, scales, states):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING:
            return
        closed(t, work, share, sums, penalties, scales, states)

    return kernel(run, threads=threads)


@functools.cache
def output(
    dtype: np.dtype,
    shapes: Shapes,
    finish: Activation | None,
    loss: Loss | None,
    derive: Activation | None,
    tallies: tuple[Tally, ...],
    backward: bool,
) -> Any:
    """Kernel: of each batch row the last activation, the loss and dZ, and what its tallies mark; a thread a row.

    The last block closes the step, as `close` does; drawn (1,) int64: tickets
    finish : the last op's activation, where someone wants its outputs
    derive : the same where the loss gives dL/dh and someone goes back
    """
    finished, back = _finish(finish, dtype), _finish_back(derive, dtype)
    scored = loss is not None
    labelled = loss is not None and loss.targets == "labels"
    fused = loss is not None and loss.fused_with is not None
    rule: Any = None if loss is None else rules.loss(loss, dtype)
    marked = marking(tallies, dtype, labelled)
    ending, double = _ending(shapes.flat, backward), np.dtype(np.float64)

    def row(t, work, constants, b):
        op, n = t[lo.LAST], t[lo.OUTPUTS]
        z0, h0 = t[op + lo.Z] + b * t[op + lo.LDZ], t[op + lo.H] + b * t[op + lo.LDH]
        z, h = work[z0 : z0 + n], work[h0 : h0 + n]
        p = constants[t[op + lo.NUMBERS]]
        finished(h, z, n, p)
        if scored:
            d0, y0 = t[op + lo.DZ] + b * t[op + lo.LDDZ], t[lo.TARGET] + b * t[lo.TARGET_LD]
            dz = work[d0 : d0 + n]
            numbers = constants[t[lo.OPS] * lo.CONSTANTS :]
            if labelled:
                y = np.int64(work[y0])
            else:
                y = work[y0 : y0 + n]
            if fused:
                value = rule(dz, z, y, n, work[t[lo.SCALE] + b], numbers)
            else:
                value = rule(dz, h, y, n, work[t[lo.SCALE] + b], numbers)
            work[t[lo.VALUE] + b] = value
            back(dz, z, h, n, p)
            marked(work, t[lo.MARKS] + b, t[lo.ROWS], h, y, n, numbers)

    each = inlined(row)

    def run(t, work, constants, drawn, sums, penalties, scales, states):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.grid(1)
        if b < t[lo.ROWS]:
            each(t, work, constants, b)
        ending(t, work, share, drawn, sums, penalties, scales, states)

    return kernel(run, threads=shapes.flat)


@functools.cache
def sharing(shapes: Shapes) -> Sharing:
    """How `lanes` threads share a row; what they put together is the same for any number of rows."""
    lanes, apart = shapes.lanes, shapes.threads

    def total(share, first, lane, value):
        share[first + lane] = value
        cuda.syncthreads()
        width = lanes // 2
        while width > 0:
            if lane < width:
                share[first + lane] += share[first + lane + width]
            cuda.syncthreads()
            width //= 2
        whole = share[first]
        cuda.syncthreads()
        return whole

    def best(share, first, lane, value, beside):
        here = first + lane
        share[here], share[apart + here] = value, beside
        cuda.syncthreads()
        width = lanes // 2
        while width > 0:
            if lane < width:
                other, own = share[here + width], share[here]
                if other > own or (other == own and share[apart + here + width] < share[apart + here]):
                    share[here], share[apart + here] = other, share[apart + here + width]
            cuda.syncthreads()
            width //= 2
        found, place = share[first], share[apart + first]
        cuda.syncthreads()
        return found, place

    joined = inlined(best)

    def highest(share, first, lane, value):
        return joined(share, first, lane, value, value)[0]

    def lowest(share, first, lane, value):
        return -joined(share, first, lane, -value, value)[0]

    for join in (total, best, highest, lowest):
        vars(join)["rewritten"] = True
    return Sharing(lanes, inlined(total), inlined(highest), inlined(lowest), joined)


def _unseen(work, place, rows, a, y, n, constants, share, first, lane, end):
    pass


@functools.cache
def _wide_marking(tallies: tuple[Tally, ...], dtype: np.dtype, labels: bool, shapes: Shapes) -> Any:
    """What `marking` gives, by threads that share a row, and the values of tallies of rows where they can share those.

    f(work, place, rows, a, y, n, constants, share, first, lane, end)
    """
    if not tallies:
        return inlined(_unseen)
    before, m = _wide_marking(tallies[:-1], dtype, labels, shapes), len(tallies) - 1
    row, numbers = tallies[-1], lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS
    if row.loop == "rows":
        value = rules.tally_of_row(row, dtype, labels, sharing(shapes))
        if value is None:
            return before

        def valued(work, place, rows, a, y, n, constants, share, first, lane, end):
            before(work, place, rows, a, y, n, constants, share, first, lane, end)
            found = value(a, y, n, constants[numbers:], share, first, lane, end)
            if lane == 0 and end > 0:
                work[place + 2 * m * rows] = found

        return inlined(valued)
    if row.loop not in ("classes", "pairs"):
        return before
    best: Any = rules.best(dtype, sharing(shapes))
    kind: Any = dtype.type

    def marked(work, place, rows, a, y, n, constants, share, first, lane, end):
        before(work, place, rows, a, y, n, constants, share, first, lane, end)
        given = best(a, n, share, first, lane, end)
        if labels:
            had = kind(y)
        else:
            had = best(y, n, share, first, lane, end)
        if lane == 0 and end > 0:
            work[place + 2 * m * rows], work[place + (2 * m + 1) * rows] = given, had

    return inlined(marked)


@functools.cache
def shareable(
    dtype: np.dtype, shapes: Shapes, finish: Activation | None, loss: Loss | None, derive: Activation | None
) -> bool:
    """Whether the threads of a row can share what `wide_output` is to compute."""
    own = sharing(shapes)
    made = [] if loss is None else [rules.loss(loss, dtype, own)]
    made += [rules.activation(finish, dtype, own)] if finish is not None else []
    made += [rules.derivative(derive, dtype, own)] if derive is not None else []
    return all(rule is not None for rule in made)


@functools.cache
def _together(
    dtype: np.dtype, shapes: Shapes, finish: Activation | None, loss: Loss | None, derive: Activation | None
) -> Any:
    """What `wide_output` does with a row whose outputs ask for each other: its loss.

    f(z, h, dz, y, n, weight, p, numbers, share, first, lane, end)
    """
    own, lanes = sharing(shapes), shapes.lanes
    finishes = finish is not None and finish is not IDENTITY
    derives = derive is not None and derive is not IDENTITY
    finish_coupled, derive_coupled = finish is not None and finish.coupled, derive is not None and derive.coupled
    finished: Any = None if finish is None else rules.activation(finish, dtype, own)
    rule: Any = None if loss is None else rules.loss(loss, dtype, own)
    back: Any = None if derive is None else rules.derivative(derive, dtype, own)
    fused, scored = loss is not None and loss.fused_with is not None, loss is not None
    kind: Any = dtype.type

    def together(z, h, dz, y, n, weight, p, numbers, share, first, lane, end):
        value = kind(0)
        if finishes:
            if finish_coupled:
                finished(h, z, n, share, first, lane, end)
            else:
                for c in range(lane, end, lanes):
                    h[c] = finished(z[c], p)
            cuda.syncthreads()
        if scored:
            if fused:
                value = rule(dz, z, y, n, weight, numbers, share, first, lane, end)
            else:
                value = rule(dz, h, y, n, weight, numbers, share, first, lane, end)
        if derives:
            cuda.syncthreads()
            if derive_coupled:
                back(dz, h, n, share, first, lane, end)
            else:
                for c in range(lane, end, lanes):
                    dz[c] = back(dz[c], z[c], h[c], p)
        return value

    return inlined(together)


@functools.cache
def _apart(
    dtype: np.dtype, shapes: Shapes, finish: Activation | None, loss: Loss | None, derive: Activation | None
) -> Any:
    """The same of a row whose outputs stand for themselves, column by column."""
    finished, back, total = _finish(finish, dtype), _finish_back(derive, dtype), sharing(shapes).total
    scored, fused = loss is not None, loss is not None and loss.fused_with is not None
    rule: Any = None if loss is None else rules.loss(loss, dtype)
    lanes, kind = shapes.lanes, dtype.type

    def apart(z, h, dz, y, n, weight, p, numbers, share, first, lane, end):
        value = kind(0)
        for c in range(lane, end, lanes):
            finished(h[c : c + 1], z[c : c + 1], 1, p)
            if scored:
                if fused:
                    value += rule(dz[c : c + 1], z[c : c + 1], y[c : c + 1], 1, weight, numbers)
                else:
                    value += rule(dz[c : c + 1], h[c : c + 1], y[c : c + 1], 1, weight, numbers)
                back(dz[c : c + 1], z[c : c + 1], h[c : c + 1], 1, p)
        if scored:
            value = total(share, first, lane, value)
        return value

    return inlined(apart)


@functools.cache
def wide_output(
    dtype: np.dtype,
    shapes: Shapes,
    finish: Activation | None,
    loss: Loss | None,
    derive: Activation | None,
    tallies: tuple[Tally, ...],
    backward: bool,
) -> Any:
    """Kernel: what `output` does, where it is `shareable`; `lanes` threads a row.

    Values of tallies of rows stand where those of others have their marks, as far as threads can share them.
    """
    labelled = loss is not None and loss.targets == "labels"
    coupled = labelled or any(row is not None and row.coupled for row in (finish, loss, derive))
    through = (_together if coupled else _apart)(dtype, shapes, finish, loss, derive)
    scored = loss is not None
    marked = _wide_marking(tallies, dtype, labelled, shapes)
    lanes, groups = shapes.lanes, shapes.groups
    ending, double = _ending(shapes.threads, backward), np.dtype(np.float64)

    def run(t, work, constants, drawn, sums, penalties, scales, states):
        share = cuda.shared.array(0, dtype)
        room = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING:
            return
        lane, first = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes * lanes
        b, op, n, end = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes, t[lo.LAST], t[lo.OUTPUTS], t[lo.OUTPUTS]
        if b >= t[lo.ROWS]:
            b, end = 0, 0
        z0, h0 = t[op + lo.Z] + b * t[op + lo.LDZ], t[op + lo.H] + b * t[op + lo.LDH]
        d0, y0 = t[op + lo.DZ] + b * t[op + lo.LDDZ], t[lo.TARGET] + b * t[lo.TARGET_LD]
        p, numbers = constants[t[op + lo.NUMBERS]], constants[t[lo.OPS] * lo.CONSTANTS :]
        z, h, dz = work[z0 : z0 + n], work[h0 : h0 + n], work[d0 : d0 + n]
        if labelled:
            y = np.int64(work[y0])
        else:
            y = work[y0 : y0 + n]
        value = through(z, h, dz, y, n, work[t[lo.SCALE] + b], p, numbers, share, first, lane, end)
        if scored:
            if lane == 0 and end > 0:
                work[t[lo.VALUE] + b] = value
            cuda.syncthreads()
            marked(work, t[lo.MARKS] + b, t[lo.ROWS], h, y, n, numbers, share, first, lane, end)
        ending(t, work, room, drawn, sums, penalties, scales, states)

    return kernel(run, threads=shapes.threads)


@functools.cache
def count_step(dtype: np.dtype) -> Any:
    """Kernel of one thread: counts a step that looks at no rows."""

    def run(t):
        t[lo.STEP] += 1

    return kernel(run, threads=1)


@functools.cache
def tally(dtype: np.dtype, shapes: Shapes, row: Tally, labels: bool, wide: bool) -> Any:
    """Kernel: adds the batch's sums of tally m to the epoch's, a block for each sum; after the step is closed.

    wide : whether the batch went through `wide_output`
    """
    valued = wide and row.loop == "rows" and rules.tally_of_row(row, dtype, labels, sharing(shapes)) is not None
    term = rules.tally(row, dtype, labels).term
    threads, weighted = shapes.single, int(row.weighted)
    double = np.dtype(np.float64)

    def run(t, work, sums, constants, m, place):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING:
            return
        i, k = cuda.threadIdx.x, cuda.blockIdx.x
        s, rows, op, n = t[lo.STEP] - 1, t[lo.ROWS], t[lo.LAST], t[lo.OUTPUTS]
        numbers = constants[t[lo.OPS] * lo.CONSTANTS + lo.LOSS_NUMBERS + m * lo.TALLY_NUMBERS :]
        marks = t[lo.MARKS] + 2 * m * rows
        value = 0.0
        for b in range(i, rows, threads):
            weight = np.float64(work[t[lo.COUNTS] + weighted * rows + b])
            if weight != 0.0 and valued:
                value += weight * np.float64(work[marks + b])
            elif weight != 0.0:
                h0, y0 = t[op + lo.H] + b * t[op + lo.LDH], t[lo.TARGET] + b * t[lo.TARGET_LD]
                if labels:
                    y = np.int64(work[y0])
                else:
                    y = work[y0 : y0 + n]
                given, had = np.int64(work[marks + b]), np.int64(work[marks + rows + b])
                value += weight * np.float64(term(k, given, had, work[h0 : h0 + n], y, n, numbers))
        share[i] = value
        cuda.syncthreads()
        width = threads // 2
        while width > 0:
            if i < width:
                share[i] += share[i + width]
            cuda.syncthreads()
            width //= 2
        if i == 0:
            sums[epoch_of(t, s) * t[lo.SUMS] + place + k] += share[0]

    return kernel(run, threads=threads)


@functools.cache
def keep(dtype: np.dtype, shapes: Shapes, labels: bool) -> Any:
    """Kernel: writes outputs, targets and counts of the batch's rows behind those kept before (rows, 2 O + 1)."""
    kind: Any = dtype.type
    lanes, groups = shapes.lanes, shapes.groups

    def run(t, work, kept, weighted):
        if t[lo.STATUS] != pg.RUNNING:
            return
        s, op, n = t[lo.STEP] - 1, t[lo.LAST], t[lo.OUTPUTS]
        b, lane = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        if b >= rows_of(t, s):
            return
        first = (t[lo.FIRST_STEP] % t[lo.PER_EPOCH] + s) * t[lo.BATCH] - t[lo.KEPT]
        place = (first + b) * (2 * n + 1)
        h0, y0 = t[op + lo.H] + b * t[op + lo.LDH], t[lo.TARGET] + b * t[lo.TARGET_LD]
        for c in range(lane, n, lanes):
            kept[place + c] = work[h0 + c]
            if labels:
                kept[place + n + c] = kind(np.int64(work[y0]) == c)
            else:
                kept[place + n + c] = work[y0 + c]
        if lane == 0:
            kept[place + 2 * n] = work[t[lo.COUNTS] + weighted * t[lo.ROWS] + b]

    return kernel(run, threads=shapes.threads)


@functools.cache
def scatter(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: writes a matrix of the workspace, outputs or the inputs' gradient, to its rows of the result."""
    lanes, groups = shapes.lanes, shapes.groups

    def run(t, work, result, place, ld, columns):
        if t[lo.STATUS] != pg.RUNNING:
            return
        s = t[lo.STEP] - 1
        b, lane = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
        if b >= rows_of(t, s):
            return
        first = (t[lo.FIRST_STEP] % t[lo.PER_EPOCH] + s) * t[lo.BATCH]
        for c in range(lane, columns, lanes):
            result[(first + b) * columns + c] = work[place + b * ld + c]

    return kernel(run, threads=shapes.threads)
