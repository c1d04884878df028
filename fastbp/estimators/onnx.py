"""Floor 5: the estimators inside pipelines that skl2onnx converts."""

from typing import Any

import numpy as np

from fastbp.estimators.classifier import MLPClassifier
from fastbp.estimators.regressor import MLPRegressor
from fastbp.estimators.search import MLPSearchCV
from fastbp.exchange.onnx import Graph, add_network, element_type

_INT64 = 7
"""ONNX's number of the type (TensorProto.DataType)."""


def register_onnx_converters() -> None:
    """Let skl2onnx convert pipelines that hold `MLPClassifier` or `MLPRegressor` of ``fastbp.estimators``.

    Once a process, before ``skl2onnx.to_onnx(pipeline, X)``; outputs and options ("zipmap", "nocl",
    "output_class_labels") are those of scikit-learn's own classes. Several numbers a row stay
    several. An `MLPSearchCV` becomes its best estimator.

    Raises
    ------
    ImportError : skl2onnx isn't installed
    """
    try:
        from skl2onnx import update_registered_converter, update_registered_parser
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "register_onnx_converters needs skl2onnx: pip install 'fastbp[onnx]'", name="skl2onnx"
        ) from None
    options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "output_class_labels": [False, True]}
    update_registered_converter(MLPClassifier, "FastbpMLPClassifier", _classifier_shapes, _classifier, options=options)
    update_registered_converter(MLPRegressor, "FastbpMLPRegressor", _regressor_shapes, _regressor)
    update_registered_parser(MLPSearchCV, _search)


def _search(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """The best estimator's outputs; the search's options are its last step's."""
    from skl2onnx._parse import parse_sklearn

    best = model.best_estimator_
    last = best[-1] if hasattr(best, "steps") else best
    for key in (type(model), id(model)):
        if key in (scope.options or {}):
            scope.add_options(id(last), scope.options[key])
    return parse_sklearn(scope, best, inputs, custom_parsers=custom_parsers)


class _Builder:
    """Adds nodes with names of their own to what skl2onnx builds."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self.scope, self.operator, self.container = scope, operator, container
        given = operator.inputs[0].type.__class__.__name__
        self.dtype = np.dtype(np.float64 if given == "DoubleTensorType" else np.float32)
        self.kind = element_type(self.dtype)

    def name(self, stem: str) -> str:
        return str(self.scope.get_unique_variable_name(f"mlp_{stem}"))

    def add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = self.name(op.lower()) if output is None else output
        self.container.add_node(op, inputs, output, name=self.scope.get_unique_operator_name(op), **attributes)
        return output

    def constant(self, kind: int, values: Any) -> str:
        name, array = self.name("constant"), np.asarray(values)
        self.container.add_initializer(name, kind, array.shape, array.ravel())
        return name

    def network(self) -> str:
        """The name of the last layer's outputs."""
        model = self.operator.raw_operator.to_model()
        graph = Graph(self.dtype, model.input_width)
        given = self.add("Cast", [self.operator.inputs[0].full_name], to=self.kind)
        last = add_network(graph, given, model)
        names = {given: given}
        for name, array in graph.constants.items():
            names[name] = self.constant(self.kind, array)
        for node in graph.nodes:
            names[node.output] = self.add(node.op, [names[name] for name in node.inputs], **node.attributes)
        return names[last]


def _classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    if isinstance(operator.raw_operator.classes_, list):
        raise ValueError(
            "several columns of classes have no form among skl2onnx's classifiers: write the network alone, "
            "fb.to_onnx(classifier.to_model(), path), whose outputs are the logits of each column in turn"
        )
    calculate_linear_classifier_output_shapes(operator)
    if _many_labels(operator.raw_operator):
        shape = [operator.inputs[0].get_first_dimension(), operator.raw_operator.n_outputs_]
        operator.outputs[0].set_type(Int64TensorType(shape=shape))


def _regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes

    calculate_linear_regressor_output_shapes(operator)
    shape = [operator.inputs[0].get_first_dimension(), operator.raw_operator.n_outputs_]
    operator.outputs[0].type.shape = shape


def _many_labels(estimator: MLPClassifier) -> bool:
    return estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1


def _regressor(scope: Any, operator: Any, container: Any) -> None:
    builder = _Builder(scope, operator, container)
    builder.add("Identity", [builder.network()], operator.outputs[0].full_name)


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    builder, estimator = _Builder(scope, operator, container), operator.raw_operator
    labels, probabilities = (output.full_name for output in operator.outputs)
    outputs = builder.network()
    if estimator.n_outputs_ == 1:
        others = builder.add("Sub", [builder.constant(builder.kind, [1.0]), outputs])
        builder.add("Concat", [others, outputs], probabilities, axis=1)
    else:
        builder.add("Identity", [outputs], probabilities)
    if _many_labels(estimator):
        half = builder.constant(builder.kind, [0.5])
        builder.add("Cast", [builder.add("Greater", [outputs, half])], labels, to=_INT64)
        return
    best = builder.add("ArgMax", [probabilities], axis=1, keepdims=0)
    classes = estimator.classes_
    if classes.dtype.kind in "OUS":
        keys = {"keys_int64s": np.arange(len(classes)), "values_strings": [str(name) for name in classes]}
        builder.add("LabelEncoder", [best], labels, op_domain="ai.onnx.ml", op_version=2, **keys)
    else:
        builder.add("Gather", [builder.constant(_INT64, classes.astype(np.int64)), best], labels, axis=0)
