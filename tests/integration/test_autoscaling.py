"""Replicas by load, by a rollout's floor, at rest and from zero: real Serve and gateway, the test's own model without an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.artifacts import Revision
from cluster.registry import publish_revision
from cluster.storage import LocalStorage, open_storage
from services.config import EngineConfig, ReplicasConfig, ServingConfig
from services.contract import Traffic, write_traffic
from services.engines import EngineReport, Order, change_order, read_engines
from services.rollout import capacity
from services.rollout.applications import RayApplications
from tests.integration.gateway_world import Model, port_of_serve, records_of
from tests.integration.gateway_world import eventually as soon

pytestmark = pytest.mark.integration

NAME = "echo"  # as the evidence actor of the other gateway tests has it
STABLE, CANARY = (f"{NAME}-{number:08x}" for number in (11, 12))
QUICK: dict[str, float] = {"look_back_s": 1, "upscale_delay_s": 0, "downscale_delay_s": 1, "idle_after_s": 1}


def eventually(condition: Callable[[], bool]) -> None:
    """On a busy machine a replica takes half a minute to import what it needs."""
    soon(condition, 120)


class Scaled(Model):
    """Reports as an engine does; the cache it says it uses stands in a file."""

    def __init__(self, revision: str, storage_uri: str, cache_file: str) -> None:
        super().__init__(revision)
        self.storage, self.cache_file, self.order = open_storage(storage_uri), Path(cache_file), Order()

    async def settings(self) -> str:
        return ""

    async def follow_order(self) -> dict[str, Any]:
        self.order = read_engines(self.storage, NAME).order(self.revision)
        return EngineReport(replica="r", max_replicas=4).model_dump()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        cache = float(self.cache_file.read_text()) if self.cache_file.exists() else 0.0
        order = {"floor": float(self.order.floor), "rest": float(self.order.resting_since is not None)}
        return {"running": 0.0, "waiting": 0.0, "cache": cache, **order}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    storage = LocalStorage(tmp_path_factory.mktemp("shelf"))
    for number, revision in ((11, STABLE), (12, CANARY)):
        publish_revision(storage, Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w"))
    return storage


Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(serve_stopped: None, shelf: LocalStorage) -> Iterator[Run]:
    """Deploys a revision with the product's autoscaling settings; returns the file that says how full its caches are."""
    from ray import serve

    from services.serving import address
    from services.serving.engine import autoscaling
    from services.serving.watch import MODEL_DEPLOYMENT, application_name

    address.listen(ServingConfig(port=port_of_serve()))

    def run(revision: str, version: int = 1, **replicas: float) -> Path:
        config = ReplicasConfig.model_validate({**QUICK, **replicas})
        cache = shelf.root / f"cache-{revision}"
        model: Any = serve.deployment(Scaled, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
        model = model.options(
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=1,
            autoscaling_config=autoscaling(EngineConfig(), config),
            max_surge_percent=config.surge_percent,
        )
        target = serve.RunTarget(
            model.bind(revision, shelf.uri, str(cache)), name=application_name(revision), route_prefix=None
        )
        serve.run_many([target], wait_for_applications_running=version == 1)
        return cache

    yield run
    serve.shutdown()


def test_replicas_follow_the_cache_the_floor_and_rest(run: Run, shelf: LocalStorage) -> None:
    applications = RayApplications(NAME, shelf.uri)
    cache = run(CANARY, min=2, max=4)
    eventually(lambda: applications.replicas(CANARY) == 2)

    cache.write_text("0.95")  # however many there are: as if the load grew with them, up to the most
    eventually(lambda: applications.replicas(CANARY) == 4)
    cache.write_text("0.1")
    eventually(lambda: applications.replicas(CANARY) == 2)

    change_order(shelf, NAME, CANARY, lambda order: order.replace(floor=9))
    assert applications.tell(CANARY) == 4
    eventually(lambda: applications.replicas(CANARY) == 4)

    now = datetime.now(UTC)
    traffic = Traffic(name=NAME, stable=STABLE, changed_at=now)
    write_traffic(shelf, traffic)
    capacity.put_to_rest(shelf, traffic, [CANARY], applications, now)
    eventually(lambda: applications.replicas(CANARY) == 1)  # below its least number
    woken = capacity.wake(shelf, traffic, CANARY, applications)
    assert "with 1 of 1 replicas" in woken  # stable does not run at all: one is enough to begin with
    eventually(lambda: applications.replicas(CANARY) == 2)
    capacity.stop_rested(shelf, NAME, applications, 0.0, now)  # it works again
    assert CANARY in applications.running()
    applications.remove(CANARY)


def test_the_first_request_after_zero_is_answered_and_its_wait_is_marked(
    run: Run, shelf: LocalStorage, evidence: Any
) -> None:
    from services.serving import app

    run(STABLE, min=0, max=4)
    applications = RayApplications(NAME, shelf.uri)
    serving = ServingConfig(port=port_of_serve())
    app.deploy_gateway(NAME, serving, shelf.uri)
    url = f"{app.gateway_url(serving)}/chat/completions"

    def ask(request_id: str) -> httpx.Response:
        body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}]}
        return httpx.post(url, json=body, headers={"x-request-id": request_id}, timeout=60)

    eventually(lambda: ask("warm").status_code == 200)
    eventually(lambda: applications.replicas(STABLE) == 0)
    time.sleep(1.2)  # a gateway looks once a second who is asleep
    assert ask("first").status_code == 200
    eventually(lambda: applications.replicas(STABLE) == 1)
    assert records_of(evidence, "first")[0]["cold"] is True

    # Told to an engine that sleeps, an order wakes it.
    eventually(lambda: applications.replicas(STABLE) == 0)
    change_order(shelf, NAME, STABLE, lambda order: order.replace(floor=2))
    assert applications.tell(STABLE) == 4
    eventually(lambda: applications.replicas(STABLE) == 2)


def test_an_update_never_drops_below_the_needed_replicas(run: Run, shelf: LocalStorage) -> None:
    applications, seen, done = RayApplications(NAME, shelf.uri), [], threading.Event()
    eventually(lambda: applications.replicas(STABLE) == 2)

    def look() -> None:
        while not done.wait(0.05):
            seen.append(applications.replicas(STABLE))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        run(STABLE, version=2, min=2, max=4)
        from services.serving.readiness import wait_running
        from services.serving.watch import application_name

        time.sleep(1)  # until Serve has begun
        wait_running(application_name(STABLE), 60)
    finally:
        done.set()
        looking.join()
    assert len(seen) > 10
    assert min(seen) >= 2
