"""Columns of text as vectors that are learned: what a shop sells of each product in each town."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import fastbp as fb


def make_data(rows=6000, products=150, towns=30):
    """Sales: each product and each town has a level of its own, and some prices are unknown."""
    rng = np.random.default_rng(0)
    product, town = rng.integers(0, products, rows), rng.integers(0, towns, rows)
    levels, people = rng.normal(0, 1, products), rng.normal(0, 1, towns)
    price = rng.uniform(1, 20, rows)
    table = pd.DataFrame({"price": price, "product": product, "town": town})
    table["product"], table["town"] = "p" + table["product"].astype(str), "t" + table["town"].astype(str)
    table.loc[rng.random(rows) < 0.05, "price"] = np.nan
    return table, levels[product] * people[town] - price / 10 + rng.normal(0, 0.1, rows)


def main():
    """Returns the loaded model and its R2 on rows held out, and that of one-hot columns through the same layers."""
    table, sales = make_data()
    train, test = slice(0, 5000), slice(5000, None)
    scores = []
    for codes in (True, False):
        encoder = fb.TabularEncoder(max_categories=1000, codes=codes).fit(table[train])
        first = [fb.Embedding({column: (count, 8) for column, count in encoder.codes_out_.items()})] if codes else []
        model = fb.Model([*first, fb.Dense(64, activation="relu"), fb.Dense(32, activation="relu"), fb.Dense(1)])
        model.compile(fb.Adam(3e-3), "mse", metrics=["r2"])
        model.fit(encoder.transform(table[train]), sales[train], batch_size=64, epochs=30, verbose=0)
        scores.append(model.evaluate(encoder.transform(table[test]), sales[test], return_dict=True)["r2"])
        if codes:
            model.meta.update(encoder.to_meta())
            path = Path(tempfile.mkdtemp()) / "sales.fastbp"
            model.save(path)
            loaded = fb.load_model(path)
            answers = loaded.predict(fb.TabularEncoder.from_meta(loaded.meta).transform(table.iloc[5000:5003]))
            print("three new rows:", answers.ravel().round(2), "sold:", sales[5000:5003].round(2))
    print(f"R2 {scores[0]:.3f} with embeddings, {scores[1]:.3f} with one-hot columns")
    return loaded, scores


if __name__ == "__main__":
    main()
