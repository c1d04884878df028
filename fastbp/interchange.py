"""Floor 5: networks from and to scikit-learn, PyTorch and Keras, none of them imported unless it is asked for.

Arrays are copied; a network predicts the same on both sides, to rounding.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import activations, losses, optimizers
from fastbp._spelling import answers
from fastbp.activations import Activation
from fastbp.layers import Dense
from fastbp.losses import Loss
from fastbp.model import Model

Array = NDArray[Any]
Kernel = tuple[Array, Array | None]
"""Weights (I, O) of a dense layer, and biases (O,) where it has them."""

_LINEAR = "the module named {!r} holds {}; only linear layers, weight (O, I) and bias (O,), can be taken"


def _model(kernels: Sequence[Kernel], rows: Sequence[Activation], name: str, threads: int | None) -> Model:
    """A built model of dense layers with these weights."""
    given = [array for pair in kernels for array in pair if array is not None]
    dtype = "float64" if given[0].dtype == np.float64 else "float32"
    layers = [
        Dense(kernel.shape[1], activation=row, use_bias=bias is not None)
        for (kernel, bias), row in zip(kernels, rows, strict=True)
    ]
    model = Model(layers, dtype=dtype, name=name, threads=threads)
    model.build(given[0].shape[0])
    model.set_weights(given)
    return model


def _checked(kernels: Sequence[Kernel], task: str) -> Sequence[Kernel]:
    """The layers, if each takes what the one before it gives."""
    if not kernels:
        raise ValueError(f"{task}: there is no linear layer in what was given")
    for (kernel, _), (after, _) in pairwise(kernels):
        if kernel.shape[1] != after.shape[0]:
            shapes = [kernel.shape for kernel, _ in kernels]
            raise ValueError(f"{task}: the layers are no chain; their weights (I, O) are {shapes}")
    for kernel, bias in kernels:
        if bias is not None and bias.shape != kernel.shape[1:]:
            raise ValueError(f"{task}: a layer of {kernel.shape[1]} neurons has a bias of shape {bias.shape}")
    return kernels


def _rows(activation: Any, output: Any, layers: int) -> list[Activation]:
    """The activation of each layer: one for all hidden ones, or each its own."""
    if activation is None or isinstance(activation, (str, Activation)):
        hidden = [activations.get(activation)] * (layers - 1)
    else:
        hidden = [activations.get(each) for each in activation]
        if len(hidden) != layers - 1:
            raise ValueError(
                f"activation names {len(hidden)} activations for {layers - 1} hidden layers: give one, or one each"
            )
    return [*hidden, activations.get(output)]


# ---------------------------------------------------------------- scikit-learn

_OURS = {"identity": "linear", "logistic": "sigmoid", "exp": "exponential"}
"""scikit-learn's names of activations that have another one here."""
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()} | {"tanh": "tanh", "relu": "relu", "softmax": "softmax"}
_HIDDEN = ("linear", "sigmoid", "tanh", "relu")
"""What scikit-learn has for hidden layers."""


def from_sklearn(estimator: Any, *, threads: int | None = None) -> Model:
    """A fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn as a model.

    Parameters
    ----------
    estimator : the estimator (of a pipeline or a search: its last step, or its ``best_estimator_``)
    threads : as for `Model`

    Returns
    -------
    Model
        Its outputs are those of the last layer: probabilities (N, classes), of two classes the second one's (N, 1), or
        numbers. ``model.meta["classes"]`` holds the classes. It is compiled with the estimator's loss and solver (Adam
        in place of "lbfgs"), so that it can be trained further.

    Raises
    ------
    TypeError : something else, or an estimator that isn't fitted
    """
    if not all(hasattr(estimator, name) for name in ("coefs_", "intercepts_", "out_activation_", "activation")):
        raise TypeError(
            f"from_sklearn: wanted a fitted MLPClassifier or MLPRegressor of scikit-learn, got {estimator!r:.80}"
        )
    if hasattr(estimator, "to_model"):
        return _with_names(estimator.to_model(), estimator)
    hidden, output = (_OURS.get(n, n) for n in (estimator.activation, estimator.out_activation_))
    kernels = list(zip(map(np.asarray, estimator.coefs_), map(np.asarray, estimator.intercepts_), strict=True))
    model = _model(kernels, _rows(hidden, output, len(kernels)), type(estimator).__name__, threads)
    rate = estimator.learning_rate_init
    adam = optimizers.Adam(rate, beta_1=estimator.beta_1, beta_2=estimator.beta_2, epsilon=estimator.epsilon)
    sgd = optimizers.SGD(
        rate, momentum=estimator.momentum, nesterov=bool(estimator.nesterovs_momentum and estimator.momentum)
    )
    model.compile(sgd if estimator.solver == "sgd" else adam, _loss_of(estimator, output))
    return _with_names(model, estimator)


