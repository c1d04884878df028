"""Phase two: tiles of each weight matrix sum their gradient over the batch and are updated while they are in cache."""

from typing import Any

from fastbp import program as pg
from fastbp._jit import helper
from fastbp._vector import call_rule, column, lanes, load_int, load_number, spread
from fastbp.cpu import penalty, updates
from fastbp.cpu.rows import at
from fastbp.cpu.tile import (
    gradient_height,
    item_bytes,
    most_gradient_vectors,
    panel_width,
    prefetch_to_write,
    row_bytes,
    tile_dots,
    tile_gradient,
)

SAMPLES = 256
"""Batch rows of a block: its operands stay in the first cache levels."""
FEW_SAMPLES, TOGETHER, NEAR = 32, 32, 1 << 17
"""Over so few batch rows a tile is soon summed, and its update mostly its call: so many inputs' are made together.

Where weights take as many bytes, each tile's lines are better used as they come: Adam at one row +11 % otherwise."""
HELD = 1 << 14
"""Bytes of weights and moments that stay in a core's first cache from step to step: nothing to be asked for ahead."""
FAR = 1 << 20
"""Bytes of inputs of a block of batch rows: a tile asks for those of the next one. Large with Adam -3 % on a Zen 5."""
LAST, MORE, DUE = 1, 2, 4
"""Bits of a stage: the batch's last slab; earlier slabs or batches were summed; the sum is whole, and an update due."""


