"""Callbacks: Keras' hooks in Keras' order, and each callback on values that are given to it."""

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import inputs, make, targets

import fastbp as fb
from fastbp.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    GradientNorms,
    LambdaCallback,
    LearningRateScheduler,
    MLflow,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
    Timer,
)
from fastbp.cpu.engine import Engine

SPARSE = "sparse_categorical_crossentropy"
X, Y = inputs(40, 4), targets(SPARSE, 40, 3)


def classifier(**options: Any) -> fb.Model:
    model = make([4, 6, 3], "tanh", "softmax", **options)
    model.compile(fb.Adam(0.01), SPARSE, metrics=["accuracy"])
    return model


class Says(Callback):
    """Reports values of its own at the end of each epoch."""

    def __init__(self, **values: list[float]) -> None:
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs |= {name: values[epoch] for name, values in self.values.items() if not math.isnan(values[epoch])}


class Recorder(Callback):
    """Notes every hook that is called, with what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.logs: dict[str, list[Any]] = {}

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(*arguments: Any) -> None:
            self.calls.append((name, *arguments[:1]) if name.count("_") > 2 or "epoch" in name else (name,))
            self.logs.setdefault(name, []).append(arguments[-1] if arguments else None)

        return note


class AllHooks(Recorder):
    """`Recorder`, for the fit's eyes: overrides every hook."""


for _name in [name for name in vars(Callback) if name.startswith("on_")]:
    setattr(AllHooks, _name, lambda *_: None)


def test_every_hook_in_keras_order() -> None:
    watcher = AllHooks()
    model = classifier()
    model.fit(X, Y, batch_size=20, epochs=2, verbose=0, callbacks=[watcher], validation_data=(X[:6], Y[:6]))
    epoch = [
        ("on_train_batch_begin", 0),
        ("on_train_batch_end", 0),
        ("on_train_batch_begin", 1),
        ("on_train_batch_end", 1),
        ("on_test_begin",),
        ("on_test_batch_begin", 0),
        ("on_test_batch_end", 0),
        ("on_test_end",),
    ]
    whole = [("on_epoch_begin", 0), *epoch, ("on_epoch_end", 0), ("on_epoch_begin", 1), *epoch, ("on_epoch_end", 1)]
    assert watcher.calls == [("on_train_begin",), *whole, ("on_train_end",)]
    assert watcher.model is model
    assert watcher.params == {
        "epochs": 2,
        "steps": 2,
        "verbose": 0,
        "metrics": ["loss", "accuracy", "val_loss", "val_accuracy"],
    }
    ends, history = watcher.logs["on_epoch_end"], model.history
    assert history is not None
    assert [e["val_loss"] for e in ends] == history.history["val_loss"]
    assert watcher.logs["on_test_end"][1]["accuracy"] == history.history["val_accuracy"][1]
    # the running means of an epoch end as the epoch's own
    assert [watcher.logs["on_train_batch_end"][i]["loss"] for i in (1, 3)] == history.history["loss"]
    assert watcher.logs["on_train_end"][0] == {name: values[-1] for name, values in history.history.items()}


def test_the_batch_hooks_older_names() -> None:
    seen: list[Any] = []

    class Old(Callback):
        def on_batch_begin(self, batch: int, logs: Any = None) -> None:
            seen.append(batch)

        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(logs["loss"])

    model = classifier()
    model.fit(X, Y, batch_size=20, verbose=0, callbacks=Old())
    assert model.history is not None
    assert [seen[0], seen[2], seen[3]] == [0, 1, *model.history.history["loss"]]


def test_evaluate_takes_callbacks() -> None:
    watcher = AllHooks()
    model = classifier()
    values = model.evaluate(X, Y, batch_size=15, callbacks=[watcher], return_dict=True)
    batches = [(hook, i) for i in range(3) for hook in ("on_test_batch_begin", "on_test_batch_end")]
    assert watcher.calls == [("on_test_begin",), *batches, ("on_test_end",)]
    assert watcher.logs["on_test_end"] == [values]
    assert values == model.evaluate(X, Y, batch_size=15, return_dict=True)


