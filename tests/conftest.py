"""Fixtures of several test modules; CUDA kernels run in the simulator, but for ``pytest -m gpu``."""

import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="run the K-th of N parts of the tests, for N processes side by side")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "gpu":
        os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
    else:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when Numba is imported
        if importlib.util.find_spec("numba_cuda") is not None:
            import simulator

            simulator.install()
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist's order is by the number of tests, not by their time


LONGEST = "machines", "gradients", "cuda_ptx", "bfloat16", "cuda_narrow", "cold_start", "cuda_kept", "memory"
"""Files to begin with, so that no process is left alone with one: while `test_machines` compiles for other CPUs,
`test_gradients` compiles this one's training loops, which both processes then find in the kernels' folder."""


@pytest.hookimpl(trylast=True)  # -m has left out what isn't wanted
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if config.option.part is not None:
        part, parts = map(int, config.option.part.split("/"))
        items[:] = items[part - 1 :: parts]
    if config.option.markexpr != "gpu":
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and the simulator off: pytest -m gpu"))


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> bool:
    """For what is to run with device="cuda": in the simulator, and once more by -m gpu. Whether there is a GPU."""
    pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
    return request.param == "gpu"


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, here and in child processes: a shell may have started the tests to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many threads as are asked for, however fast they are: whoever tests two wants two."""
    from fastbp.cpu import engine  # once the simulator is set up

    monkeypatch.setattr(engine, "tuner", lambda *_: None)
