"""Lines of a kernel's code, as they are written one below the other."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastbp.cuda import rules
from fastbp.cuda.device import cuda, simulated
from fastbp.cuda.narrow.net import ALIGNED, Network, Shared


class Lines:
    """The code of a network's kernel; `names` is what it finds among its globals."""

    def __init__(self, net: Network) -> None:
        self.net, self.at, self.scored = net, self.place(net), bool(net.tallies)
        kind: Any = net.dtype.type
        self.names: dict[str, Any] = {
            "cuda": cuda,
            "math": math,
            "np": np,
            "kind": kind,
            "u": int if simulated() else np.uint64,
            "f64": np.float64,
            "i64": np.int64,
            "of_double": np.dtype(np.float64),
            "of_int": np.dtype(np.int64),
            "of_kind": net.dtype,
            "mix": rules.mix(),
            "shuffled": rules.shuffled(),
            "update": net.update,
            "__name__": __name__,
        }
        self.lines: list[str] = []
        self._depth = 1

    @staticmethod
    def place(net: Network) -> Shared:
        """Where everything stands."""
        return Shared(net)

    def put(self, *lines: str) -> None:
        """Write lines."""
        self.lines += ["    " * self._depth + line for line in lines]

    def barrier(self) -> None:
        """All threads wait for each other, unless they have just done so."""
        line = "    " * self._depth + "cuda.syncthreads()"
        if self.lines[-1] != line:
            self.lines.append(line)

    def shared(self, name: str, kind: str) -> list[str]:
        """Lines that name shared memory; its alignment, which the simulator doesn't know, lets one load take several
        numbers."""
        aligned = "" if simulated() else f", {ALIGNED * 4}"
        return [f"{name} = cuda.shared.array(0, of_{kind}{aligned})"]

    def under(self, head: str) -> "_Under":
        """Write a head and what follows under it."""
        return _Under(self, head)

    @contextmanager
    def aside(self) -> Iterator[list[str]]:
        """What is written meanwhile goes into the list instead."""
        lines, depth, found = self.lines, self._depth, list[str]()
        self.lines, self._depth = found, 0
        yield found
        self.lines, self._depth = lines, depth

    def rule(self, name: str, made: Any) -> str:
        """Name a rule."""
        self.names[name] = made
        return name

    def each(self, count: int | str, name: str = "j", *, last_first: bool = False) -> "_Under":
        """Share `count` things among the threads; `last_first` begins with the last thread."""
        first, threads = "last" if last_first else "i", self.net.threads
        if isinstance(count, int) and count <= threads:
            self.put(f"{name} = {first}")
            return self.under(f"if {name} < {count}:")
        return self.under(f"for {name} in range({first}, {count}, {threads}):")


class _Under:
    """What is written meanwhile stands one step further in."""

    def __init__(self, writer: Lines, head: str) -> None:
        writer.put(head)
        self._writer = writer

    def __enter__(self) -> None:
        self._writer._depth += 1

    def __exit__(self, *error: object) -> None:
        self._writer._depth -= 1
