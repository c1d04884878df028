"""The CUDA engine: owns the buffers of one network on a device, and launches runs of steps there."""

import contextlib
import functools
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import program as pg
from fastbp._signals import HeldBack
from fastbp.cuda import arrays, blocks, products, rows, ways, weights
from fastbp.cuda import layout as lo
from fastbp.cuda.bound import Bound, Data
from fastbp.cuda.coefficients import of_steps
from fastbp.cuda.compiling import make_ready
from fastbp.cuda.device import cuda, launch, zeros
from fastbp.cuda.layout import Layout, Rows
from fastbp.cuda.presence import in_words, roomy
from fastbp.cuda.shapes import shapes
from fastbp.cuda.step import Step
from fastbp.cuda.watch import Watch
from fastbp.data.device_arrays import OnDevice, place_of
from fastbp.data.sparse import SparseRows
from fastbp.layout.graph import GIVEN, update_mode
from fastbp.layout.objective import DIVERGED, Objective, Outcome
from fastbp.layout.request import Request
from fastbp.optimizers import Optimizer
from fastbp.program import LayerSpec, Program, aligned

if TYPE_CHECKING:
    from fastbp.data.staging import Sample

MOST_STEPS, MOST_TINY_STEPS, RUN_WORK = 1 << 12, 1 << 16, 2e9
"""Most steps of a run: room for their coefficients stands ready on the device. More where a run does less work."""
MOST_BOUND = 4
"""Kinds of step whose buffers are kept."""
EPOCHS = 16
"""Epochs of a run whose sums there is room for at first."""


