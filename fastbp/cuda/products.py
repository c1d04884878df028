"""The three products of a layer by tiles in shared memory, each with what follows it; and the seam for others.

`Products` is what a step asks for; `Tiles` are our own kernels, which serve everywhere and run in the simulator. Other
products (see the engine's ``products``) give the same numbers but for rounding.

A block computes a tile of the result, its threads small tiles of it in registers: thread (ty, tx) the rows ty, ty + TY,
... and columns tx, tx + TX, ..., so that neighbours read and write neighbours. Operands go through two buffers of
shared memory in turn; the next ones are read while these are multiplied. Every sum runs over its terms in order, or,
where too few tiles would busy a GPU, in parts that several blocks sum; the last of these adds them up in order.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, Activation
from fastbp.cuda import layout as lo
from fastbp.cuda import rules, tickets, weights
from fastbp.cuda.device import cuda, inlined, kernel
from fastbp.cuda.layout import Layout
from fastbp.cuda.precision import half, rounded
from fastbp.cuda.rows import goes_on
from fastbp.cuda.shapes import Shapes, Tile
from fastbp.cuda.step import Launch
from fastbp.layout.operations import DENSE

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound

PARTS = 2
"""A thread's sums go through shared memory in two parts: `_passing` names both."""
PAD = 4
"""Numbers between the rows of a tile in shared memory: threads that write along a column meet other banks."""


class Products(Protocol):
    """The launches of a layer's products; `op` is the number of a product among the ops of the bound step.

    All of the buffers' rows may be computed, whatever the batch has: dZ is 0 in those beyond it. `precision` is what
    factors are rounded to.
    """

    precision: str

    def __init__(self, bound: "Bound") -> None: ...

    def first(self) -> list[Launch]:
        """What a run begins with, before its first step."""
        ...

    def forward(self, op: int) -> list[Launch]:
        """Z = A W + b where Z is kept, and H, its activation (Z itself for the last op), always."""
        ...

    def input_gradient(self, op: int) -> list[Launch]:
        """dA = dZ W', times the derivative of the activation of the op before, whose dZ it becomes."""
        ...

    def weight_gradients(self, ops: list[int], fused: bool) -> list[Launch]:
        """A' dZ, and the sums of dZ for the biases, into the gradient (added where ``rows.goes_on`` says so).

        fused : the weights are updated in the same launch instead, and the gradient needn't be written
        """
        ...


