"""What the controller tells Prometheus of a rollout and of the watch over stable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.config import ProbesConfig
from services.rollout.decay_status import WatchStatus
from services.rollout.measures import figures
from tests.unit.services.rollout.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def test_without_a_rollout_only_the_turn_is_told() -> None:
    assert figures(None, None, NOW) == (NOW.timestamp(), 0.0, 0.0, None, {}, {})


def test_a_decision_waits_until_all_gateways_apply_it_and_an_ended_rollout_has_no_weight(world: World) -> None:
    world.start()
    status = world.status
    first = status.decisions[-1].at
    later = first + timedelta(seconds=40)
    waiting = status.replace(weight_applied_at=None)
    assert figures(waiting, None, later)[1:3] == (status.weight_percent, 40.0)
    assert figures(status.replace(weight_applied_at=first), None, later).waits_s == 0.0
    world.run(40)
    assert world.status.phase == "promoted"
    assert figures(world.status, None, later)[1:3] == (0.0, 0.0)


def test_votes_are_told_while_they_are_evidence_in_a_rollout_under_way(world: World) -> None:
    world.start()
    world.run(3)
    status = world.status
    assert status.last_look is not None
    assert figures(status, None, NOW).votes == {}
    numbers = {f"feedback_{side}_{kind}": number for side, kind, number in (
        ("stable", "counted", 90.0), ("canary", "counted", 10.0), ("stable", "down", 0.1), ("canary", "down", 0.3)
    )}  # fmt: skip
    found = figures(status.replace(last_look=status.last_look.replace(numbers=numbers)), None, NOW)
    assert (found.votes, found.votes_down) == ({"stable": 90, "canary": 10}, {"stable": 0.1, "canary": 0.3})
    assert figures(status.replace(phase="promoted", ended_at=NOW), None, NOW).votes == {}


def test_the_phase_of_the_watch_is_told() -> None:
    watch = WatchStatus(id="1", name="m", revision="r", probes=ProbesConfig(), items="k", began_at=NOW, phase="alarmed")
    assert figures(None, watch, NOW).decay == "alarmed"
