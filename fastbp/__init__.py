"""fastbp: the fastest multilayer-perceptron trainer that installs with pip.

What stands here is the table of contents; a name loads its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastbp import activations as activations
    from fastbp import callbacks as callbacks
    from fastbp import losses as losses
    from fastbp import optimizers as optimizers
    from fastbp import schedules as schedules
    from fastbp.cpu.peak import peak_gflops as peak_gflops
    from fastbp.fit import DivergenceError as DivergenceError
    from fastbp.history import History as History
    from fastbp.layers import Dense as Dense
    from fastbp.layers import Input as Input
    from fastbp.losses import BinaryCrossentropy as BinaryCrossentropy
    from fastbp.losses import CategoricalCrossentropy as CategoricalCrossentropy
    from fastbp.losses import HalfSquaredError as HalfSquaredError
    from fastbp.losses import Huber as Huber
    from fastbp.losses import MeanAbsoluteError as MeanAbsoluteError
    from fastbp.losses import MeanSquaredError as MeanSquaredError
    from fastbp.losses import Poisson as Poisson
    from fastbp.losses import PoissonDeviance as PoissonDeviance
    from fastbp.losses import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
    from fastbp.many import Histories as Histories
    from fastbp.many import fit_many as fit_many
    from fastbp.model import Model as Model
    from fastbp.model import Sequential as Sequential
    from fastbp.model import load_model as load_model
    from fastbp.optimizers import SGD as SGD
    from fastbp.optimizers import Adadelta as Adadelta
    from fastbp.optimizers import Adagrad as Adagrad
    from fastbp.optimizers import Adam as Adam
    from fastbp.optimizers import AdamW as AdamW
    from fastbp.optimizers import Lion as Lion
    from fastbp.optimizers import Nadam as Nadam
    from fastbp.optimizers import RAdam as RAdam
    from fastbp.optimizers import RMSprop as RMSprop
    from fastbp.profiling import Profile as Profile
    from fastbp.profiling import profile as profile
    from fastbp.warming import warmup as warmup

_CONTENTS = {
    "fastbp.cpu.peak": ("peak_gflops",),
    "fastbp.layers": ("Dense", "Input"),
    "fastbp.losses": (
        "BinaryCrossentropy",
        "CategoricalCrossentropy",
        "HalfSquaredError",
        "Huber",
        "MeanAbsoluteError",
        "MeanSquaredError",
        "Poisson",
        "PoissonDeviance",
        "SparseCategoricalCrossentropy",
    ),
    "fastbp.fit": ("DivergenceError",),
    "fastbp.history": ("History",),
    "fastbp.many": ("Histories", "fit_many"),
    "fastbp.model": ("Model", "Sequential", "load_model"),
    "fastbp.optimizers": ("SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Lion", "Nadam", "RAdam", "RMSprop"),
    "fastbp.profiling": ("Profile", "profile"),
    "fastbp.warming": ("warmup",),
}
_MODULES = ("activations", "callbacks", "layers", "losses", "metrics", "optimizers", "schedules")
_HOME = {name: module for module, names in _CONTENTS.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fastbp.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
