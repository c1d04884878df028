"""Functions of one's own as activation, loss and metric: against NumPy, central differences and the tables' rows."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TOLERANCE, error, inputs, python, targets

import fastbp as fb

fm = fb.math


def gated(z: Any) -> Any:
    return z * fm.tanh(fm.softplus(z))


def steps_of_newton(z: Any) -> Any:
    """A loop of Python's: four steps towards the root of z * z + 1."""
    target, x = z * z + 1.0, 1.0 + 0.5 * z * z
    for _ in range(4):
        x = 0.5 * (x + target / x)
    return x


def piecewise(z: Any) -> Any:
    inside = (z > -1) & ~(z >= 2) | (z == 3)
    return np.where(inside, z**3, np.where(z != 5, np.clip(z, -2, 2.5), 0.0))


ACTIVATIONS: list[Callable[[Any], Any]] = [
    gated,
    steps_of_newton,
    piecewise,
    lambda z: np.log(1 + z**2) + np.log1p(np.abs(z)) - np.sqrt(z * z + 2),
    lambda z: np.exp(-np.square(z)) / (1 + np.expm1(-np.abs(z)) ** 2),
    lambda z: fm.sigmoid(z) - fm.erf(z / 2) * np.minimum(z, 0.3) + 2 ** (-z),
    lambda z: np.sign(z) * np.maximum(0.1 * z, z) ** 2 + (z**2 + 1) ** -1.5,
    lambda z: z + np.sin(2 * z) ** 2 - fm.cos(z - 0.5) * 0.3,
    lambda z: 3 * z,
    lambda z: z * 0.5 + np.ones_like(z),
    lambda z: -(2.0 / (np.power(z, 2) + 1)) + abs(z) ** 0.5 * np.reciprocal(1 + z * z),
]


KINDS = [(f, "float64") for f in ACTIVATIONS] + [(f, "float32") for f in ACTIVATIONS[2:7]]


@pytest.mark.parametrize(("function", "dtype"), KINDS, ids=range(len(KINDS)))
def test_an_activation_gives_what_the_function_gives(function: Callable[[Any], Any], dtype: str) -> None:
    model = fb.Model([fb.Dense(1, function, kernel_initializer="ones")], dtype=dtype)
    z = np.r_[np.linspace(-6, 6, 97), 2.0, 3.0, 5.0, 1e-3, -1e-3].astype(dtype)[:, None]
    with np.errstate(all="ignore"):
        assert error(model.predict(z), function(z.astype(np.float64))) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("function", ACTIVATIONS, ids=range(len(ACTIVATIONS)))
def test_its_derivative_is_taken_through_it(function: Callable[[Any], Any]) -> None:
    z = np.linspace(-4.03, 4.1, 60)[:, None]
    model = fb.Model([fb.Dense(1, function, kernel_initializer="ones")], dtype="float64")
    model.compile("sgd", fb.losses.custom(lambda y, a: a))
    _, dx = model.gradients(z, z, inputs=True)
    step = 1e-6
    wanted = (function(z + step) - function(z - step)) / (2 * step) / len(z)
    assert error(dx, wanted) < 1e-7


def test_a_network_with_it_learns_as_with_the_tables_own() -> None:
    def own(z: Any) -> Any:
        return z * fm.sigmoid(z)

    x, y = inputs(64, 5), targets("mean_squared_error", 64, 2)
    found = []
    for activation in (
        "silu",
        own,
        fb.activations.custom(own, lambda z: fm.sigmoid(z) * (1 + z * (1 - fm.sigmoid(z)))),
    ):
        model = fb.Model([fb.Dense(9, activation), fb.Dense(2)], dtype="float64")
        model.compile(fb.Adam(0.01), "mse")
        model.fit(x, y, batch_size=16, epochs=5, verbose=0)
        found.append(model.get_weights())
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_derivative_that_is_given_is_used() -> None:
    """Here on purpose another one than the function's: a step forward, a straight line backward."""
    step = fb.activations.custom(lambda z: np.where(z > 0, 1.0, 0.0), derivative=np.ones_like, name="step")
    model = fb.Model([fb.Dense(1, step, kernel_initializer="ones")], dtype="float64")
    model.compile("sgd", fb.losses.custom(lambda y, a: a))
    x = np.array([[-1.0], [2.0]])
    np.testing.assert_array_equal(model.predict(x), [[0.0], [1.0]])
    np.testing.assert_allclose(model.gradients(x, x, inputs=True)[1], [[0.5], [0.5]])


def huber(y: Any, a: Any) -> Any:
    d = np.abs(y - a)
    return np.where(d < 1, 0.5 * d * d, d - 0.5)


def cosine(y: Any, a: Any) -> Any:
    return -np.sum(y * a, axis=-1) / np.sqrt(np.sum(y * y, axis=-1) * np.sum(a * a, axis=-1))


