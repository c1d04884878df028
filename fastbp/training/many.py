"""Floor 4: many networks at once: side by side over one data set, each on one thread and over its own rows."""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import devices
from fastbp._checks import whole
from fastbp._jit import default_threads
from fastbp._signals import HeldBack
from fastbp._spelling import answers
from fastbp.callbacks import Callback
from fastbp.cpu.engine import POLL_SECONDS, most_threads
from fastbp.cpu.engine import Engine as CPUEngine
from fastbp.cpu.launch import in_background
from fastbp.cpu.together import Line
from fastbp.data import staging
from fastbp.data.device_arrays import on_host
from fastbp.data.feeds import ArrayFeed
from fastbp.data.frames import check_names, names_of
from fastbp.data.staging import Sample
from fastbp.history import History
from fastbp.layout.objective import Outcome
from fastbp.model import Model
from fastbp.reports.progress import Progress, resolve_verbose
from fastbp.training.fit import DivergenceError, Fit, peak
from fastbp.training.options import Held, Options
from fastbp.training.weighting import without_missing

if TYPE_CHECKING:
    from fastbp.devices import Engine

Array = NDArray[Any]
ON_DIVERGENCE = ("warn", "raise", "ignore")
SHORT_WORK = 4e8
"""Floating-point operations of a training that takes one thread throughout: some 15 ms of the tiniest networks."""


