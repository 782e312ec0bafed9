"""A controller that makes place for one of another version: what it knows is in storage, and what comes later is not lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from services.config import ServingConfig
from services.rollout import actor
from services.rollout.evidence import EvidenceStore
from services.rollout.loop import Loop
from services.rollout.replay import replay
from services.rollout.waiting import Waiting, queue_up, read_waiting
from tests.unit.services.rollout.test_feedback import record as answered
from tests.unit.services.rollout.test_feedback import written
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, World

READ_BEFORE_S = 3


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controllers without threads of their own."""
    monkeypatch.setattr(actor, "configure", lambda: None)
    monkeypatch.setattr(actor.Notifier, "start", lambda self: None)
    monkeypatch.setattr(actor.Controller, "_run", lambda self: None)


def controller(world: World) -> actor.Controller:
    one = actor.Controller("m", str(world.root), world.applications)
    one._loop = world.loop  # on the test's own clock
    return one


def num_looked_at(world: World) -> float:
    last = world.status.last_look
    return last.numbers["stable_requests"] + last.numbers["canary_requests"] if last else 0


def evidence(loop: Loop) -> EvidenceStore:
    following = loop._intake._following
    assert following is not None
    return following[1]


def test_what_came_since_the_last_look_is_looked_at_and_written(quiet: None, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    world.run(READ_BEFORE_S)
    one, before = controller(world), num_looked_at(world)
    requests = [request.model_dump(mode="json") for request in world._requests(world.traffic)]
    one.record("g1", world.traffic.version, requests)
    waiting = len(evidence(world.loop)._records)
    one.retire()
    assert waiting >= len(requests)
    assert num_looked_at(world) == before + waiting
    stored = world.process(world.storage)
    last = world.status.last_look
    assert last is not None
    assert evidence(stored)._judge.look == last.look
    assert world.storage.read(f"rollouts/m/{world.status.id}/judge.arrow") is not None
    world.loop = stored
    world.run(40)
    assert world.status.phase == "promoted"
    assert all(again.same for again in replay(world.storage, world.status))


def test_a_candidate_that_waits_is_left_to_the_next_one(quiet: None, tmp_path: Path) -> None:
    world, loaded = World(tmp_path), list[str]()
    world.applications.load = lambda revision, *given: loaded.append(revision.revision)  # type: ignore[method-assign]
    asked = Waiting(revision=CANDIDATE, config=CONFIG, serving=ServingConfig(), who="ann", at=world.now)
    queue_up(world.storage, "m", asked, always=True)
    controller(world).retire()
    assert loaded == []
    assert read_waiting(world.storage, "m")[0] == asked
    world.process(world.storage).tick()
    assert loaded == [CANDIDATE]


def test_gateways_keep_what_a_controller_that_ends_does_not_take(quiet: None, tmp_path: Path) -> None:
    one = controller(World(tmp_path))
    one.record("g1", 1, [answered("a")])
    assert one.feedback("", "a", "up", None) is not None
    one.retire()
    assert len(written(one._storage)) == 1  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="is being replaced"):
        one.record("g1", 1, [answered("b")])


def test_a_controller_that_nobody_ends_after_all_ends_itself(
    quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(actor, "RETIRED_S", 0.05)
    monkeypatch.setattr(actor.os, "_exit", lambda code: ended.set())
    controller(World(tmp_path)).retire()
    assert ended.wait(10)
