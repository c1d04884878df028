"""What people meet without a GPU, or with a driver that doesn't fit: a sentence each."""

import gc
import importlib.util
import re
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import python

pytest.importorskip("numba_cuda", reason="numba-cuda isn't made for this system")
import fastbp as fb
from fastbp.cuda import device, presence


class Code(int):
    """An error code of the driver, which has a name."""

    name = ""


class ApiError(Exception):
    """As numba-cuda raises it: the code and a text."""

    def __init__(self, name: str) -> None:
        self.code = Code(1)
        self.code.name = name
        super().__init__(f"[{name}] Call to cuSomething results in {name}")


class Driver:
    """A driver that knows a CUDA, or doesn't start."""

    def __init__(self, version: tuple[int, int] = (13, 2), reason: str | None = None) -> None:
        self.version, self.initialization_error = version, reason

    def ensure_initialized(self) -> None:
        if self.initialization_error is not None:
            raise ImportError(f"Error at driver init: {self.initialization_error}")

    def get_version(self) -> tuple[int, int]:
        return self.version


def machine(
    monkeypatch: pytest.MonkeyPatch,
    driver: Driver,
    toolkit: tuple[int, int] = (13, 2),
    capability: tuple[int, int] = (9, 0),
    free: int = 1 << 30,
) -> None:
    """A GPU, or what there is instead of one."""
    gpu = SimpleNamespace(name=b"NVIDIA X100", compute_capability=capability, MULTIPROCESSOR_COUNT=132)
    context = SimpleNamespace(get_memory_info=lambda: (free, 80 << 30))
    stand_in = SimpleNamespace(
        cudadrv=SimpleNamespace(driver=SimpleNamespace(driver=driver)),
        runtime=SimpleNamespace(get_version=lambda: toolkit),
        gpus=[gpu],
        get_current_device=lambda: gpu,
        current_context=lambda: context,
    )
    monkeypatch.setattr(device, "simulated", lambda: False)
    monkeypatch.setattr(device, "_module", lambda: stand_in)


def test_the_simulator_stands_for_a_gpu() -> None:
    assert presence.problem() == ""
    presence.require()
    assert presence.report()["device"] == "numba-cuda's simulator"
    assert presence.memory() is None


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "package", lambda: "")
    monkeypatch.setattr(device, "simulated", lambda: False)
    monkeypatch.setattr(device, "_module", device._module.__wrapped__)
    monkeypatch.setattr(presence, "product_library", lambda: "")
    with pytest.raises(ImportError, match=r"device='cuda': CUDA needs numba-cuda: pip install 'fastbp\[cuda13\]'"):
        presence.require()
    assert presence.report() == {"problem": presence.problem(), "package": "", "products": ""}