def _with_names(model: Model, estimator: Any) -> Model:
    if hasattr(estimator, "classes_"):
        found = estimator.classes_
        model.meta["classes"] = [c.tolist() for c in found] if isinstance(found, list) else np.asarray(found).tolist()
    model.column_names = list(getattr(estimator, "feature_names_in_", ())) or None
    return model


def _loss_of(estimator: Any, output: str) -> Loss:
    """What the estimator descends, as `Model` has it."""
    names = {"softmax": "sparse_categorical_crossentropy", "sigmoid": "binary_crossentropy"}
    poisson = getattr(estimator, "loss", None) == "poisson"
    return losses.get(names.get(output, "poisson_deviance" if poisson else "mean_squared_error"))


def to_sklearn(model: Model, *, classes: ArrayLike | None = None, own: bool = False) -> Any:
    """A model of dense layers as a fitted estimator of scikit-learn.

    Parameters
    ----------
    model : ends with linear or exponential outputs (``MLPRegressor``), or with sigmoid or softmax (``MLPClassifier``)
    classes : labels of the outputs (two for a single sigmoid output); by default ``model.meta["classes"]``, or 0, 1 ...
    own : whether to make ``fastbp.estimators``' class in place of scikit-learn's, which has linear, sigmoid, tanh and
        relu alone, the same in all hidden layers

    Returns
    -------
    MLPClassifier or MLPRegressor
        A softmax over two outputs becomes one sigmoid of their difference. Several sigmoid outputs are labels of which
        a row may have any number. ``partial_fit`` goes on with a new optimizer.

    Raises
    ------
    ImportError : scikit-learn isn't installed
    ValueError : layers or activations that the estimator doesn't have
    """
    if not isinstance(model, Model):
        raise TypeError(f"to_sklearn: wanted a fastbp Model, got {model!r:.80}")
    model.build()
    kernels = _dense_only(model, "to_sklearn")
    rows = [layer.activation for layer in model.layers]
    hidden, output = rows[:-1], rows[-1].name
    if output not in ("linear", "exponential", "sigmoid", "softmax"):
        raise ValueError(
            f"to_sklearn: the output activation {output!r} is none of scikit-learn's: linear, exponential, sigmoid, "
            "softmax"
        )
    if not own and (len(set(hidden)) > 1 or any(row.name not in _HIDDEN for row in hidden)):
        raise ValueError(
            f"to_sklearn: hidden layers have the activations {[row.name for row in hidden]}; scikit-learn has one of "
            f"{', '.join(_HIDDEN)} for all of them: to_sklearn(model, own=True) makes fastbp's estimator, which has any"
        )
    if output == "softmax" and model.output_width == 2:
        kernel, bias = kernels[-1]
        kernels[-1] = (np.diff(kernel, axis=1), None if bias is None else np.diff(bias))
        output = "sigmoid"
    estimator = _unfitted(model, hidden, output, own)
    _fill(estimator, kernels, _THEIRS[output], own)
    if output in ("sigmoid", "softmax"):
        _label(estimator, model, classes)
    elif classes is not None:
        raise ValueError(f"to_sklearn: classes are given, but the outputs are {rows[-1].name}: a regression has none")
    return estimator


def _dense_only(model: Model, task: str) -> list[Kernel]:
    """The arrays of a model that has dense layers alone."""
    queue, kernels = iter(model.get_weights()), []
    for layer in model.layers:
        if type(layer) is not Dense:
            raise ValueError(f"{task}: {layer!r} has no counterpart there; only Dense layers have")
        kernel = next(queue)
        kernels.append((kernel, next(queue) if layer.use_bias else None))
    return kernels


