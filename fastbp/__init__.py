"""fastbp: the fastest multilayer-perceptron trainer that installs with pip.

What stands here is the table of contents; a name loads its module when it is first used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastbp import activations as activations
    from fastbp import callbacks as callbacks
    from fastbp import constraints as constraints
    from fastbp import losses as losses
    from fastbp import math as math
    from fastbp import optimizers as optimizers
    from fastbp import regularizers as regularizers
    from fastbp import schedules as schedules
    from fastbp.cpu.peak import peak_gflops as peak_gflops
    from fastbp.data.tabular import TabularEncoder as TabularEncoder
    from fastbp.exchange.interchange import from_keras_weights as from_keras_weights
    from fastbp.exchange.interchange import from_sklearn as from_sklearn
    from fastbp.exchange.interchange import from_torch_state_dict as from_torch_state_dict
    from fastbp.exchange.interchange import to_sklearn as to_sklearn
    from fastbp.exchange.interchange import to_torch_state_dict as to_torch_state_dict
    from fastbp.exchange.onnx import to_onnx as to_onnx
    from fastbp.history import History as History
    from fastbp.layers import Activation as Activation
    from fastbp.layers import ActivityRegularization as ActivityRegularization
    from fastbp.layers import AlphaDropout as AlphaDropout
    from fastbp.layers import BatchNormalization as BatchNormalization
    from fastbp.layers import Concatenate as Concatenate
    from fastbp.layers import Dense as Dense
    from fastbp.layers import Dropout as Dropout
    from fastbp.layers import Embedding as Embedding
    from fastbp.layers import GaussianDropout as GaussianDropout
    from fastbp.layers import GaussianNoise as GaussianNoise
    from fastbp.layers import Input as Input
    from fastbp.layers import LayerNormalization as LayerNormalization
    from fastbp.layers import Normalization as Normalization
    from fastbp.layers import Residual as Residual
    from fastbp.layers import RMSNormalization as RMSNormalization
    from fastbp.losses import BinaryCrossentropy as BinaryCrossentropy
    from fastbp.losses import BinaryFocalCrossentropy as BinaryFocalCrossentropy
    from fastbp.losses import CategoricalCrossentropy as CategoricalCrossentropy
    from fastbp.losses import CategoricalFocalCrossentropy as CategoricalFocalCrossentropy
    from fastbp.losses import CategoricalHinge as CategoricalHinge
    from fastbp.losses import CosineSimilarity as CosineSimilarity
    from fastbp.losses import GammaDeviance as GammaDeviance
    from fastbp.losses import HalfSquaredError as HalfSquaredError
    from fastbp.losses import Hinge as Hinge
    from fastbp.losses import Huber as Huber
    from fastbp.losses import KLDivergence as KLDivergence
    from fastbp.losses import LogCosh as LogCosh
    from fastbp.losses import MeanAbsoluteError as MeanAbsoluteError
    from fastbp.losses import MeanAbsolutePercentageError as MeanAbsolutePercentageError
    from fastbp.losses import MeanSquaredError as MeanSquaredError
    from fastbp.losses import MeanSquaredLogarithmicError as MeanSquaredLogarithmicError
    from fastbp.losses import NegativeBinomialDeviance as NegativeBinomialDeviance
    from fastbp.losses import Poisson as Poisson
    from fastbp.losses import PoissonDeviance as PoissonDeviance
    from fastbp.losses import Quantile as Quantile
    from fastbp.losses import SparseCategoricalCrossentropies as SparseCategoricalCrossentropies
    from fastbp.losses import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
    from fastbp.losses import SparseCategoricalFocalCrossentropy as SparseCategoricalFocalCrossentropy
    from fastbp.losses import SquaredHinge as SquaredHinge
    from fastbp.losses import TweedieDeviance as TweedieDeviance
    from fastbp.model import Model as Model
    from fastbp.model import Sequential as Sequential
    from fastbp.model import load_model as load_model
    from fastbp.optimizers import LBFGS as LBFGS
    from fastbp.optimizers import SGD as SGD
    from fastbp.optimizers import Adadelta as Adadelta
    from fastbp.optimizers import Adagrad as Adagrad
    from fastbp.optimizers import Adam as Adam
    from fastbp.optimizers import AdamW as AdamW
    from fastbp.optimizers import Lion as Lion
    from fastbp.optimizers import Nadam as Nadam
    from fastbp.optimizers import RAdam as RAdam
    from fastbp.optimizers import RMSprop as RMSprop
    from fastbp.reports.profiling import Profile as Profile
    from fastbp.reports.profiling import profile as profile
    from fastbp.training.fit import DivergenceError as DivergenceError
    from fastbp.training.many import Histories as Histories
    from fastbp.training.many import fit_many as fit_many
    from fastbp.training.rate_finder import LearningRateCurve as LearningRateCurve
    from fastbp.training.rate_finder import find_learning_rate as find_learning_rate
    from fastbp.training.warming import warmup as warmup

_CONTENTS = {
    "fastbp.cpu.peak": ("peak_gflops",),
    "fastbp.layers": (
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
        "LayerNormalization",
        "Normalization",
        "Residual",
        "RMSNormalization",
    ),
    "fastbp.losses": (
        "BinaryCrossentropy",
        "BinaryFocalCrossentropy",
        "CategoricalCrossentropy",
        "CategoricalFocalCrossentropy",
        "CategoricalHinge",
        "CosineSimilarity",
        "GammaDeviance",
        "HalfSquaredError",
        "Hinge",
        "Huber",
        "KLDivergence",
        "LogCosh",
        "MeanAbsoluteError",
        "MeanAbsolutePercentageError",
        "MeanSquaredError",
        "MeanSquaredLogarithmicError",
        "NegativeBinomialDeviance",
        "Poisson",
        "PoissonDeviance",
        "Quantile",
        "SparseCategoricalCrossentropies",
        "SparseCategoricalCrossentropy",
        "SparseCategoricalFocalCrossentropy",
        "SquaredHinge",
        "TweedieDeviance",
    ),
    "fastbp.training.fit": ("DivergenceError",),
    "fastbp.history": ("History",),
    "fastbp.exchange.interchange": (
        "from_keras_weights",
        "from_sklearn",
        "from_torch_state_dict",
        "to_sklearn",
        "to_torch_state_dict",
    ),
    "fastbp.training.many": ("Histories", "fit_many"),
    "fastbp.model": ("Model", "Sequential", "load_model"),
    "fastbp.exchange.onnx": ("to_onnx",),
    "fastbp.optimizers": ("LBFGS", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Lion", "Nadam", "RAdam", "RMSprop"),
    "fastbp.reports.profiling": ("Profile", "profile"),
    "fastbp.data.tabular": ("TabularEncoder",),
    "fastbp.training.warming": ("warmup",),
    "fastbp.training.rate_finder": ("LearningRateCurve", "find_learning_rate"),
}
_MODULES = (
    "activations",
    "callbacks",
    "constraints",
    "layers",
    "losses",
    "math",
    "metrics",
    "optimizers",
    "regularizers",
    "schedules",
)
_HOME = {name: module for module, names in _CONTENTS.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastbp.{name}")
    if name not in _HOME:
        # with its name and its module Python's tracebacks add what may have been meant
        raise AttributeError(f"module 'fastbp' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
