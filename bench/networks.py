"""The networks that are raced and watched: one table for ``rivals.py``, the asv benchmarks and the gate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import fastbp as fb

LOSSES = {
    "sigmoid": "binary_crossentropy",
    "softmax": "sparse_categorical_crossentropy",
    "linear": "mean_squared_error",
}
# PyTorch adds epsilon after the bias correction, Keras and the others before it: one so small makes no difference.
SETTINGS = {
    "sgd": {"learning_rate": 0.01, "momentum": 0.9},
    "adam": {"learning_rate": 1e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-10},
}
# What the numbers of a race are kept in: bfloat16 and TF32 are ways to multiply, the weights stay float32.
STORED = {"float32": "float32", "float64": "float64", "bfloat16": "float32", "tf32": "float32"}


@dataclass(frozen=True)
class Network:
    """One row of the table.

    Parameters
    ----------
    name : str
    widths : tuple of int
        Inputs, hidden layers, outputs.
    batch : int
        Rows of a batch.
    steps : int
        Batches of an epoch; the data have ``batch * steps`` rows, so that no last batch is short.
    optimizers : tuple of str, default ("sgd", "adam")
    hidden : str, default "relu"
        Activation of the hidden layers.
    output : {"softmax", "sigmoid", "linear"}, default "softmax"
        Activation of the last layer; the loss follows from it (``LOSSES``).
    copies : int, default 1
        Networks that train at once on the same batches, from weights of their own.
    """

    name: str
    widths: tuple[int, ...]
    batch: int
    steps: int
    optimizers: tuple[str, ...] = ("sgd", "adam")
    hidden: str = "relu"
    output: str = "softmax"
    copies: int = 1

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return self.batch * self.steps

    @property
    def loss(self) -> str:
        """Keras' name of the loss."""
        return LOSSES[self.output]

    @property
    def flops_per_step(self) -> int:
        """Multiplications and additions of one step's matrix products; the first layer needs no input gradient."""
        products = sum(i * o for i, o in zip(self.widths, self.widths[1:], strict=False))
        return self.copies * self.batch * (6 * products - 2 * self.widths[0] * self.widths[1])

    def data(self, dtype: str = "float32", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw the training data: normal inputs, and targets of a noisy linear teacher.

        Returns
        -------
        x : (rows, I) array of `dtype` (float32 for bfloat16)
        y : (rows,) int64 class numbers for softmax, else (rows, O) array of the same type
        """
        dtype = STORED[dtype]
        rng = np.random.default_rng(seed)
        inputs, outputs = self.widths[0], self.widths[-1]
        x = rng.standard_normal((self.rows, inputs), dtype=np.float32)
        teacher = rng.standard_normal((inputs, outputs), dtype=np.float32) / np.float32(sqrt(inputs))
        score = x @ teacher + rng.standard_normal((self.rows, outputs), dtype=np.float32)
        if self.output == "softmax":
            return x.astype(dtype), score.argmax(1)
        return x.astype(dtype), (score > 0 if self.output == "sigmoid" else score).astype(dtype)

    def weights(self, seed: int = 1) -> list[np.ndarray]:
        """Draw the weights all contestants start from: Glorot-uniform ``(I, O)`` kernels, zero ``(O,)`` biases."""
        rng = np.random.default_rng(seed)
        arrays = []
        for i, o in zip(self.widths, self.widths[1:], strict=False):
            limit = sqrt(6 / (i + o))
            arrays += [rng.uniform(-limit, limit, (i, o)).astype(np.float32), np.zeros(o, np.float32)]
        return arrays

    def start(self) -> list[np.ndarray]:
        """Return what a contestant starts from: ``weights()``, or for copies each array with a first axis for them."""
        if self.copies == 1:
            return self.weights()
        return [np.stack(arrays) for arrays in zip(*map(self.weights, range(1, self.copies + 1)), strict=True)]

    def judge(self, weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
        """Return `mean_loss`; of copies the mean over the first, the middle and the last one."""
        if self.copies == 1:
            return self.mean_loss(weights, x, y)
        chosen = sorted({0, self.copies // 2, self.copies - 1})
        return float(np.mean([self.mean_loss([array[copy] for array in weights], x, y) for copy in chosen]))

    def mean_loss(self, weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss over all rows, in float64 NumPy, with nobody's kernels."""
        total = 0.0
        for start in range(0, len(x), 4096):
            z = x[start : start + 4096].astype(np.float64)
            target = y[start : start + 4096]
            for layer in range(0, len(weights), 2):
                z = z @ weights[layer].astype(np.float64) + weights[layer + 1]
                if layer + 2 < len(weights):
                    z = np.tanh(z) if self.hidden == "tanh" else np.maximum(z, 0)
            if self.output == "softmax":
                total += (np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), target]).sum()
            elif self.output == "sigmoid":
                total += (np.logaddexp(0, z) - z * target).sum()
            else:
                total += ((z - target) ** 2).mean(1).sum()
        return float(total / len(x))

    def model(
        self, optimizer: str, threads: int | None = None, dtype: str = "float32", *, seed: int = 1, **options: Any
    ) -> fb.Model:
        """Return fastbp's model of this network, compiled, with ``weights(seed)`` in it; options are the model's."""
        import fastbp as fb

        layers = [fb.Dense(width, activation=self.hidden) for width in self.widths[1:-1]]
        layers.append(fb.Dense(self.widths[-1], activation=self.output))
        model = fb.Model(layers, dtype=dtype, threads=threads, **options)
        model.build(self.widths[0])
        model.set_weights(self.weights(seed))
        rule = {"sgd": fb.SGD, "adam": fb.Adam}[optimizer]
        model.compile(rule(**SETTINGS[optimizer]), self.loss)
        return model


