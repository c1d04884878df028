"""Checkpoints: a fit that was killed at any moment goes on to the same bits; what is damaged or foreign is said."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import PATIENCE, ROOT, inputs, make, targets
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastbp as fb
from fastbp.callbacks import Callback, CSVLogger, EarlyStopping, LambdaCallback, ReduceLROnPlateau, Timer
from fastbp.cpu import engine as engine_module
from fastbp.exchange import storage
from fastbp.exchange.model_files import state
from fastbp.training.checkpoint import CheckpointWarning

SPARSE = "sparse_categorical_crossentropy"
X, Y = inputs(90, 5), targets(SPARSE, 90, 3)
OPTIONS: dict[str, Any] = {"batch_size": 8, "verbose": 0, "validation_split": 0.2}


def classifier(optimizer: Any = None, **options: Any) -> fb.Model:
    model = make([5, 9, 3], "tanh", "softmax", **options)
    model.compile(fb.Adam(0.02) if optimizer is None else optimizer, SPARSE, metrics=["accuracy"])
    return model


def same_end(one: fb.Model, two: fb.Model) -> None:
    """Weights, moments, counters and history, to the bit; the times apart."""
    (tensors, content), (others, other) = state(one), state(two)
    assert tensors.keys() == others.keys()
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], others[name], err_msg=name)
    assert content == other
    assert one.history is not None and two.history is not None
    for name in ("history", "epoch", "learning_rate", "params", "interrupted", "stopped"):
        assert getattr(one.history, name) == getattr(two.history, name), name


class Killed(BaseException):
    """What stands for the end of the process."""


class Kill(Callback):
    """Ends the process after some steps; it costs no state and no bit."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.seen = after, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == self.after:
            raise Killed


CALLBACKS: dict[str, Callable[[Path], list[Callback]]] = {
    "none": lambda folder: [],
    "early stopping": lambda folder: [EarlyStopping("val_loss", patience=2, restore_best_weights=True)],
    "plateau": lambda folder: [ReduceLROnPlateau("val_loss", factor=0.3, patience=1)],
    "csv": lambda folder: [CSVLogger(folder / "log.csv"), Timer()],
}
OPTIMIZERS = {
    "sgd": lambda: fb.SGD(0.1),
    "adam": lambda: fb.Adam(0.02),
    "scheduled": lambda: fb.SGD(fb.schedules.CosineDecay(0.1, 40), momentum=0.9, use_ema=True),
}


@pytest.mark.parametrize("after", [3, 9, 14, 30, 45])
@pytest.mark.parametrize("every", [1, 4, None])
@pytest.mark.parametrize(
    ("watched", "optimizer"), [*((w, "adam") for w in CALLBACKS), ("none", "sgd"), ("none", "scheduled")]
)
def test_a_killed_fit_goes_on_to_the_same_bits(
    watched: str, optimizer: str, every: int | None, after: int, tmp_path: Path
) -> None:
    """72 rows to train on are 9 steps an epoch; the fit is left after `after` steps and goes on in a new model."""
    whole, first, second = (classifier(OPTIMIZERS[optimizer]()) for _ in range(3))
    folders = [tmp_path / "whole", tmp_path / "parts"]
    for folder in folders:
        folder.mkdir()
    whole.fit(X, Y, epochs=5, callbacks=[*CALLBACKS[watched](folders[0]), Kill()], **OPTIONS)
    options = {**OPTIONS, "checkpoint": tmp_path / "fit", "checkpoint_every": every}
    watch = [*CALLBACKS[watched](folders[1]), Kill(after)]
    try:
        first.fit(X, Y, epochs=5, callbacks=watch, **options)
    except Killed:
        assert first._updates == after
    watch = [*CALLBACKS[watched](folders[1]), Kill()]
    second.fit(X, Y, epochs=5, callbacks=watch, resume=True, **options)
    same_end(whole, second)
    if watched == "csv":
        assert (folders[0] / "log.csv").read_text() == (folders[1] / "log.csv").read_text()
        assert len(watch[1].epochs) == 5


