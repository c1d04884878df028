"""Floor 4: what ``compile`` was asked to report: the tallies for the kernels, and the values made of their sums."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp.formulas.tallies import COUNT
from fastbp.layout.objective import Objective
from fastbp.losses import Loss
from fastbp.metrics import Metric, Totals, bound, custom, get

Array = NDArray[Any]
Request = str | Metric


def requests(given: Any) -> list[Request]:
    """The metrics that ``compile`` was given, as a list; None is none.

    Raises
    ------
    ValueError : an unknown name
    """
    found = [given] if isinstance(given, (str, Metric)) or callable(given) else list(given or ())
    found = [custom(one) if callable(one) else one for one in found]
    for request in found:
        get(request)
    return found


def names(plain: Sequence[Request], weighted: Sequence[Request]) -> list[str]:
    """What is reported, in order: "loss", the metrics, the weighted metrics.

    A weighted one is "weighted_..." where the plain one is reported too; the second of a name has "_1" behind it.
    """
    labels = [get(request).label for request in plain]
    labels += [f"weighted_{label}" if label in labels else label for label in (get(w).label for w in weighted)]
    return ["loss", *(f"{n}_{same}" if (same := labels[:i].count(n)) else n for i, n in enumerate(labels))]


class Scoring:
    """The loss and metrics of a compiled network: tallies, each taken once, and how values are made of them.

    Parameters
    ----------
    loss : the loss
    plain, weighted : the metrics, and those over the sample weights
    outputs : O of the last layer

    Attributes
    ----------
    names : what is reported, in order
    objective : what the engine computes

    Raises
    ------
    ValueError : a metric that doesn't go with the loss and so many outputs
    """

    def __init__(self, loss: Loss, plain: Sequence[Request], weighted: Sequence[Request], outputs: int) -> None:
        self.names, self._loss, self._outputs = names(plain, weighted), loss, outputs
        self._metrics = [bound(request, loss, outputs) for request in plain]
        for request in weighted:
            metric = bound(request, loss, outputs)
            self._metrics.append(replace(metric, tally=replace(metric.tally, weighted=True)))
        counts = [replace(COUNT, weighted=by) for by, wanted in ((False, loss.mask_nan), (True, weighted)) if wanted]
        tallies = list(dict.fromkeys([*(metric.tally for metric in self._metrics), *counts]))
        self.objective = Objective(loss, tuple(tallies))
        ends = np.cumsum([1, *(tally.sums(outputs) for tally in tallies)]).tolist()
        self._places = {tally: slice(ends[i], ends[i + 1]) for i, tally in enumerate(tallies)}
        self._keeping = [tally for tally in tallies if tally.loop == "kept"]

    @property
    def keeps(self) -> bool:
        """Whether rows are kept for a metric that needs all of an epoch's."""
        return bool(self._keeping)

    @property
    def scalars(self) -> list[str]:
        """The names of the values that are numbers."""
        return ["loss", *(n for n, metric in zip(self.names[1:], self._metrics, strict=True) if metric.scalar)]

    def loss(self, sums: Array, rows: ArrayLike) -> Array:
        """The loss of sums over rows."""
        value: Array = sums[..., 0] / rows if self._loss.mean_rows else sums[..., 0]
        return value

    def values(self, sums: Array, rows: ArrayLike, kept: Sequence[Array] = ()) -> dict[str, Array]:
        """What is reported.

        Parameters
        ----------
        sums : (..., columns of the objective) float64
        rows : (...), what they are summed over
        kept : what the tallies kept of the epoch's rows; without it the metrics that need it are left out

        Returns
        -------
        dict of arrays by name, (...) or with the axes of the classes behind
        """
        values = {"loss": self.loss(sums, rows)}
        rows = np.broadcast_to(np.asarray(rows, float), sums.shape[:-1])
        held = dict(zip(self._keeping, kept, strict=True)) if kept else {}
        for name, metric in zip(self.names[1:], self._metrics, strict=True):
            tally = metric.tally
            if tally.loop == "kept" and tally not in held:
                continue
            count = replace(COUNT, weighted=tally.weighted)
            seen = sums[..., self._places[count].start] if count in self._places else rows
            value = metric.value(Totals(sums[..., self._places[tally]], seen, self._outputs, held.get(tally)))
            values[name] = np.broadcast_to(value, (*sums.shape[:-1], *np.shape(value))) if tally in held else value
        return values


def joined(pieces: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """What several runs kept, one after the other."""
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))


def by_epoch(values: Array) -> list[Any]:
    """A value of each epoch: floats, or arrays as they are."""
    return values.tolist() if values.ndim == 1 else list(values)


def plain(values: Iterable[Array]) -> list[Any]:
    """Numbers as floats, arrays as they are."""
    return [float(value) if np.ndim(value) == 0 else np.array(value) for value in values]


def listed(values: dict[str, Array]) -> Any:
    """The values in order, a single one alone."""
    found = plain(values.values())
    return found if len(found) > 1 else found[0]
