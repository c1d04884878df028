"""Training through ``Model.fit``: time and memory of an epoch, and what is missing to the FMA peak."""

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

        rate, peak, end = 0.0, 0.0, perf_counter() + 3
        while perf_counter() < end:
            peak = max(peak, fb.peak_gflops("float32", THREADS))
            epochs, start = 0, perf_counter()
            while (seconds := perf_counter() - start) < 0.1:
                self.fit()
                epochs += 1
            rate = max(rate, epochs * self.network.steps * self.network.flops_per_step / seconds / 1e9)
        return 100 * (1 - rate / peak)

    track_share_of_peak_lost.unit = "%"
