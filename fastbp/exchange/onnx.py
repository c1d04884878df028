"""Floor 5: networks as ONNX graphs, for onnxruntime and whatever else reads them.

A layer kind is a row of `LAYERS`, an activation a row of `ACTIVATIONS`: a function that adds its nodes to a `Graph`.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import activations, layers
from fastbp._atomic import replacing
from fastbp._spelling import answers
from fastbp.activations import Activation
from fastbp.data.preparation import Preparation
from fastbp.data.tabular import CategoryColumn, NumberColumn, TabularEncoder
from fastbp.formulas.tracing import restored
from fastbp.model import Model

Value = tuple[str, int, list[Any]]
"""Name, type and shape of an input or output of a graph."""
Array = NDArray[Any]

OPSET = 18
"""Version of the operators: what onnxruntime reads since 1.14 (2023)."""
IR_VERSION = 8
INPUT, OUTPUT = "x", "y"


@dataclass(frozen=True)
class Node:
    """One operation of a graph."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""


class Graph:
    """Nodes and constants, in the order of their making.

    Parameters
    ----------
    dtype : of the numbers that flow: float32 or float64
    width : columns of the network's inputs
    """

    def __init__(self, dtype: np.dtype[Any], width: int) -> None:
        self.dtype, self.width = np.dtype(dtype), width
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}

    def constant(self, value: Any, name: str | None = None) -> str:
        """The name of a constant of the graph's dtype; without a name of its own, equal ones are one."""
        array = np.ascontiguousarray(value, self.dtype).reshape(np.shape(value))
        if name is None:
            name = f"constant_{array.item()!r}"
        self.constants[name] = array
        return name

    def integers(self, values: Sequence[int]) -> str:
        """The name of a constant of whole numbers: a shape, axes, places."""
        name = f"integers_{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The name of what an operation gives."""
        node = Node(op, inputs, f"{op.lower()}_{len(self.nodes)}", attributes, domain)
        self.nodes.append(node)
        return node.output


# ---------------------------------------------------------------- activations: (graph, z, row of the table) -> a


def _alone(op: str) -> Callable[[Graph, str, Activation], str]:
    return lambda graph, z, row: graph.add(op, z)


def _single(graph: Graph, op: str, z: str) -> str:
    """What onnxruntime has in single precision alone: the error function, and cosines."""
    if graph.dtype == np.float32:
        return graph.add(op, z)
    return graph.add("Cast", graph.add(op, graph.add("Cast", z, to=_FLOAT)), to=_DOUBLE)


def _gelu(graph: Graph, z: str, row: Activation) -> str:
    scaled = _single(graph, "Erf", graph.add("Mul", z, graph.constant(math.sqrt(0.5))))
    half = graph.add("Mul", z, graph.constant(0.5))
    return graph.add("Mul", half, graph.add("Add", scaled, graph.constant(1.0)))


def _gelu_tanh(graph: Graph, z: str, row: Activation) -> str:
    cubed = graph.add("Mul", graph.add("Mul", z, z), graph.constant(0.044715))
    scale = graph.constant(2.0 * math.sqrt(2.0 / math.pi))
    inner = graph.add("Mul", graph.add("Mul", z, scale), graph.add("Add", cubed, graph.constant(1.0)))
    return graph.add("Mul", z, graph.add("Sigmoid", inner))


def _elu(graph: Graph, z: str, row: Activation) -> str:
    return graph.add("Elu", z, alpha=row.parameter)


def _leaky_relu(graph: Graph, z: str, row: Activation) -> str:
    return graph.add("LeakyRelu", z, alpha=row.parameter)


def _selu(graph: Graph, z: str, row: Activation) -> str:
    return graph.add("Selu", z, alpha=activations.SELU_ALPHA, gamma=activations.SELU_SCALE)


def _silu(graph: Graph, z: str, row: Activation) -> str:
    return graph.add("Mul", z, graph.add("Sigmoid", z))


def _hard_sigmoid(graph: Graph, z: str, row: Activation) -> str:
    return graph.add("HardSigmoid", z, alpha=1.0 / 6.0, beta=0.5)


def _softmax(graph: Graph, z: str, row: Activation) -> str:
    return graph.add("Softmax", z, axis=-1)


