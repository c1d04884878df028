"""Prediction through ``Model.predict``: one row, where the call's overhead is the time, and many."""

from networks import NETWORKS

from . import THREADS


class Predict:
    """``predict`` of prepared rows, all threads, kernels warm."""

    params = (["tiny", "small", "mnist", "wide"], [1, 32, 10_000], ["float32", "bfloat16"])
    param_names = ("network", "rows", "dtype")
    sample_time = 0.05

    def setup(self, name: str, rows: int, dtype: str) -> None:
        import numpy as np

        network = NETWORKS[name]
        self.x = np.random.default_rng(0).standard_normal((rows, network.widths[0]), dtype=np.float32)
        self.model = network.model("sgd", THREADS, dtype)
        self.model.predict(self.x)

    def time_predict(self, name: str, rows: int, dtype: str) -> None:
        self.model.predict(self.x)

    def peakmem_predict(self, name: str, rows: int, dtype: str) -> None:
        self.model.predict(self.x)
