"""Floor 0: signal handlers that raise (Ctrl-C's does) wait while kernels run and until their work is counted."""

import signal
import threading
from collections.abc import Callable
from typing import Any, ClassVar

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGBREAK")
NUMBERS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class HeldBack:
    """What signal handlers raise while the block runs is held back: `take` hands it over, or the end raises it.

    The handlers themselves run at once, whatever else they do. Of blocks within each other the innermost gets what is
    raised, and what it doesn't take goes to the one around it. Handlers run in the main thread; in any other this does
    nothing.

    Parameters
    ----------
    stop : called when something was raised, to cut short what runs; at once where the block around this one holds
        something back already
    """

    _innermost: ClassVar["HeldBack | None"] = None

    def __init__(self, stop: Callable[[], Any] | None = None) -> None:
        self._stop = stop
        self._error: BaseException | None = None
        self._around: HeldBack | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "HeldBack":
        self._main = threading.current_thread() is threading.main_thread()
        if not self._main:
            return self
        self._around, HeldBack._innermost = HeldBack._innermost, self
        if self._around is None:
            try:
                for number in NUMBERS:
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self._before[number] = handler
                        signal.signal(number, self._handle)
            except BaseException:  # from a handler that wasn't replaced yet
                self._restore()
                raise
        elif self._around._error is not None and self._stop is not None:
            self._error, self._around._error = self._around._error, None
            self._stop()
        return self

    def _handle(self, number: int, frame: Any) -> None:
        try:
            self._before[number](number, frame)
        except BaseException as error:
            inner = HeldBack._innermost or self
            inner._error = error
            if inner._stop is not None:
                inner._stop()

    def take(self) -> BaseException | None:
        """What was raised so far; whoever takes it sees to it that it is raised."""
        error, self._error = self._error, None
        return error

    @classmethod
    def heed(cls) -> None:
        """Raise what the innermost block holds back, in the middle of something long that may be left."""
        inner = cls._innermost
        if inner is not None and threading.current_thread() is threading.main_thread():
            error = inner.take()
            if error is not None:
                raise error

    def _restore(self) -> None:
        HeldBack._innermost = self._around
        while self._before:
            try:
                for number in list(self._before):
                    signal.signal(number, self._before[number])
                    del self._before[number]
            except BaseException as error:  # from a handler that is back already
                self._error = error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self._main:
            return
        self._restore()
        held = self.take()
        if held is not None and self._around is not None:
            self._around._error = held
        elif held is not None:
            raise held
