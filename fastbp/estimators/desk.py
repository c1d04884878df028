"""Floor 5: the fits of a search, prepared and scored by one thread and trained in a `Line` by others.

Only the thread that searches enters Python: two that take turns there keep each other waiting. Rows are checked once
for all candidates of a fold, and networks of one shape hand on what was made for them.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral
from time import perf_counter
from typing import Any

import numpy as np
from joblib.parallel import ThreadingBackend
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from fastbp._signals import HeldBack
from fastbp.cpu.engine import Engine
from fastbp.cpu.launch import in_background
from fastbp.cpu.together import Line
from fastbp.estimators.base import BasePerceptron
from fastbp.estimators.course import Trainings
from fastbp.estimators.network import Network, Training, crowd
from fastbp.estimators.parameters import STOCHASTIC
from fastbp.estimators.shape import sizes_of
from fastbp.layout.objective import Outcome

BOOKED_WORK = 4e9
"""Most floating-point operations of a fit that takes one thread throughout, some 0.1 s: of longer ones Python has
little part, and the last ones of a search would do without the threads that are free."""
OF_TARGETS = ("dtype", "loss")
"""Parameters that the checks of rows and targets heed."""


class Fold:
    """The rows of a fold, checked once for all candidates.

    Parameters
    ----------
    data : all rows and targets, as the user holds them
    rows : numbers of those to train on
    number : of the fold

    Attributes
    ----------
    fits : how many are to come; nothing is kept after the last one
    """

    def __init__(self, data: tuple[Any, Any], rows: Any, number: int) -> None:
        self._data, self._rows, self.number, self.fits = data, rows, number, 0
        self._checked: list[tuple[list[Any], Any, dict[str, Any]]] = []

    @functools.cached_property
    def data(self) -> tuple[Any, Any]:
        """Its rows and targets."""
        x, y = (_safe_indexing(data, np.asarray(self._rows)) for data in self._data)
        return x, y

    def left(self) -> None:
        """One fit more is through."""
        self.fits -= 1
        if not self.fits:
            self._checked.clear()
            self.__dict__.pop("data", None)

    def encoded(self, estimator: BasePerceptron) -> Any:
        """What ``estimator._encoded`` gives for them and sets, copied from a like estimator where there was one."""
        asked = [type(estimator), *(getattr(estimator, name) for name in OF_TARGETS)]
        for known, found, left in self._checked:
            if known == asked:
                estimator.__dict__.update(left)
                return found
        before = dict(vars(estimator))
        found = estimator._encoded(*self.data, False, True)
        left = {name: value for name, value in vars(estimator).items() if before.get(name, self) is not value}
        self._checked.append((asked, found, left))
        return found


class _Fit:
    """One candidate's fit to one fold.

    Parameters
    ----------
    task : what joblib runs, scikit-learn's fit and all that follows it
    done : told of what came of the task
    estimator : the task's, with the candidate's parameters
    fold : its rows
    """

    def __init__(self, task: Any, done: Callable[[Any], Any], estimator: BasePerceptron, fold: Fold) -> None:
        self.task, self.done, self.estimator, self.fold = task, done, estimator, fold
        self._course: Trainings | None = None
        self._seconds = 0.0
        self._error: Exception | None = None

    def _begin(self) -> Training:
        if not get_config()["skip_parameter_validation"]:
            self.estimator._validate_params()
        given = *self.fold.data, None, False, (None, None, None)
        self._course = self.estimator._course(*given, self.fold.encoded)
        with config_context(skip_parameter_validation=True):
            return next(self._course)

    def next(self, outcome: Outcome | None = None, seconds: float = 0.0) -> Training | None:
        """The training that follows what came of the last one in so many seconds; None when the fit is through."""
        begin = perf_counter()
        try:
            if self._course is None:
                return self._begin()
            assert outcome is not None
            return self._course.send(outcome)
        except StopIteration:
            return None
        except Exception as error:  # `fit` raises it, for scikit-learn to deal with as it was asked to
            self._error = error
            return None
        finally:
            self._seconds += seconds + perf_counter() - begin

    def finish(self, line: Line) -> bool:
        """Run the task, which finds the estimator fitted; False where it raised."""
        estimator, future = self.estimator, Future[Any]()

        def fit(*_: Any, **__: Any) -> BasePerceptron:
            del estimator.__dict__["fit"]
            if self._error is not None:
                raise self._error
            return estimator

        estimator.__dict__["fit"] = fit
        engine = None if estimator._network is None else _engine(estimator._network)
        if engine is not None:
            engine.beside = line.beside
        try:
            (result,) = self.task()
            if "fit_time" in result:
                result["fit_time"] += self._seconds
            future.set_result([result])
        except Exception as error:
            future.set_exception(error)
        finally:
            estimator.__dict__.pop("fit", None)
            if engine is not None:
                engine.beside = None
                line.through(engine)
            self.fold.left()
        self.done(future)
        return future.exception() is None

    def leave(self) -> None:
        """It won't go on."""
        if self._course is not None:
            self._course.close()