@pytest.mark.parametrize("callback", [Callback(), LambdaCallback(on_epoch_end=lambda epoch, logs: None), AllHooks()])
@pytest.mark.parametrize("threads", [1, 2])
def test_watching_changes_no_bit(callback: Callback, threads: int) -> None:
    """Epoch by epoch, step by step or many epochs in one entry: the same weights and history."""
    plain, watched = classifier(threads=threads), classifier(threads=threads)
    wanted = plain.fit(X, Y, batch_size=16, epochs=5, verbose=0)
    history = watched.fit(X, Y, batch_size=16, epochs=5, verbose=0, callbacks=[callback])
    assert history.history == wanted.history
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("callback", "entries"),
    [(None, 1), (Callback(), 1), (Timer(), 10), (LambdaCallback(on_train_batch_end=lambda batch, logs: None), 100)],
)
def test_python_is_entered_only_where_someone_watches(
    callback: Any, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runs = classifier(), []
    model.fit(X, Y, verbose=0)
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda *args, **kwargs: runs.append(kwargs["steps"]) or run(*args, **kwargs))
    monkeypatch.setattr("fastbp.training.fit.CHUNK_SECONDS", 1e9)
    model.fit(X, Y, batch_size=4, epochs=10, verbose=0, callbacks=callback)
    assert sum(runs) == 100
    assert len(runs) == entries


def test_a_fit_goes_on_at_the_pace_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = classifier(), []
    model.fit(X, Y, batch_size=4, verbose=0)
    assert set(model._engine.pace) == {4}
    assert model._engine.pace[4] > 0
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda *args, **kwargs: runs.append(kwargs["steps"]) or run(*args, **kwargs))
    monkeypatch.setattr("fastbp.training.fit.CAUTIOUS_RATE", 1.0)
    for pace, first in ((0.01, 25), (1e-9, 100), (1.0, 1)):
        runs.clear()
        model._engine.pace[4] = pace
        model.fit(X, Y, batch_size=4, epochs=10, verbose=0)
        assert runs[0] == first
        assert sum(runs) == 100


def test_hooks_get_what_keras_gives_them() -> None:
    seen: dict[str, tuple[Any, ...]] = {}
    hooks = [name for name in vars(Callback) if name.startswith("on_") and name != "on_divergence"]
    watch = LambdaCallback(**{name: lambda *given, name=name: seen.setdefault(name, given) for name in hooks})
    classifier().fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=watch)
    assert {name: len(given) for name, given in seen.items()} == {
        name: 1 if name.startswith(("on_train_", "on_test_")) and "batch" not in name else 2 for name in seen
    }
    assert all(isinstance(given[-1], dict) for given in seen.values())
    assert {"on_train_begin", "on_epoch_begin", "on_test_begin", "on_test_end", "on_train_end"} <= set(seen)


def test_a_stop_in_an_epoch_ends_and_reports_it() -> None:
    model = classifier()

    def stop(batch: int, logs: Any) -> None:
        model.stop_training = batch == 1

    ends: list[int] = []
    watch = LambdaCallback(on_train_batch_end=stop, on_epoch_end=lambda epoch, logs: ends.append(epoch))
    history = model.fit(X, Y, batch_size=10, epochs=9, shuffle=False, verbose=0, callbacks=watch)
    twin = classifier()
    assert history.history == twin.fit(X[:20], Y[:20], batch_size=10, shuffle=False, verbose=0).history
    assert ends == history.epoch == [0]
    assert history.params["epochs"] == 9
    model.fit(X, Y, epochs=2, verbose=0)
    assert model.history is not None and model.history.epoch == [0, 1]


def test_what_a_callback_adds_is_in_the_history() -> None:
    model = classifier()
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[Says(mine=[1.0, math.nan, 3.0])])
    assert history.history["mine"] == [1.0, 3.0]
    assert history.columns()["mine"][0] == 1.0 and math.isnan(history.columns()["mine"][1])


def test_an_error_in_a_callback_keeps_the_epoch() -> None:
    model = classifier()

    def fail(epoch: int, logs: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X, Y, epochs=3, verbose=0, callbacks=LambdaCallback(on_epoch_end=fail))
    assert model.history is not None and model.history.epoch == [0]


# ---------------------------------------------------------------- each callback