def _unfitted(model: Model, hidden: Sequence[Activation], output: str, own: bool) -> Any:
    try:
        from sklearn import neural_network as theirs
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "to_sklearn needs scikit-learn: pip install 'fastbp[sklearn]'", name="sklearn"
        ) from None
    from fastbp import estimators

    home: Any = estimators if own else theirs
    settings: dict[str, Any] = {"hidden_layer_sizes": tuple(width for _, width in model.outputs()[:-1])}
    if hidden:
        settings["activation"] = list(hidden) if len(set(hidden)) > 1 else hidden[0] if own else _THEIRS[hidden[0].name]
    if own:
        settings |= {"dtype": model.dtype.name, "threads": model.threads}
    if output in ("sigmoid", "softmax"):
        return home.MLPClassifier(**settings)
    return home.MLPRegressor(loss="poisson" if output == "exponential" else "squared_error", **settings)


def _fill(estimator: Any, kernels: Sequence[Kernel], output: str, own: bool) -> None:
    """Give an estimator the attributes that a fit would."""
    coefs = [kernel for kernel, _ in kernels]
    estimator.n_features_in_, estimator.n_outputs_ = coefs[0].shape[0], coefs[-1].shape[1]
    estimator.n_layers_, estimator.out_activation_ = len(coefs) + 1, output
    estimator.coefs_ = coefs
    estimator.intercepts_ = [
        np.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias for kernel, bias in kernels
    ]
    estimator.n_iter_ = estimator.t_ = estimator._no_improvement_count = 0
    estimator.loss_curve_, estimator.best_loss_ = [], np.inf
    estimator.validation_scores_ = estimator.best_validation_score_ = None
    if not own:
        estimator._random_state = np.random.RandomState(0)


def _label(estimator: Any, model: Model, classes: ArrayLike | None) -> None:
    """Give a classifier the names of its classes."""
    from sklearn.preprocessing import LabelBinarizer

    outputs = int(estimator.n_outputs_)
    multilabel = outputs > 1 and estimator.out_activation_ == "logistic"
    count = 2 if outputs == 1 else outputs
    labels = np.asarray(model.meta.get("classes", range(count)) if classes is None else classes)
    if len(np.unique(labels)) != count or labels.shape != (count,):
        raise ValueError(f"to_sklearn: wanted {count} different classes for these outputs, got {labels.tolist()}")
    if not multilabel and (np.sort(labels) != labels).any():
        raise ValueError(f"to_sklearn: scikit-learn sorts classes, so the outputs must be in that order: {labels}")
    estimator._label_binarizer = LabelBinarizer().fit(np.eye(count, dtype=int) if multilabel else labels)
    estimator.classes_ = labels if multilabel else estimator._label_binarizer.classes_


# ---------------------------------------------------------------- PyTorch


def from_torch_state_dict(
    state: Mapping[str, Any],
    activation: str | Activation | Sequence[str | Activation] = "relu",
    output_activation: str | Activation | None = None,
    *,
    threads: int | None = None,
) -> Model:
    """A model of the linear layers in a PyTorch ``state_dict``. PyTorch isn't imported.

    Parameters
    ----------
    state : names to tensors or arrays, "<module>.weight" (O, I) and "<module>.bias" (O,), in the order of the layers
    activation : of the hidden layers, which a state dict doesn't say: one for all, or one for each
    output_activation : of the last layer, default linear
    threads : as for `Model`

    Returns
    -------
    Model
        Built, not compiled; float64 if the first weights are, else float32.

    Raises
    ------
    ValueError : layers of other kinds, or that are no chain
    """
    named: dict[str, dict[str, Array]] = {}
    for key, tensor in state.items():
        module, _, part = key.rpartition(".")
        named.setdefault(module, {})[part] = _array(tensor)
    kernels = []
    for module, parts in named.items():
        weight, bias = parts.get("weight"), parts.get("bias")
        if weight is None or weight.ndim != 2 or parts.keys() - {"weight", "bias"}:
            shapes = ", ".join(f"{part} {array.shape}" for part, array in parts.items())
            raise ValueError("from_torch_state_dict: " + _LINEAR.format(module, shapes))
        kernels.append((weight.T, bias))
    return _model(
        _checked(kernels, "from_torch_state_dict"),
        _rows(activation, output_activation, len(kernels)),
        "model",
        threads,
    )


