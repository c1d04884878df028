"""A search over small networks: `MLPSearchCV` against scikit-learn's own classes on all cores, in one run.

``python bench/search.py``: 24 candidates in 5 folds on each data set, in turns; both sides' own best score beside it.
"""

import argparse
import time
import warnings
from typing import Any

from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.preprocessing import StandardScaler

from fastbp.estimators import MLPClassifier, MLPRegressor, MLPSearchCV

GRID = {
    "hidden_layer_sizes": [(8,), (16,), (32,), (16, 8)],
    "alpha": [1e-4, 1e-2, 1.0],
    "learning_rate_init": [1e-3, 1e-2],
}
SETS = {
    "breast_cancer": (load_breast_cancer, TheirClassifier, MLPClassifier),
    "digits": (load_digits, TheirClassifier, MLPClassifier),
    "diabetes": (load_diabetes, TheirRegressor, MLPRegressor),
}


def timed(search: Any, x: Any, y: Any) -> tuple[float, float]:
    begin = time.perf_counter()
    search.fit(x, y)
    return time.perf_counter() - begin, float(search.best_score_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epochs", type=int, default=100, help="most epochs of a fit (default: 100)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    settings: dict[str, Any] = {"max_iter": options.epochs, "batch_size": 32, "random_state": 0}
    print("| data | scikit-learn, n_jobs=-1 | MLPSearchCV | times faster | best scores |\n|---|---:|---:|---:|---:|")
    for name in options.sets:
        load, theirs, ours = SETS[name]
        x, y = load(return_X_y=True)
        x = StandardScaler().fit_transform(x).astype(options.dtype)
        y = y if theirs is TheirClassifier else (y - y.mean()) / y.std()
        few = {"hidden_layer_sizes": [(8,)]}  # starts processes and compiles before the clock runs
        timed(GridSearchCV(theirs(**settings), few, cv=2, n_jobs=-1), x, y)
        timed(MLPSearchCV(ours(**settings), few, cv=2), x, y)
        slow, wanted = timed(GridSearchCV(theirs(**settings), GRID, n_jobs=-1), x, y)
        fast, got = timed(MLPSearchCV(ours(**settings), GRID), x, y)
        print(f"| {name} {x.shape} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.1f} | {wanted:.4f}, {got:.4f} |")


if __name__ == "__main__":
    main()
