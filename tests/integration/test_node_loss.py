"""Work that outlives the only machine of its pool waits for the next one, on real Ray nodes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration

SOON = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
}
"""How soon the head knows of a death, which is half of what the test takes."""


def run(module: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tests.integration.{module}"]
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | SOON, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended


def test_engines_that_share_items_go_on_without_those_whose_machine_is_lost() -> None:
    ended = run("engines_on_machines")
    told = ["spread [1, 1] 2", "before [2, 2]", "after True 2", "ended"]
    assert [line for line in ended.stdout.splitlines() if line in told] == told
    assert "an engine has started: 4 of 5 answer" in ended.stderr
    assert "an engine has started: 5 of 5 answer" not in ended.stderr


def test_work_waits_for_a_machine_of_its_pool_and_goes_nowhere_else() -> None:
    ended = run("lone_machine")
    assert "done [0, 1]" in ended.stdout.splitlines()
    assert "of pool `serve` is gone" in ended.stderr
    assert "evaluate  pool `serve` has no node: waiting for a machine to join" in ended.stderr
    assert "quantize  pool `serve` has no node: waiting for a machine to join" in ended.stderr
    assert ended.stdout.count("pool `serve`: no node came within 1 s\n  -> let a machine join") == 2
    assert "went on" not in ended.stdout
