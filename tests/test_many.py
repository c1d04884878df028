"""Many networks at once: the same bits as alone, whatever their rows and sizes; ends, mistakes, what is shown."""

import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import OUTPUT, inputs, interrupting, make, targets
from sklearn.model_selection import KFold

import fastbp as fb
from fastbp.cpu.engine import Engine
from fastbp.data import staging
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS
from fastbp.training.fit import Fit

ROWS = 90
X = inputs(ROWS, 7)
ONE_HOT = np.eye(3)[np.random.default_rng(3).integers(0, 3, ROWS)]
LABELS = ONE_HOT.argmax(axis=1)


def network(widths: list[int], optimizer: Any = "adam", loss: str = "mse", **options: Any) -> fb.Model:
    model = make(widths, options.pop("hidden", "tanh"), OUTPUT.get(loss, "linear"), **options)
    model.compile(optimizer, loss, metrics=["mae"] if loss == "mse" else None)
    return model


def state(model: fb.Model) -> dict[str, Any]:
    """Everything that the next step depends on."""
    assert isinstance(model._engine, Engine)
    flat = [model._engine.weights, *model._engine.moments()]
    return {"flat": [f.copy() for f in flat], "updates": model._updates, "epochs": model._epochs_seen}


def check_same(model: fb.Model, other: fb.Model) -> None:
    """The same history, weights and moments, and so the same training from here on."""
    assert model.history is not None and other.history is not None
    assert model.history.history == other.history.history
    assert model.history.epoch == other.history.epoch and model.history.params == other.history.params
    first, second = state(model), state(other)
    for a, b in zip(first.pop("flat"), second.pop("flat"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first == second


SETTINGS: list[dict[str, Any]] = [
    *({"widths": [7, 5, 3], "optimizer": name} for name in OPTIMIZERS),
    *(
        {"widths": [7, 6, 3], "loss": name, "hidden": "relu"}
        for name, row in LOSSES.items()
        if row.targets not in ("labels", "positive") and name != "half_squared_error"
    ),
    {"widths": [7, 5, 3], "optimizer": fb.SGD(1e-3), "loss": "half_squared_error"},
    {"widths": [7, 3], "optimizer": fb.SGD(0.1, momentum=0.9)},
    {"widths": [7, 1, 3], "optimizer": fb.SGD(0.1, momentum=0.9, nesterov=True), "dtype": "float64"},
    {"widths": [7, 33, 17, 3], "optimizer": "adam", "dtype": "float64", "seed": 5},
    {"widths": [7, 64, 64, 3], "hidden": "gelu", "bias": False},
    {"widths": [7, 20, 3], "dtype": "bfloat16"},
]
BATCHES = [32, 1, 7, 33, 90, 64, 1000]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_networks_of_all_kinds_come_out_as_if_trained_alone(threads: int) -> None:
    rng = np.random.default_rng(2)
    together, alone = ([network(**setting) for setting in SETTINGS] for _ in range(2))
    rows: list[Any] = [rng.integers(0, ROWS, rng.integers(1, 2 * ROWS)) for _ in SETTINGS]  # bags of any size
    rows[1] = None
    rows[2] = rng.random(ROWS) < 0.5
    batches = [BATCHES[i % len(BATCHES)] for i in range(len(SETTINGS))]
    epochs = [1 + i % 4 for i in range(len(SETTINGS))]
    histories = fb.fit_many(together, X, ONE_HOT, batches, epochs, 0, rows=rows, threads=threads)
    for i, model in enumerate(alone):
        own = slice(None) if rows[i] is None else rows[i]
        model.fit(X[own], ONE_HOT[own], batches[i], epochs[i], 0)
        assert histories[i] is together[i].history
        check_same(together[i], model)
        assert together[i]._engine is not None and together[i]._engine.threads == together[i].threads


@pytest.mark.parametrize("how", ["split", "split of rows", "data", "rows", "none"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_validation_and_labels(how: str, shuffle: bool) -> None:
    together, alone = (
        [network([7, 6 + i, 3], loss="sparse_categorical_crossentropy", seed=i) for i in range(5)] for _ in range(2)
    )
    train, test = zip(*KFold(5, shuffle=True, random_state=1).split(X), strict=True)
    options: dict[str, dict[str, Any]] = {
        "split": {"validation_split": 0.2},
        "split of rows": {"validation_split": 0.3, "rows": train},
        "data": {"validation_data": (X[:11], LABELS[:11])},
        "rows": {"rows": train, "validation_rows": test},
        "none": {"rows": [None] * 5},
    }
    histories = fb.fit_many(together, X, LABELS, epochs=6, verbose=0, shuffle=shuffle, threads=2, **options[how])
    for i, model in enumerate(alone):
        own = train[i] if "rows" in how else slice(None)
        given = {key: value for key, value in options[how].items() if not key.endswith("rows")}
        if how == "rows":
            given["validation_data"] = X[test[i]], LABELS[test[i]]
        model.fit(X[own], LABELS[own], epochs=6, verbose=0, shuffle=shuffle, **given)
        check_same(together[i], model)
        assert ("val_loss" in histories[i].history) == (how != "none")


@pytest.mark.parametrize("networks", [1, 3])
def test_networks_that_are_worth_several_threads(networks: int) -> None:
    """More threads than networks, from the start or at the end: they are shared, and the bits stay."""
    x, y = inputs(300, 40), targets("mean_squared_error", 300, 2)
    together, alone = ([network([40, 200, 150, 2], seed=i) for i in range(networks)] for _ in range(2))
    fb.fit_many(together, x, y, 64, [2, 9, 4][:networks], 0, threads=4, validation_split=0.1)
    for i, model in enumerate(alone):
        model.fit(x, y, 64, [2, 9, 4][i], 0, validation_split=0.1)
        check_same(together[i], model)


def test_a_second_call_goes_on_where_the_first_ended() -> None:
    together, alone = ([network([7, 5, 3], seed=i) for i in range(3)] for _ in range(2))
    rows = [np.arange(i, ROWS) for i in range(3)]
    for epochs in (2, 3):
        fb.fit_many(together, X, ONE_HOT, epochs=epochs, verbose=0, rows=rows)
        for i, model in enumerate(alone):
            model.fit(X[i:], ONE_HOT[i:], epochs=epochs, verbose=0)
            check_same(together[i], model)


def test_fresh_models_of_several_precisions_are_built() -> None:
    models = [fb.Model([fb.Dense(4, "relu"), fb.Dense(3)], dtype=dtype) for dtype in ("float32", "float64")]
    for model in models:
        model.compile("sgd", "mse")
    frame = pd.DataFrame(X, columns=list("abcdefg"))
    fb.fit_many(models, frame, ONE_HOT.tolist(), verbose=0)
    assert [model.input_width for model in models] == [7, 7]


@pytest.mark.parametrize(
    "rows",
    [
        [3, 1, 4, 1, 5],
        range(10, 30, 3),
        np.array([2, 2, 2], np.uint8),
        np.arange(ROWS)[::-2],
        np.arange(ROWS) % 3 == 1,
        [True, False] * (ROWS // 2),
        pd.Series(np.arange(ROWS) > 40),
        pd.Index([7, 8, 9]),
    ],
)
def test_rows_may_be_indices_or_masks_of_many_kinds(rows: Any) -> None:
    together, alone = network([7, 5, 3]), network([7, 5, 3])
    fb.fit_many([together], X, ONE_HOT, rows=[rows], verbose=0)
    alone.fit(X[np.asarray(rows)], ONE_HOT[np.asarray(rows)], verbose=0)
    check_same(together, alone)
    numbers = staging.as_rows(rows, ROWS)
    assert numbers.dtype == np.int64 and numbers.flags.c_contiguous


def test_bags_as_one_array() -> None:
    bags = np.random.default_rng(0).integers(0, ROWS, (4, ROWS))
    together = [network([7, 5, 3]) for _ in range(4)]
    fb.fit_many(together, X, ONE_HOT, rows=bags, verbose=0)
    for model, bag in zip(together, bags, strict=True):
        alone = network([7, 5, 3])
        alone.fit(X[bag], ONE_HOT[bag], verbose=0)
        check_same(model, alone)


def test_each_network_may_have_callbacks_of_its_own() -> None:
    def stopping(digits: int) -> fb.callbacks.Callback:
        return fb.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0**-digits)

    together, alone = ([network([7, 5, 3], fb.SGD(0.1), seed=i) for i in range(4)] for _ in range(2))
    own = [[stopping(2), fb.callbacks.Timer()], stopping(3), None, stopping(4)]
    fb.fit_many(together, X, ONE_HOT, epochs=60, verbose=0, callbacks=own, threads=2)
    for model, other, callbacks in zip(alone, together, [stopping(2), stopping(3), None, stopping(4)], strict=True):
        model.fit(X, ONE_HOT, epochs=60, verbose=0, callbacks=callbacks)
        check_same(other, model)
    lengths = [len(model.history.epoch) for model in together if model.history is not None]
    assert lengths[2] == 60 and lengths[0] < lengths[1] < 60


def test_networks_that_are_through_give_back_their_workspace() -> None:
    models = [network([7, 5, 3]) for _ in range(3)]
    fb.fit_many(models, X, ONE_HOT, verbose=0)
    for model in models:
        assert isinstance(model._engine, Engine)
        assert not model._engine._bound and model._engine._snapshot is None


# ---------------------------------------------------------------- ends


def wild(**options: Any) -> fb.Model:
    """A network that diverges."""
    return network([7, 30, 3], fb.SGD(1e9), hidden="relu", **options)


def diverging() -> tuple[list[fb.Model], fb.Model]:
    return [network([7, 5, 3]), wild(), network([7, 5, 3]), wild()], network([7, 5, 3])


def check_divergence(models: list[fb.Model], alone: fb.Model) -> None:
    alone.fit(X, ONE_HOT, epochs=30, verbose=0)
    for i in (0, 2):
        check_same(models[i], alone)
    for i in (1, 3):
        history = models[i].history
        assert history is not None and isinstance(history.error, fb.DivergenceError)
        assert history.stopped.startswith("stopped by NaN in epoch 1, step ")
        assert all(np.isfinite(w).all() for w in models[i].get_weights())


def test_one_that_diverges_does_not_stop_the_others() -> None:
    models, alone = diverging()
    with pytest.warns(RuntimeWarning, match=r"2 of 4 networks diverged \(models\[1\], models\[3\]\).*epoch 1, step"):
        histories = fb.fit_many(models, X, ONE_HOT, epochs=30, verbose=0, threads=2)
    check_divergence(models, alone)
    assert list(histories.errors) == [1, 3] and histories.errors[1].epoch == 1
    assert np.isfinite(histories.last()[[0, 2]]).all()


def test_divergence_may_be_raised_at_the_end_or_left_to_the_caller() -> None:
    models, alone = diverging()
    with pytest.raises(fb.DivergenceError, match="epoch 1") as caught:
        fb.fit_many(models, X, ONE_HOT, epochs=30, verbose=0, on_divergence="raise")
    assert "2 of 4 networks diverged" in caught.value.__notes__[0]
    check_divergence(models, alone)
    models, alone = diverging()
    histories = fb.fit_many(models, X, ONE_HOT, epochs=30, verbose=0, on_divergence="ignore")
    assert list(histories.errors) == [1, 3]
    check_divergence(models, alone)


def train_steps(model: fb.Model, steps: int, batch: int) -> None:
    """Train the first steps of a fit."""
    sample = model._sample(X, ONE_HOT)
    engine, _, optimizer = model._compiled("test")
    options: dict[str, Any] = {
        "batch": batch,
        "objective": model._scoring().objective,
        "optimizer": optimizer,
        "shuffle": True,
    }
    for done in range(0, steps, 10_000):
        engine.run(sample.x, sample.y, first_step=done, steps=min(10_000, steps - done), updates=done, **options)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("validate", [False, True])
def test_an_interrupt_leaves_every_network_at_a_whole_step(validate: bool) -> None:
    settings: list[tuple[list[int], int]] = [([7, 5, 3], 10), ([7, 128, 128, 3], 2_000_000), ([7, 9, 3], 2_000_000)]
    models = [network(widths) for widths, _ in settings] + [network([7, 5, 3])]
    epochs = [number for _, number in settings] + [1]
    fb.fit_many([network([7, 5, 3])], X, ONE_HOT, verbose=0)

    with pytest.raises(KeyboardInterrupt), interrupting(lambda: models[1]._updates and models[2]._updates):
        fb.fit_many(models, X, ONE_HOT, 16, epochs, 0, threads=2, validation_data=(X, ONE_HOT) if validate else None)
    assert [model.history is not None and model.history.interrupted for model in models[1:]] == [True] * 3
    for (widths, _), model in zip(settings, models, strict=False):
        twin = network(widths)
        train_steps(twin, model._updates, 16)
        assert model.history is not None
        finished = len(model.history.epoch)
        assert 0 <= model._epochs_seen - finished <= validate
        for a, b in zip(state(model)["flat"], state(twin)["flat"], strict=True):
            np.testing.assert_array_equal(a, b)
    fb.fit_many(models, X, ONE_HOT, verbose=0)
    assert not any(model.history is None or model.history.interrupted for model in models)


def test_an_error_in_one_thread_stops_the_others_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, other = network([7, 128, 3]), network([7, 127, 3])
    chunk = Fit.chunk

    def fail(self: Fit) -> None:
        if self.model is broken:
            raise MemoryError("none left")
        chunk(self)

    monkeypatch.setattr(Fit, "chunk", fail)
    with pytest.raises(MemoryError, match="none left"):
        fb.fit_many([broken, other], X, ONE_HOT, epochs=3_000_000, verbose=0, threads=2)
    assert other.history is not None and other.history.interrupted


def test_calls_in_several_python_threads_at_once() -> None:
    wanted = network([7, 5, 3])
    wanted.fit(X, ONE_HOT, epochs=3, verbose=0)
    groups = [[network([7, 5, 3]) for _ in range(5)] for _ in range(6)]
    workers = [
        threading.Thread(target=fb.fit_many, args=(group, X, ONE_HOT), kwargs={"epochs": 3, "verbose": 0})
        for group in groups
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for group in groups:
        for model in group:
            check_same(model, wanted)


# ---------------------------------------------------------------- mistakes

GOOD = {"x": X, "y": ONE_HOT, "verbose": 0}


def two() -> list[fb.Model]:
    return [network([7, 5, 3]) for _ in range(2)]


def uncompiled() -> list[fb.Model]:
    return [network([7, 5, 3]), make([7, 5, 3])]


def classifier() -> list[fb.Model]:
    return [network([7, 5, 3]), network([7, 5, 4], loss="sparse_categorical_crossentropy")]


def same_twice() -> list[fb.Model]:
    return [network([7, 5, 3])] * 2


@pytest.mark.parametrize(
    ("models", "changes", "kind", "message"),
    [
        (lambda: network([7, 5, 3]), {}, TypeError, r"models is one Model; wanted several: fit_many\(\[model\]"),
        (list, {}, ValueError, "models is empty"),
        (lambda: ["adam"], {}, TypeError, r"models\[0\] is 'adam'; wanted a Model"),
        (same_twice, {}, ValueError, r"models\[0\] and models\[1\] are the same object"),
        (uncompiled, {}, RuntimeError, r"models\[1\]: fit_many: the model isn't compiled"),
        (lambda: [fb.Model()], {}, RuntimeError, r"models\[0\]: .*isn't compiled"),
        (two, {"x": X[:, :5]}, ValueError, r"models\[0\]: the first layer takes 7 columns, got data with 5"),
        (two, {"x": np.full((ROWS, 7), np.nan)}, ValueError, "^x contains NaN"),
        (two, {"y": ONE_HOT[:5]}, ValueError, r"models\[0\]: y has shape \(5, 3\), but x has 90 rows"),
        (classifier, {"y": LABELS}, ValueError, r"models\[0\]: y has shape \(90,\), but the model's last layer has 3"),
        (classifier, {}, ValueError, r"models\[1\]: y has shape \(90, 3\); this loss wants one class number"),
        (two, {"rows": [[0, 1]]}, ValueError, "rows has 1 entries for 2 models; wanted one index array or boolean"),
        (two, {"rows": 7}, TypeError, "rows is 7; wanted one index array or boolean mask per model, 2 of them"),
        (two, {"rows": [0, 1]}, ValueError, r"rows\[0\] is 0; wanted one index array"),
        (two, {"rows": list(KFold(2).split(X))}, ValueError, r"rows\[0\] has 2 dimensions.*validation_rows = zip"),
        (two, {"rows": list(KFold(7).split(X))[:2]}, ValueError, r"rows\[0\] has 2 dimensions.*validation_rows = zip"),
        (two, {"rows": [[0], []]}, ValueError, r"rows\[1\] selects no row"),
        (two, {"rows": [[0], np.zeros(ROWS, bool)]}, ValueError, r"rows\[1\] selects no row"),
        (two, {"rows": [[0], np.ones(5, bool)]}, ValueError, r"rows\[1\] is a mask of 5 rows; x has 90 rows"),
        (two, {"rows": [[0], [0, 90]]}, ValueError, r"rows\[1\] holds 90, but the rows of x are numbered 0 to 89"),
        (two, {"rows": [[0], [-1]]}, ValueError, r"rows\[1\] holds -1, but the rows of x are numbered 0 to 89"),
        (two, {"rows": [[0], np.array([2**64 - 1], np.uint64)]}, ValueError, r"rows\[1\] holds 18446744073709551615"),
        (two, {"rows": [[0], [0.5]]}, TypeError, r"rows\[1\] holds float64 values; wanted row numbers"),
        (two, {"rows": [[0], ["a"]]}, TypeError, r"rows\[1\] holds <U1 values; wanted row numbers"),
        (two, {"validation_rows": [[0], [99]]}, ValueError, r"validation_rows\[1\] holds 99"),
        (two, {"validation_data": X}, ValueError, "validation_data must be a pair"),
        (two, {"validation_data": (X, ONE_HOT[:3])}, ValueError, r"validation y has shape \(3, 3\)"),
        (two, {"validation_split": 1.5}, ValueError, "validation_split is 1.5"),
        (two, {"rows": [[0], [1]], "validation_split": 0.5}, ValueError, "validation_split=0.5 of 1 rows"),
        (
            two,
            {"validation_split": 0.5, "validation_rows": [[0], [1]]},
            ValueError,
            "validation_split and validation_rows are given; wanted one of them",
        ),
        (two, {"epochs": [1, 2, 3]}, ValueError, "epochs has 3 entries for 2 models"),
        (two, {"epochs": [1, 0]}, ValueError, r"epochs\[1\] must be a whole number of at least 1, got 0"),
        (two, {"batch_size": 0}, ValueError, "batch_size must be a whole number"),
        (two, {"batch_size": "32"}, ValueError, "batch_size must be a whole number of at least 1, got '32'"),
        (two, {"callbacks": fb.callbacks.Timer()}, ValueError, "callbacks is one Callback for 2 models"),
        (two, {"callbacks": [None]}, ValueError, "callbacks has 1 entries for 2 models"),
        (
            two,
            {"callbacks": [fb.callbacks.Timer()] * 2},
            ValueError,
            r"callbacks\[0\] and callbacks\[1\] hold the same",
        ),
        (two, {"callbacks": [None, [7]]}, TypeError, r"models\[1\]: callbacks holds 7"),
        (
            two,
            {"callbacks": [None, fb.callbacks.EarlyStopping("acc")]},
            ValueError,
            r"models\[1\]: EarlyStopping.*'acc'",
        ),
        (two, {"threads": 0}, ValueError, "threads must be a whole number"),
        (two, {"verbose": "loud"}, ValueError, "verbose must be"),
        (two, {"on_divergence": "stop"}, ValueError, 'on_divergence must be "warn", "raise" or "ignore"'),
    ],
)
def test_mistakes(models: Any, changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    networks = models()
    with pytest.raises(kind, match=message):
        fb.fit_many(networks, **{**GOOD, **changes})
    assert isinstance(networks, fb.Model) or all(getattr(model, "history", None) is None for model in networks)


# ---------------------------------------------------------------- what is shown


def test_histories_as_a_frame() -> None:
    histories = fb.fit_many(two(), X, ONE_HOT, epochs=[2, 3], verbose=0, validation_split=0.1)
    frame = histories.to_frame()
    assert frame.index.names == ["network", "epoch"]
    assert list(frame.index) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert list(frame.columns) == ["loss", "mae", "val_loss", "val_mae", "learning_rate", "seconds"]
    assert frame.loc[(1, 2), "val_loss"] == histories[1].history["val_loss"][2] == histories.last("val_loss")[1]
    assert np.isnan(histories.last("accuracy")).all()


def test_a_line_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    fb.fit_many(two(), X, ONE_HOT, epochs=3, verbose=2, threads=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": History(")[0] for line in lines] == ["1/2 networks  models[0]", "2/2 networks  models[1]"]
    assert "3 of 3 epochs: loss " in lines[0]


def test_a_bar_over_all_networks(capsys: pytest.CaptureFixture[str]) -> None:
    fb.fit_many(two(), X, ONE_HOT, epochs=3, verbose=1)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("2/2 networks 100%|") and "samples/s" in last


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    fb.fit_many(two(), X, ONE_HOT, epochs=3, verbose=0)
    assert capsys.readouterr() == ("", "")
