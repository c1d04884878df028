"""Floor 2: a step over a batch, laid out: where each layer's numbers stand, and the tasks of its phases."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import IDENTITY, RELU
from fastbp.layout import sides
from fastbp.layout.graph import GIVEN, LATE, SPLIT, Graph
from fastbp.layout.operations import DENSE, FORK
from fastbp.program import LayerSpec, Program, Tiles

FEW_TILES = 12  # a thread: below that the tasks are halved, to share them better
SLAB_BYTES = 4 << 20
PANELS_PER_TASK = 8
TASK_WORK = 1e10  # floating-point operations of a product in a task: between two products Ctrl-C is noticed
LAYER_WORK = 2e6  # floating-point operations of a panel: above that few panels are cut at layers
PANELS_OF_RUN = 4  # a task of the update phase
PASSED_BY_HALVES = 2  # numbers that pass through the layers, a weight: above that its gradient is summed by halves
TURN_WEIGHTS = 128 << 10  # bytes: so few stay in L1 and L2 from panel to panel, and halves go through in turns
TURN_ROWS = 256  # a block of the gradient's sums
SLAB_IN_TURNS = 6 << 20  # most of it is never touched
FEW_NEURONS = 0.5  # of a layer's last vector: up to so full it is summed along the samples


def lay_out(
    program: Program,
    batch: int,
    threads: int,
    *,
    backward: bool,
    input_gradient: bool = False,
    noise: bool = False,
    update: str = "",
) -> "Plan":
    """The plan of a step over at most `batch` rows: one for all networks of these layers.

    noise : whether a prediction draws the noise of training; with `backward` it is always drawn
    update : see ``graph.TILES``
    """
    step = batch, threads, backward, input_gradient, noise or backward, update
    return _plan(program.layers, program.dtype, program.tiles, program.half, *step)


@functools.lru_cache(maxsize=64)
def _plan(layers: tuple[LayerSpec, ...], dtype: np.dtype, tiles: Tiles, half: bool, *step: Any) -> "Plan":
    return Plan(Program(layers, dtype, tiles, half), *step)


def _spread(nbytes: int) -> int:
    """A distance of panels off the 4 KB period, so that neighbours don't fall on the same cache sets."""
    return nbytes if nbytes < 8192 else nbytes + (1024 - nbytes) % 4096


