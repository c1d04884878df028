"""One kernel that calls every rule of the CUDA engine, with every option, for one compilation instead of hundreds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import types

import fastbp as fb
from fastbp.activations import ACTIVATIONS
from fastbp.constraints import CONSTRAINTS
from fastbp.cuda import rules
from fastbp.cuda.device import cuda
from fastbp.formulas.noise import FORMULAS
from fastbp.formulas.tallies import TALLIES
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS

OPTIONS: dict[str, Any] = {"weight_decay": 0.1, "use_ema": True, "clipvalue": 1.0}
SPECIAL = ({"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"centered": True}, {"amsgrad": True})
WIDTH = 10


def custom() -> tuple[list[Any], list[Any]]:
    """Functions of one's own: activations and losses."""

    def wavelet(z):
        return np.exp(-z * z) * np.cos(z)

    def logarithmic(y, a):
        return np.log1p(np.abs(y - a)) + np.where(y > 0, np.maximum(a, 0), 0.25) + np.sin(a)

    def of_rows(y, a):
        return np.sqrt(1 + np.mean((y - a) ** 2, axis=-1))

    return [fb.activations.custom(wavelet)], [fb.losses.custom(logarithmic), fb.losses.custom(of_rows)]


def variants(name: str) -> list[Any]:
    """An optimizer in all its forms."""
    kind = OPTIMIZERS[name]
    fitting = [{}] + [each for each in SPECIAL if each.keys() <= kind.__dataclass_fields__.keys()]
    return [kind(**each, **options) for each in fitting for options in ({}, OPTIONS)]


class Writer:
    """Lines of the kernel, and the rules that they name."""

    def __init__(self) -> None:
        self.lines = ["def work(out, x, y, z, p, labels, q):", "    i = cuda.grid(1)"]
        self.names: dict[str, Any] = {"cuda": cuda}

    def add(self, rule: Any, call: str, result: bool = True) -> None:
        name = f"rule{len(self.names)}"
        self.names[name] = rule
        self.lines.append(f"    {f'out[i, {len(self.names)}] += ' if result else ''}{name}({call})")


def every_rule(dtype: Any) -> Callable[..., None]:
    """The kernel for numbers of one type."""
    dtype, writer = np.dtype(dtype), Writer()
    activations, losses = custom()
    for row in [*ACTIVATIONS.values(), *activations]:
        function, derivative = rules.activation(row, dtype), rules.derivative(row, dtype)
        if row.coupled:
            writer.add(function, f"out[i], x[i], {WIDTH}", False)
            writer.add(derivative, f"out[i], x[i], {WIDTH}", False)
        else:
            writer.add(function, "x[i, 0], p[0]")
            writer.add(derivative, "x[i, 0], y[i, 0], z[i, 0], p[0]")
    for row in [*LOSSES.values(), *losses]:
        masked = replace(row, mask_nan=not row.coupled)
        y = "labels[i]" if row.targets == "labels" else "y[i]"
        writer.add(rules.loss(masked, dtype), f"z[i], x[i], {y}, {WIDTH}, p[1], p")
    for name in OPTIMIZERS:
        for optimizer in variants(name)[1::2]:
            writer.add(rules.update(optimizer, dtype, True), "q, i, 1000, p[1], p")
    for tally in TALLIES.values():
        if tally.loop in ("kept", "targets"):
            continue
        for y in ("y[i]", "labels[i]"):
            rule = rules.tally(tally, dtype, y == "labels[i]")
            marks = f"marks{len(writer.names)}"
            writer.names[marks] = rule.marks
            writer.lines.append(f"    given, had = {marks}(x[i], {y}, {WIDTH}, p)")
            writer.add(rule.term, f"i, given, had, x[i], {y}, {WIDTH}, p")
    for name in FORMULAS:
        for rule in rules.noise(name, dtype):
            writer.add(rule, "x[i, 0], x[i, 1], x[i, 2], p")
    for constraint in CONSTRAINTS.values():
        writer.add(rules.constraint(constraint(), dtype), "x[i, 0], x[i, 1], p")
    writer.add(rules.penalty(dtype), "x[i, 0], p[0], p[1]")
    writer.add(rules.pull(dtype), "x[i, 0], x[i, 1], p[0], p[1]")
    writer.add(rules.uniform(dtype), "labels[i], i, labels[0]")
    writer.names["mix"], writer.names["shuffled"] = rules.mix(), rules.shuffled()
    writer.lines.append("    labels[i] = mix(shuffled(labels[i], 1000, 10, labels[0]))")
    exec("\n".join(writer.lines), writer.names)
    return writer.names["work"]  # type: ignore[no-any-return]


def signature(dtype: Any) -> tuple[Any, ...]:
    """The arguments' types."""
    number = types.float32 if dtype == np.float32 else types.float64
    matrix, row = number[:, ::1], number[::1]
    return matrix, matrix, matrix, matrix, row, types.int64[::1], row
