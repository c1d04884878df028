"""Phase one: blocks of batch rows run forward, loss and back-propagation through all layers, each on its own.

`op`, `run` and `now` are addresses of rows of int64 columns (see `program`); p0, p1 bound panels of batch rows.
"""

from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import (
    call_rule,
    column,
    first_lanes,
    lanes,
    load_acquire,
    load_int,
    load_number,
    spread,
    store_int,
    store_number,
    total,
    where,
)
from fastbp.cpu.order import MOST_BITS, rows_in_order, shuffled_rows
from fastbp.cpu.squares import gather_square, load_apart, scatter_square, transpose_square
from fastbp.cpu.tile import (
    GROUP,
    item_bytes,
    most_rows,
    panel_width,
    prefetch_to_read,
    row_bytes,
    tile_backward,
    tile_forward,
    tile_height,
)
from fastbp.formulas.counters import mix, shuffled


@helper
def at(row: int, index: int) -> int:
    """Column `index` of an op or a run."""
    return load_int(row + 8 * index)


@helper
def vectors_of(kind: Any, op: int, count: int, p: int) -> int:
    """In how many of a panel's two vectors there are rows, of `count` in the slab, where products ask for it."""
    return 1 if at(op, pg.SINGLE) and count - 2 * lanes(kind) * p <= lanes(kind) else 2


