"""bfloat16: the products of rows and weights on pairs of 16-bit numbers, each reached by its address in an op's row.

Weights, moments, activations and gradients stay float32 and belong to the same code as ever; each product reads copies
in bfloat16, written where their originals were just made and are in cache:

* A_PAIRS   inputs, pairs along the inputs: [panel][input pair][batch row]        forward, vector side
* A_PLAIN   inputs: [panel][input][batch row]                                     gradient, broadcast side
* DZ_PAIRS  dZ, pairs along the outputs: [panel][output pair][batch row]          backward, vector side
* T         dZ transposed, pairs along the batch: [weight panel][row pair][output]  gradient, vector side
* WF        weights: [weight panel][block of inputs][output][input]               forward, broadcast side
* WB        weights: [block of inputs][block of outputs][input][output]           backward, broadcast side

A block along a sum is as many pairs as a vector has lanes; what lies beyond a sum's end is 0.
"""

import functools
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import Kernel, helper
from fastbp._vector import column, lanes, load_int, spread, where
from fastbp.cpu import penalty, updates, weights
from fastbp.cpu.machine import amx_granted
from fastbp.cpu.pairs import (
    MATRIX_ROWS,
    amx_begin,
    amx_end,
    narrowed,
    paired,
    stack,
    tallest_pairs,
    tile_matrix,
    tile_pairs,
)
from fastbp.cpu.rows import at
from fastbp.cpu.rules import SIGNATURE
from fastbp.cpu.squares import transpose_square
from fastbp.cpu.tile import item_bytes, panel_width, prefetch_to_write, row_bytes

KIND: Any = np.float32
K_BLOCK = 384  # numbers of a sum: 24 KB of the vector side stay in L1
SAMPLES = 512  # batch rows of a block of the gradient
SQUARE = 4096  # bytes of lanes x lanes numbers, at most; and of the sums of two AMX tiles' rows


@helper
def _vector_bytes() -> int:
    return lanes(KIND) * item_bytes(KIND)


@helper
def _products(
    amx: int,
    rows: int,
    vectors: int,
    a: int,
    a_second: int,
    a_outer: int,
    v: int,
    v_step: int,
    v_next: int,
    v_outer: int,
    c: int,
    c_row: int,
    c_next: int,
    blocks: int,
    accumulate: int,
    mode: int,
    mask: int,
    scratch: int,
) -> int:
    """Sums of the next rows, at most `rows`; returns how many."""
    if amx:
        done = min(rows, 2 * MATRIX_ROWS)
        tall = 2 if done > MATRIX_ROWS else 1
        whole = done == tall * MATRIX_ROWS and mode == 0
        target, target_row, target_next = c, c_row, c_next
        if not whole:
            target, target_row, target_next = scratch, 2 * _vector_bytes(), _vector_bytes()
            if accumulate:
                for i in range(done):
                    for j in range(vectors):
                        column(KIND, scratch, 1)[2 * i + j] = column(KIND, c + i * c_row + j * c_next, 1)[0]
        tile_matrix(
            4 * tall + vectors,
            a,
            a_second,
            a_outer,
            v,
            v_step,
            v_next,
            v_outer,
            target,
            target_row,
            target_next,
            blocks,
            accumulate,
        )
        if not whole:
            _finish(done, vectors, scratch, c, c_row, c_next, mode, mask)
        return done
    height = tallest_pairs()
    while height > rows:
        height //= 2
    tile_pairs(
        4 * height + vectors,
        a,
        a_second,
        a_outer,
        v,
        v_step,
        v_next,
        v_outer,
        c,
        c_row,
        c_next,
        blocks,
        accumulate,
        mode,
        mask,
    )
    return height


