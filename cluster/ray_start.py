"""Nodes of one machine, started with `ray start`: its options, its settings, what it says when it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from cluster.errors import ClusterError
from cluster.ports import free_port
from cluster.processes import end
from cluster.profiles import LocalNode
from cluster.session import HEALTH_CHECKS, node_environment, visible_gpus
from cluster.topology import HEAD

CLIENT_PORT, AGENT_PORT, METRICS_PORT = 20101, 52365, 8380
"""Where looking for free ports starts. The client's must lie outside Ray's default worker ports, 10002 to 19999."""

PORTS_PER_NODE = 10
"""Nodes that start at once look from different ports on."""

START_TIMEOUT_S = 120.0

TOO_SLOW = "timed out during startup"
"""What `ray start` says of a node that took more than Ray's fixed 30 s (_private/node.py), as on a busy machine."""

NODE_SETTINGS = {
    **HEALTH_CHECKS,
    # Idle workers of 60 MB for every logical CPU of every pool: start them when there is work.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


class Launches:
    """The `ray start`s of one `up`. Those that are not done when the block ends are ended; who was too slow gets one more try."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self._once_more: dict[str, Callable[[], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()

    def start(self, node: LocalNode, *, number: int, folder: Path, options: Mapping[str, str]) -> None:
        """Start `node` in `folder`; `number` is its place in the topology, `options` where it belongs."""
        self._run(node, number, folder, options)
        self._once_more[node.name] = partial(self._run, node, number, folder, options)

    def _run(self, node: LocalNode, number: int, folder: Path, options: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log = self._logs[node.name] = folder / "start.log"
        with open(log, "wb") as output:
            self._processes[node.name] = subprocess.Popen(
                command(node, number, folder, options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=node_environment(**NODE_SETTINGS, **_devices(node)),
                start_new_session=True,  # Ctrl-C is for us: `__exit__` ends what is not done
            )

    def is_up(self, pool: str) -> bool:
        return self._processes[pool].poll() == 0

    def wait(self, ready: Callable[[], bool]) -> None:
        """Until `ready()`.

        Raises:
            ClusterError: a node failed, or START_TIMEOUT_S went by.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            for pool in self._processes:
                if self._processes[pool].poll() and not self._tries_again(pool):
                    raise self._error(pool, "did not start")
            if time.monotonic() > deadline:
                slow = next(pool for pool, process in self._processes.items() if process.poll() is None)
                raise self._error(slow, f"did not start within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.1)

    def _tries_again(self, pool: str) -> bool:
        log = self._logs[pool]
        if TOO_SLOW not in log.read_text(encoding="utf-8", errors="replace") or pool not in self._once_more:
            return False
        end(log.parent)
        shutil.rmtree(log.parent, ignore_errors=True)
        self._once_more.pop(pool)()
        return True

    def _error(self, pool: str, found: str) -> ClusterError:
        log = self._logs[pool]
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        last = next(filter(None, reversed(lines)), "it said nothing")
        return ClusterError(f"node {pool}", f"{found}: {last}", f"see {log}, then run `serinus up` again")


def command(node: LocalNode, number: int, folder: Path, place: Mapping[str, str]) -> list[str]:
    """The command that starts `node`."""
    options: dict[str, object] = {
        "node-ip-address": node.host,
        "temp-dir": folder,
        "num-cpus": node.num_cpus,
        "num-gpus": len(node.gpus),
        "labels": ",".join(f"{name}={value}" for name, value in node.labels.items()),
        "resources": json.dumps(node.resources),
        "object-store-memory": node.store_bytes,
        # Random ones: with Ray's fixed range the nodes of one machine race for the same ports.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-agent-listen-port": free_port(AGENT_PORT + PORTS_PER_NODE * number),
        "metrics-export-port": free_port(METRICS_PORT + PORTS_PER_NODE * number),
        "include-log-monitor": "false",  # it would send workers' output to drivers, who do not ask for it
        **place,
    }
    flags = ["--disable-usage-stats"]
    if node.pool == HEAD:
        options["ray-client-server-port"] = free_port(CLIENT_PORT)
        flags += ["--head", "--no-monitor"]  # nothing to autoscale on one machine
    ray = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())", "start"]
    return [*ray, *flags, *(f"--{name}={value}" for name, value in options.items())]


def _devices(node: LocalNode) -> dict[str, str]:
    gpus = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index] for index in node.gpus)} if node.gpus else {}
