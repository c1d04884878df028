"""Has HEAD become slower than BASE? A verdict that can be trusted on a noisy, shared machine, within three minutes.

Both commits are unpacked, each with a kernel cache of its own, and compiled side by side. Then two processes, one for
each side, measure every row of ``bench/watched.py`` in turns of some milliseconds, so that whatever slows the machine
down slows both; a row's result is the mean logarithm of the ratio of neighbours, without the outer quarters. Where a
process's memory happens to lie changes its speed too, so there are many such pairs of processes, and only the
differences between pairs tell how far a result can be trusted.

First BASE runs against itself: that is the noise. Then HEAD runs against BASE. HEAD is slower where the lower
confidence bound of the ratio is above the threshold; a row is done with as soon as that is so, or the upper bound is
below the slow-down that must not be missed. The bounds hold for all rows and looks together: a commit that changes no
row by more than the threshold passes in 95 of 100 runs or more.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIDENCE = 0.95
SAMPLE_SECONDS = 0.005
ROW_SECONDS = 0.12
LEAST_ROUNDS, MOST_ROUNDS = 4, 20
SAME_PAIRS = 3
LOOKS = (3, 6, 12)
"""HEAD is judged after so many pairs of processes, or when the time is up."""

# ---------------------------------------------------------------- one side


def serve(folder: Path) -> None:
    """Measure the rows of the commit in `folder` as the parent asks, a line of JSON for each of its lines.

    The rows are the commit's own; a commit older than the gate gets those of this checkout.
    """
    bench = folder / "bench"
    sys.path[:0] = [str(folder), str(bench if (bench / "watched.py").exists() else ROOT / "bench")]
    runs: dict[str, Callable[[int], None]] = {}
    with redirect_stdout(sys.stderr):
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            try:
                answer = {"answer": ANSWERS[command](runs, folder, *arguments)}
            except Exception as error:  # the parent says which row of which commit it was
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=sys.__stdout__, flush=True)


def _rows(runs: dict[str, Any], folder: Path) -> list[tuple[str, str, int | None, float]]:
    from watched import ROWS

    import fastbp

    if not Path(fastbp.__file__).is_relative_to(folder):
        raise ImportError(f"fastbp comes from {fastbp.__file__}, not from {folder}")
    return [(row.name, row.work, row.threads, row.detect) for row in ROWS.values()]


def _make(runs: dict[str, Any], folder: Path, name: str, cores: list[int]) -> None:
    from watched import ROWS

    runs.clear()
    if hasattr(os, "sched_setaffinity"):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)
    runs[name] = ROWS[name].make()
    runs[name](1)
    gc.collect()
    gc.freeze()  # the libraries' objects are not looked through again for the next row
    gc.disable()


def _time(runs: dict[str, Any], folder: Path, name: str, times: int) -> float:
    run = runs[name]
    start = time.perf_counter()
    run(times)
    return time.perf_counter() - start


ANSWERS: dict[str, Callable[..., Any]] = {"rows": _rows, "make": _make, "time": _time}


class Failure(RuntimeError):
    """One side could not do what it was asked to."""


@dataclass(frozen=True)
class Side:
    """A commit, unpacked, with its own kernel cache."""

    name: str
    folder: Path
    cache: Path


class Process:
    """A fresh process that measures one side."""

    def __init__(self, side: Side) -> None:
        self.side = side
        environment = {**os.environ, "FASTBP_CACHE_DIR": str(side.cache), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, __file__, "--serve", str(side.folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def send(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise Failure(f"{self.side.name}: {answer['error']}")
        return answer["answer"]

    def ask(self, *command: Any) -> Any:
        self.send(*command)
        return self.receive()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def processes(*sides: Side) -> Iterator[list[Process]]:
    """A fresh process for each side."""
    with ExitStack() as stack:
        yield [stack.enter_context(_closing(Process(side))) for side in sides]


@contextmanager
def _closing(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.close()


def together(pair: Sequence[Process], *command: Any) -> list[Any]:
    """Ask both at once: they work side by side."""
    for process in pair:
        process.send(*command)
    return [process.receive() for process in pair]


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


# ---------------------------------------------------------------- measuring


@dataclass
class Row:
    """One row of both sides and what was measured of it.

    Attributes
    ----------
    name, threads, detect
        As in the table of ``bench/watched.py``.
    times : int
        Calls in one sample.
    rounds : int
        Samples of each side in one pair of processes.
    seconds : list of float
        BASE's time of one call, by pair.
    same, other : list of float
        Mean logarithm of the ratio, by pair: of BASE to itself, of HEAD to BASE.
    verdict : {"open", "slower", "same", "faster"}
    """

    name: str
    threads: int | None
    detect: float
    times: int = 0
    rounds: int = 0
    seconds: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    verdict: str = "open"

    def calibrate(self, process: Process) -> None:
        """Choose the length of a sample."""
        times = 1
        while (seconds := min(process.ask("time", self.name, times) for _ in range(3))) < SAMPLE_SECONDS / 2:
            times = math.ceil(times * min(SAMPLE_SECONDS / max(seconds, 1e-7), 50))
        self.times = max(1, round(times * SAMPLE_SECONDS / seconds))
        sample = seconds * self.times / times
        self.rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, round(ROW_SECONDS / sample / 2)))

    def measure(self, base: Process, head: Process, cores: list[int], turn: int) -> float:
        """One pair's logarithm of the ratio of HEAD's time to BASE's."""
        from scipy.stats import trim_mean

        pinned = cores if self.threads is None else [cores[turn % len(cores)]]
        together((base, head), "make", self.name, pinned)
        if not self.times:
            self.calibrate(base)
        ratios, seconds = [], []
        order = [base, head] if turn % 2 else [head, base]
        for process in order:
            process.ask("time", self.name, self.times)
        for _ in range(self.rounds):
            order.reverse()
            took = {process: process.ask("time", self.name, self.times) for process in order}
            ratios.append(math.log(took[head] / took[base]))
            seconds.append(took[base] / self.times)
        self.seconds.append(median(seconds))
        return float(trim_mean(ratios, 0.25))

    @property
    def noise(self) -> float:
        """Standard deviation of one pair's result: BASE against itself is 0 but for noise."""
        squares = sum(x * x for x in self.same) + sum((x - fmean(self.other)) ** 2 for x in self.other)
        return math.sqrt(squares / self.freedom)

    @property
    def freedom(self) -> int:
        return len(self.same) + max(0, len(self.other) - 1)

    def bounds(self, risk: float) -> tuple[float, float]:
        """Bounds of the ratio, each of which is wrong with a probability of `risk`."""
        from scipy.stats import t

        middle = fmean(self.other)
        reach = float(t.ppf(1 - risk, self.freedom)) * self.noise / math.sqrt(len(self.other))
        return math.exp(middle - reach), math.exp(middle + reach)

    def judge(self, risk: float, threshold: float) -> None:
        """Settle the row where the bounds allow it."""
        low, high = self.bounds(risk)
        if low > 1 + threshold:
            self.verdict = "slower"
        elif high < 1 + self.detect:
            self.verdict = "faster" if high < 1 / (1 + threshold) else "same"


