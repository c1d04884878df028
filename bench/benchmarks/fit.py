"""Training through ``Model.fit``: time and memory of an epoch, and what is missing to the FMA peak."""

from math import ceil
from time import perf_counter

from networks import NETWORKS, SETTINGS

from . import THREADS


class Fit:
    """One epoch of each network with each optimizer, float32, all threads, kernels warm."""

    params = (list(NETWORKS), list(SETTINGS))
    param_names = ("network", "optimizer")
    sample_time = 0.1

    def setup(self, name: str, optimizer: str) -> None:
        network = NETWORKS[name]
        if optimizer not in network.optimizers:
            raise NotImplementedError("asv skips what the table does not ask for")
        self.network = network
        self.x, self.y = network.data()
        self.model = network.model(optimizer, THREADS)
        self.fit()

    def fit(self, epochs: int = 1) -> None:
        self.model.fit(self.x, self.y, self.network.batch, epochs, verbose=0, shuffle=False)

    def time_epoch(self, name: str, optimizer: str) -> None:
        self.fit()

    def peakmem_epoch(self, name: str, optimizer: str) -> None:
        self.fit()

    def track_share_of_peak_lost(self, name: str, optimizer: str) -> float:
        """Percent of the FMA peak that a step does not reach; asv calls what grows a regression, so not the share."""
        import fastbp as fb

        start = perf_counter()
        self.fit()
        epochs = ceil(0.1 / (perf_counter() - start))
        work = epochs * self.network.steps * self.network.flops_per_step / 1e9
        rate, peak, end = 0.0, 0.0, perf_counter() + 3
        while perf_counter() < end:
            peak = max(peak, fb.peak_gflops("float32", THREADS))
            start = perf_counter()
            self.fit(epochs)
            rate = max(rate, work / (perf_counter() - start))
        return 100 * (1 - rate / peak)

    track_share_of_peak_lost.unit = "%"
