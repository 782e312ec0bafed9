"""The environment of the quantization task: what llmcompressor needs is not what vLLM pins, so it gets its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from cluster.session import HUGE_PAGES, package_root

OVERLAY = "serinus-quantize"
"""Folder in the Python environment with the packages of requirements/quantize.txt (pip's `--target`)."""


VARIABLES = {
    **HUGE_PAGES,
    "HF_HUB_OFFLINE": "1",
    # Quantizing on CPUs is many small operations. With threads that spin at each barrier it took over 300 s where another
    # process wanted the same two cores, with threads that wait 71 s (with llmcompressor's own loop of GPTQ).
    "OMP_WAIT_POLICY": "PASSIVE",
}


def runtime_env(prefix: Path | None = None) -> dict[str, Any]:
    """Ray's `runtime_env`: the overlay first on the import path where it is, else a pip environment of its list.

    Args:
        prefix: of the Python environment, `sys.prefix` by default.
    """
    overlay = (prefix or Path(sys.prefix)) / OVERLAY
    if overlay.is_dir():
        return {"env_vars": {"PYTHONPATH": f"{overlay}{os.pathsep}{package_root()}", **VARIABLES}}
    # Ray's pip environments inherit the cluster's packages; the resolver must not pull torch or transformers again.
    pip = {
        "packages": packages(),
        "pip_check": False,
        "pip_install_options": ["--no-deps", "--disable-pip-version-check"],
    }
    return {"pip": pip, "env_vars": VARIABLES}


def packages() -> list[str]:
    """The pinned requirements of the overlay."""
    lines = (package_root() / "requirements" / "quantize.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
