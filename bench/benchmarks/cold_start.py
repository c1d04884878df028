"""What a fresh process waits for: the import, and the first fit with an empty and with a warm kernel cache."""

import os
import subprocess
import sys
from tempfile import TemporaryDirectory

from . import THREADS

IMPORT = """
from time import perf_counter
import numba
start = perf_counter()
import fastbp as fb
fb.Model
print(perf_counter() - start)
"""

FIRST_FIT = """
from time import perf_counter
import numpy as np
import fastbp as fb
rng = np.random.default_rng(0)
x = rng.standard_normal((1000, 20), dtype=np.float32)
y = (x[:, :1] > 0).astype(np.float32)
model = fb.Model([fb.Dense(10, activation="relu"), fb.Dense(1, activation="sigmoid")])
model.compile("sgd", "binary_crossentropy")
start = perf_counter()
model.fit(x, y, verbose=0)
print(perf_counter() - start)
"""


def seconds_in_fresh_process(code: str, cache: str) -> float:
    """Run `code` in a new interpreter whose kernels are kept in `cache`; return the seconds it prints last."""
    environment = {**os.environ, "FASTBP_CACHE_DIR": cache, "NUMBA_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


class ColdStart:
    """Seconds in a fresh process, the best of three but for the empty cache."""

    unit = "s"

    def setup(self) -> None:
        self.cache = TemporaryDirectory()

    def teardown(self) -> None:
        self.cache.cleanup()

    def best(self, code: str) -> float:
        return min(seconds_in_fresh_process(code, self.cache.name) for _ in range(3))

    def track_import_after_numba(self) -> float:
        """Import of fastbp where Numba is already there."""
        return self.best(IMPORT)

    def track_first_fit_empty_cache(self) -> float:
        """First call of ``fit``, all kernels to compile."""
        return seconds_in_fresh_process(FIRST_FIT, self.cache.name)

    def track_first_fit_warm_cache(self) -> float:
        """First call of ``fit``, all kernels on disk."""
        seconds_in_fresh_process(FIRST_FIT, self.cache.name)
        return self.best(FIRST_FIT)