@helper
def _finish(rows: int, vectors: int, source: int, c: int, c_row: int, c_next: int, mode: int, mask: int) -> None:
    """Sums from the scratch to their place: as they are (mode 0), rectified (1), or where the mask is positive (2)."""
    sums = column(KIND, source, 1)
    for i in range(rows):
        for j in range(vectors):
            place = i * c_row + j * c_next
            target = column(KIND, c + place, 1)
            value = sums[2 * i + j]
            if mode == 1:
                value = where(value < 0.0, 0.0, value)
            elif mode == 2:
                value = where(column(KIND, mask + place, 1)[0] > 0.0, value, 0.0)
            target[0] = value


@helper
def _blocks(numbers: int) -> int:
    """Blocks of pairs in a sum."""
    return (numbers + 2 * lanes(KIND) - 1) // (2 * lanes(KIND))


@helper
def _even(blocks: int) -> int:
    """Blocks of a run of about K_BLOCK numbers, all runs alike."""
    most = K_BLOCK // (2 * lanes(KIND))
    runs = (blocks + most - 1) // most
    return (blocks + runs - 1) // runs


def forward(op: int, p0: int, p1: int, o0: int, o1: int, _f: int) -> float:
    """Z of neurons o0:o1 from A_PAIRS, for the panels p0:p1; rectified where the op says so."""
    scratch = stack(SQUARE)
    size, vector, width = row_bytes(KIND), _vector_bytes(), panel_width(KIND)
    amx = at(op, pg.AMX)
    blocks = _blocks(at(op, pg.STEPS_IN))
    run = _even(blocks)
    w, w_panel = at(op, pg.WF), at(op, pg.WF_PANEL)
    neurons = pg.NEURON_BLOCK // width * width
    if amx:
        amx_begin()
    for n0 in range(o0, o1, neurons):
        n1 = min(o1, n0 + neurons)
        for k0 in range(0, blocks, run):
            k = min(run, blocks - k0)
            mode = at(op, pg.MODE) if k0 + k == blocks else 0
            for p in range(p0, p1):
                v = at(op, pg.A_PAIRS) + p * at(op, pg.A_PAIRS_PANEL) + k0 * lanes(KIND) * size
                z = at(op, pg.Z) + p * at(op, pg.Z_PANEL)
                o = n0
                while o < n1:
                    a = w + o // width * w_panel + k0 * width * vector + o % width * vector
                    rest = n1 - o if amx else min(n1 - o, width - o % width)
                    o += _products(
                        amx,
                        rest,
                        2,
                        a,
                        w_panel,
                        width * vector,
                        v,
                        size,
                        vector,
                        lanes(KIND) * size,
                        z + o * size,
                        size,
                        vector,
                        k,
                        k0,
                        mode,
                        0,
                        scratch,
                    )
    if amx:
        amx_end()
    return 0.0


def backward(op: int, p0: int, p1: int, i0: int, i1: int, _f: int) -> float:
    """DA of the inputs i0:i1 from DZ_PAIRS, for the panels p0:p1; masked where the inputs were rectified."""
    scratch = stack(SQUARE)
    size, vector, n = row_bytes(KIND), _vector_bytes(), lanes(KIND)
    amx = at(op, pg.AMX)
    blocks = _blocks(at(op, pg.OUT))
    run = _even(blocks)
    w, w_block = at(op, pg.WB), at(op, pg.WB_BLOCK)
    if amx:
        amx_begin()
    for n0 in range(i0, i1, pg.NEURON_BLOCK):
        n1 = min(i1, n0 + pg.NEURON_BLOCK)
        for k0 in range(0, blocks, run):
            k = min(run, blocks - k0)
            mode = 2 * at(op, pg.MASK) if k0 + k == blocks else 0
            for p in range(p0, p1):
                v = at(op, pg.DZ_PAIRS) + p * at(op, pg.DZ_PAIRS_PANEL) + k0 * n * size
                da = at(op, pg.DA) + p * at(op, pg.DA_PANEL)
                mask = at(op, pg.A) + p * at(op, pg.A_PANEL)
                i = n0
                while i < n1:
                    a = w + i // n * w_block + k0 * n * vector + i % n * vector
                    rest = n1 - i if amx else min(n1 - i, n - i % n)
                    i += _products(
                        amx,
                        rest,
                        2,
                        a,
                        w_block,
                        n * vector,
                        v,
                        size,
                        vector,
                        n * size,
                        da + i * size,
                        size,
                        vector,
                        k,
                        k0,
                        mode,
                        mask + i * size,
                        scratch,
                    )
    if amx:
        amx_end()
    return 0.0


