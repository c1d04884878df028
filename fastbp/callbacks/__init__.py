"""Floor 4: what watches a fit: callbacks with Keras' names and hooks."""

from fastbp.callbacks.base import Callback, Logs
from fastbp.callbacks.calling import CallbackList
from fastbp.callbacks.monitors import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from fastbp.callbacks.small import GradientNorms, LambdaCallback, LearningRateScheduler, TerminateOnNaN, Timer
from fastbp.callbacks.writers import CSVLogger, MLflow, TensorBoard

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "GradientNorms",
    "LambdaCallback",
    "LearningRateScheduler",
    "Logs",
    "MLflow",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
    "Timer",
]
