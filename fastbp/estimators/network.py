"""Floor 5: one network in two orders: scikit-learn's lists of arrays outside, the engine's flat buffer inside."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import devices
from fastbp.data.sparse import SparseRows, as_sparse, is_sparse
from fastbp.estimators import shuffles
from fastbp.estimators.rates import StepRule
from fastbp.estimators.shape import Shape
from fastbp.layers import lower
from fastbp.layout.objective import Ending, Objective, Outcome
from fastbp.layout.operations import DENSE
from fastbp.losses import Loss
from fastbp.program import aligned
from fastbp.reports.bars import watched
from fastbp.training.compilation import compile_kernels

Array = NDArray[Any]

Lists = tuple[list[Array], list[Array], list[Array]]
"""coefs, intercepts, and of each batch normalisation (4, O): gamma, beta, moving mean and variance."""

PREDICTION_ROWS = 4096
DENSE_ABOVE = 16
"""Sparse rows of which more than one number in so many isn't 0 are multiplied as dense ones."""


@dataclass
class Samples:
    """Checked training data.

    Attributes
    ----------
    x : (N, I) of the network's dtype, as `Network.staged` returns it
    y : (N, O) of the same dtype, or (N,) int64 class numbers
    weight : (N,) float64 weights of the rows, None where they count alike
    """

    x: Any
    y: Array
    weight: Array | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])


