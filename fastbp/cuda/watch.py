"""Where the time of a step goes on a device: its phases between events in the stream."""

import time
from itertools import pairwise
from typing import Any

from fastbp.cuda import device
from fastbp.cuda.step import PHASES, WHOLE, Step


class Watch:
    """Adds up the phases of an engine's steps while it is the engine's ``watch``.

    A step of several launches is launched one by one, not replayed as a graph: in a graph a phase has no end. Steps
    that one launch takes have no phases.

    Attributes
    ----------
    seconds : of whole runs, from the first upload to the last copy back, summed
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._phases: dict[str, float] = {}

    def run(self, step: Step, stream: Any, steps: int) -> None:
        """Do what ``step.run`` does, and wait for it."""
        marks: list[tuple[Any, str]] = []
        if step.launches[0].phase == WHOLE:
            marks.append((_mark(stream), WHOLE))
            step.run(stream, steps)
        else:
            for _ in range(steps):
                before = ""
                for launch in step.launches:
                    if launch.phase != before:
                        before = launch.phase
                        marks.append((_mark(stream), before))
                    launch(stream)
        marks.append((_mark(stream), ""))
        for (begin, phase), (end, _) in pairwise(marks):
            self._phases[phase] = self._phases.get(phase, 0.0) + _between(begin, end)

    def parts(self) -> dict[str, float]:
        """Seconds by phase, in the order of a step, and "launch" for what else a run takes."""
        found = {name: self._phases[name] for name in (*PHASES, WHOLE) if name in self._phases}
        return found | {"launch": max(0.0, self.seconds - sum(found.values()))}


def _mark(stream: Any) -> Any:
    """A moment: an event in the stream, or the time where kernels run at once."""
    if device.simulated():
        return time.perf_counter()
    event = device.cuda.event()
    event.record(stream)
    return event


def _between(begin: Any, end: Any) -> float:
    """Seconds between two of them."""
    if device.simulated():
        return float(end - begin)
    end.synchronize()
    return float(device.cuda.event_elapsed_time(begin, end)) / 1e3