# keras-deep is the network of Keras' issue 19953; simplechains is SimpleChains.jl's published one, a regression
# (https://julialang.org/blog/2022/04/simple-chains/), so both have linear outputs and the mean squared error.
NETWORKS = {
    network.name: network
    for network in (
        Network("tiny", (20, 10, 1), batch=32, steps=500, output="sigmoid"),
        Network("simplechains", (4, 32, 16, 4), 10_000, steps=1, optimizers=("adam",), hidden="tanh", output="linear"),
        Network("small", (64, 32, 10), batch=32, steps=500),
        Network("tab", (30, 128, 128, 2), batch=64, steps=200),
        Network("mnist", (784, 256, 128, 10), batch=128, steps=100),
        Network("keras-deep", (10, *[128] * 10, 1), batch=500, steps=50, optimizers=("adam",), output="linear"),
        Network("wide", (784, 2048, 2048, 10), batch=256, steps=10),
        Network("large", (1024, 4096, 4096, 4096, 10), batch=512, steps=2),
    )
}

# What is raced on a GPU. tcnn is the ground of tiny-cuda-nn: narrow layers, a large batch.
DEVICE_NETWORKS = {
    network.name: network
    for network in (
        NETWORKS["tiny"],
        replace(NETWORKS["tiny"], name="tiny-1000", copies=1000),
        Network("tcnn", (64, 64, 64, 16), batch=16384, steps=16, output="linear"),
        NETWORKS["mnist"],
        replace(NETWORKS["mnist"], name="mnist@8192", batch=8192, steps=10),
        NETWORKS["wide"],
        NETWORKS["large"],
        replace(NETWORKS["large"], name="large@8192", batch=8192),
    )
}


def named(text: str, table: Mapping[str, Network] = NETWORKS) -> Network:
    """Return a network of the table, or one made of its widths, either with another batch: "mnist@7", "20-97-3@1".

    Networks that are not in the table have relu and softmax; with one output sigmoid. An epoch has about as much work
    as one of the table's, in at least 2 and at most 2000 steps.

    Raises
    ------
    ValueError
        Where the text is neither.
    """
    name, _, batch = text.partition("@")
    if batch and not re.fullmatch("[1-9][0-9]*", batch):
        raise ValueError(f"{text}: the batch after @ must be a whole number of rows")
    if text in table:
        return table[text]
    if name in table:
        network = replace(table[name], name=text, batch=int(batch))
    elif re.fullmatch("[1-9][0-9]*(-[1-9][0-9]*)+", name):
        widths = tuple(map(int, name.split("-")))
        network = Network(text, widths, int(batch or 32), 1, output="sigmoid" if widths[-1] == 1 else "softmax")
    else:
        raise ValueError(f"{text} is neither among {', '.join(table)} nor widths and a batch such as 784-256-10@100")
    return replace(network, steps=min(2000, max(2, ceil(1e9 / network.flops_per_step))))
