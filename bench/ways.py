"""The ways that a step can go on a GPU, side by side on the same networks.

``python bench/ways.py``, or some networks: ``... --networks tiny,mnist``. fastbp chooses by the sizes in
``fastbp/cuda/ways.py``, ``narrow/`` and ``wide.py``; this table is what to choose them by.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from unittest import mock

from grounds import Clock
from networks import DEVICE_NETWORKS, Network, named

CALL_SECONDS, ROUNDS = 0.1, 3


class Unfit(Exception):
    """A way that a network can't go, with the reason."""


def _tiles(precision: str) -> Callable[..., object]:
    from fastbp.cuda.products import Tiles

    return functools.partial(Tiles, precision=precision)


def _library(precision: str) -> Callable[..., object]:
    from fastbp.cuda import cublas, wide

    library = cublas.library()
    if library is None:
        raise Unfit("neither nvmath-python nor CuPy is installed")
    return functools.partial(wide.Wide, library=library, precision=precision, least=0, width=1)


WAYS: dict[str, Callable[[str], Callable[..., object]]] = {
    "launches": _tiles,
    "graphs": _tiles,
    "graphs, library": _library,
    "slices": _tiles,
    "one block": _tiles,
}
"""What makes the products of each way."""


@contextmanager
def forced(way: str) -> Iterator[None]:
    """Inside the block steps go this way, whatever a network's size.

    Raises
    ------
    Unfit
        Where a network can't, when its step is made.
    """
    from fastbp.cuda import captured
    from fastbp.cuda.narrow import one_block, slices
    from fastbp.cuda.step import Launches

    def only(name: str, reason: Callable[..., str]) -> Callable[..., str]:
        def chosen(*arguments: object) -> str:
            if way != name:
                return "another way is asked for"
            found = reason(*arguments)
            if found:
                raise Unfit(found)
            return ""

        return chosen

    with ExitStack() as patches:
        for module, name in ((one_block, "one block"), (slices, "slices")):
            patches.enter_context(mock.patch.object(module, "reason", only(name, module.reason)))
        patches.enter_context(mock.patch.object(one_block, "MOST_WORK", float("inf")))
        if way == "launches":
            patches.enter_context(mock.patch.object(captured, "step_of", Launches))
        yield


def microseconds(network: Network, way: str, optimizer: str, dtype: str, clock: Clock) -> float:
    """Return the best time of a step this way.

    Raises
    ------
    Unfit
        Where the network can't go this way.
    """
    x, y = network.data(dtype)
    model = network.model(optimizer, None, "float32", device="cuda", precision=dtype)
    assert model._engine is not None
    model._engine.products = WAYS[way](dtype)
    fit = functools.partial(model.fit, x, y, network.batch, shuffle=False, verbose=0)
    with forced(way):
        fit(epochs=1)
        count, seconds = 1, clock(lambda: fit(epochs=1))
        if seconds < CALL_SECONDS:
            count = ceil(CALL_SECONDS / max(seconds, 1e-6))
        best = min(clock(lambda: fit(epochs=count)) for _ in range(ROUNDS))
    return best / (count * network.steps) * 1e6


def compare(networks: list[Network], optimizer: str, dtypes: list[str], clock: Clock) -> list[str]:
    """Return the table's lines, and below it why a network didn't go some way."""
    lines = ["| network | batch | numbers | " + " | ".join(WAYS) + " |", "|---|---:|---|" + "---:|" * len(WAYS)]
    reasons = []
    for dtype in dtypes:
        for network in networks:
            cells = []
            for way in WAYS:
                try:
                    cells.append(f"{microseconds(network, way, optimizer, dtype, clock):,.1f}")
                except Unfit as error:
                    cells.append("-")
                    reasons.append(f"{network.name}, {dtype}, {way}: {error}")
            widths = "-".join(map(str, network.widths))
            lines.append(f"| {widths} | {network.batch} | {dtype} | " + " | ".join(cells) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
    return [*lines, "", *reasons]


def main(arguments: list[str] | None = None) -> int:
    """Print the table that the command line asks for."""
    single = [name for name, network in DEVICE_NETWORKS.items() if network.copies == 1]
    parser = argparse.ArgumentParser(prog="python bench/ways.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--networks", default=",".join(single), help="as for rivals.py (default: %(default)s)")
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="adam")
    parser.add_argument("--dtype", default="float32", help="float32 (default), tf32, bfloat16, with commas between")
    args = parser.parse_args(arguments)
    from grounds import cuda

    try:
        ground = cuda(1)
        networks = [named(text, DEVICE_NETWORKS) for text in args.networks.split(",")]
    except (ImportError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    print(f"{ground.machine}, us a step with {args.optimizer}\n", flush=True)
    print("\n".join(compare(networks, args.optimizer, args.dtype.split(","), ground.clock)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
