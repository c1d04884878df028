"""Floor 5: networks from and to scikit-learn, PyTorch and Keras, none of them imported unless it is asked for.

Arrays are copied; a network predicts the same on both sides, to rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import activations, losses, optimizers
from fastbp._spelling import answers
from fastbp.activations import Activation
from fastbp.layers import Activation as ActivationLayer
from fastbp.layers import (
    AlphaDropout,
    BatchNormalization,
    Dense,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    Layer,
    LayerNormalization,
    Normalization,
)
from fastbp.layers.noise import Noise
from fastbp.losses import Loss
from fastbp.model import Model

Array = NDArray[Any]
Kernel = tuple[Array, Array | None]
"""Weights (I, O) of a dense layer, and biases (O,) where it has them."""

_LINEAR = (
    "the module named {!r} holds {}; linear layers, weight (O, I) and bias (O,), can be taken, and BatchNorm1d and "
    "LayerNorm behind them"
)


def _model(kernels: Sequence[Kernel], rows: Sequence[Activation], name: str, threads: int | None) -> Model:
    """A built model of dense layers with these weights."""
    layers = [
        Dense(kernel.shape[1], activation=row, use_bias=bias is not None)
        for (kernel, bias), row in zip(kernels, rows, strict=True)
    ]
    return _built(layers, [array for pair in kernels for array in pair if array is not None], name, threads)


def _built(layers: Sequence[Layer], given: Sequence[Array], name: str, threads: int | None) -> Model:
    """A built model with these weights, the first of which says the number of columns and the type."""
    dtype = "float64" if given[0].dtype == np.float64 else "float32"
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
    epsilon: float = 1e-5,
    activation_first: bool = False,
    threads: int | None = None,
) -> Model:
    """A model of a PyTorch ``state_dict``: linear layers, BatchNorm1d and LayerNorm. PyTorch isn't imported.

    Parameters
    ----------
    state : names to tensors or arrays, "<module>.weight" (O, I) and "<module>.bias" (O,), in the order of the layers
    activation : of the hidden linear layers, which a state dict doesn't say: one for all, or one for each
    output_activation : of the last layer, default linear
    epsilon : of the normalisations, which it doesn't say either; default PyTorch's
    activation_first : whether a normalisation stands behind the activation of the layer before it (Linear, ReLU,
        BatchNorm1d), not before it (Linear, BatchNorm1d, ReLU); default False
    threads : as for `Model`

    Returns
    -------
    Model
        Built, not compiled; float64 if the first weights are, else float32.

    Raises
    ------
    TypeError : a module, or something else than names and arrays
    ValueError : layers of other kinds, or that are no chain
    """
    if not isinstance(state, Mapping):
        advice = ": pass its .state_dict()" if hasattr(state, "state_dict") else ""
        raise TypeError(f"from_torch_state_dict: wanted names to tensors, got a {type(state).__name__}{advice}")
    if (inner := next((key for key, part in state.items() if isinstance(part, Mapping)), None)) is not None:
        raise TypeError(
            f"from_torch_state_dict: {inner!r} holds names itself, as in a checkpoint: pass state[{inner!r}]"
        )
    named: dict[str, dict[str, Array]] = {}
    for key, tensor in state.items():
        module, _, part = key.rpartition(".")
        named.setdefault(module, {})[part] = _array(tensor)
    kernels: list[Kernel] = []
    layers: list[Layer] = []
    arrays: list[Array] = []
    for module, parts in named.items():
        weight, bias = parts.get("weight"), parts.get("bias")
        if weight is not None and weight.ndim == 2 and parts.keys() <= {"weight", "bias"}:
            kernels.append((weight.T, bias))
            layers.append(Dense(weight.shape[0], use_bias=bias is not None))
            arrays += [weight.T, *([] if bias is None else [bias])]
        elif (norm := _norm(parts, epsilon)) is not None:
            layers.append(norm)
            arrays += [parts[part] for part in _NORM_PARTS if part in parts]
        else:
            shapes = ", ".join(f"{part} {array.shape}" for part, array in parts.items())
            raise ValueError("from_torch_state_dict: " + _LINEAR.format(module, shapes))
    rows = iter(_rows(activation, output_activation, len(_checked(kernels, "from_torch_state_dict"))))
    return _built(_activated(layers, rows, activation_first), arrays, "model", threads)


_NORM_PARTS = "weight", "bias", "running_mean", "running_var"
"""PyTorch's names of gamma, beta, and the moving mean and variance."""


