"""Controller and prober together on real time, without Ray: a rollout, a promotion, a model that becomes worse, the way back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.storage import LocalStorage
from services.config import DecayConfig, ProbesConfig, ProbeSetConfig, RolloutConfig, StepConfig
from services.contract import read_traffic
from services.rollout import actor, controller, probes
from services.rollout.actor import Controller
from services.rollout.asking import NoAnswer
from services.rollout.prober import Probing
from services.rollout.probes import ProbeAnswer, ProbeItem, ProbeTask
from services.rollout.summary import lines, summary
from tests.unit.services.rollout.world import CANDIDATE, STABLE, FakeApplications

NUM_ITEMS = 200


class Desk:
    """The controller's methods, called as the prober's actor calls them."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    async def task(self) -> ProbeTask | None:
        return self.controller.probe_task()

    async def deliver(self, task: ProbeTask, answers: Sequence[ProbeAnswer]) -> None:
        self.controller.probed(task.turn, list(answers))

    async def finish(self, task: ProbeTask) -> None:
        self.controller.probes_finished(task.turn)


class Scene:
    def __init__(self, root: Path) -> None:
        self.storage = LocalStorage(root / "store")
        self.applications = FakeApplications(self.storage)
        self.wrong = {STABLE: 0, CANDIDATE: 0}
        for number, revision in enumerate((STABLE, CANDIDATE)):
            made = Revision(key=f"{number:016x}", name="m", revision=revision, weights="w")
            registry.publish_revision(self.storage, made)
        controller.ensure_traffic(self.storage, "m", STABLE)
        items = [{"id": f"{n:03d}", "prompt": "p", "answer": "yes"} for n in range(NUM_ITEMS)]
        (root / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        sets = (ProbeSetConfig(name="set", path=str(root / "items.jsonl")),)
        self.probes = ProbesConfig(sets=sets, max_concurrent=5, decay=DecayConfig(round_every_h=0))
        self.controller = Controller("m", self.storage.uri, self.applications)
        self.probing = Probing(self.storage, Desk(self.controller), self._ask, runs=self._runs)
        self.now_s = 0.0

    def _runs(self, revision: str) -> bool:
        return revision in self.applications.running()

    async def _ask(self, revision: str, item: ProbeItem, _: ProbesConfig) -> str:
        if revision not in self.applications.running():
            raise NoAnswer("away")
        return "no" if int(item.id.rpartition("/")[2]) < self.wrong[revision] else "yes"

    def start(self) -> str:
        step = StepConfig(weight_percent=1, min_requests=10**6)
        config = RolloutConfig(steps=(step,), interval_s=0.05, drain_s=0, probes=self.probes)
        return self.controller.start(config, CANDIDATE, 1, "ann", probes.publish(self.storage, "m", self.probes))

    def until(self, condition: Callable[[], bool], turns: int = 2000) -> None:
        """Probes go on, on a clock of their own, until it holds."""
        ends_s = time.monotonic() + 60
        while not condition():
            self.now_s += asyncio.run(self.probing.turn(self.now_s))
            time.sleep(0.002)  # the controller's own thread
            assert time.monotonic() < ends_s

    def phase(self) -> str:
        found = controller.status(self.storage, "m")
        return found.phase if found else ""

    def watch(self) -> str:
        found = controller.decay(self.storage, "m")
        return f"{found.phase} {found.round}" if found else ""

    @property
    def stable(self) -> str:
        found = read_traffic(self.storage, "m")
        assert found is not None
        return found[0].stable


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(actor, "configure", lambda: None)  # the log of the tests' process stays as it is
    made = Scene(tmp_path)
    yield made
    made.applications.loaded = {STABLE, CANDIDATE}


def test_a_candidate_that_answers_worse_is_out_though_no_user_met_it(scene: Scene) -> None:
    scene.wrong[CANDIDATE] = NUM_ITEMS // 4
    scene.start()
    scene.until(lambda: scene.phase() in ("rolling_back", "rolled_back"))
    status = controller.status(scene.storage, "m")
    assert status is not None
    assert (status.decisions[-1].reason, status.decisions[-1].verdict) == ("quality", "failed")
    assert scene.stable == STABLE


def test_a_promoted_model_is_watched_and_replaced_when_it_decays_but_not_for_a_point(scene: Scene) -> None:
    scene.start()
    scene.until(lambda: scene.controller.probe_task() is not None)
    scene.controller.promote("ann")
    scene.until(lambda: scene.watch() == "watching 1")
    scene.wrong[CANDIDATE] = NUM_ITEMS // 100
    scene.until(lambda: scene.watch() == "watching 3")
    assert scene.stable == CANDIDATE
    scene.wrong[CANDIDATE] = NUM_ITEMS // 3
    scene.until(lambda: scene.watch().split()[0] not in ("watching", "reverting"))
    assert (scene.watch().split()[0], scene.stable) == ("reverted", STABLE)
    assert registry.aliases(scene.storage, "m")["stable"] == STABLE
    status = controller.status(scene.storage, "m")
    assert status is not None
    told = "\n".join(lines(summary(scene.storage, status)))
    assert "decay watch on m-00000002: reverted" in told
    assert "back to m-00000001" in told


def test_votes_come_through_the_controller(scene: Scene) -> None:
    record = {"request_id": "r1", "revision": STABLE, "role": "stable", "bucket": 0.5, "owner": "alice"}
    scene.controller.record("gateway", 1, [record])
    assert scene.controller.feedback("alice", "r1", "down", None) == {
        "revision": STABLE, "role": "stable", "before": None
    }  # fmt: skip
    changed = scene.controller.feedback("alice", "r1", "up", "Better.")
    assert changed is not None
    assert changed["before"] == "down"
    assert scene.controller.feedback("bob", "r1", "down", None) is None
