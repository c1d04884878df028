#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under 9 minutes: tests, compute-sanitizer, the ways of a step, the race. The
# results lie in $OUT (default gpu_check/), first of all table.md, which is written line by line: what ends early leaves
# what came before.
#
#   scripts/gpu_check.sh
#
# It begins with what it found. The Python is $PYTHON, else .venv's, else python3; what that lacks is put beside it, into
# $WORK/packages (default gpu_check/packages): from the wheels in $WHEELS (default gpu_wheels/) where that folder is, else by pip from its index; a
# machine that reaches no network needs the folder:
#
#   python scripts/gpu_packages.py --download gpu_wheels --python 3.12
#
# PARTS names what is to run of "tests small sanitizer ways race", for more time for each in several calls: what a call
# doesn't run leaves its share to the others, the last of all, the race, what is left.
#
# Exit code: 0 all well, 1 something failed, 2 nothing could run.
set -uo pipefail
cd "$(dirname "$0")/.."

begun=$SECONDS
whole=525
work=${WORK:-$PWD/gpu_check}
mkdir -p "$work" "${OUT:-$work}"
out=$(cd "${OUT:-$work}" && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ -x .venv/bin/python ] && python=.venv/bin/python
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export FASTBP_CACHE_DIR=${FASTBP_CACHE_DIR:-$work/cache} # kernels are compiled once for all that follows
unset NUMBA_ENABLE_CUDASIM
# NVIDIA's compiler is looked for there only where a variable says so
[ -z "${CUDA_HOME:-}${CUDA_PATH:-}" ] && [ -d /usr/local/cuda/nvvm ] && export CUDA_HOME=/usr/local/cuda
table=$out/table.md
failed=0

say() { echo "$@" | tee -a "$table"; }

wanted() { [[ " ${PARTS:-tests small sanitizer ways race} " == *" $1 "* ]]; }

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
trap 'echo; echo "$table, after $((SECONDS - begun)) s"' EXIT
say "# On a GPU, $(date -u +%Y-%m-%d), $(git rev-parse --short HEAD 2>/dev/null || echo 'no git')"
say
if command -v nvidia-smi >/dev/null; then
    timeout 30 nvidia-smi >"$out/machine.txt" 2>&1
    gpu=$(timeout 30 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
    say "- nvidia-smi: ${gpu:-$(head -n 1 "$out/machine.txt")}"
else
    say "- nvidia-smi: missing"
fi
if ! command -v "$python" >/dev/null; then
    say "- no Python: $python is missing; name one of 3.11 or newer by PYTHON"
    exit 2
fi
found=$(timeout 60 "$python" scripts/gpu_packages.py 2>&1)
lacking=$?
say "- $(tail -n 1 <<<"$found")"
if [ $lacking -eq 3 ] || [ -d "${WHEELS:-gpu_wheels}" ]; then
    export PYTHONPATH="$work/packages:$PYTHONPATH"
    for _ in 1 2; do # NVIDIA's libraries are looked for by a package of the first pass
        said=$(timeout --kill-after=5 90 "$python" scripts/gpu_packages.py --install "$work/packages" 2>>"$out/machine.txt")
        say "- ${said:-installing was cut off or failed, see machine.txt}"
    done
fi
if ! timeout 60 "$python" -c "from fastbp.cuda import presence; presence.require()" 2>"$out/obstacle.txt"; then
    say "Nothing ran: $(tail -n 1 "$out/obstacle.txt" | sed 's/^[A-Za-z._]*Error: //')"
    exit 2
fi
rm "$out/obstacle.txt"
timeout 60 "$python" - <<'END' | tee -a "$table"
from fastbp.cuda import presence

print(*(f"- {line}" for line in presence.lines(presence.report())), sep="\n")
END
say
say "| part | verdict | |"
say "|---|---|---|"

if ! wanted tests; then
    :
elif "$python" -c "import pytest" 2>/dev/null; then
    run_tests 210
else
    say "| tests | not run | pytest is missing |"
fi

wanted small && part small 75 "$python" scripts/gpu_small.py # compiles what the sanitizer then loads
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
if ! wanted sanitizer; then
    :
elif [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        part "$tool" 45 "$sanitizer" --tool "$tool" --error-exitcode 9 "$python" scripts/gpu_small.py
    done
else
    say "| memcheck, racecheck | not run | compute-sanitizer is missing |"
fi
cat "$out"/memcheck.txt "$out"/racecheck.txt >>"$out/small.txt" 2>/dev/null && rm "$out"/memcheck.txt "$out"/racecheck.txt

wanted ways && part ways 70 "$python" bench/ways.py --networks tiny,tcnn,mnist,wide --dtype float32,tf32
wanted race && part race "$(left)" "$python" bench/rivals.py --device cuda --dtype float32,tf32,bfloat16 --optimizers adam \
    --seconds 1 --limit $(($(left) - 60)) --markdown --json "$out/race.json"
say
lines_of() { [ -f "$out/$1.txt" ] && grep -E "$2" "$out/$1.txt" | sort -u | sed 's/^/- /' | tee -a "$table"; }
lines_of race '^skipped:'
for name in race ways; do
    say
    [ -f "$out/$name.txt" ] && sed -n '/^| network /,$p' "$out/$name.txt" >>"$table"
done
say
lines_of race 'one by one|not raced'
exit $failed
