"""Import compiles nothing, a second process compiles nothing, and the kernels' folder is private or not used at all."""

import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT, python

import fastbp
from fastbp import _jit
from fastbp.progress import CompileNotice

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes and owners of folders are POSIX's")

TRAIN = """
import sys
import numpy as np
from numba.core import event
import fastbp as fb

with event.install_recorder("numba:compile") as compiled:
    model = fb.Model([fb.Dense(4, "relu"), fb.Dense(2)], threads=2)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((50, 3))
    history = model.fit(x, x[:, :2], epochs=3, verbose=2)
print(len(compiled.buffer), history.history["loss"][-1])
"""


# ---------------------------------------------------------------- import


def test_importing_any_module_compiles_nothing() -> None:
    found = python(
        """
import importlib, pkgutil
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    import fastbp
    names = [m.name for m in pkgutil.walk_packages(fastbp.__path__, "fastbp.") if not m.name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    for name in fastbp.__all__:
        getattr(fastbp, name)
    print(len(compiled.buffer), len(names))
    from fastbp.cpu.rows import mix
    mix(1)
print(len(compiled.buffer) > 0)
"""
    ).split()
    assert found[0] == "0"
    assert int(found[1]) > 20
    assert found[2] == "True"  # the recorder does see compilations


def test_the_bare_import_loads_nothing_heavy() -> None:
    code = "import fastbp, sys; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = set(python(code).split())
    assert "fastbp" in loaded
    assert not loaded & {
        "numba",
        "llvmlite",
        "numpy",
        "sklearn",
        "pandas",
        "matplotlib",
        "scipy",
        "safetensors",
        "tqdm",
    }


def test_training_loads_no_extra() -> None:
    """scikit-learn, pandas and matplotlib are extras: whoever trains on arrays doesn't wait for them."""
    loaded = set(python(TRAIN + "print(*sys.modules)").split())
    assert "fastbp.model" in loaded
    assert not loaded & {"sklearn", "pandas", "matplotlib"}


# ---------------------------------------------------------------- the second process


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder in which one process has trained."""
    folder = tmp_path_factory.mktemp("home")
    compiled, loss = trained_at(folder)
    assert compiled > 0
    (folder / "loss").write_text(str(loss))
    return folder


def trained_at(home: Path, code: str = TRAIN, **environment: str) -> tuple[int, float]:
    """(compilations, final loss) of a process that trains; its kernels go to a folder of their own."""
    found = python(code, HOME=str(home), FASTBP_CACHE_DIR=str(home / "kernels"), **environment)
    return int(found.split()[0]), float(found.split()[1])


def files_under(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix in (".nbi", ".nbc")}


def test_a_second_process_compiles_nothing(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in files_under(home)}
    assert trained_at(home) == (0, float((home / "loss").read_text()))
    assert {path: path.stat().st_mtime_ns for path in files_under(home)} == before


def test_another_network_compiles_nothing(home: Path) -> None:
    deeper = TRAIN.replace("[fb.Dense(4,", '[fb.Dense(70, "relu"), fb.Dense(33, use_bias=False), fb.Dense(4,')
    assert trained_at(home, deeper)[0] == 0


def test_a_second_process_says_nothing_of_compiling(home: Path) -> None:
    """The notice waits 0.6 s before it speaks; a slow machine may need longer than that for a warm start."""
    code = "import sys, fastbp.progress\nsys.stderr = sys.stdout\nfastbp.progress.CompileNotice.DELAY = 5.0\n"
    said = python(code + TRAIN, FASTBP_CACHE_DIR=str(home / "kernels"))
    assert "compiling" not in said
    assert "epoch 3/3" in said


@pytest.mark.parametrize(("shown", "seconds"), [(True, 0.5), (True, 0.0), (False, 0.5)])
def test_compiling_for_long_is_said(
    shown: bool, seconds: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompileNotice, "DELAY", 0.05 if seconds else 60.0)
    with CompileNotice(shown):
        time.sleep(seconds)
    said = capsys.readouterr().err
    lines = ["fastbp: compiling kernels", "fastbp: kernels ready after"] if shown and seconds else []
    assert [line for line, start in zip(said.splitlines(), lines, strict=True) if not line.startswith(start)] == []


def test_kernels_are_kept_in_our_folder_and_nowhere_else(home: Path) -> None:
    """Pins the private hook of Numba's: its own places (__pycache__ beside the source, ~/.cache) stay empty."""
    kept = files_under(home)
    folders = {path.parent for path in kept}
    assert len(folders) == 1
    assert re.fullmatch(r"numba-[\d.]\S*-[0-9a-f]{16}", (folder := folders.pop()).name)
    assert folder.parent == home / "kernels"
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    assert sum("worker" in path.name for path in kept) >= 2
    assert not files_under(Path(fastbp.__file__).parent)