class Network:
    """Weights in an engine, with the state of an optimizer beside them.

    Parameters
    ----------
    lists : the weights; float32 if the first array is, else float64
    shape : what stands between the products
    alpha : ``alpha / 2`` times the sum of the squared weights, biases left out, is the penalty before it is divided
    device : "cpu", "cuda" or "auto", as `Model` takes it
    """

    def __init__(self, lists: Lists, shape: Shape, alpha: float, device: str = "cpu") -> None:
        kernels, biases, norms = ([np.asarray(array) for array in arrays] for arrays in lists)
        _check_chain(kernels, biases, norms, shape)
        dtype = type_of(kernels)
        penalty = (0.0, alpha / 2, 0.0, 0.0)
        specs = lower(shape.layers(c.shape[1] for c in kernels), kernels[0].shape[0]).specs
        self.shape, self.alpha, self.asked = shape, alpha, device
        specs = [replace(spec, penalty=penalty) if spec.operation is DENSE else spec for spec in specs]
        self.device, _ = devices.picked(device, specs)
        self.engine = devices.made(self.device, specs, dtype, threads=1)  # until `crowd` gives it more
        self.put((kernels, biases, norms))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.engine.dtype

    @property
    def units(self) -> list[int]:
        """I of the first product, and O of each."""
        products = [layer for layer in self.engine.program.layers if layer.operation is DENSE]
        return [products[0].fan_in, *(layer.fan_out for layer in products)]

    # -------------------------------------------------- the two orders

    def put(self, lists: Lists) -> None:
        """Write the weights."""
        self.engine.program.put(self.engine.weights, _interleaved(lists))

    def take(self) -> Lists:
        """The weights, copied."""
        program = self.engine.program
        arrays = iter(program.take(self.engine.weights))
        coefs, intercepts, norms = [], [], []
        for layer in program.layers:
            if layer.operation is DENSE:
                coefs.append(next(arrays))
                intercepts.append(next(arrays))
            elif layer.rows:
                norms.append(np.stack([next(arrays) for _ in layer.rows]))
        return coefs, intercepts, norms

    def takes(self, lists: Lists) -> bool:
        """Whether `put` takes these arrays."""
        wanted = [shape for layer in self.engine.program.layers for _, shape in layer.arrays]
        given = [np.shape(array) for array in _interleaved(lists)]
        return given == wanted and type_of(lists[0]) == self.dtype

    def moments(self) -> list[list[Array]]:
        """The optimizer's arrays, each in the engine's order."""
        return [self.engine.program.take(moment) for moment in self.engine.moments()]

    def put_moments(self, moments: Sequence[Sequence[Array]], rule: StepRule) -> None:
        """Write what `moments` gave, of the rule's."""
        self.engine.reserve_moments(rule)
        for moment, arrays in zip(self.engine.moments(), moments, strict=True):
            self.engine.program.put(moment, arrays)

    # -------------------------------------------------- running

    def staged(self, x: Any) -> Array | SparseRows:
        """Checked rows as kernels read them: dense, or sparse where fewer than one number in `DENSE_ABOVE` isn't 0."""
        if isinstance(x, SparseRows):
            return x
        if is_sparse(x):
            if self.device == "cpu" and x.nnz * DENSE_ABOVE < x.shape[0] * x.shape[1]:
                return as_sparse(x, self.dtype, "X")
            x = x.toarray()
        return np.require(x, self.dtype, ["C_CONTIGUOUS", "ALIGNED"])

    def compile(self, objective: Objective, rule: StepRule | None, batch: int, shown: bool) -> None:
        """Make the kernels of a training ready, and say so where someone watches; fits that run at once wait for it."""
        needed = self.engine.kernels(objective, True, rule, batch)
        if rule is not None:
            needed.append(("orders", shuffles.kernel()))
        if not all(kernel.ready for _, kernel in needed):
            with _compiling:
                compile_kernels(needed, shown or watched())

    def ends_itself(self, batch: int) -> bool:
        """Whether a training takes an `Ending`: steps over so many rows run on one thread of the CPU."""
        return self.device == "cpu" and self.engine.serial(batch)

    def shares(self, data: Samples, orders: Array, batch: int) -> tuple[Array | None, Array]:
        """(what each row counts in its batch's mean, over what the penalty is divided by in each step).

        The engine divides by a batch's rows, scikit-learn by the sum of their weights. Weighted epochs come one by one.
        """
        starts = np.arange(0, orders.shape[1], batch)
        counts = np.minimum(orders.shape[1] - starts, batch).astype(np.float64)
        if data.weight is None:
            return None, np.tile(1 / counts, len(orders))
        (order,) = orders
        sums = np.add.reduceat(data.weight[order], starts)
        scales = np.divide(1.0, sums, out=np.zeros(len(sums)), where=sums != 0)
        weights = np.zeros(len(data), self.dtype)
        weights[order] = data.weight[order] * np.repeat(counts * scales, counts.astype(np.int64))
        return weights, scales

    def loss_and_gradient(self, data: Samples, loss: Loss, gradient: Array) -> float:
        """Penalised mean loss over all rows; writes its gradient in the engine's order, float64."""
        count = len(data)
        weights, scales = self.shares(data, np.arange(count)[None], count)
        part = aligned(self.engine.program.parameter_bytes).view(self.dtype)
        outcome = self.engine.run(
            data.x,
            data.y,
            weights=weights,
            batch=count,
            objective=Objective(loss),
            gradient=part,
            penalty_scales=scales,
        ).completed()
        if outcome.diverged:
            gradient[:] = 0.0
            return np.inf
        gradient[:] = part
        return float(outcome.sums[0, 0]) / count

    def predict(self, x: Any) -> Array:
        """Outputs (N, O) for rows (N, I) of numbers, dense or sparse."""
        result = np.empty((x.shape[0], self.units[-1]), self.dtype)
        self.engine.run(self.staged(x), batch=PREDICTION_ROWS, result=result).completed()
        return result


