"""A training run under Ray Train that can be looked at and killed; no tests in here."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cluster.artifacts import Checkpoint
from cluster.storage import LocalStorage

PATIENCE_S = 600.0
"""For a busy machine; on an idle one each wait takes seconds."""


def wait_for(what: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"{name} did not come"
        time.sleep(0.1)


def workers() -> list[psutil.Process]:
    """The ranks of this session's cluster, whose processes descend from the test's own."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_a_rank(rng: random.Random) -> None:
    """Any of those that are there; waits for one."""
    struck = False
    while not struck:
        wait_for(lambda: bool(workers()), "a rank to kill")
        with contextlib.suppress(IndexError, psutil.NoSuchProcess):  # it has ended by itself meanwhile
            rng.choice(workers()).kill()
            struck = True


def last_registered(storage: LocalStorage) -> int:
    """Step of the newest checkpoint that Ray Train has taken note of; 0 before the first."""
    snapshots = storage.root.glob("runs/train/*/checkpoint_manager_snapshot.json")
    steps = [int(part[:8]) for path in snapshots for part in path.read_text().split("step-")[1:]]
    return max(steps, default=0)


def registered(storage: LocalStorage, at_least: int) -> bool:
    """Ray Train has taken note of a checkpoint of that step or a later one."""
    return last_registered(storage) >= at_least


class Driver:
    """A process that trains `chaos_run(**fields)` on the session's cluster, or goes on with it.

    Args:
        log: its complaints are added to that file.
    """

    def __init__(self, storage: LocalStorage, model: Path, log: Path, **fields: Any) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        program = [sys.executable, "-m", "tests.chaos.train_driver", address, str(storage.root), str(model)]
        self._command, self.log = [*program, json.dumps(fields)], log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def close(self) -> None:
        if self.is_running():
            self.kill()

    def made(self, timeout_s: float = PATIENCE_S) -> Checkpoint:
        """What it came to; waits for its end."""
        told, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
        # Among what Ray prints there of a raylet's warnings.
        (document,) = (line for line in told.splitlines() if line.startswith("{"))
        return Checkpoint.model_validate_json(document)
