"""Import compiles nothing, a second process compiles nothing, and the kernels' folder is private or not used at all."""

import os
import re
import shutil
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, python
from numba.core.errors import NumbaWarning

import fastbp
import fastbp as fb
from fastbp import _jit
from fastbp.activations import ACTIVATIONS
from fastbp.cpu import catalogue, rules, tallies, watch
from fastbp.formulas.tallies import TALLIES
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS
from fastbp.reports import bars
from fastbp.training import compilation

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
    from fastbp.formulas.counters import mix
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
    """A home folder in which one process has trained; the training loop itself comes from the folder of all tests."""
    folder = tmp_path_factory.mktemp("home")
    whereabouts = "from fastbp import _jit\nprint(_jit.cache_folder())"
    kept = Path(python(TRAIN + whereabouts).splitlines()[-1])
    kernels = Path(python(whereabouts, FASTBP_CACHE_DIR=str(folder / "kernels")).strip())
    assert kept.name == kernels.name
    loops = [path for path in kept.iterdir() if path.name.startswith("worker.")]
    assert len(loops) >= 2
    for path in loops:
        shutil.copy2(path, kernels)
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


def test_only_what_is_compiled_is_said_to_be(home: Path, tmp_path: Path) -> None:
    """However long it takes: without the delay, a process that finds all its kernels still says nothing."""
    code = "import sys, fastbp.training.compilation\nsys.stderr = sys.stdout\nfastbp.training.compilation.DELAY = 0.0\n"
    said = python(code + TRAIN, FASTBP_CACHE_DIR=str(home / "kernels"))
    assert "compiling" not in said and "epoch 3/3" in said
    other = TRAIN.replace('"relu"', '"softplus"')
    said = python(code + other, FASTBP_CACHE_DIR=str(home / "kernels"))
    assert "fastbp: compiling kernels, once per machine (some 1 seconds) ...\nfastbp: kernels ready after" in said
    (tmp_path / "kernels").write_text("not a folder")
    code += "import warnings\nwarnings.simplefilter('ignore')\nfrom fastbp.cpu.watch import clock\n"
    code += "fastbp.training.compilation.compile_kernels([('clock', clock())], True)"
    assert "compiling kernels, in every process" in python(code, FASTBP_CACHE_DIR=str(tmp_path / "kernels"))


class Slow:
    """Stands for a kernel: takes its time to compile, or is found in the folder."""

    def __init__(self, seconds: float, kept: bool = False) -> None:
        self.seconds, self.kept, self.ready = seconds, kept, False

    def load(self) -> bool:
        self.ready = self.kept
        return self.ready

    def address(self) -> int:
        time.sleep(self.seconds)
        self.ready = True
        return 1


@pytest.mark.parametrize(("shown", "delay"), [(True, 0.05), (True, 60.0), (False, 0.05)])
def test_compiling_for_long_is_said_in_lines(
    shown: bool, delay: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "DELAY", delay)
    kernels = [("loop", Slow(0.3)), ("tanh", Slow(0.05)), ("gelu", Slow(0.05, kept=True)), ("tanh", Slow(0.0))]
    done = compilation.compile_kernels(kernels, shown)
    assert (done.compiled, done.found) == (("loop", "tanh"), 1)
    assert done.seconds >= 0.35
    said = capsys.readouterr().err
    lines = ["fastbp: compiling kernels", "fastbp: kernels ready after"] if shown and delay < 1 else []
    assert [line for line, start in zip(said.splitlines(), lines, strict=True) if not line.startswith(start)] == []


@pytest.mark.parametrize("rich", [False, True])
def test_compiling_is_shown_as_a_bar_where_someone_watches(
    rich: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if rich:
        pytest.importorskip("rich")
        monkeypatch.setattr(bars, "REFRESH", 0.0)
        monkeypatch.setenv("TERM", "xterm")
    else:
        monkeypatch.setattr(bars, "has_rich", lambda: False)
    monkeypatch.setattr(compilation, "DELAY", 0.0)
    monkeypatch.setattr(compilation, "TICK", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    compilation.compile_kernels([("loop", Slow(0.3)), ("tanh", Slow(0.1))], True)
    said = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err))
    shares = [int(found[1]) for line in said if (found := re.search(r"(\d+)%", line))]
    said = [line for line in said if line.strip()]
    assert all("compiling kernels, once per machine" in line for line in said)
    assert shares == sorted(shares) and len(set(shares)) > 5
    assert "loop" in said[3] and any("tanh" in line for line in said)
    assert shares[-1] == 100 and said[-1].rstrip().endswith("done")


