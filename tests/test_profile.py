"""Where the time goes: the workers' counters add up, cost no bit of the result, and exist on every machine."""

import re

import llvmlite.binding as llvm
import numpy as np
import pytest
from helpers import inputs, make, targets
from llvmlite import ir

from fastbp import _vector
from fastbp.cpu import engine as engine_module
from fastbp.cpu.watch import Watch, clock

LOSS = "sparse_categorical_crossentropy"


# ---------------------------------------------------------------- the workers' counters


@pytest.mark.parametrize("threads", [1, 2])
def test_the_parts_of_a_run_add_up(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SERIAL_WORK", 0.0)
    x, y = inputs(4000, 40), targets(LOSS, 4000, 5)
    weights = []
    for watch in (None, Watch()):
        model = make([40, 64, 5], "tanh", "softmax", threads=threads)
        model.compile("adam", LOSS)
        model._engine.watch = watch
        model.fit(x, y, epochs=3, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    parts = watch.parts()
    assert parts.keys() == {"rows", "weights", "waiting", "launch"}
    assert sum(parts.values()) == pytest.approx(watch.seconds, rel=1e-9)
    assert min(parts.values()) >= 0
    assert min(parts["rows"], parts["weights"]) > 0.02 * watch.seconds > 0
    assert (parts["waiting"] > 0) == (threads > 1)
    assert watch.launches >= 2


def test_a_prediction_has_no_weights_phase_to_speak_of() -> None:
    model = make([40, 256, 256, 5], "tanh", "softmax", threads=1)
    model.predict(inputs(3000, 40))
    model._engine.watch = watch = Watch()
    model.predict(inputs(3000, 40))
    parts = watch.parts()
    assert parts["rows"] > 100 * parts["weights"]


def test_the_clock_goes_forward_and_keeps_its_rate() -> None:
    values = [clock().call() for _ in range(1000)]
    assert values == sorted(values) and values[0] < values[-1]


@pytest.mark.parametrize(
    ("triple", "counter"),
    [
        ("x86_64-unknown-linux-gnu", r"\brdtsc\b"),
        ("x86_64-pc-windows-msvc", r"\brdtsc\b"),
        ("aarch64-unknown-linux-gnu", r"(?i)\bcntvct_el0\b"),
        ("arm64-apple-darwin", r"(?i)\bcntvct_el0\b"),
    ],
)
def test_every_machine_has_a_counter_that_a_program_may_read(triple: str, counter: str) -> None:
    """Not arm64's cycle counter, which LLVM's readcyclecounter reads: that is the system's, a program would die."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple).create_target_machine()
    except RuntimeError as error:
        pytest.skip(f"this llvmlite compiles for no such machine: {error}")
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), "now")
    builder = ir.IRBuilder(function.append_basic_block())
    _, emit = _vector.ticks._defn(None)
    builder.ret(emit(None, builder, None, ()))
    assert re.search(counter, target.emit_assembly(llvm.parse_assembly(str(module))))
