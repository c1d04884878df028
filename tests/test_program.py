"""The engine's order of a network: every parameter has one place, every task its own, and no two buffers overlap.

For the tiles of every machine of the table, so that what holds here holds there.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import _vector
from fastbp import program as pg
from fastbp.activations import ACTIVATIONS
from fastbp.cpu import tile
from fastbp.cpu.tile import Geometry
from fastbp.layout.plan import Plan, lay_out
from fastbp.program import LayerSpec, Program


def _geometries() -> Iterator[tuple[int, Geometry]]:
    """(bytes of a number, geometry) on each machine of the table."""
    for registers, nbytes in tile.TILES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tile, "vector_registers", lambda: registers)
            for module in (tile, _vector):
                patch.setattr(module, "vector_bytes", lambda: nbytes)
            yield from ((size, tile.geometry.__wrapped__(size)) for size in (4, 8))


GEOMETRIES = list(_geometries())
NAMES = [name for name, row in ACTIVATIONS.items() if not row.coupled]
machines = pytest.mark.parametrize(("size", "tiles"), GEOMETRIES)


def network(widths: list[int], size: int, tiles: Geometry, bias: bool = True) -> Program:
    layers = [LayerSpec(i, o, bias, ACTIVATIONS["tanh"]) for i, o in itertools.pairwise(widths)]
    return Program(layers, np.dtype(f"f{size}"), tiles)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    size, tiles = draw(st.sampled_from(GEOMETRIES))
    widths = draw(st.lists(st.one_of(st.integers(1, 70), st.integers(1, 700)), min_size=2, max_size=5))
    layers = [
        LayerSpec(i, o, draw(st.booleans()), ACTIVATIONS[draw(st.sampled_from(NAMES))])
        for i, o in itertools.pairwise(widths)
    ]
    return Program(layers, np.dtype(f"f{size}"), tiles)


@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_every_parameter_has_its_place(program: Program) -> None:
    """What is put is taken out again; all else stays zero, and nothing is stored twice."""
    flat = np.zeros(program.parameter_bytes // program.dtype.itemsize, program.dtype)
    number = itertools.count(1)
    arrays = []
    for layer in program.layers:
        shapes = [(layer.fan_in, layer.fan_out), *([(layer.fan_out,)] if layer.bias else [])]
        arrays += [np.array([next(number) for _ in range(int(np.prod(s)))], program.dtype).reshape(s) for s in shapes]
    program.put(flat, arrays)
    for got, wanted in zip(program.take(flat), arrays, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.flags.owndata
    assert np.count_nonzero(flat) == program.parameter_count == sum(a.size for a in arrays)
    assert program.parameter_bytes % pg.LINE == 0
    assert all(offset % pg.LINE == 0 for offset in program.offsets)


@machines
def test_a_panel_is_a_run_of_neurons_and_ends_with_their_biases(size: int, tiles: Geometry) -> None:
    """The documented order, by hand: [panel][input, then bias][neuron]."""
    inputs, neurons = 3, tiles.width + 1
    program = network([inputs, neurons], size, tiles)
    flat = np.zeros(program.parameter_bytes // size, program.dtype)
    kernel = np.arange(1.0, 1 + inputs * neurons).reshape(inputs, neurons)
    program.put(flat, [kernel, -np.arange(1.0, 1 + neurons)])
    panel = (inputs + 1) * tiles.width
    assert program.panel_bytes == [panel * size]
    assert flat[0] == kernel[0, 0]
    assert flat[tiles.width - 1] == kernel[0, tiles.width - 1]
    assert flat[tiles.width] == kernel[1, 0]
    assert flat[inputs * tiles.width] == -1
    assert flat[panel] == kernel[0, tiles.width]
    assert flat[panel + inputs * tiles.width] == -neurons


def buffers(plan: Plan) -> Iterator[tuple[int, int]]:
    """(begin, end) of every buffer of the workspace, as the table and the plan name them."""
    program, size = plan.program, plan.program.dtype.itemsize
    row = program.tiles.samples * size
    spans = {(plan.index, plan.index + 8 * program.tiles.samples * plan.panels)}
    spans.add((plan.scale, plan.scale + row * plan.panels))

    def panels(offset: int, distance: int, rows: int) -> None:
        if distance:
            assert distance >= pg.round_up(rows, program.tiles.lanes) * row or rows == 0
            spans.add((offset, offset + distance * plan.panels))

    panels(plan.target, plan.target_panel, program.layers[-1].fan_out)
    for op, layer in zip(plan.table, program.layers, strict=True):
        panels(op[pg.A], op[pg.A_PANEL], layer.steps)
        panels(op[pg.Z], op[pg.Z_PANEL], layer.fan_out)
        panels(op[pg.H], op[pg.H_PANEL], layer.fan_out)
        panels(op[pg.DZ], op[pg.DZ_PANEL], layer.fan_out)
        panels(op[pg.DA], op[pg.DA_PANEL], layer.fan_in)
        if op[pg.T_PANEL]:
            per_panel = plan.panels * program.tiles.samples * program.tiles.width * size
            assert op[pg.T_PANEL] >= per_panel
            spans.add((op[pg.T], op[pg.T] + op[pg.T_PANEL] * program.panels(layer.fan_out)))
        panels(op[pg.PART], op[pg.PART_PANEL], layer.fan_out)
    if plan.apart is not None:
        spans.add((plan.apart, plan.apart + 2 * program.parameter_bytes))
    if plan.sides is not None:
        for op, layer in zip(plan.sides.tables[1], program.layers, strict=True):
            panels(op[pg.PART], op[pg.PART_PANEL], layer.fan_out)
            spans.add((op[pg.T], op[pg.T] + op[pg.T_PANEL] * program.panels(layer.fan_out)))
        first = plan.sides.tables[1, 0]
        panels(first[pg.A], first[pg.A_PANEL], program.layers[0].steps)
        index, scale, counts, target = plan.sides.run[1]
        spans |= {(index, index + 8 * program.tiles.samples * plan.panels), (scale, scale + row * plan.panels)}
        spans.add((counts, counts + 2 * row * plan.panels))
        panels(target, plan.target_panel, program.layers[-1].fan_out)
    yield from sorted(spans)


plans = given(
    program=programs(),
    batch=st.one_of(st.integers(1, 300), st.integers(1, 20_000)),
    threads=st.sampled_from([1, 2, 3, 8, 64]),
    backward=st.booleans(),
    inputs=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@plans
def test_buffers_lie_apart(program: Program, batch: int, threads: int, backward: bool, inputs: bool) -> None:
    plan = lay_out(program, batch, threads, backward=backward, input_gradient=backward and inputs)
    spans = list(buffers(plan))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= plan.nbytes
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end <= begin
    assert all(begin % pg.LINE == 0 for begin, _ in spans)
    assert plan.slab % program.tiles.samples == 0
    assert (plan.slabs - 1) * plan.slab < batch <= plan.slabs * plan.slab


def check_tasks(plan: Plan, threads: int, backward: bool, inputs: bool) -> set[int]:
    """Each phase's tasks tile its rows and neurons without gap or overlap; returns the kinds of task."""
    program = plan.program
    whole = {
        pg.FORWARD: [layer.fan_out for layer in program.layers],
        pg.BACK: [layer.fan_in for layer in program.layers],
    }
    seen: Counter[tuple[int, int]] = Counter()
    assert plan.phases[0, 0] == 0
    for number, (start, *bounds) in enumerate(plan.phases):
        final = number == len(plan.phases) - 1
        tasks = plan.tasks[start : start + bounds[-1]]
        assert len(bounds) == 1 + threads
        assert bounds[0] == 0
        assert bounds == sorted(bounds)
        assert start + bounds[-1] == (len(plan.tasks) if final else plan.phases[number + 1, 0])
        area: dict[tuple[int, int], np.ndarray] = {}
        for kind, op, a0, a1, b0, b1 in tasks:
            seen[kind, op] += 1
            if kind == pg.SUM:
                continue
            if kind == pg.WEIGHTS:
                layer = program.layers[op]
                shape = (layer.steps, program.panels(layer.fan_out))
                assert a1 - a0 <= pg.ROWS_OF_TILE + program.tiles.lanes  # what the scratch is laid out for
                assert b1 - b0 <= pg.PANELS_OF_TILE
            else:
                shape = (plan.panels, whole[kind][op] if kind in whole else 1)
                b0, b1 = (b0, b1) if kind in whole else (0, 1)
                if kind in whole:
                    assert b0 % program.tiles.width == 0  # blocks of neurons begin with a panel of weights
            covered = area.setdefault((kind, 0 if kind == pg.HALF else op), np.zeros(shape, np.int64))
            assert 0 <= a0 < a1 <= shape[0]
            assert 0 <= b0 < b1 <= shape[1]
            covered[a0:a1, b0:b1] += 1
        assert all((covered == 1).all() for covered in area.values())
    kinds = {kind for kind, _ in seen}
    assert seen[pg.SUM, 0] == 1
    assert kinds >= ({pg.SUM, pg.WEIGHTS} if backward else {pg.SUM})
    if backward:
        assert {op for kind, op in seen if kind == pg.WEIGHTS} == set(range(len(program.layers)))
    if plan.sides is not None:
        covered = {
            i: np.zeros((layer.steps, program.panels(layer.fan_out)), int) for i, layer in enumerate(program.layers)
        }
        for kind, op, k0, k1, j0, j1 in plan.sides.tasks:
            assert kind == pg.WEIGHTS
            assert k1 - k0 <= pg.ROWS_OF_TILE + program.tiles.lanes
            assert j1 - j0 <= pg.PANELS_OF_TILE
            covered[op][k0:k1, j0:j1] += 1
        assert all((area == 1).all() for area in covered.values())
    if kinds & {pg.ROWS, pg.HALF}:
        assert kinds in ({pg.ROWS, pg.SUM, pg.WEIGHTS}, {pg.ROWS, pg.SUM}, {pg.HALF, pg.SUM, pg.WEIGHTS})
        assert (pg.HALF in kinds) == (plan.apart is not None)
    else:
        assert {op for kind, op in seen if kind == pg.FORWARD} == set(range(len(program.layers)))
        first = 0 if backward and inputs else 1
        back = range(first, len(program.layers)) if backward else ()
        assert {op for kind, op in seen if kind == pg.BACK} == set(back)
        assert (pg.INPUT_GRADIENT in kinds) == (backward and inputs)
    return kinds


