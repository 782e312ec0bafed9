"""A cluster of machines in network namespaces, started by the commands of ray_cluster_on_premise.yaml, to break."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.auth_token import ensure_token
from cluster.processes import writing_in
from cluster.ray_start import TOO_SLOW
from cluster.session import node_environment
from tests.chaos.network import Network, is_possible
from tests.chaos.redis import IS_INSTALLED, Redis
from tests.integration.local_cluster import REPOSITORY

POOL_OF = {"head": "head", "data": "data", "train": "train", "serve": "serve", "serve2": "serve"}
FILE = REPOSITORY / "ray_cluster_on_premise.yaml"
NUM_CPUS = 4
"""Of each machine but the head, as Ray counts them: a trainer's ranks, its controller and a reader beside them."""
STORE_BYTES = 256 << 20
PORT = 8000
PATIENCE_S = 300.0
MACHINES = [
    pytest.mark.chaos,
    pytest.mark.timeout(1_800),  # the first one has five nodes started for it
    pytest.mark.skipif(
        not os.environ.get("SERINUS_MACHINES"), reason="five nodes, twenty minutes: set SERINUS_MACHINES=1"
    ),
    pytest.mark.skipif(not is_possible(), reason="needs to be root and `ip`, to make network namespaces"),
]
HEED_S = 10.0
DISK_MIB = 256
"""Of the data machine, in memory: Ray's logs and sockets there, and what is to fill it."""


