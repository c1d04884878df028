"""Floor 4: what a step of a model costs and where its time goes, measured on the user's own data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import devices
from fastbp._checks import number, whole
from fastbp._spelling import answers
from fastbp.cpu.peak import peak_gflops
from fastbp.data.feeds import ArrayFeed
from fastbp.training.fit import Fit
from fastbp.training.options import Options

if TYPE_CHECKING:
    from fastbp.model import Model

PARTS = ("rows", "weights", "waiting", "launch", "python")
"""Where the time of a step goes."""
MEANING = {
    "rows": "forward, loss, backward, sums of halves",
    "weights": "gradients and the optimizer",
    "waiting": "for other threads",
    "launch": "starting and joining threads",
    "python": "between launches",
    "staging": "checking and copying x and y",
    "start": "snapshot and buffers",
}
ON_A_GPU = {
    "gather": "rows of the batch",
    "forward": "forward (by slices of rows: and backward)",
    "loss": "loss and sums",
    "backward": "backward",
    "steps": "whole steps, by one block of threads",
    "launch": "copies, launching and waiting",
}
"""Where the time of a step goes on a GPU, beside "weights" and "python"."""
LEAST_REPEATS = 3
PEAK_SECONDS = 0.015

Array = NDArray[Any]


@dataclass(frozen=True)
class Repeats:
    """One figure, measured several times.

    Attributes
    ----------
    values : (repeats,) float64
    """

    values: Array

    @property
    def minimum(self) -> float:
        """The least value."""
        return float(self.values.min())

    @property
    def median(self) -> float:
        """The value in the middle."""
        return float(np.median(self.values))

    @property
    def spread(self) -> float:
        """How far the middle half of the values reaches, as a share of the median."""
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float(high - low) / self.median if self.median else 0.0

    def __repr__(self) -> str:
        return f"{figure(self.median)} (minimum {figure(self.minimum)}, spread {self.spread:.1%})"


@dataclass(frozen=True, repr=False)
class Profile:
    """What `fb.profile` measured; its repr is a table.

    Attributes
    ----------
    subject : dict of what was measured: "network", "dtype", "threads" (at most) and "threads_used" (most of the time,
        on the CPU), "device", "optimizer", "loss", "batch_size", "rows" (of a repeat), "epochs" and "steps" (of a
        repeat), "shuffle"
    flops : floating-point operations of a repeat
    seconds : (repeats,) of the steps of each repeat, from the first step to the end of the last
    parts : dict of (repeats,) seconds of rows, weights, waiting, launch and python, in repeats of their own with the
        workers' clocks on; means over the threads. On a GPU of the phases of a step between events, launched one by one
    staging : (calls,) seconds in which x and y are checked and copied, once a fit
    start : (repeats,) seconds of what else happens once a fit before its first step
    peaks : (repeats,) the machine's peak in GFLOP/s, measured before each repeat; empty on a GPU, whose peak isn't
    """

    subject: Mapping[str, Any]
    flops: float
    seconds: Array
    parts: Mapping[str, Array]
    staging: Array
    start: Array
    peaks: Array

    @property
    def us_per_step(self) -> Repeats:
        """Microseconds of a step, all included but what happens once a fit."""
        return Repeats(self.seconds * (1e6 / self.subject["steps"]))

    @property
    def samples_per_second(self) -> Repeats:
        """Rows trained on in a second."""
        return Repeats(self.subject["rows"] * self.subject["epochs"] / self.seconds)

    @property
    def peak_gflops(self) -> float:
        """The machine's peak: the best of the run, of as many threads as the model may use; NaN where nobody knows."""
        return float(self.peaks.max()) if len(self.peaks) else float("nan")

    @property
    def share_of_peak(self) -> Repeats:
        """Floating-point operations of the matrix products in a second, as a share of `peak_gflops`."""
        return Repeats(self.flops / self.seconds / (self.peak_gflops * 1e9))

    @property
    def shares(self) -> dict[str, float]:
        """The median share of each part in the time of a step; they sum to 1."""
        total = sum(self.parts.values())
        medians = {name: float(np.median(values / total)) for name, values in self.parts.items()}
        whole = sum(medians.values())
        return {name: value / whole for name, value in medians.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: figures, and every value they are made of."""
        figures = {"us_per_step": self.us_per_step, "samples_per_second": self.samples_per_second}
        known = len(self.peaks) > 0
        if known:
            figures["share_of_peak"] = self.share_of_peak
        return {
            **self.subject,
            **{
                name: {"minimum": figure.minimum, "median": figure.median, "spread": figure.spread}
                for name, figure in figures.items()
            },
            "peak_gflops": self.peak_gflops if known else None,
            "shares": self.shares,
            "staging_seconds": Repeats(self.staging).median,
            "start_seconds": Repeats(self.start).median,
            "flops": self.flops,
            "raw": {
                "seconds": self.seconds.tolist(),
                "parts": {name: values.tolist() for name, values in self.parts.items()},
                "staging": self.staging.tolist(),
                "start": self.start.tolist(),
                "peaks": self.peaks.tolist(),
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Profile":
        """The profile that `to_dict` wrote down."""
        raw = content["raw"]
        arrays = {name: np.array(raw[name], np.float64) for name in ("seconds", "staging", "start", "peaks")}
        parts = {name: np.array(values, np.float64) for name, values in raw["parts"].items()}
        return cls(
            {name: content[name] for name in SUBJECT if name in content}, float(content["flops"]), parts=parts, **arrays
        )

    @classmethod
    def merged(cls, profiles: "list[Profile]") -> "Profile":
        """The repeats of several profiles of one subject, as those of one; steps are weighed to the first's repeats."""
        first = profiles[0]
        scale = [first.flops / profile.flops for profile in profiles]
        return cls(
            first.subject,
            first.flops,
            np.concatenate([s * profile.seconds for s, profile in zip(scale, profiles, strict=True)]),
            {
                name: np.concatenate([s * profile.parts[name] for s, profile in zip(scale, profiles, strict=True)])
                for name in first.parts
            },
            np.concatenate([profile.staging for profile in profiles]),
            np.concatenate([profile.start for profile in profiles]),
            np.concatenate([profile.peaks for profile in profiles]),
        )

    def __repr__(self) -> str:
        return "\n".join([self._title(), *self.table()])

    @property
    def _device(self) -> str:
        """Where it was measured: files of older versions don't say."""
        return str(self.subject.get("device", "cpu"))

    def _title(self) -> str:
        s = self.subject
        text = f"{s['network']}, {s['dtype']}, batch {s['batch_size']}, {s['optimizer']}"
        if self._device != "cpu":
            return f"{text}, {self._device}"
        most, used = s["threads"], s.get("threads_used", s["threads"])
        return f"{text}, {threads_text(used)}" + (f" of {most}" if used != most else "")

    def table(self) -> list[str]:
        """The lines of the table below the title."""
        step, rate, share = self.us_per_step, self.samples_per_second, self.share_of_peak
        peak = f"of the FMA peak, {self.peak_gflops:,.0f} GFLOP/s"
        s = self.subject
        meaning = MEANING if self._device == "cpu" else MEANING | ON_A_GPU
        lines = [
            f"{'':<12}{'median':>12}{'best':>12}{'spread':>9}",
            f"{'us/step':<12}{figure(step.median):>12}{figure(step.minimum):>12}{step.spread:>9.1%}",
            f"{'samples/s':<12}{rate.median:>12,.0f}{rate.values.max():>12,.0f}{rate.spread:>9.1%}",
        ]
        if len(self.peaks):
            lines.append(f"{'peak':<12}{share.median:>12.1%}{share.values.max():>12.1%}{share.spread:>9.1%}  {peak}")
        lines += ["", f"{'of a step':<12}{'us':>12}{'share':>12}"]
        for name, part in self.shares.items():
            us = figure(part * step.median)
            lines.append(f"{name:<12}{us:>12}{part:>12.1%}{'':>9}  {meaning[name]}")
        lines += ["", f"{'once a fit':<12}{'us':>12}"]
        for name, values in (("staging", self.staging), ("start", self.start)):
            lines.append(f"{name:<12}{figure(1e6 * Repeats(values).median):>12}{'':>21}  {MEANING[name]}")
        lines += ["", f"{len(self.seconds)} repeats of {s['steps']:,} steps ({s['epochs']} x {s['rows']:,} rows)"]
        return lines

    def plot(self, ax: Any = None) -> Any:
        """Draw where the time of a step goes, as one bar.

        Parameters
        ----------
        ax : matplotlib axes to draw on; new ones by default

        Returns
        -------
        matplotlib.axes.Axes
            ``profile.plot().figure.savefig("profile.png")`` keeps the picture.

        Raises
        ------
        ImportError : without matplotlib (``pip install 'fastbp[plot]'``)
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("profile.plot needs matplotlib: pip install 'fastbp[plot]'") from error
        if ax is None:
            _, ax = plt.subplots(figsize=(8, 2.4), layout="constrained")
        left, median = 0.0, self.us_per_step.median
        for name, part in self.shares.items():
            ax.barh([0], [part * median], left=left, label=f"{name} {part:.0%}")
            left += part * median
        times = self.us_per_step.values
        ax.plot(times, np.full(len(times), 0.55), "|", color="0.3", markersize=10, label="each repeat")
        ax.set(xlim=(0, None), ylim=(-0.5, 0.8), yticks=[], xlabel="microseconds of a step")
        share = f": {self.share_of_peak.median:.0%} of the peak" if len(self.peaks) else ""
        ax.set_title(f"{self._title()}{share}", fontsize=9)
        ax.legend(ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False)
        return ax


SUBJECT = (
    *("network", "dtype", "threads", "threads_used", "device", "optimizer", "loss"),
    *("batch_size", "rows", "epochs", "steps", "shuffle"),
)


def figure(value: float) -> str:
    """Write a figure with three significant digits or more, and thousands apart."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def threads_text(count: int) -> str:
    """Say a number of threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def profile(
    model: "Model",
    x: ArrayLike,
    y: ArrayLike,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    seconds: float = 3.0,
) -> Profile:
    """Measure what training a model costs on data: microseconds a step, samples a second, and where the time goes.

    A twin of the model is trained again and again from the model's present weights; the model itself is left as it is,
    and needs as much memory again while this runs.

    Parameters
    ----------
    model : a compiled model, built or not
    x, y, batch_size, shuffle : as for `Model.fit`; where an epoch takes long, the first rows alone are measured
    seconds : how long to measure (at least three repeats are made, however long they take)

    Returns
    -------
    Profile

    Raises
    ------
    TypeError, ValueError : data or options that don't fit
    RuntimeError : the model isn't compiled
    DivergenceError : the loss became NaN or infinite, so that nothing can be said of its speed
    """
    if number("seconds", seconds) <= 0:
        raise ValueError(f"seconds must be above 0, got {seconds!r}")
    batch = 32 if batch_size is None else whole("batch_size", batch_size)
    return _Trial(model, x, y, batch, bool(shuffle)).measured(float(seconds))


class _Trial:
    """A twin of a model, with its data, to be trained again and again."""

    def __init__(self, model: "Model", x: Any, y: Any, batch: int, shuffle: bool) -> None:
        self.twin = model._twin("profile")
        self.x, self.y, self.shuffle = x, y, shuffle
        self.counters = model._updates, model._epochs_seen
        self.data = self.twin._sample(x, y, task="profile")
        self.batch = min(batch, len(self.data))
        _, _, self.optimizer = self.twin._compiled("profile")
        self.engine = self.twin._ready(self.twin._scoring().objective, True, self.optimizer, False, self.batch)
        self.original = self.engine.twin() if model._engine is None else model._engine
        self.epochs = 1

    def measured(self, seconds: float) -> Profile:
        """Repeats for about so long."""
        self._size(seconds / 12)
        dtype, threads = self.twin.compute_dtype, self.engine.threads
        times: list[float] = []
        starts: list[float] = []
        stagings: list[float] = []
        peaks: list[float] = []
        parts: dict[str, list[float]] = {}
        taken: dict[int, float] = {}
        end = time.perf_counter() + seconds
        while len(times) < LEAST_REPEATS or time.perf_counter() < end:
            if self.twin.device == "cpu":
                peaks.append(peak_gflops(dtype, threads, PEAK_SECONDS))
            if sum(stagings) < 0.1 * seconds:
                stagings.append(self._staging())
            start, whole, _ = self._repeat(None)
            starts.append(start)
            times.append(whole)
            watch = devices.watch(self.twin.device)
            _, whole, launched = self._repeat(watch)
            for used, value in getattr(watch, "taken", {}).items():
                taken[used] = taken.get(used, 0.0) + value
            for name, value in (launched | {"python": max(0.0, whole - sum(launched.values()))}).items():
                parts.setdefault(name, []).append(value)
        return Profile(
            self._subject() | ({"threads_used": max(taken, key=taken.__getitem__)} if taken else {}),
            float(self.epochs * len(self.data) * self.engine.program.flops_per_row),
            np.array(times),
            {name: np.array(values) for name, values in parts.items()},
            np.array(stagings),
            np.array(starts),
            np.array(peaks),
        )

    def _size(self, seconds: float) -> None:
        """Find how many epochs, or rows of one, take about so long."""
        whole, steps = self.data, 1
        while True:
            self.data = whole.first(steps * self.batch)
            self._repeat(None)  # the first run touches new memory
            taken = self._repeat(None)[1]
            if len(self.data) == len(whole) or taken > seconds / 4:
                break
            steps = max(2 * steps, min(8 * steps, int(steps * seconds / 2 / taken)))
        if len(self.data) == len(whole) and taken < seconds:
            self.epochs = max(1, round(seconds / taken))
        else:
            rows = max(1, round(len(self.data) / self.batch * seconds / taken)) * self.batch
            self.data = whole.first(rows)

    def _staging(self) -> float:
        start = time.perf_counter()
        self.twin._sample(self.x, self.y)
        return time.perf_counter() - start

    def _repeat(self, watch: Any) -> tuple[float, float, dict[str, float]]:
        """(seconds before the first step, seconds of the steps, what the watch saw of them) of one fit."""
        self.engine.copy_state(self.original)
        self.twin._updates, self.twin._epochs_seen = self.counters
        self.engine.watch = watch
        begin = time.perf_counter()
        feed = ArrayFeed(
            self.data, batch=self.batch, shuffle=self.shuffle, seed=self.twin.seed, first_pass=self.counters[1]
        )
        fit = Fit(self.twin, self.engine, feed, Options(epochs=self.epochs))
        start = time.perf_counter()
        fit.run()
        end = time.perf_counter()
        return start - begin, end - start, {} if watch is None else watch.parts()

    def _subject(self) -> dict[str, Any]:
        return {
            "network": self.twin.widths(),
            "dtype": self.twin.compute_dtype,
            "threads": self.engine.threads,
            "device": self.twin.device,
            "optimizer": self.optimizer.name,
            "loss": self.twin.loss_name,
            "batch_size": self.batch,
            "rows": len(self.data),
            "epochs": self.epochs,
            "steps": self.epochs * -(-len(self.data) // self.batch),
            "shuffle": self.shuffle,
        }


answers(__name__, "profile", methods="Profile")
