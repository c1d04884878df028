"""Steps, epochs and fits: optimizers against the reference, the same bits for any number of threads, shuffles, ends."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from helpers import OUTPUT, TOLERANCE, error, inputs, interrupting, make, outputs, targets

import fastbp as fb
from fastbp.cpu import engine as engine_module
from fastbp.cpu.engine import Engine
from fastbp.cpu.launch import in_background
from fastbp.layout import plan
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS

OPTIMIZER_CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OPTIMIZERS),
    ("sgd", {"learning_rate": 0.05, "momentum": 0.9}),
    ("sgd", {"learning_rate": 0.05, "momentum": 0.8, "nesterov": True}),
    ("adam", {"learning_rate": 0.01, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}),
    ("adam", {"beta_1": 0.0, "beta_2": 0.0}),
    ("adam", {"learning_rate": 0.01, "beta_2": 0.5, "amsgrad": True}),
    ("adamw", {"learning_rate": 0.01, "weight_decay": 0.5}),
    ("rmsprop", {"learning_rate": 0.01, "rho": 0.8, "momentum": 0.5}),
    ("rmsprop", {"learning_rate": 0.01, "epsilon": 1e-4, "centered": True}),
    ("rmsprop", {"learning_rate": 0.01, "epsilon": 1e-4, "centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("adagrad", {"learning_rate": 0.1, "initial_accumulator_value": 0.01}),
    ("adadelta", {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6}),
    ("nadam", {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.9, "momentum_decay": 0.5, "weight_decay": 0.1}),
    ("radam", {"learning_rate": 0.01, "beta_2": 0.9, "weight_decay": 0.1}),
    ("lion", {"learning_rate": 0.01, "beta_1": 0.8, "weight_decay": 0.1}),
    ("sgd", {"learning_rate": 0.05, "use_ema": True, "ema_momentum": 0.8}),
    ("adam", {"amsgrad": True, "use_ema": True, "ema_overwrite_frequency": 3, "weight_decay": 0.1}),
    ("sgd", {"learning_rate": fb.schedules.OneCycle(0.1, 16), "momentum": fb.schedules.OneCycleMomentum(16)}),
    ("adam", {"learning_rate": lambda step: 0.01 / (1 + step)}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "settings"), OPTIMIZER_CASES)
def test_every_optimizer_against_its_formula(name: str, settings: dict[str, Any], dtype: str) -> None:
    model = make([9, 12, 3], "tanh", "softmax", dtype=dtype)
    model.compile(OPTIMIZERS[name](**settings), "sparse_categorical_crossentropy")
    x, y = inputs(50, 9), targets("sparse_categorical_crossentropy", 50, 3)
    weights = [w.astype(np.float64) for w in model.get_weights()]
    history = model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0)
    rounded = x.astype(dtype).astype(np.float64)
    optimizer, names = reference.OPTIMIZERS[name](**settings), ["tanh", "softmax"]
    truth, curve = reference.train(
        weights, names, "sparse_categorical_crossentropy", optimizer, rounded, y, batch_size=16, epochs=4
    )
    if optimizer.use_ema:
        truth = optimizer.averages
    for got, wanted in zip(model.get_weights(), truth, strict=True):
        assert error(got, wanted) < 20 * TOLERANCE[dtype]
    np.testing.assert_allclose(history.history["loss"], curve, rtol=20 * TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "settings"), OPTIMIZER_CASES)
def test_every_optimizer_goes_on_from_a_file_with_the_same_bits(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    if callable(settings.get("learning_rate")) and not isinstance(settings["learning_rate"], fb.schedules.Schedule):
        pytest.skip("a function is not kept in a file")
    x, y = inputs(300, 33), targets("sparse_categorical_crossentropy", 300, 3)
    found = []
    for threads in (1, 2):
        model = make([33, 97, 41, 3], "relu", "softmax", threads=threads)
        model.compile(OPTIMIZERS[name](**settings), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=100, epochs=2, verbose=0)
        if threads == 2:
            model.save(tmp_path / "half.fastbp")
            model = fb.load_model(tmp_path / "half.fastbp", threads=2)
        model.fit(x, y, batch_size=100, epochs=2, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [1, 7, 33, 64, 1000])
def test_every_loss_over_batches_of_any_size(loss: str, batch: int) -> None:
    model = make([6, 8, 4], "tanh", OUTPUT.get(loss, "linear"), dtype="float64")
    model.compile(fb.SGD(0.001, momentum=0.9), loss)
    x, y = inputs(64, 6), targets(loss, 64, 4)
    weights = [w.astype(np.float64) for w in model.get_weights()]
    names = [layer.activation.name for layer in model.layers]
    history = model.fit(x, y, batch_size=batch, epochs=3, shuffle=False, verbose=0)
    optimizer = reference.SGD(0.001, momentum=0.9)
    truth, curve = reference.train(weights, names, loss, optimizer, x, y, batch_size=batch, epochs=3)
    for got, wanted in zip(model.get_weights(), truth, strict=True):
        assert error(got, wanted) < 1e-10
    np.testing.assert_allclose(history.history["loss"], curve, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [7, 32, 64, 100, 256, 3000])
def test_any_number_of_threads_gives_the_same_bits(batch: int, dtype: str) -> None:
    x, y = inputs(3000, 50), targets("sparse_categorical_crossentropy", 3000, 10)
    found = []
    for threads in (1, 2, 3, 5):
        model = make([50, 300, 170, 10], "relu", "softmax", dtype=dtype, threads=threads)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, batch_size=batch, epochs=2, verbose=0)
        found.append((model.get_weights(), history.history, model.predict(x)))
    for weights, history, predictions in found[1:]:
        assert history == found[0][1]
        np.testing.assert_array_equal(predictions, found[0][2])
        for a, b in zip(weights, found[0][0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_padding_stays_zero(dtype: str) -> None:
    model = make([19, 33, 10, 1], "tanh", dtype=dtype, threads=2)
    model.compile("adam", "mse")
    model.fit(inputs(100, 19), targets("mean_squared_error", 100, 1), epochs=5, verbose=0)
    engine = model._engine
    assert isinstance(engine, Engine)
    for flat in (engine.weights, *engine.moments()):
        clean = np.zeros_like(flat)
        engine.program.put(clean, engine.program.take(flat))
        np.testing.assert_array_equal(flat, clean)


def test_both_launchers_give_the_same_bits() -> None:
    x, y = inputs(500, 80), targets("mean_squared_error", 500, 3)
    found = []
    for launcher in ("threads", "prange"):
        model = make([80, 200, 3], "tanh", threads=2)
        assert isinstance(model._engine, Engine)
        model._engine.launcher = launcher
        model.compile("adam", "mse")
        model.fit(x, y, batch_size=100, epochs=3, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_prediction_is_the_same_bits_in_any_company(dtype: str) -> None:
    model = make([23, 41, 37, 5], "gelu", "softmax", dtype=dtype, threads=2)
    x = inputs(300, 23).astype(dtype)
    whole = model.predict(x)
    for rows in ([0], [17], [299], list(range(31)), list(range(5, 260)), [3, 1, 2]):
        np.testing.assert_array_equal(model.predict(x[rows]), whole[rows])
    for batch in (1, 7, 32, 100):
        np.testing.assert_array_equal(model.predict(x, batch_size=batch), whole)


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    x, y = inputs(200, 8), targets("mean_squared_error", 200, 2)

    def trained(seed: int) -> list[np.ndarray]:
        model = fb.Model([fb.Dense(16, "relu"), fb.Dense(2)], seed=seed)
        model.compile("adam", "mse")
        model.fit(x, y, epochs=3, verbose=0)
        return model.get_weights()

    for a, b in zip(trained(1), trained(1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(trained(1)[0], trained(2)[0])


def _visits(rows: int, epochs: int, seed: int = 0, shuffle: bool = True) -> list[list[int]]:
    """The order in which each epoch visits the rows: a step a row, and a gradient that names the row."""
    model = fb.Model([fb.Dense(1, use_bias=False, kernel_initializer="zeros")], seed=seed, dtype="float64")
    model.compile(fb.SGD(1.0), "half_squared_error")
    x = np.eye(rows)
    order: list[list[int]] = []
    engine_steps = rows
    for epoch in range(epochs):
        visited = []
        for step in range(engine_steps):
            model.build(rows)
            assert model._engine is not None
            before = model.get_weights()[0]
            model._engine.run(
                x,
                np.ones((rows, 1)),
                batch=1,
                first_step=epoch * rows + step,
                steps=1,
                objective=model._scoring().objective,
                optimizer=model.optimizer,
                shuffle=shuffle,
                seed=seed,
            )
            moved = np.flatnonzero(model.get_weights()[0] - before)
            assert len(moved) == 1
            visited.append(int(moved[0]))
            model.set_weights([np.zeros((rows, 1))])
        order.append(visited)
    return order


@pytest.mark.parametrize("loss", ["mean_squared_error", "sparse_categorical_crossentropy"])
def test_rows_named_by_number_are_the_same_bits_as_their_copies(loss: str) -> None:
    x, y = inputs(200, 9).astype(np.float32), targets(loss, 200, 3)
    y = y if y.ndim == 1 else y.astype(np.float32)
    rows = np.random.default_rng(1).integers(0, 200, 77)
    found = []
    for data in ({"x": x, "y": y, "rows": rows}, {"x": x[rows], "y": y[rows]}):
        model = make([9, 12, 3], "tanh", OUTPUT.get(loss, "linear"))
        model.compile("adam", loss, metrics=["accuracy"])
        engine, objective = model._engine, model._scoring().objective
        assert isinstance(engine, Engine)
        train = {"steps": 7, "optimizer": model.optimizer, "shuffle": True}
        trained = engine.run(**data, batch=33, objective=objective, **train)
        checked = engine.run(**data, batch=33, objective=objective)
        found.append([trained.sums, checked.sums, *model.get_weights()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_epoch_may_name_its_own_rows() -> None:
    """One run over several epochs is the runs of each of them, begun and ended amid an epoch too."""
    x, y = inputs(50, 9).astype(np.float32), targets("mean_squared_error", 50, 3).astype(np.float32)
    orders = np.array([np.random.default_rng(i).permutation(50)[:47] for i in range(3)])
    found = []
    for single in (False, True):
        model = make([9, 12, 3], threads=2)
        model.compile("sgd", "mean_squared_error")
        engine, options = (
            model._engine,
            {"batch": 10, "objective": model._scoring().objective, "optimizer": model.optimizer},
        )
        assert isinstance(engine, Engine)
        if single:
            for step in range(2, 13):
                engine.run(x, y, rows=orders[step // 5], first_step=step, steps=1, updates=step, **options)
        else:
            engine.run(x, y, rows=orders, first_step=2, steps=11, updates=2, **options)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_shuffled_epoch_visits_every_row_once_in_its_own_order() -> None:
    for rows in (1, 2, 3, 5, 17, 64):
        first, second = _visits(rows, 2)
        assert sorted(first) == sorted(second) == list(range(rows))
    assert first != second
    assert first != list(range(64))
    assert _visits(9, 1, shuffle=False) == [list(range(9))]
    assert _visits(17, 1, seed=1) != _visits(17, 1, seed=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_panels_rows_are_shuffled_together_as_each_is_alone(dtype: Any) -> None:
    from fastbp._jit import Kernel
    from fastbp.cpu.order import MOST_BITS, shuffled_rows
    from fastbp.cpu.rules import SIGNATURE
    from fastbp.cpu.tile import geometry
    from fastbp.formulas.counters import shuffled

    def together(target: int, first: int, last: int, n: int, bits: int, key: int) -> float:
        shuffled_rows(dtype, target, first, last, n, bits, key)
        return 0.0

    def alone(row: int, n: int, bits: int, key: int, _e: int, _f: int) -> float:
        return float(shuffled(row, n, bits, key))

    panel, one = Kernel(together, SIGNATURE), Kernel(alone, SIGNATURE)
    rng, count = np.random.default_rng(3), geometry(np.dtype(dtype).itemsize).samples
    for n in (1, 2, 3, 33, 1797, 2**20 + 1, 2**MOST_BITS - 1, 2**MOST_BITS):
        bits, key = max(1, (n - 1).bit_length()), int(rng.integers(-(2**63), 2**63 - 1))
        first = int(rng.integers(n))
        last = min(n - 1, first + count // 2)
        found = np.full(count + 1, -1, np.int64)
        panel.call(found.ctypes.data, first, last, n, bits, key)
        rows = [int(one.call(min(first + b, last), n, bits, key, 0, 0)) for b in range(count)]
        assert found.tolist() == [*rows, -1]


def test_shuffles_are_even() -> None:
    """Each row comes to each place equally often, and so does each pair of neighbours: chi-square at 6 deviations."""
    rows, epochs = 5, 2000
    places, pairs = np.zeros((rows, rows)), np.zeros((rows, rows))
    from fastbp._jit import helper
    from fastbp.formulas.counters import mix, shuffled

    @helper
    def orders(table: np.ndarray) -> None:
        for epoch in range(table.shape[0]):
            for i in range(table.shape[1]):
                table[epoch, i] = shuffled(i, table.shape[1], 3, mix(7 ^ mix(epoch)))

    table = np.empty((epochs, rows), np.int64)
    orders(table)
    for visited in table:
        for place, row in enumerate(visited):
            places[place, row] += 1
        for a, b in itertools.pairwise(visited):
            pairs[a, b] += 1
    for counts, freedom in ((places, (rows - 1) ** 2), (pairs[~np.eye(rows, dtype=bool)], rows * (rows - 1) - 1)):
        mean = counts.mean()
        assert ((counts - mean) ** 2 / mean).sum() < freedom + 6 * np.sqrt(2 * freedom)


def test_epochs_in_one_fit_or_in_many_are_the_same() -> None:
    x, y = inputs(100, 8), targets("mean_squared_error", 100, 2)
    models = [make([8, 12, 2]) for _ in range(2)]
    for model in models:
        model.compile("adam", "mse")
    models[0].fit(x, y, epochs=6, verbose=0)
    for _ in range(3):
        models[1].fit(x, y, epochs=2, verbose=0)
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_changes_nothing_but_the_history() -> None:
    x, y = inputs(100, 8), targets("sparse_categorical_crossentropy", 100, 3)
    plain, watched = make([8, 12, 3], output="softmax"), make([8, 12, 3], output="softmax")
    for model in (plain, watched):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    first = plain.fit(x[:80], y[:80], epochs=5, verbose=0)
    second = watched.fit(x, y, epochs=5, verbose=0, validation_split=0.2)
    assert first.history["loss"] == second.history["loss"]
    assert sorted(second.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert second.history["val_loss"][-1] == watched.evaluate(x[80:], y[80:])[0]
    third = make([8, 12, 3], output="softmax")
    third.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert third.fit(x[:80], y[:80], epochs=5, verbose=0, validation_data=(x[80:], y[80:])).history == second.history


@pytest.mark.parametrize("chunk", [1, 3, 100_000])
@pytest.mark.parametrize("batch", [20, 33, 200])
@pytest.mark.parametrize(("hidden", "threads"), [(12, 1), (12, 2), (200, 2)])
def test_epochs_and_validations_in_one_entry_are_those_of_many(
    hidden: int, threads: int, batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a fit is cut in chunks, history and weights are the same, on one thread with the validation inside."""
    if hidden > 12:  # steps of two threads, and validations too
        monkeypatch.setattr("fastbp.cpu.engine.SERIAL_WORK", 0.0)
    x, y = inputs(100, 8), targets("sparse_categorical_crossentropy", 100, 3)

    def trained() -> tuple[dict[str, list[float]], list[np.ndarray]]:
        model = make([8, hidden, 3], output="softmax", threads=threads)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x[:80], y[:80], batch, 7, 0, validation_data=(x[80:], y[80:]))
        return history.history, model.get_weights()

    monkeypatch.setattr(Engine, "steps_per_run", lambda self, batch, chained: chunk)
    history, weights = trained()
    assert Engine.chains(make([8, hidden, 3], threads=threads)._engine, batch, 80, 20)
    monkeypatch.setattr(Engine, "chains", lambda self, batch, rows, held: False)
    apart, others = trained()
    assert history == apart and len(history["val_loss"]) == 7
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["accuracy", "mse", "mae", "binary_accuracy"])
def test_metrics(metric: str) -> None:
    model = make([8, 12, 3], output="sigmoid", dtype="float64")
    model.compile("sgd", "binary_crossentropy", metrics=[metric])
    x, y = inputs(77, 8), targets("binary_crossentropy", 77, 3)
    p = outputs(model, x)
    wanted = {"mse": ((p - y) ** 2).mean(), "mae": np.abs(p - y).mean()}.get(metric, ((p > 0.5) == (y > 0.5)).mean())
    assert model.evaluate(x, y)[1] == pytest.approx(wanted, rel=1e-12)


