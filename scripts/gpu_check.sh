#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under 9 minutes: tests, compute-sanitizer, the race. Nothing is installed;
# what is missing is said. The results lie in $OUT (default gpu_check/), first of all table.md.
#
#   PYTHON=.venv/bin/python scripts/gpu_check.sh
#
# Exit code: 0 all well, 1 something failed, 2 nothing could run.
set -uo pipefail
cd "$(dirname "$0")/.."

begun=$SECONDS
whole=525
out=${OUT:-gpu_check}
mkdir -p "$out"
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ -x .venv/bin/python ] && python=.venv/bin/python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
unset NUMBA_ENABLE_CUDASIM
table=$out/table.md
failed=0

say() { echo "$@" | tee -a "$table"; }

left() { echo $((whole - (SECONDS - begun))); }

# part NAME SECONDS COMMAND...: its output goes to $out/NAME.txt, its end is shown, its verdict goes into the table
part() {
    local name=$1 limit=$2 start=$SECONDS code
    shift 2
    [ "$limit" -gt "$(left)" ] && limit=$(left)
    if [ "$limit" -lt 10 ]; then
        say "| $name | not run | the time was up |"
        return 1
    fi
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.txt" 2>&1
    code=$?
    tail -n 15 "$out/$name.txt"
    case $code in
        0) say "| $name | passed | $((SECONDS - start)) s |" ;;
        124 | 137) say "| $name | cut off | after $limit s |" ;;
        *) say "| $name | FAILED | exit code $code, $((SECONDS - start)) s, see $name.txt |" ;;
    esac
    [ $code -eq 0 ] || failed=1
    return $code
}

# run_tests SECONDS: the tests in several processes, for most of their time goes into compiling kernels
run_tests() {
    local limit=$1 start=$SECONDS parts=$(($(nproc) / 2)) pids=() codes=() part verdict=passed
    ((parts > 8)) && parts=8
    ((parts < 1)) && parts=1
    # only files with such tests: others may import what isn't here
    mapfile -t files < <(grep -lE 'mark\.gpu|cuda: bool' tests/test_*.py)
    for ((part = 1; part <= parts; part++)); do
        timeout --kill-after=5 "$limit" "$python" -m pytest -m gpu --part "$part/$parts" -q -p no:cacheprovider \
            --continue-on-collection-errors "${files[@]}" >"$out/tests-$part.txt" 2>&1 &
        pids+=($!)
    done
    for part in "${!pids[@]}"; do
        wait "${pids[$part]}"
        codes+=($?)
        tail -n 1 "$out/tests-$((part + 1)).txt"
        case ${codes[$part]} in
            0 | 5) ;; # 5: no test in this part
            124 | 137) [ "$verdict" = FAILED ] || verdict="cut off" ;;
            *) verdict=FAILED ;;
        esac
    done
    cat "$out"/tests-*.txt >"$out/tests.txt"
    rm "$out"/tests-*.txt
    say "| tests | $verdict | $((SECONDS - start)) s, $parts processes ended with ${codes[*]}, see tests.txt |"
    [ "$verdict" = passed ] || failed=1
}

: >"$table"
say "# On a GPU, $(date -u +%Y-%m-%d), $(git rev-parse --short HEAD 2>/dev/null || echo 'no git')"
say
if ! "$python" -c "from fastbp.cuda import presence; presence.require()" 2>"$out/obstacle.txt"; then
    say "Nothing ran: $(tail -n 1 "$out/obstacle.txt" | sed 's/^[A-Za-z._]*Error: //')"
    exit 2
fi
rm "$out/obstacle.txt"
"$python" - <<'END' | tee -a "$table"
from importlib import metadata

from fastbp.cuda import presence

print(*(f"- {line}" for line in presence.lines(presence.report())), sep="\n")
names = "numpy numba numba-cuda cuda-core cuda-bindings nvmath-python cupy-cuda13x cupy-cuda12x torch jax".split()
there, missing = [], []
for name in names:
    try:
        there.append(f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        missing.append(name)
print(f"- with {', '.join(there)}; without {', '.join(missing) or 'nothing'}")
END
command -v nvidia-smi >/dev/null && nvidia-smi >"$out/nvidia-smi.txt" 2>&1
say
say "| part | verdict | |"
say "|---|---|---|"

if "$python" -c "import pytest" 2>/dev/null; then
    run_tests 240
else
    say "| tests | not run | pytest is missing |"
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
if [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        part "$tool" 60 "$sanitizer" --tool "$tool" --error-exitcode 9 "$python" scripts/gpu_small.py
    done
else
    say "| memcheck, racecheck | not run | compute-sanitizer is missing |"
    part small 60 "$python" scripts/gpu_small.py
fi

part ways 70 "$python" bench/ways.py --networks tiny,tcnn,mnist,wide --dtype float32,tf32
part race "$(left)" "$python" bench/rivals.py --device cuda --dtype float32,tf32,bfloat16 --optimizers adam \
    --seconds 1 --limit $(($(left) - 60)) --markdown --json "$out/race.json"
say
grep -E '^skipped:' "$out/race.txt" | sort -u | sed 's/^/- /' | tee -a "$table"
for name in race ways; do
    say
    sed -n '/^| network /,$p' "$out/$name.txt" >>"$table"
done
say
grep -E 'one by one|not raced' "$out/race.txt" | sed 's/^/- /' | tee -a "$table"
echo
echo "$table, after $((SECONDS - begun)) s"
exit $failed
