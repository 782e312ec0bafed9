"""Rollouts by the real actor over real storage; gateways and model servers are the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import InputError, UserError
from cluster.storage import LocalStorage
from services.config import ServingConfig
from services.rollout import controller
from services.rollout.waiting import Waiting, queue_up
from services.serving.load import load_in_task
from tests.integration.rollout_world import CONFIG, Deployed

pytestmark = pytest.mark.integration
NUMBER = itertools.count()


@pytest.fixture
def deployed(ray_cluster: str, tmp_path: Path) -> Iterator[Deployed]:
    world = Deployed(f"model{next(NUMBER)}", tmp_path)
    yield world
    world.close()


def test_a_good_candidate_becomes_stable(deployed: Deployed) -> None:
    rollout = deployed.start(keep_revisions=0)
    status = deployed.wait(lambda s: s.ended)
    assert (status.id, status.phase) == (rollout, "promoted")
    assert [(d.action, d.weight_percent) for d in status.decisions] == [
        ("set_weight", 20),
        ("set_weight", 50),
        ("promote", 100),
    ]
    told = [(t.stable, t.canary, t.weight_percent) for t in deployed.gateway.applied]
    assert told[-3:] == [
        (deployed.stable, deployed.candidate, 20),
        (deployed.stable, deployed.candidate, 50),
        (deployed.candidate, None, 0),
    ]
    assert registry.aliases(deployed.storage, deployed.name) == {
        "stable": deployed.candidate,
        "previous": deployed.stable,
    }
    assert deployed.applications.running() == {deployed.candidate}


def test_a_bad_candidate_has_no_traffic_within_two_seconds_of_the_decision(deployed: Deployed) -> None:
    deployed.gateway.harmful = True
    deployed.start()
    status = deployed.wait(lambda s: s.ended)
    assert (status.phase, status.decisions[-1].reason) == ("rolled_back", "error_rate")
    assert status.decided_at is not None
    assert status.weight_applied_at is not None
    assert (status.weight_applied_at - status.decided_at).total_seconds() <= 2
    assert (deployed.traffic.stable, deployed.traffic.canary, deployed.traffic.weight_percent) == (
        deployed.stable,
        None,
        0,
    )
    assert deployed.applications.running() == {deployed.stable}
    assert registry.aliases(deployed.storage, deployed.name) == {"stable": deployed.stable}


def test_people_hold_promote_and_go_back(deployed: Deployed) -> None:
    deployed.start()
    controller.set_weight(deployed.storage, deployed.name, 35, who="ann")
    deployed.wait(
        lambda s: s.weight_applied_at is not None and s.last_look is not None and s.last_look.reason == "held"
    )
    assert deployed.traffic.weight_percent == 35
    with pytest.raises(UserError, match="is under way"):
        deployed.start()
    controller.promote(deployed.storage, deployed.name, who="ann")
    status = deployed.wait(lambda s: s.ended)
    assert (status.phase, status.decisions[-1].who) == ("promoted", "ann")
    assert controller.abort(deployed.storage, deployed.name, who="bob") is None
    assert deployed.traffic.stable == deployed.stable
    assert deployed.traffic.reason.startswith("reverted by bob, woken in")  # the replaced one rests


def test_a_person_takes_the_candidate_out_and_may_let_it_in_again(deployed: Deployed) -> None:
    first = deployed.start()
    aborted = controller.abort(deployed.storage, deployed.name, who="ann")
    assert aborted is not None
    status = deployed.wait(lambda s: s.ended)
    assert (status.id, status.phase, status.decisions[-1].who) == (first, "aborted", "ann")
    deployed.load(deployed.candidate)
    assert deployed.start() != first
    assert deployed.wait(lambda s: s.ended).phase == "promoted"


def test_users_errors_arrive_as_themselves(deployed: Deployed, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rollout is in progress"):
        controller.promote(deployed.storage, deployed.name, who="ann")
    with pytest.raises(UserError, match="is not in the registry"):
        controller.start_rollout(deployed.storage, deployed.name, "nothing", CONFIG)
    with pytest.raises(UserError, match="rolled out from"):
        controller.ensure_controller(deployed.name, LocalStorage(tmp_path / "elsewhere").uri)


def test_there_is_one_controller_a_name(deployed: Deployed) -> None:
    before = deployed.controller_pid()
    controller.ensure_controller(deployed.name, deployed.storage.uri)
    assert deployed.controller_pid() == before


def test_who_waits_is_loaded_and_begins_when_its_turn_has_come(deployed: Deployed) -> None:
    newer = f"{deployed.name}-00000003"
    made = Revision(key=f"{3:016x}", name=deployed.name, revision=newer, weights="w")
    registry.publish_revision(deployed.storage, made)
    deployed.start()
    config = CONFIG.replace(when_busy="replace", steps=CONFIG.steps[:1])
    asked = Waiting(revision=newer, config=config, serving=ServingConfig(), who="ann", at=datetime.now(UTC))
    assert queue_up(deployed.storage, deployed.name, asked) is not None
    controller.wake(deployed.storage, deployed.name)
    deployed.wait(lambda s: s.ended)
    status = deployed.wait(lambda s: s.candidate == newer and s.ended)
    assert (status.phase, deployed.traffic.stable) == ("promoted", newer)
    assert deployed.applications.num_removed(deployed.candidate) == 1


def test_what_cannot_be_loaded_in_the_cluster_says_why(deployed: Deployed) -> None:
    revision = registry.resolve(deployed.storage, deployed.name, deployed.candidate)
    with pytest.raises(InputError, match="not a model folder"):
        load_in_task(revision, ServingConfig(), deployed.storage)
