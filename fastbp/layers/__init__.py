"""Floor 2: what a user writes. A layer is a description; it holds no weights."""

from fastbp.layers.activity import ActivityRegularization
from fastbp.layers.base import LAYERS, Layer, Network, lower, unique_names
from fastbp.layers.dense import Activation, Dense, Input
from fastbp.layers.embedding import Embedding
from fastbp.layers.noise import AlphaDropout, Dropout, GaussianDropout, GaussianNoise
from fastbp.layers.normalization import BatchNormalization, LayerNormalization, Normalization, RMSNormalization
from fastbp.layers.residual import Concatenate, Residual

__all__ = [
    "LAYERS",
    "Activation",
    "ActivityRegularization",
    "AlphaDropout",
    "BatchNormalization",
    "Concatenate",
    "Dense",
    "Dropout",
    "Embedding",
    "GaussianDropout",
    "GaussianNoise",
    "Input",
    "Layer",
    "LayerNormalization",
    "Network",
    "Normalization",
    "RMSNormalization",
    "Residual",
    "lower",
    "unique_names",
]