class Plan(Graph):
    """Buffers, phases and tasks of one kind of step, as offsets: `bind` makes them addresses.

    Attributes (beside those of `Graph`)
    ----------
    tile_rectifies, tile_masks : of each op, whether its product rectifies, and whether the next one's masks dZ by that
    nbytes : bytes of the workspace
    slab : most rows in flight
    slabs : how many slabs a full batch takes
    phases : (phases, 2 + threads) int64: first task, then the bounds of each worker's own tasks
    tasks : (tasks, TASK_COLUMNS) int64
    ones : (offset, count) runs of numbers that must be 1
    weights_phase : number of the phase that sums the gradient
    halves : whether that is the sum of two halves of the rows (see ``cpu.halves``)
    apart : offset of the two sums, where threads make them before that phase, else None
    turn : rows of a half that go through, panel by panel, before the next take their place; 0: all at once
    borders : of each op but the last, the neuron before which it is cut (see ``sides``); empty where it isn't
    sides : what two threads have of their own then, else None
    """

    def __init__(
        self,
        program: Program,
        batch: int,
        threads: int,
        backward: bool,
        input_gradient: bool,
        noise: bool,
        update: str,
    ) -> None:
        super().__init__(program, backward, input_gradient, noise, update)
        tiles, size = program.tiles, program.dtype.itemsize
        self._row = tiles.samples * size
        widths = [program.layers[0].fan_in, *(layer.fan_out for layer in self.layers)]
        few_weights = program.parameter_bytes <= TURN_WEIGHTS
        most = max(pg.SLAB_ROWS, (SLAB_IN_TURNS if few_weights else SLAB_BYTES) // (2 * size * sum(widths)))
        self.slab = pg.round_up(min(batch, pg.round_up(most, tiles.samples)), tiles.samples)
        if backward and any(layer.whole_batch for layer in self.layers):
            self.slab = pg.round_up(batch, tiles.samples)
        self.slabs = -(-batch // self.slab)
        self.thin = program.thin_rows(batch, backward)
        self.panels = self.slab // tiles.samples
        self.nbytes = 0
        self.ones: list[tuple[int, int]] = []
        self.table = np.zeros((len(self.layers), pg.OP_COLUMNS), np.int64)
        self.tile_rectifies = [layer.operation is DENSE and layer.activation is RELU for layer in self.layers]
        self.tile_masks = [
            layer.activation is RELU and len(k) == 1 and self.layers[k[0]].operation is DENSE
            for layer, k in zip(self.layers, self.users, strict=True)
        ]
        self._lay_out_activations()
        if backward:
            self._lay_out_gradients()
        else:
            self.table[-1, [pg.DZ, pg.DZ_PANEL]] = self._reserve(self.layers[-1].fan_out)  # a loss writes it
        self._lay_out_states()
        self.index = self._take(2 * self.panels * tiles.samples * 8)
        self.scale = self._take(self.panels * self._row)
        self.counts = self._take(self.panels * self._row * 2)
        self.target, self.target_panel = self._reserve(self.layers[-1].fan_out)
        self.borders: list[int] = []
        if backward and self.slabs == 1 and self._plain_products:
            self.borders = sides.borders(self.layers, tiles, batch)
        for op, layer, border in zip(self.table[1:], self.layers[1:], self.borders, strict=False):
            op[pg.BORDER] = border
            op[[pg.PART, pg.PART_PANEL]] = self._reserve(layer.fan_out)
        self.halves = backward and not self.borders and self._by_halves()
        self.turn = TURN_ROWS if self.halves and few_weights else 0
        self.table[self.learning, pg.SUMMED] = self.halves
        if batch > tiles.lanes:  # sums along fewer rows would take longer than idle lanes do
            self.table[:, pg.FEW] = [self._few(layer) for layer in self.layers]
        self.table[:, pg.SINGLE] = self._plain_products
        self.apart: int | None = None
        self.phases, self.tasks = self._schedule(threads)
        self.sides: sides.Sides | None = None
        phases = self.weights_phase + 1 == len(self.phases)
        if self.borders and threads == 2 and phases and self.lowest and self.update != GIVEN:
            self.sides = sides.lay_out(self, self._take)

    def _reserve(self, rows: int) -> tuple[int, int]:
        """(offset, distance of panels) of a buffer with `rows` rows in each panel."""
        distance = _spread(pg.round_up(rows, self.program.tiles.lanes) * self._row)
        return self._take(distance * self.panels), distance

    def _lay_out_activations(self) -> None:
        """What goes forward: sizes, parameters, A, Z, H, and the copies that products in bfloat16 read."""
        program, layers, table = self.program, self.layers, self.table
        size, samples = program.dtype.itemsize, program.tiles.samples
        heirs = [self.owner(i) for i in range(len(layers))]

        def activations(width: int, place: int) -> tuple[int, int]:
            takers = [layers[k] for k, s in enumerate(self.sources) if s == place or (s >= 0 and heirs[s] == place)]
            ones = any(layer.operation is DENSE and layer.bias for layer in takers)
            offset, distance = self._reserve(width + ones)
            if ones:
                rows = (offset + p * distance + width * self._row for p in range(self.panels))
                self.ones += [(row // size, samples) for row in rows]
            return offset, distance

        inputs = activations(layers[0].fan_in, -1)
        table[0, pg.ONES] = len(self.ones) > 0
        for index, layer in enumerate(layers):
            op, source, last = table[index], self.sources[index], index == len(layers) - 1
            op[[pg.IN, pg.STEPS_IN, pg.OUT, pg.THIN]] = layer.fan_in, layer.learned, layer.fan_out, self.thin
            op[pg.KERNEL], op[pg.W_PANELS] = layer.kernel, program.panels(layer.neurons)
            place = self.places[index]
            op[pg.W], op[pg.W_PANEL] = program.offsets[place], program.panel_bytes[place]
            op[[pg.A, pg.A_PANEL]] = table[source, [pg.H, pg.H_PANEL]] if source >= 0 else inputs
            op[pg.MODE] = self.tile_rectifies[index]
            op[pg.MASK] = layer.operation is DENSE and source >= 0 and self.tile_masks[source]
            if layer.operation.second:
                skip = self.skips[index]
                op[[pg.SKIP, pg.SKIP_PANEL]] = table[skip, [pg.H, pg.H_PANEL]] if skip >= 0 else inputs
            if heirs[index] != index:
                op[[pg.Z, pg.Z_PANEL, pg.H, pg.H_PANEL]] = op[[pg.A, pg.A_PANEL] * 2]
            else:
                op[[pg.H, pg.H_PANEL]] = outputs = activations(layer.fan_out, index)
                kept = (last or (self.backward and layer.activation.keeps_z)) and not self._plain(index)
                if layer.operation.alias:
                    outputs = tuple(op[[pg.A, pg.A_PANEL]])
                elif kept:
                    outputs = self._reserve(layer.fan_out)
                op[[pg.Z, pg.Z_PANEL]] = outputs
            takers = [k for k in self.users[index] if layers[k].operation is DENSE]
            op[[pg.PACK_TO, pg.PACK_TO_TOO]] = [8 * pg.OP_COLUMNS * (k - index) for k in [*takers, index, index][:2]]
            if program.half and layer.operation is DENSE:
                op[[pg.A_PAIRS, pg.A_PAIRS_PANEL]] = self._pairs(layer.steps)
                if self.backward:
                    distance = _spread(pg.round_up(layer.steps, program.tiles.lanes) * program.tiles.lanes * size)
                    op[[pg.A_PLAIN, pg.A_PLAIN_PANEL]] = self._take(distance * self.panels), distance

    def _plain(self, index: int) -> bool:
        """Whether no rule is needed for the op's activation."""
        return self.layers[index].activation is IDENTITY or self.tile_rectifies[index]

    def _lay_out_gradients(self) -> None:
        """What comes back: dZ and its transposes. dA of an op is dZ of the one before."""
        program, layers, table = self.program, self.layers, self.table
        tiles = program.tiles
        # a layer's dZ is read for the last time when that of the layer before is written: two places in turn do. Not
        # for the float products of layers whose last vector isn't full: what is beyond their neurons must stay zero
        turning = [program.half or layer.fan_out % tiles.lanes == 0 for layer in layers]
        if any(layer.operation is not DENSE for layer in layers):
            turning = [False] * len(layers)
        beyond = tiles.lanes if any(layer.matrix for layer in layers) else 0  # embeddings read dZ by squares
        turns = [layer.fan_out for layer, turn in zip(layers, turning, strict=True) if turn]
        places = [self._reserve(max(turns)) for _ in turns[:2]]
        dz, da = [pg.DZ, pg.DZ_PANEL], [pg.DA, pg.DA_PANEL]

        def place(index: int) -> tuple[int, int]:
            if turning[index]:
                return places[index % len(places)]
            return self._reserve(layers[index].fan_out + beyond)

        table[-1, dz] = place(len(layers) - 1)
        for index in range(len(layers) - 1, -1, -1):
            op, layer, source = table[index], layers[index], self.sources[index]
            beside = index in self.skips and layer.operation is DENSE  # the projection of a residual block
            join = table[self.skips.index(index) if index in self.skips else index]
            if beside:
                op[dz] = join[dz]
            if layer.operation is FORK:
                op[[pg.SKIP, pg.SKIP_PANEL]] = join[dz] if index in self.skips else table[index + 1, da]
            if layer.operation is DENSE:
                numbers = tiles.lanes if program.half else tiles.samples
                op[pg.T_PANEL] = self.panels * numbers * tiles.width * program.dtype.itemsize + pg.LINE
                op[pg.T] = self._take(int(op[pg.T_PANEL]) * program.panels(layer.fan_out))
                if program.half:
                    op[[pg.DZ_PAIRS, pg.DZ_PAIRS_PANEL]] = self._pairs(layer.fan_out)
                if beside:
                    same = [pg.T, pg.T_PANEL, pg.DZ_PAIRS, pg.DZ_PAIRS_PANEL]
                    join[same] = op[same]
            if index < self.lowest:
                continue
            if layer.operation.alias:
                op[da] = op[dz]
            elif source < 0 or beside:
                op[da] = self._reserve(layer.fan_in)
            else:
                op[da] = place(source)
            if source >= 0 and not beside:
                table[source, dz] = op[da]
                op[pg.BEFORE] = 8 * pg.OP_COLUMNS * (index - source)

    def _lay_out_states(self) -> None:
        """What normalisations keep of the batch rows or of their neurons."""
        tiles, size = self.program.tiles, self.program.dtype.itemsize
        for op, layer in zip(self.table, self.layers, strict=True):
            if layer.operation.row_state:
                op[[pg.STATE, pg.STATE_PANEL]] = self._reserve(layer.operation.row_state)
            elif layer.operation.neuron_state and self.backward:
                op[pg.STATE_PANEL] = pg.round_up(layer.fan_out, tiles.lanes) * size
                op[pg.STATE] = self._take(int(op[pg.STATE_PANEL]) * layer.operation.neuron_state)

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

    def _few(self, layer: LayerSpec) -> int:
        """Neurons of the layer's last panel where they fill half a vector at most, and dZ stays where it was."""
        few, most = layer.fan_out % self.program.tiles.width, int(FEW_NEURONS * self.program.tiles.lanes)
        return few if few <= most and self._plain_products else 0

    @property
    def _plain_products(self) -> bool:
        """Whether there is nothing but products, and these of panels of samples in the weights' own type."""
        return all(layer.operation is DENSE for layer in self.layers) and not self.program.half and not self.thin

    def _by_halves(self) -> bool:
        """Whether little but weights has to pass between two threads that go through half of the rows each."""
        if self.panels < 2 or not self._plain_products:
            return False
        passed = self.slab * sum(layer.fan_in + layer.fan_out for layer in self.layers)
        return passed >= PASSED_BY_HALVES * sum(layer.parameters for layer in self.layers)

    def _schedule(self, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Phases and tasks. How the rows are cut changes who computes a number, never the number."""
        work = 2 * self.slab * sum(layer.parameters for layer in self.layers)
        few_panels = self.panels < 2 * threads and threads > 1
        if few_panels and (self.thin or work / self.panels > LAYER_WORK):
            phases = self._cut_by_layers(threads)
        else:
            phases = self._cut_by_rows(threads)
        by_halves = threads in ((1, 2) if self.turn else (2,))
        if self.halves and by_halves and len(phases) == 1 and self.update != GIVEN:
            middle = self.panels // 2
            bounds = (0, middle), (middle, self.panels)
            phases = [[(pg.HALF, half, lo, hi, 0, self.lowest) for half, (lo, hi) in enumerate(bounds)]]
            self.apart = self._take(2 * self.program.parameter_bytes)
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
            final = [(pg.MEASURE, *task[1:]) for task in final[1:] if task[2] < task[3]]
        phases.append(final)
        if after := self._updates(final, threads):
            phases.append(after)
        starts = np.cumsum([0, *(len(phase) for phase in phases)])
        table = [(start, *_shares(phase, threads)) for start, phase in zip(starts, phases, strict=False)]
        return np.array(table, np.int64), np.array([task for phase in phases for task in phase], np.int64)

    def _updates(self, tiles: list[tuple[int, ...]], threads: int) -> list[tuple[int, ...]]:
        """Tasks of the update phase: what each thread summed, in long runs; whole panels of constrained weights."""
        program = self.program
        bound = [i for i in self.learning if self.update and self.layers[i].constraint is not None]
        after: list[tuple[int, ...]] = []
        for low, high in itertools.pairwise(_shares(tiles, threads)):
            runs: dict[tuple[int, int, int], tuple[int, int]] = {}
            for code, op, k0, k1, j0, j1 in tiles[low:high]:
                if code != pg.SUM and op not in bound and (k0 < k1 or self.layers[op].whole_batch):
                    runs[op, j0, j1] = runs.get((op, j0, j1), (k0, k1))[0], k1
            for (op, j0, j1), (k0, k1) in reversed(runs.items()):  # what was summed last is still in cache
                after += [(pg.APPLY, op, k0, k1, j0 + a, j0 + b) for a, b in pg.blocks(j1 - j0, PANELS_OF_RUN)]
        whole = [
            (pg.APPLY, index, 0, self.layers[index].steps, j0, j1)
            for index in bound
            for j0, j1 in pg.blocks(program.panels(self.layers[index].neurons), 2 if program.half else 1)
        ]
        return (after if self.update in (LATE, SPLIT, GIVEN) else []) + whole

    def _weight_tiles(self, rows: int) -> list[tuple[int, ...]]:
        """Tasks of the weights phase: `rows` inputs x PANELS_OF_TILE panels of neurons, no thin rests."""
        program = self.program
        return [
            (pg.WEIGHTS, index, k0, k1, j0, j1)
            for index in self.learning
            for layer in [self.layers[index]]
            for j0, j1 in pg.blocks(program.panels(layer.neurons), pg.PANELS_OF_TILE)
            for k0, k1 in self._inputs(layer, rows)
        ]

    def _inputs(self, layer: LayerSpec, rows: int) -> list[tuple[int, int]]:
        """Runs of a panel's rows that are summed together."""
        if layer.operation is DENSE:
            return pg.blocks(layer.steps, rows, sliver=self.program.tiles.lanes // 2)
        if layer.matrix is None:
            return [(0, layer.learned)]
        panels = min(self.program.panels(layer.neurons), pg.PANELS_OF_TILE)
        return pg.blocks(layer.learned, pg.TABLE_ROWS // panels // pg.ROWS_OF_TILE * pg.ROWS_OF_TILE)

    def _owned_tiles(self, threads: int) -> list[tuple[int, ...]]:
        """Tasks of the weights phase of a thin step, thread by thread: the neurons whose sums it made going forward."""
        program = self.program
        return [
            (pg.WEIGHTS, index, k0, k1, first + j0, first + j1)
            for thread in range(threads)
            for index in self.learning
            for layer in [self.layers[index]]
            for first, last in [_part(program.panels(layer.neurons), thread, threads)]
            for j0, j1 in pg.blocks(last - first, pg.PANELS_OF_TILE)
            for k0, k1 in self._inputs(layer, pg.ROWS_OF_TILE)
        ]

    def _statistics(self, kind: int, index: int, threads: int) -> list[tuple[int, ...]]:
        """Tasks that sum over the batch, by neurons."""
        neurons, width = self.layers[index].fan_out, self.program.tiles.width
        per_task = pg.round_up(-(-neurons // (2 * threads)), width) if threads > 1 else neurons
        return [(kind, index, 0, self.panels, o0, o1) for o0, o1 in pg.blocks(neurons, per_task)]

    def _cut_by_rows(self, threads: int) -> list[list[tuple[int, ...]]]:
        """All layers over blocks of rows; a layer that needs sums over the batch cuts them in two, both ways."""
        largest = max(1, *(layer.parameters for layer in self.layers))
        few = int(TASK_WORK / (2 * self.program.tiles.samples * largest))
        share = max(1, min(PANELS_PER_TASK, -(-self.panels // threads), few))
        count = -(-self.panels // share)
        bounds = list(itertools.pairwise(self.panels * i // count for i in range(count + 1)))
        cuts = [i for i, layer in enumerate(self.layers) if layer.whole_batch and self.backward]
        phases: list[list[tuple[int, ...]]] = []

        def over_rows(kind: int, gather: bool, first: int, last: int) -> None:
            phases.append([(kind, gather, lo, hi, first, last) for lo, hi in bounds])

        for start, cut in zip([0, *cuts], cuts, strict=False):
            over_rows(pg.UP, not phases, start, cut)
            phases.append(self._statistics(pg.STATISTICS_UP, cut, threads))
        turn = cuts[-1] if cuts else 0
        over_rows(pg.ROWS, not phases, turn, max(self.lowest, turn + 1) if cuts else self.lowest)
        for end, cut in reversed(list(itertools.pairwise([-1, *cuts]))):
            if cut >= self.lowest or cut in self.learning:
                phases.append(self._statistics(pg.STATISTICS_DOWN, cut, threads))
                if max(self.lowest, end + 1) <= cut:
                    over_rows(pg.DOWN, False, max(self.lowest, end + 1), cut + 1)
        return phases

    def _cut_by_layers(self, threads: int) -> list[list[tuple[int, ...]]]:
        """(row block x neuron block) tasks, a phase for each product of each layer: for few rows and many cores."""
        tiles = self.program.tiles
        rows = list(pg.blocks(self.panels, PANELS_PER_TASK))

        def pieces(layer: LayerSpec, neurons: int) -> list[tuple[int, int]]:
            if layer.operation.whole_rows:
                return [(0, neurons)]
            if self.thin:
                parts = [_part(self.program.panels(neurons), thread, threads) for thread in range(threads)]
                return [(j0 * tiles.width, min(neurons, j1 * tiles.width)) for j0, j1 in parts if j0 < j1]
            per_task = max(1, -(-neurons * len(rows) // (4 * threads * tiles.width)))
            return list(pg.blocks(neurons, min(per_task * tiles.width, pg.NEURON_BLOCK // tiles.width * tiles.width)))

        def by_neurons(kind: int, index: int, neurons: int) -> None:
            blocks = pieces(self.layers[index], neurons)
            phases.append([(kind, index, lo, hi, n0, n1) for lo, hi in rows for n0, n1 in blocks])

        phases: list[list[tuple[int, ...]]] = [[(pg.GATHER, 0, p, p + 1, 0, 0) for p in range(self.panels)]]
        for index, layer in enumerate(self.layers):
            if layer.whole_batch and self.backward:
                phases.append(self._statistics(pg.STATISTICS_UP, index, threads))
            by_neurons(pg.FORWARD, index, layer.fan_out)
        phases.append([(pg.OUTPUT, 0, p, p + 1, 0, 0) for p in range(self.panels)])
        if self.backward:
            for index in range(len(self.layers) - 1, -1, -1):
                layer = self.layers[index]
                if layer.whole_batch and (index >= self.lowest or index in self.learning):
                    phases.append(self._statistics(pg.STATISTICS_DOWN, index, threads))
                if index >= self.lowest:
                    by_neurons(pg.BACK, index, layer.fan_in)
            if self.lowest == 0:
                phases.append([(pg.INPUT_GRADIENT, 0, p, p + 1, 0, 0) for p in range(self.panels)])
        return phases

    def bind(self, workspace: int, parameters: int, copies: int = 0, table: np.ndarray | None = None) -> np.ndarray:
        """The table, or another one of these ops, with absolute addresses."""
        table = (self.table if table is None else table).copy()
        table[:, pg.W] += parameters
        for column, used in (
            (pg.A, pg.A_PANEL),
            (pg.Z, pg.Z_PANEL),
            (pg.H, pg.H_PANEL),
            (pg.DZ, pg.DZ_PANEL),
            (pg.DA, pg.DA_PANEL),
            (pg.T, pg.T_PANEL),
            (pg.A_PAIRS, pg.A_PAIRS_PANEL),
            (pg.A_PLAIN, pg.A_PLAIN_PANEL),
            (pg.DZ_PAIRS, pg.DZ_PAIRS_PANEL),
            (pg.SKIP, pg.SKIP_PANEL),
            (pg.STATE, pg.STATE_PANEL),
            (pg.PART, pg.PART_PANEL),
        ):
            table[table[:, used] != 0, column] += workspace
        if self.program.half:
            table[:, pg.WF : pg.WB_BLOCK + 1] = self.program.copies[self.places]
            table[table[:, pg.WF_PANEL] != 0, pg.WF] += copies
            table[table[:, pg.WB_BLOCK] != 0, pg.WB] += copies
            table[0, pg.WB] = 0
        return table


def _part(n: int, thread: int, threads: int) -> tuple[int, int]:
    """The thread's part of 0..n, the first ones the larger."""
    return -(-n * thread // threads), -(-n * (thread + 1) // threads)


def _shares(phase: Sequence[tuple[int, ...]], threads: int) -> list[int]:
    """Bounds of each worker's own tasks: equal parts of the area that the tasks cover."""
    area = np.cumsum([max(1, (task[3] - task[2]) * max(1, task[5] - task[4])) for task in phase])
    ends = np.array([0, *area])
    cuts = [int(np.abs(ends - area[-1] * i / threads).argmin()) for i in range(1, threads)]
    return [0, *cuts, len(phase)]