ACTIVATIONS: dict[str, Callable[[Graph, str, Activation], str]] = {
    "linear": lambda graph, z, row: z,
    "relu": _alone("Relu"),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "sigmoid": _alone("Sigmoid"),
    "tanh": _alone("Tanh"),
    "softplus": _alone("Softplus"),
    "softsign": _alone("Softsign"),
    "mish": _alone("Mish"),
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _alone("HardSwish"),
    "exponential": _alone("Exp"),
    "softmax": _softmax,
}


def _normal_cdf(graph: Graph, z: str) -> str:
    scaled = _single(graph, "Erf", graph.add("Mul", z, graph.constant(math.sqrt(0.5))))
    return graph.add("Mul", graph.add("Add", scaled, graph.constant(1.0)), graph.constant(0.5))


_OPERATORS = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "negative": "Neg",
    "absolute": "Abs",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "sin": "Sin",
    "sigmoid": "Sigmoid",
    "maximum": "Max",
    "minimum": "Min",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "equal": "Equal",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_not": "Not",
    "where": "Where",
}
"""Steps of functions of one's own (see ``fastbp.formulas.tracing``) that are an operator."""
_COMPOSED: dict[str, Callable[[Graph, str], str]] = {
    "expm1": lambda graph, z: graph.add("Sub", graph.add("Exp", z), graph.constant(1.0)),
    "log1p": lambda graph, z: graph.add("Log", graph.add("Add", z, graph.constant(1.0))),
    "cos": lambda graph, z: _single(graph, "Cos", z),
    "normal_cdf": _normal_cdf,
}
"""Those that are several."""


def activate(graph: Graph, z: str, row: Activation) -> str:
    """The nodes of an activation, of a function of one's own step by step."""
    if row.made is None:
        return ACTIVATIONS[row.name](graph, z, row)
    tape, (result, _) = restored(row.made, 2)
    made: list[str] = []
    for operation, *arguments in tape.steps[: result + 1]:
        if operation in ("number", "argument"):
            made.append(graph.constant(arguments[0]) if operation == "number" else z)
        elif operation in _COMPOSED:
            made.append(_COMPOSED[operation](graph, made[arguments[0]]))
        else:
            made.append(graph.add(_OPERATORS[operation], *(made[place] for place in arguments)))
    return made[result]


# ------------------------------------- layers: (graph, x, layer, its name, all arrays by their names in files) -> a

Arrays = Mapping[str, Array]


def dense(graph: Graph, x: str, layer: layers.Dense, name: str, arrays: Arrays) -> str:
    """a = activation(x @ kernel + bias)."""
    kernel = graph.constant(arrays[f"{name}.kernel"], f"{name}.kernel")
    if layer.use_bias:
        z = graph.add("Gemm", x, kernel, graph.constant(arrays[f"{name}.bias"], f"{name}.bias"))
    else:
        z = graph.add("MatMul", x, kernel)
    return activate(graph, z, layer.activation)


def nothing(graph: Graph, x: str, layer: layers.Layer, name: str, arrays: Arrays) -> str:
    """A layer that does nothing in a prediction."""
    return x


def activation(graph: Graph, x: str, layer: layers.Activation, name: str, arrays: Arrays) -> str:
    """An activation alone."""
    return activate(graph, x, layer.activation)


def batch_normalization(graph: Graph, x: str, layer: layers.BatchNormalization, name: str, arrays: Arrays) -> str:
    """x * scale + shift, by the moving statistics."""
    mean, variance = arrays[f"{name}.moving_mean"], arrays[f"{name}.moving_variance"]
    scale = arrays.get(f"{name}.gamma", 1.0) / np.sqrt(variance.astype(np.float64) + layer.epsilon)
    return _moved(graph, x, name, scale, arrays.get(f"{name}.beta", 0.0) - mean * scale)


def normalization(graph: Graph, x: str, layer: layers.Normalization, name: str, arrays: Arrays) -> str:
    """(x - mean) / deviation."""
    scale = 1.0 / np.sqrt(arrays[f"{name}.variance"].astype(np.float64) + layer.EPSILON)
    mean = graph.constant(arrays[f"{name}.mean"], f"{name}.mean")
    return graph.add("Mul", graph.add("Sub", x, mean), graph.constant(scale, f"{name}.scale"))


