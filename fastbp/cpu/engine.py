"""The CPU engine: owns the buffers of one network, resolves its rules, and launches runs of steps."""

import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import program as pg
from fastbp._jit import Kernel, yield_address
from fastbp._signals import HeldBack
from fastbp.activations import RELU
from fastbp.constraints import Constraint
from fastbp.cpu import bfloat16, binding, operations, rules, serving, sparse, tallies, terms, thin, worker
from fastbp.cpu.launch import LAUNCHERS, in_background
from fastbp.cpu.runs import Chain, Prepared, start_chain
from fastbp.cpu.sides import LINES, Sides
from fastbp.cpu.tile import geometry
from fastbp.cpu.together import Beside
from fastbp.cpu.tuning import Tuner, tuner
from fastbp.cpu.watch import Watch
from fastbp.data.sparse import SparseRows
from fastbp.layout.graph import GIVEN, LATE, SPLIT, update_mode
from fastbp.layout.objective import EVALUATION_ROWS, Ending, Objective, Outcome
from fastbp.layout.operations import DENSE
from fastbp.layout.plan import Plan, lay_out
from fastbp.layout.request import Request
from fastbp.layout.sides import cut
from fastbp.optimizers import COLUMNS, Optimizer
from fastbp.program import LayerSpec, Program, aligned

if TYPE_CHECKING:
    from fastbp.data.staging import Sample

POLL_SECONDS = 0.1
"""Signals that reach another thread than the waiting one are noticed after so long."""
LONG_WORK = 1e8
"""Above so many floating-point operations a run leaves the calling thread free to notice signals."""
SNAPSHOT_BYTES = 16 << 20
"""Weights of more bytes are guarded in each update, instead of copied aside now and then."""
COPY_BYTES = 4 << 20
"""Fewer are copied before another thread is there: 92 KB in 1.7 us instead of 55, 1.3 MB in 22 instead of 77."""
ROOM = 5
"""Arrays beside each other that memory is reserved for, not taken: the weights, three moments, an average."""
WORKSPACES, MOST_BOUND = 16 << 20, 6
SYNC_BYTES = 4 << 20
SERIAL_STEPS = 1 << 15
"""Most steps of a run on one thread: their coefficients are computed beforehand."""
SERIAL_WORK = 1.5e6
THIN_WORK = 15
"""Below so many floating-point operations a step, two threads cost more than they save."""
CHAINED_WORK = 600e6
"""Floating-point operations of an epoch and its validation, times threads: below that one goes through many, alone and
without Python. Measured for two:

us an epoch of 300, 3,000 and 10,000 rows, on one thread and on two that come back after each: 30-128-128-2 165, 1,590,
5,370 and 505, 1,700, 4,070; 64-100-10 at 32 rows 65, 620, 2,080 and 340, 970, 1,980."""


def most_threads(wanted: int) -> int:
    """As many threads as are wanted, up to twice the cores (or 8)."""
    return min(wanted, max(8, 2 * (os.cpu_count() or 1)))


@functools.cache
def worker_kernel(dtype: np.dtype) -> Kernel:
    """The compiled worker for numbers of a type."""
    return Kernel(worker.make(dtype.type), worker.SIGNATURE, seconds=15.0)


