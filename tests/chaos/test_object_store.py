"""Ray's object store is smaller than what cleaning puts into it: it spills; where the disk is full too, one message says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.store_driver import STORE_BYTES

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.long]
NUM_DOCUMENTS = 240_000
SMALL_DISK = "40m"


def clean(root: Path, *, before: str = "", spill: str = "") -> dict[str, Any]:
    """What store_driver says. `before`: a shell's command in the same namespace of mounts."""
    python = [
        sys.executable,
        "-m",
        "tests.chaos.store_driver",
        str(root),
        str(NUM_DOCUMENTS),
        *([spill] if spill else []),
    ]
    command = ["unshare", "--mount", "sh", "-c", f'{before} && exec "$@"', "sh", *python] if before else python
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    print(found)
    return found


def test_a_store_that_is_full_spills_and_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("a small disk is mounted by root")
    spill = tmp_path / "spill"
    spill.mkdir()
    full = clean(tmp_path, before=f"mount -t tmpfs -o size={SMALL_DISK} none {spill}", spill=str(spill))
    assert full["exit_code"] == 2
    assert full["error"].startswith("Ray's object store: is full")
    assert "Traceback" not in full["error"]

    found = clean(tmp_path)
    assert found["num_kept"] == NUM_DOCUMENTS
    assert found["created"] > 1.5 * STORE_BYTES
    assert found["spilled"] > 0
    assert found["peak"] < 1 << 30