@pytest.mark.parametrize(
    ("values", "options", "epochs", "best"),
    [
        ([5, 4, 3, 3, 3], {}, 4, 2),
        ([5, 4, 3, 3, 3], {"patience": 2}, 5, 2),
        ([5, 4, 3, 4, 2, 3, 3, 3], {"patience": 2}, 7, 4),
        ([5, 4.9, 4.8, 4.7], {"min_delta": 0.15}, 2, 0),
        ([5, 4.9, 4.8, 4.7], {"min_delta": 0.15, "patience": 2}, 4, 2),
        ([1, 2, 3, 2], {"mode": "max"}, 4, 2),
        ([1, 2, 3, 2], {"mode": "min"}, 2, 0),
        ([9, 8, 7, 6, 5], {"baseline": 4, "patience": 3}, 5, 4),
        ([9, 8, 3, 4, 4], {"baseline": 4, "patience": 1}, 4, 2),
        ([1, 9, 8, 7, 8], {"start_from_epoch": 1}, 5, 3),
        ([5, 6, 7], {"start_from_epoch": 9}, 3, 0),
        ([5, math.nan, 4, math.nan, 4], {}, 5, 2),
    ],
)
def test_early_stopping(values: list[float], options: dict[str, Any], epochs: int, best: int) -> None:
    model, weights = classifier(), []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(model.get_weights()))
    stopper = EarlyStopping("val_mine", restore_best_weights=True, **options)
    stopper.check = lambda names: None  # type: ignore[method-assign]
    history = model.fit(
        X, Y, epochs=len(values), verbose=0, callbacks=[keep, Says(val_mine=[float(v) for v in values]), stopper]
    )
    assert len(history.epoch) == epochs
    assert stopper.best_epoch == best
    wanted = weights[best] if options.get("start_from_epoch", 0) < epochs else weights[-1]
    for a, b in zip(model.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "up"),
    [("val_accuracy", True), ("auc", True), ("r2", True), ("f1", True), ("loss", False), ("val_mse", False)],
)
def test_which_values_are_the_better_the_greater(name: str, up: bool) -> None:
    assert EarlyStopping(name)._improves(2.0, 1.0) is up
    assert EarlyStopping(name)._improves(1.0, 2.0) is not up


@pytest.mark.parametrize(
    ("values", "options", "rates"),
    [
        ([3, 3, 3, 3], {"patience": 1}, [1, 0.1, 0.01, 0.001]),
        ([3, 3, 3, 3], {"patience": 2, "factor": 0.5}, [1, 1, 0.5, 0.5]),
        ([3, 3, 3, 3, 3], {"patience": 1, "cooldown": 2, "factor": 0.5}, [1, 0.5, 0.5, 0.25, 0.25]),
        ([3, 3, 3, 3], {"patience": 1, "min_lr": 0.05}, [1, 0.1, 0.05, 0.05]),
        ([3, 2.5, 2.4, 2], {"patience": 1, "min_delta": 0.3}, [1, 1, 0.1, 0.1]),
    ],
)
def test_reduce_on_plateau(values: list[float], options: dict[str, Any], rates: list[float]) -> None:
    model = classifier()
    model.learning_rate = 1.0
    history = model.fit(
        X,
        Y,
        epochs=len(values),
        verbose=0,
        callbacks=[Says(mine=[float(v) for v in values]), ReduceLROnPlateau("mine", **options)],
    )
    assert [*history.history["learning_rate"][1:], model.learning_rate] == pytest.approx(rates)


