"""Speed and scores through scikit-learn's interface: ``python bench/estimators.py``.

Our estimators and scikit-learn's own on the same data with the same parameters and seeds: the best seconds of a `fit`
of each, in turns, how much of our best fit passes in the kernels (the rest is Python: checks, labels, orders of the
rows, making the network), and the mean and deviation of the score on rows held out over the seeds.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier as Theirs
from sklearn.preprocessing import StandardScaler

from fastbp.cpu.engine import Engine
from fastbp.estimators import MLPClassifier as Ours


def made() -> tuple[Any, Any]:
    return make_classification(50_000, 100, n_informative=30, n_classes=5, flip_y=0.05, random_state=0)


WIDTHS = {"100": (100,), "256,128": (256, 128), "1024,1024": (1024, 1024)}
SETS: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "digits": (lambda: load_digits(return_X_y=True), (100, 100, 12)),
    "breast_cancer": (lambda: load_breast_cancer(return_X_y=True), (100, 100, 12)),
    "made": (made, (10, 10, 2)),
}
"""Each with the epochs of a fit, by width."""
SETTLE = 0.2
"""Seconds before each fit: threads of BLAS go on spinning after scikit-learn's, here for 0.11 seconds."""


class KernelClock:
    """Seconds in the kernels, of the fits that run in a ``with`` block."""

    def __enter__(self) -> "KernelClock":
        self.seconds, start = 0.0, Engine._start
        self._start = start

        def timed(engine: Engine, *arguments: Any) -> None:
            begin = time.perf_counter()
            start(engine, *arguments)
            self.seconds += time.perf_counter() - begin

        Engine._start = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: Any) -> None:
        Engine._start = self._start  # type: ignore[method-assign]


def compared(
    x: Any, y: Any, width: tuple[int, ...], epochs: int, seeds: int, repeats: int
) -> tuple[list[float], Any, float]:
    """(best seconds, scores) of theirs and ours, and the share of the kernels in our best fit."""
    settings: dict[str, Any] = {"hidden_layer_sizes": width, "max_iter": epochs, "n_iter_no_change": epochs}
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
    seconds, scores, share = [np.inf, np.inf], np.zeros((2, seeds)), 0.0
    Ours(**{**settings, "max_iter": 1}).fit(x_train, y_train)  # compiles
    for turn in range(max(seeds, repeats)):
        for side, kind in enumerate((Theirs, Ours)):
            estimator = kind(random_state=turn % seeds, **settings)
            time.sleep(SETTLE)
            with KernelClock() as clock:
                begin = time.perf_counter()
                estimator.fit(x_train, y_train)
                taken = time.perf_counter() - begin
            if taken < seconds[side]:
                seconds[side] = taken
                share = clock.seconds / taken if kind is Ours else share
            scores[side, turn % seeds] = estimator.score(x_test, y_test)
    return seconds, scores, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="least fits of each (default: 5)")
    parser.add_argument("--epochs", type=int, help="of each fit (default: 100, made rows 10; of (1024, 1024) 12 and 2)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| data | hidden | dtype | scikit-learn, ms | fastbp, ms | times | kernels | scores: scikit-learn; fastbp |")
    print("|---|---|---|---:|---:|---:|---:|---|", flush=True)
    for name in options.sets:
        load, lengths = SETS[name]
        x, y = load()
        x = StandardScaler().fit_transform(x)
        for width in options.widths:
            for dtype in options.dtypes:
                length = options.epochs or lengths[list(WIDTHS).index(width)]
                run = WIDTHS[width], length, options.seeds, options.repeats
                seconds, scores, share = compared(x.astype(dtype), y, *run)
                shown = [f"{side.mean():.4f} ± {side.std():.4f}" for side in scores]
                ours = "the same" if shown[0] == shown[1] else shown[1]
                print(
                    f"| {name} | {width} | {dtype} | {1e3 * seconds[0]:,.1f} | {1e3 * seconds[1]:,.1f} | "
                    f"{seconds[0] / seconds[1]:.1f} | {share:.0%} | {shown[0]}; {ours} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