@settings(max_examples=150, deadline=None)
@plans
def test_every_number_is_computed_once(
    program: Program, batch: int, threads: int, backward: bool, inputs: bool
) -> None:
    plan = lay_out(program, batch, threads, backward=backward, input_gradient=backward and inputs)
    check_tasks(plan, threads, backward, inputs)


@machines
@pytest.mark.parametrize("threads", [2, 8])
def test_few_rows_on_many_cores_are_cut_at_layers(size: int, tiles: Geometry, threads: int) -> None:
    program = network([70, 5000, 60], size, tiles)
    plan = lay_out(program, tiles.samples, threads, backward=True)
    assert check_tasks(plan, threads, True, False) > {pg.GATHER, pg.FORWARD, pg.OUTPUT, pg.BACK}
    serial = lay_out(program, tiles.samples, 1, backward=True)
    assert check_tasks(serial, 1, True, False) == {pg.ROWS, pg.SUM, pg.WEIGHTS}


@machines
def test_tiles_fit_the_panels(size: int, tiles: Geometry) -> None:
    """The forward tile crosses panels between groups of rows, the gradient tile takes a panel's vectors or panels."""
    assert tiles.width % tiles.rows == 0 or (tiles.width % tile.GROUP == 0 and tiles.rows <= 3 * tile.GROUP)
    assert tiles.width % tiles.lanes == 0
    assert tiles.samples == 2 * tiles.lanes
    assert tiles.panel_vectors == 1 or tiles.gradient_vectors == tiles.panel_vectors
    assert {tiles.rows, tiles.gradient_rows} <= set(tile.row_counts(12))


