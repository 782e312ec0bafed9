"""kill -9 of the controller's process in each phase: the rollout ends as it would have, and no act is done twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import registry
from services.rollout.status import RolloutStatus
from tests.integration.rollout_world import CONFIG, Deployed

pytestmark = [pytest.mark.integration, pytest.mark.chaos]
NUMBER = itertools.count()

Moment = Callable[[RolloutStatus], bool]


@pytest.fixture
def deployed(ray_cluster: str, tmp_path: Path) -> Iterator[Deployed]:
    world = Deployed(f"mortal{next(NUMBER)}", tmp_path)
    yield world
    world.close()


def _kill_at(deployed: Deployed, moments: list[Moment]) -> RolloutStatus:
    for moment in moments:
        pid = deployed.controller_pid()
        deployed.wait(moment)
        deployed.kill_controller()
        assert deployed.controller_pid() != pid
    return deployed.wait(lambda status: status.ended)


def test_killed_in_every_phase_of_a_promotion(deployed: Deployed) -> None:
    deployed.start(CONFIG.replace(drain_s=5), keep_revisions=0)
    status = _kill_at(
        deployed,
        [
            lambda s: True,
            lambda s: s.step == 1,
            lambda s: s.phase == "promoting",
            lambda s: s.phase == "promoting" and s.weight_applied_at is not None,
        ],
    )
    assert status.phase == "promoted"
    assert [d.action for d in status.decisions] == ["set_weight", "set_weight", "promote"]
    assert deployed.traffic.version == 4  # the first deployment, two steps, the promotion: each written once
    assert deployed.applications.num_removed(deployed.stable) == 1
    moves = [(m.alias, m.new) for m in registry.alias_history(deployed.storage, deployed.name) if m.old is not None]
    assert sorted(moves, key=str) == sorted([("stable", deployed.candidate), ("candidate", None)], key=str)


def test_killed_in_every_phase_of_a_rollback(deployed: Deployed) -> None:
    deployed.gateway.harmful = True
    deployed.start(CONFIG.replace(drain_s=5))
    status = _kill_at(
        deployed,
        [
            lambda s: True,
            lambda s: s.phase == "rolling_back",
            lambda s: s.phase == "rolling_back" and s.weight_applied_at is not None,
        ],
    )
    assert (status.phase, deployed.traffic.stable, deployed.traffic.canary) == ("rolled_back", deployed.stable, None)
    assert [d.action for d in status.decisions] == ["set_weight", "rollback"]
    assert deployed.traffic.version == 3
    assert deployed.applications.num_removed(deployed.candidate) == 1
