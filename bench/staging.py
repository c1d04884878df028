"""Memory that staging a float64 table takes, beside the table: ``python bench/staging.py`` (Linux).

Each source in a fresh process: the growth of the peak of the resident set while `as_matrix` makes float32 rows of it,
or while an estimator is fitted for an epoch (in float32 and in float64), over the bytes of those rows. 1.0 is the least
there can be.
"""

import argparse
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fastbp.data.staging import as_matrix

SOURCES = ("array", "pandas", "polars", "pyarrow")
WAYS = ("as_matrix", "estimator float32", "estimator float64")


def table(source: str, rows: int, columns: int) -> Any:
    rng = np.random.default_rng(0)
    values = {f"c{j}": rng.standard_normal(rows) for j in range(columns)}
    if source == "array":
        return np.stack(list(values.values())).T
    if source == "pandas":
        import pandas as pd

        return pd.DataFrame(values)
    if source == "polars":
        import polars as pl

        return pl.DataFrame(values)
    import pyarrow as pa

    return pa.table(values)


def resident(what: str) -> int:
    """Kilobytes, as Linux counts them: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def stage(way: str, given: Any, rows: int) -> None:
    """Bring a table to where kernels read it."""
    if way == "as_matrix":
        as_matrix(given, np.float32)
        return
    from fastbp.estimators import MLPRegressor

    warnings.simplefilter("ignore")  # one epoch does not converge
    regressor = MLPRegressor(hidden_layer_sizes=(4,), max_iter=1, batch_size=1000, dtype=way.split()[1])
    regressor.fit(given, np.zeros(rows))


def child(source: str, way: str, rows: int, columns: int) -> None:
    given = table(source, rows, columns)
    stage(way, table(source, 2000, columns), 2000)  # imports and compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    stage(way, given, rows)
    grown = 1024 * (resident("VmHWM") - before)
    staged = rows * columns * (8 if way.endswith("64") else 4)
    print(f"| {source} | {way} | {8 * rows * columns / 1e6:.0f} | {grown / 1e6:.0f} | {grown / staged:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--source", choices=SOURCES, help="this one, in this process")
    parser.add_argument("--way", choices=WAYS, default=WAYS[0])
    options = parser.parse_args()
    if options.source:
        child(options.source, options.way, options.rows, options.columns)
        return
    print("| source | by | table, MB | growth, MB | over the staged rows |\n|---|---|---:|---:|---:|", flush=True)
    for way in WAYS:
        for source in SOURCES:
            sizes = ["--rows", str(options.rows), "--columns", str(options.columns)]
            subprocess.run([sys.executable, __file__, "--source", source, "--way", way, *sizes], check=True)


if __name__ == "__main__":
    main()
