"""Which serinus a process runs: asked before something that runs already is taken for what would be started now."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

PACKAGES: Final = ("cluster", "services")
"""What gateways and the controller are made of."""
BENEATH: Final = ("vllm", "fastapi", "pydantic", "uvicorn")
"""What a gateway reads and answers requests with. Not Ray: a cluster takes no process of another version of it."""


@cache
def code_version() -> str:
    """As `0.1.0+3f9a2c41d7`: release, and a digest of the sources and of the versions beneath, as they lay on this machine's disk
    when first asked. Call it as a process begins: what was imported by then is what runs, whatever is installed later."""
    hashed = hashlib.sha256()
    for file in _sources():
        hashed.update(f"{file.name}\n".encode() + file.read_bytes() + b"\0")
    for name in BENEATH:
        hashed.update(f"{name} {_installed(name)}\n".encode())
    return f"{_installed('serinus')}+{hashed.hexdigest()[:10]}"


def _sources() -> list[Path]:
    root = Path(__file__).resolve().parent.parent
    return sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))


def _installed(name: str) -> str:
    """Its version. A checkout runs without being installed, some clusters without vLLM."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "0"