LOSSES: dict[str, tuple[Callable[[Any, Any], Any], str, dict[str, float]]] = {
    "elementwise": (huber, "huber", {"delta": 1.0}),
    "a mean": (lambda y, a: np.mean(np.square(y - a), axis=-1), "mean_squared_error", {}),
    "a product": (lambda y, a: (y - a) * (y - a), "mean_squared_error", {}),
    "log cosh": (lambda y, a: fm.softplus(2 * (a - y)) - (a - y) - np.log(2), "log_cosh", {}),
    "rows": (cosine, "cosine_similarity", {}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_what_the_tables_own_is(name: str, dtype: str) -> None:
    function, own, _ = LOSSES[name]
    x, y = inputs(40, 5), targets(own, 40, 3)
    found = []
    for loss in (own, function):
        model = fb.Model([fb.Dense(7, "tanh"), fb.Dense(3)], dtype=dtype)
        model.compile("sgd", loss)
        value = model.evaluate(x, y)
        weights = np.r_[np.ones(20), np.zeros(20)]
        found.append((value, model.gradients(x, y), model.evaluate(x, y, sample_weight=weights)))
    assert found[1][0] == pytest.approx(found[0][0], rel=20 * TOLERANCE[dtype])
    assert found[1][2] == pytest.approx(found[0][2], rel=20 * TOLERANCE[dtype])
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert error(b, a) < 20 * TOLERANCE[dtype]


ROWS: list[Callable[[Any, Any], Any]] = [
    lambda y, a: np.sum(np.abs(y - a) ** 1.5, axis=-1),
    lambda y, a: np.log(1 + np.sum(np.exp(a) * y * y, axis=-1)) - np.mean(a, axis=-1),
    lambda y, a: np.sqrt(1 + np.mean((y - a) ** 2, axis=-1)) * np.sum(np.tanh(a), axis=-1),
    lambda y, a: fm.exp(-fm.square(y - a)).mean(axis=-1) / (1 + (a * a).sum(axis=-1)),
]


@pytest.mark.parametrize("function", ROWS, ids=range(len(ROWS)))
def test_a_loss_of_rows_by_numpy_and_central_differences(function: Callable[[Any, Any], Any]) -> None:
    x, y = inputs(21, 4), targets("mean_squared_error", 21, 3)
    model = fb.Model([fb.Dense(3)], dtype="float64")
    model.compile("sgd", function)
    assert model.evaluate(x, y) == pytest.approx(function(y, model.predict(x)).mean(), rel=1e-12)
    weights, step = model.get_weights(), 1e-6
    gradient = model.gradients(x, y)[0]
    for place in np.ndindex(4, 3):
        values = []
        for sign in (1, -1):
            moved = [w.copy() for w in weights]
            moved[0][place] += sign * step
            model.set_weights(moved)
            values.append(model.evaluate(x, y))
        assert gradient[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-8)


METRICS: list[Callable[[Any, Any], Any]] = [
    lambda y, a: np.abs(y - a),
    lambda y, a: np.max(np.abs(y - a), axis=-1),
    lambda y, a: np.mean(a, axis=-1) - np.min(y, axis=-1) * np.sum(y, axis=-1),
    lambda y, a: np.where(np.sum(a, axis=-1) > 0, 1.0, 0.0),
]


def test_metrics() -> None:
    x, y = inputs(50, 4), targets("mean_squared_error", 50, 3)
    for dtype in ("float32", "float64"):
        model = fb.Model([fb.Dense(3)], dtype=dtype)
        model.compile("sgd", "mse", metrics=[fb.metrics.custom(f, name=f"own_{i}") for i, f in enumerate(METRICS)])
        got, outputs = model.evaluate(x, y, return_dict=True), model.predict(x)
        for i, function in enumerate(METRICS):
            value = np.mean(function(y.astype(dtype).astype(float), outputs.astype(float)))
            assert got[f"own_{i}"] == pytest.approx(value, rel=1e-5)


def test_class_numbers_are_one_hot_for_a_metric() -> None:
    def share_of_the_class(y: Any, a: Any) -> Any:
        return np.sum(y * a, axis=-1)

    x, y = inputs(50, 4), np.random.default_rng(0).integers(0, 3, 50)
    model = fb.Model([fb.Dense(3, "softmax")], dtype="float64")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=share_of_the_class)
    got = model.evaluate(x, y, return_dict=True)
    assert got["share_of_the_class"] == pytest.approx(model.predict(x)[np.arange(50), y].mean(), rel=1e-12)


def everything(dtype: str = "float32", seed: int = 0, threads: int = 1) -> fb.Model:
    model = fb.Model([fb.Dense(130, gated), fb.Dense(70, "tanh"), fb.Dense(3)], dtype=dtype, seed=seed, threads=threads)
    model.compile(fb.Adam(0.01), cosine, metrics=["mae", fb.metrics.custom(METRICS[1], name="most")])
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 12, 48])
def test_any_number_of_threads_gives_the_same_bits(batch: int, dtype: str) -> None:
    x, y = inputs(48, 150), targets("mean_squared_error", 48, 3)
    found = []
    for threads in (1, 2, 3, 5):
        model = everything(dtype, threads=threads)
        history = model.fit(x, y, batch_size=batch, verbose=0)
        found.append([*model.get_weights(), *map(np.array, history.history.values())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_files_and_pickles_hold_the_functions_as_data(tmp_path: Path) -> None:
    """Nothing has to be named to load them, and what was fitted goes on to the same bits."""
    x, y = inputs(48, 6), targets("mean_squared_error", 48, 3)
    model = everything()
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model")
    others = [fb.load_model(tmp_path / "model"), pickle.loads(pickle.dumps(model))]
    names = list(model.metrics_names)
    for other in others:
        assert other.metrics_names == names
        assert other.layers[0].activation == model.layers[0].activation
        assert other.layers[0].activation.name == "gated"
        np.testing.assert_array_equal(other.predict(x), model.predict(x))
        assert other.evaluate(x, y) == model.evaluate(x, y)
    wanted = model.fit(x, y, epochs=2, verbose=0).history
    assert [other.fit(x, y, epochs=2, verbose=0).history for other in others] == [wanted, wanted]


def test_networks_side_by_side_and_checkpoints(tmp_path: Path) -> None:
    x, y = inputs(48, 6), targets("mean_squared_error", 48, 3)
    histories = fb.fit_many([everything(seed=1), everything(seed=2)], x, y, epochs=3, verbose=0)
    alone = everything(seed=2)
    options: dict[str, Any] = {"checkpoint": tmp_path / "fit", "verbose": 0}
    alone.fit(x, y, epochs=2, **options)
    again = everything(seed=2)
    assert again.fit(x, y, epochs=3, resume=True, **options).history == histories[1].history


def test_a_damaged_function_is_refused() -> None:
    steps = list(fb.activations.custom(gated).made or ())
    for wrong in (None, [], steps[:-1], [("import", "os"), *steps[1:]], [("argument", "x"), *steps[1:]], 3):
        with pytest.raises(ValueError, match=r"a function of one's own in the file is damaged"):
            fb.activations.remade("gated", wrong)


def test_one_function_is_one_formula() -> None:
    """Equal functions are the same activation, so nothing is compiled twice and layers compare equal."""
    assert fb.activations.custom(lambda z: z * 2.5) == fb.activations.custom(lambda z: 2.5 * z - 0.0, name="custom")
    assert fb.activations.custom(lambda z: z * 2.5) != fb.activations.custom(lambda z: z * 3.5)
    assert fb.activations.custom(lambda z: z, name="relu").name == "custom_relu"


def test_kernels_kept_on_disk_are_those_of_the_function() -> None:
    """Two processes, each with a lambda in the same place: neither takes the other's compiled code."""
    code = """
import numpy as np, fastbp as fb
model = fb.Model([fb.Dense(1, lambda z: FACTOR * z * z, kernel_initializer="ones")])
print(float(model.predict(np.array([[2.0]]))[0, 0]))
"""
    for factor in (1.25, 2.5, 1.25):
        assert float(python(code.replace("FACTOR", str(factor)))) == 4 * factor


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: fb.Dense(1, lambda z: z if z > 0 else 0.1 * z),
        r"the activation 'custom' can't be compiled: `if`.*np\.where",
    ),
    (lambda: fb.Dense(1, lambda z: np.tan(z)), r"np\.tan isn't among what it knows\. It may use \+ - \* /"),
    (lambda: fb.Dense(1, lambda z: np.sort(z)), r"np\.sort isn't among what it knows"),
    (lambda: fb.Dense(1, lambda z: np.add.reduce(z)), r"np\.add\.reduce isn't among what it knows"),
    (lambda: fb.Dense(1, lambda z: __import__("math").exp(z)), r"single numbers, such as math\.exp; use np\.exp"),
    (lambda: fb.Dense(1, lambda z: 1.0), r"it returns 1\.0; wanted a number for each row"),
    (lambda: fb.Dense(1, lambda z: z > 0), r"it returns a comparison"),
    (lambda: fb.Dense(1, lambda z: (z > 0) * z), r"multiply of a comparison; turn it into a number with np\.where"),
    (
        lambda: fb.Dense(1, lambda z: z / np.sum(z, axis=-1)),
        r"a sum over a row\. An activation takes each number alone",
    ),
    (lambda: fb.Dense(1, lambda z: z[0]), r"an index; single outputs can't be named"),
    (lambda: fb.Dense(1, lambda z: sum(z)), r"a loop over a value; use np\.sum"),
    (lambda: fb.Dense(1, lambda z: z.reshape(-1)), r"no attribute 'reshape'"),
    (lambda: fb.Dense(1, lambda z: z + "1"), r"could not convert|a str beside the argument"),
    (lambda: fb.losses.custom(lambda y: y), r"the loss 'custom' can't be compiled: .*takes 1 positional argument"),
    (lambda: fb.losses.custom(lambda y, a: np.max(a - y, axis=-1)), r"maximum or minimum over a row has no derivative"),
    (lambda: fb.losses.custom(lambda y, a: a * np.sum(a, axis=-1)), r"it mixes sums over a row with single outputs"),
    (lambda: fb.losses.custom(lambda y, a: np.sum(a / np.sum(a, axis=-1), axis=-1)), r"hold another such sum"),
    (lambda: fb.losses.custom(lambda y, a: np.sum(a)), r"sum over axis=None; wanted axis=-1"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_what_cannot_be_compiled_is_said(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
