"""Race fastbp against PyTorch, JAX, scikit-learn and Keras: same data, batches, mathematics and threads, in one run.

The contestants take turns; a rival that is missing is skipped with the reason. ``README.md`` beside this file says how
to install the rivals and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from math import ceil, isfinite
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contestants import Contestant
    from networks import Network

CALL_SECONDS = 0.2
LEAST_ROUNDS = 3
# Differences of the losses that rounding explains, as a share of the first epoch's progress.
PARITY = {"float32": 0.01, "float64": 0.01, "bfloat16": 0.05}
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


def set_environment(threads: int, dtype: str) -> None:
    """Hold every library to `threads` threads; must come before NumPy, JAX or PyTorch is imported.

    JAX sizes its pool by the cores it may run on, so on Linux the process is held to as many cores as threads.
    """
    if hasattr(os, "sched_setaffinity") and threads < usable_cores():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_X64"] = str(int(dtype == "float64"))


def settle(limit: float = 0.5) -> None:
    """Wait until nobody's idle threads use the processor any more, at most `limit` seconds.

    OpenMP and BLAS threads spin for a while after their last work and would steal time from the next contestant.
    """
    end = perf_counter() + limit
    while perf_counter() < end:
        before = process_time()
        sleep(0.004)
        if process_time() - before < 0.0005:
            return


def machine() -> str:
    """Return the processor's name and the system in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"{name}, {platform.system()} {platform.machine()}"


def warn_if_busy(threads: int) -> None:
    """Say so where other processes use the cores: threads that wait by spinning then lose whole time slices."""
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > usable_cores() - threads + 0.5:
        print(f"warning: the machine is busy (load {load:.1f}): the race will flatter whoever uses fewer threads")


class Runner:
    """One contestant in one race: its first epoch, the length of its timed calls, and their times."""

    def __init__(self, contestant: Contestant, network: Network) -> None:
        self.contestant = contestant
        self.steps = network.steps
        start = perf_counter()
        contestant.run(1)
        self.first_seconds = perf_counter() - start
        self.epochs = 1
        self.microseconds: list[float] = []

    def time(self) -> float:
        """Run the timed call once and return its seconds."""
        settle()
        start = perf_counter()
        self.contestant.run(self.epochs)
        return perf_counter() - start

    def calibrate(self) -> None:
        """Choose the epochs of a timed call so that it takes about ``CALL_SECONDS`` or, if longer, one epoch."""
        while (seconds := self.time()) < CALL_SECONDS / 2:
            self.epochs = ceil(self.epochs * min(CALL_SECONDS / seconds, 100))

    def turn(self) -> None:
        """Run the timed call once and note its time per step."""
        self.microseconds.append(self.time() / (self.epochs * self.steps) * 1e6)


class Peak:
    """The machine's FMA peak, measured again through the run; the best counts. None without fastbp."""

    def __init__(self, threads: int, dtype: str) -> None:
        self.threads, self.dtype = threads, dtype
        self.gflops: float | None = None

    def measure(self) -> None:
        """Measure once more."""
        import fastbp as fb

        settle()
        self.gflops = max(self.gflops or 0.0, fb.peak_gflops(self.dtype, self.threads))


def enter(
    network: Network, optimizer: str, names: list[str], threads: int, dtype: str, skipped: dict[str, str]
) -> tuple[dict[str, Runner], dict[str, float], float]:
    """Bring the contestants to the start: made, first epoch run, losses after it compared.

    Returns
    -------
    runners : dict of Runner, by contestant
    losses : dict of float, by contestant
        Mean loss over all rows after the first epoch.
    start : float
        The loss before it.
    """
    from contestants import CONTESTANTS

    x, y = network.data(dtype)
    runners, losses = {}, {}
    for name in names:
        if name in skipped:
            continue
        try:
            runners[name] = Runner(CONTESTANTS[name](network, optimizer, x, y, threads, dtype), network)
        except ImportError as error:
            skipped[name] = f"not installed ({error})"
        except (RuntimeError, ValueError) as error:
            if name == "fastbp" and dtype != "bfloat16":
                raise
            skipped[name] = f"does not run here ({str(error).strip().splitlines()[0]})"
        else:
            losses[name] = network.mean_loss(runners[name].contestant.weights(), x, y)
        if name in skipped:
            print(f"skipped: {name}: {skipped[name]}", flush=True)
    return runners, losses, network.mean_loss(network.weights(), x, y)


