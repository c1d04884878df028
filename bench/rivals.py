"""Race fastbp against PyTorch, JAX, scikit-learn and Keras: same data, batches, mathematics and threads, in one run.

The contestants take turns; a rival that is missing is skipped with the reason. ``README.md`` beside this file says how
to install the rivals and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection
from importlib import metadata
from math import ceil, isfinite
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contestants import Contestant
    from grounds import Ground, Peak
    from networks import Network

CALL_SECONDS = 0.2
LEAST_ROUNDS = 3
# Differences of the losses that rounding explains, as a share of the first epoch's progress.
PARITY = {"float32": 0.01, "float64": 0.01, "tf32": 0.02, "bfloat16": 0.05}
VERDICTS = {True: "ok", False: "DIFFERS", None: "rose for all: not compared"}
NOT_INSTALLED = "not installed"
PEAKS = {"cpu": "FMA peak", "cuda": "Matrix-product peak"}
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "PJRT_NPROC",
)


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_environment(threads: int, dtype: str, device: str = "cpu") -> None:
    """Hold every library to `threads` threads; must come before NumPy, JAX or PyTorch is imported.

    JAX sizes its pool by the cores it may run on, so on Linux the process is held to as many cores as threads. It would
    take most of a GPU's memory for itself.
    """
    if hasattr(os, "sched_setaffinity") and threads < usable_cores():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = device
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    os.environ["JAX_ENABLE_X64"] = str(int(dtype == "float64"))


def warn_if_busy(threads: int) -> None:
    """Say so where other processes use the cores: threads that wait by spinning then lose whole time slices."""
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > usable_cores() - threads + 0.5:
        print(f"warning: the machine is busy (load {load:.1f}): the race will flatter whoever uses fewer threads")


class Runner:
    """One contestant in one race: its first epoch, the length of its timed calls, and their times."""

    def __init__(self, contestant: Contestant, network: Network, ground: Ground) -> None:
        self.contestant, self.clock = contestant, ground.clock
        self.steps = network.steps
        start = perf_counter()
        contestant.run(1)
        self.first_seconds = perf_counter() - start
        self.epochs = 1
        self.microseconds: list[float] = []

    def time(self) -> float:
        """Run the timed call once and return its seconds."""
        return self.clock(lambda: self.contestant.run(self.epochs))

    def calibrate(self) -> None:
        """Choose the epochs of a timed call so that it takes about ``CALL_SECONDS`` or, if longer, one epoch."""
        while (seconds := self.time()) < CALL_SECONDS / 2:
            self.epochs = ceil(self.epochs * min(CALL_SECONDS / seconds, 100))

    def turn(self) -> None:
        """Run the timed call once and note its time per step."""
        self.microseconds.append(self.time() / (self.epochs * self.steps) * 1e6)


def enter(
    ground: Ground,
    network: Network,
    optimizer: str,
    names: list[str],
    threads: int,
    dtype: str,
    skipped: dict[str, str],
) -> tuple[dict[str, Runner], dict[str, float], float]:
    """Bring the contestants to the start: made, first epoch run, losses after it compared.

    Returns
    -------
    runners : dict of Runner, by contestant
    losses : dict of float, by contestant
        Mean loss over the rows that are judged after the first epoch.
    start : float
        The loss before it.
    """
    x, y = network.data(dtype)
    seen = slice(ground.judged)
    runners, losses = {}, {}
    for name in names:
        if name in skipped:
            continue
        try:
            contestant = ground.contestants[name](network, optimizer, x, y, threads, dtype)
            runners[name] = Runner(contestant, network, ground)
        except ImportError as error:
            skipped[name] = f"{NOT_INSTALLED} ({error})"
        except (RuntimeError, ValueError, MemoryError) as error:
            if name == "fastbp" and dtype == "float32":
                raise
            skipped[name] = f"does not run here ({str(error).strip().splitlines()[0]})"
        else:
            losses[name] = network.judge(runners[name].contestant.weights(), x[seen], y[seen])
        if name in skipped:
            print(f"skipped: {name}: {skipped[name]}", flush=True)
    return runners, losses, network.judge(network.start(), x[seen], y[seen])


def race(
    ground: Ground,
    network: Network,
    optimizer: str,
    names: list[str],
    threads: int,
    rounds: int | None,
    seconds: float,
    peak: Peak,
    skipped: dict[str, str],
) -> dict[str, Any]:
    """Race one network with one optimizer and return its JSON-able result."""
    runners, losses, start = enter(ground, network, optimizer, names, threads, peak.dtype, skipped)
    for runner in runners.values():
        runner.calibrate()
    order, begun, turns = list(runners), perf_counter(), 0
    while order and (turns < (rounds or LEAST_ROUNDS) or (rounds is None and perf_counter() - begun < seconds)):
        if "fastbp" in runners:
            peak.measure()
        for name in order[turns % len(order) :] + order[: turns % len(order)]:
            runners[name].turn()
        turns += 1
    middle = median(loss if isfinite(loss) else start for loss in losses.values()) if losses else start
    base = runners.get("fastbp")
    result: dict[str, Any] = {
        "network": network.name,
        "widths": list(network.widths),
        "batch": network.batch,
        "copies": network.copies,
        "optimizer": optimizer,
        "dtype": peak.dtype,
        "flops_per_step": network.flops_per_step,
        "loss_at_start": start,
        "rounds": turns,
        "contestants": {},
    }
    # At a rate that is too high for the network rounding grows without bound: 64-100-10 at one row ends at 73 or at 89.
    all_rose = min(losses.values()) > start
    for name, runner in runners.items():
        times = runner.microseconds
        result["contestants"][name] = {
            "min_us": min(times),
            "median_us": median(times),
            "us": times,
            "samples_per_second": network.batch / min(times) * 1e6,
            "gflops": network.flops_per_step / min(times) / 1e3,
            "ratio": min(times) / min(base.microseconds) if base else None,
            "ratio_paired": median(a / b for a, b in zip(times, base.microseconds, strict=True)) if base else None,
            "first_epoch_seconds": runner.first_seconds,
            "loss": losses[name],
            "parity": None if all_rose else abs(losses[name] - middle) <= PARITY[peak.dtype] * abs(start - middle),
        }
    return result


def figure(value: float) -> str:
    """Write a figure with three significant digits or more, and thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(gflops: float, peak: float | None) -> str:
    """Write a rate as a share of the peak, or a dash where no peak was measured."""
    return f"{gflops / peak:.1%}" if peak else "-"