def test_steps_that_no_callback_sees_are_resumed_too(tmp_path: Path) -> None:
    """Chunks over many epochs, epochs that aren't passes, weights of rows: all in one entry of the kernels."""
    options: dict[str, Any] = {
        "batch_size": 16,
        "verbose": 0,
        "sample_weight": np.arange(90),
        "steps_per_epoch": 4,
    }
    whole, parts = classifier(), classifier()
    whole.fit(X, Y, epochs=6, **options)
    options |= {"checkpoint": tmp_path / "fit", "checkpoint_every": 7}
    for epochs in (1, 2, 4, 6):  # each a fit that was stopped, and gone on with in a new process
        parts = classifier()
        parts.fit(X, Y, epochs=epochs, resume=True, **options)
    assert parts.history is not None and whole.history is not None
    parts.history.params = whole.history.params
    same_end(whole, parts)


def test_a_fit_that_is_over_stays_so(tmp_path: Path) -> None:
    model, again = classifier(), classifier()
    options = {**OPTIONS, "checkpoint": tmp_path / "fit"}
    stopping = [EarlyStopping("loss", min_delta=9.0, patience=1, restore_best_weights=True)]
    assert len(model.fit(X, Y, epochs=9, callbacks=stopping, **options).epoch) == 2
    stopping = [EarlyStopping("loss", min_delta=9.0, patience=1, restore_best_weights=True)]
    assert len(again.fit(X, Y, epochs=9, callbacks=stopping, resume=True, **options).epoch) == 2
    same_end(model, again)


def test_max_time_and_a_checkpoint_cut_a_fit_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on with each look at it."""
    whole, options = classifier(), {**OPTIONS, "checkpoint": tmp_path / "fit", "checkpoint_every": 10**6}
    whole.fit(X, Y, epochs=3000, **OPTIONS)
    readings = itertools.count()
    monkeypatch.setattr("fastbp.training.fit.CHUNK_SECONDS", 0.0011)
    monkeypatch.setattr("fastbp.training.fit.time", SimpleNamespace(perf_counter=lambda: 0.001 * next(readings)))
    parts = 0
    while True:
        part, parts = classifier(), parts + 1
        history = part.fit(X, Y, epochs=3000, resume=True, max_time=0.02, **options)
        if not history.stopped:
            break
        assert parts < 1000
    assert parts > 2
    same_end(whole, part)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_is_saved_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while workers run, in the third run of steps."""

    def network() -> fb.Model:
        model = make([300, 300, 3], "tanh", "softmax", threads=2)
        model.compile("adam", SPARSE)
        return model

    x, y = inputs(400, 300), targets(SPARSE, 400, 3)
    network().fit(x, y, verbose=0)
    options: dict[str, Any] = {"verbose": 0, "checkpoint": tmp_path / "fit", "checkpoint_every": 10**6}
    stopped = network()
    runs, start = itertools.count(1), engine_module.in_background

    def started(work: Callable[..., Any], *arguments: Any) -> Any:
        future = start(work, *arguments)
        if work is not np.copyto and next(runs) == 3:
            signal.raise_signal(signal.SIGINT)
        return future

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "LONG_WORK", 0.0)
        patch.setattr(engine_module, "in_background", started)
        history = stopped.fit(x, y, epochs=10**6, on_interrupt="return", **options)
    assert history.interrupted and stopped._updates
    _, content = storage.read(tmp_path / "fit")
    assert content["fit"]["done"] == stopped._updates
    whole, again = network(), network()
    epochs = len(history.epoch) + 3
    whole.fit(x, y, epochs=epochs, verbose=0)
    again.fit(x, y, epochs=epochs, resume=True, **options)
    same_end(whole, again)


