"""What stands for rsync on a machine of machines.py, as Ray's launcher calls it: `rsync --rsh SSH -avz [--exclude PATTERN]...
[--filter RULE]... SOURCE USER@HOST:TARGET`. Whole files go over, by tar.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

WITH_VALUE = ("--rsh", "--exclude", "--filter")


def copy(words: list[str]) -> int:
    """Exit code."""
    options, places = _parsed(words)
    source, (host, _, target) = places[0], places[1].partition(":")
    folder, what = (source, ".") if source.endswith("/") else (str(Path(source).parent), Path(source).name)
    assert what == "." or Path(source).is_file(), "a folder without a slash at its end would become one in the target"
    excluded = [f"--exclude={pattern.removeprefix('**/')}" for pattern in options["--exclude"]]
    packed = subprocess.Popen(["tar", "-C", folder, *excluded, "-cf", "-", what], stdout=subprocess.PIPE)
    ssh = shlex.split(options["--rsh"][0])
    unpacked = subprocess.run([*ssh, host, _unpack(what, target)], stdin=packed.stdout, check=False)
    return packed.wait() or unpacked.returncode


def _parsed(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    options: dict[str, list[str]] = {name: [] for name in WITH_VALUE}
    places, rest = [], iter(words)
    for word in rest:
        if word in WITH_VALUE:
            options[word].append(next(rest))
        elif not word.startswith("-"):
            places.append(word)
    assert len(places) == 2, places
    return options, places


def _unpack(what: str, target: str) -> str:
    """The far side's command; `~` in the target is for its shell."""
    if what == "." or target.endswith("/"):
        return f"mkdir -p {target} && tar --no-same-owner -C {target} -xf -"
    renamed = f"s,^{what},$(basename {target}),"
    return f'mkdir -p $(dirname {target}) && tar --no-same-owner -C $(dirname {target}) --transform="{renamed}" -xf -'


if __name__ == "__main__":
    sys.exit(copy(sys.argv[1:]))
