"""A command whose bucket does not answer for good: a word in time, and one error at the end.

SERINUS_LONG=1 pytest tests/chaos/test_bucket_gone.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chaos.flaky_s3 import flaky_s3
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.chaos, pytest.mark.long]

WORD_S, END_S = 12.0, 60.0


@pytest.fixture
def recipe(s3_uri: str, tmp_path: Path) -> Path:
    """The quickstart, in a bucket."""
    document = yaml.safe_load((REPOSITORY / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**document, "storage": s3_uri}), encoding="utf-8")
    return file


def _told(command: subprocess.Popen[str], began: float) -> Iterator[tuple[float, str]]:
    assert command.stderr is not None
    for line in command.stderr:
        yield time.monotonic() - began, line.rstrip()


def test_a_command_says_that_it_waits_for_its_bucket_and_ends_with_one_error(recipe: Path, s3_server: str) -> None:
    command = [sys.executable, "-m", "serinus", "lineage", "stable", "--recipe", str(recipe)]
    with flaky_s3(s3_server, failing=1, silent=0, silence_s=0) as (address, server):
        environment = {**os.environ, "AWS_ENDPOINT_URL": address}
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
        told = list(_told(process, began))
        assert process.wait(END_S) == 2
    lines = [line for _, line in told]
    assert sum(line.startswith("error: s3://") for line in lines) == 1, lines
    assert not any("Traceback" in line for line in lines)
    assert server.calls["failed"] == 10
    if told[-1][0] > WORD_S:  # boto3's pauses are random: all ten attempts may be over before
        (at, first), *_ = [(at, line) for at, line in told if "does not answer" in line]
        assert at < WORD_S
        assert "failed attempts" in first