def _moved(graph: Graph, x: str, name: str, scale: Array, shift: Array) -> str:
    scaled = graph.add("Mul", x, graph.constant(scale, f"{name}.scale"))
    return graph.add("Add", scaled, graph.constant(shift, f"{name}.shift"))


def layer_normalization(graph: Graph, x: str, layer: layers.LayerNormalization, name: str, arrays: Arrays) -> str:
    """(x - mean) / deviation * gamma + beta over a row."""
    mean = graph.add("ReduceMean", x, graph.integers([1]), keepdims=1)
    return _rescaled(graph, graph.add("Sub", x, mean), layer.epsilon, name, arrays)


def rms_normalization(graph: Graph, x: str, layer: layers.RMSNormalization, name: str, arrays: Arrays) -> str:
    """x / root mean square * gamma over a row."""
    return _rescaled(graph, x, layer.epsilon, name, arrays)


def _rescaled(graph: Graph, x: str, epsilon: float, name: str, arrays: Arrays) -> str:
    square = graph.add("ReduceMean", graph.add("Mul", x, x), graph.integers([1]), keepdims=1)
    z = graph.add("Div", x, graph.add("Sqrt", graph.add("Add", square, graph.constant(epsilon))))
    for operator, part in (("Mul", "gamma"), ("Add", "beta")):
        if (label := f"{name}.{part}") in arrays:
            z = graph.add(operator, z, graph.constant(arrays[label], label))
    return z


def residual(graph: Graph, x: str, layer: layers.Residual, name: str, arrays: Arrays) -> str:
    """activation(x + layers(x)), x projected where widths differ."""
    a = _chain(graph, x, layer.layers, f"{name}.", arrays)
    if (label := f"{name}.projection.kernel") in arrays:
        x = graph.add("MatMul", x, graph.constant(arrays[label], label))
    return activate(graph, graph.add("Add", a, x), layer.activation)


def concatenate(graph: Graph, x: str, layer: layers.Concatenate, name: str, arrays: Arrays) -> str:
    """activation(x beside layers(x))."""
    inner = _chain(graph, x, layer.layers, f"{name}.", arrays)
    return activate(graph, graph.add("Concat", x, inner, axis=1), layer.activation)


def embedding(graph: Graph, x: str, layer: layers.Embedding, name: str, arrays: Arrays) -> str:
    """The columns that pass, then the rows that the category numbers name; a runtime refuses unknown ones."""
    parts = []
    if passing := layer.passing(graph.width):
        parts.append(graph.add("Gather", x, graph.integers(passing), axis=1))
    for column in layer.columns:
        label = f"{name}.{column}.embeddings"
        codes = graph.add("Cast", graph.add("Gather", x, graph.integers([column]), axis=1), to=_INT64)
        codes = graph.add("Reshape", codes, graph.integers([-1]))
        parts.append(graph.add("Gather", graph.constant(arrays[label], label), codes, axis=0))
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


LAYERS: dict[type, Callable[..., str]] = {
    layers.Dense: dense,
    layers.Activation: activation,
    layers.Dropout: nothing,
    layers.ActivityRegularization: nothing,
    layers.AlphaDropout: nothing,
    layers.GaussianNoise: nothing,
    layers.GaussianDropout: nothing,
    layers.BatchNormalization: batch_normalization,
    layers.LayerNormalization: layer_normalization,
    layers.RMSNormalization: rms_normalization,
    layers.Normalization: normalization,
    layers.Residual: residual,
    layers.Concatenate: concatenate,
    layers.Embedding: embedding,
}


def add_network(graph: Graph, x: str, model: Model) -> str:
    """Add a model's layers behind `x`; the name of the last one's outputs.

    Raises
    ------
    ValueError : a layer that has no row in `LAYERS`
    """
    return _chain(graph, x, model.layers, "", model.named_weights())


def _chain(graph: Graph, x: str, chain: Sequence[layers.Layer], prefix: str, arrays: Arrays) -> str:
    for name, layer in zip(layers.unique_names(chain), chain, strict=True):
        if type(layer) not in LAYERS:
            raise ValueError(f"to_onnx: the layer {layer!r} has no ONNX operators here")
        x = LAYERS[type(layer)](graph, x, layer, prefix + name, arrays)
    return x


