"""What people decide of a rollout, and of one that is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import registry
from cluster.errors import UserError
from tests.unit.services.rollout.world import CANDIDATE, STABLE, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def test_a_person_takes_it_out(world: World) -> None:
    world.start()
    world.run(2)
    world.loop.abort("bob")
    world.run(10)
    assert (world.status.phase, world.status.decisions[-1].who) == ("aborted", "bob")
    assert world.traffic.canary is None


def test_a_person_promotes(world: World) -> None:
    world.start()
    world.run(1)
    world.loop.promote("bob")
    world.run(10)
    assert (world.status.phase, world.traffic.stable) == ("promoted", CANDIDATE)


def test_a_weight_set_by_hand_holds_and_harm_still_rolls_back(world: World) -> None:
    world.start()
    world.loop.set_weight(30, "bob")
    world.run(30)
    assert (world.traffic.weight_percent, world.status.phase, world.status.held) == (30, "progressing", True)
    world.canary_harmful = True
    world.run(15)
    assert world.status.phase == "rolled_back"


@pytest.mark.parametrize("call", ["set_weight", "promote"])
def test_without_a_rollout_nothing_is_moved(world: World, call: str) -> None:
    with pytest.raises(UserError, match="no rollout is in progress"):
        getattr(world.loop, call)(*([5] if call == "set_weight" else []), "bob")
    assert world.traffic.version == 1


@pytest.mark.parametrize("weight", [-1, 100.5, float("nan")])
def test_a_weight_that_is_no_percentage_is_refused(world: World, weight: float) -> None:
    world.start()
    with pytest.raises(UserError, match="is no share"):
        world.loop.set_weight(weight, "bob")


def test_outside_a_rollout_going_back_is_a_pointer_move_to_what_is_loaded(world: World) -> None:
    with pytest.raises(UserError, match="no previous revision"):
        world.loop.abort("bob")
    world.start()
    world.run(40)
    assert world.loop.abort("bob") is None
    assert (world.traffic.stable, world.traffic.canary) == (STABLE, None)
    assert registry.aliases(world.storage, "m") == {"stable": STABLE, "previous": CANDIDATE}
    world.applications.loaded.remove(CANDIDATE)
    with pytest.raises(UserError, match="no longer loaded"):
        world.loop.abort("bob")