def test_an_interrupt_between_two_runs_is_saved_too(tmp_path: Path) -> None:
    def press(epoch: int, logs: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    options: dict[str, Any] = {**OPTIONS, "epochs": 4, "checkpoint": tmp_path / "fit", "checkpoint_every": 10**6}
    stopped, again, whole = classifier(), classifier(), classifier()
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, Y, callbacks=[LambdaCallback(on_epoch_begin=press)], **options)
    _, content = storage.read(tmp_path / "fit")
    assert content["fit"]["done"] == stopped._updates > 0
    again.fit(X, Y, resume=True, callbacks=[LambdaCallback(on_epoch_begin=lambda epoch, logs: None)], **options)
    whole.fit(X, Y, callbacks=[LambdaCallback(on_epoch_begin=lambda epoch, logs: None)], **{**OPTIONS, "epochs": 4})
    same_end(whole, again)


# ---------------------------------------------------------------- a real kill

SCRIPT = """
import os, signal, sys
import numpy as np
from helpers import inputs, make, targets
import fastbp as fb
from fastbp.exchange import storage
from fastbp.callbacks import EarlyStopping

path, moment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = {"count": 0}

def die_at(module, name, before):
    original = getattr(module, name)
    def watched(*args, **kwargs):
        calls["count"] += 1
        if before and calls["count"] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls["count"] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(module, name, watched)

def linkless(*args):
    raise OSError("no hard links here")

if moment.endswith("linkless"):
    os.link = linkless
{"written": lambda: die_at(storage, "write", False),
 "writing": lambda: die_at(storage, "save_file", False),
 "renaming": lambda: die_at(os, "replace", True),
 "never": lambda: None}[moment.split()[0]]()
model = make([5, 9, 3], "tanh", "softmax")
model.compile(fb.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(
    inputs(90, 5), targets("sparse_categorical_crossentropy", 90, 3), batch_size=8, epochs=int(sys.argv[4]), verbose=0,
    validation_split=0.2, callbacks=[EarlyStopping("val_loss", patience=99, restore_best_weights=True)],
    checkpoint=path, checkpoint_every=5, resume=True,
)
"""


def started(path: Path, moment: str, count: int, epochs: int) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path), moment, str(count), str(epochs)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)


