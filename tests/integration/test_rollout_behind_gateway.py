"""A whole rollout with nothing of the test's own but the model: real gateway, controller, HTTP and load generator."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.storage import LocalStorage
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.rollout import controller
from services.rollout.status import RolloutStatus
from tests.conftest import REPOSITORY
from tests.integration.gateway_world import Model, eventually, free_port

pytestmark = pytest.mark.integration

NAME = "canary"
STABLE, GOOD, BROKEN = (f"{NAME}-{number:08x}" for number in (1, 2, 3))
CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=10, min_requests=5, min_duration_s=1, prove="none"),
        StepConfig(weight_percent=50, min_requests=10, min_duration_s=1, prove="errors", error_effect_percent=30),
    ),
    interval_s=0.5,
    latency_floor_s=10,  # the machine that runs the tests may be busy: here errors alone decide
    drain_s=1,
)


class OneModel(Model):
    """Answers everything; the broken revision nothing."""

    async def chat(self, request: Any, info: Any) -> AsyncIterator[Any]:
        if self.revision == BROKEN:
            raise RuntimeError("out of memory")
        request.messages[-1]["content"] = "hello"
        async for chunk in super().chat(request, info):
            yield chunk


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    storage = LocalStorage(tmp_path_factory.mktemp("registry"))
    for number, revision in enumerate((STABLE, GOOD, BROKEN)):
        made = Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w")
        registry.publish_revision(storage, made)
    return storage


@pytest.fixture(scope="module")
def url(ray_cluster: str, storage: LocalStorage) -> Iterator[str]:
    """A gateway on which stable has everybody, and the controller beside it."""
    import ray
    from ray import serve

    from services.serving import app
    from services.serving.watch import MODEL_DEPLOYMENT, application_name

    serve.shutdown()
    serving = ServingConfig(port=free_port())
    app._listen(serving)
    model: Any = serve.deployment(OneModel, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
    model = model.options(ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1)
    targets = [
        serve.RunTarget(model.bind(revision), name=application_name(revision), route_prefix=None)
        for revision in (STABLE, GOOD, BROKEN)
    ]
    serve.run_many(targets, wait_for_applications_running=False)
    controller.ensure_traffic(storage, NAME, STABLE)
    actor = controller.ensure_controller(NAME, storage.uri)
    app.deploy_gateway(NAME, serving, storage.uri)
    base = app.gateway_url(serving)
    body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}]}
    eventually(lambda: httpx.post(f"{base}/chat/completions", json=body, timeout=30).status_code == 200)
    yield base
    ray.kill(actor)
    serve.shutdown()


def roll_out(
    storage: LocalStorage, url: str, revision: str, folder: Path
) -> tuple[RolloutStatus, list[dict[str, Any]]]:
    """The ended rollout, and what the users of the load generator met until two seconds after it."""
    log, stop = folder / "log.jsonl", folder / "stop"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "load.py"), "--url", url, "--model", NAME]
    command += ["--users", "1000", "--duration", "120", "--until-file", str(stop), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as load:
        try:
            eventually(log.exists)
            controller.start_rollout(storage, NAME, revision, CONFIG)
            eventually(lambda: _status(storage).ended, timeout_s=100)
            time.sleep(2)
        finally:
            stop.touch()
            load.wait(timeout=60)
    return _status(storage), [json.loads(line) for line in log.read_text().splitlines()]


def _status(storage: LocalStorage) -> RolloutStatus:
    found = controller.status(storage, NAME)
    assert found is not None
    return found


def test_a_broken_revision_is_out_in_two_seconds_and_harms_nobody_after_the_decision(
    storage: LocalStorage, url: str, tmp_path: Path
) -> None:
    status, requests = roll_out(storage, url, BROKEN, tmp_path)
    assert (status.phase, status.decisions[-1].reason) == ("rolled_back", "error_rate")
    assert status.decided_at is not None
    assert status.weight_applied_at is not None
    assert (status.weight_applied_at - status.decided_at).total_seconds() <= 2
    assert len(requests) > 20
    decided = status.decided_at.timestamp()
    assert [request for request in requests if not request["ok"] and request["at"] > decided] == []
    eventually(lambda: BROKEN not in controller.RayApplications().running())


def test_a_good_revision_becomes_stable_and_no_request_fails(storage: LocalStorage, url: str, tmp_path: Path) -> None:
    status, requests = roll_out(storage, url, GOOD, tmp_path)
    assert status.phase == "promoted", status.decisions
    assert [request["problem"] for request in requests if not request["ok"]] == []
    assert {request["revision"] for request in requests} == {STABLE, GOOD}
    assert requests[-1]["revision"] == GOOD