def _array(tensor: Any) -> Array:
    """The numbers of a tensor of any device and type, or of an array."""
    for step in ("detach", "cpu"):
        if hasattr(tensor, step):
            tensor = getattr(tensor, step)()
    if str(getattr(tensor, "dtype", "")) in ("torch.bfloat16", "torch.float16"):  # NumPy has no bfloat16
        tensor = tensor.float()
    return np.asarray(tensor.numpy() if hasattr(tensor, "numpy") else tensor)


def to_torch_state_dict(model: Model, modules: Iterable[str] | None = None) -> dict[str, Array]:
    """The weights as a PyTorch ``state_dict`` of arrays. PyTorch isn't imported.

    ``net.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch_state_dict(model).items()})``

    Parameters
    ----------
    model : of dense layers
    modules : names of the linear modules, one for each layer; by default "0", "2", "4" ..., as in
        ``nn.Sequential(nn.Linear(...), nn.ReLU(), nn.Linear(...), ...)``

    Returns
    -------
    dict of str to ndarray
        "<module>.weight" (O, I) and "<module>.bias" (O,), copies.

    Raises
    ------
    ValueError : other layers than dense ones, or another number of names than of layers
    """
    model.build()
    kernels = _dense_only(model, "to_torch_state_dict")
    names = [str(2 * i) for i in range(len(kernels))] if modules is None else list(modules)
    if len(names) != len(kernels):
        raise ValueError(f"modules has {len(names)} names for {len(kernels)} layers: {names}")
    state = {}
    for name, (kernel, bias) in zip(names, kernels, strict=True):
        state[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
        if bias is not None:
            state[f"{name}.bias"] = bias
    return state


# ---------------------------------------------------------------- Keras


def from_keras_weights(
    weights: Any,
    activation: str | Activation | Sequence[str | Activation] | None = None,
    output_activation: str | Activation | None = None,
    *,
    threads: int | None = None,
) -> Model:
    """A model with the weights of a Keras network of ``Dense`` layers. Keras isn't imported.

    The way back needs no function: ``keras_model.set_weights(model.get_weights())``.

    Parameters
    ----------
    weights : what ``keras_model.get_weights()`` returns: kernels (I, O) and biases (O,), layer by layer; or the Keras
        model itself, which knows its activations too
    activation : of the hidden layers, "relu" by default: one for all, or one for each
    output_activation : of the last layer, default linear
    threads : as for `Model`

    Returns
    -------
    Model
        Built, not compiled; float64 if the first weights are, else float32.

    Raises
    ------
    ValueError : other layers than dense ones, or activations that fastbp doesn't have
    """
    task = "from_keras_weights"
    if hasattr(weights, "layers") and hasattr(weights, "get_weights"):
        if activation is not None or output_activation is not None:
            raise ValueError(f"{task}: a Keras model knows its activations; leave out activation and output_activation")
        dense = [layer for layer in weights.layers if type(layer).__name__ != "InputLayer"]
        wrong = [layer for layer in dense if type(layer).__name__ != "Dense"]
        if wrong:
            raise ValueError(f"{task}: {wrong[0].name!r} is a {type(wrong[0]).__name__} layer; only Dense can be taken")
        kernels = [_kernel(layer.get_weights()) for layer in dense]
        rows = [activations.get(_KERAS.get(name := layer.activation.__name__, name)) for layer in dense]
        return _model(_checked(kernels, task), rows, str(weights.name), threads)
    kernels, arrays = [], [np.asarray(array) for array in weights]
    while arrays:
        if arrays[0].ndim != 2:
            raise ValueError(
                f"{task}: wanted kernels (I, O), each with its bias (O,) or without, got the shapes "
                f"{[np.shape(array) for array in weights]}; only Dense layers can be taken"
            )
        count = 2 if len(arrays) > 1 and arrays[1].ndim == 1 else 1
        kernels.append(_kernel(arrays[:count]))
        del arrays[:count]
    hidden = "relu" if activation is None else activation
    return _model(_checked(kernels, task), _rows(hidden, output_activation, len(kernels)), "model", threads)


_KERAS = {"swish": "silu"}
"""Names of Keras' activation functions that no row has."""


def _kernel(arrays: Sequence[Array]) -> Kernel:
    return arrays[0], (arrays[1] if len(arrays) > 1 else None)


answers(__name__, "from_keras_weights", "from_sklearn", "from_torch_state_dict", "to_sklearn", "to_torch_state_dict")