def race(
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
    runners, losses, start = enter(network, optimizer, names, threads, peak.dtype, skipped)
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
        "optimizer": optimizer,
        "dtype": peak.dtype,
        "flops_per_step": network.flops_per_step,
        "loss_at_start": start,
        "rounds": turns,
        "contestants": {},
    }
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
            "parity": abs(losses[name] - middle) <= PARITY[peak.dtype] * abs(start - middle),
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
    return widths if name == widths else f"{name} {widths}"


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
            f"{row['first_epoch_seconds']:>9.2f} s  {row['loss']:.5f} {'ok' if row['parity'] else 'DIFFERS'}",
            flush=True,
        )


def markdown(report: dict[str, Any]) -> str:
    """Return the README's table: best time a step, for rivals with the factor by which fastbp is faster."""
    lines = [
        "| network | batch | optimizer | " + " | ".join(report["names"]) + " | fastbp's share of peak |",
        "|---|---:|---|" + "---:|" * (len(report["names"]) + 1),
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
        cells.append(share(gflops, report["peak_gflops"]) if gflops else "-")
        head = f"| {widths} | {result['batch']} | {result['optimizer']} | "
        lines.append(head + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    peak = f", FMA peak {report['peak_gflops']:.0f} GFLOP/s" if report["peak_gflops"] else ""
    lines.append(f"\nMicroseconds a step, best call of each, {report['dtype']}, {report['threads']} threads on ")
    lines[-1] += f"{report['machine']}{peak}. {versions}."
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
    axes.set_title(f"{report['dtype']}, {report['threads']} threads, {report['machine']}", fontsize=9)
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
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    parser.add_argument("--optimizers", help="sgd, adam or both (default: those of the table)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--rounds", type=int, help="timed calls of each contestant")
    length.add_argument("--seconds", type=float, default=20.0, help="time of each race (default: %(default)s)")
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
    set_environment(args.threads, args.dtype)

    from contestants import CONTESTANTS
    from networks import NETWORKS, SETTINGS, named

    if args.memory:
        args.networks, args.optimizers = args.networks or "large", args.optimizers or "adam"
    try:
        args.networks = [named(text) for text in (args.networks or ",".join(NETWORKS)).split(",")]
    except ValueError as error:
        parser.error(f"--networks: {error}")
    for option, known in (("rivals", CONTESTANTS), ("optimizers", SETTINGS)):
        chosen = getattr(args, option)
        names = chosen.split(",") if chosen else list(known)
        unknown = sorted(set(names) - set(known))
        if unknown:
            parser.error(f"--{option}: {', '.join(unknown)} is not among {', '.join(known)}")
        setattr(args, option, names)
    args.rivals = ["fastbp", *(name for name in args.rivals if name != "fastbp")]
    return args


def versions(names: list[str]) -> dict[str, str]:
    """Return the versions of what raced."""
    from contestants import PACKAGES

    found = {}
    for package in dict.fromkeys(package for name in names for package in PACKAGES[name]):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "checkout"
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the races that the command line asks for; the exit code is 1 where a loss differs."""
    args = parse(arguments)
    print(f"{machine()}, {args.threads} threads, {args.dtype}", flush=True)
    races = [(network, name) for network in args.networks for name in network.optimizers if name in args.optimizers]
    skipped: dict[str, str] = {}
    if args.memory:
        from footprint import contest

        grown = [contest(*pair, args.rivals, args.threads, args.dtype, skipped) for pair in races]
        if args.json:
            args.json.write_text(json.dumps(grown, indent=1) + "\n")
        return 0
    warn_if_busy(args.threads)
    peak, results = Peak(args.threads, args.dtype), []
    for network, optimizer in races:
        result = race(network, optimizer, args.rivals, args.threads, args.rounds, args.seconds, peak, skipped)
        results.append(result)
        show(result, peak.gflops)
    names = [name for name in args.rivals if any(name in result["contestants"] for result in results)]
    report = {
        "machine": machine(),
        "threads": args.threads,
        "dtype": args.dtype,
        "versions": versions(names),
        "peak_gflops": peak.gflops,
        "names": names,
        "skipped": skipped,
        "results": results,
    }
    if peak.gflops:
        print(f"\nFMA peak, best of the run: {peak.gflops:.0f} GFLOP/s")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        print("\n" + markdown(report))
    if args.plot:
        plot(report, args.plot)
    return int(any(not row["parity"] for result in results for row in result["contestants"].values()))


if __name__ == "__main__":
    sys.exit(main())