class Desk(ThreadingBackend):  # type: ignore[misc]
    """joblib's threads, but for fits of a search that can be booked: those go through a `Line`, before all others.

    A fit can be booked that is short, draws its numbers from a seed and has nothing to look at between its epochs.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tasks: list[tuple[Any, Any]] = []
        self._collecting = True
        self._stopping = False

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Keep a task of the search until `retrieval_context`, when there are no more; run others, as a refit's."""
        if self._collecting and _is_fit(func):
            self._tasks.append((func, callback))
            return None
        return super().submit(func, callback)

    def retrieve_result_callback(self, out: Any) -> Any:
        """What came of a task."""
        return out.result() if isinstance(out, Future) else super().retrieve_result_callback(out)

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Run the tasks."""
        tasks, self._tasks = self._tasks, []
        if tasks:
            self._collecting = False
        folds: dict[int, Fold] = {}
        booked, others = [], []
        while tasks:  # and nobody keeps those that are done
            task, done = tasks.pop()
            fit = self._booked(task, done, folds)
            if fit is None:
                others.append((task, done))
            else:
                booked.append(fit)
        booked.sort(key=lambda fit: fit.fold.number)
        if self._train(booked):
            for task, done in reversed(others):
                super().submit(task, done)
        yield

    def _booked(self, task: Any, done: Any, folds: dict[int, Fold]) -> _Fit | None:
        """A task as a fit that can be booked, None where it can't."""
        if len(task.items) > 1:
            return None
        ((_, arguments, options),) = task.items
        estimator, x, y = arguments
        if (
            not isinstance(estimator, BasePerceptron)
            or options["fit_params"]
            or hasattr(options.get("caller"), "_skl_callbacks")
        ):
            return None
        rows = options["train"]
        try:
            estimator.set_params(**clone(options["parameters"], safe=False))
            if y is None or not _plain(estimator, len(rows), np.shape(x)[1], self._n_jobs):
                return None
        except Exception:  # scikit-learn meets it again, and deals with it as it was asked to
            return None
        fold = folds.setdefault(id(rows), Fold((x, y), rows, len(folds)))
        fold.fits += 1
        return _Fit(task, done, estimator, fold)

    def _train(self, waiting: list[_Fit]) -> bool:
        """Do them, from the last on; False where one raised, which ends the search."""
        if not waiting:
            return True
        self._stopping, line = False, Line(self._n_jobs)
        going: dict[_Fit, Training] = {}

        def stop() -> None:
            self._stopping = True
            for training in going.values():
                training.network.engine.stop_flag[0] = 1

        with HeldBack(stop), crowd.member(self._n_jobs):
            servers = [in_background(line.serve) for _ in range(self._n_jobs - 1)]
            try:
                return self._keep(line, waiting, going)
            finally:
                stop()
                line.close()
                while not line.empty:
                    line.help() if line.unclaimed else line.wait()
                    deque(line.back(), 0)
                wait([server for server in servers if not server.cancel()])
                for fit in going:
                    fit.leave()

    def _keep(self, line: Line, waiting: list[_Fit], going: dict[_Fit, Training]) -> bool:
        ready: deque[_Fit] = deque()
        while not self._stopping:
            for fit, outcome, seconds in line.back():
                del going[fit]
                if (training := fit.next(outcome, seconds)) is not None:
                    going[fit] = training
                    ready.append(fit)
                elif not fit.finish(line):
                    return False
            if (ready or waiting) and not line.full:
                fit = ready.popleft() if ready else waiting.pop()
                if fit not in going:
                    training = fit.next()
                    if training is None and not fit.finish(line):
                        return False
                    if training is None:
                        continue
                    going[fit] = training
                line.add(_engine(going[fit].network), going[fit].booking(), fit)
            elif line.unclaimed:
                line.help()
            elif line.empty:
                return True
            else:
                line.wait()
        return False


def _is_fit(task: Any) -> bool:
    """Whether it is one of a search, not of what an estimator does beside."""
    return all(getattr(function, "__name__", "") == "_fit_and_score" for function, _, _ in task.items)


def _engine(network: Network) -> Engine:
    assert isinstance(network.engine, Engine)
    return network.engine


def _plain(estimator: BasePerceptron, rows: int, inputs: int, jobs: int) -> bool:
    """Whether a fit can be booked, with so many threads for all."""
    e = estimator
    watched = e.verbose or e.callbacks or hasattr(e, "_skl_callbacks") or e.early_stopping
    weighted = getattr(e, "class_weight", None) is not None
    usual = e.solver in STOCHASTIC and e.device == "cpu" and not e.warm_start
    if watched or weighted or not usual or not isinstance(e.random_state, Integral) or e._threads() > jobs:
        return False
    weights = sum(i * o for i, o in pairwise([inputs, *sizes_of(e.hidden_layer_sizes), 1]))
    return bool(6 * weights * rows * e.max_iter <= BOOKED_WORK)