def title(result: dict[str, Any]) -> str:
    """Return the network's name in the table, and its widths."""
    name, widths = result["network"].partition("@")[0], "-".join(map(str, result["widths"]))
    many = f"{result['copies']:,} x " if result["copies"] > 1 else ""
    return widths if name == widths else f"{many}{name.partition('-')[0] if many else name} {widths}"


def show(result: dict[str, Any], peak: float | None) -> None:
    """Print one race."""
    print(
        f"\n{title(result)}, batch {result['batch']}, {result['optimizer']}, {result['dtype']}: "
        f"{result['flops_per_step'] / 1e6:.4g} MFLOP a step, {result['rounds']} rounds, "
        f"loss {result['loss_at_start']:.5f} at the start"
    )
    print(
        f"  {'':14}{'min us/step':>12}{'median':>11}{'samples/s':>13}{'GFLOP/s':>9}{'of peak':>9}"
        f"{'x fastbp':>10}{'paired':>8}{'1st epoch':>11}  loss after it"
    )
    for name, row in result["contestants"].items():
        ratios = [figure(row[key]) if row[key] else "-" for key in ("ratio", "ratio_paired")]
        print(
            f"  {name:14}{figure(row['min_us']):>12}{figure(row['median_us']):>11}{row['samples_per_second']:>13,.0f}"
            f"{figure(row['gflops']):>9}{share(row['gflops'], peak):>9}{ratios[0]:>10}{ratios[1]:>8}"
            f"{row['first_epoch_seconds']:>9.2f} s  {row['loss']:.5f} {VERDICTS[row['parity']]}",
            flush=True,
        )