def pack_inputs(op: int, p0: int, p1: int, i0: int, i1: int, _f: int) -> float:
    """A_PAIRS and, where it is wanted, A_PLAIN from A, for the inputs i0:i1 (i0 even) and what follows the last."""
    n = lanes(KIND)
    steps = at(op, pg.STEPS_IN)
    last = i1 == at(op, pg.IN)
    end = steps if last else i1
    zero = spread(KIND, 0.0)
    for p in range(p0, p1):
        source = column(KIND, at(op, pg.A) + p * at(op, pg.A_PANEL), 1)
        pairs = column(KIND, at(op, pg.A_PAIRS) + p * at(op, pg.A_PAIRS_PANEL), 1)
        for i in range(i0, end, 2):
            for half in range(2):
                high = source[2 * (i + 1) + half] if i + 1 < end else zero
                pairs[i + half] = paired(source[2 * i + half], high)
        if last:
            for i in range((end + 1) // 2 * 2, _blocks(steps) * 2 * n, 2):
                pairs[i] = zero
                pairs[i + 1] = zero
        if at(op, pg.A_PLAIN):
            plain = column(KIND, at(op, pg.A_PLAIN) + p * at(op, pg.A_PLAIN_PANEL), 1)
            for i in range(i0, end):
                plain[i] = narrowed(source[2 * i], source[2 * i + 1])
    return 0.0


def pack_gradient(op: int, p0: int, p1: int, o0: int, o1: int, _f: int) -> float:
    """DZ_PAIRS and T from DZ, for the neurons o0:o1 (o0 a multiple of the vector) and what follows the last."""
    square = stack(SQUARE)
    vector, n, width = _vector_bytes(), lanes(KIND), panel_width(KIND)
    last = o1 == at(op, pg.OUT)
    zero = spread(KIND, 0.0)
    wide = column(KIND, square, 1)
    for p in range(p0, p1):
        source = column(KIND, at(op, pg.DZ) + p * at(op, pg.DZ_PANEL), 1)
        pairs = column(KIND, at(op, pg.DZ_PAIRS) + p * at(op, pg.DZ_PAIRS_PANEL), 1)
        for o in range(o0, o1, 2):
            for half in range(2):
                high = source[2 * (o + 1) + half] if o + 1 < o1 else zero
                pairs[o + half] = paired(source[2 * o + half], high)
        if last:
            for o in range((o1 + 1) // 2 * 2, _blocks(o1) * 2 * n, 2):
                pairs[o] = zero
                pairs[o + 1] = zero
        for o in range(o0, o1, n):
            for i in range(n):
                wide[i] = narrowed(source[2 * (o + i)], source[2 * (o + i) + 1]) if o + i < o1 else zero
            target = at(op, pg.T) + o // width * at(op, pg.T_PANEL)
            target += (n * p * width + o % width) * item_bytes(KIND)
            transpose_square(KIND, square, vector, target, width * item_bytes(KIND))
    return 0.0


@helper
def pack_weights_of(op: int, k0: int, k1: int, j0: int, j1: int) -> None:
    """WF and, where it is wanted, WB from the inputs k0:k1 (k0 at a block's border) of the panels j0:j1 (j0 even)."""
    square = stack(SQUARE)
    vector, n, width = _vector_bytes(), lanes(KIND), panel_width(KIND)
    per_panel = width // n
    steps = at(op, pg.STEPS_IN)
    zero = spread(KIND, 0.0)
    wide = column(KIND, square, 1)
    w, w_panel = at(op, pg.W), at(op, pg.W_PANEL)
    for j in range(j0, j1):
        source = column(KIND, w + j * w_panel, 1)
        for k in range(k0, k1, 2 * n):
            block = at(op, pg.WF) + j * at(op, pg.WF_PANEL) + k // (2 * n) * width * vector
            for sub in range(per_panel):
                for i in range(n):
                    row = k + 2 * i
                    low = source[row * per_panel + sub] if row < steps else zero
                    high = source[(row + 1) * per_panel + sub] if row + 1 < steps else zero
                    wide[i] = paired(low, high)
                transpose_square(KIND, square, vector, block + sub * n * vector, vector)
    if at(op, pg.WB):
        vectors = (at(op, pg.OUT) + n - 1) // n
        for q in range(j0 * per_panel, min(j1 * per_panel, vectors), 2):
            one = column(KIND, w + q // per_panel * w_panel + q % per_panel * vector, 1)
            other = column(KIND, w + (q + 1) // per_panel * w_panel + (q + 1) % per_panel * vector, 1)
            for k in range(k0, min(k1, at(op, pg.IN))):
                high = other[k * per_panel] if q + 1 < vectors else zero
                target = at(op, pg.WB) + k // n * at(op, pg.WB_BLOCK) + q // 2 * n * vector + k % n * vector
                column(KIND, target, 1)[0] = narrowed(one[k * per_panel], high)


@helper
def _ask_for_copies(op: int, k: int, rows: int, j: int, panels: int) -> None:
    """Ask for the lines of WF and WB, to be written, of `rows` inputs from k on (a block's border) of some panels."""
    vector, n, width = _vector_bytes(), lanes(KIND), panel_width(KIND)
    for i in range(j, j + panels):
        block = at(op, pg.WF) + i * at(op, pg.WF_PANEL) + k // (2 * n) * width * vector
        for byte in range(0, width * vector, pg.LINE):
            prefetch_to_write(block + byte)
    if at(op, pg.WB):
        for i in range(k, k + rows):
            block = at(op, pg.WB) + i // n * at(op, pg.WB_BLOCK) + i % n * vector
            prefetch_to_write(block + j * width // (2 * n) * n * vector)


def pack_weights(op: int, k0: int, k1: int, j0: int, j1: int, _f: int) -> float:
    """`pack_weights_of` as a rule."""
    pack_weights_of(op, k0, k1, j0, j1)
    return 0.0


def task(run: int, row: int, count: int, stage: int, h: int, g: int) -> float:
    """As `weights.task`."""
    scratch = stack(SQUARE)
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
    k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
    vector, n, width = _vector_bytes(), lanes(KIND), panel_width(KIND)
    per_panel = width // n
    k_bytes = width * item_bytes(KIND)
    w_panel, t_panel, a_panel = at(op, pg.W_PANEL), at(op, pg.T_PANEL), at(op, pg.A_PLAIN_PANEL)
    w = at(op, pg.W) + j0 * w_panel + k0 * k_bytes
    g_panel = (k1 - k0) * k_bytes
    if at(run, pg.GRADIENT):
        g, g_panel = w + at(run, pg.GRADIENT), w_panel
    if stage & weights.LAST and at(op, pg.PENALTY):
        penalty.measure(KIND, run, op, k0, k1, j0, j1, h)
    due, more = stage & weights.DUE, stage & weights.MORE
    moments = at(run, pg.MOMENTS)
    arrays = at(run, pg.ARRAYS) if due else 0
    amx = at(op, pg.AMX)
    copied = amx and due and at(run, pg.UPDATE) and at(op, pg.CONSTRAIN) == 0
    panels = (count + 2 * n - 1) // (2 * n)
    most = SAMPLES // (2 * n)
    # one turn sums two panels of one vector each, or up to two vectors of one panel
    across = 2 if per_panel == 1 else 1
    step_next, sum_next = (t_panel, g_panel) if per_panel == 1 else (vector, vector)
    if amx:
        amx_begin()
    for b0 in range(0, panels, most):
        blocks = min(most, panels - b0)
        a = at(op, pg.A_PLAIN) + b0 * a_panel + k0 * vector
        for j in range(0, j1 - j0, across):
            used = min(across, j1 - j0 - j)
            vectors = used if per_panel == 1 else (at(op, pg.OUT) - (j0 + j) * width + n - 1) // n
            vectors = min(vectors, across * per_panel)
            k = 0
            while k < k1 - k0:
                place = j * w_panel + k * k_bytes
                c = g + j * g_panel + k * k_bytes
                if b0 + blocks == panels:
                    for m in range(arrays):
                        for i in range(used):
                            for byte in range(0, 8 * k_bytes, pg.LINE):
                                prefetch_to_write(w + place + m * moments + i * w_panel + byte)
                    if copied:
                        _ask_for_copies(op, k0 + k, min(k1 - k0 - k, 2 * MATRIX_ROWS), j0 + j, used)
                done = 0
                for q in range(0, vectors, 2):
                    done = _products(
                        amx,
                        k1 - k0 - k,
                        min(2, vectors - q),
                        a + k * vector,
                        MATRIX_ROWS * vector,
                        a_panel,
                        at(op, pg.T) + (j0 + j) * t_panel + b0 * n * k_bytes + q * vector,
                        k_bytes,
                        step_next,
                        n * k_bytes,
                        c + q * vector,
                        k_bytes,
                        sum_next,
                        blocks,
                        more + b0,
                        0,
                        0,
                        scratch,
                    )
                if per_panel > 1:
                    for i in range(done):
                        for beyond in range(vectors, per_panel):
                            column(KIND, c + i * k_bytes, 1)[beyond] = spread(KIND, 0.0)
                if due and b0 + blocks == panels:
                    for i in range(used):
                        weights.finish(KIND, run, op, k0 + k, done, w + place + i * w_panel, c + i * g_panel, h)
                k += done
    if amx:
        amx_end()
    if due and at(op, pg.SQUARES):
        updates.squares_of(KIND, run, op, k0, k1, j0, j1)
    if due and at(run, pg.UPDATE) and at(op, pg.CONSTRAIN) == 0:
        pack_weights_of(op, k0, k1, j0, j1)
    return 0.0


RULES = {
    "forward": forward,
    "backward": backward,
    "pack inputs": pack_inputs,
    "pack gradient": pack_gradient,
    "pack weights": pack_weights,
    "task": task,
}


@functools.cache
def rule(name: str) -> Kernel:
    """The compiled rule of a name: "forward", "backward", "pack inputs", "pack gradient", "pack weights" or "task"."""
    return Kernel(RULES[name], SIGNATURE, seconds=0.8)


def bind(table: np.ndarray, backward_too: bool) -> None:
    """Put the rules' addresses into the rows of a table of ops."""
    forward_rule, pack = rule("forward").address(), rule("pack inputs").address()
    products = table[:, pg.A_PAIRS_PANEL] != 0
    table[products, pg.FORWARD_RULE], table[products, pg.PACK] = forward_rule, pack
    table[table[:, pg.PACK_TO] != 0, pg.PACK_NEXT] = pack
    table[:, pg.AMX] = amx_granted()
    if backward_too:
        table[products & (np.arange(len(table)) > 0), pg.BACKWARD_RULE] = rule("backward").address()
        table[:, pg.TRANSPOSE_RULE] = rule("pack gradient").address()
        table[products, pg.TASK_RULE] = rule("task").address()
        table[products, pg.PACK_RULE] = rule("pack weights").address()
