"""The kernels alone, on one thread: the FMA peak, the phases of a step in the worker that training runs, the rules.

What reaches below the public names is in ``bench/watched.py``: on commits that arrange the kernels otherwise it fails.
"""

from networks import SETTINGS
from watched import BATCH, phase, rule

from fastbp.activations import ACTIVATIONS

from .shares import share_of_peak_lost

DTYPES = ["float32", "float64", "bfloat16"]


class Peak:
    """What the shares of peak are measured against: register-only loops; as a time, so that less is better."""

    params = (DTYPES,)
    param_names = ("dtype",)
    unit = "ns/MFLOP"

    def track_peak(self, dtype: str) -> float:
        import fastbp as fb

        return 1e6 / max(fb.peak_gflops(dtype, 1) for _ in range(20))


class Phases:
    """One phase of a step over 256 rows: products (of the second layer of ``width-width-width-10``), what is around."""

    params = (["gather", "forward", "output", "backward", "gradient"], [97, 128, 1024], DTYPES)
    param_names = ("phase", "width", "dtype")
    sample_time = 0.05

    def setup(self, name: str, width: int, dtype: str) -> None:
        self.run = phase(name, width, dtype)
        self.run(1)

    def time_phase(self, name: str, width: int, dtype: str) -> None:
        self.run(1)


class Tiles:
    """How far the products are from the peak, on one thread."""

    params = (["forward", "backward", "gradient"], [128, 1024], DTYPES)
    param_names = ("product", "width", "dtype")

    def setup(self, name: str, width: int, dtype: str) -> None:
        self.run = phase(name, width, dtype)
        self.run(1)

    def track_share_of_peak_lost(self, name: str, width: int, dtype: str) -> float:
        """Percent of the peak that the product does not reach; asv calls what grows a regression, so not the share."""
        return share_of_peak_lost(self.run, 2 * BATCH * width * width, dtype, 1)

    track_share_of_peak_lost.unit = "%"


class Activation:
    """An activation and its derivative over 1024 vectors, float32."""

    params = ([name for name, row in ACTIVATIONS.items() if not row.coupled and name != "linear"],)
    param_names = ("activation",)
    sample_time = 0.02

    def setup(self, name: str) -> None:
        self.forward, self.backward = rule("activation", name), rule("derivative", name)

    def time_activation(self, name: str) -> None:
        self.forward(1)

    def time_derivative(self, name: str) -> None:
        self.backward(1)


class Update:
    """An optimizer's update over 1024 vectors."""

    params = (list(SETTINGS), ["float32", "float64"])
    param_names = ("optimizer", "dtype")
    sample_time = 0.02

    def setup(self, name: str, dtype: str) -> None:
        self.run = rule("update", name, dtype)

    def time_update(self, name: str, dtype: str) -> None:
        self.run(1)
