"""Floor 4: L-BFGS by SciPy, all rows in every step, over the weights in the engine's own order."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp.data.feeds import ArrayFeed
from fastbp.history import History
from fastbp.layout.objective import Outcome
from fastbp.optimizers import LBFGS
from fastbp.program import aligned
from fastbp.training.fit import Fit
from fastbp.training.options import Options, sources

if TYPE_CHECKING:
    from fastbp.devices import Engine
    from fastbp.model import Model

ALL_ROWS = 1 << 40


def descend(
    engine: "Engine",
    value: Callable[[NDArray[np.float64]], float],
    iterated: Callable[[float], bool] | None,
    **options: Any,
) -> Any:
    """Move an engine's weights to a minimum (Liu and Nocedal 1989).

    Parameters
    ----------
    engine : holds the weights that `value` is about
    value : writes the gradient, in the order of the weights, and returns the loss
    iterated : called with the loss after each iteration; ends the search where it returns True
    options : SciPy's, of "L-BFGS-B"

    Returns
    -------
    scipy.optimize.OptimizeResult

    Raises
    ------
    ImportError : SciPy isn't installed
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise ImportError("L-BFGS needs SciPy: pip install 'fastbp[sklearn]'") from error
    gradient = np.empty(len(engine.weights))

    def both(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        engine.weights[:] = weights
        return value(gradient), gradient

    def callback(intermediate_result: Any) -> None:
        assert iterated is not None
        engine.weights[:] = intermediate_result.x
        if iterated(float(intermediate_result.fun)):
            raise StopIteration

    found = minimize(
        both,
        engine.weights.astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        options=options,
        callback=None if iterated is None else callback,
    )
    engine.weights[:] = found.x
    return found


def fit(model: "Model", x: Any, y: Any, options: Options, callbacks: Any) -> History:
    """``Model.fit`` with L-BFGS: an epoch is an iteration over all rows.

    Raises
    ------
    ValueError : options that make no sense with it
    """
    for name in ("batch_size", "steps_per_epoch", "checkpoint"):
        if getattr(options, name) is not None:
            raise ValueError(f"{name} makes no sense with LBFGS, whose every step looks at all rows: leave it out")
    feed, held = sources(model, x, y, replace(options, batch_size=ALL_ROWS, shuffle=False))
    if not isinstance(feed, ArrayFeed):
        raise ValueError("LBFGS looks at all rows in every step, so it needs arrays, not a stream of parts")
    model._compiled("fit")
    engine = model._ready(model._scoring().objective, True, None, bool(options.verbose), feed.batch)
    for spec in engine.program.layers:
        reasons = {
            "a kernel_constraint": spec.constraint is not None,
            "an lr_multiplier": spec.rate != 1,
            "noise, which makes the loss another one each time": spec.operation.noise,
            "statistics of batches that move": spec.whole_batch,
        }
        for what, there in reasons.items():
            if there:
                name = spec.operation.name.replace("_", " ")
                raise ValueError(f"a {name} layer has {what}, which LBFGS can't heed; use another optimizer")
    return FullBatchFit(model, engine, feed, options, held, callbacks).run()


class FullBatchFit(Fit):
    """One call of `Model.fit` with `LBFGS`: SciPy's loop around the kernels, booked iteration by iteration."""

    def chunk(self) -> None:
        """All iterations.

        Raises
        ------
        DivergenceError : the loss is NaN or infinite where the search begins
        KeyboardInterrupt : the weights are those that were looked at last
        """
        engine, optimizer = self.engine, self._optimizer
        assert isinstance(optimizer, LBFGS)
        flat = aligned(engine.program.parameter_bytes).view(engine.dtype)
        trained = np.zeros(len(flat), engine.dtype)
        engine.program.copy_trained(trained, np.ones_like(trained))
        request, since = self._request(flat), time.perf_counter()
        last: list[tuple[float, Outcome]] = []

        def value(gradient: NDArray[np.float64]) -> float:
            outcome = engine.run(**request).completed()
            outcome.steps = 1
            np.multiply(flat, trained, out=gradient)
            if outcome.diverged:
                if not self.epoch and not last:
                    self._diverged(outcome.diverged)
                gradient.fill(0)
                outcome.sums[0, 0] = np.inf
            loss = float(self.scores.loss(outcome.sums[0], self.feed.rows(1, 0)))
            last[:] = [(loss, outcome)]
            return loss

        def iterated(loss: float) -> bool:
            nonlocal since, request
            if last[0][0] != loss:  # the line search looked at other weights since
                value(np.empty(len(flat)))
            now = time.perf_counter()
            self.count(1)
            self.book(last[0][1], now - since)
            since = now
            if not self.finished:
                request = self._request(flat)
            return self.finished

        found = descend(
            engine,
            value,
            iterated,
            maxiter=self.epochs - self.epoch,
            maxfun=optimizer.max_evaluations,
            maxcor=optimizer.history_size,
            maxls=optimizer.max_line_search,
            gtol=optimizer.tolerance_grad,
            ftol=optimizer.tolerance_change,
        )
        if not self.finished:
            self.history.stopped = f"stopped by L-BFGS: {str(found.message).rstrip('.')}"

    def _request(self, gradient: NDArray[Any]) -> dict[str, Any]:
        """What the engine is to run for a loss and its gradient; an iteration begins."""
        request = self.request()
        mine = {"optimizer": None, "held": None, "carried": None, "gradient": gradient, "steps": 1}
        return {**request, **mine}
