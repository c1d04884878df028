"""Floor 5: L-BFGS by SciPy, over the weights in the engine's own order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.utils.optimize import _check_optimize_result

from fastbp.estimators.network import Network, Samples
from fastbp.losses import Loss


def minimise(
    network: Network,
    data: Samples,
    loss: Loss,
    tol: float,
    max_iter: int,
    max_fun: int,
    iterated: Callable[[float], bool] | None,
) -> tuple[float, int]:
    """Move the network's weights to a minimum of the penalised mean loss (Liu and Nocedal 1989).

    scikit-learn gives L-BFGS the loss as it is reported, for several outputs their mean, beside the gradient of their
    sum. Here both are the sum's; the minimum is the same.

    Parameters
    ----------
    network, data, loss : what to fit
    tol : a gradient smaller than this everywhere ends the search
    max_iter, max_fun : most iterations, and most values of the loss
    iterated : called with the penalised loss after each iteration; ends the search where it returns True

    Returns
    -------
    loss as it is reported, iterations
    """
    descended, engine = replace(loss, reported=1.0), network.engine
    gradient = np.empty(len(engine.weights))
    stopped = False

    def value(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        engine.weights[:] = weights
        return network.loss_and_gradient(data, descended, gradient), gradient

    def callback(intermediate_result: Any) -> None:
        nonlocal stopped
        assert iterated is not None
        engine.weights[:] = intermediate_result.x
        stopped = iterated(float(intermediate_result.fun))
        if stopped:
            raise StopIteration

    found: Any = minimize(
        value,
        engine.weights.astype(np.float64),
        method="L-BFGS-B",
        jac=True,
        options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        callback=None if iterated is None else callback,
    )
    engine.weights[:] = found.x
    last = found.fun if loss.reported == 1.0 else network.loss_and_gradient(data, loss, gradient)
    iterations = found.nit if stopped else _check_optimize_result("lbfgs", found, max_iter)
    return float(last), int(iterations)
