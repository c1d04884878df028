"""Floor 5: how a command speaks and stops: its lines and JSON, one-line errors, exit codes, signals, warnings."""

import argparse
import contextlib
import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops the training as Ctrl-C does."""


class Voice:
    """Where a command speaks: lines for people on stdout, or on stderr when stdout carries one JSON document."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.json, self.quiet = args.json, getattr(args, "quiet", False)
        self.stream = sys.stderr if self.json else sys.stdout

    def __call__(self, label: str, text: str) -> None:
        if not self.quiet:
            self.always(label, text)

    def always(self, label: str, text: str) -> None:
        """Print a line even with --quiet."""
        print(f"{label:<11} {text}", file=self.stream, flush=True)

    def lines(self, summary: Callable[..., None]) -> None:
        """Show a model's summary between blank lines."""
        lines: list[str] = []
        summary(print_fn=lines.append)
        self.block(lines)

    def block(self, lines: Iterable[str]) -> None:
        """Print lines between blank lines."""
        if not self.quiet:
            print("", *lines, "", sep="\n", file=self.stream, flush=True)

    def document(self, **content: Any) -> None:
        """Print the JSON document, if one was asked for."""
        if self.json:
            print(json.dumps(content, allow_nan=False))


def size(count: float) -> str:
    """Say a number of bytes."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def one_line(error: BaseException) -> str:
    """Say an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Give what a shell gives for the signal."""
    return 143 if isinstance(stop, Terminated) else 130


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM; put the handlers back afterwards, SIGINT's too."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop), signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


@contextlib.contextmanager
def short_warnings() -> Iterator[None]:
    """Show warnings in one line each, without the place in the code."""

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        print(f"fastbp: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
