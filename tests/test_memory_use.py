"""What a fit takes of memory: measured in fresh processes, predicted by the summary, refused where it doesn't fit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import inputs, make, python, targets

import fastbp as fb
from fastbp.initializers import INITIALIZERS
from fastbp.training import memory

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the resident set is read from Linux's /proc")
MIB = 1 << 20

GROWTH = """
import json, re
import numpy as np
import fastbp as fb

def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

WIDTHS, BATCH, OPTIMIZER, ORDER = {}
x = np.ones((2 * BATCH, WIDTHS[0]), np.float32)
y = np.zeros(2 * BATCH, np.int64)
fb.Model, fb.Adam
start = resident("VmRSS")
model = fb.Model([*(fb.Dense(w, "relu") for w in WIDTHS[1:-1]), fb.Dense(WIDTHS[-1], "softmax")], threads=2)
if ORDER == "build first":
    model.build(WIDTHS[0])
model.compile(OPTIMIZER, "sparse_categorical_crossentropy")
model.fit(x, y, batch_size=BATCH, verbose=0)
lines = []
model.summary(lines.append, batch_size=BATCH)
predicted = float(re.search(r"data: ([\\d.]+) MiB", lines[-1])[1])
print(json.dumps([resident("VmHWM") - start, model.count_params(), predicted]))
"""


def growth(*arguments: object) -> tuple[int, int, float]:
    """(growth of the resident set at its highest, parameters, MiB that the summary predicts) of a fit of its own."""
    code = GROWTH.replace("{}", repr(arguments))
    python(code)  # compiles what isn't kept yet, which takes more memory than to load it
    found = json.loads(python(code))
    return found[0], found[1], found[2]


@linux_only
@pytest.mark.parametrize("order", ["compile first", "build first"])
def test_a_large_network_takes_its_state_and_little_more(order: str) -> None:
    widths, batch = (1024, 4096, 3072, 1024, 10), 128
    grown, parameters, predicted = growth(widths, batch, "adam", order)
    needed = 4 * (3 * parameters + 2 * batch * sum(widths))
    assert 4 * parameters > 16 * MIB  # guarded, no snapshot
    assert needed < grown < 1.05 * needed + 60 * MIB  # of which Numba and the kernels take 55
    assert predicted == pytest.approx(grown / MIB, rel=0.1)


@linux_only
def test_a_smaller_network_keeps_a_snapshot_and_the_summary_counts_it() -> None:
    grown, parameters, predicted = growth((1024, 1536, 1024, 10), 64, "sgd", "compile first")
    assert grown > 2 * 4 * parameters
    assert predicted == pytest.approx(grown / MIB, rel=0.1)


# ---------------------------------------------------------------- one part after the other


@pytest.mark.parametrize("name", INITIALIZERS)
def test_pieces_of_a_matrix_are_drawn_as_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for piece in (1 << 30, 7):
        monkeypatch.setattr("fastbp.program.PIECE", piece)
        layer = fb.Dense(37, kernel_initializer=name, bias_initializer=name)
        model = fb.Model([layer], dtype="float64", seed=3)
        model.build(23)
        found.append(model.get_weights())
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_moments_come_and_go_beside_the_weights() -> None:
    model = make([30, 50, 4])
    weights = model.get_weights()
    for optimizer in (fb.SGD(0.1), "adam", fb.Adam(amsgrad=True, use_ema=True), fb.SGD(0.1, momentum=0.9)):
        model.compile(optimizer, "mse")
        for one, two in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, two)
        fresh = make([30, 50, 4])
        fresh.compile(optimizer, "mse")
        x, y = inputs(20, 30), targets("mean_squared_error", 20, 4)
        assert model.train_on_batch(x, y) == fresh.train_on_batch(x, y)
        assert model.train_on_batch(x, y) == fresh.train_on_batch(x, y)
        model.set_weights(weights)


def test_a_validation_gives_the_same_whether_workspaces_are_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = inputs(100, 30), targets("mean_squared_error", 100, 4)
    found = []
    for most in (1 << 30, 0):
        monkeypatch.setattr("fastbp.cpu.engine.WORKSPACES", most)
        model = make([30, 500, 4], threads=2)
        model.compile("adam", "mse")
        history = model.fit(x, y, epochs=3, validation_split=0.2, verbose=0).history
        assert model._engine is not None
        assert (len(model._engine._bound) > 1) == (most > 0)
        found.append(history)
    assert found[0] == found[1]


# ---------------------------------------------------------------- the summary


def test_the_summary_says_what_training_takes() -> None:
    lines: list[str] = []
    model = make([100, 2000, 10])
    model.summary(lines.append)
    assert "memory" not in lines[-1]
    model.compile("adam", "mse")
    totals = []
    for batch in (None, 512):
        model.summary(lines.append, batch_size=batch)
        assert lines[-1].startswith(f"memory to train in batches of {batch or 32} rows, beside the data: ")
        assert "adam moments 1" in lines[-1]
        totals.append(float(lines[-1].split(": ")[1].split()[0]))
    assert totals[0] < totals[1] < totals[0] + 30
    with pytest.raises(ValueError, match="batch_size must be"):
        model.summary(batch_size=0)


# ---------------------------------------------------------------- what doesn't fit


def test_a_fit_that_does_not_fit_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 300 * MIB)
    model = fb.Model([fb.Dense(4000, "relu"), fb.Dense(2000)], dtype="float64")
    model.compile("adam", "mse")
    x, y = np.zeros((1000, 1000), np.float32), np.zeros((1000, 2000))
    words = (
        r"(?s)takes about \d+ MiB more .* and 300 MiB are free:\n  parameters +\d.*adam moments +\d.*activations and "
        r"their gradients +\d.*data, checked copies +\d.*together +\d.*What helps: \(1\) smaller batches than "
        r"batch_size=512; \(2\) fb\.SGD\(\) instead of Adam, .*dtype=\"float32\".*C-contiguous array of float64"
    )
    with pytest.raises(MemoryError, match=words):
        model.fit(x, y, batch_size=512, verbose=0)
    assert not model.built
    monkeypatch.setattr(memory, "available", lambda: 10 * MIB)
    with pytest.raises(MemoryError, match=r"(?s)parameters +91.*narrower layers than Dense\(4000"):
        model.build(1000)
    assert not model.built
    monkeypatch.setattr(memory, "available", lambda: None)
    model.build(1000)


def test_what_is_there_already_does_not_count_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fb.Model([fb.Dense(3000, "relu"), fb.Dense(10)])
    model.compile("adam", "mse")
    x, y = np.zeros((64, 3000), np.float32), np.zeros((64, 10), np.float32)
    monkeypatch.setattr(memory, "available", lambda: 100 * MIB)
    with pytest.raises(MemoryError):
        model.fit(x, y, verbose=0)
    monkeypatch.setattr(memory, "available", lambda: 300 * MIB)
    model.fit(x, y, verbose=0)
    monkeypatch.setattr(memory, "available", lambda: 10 * MIB)
    model.fit(x, y, verbose=0)


def test_small_fits_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> int:
        raise AssertionError("asked")

    monkeypatch.setattr(memory, "available", asked)
    model = make([30, 50, 4])
    model.compile("adam", "mse")
    model.fit(inputs(200, 30), targets("mean_squared_error", 200, 4), verbose=0)


@linux_only
def test_a_limit_of_the_process_is_respected() -> None:
    """A real one: addresses, as ``ulimit -v`` sets it."""
    code = """