@helper
def forward(kind: Any, op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> None:
    """Z (and H) of neurons o0:o1 from A, for the panels p0:p1."""
    size = row_bytes(kind)
    if at(op, pg.FORWARD_RULE):
        call_rule(at(op, pg.FORWARD_RULE), op, p0, p1, o0, o1, now)
    elif at(op, pg.BORDER):
        count, border = at(now, pg.NOW_COUNT), at(op, pg.BORDER)
        part, part_panel = at(op, pg.PART), at(op, pg.PART_PANEL)
        forward_product(kind, op, p0, p1, o0, o1, count, 0, border, at(op, pg.Z), at(op, pg.Z_PANEL), 0)
        forward_product(kind, op, p0, p1, o0, o1, count, border, at(op, pg.STEPS_IN), part, part_panel, 0)
        for p in range(p0, p1):
            z = at(op, pg.Z) + p * at(op, pg.Z_PANEL) + o0 * size
            add_parts(kind, z, z, part + p * part_panel + o0 * size, 2 * (o1 - o0), at(op, pg.MODE))
    else:
        count, steps, mode = at(now, pg.NOW_COUNT), at(op, pg.STEPS_IN), at(op, pg.MODE)
        forward_product(kind, op, p0, p1, o0, o1, count, 0, steps, at(op, pg.Z), at(op, pg.Z_PANEL), mode)
    activate(kind, op, p0, p1, o0, o1)
    if at(op, pg.PACK_NEXT):
        call_rule(at(op, pg.PACK_NEXT), op + at(op, pg.PACK_TO), p0, p1, o0, o1, 0)
        if at(op, pg.PACK_TO_TOO):
            call_rule(at(op, pg.PACK_NEXT), op + at(op, pg.PACK_TO_TOO), p0, p1, o0, o1, 0)


@helper
def activate(kind: Any, op: int, p0: int, p1: int, o0: int, o1: int) -> None:
    """H of neurons o0:o1 from Z, where that isn't the product's part."""
    size = row_bytes(kind)
    if at(op, pg.ACTIVATE):
        for p in range(p0, p1):
            z = at(op, pg.Z) + p * at(op, pg.Z_PANEL) + o0 * size
            h = at(op, pg.H) + p * at(op, pg.H_PANEL) + o0 * size
            call_rule(at(op, pg.ACTIVATE), h, z, 2 * (o1 - o0), at(op, pg.PARAMETER), 0, 0)


@helper
def add_parts(kind: Any, total: int, one: int, two: int, vectors: int, rectify: int) -> None:
    """So many vectors of two sums as one, rectified where that is asked."""
    z, first, second = column(kind, total, 1), column(kind, one, 1), column(kind, two, 1)
    zero = spread(kind, 0.0)
    for i in range(vectors):
        value = first[i] + second[i]
        if rectify:
            value = where(value < zero, zero, value)
        z[i] = value


@helper
def forward_product(
    kind: Any,
    op: int,
    p0: int,
    p1: int,
    o0: int,
    o1: int,
    count: int,
    k_first: int,
    k_end: int,
    target: int,
    target_panel: int,
    rectify: int,
) -> None:
    """Sums over the inputs k_first:k_end for neurons o0:o1, put where panels of Z stand or what is like them."""
    size = row_bytes(kind)
    step = item_bytes(kind)
    width = panel_width(kind)
    steps = k_end - k_first
    blocks = (steps + pg.K_BLOCK - 1) // pg.K_BLOCK
    length = (steps + blocks - 1) // blocks
    w, w_panel = at(op, pg.W) + k_first * width * step, at(op, pg.W_PANEL)
    neurons = pg.NEURON_BLOCK // width * width
    tall = most_rows(kind)
    border = w_panel - width * step  # between a panel's last row of a step and the next panel's first
    tiles = max(1, width // tall)
    # a small layer's tiles ask for the next panel of weights, a large one's for their shares of the next block
    large = blocks > 1 and o1 - o0 > neurons
    share = width * step // ((p1 - p0) * tiles) if large else width * step
    for n0 in range(o0, o1, neurons):
        n1 = min(o1, n0 + neurons)
        for k0 in range(0, steps, length):
            k = min(length, steps - k0)
            mode = rectify if k0 + k == steps else 0
            ahead = k * width * step
            if k0 + k == steps:
                ahead = neurons // width * w_panel - k0 * width * step
            for p in range(p0, p1):
                v = at(op, pg.A) + p * at(op, pg.A_PANEL) + (k_first + k0) * size
                z = target + p * target_panel
                vectors = vectors_of(kind, op, count, p)
                o = n0
                while o < n1:
                    rows = tile_height(n1 - o, tall)
                    panel = w + o // width * w_panel + k0 * width * step
                    a = panel + o % width * step
                    second = (o % width + GROUP) // width * border
                    third = (o % width + 2 * GROUP) // width * border
                    fetch = panel + w_panel
                    if large:
                        fetch = panel + ahead + ((p - p0) * tiles + o % width // tall % tiles) * share * k
                    key = 16 * rows + vectors
                    tile_forward(kind, key, a, v, z + o * size, k, k0, mode, share, second, third, fetch)
                    o += rows


@helper
def backward(kind: Any, op: int, p0: int, p1: int, i0: int, i1: int, now: int) -> None:
    """DA of the inputs i0:i1 from DZ; it becomes DZ of the op before, where there is one, and its T."""
    size, count = row_bytes(kind), at(now, pg.NOW_COUNT)
    if at(op, pg.BACKWARD_RULE):
        call_rule(at(op, pg.BACKWARD_RULE), op, p0, p1, i0, i1, now)
    else:
        backward_product(kind, op, p0, p1, i0, i1, count)
    if at(op, pg.BEFORE):
        before = op - at(op, pg.BEFORE)
        if at(before, pg.DERIVE):
            for p in range(p0, p1):
                dz = at(before, pg.DZ) + p * at(before, pg.DZ_PANEL) + i0 * size
                h = at(before, pg.H) + p * at(before, pg.H_PANEL) + i0 * size
                z = at(before, pg.Z) + p * at(before, pg.Z_PANEL) + i0 * size
                call_rule(at(before, pg.DERIVE), dz, h, z, 2 * (i1 - i0), at(before, pg.PARAMETER), 0)
        if at(before, pg.T):
            transpose(kind, before, p0, p1, i0, i1, count)


@helper
def backward_product(kind: Any, op: int, p0: int, p1: int, i0: int, i1: int, count: int) -> None:
    """DA of the inputs i0:i1 from DZ, masked where the inputs were rectified."""
    size = row_bytes(kind)
    step = item_bytes(kind)
    width = panel_width(kind)
    outs = at(op, pg.OUT)
    blocks = (outs + pg.K_BLOCK - 1) // pg.K_BLOCK
    length = ((outs + blocks - 1) // blocks + width - 1) // width * width
    w, w_panel = at(op, pg.W), at(op, pg.W_PANEL)
    for n0 in range(i0, i1, pg.NEURON_BLOCK):
        n1 = min(i1, n0 + pg.NEURON_BLOCK)
        for k0 in range(0, outs, length):
            k = min(length, outs - k0)
            mode = at(op, pg.MASK) if k0 + k == outs else 0
            for p in range(p0, p1):
                v = at(op, pg.DZ) + p * at(op, pg.DZ_PANEL) + k0 * size
                da = at(op, pg.DA) + p * at(op, pg.DA_PANEL)
                mask = at(op, pg.A) + p * at(op, pg.A_PANEL)
                vectors = vectors_of(kind, op, count, p)
                i = n0
                while i < n1:
                    rows = tile_height(n1 - i, most_rows(kind))
                    a = w + k0 // width * w_panel + i * width * step
                    c = da + i * size
                    key = 16 * rows + vectors
                    tile_backward(kind, key, a, v, c, k, k0, mode, w_panel, width * size, 0, mask + i * size)
                    i += rows


@helper
def transpose(kind: Any, op: int, p0: int, p1: int, o0: int, o1: int, count: int) -> None:
    """T from DZ for the neurons o0:o1 (o0 a multiple of the vector), of the vectors that hold some of `count` rows."""
    if at(op, pg.TRANSPOSE_RULE):
        call_rule(at(op, pg.TRANSPOSE_RULE), op, p0, p1, o0, o1, 0)
        return
    size = row_bytes(kind)
    n = lanes(kind)
    width = panel_width(kind)
    item = item_bytes(kind)
    if o1 == at(op, pg.OUT):
        o1 -= at(op, pg.FEW)  # nobody reads those
    alone = count == 1 and at(op, pg.THIN) <= 1  # tiles of more rows read the others too
    for o in range(o0, o1, n):
        for p in range(p0, p1):
            source = at(op, pg.DZ) + p * at(op, pg.DZ_PANEL) + o * size
            target = at(op, pg.T) + o // width * at(op, pg.T_PANEL) + (2 * n * p * width + o % width) * item
            if alone:
                column(kind, target, 1)[0] = load_apart(kind, source, size)
                continue
            transpose_square(kind, source, size, target, width * item)
            if count - 2 * n * p > n:
                transpose_square(kind, source + n * item, size, target + n * width * item, width * item)


@helper
def alone(kind: Any, address: int) -> Any:
    """A number in the first lane, 0 in the others."""
    return where(first_lanes(kind, 1), spread(kind, load_number(kind, address)), spread(kind, 0.0))


@helper
def _row_numbers(kind: Any, run: int, target: int, place: int, last: int, bits: int, key: int, subset: int) -> None:
    """Where in the table a panel's rows are that stand in an epoch at `place` and behind it, up to `last`."""
    n = lanes(kind)
    if at(run, pg.SHUFFLE) and bits <= MOST_BITS:
        shuffled_rows(kind, target, place, last, at(run, pg.N), bits, key)
    else:
        rows_in_order(kind, target, place, last)
        if at(run, pg.SHUFFLE):
            for b in range(2 * n):
                store_int(target + 8 * b, shuffled(load_int(target + 8 * b), at(run, pg.N), bits, key))
    if subset:
        for b in range(2 * n):
            store_int(target + 8 * b, load_int(subset + 8 * load_int(target + 8 * b)))


@helper
def ask_ahead(kind: Any, run: int, count: int, p0: int, p1: int, part: int, parts: int) -> None:
    """Ask for one of so many parts of the rows that follow each of the panels p0:p1, where a table is far.

    Spread over what is done with these panels: all at once they keep the core waiting (100-100-5 on one thread and a
    table of 60 MB -7 % at once, -10 % in three parts).
    """
    nbytes = at(run, pg.X_AHEAD)
    if nbytes == 0:
        return
    samples = 2 * lanes(kind)
    wanted = min(samples, count)
    for p in range(p0, p1):
        following = at(run, pg.INDEX) + 8 * (at(run, pg.SLAB) + p * samples)
        for b in range(part * wanted // parts, min((part + 1) * wanted // parts, wanted)):
            row = at(run, pg.X) + load_int(following + 8 * b) * nbytes
            for line in range(row & -pg.LINE, row + nbytes, pg.LINE):
                prefetch_to_read(line)


@helper
def gather(kind: Any, run: int, first: int, count: int, rows: int, epoch: int, p0: int, p1: int, skip: int) -> None:
    """Row numbers, weights, inputs and targets of the panels p0:p1.

    first: position in the epoch of the slab's first row; count: rows of the slab; rows: rows of the batch; skip: rows
    between these and the next ones that this worker gathers.
    """
    size = row_bytes(kind)
    n = lanes(kind)
    item = item_bytes(kind)
    total_rows = at(run, pg.N)
    subset = at(run, pg.SUBSET)
    if at(run, pg.SUBSET_EPOCH):
        subset += at(run, pg.SUBSET_EPOCH) * (epoch - at(run, pg.FIRST_STEP) // at(run, pg.STEPS_PER_EPOCH))
    op = at(run, pg.TABLE)
    inputs = at(op, pg.IN)
    outs = at(op + 8 * pg.OP_COLUMNS * (at(run, pg.OPS) - 1), pg.OUT)
    key, bits = 0, at(run, pg.SHUFFLE)
    if bits:
        key = mix(at(run, pg.SEED) ^ mix(epoch))
    share = 1.0 / rows if at(run, pg.MEAN_ROWS) else 1.0
    for p in range(p0, p1):
        index = at(run, pg.INDEX) + p * 2 * n * 8
        scale = at(run, pg.SCALE) + p * size
        if count == 1:
            number = first
            if bits:
                number = shuffled(first, total_rows, bits, key)
            store_int(index, load_int(subset + 8 * number) if subset else number)
        else:
            _row_numbers(kind, run, index, first + p * 2 * n, first + count - 1, bits, key, subset)
        if at(run, pg.X_AHEAD):
            place = first + min((p + 1) * 2 * n, count) + (skip if p == p1 - 1 else 0)
            following = index + 8 * at(run, pg.SLAB)
            _row_numbers(kind, run, following, min(place, total_rows - 1), total_rows - 1, bits, key, subset)
        weights = column(kind, scale, 1)
        for half in range(2):
            weights[half] = where(first_lanes(kind, count - (2 * p + half) * n), spread(kind, share), spread(kind, 0.0))
        if at(run, pg.METRIC_COUNT) or at(run, pg.ROW_WEIGHTS):
            weigh(kind, run, index, scale, at(run, pg.COUNTS) + p * 2 * size, share, count - p * 2 * n)
        a = at(op, pg.A) + p * at(op, pg.A_PANEL)
        halves = 1 if at(op, pg.THIN) else vectors_of(kind, op, count, p)
        if at(op, pg.SPARSE) == 0:
            if count == 1:
                gather_row(kind, at(run, pg.X) + load_int(index) * at(run, pg.X_ROW), inputs, a)
            else:
                gather_rows(kind, at(run, pg.X), at(run, pg.X_ROW), inputs, index, a, halves)
        if at(run, pg.UNFIT) and not finite(kind, a, inputs, halves):
            store_int(at(run, pg.UNFIT), 1)
        if at(op, pg.ONES):
            ones = column(kind, a + inputs * size, 1)
            ones[0] = spread(kind, 1.0)
            ones[1] = spread(kind, 1.0)
        if at(op, pg.PACK):
            call_rule(at(op, pg.PACK), op, p, p + 1, 0, inputs, 0)
        if at(run, pg.Y):
            target = at(run, pg.TARGET) + p * at(run, pg.TARGET_PANEL)
            if at(run, pg.LABELS):
                hot = column(kind, target, 1)
                for c in range(2 * outs):
                    hot[c] = spread(kind, 0.0)
                if count == 1:
                    label = load_int(at(run, pg.Y) + 8 * load_int(index))
                    store_number(kind, target + label * size, 1.0)
                else:
                    for b in range(2 * n):
                        label = load_int(at(run, pg.Y) + 8 * load_int(index + 8 * b))
                        store_number(kind, target + label * size + b * item, 1.0)
            elif count == 1:
                gather_row(kind, at(run, pg.Y) + load_int(index) * at(run, pg.Y_ROW), outs, target)
            else:
                gather_rows(kind, at(run, pg.Y), at(run, pg.Y_ROW), outs, index, target, 2)


@helper
def finite(kind: Any, a: int, inputs: int, halves: int) -> bool:
    """Whether all inputs of a panel are finite numbers."""
    numbers = column(kind, a, 1)
    wild = spread(kind, 0.0)
    other = spread(kind, 0.0)
    for c in range(inputs):
        wild = wild + (numbers[2 * c] - numbers[2 * c])  # NaN where it isn't finite
        if halves == 2:
            other = other + (numbers[2 * c + 1] - numbers[2 * c + 1])
    return total(wild) + total(other) == 0.0


@helper
def weigh(kind: Any, run: int, index: int, scale: int, counts: int, share: float, rows: int) -> None:
    """What the first `rows` rows of a panel count in the loss, in a metric and in a weighted metric; the others 0."""
    size = row_bytes(kind)
    item = item_bytes(kind)
    for b in range(2 * lanes(kind)):
        weight = 0.0
        count = 0.0
        if b < rows:
            row = load_int(index + 8 * b) * item
            weight = 1.0
            count = 1.0
            if at(run, pg.ROW_WEIGHTS):
                weight = load_number(kind, at(run, pg.ROW_WEIGHTS) + row)
            if at(run, pg.ROW_PRESENT):
                count = load_number(kind, at(run, pg.ROW_PRESENT) + row)
        store_number(kind, scale + b * item, share * weight)
        store_number(kind, counts + b * item, count)
        store_number(kind, counts + size + b * item, count * weight)


@helper
def gather_row(kind: Any, row: int, columns: int, target: int) -> None:
    """As `gather_rows`, of one row alone: in the first lane; nothing is turned."""
    found = column(kind, target, 1)
    for c in range(columns):
        found[2 * c] = alone(kind, row + c * item_bytes(kind))


@helper
def gather_rows(kind: Any, table: int, table_row: int, columns: int, index: int, target: int, halves: int) -> None:
    """One panel of the rows named by `index`, transposed: [column][batch row]; with halves = 1 only its first."""
    size = row_bytes(kind)
    n = lanes(kind)
    item = item_bytes(kind)
    for half in range(halves):
        for c in range(0, columns, n):
            gather_square(
                kind,
                table + c * item,
                table_row,
                index + half * n * 8,
                min(n, columns - c),
                target + c * size + half * n * item,
                size,
            )


@helper
def output(kind: Any, run: int, count: int, first: int, p0: int, p1: int, behind: int) -> None:
    """What follows the last product: its activation, loss, metrics, DZ and T; or the predictions, written out.

    behind: how many panels of the slab had the places of these before them
    """
    size = row_bytes(kind)
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * (at(run, pg.OPS) - 1)
    outs = at(op, pg.OUT)
    for p in range(p0, p1):
        z = at(op, pg.Z) + p * at(op, pg.Z_PANEL)
        h = at(op, pg.H) + p * at(op, pg.H_PANEL)
        if at(run, pg.FINISH):
            call_rule(at(run, pg.FINISH), h, z, at(run, pg.FINISH_COUNT), at(op, pg.PARAMETER), 0, 0)
        if at(run, pg.LOSS):
            dz = at(op, pg.DZ) + p * at(op, pg.DZ_PANEL)
            y = at(run, pg.TARGET) + p * at(run, pg.TARGET_PANEL)
            scale = at(run, pg.SCALE) + p * size
            partial = at(run, pg.PARTIAL) + 8 * (p + behind) * at(run, pg.SUM_COUNT)
            value = call_rule(
                at(run, pg.LOSS), dz, z if at(run, pg.FUSED) else h, y, outs, at(run, pg.LOSS_PARAMETERS), scale
            )
            if at(run, pg.ACTIVITIES):
                value += activities(run, p)
            store_number(np.float64, partial, value)
            counts = at(run, pg.COUNTS) + p * 2 * size
            for m in range(at(run, pg.METRIC_COUNT)):
                tally = at(run, pg.METRICS) + 8 * pg.TALLY_COLUMNS * m
                place = at(tally, pg.TALLY_PLACE)
                if at(tally, pg.TALLY_ROW):
                    place += (first + 2 * lanes(kind) * p) * at(tally, pg.TALLY_ROW)
                else:
                    place = partial + 8 * place
                which = counts + at(tally, pg.TALLY_COUNTS) * size
                call_rule(at(tally, pg.TALLY_RULE), h, y, outs, which, place, at(tally, pg.TALLY_NUMBERS))
            if at(run, pg.BACKWARD):
                if at(run, pg.FINISH_DERIVE):
                    count_of = at(run, pg.FINISH_COUNT)
                    call_rule(at(run, pg.FINISH_DERIVE), dz, h, z, count_of, at(op, pg.PARAMETER), 0)
                if at(op, pg.T):
                    transpose(kind, op, p, p + 1, 0, outs, count)
        else:
            scatter(kind, h, outs, run, count, first, p)


@helper
def activities(run: int, p: int) -> float:
    """The penalties on what passed through a panel's ops."""
    value = 0.0
    for i in range(at(run, pg.OPS)):
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * i
        if at(op, pg.ACTIVITY):
            value += load_number(np.float64, at(op, pg.STATE) + p * at(op, pg.STATE_PANEL))
    return value


@helper
def scatter(kind: Any, source: int, columns: int, run: int, count: int, first: int, p: int) -> None:
    """One panel as rows of the result."""
    size = row_bytes(kind)
    n = lanes(kind)
    item = item_bytes(kind)
    for half in range(2):
        b = (2 * p + half) * n
        rows = min(n, count - b)
        if rows > 0:
            table = at(run, pg.RESULT) + (first + b) * at(run, pg.RESULT_ROW)
            for c in range(0, columns, n):
                square = source + c * size + half * n * item
                scatter_square(kind, square, size, table + c * item, at(run, pg.RESULT_ROW), rows, min(n, columns - c))


@helper
def input_gradient(kind: Any, run: int, count: int, first: int, p0: int, p1: int) -> None:
    """The inputs' gradient of the panels, written out."""
    op = at(run, pg.TABLE)
    for p in range(p0, p1):
        scatter(kind, at(op, pg.DA) + p * at(op, pg.DA_PANEL), at(op, pg.IN), run, count, first, p)


@helper
def _parts(run: int) -> int:
    """Ops that a panel of a training step goes through, both ways."""
    return 2 * at(run, pg.OPS) - at(run, pg.LOWEST)


@helper
def up(kind: Any, now: int, p0: int, p1: int, first: int, end: int) -> bool:
    """Forward through the ops first:end, for the panels p0:p1; False where the run is to stop."""
    run = at(now, pg.NOW_RUN)
    for i in range(first, end):
        if load_acquire(at(now, pg.NOW_STOP)):
            return False
        ask_ahead(kind, run, at(now, pg.NOW_COUNT), p0, p1, i, _parts(run))
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * i
        forward(kind, op, p0, p1, 0, at(op, pg.OUT), now)
    return True


@helper
def down(kind: Any, now: int, first_row: int, p0: int, p1: int, first: int, end: int) -> None:
    """Back through the ops first:end, the last one first; left between two of them where the run is to stop."""
    run = at(now, pg.NOW_RUN)
    for i in range(end - 1, first - 1, -1):
        if load_acquire(at(now, pg.NOW_STOP)):
            return
        ask_ahead(kind, run, at(now, pg.NOW_COUNT), p0, p1, 2 * at(run, pg.OPS) - 1 - i, _parts(run))
        op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * i
        backward(kind, op, p0, p1, 0, at(op, pg.IN), now)
    if first == 0:
        input_gradient(kind, run, at(now, pg.NOW_COUNT), first_row, p0, p1)
