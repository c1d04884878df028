"""Arrays of other libraries on the device: trained on and predicted into where they are."""

from typing import Any

import numpy as np
import pytest
from helpers import make
from test_device_arrays import Interface, Packed

import fastbp as fb
from fastbp.data.device_arrays import OnDevice

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda import arrays
from fastbp.cuda.engine import Engine

RNG = np.random.default_rng(4)
X, Y = RNG.standard_normal((12, 5)).astype(np.float32), RNG.standard_normal((12, 3)).astype(np.float32)


def model(**options: Any) -> fb.Model:
    made = make([5, 4, 3], device="cuda", **options)
    made.compile(fb.SGD(0.1), "mse")
    return made


def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What engines are given as x, from now on."""
    seen: list[Any] = []
    prepare = Engine.prepare

    def watched(self: Any, x: Any, *rest: Any, **options: Any) -> Any:
        seen.append(x)
        return prepare(self, x, *rest, **options)

    monkeypatch.setattr(Engine, "prepare", watched)
    return seen


@pytest.mark.parametrize("wrap", [Interface, Packed])
def test_rows_on_the_device_train_as_those_in_main_memory(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, got = model(), model()
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "validation_split": 0.25}
    losses = wanted.fit(X, Y, **options).history["val_loss"]
    seen = sent(monkeypatch)
    assert got.fit(wrap(X), wrap(Y), **options).history["val_loss"] == losses
    assert all(isinstance(x, OnDevice) and x.address >= X.ctypes.data for x in seen)
    for a, b in zip(got.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert got.evaluate(wrap(X), wrap(Y)) == wanted.evaluate(X, Y)
    np.testing.assert_array_equal(got.predict(wrap(X)), wanted.predict(X))


def test_class_numbers_and_weights_may_be_there_too() -> None:
    found = []
    for wrap in (lambda array: array, Interface):
        made = make([5, 4, 3], output="softmax", device="cuda")
        made.compile(fb.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
        labels, weights = np.arange(12) % 3, np.arange(12.0)
        made.fit(wrap(X), wrap(labels), batch_size=5, sample_weight=wrap(weights), class_weight="balanced", verbose=0)
        found.append(made.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("other", [X.astype(np.float64), np.asfortranarray(X), X[:, ::-1]])
def test_what_does_not_fit_goes_through_main_memory(other: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, seen = model().predict(np.ascontiguousarray(other, np.float32)), sent(monkeypatch)
    np.testing.assert_array_equal(model().predict(Interface(other)), wanted)
    assert isinstance(seen[0], np.ndarray)


def test_predictions_are_written_where_they_are_wanted() -> None:
    made, room = model(), np.full((12, 3), np.nan, np.float32)
    out = Interface(room)
    assert made.predict(Interface(X), out=out) is out
    np.testing.assert_array_equal(room, made.predict(X))
    room[:] = np.nan
    made.predict(X, out=out)
    np.testing.assert_array_equal(room, made.predict(X))


@pytest.mark.parametrize(
    "out, words",
    [
        (np.zeros((12, 2), np.float32), r"out has shape \(12, 2\) and type float32; wanted a C-ordered \(12, 3\)"),
        (np.zeros((12, 3)), "type float64; wanted"),
        (np.zeros((3, 12), np.float32).T, "wanted a C-ordered"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(out: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model().predict(X, out=Interface(out))
    locked = np.zeros((12, 3), np.float32)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="wanted a C-ordered"):
        model().predict(X, out=Interface(locked))


def test_a_layers_outputs_of_rows_on_the_device() -> None:
    made = model()
    np.testing.assert_array_equal(made.predict(Interface(X), upto=0), made.predict(X, upto=0))
    with pytest.raises(ValueError, match=r"out has shape \(12, 3\) and type float32; wanted a C-ordered \(12, 4\)"):
        made.predict(X, upto=0, out=Interface(np.zeros((12, 3), np.float32)))


@pytest.mark.parametrize("wrap", [np.asarray, Interface])
@pytest.mark.parametrize(
    "width, options",
    [
        (4, {"upto": 1}),
        (5, {"upto": 0}),
        (5, {"upto": 0, "noise": True}),
        (3, {"noise": True, "batch_size": 5}),
        (3, {"upto": "dense_1"}),
    ],
)
def test_a_layers_outputs_and_draws_stay_on_the_device(wrap: Any, width: int, options: dict[str, Any]) -> None:
    """The first layer draws only; without noise it gives its inputs as they are."""
    found = []
    for out in (None, np.zeros((12, width), np.float32), Interface(np.zeros((12, width), np.float32)), "device"):
        made = fb.Model([fb.Dropout(0.5), fb.Dense(4, activation="tanh"), fb.Dense(3)], device="cuda", seed=3)
        made.build(5)
        got = made.predict(wrap(X), out=out, **options)
        assert got is out or (out is None and got.shape == (12, width)) or isinstance(out, str)
        found.append(got.copy_to_host() if isinstance(got, OnDevice) else getattr(got, "array", got))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    assert np.array_equal(found[0], X) == (options == {"upto": 0}) and found[0].any()


@pytest.mark.parametrize("value, count", [(np.nan, 2), (np.inf, 1)])
def test_what_is_not_finite_is_found_on_the_device(value: float, count: int) -> None:
    bad = X.copy()
    bad[7, 2] = value
    bad[9, 1] = value if count == 2 else 0
    words = rf"contains NaN or infinity: {count} of 60 values, the first {value} at .*\[7, 2\]; fill them"
    with pytest.raises(ValueError, match="^x " + words):
        model().fit(Interface(bad), Y, verbose=0)
    with pytest.raises(ValueError, match="^x " + words):
        model().predict(Interface(bad))
    with pytest.raises(ValueError, match="^validation x " + words):
        model().fit(X, Y, validation_data=(Interface(bad), Y), verbose=0)


def test_shapes_are_checked_as_everywhere() -> None:
    with pytest.raises(ValueError, match=r"x has 4 columns, shape \(12, 4\); the model takes 5 columns"):
        model().predict(Interface(X[:, :4].copy()))
    with pytest.raises(ValueError, match="x has one dimension"):
        model().fit(Interface(X[0]), Y)
    with pytest.raises(ValueError, match=r"y has shape \(11, 3\), but x has 12 rows"):
        model().fit(Interface(X), Interface(Y[1:]))


def test_a_model_on_the_cpu_says_where_its_rows_should_be() -> None:
    made = make([5, 4, 3])
    made.compile("sgd", "mse")
    for call in (lambda: made.fit(Interface(X), Y), lambda: made.predict(Interface(X))):
        with pytest.raises(TypeError, match=r"x is on a GPU, and the model on the CPU: pass a copy.*device='cuda'"):
            call()
    with pytest.raises(ValueError, match="out is on a GPU, and the model on the CPU"):
        made.predict(X, out=Interface(Y))


@pytest.mark.parametrize("wrap", [Interface, Packed])
def test_outputs_that_stay_on_the_device_are_taken_by_others(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer in main memory stands for one on a GPU: it is told that the array lies there."""
    made = model()
    wanted = made.predict(X)
    got = made.predict(wrap(X), out="device")
    assert isinstance(got, OnDevice) and got.shape == (12, 3)
    assert arrays.view(got).copy_to_host().tolist() == wanted.ravel().tolist()
    again = made.predict(X, out=got)
    assert again is got
    with monkeypatch.context() as patch:
        patch.setattr("fastbp.data.device_arrays.CUDA", 1)
        np.testing.assert_array_equal(np.from_dlpack(got), wanted)
    for bad, words in (("gpu", "out='gpu'"), ("device", "wanted an array")):
        other = model() if bad == "gpu" else make([5, 4, 3])
        with pytest.raises(ValueError, match=words):
            other.predict(X, out=bad)
    with pytest.raises(ValueError, match="wanted an array"):
        make([5, 4, 3]).predict(X, out="device", upto=0)


