"""Float32 products by AMX tiles: a number is the sum of three bfloat16 terms, a product that of six products of terms.

The terms hold all 24 bits of a float32, the products left out are below half a unit of its last bit, and tiles sum in
float32, 32 numbers at a time: the sums are no less exact than those of float32 multiply-adds, and about twice as fast.
Nothing is kept in terms. A task packs what it is about to multiply into its worker's scratch, where each operand is a
run of tiles: for each 32 numbers along the sum one tile of each term, 16 rows of 32 numbers or of 16 pairs.

* forward   ``z[b][o] = sum_i a[b][i] w[i][o]``   turned where it stands once the sum is whole
* backward  ``da[i][b] = sum_o w[i][o] dz[o][b]``
* gradient  ``dw[i][o] = sum_b a[i][b] dzt[b][o]``

The idea is that of "BF16x9" float32 emulation (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial
intelligence datatype for higher-precision computations", 2019).
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import Kernel, helper
from fastbp._vector import call_rule, column, load_int, load_number, spread, store_int, where
from fastbp.cpu import penalty, updates, weights
from fastbp.cpu.pairs import (
    MATRIX_ROWS,
    PRODUCTS,
    TERM_BYTES,
    TERMS,
    amx_begin,
    amx_end,
    begin_square,
    end_square,
    multiply_square,
    pack_terms,
    store_terms,
    tile_few_terms,
    tile_terms,
)
from fastbp.cpu.rows import at
from fastbp.cpu.rules import SIGNATURE
from fastbp.cpu.squares import transpose_square
from fastbp.cpu.tile import prefetch_to_read, prefetch_to_write
from fastbp.layout.operations import DENSE
from fastbp.layout.plan import PANELS_PER_TASK, Plan
from fastbp.layout.sides import cut
from fastbp.program import LayerSpec, Program

KIND: Any = np.float32
ROW, VECTOR = 128, 64  # bytes of a row of a panel of activations, and of a vector
DEPTH = 32  # numbers of a sum in a tile
STEP = TERMS * TERM_BYTES
GROUPS = len(PRODUCTS)  # of products in a step: between two of them runs what isn't products
SQUARE_ROWS = 2 * MATRIX_ROWS
K_STEPS = 16  # tiles along a sum that are packed at once: operands of 8 panels stay in L2
K_STEPS_NEAR = 9  # forward, of a layer that isn't LARGE: its weights stay there too
SAMPLE_STEPS = 32  # the same of the gradient
SUMS = 4096  # bytes of four tiles of sums
LEAST = 128  # inputs and neurons: with fewer, packing costs as much as is saved
LEAST_PANELS = 3  # of batch rows, for the same reason
LARGE = 1 << 20  # weights


@helper
def _even(steps: int, most: int) -> int:
    """Steps of a run of at most `most`, all runs alike."""
    runs = (steps + most - 1) // most
    return (steps + runs - 1) // runs


@helper
def _room(op: int, now: int) -> int:
    """This worker's room for terms."""
    run = at(now, pg.NOW_RUN)
    me = (now - at(run, pg.NOW)) // pg.LINE
    return at(run, pg.SCRATCH) + me * at(run, pg.SCRATCH_WORKER) + at(op, pg.TERMS)


@helper
def _pack_pairs(source: int, row: int, first: int, end: int, steps: int, target: int) -> None:
    """Terms of vectors first:end, `row` bytes apart, in pairs along them; zeros from `end` to the last of the steps."""
    zero = spread(KIND, 0.0)
    for step in range(steps):
        i = first + step * DEPTH
        place = target + step * STEP
        if i + DEPTH <= end:
            pack_terms(1, source + i * row, 2 * row, row, place)
        else:
            for r in range(MATRIX_ROWS):
                low = zero
                high = zero
                if i + 2 * r < end:
                    low = column(KIND, source + (i + 2 * r) * row, 1)[0]
                if i + 2 * r + 1 < end:
                    high = column(KIND, source + (i + 2 * r + 1) * row, 1)[0]
                store_terms(low, high, place + r * VECTOR, 1)