class Histories(list[History]):
    """The histories of many networks, in the order of the models."""

    @property
    def errors(self) -> dict[int, DivergenceError]:
        """The `DivergenceError` that ended a training, by the model's place in the list."""
        return {index: history.error for index, history in enumerate(self) if history.error is not None}

    def last(self, name: str = "loss") -> Array:
        """A value as each network reported it last, (networks,) float64; NaN where a network never did."""
        return np.array([(history.history.get(name) or [np.nan])[-1] for history in self])

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each network and epoch.

        Returns
        -------
        pandas.DataFrame
            Indexed by "network" and "epoch", both from 0; columns as in ``History.to_frame``, NaN where a network has
            no such value.

        Raises
        ------
        ImportError : pandas isn't installed
        """
        frames = {index: history.to_frame() for index, history in enumerate(self)}
        import pandas as pd

        return pd.concat(frames, names=["network"])


def fit_many(
    models: Iterable[Model],
    x: ArrayLike,
    y: ArrayLike,
    batch_size: int | Sequence[int] | None = None,
    epochs: int | Sequence[int] = 1,
    verbose: str | int = "auto",
    callbacks: Sequence[Callback | Iterable[Callback] | None] | None = None,
    *,
    rows: Sequence[ArrayLike | None] | None = None,
    validation_split: float = 0.0,
    validation_data: tuple[ArrayLike, ArrayLike] | None = None,
    validation_rows: Sequence[ArrayLike] | None = None,
    shuffle: bool = True,
    threads: int | None = None,
    on_divergence: str = "warn",
) -> Histories:
    """Train many networks at once, side by side: seeds, folds, bags, grids, ensembles.

    Each network trains on one thread (the last ones share the threads that have become free), and comes out as if
    ``model.fit(x[rows], y[rows], ...)`` had trained it alone: the same bits, history and state of the optimizer. Those
    of ``device="cuda"`` train there meanwhile: small networks of one shape side by side, a block of threads each.
    They may differ in everything but the data: layers, precision, seed, optimizer, loss, metrics.

    Parameters
    ----------
    models : compiled models, each once
    x, y : the data set, as for ``Model.fit``; it is checked once and not copied for each network
    batch_size : rows of a step, default 32; one number, or one per model
    epochs : default 1; one number, or one per model
    verbose : 0 silent, 1 a progress bar, 2 a line a network, "auto" a bar where someone watches, else lines
    callbacks : for each model its own, one or several of ``fb.callbacks`` (or None); they are called one at a time, not
        in the thread that called this
    rows : the rows of x and y that each model trains on, one index array or boolean mask per model (or None: all rows);
        indices may repeat, as in a bag, and their order is the order of the data
    validation_split : share of each model's rows, the last ones, kept for validation
    validation_data : (x, y) for the validation of all models instead
    validation_rows : the rows of x and y that each model is validated on instead, as `rows`
    shuffle : whether each epoch has its own order of the rows, named by the model's seed
    threads : networks trained at a time; by default the threads the process may have
    on_divergence : what follows where the loss of a network became NaN or infinite. The others finish in any case, and
        its history has the `DivergenceError` as ``history.error``. "warn" (default) then warns, "raise" raises the
        first one, "ignore" leaves it to you to look at ``histories.errors``

    Returns
    -------
    Histories
        A list with each model's `History`, in the order of the models.

    Raises
    ------
    TypeError, ValueError, RuntimeError : models, data or options that don't fit, before any network trains
    DivergenceError : with ``on_divergence="raise"``, when all networks are through
    KeyboardInterrupt : passed on when every network has stopped at a whole step; ``model.history`` of each holds what
        was done, with ``interrupted`` True where something is missing

    Examples
    --------
    Five folds with scikit-learn's splitter:

    >>> train, test = zip(*KFold(5).split(x))  # doctest: +SKIP
    >>> histories = fb.fit_many(models, x, y, epochs=20, rows=train, validation_rows=test)  # doctest: +SKIP
    >>> histories.last("val_loss").mean()  # doctest: +SKIP
    """
    models = _checked(models)
    count = len(models)
    batches, lengths = (
        _each("batch_size", 32 if batch_size is None else batch_size, count),
        _each("epochs", epochs, count),
    )
    verbose = resolve_verbose(verbose)
    watching = _callbacks(callbacks, count)
    if on_divergence not in ON_DIVERGENCE:
        raise ValueError(f'on_divergence must be "warn", "raise" or "ignore", got {on_divergence!r}')
    threads = most_threads(default_threads() if threads is None else whole("threads", threads))
    samples = _samples(models, x, y, rows, validation_split, validation_data, validation_rows)
    jobs = []
    for index, (model, (sample, validation)) in enumerate(zip(models, samples, strict=True)):
        engine = model._ready(
            model._scoring().objective, True, model.optimizer, bool(verbose), min(batches[index], len(sample))
        )
        feed = ArrayFeed(
            sample, batch=batches[index], shuffle=bool(shuffle), seed=model.seed, first_pass=model._epochs_seen
        )
        held = None if validation is None else Held(validation)
        jobs.append(_Job(index, model, engine, feed, held, lengths[index], watching[index]))
        if watching[index]:
            with _of(index):
                jobs[-1].begun()
    _Crew(jobs, threads, verbose).run()
    histories = Histories(job.fit.history for job in jobs if job.fit is not None)
    _report(histories.errors, count, on_divergence)
    return histories


# ---------------------------------------------------------------- what came in


def _checked(models: Iterable[Model]) -> list[Model]:
    if isinstance(models, Model):
        raise TypeError("models is one Model; wanted several: fit_many([model], ...), or model.fit(...)")
    models = list(models)
    if not models:
        raise ValueError("models is empty; wanted at least one compiled Model")
    seen: dict[int, int] = {}
    for index, model in enumerate(models):
        if not isinstance(model, Model):
            raise TypeError(f"models[{index}] is {model!r}; wanted a Model")
        if (first := seen.setdefault(id(model), index)) != index:
            raise ValueError(
                f"models[{first}] and models[{index}] are the same object; each network trains once: make another Model"
            )
        with _of(index):
            if model.optimizer is None:
                model._compiled("fit_many")
    return models


@contextmanager
def _of(index: int) -> Iterator[None]:
    """Say which model an error is about."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        raise type(error)(f"models[{index}]: {error}") from error