NO_DRIVER = "\nCUDA driver library cannot be found.\nEnsure that a compatible NVIDIA driver is installed.\n"
OBSTACLES: dict[str, tuple[Driver, dict[str, Any], str]] = {
    "no driver": (Driver(reason=NO_DRIVER), {}, "no NVIDIA driver was found: install it"),
    "switched off": (
        Driver(reason="CUDA is disabled due to setting NUMBA_DISABLE_CUDA=1"),
        {},
        "switched off by NUMBA_DI",
    ),
    "no gpu": (
        Driver(reason="Call to cuInit results in CUDA_ERROR_NO_DEVICE (100)"),
        {},
        "shows no GPU: check nvidia-smi",
    ),
    "half updated": (Driver(reason="CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"), {}, "restart the machine"),
    "compatibility": (Driver(reason="CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE (804)"), {}, "LD_LIBRARY_PATH"),
    "unknown": (Driver(reason="CUDA_ERROR_UNKNOWN\n (999)"), {}, r"doesn't start \(CUDA_ERROR_UNKNOWN \(999\)\)"),
    "ancient driver": (Driver((11, 4)), {}, r"knows CUDA 11.4 at most; fastbp needs 12.0: update the driver"),
    "old driver": (Driver((12, 8)), {}, r"knows CUDA 12.8 at most: pip install 'fastbp\[cuda12\]'"),
    "old gpu": (
        Driver(),
        {"capability": (6, 1)},
        r"capability 6.1; CUDA 13 makes code from 7.5 on: pip install 'fastbp\[cuda12\]'",
    ),
    "ancient gpu": (Driver(), {"capability": (3, 7)}, "use a newer GPU"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_each_obstacle_is_one_sentence(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver, options, words = OBSTACLES[case]
    machine(monkeypatch, driver, **options)
    with pytest.raises(RuntimeError, match=words) as caught:
        presence.require()
    assert "\n" not in str(caught.value)
    assert presence.lines(presence.report()) == [f"no: {presence.problem()}"]


def test_a_hidden_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine(monkeypatch, Driver(reason="CUDA_ERROR_NO_DEVICE (100)"))
    assert "no GPU (CUDA_VISIBLE_DEVICES is '')" in presence.problem()


def test_a_driver_of_the_same_major_version_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolkit's machine code runs on any driver of its major version."""
    machine(monkeypatch, Driver((13, 0)), toolkit=(13, 5))
    presence.require()


def test_an_older_driver_needs_a_linker_beside_the_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the driver would compile PTX that is newer than itself."""
    machine(monkeypatch, Driver((13, 0)), toolkit=(13, 5))
    monkeypatch.setattr(device.cuda.cudadrv.driver, "_have_nvjitlink", lambda: False, raising=False)
    with pytest.raises(
        RuntimeError, match=r"driver \(CUDA 13.0\) is older than the toolkit .* install nvidia-nvjitlink"
    ):
        presence.require()
    machine(monkeypatch, Driver((13, 5)), toolkit=(13, 5))
    monkeypatch.setattr(device.cuda.cudadrv.driver, "_have_nvjitlink", lambda: False, raising=False)
    presence.require()


def test_a_linker_older_than_the_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver((13, 5)), toolkit=(13, 5))
    monkeypatch.setattr(presence, "linker_version", lambda: (13, 0))
    words = r"nvJitLink \(CUDA 13.0\) is older than the compiler \(CUDA 13.5\).*pip install -U nvidia-nvjitlink"
    with pytest.raises(RuntimeError, match=words):
        presence.require()
    monkeypatch.setattr(presence, "linker_version", lambda: (13, 5))
    presence.require()


LINKER = """
import os
os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
from fastbp.cuda import presence
from cuda.core import Linker, LinkerOptions, ObjectCode
for version, arch in (("99.0", "sm_90"), ("8.0", "sm_940")):
    code = ObjectCode.from_ptx(f".version {version}\\n.target sm_90\\n.address_size 64\\n".encode())
    try:
        with presence.in_words():
            Linker(code, options=LinkerOptions(arch=arch)).link("cubin")
    except presence.DeviceError as error:
        print(error)
"""


def test_what_the_linker_refuses_is_said_in_words() -> None:
    """The real one: PTX of a version that it doesn't know, a GPU that it doesn't know."""
    old, unknown = python(LINKER).splitlines()
    assert re.match(r"nvJitLink \(CUDA [\d.]+\) is older than the compiler \(CUDA [\d.]+\)", old)
    assert re.match(r"nvJitLink \(CUDA [\d.]+\) makes no code for this GPU", unknown)


@pytest.mark.parametrize("missing", ["NVVM", "NVRTC", "NVVM and NVRTC"])
def test_half_a_compiler_is_said(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> tuple[int, int]:
        raise RuntimeError("Failure finding 'nvrtc'")

    machine(monkeypatch, Driver((13, 0)))
    device.cuda.cudadrv.nvvm = SimpleNamespace(is_available=lambda: "NVVM" not in missing)
    if "NVRTC" in missing:
        monkeypatch.setattr(presence, "toolkit_version", absent)
    with pytest.raises(RuntimeError, match=rf"{missing} missing.*fastbp\[cuda13\].*CUDA_HOME"):
        presence.require()


def test_the_report_names_device_driver_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver((13, 0)), toolkit=(13, 5))
    monkeypatch.setattr(presence, "product_library", lambda: "nvmath")
    monkeypatch.setattr(presence, "_driver_release", lambda: "580.65.06")
    found = presence.report()
    assert found["problem"] == "" and found["memory_bytes"] == 80 << 30 and found["capability"] == "9.0"
    text = "\n".join(presence.lines(found))
    for words in ("NVIDIA X100", "9.0", "132 multi", "80.0 GiB, 1.0 free", "driver 580.65.06 (CUDA 13.0)", "CUDA 13.5"):
        assert words in text
    assert "products by nvmath-python" in text


def test_products_are_found_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, wanted in (({"nvmath", "cupy"}, "nvmath"), ({"cupy"}, "cupy"), (set(), "")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, there=there: name in there or None)
        assert presence.product_library.__wrapped__() == wanted


# ---------------------------------------------------------------- errors at work


@pytest.mark.parametrize("name", presence.TROUBLES)
def test_errors_at_work_become_sentences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver((13, 0)), toolkit=(13, 5))
    with pytest.raises(presence.TROUBLES[name].kind) as caught, presence.in_words():
        raise ApiError(name)
    text = str(caught.value)
    assert "\n" not in text and "CUDA_ERROR" not in text and "{" not in text and "?" not in text
    assert caught.value.__suppress_context__


def test_full_memory_says_how_full(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver(), free=5 << 20)
    with (
        pytest.raises(MemoryError, match=r"full \(5 MiB free of 81,920\): pass a smaller batch_size"),
        presence.in_words(),
    ):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")  # as cuda.core says it


def test_code_that_is_too_new_for_the_driver_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver((13, 0)), toolkit=(13, 5))
    found = presence.explained(ApiError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"))
    assert re.search(r"driver \(CUDA 13.0\) is older than the toolkit \(CUDA 13.5\).*nvjitlink", str(found))


def test_what_nobody_uses_is_given_back_before_memory_is_called_full() -> None:
    class Buffers:
        own: Any = None

    def make() -> str:
        if kept() is not None:
            raise ApiError("CUDA_ERROR_OUT_OF_MEMORY")
        return "made"

    gc.disable()
    try:
        buffers = Buffers()
        buffers.own, kept = buffers, weakref.ref(buffers)
        del buffers
        assert presence.roomy(make) == "made"
    finally:
        gc.enable()


def test_other_errors_are_not_tried_again() -> None:
    tries: list[int] = []

    def make() -> None:
        tries.append(1)
        raise ApiError("CUDA_ERROR_LAUNCH_FAILED")

    with pytest.raises(ApiError, match="CUDA_ERROR_LAUNCH_FAILED"):
        presence.roomy(make)
    assert len(tries) == 1


def test_a_forked_process_is_told_to_spawn() -> None:
    with pytest.raises(RuntimeError, match=r"get_context\('spawn'\)"), presence.in_words():
        raise ValueError("CUDA initialized before forking")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), presence.in_words():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="CUDA_ERROR_ASSERT: start the process again"), presence.in_words():
        raise ApiError("CUDA_ERROR_ASSERT")


def test_the_real_package_finds_no_gpu() -> None:
    """numba-cuda itself, the simulator off: on a machine without a GPU its own words are understood."""
    code = """
import os
os.environ.pop("NUMBA_ENABLE_CUDASIM", None)
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from fastbp.cuda import presence
print(presence.problem())
"""
    assert re.match("no NVIDIA driver was found|the NVIDIA driver is here, but shows no GPU", python(code))


@pytest.mark.parametrize("where", ["building", "training"])
def test_a_full_gpu_is_said_in_words(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the engine meets the driver's error."""
    from fastbp.cuda import bound, engine

    model = fb.Model([fb.Dense(2)], device="cuda")
    model.compile("sgd", "mse")

    def full(*_: Any) -> Any:
        raise ApiError("CUDA_ERROR_OUT_OF_MEMORY")

    module = engine if where == "building" else bound
    monkeypatch.setattr(module, "cuda", SimpleNamespace(to_device=full))
    with pytest.raises(MemoryError, match="the GPU's memory is full: pass a smaller batch_size"):
        model.fit([[1.0], [2.0]], [[1.0, 2.0], [3.0, 4.0]], verbose=0)
