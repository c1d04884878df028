"""Floor 5: ``fastbp bench``: a network's speed in several fresh processes, kept in a file, compared with another's.

Two runs of one program differ by more than the repeats inside each of them do: memory lands elsewhere, the machine's
other work is another. So each process is one measurement, and files are compared by their processes (`comparison`).
"""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp._atomic import replacing
from fastbp.commands import installation
from fastbp.reports import comparison
from fastbp.reports.profiling import PARTS, Profile, figure

if TYPE_CHECKING:
    from fastbp.model import Model

LEAST = comparison.LEAST
"""Processes of each side without which nothing is known of the noise."""
FORMAT, VERSION = "fastbp bench", 1
MODEL, X, Y, RESULT = "model.fastbp", "x.npy", "y.npy", "profile.json"
REHEARSAL_SECONDS = 0.001

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What was measured, where, and the profile of each process.

    Attributes
    ----------
    subject : dict: network, activations, dtype, threads, optimizer, loss, metrics, batch_size, rows, data, shuffle
    machine, versions : dicts, see ``commands.installation``
    made : when, in UTC, as ISO 8601 writes it
    processes : list of `Profile`
    """

    subject: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    made: str
    processes: list[Profile]

    @property
    def whole(self) -> Profile:
        """All repeats of all processes."""
        return Profile.merged(self.processes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with every value measured."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "made": self.made,
            "machine": self.machine,
            "versions": self.versions,
            "subject": self.subject,
            "processes": [profile.to_dict() for profile in self.processes],
        }

    def save(self, path: str) -> None:
        """Write the file, atomically."""
        with replacing(path) as part:
            part.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str) -> "Benchmark":
        """The benchmark that `save` wrote.

        Raises
        ------
        OSError : the file can't be read
        ValueError : it is of another kind, damaged, or of a newer version
        """
        text = Path(path).read_bytes()
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError
            newer = content["version"] > VERSION
            if not newer:
                profiles = [Profile.from_dict(profile) for profile in content["processes"]]
                known = {key: content[key] for key in ("subject", "machine", "versions", "made")}
                known["subject"] = {"device": "cpu"} | known["subject"]  # the first files don't say
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path} is no file that fastbp bench --save wrote, or it is damaged") from None
        if newer:
            raise ValueError(f"{path} was written by a newer fastbp: update this one, or measure again")
        if not profiles:
            raise ValueError(f"{path} holds no measurement")
        return cls(**known, processes=profiles)


def differences(subject: Mapping[str, Any], before: Benchmark) -> list[str]:
    """What makes a measurement of the subject on this machine another one than `before`: "threads: 2, there 4"."""
    return [
        f"{name}: {here.get(name)}, there {there.get(name)}"
        for here, there in ((subject, before.subject), (installation.machine(), before.machine))
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    ]


# ---------------------------------------------------------------- measuring


def made_up(model: "Model", rows: int, seed: int = 0) -> tuple[Array, Array]:
    """Random rows that a compiled, built model can be trained on: normal inputs, and targets of the loss's kind."""
    assert model._loss is not None and model.input_width is not None
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, model.input_width), np.float32).astype(model.dtype, copy=False)
    if model._loss.targets == "labels":
        return x, rng.integers(0, model.output_width, rows)
    shape = (rows, model.output_width)
    if model._loss.targets == "signs":
        return x, rng.integers(0, 2, shape).astype(model.dtype)
    return x, rng.uniform(0.1, 1.0, shape).astype(model.dtype)  # a probability, and above 0


def rehearse(model: "Model", x: Array, y: Array, *, batch_size: int, data: str, shuffle: bool = True) -> dict[str, Any]:
    """What `measure` is going to measure; compiles what is missing, and finds mistakes before a process is started.

    Parameters
    ----------
    model, x, y, batch_size, shuffle : as for `measure`
    data : what to call the data
    """
    from fastbp.reports.profiling import profile

    first = profile(
        model, x[:batch_size], y[:batch_size], batch_size=batch_size, shuffle=shuffle, seconds=REHEARSAL_SECONDS
    )
    return {
        "network": first.subject["network"],
        "activations": [layer.activation.name for layer in model.layers],
        "dtype": model.compute_dtype,
        "threads": first.subject["threads"],
        "device": first.subject["device"],
        "optimizer": repr(model.optimizer),
        "loss": model.loss_name,
        "metrics": model.metrics_names[1:],
        "batch_size": first.subject["batch_size"],
        "data": data,
        "rows": len(x),
        "shuffle": shuffle,
    }


