"""Many networks at once: ``fit_many`` over 64 networks of 20-10-1, and what two threads gain."""

from time import perf_counter

from networks import NETWORKS

from . import THREADS

COUNT = 64


class Many:
    """64 networks of tiny with Adam, each over its own rows: epochs of 1,000 and of 16,000 rows."""

    params = ([1000, 16_000], [20])
    param_names = ("rows", "epochs")
    sample_time = 0.1

    def setup(self, rows: int, epochs: int) -> None:
        import numpy as np

        self.network = NETWORKS["tiny"]
        self.x, self.y = self.network.data()
        self.models = [self.network.model("adam") for _ in range(COUNT)]
        rng = np.random.default_rng(0)
        self.rows = [rng.integers(0, len(self.x), rows) for _ in range(COUNT)]
        self.fit(1, THREADS)

    def fit(self, epochs: int, threads: int) -> float:
        """Train all of them; returns the seconds."""
        import fastbp as fb

        start = perf_counter()
        fb.fit_many(self.models, self.x, self.y, self.network.batch, epochs, 0, rows=self.rows, threads=threads)
        return perf_counter() - start

    def time_fit_many(self, rows: int, epochs: int) -> None:
        self.fit(epochs, THREADS)

    def track_scaling_lost(self, rows: int, epochs: int) -> float:
        """Percent that two threads miss to half of one thread's time, of the best of alternating calls."""
        seconds = [(self.fit(epochs, 1), self.fit(epochs, 2)) for _ in range(5)]
        one, two = (min(column) for column in zip(*seconds, strict=True))
        return 100 * (1 - one / (2 * two))

    track_scaling_lost.unit = "%"
