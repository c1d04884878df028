"""Floor 5: one network in two orders: scikit-learn's lists of arrays outside, the engine's flat buffer inside."""

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp._jit import default_threads
from fastbp.activations import Activation
from fastbp.compilation import compile_kernels
from fastbp.cpu.engine import Engine
from fastbp.estimators.rates import StepRule
from fastbp.losses import Loss
from fastbp.objective import Objective, Outcome
from fastbp.program import LayerSpec, aligned
from fastbp.sparse import SparseRows, as_sparse, is_sparse

Array = NDArray[Any]

PREDICTION_ROWS = 4096
DENSE_ABOVE = 16
"""Sparse rows of which more than one number in so many isn't 0 are multiplied as dense ones."""


@dataclass
class Samples:
    """Checked training data.

    Attributes
    ----------
    x : (N, I) of the network's dtype, as `staged` returns it
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
    coefs, intercepts : (I, O) and (O,) arrays, layer by layer; float32 if the first is, else float64
    activations : a row of the table for each layer
    alpha : ``alpha / 2`` times the sum of the squared weights, biases left out, is the penalty before it is divided
    """

    def __init__(
        self, coefs: Sequence[Any], intercepts: Sequence[Any], activations: Sequence[Activation], alpha: float
    ) -> None:
        kernels, biases = [np.asarray(c) for c in coefs], [np.asarray(b) for b in intercepts]
        _check_chain(kernels, biases, len(activations))
        dtype = np.dtype(np.float32 if kernels[0].dtype == np.float32 else np.float64)
        penalty = (0.0, alpha / 2, 0.0, 0.0)
        specs = [
            LayerSpec(c.shape[0], c.shape[1], True, row, penalty) for c, row in zip(kernels, activations, strict=True)
        ]
        self.activations, self.alpha = tuple(activations), alpha
        self.engine = Engine(specs, dtype, default_threads())
        self.put(kernels, biases)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.engine.dtype

    @property
    def inputs(self) -> int:
        """I of the first layer."""
        return self.engine.program.layers[0].fan_in

    @property
    def outputs(self) -> int:
        """O of the last layer."""
        return self.engine.program.layers[-1].fan_out

    # -------------------------------------------------- the two orders

    def put(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        """Write the weights."""
        self.engine.program.put(self.engine.weights, _interleaved(coefs, intercepts))

    def take(self, flat: Array | None = None) -> tuple[list[Array], list[Array]]:
        """(coefs, intercepts), copied out of the weights or of another array in the engine's order."""
        arrays = self.engine.program.take(self.engine.weights if flat is None else flat)
        return arrays[::2], arrays[1::2]

    def takes(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> bool:
        """Whether `put` takes these arrays."""
        wanted = [
            shape for layer in self.engine.program.layers for shape in ((layer.fan_in, layer.fan_out), (layer.fan_out,))
        ]
        given = [np.shape(array) for array in _interleaved(coefs, intercepts)]
        half = getattr(coefs[0], "dtype", None) == np.float32
        return given == wanted and half == (self.dtype == np.float32)

    def moments(self) -> list[list[Array]]:
        """The optimizer's arrays, each in the order of coefs and intercepts in turn."""
        return [self.engine.program.take(moment) for moment in self.engine.moments()]

    def put_moments(self, moments: Sequence[Sequence[Array]], rule: StepRule) -> None:
        """Write what `moments` gave, of the rule's."""
        self.engine.reserve_moments(rule)
        for moment, arrays in zip(self.engine.moments(), moments, strict=True):
            self.engine.program.put(moment, arrays)

    # -------------------------------------------------- running

    def compile(self, objective: Objective, rule: StepRule | None, batch: int, shown: bool) -> None:
        """Make the kernels of a training ready, and say so where someone watches; fits that run at once wait for it."""
        needed = self.engine.kernels(objective, True, rule, batch)
        if not all(kernel.ready for _, kernel in needed):
            with _compiling:
                compile_kernels(needed, shown or sys.stderr.isatty())

    def train(self, data: Samples, orders: Array, batch: int, rule: StepRule, loss: Loss) -> Outcome:
        """Run the epochs whose rows `orders` (E, M) names, in batches of `batch`; `rule` counts from the first step."""
        weights, scales = self._shares(data, orders, batch)
        step: dict[str, Any] = {"batch": batch, "objective": Objective(loss), "optimizer": rule}
        per_epoch = -(-orders.shape[1] // batch)
        total, done, sums = per_epoch * len(orders), 0, np.zeros((len(orders), 1))
        while done < total:
            steps = min(total - done, self.engine.steps_per_run(batch))
            first, last = done // per_epoch, (done + steps - 1) // per_epoch
            outcome = self.engine.run(
                data.x,
                data.y,
                rows=orders[first : last + 1],
                weights=weights,
                first_step=done,
                steps=steps,
                updates=done,
                penalty_scales=scales[done : done + steps],
                carried=sums[first],
                **step,
            )
            sums[first : last + 1] = outcome.sums
            done += outcome.steps
            if outcome.diverged or outcome.interrupt is not None:
                return Outcome(done, outcome.diverged, sums, outcome.interrupt)
        return Outcome(done, "", sums)

    def _shares(self, data: Samples, orders: Array, batch: int) -> tuple[Array | None, Array]:
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
        weights, scales = self._shares(data, np.arange(count)[None], count)
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
        result = np.empty((x.shape[0], self.outputs), self.dtype)
        self.engine.run(staged(x, self.dtype), batch=PREDICTION_ROWS, result=result).completed()
        return result


def staged(x: Any, dtype: np.dtype[Any]) -> Array | SparseRows:
    """Checked rows as kernels read them: dense, or sparse where fewer than one number in `DENSE_ABOVE` isn't 0."""
    if isinstance(x, SparseRows):
        return x
    if is_sparse(x):
        if x.nnz * DENSE_ABOVE < x.shape[0] * x.shape[1]:
            return as_sparse(x, dtype, "X")
        x = x.toarray()
    return np.require(x, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _interleaved(coefs: Sequence[Any], intercepts: Sequence[Any]) -> list[Any]:
    return [array for pair in zip(coefs, intercepts, strict=True) for array in pair]


def _check_chain(coefs: Sequence[Array], intercepts: Sequence[Array], layers: int) -> None:
    """Refuse weights whose shapes make no network."""
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


class _Crowd:
    """How many estimators of this process compute now: they share the cores."""

    def __init__(self) -> None:
        self._count, self._lock = 0, threading.Lock()

    @contextlib.contextmanager
    def member(self) -> Iterator[None]:
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    def share(self, threads: int) -> int:
        """A fair share of `threads`."""
        return max(1, threads // max(1, self._count))


crowd = _Crowd()
_compiling = threading.Lock()
