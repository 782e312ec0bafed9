"""A cluster of `serinus up` for tests, in a SERINUS_HOME of its own, used from processes of their own.

The test process itself is a driver of the session's private cluster and cannot join a second one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.processes import writing_in

REPOSITORY = Path(__file__).resolve().parents[2]
UP = """
from cluster.local import up
from cluster.topology import load_topology
print(up(load_topology("ray_cluster.yaml"), progress=print).address)
"""
DOWN = """
from cluster.local import down
print(down(progress=print))
"""


def living(processes: list[psutil.Process]) -> list[str]:
    """Those that still do something: a zombie only waits for its parent to look."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.status()} {' '.join(process.cmdline())}")
    return found


@dataclass(frozen=True)
class Bench:
    """Runs Python in processes that see the cluster under test."""

    home: Path

    def start(self, code: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "SERINUS_HOME": str(self.home), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, code: str, *, timeout: float = 240, **environment: str) -> str:
        """What `code` prints; fails the test if it fails."""
        process = self.start(code, **environment)
        try:
            said, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == 0, said
        return said

    def fails(self, code: str, *, timeout: float = 60, **environment: str) -> str:
        """What `code` prints on its way to an error."""
        said, _ = (process := self.start(code, **environment)).communicate(timeout=timeout)
        assert process.returncode != 0, said
        return said

    @property
    def folder(self) -> Path:
        return Path(self.run("from cluster.session import scratch; print(scratch())").strip()) / "up"

    def processes(self) -> list[psutil.Process]:
        return writing_in(self.folder)
