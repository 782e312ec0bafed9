"""Replicas by load, by a rollout's floor, at rest, from zero and through an update: real Serve, and replicas without an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Revision
from cluster.registry import publish_revision
from cluster.storage import LocalStorage, open_storage
from services.config import EngineConfig, ReplicasConfig, ServingConfig
from services.contract import Traffic, write_traffic
from services.engines import EngineReport, Order, change_order, read_engines
from services.rollout import capacity
from services.rollout.applications import RayApplications
from tests.integration.gateway_world import eventually as soon
from tests.integration.gateway_world import port_of_serve

pytestmark = [
    pytest.mark.integration,
    # Of the short look-back alone: the product's defaults keep Serve's own interval.
    pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning"),
]

NAME = "scaled"
ENGINE, OTHER = (f"{NAME}-{number:08x}" for number in (11, 12))
MOST = 3
QUICK: dict[str, float] = {"look_back_s": 1, "upscale_delay_s": 0, "downscale_delay_s": 1, "idle_after_s": 1}


def eventually(condition: Callable[[], bool]) -> None:
    """On a busy machine a replica's process takes long to start."""
    soon(condition, 120)


class Scaled:
    """Reports as a model server does; the cache it says it uses stands in a file."""

    def __init__(self, storage_uri: str, cache_file: str, version: int) -> None:
        self.storage, self.cache_file, self.version = open_storage(storage_uri), Path(cache_file), version
        self.order = self.read_order()

    def read_order(self) -> Order:
        return read_engines(self.storage, NAME).order(ENGINE)

    async def settings(self) -> str:
        return str(self.version)

    async def follow_order(self) -> dict[str, Any]:
        self.order = self.read_order()
        return EngineReport(replica="r", max_replicas=MOST).model_dump()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        cache = float(self.cache_file.read_text()) if self.cache_file.exists() else 0.0
        order = {"floor": float(self.order.floor), "rest": float(self.order.resting_since is not None)}
        return {"running": 0.0, "waiting": 0.0, "cache": cache, **order}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    storage = LocalStorage(tmp_path_factory.mktemp("shelf"))
    for number, revision in ((11, ENGINE), (12, OTHER)):
        publish_revision(storage, Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w"))
    return storage


@pytest.fixture(scope="module")
def applications(shelf: LocalStorage) -> RayApplications:
    return RayApplications(NAME, shelf.uri)


Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(serve_stopped: None, shelf: LocalStorage) -> Iterator[Run]:
    """Deploys ENGINE with the product's autoscaling settings; returns the file that says how full its caches are."""
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.serving import address
    from services.serving.engine import autoscaling

    address.listen(ServingConfig(port=port_of_serve()))

    def run(version: int = 1, present: int = 0, **replicas: float) -> Path:
        config = ReplicasConfig.model_validate({**QUICK, **replicas})
        cache = shelf.root / "cache"
        model: Any = serve.deployment(Scaled, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
        model = model.options(
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=1,
            autoscaling_config=autoscaling(EngineConfig(), config, present),
            max_surge_percent=config.surge_percent,
        )
        bound = model.bind(shelf.uri, str(cache), version)
        target = serve.RunTarget(bound, name=application_name(ENGINE), route_prefix=None)
        serve.run_many([target], wait_for_applications_running=version == 1)
        return cache

    yield run
    serve.shutdown()


def test_an_engine_wakes_follows_its_floor_and_its_load_rests_and_works_again(
    run: Run, shelf: LocalStorage, applications: RayApplications
) -> None:
    cache = run(min=0, max=MOST)
    eventually(lambda: applications.replicas(ENGINE) == 0)

    change_order(shelf, NAME, ENGINE, lambda order: order.replace(floor=2))
    assert applications.tell(ENGINE) == 0  # it is woken, and nobody waits for it
    eventually(lambda: applications.tell(ENGINE) == MOST)
    eventually(lambda: applications.replicas(ENGINE) == 2)
    cache.write_text("0.95")  # however many there are: as if the load grew with them, up to the most
    eventually(lambda: applications.replicas(ENGINE) == MOST)

    now = datetime.now(UTC)
    traffic = Traffic(name=NAME, stable=OTHER, changed_at=now)
    write_traffic(shelf, traffic)
    capacity.put_to_rest(shelf, traffic, [ENGINE], applications, now)
    eventually(lambda: applications.replicas(ENGINE) == 1)  # neither what the load asks for nor none
    assert "with 1 of 1 replicas" in capacity.wake(shelf, traffic, ENGINE, applications)  # stable has none at all
    eventually(lambda: applications.replicas(ENGINE) == MOST)
    capacity.stop_rested(shelf, NAME, applications, 0.0, now)  # it works again
    assert ENGINE in applications.running()


@pytest.mark.long
def test_an_update_never_drops_below_the_needed_replicas(
    run: Run, shelf: LocalStorage, applications: RayApplications
) -> None:
    """Of the engine that the test before left."""
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name

    seen, done = [], threading.Event()
    (shelf.root / "cache").unlink()
    change_order(shelf, NAME, ENGINE, lambda order: order.replace(floor=2))
    applications.tell(ENGINE)
    eventually(lambda: applications.replicas(ENGINE) == 2)
    handle: Any = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(ENGINE))

    def all_new() -> bool:
        return set(handle.broadcast("settings").results(timeout_s=30, return_exceptions=True)) == {"2"}

    def look() -> None:
        while not done.wait(0.05):
            seen.append(applications.replicas(ENGINE))

    looking = threading.Thread(target=look)
    run(version=2, present=applications.replicas(ENGINE), min=1, max=MOST)  # returns when it is asked for
    looking.start()  # not before: Ray keeps what it is pickling in a global, which two threads spoil for each other
    try:
        eventually(all_new)
    finally:
        done.set()
        looking.join()
    assert len(seen) > 10
    assert min(seen) >= 2