def _each(name: str, value: Any, count: int) -> list[int]:
    """A whole number for each model, of one number or a sequence of them."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        return [whole(name, value)] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} models; wanted one number, or one per model")
    return [whole(f"{name}[{index}]", entry) for index, entry in enumerate(value)]


def _callbacks(callbacks: Any, models: int) -> list[list[Callback]]:
    """Each model's own callbacks: they keep what they saw of it."""
    if callbacks is None:
        return [[]] * models
    if isinstance(callbacks, Callback) or len(callbacks) != models:
        came = "is one Callback" if isinstance(callbacks, Callback) else f"has {len(callbacks)} entries"
        raise ValueError(f"callbacks {came} for {models} models; wanted one entry per model, with callbacks of its own")
    lists = [[] if c is None else [c] if isinstance(c, Callback) else list(c) for c in callbacks]
    owners: dict[int, int] = {}
    for index, own in enumerate(lists):
        for callback in own:
            if (first := owners.setdefault(id(callback), index)) != index:
                raise ValueError(
                    f"callbacks[{first}] and callbacks[{index}] hold the same {type(callback).__name__}; each model "
                    "wants one of its own: it keeps what it saw of the model"
                )
    return lists


class _Stage:
    """One data set as each model's kernels read it, checked once for each precision and kind of target."""

    def __init__(self, x: ArrayLike, y: ArrayLike, names: tuple[str, str]) -> None:
        self._x, self._y, self._names = x, y, names
        self._inputs: dict[Any, Any] = {}
        self._targets: dict[Any, Sample] = {}

    def of(self, index: int, model: Model) -> Sample:
        """All rows, for a model, which is built for them."""
        inputs = self._rows(model)
        with _of(index):
            model.check_inputs(inputs, model.compute_dtype, self._names[0])
            names = names_of(self._x)
            check_names(model.column_names, names, self._names[0])
            model.build(inputs.shape[1])
            model.column_names = model.column_names or names
            _, loss, _ = model._compiled("fit_many")
            key = model.dtype, model.device, loss.targets, model.output_width, loss.mask_nan, loss.coupled
            if key not in self._targets:
                kind, outputs = loss.targets, model.output_width
                y = devices.targets(
                    self._y,
                    kind,
                    outputs,
                    model.dtype,
                    model.device,
                    rows=len(inputs),
                    name=self._names[1],
                    missing=loss.mask_nan,
                )
                self._targets[key] = without_missing(Sample(inputs, y), loss)
        return replace(self._targets[key], x=inputs)

    def _rows(self, model: Model) -> Any:
        """What models of this precision and device read: an array on a GPU stays there for those that are there."""
        place = "cuda" if model.device == "cuda" else "cpu"
        if (model.dtype, place) not in self._inputs:
            name = self._names[0]
            x = self._x if place == "cuda" else on_host(self._x, name)
            found = staging.as_matrix(x, model.dtype, name=name, device=place)
            self._inputs[model.dtype, place] = devices.seen(found, name)
        return self._inputs[model.dtype, place]


class _Subsets:
    """Each model's own rows, checked once where several models share them."""

    def __init__(self, rows: Any, models: int, name: str) -> None:
        wanted = f"wanted one index array or boolean mask per model, {models} of them"
        try:
            self.entries = list(rows)
        except TypeError:
            raise TypeError(f"{name} is {rows!r}; {wanted}") from None
        if len(self.entries) != models:
            raise ValueError(f"{name} has {len(self.entries)} entries for {models} models; {wanted}")
        self.name = name
        self._seen: dict[int, Array] = {}

    def of(self, index: int, sample: Sample) -> Sample:
        """The model's own of all rows."""
        entry = self.entries[index]
        if entry is None:
            return sample
        if id(entry) not in self._seen:
            self._seen[id(entry)] = staging.as_rows(entry, len(sample), name=f"{self.name}[{index}]")
        return replace(sample, rows=self._seen[id(entry)])


