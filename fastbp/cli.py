"""Floor 5: the command line, ``fastbp train | evaluate | predict | bench | warmup | info | export | completion``."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from fastbp.commands.console import exit_code, one_line, short_warnings, sigterm_interrupts
from fastbp.cuda import DeviceError

_COMMANDS = {
    "train": "train",
    "evaluate": "apply",
    "predict": "apply",
    "export": "apply",
    "bench": "bench",
    "info": "machine",
    "warmup": "machine",
    "completion": "machine",
}
"""The module of ``fastbp.commands`` that each is in."""

_MISTAKES = (ValueError, OSError, ImportError, FloatingPointError, MemoryError, DeviceError)
"""What a user's data, options or machine can cause; all else is a bug and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0; 2 after a mistake, answered in one line on stderr; 130 after Ctrl-C, 143 after SIGTERM; 1 and
        3 of bench --compare, see its help.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:  # closed by the shell; a file that is opened would get its number
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        from fastbp.commands import arguments  # Ctrl-C may come while Numba is loaded

        args = arguments.parse(argv)
        with sigterm_interrupts(), short_warnings():
            code = _command(args.command)(args)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print("fastbp: interrupted", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes its streams at exit.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    except _MISTAKES as error:
        print(f"fastbp: error: {one_line(error)}", file=sys.stderr)
        return 2
    return code


def _command(name: str) -> Callable[..., int]:
    function: Callable[..., int] = getattr(importlib.import_module(f"fastbp.commands.{_COMMANDS[name]}"), name)
    return function
