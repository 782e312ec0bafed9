#!/bin/sh
# Print the lines of a lock with their hashes, for `pip install --require-hashes`; one that has none is an error.
#
#   requirements/hashed.sh requirements/cpu.txt
#
# torch is left out: its build for CPUs comes from an index of its own, where that one's hash cannot be asked for from everywhere,
# from a folder, or from the usual index where it has one. Whoever installs it does so by itself.
set -eu
awk '
    /^#/ || !NF { next }
    FILENAME == ARGV[1] { hashed[$1] = $0; next }
    $1 ~ /^torch==/ { next }
    $1 in hashed { print hashed[$1]; next }
    { print "hashed: " $1 " has no hash: python requirements/lock.py --hashes > requirements/hashes.txt" | "cat >&2"; failed = 1 }
    END { exit failed }
' "$(dirname "$0")/hashes.txt" "$1"
