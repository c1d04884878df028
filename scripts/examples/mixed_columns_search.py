"""A scikit-learn pipeline over columns of numbers, text and gaps, its network chosen by a grid search."""

import warnings

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fastbp.estimators import MLPClassifier, MLPSearchCV


def make_data(rows=600):
    """Passengers: who is young, or rich in the right harbour, comes through; some ages are unknown."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"age": rng.uniform(1, 80, rows), "fare": rng.lognormal(3, 1, rows), "harbour": rng.choice(list("CQS"), rows)}
    )
    survived = (table["age"] < 25) | ((table["fare"] > 25) & (table["harbour"] != "S"))
    table.loc[rng.random(rows) < 0.1, "age"] = np.nan
    return table, np.where(survived ^ (rng.random(rows) < 0.05), "yes", "no")


def main():
    """Returns the fitted search and its accuracy on rows held out."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    table, survived = make_data()
    x_train, x_test, y_train, y_test = train_test_split(table, survived, random_state=0)
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["age", "fare"]),
        (OneHotEncoder(), ["harbour"]),
    )
    network = MLPClassifier(max_iter=60, batch_size=32, random_state=0)
    grid = {
        "mlpclassifier__hidden_layer_sizes": [(16,), (32, 16)],
        "mlpclassifier__alpha": [1e-4, 1e-2],
        "mlpclassifier__learning_rate_init": [1e-3, 1e-2],
    }
    search = MLPSearchCV(make_pipeline(columns, network), grid, cv=3).fit(x_train, y_train)
    score = search.score(x_test, y_test)
    print("best of", len(search.cv_results_["params"]), "candidates:", search.best_params_)
    print(f"accuracy {search.best_score_:.3f} in the folds, {score:.3f} on rows held out")
    return search, score


if __name__ == "__main__":
    main()