@settings(max_examples=60, deadline=None)
@plans
def test_the_bound_table_has_addresses(
    program: Program, batch: int, threads: int, backward: bool, inputs: bool
) -> None:
    plan = lay_out(program, batch, threads, backward=backward, input_gradient=backward and inputs)
    table, base, weights = plan.bind(1 << 40, 1 << 50), 1 << 40, 1 << 50
    np.testing.assert_array_equal(table[:, pg.W] - weights, plan.table[:, pg.W])
    for column in (pg.A, pg.Z, pg.H, pg.DZ, pg.T):
        used = plan.table[:, column + 1] != 0
        np.testing.assert_array_equal(table[:, column] - base * used, plan.table[:, column])
    assert bool(table[0, pg.DA]) == (backward and inputs)
    for offset, count in plan.ones:
        assert count == program.tiles.samples
        assert 0 <= offset * program.dtype.itemsize < plan.nbytes


def test_sizes() -> None:
    program = network([784, 256, 10], *GEOMETRIES[0])
    assert program.parameter_count == 784 * 256 + 256 + 256 * 10 + 10
    assert program.flops_per_row == 2 * (2 * 784 * 256 + 3 * 256 * 10)
    assert [layer.parameters for layer in program.layers] == [784 * 256 + 256, 2570]
    assert network([784, 256, 10], *GEOMETRIES[0], bias=False).parameter_count == 784 * 256 + 2560
