"""Rollouts by the real actor over real storage; gateways and model servers are the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import registry
from cluster.errors import UserError
from cluster.storage import LocalStorage
from services.rollout import controller
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
    assert (deployed.traffic.stable, deployed.traffic.reason) == (deployed.stable, "reverted by bob")


def test_a_person_takes_the_candidate_out_and_may_let_it_in_again(deployed: Deployed) -> None:
    first = deployed.start()
    aborted = controller.abort(deployed.storage, deployed.name, who="ann")
    assert aborted is not None
    status = deployed.wait(lambda s: s.ended)
    assert (status.id, status.phase, status.decisions[-1].who) == (first, "aborted", "ann")
    deployed.applications.load(deployed.candidate)
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
