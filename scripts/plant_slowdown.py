"""Is the gate to be trusted? Plant a slow-down of 5 % in one kernel, again and again, and count how often it is caught.

Every trial is one verdict of ``speed_gate.py`` on fresh processes: HEAD is BASE with one kernel that does a twentieth
of its work twice, or BASE once more, unpacked and compiled apart. Kernels and unchanged commits take turns. Each trial
is written down as it ends, and a later call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

from speed_gate import Failure, Gate, Side, unpack

UNCHANGED = "unchanged"


def once(source: str, pattern: str, change: Callable[[re.Match[str]], str]) -> str:
    """Change the one place of a source that matches."""
    changed, count = re.subn(pattern, change, source, flags=re.MULTILINE)
    if count != 1:
        raise Failure(f"{count} places match {pattern!r}: the kernels have changed, so must the way to slow one down")
    return changed


def product(name: str, low: str, high: str) -> Callable[[str], str]:
    """A product of the rows phase that computes the first twentieth of its neurons low:high again: the same numbers."""

    def plant(source: str) -> str:
        def change(found: re.Match[str]) -> str:
            names = re.findall(r"(\w+):", found[2])
            part = [f"{low} + ({high} - {low}) // 160 * 8" if each == high else each for each in names]
            body = f"    _{name}_once({', '.join(names)})\n    _{name}_once({', '.join(part)})\n"
            return f"{found[1]}{name}{found[2]}:\n{body}\n\n{found[1]}_{name}_once{found[2]}:\n"

        return once(source, rf"^(@helper\ndef ){name}(\(kind: Any, op: int.*\) -> None):\n", change)

    return plant


def gradient(source: str) -> str:
    """A weights phase that sums every twentieth register tile twice, where that gives the same numbers."""

    def change(found: re.Match[str]) -> str:
        again = found[0].replace("\n", "\n    ").rstrip(" ")
        return f"{found[0]}{found[1]}turn += 1\n{found[1]}if turn % 20 == 0 and more == 0:\n    {again}"

    source = once(source, r"^( +)_sum_tile\(.*, more\)\n", change)
    return once(source, r"^    j = j0\n", lambda m: f"    turn = 7 * (k0 + j0)\n{m[0]}")


def activation(source: str) -> str:
    """An activation that computes its first twentieth again."""
    loop = r"^( +)for i in range\(n\):\n +out\[i\] = function\(inp\[i\], p\)\n"
    return once(source, loop, lambda m: m[0] + m[0].replace("range(n)", "range(n // 20)"))


PLANTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "forward": ("fastbp/cpu/rows.py", product("forward", "o0", "o1")),
    "backward": ("fastbp/cpu/rows.py", product("backward", "i0", "i1")),
    "gradient": ("fastbp/cpu/weights.py", gradient),
    "activation": ("fastbp/cpu/rules.py", activation),
}
"""Kernels, by the first word of their rows in the gate."""


def builds(base: str, folder: Path) -> dict[str, Side]:
    """BASE, the same unpacked again, and a copy with each slow-down."""
    sides = {}
    for name in ("base", UNCHANGED, *PLANTS):
        side = unpack(base, folder / name)
        if side.folder != folder / name / "source":
            shutil.copytree(side.folder / "fastbp", folder / name / "source" / "fastbp", dirs_exist_ok=True)
            shutil.copytree(side.folder / "bench", folder / name / "source" / "bench", dirs_exist_ok=True)
        if name in PLANTS:
            path, plant = PLANTS[name]
            file = folder / name / "source" / path
            file.write_text(plant(file.read_text()))
        sides[name] = Side(name, folder / name / "source", folder / name / "cache")
    return sides


def trial(base: Side, head: Side, minutes: float) -> dict[str, object]:
    """One verdict, as the gate gives it, with what it says of the planted kernel."""
    start = time.monotonic()
    gate = Gate(base, head, 0.02, start + 60 * minutes - 2, [])
    gate.compile()
    gate.run()
    report = gate.report()
    own = [row for row in report["rows"] if row["row"].startswith(head.name)]
    return {
        "head": head.name,
        "slower": [row["row"] for row in report["rows"] if row["verdict"] == "slower"],
        "unclear": [row["row"] for row in report["rows"] if row["verdict"] == "open"],
        "caught": any(row["verdict"] == "slower" for row in own),
        "ratios": {row["row"]: row["ratio"] for row in own},
        "pairs": {row["row"]: [row["same"], row["other"]] for row in report["rows"]},
        "seconds": time.monotonic() - start,
    }


def summary(trials: list[dict[str, object]]) -> str:
    """The counts, and how slow the planted kernels were."""
    planted = [t for t in trials if t["head"] != UNCHANGED]
    unchanged = [t for t in trials if t["head"] == UNCHANGED]
    lines = [
        f"caught: {sum(bool(t['caught']) for t in planted)} of {len(planted)} slow-downs",
        f"false alarms: {sum(bool(t['slower']) for t in unchanged)} of {len(unchanged)} unchanged commits",
    ]
    if trials:
        seconds = sorted(float(t["seconds"]) for t in trials)
        lines.append(f"seconds of a verdict: {seconds[len(seconds) // 2]:.0f}, at most {seconds[-1]:.0f}")
    for name in PLANTS:
        mine = [t for t in planted if t["head"] == name]
        for row in mine[0]["ratios"] if mine else ():
            ratios = [t["ratios"][row] for t in mine]
            lines.append(f"{row}: {fmean(ratios):.3f} times as slow (mean of {len(mine)} trials)")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run trials and print the counts."""
    parser = argparse.ArgumentParser(prog="python scripts/plant_slowdown.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("base", help="commit, or folder with a checkout")
    parser.add_argument("folder", type=Path, help="where sources, compiled kernels and results are kept")
    parser.add_argument("--trials", type=int, default=20, help="of each kind (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=3.0, help="of a verdict, at most (default: %(default)s)")
    parser.add_argument("--stop", type=float, metavar="MINUTES", help="begin no trial that may end later than this")
    args = parser.parse_args(arguments)
    os.environ["FASTBP_AMX"] = "0"  # what is slowed down are the kernels that every machine has
    results, start, longest = args.folder / "trials.json", time.monotonic(), 0.0
    trials = json.loads(results.read_text()) if results.exists() else []
    heads = [name for kernel in islice(cycle(PLANTS), args.trials) for name in (kernel, UNCHANGED)]
    try:
        sides = builds(args.base, args.folder)
        for head in heads[len(trials) :]:
            if args.stop and time.monotonic() - start + longest > 60 * args.stop:
                break
            trials.append(trial(sides["base"], sides[head], args.minutes))
            longest = max(longest, float(trials[-1]["seconds"]))
            results.write_text(json.dumps(trials, indent=1) + "\n")
            words = {key: trials[-1][key] for key in ("head", "caught", "slower", "unclear", "seconds")}
            print(json.dumps(words), flush=True)
    except Failure as failure:
        print(f"plant_slowdown: {failure}", file=sys.stderr)
        return 2
    print(summary(trials))
    return 0


if __name__ == "__main__":
    sys.exit(main())