# ---------------------------------------------------------------- tables


def add_encoder(graph: Graph, encoder: TabularEncoder, input_name: str) -> tuple[str, list[Value]]:
    """Add what makes inputs of raw columns; (the name of its outputs, the graph's inputs).

    Numbers alone are one input (rows, columns), else each column is one (rows, 1). A missing number is NaN, missing
    text is "". What training didn't see becomes zeros: a graph has no errors. As category numbers it becomes one beyond
    the last, which the runtime refuses.
    """
    columns, kind = encoder.columns_, element_type(graph.dtype)
    numbers = [column for column in columns if isinstance(column, NumberColumn)]
    if len(numbers) == len(columns):
        x = _numbers(graph, input_name, numbers, "")
        return x, [(input_name, kind, ["rows", len(columns)])]
    parts, inputs = [], []
    for column in columns:
        if isinstance(column, NumberColumn):
            parts.append(_numbers(graph, column.name, [column], f"table.{column.name}."))
        else:
            parts.append(_categories(graph, column))
        inputs.append((column.name, kind if column in numbers else _STRING, ["rows", 1]))
    return graph.add("Concat", *parts, axis=1), inputs


def _numbers(graph: Graph, x: str, columns: list[NumberColumn], prefix: str) -> str:
    mean = graph.constant([column.mean for column in columns], f"{prefix}mean")
    scale = graph.constant([column.scale for column in columns], f"{prefix}scale")
    gaps = graph.add("IsNaN", x)
    z = graph.add("Div", graph.add("Sub", x, mean), scale)
    z = graph.add("Where", gaps, graph.constant(0.0), z)
    flagged = [j for j, column in enumerate(columns) if column.missing]
    if not flagged:
        return z
    flags = graph.add("Cast", graph.add("Gather", gaps, graph.integers(flagged), axis=1), to=element_type(graph.dtype))
    order = [
        place for j in range(len(columns)) for place in ([j, len(columns) + flagged.index(j)] if j in flagged else [j])
    ]
    return graph.add("Gather", graph.add("Concat", z, flags, axis=1), graph.integers(order), axis=1)


def _categories(graph: Graph, column: CategoryColumn) -> str:
    names = [*column.categories, *[""] * column.missing]
    if column.codes:
        known = len(column.categories)
        codes = [*range(known), *[column.count - 1] * column.missing]
        unseen = float(known if column.other else column.count)
        options = {"keys_strings": names, "values_floats": [float(code) for code in codes], "default_float": unseen}
        found = graph.add("LabelEncoder", column.name, domain=_ML, **options)
        return graph.add("Cast", found, to=element_type(graph.dtype))
    ones = graph.add("OneHotEncoder", column.name, domain=_ML, cats_strings=names, zeros=1)
    ones = graph.add("Reshape", ones, graph.integers([-1, len(names)]))
    ones = graph.add("Cast", ones, to=element_type(graph.dtype))
    if not column.other:
        return ones
    found = graph.add("ReduceSum", ones, graph.integers([1]), keepdims=1)
    both = graph.add("Concat", ones, graph.add("Sub", graph.constant(1.0), found), axis=1)
    if not column.missing:
        return both
    count = len(column.categories)
    return graph.add("Gather", both, graph.integers([*range(count), count + 1, count]), axis=1)


def _answers(graph: Graph, outputs: str, table: Preparation) -> list[tuple[str, Value]]:
    """What a table's answers are: (node that gives it, output of the graph) of each."""
    kind = element_type(graph.dtype)
    if table.classes is None:
        scaled = graph.add("Mul", outputs, graph.constant(table.target_scale))
        answer = graph.add("Add", scaled, graph.constant(table.target_mean))
        return [(answer, ("prediction", kind, ["rows", 1]))]
    best = graph.add("ArgMax", outputs, axis=1, keepdims=0)
    graph.constants["classes"] = np.array(table.classes, object)
    label = graph.add("Gather", "classes", best, axis=0)
    return [(label, ("label", _STRING, ["rows"])), (outputs, ("probabilities", kind, ["rows", len(table.classes)]))]


