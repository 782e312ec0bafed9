"""The machine's clock is set by an hour under a whole cluster: nobody is promoted, rolled back or called hung for that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.training_case import golden_losses

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.long]
SOURCE = Path(__file__).with_name("set_clock.c")
JUMPS = pytest.mark.parametrize("offset", ["+3600", "-3600"], ids=["forward", "back"])


def on_a_clock_that_jumps(folder: Path, *words: str) -> dict[str, Any]:
    """What clock_driver says."""
    if not shutil.which("gcc"):
        pytest.skip("the clock is set by a library that gcc compiles")
    library, clock = folder / "set_clock.so", folder / "clock"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    clock.write_text("+0".ljust(16))
    outside = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ours = {"SERINUS_HOME": str(folder / "home"), "LD_PRELOAD": str(library), "SET_CLOCK": str(clock)}
    environment = {**outside, **ours}
    program = [sys.executable, "-m", "tests.chaos.clock_driver", *words]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    print({name: value for name, value in found.items() if name != "losses"})
    return found


@JUMPS
def test_a_rollout_under_way_takes_its_time(tmp_path: Path, offset: str) -> None:
    found = on_a_clock_that_jumps(tmp_path, "rollout", str(tmp_path), offset)
    assert found["phase"] == "promoted"
    assert [action for action, _ in found["decisions"]] == ["set_weight", "set_weight", "promote"]
    assert found["first_s"] >= 4
    assert 8 <= found["took_s"] < 90


@JUMPS
def test_ranks_train_on(tmp_path: Path, tiny_model: Path, offset: str) -> None:
    found = on_a_clock_that_jumps(tmp_path, "training", str(tmp_path), offset, str(tiny_model))
    assert found["resumed"] == []
    assert 2 <= found["jumped"][0] < 8
    assert found["losses"] == pytest.approx(golden_losses(), rel=1e-3)
