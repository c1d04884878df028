"""How much memory a fit takes: growth of the resident set, each contestant in a fresh process (``rivals.py --memory``).

The process imports the library and draws the data; what it holds then is the start. The contestant is made and trains
two epochs. Growth is what the process holds afterwards, peak growth the most it held while it trained. Everyone runs
twice and the second run counts, so that what is compiled once per machine is there. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ARRAYS = {"sgd": 2, "adam": 3}
"""Weights and moments."""


def resident(key: str = "VmRSS") -> int:
    """Bytes that this process holds, or held at most (``VmHWM``)."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return 1024 * int(line.split()[1])


def needed(network: Any, optimizer: str, dtype: str) -> int:
    """Bytes of the parameters, the moments, and one batch's activations with their gradients."""
    size = 8 if dtype == "float64" else 4
    parameters = sum((i + 1) * o for i, o in zip(network.widths, network.widths[1:], strict=False))
    return size * (ARRAYS[optimizer] * parameters + 2 * network.batch * sum(network.widths))


def grow(name: str, text: str, optimizer: str, threads: int, dtype: str) -> dict[str, int]:
    """Train one contestant in this process; return its resident set after import, its growth and its peak growth."""
    from rivals import set_environment

    set_environment(threads, dtype)
    from contestants import CONTESTANTS, PACKAGES
    from networks import named

    network = named(text)
    x, y = network.data(dtype)
    import_module(PACKAGES[name][0].replace("scikit-learn", "sklearn"))
    if name == "fastbp":
        import_module("fastbp.model")  # what `fb.Model` loads
    start = resident()
    contestant = CONTESTANTS[name](network, optimizer, x, y, threads, dtype)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # the race's own starting weights are gone: they are not the contestant's
    CLEAR.write_text("5")  # forgets the peak so far
    contestant.run(2)
    return {"import": start, "growth": resident() - start, "peak": resident("VmHWM") - start}


def grow_apart(name: str, text: str, optimizer: str, threads: int, dtype: str) -> dict[str, int]:
    """Return what `grow` does, in a fresh process, the second of two.

    Raises
    ------
    RuntimeError
        Where the contestant does not run, with the last line it wrote.
    """
    command = [sys.executable, __file__, name, text, optimizer, str(threads), dtype]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    answer: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return answer


def contest(
    network: Any, optimizer: str, names: list[str], threads: int, dtype: str, skipped: dict[str, str]
) -> dict[str, Any]:
    """Return the growth of each contestant as JSON-able data, and print the table."""
    if not CLEAR.exists():
        raise RuntimeError("--memory needs Linux's /proc")
    need = needed(network, optimizer, dtype)
    print(
        f"\n{network.name}, batch {network.batch}, {optimizer}, {dtype}: {need / 2**20:,.0f} MiB of parameters, "
        f"moments, activations and their gradients\n"
        f"  {'MiB':14}{'after import':>14}{'growth':>10}{'peak growth':>13}{'x needed':>10}"
    )
    result: dict[str, Any] = {
        "network": network.name,
        "batch": network.batch,
        "optimizer": optimizer,
        "dtype": dtype,
        "needed": need,
        "contestants": {},
    }
    for name in (name for name in names if name not in skipped):
        try:
            row = grow_apart(name, network.name, optimizer, threads, dtype)
        except RuntimeError as error:
            skipped[name] = f"does not run here ({error})"
            print(f"  {name:14} skipped: {skipped[name]}", flush=True)
            continue
        result["contestants"][name] = row
        start, growth, peak = (row[key] / 2**20 for key in ("import", "growth", "peak"))
        print(f"  {name:14}{start:>14,.0f}{growth:>10,.0f}{peak:>13,.0f}{row['peak'] / need:>10.2f}", flush=True)
    return result


if __name__ == "__main__":
    print(json.dumps(grow(*sys.argv[1:4], int(sys.argv[4]), sys.argv[5])))
