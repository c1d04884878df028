"""What happens to a gradient and to weights around an optimizer's formula: clipping, accumulation, constraints, frozen
layers, rates of their own; against plain NumPy, to the same bits for any number of threads, and through files."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from helpers import TOLERANCE, error, inputs, targets

import fastbp as fb
from fastbp.constraints import CONSTRAINTS, MaxNorm, MinMaxNorm, NonNeg, UnitNorm

LOSS = "mean_squared_error"
EPSILON = 1e-7
WIDTHS = [[5, 7, 3], [40, 33, 17, 2], [20, 600, 3], [150, 130, 70, 10]]


def of_norm(kernel: np.ndarray, wanted: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    norms = np.sqrt(np.square(kernel).sum(0, keepdims=True))
    return kernel * (wanted(norms) / (EPSILON + norms))


PLAIN: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    MaxNorm(0.9): lambda w: of_norm(w, lambda n: np.clip(n, 0, 0.9)),
    MinMaxNorm(0.5, 0.8, 0.7): lambda w: of_norm(w, lambda n: 0.7 * np.clip(n, 0.5, 0.8) + 0.3 * n),
    UnitNorm(): lambda w: of_norm(w, np.ones_like),
    NonNeg(): lambda w: np.maximum(w, 0),
}


def clipped(gradients: list[np.ndarray], optimizer: Any) -> list[np.ndarray]:
    """As Keras clips."""
    if optimizer.clipvalue:
        return [np.clip(g, -optimizer.clipvalue, optimizer.clipvalue) for g in gradients]
    norms = [np.sqrt(np.square(g).sum()) for g in gradients]
    if optimizer.clipnorm:
        return [g * optimizer.clipnorm / max(n, optimizer.clipnorm) for g, n in zip(gradients, norms, strict=True)]
    if optimizer.global_clipnorm:
        norm = np.sqrt(np.square(norms).sum())
        return [g * optimizer.global_clipnorm / max(norm, optimizer.global_clipnorm) for g in gradients]
    return gradients


def plain(model: fb.Model, x: np.ndarray, y: np.ndarray, batch: int, epochs: int) -> list[np.ndarray]:
    """The weights after a fit without shuffling, by NumPy."""
    optimizer: Any = model.optimizer
    weights, names = model.get_weights(), [layer.activation.name for layer in model.layers]
    weights = [w.astype(np.float64) for w in weights]
    settings = {"momentum": optimizer.momentum, "weight_decay": optimizer.weight_decay or 0.0}
    rules = [reference.SGD(optimizer.learning_rate * a.lr_multiplier, **settings) for a in model.layers]
    total, done, group = None, 0, optimizer.gradient_accumulation_steps or 1
    for _ in range(epochs):
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            _, gradients, _ = reference.loss_and_gradients(weights, names, LOSS, x[rows], y[rows])
            total = gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
            done += 1
            if done % group:
                continue
            mean = [g / group for g in total]
            total = None
            for index, layer in enumerate(model.layers):
                if layer.kernel_regularizer is not None and layer.trainable:
                    mean[2 * index] = mean[2 * index] + 2 * layer.kernel_regularizer.l2 * weights[2 * index]
            trained = [i for i, layer in enumerate(model.layers) if layer.trainable]
            mean = clipped([mean[2 * i + part] for i in trained for part in (0, 1)], optimizer)
            for place, i in enumerate(trained):
                rules[i].update(weights[2 * i : 2 * i + 2], mean[2 * place : 2 * place + 2])
                if model.layers[i].kernel_constraint is not None:
                    weights[2 * i] = PLAIN[model.layers[i].kernel_constraint](weights[2 * i])
    return weights


def made(widths: list[int], optimizer: Any, options: list[dict[str, Any]] | None = None, **settings: Any) -> fb.Model:
    """A network with options for some of its layers, and large random weights."""
    options = options or []
    options = [*options, *[{}] * (len(widths) - 1 - len(options))]
    layers = [fb.Dense(o, "tanh", **more) for o, more in zip(widths[1:-1], options, strict=False)]
    model = fb.Model([*layers, fb.Dense(widths[-1], **options[len(widths) - 2])], **settings)
    model.compile(optimizer, LOSS)
    model.build(widths[0])
    rng = np.random.default_rng(7)
    model.set_weights([rng.standard_normal(w.shape) * 2 / np.sqrt(len(w)) for w in model.get_weights()])
    return model


def fitted(model: fb.Model, rows: int = 48, batch: int = 16, epochs: int = 2, **options: Any) -> list[np.ndarray]:
    x, y = inputs(rows, model.input_width or 0), 3 * targets(LOSS, rows, model.output_width)
    model.fit(x, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0, **options)
    return model.get_weights()


def check(model: fb.Model, rows: int = 48, batch: int = 16, epochs: int = 2) -> None:
    """A fit against `plain`."""
    x, y = inputs(rows, model.input_width or 0), 3 * targets(LOSS, rows, model.output_width)
    wanted = plain(model, x.astype(model.dtype), y, batch, epochs)
    for got, array in zip(fitted(model, rows, batch, epochs), wanted, strict=True):
        assert error(got, array) < 50 * TOLERANCE[model.compute_dtype]


CLIPS: list[dict[str, float]] = [{"clipvalue": 0.02}, {"clipnorm": 0.1}, {"global_clipnorm": 0.3}]
clips = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: next(iter(clip)))
both = pytest.mark.parametrize("dtype", ["float32", "float64"])


@both
@clips
@pytest.mark.parametrize("batch", [1, 3, 16, 40])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_clipping(widths: list[int], batch: int, clip: dict[str, float], dtype: str) -> None:
    options = [{"kernel_regularizer": fb.regularizers.L2(0.01)}]
    optimizer = fb.SGD(0.1, momentum=0.5, weight_decay=0.01, **clip)
    check(made(widths, optimizer, options, dtype=dtype, threads=2), batch=batch, rows=min(48, 8 * batch))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 16, 48])
@pytest.mark.parametrize("widths", [[5, 7, 3], [150, 130, 70, 10]], ids=str)
def test_a_bound_that_is_never_reached_changes_no_bit(widths: list[int], batch: int, dtype: str) -> None:
    wanted = fitted(made(widths, fb.Adam(0.01), dtype=dtype, threads=2), batch=batch)
    for clip in ({"clipvalue": 1e9}, {"clipnorm": 1e9}, {"global_clipnorm": 1e9}):
        got = fitted(made(widths, fb.Adam(0.01, **clip), dtype=dtype, threads=2), batch=batch)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@both
@pytest.mark.parametrize("constraint", PLAIN, ids=repr)
@pytest.mark.parametrize("batch", [2, 24])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_constraints(widths: list[int], late: bool, batch: int, constraint: Any, dtype: str) -> None:
    optimizer = fb.SGD(0.05, momentum=0.5, global_clipnorm=0.5 if late else None)
    options = [{"kernel_constraint": constraint}, {}, {"kernel_constraint": constraint}]
    model = made(widths, optimizer, options[: len(widths) - 1], dtype=dtype, threads=2)
    check(model, batch=batch, rows=4 * batch)


@both
@pytest.mark.parametrize("clip", [{}, *CLIPS], ids=str)
@pytest.mark.parametrize("rows", [48, 52])
@pytest.mark.parametrize("group", [2, 3, 4])
def test_gradient_accumulation(group: int, rows: int, clip: dict[str, float], dtype: str) -> None:
    """Groups of batches that end within and across epochs, the last one unfinished."""
    options = [{"kernel_regularizer": fb.regularizers.L2(0.01), "kernel_constraint": MaxNorm(0.9)}]
    optimizer = fb.SGD(0.1, momentum=0.5, gradient_accumulation_steps=group, **clip)
    for widths, batch in (([5, 7, 3], 8), ([150, 130, 70, 10], 16)):
        check(made(widths, optimizer, options, dtype=dtype, threads=2), rows=rows, batch=batch, epochs=3)


def test_a_validation_between_epochs_leaves_a_group_of_batches_alone() -> None:
    """Small networks are validated inside the kernels, in one call for several epochs."""
    optimizer = fb.Adam(0.01, gradient_accumulation_steps=4)
    x, y = inputs(20, 5), targets(LOSS, 20, 3)
    alone = fitted(made([5, 7, 3], optimizer, threads=1), rows=40, batch=8, epochs=6)
    beside = fitted(made([5, 7, 3], optimizer, threads=1), rows=40, batch=8, epochs=6, validation_data=(x, y))
    for a, b in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(a, b)


def test_accumulated_batches_make_the_step_of_a_batch_as_large() -> None:
    parts = fitted(made([5, 7, 3], fb.Adam(0.01, gradient_accumulation_steps=4), dtype="float64"), batch=4)
    whole = fitted(made([5, 7, 3], fb.Adam(0.01), dtype="float64"), batch=16)
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_schedules_and_averages_count_steps_not_batches() -> None:
    rates: list[int] = []

    def rate(step: int) -> float:
        rates.append(step)
        return 0.1

    model = made([5, 7, 3], fb.SGD(rate, gradient_accumulation_steps=3))
    fitted(model, rows=40, batch=8, epochs=3)
    assert max(rates) == 4
    assert sorted(set(rates)) == [0, 1, 2, 3, 4]
    optimizer = fb.SGD(0.1, use_ema=True, ema_overwrite_frequency=2)
    single = fitted(made([5, 7, 3], optimizer, dtype="float64"), batch=16)
    optimizer = fb.SGD(0.1, use_ema=True, ema_overwrite_frequency=2, gradient_accumulation_steps=4)
    for a, b in zip(fitted(made([5, 7, 3], optimizer, dtype="float64"), batch=4), single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@both
@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 0.3}], ids=str)
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 1], [0, 2], [0, 1, 2]], ids=str)
def test_frozen_layers(frozen: list[int], batch: int, clip: dict[str, float], dtype: str) -> None:
    options = [{"trainable": i not in frozen, "kernel_constraint": MaxNorm(0.9)} for i in range(3)]
    for widths in ([5, 7, 8, 3], [150, 130, 70, 10]):
        model = made(widths, fb.SGD(0.1, momentum=0.5, **clip), options, dtype=dtype, threads=2)
        before = model.get_weights()
        check(model, batch=batch, rows=3 * batch)
        for index, (a, b) in enumerate(zip(before, model.get_weights(), strict=True)):
            assert np.array_equal(a, b) == (index // 2 in frozen)


def test_nothing_goes_back_below_the_first_layer_that_is_trained() -> None:
    """Tasks and ops of a step: those of frozen layers are left out."""
    model = made([150, 130, 70, 10], fb.SGD(0.1), [{"trainable": False}, {"trainable": False}], threads=2)
    fitted(model)
    assert model._engine is not None
    plan = next(bound.plan for bound in model._engine._bound.values() if bound.plan.backward)
    assert plan.lowest == 3
    assert {int(op) for code, op, *_ in plan.tasks if code == fb.program.WEIGHTS} == {2}


def test_a_gradient_is_whole_whatever_is_frozen() -> None:
    """`gradients` and `gradient_report` show all layers; applying a gradient moves those that are trained."""
    frozen, free = (made([5, 7, 8, 3], fb.SGD(0.1), [{}, {"trainable": t}]) for t in (False, True))
    x, y = inputs(20, 5), targets(LOSS, 20, 3)
    for a, b in zip(frozen.gradients(x, y), free.gradients(x, y), strict=True):
        np.testing.assert_array_equal(a, b)
    before = frozen.get_weights()
    frozen.apply_gradients(frozen.gradients(x, y))
    free.apply_gradients(free.gradients(x, y))
    for index, (a, b, c) in enumerate(zip(frozen.get_weights(), free.get_weights(), before, strict=True)):
        np.testing.assert_array_equal(a, c if index in (2, 3) else b)


@both
def test_rates_of_layers(dtype: str) -> None:
    options = [{"lr_multiplier": 0.1}, {"lr_multiplier": 3}, {"lr_multiplier": 0.1}]
    for clip in ({}, {"clipnorm": 0.1}):
        optimizer = fb.SGD(0.05, momentum=0.5, weight_decay=0.1, **clip)
        check(made([40, 33, 17, 2], optimizer, options, dtype=dtype, threads=2))
    model = made([5, 7, 3], fb.Adam(0.1), [{"lr_multiplier": 0}])
    before = model.get_weights()
    after = fitted(model)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[2], after[2])


def test_layers_may_be_changed_between_fits() -> None:
    model = made([5, 7, 3], fb.SGD(0.1))
    layer = model.layers[0]
    first = [w.copy() for w in fitted(model)]
    layer.trainable = False
    second = [w.copy() for w in fitted(model)]
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[2], second[2])
    layer.trainable, layer.kernel_constraint = True, "non_neg"
    assert fitted(model)[0].min() == 0
    layer.kernel_constraint = None
    assert fitted(model)[0].min() < 0


def test_shapes_and_activations_stay() -> None:
    model = made([5, 7, 3], fb.SGD(0.1))
    model.layers[0].units = 8
    with pytest.raises(RuntimeError, match="units, bias or activation were changed after the model was built"):
        fitted(model)


def test_an_average_leaves_frozen_weights_alone() -> None:
    """Weights that were put after `compile` aren't those that the average began with."""
    model = made([5, 7, 3], fb.SGD(0.1, use_ema=True), [{"trainable": False}])
    before = model.get_weights()
    np.testing.assert_array_equal(fitted(model)[0], before[0])