def test_accuracy_of_classes() -> None:
    model = make([8, 12, 5], output="softmax")
    x, labels = inputs(77, 8), targets("sparse_categorical_crossentropy", 77, 5)
    wanted = (outputs(model, x).argmax(axis=1) == labels).mean()
    for loss, y in (("sparse_categorical_crossentropy", labels), ("categorical_crossentropy", np.eye(5)[labels])):
        model.compile("sgd", loss, metrics=["accuracy"])
        assert model.evaluate(x, y, return_dict=True)["accuracy"] == pytest.approx(wanted)


def test_a_hand_written_loop_is_the_same_as_fit() -> None:
    x, y = inputs(64, 6), targets("mean_squared_error", 64, 2)
    fitted, looped = make([6, 9, 2], dtype="float64"), make([6, 9, 2], dtype="float64")
    stepped = make([6, 9, 2], dtype="float64")
    for model in (fitted, looped, stepped):
        model.compile(fb.Adam(0.01), "mse")
    fitted.fit(x, y, batch_size=64, epochs=5, shuffle=False, verbose=0)
    for _ in range(5):
        looped.apply_gradients(looped.gradients(x, y))
        stepped.train_on_batch(x, y)
    for a, b, c in zip(fitted.get_weights(), looped.get_weights(), stepped.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("threads", [1, 2])
def test_divergence_stops_the_fit_and_keeps_finite_weights(threads: int) -> None:
    model = make([200, 300, 1], "relu", threads=threads)
    model.compile(fb.SGD(1e6), "mse")
    x, y = inputs(256, 200), targets("mean_squared_error", 256, 1)
    with pytest.raises(fb.DivergenceError, match=r"epoch 1, step \d+.*learning rate.*scaled.*bounded") as caught:
        model.fit(x, y, batch_size=32, epochs=50, verbose=0)
    assert isinstance(caught.value, FloatingPointError)
    assert caught.value.epoch == 1
    assert all(np.isfinite(w).all() for w in model.get_weights())
    model.compile(fb.SGD(1e-6), "mse")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


@pytest.fixture
def uncut(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No step is cut by neurons, so that it sums as a prediction does."""
    monkeypatch.setattr("fastbp.layout.sides.WEIGHTS", 0)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


def overflowing(dtype: str, threads: int) -> tuple[fb.Model, np.ndarray, np.ndarray]:
    """A model that loses its weights in its second step, of data whose every loss before is finite."""
    model = make([200, 300, 1], "relu", dtype=dtype, threads=threads)
    model.compile(fb.SGD(1e38 if dtype != "float64" else 1e308), "mse")
    x, y = inputs(320, 200), targets("mean_squared_error", 320, 1)
    y[:32] = model.predict(x[:32])  # no loss: nothing to learn
    return model, x, y


@pytest.mark.usefixtures("uncut")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_large_networks_are_guarded_in_every_update(dtype: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SNAPSHOT_BYTES", 0)
    model, x, y = overflowing(dtype, threads)
    before = model.get_weights()
    with pytest.raises(fb.DivergenceError, match=r"the weights became NaN .* holds its last finite weights") as caught:
        model.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0)
    assert (caught.value.epoch, caught.value.step) == (1, 2)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert any((a != b).any() for a, b in zip(model.get_weights(), before, strict=True))
    model, x, y = overflowing(dtype, threads)
    model.train_on_batch(x[:32], y[:32])
    with pytest.raises(fb.DivergenceError, match="the weights became NaN"):
        model.train_on_batch(x[32:64], y[32:64])
    assert all(np.isfinite(w).all() for w in model.get_weights())
    model.set_weights(before)
    model.compile("adam", "mse")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


@pytest.mark.usefixtures("uncut")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_that_loses_its_weights_in_its_last_step(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SNAPSHOT_BYTES", 0)
    model, x, y = overflowing("float32", threads)
    with pytest.raises(fb.DivergenceError, match="the weights became NaN") as caught:
        model.fit(x[:64], y[:64], batch_size=32, epochs=1, shuffle=False, verbose=0, validation_data=(x, y))
    assert (caught.value.epoch, caught.value.step) == (1, 2)


@pytest.mark.parametrize("optimizer", [fb.SGD(0.1), fb.AdamW(0.01, use_ema=True)], ids=repr)
def test_a_guard_that_finds_nothing_changes_nothing(optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = inputs(96, 30), targets("mean_squared_error", 96, 2)
    found = []
    for most in (1 << 30, 0):
        monkeypatch.setattr(engine_module, "SNAPSHOT_BYTES", most)
        model = make([30, 40, 2], threads=2)
        model.compile(optimizer, "mse")
        model.fit(x, y, epochs=5, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_stops_at_a_whole_step_and_is_passed_on() -> None:
    model = make([400, 800, 800, 10], "tanh", "softmax", threads=2)
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = inputs(2000, 400), targets("sparse_categorical_crossentropy", 2000, 10)
    model.fit(x[:64], y[:64], verbose=0)
    with pytest.raises(KeyboardInterrupt), interrupting(lambda: model._updates > 2):
        model.fit(x, y, epochs=10**6, verbose=0)
    assert model.history is not None and model.history.interrupted
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][-1])


def test_fits_in_several_python_threads_at_once() -> None:
    x, y = inputs(400, 30), targets("mean_squared_error", 400, 2)

    def trained() -> list[np.ndarray]:
        model = make([30, 128, 128, 2], threads=2)
        model.compile("adam", "mse")
        model.fit(x, y, batch_size=128, epochs=5, verbose=0)
        return model.get_weights()

    wanted, found = trained(), {}
    workers = [threading.Thread(target=lambda i=i: found.update({i: trained()})) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 6
    for weights in found.values():
        for a, b in zip(weights, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("least", [0, 4 << 20])
def test_a_snapshot_is_of_all_weights(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of it by two threads; a small one by the caller, who would wait for the other longer than it takes."""
    started: list[Any] = []
    monkeypatch.setattr("fastbp.cpu.engine.COPY_BYTES", least)
    monkeypatch.setattr("fastbp.cpu.engine.in_background", lambda *call: started.append(call) or in_background(*call))
    model = make([8, 12, 3], threads=2)
    engine, before = model._engine, model.get_weights()
    engine.keep_snapshot()
    assert len(started) == (least == 0)
    engine.weights.fill(np.nan)
    engine.restore_snapshot()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
