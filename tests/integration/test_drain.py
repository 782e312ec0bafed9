"""Nodes of this machine that are taken away, by what ships: the command, EC2's notice, and SIGTERM to a pod's `ray start`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.drain import NodeHere, nodes_here
from cluster.kuberay.pods import DRAIN_AT_SIGTERM, worker_pod
from cluster.kuberay.settings import BASE, GATEWAY_PORT, STOPPING_S
from cluster.local_status import seen
from cluster.ports import free_port
from cluster.processes import end
from cluster.session import node_environment
from cluster.spot_notice import Metadata, watch
from tests.chaos.training_world import wait_for
from tests.integration.local_cluster import REPOSITORY
from tests.integration.loopback_provider import RAY, start_command
from tests.unit.cluster.kuberay.conftest import shipped
from tests.unit.cluster.metadata_server import metadata_server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

COMMAND = [sys.executable, "-m", "serinus", "cluster", "drain", "--node"]
NOTICE = "/latest/meta-data/spot/instance-action"
ENOUGH_S = 60
"""Of notice; who leaves in time needs seconds of it."""


def options(number: int, head: str) -> list[str]:
    ports = {"dashboard-agent-listen-port": 52700 + 10 * number, "metrics-export-port": 8700 + 10 * number}
    given = [f"--{name}={free_port(first)}" for name, first in ports.items()]
    return [f"--address={head}", "--num-cpus=1", *given]


class Nodes:
    """Beside the session's own node: number 1 by `ray start`, and number 2 as the container of a worker pod starts it."""

    def __init__(self, folder: Path, head: str) -> None:
        self.folder, self.head = folder, head
        self.pod = self._start_as_a_pod(2)
        self._start(1)
        wait_for(lambda: self.pod.poll() is not None or len(self._ours()) == 2, "the pod's node")

    def _start(self, number: int) -> None:
        command = start_command(f"127.0.4.{number}", self.folder / str(number), *options(number, self.head))
        subprocess.run(command, env=node_environment(), cwd=REPOSITORY, check=True, timeout=200, capture_output=True)

    def _start_as_a_pod(self, number: int) -> subprocess.Popen[bytes]:
        (container,) = worker_pod(shipped().pools[1], BASE, GATEWAY_PORT)["spec"]["containers"]
        (given,) = (each["value"] for each in container["env"] if each["name"] == DRAIN_AT_SIGTERM)
        own = [f"--node-ip-address=127.0.4.{number}", f"--temp-dir={self.folder / str(number)}", "--block"]
        kuberay = ["bash", "-c", 'ulimit -n 4096; "$0" "$@"', *RAY, *own, *options(number, self.head)]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        environment = node_environment(**{DRAIN_AT_SIGTERM: given})
        with open(self.folder / "pod.log", "wb") as log:
            return subprocess.Popen([*kuberay, *ports], env=environment, cwd=REPOSITORY, stdout=log, stderr=log)

    def _ours(self) -> list[NodeHere]:
        return [node for node in nodes_here() if node.head == self.head and node.address.startswith("127.0.4.")]

    def __getitem__(self, number: int) -> NodeHere:
        (node,) = (node for node in self._ours() if node.address == f"127.0.4.{number}")
        wait_for(lambda: node.id in alive(), "the head's word of the node")
        return node

    def close(self) -> None:
        end(self.folder)
        self.pod.kill()
        self.pod.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(ray_cluster: str) -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
    try:
        nodes = Nodes(folder, gcs_address())
    except BaseException:
        end(folder)
        raise
    yield nodes
    nodes.close()


def gcs_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def states() -> dict[str, str]:
    """Address -> what `serinus status` says of the node there."""
    return {node.host: node.state for node in seen(gcs_address())}


def draining() -> dict[str, int]:
    """Node id -> the moment of its end, ms."""
    from ray._private.state import state

    return dict(state.get_draining_nodes())


def seconds_left(node: NodeHere) -> float:
    return draining()[node.id] / 1000 - time.time()


class Work:
    """A task on one node that ends when it is let go."""

    def __init__(self, node: NodeHere, release: Path) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        @ray.remote(num_cpus=1, max_retries=0)
        def hold(begun: str, release: str) -> str:
            Path(begun).touch()
            while not Path(release).exists():
                time.sleep(0.05)
            return "whole"

        self._release, begun = release, release.with_suffix(".begun")
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        self._answer = hold.options(scheduling_strategy=there).remote(str(begun), str(release))
        wait_for(begun.exists, "the work")

    def let_go(self) -> str:
        import ray

        self._release.touch()
        return str(ray.get(self._answer, timeout=60))


def test_ec2s_notice_and_the_command_drain_a_node_and_wait_for_its_work(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes[1]
    work = Work(node, tmp_path / "release")
    with metadata_server() as server:
        given = Metadata("127.0.0.1", server.port), lambda: node, lambda _: time.sleep(0.05)
        watcher = threading.Thread(target=watch, args=given)
        watcher.start()
        wait_for(lambda: server.asked.count(NOTICE) > 2, "questions")
        assert node.id not in draining()
        server.take_back(in_s=ENOUGH_S)
        wait_for(lambda: node.id in draining(), "the drain")
        assert ENOUGH_S - 10 < seconds_left(node) <= ENOUGH_S, "until the moment that the notice names"
        assert states()[node.address] == "draining"
        assert states()[nodes[2].address] == "alive"
        command = subprocess.Popen([*COMMAND, node.id[:16]], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        assert command.stderr is not None
        assert any("still at work there: hold" in line for line in command.stderr)
        assert ENOUGH_S < seconds_left(node) <= 110, "the last word holds"
        assert command.poll() is None
        assert watcher.is_alive()
        assert work.let_go() == "whole", "nothing was broken off"
        said = command.communicate(timeout=30)[1]
        assert (command.returncode, "nothing works there any more" in said) == (0, True), said
        watcher.join(30)
        assert not watcher.is_alive()
    wait_for(lambda: node.id not in alive(), "the end of the node")
    assert states()[node.address] == "dead"


@pytest.mark.parametrize(
    ("prefix", "environment", "found"),
    [
        ("none", {}, "0 of them have an id that begins with 'none'"),
        ("", {"RAY_AUTH_TOKEN": "other"}, "refuses our token"),
    ],
)
def test_what_the_command_cannot_drain(nodes: Nodes, prefix: str, environment: dict[str, str], found: str) -> None:
    asked = [*COMMAND, prefix or nodes[2].id]
    done = subprocess.run(asked, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True)
    assert (done.returncode, found in done.stderr) == (2, True), done.stderr
    assert nodes[2].id not in draining()


def test_a_pod_that_gets_sigterm_drains_its_node_and_ends_when_the_work_has(nodes: Nodes, tmp_path: Path) -> None:
    """No preStop hook: Ray does so with the variable that the pods are rendered with."""
    node = nodes[2]
    work = Work(node, tmp_path / "release")
    nodes.pod.terminate()
    wait_for(lambda: node.id in draining() or nodes.pod.poll() is not None, "the drain")
    assert BASE.notice_s - STOPPING_S - 10 < seconds_left(node) <= BASE.notice_s - STOPPING_S
    assert nodes.pod.poll() is None
    assert work.let_go() == "whole", "nothing was broken off"
    nodes.pod.wait(timeout=30)
