"""Floor 4: the record of a fit: what was reported each epoch, as lists, a frame, a picture and a page."""

import html
from collections.abc import Iterator, KeysView, Mapping, Sequence
from typing import Any

import numpy as np

from fastbp._spelling import answers, nearest
from fastbp.reports.progress import shown

VALIDATION = "val_"


class History:
    """The record of a fit, as in Keras; ``history["loss"]`` is ``history.history["loss"]``.

    Attributes
    ----------
    history : dict of lists, one value an epoch: "loss", the metrics, and the same with "val_" before them; an epoch
        without validation (see ``validation_freq``) adds nothing to the lists of "val_". Of a confusion matrix, and of
        metrics of each class, the values are arrays
    epoch : list of the epochs' numbers, from 0 (or ``initial_epoch``)
    learning_rate : list of the learning rate at the end of each epoch
    seconds : list of each epoch's time in the training steps, in seconds
    waiting : list of the share of each epoch's time that went into waiting for rows: 0 of arrays in memory
    params : dict with "epochs" and "steps" (of an epoch)
    interrupted : whether Ctrl-C (or another signal) ended the fit early
    stopped : what else ended it early, in words; "" where nothing did
    error : the `DivergenceError` that ended it, None where the loss and the weights stayed finite

    Examples
    --------
    >>> history = model.fit(x, y, epochs=3)  # doctest: +SKIP
    >>> history.history["loss"]  # doctest: +SKIP
    [0.4, 0.2, 0.1]
    >>> history.to_frame()  # doctest: +SKIP
    >>> history.plot()  # doctest: +SKIP
    """

    def __init__(self, epochs: int, steps: int | None) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []
        self.learning_rate: list[float] = []
        self.seconds: list[float] = []
        self.waiting: list[float] = []
        self.params = {"epochs": epochs, "steps": steps}
        self.interrupted = False
        self.stopped = ""
        self.error: Any = None
        self._epochs_of: dict[str, list[int]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        """The values of ``history`` under a name."""
        if name not in self.history:
            there = ", ".join(self.history) or "none, no epoch is finished"
            raise KeyError(f"there is no {name!r} in the history.{nearest(name, self.history)} There are: {there}")
        return self.history[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def __contains__(self, name: object) -> bool:
        return name in self.history

    def keys(self) -> KeysView[str]:
        """The names of ``history``, so that ``dict(history)`` is a copy of it."""
        return self.history.keys()

    def append(
        self,
        values: Mapping[str, Any],
        *,
        epoch: int | None = None,
        learning_rate: float = float("nan"),
        seconds: float = float("nan"),
    ) -> None:
        """Add an epoch: by default the number after the last."""
        columns = {name: [value if np.ndim(value) else float(value)] for name, value in values.items()}
        self.extend(columns, first=epoch, rates=[float(learning_rate)], seconds=[float(seconds)])

    def extend(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        first: int | None = None,
        rates: Sequence[float] | None = None,
        seconds: Sequence[float] | None = None,
        waiting: Sequence[float] | None = None,
    ) -> None:
        """Add epochs, by default from the number after the last on: a column of each value."""
        count = len(next(iter(columns.values())))
        if first is None:
            first = self.epoch[-1] + 1 if self.epoch else 0
        self.epoch.extend(range(first, first + count))
        self.learning_rate.extend([float("nan")] * count if rates is None else rates)
        self.seconds.extend([float("nan")] * count if seconds is None else seconds)
        self.waiting.extend([0.0] * count if waiting is None else waiting)
        for name, values in columns.items():
            self.history.setdefault(name, []).extend(values)
            self._epochs_of.setdefault(name, []).extend(range(first, first + count))

    def columns(self) -> dict[str, list[Any]]:
        """Everything by epoch, NaN where an epoch has no value: "epoch", the history, "learning_rate" and "seconds"."""
        table: dict[str, list[Any]] = {"epoch": [float(number) for number in self.epoch]}
        for name, values in self.history.items():
            known = dict(zip(self._epochs_of[name], values, strict=True))
            table[name] = [known.get(number, float("nan")) for number in self.epoch]
        table.setdefault("learning_rate", list(self.learning_rate))
        table.setdefault("seconds", list(self.seconds))
        return table

    def _numbers(self) -> dict[str, list[float]]:
        """`columns` without those that hold an array each epoch."""
        return {name: values for name, values in self.columns().items() if not any(map(np.ndim, values))}

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each epoch.

        Returns
        -------
        pandas.DataFrame
            Indexed by "epoch"; columns as in ``history``, then "learning_rate" and "seconds".

        Raises
        ------
        ImportError : pandas isn't installed
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("History.to_frame needs pandas: pip install 'fastbp[pandas]'") from error
        table = self.columns()
        index = pd.Index([int(number) for number in table.pop("epoch")], name="epoch")
        return pd.DataFrame(table, index=index)

    def plot(self, path: Any = None) -> Any:
        """Draw the loss and each metric by epoch, training and validation together, and the learning rate.

        Parameters
        ----------
        path : file to write the picture to, in the format of its ending; by default nothing is written

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it as it is.

        Raises
        ------
        ValueError : no epoch is finished, so there is nothing to draw
        ImportError : matplotlib isn't installed
        """
        if not self.epoch:
            raise ValueError("History.plot: no epoch is finished, so there is nothing to draw")
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError("History.plot needs matplotlib: pip install 'fastbp[plot]'") from error
        table = self._numbers()
        epochs = [number + 1 for number in table.pop("epoch")]
        table.pop("seconds")
        panels = [name for name in table if name.removeprefix(VALIDATION) == name or name[4:] not in table]
        figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            marker = "o" if len(epochs) == 1 else ""
            axes.plot(epochs, table[name], marker=marker, label="training")
            held = [(e, v) for e, v in zip(epochs, table.get(VALIDATION + name, ()), strict=False) if v == v]
            if held:
                gaps = len(held) < len(epochs) or len(held) == 1
                axes.plot(*zip(*held, strict=True), marker="o" if gaps else "", label="validation")
                axes.legend()
            axes.set(title=name.replace("_", " "), xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if path is not None:
            figure.savefig(path)
        return figure

    def _ending(self) -> str:
        return ", interrupted" if self.interrupted else f", {self.stopped}" if self.stopped else ""

    def __repr__(self) -> str:
        if not self.epoch:
            return "History(no epoch finished)"
        last = ", ".join(shown({name: values[-1] for name, values in self.history.items()}))
        return f"History({len(self.epoch)} of {self.params['epochs']} epochs{self._ending()}: {last})"

    def _repr_html_(self) -> str:
        """The epochs as a table, for notebooks: the first and the last where there are many."""
        table = self._numbers()
        rows = list(range(len(self.epoch)))
        if len(rows) > 20:
            rows = [*rows[:5], -1, *rows[-10:]]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table)
        body = ""
        for row in rows:
            cells = ["…"] * len(table) if row < 0 else [_cell(name, values[row]) for name, values in table.items()]
            body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        caption = f"{len(self.epoch)} of {self.params['epochs']} epochs{self._ending()}"
        return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def _cell(name: str, value: float) -> str:
    if name == "epoch":
        return str(int(value) + 1)
    return "" if value != value else f"{value:.4g}"


answers(__name__, methods="History")
