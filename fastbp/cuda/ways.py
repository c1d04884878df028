"""Which way a step goes: the one place where the ways meet."""

from typing import TYPE_CHECKING

from fastbp.cuda import captured
from fastbp.cuda.narrow import one_block, slices
from fastbp.cuda.step import Step

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound, Data

STEPS_AHEAD = 64
"""Steps of several launches that are put into the stream before the stop flag is looked at again."""


def step_of(bound: "Bound", data: "Data") -> Step:
    """The way that a step of a bound network goes: by one block where it is small, by slices of rows where it is
    narrow, else product by product; launches are replayed as graphs."""
    keeps = data.result is not None
    if data.starts is not None:  # sparse rows
        return captured.step_of(bound.launches(data), bound.products.first())
    if not one_block.reason(bound.layout, bound.objective, bound.optimizer, data.targets, keeps):
        return one_block.Narrow(bound, data)
    if not slices.reason(bound, data):
        return captured.step_of(slices.launches(bound, data))
    return captured.step_of(bound.launches(data), bound.products.first())


def steps_ahead(step: Step) -> int:
    """Steps that are put into the stream before the stop flag is looked at again."""
    return one_block.STEPS_AHEAD if isinstance(step, one_block.Narrow) else STEPS_AHEAD
