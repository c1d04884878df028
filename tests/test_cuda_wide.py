"""Wide layers by NVIDIA's library, and steps as graphs: held against our own kernels, launched one by one."""

import contextlib
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import python

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
pytest.importorskip("nvmath.bindings.cublasLt", reason="nvmath-python isn't made for this system")
from cublas_stand_in import Blas, Lt

import fastbp as fb
from fastbp import losses
from fastbp.cuda import captured, cublas, layout, products, wide
from fastbp.cuda.engine import Engine
from fastbp.cuda.narrow import one_block
from fastbp.cuda.shapes import DEVICE, shapes
from fastbp.layout.objective import Objective
from fastbp.program import Program

UNKNOWN = "RELU_AUX_BIAS", "RELU_BIAS", "BGRADA", "BIAS", "DRELU"
"""Epilogues that an older library may not know."""
LAYERS: dict[str, Callable[[], list[fb.layers.Layer]]] = {
    "relu": lambda: [fb.Dense(6, activation="relu"), fb.Dense(7, activation="relu"), fb.Dense(3)],
    "without bias": lambda: [fb.Dense(6, activation="relu", use_bias=False), fb.Dense(3, use_bias=False)],
    "tanh": lambda: [fb.Dense(6, activation="tanh"), fb.Dense(3)],
    "gelu_tanh": lambda: [fb.Dense(6, activation="gelu_tanh"), fb.Dense(3)],
    "penalty": lambda: [fb.Dense(6, activation="relu", kernel_regularizer="l2", bias_regularizer="l1"), fb.Dense(3)],
    "dropout": lambda: [fb.Dense(6, activation="relu"), fb.Dropout(0.5), fb.Dense(3)],
    "residual": lambda: [fb.Dense(6, activation="relu"), fb.Residual([fb.Dense(6, activation="relu")]), fb.Dense(3)],
    "frozen": lambda: [fb.Dense(6, activation="relu", trainable=False), fb.Dense(5), fb.Dense(3)],
}


@pytest.fixture(autouse=True)
def launch_by_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks don't go their own way here."""
    monkeypatch.setattr(one_block, "reason", lambda *_: "it is not asked for")