def markdown(report: dict[str, Any]) -> str:
    """Return the README's table: best time a step, for rivals with the factor by which fastbp is faster."""
    several = ", " in report["dtype"]
    names = " | ".join(report["names"])
    lines = [
        f"| network | batch | optimizer | {'numbers | ' * several}{names} | fastbp's share of peak |",
        f"|---|---:|---|{'---|' * several}" + "---:|" * (len(report["names"]) + 1),
    ]
    for result in report["results"]:
        row = result["contestants"]
        cells = []
        for name in report["names"]:
            if name not in row:
                cells.append("-")
                continue
            ratio = row[name]["ratio"]
            factor = f" ({ratio:.3g}x)" if ratio and name != "fastbp" else ""
            cells.append(figure(row[name]["min_us"]) + factor)
        gflops = row["fastbp"]["gflops"] if "fastbp" in row else 0.0
        widths = title(result).replace("-".join(["128"] * 10), "(10 x 128)")
        cells.append(share(gflops, report["peak_gflops"].get(result["dtype"])) if gflops else "-")
        head = f"| {widths} | {result['batch']} | {result['optimizer']} | "
        head += f"{result['dtype']} | " * several
        lines.append(head + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    peaks = "".join(f", {gflops:,.0f} GFLOP/s ({dtype})" for dtype, gflops in report["peak_gflops"].items())
    peak = f"; {PEAKS[report['device']]}{peaks[1:]}" if peaks else ""
    lines.append(
        f"\nMicroseconds a step, best call of each, {report['dtype']}, on {report['machine']}{peak}. {versions}."
    )
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the best times, relative to fastbp where it ran, as bars on a logarithmic axis.

    Raises
    ------
    ImportError
        Where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install matplotlib") from error
    results = report["results"]
    relative = all("fastbp" in result["contestants"] for result in results)
    drawing = Figure(figsize=(max(6.0, 1.1 * len(results) + 2), 4.5), layout="constrained")
    axes = drawing.subplots()
    width = 0.8 / len(report["names"])
    for index, name in enumerate(report["names"]):
        places, heights = [], []
        for place, result in enumerate(results):
            if name in result["contestants"]:
                row = result["contestants"][name]
                places.append(place + (index - (len(report["names"]) - 1) / 2) * width)
                heights.append(row["ratio"] if relative else row["min_us"])
        if places:
            bars = axes.bar(places, heights, width, label=name)
            axes.bar_label(
                bars, [f"{height:.2g}" if height < 10 else f"{height:.0f}" for height in heights], fontsize=6
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:.2g}" if relative and axes.get_ylim()[1] < 20 else "")
    axes.set_ylabel("time of a step, fastbp = 1" if relative else "microseconds a step")
    axes.set_xticks(
        range(len(results)), [f"{result['network']}\n{result['optimizer']}" for result in results], fontsize=8
    )
    axes.set_title(f"{report['dtype']}, {report['machine']}", fontsize=9)
    axes.legend(fontsize=8)
    drawing.savefig(path, dpi=150)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python bench/rivals.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--networks",
        help="networks of the table (default: all) or widths, with @batch or without, and commas between: "
        "tiny,mnist@7,784-333-10@100",
    )
    parser.add_argument("--rivals", help="rivals, with commas between (default: all); fastbp always takes part")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the NVIDIA GPU, its networks and rivals"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        help="float32 (default), bfloat16, float64 (on the CPU) or tf32 (on the GPU); several with commas between",
    )
    parser.add_argument("--optimizers", help="sgd, adam or both (default: those of the table)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=int, help="timed calls of each contestant")
    length.add_argument("--seconds", type=float, default=20.0, help="time of each race (default: %(default)s)")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="begin no race after so long; says which")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: all usable cores (%(default)s)")
    parser.add_argument(
        "--memory", action="store_true", help="instead of the race: how the resident set grows (default: large, adam)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the README's table at the end")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw bars into FILE (.png, .svg)")
    args = parser.parse_args(arguments)
    if args.threads < 1 or (args.rounds is not None and args.rounds < 1):
        parser.error("--threads and --rounds must be at least 1")
    args.dtypes = args.dtype.split(",")
    if args.memory and (args.device != "cpu" or len(args.dtypes) > 1):
        parser.error("--memory measures the CPU, with one number type")
    set_environment(args.threads, "float64" if "float64" in args.dtypes else "float32", args.device)

    from grounds import GROUNDS
    from networks import SETTINGS, named

    try:
        args.ground = ground = GROUNDS[args.device](args.threads)
    except (ImportError, RuntimeError) as error:
        parser.error(f"--device {args.device}: {error}")
    if args.memory:
        args.networks, args.optimizers = args.networks or "large", args.optimizers or "adam"
    try:
        chosen = (args.networks or ",".join(ground.networks)).split(",")
        args.networks = [named(text, ground.networks) for text in chosen]
    except ValueError as error:
        parser.error(f"--networks: {error}")
    known: Collection[str]
    for option, names, known in (
        ("dtype", args.dtypes, ground.dtypes),
        ("rivals", _names(args.rivals), ground.contestants),
        ("optimizers", _names(args.optimizers), SETTINGS),
    ):
        unknown = sorted(set(names) - set(known))
        if unknown:
            parser.error(f"--{option}: {', '.join(unknown)} is not among {', '.join(known)}")
        setattr(args, option, names or list(known))
    args.rivals = ["fastbp", *(name for name in args.rivals if name != "fastbp")]
    return args


