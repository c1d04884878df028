"""Speed and scores through scikit-learn's interface: ``python bench/estimators.py``.

Our estimators and scikit-learn's own on the same data with the same parameters and seeds: the best seconds of a `fit`
of each, in turns, and the mean and deviation of the score on rows held out over the seeds.
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

from fastbp.estimators import MLPClassifier as Ours


def made() -> tuple[Any, Any]:
    return make_classification(50_000, 100, n_informative=30, n_classes=5, flip_y=0.05, random_state=0)


SETS: dict[str, tuple[Any, int]] = {
    "digits": (lambda: load_digits(return_X_y=True), 100),
    "breast_cancer": (lambda: load_breast_cancer(return_X_y=True), 100),
    "made": (made, 2),
}
"""Each with the epochs of a fit."""
WIDTHS = {"100": (100,), "256,128": (256, 128), "1024,1024": (1024, 1024)}


def compared(x: Any, y: Any, width: tuple[int, ...], epochs: int, seeds: int) -> tuple[list[float], Any]:
    """(best seconds, scores) of theirs and ours."""
    settings: dict[str, Any] = {"hidden_layer_sizes": width, "max_iter": epochs, "n_iter_no_change": epochs}
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
    seconds, scores = [np.inf, np.inf], np.zeros((2, seeds))
    Ours(**{**settings, "max_iter": 1}).fit(x_train, y_train)  # compiles
    for seed in range(seeds):
        for side, kind in enumerate((Theirs, Ours)):
            estimator = kind(random_state=seed, **settings)
            begin = time.perf_counter()
            estimator.fit(x_train, y_train)
            seconds[side] = min(seconds[side], time.perf_counter() - begin)
            scores[side, seed] = estimator.score(x_test, y_test)
    return seconds, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of each fit (default: 100 of the small sets, 2 of the made one)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| data | hidden | dtype | scikit-learn, ms | fastbp, ms | times faster | scores |")
    print("|---|---|---|---:|---:|---:|---|", flush=True)
    for name in options.sets:
        load, epochs = SETS[name]
        epochs = options.epochs or epochs
        x, y = load()
        x = StandardScaler().fit_transform(x)
        for width in options.widths:
            for dtype in options.dtypes:
                seconds, scores = compared(x.astype(dtype), y, WIDTHS[width], epochs, options.seeds)
                shown = [f"{side.mean():.4f} ± {side.std():.4f}" for side in scores]
                print(
                    f"| {name} {x.shape[0]:,} x {x.shape[1]} | {width} | {dtype} | {1e3 * seconds[0]:,.1f} | "
                    f"{1e3 * seconds[1]:,.1f} | {seconds[0] / seconds[1]:.1f} | {shown[0]}; {shown[1]} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
