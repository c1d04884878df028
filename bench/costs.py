"""What each feature adds to a training step: the time of one network with it and without, in turns, in one process.

    python bench/costs.py

prints a markdown table: microseconds a step (the best call of each, and the median), and the share over plain momentum
SGD (of the best call; of the medians of the same rounds). The second row is the first one again: what the machine's
noise makes of nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

import fastbp as fb

BATCH, STEPS, EPOCHS = 128, 40, 2
WIDTHS = (784, 256, 128, 10)


@dataclass(frozen=True)
class Feature:
    """One row of the table.

    Attributes
    ----------
    name : str
    optimizer : callable
        Makes the optimizer.
    layer : dict
        Options of every `Dense` layer.
    compile, fit : dict
        Options of ``Model.compile`` and ``Model.fit``.
    most : float or None
        The share that it should not exceed.
    layers : callable or None
        Makes the layers, where options of `Dense` don't do.
    """

    name: str
    optimizer: Callable[[], Any] = lambda: fb.SGD(0.01, momentum=0.9)
    layer: dict[str, Any] = field(default_factory=dict)
    compile: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    most: float | None = None
    layers: Callable[[], list[Any]] | None = None

    def made(self) -> list[Any]:
        """The layers."""
        if self.layers is not None:
            return self.layers()
        hidden = [fb.Dense(width, "relu", **self.layer) for width in WIDTHS[1:-1]]
        return [*hidden, fb.Dense(WIDTHS[-1], "softmax", **self.layer)]


def momentum(**options: Any) -> Callable[[], Any]:
    """SGD with momentum and one thing more."""
    return lambda: fb.SGD(**{"learning_rate": 0.01, "momentum": 0.9, **options})


def last_two() -> list[Any]:
    """The first layer is frozen."""
    return [
        fb.Dense(WIDTHS[1], "relu", trainable=False),
        fb.Dense(WIDTHS[2], "relu"),
        fb.Dense(WIDTHS[3], "softmax"),
    ]


def penalised() -> list[Any]:
    """The hidden layers' outputs are penalised."""
    hidden = [fb.Dense(width, "relu", activity_regularizer=fb.regularizers.L2(1e-5)) for width in WIDTHS[1:-1]]
    return [*hidden, fb.Dense(WIDTHS[-1], "softmax")]


def behind_each(*layers: Callable[[], Any]) -> Callable[[], list[Any]]:
    """A network with layers of these kinds behind each hidden product."""

    def made() -> list[Any]:
        hidden = [layer for width in WIDTHS[1:-1] for layer in (fb.Dense(width, "relu"), *(make() for make in layers))]
        return [*hidden, fb.Dense(WIDTHS[-1], "softmax")]

    return made


def before_relu(make: Callable[[], Any]) -> Callable[[], list[Any]]:
    """A network with a layer of this kind between each hidden product and its relu."""

    def made() -> list[Any]:
        blocks = [(fb.Dense(width), make(), fb.Activation("relu")) for width in WIDTHS[1:-1]]
        return [*(layer for block in blocks for layer in block), fb.Dense(WIDTHS[-1], "softmax")]

    return made


FEATURES = [
    Feature("SGD with momentum"),
    Feature("the same again"),
    Feature("Adam", lambda: fb.Adam(1e-4), most=0.10),
    Feature("`clipvalue`", momentum(clipvalue=0.5), most=0.10),
    Feature("`clipnorm`", momentum(clipnorm=0.1)),
    Feature("`global_clipnorm`", momentum(global_clipnorm=0.1), most=0.25),
    Feature("L1 and L2", layer={"kernel_regularizer": fb.regularizers.L1L2(1e-6, 1e-5)}, most=0.10),
    Feature("max-norm", layer={"kernel_constraint": fb.constraints.MaxNorm(3.0)}),
    Feature("weights not negative", layer={"kernel_constraint": "non_neg"}),
    Feature("accuracy", compile={"metrics": ["accuracy"]}, most=0.10),
    Feature(
        "five metrics",
        compile={"metrics": ["accuracy", "sparse_top_k_categorical_accuracy", "precision", "recall", "f1"]},
        most=0.10,
    ),
    Feature("ROC AUC", compile={"metrics": ["auc"]}, most=0.10),
    Feature("L2 of activities", layers=penalised),
    Feature("cosine schedule", momentum(learning_rate=fb.schedules.CosineDecay(0.01, 10_000)), most=0.10),
    Feature("sample weights", fit={"sample_weight": np.ones(BATCH * STEPS, np.float32)}),
    Feature("weight decay", momentum(weight_decay=1e-4)),
    Feature("average of the weights", momentum(use_ema=True)),
    Feature("four batches a step", momentum(gradient_accumulation_steps=4)),
    Feature("rates of layers", layer={"lr_multiplier": 0.5}),
    Feature("first layer frozen", layers=last_two),
    Feature("dropout", layers=behind_each(lambda: fb.Dropout(0.3)), most=0.10),
    Feature("Gaussian noise", layers=behind_each(lambda: fb.GaussianNoise(0.1))),
    Feature("batch normalisation", layers=before_relu(fb.BatchNormalization), most=0.25),
    Feature("layer normalisation", layers=before_relu(fb.LayerNormalization)),
    Feature("RMS normalisation", layers=before_relu(fb.RMSNormalization)),
]


def measure(features: list[Feature], rounds: int, threads: int | None, dtype: str) -> list[list[float]]:
    """Microseconds a step of each feature in each round."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH * STEPS, WIDTHS[0]), np.float32)
    y = rng.integers(0, WIDTHS[-1], len(x))
    models = []
    for feature in features:
        model = fb.Model(feature.made(), dtype=dtype, threads=threads)
        model.compile(feature.optimizer(), "sparse_categorical_crossentropy", **feature.compile)
        model.fit(x, y, BATCH, verbose=0, **feature.fit)
        models.append(model)
    times: list[list[float]] = [[] for _ in features]
    for number in range(rounds):
        order = range(len(features)) if number % 2 else range(len(features) - 1, -1, -1)
        for index in order:
            start = time.perf_counter()
            models[index].fit(x, y, BATCH, EPOCHS, verbose=0, **features[index].fit)
            times[index].append((time.perf_counter() - start) / (EPOCHS * STEPS) * 1e6)
    return times


def table(features: list[Feature], times: list[list[float]]) -> list[str]:
    """The measurement as lines of markdown."""
    best, plain = min(times[0]), times[0]
    lines = ["| | us a step | median | over plain | by medians | at most |", "|---|---:|---:|---:|---:|---:|"]
    for feature, mine in zip(features, times, strict=True):
        share, middle = min(mine) / best - 1, median(a / b for a, b in zip(mine, plain, strict=True)) - 1
        most = "" if feature.most is None else f"{feature.most:.0%}"
        lines.append(
            f"| {feature.name} | {min(mine):,.0f} | {median(mine):,.0f} | {share:+.1%} | {middle:+.1%} | {most} |"
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="features whose names hold one of these")
    options = parser.parse_args()
    chosen = [f for f in FEATURES[1:] if not options.only or any(text in f.name for text in options.only)]
    chosen = [FEATURES[0], *chosen]
    print("\n".join(table(chosen, measure(chosen, options.rounds, options.threads, options.dtype))))


if __name__ == "__main__":
    main()