def measure(
    model: "Model",
    x: Array,
    y: Array,
    subject: dict[str, Any],
    *,
    seconds: float = 12.0,
    processes: int = 8,
    advance: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Profile a model's training in fresh processes, one after the other.

    Parameters
    ----------
    model : compiled and built
    x, y : the data
    subject : what `rehearse` said
    seconds : measuring time of all processes together
    processes : how many
    advance : called after each process

    Raises
    ------
    ChildProcessError : a process failed
    """
    profiles = []
    with TemporaryDirectory(prefix="fastbp-") as name:
        folder = Path(name)
        model.save(folder / MODEL)
        np.save(folder / X, x)
        np.save(folder / Y, y)
        options = {name: subject[name] for name in ("threads", "device", "batch_size", "shuffle")}
        for _ in range(processes):
            profiles.append(_in_a_process(folder, {**options, "seconds": seconds / processes}))
            advance()
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Benchmark(subject, installation.machine(), installation.versions(), made, profiles)


def _in_a_process(folder: Path, options: Mapping[str, Any]) -> Profile:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "fastbp.reports.benchmark", str(folder), json.dumps(options)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise ChildProcessError(f"a measuring process ended with code {done.returncode}: {last}")
    return Profile.from_dict(json.loads((folder / RESULT).read_text()))


def child(folder: Path, options: Mapping[str, Any]) -> None:
    """One process of `measure`: profile the model of the folder on the data of the folder."""
    from fastbp.model import load_model
    from fastbp.reports.profiling import profile

    arguments = dict(options)
    model = load_model(folder / MODEL, threads=arguments.pop("threads"), device=arguments.pop("device"))
    found = profile(model, np.load(folder / X), np.load(folder / Y), **arguments)
    (folder / RESULT).write_text(json.dumps(found.to_dict()))


# ---------------------------------------------------------------- comparing


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of a comparison.

    Attributes
    ----------
    name : of the figure
    before, now : medians over the processes
    change : ratio of now to before; for a part of a step the difference as a share of the step before
    verdict : "better", "same" or "worse"
    """

    name: str
    before: float
    now: float
    change: comparison.Change
    verdict: str

    def line(self) -> str:
        """The row as text."""
        write = {"samples/s": "{:,.0f}".format, "peak": "{:.1%}".format}.get(self.name, figure)
        nothing = 0.0 if self.name in PARTS else 1.0
        change, low, high = (f"{value - nothing:+.1%}" for value in dataclasses.astuple(self.change))
        values = f"{write(self.before):>12}{write(self.now):>12}{change:>10}"
        return f"{self.name:<12}{values}  {f'{low} to {high}':<20} {self.verdict}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two benchmarks, figure by figure.

    Attributes
    ----------
    rows : list of `Row`
    verdict : "worse" where a step takes longer, also in units of the machine's peak; "better" the other way round
    """

    rows: list[Row]
    verdict: str

    def table(self) -> list[str]:
        """Lines for people."""
        head = f"{'':<12}{'before':>12}{'now':>12}{'change':>10}  {'95% interval':<20} verdict"
        return [head, *(row.line() for row in self.rows)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def compare(before: Benchmark, now: Benchmark, threshold: float = 0.03) -> Comparison:
    """Say of each figure whether it is better, the same or worse.

    A figure is worse where the whole 95 % interval of its change lies beyond the threshold. The intervals are those of
    `comparison`, over one value a process: the lower quartile of its repeats, since disturbances only add time. A
    machine that runs slower as a whole is not held against the program: the share of the peak must be worse as well,
    but on a GPU, whose peak isn't measured.

    Parameters
    ----------
    before, now : the same work on the same machine
    threshold : the least change that counts, as a share: of the figure, and for a part of a step of the whole step

    Raises
    ------
    ValueError : fewer than `LEAST` processes in one of them
    """
    old, new = ([_costs(profile) for profile in side.processes] for side in (before, now))
    step = float(np.median([costs["us/step"] for costs in old]))
    rows = []
    for name in old[0]:
        one, two = (np.array([costs[name] for costs in side]) for side in (old, new))
        if name in PARTS:
            change = comparison.difference(one / step, two / step)
            verdict = change.verdict(threshold, nothing=0.0)
        else:
            change = comparison.ratio(one, two)
            verdict = change.verdict(threshold)
        if name in MORE_IS_BETTER:
            one, two, change = 1 / one, 1 / two, change.inverse()
        rows.append(Row(name, float(np.median(one)), float(np.median(two)), change, verdict))
    verdicts = {row.verdict for row in rows if row.name in ("us/step", "peak")}
    return Comparison(rows, verdicts.pop() if len(verdicts) == 1 else "same")


MORE_IS_BETTER = ("samples/s", "peak")


def _costs(profile: Profile) -> dict[str, float]:
    """One process in figures, all of them costs: microseconds, seconds of a sample, times the peak's."""
    low = float(np.quantile(profile.us_per_step.values, 0.25))
    seconds = low * 1e-6 * profile.subject["steps"]
    peak = {"peak": seconds * profile.peak_gflops * 1e9 / profile.flops} if len(profile.peaks) else {}
    return {
        "us/step": low,
        "samples/s": seconds / (profile.subject["rows"] * profile.subject["epochs"]),
        **peak,
        **{name: part * low for name, part in profile.shares.items()},
        "staging": 1e6 * float(np.quantile(profile.staging, 0.25)),
        "start": 1e6 * float(np.quantile(profile.start, 0.25)),
    }


if __name__ == "__main__":
    child(Path(sys.argv[1]), json.loads(sys.argv[2]))
