"""Layers that change numbers at random while training, and nothing in a prediction."""

import math
from typing import Any, ClassVar

import numpy as np

from fastbp._spelling import answers
from fastbp.activations import SELU_ALPHA, SELU_SCALE
from fastbp.layers.base import Layer, Network
from fastbp.layout import operations
from fastbp.layout.operations import Operation


class Noise(Layer):
    """What the layers have in common that change numbers at random while training, and nothing in a prediction."""

    operation: ClassVar[Operation]
    amount: ClassVar[str] = "rate"
    rate: float
    stddev: float

    def __init__(self, amount: float, *, seed: int | None = None, name: str | None = None) -> None:
        label = f"{type(self).__name__}: {self.amount}"
        most = math.inf if self.amount == "stddev" else 1.0
        if isinstance(amount, bool) or not isinstance(amount, (int, float, np.floating)) or not 0.0 <= amount < most:
            wanted = "of at least 0" if most == math.inf else "from 0 to below 1"
            raise ValueError(f"{label} must be a number {wanted}, got {amount!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
            raise ValueError(f"{type(self).__name__}: seed must be a whole number of at least 0, got {seed!r}")
        setattr(self, self.amount, float(amount))
        self.seed, self.name = None if seed is None else int(seed), name

    def numbers(self) -> tuple[float, ...]:
        """What the formula takes."""
        raise NotImplementedError

    def lower(self, network: Network, name: str) -> None:
        before = sum(spec.operation.noise for spec in network.specs)
        key = before if self.seed is None else (1 << 32) + self.seed
        network.add(name, self.operation, numbers=self.numbers(), key=key)

    def settings(self) -> dict[str, Any]:
        return {self.amount: getattr(self, self.amount), "seed": self.seed}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Layer:
        return cls(settings.pop(cls.amount), **settings)


class Dropout(Noise):
    """Sets numbers to 0 at random while training and scales the others by 1 / (1 - rate); nothing in a prediction.

    Srivastava et al., "Dropout", 2014, in the inverted form of all libraries. Each number's draw is computed from
    (seed, layer, step, row of the batch, neuron): the same for any number of threads, and again in a resumed fit.

    Parameters
    ----------
    rate : share of numbers set to 0, from 0 to below 1
    seed : of this layer's draws beside the model's; by default its place among the layers that draw
    name : as in `Dense`
    """

    kind = "dropout"
    operation = operations.DROPOUT

    def __init__(self, rate: float, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(rate, seed=seed, name=name)

    def numbers(self) -> tuple[float, ...]:
        return self.rate, 1.0 / (1.0 - self.rate)


class AlphaDropout(Noise):
    """Dropout that keeps mean and variance of selu's outputs: Klambauer et al., "Self-normalizing networks", 2017.

    Parameters
    ----------
    rate, seed, name : as in `Dropout`
    """

    kind = "alpha_dropout"
    operation = operations.ALPHA_DROPOUT

    def __init__(self, rate: float, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(rate, seed=seed, name=name)

    def numbers(self) -> tuple[float, ...]:
        floor = -SELU_SCALE * SELU_ALPHA
        scale = ((1.0 - self.rate) * (1.0 + self.rate * floor**2)) ** -0.5
        shift = -scale * self.rate * floor
        return self.rate, scale, shift, scale * floor + shift


class GaussianNoise(Noise):
    """Adds normal numbers of deviation `stddev` while training; nothing in a prediction.

    Parameters
    ----------
    stddev : at least 0
    seed, name : as in `Dropout`
    """

    kind = "gaussian_noise"
    operation = operations.GAUSSIAN_NOISE
    amount = "stddev"

    def __init__(self, stddev: float, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(stddev, seed=seed, name=name)

    def numbers(self) -> tuple[float, ...]:
        return (self.stddev,)


class GaussianDropout(Noise):
    """Multiplies by normal numbers around 1 of variance rate / (1 - rate) while training (Srivastava et al. 2014).

    Parameters
    ----------
    rate, seed, name : as in `Dropout`
    """

    kind = "gaussian_dropout"
    operation = operations.GAUSSIAN_DROPOUT

    def __init__(self, rate: float, *, seed: int | None = None, name: str | None = None) -> None:
        super().__init__(rate, seed=seed, name=name)

    def numbers(self) -> tuple[float, ...]:
        return (math.sqrt(self.rate / (1.0 - self.rate)),)


answers(__name__)
