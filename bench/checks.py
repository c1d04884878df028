"""What the race does not show: threads, odd widths, prediction, many networks at once, the start.

Each compares side by side in one process, in turns. ``python bench/checks.py``, or some of them: ``... threads row``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from math import ceil
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from grounds import settle
from networks import NETWORKS, Network, named
from rivals import figure, usable_cores

Run = Callable[[int], Any]
CALL_SECONDS = 0.2
MANY = 64


def alternate(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Seconds of one unit of each, where ``run(n)`` does n units: in turns, the order moving on by one each round."""
    counts = {}
    for name, run in runs.items():
        run(1)
        count = 1
        while (spent := _seconds(run, count)) < CALL_SECONDS / 2:
            count = ceil(count * min(CALL_SECONDS / spent, 100))
        counts[name] = count
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, end, turns = list(runs), perf_counter() + seconds, 0
    while turns < 3 or perf_counter() < end:
        for name in order[turns % len(order) :] + order[: turns % len(order)]:
            times[name].append(_seconds(runs[name], counts[name]) / counts[name])
        turns += 1
    return times


def _seconds(run: Run, count: int) -> float:
    settle(0.05)
    start = perf_counter()
    run(count)
    return perf_counter() - start


def paired(times: dict[str, list[float]], one: str, other: str) -> float:
    """The median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(times[one], times[other], strict=True))


def fitting(network: Network, threads: int, optimizer: str = "sgd", dtype: str = "float32") -> Run:
    """Epochs through ``Model.fit``."""
    x, y = network.data(dtype)
    model = network.model(optimizer, threads, dtype)
    return lambda epochs: model.fit(x, y, network.batch, epochs, verbose=0, shuffle=False)


def check_threads(seconds: float, threads: int) -> None:
    """All threads against one: of the peak of as many threads, measured in the same rounds, which share is kept."""
    import fastbp as fb

    print(f"\n{'':8}{'us, 1 thread':>14}{f'us, {threads}':>11}{'share of 1':>12}{f'share of {threads}':>12}{'kept':>8}")
    for name in ("tiny", "mnist", "wide", "large"):
        network = NETWORKS[name]
        runs = {str(count): fitting(network, count) for count in (1, threads)}
        peaks: dict[str, float] = dict.fromkeys(runs, 0.0)

        def peak(count: str, peaks: dict[str, float] = peaks) -> Run:
            def measure(times: int) -> None:
                best = max(fb.peak_gflops("float32", int(count)) for _ in range(times))
                peaks[count] = max(peaks[count], best)

            return measure

        times = alternate(runs | {f"peak {count}": peak(count) for count in runs}, seconds)
        best = {count: min(times[count]) / network.steps for count in runs}
        shares = {count: network.flops_per_step / best[count] / 1e9 / peaks[count] for count in runs}
        one, all_ = "1", str(threads)
        us = [figure(1e6 * best[count]) for count in (one, all_)]
        print(
            f"{name:8}{us[0]:>14}{us[1]:>11}{shares[one]:>12.1%}{shares[all_]:>12.1%}"
            f"{shares[all_] / shares[one]:>8.3f}   (peaks {peaks[one]:.0f}, {peaks[all_]:.0f} GFLOP/s; "
            f"{paired(times, one, all_):.2f}x as fast)",
            flush=True,
        )


def check_widths(seconds: float, threads: int) -> None:
    """Odd widths against the next multiple of 16, networks of w-w-w-10: time, and useful operations a second."""
    print(f"\n{'width':8}{'us':>10}{'against':>9}{'us':>10}{'time':>8}{'rate lost':>11}")
    for width in (97, 101, 333, 1000):
        full = -(-width // 16) * 16
        pair = {str(w): named(f"{w}-{w}-{w}-10@256") for w in (width, full)}
        times = alternate({name: fitting(network, threads) for name, network in pair.items()}, seconds)
        odd, even = str(width), str(full)
        us = {name: 1e6 * min(times[name]) / network.steps for name, network in pair.items()}
        ratio = min(us[odd] / us[even], paired(times, odd, even) * pair[even].steps / pair[odd].steps)
        useful = pair[odd].flops_per_step / pair[even].flops_per_step
        print(
            f"{odd:8}{figure(us[odd]):>10}{even:>9}{figure(us[even]):>10}{ratio:>8.3f}{1 - useful / ratio:>11.1%}",
            flush=True,
        )


def check_prediction(seconds: float, threads: int) -> None:
    """10,000 rows through ``predict`` against the forward pass of training: its batches, with the loss, no updates."""
    rows = 10_000
    print(f"\n{'':8}{'predict, GFLOP/s':>18}{'forward of training':>21}{'ratio':>8}")
    for name in ("tiny", "small", "tab", "mnist", "wide", "large"):
        network = NETWORKS[name]
        model = network.model("sgd", threads)
        data = np.random.default_rng(0)
        x = data.standard_normal((rows, network.widths[0]), dtype=np.float32)
        labels = network.widths[-1] > 1
        y = data.integers(0, network.widths[-1], rows) if labels else np.ones((rows, 1), np.float32)
        model.evaluate(x[:64], y[:64])
        model.predict(x)
        engine, objective = model._engine, model._scoring().objective
        assert engine is not None

        def predict(times: int, model: Any = model, x: Any = x) -> None:
            for _ in range(times):
                model.predict(x)

        def forward(times: int, run: Any = engine.run, x: Any = x, y: Any = y, o: Any = objective) -> None:
            for _ in range(times):
                run(x, y, batch=network.batch, objective=o)

        times = alternate({"predict": predict, "forward": forward}, seconds)
        work = 2e-9 * rows * sum(i * o for i, o in zip(network.widths, network.widths[1:], strict=False))
        rates = [work / min(times[way]) for way in ("predict", "forward")]
        print(f"{name:8}{rates[0]:>18.1f}{rates[1]:>21.1f}{rates[0] / rates[1]:>8.2f}", flush=True)


def check_row(seconds: float, threads: int) -> None:
    """One row through ``predict`` on a prepared float32 array."""
    print()
    for name in ("tiny", "small", "mnist"):
        model = NETWORKS[name].model("sgd", threads)
        x = np.ones((1, NETWORKS[name].widths[0]), np.float32)

        def predict(times: int, model: Any = model, x: Any = x) -> None:
            for _ in range(times):
                model.predict(x)

        times = alternate({name: predict}, seconds / 4)[name]
        print(f"one row of {name:8} {1e6 * min(times):.2f} us (median {1e6 * median(times):.2f})", flush=True)


def check_many(seconds: float, threads: int) -> None:
    """64 networks of 20-10-1 at once: what threads gain over one, and over ``fit`` for each in turn."""
    import fastbp as fb

    network = NETWORKS["tiny"]
    x, y = network.data()
    print(f"\n{'rows':8}{'epochs':>8}{'ms one by one':>15}{'fit_many, 1':>13}{f'{threads} threads':>12}{'scaling':>9}")
    for rows, epochs in ((1000, 20), (16_000, 20), (16_000, 100)):
        models = [network.model("adam", 1) for _ in range(MANY)]
        options: dict[str, Any] = {"batch_size": network.batch, "epochs": epochs, "verbose": 0}

        def alone(times: int, models: Any = models, rows: int = rows, options: Any = options) -> None:
            for model in models * times:
                model.fit(x[:rows], y[:rows], **options)

        def together(count: int, models: Any = models, rows: int = rows, options: Any = options) -> Run:
            def run(times: int) -> None:
                for _ in range(times):
                    fb.fit_many(models, x[:rows], y[:rows], threads=count, **options)

            return run

        times = alternate({"alone": alone, "1": together(1), "2": together(threads)}, seconds)
        best = {name: 1e3 * min(spent) for name, spent in times.items()}
        scaling = paired(times, "1", "2") / threads
        print(
            f"{rows:<8}{epochs:>8}{best['alone']:>15.1f}{best['1']:>13.1f}{best['2']:>12.1f}{scaling:>9.3f}", flush=True
        )


def check_start(seconds: float, threads: int) -> None:
    """Fresh processes: import after Numba, first fit with a warm and with an empty kernel cache."""
    from benchmarks.cold_start import FIRST_FIT, IMPORT, seconds_in_fresh_process

    with TemporaryDirectory() as cache:
        empty = seconds_in_fresh_process(FIRST_FIT, cache)
        warm = [seconds_in_fresh_process(FIRST_FIT, cache) for _ in range(5)]
        loaded = [seconds_in_fresh_process(IMPORT, cache) for _ in range(5)]
    print(
        f"\nimport after Numba {min(loaded):.2f} s (median {median(loaded):.2f}); first fit, from its call: "
        f"{min(warm):.2f} s ({median(warm):.2f}) from the cache, {empty:.1f} s with an empty one"
    )


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> int:
    """Run the checks that the command line names."""
    parser = argparse.ArgumentParser(prog="python bench/checks.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"{', '.join(CHECKS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each line (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: all usable cores (%(default)s)")
    args = parser.parse_args()
    if unknown := sorted(set(args.checks) - set(CHECKS)):
        parser.error(f"{', '.join(unknown)} is not among {', '.join(CHECKS)}")
    for name, check in CHECKS.items():
        if not args.checks or name in args.checks:
            check(args.seconds, args.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
