"""Floor 5: scikit-learn's solver "lbfgs", by `descend`."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.optimize import _check_optimize_result

from fastbp.estimators.network import Network, Samples
from fastbp.losses import Loss
from fastbp.training.full_batch import descend


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
    descended = replace(loss, reported=1.0)
    stopped = False

    def value(gradient: NDArray[np.float64]) -> float:
        return network.loss_and_gradient(data, descended, gradient)

    def watched(value: float) -> bool:
        nonlocal stopped
        assert iterated is not None
        stopped = iterated(value)
        return stopped

    found = descend(
        network.engine, value, None if iterated is None else watched, maxfun=max_fun, maxiter=max_iter, gtol=tol
    )
    last = (
        found.fun
        if loss.reported == 1.0
        else network.loss_and_gradient(data, loss, np.empty(len(network.engine.weights)))
    )
    iterations = found.nit if stopped else _check_optimize_result("lbfgs", found, max_iter)
    return float(last), int(iterations)