@dataclass(eq=False)
class Training:
    """Epochs that a fit wants to have trained in batches of `batch` rows.

    Parameters
    ----------
    network : whose weights
    data, loss : what to fit
    orders : (E, M) numbers of the rows of each epoch
    rule : of the steps, counted from the first
    noise, seed : number of the first step and what else names the draws of dropout
    ending : what may end it early, where `Network.ends_itself` says so; all is one run then
    """

    network: Network
    data: Samples
    orders: Array
    batch: int
    rule: StepRule
    loss: Loss
    noise: int = 0
    seed: int = 0
    ending: Ending | None = None

    def __post_init__(self) -> None:
        self._weights, self._scales = self.network.shares(self.data, self.orders, self.batch)
        self._per_epoch = -(-self.orders.shape[1] // self.batch)
        self._total, self._sums = self._per_epoch * len(self.orders), np.zeros((len(self.orders), 1))

    def _request(self, done: int, steps: int) -> dict[str, Any]:
        """What an engine takes for so many steps after those that are done."""
        first, last = done // self._per_epoch, (done + steps - 1) // self._per_epoch
        return {
            "x": self.data.x,
            "y": self.data.y,
            "rows": self.orders[first : last + 1],
            "weights": self._weights,
            "batch": self.batch,
            "objective": Objective(self.loss),
            "optimizer": self.rule,
            "seed": self.seed,
            "first_step": done,
            "steps": steps,
            "updates": done,
            "noise": self.noise + done,
            "penalty_scales": self._scales[done : done + steps],
            "carried": self._sums[first],
        }

    def booking(self) -> dict[str, Any]:
        """The whole of it as a `Line` takes it, where it has an `Ending`."""
        return {**self._request(0, self._total), "held": None, "ending": self.ending}

    def run(self) -> Outcome:
        """Do it now."""
        engine = self.network.engine
        ending: dict[str, Any] = {} if self.ending is None else {"ending": self.ending}
        done = 0
        while done < self._total:
            steps = min(self._total - done, engine.steps_per_run(self.batch, self.ending is not None))
            first = done // self._per_epoch
            outcome = engine.run(**self._request(done, steps), **ending)
            self._sums[first : first + len(outcome.sums)] = outcome.sums
            done += outcome.steps
            if outcome.diverged or outcome.steps < steps or outcome.interrupt is not None:
                return Outcome(done, outcome.diverged, self._sums, outcome.interrupt)
        return Outcome(done, "", self._sums)


def type_of(coefs: Sequence[Any]) -> np.dtype[Any]:
    """The number type of a network with these weights."""
    return np.dtype(np.float32 if getattr(coefs[0], "dtype", None) == np.float32 else np.float64)


def _interleaved(lists: Lists) -> list[Any]:
    """The arrays layer by layer."""
    coefs, intercepts, norms = lists
    pairs = zip_longest(zip(coefs, intercepts, strict=True), norms, fillvalue=())
    return [array for pair, rows in pairs for array in (*pair, *rows)]


def _check_chain(coefs: Sequence[Array], intercepts: Sequence[Array], norms: Sequence[Array], shape: Shape) -> None:
    """Refuse weights whose shapes make no network."""
    layers = len(shape.activations)
    if len(coefs) != layers or len(intercepts) != layers:
        raise ValueError(
            f"coefs_ and intercepts_ hold {len(coefs)} and {len(intercepts)} arrays, hidden_layer_sizes asks for "
            f"{layers} layers: fit without warm_start, or set hidden_layer_sizes back"
        )
    shapes = [c.shape for c in coefs]
    if any(c.ndim != 2 or c.dtype.kind not in "fiu" for c in coefs) or any(a[1] != b[0] for a, b in pairwise(shapes)):
        raise ValueError(
            f"coefs_ must be (I, O) arrays of numbers, each as high as the one before it is wide: {shapes}"
        )
    if [b.shape for b in intercepts] != [(c.shape[1],) for c in coefs]:
        raise ValueError(f"intercepts_ must match coefs_: shapes {[b.shape for b in intercepts]} beside {shapes}")
    wanted = [(4, c.shape[1]) for c in coefs[:-1]] if shape.batch_norm else []
    if [rows.shape for rows in norms] != wanted:
        raise ValueError(
            f"batch_norm={shape.batch_norm} wants batch_norms_ of the shapes {wanted}, there are "
            f"{[rows.shape for rows in norms]}: fit without warm_start, or set batch_norm back"
        )


class _Crowd:
    """How many estimators of this process compute now: they share the cores."""

    def __init__(self) -> None:
        self._count, self._lock = 0, threading.Lock()

    @contextlib.contextmanager
    def member(self, count: int = 1) -> Iterator[None]:
        with self._lock:
            self._count += count
        try:
            yield
        finally:
            with self._lock:
                self._count -= count

    def share(self, threads: int) -> int:
        """A fair share of `threads`."""
        return max(1, threads // max(1, self._count))


crowd = _Crowd()
_compiling = threading.Lock()
