"""A run whose checkpoints lie in a bucket (a real S3 server) goes on from them, and a damaged one is named as people know it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.artifacts import Checkpoint
from tests.chaos.bucket_driver import MARKS
from tests.conftest import REPOSITORY
from tests.integration.training_case import golden_losses

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(900)]


def test_it_goes_on_from_the_bucket_behind_damage_and_with_ranks_that_come_late(
    s3_uri: str, tiny_model: Path, tmp_path: Path
) -> None:
    """On a cluster of its own: ranks find the bucket by the environment that the cluster began with."""
    (marks := tmp_path / "marks").mkdir()
    environment = {**os.environ, MARKS: str(marks), "SERINUS_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "tests.chaos.bucket_driver", s3_uri, str(tmp_path / "local"), str(tiny_model)]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=800)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (document,) = (line for line in ran.stdout.splitlines() if line.startswith("{"))
    told = json.loads(document)

    assert "ended for the test" in told["ended"]
    step = int(told["newest"].rpartition("step-")[2])
    newest = f"{s3_uri}/{told['newest']}"
    assert told["refused"].startswith(f"{newest}/1.bin: is missing or cut short")
    assert f"remove {newest} and run again" in told["refused"]
    made = Checkpoint.model_validate(told["made"])
    assert made.resumed_at_steps == (step - 1,)
    assert (marks / "fetched").exists()
    assert len(told["events"]) == 3, "one of each start"
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)
