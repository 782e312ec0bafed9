"""A real rollout on two nodes, to kill parts of: gateways, controller and replicas are the product's, only the model is ours.

The second node is a `ray start` of its own in the session's cluster. Each revision has a replica on either node.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster import registry
from cluster.artifacts import Revision
from cluster.processes import writing_in
from cluster.profiles import LocalNode
from cluster.ray_start import Launches
from cluster.storage import LocalStorage
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.contract import Traffic, read_traffic
from services.rollout import controller
from services.rollout.status import RolloutStatus
from tests.integration.gateway_world import Model, eventually, free_port

NAME = "mortal"
ONE, OTHER = f"{NAME}-00000001", f"{NAME}-00000002"
NUM_GATEWAYS = 3
GATEWAY, SECOND_HOST = "SERVE_REPLICA::gateway#", "127.0.0.77"
CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=20, min_requests=30, min_duration_s=4, prove="none"),
        StepConfig(weight_percent=50, min_requests=30, min_duration_s=4, prove="errors", error_effect_percent=20),
    ),
    interval_s=0.5,
    latency_floor_s=20,  # whoever waits for a replica to start again is slow: here errors alone decide
    tpot_floor_s=20,
    drain_s=3,
    step_timeout_s=120,
)


class Thinking(Model):
    """Takes a third of a second before each first token, so that a kill finds requests that have none."""

    async def _chat(self, request: Any, info: Any) -> AsyncIterator[Any]:
        if not request.stream:
            await asyncio.sleep(0.3)
        async for chunk in super()._chat(request, info):
            yield chunk

    async def _stream(self, behaviour: str, usage: bool) -> AsyncIterator[list[str]]:
        async for chunk in super()._stream(behaviour, usage):
            yield chunk
            await asyncio.sleep(0.3 if '"role"' in chunk[0] else 0.05)


class SecondNode:
    """A node of this machine, joined to this process's cluster, that can be killed as a whole."""

    def __init__(self) -> None:
        import ray

        self.folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))  # sockets in it end at 107 characters
        node = LocalNode(pool="second", host=SECOND_HOST, num_cpus=4, labels={"chaos": "second"})
        with Launches() as launches:
            address = ray.get_runtime_context().gcs_address
            launches.start(node, number=9, folder=self.folder / "n", options={"address": address})
            launches.wait(lambda: launches.is_up("second") and self.alive)

    @property
    def id(self) -> str:
        import ray

        return next(str(node["NodeID"]) for node in ray.nodes() if node["NodeManagerAddress"] == SECOND_HOST)

    @property
    def alive(self) -> bool:
        import ray

        return any(node["Alive"] for node in ray.nodes() if node["NodeManagerAddress"] == SECOND_HOST)

    def kill(self) -> int:
        """kill -9 of the raylet and of every process of the node; returns how many there were."""
        processes = writing_in(self.folder)
        for process in sorted(processes, key=lambda p: p.name() != "raylet"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        return len(processes)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def replicas(prefix: str) -> dict[int, str]:
    """Process ids of the living replicas whose actors' names begin so, and the nodes they are on."""
    from ray._private.state import actors

    living = [actor for actor in actors().values() if actor["State"] == "ALIVE" and actor["Name"].startswith(prefix)]
    return {int(actor["Pid"]): str(actor["Address"]["NodeID"]) for actor in living}


def of(revision: str) -> str:
    return f"SERVE_REPLICA::rev-{revision}#"


def kill_one(prefix: str) -> int:
    """kill -9 of one of these replicas; returns its process id."""
    pid = min(replicas(prefix))
    os.kill(pid, signal.SIGKILL)
    return pid


class World:
    """One public name behind NUM_GATEWAYS gateways, ONE being stable, with its controller."""

    def __init__(self, root: Path, node: SecondNode) -> None:
        self.storage, self.node = LocalStorage(root / "storage"), node
        for number, revision in enumerate((ONE, OTHER)):
            made = Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w")
            registry.publish_revision(self.storage, made)
        controller.ensure_traffic(self.storage, NAME, ONE)
        self.actor = controller.ensure_controller(NAME, self.storage.uri)
        self.url = self._deploy()

    def _deploy(self) -> str:
        from ray import serve

        from services.contract import MODEL_DEPLOYMENT, application_name
        from services.serving import address, app

        serve.shutdown()
        serving = ServingConfig(port=free_port(), num_gateway_replicas=NUM_GATEWAYS)
        address.listen(serving)
        model: Any = serve.deployment(Thinking, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
        options = {"ray_actor_options": {"num_cpus": 0}, "graceful_shutdown_timeout_s": 1, "health_check_period_s": 2}
        model = model.options(num_replicas=2, max_replicas_per_node=1, **options)
        targets = [
            serve.RunTarget(model.bind(revision), name=application_name(revision), route_prefix=None)
            for revision in (ONE, OTHER)
        ]
        serve.run_many(targets, wait_for_applications_running=False)
        app.deploy_gateway(NAME, serving, self.storage.uri)
        eventually(self.whole, 120)
        url = app.gateway_url(serving)
        body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}]}
        eventually(lambda: httpx.post(f"{url}/chat/completions", json=body, timeout=30).status_code == 200)
        return url

    def whole(self) -> bool:
        """Whether all replicas run that there is room for."""
        num_replicas, num_gateways = (2, NUM_GATEWAYS) if self.node.alive else (1, NUM_GATEWAYS - 1)
        revisions = all(len(replicas(of(revision))) == num_replicas for revision in (ONE, OTHER))
        return revisions and len(replicas(GATEWAY)) == num_gateways

    def start(self, revision: str, config: RolloutConfig = CONFIG) -> None:
        """Begin a rollout whose replaced revision stays for the next one."""
        controller.start_rollout(self.storage, NAME, revision, config, keep_revisions=9, who="test")

    @property
    def traffic(self) -> Traffic:
        found = read_traffic(self.storage, NAME)
        assert found is not None
        return found[0]

    def wait(self, until: Callable[[RolloutStatus], bool], timeout_s: float = 100) -> RolloutStatus:
        ends_at = time.monotonic() + timeout_s
        while True:
            status = controller.status(self.storage, NAME)
            assert status is not None
            if until(status):
                return status
            assert time.monotonic() < ends_at, f"still {status.phase}: {status.model_dump_json(indent=1)}"
            time.sleep(0.02)

    def controller_pid(self) -> int:
        """Of the controller's process that answers now; waits for a restart."""
        import ray

        controller.ensure_controller(NAME, self.storage.uri)
        return int(ray.get(self.actor.pid.remote(), timeout=60))

    def kill_controller(self) -> None:
        os.kill(self.controller_pid(), signal.SIGKILL)

    def close(self) -> None:
        import ray
        from ray import serve

        serve.shutdown()
        ray.kill(self.actor)