def most_workspaces(state: int) -> int:
    """Bytes that workspaces may take together beside `state` bytes of weights and moments.

    A fit of a large network gives its own up for its validation.
    """
    return max(WORKSPACES, state // 8)


def scratch_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of a worker's gradient tile, where the update phase keeps its coefficients and factors, and of terms."""
    tiles = plan.program.tiles
    rows = pg.ROWS_OF_TILE + tiles.lanes
    tile = rows * pg.PANELS_OF_TILE * tiles.width * plan.program.dtype.itemsize * (1 + plan.halves)
    return pg.round_up(max(tile, COLUMNS * 8 + 16 * len(plan.program.layers)), pg.LINE), terms.room(plan)


@dataclass
class _Bound:
    """A plan with its workspace and addresses, ready to run."""

    plan: Plan
    buffer: np.ndarray
    workspace: np.ndarray
    table: np.ndarray
    metrics: np.ndarray
    run: np.ndarray
    penalties: np.ndarray | None
    sides: Sides | None
    entries: tuple[np.ndarray, ...]
    kept: tuple[np.ndarray | None, ...]


class Engine:
    """One network on the CPU.

    Parameters
    ----------
    layers : resolved layers
    dtype : float32 or float64
    threads : most threads to use; more than twice the cores (or 8) are not
    launcher : "threads" or "prange" (see ``cpu.launch``)
    half : whether products are of bfloat16 numbers, summed in float32 (see ``cpu.bfloat16``)

    Attributes
    ----------
    program : the network in this engine's order
    weights : the flat parameters
    watch : where the time of each run is booked, None (default) where nobody asks
    beside : what like networks share while a run of this one is prepared (see ``cpu.together``), else None
    settle : waits for a run of this engine that the thread which holds its lock has given to another one, else None
    shown : whether someone wants to see what takes long
    pace : by rows of a batch, the seconds that a step of a fit took last
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        dtype: np.dtype,
        threads: int,
        launcher: str = "threads",
        half: bool = False,
    ) -> None:
        self.program = Program(layers, dtype, geometry(np.dtype(dtype).itemsize), half)
        self._copies = aligned(self.program.copy_bytes) if half else None
        self._stale = True
        self.threads, self.launcher = most_threads(threads), launcher
        self._bound: dict[Any, _Bound] = {}
        self._moments = 0
        self._buffer = self._room(1)
        self._snapshot: np.ndarray | None = None
        self._gradient: np.ndarray | None = None
        self._server: serving.Server | None = None
        self.lock = threading.RLock()
        self.stop_flag = np.zeros(8, np.int64)
        self.watch: Watch | None = None
        self.beside: Beside | None = None
        self.settle: Callable[[], None] | None = None
        self.shown = False
        self.pace: dict[int, float] = {}
        self._tuners: dict[tuple[int, int, int], Tuner | None] = {}

    @property
    def dtype(self) -> np.dtype:
        return self.program.dtype

    def twin(self) -> "Engine":
        """Another engine for the same network, with the same weights and moments."""
        other = Engine(self.program.layers, self.dtype, self.threads, self.launcher, self.program.half)
        other._reserve(self._moments)
        other.copy_state(self)
        return other

    def copy_state(self, other: Any) -> None:
        """Take over the weights and moments of an engine for the same network and optimizer."""
        for index in range(1 + self._moments):
            np.copyto(self._region(index), other._region(index))
        self._stale = True

    # -------------------------------------------------- parameters and moments

    def _room(self, arrays: int) -> np.ndarray:
        """Bytes for the weights and moments, those for `arrays` zeroed.

        Where the system provides memory when it is touched, there is room for more: moments that come later stand
        beside the weights at once, and nothing is held twice.
        """
        nbytes = self.program.parameter_bytes
        if os.name == "posix":
            with contextlib.suppress(MemoryError):  # addresses may be limited too (ulimit -v)
                return aligned(max(arrays, ROOM) * nbytes, arrays * nbytes)
        return aligned(arrays * nbytes)

    def _region(self, index: int) -> np.ndarray:
        nbytes = self.program.parameter_bytes
        return self._buffer[index * nbytes : (index + 1) * nbytes].view(self.dtype)

    @property
    def weights(self) -> np.ndarray:
        self._stale = True  # whoever asks may write
        return self._region(0)

    def finite(self) -> bool:
        """Whether every weight is a finite number (guarded updates keep them so)."""
        if self.guarded:
            return True
        weights = self._region(0)
        with np.errstate(all="ignore"):
            total = float(weights.sum())  # not np.dot: of float64 that wakes BLAS' threads, which then spin for a while
        return math.isfinite(total) or bool(math.isfinite(weights.min()) and math.isfinite(weights.max()))

    @property
    def guarded(self) -> bool:
        """Whether the updates of a run keep weights as they were that would become NaN or infinite, and say so.

        A large network's do: a snapshot would take as much memory as the weights.
        """
        return self.program.parameter_bytes > SNAPSHOT_BYTES

    def keep_snapshot(self) -> None:
        """Copy the weights aside; the buffer stays with the engine, so that only the first copy touches new memory."""
        if self.guarded:
            return
        if self._snapshot is None:
            self._snapshot = np.empty_like(self._region(0))
        weights = self._region(0)
        if self.threads == 1 or weights.nbytes < COPY_BYTES:
            np.copyto(self._snapshot, weights)
            return
        part = len(weights) // 2
        other = in_background(np.copyto, self._snapshot[:part], weights[:part])
        np.copyto(self._snapshot[part:], weights[part:])
        other.result()

    def release(self) -> None:
        """Give back what only training needs beside the weights and moments: workspaces and the snapshot."""
        with self.lock:
            self._bound.clear()
            self._snapshot = self._server = None

    def restore_snapshot(self) -> None:
        """Put the weights back as they were at `keep_snapshot`; guarded ones stay."""
        if self._snapshot is not None:
            np.copyto(self.weights, self._snapshot)

    def moments(self) -> list[np.ndarray]:
        """The optimizer's arrays, in the order of the weights."""
        return [self._region(1 + i) for i in range(self._moments)]

    def _reserve(self, count: int) -> None:
        """Room for `count` arrays beside the weights, which stay."""
        nbytes = self.program.parameter_bytes
        if count < self._moments or (1 + count) * nbytes > len(self._buffer):
            fresh = self._room(1 + count)
            fresh[:nbytes] = self._buffer[:nbytes]
            self._buffer, self._stale, self._server = fresh, True, None
            self._bound.clear()
        self._moments = count

    def reserve_moments(self, optimizer: Optimizer) -> None:
        """Room for the optimizer's arrays beside the weights, as they are before the first step; the weights stay."""
        with self.lock:
            self._reserve(optimizer.slots)
            for moment, initial in zip(self.moments(), optimizer.initials, strict=False):
                moment.fill(initial)
            if optimizer.use_ema:
                np.copyto(self.moments()[len(optimizer.initials)], self._region(0))
            if optimizer.group > 1:
                self.moments()[-1].fill(0)

    def use_average(self, optimizer: Optimizer) -> None:
        """Put the average of the weights in their place, but for layers that aren't trained."""
        average = self.moments()[len(optimizer.initials)]
        self.program.copy_trained(self.weights, average)

    def describe(self, layers: Sequence[LayerSpec]) -> None:
        """Take over what may change of layers after they were built."""
        program = self.program.described(layers)
        if program is not self.program:
            with self.lock:
                self.program = program
                self._bound.clear()

    # -------------------------------------------------- binding

    def serial(self, batch: int) -> bool:
        """Whether steps over `batch` rows run on one thread, but for those that two cut by neurons."""
        work = 6 * min(batch, 1 << 20) * self.program.parameter_count
        if self.program.thin_rows(batch):  # reading the weights is the work
            work = THIN_WORK * self.program.parameter_count
        return self.threads == 1 or work < SERIAL_WORK

    def kernels(
        self,
        objective: Objective,
        backward: bool,
        optimizer: Optimizer | None,
        batch: int,
        layers: Sequence[LayerSpec] = (),
    ) -> list[tuple[str, Kernel]]:
        """The kernels that a run over batches of so many rows needs, with what to call them while they compile.

        layers : the ops, where they aren't the network's own (see ``upto`` of `prepare`)
        """
        needed = [("training loop", worker_kernel(self.dtype))]
        if self.program.half:
            names = ["forward", "pack inputs", "pack weights"]
            needed += [("bfloat16", bfloat16.rule(n)) for n in (list(bfloat16.RULES) if backward else names)]
        elif self.program.thin_rows(batch, backward):
            needed += [("few rows", thin.rule(n, self.dtype)) for n in ("forward", "backward")[: 1 + backward]]
        needed += [("large products", terms.rule(n)) for n in terms.rule_names(self.program, batch, backward)]
        needed += operations.kernels(tuple(layers) or self.program.layers, self.dtype, backward)
        if any(any(layer.penalty) for layer in self.program.layers) and (backward or objective.loss is not None):
            needed.append(("penalty", rules.penalty(self.dtype)))
            if backward:
                needed.append(("penalty", rules.pull(self.dtype)))
        if objective.loss is None and not backward:
            needed.append(("prediction", serving.kernel(self.dtype)))
        elif objective.loss is not None:
            needed.append((objective.loss.name, rules.loss(objective.loss, self.dtype)))
            last = self.program.layers[-1].activation
            if last is RELU and backward and objective.loss.fused_with is None:
                needed.append((last.name, rules.derivative(last, self.dtype)))
        needed += [(tally.name, tallies.rule(tally, self.dtype)) for tally in objective.tallies]
        if optimizer is not None:
            needed.append((optimizer.name, rules.update(optimizer, self.dtype, self.guarded)))
            if optimizer.late:
                needed.append(("gradient norm", rules.penalty(self.dtype)))
            if optimizer.group > 1:
                needed.append(("mean gradient", rules.scale(self.dtype)))
            needed += [(bound.name, rules.constraint(bound, self.dtype)) for bound in self._constraints()]
        return needed

    def _constraints(self) -> list[Constraint]:
        layers = self.program.layers
        return [layer.constraint for layer in layers if layer.constraint is not None and layer.trainable]

    def _bind(
        self,
        batch: int,
        objective: Objective,
        backward: bool,
        most: int,
        input_gradient: bool,
        update: str,
        is_sparse: bool,
        noise: bool = False,
        upto: tuple[LayerSpec, ...] | None = None,
    ) -> _Bound:
        program = self.program if upto is None else Program(upto, self.dtype, self.program.tiles, self.program.half)
        by_sides = backward and most == 2 and cut(program, batch)
        threads = 1 if self.serial(batch) and not by_sides else most
        rows = program.thin_rows(batch, backward) or pg.round_up(batch, program.tiles.lanes)
        key = (rows, threads, objective, backward, input_gradient, update, is_sparse, noise, upto)
        if key not in self._bound:
            step: dict[str, Any] = {"input_gradient": input_gradient, "noise": noise, "update": update}
            plan = lay_out(program, rows, threads, backward=backward, **step)
            if threads > 1 and self.serial(batch) and (plan.sides is None or is_sparse):
                threads, plan = 1, lay_out(program, rows, 1, backward=backward, **step)
            room = most_workspaces((1 + self._moments) * self.program.parameter_bytes)
            while len(self._bound) >= MOST_BOUND or (self._bound and plan.nbytes + self._workspaces() > room):
                self._bound.pop(next(iter(self._bound)))
            borrowed = None if self.beside is None else self.beside.borrowed(self, key)
            self._bound[key] = borrowed or self._make(plan, threads, objective, is_sparse)
        return self._bound[key]

    def _workspaces(self) -> int:
        return sum(len(bound.workspace) for bound in self._bound.values())

    @property
    def resident_bytes(self) -> int:
        """Bytes of the buffers that there are now."""
        kept = [self._copies, self._snapshot, self._gradient]
        own = (1 + self._moments) * self.program.parameter_bytes
        return own + self._workspaces() + sum(array.nbytes for array in kept if array is not None)

    def bind_alone(self, batch: int) -> _Bound:
        """What predicts `batch` rows on the calling thread, with a workspace of its own."""
        return self._make(lay_out(self.program, batch, 1, backward=False), 1, Objective(), False)

    def _make(self, plan: Plan, threads: int, objective: Objective, is_sparse: bool) -> _Bound:
        program, dtype = plan.program, self.dtype
        workspace = aligned(plan.nbytes)
        cells = workspace[: plan.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)
        for offset, count in plan.ones:
            cells[offset : offset + count] = 1
        base = workspace.ctypes.data
        table = plan.bind(base, self._buffer.ctypes.data, 0 if self._copies is None else self._copies.ctypes.data)
        if program.half:
            bfloat16.bind(table, plan.backward)
        elif plan.thin:
            thin.bind(table, dtype, plan.backward)
        entries = sparse.bind(program, plan, table, base + plan.index) if is_sparse else ()
        layers = plan.layers
        numbers = aligned(pg.LINE * len(layers)).view(dtype).reshape(len(layers), -1)
        picks = operations.bind(table, plan, numbers)
        constants = aligned(pg.LINE * (len(layers) + 2)).view(dtype)
        stride = pg.LINE // dtype.itemsize
        for op, layer in enumerate(layers):
            bound = layer.constraint if plan.update and layer.trainable else None
            own = layer.activation.parameter or 0.0, *layer.penalty, *(bound.numbers if bound else ())
            constants[op * stride : op * stride + len(own)] = own
            if bound is not None:
                table[op, pg.CONSTRAIN] = rules.constraint(bound, dtype).address()
                table[op, pg.CONSTRAINT] = constants.ctypes.data + op * pg.LINE + 5 * dtype.itemsize
            table[op, pg.PARAMETER] = constants.ctypes.data + op * pg.LINE
        metrics, numbers_of = binding.tallies(program, objective.tallies)
        partial = np.zeros((plan.panels, objective.columns(layers[-1].fan_out)))
        tile, room = scratch_bytes(plan)
        if room:
            terms.bind(table, plan, tile)
        tile += room
        table[table[:, pg.TASK_RULE] != 0, pg.FEW] = 0
        if table[:, [pg.FORWARD_RULE, pg.BACKWARD_RULE, pg.TASK_RULE]].any():
            table[:, pg.SINGLE] = 0
        scratch = aligned(threads * tile if plan.backward or room else pg.LINE)
        run = np.zeros(pg.RUN_COLUMNS, np.int64)
        run[pg.TABLE], run[pg.OPS] = table.ctypes.data, len(table)
        run[pg.PHASES], run[pg.PHASE_COUNT] = plan.phases.ctypes.data, len(plan.phases)
        run[pg.TASKS], run[pg.SLAB] = plan.tasks.ctypes.data, plan.slab
        run[pg.INDEX], run[pg.SCALE] = base + plan.index, base + plan.scale
        run[pg.COUNTS] = base + plan.counts
        run[pg.TARGET], run[pg.TARGET_PANEL] = base + plan.target, plan.target_panel
        run[pg.METRICS], run[pg.METRIC_COUNT] = metrics.ctypes.data, len(metrics)
        run[pg.PARTIAL], run[pg.SUM_COUNT], run[pg.THREADS] = partial.ctypes.data, partial.shape[1], threads
        run[pg.SCRATCH], run[pg.SCRATCH_WORKER] = scratch.ctypes.data, tile
        run[pg.STOP], run[pg.YIELD] = self.stop_flag.ctypes.data, yield_address()
        run[pg.BACKWARD], run[pg.WEIGHTS_PHASE], run[pg.LOWEST] = plan.backward, plan.weights_phase, plan.lowest
        if plan.apart is not None:
            run[pg.APART] = base + plan.apart - self._buffer.ctypes.data
            run[pg.APART_NEXT] = program.parameter_bytes
            run[pg.TURN] = 0 if table[:, pg.TASK_RULE].any() else plan.turn
        now = aligned(pg.LINE * threads)
        run[pg.NOW], run[pg.ACTIVITIES] = now.ctypes.data, table[:, pg.ACTIVITY].any()
        constants[(len(layers) + 1) * stride + 1] = 1.0
        run[pg.SQUARE_STRENGTHS] = constants.ctypes.data + pg.LINE * (len(layers) + 1)
        binding.output(plan, run, objective.loss, bool(objective.tallies), constants[len(layers) * stride :])
        penalties = None
        if objective.loss is not None or plan.backward:
            penalties = binding.penalties(plan, run, table, constants.ctypes.data)
        squares = None
        if plan.update in (LATE, GIVEN):
            squares = binding.squares(plan, run, table)
        sides = None
        if plan.sides is not None and not is_sparse:
            sides = Sides(plan, base, self._buffer.ctypes.data)
        kept = table, partial, constants, numbers, now, numbers_of, scratch, squares, picks, *entries
        return _Bound(plan, self._buffer, workspace, table, metrics, run, penalties, sides, entries[:1], kept)

    # -------------------------------------------------- running

    def holding_data(self, *arrays: Any, beside: Sequence[Any] = ()) -> contextlib.AbstractContextManager[None]:
        """Data is read where it is: there is nothing to hold."""
        return contextlib.nullcontext()

    def steps_per_run(self, batch: int, chained: bool = False) -> int:
        """Most steps of a run: their counters must fit the synchronisation buffer, and trials are short.

        chained : whether it has validations or an `Ending`, and so one thread in any case: there is nothing to try
        """
        most: float = SERIAL_STEPS
        if not self.serial(batch):
            phases = 4 * len(self.program.layers) + 5
            slabs = -(-batch // pg.SLAB_ROWS)
            most = SYNC_BYTES // (pg.LINE * self.threads * phases * slabs)
        tuner = None if chained else self._tuner(batch)
        return int(max(1, most if tuner is None else min(most, tuner.ask()[1])))

    def _tuner(self, batch: int) -> Tuner | None:
        """What finds out how many threads a step of training takes over so many rows."""
        # the threads change while several networks share the cores; another thread may hold a tuner's lock at a fork
        key = batch, self.threads, os.getpid()
        if key not in self._tuners:
            self._tuners[key] = tuner(self.program, batch, self.threads, self.serial(batch))
        return self._tuners[key]

    def chains(self, batch: int, rows: int, held: int) -> bool:
        """Whether `run` takes epochs over `rows` rows together with validations over `held` rows, on one thread."""
        if self.serial(batch) and self.serial(min(held, EVALUATION_ROWS)) and not cut(self.program, batch):
            return True
        return self.threads == 1 or self.program.flops_per_row * (rows + held // 3) * self.threads < CHAINED_WORK

    def run(
        self,
        x: np.ndarray | SparseRows,
        y: np.ndarray | None = None,
        *,
        held: "Sample | None" = None,
        ending: Ending | None = None,
        **options: Any,
    ) -> Outcome:
        """Run steps over batches of rows: what `prepare` takes, done.

        held : rows to validate on at the end of each epoch, where `chains` says so
        ending : what may end a run of whole epochs early, where `serial` says so
        """
        with self.lock:
            if self.settle is not None:
                self.settle()
            chain, tuner, threads = None, None, self.threads
            if held is not None or ending is not None:
                threads = 1
            elif options.get("optimizer") is not None:
                tuner = self._tuner(options["batch"])
                threads = threads if tuner is None else tuner.ask()[0]
            prepared = self.prepare(x, y, threads=threads, **options)
            if held is not None or ending is not None:
                chain = self._chain(prepared, held, options["objective"], ending)
            watch = self.watch.launch(prepared.run, prepared.plan) if self.watch else contextlib.nullcontext()
            self.stop_flag[0] = 0
            with HeldBack(self._stop) as signals:
                if chain is not None:
                    self._start(chain.work, start_chain, chain)
                    return chain.outcome(signals.take())
                start = time.perf_counter()
                with watch:
                    self._launch(prepared)
                seconds, outcome = time.perf_counter() - start, prepared.outcome(signals.take())
                if tuner is not None:
                    tuner.note(threads, prepared.batches(outcome.steps), seconds)
                return outcome

    def _stop(self) -> None:
        self.stop_flag[0] = 1

    def _chain(
        self, train: Prepared, held: "Sample | None", objective: Objective, ending: Ending | None = None
    ) -> Chain:
        check = None
        if held is not None:
            check = self.prepare(held.x, held.y, **held.beside, batch=EVALUATION_ROWS, objective=objective, threads=1)
        return Chain(train, check, worker_kernel(self.dtype).address(), ending)

    def serve(self, x: np.ndarray) -> np.ndarray | None:
        """Outputs (N, O) of a few rows by the shortest way; None where `run` has to do it, or to say what is wrong."""
        return None if self._server is None else self._server(x)

    def open_server(self) -> None:
        """From now on `serve` serves, if the network is small enough; the kernels of a prediction must be ready."""
        with self.lock:
            if self._server is None and serving.most_rows(self):
                self._server = serving.Server(self, worker_kernel(self.dtype).address())

    def prepare(
        self,
        x: np.ndarray | SparseRows,
        y: np.ndarray | None = None,
        *,
        batch: int,
        threads: int | None = None,
        **options: Any,
    ) -> Prepared:
        """The arguments of a run of steps over batches of rows: of what a `Request` takes.

        threads : at most so many, where fewer than the engine's

        Whoever isn't alone with the engine holds its lock until the run is over.
        """
        asked = Request(x, y, batch=batch, **options)
        optimizer, batch, steps, given, rows = asked.optimizer, asked.batch, asked.length, asked.given, asked.rows
        update = ""
        if optimizer is not None:
            whole = batch if optimizer.group == 1 else 0
            update = update_mode(self.program, optimizer.late, whole, asked.is_sparse)
            update = GIVEN if given is not None else update
        input_gradient = asked.backward and asked.result is not None
        wanted = input_gradient, update, asked.is_sparse, asked.noise is not None, asked.upto
        bound = self._bind(batch, asked.objective, asked.backward, threads or self.threads, *wanted)
        self.refresh_copies(bound.table)
        run, columns = bound.run, int(bound.run[pg.SUM_COUNT])
        threads = int(run[pg.THREADS])
        sums = np.zeros((asked.epochs, columns))
        if asked.carried is not None:
            sums[0] = asked.carried
        skipped = asked.first_step % asked.per_epoch * batch
        for tally, place in zip(np.flatnonzero(bound.metrics[:, pg.TALLY_ROW]), asked.kept, strict=True):
            row = bound.metrics[tally]
            row[pg.TALLY_PLACE] = place.ctypes.data - skipped * row[pg.TALLY_ROW]
        status, before = np.zeros(1 + threads, np.int64), np.zeros(1 + columns)
        slabs = -(-batch // bound.plan.slab)
        cells = 1 + steps * slabs * len(bound.plan.phases) * threads if threads > 1 else 1
        if bound.sides is not None:
            cells = LINES
        sync = aligned(pg.LINE * cells)
        size = self.dtype.itemsize
        coefficients = np.zeros((steps, 0), self.dtype)
        run[[pg.UPDATE, pg.MOMENTS, pg.ARRAYS, pg.GRADIENT, pg.LATE, pg.MOST_NORM, pg.AVERAGE, pg.STILL]] = 0
        run[pg.ACCUMULATE] = 1
        tables, extra, gradient = [coefficients], None, asked.gradient
        if optimizer is not None:
            rates = list(dict.fromkeys(layer.rate for layer in self.program.layers))
            tables = self._coefficients(optimizer, asked.updates, steps, rates)
            places = [rates.index(layer.rate) for layer in self.program.layers]
            if given is not None:
                gradient = given
            elif optimizer.group > 1:
                gradient = self.moments()[-1]
            elif bound.plan.slabs > 1 or update in (LATE, SPLIT):
                gradient = self._gradient_buffer()
            rule = rules.update(optimizer, self.dtype, self.guarded).address()
            run[pg.MOMENTS] = self.program.parameter_bytes
            late = update in (LATE, SPLIT, GIVEN)
            extra = binding.update(run, rule, optimizer, self.dtype, asked.updates, late=late, given=update == GIVEN)
        if bound.penalties is not None:
            scales = np.ones(steps) if asked.penalty_scales is None else asked.penalty_scales
            tables = [np.column_stack([table, scales]) for table in tables]
        coefficients = np.empty((len(tables), *tables[0].shape), self.dtype)
        for place, table in zip(coefficients, tables, strict=True):
            place[:] = table
        if optimizer is not None:
            bound.table[:, pg.RATES] = np.array(places) * coefficients.strides[0]
        if gradient is not None:
            run[pg.GRADIENT] = gradient.ctypes.data - self._buffer.ctypes.data
        run[pg.COEFFICIENTS], run[pg.COEFFICIENTS_ROW] = coefficients.ctypes.data, coefficients.strides[1]
        binding.inputs(run, x, bound.entries)
        run[pg.N] = asked.count
        run[pg.SUBSET] = 0 if rows is None else rows.ctypes.data
        run[pg.SUBSET_EPOCH] = rows.strides[0] if rows is not None and rows.ndim == 2 else 0
        run[pg.ROW_WEIGHTS] = 0 if asked.weights is None else asked.weights.ctypes.data
        run[pg.ROW_PRESENT] = 0 if asked.present is None else asked.present.ctypes.data
        run[pg.Y] = run[pg.LABELS] = 0
        if y is not None:
            run[pg.Y], run[pg.LABELS] = y.ctypes.data, y.ndim == 1
            run[pg.Y_ROW] = size * self.program.layers[-1].fan_out
        if asked.result is not None:
            run[pg.RESULT], run[pg.RESULT_ROW] = asked.result.ctypes.data, asked.result.shape[1] * size
        run[pg.BATCH], run[pg.STEPS_PER_EPOCH] = batch, asked.per_epoch
        run[pg.NOISE] = asked.updates if asked.noise is None else asked.noise
        run[pg.FIRST_STEP], run[pg.STEPS] = asked.first_step, steps
        run[pg.SHUFFLE] = max(1, (asked.count - 1).bit_length()) if asked.shuffle else 0
        run[pg.SEED] = asked.seed
        run[pg.SUMS], run[pg.SYNC], run[pg.STATUS] = sums.ctypes.data, sync.ctypes.data, status.ctypes.data
        work = steps * batch * self.program.flops_per_row
        run[pg.UNFIT] = 0 if asked.unfit is None or bound.entries else asked.unfit.ctypes.data
        left = asked.backward and given is None and (optimizer is None or slabs > 1 or update in (LATE, SPLIT))
        run[pg.BEFORE_STEP] = before.ctypes.data if left else 0
        if bound.sides is not None:
            bound.sides.follow(bound.table, run)
        used = bound, asked, gradient, coefficients, sync, extra
        return Prepared(run, threads, work, sums, status, before, bound.plan, used)

    def _coefficients(self, optimizer: Optimizer, updates: int, steps: int, rates: list[float]) -> list[np.ndarray]:
        """Those of so many steps after so many updates, for each multiplier of the learning rate."""

        def make() -> list[np.ndarray]:
            numbers = np.arange(updates + 1, updates + steps + 1, dtype=np.float64)
            return [optimizer.coefficients(numbers, rate) for rate in rates]

        if self.beside is None:
            return make()
        made: list[np.ndarray] = self.beside.made((optimizer, updates, steps, *rates), make)
        return made

    def refresh_copies(self, table: np.ndarray) -> None:
        """The weights' copies in bfloat16, after someone else than a step may have written the weights."""
        if not (self._stale and self.program.half):
            return
        pack = bfloat16.rule("pack weights").call
        products = np.flatnonzero(table[:, pg.WF_PANEL])
        for op in products:
            row = table[op]
            panels = self.program.panels(int(row[pg.OUT]))
            pack(table.ctypes.data + op * table.strides[0], 0, int(row[pg.STEPS_IN]), 0, panels, 0)
        self._stale = len(products) < sum(layer.operation is DENSE for layer in self.program.layers)

    def _gradient_buffer(self) -> np.ndarray:
        if self._gradient is None:
            self._gradient = aligned(self.program.parameter_bytes).view(self.dtype)
        return self._gradient

    def _launch(self, prepared: Prepared) -> None:
        kernel, run = worker_kernel(self.dtype), prepared.run.ctypes.data
        if prepared.threads == 1:
            self._start(prepared.work, kernel.call, run, 0)
        else:
            self._start(prepared.work, LAUNCHERS[self.launcher], kernel, run, prepared.threads)

    def _start(self, work: int, start: Callable[..., Any], *arguments: Any) -> None:
        """Come back when the workers are out of the buffers; what signal handlers raise is held back until then."""
        if work <= LONG_WORK or threading.current_thread() is not threading.main_thread():
            start(*arguments)  # signals reach the main thread only
            return
        future = in_background(start, *arguments)
        while not future.done():
            wait([future], POLL_SECONDS)
        future.result()

    def apply(self, optimizer: Optimizer, gradient: np.ndarray, updates: int) -> None:
        """One batch's share of an update, or all of it, from a gradient given in the order of the weights."""
        with self.lock:
            if optimizer.group > 1:
                total, place, mean = self.moments()[-1], updates % optimizer.group, self._gradient_buffer()
                np.add(total if place else 0, gradient, out=total)
                if place < optimizer.group - 1:
                    return
                gradient = np.multiply(total, self.dtype.type(1 / optimizer.group), out=mean)
            none = np.empty((1, self.program.layers[0].fan_in), self.dtype)
            prepared = self.prepare(none, batch=1, optimizer=optimizer, updates=updates, given=gradient)
            self._launch(prepared)
            self._stale = True
