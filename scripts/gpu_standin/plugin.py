"""The stand-in's part of pytest (``run.py`` loads it): kernels get code for the host before the first test."""

import os

import pytest
from gpu_standin import host


@pytest.hookimpl(trylast=True)  # tests/conftest.py switches the simulator off for -m gpu
def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        raise pytest.UsageError("the stand-in takes the place of a GPU for `-m gpu`: other tests need none")
    host.install(os.environ["STANDIN_LIBRARY"])
