"""Prediction through ``Model.predict``: one row, where the call's overhead is the time, and many."""

from networks import NETWORKS

from . import THREADS


class Predict:
    """``predict`` of prepared float32 rows, kernels warm."""

    params = (["tiny", "small", "mnist", "wide"], [1, 32, 10_000])
    param_names = ("network", "rows")
    sample_time = 0.05

    def setup(self, name: str, rows: int) -> None:
        import numpy as np

        network = NETWORKS[name]
        self.x = np.random.default_rng(0).standard_normal((rows, network.widths[0]), dtype=np.float32)
        self.model = network.model("sgd", THREADS)
        self.model.predict(self.x)

    def time_predict(self, name: str, rows: int) -> None:
        self.model.predict(self.x)
