"""Floor 5: scikit-learn's estimators: change the import, keep the program.

``from fastbp.estimators import MLPClassifier, MLPRegressor`` in place of ``from sklearn.neural_network import ...``.
"""

try:
    import sklearn as sklearn
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "fastbp.estimators needs scikit-learn: pip install 'fastbp[sklearn]'", name="sklearn"
    ) from None

from fastbp.estimators.classifier import MLPClassifier
from fastbp.estimators.onnx import register_onnx_converters
from fastbp.estimators.regressor import MLPRegressor
from fastbp.estimators.search import MLPSearchCV

__all__ = ["MLPClassifier", "MLPRegressor", "MLPSearchCV", "register_onnx_converters"]