@helper
def finish(kind: Any, run: int, op: int, k: int, rows: int, w: int, g: int, h: int) -> None:
    """What follows the sum of rows k:k+rows of one panel's gradient (at g, the weights at w): their update."""
    prepare(kind, run, op, k, rows, w, g, h)
    if at(run, pg.UPDATE):
        update(run, op, rows * (panel_width(kind) // lanes(kind)), w, g, h)


@helper
def prepare(kind: Any, run: int, op: int, k: int, rows: int, w: int, g: int, h: int) -> None:
    """What makes the gradient of rows k:k+rows of one panel out of their sum."""
    if at(run, pg.AVERAGE):
        call_rule(at(run, pg.AVERAGE), g, rows * (panel_width(kind) // lanes(kind)), at(run, pg.SHARE), 0, 0, 0)
    if at(op, pg.PENALTY):
        penalty.pull(kind, run, op, k, rows, w, g, h)


@helper
def update(run: int, op: int, vectors: int, w: int, g: int, h: int) -> None:
    """Move so many vectors of weights by their gradient, or the first ones of -vectors rows of a panel."""
    own = h + at(op, pg.RATES)
    call_rule(at(run, pg.UPDATE), w, at(run, pg.MOMENTS), g, vectors, own, at(run, pg.STATUS))


@helper
def may_skip(run: int, op: int) -> bool:
    """Whether rows of an op's weights with no gradient may be left alone in this run: their update changes nothing."""
    return at(run, pg.STILL) == 1 and at(op, pg.PENALTY) == 0 and at(run, pg.GRADIENT) == 0


@helper
def _tile_width(kind: Any, op: int, j: int, j1: int) -> int:
    """Panels of the next register tile of an op's neurons' panels j:j1."""
    if panel_width(kind) > lanes(kind):
        return 1
    last = at(op, pg.W_PANELS) - 1
    if at(op, pg.FEW) and j < last:
        j1 = min(j1, last)
    return min(most_gradient_vectors(kind), j1 - j)


@helper
def _tile_vectors(kind: Any, op: int, j: int, panels: int) -> int:
    """Vectors of the register tile of so many panels from j on."""
    per_panel = panel_width(kind) // lanes(kind)
    if per_panel == 1:
        return panels
    return min(per_panel, (at(op, pg.OUT) - j * panel_width(kind) + lanes(kind) - 1) // lanes(kind))


@helper
def _sum_few(kind: Any, op: int, k: int, rows: int, b0: int, b1: int, c: int, more: int) -> None:
    """As `_sum_tile`, of the last panel's neurons where they are few."""
    size, samples, few = row_bytes(kind), 2 * lanes(kind), at(op, pg.FEW)
    k_bytes = panel_width(kind) * item_bytes(kind)
    tall = 8
    while tall * few > lanes(kind):
        tall //= 2
    p = b0 // samples
    vectors = (b1 - b0 + lanes(kind) - 1) // lanes(kind)
    a = at(op, pg.A) + p * at(op, pg.A_PANEL) + k * size
    dz = at(op, pg.DZ) + p * at(op, pg.DZ_PANEL) + (at(op, pg.OUT) - few) * size
    i = 0
    while i < rows:
        height = tall
        while height > rows - i:
            height //= 2
        place = c + i * k_bytes
        tile_dots(
            kind, 16 * height + few, a + i * size, dz, place, vectors, more, at(op, pg.A_PANEL), at(op, pg.DZ_PANEL)
        )
        i += height
    for i in range(rows):
        for beyond in range(1, panel_width(kind) // lanes(kind)):
            column(kind, c + i * k_bytes, 1)[beyond] = spread(kind, 0.0)


@helper
def _sum_tile(
    kind: Any, op: int, k: int, rows: int, j: int, panels: int, b0: int, b1: int, c: int, c_panel: int, more: int
) -> None:
    """Sums at c of `rows` inputs from k on and of so many panels of neurons from j on, over the batch rows b0:b1.

    more : 0 begins at zero, else at what is there
    """
    if at(op, pg.FEW) and j == at(op, pg.W_PANELS) - 1:
        _sum_few(kind, op, k, rows, b0, b1, c, more)
        return
    width, samples = panel_width(kind), 2 * lanes(kind)
    k_bytes = width * item_bytes(kind)
    per_panel = width // lanes(kind)
    vectors = _tile_vectors(kind, op, j, panels)
    a_panel, t_panel = at(op, pg.A_PANEL), at(op, pg.T_PANEL)
    a = at(op, pg.A) + b0 // samples * a_panel + k * row_bytes(kind)
    v = at(op, pg.T) + j * t_panel + b0 * k_bytes
    far = 1 if (b1 - b0) // samples * a_panel >= FAR else 0
    tile_gradient(kind, 16 * rows + vectors, a, v, c, b1 - b0, more, far, a_panel, samples * k_bytes, c_panel, t_panel)
    for i in range(rows):
        for beyond in range(vectors if per_panel > 1 else per_panel, per_panel):
            column(kind, c + i * k_bytes, 1)[beyond] = spread(kind, 0.0)


@helper
def _products(
    kind: Any, op: int, k: int, rows: int, j: int, panels: int, b: int, c: int, c_panel: int, more: int
) -> None:
    """As `_sum_tile` over the batch row b alone, for any number of inputs: no sums that registers would hold."""
    size, n, item = row_bytes(kind), lanes(kind), item_bytes(kind)
    width, samples = panel_width(kind), 2 * n
    per_panel, vectors = width // n, _tile_vectors(kind, op, j, 1)
    a = at(op, pg.A) + b // samples * at(op, pg.A_PANEL) + k * size + b % samples * item
    for i in range(panels):
        dz = column(kind, at(op, pg.T) + (j + i) * at(op, pg.T_PANEL) + b * width * item, 1)
        for m in range(per_panel):
            value = dz[m]
            if m >= vectors:
                value = spread(kind, 0.0)
            place = column(kind, c + i * c_panel + m * n * item, 1)
            if more:
                for r in range(rows):
                    place[r * per_panel] = place[r * per_panel] + spread(kind, load_number(kind, a + r * size)) * value
            else:
                for r in range(rows):
                    place[r * per_panel] = spread(kind, load_number(kind, a + r * size)) * value


@helper
def sums(
    kind: Any,
    run: int,
    op: int,
    k0: int,
    k1: int,
    j0: int,
    j1: int,
    b0: int,
    b1: int,
    more: int,
    g: int,
    g_panel: int,
    due: int,
    h: int,
) -> None:
    """Gradient at g of the inputs k0:k1 and the panels of neurons j0:j1, over the batch rows b0:b1.

    more : 0 begins at zero, else at what is there; due : whether an update follows, tile by tile; h : its coefficients
    """
    k_bytes, w_panel = panel_width(kind) * item_bytes(kind), at(op, pg.W_PANEL)
    moments = at(run, pg.MOMENTS)
    single = b1 - b0 == 1
    arrays = at(run, pg.ARRAYS) if due and b1 - b0 > 4 else 0
    if at(run, pg.THREADS) == 1 and arrays * moments <= HELD:
        arrays = 0
    together = TOGETHER if single or (due and moments < NEAR and b1 - b0 <= FEW_SAMPLES) else 1
    sliver = TOGETHER // 4 if single else 0
    per_panel = panel_width(kind) // lanes(kind)
    j = j0
    while j < j1:
        panels = _tile_width(kind, op, j, j1)
        vectors = _tile_vectors(kind, op, j, panels)
        few = at(op, pg.FEW) and j == at(op, pg.W_PANELS) - 1
        k = k0
        while k < k1:
            first, w = k, at(op, pg.W) + j * w_panel + k * k_bytes
            c = g + (j - j0) * g_panel + (k - k0) * k_bytes
            end = k1 if k1 - k <= together + sliver else k + together
            while k < end:
                if few:
                    rows = k1 - k
                elif single:
                    rows = end - k
                else:
                    rows = gradient_height(kind, k1 - k, vectors)
                begin = (k - first) * k_bytes
                for m in range(arrays):
                    for i in range(panels):
                        for byte in range(begin, begin + rows * k_bytes, pg.LINE):
                            prefetch_to_write(w + m * moments + i * w_panel + byte)
                if single and not few:
                    _products(kind, op, k, rows, j, panels, b0, c + begin, g_panel, more)
                else:
                    _sum_tile(kind, op, k, rows, j, panels, b0, b1, c + begin, g_panel, more)
                k += rows
            if due:
                for i in range(panels):
                    prepare(kind, run, op, first, k - first, w + i * w_panel, c + i * g_panel, h)
                    if at(run, pg.UPDATE):
                        alone = per_panel > 1 and vectors == 1  # the panel's other vectors stand for no neurons
                        moved = first - k if alone else (k - first) * per_panel
                        update(run, op, moved, w + i * w_panel, c + i * g_panel, h)
        j += panels


@helper
def task(kind: Any, run: int, row: int, count: int, stage: int, h: int, g: int) -> None:
    """Gradient of the tile that the task's row names and, where it is due, its update.

    The sums of a block of batch rows run over small register tiles; a tile is updated as soon as its sum is whole.
    The biases are one more input, whose activation is 1.

    count: batch rows of the slab; stage: bits LAST, MORE and DUE; h: coefficients; g: the worker's scratch.
    """
    op = at(run, pg.TABLE) + 8 * pg.OP_COLUMNS * load_int(row + 8)
    k0, k1, j0, j1 = load_int(row + 16), load_int(row + 24), load_int(row + 32), load_int(row + 40)
    k_bytes = panel_width(kind) * item_bytes(kind)
    g_panel = (k1 - k0) * k_bytes
    if at(run, pg.GRADIENT):
        g_panel = at(op, pg.W_PANEL)
        g = at(op, pg.W) + j0 * g_panel + k0 * k_bytes + at(run, pg.GRADIENT)
    if stage & LAST and at(op, pg.PENALTY):
        penalty.measure(kind, run, op, k0, k1, j0, j1, h)
    due, more = stage & DUE, stage & MORE
    for b0 in range(0, count, SAMPLES):
        b1 = min(count, b0 + SAMPLES)
        sums(kind, run, op, k0, k1, j0, j1, b0, b1, more + b0, g, g_panel, due if b1 == count else 0, h)
    if due and at(op, pg.SQUARES):
        updates.squares_of(kind, run, op, k0, k1, j0, j1)