@helper
def _pack_some(
    source: int, distance: int, first: int, end: int, steps: int, target: int, row: int, rows: int, ahead: int
) -> None:
    """Rows of terms row:row+rows of what `_pack_pairs` makes of two panels' vectors, `distance` bytes apart.

    ahead : bytes from what is read to what will be read next
    """
    zero = spread(KIND, 0.0)
    for q in range(row, min(row + rows, 2 * steps * MATRIX_ROWS)):
        step, r = q // MATRIX_ROWS, q % MATRIX_ROWS
        panel = source
        i = first + step * DEPTH + 2 * r
        if step >= steps:
            panel = source + distance
            i -= steps * DEPTH
        low = zero
        high = zero
        if i < end:
            low = column(KIND, panel + i * VECTOR, 1)[0]
            if ahead:
                prefetch_to_read(panel + i * VECTOR + ahead)
                prefetch_to_read(panel + (i + 1) * VECTOR + ahead)
        if i + 1 < end:
            high = column(KIND, panel + (i + 1) * VECTOR, 1)[0]
        store_terms(low, high, target + step * STEP + r * VECTOR, 1)


@helper
def _pack_rows(
    source: int, row: int, rows: int, second: int, seconds: int, distance: int, steps: int, target: int
) -> None:
    """Terms of `rows` rows of numbers, zeros up to 16: those of a step are two vectors, `second` bytes apart.

    row: bytes between rows; distance: bytes between steps; seconds: how many steps have a second vector.
    """
    zero = spread(KIND, 0.0)
    for step in range(steps):
        place = target + step * STEP
        if rows == MATRIX_ROWS and step < seconds:
            pack_terms(0, source + step * distance, row, second, place)
        else:
            for r in range(MATRIX_ROWS):
                first = zero
                other = zero
                if r < rows:
                    first = column(KIND, source + step * distance + r * row, 1)[0]
                    if step < seconds:
                        other = column(KIND, source + step * distance + r * row + second, 1)[0]
                store_terms(first, other, place + r * VECTOR, 0)


@helper
def _pack_turned(source: int, first: int, end: int, steps: int, squares: int, target: int) -> None:
    """Terms of 16 samples along their inputs first:end, a vector each (see `ROW`); zeros to the last of the steps."""
    size = MATRIX_ROWS * VECTOR
    for step in range(steps):
        for part in range(2):
            i = first + step * DEPTH + part * MATRIX_ROWS
            square = squares + part * size
            if i + MATRIX_ROWS <= end:
                transpose_square(KIND, source + i * ROW, ROW, square, VECTOR)
            else:
                for r in range(MATRIX_ROWS):
                    value = spread(KIND, 0.0)
                    if i + r < end:
                        value = column(KIND, source + (i + r) * ROW, 1)[0]
                    column(KIND, square, 1)[r] = value
                transpose_square(KIND, square, VECTOR, square, VECTOR)
        pack_terms(0, squares, VECTOR, size, target + step * STEP)


@helper
def _complete(z: int, source: int, rows: int, bias: int, rectify: int) -> None:
    """Z of `rows` neurons from their sums: plus the bias (its address, 0: none), rectified where the op says so."""
    sums, target = column(KIND, source, 1), column(KIND, z, 1)
    for i in range(rows):
        for half in range(2):
            value = sums[2 * i + half]
            if bias:
                value = value + spread(KIND, load_number(KIND, bias + 4 * i))
            if rectify:
                value = where(value < 0.0, 0.0, value)
            target[2 * i + half] = value