def _split(sample: Sample, share: float) -> tuple[Sample, Sample]:
    """The first rows, and the last ones for validation."""
    at = staging.split_at(len(sample), share)
    if sample.rows is None:
        return sample.part(slice(at)), sample.part(slice(at, None))
    return replace(sample, rows=sample.rows[:at]), replace(sample, rows=sample.rows[at:])


def _samples(
    models: list[Model],
    x: ArrayLike,
    y: ArrayLike,
    rows: Any,
    split: float,
    held: tuple[ArrayLike, ArrayLike] | None,
    held_rows: Any,
) -> Iterator[tuple[Sample, Sample | None]]:
    """What each model trains on and is validated on."""
    options = {"validation_split": split or None, "validation_data": held, "validation_rows": held_rows}
    if len(given := [name for name, value in options.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(given)} are given; wanted one of them")
    stage = _Stage(x, y, ("x", "y"))
    subsets = None if rows is None else _Subsets(rows, len(models), "rows")
    checks = None if held_rows is None else _Subsets(held_rows, len(models), "validation_rows")
    other = (
        None if held is None else _Stage(*staging.as_pair(held, "validation_data"), ("validation x", "validation y"))
    )
    for index, model in enumerate(models):
        whole = stage.of(index, model)
        sample = whole if subsets is None else subsets.of(index, whole)
        validation = None
        if split:
            sample, validation = _split(sample, split)
        elif other is not None:
            validation = other.of(index, model)
        elif checks is not None:
            validation = checks.of(index, whole)
        yield sample, validation


# ---------------------------------------------------------------- training


@dataclass(eq=False)
class _Job:
    """One network's training."""

    index: int
    model: Model
    engine: "Engine"
    feed: ArrayFeed
    held: Held | None
    epochs: int
    callbacks: Any
    fit: Fit | None = None
    failed: bool = False

    def __post_init__(self) -> None:
        self._threads = self.engine.threads

    @property
    def rows(self) -> int:
        """Rows to be seen in all epochs."""
        return self.epochs * len(self.feed.sample)

    @property
    def work(self) -> int:
        """Floating-point operations."""
        return self.rows * self.engine.program.flops_per_row

    @property
    def rows_seen(self) -> int:
        """Rows seen so far."""
        return 0 if self.fit is None else int(self.feed.rows(self.fit.epoch, self.fit.step))

    def interrupted(self) -> None:
        """Say so in the history where not all is done."""
        if self.fit is None:
            self.model.history = History(self.epochs, self.feed.steps)
            self.model.history.interrupted = True
        else:
            self.fit.history.interrupted = not self.fit.finished

    def begun(self) -> Fit:
        """The fit, made when it is first asked for.

        Raises
        ------
        TypeError, ValueError : callbacks that aren't, or that monitor what isn't reported
        """
        if self.fit is None:
            self.fit = Fit(self.model, self.engine, self.feed, Options(epochs=self.epochs), self.held, self.callbacks)
        return self.fit

    def start(self) -> None:
        """Begin to train, on one thread for now."""
        self.engine.threads = 1
        self.begun().start()

    def book(self, outcome: Outcome, seconds: float) -> None:
        """Account for steps that were done."""
        self.begun().count(outcome.steps)
        self.guard(self.begun().book, outcome, seconds)

    def leave(self) -> None:
        """Give back what only the training needed."""
        self.engine.threads = self._threads
        self.engine.release()

    def finish(self) -> None:
        """What follows the last steps."""
        if not self.failed:
            self.guard(self.begun().finish if self.begun().finished else self.begun().check_weights)

    def guard(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do a step of the training; a divergence stands in the history."""
        try:
            step(*arguments)
        except DivergenceError:
            self.failed = True


class _Progress(Progress):
    """Shows many fits on stderr: a bar of all their rows, or a plain line for each network that is through."""

    def __init__(self, verbose: int, jobs: Sequence[_Job], threads: int) -> None:
        rows, work = sum(job.rows for job in jobs), sum(job.work for job in jobs)
        dtype, device = jobs[0].model.compute_dtype, jobs[0].model.device
        super().__init__(verbose, 1, rows, rows, lambda: peak(dtype, threads, device), work // rows)
        self.jobs, self._finished, self._last = jobs, 0, perf_counter()
        self._describe()

    def _describe(self) -> None:
        if self._bar is not None:
            self._bar.describe(f"{self._finished}/{len(self.jobs)} networks")

    def look(self, finished: Iterable[_Job]) -> None:
        """Show what was done since the last look."""
        if not self.verbose:
            return
        now, rows = perf_counter(), sum(job.rows_seen for job in self.jobs) - self._rows_seen
        for job in finished:
            self._finished += 1
            if self.verbose == 2 and job.fit is not None:
                place = f"{self._finished:{len(str(len(self.jobs)))}d}/{len(self.jobs)}"
                print(f"{place} networks  models[{job.index}]: {job.fit.history!r}", file=self.stream, flush=True)
        self._describe()
        self.advance(rows, rows, now - self._last)
        self._last = now


class _Crew:
    """Threads that take networks, those with the most work first, so that they end together.

    Short trainings follow when no long one waits: the first thread that is free prepares and books them, all others run
    them without entering Python, and so does the first while enough is prepared. When no network waits any more, long
    ones that still train share the threads: the bits are the same for any number. One thread at a time is at the desk,
    where Python is needed.
    """

    def __init__(self, jobs: Sequence[_Job], threads: int, verbose: int) -> None:
        self.jobs, self.threads = jobs, threads
        self._on_device = [job for job in jobs if job.model.device != "cpu"]
        waiting = sorted((job for job in jobs if job.model.device == "cpu"), key=lambda job: -job.work)
        self._long = deque(job for job in waiting if job.work > SHORT_WORK)
        self._short = deque(job for job in waiting if job.work <= SHORT_WORK)
        self._line = Line(threads) if self._short else None
        self._kept = False
        self._training: list[_Job] = []
        self._finished: deque[_Job] = deque()
        self._lock, self._desk = threading.RLock(), threading.Lock()  # a signal may stop what is being stopped
        self._stopping = False
        self.progress = _Progress(verbose, jobs, threads)

    def _member(self) -> None:
        while bunch := self._bunch():
            with self._desk:
                try:
                    self._train(bunch)
                finally:
                    for job in bunch:
                        self._leave(job)
        if self._line is None:
            return
        with self._lock:
            keeps, self._kept = not self._kept, True
        if keeps:
            self._keep(self._line)
        else:
            self._line.serve()

    def _bunch(self) -> list[_Job]:
        """The next of the long trainings, or all that are on a GPU."""
        with self._lock:
            bunch: list[_Job] = [] if self._stopping else self._on_device
            self._on_device = []
            if not bunch and self._long and not self._stopping:
                bunch = [self._long.popleft()]
            self._training.extend(bunch)
            return bunch

    def _train(self, bunch: Sequence[_Job]) -> None:
        """Train until all is done, the loss diverges or the crew is stopped."""
        first, *others = (job.engine for job in bunch)
        with first.holding_data(*(array for job in bunch for array in job.begun().arrays), beside=others):
            for job in bunch:
                job.start()
            if bunch[0].model.device == "cpu":
                self._train_alone(*bunch)
            else:
                self._train_on_device(bunch)
            for job in bunch:
                job.finish()

    def _train_alone(self, job: _Job) -> None:
        while not self._stopping and not job.begun().finished:
            job.engine.threads = self._threads_each()
            with self._away():
                job.guard(job.begun().chunk)

    def _train_on_device(self, bunch: Sequence[_Job]) -> None:
        while not self._stopping and (live := [job for job in bunch if not job.begun().finished]):
            requests = [(job.engine, job.begun().request()) for job in live]
            outcomes = devices.together()(requests, self._away())
            for job, (outcome, seconds) in zip(live, outcomes, strict=True):
                job.book(outcome, seconds)

    def _keep(self, line: Line) -> None:
        """Prepare short trainings, book what comes back, and help where enough is prepared."""
        going: deque[_Job] = deque()
        try:
            while True:
                with self._desk:
                    for job, outcome, seconds in line.back():
                        job.book(outcome, seconds)
                        if job.begun().finished or self._stopping:
                            self._end(line, job)
                        else:
                            going.append(job)
                    added = not line.full and (job := self._next(going)) is not None and self._add(line, job, going)
                if added:
                    continue
                if line.unclaimed:
                    line.help()
                elif line.empty:
                    break
                else:
                    line.wait()
            for job in going:
                self._end(line, job)
        except BaseException:
            self._stop()
            raise
        finally:
            line.close()
            while not line.empty:  # the threads must be out of the buffers first
                if line.unclaimed:
                    line.help()
                else:
                    line.wait()
                for job, outcome, _ in line.back():
                    job.begun().count(outcome.steps)
            for job in [job for job in self._training if job.work <= SHORT_WORK and job.model.device == "cpu"]:
                self._leave(job)

    def _next(self, going: deque[_Job]) -> _Job | None:
        """The next short training that can go on, or begin."""
        with self._lock:
            if self._stopping:
                return None
            if going:
                return going.popleft()
            if not self._short:
                return None
            job = self._short.popleft()
            self._training.append(job)
        job.start()
        return job

    def _add(self, line: Line, job: _Job, going: deque[_Job]) -> bool:
        """Put the next run of a training in line; False where someone else has the model."""
        if job.begun().finished:
            self._end(line, job)
            return True
        assert isinstance(job.engine, CPUEngine)
        added = line.add(job.engine, job.begun().request(), job)
        if not added:
            going.append(job)
        elif self._stopping:
            job.engine.stop_flag[0] = 1
        return added

    def _end(self, line: Line, job: _Job) -> None:
        """What follows the last run of a short training."""
        try:
            job.finish()
        finally:
            assert isinstance(job.engine, CPUEngine)
            line.through(job.engine)
            self._leave(job)

    def _leave(self, job: _Job) -> None:
        """A training is over."""
        job.leave()
        with self._lock:
            self._training.remove(job)
        self._finished.append(job)

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Leave the desk to the others for a while."""
        self._desk.release()
        try:
            yield
        finally:
            self._desk.acquire()

    def _threads_each(self) -> int:
        return 1 if self._long or self._short else max(1, self.threads // max(1, len(self._training)))

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            for job in self._training:
                job.engine.stop_flag[0] = 1

    def run(self) -> None:
        """Train all of them; what stopped that early is raised when every thread is back."""
        interrupt: BaseException | None = None
        with HeldBack(self._stop) as signals:  # the threads must be out of the buffers first
            members = [in_background(self._member) for _ in range(min(self.threads, len(self.jobs)))]
            waited = set(members)
            while waited:
                try:
                    done, waited = wait(waited, POLL_SECONDS, FIRST_EXCEPTION)
                    self.progress.look([self._finished.popleft() for _ in range(len(self._finished))])
                    interrupt = interrupt or next((error for member in done if (error := member.exception())), None)
                except OSError as error:  # nobody reads the progress any more
                    interrupt = error
                interrupt = signals.take() or interrupt
                if interrupt is not None:
                    self._stop()
                    waited = {member for member in waited if not member.cancel()}
        self.progress.close()
        if interrupt is not None:
            for job in self.jobs:
                job.interrupted()
            raise interrupt


def _report(errors: dict[int, DivergenceError], networks: int, on_divergence: str) -> None:
    if not errors or on_divergence == "ignore":
        return
    first, *_ = errors.values()
    places = ", ".join(f"models[{index}]" for index in errors)
    summary = f"{len(errors)} of {networks} networks diverged ({places}); the others are trained"
    if on_divergence == "raise":
        first.add_note(summary)
        raise first
    warnings.warn(f"{summary}. The first: {first} See histories.errors.", RuntimeWarning, stacklevel=4)


answers(__name__, "fit_many", methods="Histories")
