"""Rows of ten times the memory that a process may take: trained on, evaluated and predicted within the limit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import python

import fastbp as fb

COLUMNS, ROWS, ALLOWED = 112, 1 << 20, 44 << 20
"""448 MiB of rows; bytes that a process may take beside what it begins with: each thread's stack has 2 MiB."""
BLOCK, CHUNK = 2 << 20, 1 << 16
"""Blocks of rows are read in and shuffled; usually they have 32 MiB, of which four may be held at once."""

CODE = """
import json, os, resource, sys, threading
import numpy as np
import fastbp as fb
from fastbp.data import streams

streams.BLOCK_BYTES, streams.CHUNK_BYTES = BLOCK, CHUNK
threading.stack_size(2 << 20)
folder, rows, columns, allowed = sys.argv[1], *map(int, sys.argv[2:])
model = fb.Model([fb.Dense(32, activation="relu"), fb.Dense(1)], seed=4, threads=2)
model.compile("adam", "mse")

def run(x, y, out):
    history = model.fit(x, y, batch_size=1024, epochs=1, verbose=0)
    return history, model.evaluate(x, y), model.predict(x, out=out)

few = np.zeros((8192, columns), np.float32)
np.save(f"{folder}/few.npy", few)
np.save(f"{folder}/few_y.npy", few[:, :1])
small = np.lib.format.open_memmap(f"{folder}/small.npy", "w+", np.float32, (len(few), 1))
run(f"{folder}/few.npy", f"{folder}/few_y.npy", small)  # threads and kernels are there from here on
model = fb.Model([fb.Dense(32, activation="relu"), fb.Dense(1)], seed=4, threads=2)
model.compile("adam", "mse")

with open("/proc/self/status") as status:
    held = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (held + allowed, held + allowed))
try:
    np.load(f"{folder}/x.npy")
except MemoryError:
    refused = True
else:
    refused = False
out = np.lib.format.open_memmap(f"{folder}/out.npy", "w+", np.float32, (rows, 1))
history, loss, _ = run(f"{folder}/x.npy", f"{folder}/y.npy", out)
out.flush()
sums = [float(w.sum(dtype=np.float64)) for w in model.get_weights()]
print(json.dumps({"refused": refused, "waiting": history.waiting, "loss": loss, "fitted": history.history["loss"],
                  "weights": sums}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process allocates against a limit")
def test_rows_of_ten_times_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbp.data.streams.BLOCK_BYTES", BLOCK)
    monkeypatch.setattr("fastbp.data.streams.CHUNK_BYTES", CHUNK)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (ROWS, COLUMNS))
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (ROWS, 1))
    block = np.random.default_rng(0).standard_normal((1 << 14, COLUMNS)).astype(np.float32)
    for start in range(0, ROWS, len(block)):
        x[start : start + len(block)] = block
        y[start : start + len(block)] = block[:, :1] - block[:, 1:2] + start / ROWS
    assert x.nbytes >= 9.8 * ALLOWED
    arguments = f"import sys; sys.argv[1:] = {[str(tmp_path), str(ROWS), str(COLUMNS), str(ALLOWED)]!r}\n"
    arguments += f"BLOCK, CHUNK = {BLOCK}, {CHUNK}\n"
    found = json.loads(python(arguments + CODE))
    assert found["refused"], "the limit doesn't hold: the rows fitted into memory"
    assert len(found["waiting"]) == 1 and 0.0 <= found["waiting"][0] <= 1.0
    whole = fb.Model([fb.Dense(32, activation="relu"), fb.Dense(1)], seed=4, threads=2)
    whole.compile("adam", "mse")
    history = whole.fit(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), batch_size=1024, verbose=0)
    assert found["fitted"] == history.history["loss"]  # the bits of a fit without a limit
    assert found["weights"] == [float(w.sum(dtype=np.float64)) for w in whole.get_weights()]
    assert found["loss"] == pytest.approx(whole.evaluate(np.asarray(x), np.asarray(y)), rel=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy")[:5000], whole.predict(x[:5000]))
    assert history.history["loss"][0] < float(np.var(y))
