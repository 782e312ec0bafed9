"""Golden probes, decay and feedback with real Serve, controller, prober and HTTP; only the model is the test's own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import InputError
from cluster.feedback import vote_files, votes_folder
from cluster.storage import LocalStorage
from services.config import ProbesConfig, ProbeSetConfig, RolloutConfig, ServingConfig, StepConfig
from services.contract import read_traffic
from services.rollout import controller, prober
from services.rollout.decay_status import WatchStatus
from services.rollout.replay import replay
from services.rollout.summary import lines, summary
from services.serving.keys import add_key
from tests.integration.gateway_world import Model, eventually, free_port

pytestmark = pytest.mark.integration

NAME = "golden"
STABLE, POOR, GOOD = (f"{NAME}-{number:08x}" for number in (1, 2, 3))
NUM_ITEMS = 200


class GoldenModel(Model):
    """Answers `item N` with "hello", which is right, but for the first so many, which it gets wrong. How many stands in a file,
    so that a model can be made worse while it serves."""

    def __init__(self, revision: str, folder: str) -> None:
        super().__init__(revision)
        self.wrong = Path(folder) / revision

    async def _chat(self, request: Any, info: Any) -> AsyncIterator[Any]:
        word, _, number = request.messages[-1]["content"].partition(" ")
        if word == "item" and int(number) < int(self.wrong.read_text()):
            yield self._answer("goodbye")
            return
        async for chunk in super()._chat(request, info):
            yield chunk


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, LocalStorage(folder / "storage")
        for number, revision in enumerate((STABLE, POOR, GOOD)):
            made = Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w")
            registry.publish_revision(self.storage, made)
            self.gets_wrong(revision, NUM_ITEMS // 3 if revision == POOR else 0)
        items = [{"messages": [{"role": "user", "content": f"item {n}"}], "answer": "hello"} for n in range(NUM_ITEMS)]
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        self.keys = {name: add_key(folder / "keys.yaml", name) for name in ("alice", "bob")}
        self.url = ""

    def gets_wrong(self, revision: str, num_items: int) -> None:
        """From now on, that many of the items."""
        draft = self.folder / f".{revision}"
        draft.write_text(str(num_items))
        draft.rename(self.folder / revision)

    @property
    def config(self) -> RolloutConfig:
        chosen = ProbeSetConfig(name="hello", path=str(self.folder / "items.jsonl"))
        decay = {"items_per_minute": 6000, "round_every_h": 0}
        probes = ProbesConfig.model_validate(
            {"sets": (chosen,), "items_per_minute": 6000, "max_concurrent": 8, "decay": decay}
        )
        steps = (StepConfig(weight_percent=1, min_requests=10**6),)
        return RolloutConfig(steps=steps, interval_s=0.5, drain_s=0.5, probes=probes)

    @property
    def stable(self) -> str:
        found = read_traffic(self.storage, NAME)
        assert found is not None
        return found[0].stable

    @property
    def watch(self) -> WatchStatus | None:
        return controller.decay(self.storage, NAME)

    def watch_is(self, *phases: str) -> bool:
        return self.watch is not None and self.watch.phase in phases

    def post(self, route: str, key: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[key]}"}
        return httpx.post(f"{self.url}/{route}", json=body, headers=headers, timeout=60)

    def chat(self, key: str) -> str:
        """The answer's request id."""
        answer = self.post("chat/completions", key, {"model": NAME, "messages": [{"role": "user", "content": "hello"}]})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def world(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three revisions run, stable has everybody, two gateways, the controller; the prober comes with the first rollout."""
    import ray
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.serving import address, app

    serve.shutdown()
    world = World(tmp_path_factory.mktemp("golden"))
    admission = {"keys": str(world.folder / "keys.yaml")}
    serving = ServingConfig.model_validate({"port": free_port(), "num_gateway_replicas": 2, "admission": admission})
    address.listen(serving)
    model: Any = serve.deployment(GoldenModel, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
    model = model.options(ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1)
    targets = [
        serve.RunTarget(model.bind(revision, str(world.folder)), name=application_name(revision), route_prefix=None)
        for revision in (STABLE, POOR, GOOD)
    ]
    serve.run_many(targets, wait_for_applications_running=False)
    controller.ensure_traffic(world.storage, NAME, STABLE)
    actors = [controller.ensure_controller(NAME, world.storage.uri)]
    app.deploy_gateway(NAME, serving, world.storage.uri)
    world.url = app.gateway_url(serving)
    eventually(lambda: world.post("chat/completions", "alice", {"model": NAME, "messages": [
        {"role": "user", "content": "hello"}]}).status_code == 200)  # fmt: skip
    yield world
    actors.append(prober.ensure_prober(NAME, world.storage.uri))
    for actor in actors:
        ray.kill(actor)
    serve.shutdown()


def test_users_judge_their_own_answers_through_any_gateway(world: World) -> None:
    asked = [world.chat("alice") for _ in range(6)]
    for number, request_id in enumerate(asked):  # spread over two gateways, which know nothing of each other's answers
        body: dict[str, Any] = {"request_id": request_id, "thumb": "down" if number < 2 else "up"}
        texts = {"messages": [{"role": "user", "content": "hello"}], "answer": "Hello."}
        more = {0: {"correction": "Hi."}, 1: {"exchange": texts}}.get(number, {})
        answer = world.post("feedback", "alice", body | more)
        assert (answer.status_code, answer.json()) == (200, {"object": "feedback", "request_id": request_id})
    assert (
        world.post("feedback", "alice", {"request_id": asked[0], "thumb": "up"}).status_code == 200
    )  # the last counts

    for key, refused, status, param in (
        ("bob", {"request_id": asked[0], "thumb": "down"}, 404, "request_id"),
        ("alice", {"request_id": "none", "thumb": "down"}, 404, "request_id"),
        ("alice", {"request_id": asked[0]}, 400, "thumb"),
        ("alice", {"request_id": asked[0], "thumb": "sideways"}, 400, "thumb"),
        ("alice", {"request_id": asked[0], "thumb": "up", "stars": 5}, 400, "stars"),
        ("alice", {"request_id": asked[0], "thumb": "up", "correction": "x" * 40_000}, 400, "correction"),
        ("alice", {"request_id": asked[0], "thumb": "up", "exchange": {"answer": "Hi."}}, 400, "exchange.messages"),
    ):
        answer = world.post("feedback", key, refused)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    eventually(lambda: _votes(world) == (5, 1, 0))
    kept = b"".join(world.storage.read(key).content for key in vote_files(world.storage, votes_folder(NAME)))  # type: ignore[union-attr]
    assert kept.count(b'"exchange":{"messages":[{"role":"user","content":"hello"}],"answer":"Hello."}') == 1


def _votes(world: World) -> tuple[int, int, int]:
    from services.rollout.feedback import FeedbackCounts, feedback

    found = feedback(world.storage, NAME).get(STABLE, FeedbackCounts())
    return found.up, found.down, found.corrected


@pytest.mark.long
def test_a_candidate_that_answers_worse_is_out_though_no_user_met_it(world: World) -> None:
    controller.start_rollout(world.storage, NAME, POOR, world.config)
    eventually(lambda: _ended(world), 200)
    status = controller.status(world.storage, NAME)
    assert status is not None
    assert (status.phase, status.decisions[-1].reason) == ("rolled_back", "quality")
    assert all(look.same for look in replay(world.storage, status))
    found = summary(world.storage, status)
    assert found.probes is not None
    assert (found.probes.stable, found.probes.num_items) == (1.0, NUM_ITEMS)
    assert found.probes.num_scored < NUM_ITEMS  # a part of them was enough, and nothing is asked after the decision
    assert 0.5 < found.probes.canary < 0.9


def _ended(world: World) -> bool:
    status = controller.status(world.storage, NAME)
    return status is not None and status.ended


@pytest.mark.long
def test_probes_are_no_evidence_of_users(world: World) -> None:
    from services.rollout.looks import stored_looks

    status = controller.status(world.storage, NAME)
    assert status is not None
    assert [record for look in stored_looks(world.storage, status) for record in look.records] == []


def test_a_file_of_items_that_is_wrong_is_told_before_anything_starts(world: World) -> None:
    chosen = ProbeSetConfig(name="none", path=str(world.folder / "none.jsonl"))
    with pytest.raises(InputError, match="no such file"):
        controller.start_rollout(world.storage, NAME, GOOD, world.config.replace(probes=ProbesConfig(sets=(chosen,))))


@pytest.mark.long
def test_a_point_less_is_left_alone_and_a_model_that_decays_is_replaced(world: World) -> None:
    import ray

    controller.start_rollout(world.storage, NAME, GOOD, world.config)
    controller.promote(world.storage, NAME, who="ann")
    eventually(lambda: world.watch_is("watching"), 200)
    assert world.watch is not None
    assert (world.watch.revision, world.watch.recorded, world.watch.num_recorded) == (GOOD, 1.0, NUM_ITEMS)

    world.gets_wrong(GOOD, NUM_ITEMS // 100)  # a point
    before = world.watch.round
    os.kill(ray.get(prober.ensure_prober(NAME, world.storage.uri).pid.remote(), timeout=60), signal.SIGKILL)
    eventually(lambda: world.watch is not None and world.watch.round >= before + 2, 200)  # one round as a whole
    assert (world.watch.phase, world.stable) == ("watching", GOOD)

    world.gets_wrong(GOOD, NUM_ITEMS // 4)
    began_s = time.monotonic()
    eventually(lambda: world.watch_is("reverted", "alarmed", "ended"), 200)
    print(f"decay of 25 points found and reverted in {time.monotonic() - began_s:.1f} s")
    assert (world.watch.phase, world.stable) == ("reverted", STABLE)
    assert registry.aliases(world.storage, NAME)["previous"] == GOOD
    status = controller.status(world.storage, NAME)
    assert status is not None
    told = "\n".join(lines(summary(world.storage, status)))
    assert "has decayed" in told
    assert f"back to {STABLE}" in told
    assert world.chat("alice")
