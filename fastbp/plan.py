"""Floor 2: a step over a batch, laid out: where each layer's numbers stand, and the tasks of its phases."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, RELU
from fastbp.program import LayerSpec, Program, Tiles

FEW_TILES = 12  # a thread: below that the tasks are halved, to share them better
SLAB_BYTES = 4 << 20
PANELS_PER_TASK = 8
PANELS_OF_RUN = 4  # a task of the update phase
TILES, LATE, GIVEN = "tiles", "late", "given"
"""How a plan heeds what layers say of their weights: updates by tiles, in a phase of their own, or by a gradient given.

With "" it doesn't: every gradient is summed, and updated in the same phase where there is an optimizer."""


def lay_out(
    program: Program, batch: int, threads: int, *, backward: bool, input_gradient: bool = False, update: str = ""
) -> "Plan":
    """The plan of a step over at most `batch` rows: one for all networks of these layers."""
    step = batch, threads, backward, input_gradient, update
    return _plan(program.layers, program.dtype, program.tiles, program.half, *step)


def update_mode(program: Program, late: bool) -> str:
    """What a training step's plan is laid out with; `late` where the optimizer needs the whole gradient first."""
    own = any(not layer.trainable or layer.constraint for layer in program.layers)
    return LATE if late else TILES if own else ""


@functools.lru_cache(maxsize=64)
def _plan(layers: tuple[LayerSpec, ...], dtype: np.dtype, tiles: Tiles, half: bool, *step: Any) -> "Plan":
    return Plan(Program(layers, dtype, tiles, half), *step)


def _spread(nbytes: int) -> int:
    """A distance of panels off the 4 KB period, so that neighbours don't fall on the same cache sets."""
    return nbytes if nbytes < 8192 else nbytes + (1024 - nbytes) % 4096


