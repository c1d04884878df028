"""A regression from a Parquet file by the command line alone, with a page about it: fastbp train, then predict."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from fastbp.cli import main as fastbp


def make_data(rows=400):
    """Flats: the rent hangs on size, district and age; some ages are unknown."""
    rng = np.random.default_rng(0)
    district = rng.choice(["north", "south", "centre"], rows)
    table = pd.DataFrame({"flat": [f"F{k}" for k in range(rows)], "size": rng.uniform(20, 150, rows)})
    table["age"], table["district"] = rng.integers(0, 100, rows).astype(float), district
    table["rent"] = 12 * table["size"] * np.where(district == "centre", 1.5, 1.0) - 3 * table["age"]
    table.loc[rng.random(rows) < 0.1, "age"] = np.nan
    return table


def main(folder=None):
    """Returns what was written: the model, the report and the predictions."""
    with TemporaryDirectory() as own:
        folder = Path(own if folder is None else folder)
        data, model, report, out = (folder / name for name in ("rents.parquet", "m.fastbp", "r.html", "new.csv"))
        table = make_data()
        table.to_parquet(data)
        options = ["--target", "rent", "--id", "flat", "--epochs", "150", "--hidden", "32", "--quiet"]
        commands = [
            ["train", data, *options, "--out", model, "--report", report],
            ["predict", model, data, "--out", out],
        ]
        for command in commands:
            code = fastbp([str(part) for part in command])
            if code:
                sys.exit(code)
        predicted = pd.read_csv(out)
        error = float((predicted["rent"] - table["rent"]).abs().mean())
        print(f"the page has {report.stat().st_size / 1000:.0f} kB; mean error of the rents: {error:.1f}")
        return model.read_bytes(), report.read_text(encoding="utf-8"), predicted, error


if __name__ == "__main__":
    main()
