"""Statuses that another version wrote: shown, ended, and in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from services.rollout import controller, scribe
from services.rollout.replay import read_rollout, replay
from services.rollout.status import read_status
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, STABLE, World

BEFORE_EFFECTS = {
    "steps": [{"weight_percent": 1.0, "min_requests": 4, "min_duration_s": 5.0}],
    "interval_s": 1.0,
    "max_error_increase_percent": 1.0,
    "latency_quantile": 0.95,
    "max_latency_ratio": 3.0,
    "latency_floor_s": 2.0,
    "alpha": 0.01,
    "drain_s": 3.0,
}
"""A configuration as the first version wrote it."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def rewrite(world: World, **changes: Any) -> None:
    """The current rollout's status as another version would have written it."""
    path = world.root / f"rollouts/m/{world.status.id}/status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def ended(world: World) -> str:
    rollout = world.start()
    world.run(40)
    assert world.status.phase == "promoted"
    return rollout


def shown(world: World) -> tuple[str, list[str], bool]:
    found = controller.status(world.storage, "m")
    assert found is not None
    return found.phase, [decision.action for decision in found.decisions], found.lossy


def test_one_of_the_first_version_is_shown_and_the_next_rollout_begins(world: World) -> None:
    rollout = ended(world)
    rewrite(world, config=BEFORE_EFFECTS)
    assert shown(world) == ("promoted", ["set_weight", "set_weight", "promote"], True)
    assert [line.kind for _, line in scribe.history(world.storage, "m").lines][-1] in ("promoted", "published")
    with pytest.raises(InputError, match="another version of serinus"):
        list(replay(world.storage, read_rollout(world.storage, "m", rollout)))
    world.loop = world.process(world.storage)
    world.loop.start(CONFIG, STABLE, 1, "ann")
    world.run(1)
    assert shown(world)[2] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": {"a": [1]}},
        {"config": {"steps": "none"}},
        {"config": {"max_error_increase_percent": 50}},  # the effect no longer lies beyond the margin
        {"last_look": {"action": "dance"}},
    ],
)
def test_whatever_this_version_does_not_know_is_left_out(world: World, changes: dict[str, Any]) -> None:
    ended(world)
    rewrite(world, **changes)
    assert shown(world) == ("promoted", ["set_weight", "set_weight", "promote"], True)


def test_a_decision_that_cannot_be_read_is_left_out_and_the_others_are_shown(world: World) -> None:
    ended(world)
    decisions = json.loads((world.root / f"rollouts/m/{world.status.id}/status.json").read_text())["decisions"]
    rewrite(world, decisions=[decisions[0], {"action": "dance"}, decisions[2]])
    assert shown(world) == ("promoted", ["set_weight", "promote"], True)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"phase": "promoted"}', '{"id": 3, "config": 5}'])
def test_what_is_no_status_is_said(world: World, content: str) -> None:
    rollout = ended(world)
    (world.root / f"rollouts/m/{rollout}/status.json").write_text(content)
    with pytest.raises(InputError, match="not a rollout's status"):
        read_status(world.storage, "m", lossy=True)


def test_one_under_way_is_not_gone_on_with_and_can_be_ended(world: World) -> None:
    world.start()
    world.run(2)
    rewrite(world, config=BEFORE_EFFECTS)
    world.loop = world.process(world.storage)
    for ask in (world.loop.tick, lambda: world.loop.promote("bob"), lambda: world.loop.start(CONFIG, STABLE, 1, "bob")):
        with pytest.raises(InputError, match="begun by another version") as raised:
            ask()
        assert "serinus canary rollback" in raised.value.remedy
    assert shown(world) == ("progressing", ["set_weight"], True)
    world.loop.abort("bob")
    world.run(20)
    assert (world.status.phase, world.traffic.canary, world.applications.removed) == ("aborted", None, [CANDIDATE])
