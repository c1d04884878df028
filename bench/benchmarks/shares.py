"""How far something is from the peak, measured side by side."""

from collections.abc import Callable
from time import perf_counter

SECONDS = 2.0
CALL_SECONDS = 0.05


def share_of_peak_lost(run: Callable[[int], object], flops: int, dtype: str, threads: int) -> float:
    """Percent of the peak that ``run(n)``, n times `flops` operations, does not reach: the best calls of both."""
    import fastbp as fb

    times = 1
    while (seconds := _seconds(run, times)) < CALL_SECONDS / 2:
        times = int(times * min(CALL_SECONDS / max(seconds, 1e-7), 50)) + 1
    rate, peak, end = 0.0, 0.0, perf_counter() + SECONDS
    while perf_counter() < end:
        peak = max(peak, fb.peak_gflops(dtype, threads))
        rate = max(rate, times * flops / _seconds(run, times) / 1e9)
    return 100 * (1 - rate / peak)


def _seconds(run: Callable[[int], object], times: int) -> float:
    start = perf_counter()
    run(times)
    return perf_counter() - start
