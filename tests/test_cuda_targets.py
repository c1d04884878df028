"""Targets, class numbers and weights of rows that lie on the device: taken there, as those in main memory are."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers import make
from test_device_arrays import Interface, Packed

import fastbp as fb
from fastbp import devices, losses
from fastbp.data.device_arrays import OnDevice
from fastbp.data.staging import Sample
from fastbp.training import weighting

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
from fastbp.cuda import blocks
from fastbp.cuda.engine import Engine

RNG = np.random.default_rng(7)
X = RNG.standard_normal((12, 5)).astype(np.float32)
NUMBERS = RNG.standard_normal((12, 3)).astype(np.float32)
LABELS = np.arange(12) % 3
WEIGHTS = np.arange(12, dtype=np.float32)
SIGNS = np.where(RNG.random((12, 3)) < 0.5, -1, 1)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


class There(Interface):
    """An array on a GPU that nobody may copy from there."""

    def get(self) -> np.ndarray:
        raise AssertionError("rows went through main memory")


def gaps(array: np.ndarray, *rows: int) -> np.ndarray:
    array = array.astype(np.result_type(array.dtype, np.float32))
    array[list(rows)] = np.nan
    return array


def model(loss: Any, output: str = "linear", outputs: int = 3, mask: bool = False, **options: Any) -> fb.Model:
    made = make([5, 4, outputs], output=output, device="cuda", **options)
    metrics = ["accuracy"] if output != "linear" else ["mae"]
    made.compile(fb.SGD(0.1), loss, metrics=metrics, mask_nan=mask)
    return made


def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What engines are given, from now on."""
    seen: list[dict[str, Any]] = []
    prepare = Engine.prepare

    def watched(self: Any, x: Any, y: Any = None, **options: Any) -> Any:
        seen.append({"x": x, "y": y, **options})
        return prepare(self, x, y, **options)

    monkeypatch.setattr(Engine, "prepare", watched)
    return seen


CASES = {
    "numbers": ("mse", "linear", 3, NUMBERS),
    "one column": ("mse", "linear", 1, NUMBERS[:, 0].copy()),
    "float64": ("mse", "linear", 3, NUMBERS.astype(np.float64)),
    "whole": ("poisson", "exponential", 3, RNG.integers(0, 9, (12, 3)).astype(np.int16)),
    "labels": ("sparse_categorical_crossentropy", "softmax", 3, LABELS.astype(np.int64)),
    "bytes": ("sparse_categorical_crossentropy", "softmax", 3, LABELS.astype(np.uint8)[:, None]),
    "labels as floats": ("sparse_categorical_crossentropy", "softmax", 3, LABELS.astype(np.float32)),
    "one hot": ("categorical_crossentropy", "softmax", 3, ONE_HOT),
    "booleans": ("binary_crossentropy", "sigmoid", 1, LABELS > 0),
    "signs": ("hinge", "tanh", 3, SIGNS.astype(np.int8)),
    "signs from 0": ("hinge", "tanh", 3, np.maximum(SIGNS, 0)),
    "positive": ("gamma_deviance", "exponential", 3, np.exp(NUMBERS)),
}