class Engine:
    """One network on a CUDA device.

    Parameters
    ----------
    layers : resolved layers
    dtype : float32 or float64

    Attributes
    ----------
    program : the network in this engine's order
    watch : where the time of each run is booked, None (default) where nobody asks
    shown : whether lines on stderr say what is compiled
    products : what makes the launches of products
    """

    @in_words()
    def __init__(self, layers: Sequence[LayerSpec], dtype: np.dtype) -> None:
        self.program = Program(layers, dtype, Rows())
        self.threads = 1
        self.watch: Watch | None = None
        self.shown = False
        self.pace: dict[int, float] = {}
        self.products: Any = products.Tiles
        self.lock = threading.RLock()
        self.stop_flag = np.zeros(8, np.int64)
        self._moments, self._gradient_room = 0, False
        self._numbers = self.program.parameter_bytes // self.program.dtype.itemsize
        self._snapshot: Any = None
        self._host, self._params = self._room()
        self._said = False
        self._written = False  # whether the host's copy is newer than the device's,
        self._read = True  # and whether it is as new
        self._bound: dict[Any, _Ready] = {}
        self._held: dict[Any, tuple[Any, Any]] | None = None
        self._nothing = {kind: cuda.to_device(np.zeros(1, kind)) for kind in (np.dtype(np.int64), self.dtype)}

    @property
    def dtype(self) -> np.dtype:
        return self.program.dtype

    def twin(self) -> "Engine":
        """Another engine for the same network, with the same weights and moments."""
        other = Engine(self.program.layers, self.dtype)
        other.products = self.products
        other._reserve(self._moments)
        other.copy_state(self)
        return other

    def copy_state(self, other: Any) -> None:
        """Take over the weights and moments of an engine for the same network and optimizer."""
        with self.lock:
            other._fetch()
            count = (1 + self._moments) * self._numbers
            np.copyto(self._host[:count], other._host[:count])
            self._written, self._read = True, True

    # -------------------------------------------------- parameters and moments

    def _room(self) -> tuple[np.ndarray, Any]:
        """Zeros for the weights and moments on the host, and for a gradient too on the device."""
        host = aligned((1 + self._moments) * self.program.parameter_bytes).view(self.dtype)
        return host, zeros(len(host) + self._gradient_room * self._numbers, self.dtype)

    def _region(self, index: int) -> np.ndarray:
        return self._host[index * self._numbers : (index + 1) * self._numbers]

    @in_words()
    def _fetch(self) -> None:
        """The host's copy of weights and moments as they are."""
        if not self._read:
            count = (1 + self._moments) * self._numbers
            self._params[:count].copy_to_host(self._host[:count])
            self._read = True

    @in_words()
    def _send(self) -> None:
        """The device's weights and moments as they are."""
        if self._written:
            count = (1 + self._moments) * self._numbers
            self._params[:count].copy_to_device(self._host[:count])
            self._written = False

    @property
    def weights(self) -> np.ndarray:
        """The flat parameters on the host; what is written there is on the device before the next run."""
        with self.lock:
            self._fetch()
            self._written = True  # whoever asks may write
            return self._region(0)

    def _places(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Of each kernel and bias among the parameters: where it begins, the distance of its rows, its shape."""
        program, size = self.program, self.dtype.itemsize
        for index, layer in enumerate(program.layers):
            ld = program.panel_width(layer.neurons)
            for row, shape in layer.arrays:
                yield program.offsets[index] // size + row * ld, ld, shape

    @in_words()
    def views(self) -> list[OnDevice]:
        """Kernels (I, O) and biases (O,), in turn, where they are on the device."""
        with self.lock:
            self._send()
            whole, size = arrays.known(self._params), self.dtype.itemsize
            return [
                replace(
                    whole,
                    address=whole.address + first * size,
                    shape=shape,
                    strides=(ld * size, size) if len(shape) == 2 and ld != shape[1] else None,
                )
                for first, ld, shape in self._places()
            ]

    @in_words()
    def put(self, given: Sequence[OnDevice]) -> bool:
        """Copy kernels and biases that are on the device into the weights; False where one of them doesn't fit."""
        places, size = list(self._places()), self.dtype.itemsize
        if [array.shape for array in given] != [shape for _, _, shape in places]:
            return False
        for array in given:
            steps = array.strides if array.ndim == 2 else None
            whole_rows = array.plain or (steps is not None and steps[1] == size and steps[0] > 0)
            if array.dtype != self.dtype or array.address % size or not whole_rows:
                return False
        if any(arrays.unfit(arrays.spanned(array, f"array {index}"))[0] for index, array in enumerate(given)):
            return False
        with self.lock:
            self._send()
            for index, (array, (first, ld, _)) in enumerate(zip(given, places, strict=True)):
                arrays.put(self._params, first, ld, array, f"array {index}")
            self._read = False
        return True

    def moments(self) -> list[np.ndarray]:
        """The optimizer's arrays, in the order of the weights."""
        with self.lock:
            self._fetch()
            self._written = True
            return [self._region(1 + i) for i in range(self._moments)]

    def _reserve(self, count: int, gradient: bool = False) -> None:
        """Room for `count` arrays beside the weights, which stay, and for a gradient."""
        if count == self._moments and gradient <= self._gradient_room:
            return
        self._fetch()
        old, kept = self._host, (1 + min(count, self._moments)) * self._numbers
        self._moments, self._gradient_room = count, self._gradient_room or gradient
        self._host, self._params = self._room()
        np.copyto(self._host[:kept], old[:kept])
        self._written = True
        self._bound.clear()

    def reserve_moments(self, optimizer: Optimizer) -> None:
        """Room for the optimizer's arrays beside the weights, as they are before the first step; the weights stay."""
        with self.lock:
            self._reserve(optimizer.slots, gradient=True)
            for moment, initial in zip(self.moments(), optimizer.initials, strict=False):
                moment.fill(initial)
            if optimizer.use_ema:
                np.copyto(self.moments()[len(optimizer.initials)], self.weights)
            if optimizer.group > 1:
                self.moments()[-1].fill(0)

    def use_average(self, optimizer: Optimizer) -> None:
        """Put the average of the weights in their place, but for layers that aren't trained."""
        average = self.moments()[len(optimizer.initials)]
        self.program.copy_trained(self.weights, average)

    @in_words()
    def finite(self) -> bool:
        """Whether every weight is a finite number."""
        with self.lock:
            self._send()
            found, sizes = cuda.to_device(np.zeros(1, np.int64)), shapes()
            blocks = max(1, min(1024, self._numbers // (16 * sizes.flat)))
            look = weights.finite(self.dtype, sizes)
            launch(look, blocks, sizes.flat, 0, 0, self._params, self._numbers, found)
            return not found.copy_to_host()[0]

    @property
    def guarded(self) -> bool:
        """Whether updates keep weights as they were that would not stay finite: a snapshot serves here."""
        return False

    @in_words()
    def keep_snapshot(self) -> None:
        """Copy the weights aside, on the device."""
        with self.lock:
            self._send()
            if self._snapshot is None:
                self._snapshot = cuda.device_array(self._numbers, self.dtype)
            self._snapshot.copy_to_device(self._params[: self._numbers])

    @in_words()
    def restore_snapshot(self) -> None:
        """Put the weights back as they were at `keep_snapshot`."""
        with self.lock:
            if self._snapshot is not None:
                self._send()
                self._params[: self._numbers].copy_to_device(self._snapshot)
                self._read = False

    def release(self) -> None:
        """Give back what only training needs beside the weights and moments: workspaces and the snapshot."""
        with self.lock:
            self._bound.clear()
            self._snapshot = None

    def describe(self, layers: Sequence[LayerSpec]) -> None:
        """Take over what may change of layers after they were built."""
        program = self.program.described(layers)
        if program is not self.program:
            with self.lock:
                self.program = program
                self._bound.clear()

    @property
    def resident_bytes(self) -> int:
        """Bytes of host memory that the engine holds."""
        return self._host.nbytes

    # -------------------------------------------------- data

    @contextlib.contextmanager
    def holding_data(self, *arrays: Any, beside: Sequence[Any] = ()) -> Iterator[None]:
        """Inside the block these arrays, which nobody writes to meanwhile, stay on the device: once for the engines
        `beside` too."""
        engines, held = (self, *beside), {place_of(array): (array, None) for array in arrays}
        outer = [engine._held for engine in engines]
        for engine in engines:
            engine._held = held
        try:
            yield
        finally:
            for engine, before in zip(engines, outer, strict=True):
                engine._held = before

    def _sent(self, array: np.ndarray | None, dtype: np.dtype, name: str) -> Any:
        """The array on the device, flat; one number where there is none."""
        if array is None:
            return self._nothing[dtype]
        if isinstance(array, OnDevice):
            return self._seen(array, name)
        return self._kept(array, lambda: cuda.to_device(array.reshape(-1)))

    def _entries(self, x: SparseRows) -> Any:
        """Sparse rows on the device: their numbers, where each row's begin, and their columns."""
        return self._kept(x, lambda: tuple(map(cuda.to_device, (x.parts[2], x.parts[0], x.parts[1]))))

    def _kept(self, array: Any, send: Callable[[], Any]) -> Any:
        """What `send` gives of an array; the same again where the array's data is held."""
        place = place_of(array)
        if self._held is None or place not in self._held:
            return send()
        if self._held[place][1] is None:
            self._held[place] = array, send()
        return self._held[place][1]

    def has_sent(self, array: Any) -> bool:
        """Whether an array's data is on the device already."""
        return self._held is not None and self._held.get(place_of(array), (None, None))[1] is not None

    def say_once(self, text: str) -> None:
        """Warn of something the first time."""
        if not self._said:
            self._said = True
            warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _seen(self, array: OnDevice, name: str) -> Any:
        """An array that is on the device, flat; the same view each time while data is held."""
        return self._kept(array, lambda: arrays.view(array, name))

    # -------------------------------------------------- running

    def serial(self, batch: int) -> bool:
        """Whether steps run on one thread of the host: never."""
        return False

    def chains(self, batch: int, rows: int, held: int) -> bool:
        """Whether `run` takes epochs over `rows` rows together with validations over `held` rows."""
        return False

    def steps_per_run(self, batch: int, chained: bool = False) -> int:
        """Most steps of a run."""
        work = batch * max(1, self.program.flops_per_row)
        return max(MOST_STEPS, min(MOST_TINY_STEPS, int(RUN_WORK / work)))

    def serve(self, x: np.ndarray) -> np.ndarray | None:
        """None: `run` does it."""
        return None

    def open_server(self) -> None:
        """Nothing is to be prepared."""

    def kernels(
        self,
        objective: Objective,
        backward: bool,
        optimizer: Optimizer | None,
        batch: int,
        layers: Sequence[LayerSpec] = (),
    ) -> list[tuple[str, Any]]:
        """The kernels to compile beforehand: none, the device's are compiled at their first launch."""
        return []

    @in_words()
    def run(
        self, x: np.ndarray | SparseRows, y: np.ndarray | None = None, *, held: "Sample | None" = None, **options: Any
    ) -> Outcome:
        """Run steps over batches of rows: what `prepare` takes, done. `held` is None here (see `chains`)."""
        with self.lock:
            prepared = self.prepare(x, y, **options)
            self.stop_flag[0] = 0
            with HeldBack(self._stop) as signals:
                outcome = prepared.whole()
                outcome.interrupt = signals.take()
                return outcome

    def _stop(self) -> None:
        self.stop_flag[0] = 1

    def prepare(
        self, x: np.ndarray | SparseRows, y: np.ndarray | None = None, *, batch: int, **options: Any
    ) -> "Prepared":
        """A run of steps over batches of rows, of what a `Request` takes; sparse rows become dense on the device.

        Whoever isn't alone with the engine holds its lock until the run is over.
        """
        return self.prepared(Request(x, y, batch=batch, **options))

    def prepared(self, asked: Request) -> "Prepared":
        """As `prepare`."""
        optimizer, objective, given, rows = asked.optimizer, asked.objective, asked.given, asked.rows
        update = ""
        if optimizer is not None:
            update = GIVEN if given is not None else update_mode(self.program, optimizer.late)
        self._reserve(self._moments, asked.backward)
        input_gradient, labels = asked.backward and asked.result is not None, asked.y is not None and asked.y.ndim == 1
        how = asked.batch, asked.backward, input_gradient, asked.noise is not None, update, labels, asked.upto
        ready = self._ready(how, objective, optimizer, asked.length, asked.epochs)
        layout, table = ready.layout, ready.layout.table.copy()
        sums = np.zeros((asked.epochs, objective.columns(layout.layers[-1].fan_out)))
        if asked.carried is not None:
            sums[0] = asked.carried
        rates = tuple(layer.rate for layer in layout.layers)
        coefficients, places = of_steps(
            optimizer, asked.updates, asked.length, rates, self.dtype, asked.penalty_scales, bool(layout.penalised)
        )
        ops = table[lo.RUN_FIELDS :][: len(layout.layers) * lo.OP_FIELDS].reshape(-1, lo.OP_FIELDS)
        ops[:, lo.RATES] = np.array(places) * (asked.length * coefficients.shape[2])
        group = optimizer.group if optimizer is not None and given is None else 1
        slots = optimizer.slots if optimizer is not None else self._moments
        table[lo.GRADIENT] = (slots if group > 1 else 1 + self._moments) * self._numbers
        table[[lo.DISTANCE, lo.COEFFICIENTS, lo.SUMS]] = self._numbers, coefficients.shape[2], sums.shape[1]
        table[[lo.FIRST_STEP, lo.PER_EPOCH]] = asked.first_step, asked.per_epoch
        table[[lo.BATCH, lo.N, lo.SHUFFLE, lo.SEED]] = asked.batch, asked.count, asked.shuffle, asked.seed
        table[lo.SUBSET], table[lo.SUBSET_EPOCH] = rows is not None, 0
        if rows is not None and rows.ndim == 2:
            table[lo.SUBSET_EPOCH] = asked.count
        table[[lo.WEIGHTED, lo.MARKED]] = asked.weights is not None, asked.present is not None
        table[lo.NOISE] = asked.updates if asked.noise is None else asked.noise
        table[[lo.GROUP, lo.GROUPED]] = group, asked.updates % group
        table[lo.MEAN_ROWS] = objective.loss is not None and objective.loss.mean_rows
        table[lo.KEPT] = asked.first_step % asked.per_epoch * asked.batch
        return Prepared(self, ready, asked, table, sums, coefficients)

    def _ready(self, how: Any, objective: Objective, optimizer: Optimizer | None, steps: int, epochs: int) -> "_Ready":
        """The kind of step, bound to buffers."""
        batch, backward, input_gradient, noise, update, labels, upto = how
        rule: Any = None
        if optimizer is not None:
            options = bool(optimizer.weight_decay), optimizer.use_ema, optimizer.clipvalue is not None
            clips = optimizer.clipnorm, optimizer.global_clipnorm
            rule = optimizer.formula, optimizer.slots, optimizer.group, options, clips
        rates = len({layer.rate for layer in self.program.layers})
        key = how, objective, rule
        found = self._bound.pop(key, None)
        if found is None or found.epochs < epochs or found.steps < steps * rates:
            program = self.program if upto is None else Program(upto, self.dtype, self.program.tiles)
            layout = Layout(
                program,
                batch,
                backward=backward,
                input_gradient=input_gradient,
                noise=noise,
                update=update,
                labels=labels,
                tallies=len(objective.tallies),
            )
            while len(self._bound) >= MOST_BOUND:
                self._bound.pop(next(iter(self._bound)))
            room = max(EPOCHS, pg.round_up(epochs, EPOCHS)), max(EPOCHS, pg.round_up(steps * rates, 256))
            width = 1 + (optimizer.width if optimizer is not None else 0)
            columns = objective.columns(layout.layers[-1].fan_out)

            def bind() -> Bound:
                buffers = self._params, zeros(room[0] * columns, np.float64), zeros(room[1] * width, self.dtype)
                return Bound(layout, objective, optimizer, *buffers, self.products)

            found = _Ready(layout, objective, optimizer, bind, *room)
        self._bound[key] = found
        return found

    @in_words()
    def apply(self, optimizer: Optimizer, gradient: np.ndarray, updates: int) -> None:
        """One batch's share of an update, or all of it, from a gradient given in the order of the weights."""
        with self.lock:
            if optimizer.group > 1:
                total, place = self.moments()[-1], updates % optimizer.group
                np.add(total if place else 0, gradient, out=total)
                if place < optimizer.group - 1:
                    return
                gradient = np.multiply(total, self.dtype.type(1 / optimizer.group))
            none = np.empty((1, self.program.layers[0].fan_in), self.dtype)
            self.prepare(none, batch=1, optimizer=optimizer, updates=updates, given=gradient).start()


NAMES = "x", "y", "rows", "weights", "present"


def _targets(y: np.ndarray | None) -> int:
    if y is None:
        return rows.NO_TARGETS
    return rows.LABELS if y.ndim == 1 else rows.NUMBERS


@dataclass
class _Ready:
    """A kind of step, with its buffers once it is bound, and the launches of the last data that it ran over."""

    layout: Layout
    objective: Objective
    optimizer: Optimizer | None
    bind: Callable[[], Bound]
    epochs: int
    steps: int

    def __post_init__(self) -> None:
        self._rooms: dict[str, Any] = {}
        self._step: tuple[tuple[int, ...], Data, Step] | None = None

    @functools.cached_property
    def bound(self) -> Bound:
        """The step with its buffers, made when it is first launched."""
        found: Bound = roomy(self.bind)
        return found

    def room(self, name: str, size: int) -> Any:
        """A device array of at least so many numbers, for what a run gives."""
        if name not in self._rooms or self._rooms[name].size < size:
            self._rooms[name] = cuda.device_array(max(1, size), self.bound.dtype)
        return self._rooms[name]

    @staticmethod
    def write(place: Any, values: np.ndarray) -> None:
        """Put numbers at the beginning of a device array."""
        if values.size:
            place[: values.size].copy_to_device(np.ascontiguousarray(values).reshape(-1))

    def forget(self) -> None:
        """Let go of the data of the last run."""
        self._step = None

    def step(self, data: Data) -> Step:
        """The step over these arrays, made once for each of them."""
        arrays = data.x, data.y, data.rows, data.weights, data.present, data.result, *data.kept
        key = data.targets, *(id(array) for array in arrays)
        if self._step is None or self._step[0] != key:
            self._step = key, data, ways.step_of(self.bound, data)
        return self._step[2]


@dataclass
class Prepared:
    """A run that can start: all that it needs, on the host, and where what comes of it goes.

    Attributes
    ----------
    engine : whose run it is
    ready : the kind of step
    asked : what was asked for
    table, sums, coefficients : see ``bound``; what the run leaves in the first two stands there when it is over
    """

    engine: Engine
    ready: _Ready
    asked: Request
    table: np.ndarray
    sums: np.ndarray
    coefficients: np.ndarray

    @property
    def steps(self) -> int:
        """How many."""
        return self.asked.length

    @property
    def arrays(self) -> tuple[Any, ...]:
        """x, y, rows, weights and present, None where there is none."""
        return tuple(getattr(self.asked, name) for name in NAMES)

    @property
    def targets(self) -> int:
        """What y is."""
        return _targets(self.asked.y)

    def data(self) -> Data:
        """The arrays on the device."""
        engine, ready = self.engine, self.ready
        x, *others = self.arrays
        starts = columns = None
        if isinstance(x, SparseRows):
            x, starts, columns = engine._entries(x)
        else:
            x = engine._sent(x, engine.dtype, NAMES[0])
        whole = np.dtype(np.int64)
        kinds = whole if self.targets == rows.LABELS else engine.dtype, whole, engine.dtype, engine.dtype
        y, chosen, weights, present = (engine._sent(*one) for one in zip(others, kinds, NAMES[1:], strict=True))
        result = None if self.asked.result is None else self._room_of_result()
        kept = tuple(ready.room(f"kept {i}", place.size) for i, place in enumerate(self.asked.kept))
        return Data(x, y, chosen, weights, present, self.targets, result, kept, starts, columns)

    def start(self) -> None:
        """Launch the steps and wait for them."""
        engine, ready, bound = self.engine, self.ready, self.ready.bound
        watch, begin = engine.watch, time.perf_counter()
        engine._send()
        data, place = roomy(self.data), int(self.table[lo.GRADIENT])
        for where, what in ((bound.sums, self.sums), (bound.coefficients, self.coefficients)):
            ready.write(where, what)
        bound.table.copy_to_device(self.table)
        if self.asked.given is not None:
            engine._params[place : place + engine._numbers].copy_to_device(self.asked.given)
        step, stop = ready.step(data), engine.stop_flag
        make_ready([*step.first, *step.launches], engine.shown)
        for once in step.first:
            once(0)
        ahead = ways.steps_ahead(step)
        for first in range(0, self.steps, ahead):
            if stop[0]:
                break
            now = min(ahead, self.steps - first)
            step.run(0, now) if watch is None else watch.run(step, 0, now)
        self.table = bound.table.copy_to_host()
        if ready.optimizer is not None:
            engine._read = False
        elif ready.layout.backward:
            self._take(engine._params, place, self.asked.gradient)
        self._note_unfit()
        self._take(bound.sums, 0, self.sums)
        if data.result is not None:
            self._take(data.result, 0, self.asked.result)
        for source, target in zip(data.kept, self.asked.kept, strict=True):
            self._take(source, 0, target)
        if watch is not None:
            watch.seconds += time.perf_counter() - begin

    def whole(self) -> Outcome:
        """Launch the steps and wait for them, block by block where the data doesn't fit the device."""
        most = blocks.rows_at_once(self)
        if most is not None:
            return blocks.run(self, most)
        self.start()
        return self.outcome(None)

    def _room_of_result(self) -> Any:
        """The device array that outputs are written to: the user's own, where that is on the device."""
        if isinstance(self.asked.result, OnDevice):
            return arrays.view(self.asked.result, "out")
        assert self.asked.result is not None
        return self.ready.room("result", self.asked.result.size)

    def _note_unfit(self) -> None:
        if self.asked.unfit is not None and self.table[lo.UNFIT]:
            self.asked.unfit[0] = 1

    def take(self, params: np.ndarray, table: np.ndarray, sums: np.ndarray) -> None:
        """Take over what a run of this network elsewhere on the device left."""
        engine = self.engine
        engine._host[: len(params)] = params
        engine._written = engine._read = True
        self.table = table
        self.sums[:] = sums.reshape(self.sums.shape)
        self._note_unfit()

    def params(self) -> np.ndarray:
        """Weights and moments, flat, on the host."""
        self.engine._fetch()
        return self.engine._host[: (1 + self.engine._moments) * self.engine._numbers]

    def _take(self, source: Any, first: int, target: np.ndarray | None) -> None:
        if target is not None and target.size and not isinstance(target, OnDevice):
            flat = source[first : first + target.size].copy_to_host()
            np.copyto(target, flat.reshape(target.shape))

    def outcome(self, interrupt: BaseException | None) -> Outcome:
        """What was done."""
        status = DIVERGED.get(int(self.table[lo.STATUS]), "")
        return Outcome(int(self.table[lo.STEP]), status, self.sums, interrupt)