def test_a_kernel_that_fails_to_compile_leaves_no_bar_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "DELAY", 0.0)
    kernel, before = Slow(0.0), threading.active_count()
    monkeypatch.setattr(kernel, "address", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compilation.compile_kernels([("loop", kernel)], True)
    assert threading.active_count() == before


# ---------------------------------------------------------------- beforehand


def test_warmup_leaves_nothing_to_compile(home: Path) -> None:
    """What it compiles is the catalogue's, a second time it finds all of it, and a fit needs nothing else."""
    warm = """
import sys
import fastbp as fb
sys.stderr = sys.stdout
done = fb.warmup(verbose=2)
print(len(done.compiled), done.found)
"""
    folder, count = {"FASTBP_CACHE_DIR": str(home / "kernels")}, len(catalogue.kernels("float32"))
    lines = python(warm, **folder).splitlines()
    compiled, found = map(int, lines[-1].split())
    assert compiled > 5 and found >= 4 and "once per machine" in lines[0]
    assert python(warm, **folder).split() == ["0", str(count)]
    binary = TRAIN.replace('"relu"', '"tanh"').replace("fb.Dense(2)", 'fb.Dense(2, "sigmoid")')
    binary = binary.replace('"sgd", "mse"', '"adam", "binary_crossentropy", ["accuracy"]').replace(
        "x[:, :2]", "x[:, :2] > 0"
    )
    assert trained_at(home, binary)[0] == 0


def test_the_catalogue_has_every_kernel_that_a_network_can_need() -> None:
    for dtype in ("float32", "float64", "bfloat16"):
        everything = {id(kernel) for _, kernel in catalogue.kernels(dtype, everything=True)}
        assert everything > {id(kernel) for _, kernel in catalogue.kernels(dtype)}
        for loss in LOSSES.values():
            fused = loss.fused_with
            for output in [fused] if fused else ACTIVATIONS:
                hidden = "linear" if output == "softmax" else output
                model = fb.Model([fb.Dense(3, hidden), fb.Dense(2, output)], dtype=dtype)
                model.compile("adam", loss.name)
                model.build(4)
                for batch in (1, 500):
                    needed = model._engine.kernels(model._scoring().objective, True, model.optimizer, batch)
                    assert {id(kernel) for _, kernel in needed} <= everything
        number = model.dtype
        for optimizer in (
            *(cls() for cls in OPTIMIZERS.values()),
            fb.SGD(0.1, momentum=0.5),
            fb.SGD(0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
            fb.Adam(weight_decay=0.1, use_ema=True, ema_overwrite_frequency=7),
        ):
            updates = {id(rules.update(optimizer, number, guarded)) for guarded in (False, True)}
            assert updates <= everything, optimizer
        assert {id(tallies.rule(row, number)) for row in TALLIES.values()} <= everything
        assert {id(rules.penalty(number)), id(rules.pull(number))} <= everything


@pytest.mark.parametrize("dtype", ["float16", [], ["float32", "int8"]])
def test_warming_up_for_an_unknown_number_is_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match="warmup: dtype must be among float32, float64, bfloat16, got"):
        fb.warmup(dtype)


def test_a_kernel_knows_whether_the_folder_has_it(fresh_folder: Path) -> None:
    """Pins what `Kernel.kept` and `Kernel.load` use of Numba's cache."""
    one, two = watch._make(), watch._make()
    assert (one.kept, one.load(), one.ready) == (False, False, False)
    address = one.address()
    assert one.kept and one.ready and address
    assert two.kept and not two.ready
    assert two.load() and two.ready and one.call() <= two.call()
    for path in fresh_folder.rglob("*.nbc"):
        path.unlink()
    three = watch._make()
    assert not three.kept and not three.load()


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
    assert {path.parent.name for path in covered} == {"fastbp", "cpu", "data", "estimators", "formulas", "layout"}
    assert package / "model.py" not in covered


def test_a_kernel_that_cant_be_kept_is_compiled_and_says_so() -> None:
    """As with NUMBA_OPT=0, where addresses stay in the code."""
    cache = _jit._KernelCache(abs_of)
    result = SimpleNamespace(
        lifted=[], library=SimpleNamespace(has_dynamic_globals=True), fndesc=SimpleNamespace(qualname="abs_of")
    )
    with pytest.warns(NumbaWarning, match='Cannot cache compiled function "abs_of"'):
        assert not cache._impl.check_cachable(result)


def abs_of(x: float) -> float:
    return abs(x)


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