# ---------------------------------------------------------------- files

_FLOAT, _INT64, _STRING, _DOUBLE = 1, 7, 8, 11
"""Numbers of the types in ONNX's files (TensorProto.DataType)."""
_ML, _ML_VERSION = "ai.onnx.ml", 3


def packages() -> tuple[Any, Any]:
    """The modules ``onnx.helper`` and ``onnx.numpy_helper``.

    Raises
    ------
    ImportError : onnx isn't installed
    """
    try:
        from onnx import helper, numpy_helper
    except ModuleNotFoundError:
        raise ModuleNotFoundError("to_onnx needs onnx: pip install 'fastbp[onnx]'", name="onnx") from None
    return helper, numpy_helper


def element_type(dtype: np.dtype[Any]) -> int:
    """ONNX's number of float32 or float64."""
    return _FLOAT if dtype == np.float32 else _DOUBLE


def to_onnx(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    input_name: str = INPUT,
    output_name: str = OUTPUT,
    table: TabularEncoder | Preparation | None = None,
) -> Any:
    """A network as an ONNX graph, for onnxruntime, browsers, phones and other programs.

    The graph takes any number of rows. It computes in the model's dtype (float32 where products were bfloat16) and
    gives what ``predict`` gives, to rounding.

    Parameters
    ----------
    model : `Model`, or a fitted ``MLPClassifier`` or ``MLPRegressor`` of ``fastbp.estimators``, whose outputs are those
        of its last layer (pipelines: ``fastbp.estimators.register_onnx_converters``)
    path : file to write as well, atomically; None for none
    input_name, output_name : names of the graph's input (rows, I) and output (rows, O)
    table : a fitted `TabularEncoder`: the graph then takes the raw table, numbers as (rows, columns), or with text
        among them each column by its name as (rows, 1). A missing number is NaN, missing text "", and what training
        didn't see becomes zeros

    Returns
    -------
    onnx.ModelProto
        Operators of version 18, format version 8: both stay, whatever onnx is installed.

    Raises
    ------
    ImportError : onnx isn't installed
    RuntimeError : the model isn't built
    TypeError, ValueError : something else than a network, or a layer that ONNX has no operators for

    Examples
    --------
    >>> fb.to_onnx(model, "digits.onnx")  # doctest: +SKIP
    >>> onnxruntime.InferenceSession("digits.onnx").run(None, {"x": rows})  # doctest: +SKIP
    """
    if not isinstance(model, Model):
        if not hasattr(model, "to_model"):
            raise TypeError(f"to_onnx: wanted a fastbp Model or an estimator of fastbp.estimators, got {model!r:.80}")
        model = model.to_model()
    helper, numpy_helper = packages()
    if input_name == output_name:
        raise ValueError(f"to_onnx: input and output are both named {input_name!r}; name them differently")
    model.build()
    graph = Graph(model.dtype, model.input_width)
    kind = element_type(graph.dtype)
    x, inputs = input_name, [(input_name, kind, ["rows", model.input_width])]
    if table is not None:
        encoder = table if isinstance(table, TabularEncoder) else table.encoder
        x, inputs = add_encoder(graph, encoder, input_name)
    last = add_network(graph, x, model)
    answers = [(last, (output_name, kind, ["rows", model.output_width]))]
    if isinstance(table, Preparation):
        answers = _answers(graph, last, table)
    taken = {name for name, *_ in inputs}
    answers = [
        (given, (f"{name}_" if name in taken else name, number, shape)) for given, (name, number, shape) in answers
    ]
    nodes = [
        helper.make_node(n.op, n.inputs, [n.output], name=n.output, domain=n.domain, **n.attributes)
        for n in graph.nodes
    ]
    nodes += [helper.make_node("Identity", [given], [value[0]], name=f"give {value[0]}") for given, value in answers]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            model.name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for _, value in answers],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_ML, _ML_VERSION)],
        ir_version=IR_VERSION,
        producer_name="fastbp",
    )
    if path is not None:
        with replacing(path) as part:
            part.write_bytes(made.SerializeToString())
    return made


answers(__name__, "to_onnx")