@posix_only
def test_the_folder_is_private(home: Path) -> None:
    (folder,) = {path.parent for path in files_under(home)}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# ---------------------------------------------------------------- folders that can't be used


@pytest.fixture
def fresh_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """`cache_folder` forgets what it knows, and is to use this (missing) folder."""
    monkeypatch.setenv("FASTBP_CACHE_DIR", str(tmp_path / "kernels"))
    _jit.cache_folder.cache_clear()
    yield tmp_path / "kernels"
    _jit.cache_folder.cache_clear()


def refused(message: str) -> None:
    with pytest.warns(_jit.CacheWarning, match=rf"(?s){message}.*FASTBP_CACHE_DIR") as caught:
        assert _jit.cache_folder() is None
        assert _jit.cache_folder() is None
    assert len(caught) == 1


def test_a_good_folder_is_made_and_used(fresh_folder: Path) -> None:
    folder = _jit.cache_folder()
    assert folder is not None
    assert folder.parent == fresh_folder


def test_a_file_in_the_folders_place(fresh_folder: Path) -> None:
    fresh_folder.write_text("not a folder")
    refused("can't be kept on disk")


@posix_only
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to(fresh_folder: Path, mode: int) -> None:
    folder = _jit.cache_folder()
    assert folder is not None
    folder.chmod(mode)
    _jit.cache_folder.cache_clear()
    refused("writable by others")


@posix_only
def test_a_folder_of_someone_else(fresh_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _jit.cache_folder()
    _jit.cache_folder.cache_clear()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(fresh_folder).st_uid + 1)
    refused("belongs to someone else")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(fresh_folder: Path) -> None:
    fresh_folder.mkdir(mode=0o500)
    refused("Permission denied")


def test_without_a_folder_training_still_works(home: Path, tmp_path: Path) -> None:
    """One warning, no file, the same result."""
    (tmp_path / "kernels").write_text("not a folder")
    code = """
import warnings
warnings.simplefilter("always")
said = []
warnings.showwarning = lambda message, category, *rest: said.append(category.__name__)
"""
    compiled, loss = trained_at(
        tmp_path, code + TRAIN.replace("print(", 'assert said == ["CacheWarning"], said\nprint(')
    )
    assert compiled > 0
    assert loss == float((home / "loss").read_text())
    assert not files_under(tmp_path)


# ---------------------------------------------------------------- where the folder is, and what its name carries


def test_the_folder_is_where_each_system_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTBP_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    home = Path.home()
    for platform, variable, place in (
        ("linux", None, home / ".cache" / "fastbp"),
        ("linux", "XDG_CACHE_HOME", Path("/there") / "fastbp"),
        ("darwin", None, home / "Library" / "Caches" / "fastbp"),
        ("win32", "LOCALAPPDATA", Path("/there") / "fastbp" / "cache"),
        ("linux", "FASTBP_CACHE_DIR", Path("/there")),
        ("win32", "FASTBP_CACHE_DIR", Path("/there")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", platform)
            if variable:
                patch.setenv(variable, "/there")
            assert _jit._user_cache() == place


def test_kernel_sources_cover_whatever_kernels_are_made_of() -> None:
    """Numba's cache key knows one file: the folder's name must know every module that a kernel can depend on."""
    code = """
import sys
import fastbp.cpu.engine, fastbp.cpu.peak
print(*(module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "fastbp"))
"""
    package = Path(fastbp.__file__).parent
    covered = {path for pattern in _jit.KERNEL_SOURCES for path in package.glob(pattern)}
    imported = {Path(path) for path in python(code).split()}
    assert package / "cpu" / "engine.py" in imported
    assert imported <= covered
    assert {path.parent.name for path in covered} == {"fastbp", "cpu"}
    assert package / "model.py" not in covered


def test_the_folders_name_changes_with_any_kernel_source_and_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "fastbp", tmp_path / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_jit, "__file__", str(tmp_path / "fastbp" / "_jit.py"))
    names = [_jit._sources()]
    for name in ("_jit.py", "_math.py", "losses.py", "program.py", "cpu/tile.py", "cpu/worker.py"):
        with open(tmp_path / "fastbp" / name, "a") as source:
            source.write("\n# changed\n")
        names.append(_jit._sources())
    for name, value in (("NUMBA_CPU_NAME", "haswell"), ("NUMBA_CPU_FEATURES", ""), ("NUMBA_OPT", "2")):
        monkeypatch.setenv(name, value)
        names.append(_jit._sources())
    assert len(set(names)) == len(names)
    (tmp_path / "fastbp" / "model.py").write_text("")
    assert _jit._sources() == names[-1]
