"""How long a fit goes, what it validates, how it ends, and the record it leaves."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import inputs, interrupting, make, targets

import fastbp as fb
from fastbp.callbacks import LambdaCallback
from fastbp.history import History

SPARSE = "sparse_categorical_crossentropy"
X, Y = inputs(40, 4), targets("mean_squared_error", 40, 2)


def regression(**options: Any) -> fb.Model:
    model = make([4, 6, 2], "tanh", **options)
    model.compile(fb.Adam(0.01), "mse", metrics=["mae"])
    return model


def same_weights(one: fb.Model, two: fb.Model) -> None:
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- how long


@pytest.mark.parametrize(("steps", "rows"), [(1, [16]), (2, [16, 16]), (5, [16, 16, 8, 16, 16]), (7, None)])
def test_steps_per_epoch_cut_the_passes_into_epochs(steps: int, rows: list[int] | None) -> None:
    """40 rows in batches of 16 are passes of 3 steps; epochs of another length go on where the last one stopped."""
    model, twin = regression(), regression()
    history = model.fit(X, Y, batch_size=16, epochs=4, steps_per_epoch=steps, shuffle=False, verbose=0)
    bounds, losses = [(0, 16), (16, 32), (32, 40)], []
    for step in range(4 * steps):
        begin, end = bounds[step % 3]
        losses.append((end - begin, np.array(twin.train_on_batch(X[begin:end], Y[begin:end]))))
    same_weights(model, twin)
    for epoch in range(4):
        part = losses[epoch * steps : (epoch + 1) * steps]
        mean = sum(n * values for n, values in part) / sum(n for n, _ in part)
        assert [history.history["loss"][epoch], history.history["mae"][epoch]] == pytest.approx(mean, rel=1e-6)
    assert rows is None or [n for n, _ in losses[:steps]] == rows
    assert history.params["steps"] == steps


def test_epochs_of_other_lengths_see_the_same_shuffles() -> None:
    """6 steps are two passes, whether they are called one epoch, two or six; the model counts the passes."""
    models = [regression() for _ in range(4)]
    for model, steps in zip(models, (1, 2, 3, 6), strict=True):
        history = model.fit(X, Y, batch_size=16, epochs=6 // steps, steps_per_epoch=steps, verbose=0)
        assert len(history.epoch) == 6 // steps
        assert model._epochs_seen == 2
    for model in models[1:]:
        same_weights(models[0], model)


def test_initial_epoch_goes_on_with_the_numbers() -> None:
    whole, halves = regression(), regression()
    wanted = whole.fit(X, Y, epochs=5, verbose=0)
    first = halves.fit(X, Y, epochs=2, verbose=0)
    seen: list[int] = []
    watch = LambdaCallback(on_epoch_begin=lambda epoch, logs=None: seen.append(epoch))
    second = halves.fit(X, Y, epochs=5, initial_epoch=2, verbose=0, callbacks=watch)
    same_weights(whole, halves)
    assert seen == second.epoch == [2, 3, 4]
    assert first.history["loss"] + second.history["loss"] == wanted.history["loss"]
    assert repr(second).startswith("History(3 of 5 epochs: ")


def test_max_time_ends_the_fit_and_says_so() -> None:
    model = regression()
    start = time.perf_counter()
    history = model.fit(X, Y, epochs=10**9, verbose=0, max_time=0.2)
    assert time.perf_counter() - start >= 0.2
    assert 0 < len(history.epoch) < 10**9
    assert "stopped after max_time=0.2 s" in repr(history)
    assert not history.interrupted


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize(("freq", "epochs"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), ([1, 4], [0, 3]), (9, [])])
def test_validation_freq(freq: Any, epochs: list[int]) -> None:
    model, every = regression(), regression()
    history = model.fit(X, Y, epochs=5, verbose=0, validation_split=0.2, validation_freq=freq)
    wanted = every.fit(X, Y, epochs=5, verbose=0, validation_split=0.2)
    assert history.history.get("val_mae", []) == [wanted.history["val_mae"][epoch] for epoch in epochs]
    assert history.history["loss"] == wanted.history["loss"]
    column = history.columns().get("val_loss", [math.nan] * 5)
    assert [not math.isnan(value) for value in column] == [epoch in epochs for epoch in range(5)]


@pytest.mark.parametrize("layer", [fb.Dropout(0.5), fb.GaussianNoise(0.5)], ids=["dropout", "noise"])
def test_validation_leaves_the_noise_as_it_is(layer: fb.layers.Layer) -> None:
    """Each epoch has draws of its own, also where many epochs and their validations are one run."""
    models = [fb.Model([layer, fb.Dense(6, "tanh"), fb.Dense(2)], seed=3) for _ in range(3)]
    for model in models:
        model.compile(fb.Adam(0.01), "mse")
    plain, validated, many = models
    plain.fit(X, Y, epochs=5, batch_size=16, verbose=0)
    validated.fit(X, Y, epochs=5, batch_size=16, validation_data=(X, Y), verbose=0)
    fb.fit_many([many], X, Y, epochs=5, batch_size=16, validation_data=(X, Y), verbose=0)
    same_weights(plain, validated)
    same_weights(plain, many)


def test_validation_steps_and_batches() -> None:
    models = [regression() for _ in range(3)]
    whole = models[0].fit(X, Y, verbose=0, validation_data=(X, Y))
    small = models[1].fit(X, Y, verbose=0, validation_data=(X, Y), validation_batch_size=7)
    part = models[2].fit(
        X, Y, batch_size=32, verbose=0, validation_data=(X, Y), validation_batch_size=7, validation_steps=2
    )
    assert small.history["val_loss"] == pytest.approx(whole.history["val_loss"], rel=1e-6)
    assert part.history["val_loss"] == pytest.approx([models[2].evaluate(X[:14], Y[:14])[0]], rel=1e-6)


def test_a_history_is_read_like_a_dict() -> None:
    history = regression().fit(X, Y, verbose=0, validation_data=(X, Y), epochs=2)
    assert dict(history) == history.history and list(history) == ["loss", "mae", "val_loss", "val_mae"]
    assert "val_loss" in history and "accuracy" not in history
    with pytest.raises(
        KeyError, match=r"no 'los' in the history. Did you mean 'loss'\? There are: loss, mae, val_loss, val_mae"
    ):
        history["los"]


# ---------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial_epoch": -1}, r"initial_epoch must be a whole number of at least 0, got -1"),
        ({"initial_epoch": 3, "epochs": 3}, r"initial_epoch=3 with epochs=3 leaves nothing to train"),
        ({"steps_per_epoch": 0}, r"steps_per_epoch must be a whole number of at least 1, got 0"),
        ({"validation_freq": 0}, r"validation_freq must be a whole number of at least 1, got 0"),
        ({"validation_freq": "2"}, r"validation_freq must be .* got '2'"),
        ({"validation_freq": [1, 2.5]}, r"validation_freq must be .* got 2\.5"),
        ({"validation_batch_size": 0}, r"validation_batch_size must be .* got 0"),
        ({"validation_steps": True}, r"validation_steps must be .* got True"),
        ({"max_time": 0}, r"max_time must be a number of seconds above 0, got 0"),
        ({"max_time": math.nan}, r"max_time must be a number, got nan"),
        ({"shuffle": "batch"}, r"shuffle must be True or False, got 'batch'"),
        ({"resume": "yes", "checkpoint": "fit"}, r"resume must be True or False, got 'yes'"),
        ({"checkpoint": 3}, r"checkpoint must be the path of a file, got 3"),
        ({"on_interrupt": "stop"}, r'on_interrupt must be "raise" or "return", got \'stop\''),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    model = regression()
    with pytest.raises(ValueError, match=words):
        model.fit(X, Y, verbose=0, **options)
    same_weights(model, regression())


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("choice", ["raise", "return"])
def test_an_interrupt_leaves_a_whole_model_and_the_history(choice: str) -> None:
    """What was learned is the state after a whole number of steps: as many plain steps give the same bits."""
    model, twin = make([400, 300, 10], "tanh", "softmax"), make([400, 300, 10], "tanh", "softmax")
    x, y = inputs(320, 400), targets(SPARSE, 320, 10)
    for each in (model, twin):
        each.compile("adam", SPARSE)
    model.fit(x, y, epochs=1, verbose=0)
    with interrupting(lambda: model._updates > 35):
        if choice == "raise":
            with pytest.raises(KeyboardInterrupt):
                model.fit(x, y, epochs=10**6, verbose=0)
        else:
            assert model.fit(x, y, epochs=10**6, verbose=0, on_interrupt="return") is model.history
    history = model.history
    assert history is not None and history.interrupted
    assert len(history.epoch) == (model._updates - 10) // 10
    twin.fit(x, y, epochs=1, verbose=0)
    epochs, steps = divmod(model._updates - 10, 10)
    twin.fit(
        x, y, epochs=10**6, verbose=0, callbacks=LambdaCallback(on_train_batch_end=_stop_after(twin, epochs, steps))
    )
    same_weights(model, twin)


def _stop_after(model: fb.Model, epochs: int, steps: int) -> Any:
    def count(batch: int, logs: Any) -> None:
        model.stop_training = model._updates == 10 + 10 * epochs + steps

    return count


# ---------------------------------------------------------------- the record


def test_history_as_a_frame() -> None:
    pd = pytest.importorskip("pandas")
    history = regression().fit(X, Y, epochs=3, verbose=0, validation_split=0.2, validation_freq=2)
    frame = history.to_frame()
    assert list(frame.columns) == ["loss", "mae", "val_loss", "val_mae", "learning_rate", "seconds"]
    assert (frame.index.name, list(frame.index)) == ("epoch", [0, 1, 2])
    assert frame["loss"].tolist() == history.history["loss"]
    assert frame["val_loss"].dropna().tolist() == history.history["val_loss"]
    assert frame["learning_rate"].tolist() == history.learning_rate == [0.01] * 3
    assert (frame["seconds"] > 0).all()
    assert isinstance(History(1, 1).to_frame(), pd.DataFrame)


def test_history_as_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = regression().fit(X, Y, epochs=6, verbose=0, validation_split=0.2, validation_freq=2)
    figure = history.plot(tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    panels = {axes.get_title(): [line.get_ydata() for line in axes.lines] for axes in figure.axes}
    assert list(panels) == ["loss", "mae", "learning rate"]
    np.testing.assert_array_equal(panels["loss"][0], history.history["loss"])
    np.testing.assert_array_equal(panels["loss"][1], history.history["val_loss"])
    np.testing.assert_array_equal(panels["learning rate"][0], [0.01] * 6)
    assert len(regression().fit(X, Y, verbose=0).plot().axes) == 3
    with pytest.raises(ValueError, match="no epoch is finished"):
        History(1, 1).plot()


def test_history_as_a_page() -> None:
    history = regression().fit(X, Y, epochs=30, verbose=0)
    page = history._repr_html_()
    assert page.count("<tr>") == 1 + 5 + 1 + 10
    assert "<caption>30 of 30 epochs</caption>" in page
    assert f"<td>{history.history['mae'][-1]:.4g}</td>" in page
    history.append({"<b>": 1.0})
    assert "<th>&lt;b&gt;</th>" in history._repr_html_()


@pytest.mark.parametrize(("method", "package"), [("to_frame", "pandas"), ("plot", "matplotlib")])
def test_what_is_missing_is_said(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(1, 1)
    history.append({"loss": 1.0})
    for name in (package, f"{package}.figure", f"{package}.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"History.{method} needs {package}: pip install 'fastbp\["):
        getattr(history, method)()