import resource
import numpy as np
import fastbp as fb
model = fb.Model([fb.Dense(4000, "relu"), fb.Dense(4000)], threads=2)
model.compile("adam", "mse")
x = np.zeros((64, 4000), np.float32)
small = fb.Model([fb.Dense(2)], threads=2)
small.compile("adam", "mse")
small.fit(x, np.zeros((64, 2)), verbose=0)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (250 << 20), resource.RLIM_INFINITY))
try:
    model.fit(x, x, verbose=0)
except MemoryError as error:
    print(error)
assert not model.built
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), resource.RLIM_INFINITY))
model.fit(x, x, verbose=0)
print("done")
"""
    said = python(code)
    assert "adam moments" in said and said.endswith("done\n")


# ---------------------------------------------------------------- what is free


def machine(root: Path, free: int | None, groups: str, files: dict[str, str]) -> Path:
    """A machine's files below a folder."""
    (root / "proc/self").mkdir(parents=True)
    if free is not None:
        (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


STAT = "anon 5\ninactive_file 40000\nactive_file 2000\n"
V1_STAT = "inactive_file 1\ntotal_inactive_file 40000\ntotal_active_file 2000\n"


@linux_only
@pytest.mark.parametrize(
    ("free", "groups", "files", "wanted"),
    [
        (8 << 30, "", {}, 8 << 30),
        (8 << 30, "0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, 8 << 30),
        (8 << 30, "0::/\n", {"memory.max": "1000000\n", "memory.current": "300000\n"}, 700_000),
        (8 << 30, "0::/\n", {"memory.max": "1000000\n", "memory.current": "300000\n", "memory.stat": STAT}, 742_000),
        (1024, "0::/\n", {"memory.max": "1000000\n", "memory.current": "300000\n"}, 1024),
        (8 << 30, "0::/\n", {"memory.max": "1000\n", "memory.current": "3000\n"}, 0),
        (
            8 << 30,
            "0::/a/b\n",
            {
                "a/b/memory.max": "max",
                "a/b/memory.current": "7",
                "a/memory.max": "900",
                "a/memory.current": "100",
                "memory.max": "5000",
                "memory.current": "10",
            },
            800,
        ),
        (
            8 << 30,
            "9:cpu:/x\n4:memory:/x/y\n0::/\n",
            {
                "memory/x/y/memory.limit_in_bytes": "9223372036854771712",
                "memory/x/y/memory.usage_in_bytes": "7",
                "memory/x/memory.limit_in_bytes": "100000",
                "memory/x/memory.usage_in_bytes": "60000",
                "memory/x/memory.stat": V1_STAT,
            },
            82_000,
        ),
    ],
)
def test_free_is_what_all_groups_leave(
    free: int, groups: str, files: dict[str, str], wanted: int, tmp_path: Path
) -> None:
    assert memory.available(machine(tmp_path, free, groups, files)) == wanted


def test_this_machine_has_memory() -> None:
    free = memory.available()
    assert free is None or MIB < free < 1 << 50
