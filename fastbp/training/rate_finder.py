"""Floor 4: the learning-rate range test: a curve of the loss over rising rates, and the rate that it suggests."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp._checks import number, whole
from fastbp._spelling import answers
from fastbp.data.feeds import ArrayFeed
from fastbp.layout.objective import Objective

if TYPE_CHECKING:
    from fastbp.model import Model

SMOOTHING = 0.9
WORSE = 4.0
"""The test ends where the smoothed loss is so many times its lowest above it."""
LEAST_STEPS = 20

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class LearningRateCurve:
    """What a range test saw.

    Attributes
    ----------
    rates : (n,) the learning rate of each step, rising
    losses : (n,) the loss of each step's batch before its update
    smoothed : (n,) a mean of the losses that forgets a tenth each step
    suggestion : the rate where the loss fell fastest
    """

    rates: Array
    losses: Array
    smoothed: Array
    suggestion: float

    def plot(self, path: Any = None) -> Any:
        """Draw the losses over the rates, with the suggestion marked.

        Parameters
        ----------
        path : file to write the picture to, in the format of its ending; by default nothing is written

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it as it is.

        Raises
        ------
        ImportError : matplotlib isn't installed
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("LearningRateCurve.plot needs matplotlib: pip install 'fastbp[plot]'") from error
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(self.rates, self.losses, alpha=0.3, label="each batch")
        axes.semilogx(self.rates, self.smoothed, color="C0", label="smoothed")
        axes.axvline(self.suggestion, color="C1", label=f"suggestion {self.suggestion:.2g}")
        low, high = self.smoothed.min(), self.smoothed[: max(1, len(self.smoothed) // 2)].max()
        axes.set(xlabel="learning rate", ylabel="loss", ylim=(low - 0.1 * (high - low), high + 0.5 * (high - low)))
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure

    def __repr__(self) -> str:
        return (
            f"LearningRateCurve(suggestion {self.suggestion:.2g}; {len(self.rates)} steps from {self.rates[0]:.2g} to "
            f"{self.rates[-1]:.2g}, loss {self.losses[0]:.4g} to {self.losses.min():.4g} to {self.losses[-1]:.4g})"
        )


def find_learning_rate(
    model: "Model",
    x: ArrayLike,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    batch_size: int | None = None,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 200,
) -> LearningRateCurve:
    """Train a twin of the model with a rate that rises from step to step, until the loss explodes.

    Smith, "Cyclical learning rates for training neural networks", 2017. The model itself is left as it is, bit for bit;
    the test goes on from its present weights and optimizer state, with its optimizer's other settings.

    Parameters
    ----------
    model : a compiled model, built or not
    x, y, sample_weight : as for `Model.fit`
    batch_size : rows of a step, default 32; give the one that you train with
    start, end : the first rate and the highest, default 1e-7 and 10
    steps : from the one to the other, by equal factors, default 200

    Returns
    -------
    LearningRateCurve

    Raises
    ------
    RuntimeError : the model isn't compiled
    ValueError : options out of range, or a loss that is NaN or infinite from the first step on

    Examples
    --------
    >>> import fastbp as fb
    >>> curve = fb.find_learning_rate(model, x, y, batch_size=128)  # doctest: +SKIP
    >>> model.compile(fb.SGD(curve.suggestion, momentum=0.9), "mse")  # doctest: +SKIP
    """
    if not 0 < number("start", start) < number("end", end):
        raise ValueError(f"start must be above 0 and below end, got start={start!r} and end={end!r}")
    rates = np.geomspace(start, end, whole("steps", steps, least=LEAST_STEPS))
    batch = 32 if batch_size is None else whole("batch_size", batch_size)
    twin = model._twin("find_learning_rate")
    sample = twin._sample(x, y, sample_weight, task="find_learning_rate")
    _, loss, optimizer = twin._compiled("find_learning_rate")
    objective = Objective(loss)
    feed = ArrayFeed(sample, batch=batch, shuffle=True, seed=twin.seed, first_pass=model._epochs_seen)
    engine = twin._ready(objective, True, optimizer, False, feed.batch)
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for step, rate in enumerate(rates):
        piece = feed.piece(0, step)
        outcome = engine.run(
            sample.x,
            sample.y,
            **sample.beside,
            batch=piece.batch,
            first_step=piece.first_step,
            steps=1,
            objective=objective,
            optimizer=replace(optimizer, learning_rate=float(rate)),
            updates=model._updates + step,
            shuffle=piece.shuffle,
            seed=piece.seed,
        ).completed()
        if outcome.diverged:
            break
        seen = feed.rows(0, step + 1) - feed.rows(0, step)
        losses.append(float(outcome.sums[0, 0] / seen if loss.mean_rows else outcome.sums[0, 0]))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * losses[-1]
        smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
        lowest = min(smoothed)
        if step >= LEAST_STEPS and smoothed[-1] - lowest > (WORSE - 1) * abs(lowest):
            break
    if len(losses) < 2:
        raise ValueError(
            f"find_learning_rate: the loss is NaN or infinite from the first steps on, at a rate of {rates[0]:g}; look "
            "for huge inputs, targets or weights, or begin with a smaller rate"
        )
    seen_rates, seen_losses, curve = rates[: len(losses)], np.array(losses), np.array(smoothed)
    return LearningRateCurve(seen_rates, seen_losses, curve, _steepest(seen_rates, seen_losses, curve))


def _steepest(rates: Array, losses: Array, smoothed: Array) -> float:
    """The rate about which a line through the losses, over their logarithms' tenth, falls most, before the lowest."""
    width = max(2, len(losses) // 10)
    offsets = np.arange(width) - (width - 1) / 2
    falls = np.convolve(losses, offsets, mode="valid")  # convolve turns the offsets around
    centres = np.arange(len(falls)) + width // 2
    before = centres <= max(int(np.argmin(smoothed)), centres[0])
    return float(rates[centres[before][int(np.argmax(falls[before]))]])


answers(__name__, "find_learning_rate", methods="LearningRateCurve")