def _norm(parts: Mapping[str, Array], epsilon: float) -> Layer | None:
    """The normalisation whose arrays these are, if it is one."""
    if any(array.ndim != 1 for name, array in parts.items() if name != "num_batches_tracked"):
        return None
    if {"running_mean", "running_var"} <= parts.keys() <= {*_NORM_PARTS, "num_batches_tracked"}:
        return BatchNormalization(0.9, epsilon, center="bias" in parts, scale="weight" in parts)
    return LayerNormalization(epsilon) if parts.keys() == {"weight", "bias"} else None


def _activated(layers: Sequence[Layer], rows: Iterator[Activation], first: bool) -> list[Layer]:
    """The layers, with each dense one's activation in it or behind the normalisations that follow."""
    found: list[Layer] = []
    waiting: Activation | None = None
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, Dense):
            waiting = next(rows)
            if first or after is None or isinstance(after, Dense):
                layer = Dense(layer.units, activation=waiting, use_bias=layer.use_bias)
                waiting = None
        found.append(layer)
        if waiting is not None and (after is None or isinstance(after, Dense)):
            found += [] if waiting.name == "linear" else [ActivationLayer(waiting)]
            waiting = None
    return found


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
    model : of `Dense`, `BatchNormalization`, `LayerNormalization`, `Activation` and `Dropout` layers and its kin
    modules : names of the modules with weights, one for each such layer; by default their places in an
        ``nn.Sequential`` that has a module for each layer and for each activation that isn't linear: "0", "2", "4" ...
        in ``nn.Sequential(nn.Linear(...), nn.ReLU(), nn.Linear(...), ...)``. Normalisations there want ``eps`` as the
        layer's `epsilon`, 1e-3 by default

    Returns
    -------
    dict of str to ndarray
        "<module>.weight" (O, I) and "<module>.bias" (O,), copies; of normalisations (O,), with "running_mean",
        "running_var" and "num_batches_tracked" of ``nn.BatchNorm1d``.

    Raises
    ------
    ValueError : other layers than those, or another number of names than of layers with weights
    """
    model.build()
    queue, place = iter(model.get_weights()), 0
    found: list[tuple[str, dict[str, Array]]] = []
    for layer in model.layers:
        if type(layer) is Dense:
            parts = {"weight": np.ascontiguousarray(next(queue).T), **({"bias": next(queue)} if layer.use_bias else {})}
            found.append((str(place), parts))
            place += layer.activation.name != "linear"
        elif isinstance(layer, (BatchNormalization, LayerNormalization)):
            found.append((str(place), _norm_parts(layer, queue)))
        elif not isinstance(layer, (ActivationLayer, Noise)):
            raise ValueError(f"to_torch_state_dict: {layer!r} has no counterpart there")
        place += 1
    names = [name for name, _ in found] if modules is None else list(modules)
    if len(names) != len(found):
        raise ValueError(f"modules has {len(names)} names for {len(found)} layers: {names}")
    parts_of = zip(names, (parts for _, parts in found), strict=True)
    return {f"{name}.{part}": array for name, parts in parts_of for part, array in parts.items()}


def _norm_parts(layer: BatchNormalization | LayerNormalization, queue: Iterator[Array]) -> dict[str, Array]:
    """A normalisation's next arrays by PyTorch's names, ones and zeros for those that it lacks."""
    batch = isinstance(layer, BatchNormalization)
    there = dict(zip(_NORM_PARTS, (layer.scale, layer.center, batch, batch), strict=True))
    given = {part: next(queue) for part, has in there.items() if has}
    if not given:
        raise ValueError(f"to_torch_state_dict: {layer!r} has no arrays, and so no place in a state dict")
    one = next(iter(given.values()))
    parts = {"weight": np.ones_like(one), "bias": np.zeros_like(one), **given}
    return parts | ({"num_batches_tracked": np.array(0)} if batch else {})


# ---------------------------------------------------------------- Keras


def from_keras_weights(
    weights: Any,
    activation: str | Activation | Sequence[str | Activation] | None = None,
    output_activation: str | Activation | None = None,
    *,
    threads: int | None = None,
) -> Model:
    """A model with the weights of a Keras network of layers one after the other. Keras isn't imported.

    The way back needs no function: ``keras_model.set_weights(model.get_weights())``.

    Parameters
    ----------
    weights : the Keras model, of ``Dense``, ``Activation``, ``BatchNormalization``, ``LayerNormalization``,
        ``Normalization`` and ``Dropout`` layers and its kin; or of one of ``Dense`` layers alone what
        ``keras_model.get_weights()`` returns: kernels (I, O) and biases (O,), layer by layer
    activation : of the hidden layers, "relu" by default: one for all, or one for each
    output_activation : of the last layer, default linear
    threads : as for `Model`

    Returns
    -------
    Model
        Built, not compiled; float64 if the first weights are, else float32.

    Raises
    ------
    TypeError : a file's name, or something else than arrays
    ValueError : other layers than those, or activations that fastbp doesn't have
    """
    task = "from_keras_weights"
    if hasattr(weights, "layers") and hasattr(weights, "get_weights"):
        if activation is not None or output_activation is not None:
            raise ValueError(f"{task}: a Keras model knows its activations; leave out activation and output_activation")
        return _of_keras(weights, task, threads)
    if isinstance(weights, (str, PathLike, Mapping)):
        raise TypeError(f"{task}: wanted a Keras model or what its get_weights() returns, got {weights!r:.80}")
    try:
        kernels, arrays = [], [np.asarray(array) for array in weights]
    except ValueError:
        raise ValueError(
            f"{task}: wanted arrays one after the other, as the model's get_weights() returns them, got lists of them"
        ) from None
    while arrays:
        if arrays[0].ndim != 2:
            raise ValueError(
                f"{task}: wanted kernels (I, O), each with its bias (O,) or without, got the shapes "
                f"{[np.shape(array) for array in weights]}; give the Keras model where it has other layers than Dense"
            )
        count = 2 if len(arrays) > 1 and arrays[1].ndim == 1 else 1
        kernels.append(_kernel(arrays[:count]))
        del arrays[:count]
    hidden = "relu" if activation is None else activation
    return _model(_checked(kernels, task), _rows(hidden, output_activation, len(kernels)), "model", threads)


_KERAS = {"swish": "silu"}
"""Names of Keras' activation functions that no row has."""