def trained(
    layers: list[fb.layers.Layer], make_products: Any = None, rows: int = 11, width: int = 5, **options: Any
) -> list[np.ndarray]:
    """Weights, sums and outputs of an engine after three steps over rows of which the last batch is short."""
    model = fb.Model(layers, seed=3)
    model.build(width)
    engine = Engine(model._network(width).specs, np.dtype("float32"))
    engine.program.put(engine.weights, model.get_weights())
    if make_products is not None:
        engine.products = make_products
    rule = fb.optimizers.get(options.pop("optimizer", fb.SGD(0.1, momentum=0.9)))
    engine.reserve_moments(rule)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, width)).astype(np.float32)
    y = rng.standard_normal((rows, layers[-1].units)).astype(np.float32)
    sums = engine.run(x, y, batch=-(-rows // 3), steps=3, objective=Objective(losses.get("mse")), optimizer=rule).sums
    result = np.zeros_like(y)
    engine.run(x, batch=-(-rows // 3), result=result)
    return [*engine.program.take(engine.weights), sums, result]


def by_library(precision: str = "float32", unknown: tuple[str, ...] = (), library: Any = None) -> Any:
    """What makes products by a library that is stood in for, whatever a layer's width."""
    library = library or cublas.CublasLt(Lt(unknown), cublas.Choices(None), None)
    return functools.partial(wide.Wide, library=library, precision=precision, least=0, width=1)


@functools.cache
def plain(name: str) -> list[np.ndarray]:
    return trained(LAYERS[name]())


def agree(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float) -> None:
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_the_librarys_products_are_the_tiles(name: str) -> None:
    agree(trained(LAYERS[name](), by_library()), plain(name), 3e-6)


@pytest.mark.parametrize("name", ["relu", "gelu_tanh"])
def test_what_the_library_does_not_fuse_our_kernels_do(name: str) -> None:
    agree(trained(LAYERS[name](), by_library(unknown=UNKNOWN)), plain(name), 3e-6)
    agree(trained(LAYERS[name](), by_library(library=cublas.Cublas(Blas()))), plain(name), 3e-6)


STORED = functools.partial(wide.stored, least=0, width=1)
"""Whose outputs are bfloat16 where every layer is the library's."""


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_factors_are_rounded_to_the_nearest(name: str) -> None:
    twin = functools.partial(products.Tiles, precision="bfloat16", stored=STORED)
    found = trained(LAYERS[name](), by_library("bfloat16"))
    agree(found, trained(LAYERS[name](), twin), 1e-4)
    assert np.abs(found[-1] - plain(name)[-1]).max() > 1e-5


def test_biases_are_of_the_type_of_the_outputs() -> None:
    """In bfloat16 as the library wants them where it writes bfloat16, and as they are where it writes float32."""

    def layers() -> list[fb.layers.Layer]:
        return [fb.Dense(n, bias_initializer=np.full(n, 1.0105, np.float32)) for n in (6, 3)]

    twin, exact = (functools.partial(products.Tiles, precision="bfloat16", stored=of) for of in (STORED, None))
    found = trained(layers(), by_library("bfloat16"))
    agree(found, trained(layers(), twin), 1e-4)
    assert np.abs(found[-1] - trained(layers(), exact)[-1]).max() > 1e-3


def watching(monkeypatch: pytest.MonkeyPatch) -> list[tuple[cublas.Shape, bool]]:
    """The products that are bound from now on, and whether the library knew them."""
    bound: list[tuple[cublas.Shape, bool]] = []
    bind = cublas.CublasLt.bind

    def watched(self: cublas.CublasLt, shape: cublas.Shape, at: cublas.Addresses) -> Any:
        launch = bind(self, shape, at)
        bound.append((shape, launch is not None))
        return launch

    monkeypatch.setattr(cublas.CublasLt, "bind", watched)
    return bound


def test_what_only_products_read_is_written_as_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden layers' outputs and dZ; the loss and the updates get float32. Nothing of it is copied then."""
    bound = watching(monkeypatch)
    copies: list[int] = []
    halve = wide.Wide._halve

    def watched(self: wide.Wide, copy: Any, ld: int, buffer: str, place: int, *sizes: int, back: bool = False) -> Any:
        assert not back
        copies.append(sizes[-1]) if buffer == "work" else None
        return halve(self, copy, ld, buffer, place, *sizes)

    monkeypatch.setattr(wide.Wide, "_halve", watched)
    trained(LAYERS["relu"](), by_library("bfloat16"))
    training, prediction = bound[:8], bound[8:]
    assert [(shape.epilogue, shape.half) for shape, _ in training] == [
        *[("relu, bias, mask", True)] * 2,
        ("bias", False),
        *[("relu back", True)] * 2,
        *[("sums", False)] * 3,
    ]
    assert [(shape.epilogue, shape.half) for shape, _ in prediction] == [*[("relu, bias", True)] * 2, ("bias", False)]
    assert copies == [5, 3, 5]  # the inputs and the loss' dZ; the inputs


REFUSED: dict[str, tuple[str, ...]] = {
    "forward": ("BIAS", "DEFAULT"),
    "way back": ("DRELU", "DEFAULT"),
    "derivative": ("DRELU",),
    "sums": ("BGRADA",),
    "gradients": ("BGRADA", "DEFAULT"),
}
"""Epilogues that an older library may not know, named by what falls to kernels that read float32."""


@pytest.mark.parametrize("refused", REFUSED)
def test_kernels_of_our_own_read_what_was_written_as_bfloat16(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = watching(monkeypatch)
    twin = functools.partial(products.Tiles, precision="bfloat16", stored=STORED)
    found = trained(LAYERS["relu"](), by_library("bfloat16", REFUSED[refused]))
    coarse = 1e-3 if refused == "sums" else 1e-4  # our sums are of the loss' dZ as it is
    agree(found, trained(LAYERS["relu"](), twin), coarse)
    assert any(shape.half for shape, knew in bound if knew) and not all(knew for _, knew in bound)


def test_outputs_that_others_read_stay_float32() -> None:
    """Of an op that isn't a product, of a narrow layer, of the loss."""
    model = fb.Model([fb.Dense(8, activation="relu"), fb.Dense(9), fb.Dropout(0.1), fb.Dense(8, "tanh"), fb.Dense(2)])
    model.build(8)
    plan = layout.Layout(Program(model._network(8).specs, np.dtype("float32"), layout.Rows()), batch=5, backward=True)
    assert [STORED(plan, op) for op in range(5)] == [True, False, False, False, False]
    assert not any(wide.stored(plan, op, least=0, width=9) for op in range(5))


@pytest.mark.parametrize(
    "rule", [fb.Adam(0.1, global_clipnorm=0.5), fb.SGD(0.1, gradient_accumulation_steps=2)], ids=["clipped", "group"]
)
def test_gradients_are_written_out_where_an_update_needs_all(rule: fb.optimizers.Optimizer) -> None:
    found = [trained(LAYERS["relu"](), how, optimizer=rule) for how in (by_library(), None)]
    agree(*found, 3e-6)


def test_narrow_layers_stay_with_the_tiles() -> None:
    lt = Lt()
    library = cublas.CublasLt(lt, cublas.Choices(None), None)
    some = functools.partial(wide.Wide, library=library, precision="float32", least=0, width=6)
    layers = [fb.Dense(6, activation="relu"), fb.Dense(7, activation="relu"), fb.Dense(3)]
    agree(trained(layers, some), plain("relu"), 3e-6)
    assert len(lt.launches) == 3 * 3 + 3  # only 6-7 is wide, and a prediction of three batches goes forward
    lt.launches.clear()
    few = functools.partial(wide.Wide, library=library, precision="float32", least=10**9, width=1)
    agree(trained(LAYERS["relu"](), few), plain("relu"), 0)
    assert not lt.launches


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_that_the_library_does_not_know_stay_with_the_tiles(precision: str) -> None:
    some = by_library(precision, unknown=("DEFAULT", *UNKNOWN, "RELU", "RELU_AUX"))
    tiles = functools.partial(products.Tiles, precision=precision)
    agree(trained(LAYERS["relu"](), some), trained(LAYERS["relu"](), tiles), 0)


def test_copies_in_bfloat16_keep_infinity_and_nan() -> None:
    from fastbp.cuda import layout as lo
    from fastbp.cuda.shapes import shapes

    values = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, np.inf, -np.inf, np.nan, 3.4e38, -0.0]], np.float32)
    copy = np.zeros((1, 8), np.uint16)
    made = wide.halve(np.dtype("float32"), shapes())
    table = np.zeros(lo.RUN_FIELDS, np.int64)
    made[1, shapes().threads](table, copy.reshape(-1), 8, values.view(np.uint32).reshape(-1), 0, 8, 1, 8)
    got = (copy.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, [[1, 1, 1 + 2**-6, np.inf, -np.inf, np.nan, np.inf, 0]])
    again = np.zeros(16, np.uint32)
    back = wide.widen(np.dtype("float32"), shapes())
    back[1, shapes().threads](table, copy.reshape(-1), 8, again, 3, 8, 1, 7)
    np.testing.assert_array_equal(again.view(np.float32), [0, 0, 0, *got[0, :7], *[0] * 6])


COPIED: dict[str, Callable[[], list[fb.layers.Layer]]] = {
    "all": lambda: [fb.Dense(8, activation="relu"), fb.Dense(16, activation="tanh"), fb.Dense(8)],
    "one isn't": lambda: [fb.Dense(8, activation="relu"), fb.Dense(5), fb.Dense(8)],
    "frozen": lambda: [fb.Dense(8, activation="tanh"), fb.Dense(16, trainable=False), fb.Dense(8)],
    "bounded": lambda: [fb.Dense(8, activation="tanh"), fb.Dense(8, kernel_constraint="non_neg"), fb.Dense(8)],
}


@pytest.mark.parametrize("rule", [fb.Adam(0.1), fb.SGD(0.1, gradient_accumulation_steps=2)], ids=["fused", "late"])
@pytest.mark.parametrize("unknown", [(), ("DEFAULT", *UNKNOWN, "RELU", "RELU_AUX")], ids=["library", "tiles"])
@pytest.mark.parametrize("name", COPIED)
def test_updates_keep_copies_of_weights_up(
    name: str, unknown: tuple[str, ...], rule: fb.optimizers.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit what a copy made in each step gives, and in most of them none is made."""
    made: list[str] = []
    halve = wide.Wide._halve

    def watched(self: wide.Wide, copy: Any, ld: int, buffer: str, *place: int) -> Any:
        made.append(buffer)
        return halve(self, copy, ld, buffer, *place)

    monkeypatch.setattr(wide.Wide, "_halve", watched)
    found = trained(COPIED[name](), by_library("bfloat16", unknown), optimizer=rule)
    monkeypatch.setattr(wide.Wide, "_mirrored", lambda *_: False)
    agree(found, trained(COPIED[name](), by_library("bfloat16", unknown), optimizer=rule), 0)
    assert "params" in made


def test_the_bits_of_an_updated_weight_are_those_of_its_copy() -> None:
    from fastbp.cuda.precision import half

    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, np.inf, -np.inf, np.nan, 3.4e38, -0.0, 1e-40], np.float32)
    bits = np.array([half()(value) for value in values], np.uint16)
    got = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, [1, 1, 1 + 2**-6, np.inf, -np.inf, np.nan, np.inf, 0, got[-1]])
    assert bits[5] & 0x7FFF == 0x7FC0 and bits[7] == 0x8000


def test_copies_are_made_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the weights: a step's launches have none of them, a run begins with all."""
    from fastbp.cuda import ways

    steps: list[Any] = []
    step_of = ways.step_of
    monkeypatch.setattr(ways, "step_of", lambda *given: steps.append(step_of(*given)) or steps[-1])
    trained(COPIED["all"](), by_library("bfloat16"), optimizer=fb.Adam(0.1))
    rounding = wide.halve(np.dtype("float32"), shapes())
    for step in steps:
        assert [launch.kernel for launch in step.first] == [rounding] * 3
        places = {launch.arguments[4] for launch in step.first}
        inside = [launch for launch in step.launches if launch.kernel is rounding]
        assert inside and all(launch.arguments[3].size != step.first[0].arguments[3].size for launch in inside)
        assert len(places) == 3


def test_the_kernels_compile_without_a_gpu() -> None:
    code = """
import os
os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
import numpy as np
from numba import types
import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.cuda import arrays, device, products, rules, targets, weights, wide
from fastbp.cuda.shapes import shapes

kind, sizes = np.dtype("float32"), shapes()
i64, f32, u16, u32 = (t[::1] for t in (types.int64, types.float32, types.uint16, types.uint32))
n = types.int64
element = weights.fused(kind, rules.update(fb.Adam(), kind), True)
cases = [
    (wide.halve(kind, sizes), (i64, u16, n, u32, n, n, n, n), sizes.threads),
    (wide.widen(kind, sizes), (i64, u16, n, u32, n, n, n, n), sizes.threads),
    (wide.finish(kind, sizes, ACTIVATIONS["tanh"], False), (i64, n, n, f32, f32, u16, n), sizes.threads),
    (wide.finish(kind, sizes, ACTIVATIONS["tanh"], True), (i64, n, n, f32, f32, u16, n), sizes.threads),
    (wide.add_bias(kind, sizes), (i64, n, n, n, f32, f32), sizes.threads),
    (wide.sum_rows(kind, sizes), (i64, n, f32, f32), sizes.threads),
    (products.learn(kind, sizes, element), (i64, i64, f32, n, n, f32, f32, f32, f32), sizes.flat),
    (products.learn(kind, sizes, element, True), (i64, i64, f32, n, n, f32, f32, f32, u16), sizes.flat),
    (products.learn(kind, sizes, products.write), (i64, i64, f32, n, n, f32, f32, f32, f32), sizes.flat),
    (arrays._unfit(kind), (f32, i64), sizes.flat),
    (targets._count(), (i64, i64, n, i64), sizes.flat),
]
capabilities = (7, 5), (9, 0), (10, 0)
for made, signature, threads in cases:
    codes = device.compile_ptx(made, signature, capabilities, threads=threads)
    for (major, minor), ptx in zip(capabilities, codes, strict=True):
        assert f".target sm_{major}{minor}" in ptx
        assert ".local" not in ptx and "call" not in ptx, (made, ptx)
print(len(cases))
"""
    assert python(code).strip() == "11"


def test_millions_of_rows_fit_into_a_grid() -> None:
    """CUDA takes 2^31 - 1 blocks along a grid's first axis, 65,535 along the others."""
    bound: Any = SimpleNamespace(layout=SimpleNamespace(batch=5_000_000))
    for tile in DEVICE.tiles:
        assert products.Tiles(bound)._grid(tile, 1000) == (-(-5_000_000 // tile.rows), -(-1000 // tile.columns))


# ---------------------------------------------------------------- graphs


class Recorder:
    """A stream that is captured: launches are put down instead of run."""

    def __init__(self) -> None:
        self.put: list[str] = []


class Replay:
    def __init__(self, put: list[str], made: list[int]) -> None:
        self._put = put
        made.append(len(put))

    def launch(self, stream: list[str]) -> None:
        stream += self._put


def launch(name: str) -> Any:
    return lambda stream: (stream.put if isinstance(stream, Recorder) else stream).append(name)


@pytest.mark.parametrize("lengths", [[1], [2], [5], [9], [20], [0, 3, 4], [4, 4, 13, 1]])
def test_any_number_of_steps_is_made_of_two_graphs(lengths: list[int]) -> None:
    made: list[int] = []

    def capture(put: Callable[[Any], None]) -> Replay:
        recorder = Recorder()
        put(recorder)
        return Replay(recorder.put, made)

    step = captured.Graphs([launch("a"), launch("b")], capture, many=4)
    stream: list[str] = []
    for length in lengths:
        step.run(stream, length)
    assert stream == ["a", "b"] * sum(lengths)
    assert sorted(made) in ([], [8], [2, 8])
    assert len(made) == len(set(made))


def test_a_few_steps_are_launched_and_many_short_runs_are_replayed() -> None:
    """A prediction over two batches makes no graph; one step after the other, as a callback may want them, does."""
    made: list[int] = []

    def capture(put: Callable[[Any], None]) -> Replay:
        put(recorder := Recorder())
        return Replay(recorder.put, made)

    step, stream = captured.Graphs([launch("a")], capture), list[str]()
    for length in (2, *[1] * 6):
        step.run(stream, length)
    assert made == []
    for _ in range(5):
        step.run(stream, 1)
    assert made == [1] and len(stream) == 13


def test_in_the_simulator_a_step_is_launched() -> None:
    stream: list[str] = []
    captured.step_of([launch("a"), launch("b")]).run(stream, 2)
    assert stream == ["a", "b"] * 2


def test_a_capture_that_fails_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Builder:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: said.append(name)

    class Gpu:
        set_current = staticmethod(lambda: None)
        create_graph_builder = Builder

    class Core:
        Device = staticmethod(lambda number: Gpu)

    monkeypatch.setattr(captured.importlib, "import_module", lambda name: Core)
    monkeypatch.setattr(captured.device, "_module", lambda: Cuda)
    monkeypatch.setattr(captured.device, "simulated", lambda: False)
    with pytest.raises(ZeroDivisionError):
        captured.capture(lambda stream: 1 / 0)
    assert said == ["begin_building", "end_building", "close"]


class Cuda:
    """What `capture` asks of the package."""

    @staticmethod
    def get_current_device() -> Any:
        class Gpu:
            id = 0

        return Gpu

    defer_cleanup = staticmethod(contextlib.nullcontext)


# ---------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:matrix products run in fastbp's own kernels")
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-4), ("tf32", 5e-3), ("bfloat16", 1e-3)])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu_tanh"])
def test_the_library_agrees_with_the_tiles_on_a_device(name: str, precision: str, tolerance: float) -> None:
    library = cublas.library()
    if library is None:
        pytest.skip("neither nvmath-python nor CuPy is installed")

    def layers() -> list[fb.layers.Layer]:
        return [fb.Dense(256, activation=name), fb.Dense(192, activation=name), fb.Dense(64)]

    size = {"rows": 300, "width": 128}
    some = functools.partial(wide.Wide, library=library, precision=precision, least=0, width=1)
    tiles = functools.partial(products.Tiles, precision=precision, stored=STORED if precision == "bfloat16" else None)
    agree(trained(layers(), some, **size), trained(layers(), tiles, **size), tolerance)
    again = trained(layers(), some, **size)
    agree(trained(layers(), some, **size), again, 0)  # the same bits twice


@pytest.mark.gpu
def test_a_replayed_step_is_the_launched_one() -> None:
    from fastbp.cuda.step import Launches

    found = []
    for make in (Launches, captured.step_of):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(captured, "step_of", make)
            found.append(trained(LAYERS["relu"](), rows=200))
    agree(found[0], found[1], 0)