class NetworkedCluster:
    """Head, data, train and two serve machines, with what is asked of them from the head."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sn-", dir="/tmp"))  # sockets in it end at 107 characters
        self.network = Network("sn")
        self._starts = itertools.count(1)
        for name in POOL_OF:
            self.network.add(name)
        self.document = self._declare()
        self.redis = Redis(self.folder, self.network.here) if IS_INSTALLED else None
        self._mount_small("data")

    def up(self) -> None:
        """Start the head, then all others."""
        ensure_token()
        self.start("head")
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.start, [name for name in POOL_OF if name != "head"]))

    def _declare(self) -> Any:
        """The on-premise file with these machines in it."""
        document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        address = self.network.address
        pools: dict[str, Any] = {}
        for name, pool in POOL_OF.items():
            if name != "head":
                pools.setdefault(pool, {"ips": [], "resources": {"CPU": NUM_CPUS}})["ips"].append(address(name))
        ips = [ip for pool in pools.values() for ip in pool["ips"]]
        document["provider"].update(head_ip=address("head"), worker_ips=ips, pools=pools)
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return document

    @property
    def address(self) -> str:
        return f"{self.network.address('head')}:6379"

    def url(self, name: str) -> str:
        return f"http://{self.network.address(name)}:{PORT}/v1"

    def start(self, name: str) -> float:
        """Run the file's command on a machine, in a folder of its own, again while this machine is too busy for Ray's 30 s;
        returns the seconds it took."""
        began = time.monotonic()
        while (said := self._try(name)) is not None:
            assert TOO_SLOW in said, said
            assert time.monotonic() - began < PATIENCE_S, said
            self.kill(name, missing_ok=True)
        return time.monotonic() - began

    def _try(self, name: str) -> str | None:
        """What was said, where it failed."""
        folder = self.folder / name / str(next(self._starts))
        folder.mkdir(parents=True)
        kind = "head" if name == "head" else "worker"
        _, command = self.document[f"{kind}_start_ray_commands"]  # the first is `ray stop`, which stops every Ray here
        command = command.replace("~/serinus/ray_cluster_on_premise.yaml", str(self.folder / "cluster.yaml"))
        command = command.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")  # `ray up` writes that file
        own = f" --temp-dir={folder} --object-store-memory={STORE_BYTES} --include-log-monitor=false"
        with open(folder / "start.log", "wb") as log:
            machine = self._run(
                name, ["bash", "-c", command.strip() + own], env=self._keeps(kind), stdout=log, stderr=subprocess.STDOUT
            )
            failed = machine.wait(PATIENCE_S)
        return (folder / "start.log").read_text() if failed else None

    def _run(self, name: str, command: list[str], **options: Any) -> subprocess.Popen[str]:
        environment = node_environment(RAY_HEAD_IP=self.network.address("head"), RAY_enable_worker_prestart="0")
        return self.network.run(
            name,
            command,
            env={**environment, **options.pop("env", {})},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def _keeps(self, kind: str) -> dict[str, str]:
        """What a head is told of Redis, so that another one goes on with its state."""
        if kind != "head" or not self.redis:
            return {}
        return {"RAY_REDIS_ADDRESS": self.redis.address, "RAY_external_storage_namespace": self.network.tag}

    def _mount_small(self, name: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        size = f"size={DISK_MIB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "serinus-test", str(folder)], check=True)

    @contextmanager
    def full_disk(self, name: str) -> Iterator[None]:
        """Nothing more can be written there until the block ends."""
        filler = self.folder / name / "filler"
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        try:
            yield
        finally:
            filler.unlink()

    def processes(self, name: str) -> list[psutil.Process]:
        return writing_in(self.folder / name)

    def runs(self, name: str, title: str) -> bool:
        """Whether such a task or actor is at work there."""
        return any(found.startswith(f"ray::{title}") for found in self._titles(name))

    def works(self, name: str) -> bool:
        """Whether a task or an actor is at work there."""
        return any(title.startswith("ray::") and not title.endswith(RESTING) for title in self._titles(name))

    def _titles(self, name: str) -> list[str]:
        found = []
        for process in self.processes(name):
            with suppress(psutil.NoSuchProcess):
                found.append(" ".join(process.cmdline()).strip())
        return found

    def kill(self, name: str, *, missing_ok: bool = False) -> float:
        """kill -9 of all that runs on a machine; returns when."""
        processes, at = self.processes(name), time.monotonic()
        assert processes or missing_ok
        for process in sorted(processes, key=lambda p: p.name() != "raylet"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        return at

    def end(self, name: str) -> float:
        """SIGTERM to all that runs on a machine, as one that shuts down, and kill -9 to what does not heed it; returns the seconds
        it took."""
        began = time.monotonic()
        for process in (processes := self.processes(name)):
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(processes, timeout=HEED_S)
        self.kill(name, missing_ok=True)
        return time.monotonic() - began

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A program of networked_driver.py on the head."""
        command = [sys.executable, "-m", "tests.chaos.networked_driver", *words]
        errors = open(self.folder / f"{words[0]}.log", "ab")  # noqa: SIM115  # the child's
        return self.on_head(command, stdout=subprocess.PIPE, stderr=errors)

    def on_head(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """A driver of this cluster."""
        return self._run("head", command, env={"RAY_ADDRESS": self.address}, **options)

    def ask(self, *words: str) -> Any:
        """What such a program says at its end."""
        return told(self.begin(*words))

    def close(self) -> None:
        for name in reversed(POOL_OF):
            self.kill(name, missing_ok=True)
        if self.redis:
            self.redis.close()
        subprocess.run(["umount", "--lazy", str(self.folder / "data")], check=False)
        self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)


SAID = "said: "
"""Before the line of standard output that is the program's answer; Ray writes there as well."""
RESTING = ("IDLE", "Agent")
"""Ends of the titles of processes without work: workers, and what stands beside each raylet."""


def told(program: subprocess.Popen[str]) -> Any:
    said, _ = program.communicate(timeout=PATIENCE_S * 2)
    assert program.returncode == 0, said
    return next(json.loads(line.removeprefix(SAID)) for line in said.splitlines() if line.startswith(SAID))


class Watch:
    """What the head knows of the cluster, several times a second. Use as a context manager."""

    def __init__(self, cluster: NetworkedCluster) -> None:
        self.states: list[dict[str, Any]] = []
        self._program = cluster.begin("watch")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            if line.startswith(SAID):
                self.states.append({**json.loads(line.removeprefix(SAID)), "at": time.monotonic()})

    def until(self, condition: Callable[[dict[str, Any]], bool], since: float | None = None) -> float:
        """Waits for a state after `since` (now); returns the seconds from then to it."""
        since = time.monotonic() if since is None else since
        while not (found := [s for s in list(self.states) if s["at"] > since and condition(s)]):
            assert time.monotonic() - since < PATIENCE_S, f"it did not come; last seen: {self.states[-1:]}"
            time.sleep(0.1)
        return float(found[0]["at"]) - since

    def __enter__(self) -> Watch:
        self.until(lambda state: True)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()