@pytest.mark.parametrize("case", CASES)
def test_targets_train_where_they_are(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, output, outputs, y = CASES[case]
    wanted, got = (model(loss, output, outputs) for _ in range(2))
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "validation_split": 0.25}
    losses = wanted.fit(X, y, sample_weight=WEIGHTS, **options).history
    seen = sent(monkeypatch)
    found = got.fit(There(X), There(y), sample_weight=There(WEIGHTS), **options).history
    assert {name: found[name] for name in losses} == losses
    assert seen and all(isinstance(run[name], OnDevice) for run in seen for name in ("y", "weights"))
    if y.dtype in (np.float32, np.int64) and case not in ("labels as floats", "signs from 0"):
        start = y.ctypes.data
        assert all(start <= run["y"].address < start + y.nbytes for run in seen)
    for a, b in zip(got.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    held = There(X[:5]), There(y[:5]), There(WEIGHTS[:5])
    assert got.evaluate(*held[:2], sample_weight=held[2]) == wanted.evaluate(X[:5], y[:5], sample_weight=WEIGHTS[:5])
    values = [
        one.fit(X, y, validation_data=rows, verbose=0).history["val_loss"]
        for one, rows in ((got, held), (wanted, (X[:5], y[:5], WEIGHTS[:5])))
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("case", ["labels", "labels as floats", "one hot", "booleans", "signs from 0"])
@pytest.mark.parametrize("choice", ["balanced", {0: 0.5, 1: 3.0}])
def test_classes_are_weighed_where_they_are(case: str, choice: Any) -> None:
    loss, output, outputs, y = CASES[case]
    y, outputs = (y[:, :1].copy(), 1) if case == "signs from 0" else (y, outputs)
    found = []
    for wrap, weights in (
        (np.asarray, WEIGHTS),
        (There, There(WEIGHTS)),
        (There, WEIGHTS),
        (np.asarray, There(WEIGHTS)),
    ):
        made = model(loss, output, outputs)
        made.fit(wrap(X), wrap(y), batch_size=4, class_weight=choice, sample_weight=weights, verbose=0)
        found.append(made.get_weights())
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["numbers", "labels as floats", "one hot", "signs"])
@pytest.mark.parametrize("weighted", [False, True])
def test_targets_may_be_missing_where_they_are(case: str, weighted: bool) -> None:
    loss, output, outputs, y = CASES[case]
    y, found = gaps(y, 2, 7), []
    y = y if y.ndim == 1 else np.where(np.arange(3) == 1, y, np.where(np.isnan(y), np.float32(1), y))
    if case == "one hot":
        y = gaps(ONE_HOT, 2, 7)
    for wrap in (np.asarray, There):
        made = model(loss, output, outputs, mask=True)
        own = {"sample_weight": wrap(WEIGHTS)} if weighted else {}
        history = made.fit(wrap(X), wrap(y.astype(np.float32)), batch_size=4, verbose=0, **own).history
        found.append((history, made.get_weights()))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_targets_may_be_there() -> None:
    """Where targets may be missing and none is, nothing is copied."""
    found = []
    for wrap in (np.asarray, There):
        made = model("sparse_categorical_crossentropy", "softmax", mask=True)
        made.fit(wrap(X), wrap(LABELS), batch_size=4, verbose=0, class_weight="balanced")
        found.append(made.get_weights()[0])
    np.testing.assert_array_equal(*found)


def changed(array: np.ndarray, value: float, *place: int) -> np.ndarray:
    array = array.astype(np.float64)
    array[place] = value
    return array


AMISS = {
    "infinite": ("numbers", changed(NUMBERS, np.inf, 3, 1)),
    "missing": ("numbers", changed(NUMBERS, np.nan, 3, 1)),
    "too large": ("numbers", changed(NUMBERS, 1e300, 3, 1)),
    "rows": ("numbers", NUMBERS[1:]),
    "columns": ("numbers", NUMBERS[:, :2].copy()),
    "dimensions": ("numbers", NUMBERS[..., None]),
    "one dimension": ("numbers", NUMBERS[:, 0].copy()),
    "class": ("labels", changed(LABELS, 3, 5)),
    "below": ("labels", np.where(LABELS == 2, -1, LABELS)),
    "from 1": ("labels", LABELS + 1),
    "no class": ("labels", changed(LABELS, 0.5, 5)),
    "class missing": ("labels", changed(LABELS, np.nan, 5)),
    "hot": ("labels", ONE_HOT),
    "above 1": ("one hot", ONE_HOT * 2),
    "negative": ("whole", -CASES["whole"][3]),
    "zero": ("positive", np.zeros((12, 3), np.float32)),
    "mixed": ("signs", np.arange(36).reshape(12, 3) % 3 - 1),
    "two": ("signs", SIGNS * 2),
}


@pytest.mark.parametrize("what", AMISS)
def test_what_is_amiss_is_named_as_in_main_memory(what: str) -> None:
    case, y = AMISS[what]
    loss, output, outputs, _ = CASES[case]
    words = []
    for wrap in (np.asarray, Interface):
        with pytest.raises(ValueError) as error:
            model(loss, output, outputs).fit(wrap(X), wrap(y), verbose=0)
        words.append(str(error.value))
    assert words[0] == words[1]


@pytest.mark.parametrize(
    "weights", [changed(WEIGHTS, -1, 3), changed(WEIGHTS, np.nan, 3), WEIGHTS * 0, WEIGHTS[1:], NUMBERS]
)
def test_weights_that_make_no_sense_are_named_as_in_main_memory(weights: np.ndarray) -> None:
    words = []
    for wrap in (np.asarray, Interface):
        with pytest.raises(ValueError) as error:
            model("mse").fit(X, NUMBERS, sample_weight=wrap(weights), verbose=0)
        words.append(str(error.value))
    assert words[0] == words[1]


@pytest.mark.parametrize(
    "loss, output, y, words",
    [
        ("mse", "linear", NUMBERS, "class_weight needs targets that name classes"),
        ("binary_crossentropy", "sigmoid", ONE_HOT, "3 outputs with loss"),
        ("binary_crossentropy", "sigmoid", changed(WEIGHTS[:, None] % 2, 0.25, 4, 0), r"y\[4\] is 0.25"),
    ],
)
def test_targets_that_name_no_classes_have_no_weights(loss: str, output: str, y: np.ndarray, words: str) -> None:
    for wrap in (np.asarray, Interface):
        with pytest.raises(ValueError, match=words):
            model(loss, output, y.shape[1]).fit(wrap(X), wrap(y), class_weight="balanced", verbose=0)


def test_rows_of_each_class_are_held_out() -> None:
    found = []
    for wrap in (np.asarray, Interface):
        made = model("sparse_categorical_crossentropy", "softmax")
        history = made.fit(
            *(wrap(X), wrap(LABELS)),
            validation_split=0.25,
            stratify=True,
            class_weight="balanced",
            sample_weight=wrap(WEIGHTS),
            verbose=0,
        )
        found.append(history.history["val_loss"])
    assert found[0] == found[1]


def test_single_steps_take_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, got = (model("sparse_categorical_crossentropy", "softmax") for _ in range(2))
    first = wanted.train_on_batch(X, LABELS, WEIGHTS, {1: 2.0}), wanted.test_on_batch(X, LABELS)
    seen = sent(monkeypatch)
    there = There(X), There(LABELS)
    assert (got.train_on_batch(*there, There(WEIGHTS), {1: 2.0}), got.test_on_batch(*there)) == first
    for a, b in zip(got.gradients(*there), wanted.gradients(X, LABELS), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len([run for run in seen if isinstance(run["y"], OnDevice)]) == 3


def test_many_networks_train_where_their_targets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "rows": [None, np.arange(0, 12, 2), LABELS > 0]}
    sets = [[model("sparse_categorical_crossentropy", "softmax", seed=seed) for seed in range(3)] for _ in range(2)]
    fb.fit_many(sets[0], X, LABELS, validation_data=(X, LABELS), **options)
    seen = sent(monkeypatch)
    held = There(X), There(LABELS)
    fb.fit_many(sets[1], There(X), There(LABELS.astype(np.int32)), validation_data=held, **options)
    assert seen and all(isinstance(run["y"], OnDevice) for run in seen)
    for wanted, got in zip(*sets, strict=True):
        assert wanted.history is not None and got.history is not None
        assert wanted.history.history["val_loss"] == got.history.history["val_loss"]
        np.testing.assert_array_equal(wanted.get_weights()[0], got.get_weights()[0])


def test_several_columns_of_classes_and_strides_go_through_main_memory() -> None:
    numbers = np.asfortranarray(NUMBERS)
    found = []
    for wrap in (np.asarray, Interface):
        made = model("mse")
        made.fit(wrap(X), wrap(numbers), sample_weight=wrap(np.repeat(WEIGHTS, 2)[::2]), batch_size=4, verbose=0)
        found.append(made.get_weights()[0])
    np.testing.assert_array_equal(*found)
    taken = devices.targets(
        Interface(np.stack([LABELS, LABELS % 2], 1)), (3, 2), 5, np.dtype("f4"), "cuda", rows=12, name="y"
    )
    assert isinstance(taken, np.ndarray) and taken.shape == (12, 5)


@pytest.mark.parametrize("made", [Interface, Packed])
def test_a_model_on_the_cpu_takes_a_copy(made: Any) -> None:
    found = []
    for wrap in (np.asarray, made):
        one = make([5, 4, 3])
        one.compile(fb.SGD(0.1), "mse")
        one.fit(X, wrap(NUMBERS), sample_weight=wrap(WEIGHTS), batch_size=4, verbose=0)
        found.append(one.get_weights()[0])
    np.testing.assert_array_equal(*found)


def test_auto_takes_them_where_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for work, kind in ((1e7, np.ndarray), (0, OnDevice)):
        monkeypatch.setattr(devices, "AUTO_WORK", work)
        made = fb.Model([fb.Dense(3)], device="auto")
        made.compile("sgd", "mse")
        assert isinstance(made._sample(Interface(X), Interface(NUMBERS)).y, kind)


def test_a_checkpoint_knows_targets_on_the_device(tmp_path: Any) -> None:
    """Of parts of them too: what a share holds out, and what was converted."""
    path, options = tmp_path / "fit.checkpoint", {"batch_size": 4, "verbose": 0, "validation_split": 0.25}
    made, again = (model("mse") for _ in range(2))
    made.fit(X, NUMBERS, epochs=1, checkpoint=path, sample_weight=WEIGHTS, **options)
    double = There(NUMBERS.astype(np.float64))
    again.fit(There(X), double, epochs=2, checkpoint=path, resume=True, sample_weight=There(WEIGHTS), **options)
    made.fit(X, NUMBERS, initial_epoch=1, epochs=2, sample_weight=WEIGHTS, **options)
    for a, b in zip(again.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"data\.digest is"):
        other = There(NUMBERS + 1)
        model("mse").fit(X, other, epochs=3, checkpoint=path, resume=True, sample_weight=WEIGHTS, **options)


def test_blocks_of_rows_take_their_targets_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in main memory that don't fit, with targets on the device."""
    wanted, got = (model("mse") for _ in range(2))
    options = {"batch_size": 2, "epochs": 2, "verbose": 0}
    wanted.fit(X, NUMBERS, sample_weight=WEIGHTS, **options)
    monkeypatch.setattr(blocks, "rows_at_once", lambda prepared: 5)
    with pytest.warns(RuntimeWarning, match="rows are uploaded in blocks"):
        got.fit(X, There(NUMBERS), sample_weight=There(WEIGHTS), **options)
    np.testing.assert_array_equal(got.get_weights()[0], wanted.get_weights()[0])
    assert blocks.size(got._sample(X, There(NUMBERS)).y) == 0


@pytest.mark.gpu
def test_targets_of_a_device() -> None:
    """All kernels on numba-cuda's own arrays: what main memory gives, and what is missing or weighed by class."""
    from fastbp.cuda.device import cuda

    single = np.dtype(np.float32)
    for case, (name, _, outputs, y) in CASES.items():
        loss, words = losses.get(name), {"rows": 12, "name": "y"}
        own = y[:, :1].copy() if case.startswith("signs") else y
        width = 1 if case.startswith("signs") else outputs
        samples = []
        for given in (own, cuda.to_device(own)):
            samples.append(Sample(X, devices.targets(given, loss.targets, width, single, "cuda", **words)))
        assert isinstance(samples[1].y, OnDevice)
        np.testing.assert_array_equal(samples[1].y.copy_to_host(), samples[0].y, err_msg=case)
        if case in ("labels", "one hot", "booleans", "signs from 0"):
            found = [weighting.by_class(sample, "balanced", loss, width).weights for sample in samples]
            np.testing.assert_array_equal(found[1].copy_to_host(), found[0], err_msg=case)
    for case in ("numbers", "labels as floats"):
        name, _, outputs, y = CASES[case]
        loss, found = dataclasses.replace(losses.get(name), mask_nan=True), []
        for wrap in (np.asarray, cuda.to_device):
            there = devices.targets(
                wrap(gaps(y, 2, 7)), loss.targets, outputs, single, "cuda", rows=12, name="y", missing=True
            )
            weights = devices.row_weights(wrap(WEIGHTS), 12, single, "cuda", "sample_weight")
            found.append(weighting.without_missing(Sample(X, there, weights=weights), loss))
        for what in ("y", "weights", "present"):
            wanted, got = (getattr(sample, what) for sample in found)
            np.testing.assert_array_equal(got.copy_to_host(), wanted, err_msg=f"{case}: {what}")