EVERYTHING: list[dict[str, Any]] = [
    {"trainable": False},
    {"kernel_constraint": MaxNorm(0.9), "lr_multiplier": 0.5},
    {"kernel_regularizer": "l2"},
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 12, 60])
@pytest.mark.parametrize("clip", [{}, *CLIPS], ids=str)
def test_any_number_of_threads_gives_the_same_bits(clip: dict[str, float], batch: int, dtype: str) -> None:
    found = []
    for threads in (1, 2, 3, 5):
        optimizer = fb.Adam(0.01, gradient_accumulation_steps=2, use_ema=True, **clip)
        model = made([150, 130, 70, 40, 10], optimizer, [*EVERYTHING, {}], dtype=dtype, threads=threads)
        found.append(fitted(model, rows=60, batch=batch, epochs=1 if batch == 1 else 3))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("clip", [{}, *CLIPS], ids=str)
def test_a_batch_that_runs_in_slabs(clip: dict[str, float]) -> None:
    """A large batch is summed part by part; the update follows the last."""
    optimizer = fb.SGD(0.1, momentum=0.5, gradient_accumulation_steps=2, **clip)
    model = made([20, 600, 3], optimizer, [{"kernel_constraint": MaxNorm(0.9)}], dtype="float64", threads=2)
    check(model, rows=9000, batch=4000, epochs=2)
    assert model._engine is not None
    assert max(bound.plan.slabs for bound in model._engine._bound.values()) > 1