class Plan:
    """Buffers, phases and tasks of one kind of step, as offsets: `bind` makes them addresses.

    Attributes
    ----------
    nbytes : bytes of the workspace
    slab : most rows in flight
    slabs : how many slabs a full batch takes
    phases : (phases, 2 + threads) int64: first task, then the bounds of each worker's own tasks
    tasks : (tasks, TASK_COLUMNS) int64
    ones : (offset, count) runs of numbers that must be 1
    update : see `TILES`
    learning : ops whose weights are updated
    lowest : the first op that is gone back through
    weights_phase : number of the phase that sums the gradient
    """

    def __init__(
        self, program: Program, batch: int, threads: int, backward: bool, input_gradient: bool, update: str
    ) -> None:
        self.program, self.backward, self.update = program, backward, update
        self.learning = [i for i, layer in enumerate(program.layers) if layer.trainable or not update]
        self.lowest = 0 if input_gradient else 1 + min(self.learning, default=len(program.layers))
        tiles, size = program.tiles, program.dtype.itemsize
        row = tiles.samples * size
        widths = [program.layers[0].fan_in, *(layer.fan_out for layer in program.layers)]
        row_bytes = 2 * size * sum(widths)
        most = max(pg.SLAB_ROWS, SLAB_BYTES // row_bytes)
        self.slab = pg.round_up(min(batch, pg.round_up(most, tiles.samples)), tiles.samples)
        self.slabs = -(-batch // self.slab)
        self.thin = program.thin_rows(batch)
        self.panels = self.slab // tiles.samples
        self.nbytes = 0
        self.ones: list[tuple[int, int]] = []

        def reserve(rows: int) -> tuple[int, int]:
            """(offset, distance of panels) of a buffer with `rows` rows in each panel."""
            distance = _spread(pg.round_up(rows, tiles.lanes) * row)
            return self._take(distance * self.panels), distance

        def activations(rows: int, ones: bool) -> tuple[int, int]:
            offset, distance = reserve(rows + ones)
            if ones:
                self.ones += [((offset + p * distance + rows * row) // size, tiles.samples) for p in range(self.panels)]
            return offset, distance

        layers = program.layers
        # a layer's dZ is read for the last time when that of the layer before is written: two places in turn do. Not
        # for the float products of layers whose last vector isn't full: what is beyond their neurons must stay zero
        turning = [backward and (program.half or layer.fan_out % tiles.lanes == 0) for layer in layers]
        turns = [layer.fan_out for layer, turn in zip(layers, turning, strict=True) if turn]
        places = [reserve(max(turns)) for _ in turns[:2]]

        def gradients(index: int) -> tuple[int, int]:
            return places[index % len(places)] if turning[index] else reserve(layers[index].fan_out)

        self.table = np.zeros((len(layers), pg.OP_COLUMNS), np.int64)
        inputs = activations(layers[0].fan_in, layers[0].bias)
        gradient = reserve(layers[0].fan_in) if input_gradient else (0, 0)
        for index, layer in enumerate(layers):
            op = self.table[index]
            last = index == len(layers) - 1
            op[[pg.IN, pg.STEPS_IN, pg.OUT, pg.THIN]] = layer.fan_in, layer.steps, layer.fan_out, self.thin
            op[pg.W], op[pg.W_PANEL] = program.offsets[index], program.panel_bytes[index]
            op[[pg.A, pg.A_PANEL]], op[[pg.DA, pg.DA_PANEL]] = inputs, gradient
            op[pg.MODE] = layer.activation is RELU
            op[pg.MASK] = index > 0 and layers[index - 1].activation is RELU
            inputs = activations(layer.fan_out, not last and layers[index + 1].bias)
            kept = (last or (backward and layer.activation.keeps_z)) and layer.activation not in (IDENTITY, RELU)
            op[[pg.H, pg.H_PANEL]] = inputs
            op[[pg.Z, pg.Z_PANEL]] = reserve(layer.fan_out) if kept else inputs
            if backward or last:
                gradient = gradients(index)
                op[[pg.DZ, pg.DZ_PANEL]] = gradient
            if backward:
                numbers = tiles.lanes if program.half else tiles.samples
                op[pg.T_PANEL] = self.panels * numbers * tiles.width * size + pg.LINE
                op[pg.T] = self._take(int(op[pg.T_PANEL]) * program.panels(layer.fan_out))
            if program.half:
                op[[pg.A_PAIRS, pg.A_PAIRS_PANEL]] = self._pairs(layer.steps)
                if backward:
                    op[[pg.DZ_PAIRS, pg.DZ_PAIRS_PANEL]] = self._pairs(layer.fan_out)
                    distance = _spread(pg.round_up(layer.steps, tiles.lanes) * tiles.lanes * size)
                    op[[pg.A_PLAIN, pg.A_PLAIN_PANEL]] = self._take(distance * self.panels), distance
        self.index = self._take(self.panels * tiles.samples * 8)
        self.scale = self._take(self.panels * row)
        self.counts = self._take(self.panels * row * 2)
        self.target, self.target_panel = reserve(layers[-1].fan_out)
        self.phases, self.tasks = self._schedule(threads)

    def _pairs(self, numbers: int) -> tuple[int, int]:
        """(offset, distance of panels) of a buffer with a row for each pair along a sum of so many numbers."""
        tiles = self.program.tiles
        row = tiles.samples * self.program.dtype.itemsize
        distance = _spread(pg.round_up(numbers, 2 * tiles.lanes) // 2 * row)
        return self._take(distance * self.panels), distance

    def _take(self, nbytes: int) -> int:
        offset = self.nbytes
        self.nbytes += pg.round_up(nbytes, pg.LINE)
        return offset

    def _schedule(self, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Phases and tasks. How the rows are cut changes who computes a number, never the number."""
        layers = self.program.layers
        work = 2 * self.slab * sum(layer.parameters for layer in layers)
        phases: list[list[tuple[int, ...]]] = []
        few_panels = self.panels < 2 * threads and threads > 1
        if few_panels and (self.thin or work / self.panels > 2e6):
            phases = self._cut_by_layers(threads)
        else:
            share = max(1, min(PANELS_PER_TASK, -(-self.panels // threads)))
            count = -(-self.panels // share)
            bounds = [self.panels * i // count for i in range(count + 1)]
            phases.append([(pg.ROWS, 0, lo, hi, 0, 0) for lo, hi in itertools.pairwise(bounds)])
        final: list[tuple[int, ...]] = [(pg.SUM, 0, 0, 0, 0, 0)]
        if self.backward:
            if self.thin and threads > 1:
                final += self._owned_tiles(threads)
            else:
                final += self._weight_tiles(pg.ROWS_OF_TILE)
            if threads > 1 and len(final) <= FEW_TILES * threads and not self.program.half and not self.thin:
                final[1:] = self._weight_tiles(pg.ROWS_OF_TILE // 2)
        self.weights_phase = len(phases)
        if self.update == GIVEN:
            phases, self.weights_phase = [], 0
            final = [(pg.MEASURE, *task[1:]) for task in final[1:]]
        phases.append(final)
        if after := self._updates(final, threads):
            phases.append(after)
        starts = np.cumsum([0, *(len(phase) for phase in phases)])
        table = [(start, *_shares(phase, threads)) for start, phase in zip(starts, phases, strict=False)]
        return np.array(table, np.int64), np.array([task for phase in phases for task in phase], np.int64)

    def _updates(self, tiles: list[tuple[int, ...]], threads: int) -> list[tuple[int, ...]]:
        """Tasks of the update phase: what each thread summed, in long runs; whole panels of constrained weights."""
        program = self.program
        bound = [i for i in self.learning if self.update and program.layers[i].constraint is not None]
        after: list[tuple[int, ...]] = []
        for low, high in itertools.pairwise(_shares(tiles, threads)):
            runs: dict[tuple[int, int, int], tuple[int, int]] = {}
            for code, op, k0, k1, j0, j1 in tiles[low:high]:
                if code != pg.SUM and op not in bound:
                    runs[op, j0, j1] = runs.get((op, j0, j1), (k0, k1))[0], k1
            for (op, j0, j1), (k0, k1) in runs.items():
                after += [(pg.APPLY, op, k0, k1, j0 + a, j0 + b) for a, b in _blocks(j1 - j0, PANELS_OF_RUN)]
        whole = [
            (pg.APPLY, index, 0, program.layers[index].steps, j0, j1)
            for index in bound
            for j0, j1 in _blocks(program.panels(program.layers[index].fan_out), 2 if program.half else 1)
        ]
        return (after if self.update in (LATE, GIVEN) else []) + whole

    def _weight_tiles(self, rows: int) -> list[tuple[int, ...]]:
        """Tasks of the weights phase: `rows` inputs x PANELS_OF_TILE panels of neurons, no thin rests."""
        program = self.program
        return [
            (pg.WEIGHTS, index, k0, k1, j0, j1)
            for index, layer in enumerate(program.layers)
            if index in self.learning
            for j0, j1 in _blocks(program.panels(layer.fan_out), pg.PANELS_OF_TILE)
            for k0, k1 in _blocks(layer.steps, rows, sliver=program.tiles.lanes // 2)
        ]

    def _owned_tiles(self, threads: int) -> list[tuple[int, ...]]:
        """Tasks of the weights phase of a thin step, thread by thread: the neurons whose sums it made going forward."""
        program = self.program
        return [
            (pg.WEIGHTS, index, k0, k1, first + j0, first + j1)
            for thread in range(threads)
            for index, layer in enumerate(program.layers)
            if index in self.learning
            for first, last in [_part(program.panels(layer.fan_out), thread, threads)]
            for j0, j1 in _blocks(last - first, pg.PANELS_OF_TILE)
            for k0, k1 in _blocks(layer.steps, pg.ROWS_OF_TILE, sliver=program.tiles.lanes // 2)
        ]

    def _cut_by_layers(self, threads: int) -> list[list[tuple[int, ...]]]:
        """(row block x neuron block) tasks, a phase for each product of each layer: for few rows and many cores."""
        layers, tiles = self.program.layers, self.program.tiles
        rows = list(_blocks(self.panels, PANELS_PER_TASK))

        def pieces(neurons: int) -> list[tuple[int, int]]:
            if self.thin:
                parts = [_part(self.program.panels(neurons), thread, threads) for thread in range(threads)]
                return [(j0 * tiles.width, min(neurons, j1 * tiles.width)) for j0, j1 in parts if j0 < j1]
            per_task = max(1, -(-neurons * len(rows) // (4 * threads * tiles.width)))
            return list(_blocks(neurons, min(per_task * tiles.width, pg.NEURON_BLOCK // tiles.width * tiles.width)))

        phases: list[list[tuple[int, ...]]] = [[(pg.GATHER, 0, p, p + 1, 0, 0) for p in range(self.panels)]]
        for index, layer in enumerate(layers):
            phases.append([(pg.FORWARD, index, lo, hi, o0, o1) for lo, hi in rows for o0, o1 in pieces(layer.fan_out)])
        phases.append([(pg.OUTPUT, 0, p, p + 1, 0, 0) for p in range(self.panels)])
        if self.backward:
            for index in range(len(layers) - 1, -1, -1):
                if index >= self.lowest:
                    blocks = pieces(layers[index].fan_in)
                    phases.append([(pg.BACK, index, lo, hi, i0, i1) for lo, hi in rows for i0, i1 in blocks])
            if self.table[0, pg.DA_PANEL]:
                phases.append([(pg.INPUT_GRADIENT, 0, p, p + 1, 0, 0) for p in range(self.panels)])
        return phases

    def bind(self, workspace: int, parameters: int, copies: int = 0) -> np.ndarray:
        """The table with absolute addresses."""
        table = self.table.copy()
        table[:, pg.W] += parameters
        for column in (pg.A, pg.Z, pg.H, pg.DZ, pg.T):
            table[:, column] += workspace
        wanted = np.arange(len(table)) > 0
        wanted[0] = bool(table[0, pg.DA_PANEL])
        table[wanted, pg.DA] += workspace
        if self.program.half:
            table[:, pg.WF : pg.WB_BLOCK + 1] = self.program.copies
            table[:, pg.WF] += copies
            table[1:, pg.WB] += copies
            table[0, pg.WB] = 0
            table[:, pg.A_PAIRS] += workspace
            if self.backward:
                table[:, pg.A_PLAIN] += workspace
                table[:, pg.DZ_PAIRS] += workspace
        return table


def _blocks(n: int, block: int, sliver: int = 0) -> list[tuple[int, int]]:
    """0..n in runs of `block`; a rest of at most `sliver` joins the run before it."""
    runs, start = [], 0
    while start < n:
        end = min(n, start + block)
        if n - end <= sliver:
            end = n
        runs.append((start, end))
        start = end
    return runs


def _part(n: int, thread: int, threads: int) -> tuple[int, int]:
    """The thread's part of 0..n, the first ones the larger."""
    return -(-n * thread // threads), -(-n * (thread + 1) // threads)


def _shares(phase: Sequence[tuple[int, ...]], threads: int) -> list[int]:
    """Bounds of each worker's own tasks: equal parts of the area that the tasks cover."""
    area = np.cumsum([max(1, (task[3] - task[2]) * max(1, task[5] - task[4])) for task in phase])
    ends = np.array([0, *area])
    cuts = [int(np.abs(ends - area[-1] * i / threads).argmin()) for i in range(1, threads)]
    return [0, *cuts, len(phase)]
