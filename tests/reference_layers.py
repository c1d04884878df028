"""Layers beyond dense ones in plain float64 NumPy, forward and back: slow and obvious, as in `reference`.

A layer's function takes its inputs, its arrays and what the step draws, and returns its outputs and a function that
turns dL/d(outputs) into dL/d(inputs) and the gradients of its arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import reference
from numpy.typing import NDArray

from fastbp import layers as kinds

Array = NDArray[np.float64]
Back = Callable[[Array], tuple[Array, list[Array]]]
Result = tuple[Array, Back]

MASK = (1 << 64) - 1


# --- noise: the documented counter, in whole numbers -----------------------------------------------------------------


def mix64(x: int) -> int:
    """The splitmix64 finaliser."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def mix32(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    low = np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & low
    return x ^ (x >> np.uint64(16))


def uniforms(seed: int, op: int, step: int, rows: int, columns: int, single: bool) -> tuple[Array, Array]:
    """The two uniform numbers of each row's place in the batch and column."""
    key = mix64(seed ^ mix64(op ^ mix64(step)))
    low = 0xFFFFFFFF
    row = mix32(np.arange(rows, dtype=np.uint64) ^ np.uint64(key & low))
    found = []
    for which in range(2):
        column = np.array([mix64((key + 2 * o + which) & MASK) & low for o in range(columns)], np.uint64)
        bits = mix32(row[:, None] ^ column[None, :])
        found.append((bits >> np.uint64(8)) * 2.0**-24 if single else bits * 2.0**-32)
    return found[0], found[1]


def normals(u: Array, v: Array) -> Array:
    return np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * np.pi * v)


def noisy(layer: Any, x: Array, u: Array, v: Array) -> Result:
    if isinstance(layer, kinds.Dropout):
        factor = (u >= layer.rate) / (1.0 - layer.rate)
        return x * factor, lambda d: (d * factor, [])
    if isinstance(layer, kinds.AlphaDropout):
        floor, kept, rate = -reference.SELU_SCALE * reference.SELU_ALPHA, u >= layer.rate, layer.rate
        a = ((1.0 - rate) * (1.0 + rate * floor**2)) ** -0.5
        b = -a * rate * floor
        return np.where(kept, x, floor) * a + b, lambda d: (d * kept * a, [])
    if isinstance(layer, kinds.GaussianNoise):
        return x + layer.stddev * normals(u, v), lambda d: (d, [])
    factor = 1.0 + math.sqrt(layer.rate / (1.0 - layer.rate)) * normals(u, v)
    return x * factor, lambda d: (d * factor, [])


# --- normalisations --------------------------------------------------------------------------------------------------


def batch_normalized(x: Array, gamma: Array, beta: Array, epsilon: float) -> Result:
    mean, variance, rows = x.mean(axis=0), x.var(axis=0), len(x)
    inverse = 1.0 / np.sqrt(variance + epsilon)
    hat = (x - mean) * inverse

    def back(d: Array) -> tuple[Array, list[Array]]:
        dbeta, dgamma = d.sum(axis=0), (d * hat).sum(axis=0)
        return gamma * inverse * (d - dbeta / rows - hat * dgamma / rows), [dgamma, dbeta]

    return hat * gamma + beta, back


def row_normalized(x: Array, gamma: Array, beta: Array, epsilon: float, centred: bool) -> Result:
    mean = x.mean(axis=1, keepdims=True) if centred else 0.0
    inverse = 1.0 / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + epsilon)
    hat = (x - mean) * inverse

    def back(d: Array) -> tuple[Array, list[Array]]:
        g = d * gamma
        plain = g.mean(axis=1, keepdims=True) if centred else 0.0
        dx = inverse * (g - plain - hat * (g * hat).mean(axis=1, keepdims=True))
        return dx, [(d * hat).sum(axis=0), d.sum(axis=0)]

    return hat * gamma + beta, back


# --- networks --------------------------------------------------------------------------------------------------------


def activated(row: Any, z: Array) -> Result:
    a = reference.activate(row.name, z)
    if row.name == "softmax":
        return a, lambda d: (a * (d - (a * d).sum(axis=1, keepdims=True)), [])
    derivative = reference.ACTIVATIONS[row.name][1]
    return a, lambda d: (d * derivative(z), [])


