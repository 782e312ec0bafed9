"""A cluster of `ray start`s on loopback addresses of this machine for training runs: the head without CPUs, one rank to a node."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from cluster.artifacts import Checkpoint
from cluster.drain import nodes_here
from cluster.ports import free_port
from cluster.processes import end, writing_in
from cluster.session import node_environment
from cluster.topology import HEAD, POOL_LABEL
from tests.integration.local_cluster import REPOSITORY
from tests.integration.loopback_provider import start_command


def host(number: int) -> str:
    """Address of that machine; the head is number 1."""
    return f"127.0.3.{number}"


HEAD_HOST = host(1)
DRAIN = [sys.executable, "-m", "serinus", "cluster", "drain"]

LOOK = """from cluster.session import joined
import ray, sys
with joined(sys.argv[1]):
    nodes = ray.nodes()
"""


class Nodes:
    """A head, and train nodes that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._port, self.newest = folder, free_port(6779), 1
        self.address = f"{HEAD_HOST}:{self._port}"
        # A private cluster of this process has turned the watcher off.
        changes = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
        changes |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10", "RAY_enable_worker_prestart": "0"}
        self.environment = node_environment(**changes)
        options = ["--head", f"--port={self._port}", "--num-cpus=0", f"--ray-client-server-port={free_port(20501)}"]
        self._start(HEAD_HOST, HEAD, *options, "--include-dashboard=false")

    def add(self) -> None:
        """A train node with room for one rank: number 2, 3 and on."""
        self.newest += 1
        self._start(host(self.newest), "train", f"--address={self.address}", "--num-cpus=1")

    def _start(self, address: str, pool: str, *options: str) -> None:
        own = [f"--labels={POOL_LABEL}={pool}", f"--dashboard-agent-listen-port={free_port(52590)}"]
        command = start_command(
            address, self.folder / address, *options, *own, f"--metrics-export-port={free_port(8590)}"
        )
        subprocess.run(command, env=self.environment, cwd=REPOSITORY, check=True, timeout=400, capture_output=True)

    def asked(self, code: str) -> str:
        """What a driver prints that runs `code` with the list `nodes`."""
        command = [sys.executable, "-c", f"{LOOK}    {code}", self.address]
        done = subprocess.run(command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    def ranks(self, number: int) -> list[psutil.Process]:
        """On that node."""
        found = writing_in(self.folder / host(number))
        return [process for process in found if "RayTrainWorker" in " ".join(process.cmdline())]

    def lose(self, number: int) -> None:
        """That machine, at once and without a word."""
        for process in writing_in(self.folder / host(number)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def drain(self, number: int, deadline_s: int) -> float:
        """The notice, as whoever takes the machine away gives it there; how long it took until no rank was left there, s."""
        (node,) = (node for node in nodes_here() if (node.head, node.address) == (self.address, host(number)))
        command = [*DRAIN, "--node", node.id, "--notice", str(deadline_s), "--message", "taken back"]
        began = time.monotonic()
        subprocess.run(command, env=self.environment, cwd=REPOSITORY, check=True, capture_output=True)
        return time.monotonic() - began

    def alive(self) -> list[str]:
        return sorted(self.asked("print(*[n['NodeManagerAddress'] for n in nodes if n['Alive']])").split())

    def close(self) -> None:
        end(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


class Run:
    """A driver on the head."""

    def __init__(self, nodes: Nodes, storage: Path, model: Path, **fields: Any) -> None:
        command = [sys.executable, "-m", "tests.chaos.train_driver", nodes.address, str(storage), str(model)]
        self.storage, self._log = storage, storage.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(fields)],
                env=nodes.environment,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def said(self) -> str:
        return self._log.read_text()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def has_said(self, what: str) -> bool:
        assert self.is_running() or what in self.said(), self.said()
        return what in self.said()

    def made(self) -> Checkpoint:
        told, _ = self._process.communicate(timeout=600)
        assert self._process.returncode == 0, self.said()[-3000:]
        (document,) = (line for line in told.decode().splitlines() if line.startswith("{"))
        return Checkpoint.model_validate_json(document)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def steps_trained(storage: Path) -> Counter[int]:
    """How often each step was, by all groups of ranks: from TensorBoard's event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = Counter[int]()
    for file in storage.rglob("events.out.tfevents.*"):
        content, at = file.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found.update([event.step] * any(value.tag.endswith("loss") for value in event.summary.value))
            at += size + 16
    return found