class Gate:
    """A comparison of two sides.

    Parameters
    ----------
    base, head : Side
    threshold : float
        Slow-down that is let pass (0.02 is 2 %).
    deadline : float
        ``time.monotonic()`` when the last pair must be over.
    chosen : list of str
        Rows to compare, by the beginning of their names; empty for all.
    """

    def __init__(self, base: Side, head: Side, threshold: float, deadline: float, chosen: list[str]) -> None:
        self.base, self.head, self.threshold = base, head, threshold
        self.deadline, self.chosen = deadline, chosen
        self.rows: list[Row] = []
        self.skipped: dict[str, str] = {}
        self.cores = usable_cores()
        self._seconds: dict[str, float] = {}

    @property
    def risk(self) -> float:
        """Of each single bound."""
        return (1 - CONFIDENCE) / (len(self.rows) * len(LOOKS))

    def compile(self) -> None:
        """Find the rows that both sides have, and compile what they need, on both sides at once.

        Raises
        ------
        Failure
            Where there is nothing to compare, or HEAD can't do what BASE can.
        """
        with processes(self.base, self.head) as pair:
            tables = [{name: row for name, *row in rows} for rows in together(pair, "rows")]
            for name in dict.fromkeys([*tables[0], *tables[1]]):
                if self.chosen and not name.startswith(tuple(self.chosen)):
                    continue
                if name not in tables[0] or name not in tables[1]:
                    self.skipped[name] = f"only in {self.base.name if name in tables[0] else self.head.name}"
                elif tables[0][name][0] != tables[1][name][0]:
                    self.skipped[name] = "the two commits do different work under this name"
                else:
                    self._make(pair, name, *tables[1][name][1:])
        if not self.rows:
            raise Failure("no row to compare")

    def _make(self, pair: Sequence[Process], name: str, threads: int | None, detect: float) -> None:
        for process in pair:
            process.send("make", name, self.cores)
        try:
            pair[0].receive()
        except Failure as failure:
            self.skipped[name] = str(failure)
        pair[1].receive()
        if name not in self.skipped:
            self.rows.append(Row(name, threads, detect))

    def run(self) -> None:
        """Measure until every row is settled or the time is up."""
        for turn in range(SAME_PAIRS):
            self._pair(self.base, self.rows, turn)
        rows = self.rows
        for turn in range(LOOKS[-1]):
            late = (
                turn > 1
                and time.monotonic() + sum(self._seconds.get(row.name, 0.0) for row in rows) + 2 > self.deadline
            )
            if turn in LOOKS or late:
                for row in rows:
                    row.judge(self.risk, self.threshold)
                rows = [row for row in rows if row.verdict == "open"]
            if late or not rows:
                return
            self._pair(self.head, rows, SAME_PAIRS + turn)
        for row in rows:
            row.judge(self.risk, self.threshold)

    def _pair(self, other: Side, rows: list[Row], turn: int) -> None:
        """One pair of fresh processes; who is started first, and which core the serial rows get, changes each time."""
        begun = time.monotonic()
        sides = [self.base, other] if turn % 2 else [other, self.base]
        with processes(*sides) as pair:
            together(pair, "rows")
            base, head = pair if turn % 2 else pair[::-1]
            for row in random.Random(turn).sample(rows, len(rows)):
                start = time.monotonic()
                ratio = row.measure(base, head, self.cores, turn // 2)
                self._seconds[row.name] = time.monotonic() - start
                (row.same if other is self.base else row.other).append(ratio)
        seconds = time.monotonic() - begun
        print(f"{other.name} against {self.base.name}: {len(rows)} rows, {seconds:.1f} s", file=sys.stderr)

    def report(self) -> dict[str, Any]:
        """All results as plain data."""
        rows = []
        for row in self.rows:
            low, high = row.bounds(self.risk)
            ratio = math.exp(fmean(row.other))
            rows.append(
                {
                    "row": row.name,
                    "base_us": median(row.seconds) * 1e6,
                    "noise": row.noise,
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "verdict": row.verdict,
                    "same": row.same,
                    "other": row.other,
                }
            )
        return {"base": self.base.name, "head": self.head.name, "rows": rows, "skipped": self.skipped}


# ---------------------------------------------------------------- the command


def unpack(commit: str, folder: Path) -> Side:
    """A commit of this repository, or a folder that holds one, as a side whose kernel cache lies in `folder`."""
    if (Path(commit) / "fastbp").is_dir():
        return Side(commit, Path(commit).resolve(), folder / "cache")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if archive.returncode:
        raise Failure(f"{commit} is neither a commit nor a folder with fastbp in it: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder / "source", filter="data")
    return Side(commit, folder / "source", folder / "cache")


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    width = max(len(row["row"]) for row in report["rows"])
    print(f"{'':{width}} {'base us':>10} {'noise':>7} {'head/base':>10} {'bounds':>14}")
    for row in report["rows"]:
        word = {"slower": "SLOWER", "open": "unclear"}.get(row["verdict"], row["verdict"])
        print(
            f"{row['row']:{width}} {row['base_us']:>10.1f} {row['noise']:>7.1%} {row['ratio']:>10.3f} "
            f"{row['low']:>7.3f}-{row['high']:.3f} {word}"
        )
    for name, reason in report["skipped"].items():
        print(f"{name:{width}} not compared: {reason}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python scripts/speed_gate.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("base", help="commit, or folder with a checkout")
    parser.add_argument("head", help="commit, or folder with a checkout")
    parser.add_argument("--rows", help="rows by the beginning of their names, with commas between (default: all)")
    parser.add_argument("--threshold", type=float, default=2.0, help="percent that may be lost (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=3.0, help="at most, compiling included (default: %(default)s)")
    parser.add_argument("--builds", type=Path, metavar="FOLDER", help="keep sources and compiled kernels here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    args = parser.parse_args(arguments)
    if args.threshold < 0:
        parser.error("--threshold must be at least 0")
    return args


def gate(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare two commits and return the report."""
    deadline = time.monotonic() + 60 * args.minutes - 2
    sides = [unpack(commit, folder / commit.replace(os.sep, "_")) for commit in (args.base, args.head)]
    comparison = Gate(*sides, args.threshold / 100, deadline, args.rows.split(",") if args.rows else [])
    comparison.compile()
    comparison.run()
    return comparison.report()


def main(arguments: list[str] | None = None) -> int:
    """Compare two commits; the exit code is 1 where a row has become slower, 2 where they could not be compared."""
    args, start = parse(arguments), time.monotonic()
    try:
        with TemporaryDirectory() as folder:
            report = gate(args, args.builds or Path(folder))
    except Failure as failure:
        print(f"speed_gate: {failure}", file=sys.stderr)
        return 2
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    counts = {verdict: [r["row"] for r in report["rows"] if r["verdict"] == verdict] for verdict in ("slower", "open")}
    unclear = f", {len(counts['open'])} unclear within the time" if counts["open"] else ""
    print(f"{len(counts['slower'])} of {len(report['rows'])} rows slower{unclear}; {time.monotonic() - start:.0f} s")
    return int(bool(counts["slower"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        sys.exit(main())