class Network:
    """A model's layers with weights of their own.

    Parameters
    ----------
    model : a built model; its weights are copied
    training : whether noise is drawn and batches give their own statistics
    step : the counter's
    rounded : applied to both sides of every product
    """

    def __init__(
        self,
        model: Any,
        training: bool = True,
        step: int = 0,
        rounded: Callable[[Array], Array] = reference.exact,
    ) -> None:
        self.model, self.training, self.step, self.rounded = model, training, step, rounded
        self.arrays: Iterator[Array] = iter([w.astype(np.float64) for w in model.get_weights()])
        self.noises, self.penalty = 0, 0.0
        self.statistics: list[tuple[Array, Array]] = []

    def run(self, x: Array) -> Result:
        return self.stack(self.model.layers, x)

    def stack(self, layers: list[Any], x: Array) -> Result:
        """The layers one after the other."""
        backs = []
        for layer in layers:
            x, back = self.layer(layer, x)
            backs.append(back)

        def through(d: Array) -> tuple[Array, list[Array]]:
            gradients: list[Array] = []
            for back in reversed(backs):
                d, own = back(d)
                gradients = own + gradients
            return d, gradients

        return x, through

    def layer(self, layer: Any, x: Array) -> Result:
        if isinstance(layer, kinds.Dense):
            return self.dense(layer, x)
        if isinstance(layer, kinds.Activation):
            return activated(layer.activation, x)
        if isinstance(layer, kinds.Residual):
            return self.residual(layer, x)
        if isinstance(layer, kinds.Concatenate):
            return self.concatenated(layer, x)
        if isinstance(layer, kinds.Embedding):
            return self.embedded(layer, x)
        if isinstance(layer, kinds.ActivityRegularization):
            return self.penalised(x, layer.l1, layer.l2)
        if isinstance(layer, kinds.Normalization):
            mean, variance = next(self.arrays), next(self.arrays)
            scale = 1.0 / np.sqrt(variance + layer.EPSILON)
            return (x - mean) * scale, lambda d: (d * scale, [0.0 * mean, 0.0 * mean])
        if hasattr(layer, "epsilon"):
            return self.normalized(layer, x)
        place = self.noises
        self.noises += 1
        if not self.training:
            return x, lambda d: (d, [])
        key = place if layer.seed is None else (1 << 32) + layer.seed
        single = self.model.dtype == np.float32
        u, v = uniforms(self.model.seed, key, self.step, *x.shape, single)
        return noisy(layer, x, u, v)

    def dense(self, layer: Any, x: Array) -> Result:
        kernel = next(self.arrays)
        bias = next(self.arrays) if layer.use_bias else None
        rounded = self.rounded
        z = rounded(x) @ rounded(kernel) + (0.0 if bias is None else rounded(bias))
        a, through = activated(layer.activation, z)
        penalise: Back = lambda d: (d, [])  # noqa: E731
        if layer.activity_regularizer is not None:
            a, penalise = self.penalised(a, *layer.activity_regularizer.strengths)

        def back(d: Array) -> tuple[Array, list[Array]]:
            dz, _ = through(penalise(d)[0])
            gradients = [rounded(x).T @ rounded(dz)] + ([] if bias is None else [rounded(dz).sum(axis=0)])
            return rounded(dz) @ rounded(kernel).T, gradients

        return a, back

    def penalised(self, x: Array, l1: float, l2: float) -> Result:
        self.penalty += (l1 * np.abs(x).sum() + l2 * (x**2).sum()) / len(x)
        return x, lambda d: (d + (l1 * np.sign(x) + 2 * l2 * x) / len(x), [])

    def embedded(self, layer: Any, x: Array) -> Result:
        passing = [c for c in range(x.shape[1]) if c not in layer.columns]
        tables = {c: next(self.arrays) for c in layer.columns}
        codes = {c: np.rint(x[:, c]).astype(int) for c in layer.columns}
        parts = [x[:, passing], *(tables[c][codes[c]] for c in tables)]

        def back(d: Array) -> tuple[Array, list[Array]]:
            dx, gradients, place = np.zeros_like(x), [], len(passing)
            dx[:, passing] = d[:, :place]
            for c, table in tables.items():
                gradient = np.zeros_like(table)
                for row, code in enumerate(codes[c]):
                    gradient[code] += d[row, place : place + table.shape[1]]
                gradients.append(gradient)
                place += table.shape[1]
            return dx, gradients

        return np.concatenate(parts, axis=1), back

    def concatenated(self, layer: Any, x: Array) -> Result:
        inner, through = self.stack(layer.layers, x)
        z, finish = activated(layer.activation, np.concatenate([x, inner], axis=1))

        def back(d: Array) -> tuple[Array, list[Array]]:
            dz, _ = finish(d)
            dx, gradients = through(dz[:, x.shape[1] :])
            return dx + dz[:, : x.shape[1]], gradients

        return z, back

    def normalized(self, layer: Any, x: Array) -> Result:
        scale, center = getattr(layer, "scale", True), getattr(layer, "center", True)
        gamma = next(self.arrays) if scale else np.ones(x.shape[1])
        beta = next(self.arrays) if center else np.zeros(x.shape[1])
        extra: list[Array] = []
        if isinstance(layer, kinds.BatchNormalization):
            mean, variance = next(self.arrays), next(self.arrays)
            extra = [0.0 * mean, 0.0 * mean]
            if not self.training:
                return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta, lambda d: (d, [])
            keep = layer.momentum
            self.statistics.append(
                (mean * keep + x.mean(axis=0) * (1 - keep), variance * keep + x.var(axis=0) * (1 - keep))
            )
            z, through = batch_normalized(x, gamma, beta, layer.epsilon)
        else:
            z, through = row_normalized(x, gamma, beta, layer.epsilon, isinstance(layer, kinds.LayerNormalization))

        def back(d: Array) -> tuple[Array, list[Array]]:
            dx, (dgamma, dbeta) = through(d)
            return dx, ([dgamma] if scale else []) + ([dbeta] if center else []) + extra

        return z, back

    def residual(self, layer: Any, x: Array) -> Result:
        projection = None
        if layer.width(x.shape[1]) != x.shape[1]:
            projection = next(self.arrays)
        inner, through = self.stack(layer.layers, x)
        rounded = self.rounded
        beside = x if projection is None else rounded(x) @ rounded(projection)
        z, finish = activated(layer.activation, inner + beside)

        def back(d: Array) -> tuple[Array, list[Array]]:
            dz, _ = finish(d)
            dx, gradients = through(dz)
            if projection is None:
                return dx + dz, gradients
            return dx + rounded(dz) @ rounded(projection).T, [rounded(x).T @ rounded(dz), *gradients]

        return z, back