@pytest.mark.parametrize("schedule", [lambda epoch, rate: 0.1 * rate, lambda epoch: 10.0 ** -(epoch + 3)])
def test_learning_rate_scheduler(schedule: Callable[..., float]) -> None:
    model, twin = classifier(), classifier()
    history = model.fit(X, Y, epochs=3, verbose=0, callbacks=LearningRateScheduler(schedule))
    assert history.history["learning_rate"] == pytest.approx([1e-3, 1e-4, 1e-5])
    assert history.learning_rate == history.history["learning_rate"]
    for epoch in range(3):
        twin.learning_rate = history.learning_rate[epoch]
        twin.fit(X, Y, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_model_checkpoint_fills_in_the_path(tmp_path: Path) -> None:
    model = classifier()
    saver = ModelCheckpoint(tmp_path / "m-{epoch:02d}-{val_loss:.3f}.fastbp")
    history = model.fit(X, Y, epochs=2, verbose=0, validation_split=0.2, callbacks=saver)
    names = [f"m-{i + 1:02d}-{value:.3f}.fastbp" for i, value in enumerate(history.history["val_loss"])]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    last = fb.load_model(tmp_path / names[-1])
    for a, b in zip(model.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_model_checkpoint_keeps_the_best(tmp_path: Path) -> None:
    model, weights = classifier(), []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(model.get_weights()))
    saver = ModelCheckpoint(tmp_path / "best", "mine", save_best_only=True, save_weights_only=True)
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[keep, Says(mine=[3.0, 1.0, 2.0, 1.5]), saver])
    assert saver.best == 1.0
    twin = classifier()
    twin.load_weights(tmp_path / "best")
    for a, b in zip(twin.get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_model_checkpoint_by_batches(tmp_path: Path) -> None:
    classifier().fit(
        X,
        Y,
        batch_size=10,
        epochs=2,
        verbose=0,
        callbacks=ModelCheckpoint(tmp_path / "m-{epoch}-{batch}", save_freq=3),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-1-3", "m-2-2"]


def test_csv_logger(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    model = classifier()
    first = model.fit(
        X, Y, epochs=3, verbose=0, validation_split=0.2, validation_freq=2, callbacks=CSVLogger(path, separator=";")
    )
    rows = list(csv.DictReader(path.read_text().splitlines(), delimiter=";"))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows] == first.history["loss"]
    assert [row["val_loss"] for row in rows] == ["", str(first.history["val_loss"][0]), ""]
    second = model.fit(
        X, Y, epochs=2, verbose=0, validation_split=0.2, callbacks=CSVLogger(path, separator=";", append=True)
    )
    rows = list(csv.DictReader(path.read_text().splitlines(), delimiter=";"))
    assert [float(row["val_accuracy"]) for row in rows[3:]] == second.history["val_accuracy"]
    model.fit(X, Y, verbose=0, callbacks=CSVLogger(path))
    assert path.read_text().startswith("epoch,loss,accuracy\n0,") and path.read_text().count("\n") == 2


def test_terminate_on_nan_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    model = make([4, 9, 1], "relu")
    model.compile(fb.SGD(1e8), "mse")
    history = model.fit(X, Y[:, None].astype(float), batch_size=5, epochs=50, verbose=0, callbacks=TerminateOnNaN())
    assert "became NaN or infinite" in capsys.readouterr().err
    assert history.stopped.startswith("stopped by NaN in epoch ")
    assert len(history.epoch) < 50
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_gradient_report_and_its_callback(capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    gradients, names = model.gradients(X, Y), model._names()
    wanted = [np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients[i : i + 2])) for i in (0, 2)]
    report = model.gradient_report(X, Y)
    assert list(report.norms) == names
    assert list(report.norms.values()) == pytest.approx(wanted, rel=1e-6)
    assert [row.state for row in report] == ["", ""]
    assert all(name in repr(report) for name in names)
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=GradientNorms(X, Y, verbose=1))
    last = model.gradient_report(X, Y).norms
    assert [history.history[f"gradient_{name}"][-1] for name in names] == list(last.values())
    assert capsys.readouterr().err.count("norm") == 2


def test_vanishing_and_exploding_gradients_are_named() -> None:
    deep = fb.Model([*(fb.Dense(8, "sigmoid") for _ in range(9)), fb.Dense(1)])
    deep.compile("sgd", "mse")
    states = [row.state for row in deep.gradient_report(X, Y[:, None].astype(float))]
    assert states[0] == "vanishing" and states[-1] == ""
    steep = make([4, 6, 1], "linear")
    steep.compile("sgd", "mse")
    report = steep.gradient_report(1e3 * X, Y[:, None].astype(float))
    assert "exploding" in repr(report)