def test_a_gradient_that_is_given_is_clipped_accumulated_and_constrained() -> None:
    """`apply_gradients` step by step against a fit over the same batches."""
    for clip, group in itertools.product([{}, *CLIPS], (None, 3)):
        for widths in ([5, 7, 8, 3], [150, 130, 70, 10]):
            optimizer = fb.Adam(0.01, gradient_accumulation_steps=group, **clip)
            one, other = (made(widths, optimizer, EVERYTHING, dtype="float64", threads=2) for _ in range(2))
            x, y = inputs(48, widths[0]), 3 * targets(LOSS, 48, widths[-1])
            one.fit(x, y, batch_size=8, shuffle=False, verbose=0)
            for start in range(0, 48, 8):
                rows = slice(start, start + 8)
                other.apply_gradients(other.gradients(x[rows], y[rows]))
            for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_and_checkpoints_keep_all_of_it(tmp_path: Path, dtype: str) -> None:
    """Saved in the middle of a group of batches, a network goes on to the same bits; so does a fit that was stopped."""
    optimizer = fb.Adam(0.01, gradient_accumulation_steps=4, use_ema=True, global_clipnorm=0.3)
    widths = [40, 33, 17, 2]
    whole = made(widths, optimizer, EVERYTHING, dtype=dtype)
    fitted(whole, rows=48, batch=16, epochs=2)
    whole.save(tmp_path / "model")
    loaded = fb.load_model(tmp_path / "model")
    assert loaded.optimizer == optimizer
    assert [repr(a) for a in loaded.layers] == [repr(a) for a in whole.layers]
    for a, b in zip(fitted(loaded), fitted(whole), strict=True):
        np.testing.assert_array_equal(a, b)

    stop_at = {5}

    class Stop(fb.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model._updates in stop_at:
                raise KeyboardInterrupt

    stopped, resumed, through = (made(widths, optimizer, EVERYTHING, dtype=dtype) for _ in range(3))
    options: dict[str, Any] = {"checkpoint": tmp_path / "fit", "checkpoint_every": 1, "epochs": 4}
    with pytest.raises(KeyboardInterrupt):
        fitted(stopped, callbacks=[Stop()], **options)
    stop_at.clear()
    got = fitted(resumed, callbacks=[Stop()], resume=True, **options)
    for a, b in zip(got, fitted(through, epochs=4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_side_by_side_come_out_the_same() -> None:
    def networks() -> list[fb.Model]:
        optimizers = [fb.Adam(0.01, clipnorm=0.1), fb.SGD(0.1, gradient_accumulation_steps=3, clipvalue=0.01)]
        return [made([5, 7, 8, 3], optimizer, EVERYTHING) for optimizer in optimizers]

    x, y = inputs(48, 5), targets(LOSS, 48, 3)
    alone, together = networks(), networks()
    fb.fit_many(together, x, y, epochs=3, verbose=0)
    for one, other in zip(alone, together, strict=True):
        one.fit(x, y, epochs=3, verbose=0)
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_spellings_of_constraints() -> None:
    assert fb.Dense(1, kernel_constraint="max_norm").kernel_constraint == MaxNorm(2.0)
    assert fb.Dense(1, kernel_constraint="NonNeg").kernel_constraint == NonNeg()
    assert repr(MaxNorm(3)) == "MaxNorm(max_value=3.0)"
    for kind in CONSTRAINTS.values():
        assert fb.constraints.get(kind().config()) == kind()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fb.Dense(1, kernel_constraint="maxnorm"),
            "unknown kernel_constraint 'maxnorm'. Did you mean 'max_norm'",
        ),
        (lambda: fb.Dense(1, kernel_constraint=2.0), "kernel_constraint must be a name such as"),
        (lambda: MaxNorm(0), "MaxNorm: max_value must be a positive number, got 0"),
        (lambda: MaxNorm(axis=1), r"MaxNorm: axis must be 0 \(the norm over a neuron's inputs\), got 1"),
        (lambda: MinMaxNorm(2.0, 1.0), "MinMaxNorm: max_value must be at least min_value, got 1.0"),
        (lambda: fb.Dense(1, lr_multiplier=-1), "lr_multiplier must be a number of at least 0, got -1"),
        (lambda: fb.Adam(clipnorm=0), "Adam: clipnorm must be a positive number, got 0"),
        (lambda: fb.Adam(clipnorm=1, clipvalue=1), "Adam: clipvalue and clipnorm are given; clip in one way"),
        (
            lambda: fb.SGD(gradient_accumulation_steps=1),
            "SGD: gradient_accumulation_steps must be a whole number of at least 2, got 1",
        ),
    ],
)
def test_mistakes(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
