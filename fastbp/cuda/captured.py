"""Steps as CUDA graphs: the launches of several steps are captured once and replayed for as many as are wanted.

What changes from step to step (its number, its batch, its coefficients) the kernels read from device memory, so that a
replay needs no argument changed, and steps of every length of run are made of two graphs: of one step, and of many.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from fastbp.cuda import device
from fastbp.cuda.cublas import handle_of
from fastbp.cuda.step import Launch, Launches, Step

MANY = 32
"""Steps of the longer graph: launching one costs the host some microseconds, and making one as much for each launch."""


FEW = 8
"""Short steps, together, that a graph is made for: making it takes as long as launching one or two of them."""


class Graphs:
    """A step as graphs that are replayed.

    Parameters
    ----------
    launches : those of a step, in order
    capture : makes a graph of what a function puts into the stream that it is given; see `capture`
    many : steps of the longer graph
    first : what a run begins with
    """

    def __init__(
        self,
        launches: Sequence[Launch],
        capture: Callable[[Callable[[Any], None]], Any],
        many: int = MANY,
        first: Sequence[Launch] = (),
    ) -> None:
        self.launches, self.first, self._plain = launches, first, Launches(launches)
        self._capture, self._many = capture, many
        self._graphs: dict[int, Any] = {}
        self._warm, self._short = False, 0

    def run(self, stream: Any, steps: int) -> None:
        """See `Step`. The first step is launched by itself: what is compiled and loaded can't be captured."""
        if not self._warm and steps:
            self._plain.run(stream, 1)
            self._warm, steps = True, steps - 1
        while steps:
            count = self._many if steps >= self._many else 1
            if count == 1:
                self._short += steps
                if self._short < FEW:
                    self._plain.run(stream, steps)
                    return
            graph = self._graph(count)
            for _ in range(steps // count):
                graph.launch(stream)
            steps %= count

    def _graph(self, steps: int) -> Any:
        if steps not in self._graphs:
            self._graphs[steps] = self._capture(lambda inside: self._plain.run(inside, steps))
        return self._graphs[steps]


class _Graph:
    """A graph with what puts it into a stream."""

    def __init__(self, graph: Any, stream_of: Callable[[int], Any]) -> None:
        self._graph, self._stream_of = graph, stream_of

    def launch(self, stream: Any) -> None:
        """Replay it in a stream."""
        self._graph.launch(self._stream_of(handle_of(stream)))


def capture(put: Callable[[Any], None]) -> _Graph:
    """The graph of what `put` puts into the stream that it is given; nothing of it runs."""
    core = importlib.import_module("cuda.core")
    gpu = core.Device(device.cuda.get_current_device().id)
    gpu.set_current()
    builder = gpu.create_graph_builder()
    try:
        builder.begin_building("relaxed")
        try:
            with device.cuda.defer_cleanup():  # giving memory back waits for the whole device
                put(builder)
        finally:
            builder.end_building()
        return _Graph(builder.complete(), core.Stream.from_handle)
    finally:
        builder.close()


def step_of(launches: Sequence[Launch], first: Sequence[Launch] = ()) -> Step:
    """The best way to run a step: graphs where the package can capture its launches, else one after the other."""
    if device.simulated() or device.package() != "numba_cuda":
        return Launches(launches, first)
    return Graphs(launches, capture, first=first)