def test_timer() -> None:
    timer = Timer()
    classifier().fit(X, Y, epochs=3, verbose=0, callbacks=timer)
    assert len(timer.epochs) == 3
    assert 0 < sum(timer.epochs) <= timer.total


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    model = classifier()
    board = TensorBoard(tmp_path, histogram_freq=1, update_freq="batch")
    model.fit(X, Y, batch_size=10, epochs=2, verbose=0, validation_split=0.2, callbacks=board)
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[str]] = {}
    for path in sorted(tmp_path.rglob("events.*")):
        content, tags = path.read_bytes(), []
        while content:  # length, its checksum, the event, its checksum
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            tags += [value.tag for value in event.summary.value]
            content = content[16 + size :]
        found[path.parent.name] = tags
    assert found["validation"] == ["epoch_loss", "epoch_accuracy"] * 2
    weights = list(model.named_weights())
    batches = ["batch_loss", "batch_accuracy"] * 4
    assert found["train"] == [*batches, "epoch_learning_rate", "epoch_loss", "epoch_accuracy", *weights] * 2


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda: fb.callbacks.Timer, TypeError, r"wanted objects of fb\.callbacks\.Callback, pass Timer\(\)"),
        (lambda: 3, TypeError, r"callbacks holds 3;"),
        (lambda: [3], TypeError, r"callbacks holds 3; wanted objects of fb\.callbacks\.Callback"),
        (lambda: [EarlyStopping], TypeError, r"wanted objects of .*, pass EarlyStopping\(\)"),
        (lambda: EarlyStopping("los"), ValueError, r"unknown value to monitor 'los'\. Did you mean 'loss'"),
        (lambda: EarlyStopping(), ValueError, r"'val_loss'.* need validation_data or validation_split"),
        (lambda: EarlyStopping(mode="up"), ValueError, r'mode must be "auto", "min" or "max", got \'up\''),
        (lambda: EarlyStopping(patience=-1), ValueError, r"EarlyStopping: patience must be .* at least 0, got -1"),
        (lambda: EarlyStopping(min_delta="a"), ValueError, r"EarlyStopping: min_delta must be a number, got 'a'"),
        (lambda: ReduceLROnPlateau(factor=1.0), ValueError, r"factor must be in \(0, 1\), got 1\.0"),
        (lambda: ModelCheckpoint("m", save_best_only=True), ValueError, r"ModelCheckpoint: unknown value.*val_loss"),
        (lambda: ModelCheckpoint("m", save_freq=0), ValueError, r"save_freq must be .* at least 1, got 0"),
        (lambda: LambdaCallback(on_epoch_over=print), ValueError, r"unknown hook .*Did you mean 'on_epoch"),
        (lambda: LambdaCallback(on_epoch_end=3), TypeError, r"on_epoch_end must be a function, got 3"),
        (lambda: LearningRateScheduler(0.1), TypeError, r"schedule must be a function"),
        (lambda: CSVLogger("nowhere/at/all.csv"), FileNotFoundError, r"folder nowhere.at does not exist"),
    ],
)
def test_wrong_callbacks(wrong: Callable[[], Any], error: type[Exception], words: str) -> None:
    model = classifier()
    before = model.get_weights()
    with pytest.raises(error, match=words):
        model.fit(X, Y, verbose=0, callbacks=wrong())
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("callback", "error", "words"),
    [
        (LearningRateScheduler(lambda epoch: "x"), TypeError, r"must return a number, got 'x' \(epoch 0\)"),
        (LearningRateScheduler(lambda epoch: -1.0), ValueError, r"learning_rate must be a positive number, .* got -1"),
        (ModelCheckpoint("m-{val_loss}"), ValueError, r"names 'val_loss'; there are: epoch, loss, accuracy"),
    ],
)
def test_mistakes_that_show_while_training(callback: Callback, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        classifier().fit(X, Y, verbose=0, callbacks=callback)


def test_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it hands over; MLflow itself is no dependency of the tests."""
    metrics: list[tuple[int, dict[str, float]]] = []
    params: dict[str, Any] = {}
    run = SimpleNamespace(info=SimpleNamespace(run_id="1"))
    stand_in = SimpleNamespace(
        active_run=lambda: None,
        start_run=lambda: run,
        get_run=lambda name: SimpleNamespace(data=SimpleNamespace(params=dict(params))),
        log_params=params.update,
        log_metrics=lambda values, step: metrics.append((step, values)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    model = fb.Model([fb.Dense(1)])
    model.compile(fb.SGD(0.25), "mse", metrics=["mae"])
    history = model.fit([[1.0], [2.0]], [1.0, 2.0], epochs=2, verbose=0, callbacks=MLflow())
    assert [step for step, _ in metrics] == [0, 1]
    assert metrics[1][1] == {
        "learning_rate": 0.25,
        "loss": history.history["loss"][1],
        "mae": history.history["mae"][1],
    }
    told = {"optimizer_name": "sgd", "optimizer_learning_rate": 0.25, "loss": "mse", "epochs": 2, "parameters": 2}
    assert told.items() <= params.items()
    assert params["layers"] == "Dense(1, activation='linear')"
    model.fit([[1.0], [2.0]], [1.0, 2.0], epochs=5, verbose=0, callbacks=MLflow())
    assert params["epochs"] == 2  # MLflow refuses another value in the same run
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[mlflow\]'"):
        MLflow()


def test_a_plateau_and_a_schedule_are_refused_before_the_first_epoch() -> None:
    model = fb.Model([fb.Dense(1)])
    model.compile(fb.SGD(fb.schedules.CosineDecay(0.1, 10)), "mse")
    with pytest.raises(TypeError, match=r"the optimizer follows CosineDecay.*so its rate can't be set"):
        model.fit(np.ones((4, 1)), np.ones(4), callbacks=ReduceLROnPlateau("loss"), verbose=0)
    assert model._updates == 0
