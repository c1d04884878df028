"""Ten networks on bags of the rows, trained side by side, and how well their mean probability can be believed."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.datasets import make_classification

import fastbp as fb

NETWORKS, ROWS = 10, 1500


def expected_error(right, sure, bins=10):
    """Mean distance between the probability given and the share that is right (Guo et al. 2017)."""
    place = np.minimum((sure * bins).astype(int), bins - 1)
    return sum(abs(right[place == k].mean() - sure[place == k].mean()) * (place == k).mean() for k in np.unique(place))


def main(path=None):
    """Returns the calibration error of each network and of all together; draws the curves to `path`."""
    x, y = make_classification(2 * ROWS, 20, n_informative=8, flip_y=0.15, random_state=0)
    rng = np.random.default_rng(0)
    models = []
    for seed in range(NETWORKS):
        model = fb.Model([fb.Dense(64, activation="relu"), fb.Dense(1, activation="sigmoid")], seed=seed)
        model.compile(fb.Adam(0.005), "binary_crossentropy")
        models.append(model)
    bags = [rng.integers(0, ROWS, ROWS) for _ in models]
    fb.fit_many(models, x, y, batch_size=32, epochs=25, rows=bags, verbose=0)

    each = [model.predict(x[ROWS:])[:, 0] for model in models]
    together, truth = np.mean(each, axis=0), y[ROWS:]
    errors = [expected_error(truth, probability) for probability in [*each, together]]
    accuracy = ((together > 0.5) == truth).mean()
    print(f"calibration error: {np.mean(errors[:-1]):.3f} of one network, {errors[-1]:.3f} of {NETWORKS} together")
    print(f"accuracy together {accuracy:.3f}")

    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7")
    for name, probability in {"one network": each[0], "all together": together}.items():
        share, mean = calibration_curve(truth, probability, n_bins=10)
        axes.plot(mean, share, marker="o", label=name)
    axes.set(xlabel="probability", ylabel="share of class 1")
    axes.legend()
    if path is not None:
        figure.savefig(path)
    return errors, accuracy


if __name__ == "__main__":
    main()