def _names(text: str | None) -> list[str]:
    return text.split(",") if text else []


def versions(ground: Ground, names: list[str]) -> dict[str, str]:
    """Return the versions of what raced."""
    found = {}
    for package in dict.fromkeys(package for name in names for package in ground.packages[name]):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package == "fastbp":
                found[package] = "checkout"
    return found


def at_once(results: list[dict[str, Any]]) -> list[str]:
    """Say how many times as fast networks train together as one by one, by each contestant's race with one of them."""
    lines = []
    for many in (result for result in results if result["copies"] > 1):
        same = ("widths", "batch", "optimizer", "dtype")
        alone = [r for r in results if r["copies"] == 1 and all(r[key] == many[key] for key in same)]
        for name, row in many["contestants"].items() if alone else ():
            if name in alone[0]["contestants"]:
                gain = many["copies"] * alone[0]["contestants"][name]["min_us"] / row["min_us"]
                lines.append(
                    f"{title(many)}, {many['optimizer']}, {many['dtype']}: {name} trains {many['copies']:,} networks "
                    f"at once {figure(gain)} times as fast as one by one"
                )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run the races that the command line asks for; the exit code is 1 where a loss differs."""
    args, begun = parse(arguments), perf_counter()
    ground: Ground = args.ground
    print(f"{ground.machine}, {', '.join(args.dtype)}", flush=True)
    races = [(network, name) for network in args.networks for name in network.optimizers if name in args.optimizers]
    if args.memory:
        from footprint import contest

        skipped: dict[str, str] = {}
        grown = [contest(*pair, args.rivals, args.threads, args.dtype[0], skipped) for pair in races]
        if args.json:
            args.json.write_text(json.dumps(grown, indent=1) + "\n")
        return 0
    warn_if_busy(args.threads)
    results, missing, refused, late = [], {}, {}, []
    peaks = {dtype: ground.peak(dtype) for dtype in args.dtype}
    for dtype, peak in peaks.items():
        refused[dtype] = out = dict(missing)
        for network, optimizer in races:
            if args.limit is not None and perf_counter() - begun > args.limit:
                late.append(f"{network.name}, {optimizer}, {dtype}")
                continue
            result = race(ground, network, optimizer, args.rivals, args.threads, args.rounds, args.seconds, peak, out)
            results.append(result)
            show(result, peak.gflops)
        missing |= {name: reason for name, reason in out.items() if reason.startswith(NOT_INSTALLED)}
    names = [name for name in args.rivals if any(name in result["contestants"] for result in results)]
    report = {
        "machine": ground.machine,
        "device": args.device,
        "threads": args.threads,
        "dtype": ", ".join(args.dtype),
        "versions": versions(ground, names),
        "peak_gflops": {dtype: peak.gflops for dtype, peak in peaks.items() if peak.gflops},
        "names": names,
        "skipped": refused,
        "late": late,
        "results": results,
    }
    print("\n" + "\n".join(at_once(results) + [f"not raced, the time was up: {race}" for race in late]))
    for dtype, gflops in report["peak_gflops"].items():
        print(f"{PEAKS[args.device]} in {dtype}, best of the run: {gflops:,.0f} GFLOP/s")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        print("\n" + markdown(report))
    if args.plot:
        plot(report, args.plot)
    return int(any(row["parity"] is False for result in results for row in result["contestants"].values()))


if __name__ == "__main__":
    sys.exit(main())
