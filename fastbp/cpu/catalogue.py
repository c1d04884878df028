"""Every kernel there is: the training loop of each type of number, and a rule for each row of the tables."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbp._jit import Kernel
from fastbp.activations import ACTIVATIONS, IDENTITY, RELU
from fastbp.cpu import bfloat16, operations, rules, serving, sparse, tallies, terms, thin
from fastbp.cpu.engine import worker_kernel
from fastbp.cpu.machine import amx_granted
from fastbp.cpu.peak import _loop as peak_loop
from fastbp.cpu.runs import chain_kernel
from fastbp.cpu.together import counter_kernel, serve_kernel, wait_kernel
from fastbp.cpu.watch import clock
from fastbp.formulas.tallies import TALLIES
from fastbp.losses import LOSSES
from fastbp.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer

USUAL = {
    "activations": ("sigmoid", "tanh", "softmax"),
    "losses": ("mean_squared_error", "binary_crossentropy", "categorical_crossentropy"),
    "tallies": ("categorical accuracy", "binary accuracy", "absolute error"),
}
"""What most networks use, besides relu and linear, which are part of the loop."""


def kernels(dtype: str, everything: bool = False) -> list[tuple[str, Kernel]]:
    """The kernels of a type of number, with what to call them.

    Parameters
    ----------
    dtype : "float32", "float64" or "bfloat16"
    everything : whether to list every row of the tables and every option of the optimizers, not the usual ones only
    """
    number = np.dtype("float64" if dtype == "float64" else "float32")
    found = [("training loop", worker_kernel(number)), ("validation", chain_kernel()), ("clock", clock())]
    found += [("many networks", kernel()) for kernel in (serve_kernel, counter_kernel, wait_kernel)]
    found.append(("prediction", serving.kernel(number)))
    found.append(("peak", peak_loop(dtype)[0]))
    if dtype == "bfloat16":
        found += [("bfloat16", bfloat16.rule(name)) for name in bfloat16.RULES]
    else:
        found += [("few rows", thin.rule(name, number)) for name in ("forward", "backward")]
        if amx_granted() and number == np.float32:
            found += [("large products", terms.rule(name)) for name in terms.RULES]
        if everything:
            found += [("sparse rows", sparse.rule(name, number)) for name in sparse.RULES]
    for name, activation in ACTIVATIONS.items():
        if activation not in (IDENTITY, RELU) and (everything or name in USUAL["activations"]):
            found += [(name, rules.activation(activation, number)), (name, rules.derivative(activation, number))]
        elif activation is RELU and everything:
            found.append((name, rules.derivative(activation, number)))
    for name, loss in LOSSES.items():
        if everything or name in USUAL["losses"]:
            found.append((name, rules.loss(loss, number)))
    for name, tally in TALLIES.items():
        if everything or name in USUAL["tallies"]:
            found.append((name, tallies.rule(tally, number)))
    usual = (SGD(), SGD(momentum=0.9), Adam(), AdamW())
    for optimizer in _optimizers() if everything else usual:
        found += [(optimizer.name, rules.update(optimizer, number, guarded)) for guarded in (False, True)]
    if everything:
        found += [("penalty", rules.penalty(number)), ("penalty", rules.pull(number)), *operations.every(number)]
    return list({id(kernel): (name, kernel) for name, kernel in found}.values())


def _optimizers() -> Iterator[Optimizer]:
    """Every optimizer with every option on and off, where they go together: each formula is among them."""
    for cls in OPTIMIZERS.values():
        options = [field for field in dataclasses.fields(cls) if not field.default]  # off, 0 or None
        for chosen in itertools.product((False, True), repeat=len(options)):
            settings: dict[str, Any] = {
                field.name: True if field.default is False else 0.5
                for field, on in zip(options, chosen, strict=True)
                if on
            }
            try:
                yield cls(**settings)
            except ValueError:  # options that exclude each other, or a number that one of them doesn't take
                continue