@helper
def _few_rows(side: int, w: int, w_panel: int, k0: int, k: int, ins: int, wide: int, strip: int, c: int) -> None:
    """Steps k0:k0+k of the sums at c of up to 16 rows by one or two panels of weights.

    Packing is most of the work here, and weights are used once: packed by so few that they stay in L1.
    """
    full = min(k, ins // DEPTH - k0)
    square = MATRIX_ROWS * ROW
    tile_few_terms(wide, side, w + k0 * DEPTH * VECTOR, w_panel, strip, c, ROW, square, full, k0)
    if full < k:
        for j in range(wide):
            _pack_pairs(w + j * w_panel, VECTOR, (k0 + full) * DEPTH, ins, 1, strip + j * STEP)
        tile_terms(4 + wide, side + full * STEP, 0, strip, STEP, c, ROW, 0, square, 1, k0 + full)


def forward(op: int, p0: int, p1: int, o0: int, o1: int, now: int) -> float:
    """Z of neurons o0:o1 (o0 at a panel's border) from A, for the panels p0:p1; rectified where the op says so."""
    if p0 >= p1:  # a short batch leaves tasks without rows
        return 0.0
    sums = _room(op, now)
    ins = at(op, pg.IN)
    steps = (ins + DEPTH - 1) // DEPTH
    large = ins * at(op, pg.OUT) >= LARGE
    most = _even(steps, K_STEPS if large else K_STEPS_NEAR)
    inputs = sums + SUMS
    strips = inputs + (p1 - p0) * 2 * most * STEP
    w, w_panel = at(op, pg.W), at(op, pg.W_PANEL)
    square = MATRIX_ROWS * ROW  # from a panel's neurons to the next panel's
    halves = 1 if at(op, pg.THIN) else 2
    share = (SQUARE_ROWS + GROUPS * (p1 - p0) - 1) // (GROUPS * (p1 - p0))
    turn = 0
    amx_begin()
    for k0 in range(0, steps, most):
        k = min(most, steps - k0)
        last = k0 + k == steps
        for p in range(p0, p1):
            a = at(op, pg.A) + p * at(op, pg.A_PANEL)
            for half in range(halves):
                side = inputs + (2 * (p - p0) + half) * k * STEP
                _pack_turned(a + half * VECTOR, k0 * DEPTH, ins, k, sums, side)
        o = o0
        ready = False
        while o < o1:
            wide = 2 if o + 2 * MATRIX_ROWS <= o1 else 1
            whole = o + MATRIX_ROWS <= o1
            strip = strips + turn * 2 * most * STEP
            panel = w + o // MATRIX_ROWS * w_panel
            for j in range(0 if ready or halves == 1 else wide):
                _pack_pairs(panel + j * w_panel, VECTOR, k0 * DEPTH, ins, k, strip + j * k * STEP)
            turn = 1 - turn
            following = strips + turn * 2 * most * STEP
            # the next two panels are packed while these are multiplied; a large layer's after them are asked for, which
            # holds up the tiles' own loads where weights are in an L2
            ready = halves + wide == 4 and o + 4 * MATRIX_ROWS <= o1
            ahead = 2 * w_panel if large and o + 6 * MATRIX_ROWS <= o1 else 0
            for p in range(p0, p1):
                side = inputs + 2 * (p - p0) * k * STEP
                z = at(op, pg.Z) + p * at(op, pg.Z_PANEL) + o * ROW
                # rows are samples until the sum is whole: then each square is turned. Beyond the last neuron there is
                # no room for one
                c = z if whole else sums
                if k0 and not whole:
                    for i in range(o1 - o):
                        for half in range(halves):
                            column(KIND, sums, 1)[2 * i + half] = column(KIND, z, 1)[2 * i + half]
                    for half in range(halves):
                        transpose_square(KIND, sums + half * VECTOR, ROW, sums + half * VECTOR, ROW)
                if ready:
                    begin_square(c, ROW, VECTOR, square, k0)
                    for part in range(GROUPS * k):
                        step = part // GROUPS * STEP
                        multiply_square(part % GROUPS, side + step, k * STEP, strip + step, k * STEP)
                        row = ((p - p0) * k * GROUPS + part) * share
                        _pack_some(panel + 2 * w_panel, w_panel, k0 * DEPTH, ins, k, following, row, share, ahead)
                    end_square(c, ROW, VECTOR, square)
                elif halves == 1:
                    _few_rows(side, panel, w_panel, k0, k, ins, wide, strip, c)
                else:
                    tile_terms(8 + wide, side, k * STEP, strip, k * STEP, c, ROW, VECTOR, square, k, k0)
                if last or not whole:
                    for j in range(wide):
                        for half in range(halves):
                            place = c + j * square + half * VECTOR
                            transpose_square(KIND, place, ROW, place, ROW)
                if last:
                    for j in range(wide):
                        rows = min(MATRIX_ROWS, o1 - o - j * MATRIX_ROWS)
                        bias = 0
                        if at(op, pg.STEPS_IN) > ins:
                            bias = w + (o // MATRIX_ROWS + j) * w_panel + ins * VECTOR
                        if bias or at(op, pg.MODE) or not whole:
                            _complete(z + j * square, c + j * square, rows, bias, at(op, pg.MODE))
                elif not whole:
                    _complete(z, sums, o1 - o, 0, 0)
            o += wide * MATRIX_ROWS
    amx_end()
    return 0.0


def backward(op: int, p0: int, p1: int, i0: int, i1: int, now: int) -> float:
    """DA of the inputs i0:i1 from DZ, for the panels p0:p1; masked where the inputs were rectified."""
    if p0 >= p1:
        return 0.0
    sums = _room(op, now)
    outs = at(op, pg.OUT)
    panels = (outs + MATRIX_ROWS - 1) // MATRIX_ROWS
    steps = (outs + DEPTH - 1) // DEPTH
    most = _even(steps, K_STEPS)
    slopes = sums + SUMS
    strip = slopes + (p1 - p0) * 2 * most * STEP
    w, w_panel = at(op, pg.W), at(op, pg.W_PANEL)
    amx_begin()
    for k0 in range(0, steps, most):
        k = min(most, steps - k0)
        masked = at(op, pg.MASK) and k0 + k == steps
        for p in range(p0, p1):
            dz = at(op, pg.DZ) + p * at(op, pg.DZ_PANEL)
            for half in range(2):
                side = slopes + (2 * (p - p0) + half) * k * STEP
                _pack_pairs(dz + half * VECTOR, ROW, k0 * DEPTH, outs, k, side)
        i = i0
        while i < i1:
            tall = 2 if i + 2 * MATRIX_ROWS <= i1 else 1
            rows = min(i1 - i, tall * MATRIX_ROWS)
            for t in range(tall):
                height = min(MATRIX_ROWS, rows - t * MATRIX_ROWS)
                source = w + 2 * k0 * w_panel + (i + t * MATRIX_ROWS) * VECTOR
                _pack_rows(source, VECTOR, height, w_panel, panels // 2 - k0, 2 * w_panel, k, strip + t * k * STEP)
            for p in range(p0, p1):
                side = slopes + 2 * (p - p0) * k * STEP
                place = p * at(op, pg.DA_PANEL) + i * ROW
                da = at(op, pg.DA) + place
                c = da if rows % MATRIX_ROWS == 0 else sums
                if c == sums and k0:
                    earlier, kept = column(KIND, da, 1), column(KIND, sums, 1)
                    for q in range(2 * rows):
                        kept[q] = earlier[q]
                tile_terms(4 * tall + 2, strip, k * STEP, side, k * STEP, c, ROW, MATRIX_ROWS * ROW, VECTOR, k, k0)
                if masked or c == sums:
                    source, target = column(KIND, c, 1), column(KIND, da, 1)
                    mask = column(KIND, at(op, pg.A) + p * at(op, pg.A_PANEL) + i * ROW, 1)
                    for q in range(2 * rows):
                        value = source[q]
                        if masked:
                            value = where(mask[q] > 0.0, value, 0.0)
                        target[q] = value
            i += rows
    amx_end()
    return 0.0


@helper
def _pack_slopes(op: int, j0: int, j1: int, b0: int, steps: int, count: int, target: int) -> None:
    """Terms of dZ transposed, in pairs along the samples of so many panels from b0 on, of the neurons' panels j0:j1."""
    for j in range(j0, j1):
        source = at(op, pg.T) + j * at(op, pg.T_PANEL)
        _pack_pairs(source, VECTOR, b0 * DEPTH, count, steps, target + (j - j0) * steps * STEP)


@helper
def _sum_rows(source: int, first: int, end: int, c: int, more: int) -> None:
    """The sum of vectors first:end, plus c where there is more: the gradient of a panel's biases."""
    rows, target = column(KIND, source, 1), column(KIND, c, 1)
    zero = spread(KIND, 0.0)
    even = target[0] if more else zero
    odd = zero
    for b in range(first, end - 1, 2):  # two sums, so that they don't wait for each other
        even = even + rows[b]
        odd = odd + rows[b + 1]
    if (end - first) % 2:
        even = even + rows[end - 1]
    target[0] = even + odd


@helper
def _meanwhile(
    run: int, part: int, share: int, w: int, c: int, g_panel: int, ahead: int, arrays: int, w_panel: int, own: int
) -> None:
    """Part of an update, of `share` vectors: of the square of weights at w by the sums at c, where w isn't 0.

    ahead : the square that comes next: as many of its lines, of `arrays` arrays, are asked for, to be written
    """
    parts = (SQUARE_ROWS + share - 1) // share
    panel = 1 if part >= parts else 0
    first = (part - panel * parts) * share
    count = min(share, SQUARE_ROWS - first)
    if count > 0:
        place = panel * w_panel + first * VECTOR
        moments = at(run, pg.MOMENTS)
        for m in range(arrays):
            for i in range(count):
                prefetch_to_write(ahead + place + m * moments + i * VECTOR)
        if w:
            gradient = c + panel * g_panel + first * VECTOR
            call_rule(at(run, pg.UPDATE), w + place, moments, gradient, count, own, at(run, pg.STATUS))


def task(run: int, row: int, count: int, stage: int, h: int, g: int) -> float:
    """As `weights.task`."""
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
    k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
    now = at(run, pg.NOW) + (g - at(run, pg.SCRATCH)) // at(run, pg.SCRATCH_WORKER) * pg.LINE
    sums = g + at(op, pg.TERMS)
    w_panel, a_panel = at(op, pg.W_PANEL), at(op, pg.A_PANEL)
    w = at(op, pg.W) + j0 * w_panel + k0 * VECTOR
    g_panel = (k1 - k0) * VECTOR
    if at(run, pg.GRADIENT):
        g, g_panel = w + at(run, pg.GRADIENT), w_panel
    if stage & weights.LAST and at(op, pg.PENALTY):
        penalty.measure(KIND, run, op, k0, k1, j0, j1, h)
    due, more = stage & weights.DUE, stage & weights.MORE
    moments = at(run, pg.MOMENTS)
    arrays = at(run, pg.ARRAYS) if due else 0
    panels = (count + DEPTH - 1) // DEPTH
    # a square's update waits until the next one's products, which it runs beside: w and c of the one that waits
    waiting, waiting_c, turn = 0, 0, 0
    own = h + at(op, pg.RATES)
    second = MATRIX_ROWS * VECTOR
    alone = panels <= SAMPLE_STEPS and at(run, pg.GRADIENT) == 0
    if alone:
        g_panel = 2 * second
    amx_begin()
    for b0 in range(0, panels, SAMPLE_STEPS):
        steps = min(SAMPLE_STEPS, panels - b0)
        slopes = sums + SUMS
        inputs = slopes + (j1 - j0) * steps * STEP
        # a worker's tasks walk along the inputs: most of them find these neurons' terms in place
        packed = op * pg.LINE + j0 if steps == panels else 0
        if packed == 0 or at(now, pg.NOW_PACKED) != packed:
            _pack_slopes(op, j0, j1, b0, steps, count, slopes)
            store_int(now + 8 * pg.NOW_PACKED, packed)
        k = 0
        end = min(k1, at(op, pg.IN)) - k0
        while k < end:
            rest = end - k
            tall = 2 if rest >= 2 * MATRIX_ROWS else 1
            rows = min(rest, tall * MATRIX_ROWS)
            a = at(op, pg.A) + b0 * a_panel + (k0 + k) * ROW
            for t in range(tall):
                source, height = a + t * MATRIX_ROWS * ROW, min(MATRIX_ROWS, rows)
                _pack_rows(source, ROW, height, VECTOR, steps, a_panel, steps, inputs + t * steps * STEP)
            j = 0
            while j < j1 - j0:
                wide = min(2, j1 - j0 - j)
                place = j * w_panel + k * VECTOR
                c = g + turn * 2 * g_panel if alone else g + j * g_panel + k * VECTOR
                complete = due and b0 + steps == panels
                fetched = arrays if complete else 0
                side = slopes + j * steps * STEP
                length = steps * STEP
                if rows == SQUARE_ROWS and wide == 2:
                    ahead = w + place
                    share = (2 * SQUARE_ROWS + GROUPS * steps - 1) // (GROUPS * steps)
                    begin_square(c, VECTOR, second, g_panel, more + b0)
                    for part in range(GROUPS * steps):
                        step = part // GROUPS * STEP
                        multiply_square(part % GROUPS, inputs + step, length, side + step, length)
                        _meanwhile(run, part, share, waiting, waiting_c, g_panel, ahead, fetched, w_panel, own)
                    end_square(c, VECTOR, second, g_panel)
                    waiting = 0
                    if complete:
                        for q in range(wide):
                            weights.prepare(KIND, run, op, k0 + k, rows, w + place + q * w_panel, c + q * g_panel, h)
                        if at(run, pg.UPDATE):
                            waiting, waiting_c, turn = w + place, c, 1 - turn
                    j += wide
                    continue
                for m in range(fetched):
                    for q in range(wide):
                        for byte in range(0, rows * VECTOR, pg.LINE):
                            prefetch_to_write(w + place + m * moments + q * w_panel + byte)
                key = 4 * tall + wide
                if rows % MATRIX_ROWS == 0:
                    tile_terms(key, inputs, length, side, length, c, VECTOR, second, g_panel, steps, more + b0)
                else:
                    kept = column(KIND, sums, 1)
                    if more + b0:
                        for q in range(wide):
                            earlier = column(KIND, c + q * g_panel, 1)
                            for i in range(rows):
                                kept[2 * i + q] = earlier[i]
                    tile_terms(key, inputs, length, side, length, sums, ROW, 0, VECTOR, steps, more + b0)
                    for q in range(wide):
                        target = column(KIND, c + q * g_panel, 1)
                        for i in range(rows):
                            target[i] = kept[2 * i + q]
                if complete:
                    for q in range(wide):
                        weights.finish(KIND, run, op, k0 + k, rows, w + place + q * w_panel, c + q * g_panel, h)
                j += wide
            k += rows
        if end < k1 - k0:
            for j in range(j1 - j0):
                place = j * w_panel + end * VECTOR
                c = sums if alone else g + j * g_panel + end * VECTOR
                _sum_rows(
                    at(op, pg.T) + (j0 + j) * at(op, pg.T_PANEL),
                    b0 * DEPTH,
                    min(count, (b0 + steps) * DEPTH),
                    c,
                    more + b0,
                )
                if due and b0 + steps == panels:
                    weights.finish(KIND, run, op, k0 + end, 1, w + place, c, h)
    if waiting:
        for q in range(2):
            weights.update(run, op, SQUARE_ROWS, waiting + q * w_panel, waiting_c + q * g_panel, h)
    amx_end()
    if due and at(op, pg.SQUARES):
        updates.squares_of(KIND, run, op, k0, k1, j0, j1)
    return 0.0


RULES = {"forward": forward, "backward": backward, "task": task}


@functools.cache
def rule(name: str) -> Kernel:
    """The compiled rule of a name: "forward", "backward" or "task"."""
    return Kernel(RULES[name], SIGNATURE, seconds=0.8)


def _ways(
    layers: Sequence[LayerSpec], panels: int, thin: int, backward: bool, by_sides: bool
) -> tuple[list[bool], list[bool]]:
    """Which layers' products go by terms, of the rows and of the gradient: it follows from shapes alone.

    A prediction's must not depend on the batch, for a row is to have the same bits in any: large layers always go by
    terms, others never. In training packing pays from a few panels of rows on; where a step is cut by neurons, only the
    gradient's does.
    """
    rows, gradient = [], []
    for layer in layers:
        large = layer.fan_in * layer.fan_out >= LARGE
        fits = layer.operation is DENSE and min(layer.fan_in, layer.fan_out) >= LEAST
        if backward:
            rows.append(fits and not thin and not by_sides and (large or panels >= LEAST_PANELS))
            gradient.append(fits and not thin and panels > 1)
        else:
            rows.append(fits and large)
            gradient.append(False)
    return rows, gradient


def rule_names(program: Program, batch: int, backward: bool) -> list[str]:
    """The rules that runs over batches of so many rows need."""
    if not _usable(program):
        return []
    panels = -(-batch // program.tiles.samples)
    by_sides = backward and cut(program, batch)
    rows, gradient = _ways(program.layers, panels, program.thin_rows(batch, backward), backward, by_sides)
    needed = {"forward": any(rows), "backward": backward and any(rows), "task": any(gradient)}
    return [name for name, wanted in needed.items() if wanted]


def _usable(program: Program) -> bool:
    return program.tiles.terms and not program.half


def room(plan: Plan) -> int:
    """Bytes that a worker needs to pack terms."""
    rows, gradient = _ways(plan.layers, plan.panels, plan.thin, plan.backward, len(plan.borders) > 0)
    if not _usable(plan.program) or not any(rows + gradient):
        return 0
    steps = [0]
    if any(rows):
        steps.append((min(PANELS_PER_TASK, plan.panels) + 2) * 2 * K_STEPS)
    if any(gradient):
        steps.append((pg.PANELS_OF_TILE + 2) * min(SAMPLE_STEPS, plan.panels))
    return SUMS + max(steps) * STEP


def bind(table: np.ndarray, plan: Plan, scratch: int) -> None:
    """Put the rules' addresses into the rows of a table of ops; scratch: distance to a worker's room for terms."""
    ways = _ways(plan.layers, plan.panels, plan.thin, plan.backward, len(plan.borders) > 0)
    rows, gradient = (np.array(each) for each in ways)
    dense = table[:, pg.SPARSE] == 0
    table[:, pg.TERMS] = scratch
    table[rows & dense, pg.FORWARD_RULE] = rule("forward").address() if rows.any() else 0
    if plan.backward:
        table[rows, pg.BACKWARD_RULE] = rule("backward").address() if rows.any() else 0
        table[gradient & dense, pg.TASK_RULE] = rule("task").address() if gradient.any() else 0