def shared_numbers(tile: Tile) -> int:
    """Numbers of shared memory that a tile's operands take, and after them half of the tile."""
    return max(2 * tile.depth * (tile.rows + tile.columns + 2 * PAD), tile.rows * tile.columns // PARTS)


@functools.cache
def _multiply(dtype: np.dtype, tile: Tile, precision: str, a_along: bool, b_along: bool, ones: bool) -> Any:
    """The tile's sums, C[m, n] = sum over k of A[m, k] B[k, n], into registers.

    a_along : whether A's neighbours in memory are along k; b_along : whether B's are along n
    precision : what the factors are rounded to (see ``precision``)
    ones : whether A has one more row than there is in memory, of ones
    """
    kind: Any = dtype.type
    factor = rounded(precision)
    rows, columns, depth, high, wide = tile.rows, tile.columns, tile.depth, tile.high, tile.wide
    threads, across, down = tile.threads, columns // wide, rows // high
    loads_a, loads_b = rows * depth // threads, columns * depth // threads
    row_a, row_b = rows + PAD, columns + PAD
    stage = depth * (row_a + row_b)

    def multiply(sums, share, a, a0, a_m, a_k, b, b0, b_k, b_n, first_m, first_n, m, n, k):
        next_a, next_b = cuda.local.array(loads_a, dtype), cuda.local.array(loads_b, dtype)
        left, right = cuda.local.array(high, dtype), cuda.local.array(wide, dtype)
        thread = cuda.threadIdx.x
        tx, ty = thread % across, thread // across
        k0, buffer = 0, 0
        while k0 < k + depth:
            if k0 > 0:
                for e in range(loads_a):
                    i = thread + e * threads
                    u, v = (i // depth, i % depth) if a_along else (i % rows, i // rows)
                    share[buffer + v * row_a + u] = factor(next_a[e])
                for e in range(loads_b):
                    i = thread + e * threads
                    u, v = (i % columns, i // columns) if b_along else (i // depth, i % depth)
                    share[buffer + depth * row_a + v * row_b + u] = factor(next_b[e])
                cuda.syncthreads()
            if k0 < k:
                for e in range(loads_a):
                    i = thread + e * threads
                    u, v = (i // depth, i % depth) if a_along else (i % rows, i // rows)
                    u, v = first_m + u, k0 + v
                    value = kind(0)
                    if v < k:
                        if u < m:
                            value = a[a0 + u * a_m + v * a_k]
                        elif ones and u == m:
                            value = kind(1)
                    next_a[e] = value
                for e in range(loads_b):
                    i = thread + e * threads
                    u, v = (i % columns, i // columns) if b_along else (i // depth, i % depth)
                    u, v = first_n + u, k0 + v
                    next_b[e] = b[b0 + v * b_k + u * b_n] if u < n and v < k else kind(0)
            if k0 > 0:
                for v in range(depth):
                    for i in range(high):
                        left[i] = share[buffer + v * row_a + ty + i * down]
                    for j in range(wide):
                        right[j] = share[buffer + depth * row_a + v * row_b + tx + j * across]
                    for i in range(high):
                        for j in range(wide):
                            sums[i * wide + j] += left[i] * right[j]
                buffer = stage - buffer
            k0 += depth

    return inlined(multiply)


@functools.cache
def _passing(tile: Tile) -> Any:
    """A thread's sum number e, for a loop over them: registers can't be picked by a number, shared memory can.

    What follows a sum is too long to be written out for each, and where it isn't, sums would go to slow local memory.
    """
    wide, threads, rows = tile.wide, tile.threads, tile.high // PARTS
    part = rows * wide

    def passing(sums, share, e):
        thread = cuda.threadIdx.x
        if e == 0:
            for q in range(rows):
                for j in range(wide):
                    share[(q * wide + j) * threads + thread] = sums[q * wide + j]
        if e == part:
            for q in range(rows):
                for j in range(wide):
                    share[(q * wide + j) * threads + thread] = sums[(rows + q) * wide + j]
        return share[e % part * threads + thread]

    return inlined(passing)


@functools.cache
def _joined(tile: Tile, cut: bool) -> Any:
    """What a block does between the sums and what follows them: f(sums, share, partial, drawn, place, part, parts).

    It gives whether the block goes on, with whole sums in its registers: all do where sums aren't `cut` into parts.
    partial (tiles * parts * rows * columns,), drawn (tiles,) int64: tickets; place : the tile's number
    """
    count, threads, is_last = tile.high * tile.wide, tile.threads, tickets.is_last_in(globals())

    def whole(sums, share, partial, drawn, place, part, parts):
        cuda.syncthreads()
        return True

    def joined(sums, share, partial, drawn, place, part, parts):
        apart = count * threads
        first = place * parts * apart + cuda.threadIdx.x
        for e in range(count):
            partial[first + part * apart + e * threads] = sums[e]
        if not is_last(drawn, place, parts, share):
            return False
        for e in range(count):
            sums[e] = partial[first + e * threads]
        for other in range(1, parts):
            for e in range(count):
                sums[e] += partial[first + other * apart + e * threads]
        return True

    return inlined(joined if cut else whole)


@functools.cache
def forward(
    dtype: np.dtype, tile: Tile, precision: str, row: Activation | None, cut: bool, beside: str = "float32"
) -> Any:
    """Kernel: Z and H of A and the weights; without an activation (None) Z alone, in the place of H too.

    cut : whether sums are cut into `parts` of `terms` terms, which share the grid's second axis with the tiles' columns
    beside : what biases are rounded to
    """
    kind: Any = dtype.type
    bias = rounded(beside)
    multiply = _multiply(dtype, tile, precision, True, True, False)
    rule, passing = rules.activation(IDENTITY if row is None else row, dtype), _passing(tile)
    high, wide, across, down = tile.high, tile.wide, tile.columns // tile.wide, tile.rows // tile.high
    count, tile_rows, tile_columns = high * wide, tile.rows, tile.columns
    activated, joined = row is not None, _joined(tile, cut)

    def run(t, op, params, work, constants, terms, parts, partial, drawn):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        sums = cuda.local.array(count, dtype)
        for i in range(count):
            sums[i] = kind(0)
        part, across_n = cuda.blockIdx.y % parts, cuda.blockIdx.y // parts
        m0, n0, k0 = cuda.blockIdx.x * tile_rows, across_n * tile_columns, part * terms
        m, n, k = t[lo.ROWS], t[op + lo.OUT], t[op + lo.IN]
        w, ldw, lda = t[op + lo.W], t[op + lo.LDW], t[op + lo.LDA]
        a, b, some = t[op + lo.A] + k0, w + k0 * ldw, min(terms, k - k0)
        multiply(sums, share, work, a, lda, 1, params, b, ldw, 1, m0, n0, m, n, some)
        if not joined(sums, share, partial, drawn, across_n * cuda.gridDim.x + cuda.blockIdx.x, part, parts):
            return
        tx, ty = cuda.threadIdx.x % across, cuda.threadIdx.x // across
        z0, h0, ldz, ldh = t[op + lo.Z], t[op + lo.H], t[op + lo.LDZ], t[op + lo.LDH]
        p = constants[t[op + lo.NUMBERS] + lo.PARAMETER]
        for e in range(count):
            z = passing(sums, share, e)
            b, o = m0 + ty + e // wide * down, n0 + tx + e % wide * across
            if b < m and o < n:
                if t[op + lo.HAS_BIAS] != 0:
                    z += bias(params[w + k * ldw + o])
                work[z0 + b * ldz + o] = z
                if activated:
                    work[h0 + b * ldh + o] = rule(z, p)

    return kernel(run, threads=tile.threads)


@functools.cache
def input_gradient(dtype: np.dtype, tile: Tile, precision: str, row: Activation | None, cut: bool) -> Any:
    """Kernel: dA of dZ and the weights, times the derivative of the activation of the op `before` (None: as it is).

    cut : see `forward`
    """
    kind: Any = dtype.type
    multiply = _multiply(dtype, tile, precision, True, False, False)
    rule, passing = rules.derivative(IDENTITY if row is None else row, dtype), _passing(tile)
    high, wide, across, down = tile.high, tile.wide, tile.columns // tile.wide, tile.rows // tile.high
    count, tile_rows, tile_columns = high * wide, tile.rows, tile.columns
    derived, joined = row is not None, _joined(tile, cut)

    def run(t, op, before, params, work, constants, terms, parts, partial, drawn):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        sums = cuda.local.array(count, dtype)
        for i in range(count):
            sums[i] = kind(0)
        part, across_n = cuda.blockIdx.y % parts, cuda.blockIdx.y // parts
        m0, n0, k0 = cuda.blockIdx.x * tile_rows, across_n * tile_columns, part * terms
        m, n, some = t[lo.ROWS], t[op + lo.IN], min(terms, t[op + lo.OUT] - k0)
        dz, lddz, w, ldw = t[op + lo.DZ] + k0, t[op + lo.LDDZ], t[op + lo.W] + k0, t[op + lo.LDW]
        multiply(sums, share, work, dz, lddz, 1, params, w, 1, ldw, m0, n0, m, n, some)
        if not joined(sums, share, partial, drawn, across_n * cuda.gridDim.x + cuda.blockIdx.x, part, parts):
            return
        tx, ty = cuda.threadIdx.x % across, cuda.threadIdx.x // across
        da, ldda = t[op + lo.DA], t[op + lo.LDDA]
        for e in range(count):
            d = passing(sums, share, e)
            b, c = m0 + ty + e // wide * down, n0 + tx + e % wide * across
            if b < m and c < n:
                if derived:
                    z = work[t[before + lo.Z] + b * t[before + lo.LDZ] + c]
                    h = work[t[before + lo.H] + b * t[before + lo.LDH] + c]
                    d = rule(d, z, h, constants[t[before + lo.NUMBERS] + lo.PARAMETER])
                work[da + b * ldda + c] = d

    return kernel(run, threads=tile.threads)


@functools.cache
def weight_gradients(dtype: np.dtype, tile: Tile, precision: str, element: Any) -> Any:
    """Kernel: the gradients of many layers' weights, or parts of their sums, a block a tile.

    tasks (6 * blocks,) int64: of each block the op's fields, the first row and column of its tile, the first batch row
        and the end of those summed, and what is added to the place of each weight
    element : f(t, op, k, i, g, params, constants, coefficients): what becomes of weight i of row k and its gradient
    """
    kind: Any = dtype.type
    multiply, passing = _multiply(dtype, tile, precision, False, True, True), _passing(tile)
    high, wide, across, down = tile.high, tile.wide, tile.columns // tile.wide, tile.rows // tile.high
    count = high * wide

    def run(t, tasks, params, work, constants, coefficients):
        share = cuda.shared.array(0, dtype)
        if t[lo.STATUS] != pg.RUNNING:
            return
        sums = cuda.local.array(count, dtype)
        for i in range(count):
            sums[i] = kind(0)
        task = 6 * cuda.blockIdx.x
        op, m0, n0, first = tasks[task], tasks[task + 1], tasks[task + 2], tasks[task + 3]
        m, n, k, w = t[op + lo.IN], t[op + lo.OUT], tasks[task + 4] - first, tasks[task + 5] + t[op + lo.W]
        lda, lddz = t[op + lo.LDA], t[op + lo.LDDZ]
        a, dz = t[op + lo.A] + first * lda, t[op + lo.DZ] + first * lddz
        multiply(sums, share, work, a, 1, lda, work, dz, lddz, 1, m0, n0, m, n, k)
        tx, ty = cuda.threadIdx.x % across, cuda.threadIdx.x // across
        cuda.syncthreads()
        for e in range(count):
            g = passing(sums, share, e)
            row, o = m0 + ty + e // wide * down, n0 + tx + e % wide * across
            if row < t[op + lo.LEARNED] and o < n:
                element(t, op, row, w + row * t[op + lo.LDW] + o, g, params, constants, coefficients)

    return kernel(run, threads=tile.threads)


@inlined
def write(t, op, k, i, g, params, constants, coefficients):
    """Puts weight i's gradient in its place, or adds it to those of the batches before."""
    place = t[lo.GRADIENT] + i
    params[place] = params[place] + g if goes_on(t) else g


@inlined
def lay_aside(t, op, k, i, g, params, constants, coefficients):
    """Puts a part of a sum into the array that stands in the place of the parameters."""
    params[i] = g


@inlined
def _uncopied(copies, i, params):
    pass


@functools.cache
def _copied() -> Any:
    to_half = half()

    def copied(copies, i, params):
        copies[i] = to_half(params[i])

    return inlined(copied)


@functools.cache
def learn(dtype: np.dtype, shapes: Shapes, element: Any, halves: bool = False) -> Any:
    """Kernel: what becomes of gradients that stand in an array, weight by weight or in parts to be added in order.

    tasks : see ``weights``; parts : how many there are, so many numbers apart; element : see `weight_gradients`
    halves : whether `copies` takes each weight as bfloat16 then; else nothing is done with it
    """
    threads, follow = shapes.flat, _copied() if halves else _uncopied

    def run(t, tasks, gradient, parts, apart, params, constants, coefficients, copies):
        if t[lo.STATUS] != pg.RUNNING:
            return
        task = weights.TASK * cuda.blockIdx.x
        op, first, end = tasks[task], tasks[task + 2], tasks[task + 3]
        row = t[op + lo.KERNEL] if tasks[task + 1] != 0 else 0  # a row of the same part: all that an element asks for
        for i in range(first + cuda.threadIdx.x, end, threads):
            g = gradient[i]
            for part in range(1, parts):
                g += gradient[part * apart + i]
            element(t, op, row, i, g, params, constants, coefficients)
            follow(copies, i, params)

    return kernel(run, threads=threads)


class Tiles:
    """Products by our own kernels.

    Parameters
    ----------
    bound : the step
    precision : what factors are rounded to (see ``precision``), in float32 by default
    stored : stored(layout, op) tells whether the biases of a layer are rounded like that, too: where a library writes
        its outputs so (``wide.stored``); None where it writes none
    """

    def __init__(
        self, bound: "Bound", precision: str = "float32", stored: Callable[[Layout, int], bool] | None = None
    ) -> None:
        self._bound, self.precision, self._stored = bound, precision, stored

    def first(self) -> list[Launch]:
        """See `Products`."""
        return []

    def _launch(self, made: Any, tile: Tile, grid: tuple[int, ...], *arguments: Any) -> Launch:
        shared = shared_numbers(tile) * self._bound.dtype.itemsize
        return Launch(made, grid, tile.threads, arguments, shared)

    def _grid(self, tile: Tile, columns: int) -> tuple[int, int]:
        """Blocks of a matrix with a row for each of the batch, rows first: CUDA takes 65,535 along the second axis,
        fewer than 3 million rows may need."""
        return -(-self._bound.layout.batch // tile.rows), -(-columns // tile.columns)

    def _cut(self, tile: Tile, columns: int, depth: int) -> tuple[bool, tuple[int, int], tuple[Any, ...]]:
        """Whether sums of so many terms are cut into parts, the grid, and what a kernel takes for the parts.

        A prediction's are whole: what comes of a row is the same bits in a batch of any size.
        """
        bound, (down, across) = self._bound, self._grid(tile, columns)
        turns, tiles = -(-depth // tile.depth), down * across
        parts = max(1, min(bound.shapes.busy // tiles, turns // bound.shapes.turns))
        terms = -(-turns // parts) * tile.depth
        parts = -(-depth // terms)
        if parts == 1 or not bound.layout.backward or not tickets.available():
            return False, (down, across), (depth, 1, bound.work, bound.table)
        partial = bound.zeros(tiles * parts * tile.rows * tile.columns)
        return True, (down, across * parts), (terms, parts, partial, bound.zeros(tiles, np.int64))

    def forward(self, op: int) -> list[Launch]:
        """See `Products`."""
        bound, layer = self._bound, self._bound.layout.layers[op]
        tile = bound.shapes.tile(bound.dtype.itemsize, (bound.layout.batch, layer.fan_out))
        plain = layer.activation is IDENTITY or not bound.layout.fused[op]
        beside = self.precision if self._stored is not None and self._stored(bound.layout, op) else "float32"
        cut, grid, parts = self._cut(tile, layer.fan_out, layer.fan_in)
        made = forward(bound.dtype, tile, self.precision, None if plain else layer.activation, cut, beside)
        arguments = bound.table, bound.layout.field(op), bound.params, bound.work, bound.constants
        return [self._launch(made, tile, grid, *arguments, *parts)]

    def input_gradient(self, op: int) -> list[Launch]:
        """See `Products`."""
        bound, layout = self._bound, self._bound.layout
        layer, before = layout.layers[op], layout.befores[op]
        tile = bound.shapes.tile(bound.dtype.itemsize, (layout.batch, layer.fan_in))
        row = layout.layers[before].activation if before >= 0 else IDENTITY
        cut, grid, parts = self._cut(tile, layer.fan_in, layer.fan_out)
        made = input_gradient(bound.dtype, tile, self.precision, None if row is IDENTITY else row, cut)
        arguments = layout.field(op), layout.field(max(before, 0)), bound.params, bound.work, bound.constants
        return [self._launch(made, tile, grid, bound.table, *arguments, *parts)]

    def weight_gradients(self, ops: list[int], fused: bool) -> list[Launch]:
        """See `Products`."""
        bound, layers = self._bound, self._bound.layout.layers
        ops = [op for op in ops if layers[op].operation is DENSE]
        if not ops:
            return []
        batch, sizes = bound.layout.batch, [(layers[op].learned, layers[op].fan_out) for op in ops]
        most = max(1, batch // bound.shapes.part)
        tile = bound.shapes.tile(bound.dtype.itemsize, *sizes, parts=most)
        tiles = [
            (bound.layout.field(op), m0, n0)
            for op, (learned, neurons) in zip(ops, sizes, strict=True)
            for m0 in range(0, learned, tile.rows)
            for n0 in range(0, neurons, tile.columns)
        ]
        parts = max(1, min(most, 2 * bound.shapes.busy // len(tiles)))
        apart = bound.layout.program.parameter_bytes // bound.dtype.itemsize
        bounds = [batch * part // parts for part in range(parts + 1)]
        tasks = [
            (*one, bounds[part], bounds[part + 1], part * apart if parts > 1 else 0)
            for part in range(parts)
            for one in tiles
        ]
        element = bound.element if fused else write
        made = weight_gradients(bound.dtype, tile, self.precision, element if parts == 1 else lay_aside)
        sums = bound.params if parts == 1 else bound.zeros(parts * apart)
        beside = bound.constants, bound.coefficients
        table = bound.upload(np.array(tasks, np.int64).ravel())
        launch = self._launch(made, tile, (len(tasks),), bound.table, table, sums, bound.work, *beside)
        if parts == 1:
            return [launch]
        blocks = bound.tasks(ops)
        arguments = bound.table, bound.upload(blocks.ravel()), sums, parts, apart, bound.params, *beside, bound.params
        made = learn(bound.dtype, bound.shapes, element)
        return [launch, Launch(made, (len(blocks),), bound.shapes.flat, arguments)]