def _of_keras(keras: Any, task: str, threads: int | None) -> Model:
    """The model of a Keras model's layers."""
    layers: list[Layer] = []
    arrays: list[Array] = []
    kernels = []
    for layer in keras.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        if kind not in _KERAS_LAYERS:
            known = ", ".join(_KERAS_LAYERS)
            raise ValueError(f"{task}: {layer.name!r} is a {kind} layer; those that can be taken: {known}")
        own = [np.asarray(array) for array in layer.get_weights()] if kind in _KERAS_ARRAYS else []
        layers.append(_KERAS_LAYERS[kind](layer, own))
        arrays += own[: _KERAS_ARRAYS.get(kind, 0)]
        if kind == "Dense":
            kernels.append(_kernel(own))
    _checked(kernels, task)
    return _built(layers, arrays, str(keras.name), threads)


def _row_of(layer: Any) -> Activation:
    return activations.get(_KERAS.get(name := layer.activation.__name__, name))


_KERAS_ARRAYS = {"Dense": 2, "BatchNormalization": 4, "LayerNormalization": 2, "Normalization": 2}
"""Most arrays of each kind of layer that are taken; a Normalization counts the rows beside them."""
_KERAS_LAYERS: dict[str, Callable[[Any, list[Array]], Layer]] = {
    "Dense": lambda layer, own: Dense(own[0].shape[1], activation=_row_of(layer), use_bias=len(own) > 1),
    "Activation": lambda layer, own: ActivationLayer(_row_of(layer)),
    "Dropout": lambda layer, own: Dropout(layer.rate),
    "AlphaDropout": lambda layer, own: AlphaDropout(layer.rate),
    "GaussianDropout": lambda layer, own: GaussianDropout(layer.rate),
    "GaussianNoise": lambda layer, own: GaussianNoise(layer.stddev),
    "BatchNormalization": lambda layer, own: BatchNormalization(
        layer.momentum, layer.epsilon, layer.center, layer.scale
    ),
    "LayerNormalization": lambda layer, own: LayerNormalization(layer.epsilon, layer.center, layer.scale),
    "Normalization": lambda layer, own: Normalization(0.0, 1.0),
}
"""Keras' layers by their classes' names, made of one and its arrays."""


def _kernel(arrays: Sequence[Array]) -> Kernel:
    return arrays[0], (arrays[1] if len(arrays) > 1 else None)


answers(__name__, "from_keras_weights", "from_sklearn", "from_torch_state_dict", "to_sklearn", "to_torch_state_dict")
