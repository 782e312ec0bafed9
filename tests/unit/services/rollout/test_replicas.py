"""Replicas of a rollout: awaited before a weight is in force, given back, at rest after it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from services.engines import Order, read_engines
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, STABLE, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def order(world: World, engine: str) -> Order:
    return read_engines(world.storage, "m").order(engine)


def test_a_step_up_waits_for_its_replicas_and_harm_is_still_seen_meanwhile(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(8)
    assert (world.status.weight_percent, world.traffic.weight_percent) == (50, 10)  # decided, and not yet in force
    assert order(world, CANDIDATE).floor == 4
    world.run(5)
    assert world.traffic.weight_percent == 10
    world.applications.num_replicas[CANDIDATE] = 4
    world.run(1)
    assert world.traffic.weight_percent == 50

    world.loop.set_weight(80, "ann")
    world.applications.num_replicas[STABLE] = 2  # half of the users have left it
    world.run(1)
    assert (order(world, CANDIDATE).floor, world.traffic.weight_percent) == (4, 80)


def test_harm_while_replicas_start_takes_the_candidate_out_and_stable_gets_replicas_back(world: World) -> None:
    world.applications.most, world.applications.num_replicas = 8, {STABLE: 4, CANDIDATE: 2}
    world.start()
    world.run(8)
    assert (world.status.weight_percent, world.traffic.weight_percent) == (50, 10)
    world.canary_harmful = True
    world.run(3)
    assert world.status.phase == "rolling_back"
    assert order(world, STABLE).floor == 6
    world.run(5)
    assert world.status.phase == "rolled_back"
    assert order(world, STABLE) == Order()


def test_replicas_that_never_come_end_the_step_as_inconclusive(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(75)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "inconclusive")
    assert "replicas" in world.status.decisions[-1].message


def test_a_person_who_promotes_waits_for_replicas_at_most_ten_minutes(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(1)
    world.loop.promote("ann")
    world.run(5)
    assert (world.status.phase, world.traffic.stable) == ("promoting", STABLE)
    world.now += timedelta(seconds=600)
    world.run(5)
    assert (world.status.phase, world.traffic.stable) == ("promoted", CANDIDATE)


def test_a_promotion_that_waits_for_replicas_can_still_be_turned_back(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(1)
    world.loop.promote("ann")
    world.run(2)
    world.loop.abort("bob")
    world.run(30)
    assert (world.status.phase, world.traffic.stable, world.traffic.canary) == ("aborted", STABLE, None)


def test_harm_turns_a_promotion_back_that_waits_for_replicas(world: World) -> None:
    world.start()
    world.run(1)
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.loop.promote("ann")
    world.run(1)
    world.canary_harmful = True
    world.run(60)
    assert (world.status.phase, world.traffic.stable, world.traffic.canary) == ("rolled_back", STABLE, None)


def test_a_lower_weight_waits_for_no_replicas(world: World) -> None:
    world.start()
    world.loop.set_weight(50, "ann")
    world.run(2)
    world.applications.most = 0  # none of the canary's answers
    world.loop.set_weight(5, "ann")
    world.run(2)
    assert (world.traffic.canary, world.traffic.weight_percent) == (CANDIDATE, 5)


def test_harm_is_found_while_serve_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    world.run(1)

    def away(engine: str) -> int:
        raise ConnectionError("no controller")

    world.loop.set_weight(90, "ann")
    monkeypatch.setattr(world.applications, "replicas", away)
    world.canary_harmful = True
    world.run(60)
    assert (world.traffic.stable, world.traffic.canary) == (STABLE, None)


def test_the_replaced_revision_rests_is_woken_to_go_back_and_is_stopped_in_the_end(world: World) -> None:
    world.start(CONFIG.replace(keep_warm_s=100))
    world.loop.promote("ann")
    world.run(10)
    rested_at = order(world, STABLE).resting_since
    assert (world.status.phase, rested_at is not None) == ("promoted", True)

    world.loop.abort("bob")
    assert world.traffic.stable == STABLE
    assert "woken in" in world.traffic.reason
    assert order(world, STABLE) == Order()
    rested_at = order(world, CANDIDATE).resting_since
    assert rested_at == world.now

    world.run(90)
    assert world.applications.removed == []
    assert world.loop.tick() is None  # what looks after a promotion has its turn when no rollout is under way
    world.run(11)
    assert world.applications.removed == [CANDIDATE]


def test_a_revision_at_rest_may_be_a_candidate_again(world: World) -> None:
    world.start()
    world.loop.promote("ann")
    world.run(10)
    world.loop.start(CONFIG, STABLE, 1, "ann")
    world.run(2)
    assert (world.traffic.canary, order(world, STABLE).resting_since) == (STABLE, None)
