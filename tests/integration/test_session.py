"""Private clusters: two at once, each cleaned up, also after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.processes import writing_in
from tests.integration.local_cluster import REPOSITORY

pytestmark = pytest.mark.integration

PRIVATE = """
from cluster.pools import on_pool
from cluster.session import joined, scratch
print(scratch(), flush=True)
with joined() as how:
    import ray, os, time
    assert how == "private" and on_pool("train") == {}
    os.chdir("/")
    print(ray.get(ray.remote(lambda: __import__("pipelines.config").__name__).remote()), flush=True)
    time.sleep(60)
"""


@pytest.mark.long
def test_two_private_clusters_live_side_by_side_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PRIVATE],
            cwd=REPOSITORY,
            env={**os.environ, "SERINUS_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for _ in range(2)
    ]
    lines = [[program.stdout.readline().strip() for _ in range(2)] for program in programs if program.stdout]
    assert [worker for _, worker in lines] == ["pipelines", "pipelines"]
    scratch = Path(lines[0][0])
    assert {folder.name for folder in scratch.iterdir()} == {f"p{program.pid}" for program in programs}
    for program in programs:
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    for program in programs:
        assert program.wait(timeout=60) == -signal.SIGINT
    assert list(scratch.iterdir()) == []
    assert writing_in(scratch) == []
    scratch.rmdir()
