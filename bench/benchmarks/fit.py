"""Training through ``Model.fit``: time and memory of an epoch, and what is missing to the peak."""

from networks import NETWORKS, SETTINGS

from . import THREADS
from .shares import share_of_peak_lost


class Fit:
    """One epoch of each network with each optimizer, on one thread and on all, kernels warm."""

    params = (list(NETWORKS), list(SETTINGS), ["float32", "float64", "bfloat16"], sorted({1, THREADS}))
    param_names = ("network", "optimizer", "dtype", "threads")
    sample_time = 0.1

    def setup(self, name: str, optimizer: str, dtype: str, threads: int) -> None:
        network = NETWORKS[name]
        if optimizer not in network.optimizers:
            raise NotImplementedError("asv skips what the table does not ask for")
        self.network = network
        self.x, self.y = network.data(dtype)
        self.model = network.model(optimizer, threads, dtype)
        self.fit()

    def fit(self, epochs: int = 1) -> None:
        self.model.fit(self.x, self.y, self.network.batch, epochs, verbose=0, shuffle=False)

    def time_epoch(self, name: str, optimizer: str, dtype: str, threads: int) -> None:
        self.fit()

    def peakmem_epoch(self, name: str, optimizer: str, dtype: str, threads: int) -> None:
        self.fit()

    def track_share_of_peak_lost(self, name: str, optimizer: str, dtype: str, threads: int) -> float:
        """Percent of the peak that a step does not reach; asv calls what grows a regression, so not the share."""
        return share_of_peak_lost(self.fit, self.network.steps * self.network.flops_per_step, dtype, threads)

    track_share_of_peak_lost.unit = "%"
