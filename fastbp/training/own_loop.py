"""Floor 4: single steps of a model, for a training loop of one's own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastbp._signals import HeldBack
from fastbp.data import sparse
from fastbp.exchange import model_files
from fastbp.layout.objective import EVALUATION_ROWS, Objective
from fastbp.program import aligned
from fastbp.training import scoring
from fastbp.training.fit import DivergenceError
from fastbp.training.weighting import by_class, without_missing

if TYPE_CHECKING:
    from fastbp.model import Model


def train(model: "Model", x: Any, y: Any, weights: ArrayLike | None, class_weight: Any) -> float | list[float]:
    """See ``Model.train_on_batch``."""
    sample = model._sample(x, y, weights, task="train_on_batch")
    engine, loss, optimizer = model._compiled("train_on_batch")
    if class_weight is not None:
        sample = by_class(sample, class_weight, loss, model.output_width)
    sample, scores = without_missing(sample, loss), model._scoring()
    objective, kept = scores.objective, scores.objective.kept(model.output_width, len(sample), model.dtype)
    model._ready(objective, True, optimizer, False, len(sample))
    updates = model._updates
    options: dict[str, Any] = {"objective": objective, "optimizer": optimizer, "updates": updates, "kept": kept}
    with HeldBack():
        outcome = engine.run(sample.x, sample.y, **sample.beside, batch=len(sample), seed=model.seed, **options)
        model._updates += outcome.steps
    outcome.completed()
    if outcome.diverged:
        error = DivergenceError(1, 1, outcome.diverged, optimizer.rate(updates))
        if outcome.steps:  # the moments aren't finite either
            model._reset_optimizer()
        raise error
    kept = tuple(rows[: len(sample)] for rows in kept)
    return scoring.listed(scores.values(outcome.sums[0], len(sample), kept))


def gradients(model: "Model", x: Any, y: Any, inputs: bool, weights: ArrayLike | None) -> Any:
    """See ``Model.gradients``."""
    sample = model._sample(x, y, weights, task="gradients")
    engine, loss, _ = model._compiled("gradients")
    sample, objective = without_missing(sample, loss), Objective(loss)
    model._ready(objective, True, None, False, len(sample))
    flat = aligned(engine.program.parameter_bytes).view(model.dtype)
    if inputs and isinstance(sample.x, sparse.SparseRows):
        raise ValueError("gradients: inputs=True gives a dense dx, for dense x: pass x.toarray()")
    dx = np.empty(sample.x.shape, model.dtype) if inputs else None
    outcome = engine.run(
        sample.x,
        sample.y,
        **sample.beside,
        batch=len(sample),
        objective=objective,
        gradient=flat,
        result=dx,
        noise=model._updates,
        seed=model.seed,
    ).completed()
    if outcome.diverged:
        raise FloatingPointError(
            "gradients: the loss of these rows is NaN or infinite, so it has no gradient; look for huge inputs, "
            "targets or weights"
        )
    arrays = engine.program.take(flat)
    return (arrays, dx) if inputs else arrays


def apply(model: "Model", given: Sequence[ArrayLike]) -> None:
    """See ``Model.apply_gradients``."""
    engine, _, optimizer = model._compiled("apply_gradients")
    flat = aligned(engine.program.parameter_bytes).view(model.dtype)
    engine.program.put(flat, model_files.checked(model, given, "apply_gradients"))
    model._ready(Objective(), True, optimizer, False, EVALUATION_ROWS)
    with HeldBack():
        engine.apply(optimizer, flat, model._updates)
        model._updates += 1
