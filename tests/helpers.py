"""What several test modules share: networks, data and subprocesses."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import reference

import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.losses import LOSSES

ROOT = Path(__file__).parent.parent
PATIENCE = 600
"""Seconds after which a process counts as hung: kernels that nobody compiled yet take minutes on a busy machine."""
OUTPUT = {name: row.fused_with for name, row in LOSSES.items() if row.fused_with}
OUTPUT |= {"poisson": "softplus", "mean_squared_logarithmic_error": "softplus", "kl_divergence": "softmax"}
"""The output activation that each loss is tried with, where it isn't linear."""
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
ELEMENTWISE = [name for name, row in ACTIVATIONS.items() if not row.coupled]


def make(
    widths: list[int], hidden: str = "tanh", output: str = "linear", *, bias: bool = True, **options: Any
) -> fb.Model:
    """A built model with random weights and biases."""
    layers = [fb.Dense(o, activation=hidden, use_bias=bias) for o in widths[1:-1]]
    model = fb.Model([*layers, fb.Dense(widths[-1], activation=output, use_bias=bias)], **options)
    model.build(widths[0])
    rng = np.random.default_rng(7)
    deviations = [1 / np.sqrt(len(w)) if w.ndim == 2 else 0.5 for w in model.get_weights()]
    model.set_weights([d * rng.standard_normal(w.shape) for d, w in zip(deviations, model.get_weights(), strict=True)])
    return model


def targets(loss: str, rows: int, outputs: int, seed: int = 3) -> np.ndarray:
    """Random targets of the kind that the loss takes."""
    rng = np.random.default_rng(seed)
    kind = LOSSES[loss].targets
    if kind == "labels":
        return rng.integers(0, outputs, rows)
    if loss.startswith("categorical"):
        return np.eye(outputs)[rng.integers(0, outputs, rows)]
    if loss == "kl_divergence":
        return rng.dirichlet(np.ones(outputs), rows)
    if kind == "probabilities":
        return rng.integers(0, 2, (rows, outputs)).astype(float)
    if kind == "signs":
        return rng.choice([-1.0, 1.0], (rows, outputs))
    if kind == "not_negative":
        return rng.poisson(2.0, (rows, outputs)).astype(float)
    if kind == "positive":
        return rng.gamma(2.0, 0.5, (rows, outputs))
    y = rng.standard_normal((rows, outputs))
    return y + np.copysign(0.5, y) if loss == "mean_absolute_percentage_error" else y  # divided by, so not near 0


def inputs(rows: int, width: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


def expected(
    model: fb.Model, loss: str, x: np.ndarray, y: np.ndarray, **parameters: float
) -> tuple[float, list[np.ndarray], np.ndarray]:
    """Loss, gradients and the inputs' gradient by the reference, from the model's own weights and rounded inputs."""
    weights = _weights(model)
    names = [layer.activation.name for layer in model.layers]
    rounded = x.astype(model.dtype)
    value, gradients, dx = reference.loss_and_gradients(weights, names, loss, rounded, y, parameters=parameters)
    return value, [g for g in gradients if g is not None], dx


def _weights(model: fb.Model) -> list[Any]:
    queue = iter(model.get_weights())
    weights: list[Any] = []
    for layer in model.layers:
        weights.append(next(queue).astype(np.float64))
        weights.append(next(queue).astype(np.float64) if layer.use_bias else None)
    return weights


def outputs(model: fb.Model, x: np.ndarray) -> np.ndarray:
    """Predictions by the reference."""
    names = [layer.activation.name for layer in model.layers]
    return reference.forward(_weights(model), names, x.astype(model.dtype))


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference in units of the largest number wanted (at least 1e-3)."""
    return float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-3))


def python(code: str, **environment: str | None) -> str:
    """What a fresh interpreter prints for the code; its failure is the test's. None takes a variable away."""
    changed = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **environment}
    variables = {name: value for name, value in {**os.environ, **changed}.items() if value is not None}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def interrupting(ready: Callable[[], Any]) -> Iterator[None]:
    """Ctrl-C from another thread once `ready` is true; the thread is over when the block is."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.001):
            if ready():
                signal.raise_signal(signal.SIGINT)
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def side_by_side(work: Callable[..., Any], cases: Mapping[Any, tuple[Any, ...]]) -> dict[Any, Future[Any]]:
    """The work of each case on its way, two at a time: for slow ones that wait for processes of their own."""
    pool = ThreadPoolExecutor(2)
    return {name: pool.submit(work, *arguments) for name, arguments in cases.items()}