def finished_in_process(path: Path, epochs: int) -> tuple[fb.Model, fb.Model]:
    """(the fit that nobody killed, the one that goes on from the file)."""
    models = [classifier(), classifier()]
    for model, extra in zip(models, ({}, {"checkpoint": path, "checkpoint_every": 5, "resume": True}), strict=True):
        stopping = EarlyStopping("val_loss", patience=99, restore_best_weights=True)
        model.fit(X, Y, epochs=epochs, callbacks=[stopping], **OPTIONS, **extra)
    return models[0], models[1]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize(
    ("moment", "count", "warned"),
    [
        ("written", 4, False),  # after the fourth checkpoint
        ("writing", 4, False),  # when its bytes are there and it has no name yet
        ("renaming", 4, False),  # before the third checkpoint becomes the previous: 1 rename, then 2 each
        ("renaming", 5, False),  # when the third is the previous too and the fourth has no name yet
        ("renaming linkless", 5, True),  # the same on a file system where the third can't have two names
    ],
)
def test_a_process_killed_at_the_worst_moments(moment: str, count: int, warned: bool, tmp_path: Path) -> None:
    path = tmp_path / "fit"
    process = started(path, moment, count, 5)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    if warned:
        assert not path.exists()
        with pytest.warns(CheckpointWarning, match="fit is missing; resuming from the checkpoint before it"):
            whole, again = finished_in_process(path, 5)
    else:
        whole, again = finished_in_process(path, 5)
    same_end(whole, again)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_process_killed_from_outside_whenever(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    previous = path.with_name("fit.previous")

    def written_at() -> int:
        return previous.stat().st_mtime_ns if previous.exists() else 0

    for wait in (0.02, 0.05):
        before = written_at()
        process = started(path, "never", 0, 10**6)
        try:
            while process.poll() is None and written_at() == before:
                time.sleep(0.005)
            time.sleep(wait)
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()
    done = storage.read(path)[1]["fit"]["done"]
    assert done > 0
    whole, again = finished_in_process(path, done // 9 + 3)
    same_end(whole, again)


# ---------------------------------------------------------------- damage and mistakes


def written(path: Path, checkpoints: int = 3) -> dict[str, Any]:
    """Options of a fit that has written so many checkpoints and was left then."""
    options = {**OPTIONS, "epochs": 4, "checkpoint": path, "checkpoint_every": 2}
    with pytest.raises(Killed):
        classifier().fit(X, Y, callbacks=[Kill(2 * checkpoints - 1)], **options)
    return options


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: flip(path, 0.999), r"fit is damaged: its checksum differs"),
        (lambda path: flip(path, 0.9), r"fit is damaged: its checksum differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"is truncated, damaged or of another kind"),
        (lambda path: path.write_bytes(b""), r"is truncated, damaged or of another kind"),
        (lambda path: path.unlink(), r"fit is missing"),
        (lambda path: classifier().save(path), r"fit is a model file, not a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    options, whole, again = written(tmp_path / "fit"), classifier(), classifier()
    damage(tmp_path / "fit")
    with pytest.warns(CheckpointWarning, match=rf"{words}.*; resuming from the checkpoint before it, .*fit\.previous"):
        again.fit(X, Y, callbacks=[Kill()], resume=True, **options)
    whole.fit(X, Y, callbacks=[Kill()], epochs=4, **OPTIONS)
    same_end(whole, again)


def test_a_change_of_plain_data_is_found_too(tmp_path: Path) -> None:
    options = written(tmp_path / "fit")
    for name in ("fit", "fit.previous"):
        with safe_open(tmp_path / name, framework="np") as file:
            content = json.loads(file.metadata()["fastbp"])
        content["meta"]["fit"]["sums"][0] += 1e-9
        save_file(load_file(tmp_path / name), tmp_path / name, metadata={"fastbp": json.dumps(content)})
    with pytest.raises(ValueError, match=r"no checkpoint can be read: .*checksum differs; .*previous is damaged.*anew"):
        classifier().fit(X, Y, callbacks=[Kill()], resume=True, **options)


def test_every_bit_is_under_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    written(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng, model = np.random.default_rng(0), classifier()
    for place in [*rng.integers(header, len(whole), 20), *rng.integers(header // 2, header, 20)]:
        path.write_bytes(whole)
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(0, 7))
        path.write_bytes(content)
        path.with_name("fit.previous").unlink(missing_ok=True)
        with pytest.raises(ValueError, match="no checkpoint can be read"):
            model.fit(X, Y, callbacks=[Kill()], resume=True, checkpoint=path, checkpoint_every=2, epochs=4, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": [5, 8, 3]}, r"layers\[0\]\.units is 9 there and 8 here"),
        ({"layers": [5, 9, 9, 3]}, r"layers is .* there and .* here"),
        ({"hidden": "relu"}, r"layers\[0\]\.activation is 'tanh' there and 'relu' here"),
        ({"dtype": "float64"}, r"dtype is 'float32' there and 'float64' here"),
        ({"seed": 3}, r"seed is 0 there and 3 here"),
        ({"optimizer": fb.Adam(0.03)}, r"optimizer\.learning_rate is 0\.02 there and 0\.03 here"),
        ({"optimizer": fb.SGD(0.02)}, r"optimizer\.name is 'adam' there and 'sgd' here"),
        ({"metrics": []}, r"metrics is \['accuracy'\] there and \[\] here"),
        ({"batch_size": 9}, r"batch_size is 8 there and 9 here"),
        ({"shuffle": False}, r"shuffle is True there and False here"),
        ({"initial_epoch": 1}, r"initial_epoch is 0 there and 1 here"),
        ({"x": X + 0.001}, r"data\.digest is '.*' there and '.*' here"),
        ({"x": X[:80], "y": Y[:80]}, r"steps_per_epoch is 9 there and 8 here"),
        ({"validation_split": 0.21}, r"data\.shapes\.x\[0\] is 72 there and 71 here"),
        ({"sample_weight": np.ones(90)}, r"data\.shapes\.weights is None there and \[72\] here"),
        ({"callbacks": [Kill(), Timer()]}, r"callbacks is \['Kill'\] there and \['Kill', 'Timer'\] here"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    options = {**written(tmp_path / "fit"), "callbacks": [Kill()]}
    model = make(
        change.pop("layers", [5, 9, 3]),
        change.pop("hidden", "tanh"),
        "softmax",
        dtype=change.pop("dtype", "float32"),
        seed=change.pop("seed", 0),
    )
    metrics = change.pop("metrics", ["accuracy"])
    model.compile(change.pop("optimizer", fb.Adam(0.02)), SPARSE, metrics=metrics)
    before, files = model.get_weights(), (tmp_path / "fit").read_bytes()
    x, y = change.pop("x", X), change.pop("y", Y)
    with pytest.raises(ValueError, match=rf"fit is a checkpoint of another fit: {words}; resume with what"):
        model.fit(x, y, resume=True, **{**options, **change})
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "fit").read_bytes() == files


def test_without_resume_a_fit_begins_anew_and_the_old_one_is_kept_beside(tmp_path: Path) -> None:
    options, whole, anew = written(tmp_path / "fit"), classifier(), classifier()
    options["epochs"] = 1
    anew.fit(X, Y, callbacks=[Kill()], **options)
    whole.fit(X, Y, callbacks=[Kill()], epochs=1, **OPTIONS)
    same_end(whole, anew)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit", "fit.previous"]


def test_a_checkpoint_is_a_model_file(tmp_path: Path) -> None:
    model, stopping = classifier(), EarlyStopping("loss", restore_best_weights=True)
    model.fit(
        X,
        Y,
        epochs=2,
        checkpoint=tmp_path / "fit",
        callbacks=[stopping],
        **OPTIONS,
    )
    twin, third = fb.load_model(tmp_path / "fit"), classifier()
    third.load_weights(tmp_path / "fit")
    for a, b, c in zip(model.get_weights(), twin.get_weights(), third.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_a_checkpoint_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first must succeed, before any step; a later one that fails leaves the fit and the one before alone."""
    with pytest.raises(FileNotFoundError, match="does not exist: make it"):
        classifier().fit(X, Y, checkpoint=tmp_path / "no" / "fit", **OPTIONS)
    write, calls = storage.write, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("No space left on device")
        write(*arguments, **options)

    monkeypatch.setattr(storage, "write", full)
    with pytest.warns(CheckpointWarning, match=r"no checkpoint after step 18: No space left on device"):
        classifier().fit(X, Y, epochs=2, checkpoint=tmp_path / "fit", **OPTIONS)
    assert storage.read(tmp_path / "fit")[1]["fit"]["done"] == 18  # tried again when the fit was over


def test_a_callback_may_not_keep_what_a_file_cannot_hold(tmp_path: Path) -> None:
    class Odd(Callback):
        def get_state(self) -> dict[str, Any]:
            return {"what": object()}

    with pytest.raises(TypeError, match="holds a object"):
        classifier().fit(X, Y, checkpoint=tmp_path / "fit", callbacks=[Odd()], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": True}, r"resume is about a checkpoint: give checkpoint=PATH too"),
        ({"checkpoint_every": 3}, r"checkpoint_every is about a checkpoint: give checkpoint=PATH"),
        ({"checkpoint": "fit", "checkpoint_every": 0}, r"checkpoint_every must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        classifier().fit(X, Y, **OPTIONS, **options)


def test_resuming_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**written(tmp_path / "fit"), "verbose": 2}
    classifier().fit(X, Y, callbacks=[Kill()], resume=True, **options)
    said = capsys.readouterr().err
    assert "fit (epoch 1, step 4)" in said
    assert "epoch 4/4" in said
