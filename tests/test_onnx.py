"""ONNX: onnxruntime computes what `predict` computes, for every activation, any number of rows, pipelines too."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import ELEMENTWISE, inputs, make
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_custom import ACTIVATIONS as OWN
from test_layers import MIXED, made, rows_for

import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.estimators import MLPClassifier, MLPRegressor, MLPSearchCV, register_onnx_converters
from fastbp.exchange import onnx as onnx_nodes
from fastbp.exchange.onnx import ACTIVATIONS as OPERATORS
from fastbp.exchange.onnx import IR_VERSION, LAYERS, OPSET
from fastbp.formulas import tracing
from fastbp.layers import LAYERS as KINDS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)


def served(graph: Any, **feeds: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(graph, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)  # type: ignore[no-any-return]


def test_every_activation_and_layer_has_operators() -> None:
    assert OPERATORS.keys() == ACTIVATIONS.keys()
    assert set(LAYERS) == set(KINDS.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_every_activation(activation: str, dtype: str) -> None:
    model = make([7, 9, 4], activation, activation, dtype=dtype)
    graph = fb.to_onnx(model)
    for rows in (1, 33):
        x = 3 * inputs(rows, 7).astype(dtype)
        (got,) = served(graph, x=x)
        assert got.dtype == dtype
        wanted = model.predict(x)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    if dtype == "float64" and activation != "gelu":
        np.testing.assert_allclose(got, wanted, rtol=2e-7, atol=2e-7)  # alpha is float32 in ONNX


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MIXED)
def test_every_layer(name: str, dtype: str) -> None:
    model, x = made(name, dtype=dtype), rows_for(name, 20).astype(dtype)
    np.testing.assert_allclose(served(fb.to_onnx(model), x=x)[0], model.predict(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_softmax_and_biases(bias: bool) -> None:
    model, x = make([5, 6, 3], "tanh", "softmax", bias=bias), 5 * inputs(20, 5).astype(np.float32)
    np.testing.assert_allclose(served(fb.to_onnx(model), x=x)[0], model.predict(x), atol=1e-6)


def test_parameters_of_activations() -> None:
    rows = [fb.activations.LEAKY_RELU(0.03), fb.activations.ELU(0.7)]
    model = fb.Model([fb.Dense(6, row, name="same") for row in rows] + [fb.Dense(2)])
    model.build(5)
    x = 3 * inputs(20, 5).astype(np.float32)
    np.testing.assert_allclose(served(fb.to_onnx(model), x=x)[0], model.predict(x), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", range(len(OWN)))
def test_functions_of_ones_own(function: int, dtype: str) -> None:
    model = fb.Model([fb.Dense(6, OWN[function]), fb.Activation(OWN[function]), fb.Dense(2)], dtype=dtype)
    model.build(5)
    x = 2 * inputs(20, 5).astype(dtype)
    np.testing.assert_allclose(served(fb.to_onnx(model), x=x)[0], model.predict(x), rtol=1e-5, atol=1e-5)


def test_every_step_of_a_function_of_ones_own_has_operators() -> None:
    elementwise = {*tracing.ARITHMETIC, *tracing.MASKS, *tracing.LOGIC}
    assert elementwise == {*onnx_nodes._OPERATORS, *onnx_nodes._COMPOSED}


def test_names_versions_and_the_file(tmp_path: Path) -> None:
    model, x = make([5, 6, 3], dtype="bfloat16"), inputs(4, 5).astype(np.float32)
    graph = fb.to_onnx(model, tmp_path / "m.onnx", input_name="rows", output_name="scores")
    assert (graph.opset_import[0].version, graph.ir_version) == (OPSET, IR_VERSION)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert onnx.load(tmp_path / "m.onnx") == graph
    (got,) = served(graph, rows=x)
    np.testing.assert_allclose(got, model.predict(x), atol=0.05)  # bfloat16 products there, float32 here
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("rows", 5)


def test_what_cannot_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="wanted a fastbp Model or an estimator"):
        fb.to_onnx(StandardScaler())
    with pytest.raises(RuntimeError, match="input width isn't known"):
        fb.to_onnx(fb.Model([fb.Dense(1)]))
    with pytest.raises(ValueError, match="both named 'x'"):
        fb.to_onnx(make([2, 1]), output_name="x")
    monkeypatch.setattr("fastbp.exchange.onnx.LAYERS", {})
    with pytest.raises(ValueError, match=r"Dense\(1, .* has no ONNX operators"):
        fb.to_onnx(make([2, 1]))


def test_onnx_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastbp\[onnx\]'"):
        fb.to_onnx(make([2, 1]))


# ---------------------------------------------------------------- estimators and pipelines


def test_an_estimator_is_its_network() -> None:
    classifier = MLPClassifier((8,), max_iter=5, random_state=0).fit(X.astype(np.float32), Y)
    (got,) = served(fb.to_onnx(classifier), x=X.astype(np.float32))
    np.testing.assert_allclose(got, classifier.predict_proba(X.astype(np.float32)), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("y", [Y, load_iris().target_names[Y], Y > 0], ids=["numbers", "text", "two"])
def test_pipelines_of_classifiers(y: np.ndarray, dtype: Any) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    register_onnx_converters()
    x = X.astype(dtype)
    scaled = make_column_transformer((StandardScaler(), [0, 1]), remainder="passthrough")
    pipeline = make_pipeline(scaled, MLPClassifier((8,), ["gelu"], max_iter=5, random_state=0, dtype=dtype)).fit(x, y)
    final = pipeline[-1]
    graph = skl2onnx.to_onnx(pipeline, x[:1], options={id(final): {"zipmap": False}}, target_opset=OPSET)
    labels, got = served(graph, X=x)
    np.testing.assert_allclose(got, pipeline.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(labels, pipeline.predict(x))


def test_pipelines_of_labels_and_numbers() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    register_onnx_converters()
    x, y = make_multilabel_classification(60, 6, n_classes=4, random_state=0)
    x = x.astype(np.float32)
    several = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30, random_state=0)).fit(x, y)
    graph = skl2onnx.to_onnx(several, x[:1], options={"zipmap": False}, target_opset=OPSET)
    labels, got = served(graph, X=x)
    np.testing.assert_allclose(got, several.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(labels, several.predict(x))
    x, y = make_regression(60, 6, n_targets=2, random_state=0)
    x = x.astype(np.float32)
    numbers = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=5)).fit(x, y)
    (got,) = served(skl2onnx.to_onnx(numbers, x[:1], target_opset=OPSET), X=x)
    np.testing.assert_allclose(got, numbers.predict(x), rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------- raw tables


def test_raw_columns_go_in_where_an_encoder_is_given() -> None:
    rng = np.random.default_rng(0)
    rows = 40
    table = {
        "n": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(50, 9, rows)),
        "plain": rng.normal(0, 1, rows),
        "town": np.array([None, "Rome", "Oslo", "Bonn", "Kiel", "Rome", "Oslo"] * 6, object)[:rows],
        "sex": rng.choice(np.array(["f", "m"], object), rows),
    }
    encoder = fb.TabularEncoder(max_categories=2)
    x = encoder.fit_transform(table)
    assert encoder.columns_[2].other and encoder.columns_[2].missing and encoder.columns_[0].missing
    model = make([x.shape[1], 5, 2])
    feeds = {
        name: np.where(values == None, "", values)[:, None] if values.dtype == object else values.astype("f4")[:, None]  # noqa: E711
        for name, values in table.items()
    }
    (got,) = served(fb.to_onnx(model, table=encoder), **feeds)
    np.testing.assert_allclose(got, model.predict(x), atol=1e-5)


@pytest.mark.parametrize("unknown", ["ignore", "error"])
def test_raw_columns_as_category_numbers(unknown: str) -> None:
    towns = np.array([None, "Rome", "Oslo", "Bonn", "Kiel", "Rome", "Oslo"] * 6, object)
    table = {"n": np.arange(42.0), "town": towns, "sex": np.array(["f", "m", "m"] * 14, object)}
    encoder = fb.TabularEncoder(max_categories=2, unknown=unknown, codes=True)
    x = encoder.fit_transform(table)
    model = fb.Model([fb.Embedding(encoder.codes_out_), fb.Dense(2)])
    model.build(3)
    feeds = {name: np.where(values == None, "", values)[:, None] for name, values in table.items()}  # noqa: E711
    feeds["n"] = table["n"].astype("f4")[:, None]
    graph = fb.to_onnx(model, table=encoder)
    np.testing.assert_allclose(served(graph, **feeds)[0], model.predict(x), atol=1e-5)
    feeds["sex"][0] = "x"
    if unknown == "error":
        with pytest.raises(Exception, match="indices element out of data bounds"):
            served(graph, **feeds)
    else:
        new = {**table, "sex": np.array(["x", *table["sex"][1:]], object)}
        np.testing.assert_allclose(served(graph, **feeds)[0], model.predict(encoder.transform(new)), atol=1e-5)


def test_numbers_alone_go_in_as_one_matrix() -> None:
    table = np.random.default_rng(0).normal(5, 3, (30, 3))
    table[3, 1] = np.nan
    encoder = fb.TabularEncoder().fit(table)
    model = make([4, 5, 2], dtype="float64")
    (got,) = served(fb.to_onnx(model, table=encoder), x=table)
    np.testing.assert_allclose(got, model.predict(encoder.transform(table, np.float64)), rtol=1e-9)


@pytest.mark.parametrize("place", ["alone", "around", "inside"])
def test_a_search_is_its_best_estimator(place: str) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    register_onnx_converters()
    x, net = X.astype(np.float32), MLPClassifier((6,), max_iter=5, random_state=0)
    searched: Any = MLPSearchCV(net, {"alpha": [0.1, 1.0]}, cv=2)
    if place == "around":
        searched = MLPSearchCV(make_pipeline(StandardScaler(), net), {"mlpclassifier__alpha": [0.1, 1.0]}, cv=2)
    fitted = (make_pipeline(StandardScaler(), searched) if place == "inside" else searched).fit(x, Y)
    search = fitted[-1] if place == "inside" else fitted
    graph = skl2onnx.to_onnx(fitted, x[:1], options={id(search): {"zipmap": False}}, target_opset=OPSET)
    labels, got = served(graph, X=x)
    np.testing.assert_allclose(got, fitted.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(labels, fitted.predict(x))


def test_pipelines_of_networks_with_more_than_products() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    register_onnx_converters()
    x = X.astype(np.float32)
    net = MLPClassifier((8, 6), dropout=[0.2, 0.0], batch_norm=True, max_iter=9, random_state=0)
    pipeline = make_pipeline(StandardScaler(), net).fit(x, Y)
    graph = skl2onnx.to_onnx(pipeline, x[:1], options={"zipmap": False}, target_opset=OPSET)
    labels, got = served(graph, X=x)
    np.testing.assert_allclose(got, pipeline.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(labels, pipeline.predict(x))
    several = MLPClassifier((8,), max_iter=2).fit(x, np.stack([Y, 2 - Y], axis=1))
    with pytest.raises(ValueError, match="several columns of classes have no form"):
        skl2onnx.to_onnx(several, x[:1])