def test_weights_are_given_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on in the memory that was given; the rows of the second kernel are apart."""
    made = model()
    began, views = made.get_weights(), made.get_weights(out="device")
    buffer = arrays.known(made._engine._params)
    for view, wanted in zip(views, began, strict=True):
        assert isinstance(view, OnDevice) and view.shape == wanted.shape and view.dtype == wanted.dtype
        assert buffer.address <= view.address and view.address + view.nbytes <= buffer.address + buffer.nbytes
        np.testing.assert_array_equal(view.copy_to_host(), wanted)
    assert not views[2].plain
    made.fit(X, Y, batch_size=4, verbose=0)
    found = [view.copy_to_host() for view in views]
    for got, wanted, before in zip(found, made.get_weights(), began, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert (got != before).any()
    with monkeypatch.context() as patch:
        patch.setattr("fastbp.data.device_arrays.CUDA", 1)
        for view, wanted in zip(views, found, strict=True):
            np.testing.assert_array_equal(np.from_dlpack(view), wanted)
    made.set_weights(began)
    np.testing.assert_array_equal(made.get_weights(out="device")[2].copy_to_host(), began[2])
    for one, out in ((made, "gpu"), (make([5, 4, 3]), "device")):
        with pytest.raises(ValueError, match=f"out='{out}': wanted None, or \"device\""):
            one.get_weights(out=out)


@pytest.mark.parametrize("source", ["another model", "another library"])
def test_weights_are_put_where_they_are(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another model, whose rows are apart, or plain ones; the optimizer's state stays."""
    trained = model(seed=7)
    trained.fit(X, Y, batch_size=4, verbose=0)
    weights, found = trained.get_weights(), []
    there = trained.get_weights(out="device") if source == "another model" else [Interface(w) for w in weights]
    for given in (weights, there):
        made = model()
        made.compile(fb.SGD(0.1, momentum=0.9), "mse")
        made.fit(X, Y, batch_size=4, verbose=0)
        with monkeypatch.context() as patch:
            if given is there:
                patch.setattr("fastbp.exchange.model_files.checked", None)  # they don't go through main memory
            made.set_weights(given)
        np.testing.assert_array_equal(made.predict(X), trained.predict(X))
        made.fit(X, Y, batch_size=4, verbose=0)
        found.append(made.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_that_do_not_fit_are_named_as_in_main_memory() -> None:
    made = model()
    right = made.get_weights()
    bad = [w.copy() for w in right]
    bad[2][1, 2] = np.nan
    for given in (bad, right[:3], [w.T.copy() for w in right]):
        words = []
        for wrap in (np.asarray, Interface):
            with pytest.raises(ValueError) as error:
                made.set_weights([wrap(w) for w in given])
            words.append(str(error.value))
        assert words[0] == words[1]
    for one, kind in ((made, np.float64), (make([5, 4, 3]), np.float32)):
        one.set_weights([Interface(np.asfortranarray(2 * w, kind)) for w in right])
        for got, wanted in zip(one.get_weights(), right, strict=True):
            np.testing.assert_array_equal(got, 2 * wanted)


@pytest.mark.gpu
def test_weights_of_a_device() -> None:
    from fastbp.cuda.device import cuda

    made, other = model(), model(seed=7)
    views, wanted = made.get_weights(out="device"), made.get_weights()
    for view, weights in zip(views, wanted, strict=True):
        np.testing.assert_array_equal(cuda.as_cuda_array(view).copy_to_host(), weights)
    for given in (views, [cuda.to_device(weights) for weights in wanted]):
        other.set_weights([np.zeros_like(weights) for weights in wanted])
        other.set_weights(given)
        for got, weights in zip(other.get_weights(), wanted, strict=True):
            np.testing.assert_array_equal(got, weights)


def test_rows_on_the_device_go_where_auto_decides() -> None:
    wanted, got = (fb.Model([fb.Dense(4), fb.Dense(3)], device="auto", seed=1) for _ in range(2))
    for made, x in ((wanted, X), (got, Interface(X))):
        made.compile(fb.SGD(0.1), "mse")
        made.fit(x, Y, batch_size=4, verbose=0)
        assert made.device == "cpu"
    np.testing.assert_array_equal(got.get_weights()[0], wanted.get_weights()[0])
    fresh = fb.Model([fb.Dense(4)], device="auto", seed=1)
    assert fresh.predict(Interface(X)).shape == (12, 4)


def test_many_networks_train_where_their_rows_are(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "validation_split": 0.25}
    wanted, got, seen = [model(), model()], [model(), model()], sent(monkeypatch)
    fb.fit_many(wanted, X, Y, **options)
    seen.clear()
    fb.fit_many(got, Interface(X), Interface(Y), **options)
    assert seen and all(isinstance(x, OnDevice) for x in seen)
    beside = make([5, 4, 3])
    beside.compile(fb.SGD(0.1), "mse")
    fb.fit_many([model(), beside], Interface(X), Interface(Y), **options)
    np.testing.assert_allclose(beside.get_weights()[0], got[0].get_weights()[0], atol=1e-5)
    wanted, got = wanted[0], got[0]
    for a, b in zip(got.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_knows_rows_on_the_device(tmp_path: Any) -> None:
    """A fit goes on over the same rows, wherever they are, and over no others."""
    path, options = tmp_path / "fit.checkpoint", {"batch_size": 4, "verbose": 0}
    made = model()
    made.fit(X, Y, epochs=1, checkpoint=path, **options)
    again = model()
    again.fit(Interface(X), Y, epochs=2, checkpoint=path, resume=True, **options)
    made.fit(X, Y, initial_epoch=1, epochs=2, **options)
    for a, b in zip(again.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"data\.digest is"):
        model().fit(Interface(X + 1), Y, epochs=3, checkpoint=path, resume=True, **options)


def test_whoever_writes_the_rows_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What numba-cuda is asked for on a real device."""
    said: list[Any] = []

    class Cuda:
        @staticmethod
        def get_current_device() -> Any:
            return type("Gpu", (), {"id": 1})

        @staticmethod
        def external_stream(handle: int) -> Any:
            return type("Stream", (), {"synchronize": lambda self: said.append(handle)})()

        @staticmethod
        def from_cuda_array_interface(interface: dict[str, Any], owner: Any) -> Any:
            said.append((interface["shape"], interface["stream"], owner.owner))
            return "view"

    monkeypatch.setattr(arrays, "simulated", lambda: False)
    monkeypatch.setattr(arrays, "cuda", Cuda)
    owner = object()
    on = {"address": 64, "shape": (4, 3), "dtype": np.dtype("f4"), "owner": owner}
    for stream in (None, 1, 2, 99):
        assert arrays.view(OnDevice(**on, stream=stream, ordinal=1)) == "view"
    made = ((12,), None, owner)
    assert said == [made, made, 2, made, 99, made]
    with pytest.raises(ValueError, match="x is on GPU 0, the model on GPU 1"):
        arrays.view(OnDevice(**on, ordinal=0))


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_other_libraries_arrays_are_read_and_written_in_place(library: str) -> None:
    other = pytest.importorskip(library)
    if library == "torch":
        if not other.cuda.is_available():
            pytest.skip("this PyTorch was installed without CUDA")
        there = lambda array: other.from_numpy(array).cuda()  # noqa: E731
        back = lambda array: array.cpu().numpy()  # noqa: E731
    else:
        there, back = other.asarray, other.asnumpy
    wanted, got = model(), model()
    for made, x, y in ((wanted, X, Y), (got, there(X), there(Y))):
        made.fit(x, y, batch_size=4, epochs=2, verbose=0)
    for a, b in zip(got.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    out = there(np.zeros((12, 3), np.float32))
    got.predict(there(X), out=out)
    np.testing.assert_array_equal(back(out), wanted.predict(X))
    for view, weights in zip(got.get_weights(out="device"), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(back(other.from_dlpack(view)), weights)
    got.set_weights([there(2 * weights) for weights in wanted.get_weights()])
    np.testing.assert_array_equal(got.get_weights()[2], 2 * wanted.get_weights()[2])
    x = there(X)
    x[7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"at x\[7, 2\]"):
        got.predict(x)
