"""Rollouts from start to end on the test's own clock: forward, back, and killed between any two writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import UserError
from services.config import StepConfig
from services.contract import read_traffic, write_traffic
from services.rollout.replay import replay
from services.rollout.status import read_status
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, STABLE, Killed, MortalStorage, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def test_a_good_candidate_goes_forward_step_by_step_to_stable(world: World) -> None:
    world.start()
    world.run(40)
    assert world.traffic_seen == [
        (STABLE, None, 0.0),
        (STABLE, CANDIDATE, 10.0),
        (STABLE, CANDIDATE, 50.0),
        (CANDIDATE, None, 0.0),
    ]
    assert registry.aliases(world.storage, "m") == {"stable": CANDIDATE, "previous": STABLE}
    assert world.status.phase == "promoted"
    assert [(d.action, d.verdict, d.weight_percent) for d in world.status.decisions] == [
        ("set_weight", "inconclusive", 10),
        ("set_weight", "passed", 50),
        ("promote", "passed", 100),
    ]
    assert all(d.weight_applied_at and d.weight_applied_at >= d.at for d in world.status.decisions)
    assert world.applications.removed == []


@pytest.mark.parametrize(("keep", "removed"), [(0, [STABLE]), (1, [])])
def test_a_promotion_keeps_as_many_old_revisions_as_asked(world: World, keep: int, removed: list[str]) -> None:
    world.start(keep=keep)
    world.run(40)
    assert world.applications.removed == removed


@pytest.mark.parametrize("fault", ["canary_harmful", "canary_slow"])
def test_a_bad_candidate_is_out_before_anything_else_happens(world: World, fault: str) -> None:
    setattr(world, fault, True)
    world.start()
    while world.status.phase == "progressing":
        world.turn()
    assert (world.traffic.canary, world.traffic.weight_percent, world.traffic.stable) == (None, 0.0, STABLE)
    assert world.applications.removed == []
    world.run(20)
    status = world.status
    assert status.phase == "rolled_back"
    assert status.decisions[-1].reason == ("error_rate" if fault == "canary_harmful" else "latency")
    assert status.weight_applied_at is not None
    assert status.decided_at is not None
    assert (status.weight_applied_at - status.decided_at).total_seconds() <= 2
    assert status.ended_at is not None
    assert (status.ended_at - status.weight_applied_at).total_seconds() >= CONFIG.drain_s
    assert world.applications.removed == [CANDIDATE]
    assert registry.aliases(world.storage, "m") == {"stable": STABLE}


def test_a_candidate_that_answers_worse_is_out_though_nothing_fails(world: World) -> None:
    world.start(CONFIG.replace(steps=(StepConfig(weight_percent=10, min_requests=10**6),), step_timeout_s=600))
    for number in range(120):
        items = [{"item": f"{number}-{k}", "stable": 1.0, "canary": float(k > 0), "at": world.now} for k in range(4)]
        world.loop.score(items)
        world.turn()
    assert (world.status.decisions[-1].reason, world.status.decisions[-1].verdict) == ("quality", "failed")


def score(world: World, rollout: str, names: range, canary: float = 1.0) -> None:
    items = [{"item": f"set/{n}", "stable": 1.0, "canary": canary, "at": world.now} for n in names]
    world.loop.score(items, rollout)


def test_quality_is_proven_once_for_all_steps(world: World) -> None:
    step = StepConfig(weight_percent=10, min_requests=10, min_duration_s=2, prove="quality")
    rollout = world.start(CONFIG.replace(steps=(step, step.replace(weight_percent=50))))
    world.run(8)
    assert "scores are not down by 5 points (about" in world.status.last_look.message  # type: ignore[union-attr]
    for number in range(0, 200, 10):
        score(world, rollout, range(number, number + 10))
        world.turn()
    world.run(20)
    assert world.status.phase == "promoted"
    assert [look.same for look in replay(world.storage, world.status)] == [True, True]


def test_the_prober_is_told_what_is_known_and_answers_to_another_rollout_do_not_count(world: World) -> None:
    assert world.loop.probe_task() is None
    world.run(3)
    rollout = world.loop.start(CONFIG, CANDIDATE, 1, "ann", "items")
    world.run(1)
    score(world, rollout, range(3))
    score(world, "an earlier one", range(9), canary=0.0)
    task = world.loop.probe_task()
    assert task is not None
    assert (task.revisions, task.known) == ((STABLE, CANDIDATE), {"set/0", "set/1", "set/2"})
    world.loop = world.process(world.storage)
    assert world.loop.probe_task() is not None
    world.loop.abort("bob")
    assert world.loop.probe_task() is None


def test_a_verdict_from_scores_comes_out_the_same_again(world: World) -> None:
    rollout = world.start(
        CONFIG.replace(steps=(StepConfig(weight_percent=10, min_requests=10**6),), step_timeout_s=600)
    )
    for number in range(0, 200, 10):
        score(world, rollout, range(number, number + 10), canary=float(number % 20 > 0))
        world.turn()
    world.run(10)
    assert (world.status.decisions[-1].reason, world.status.phase) == ("quality", "rolled_back")
    assert all(look.same for look in replay(world.storage, world.status))


def test_a_step_without_canary_traffic_times_out_and_goes_back(world: World) -> None:
    config = CONFIG.replace(steps=(StepConfig(weight_percent=0.001, min_requests=100),), step_timeout_s=10)
    world.start(config)
    world.run(25)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "inconclusive")


def test_a_gateway_that_does_not_follow_keeps_the_old_revision_running(world: World) -> None:
    world.start()
    world.run(2)
    world.loop.abort("bob")
    for _ in range(40):
        world.turn()
        world.loop.record("behind", 1, [])
    assert world.status.phase == "rolling_back"
    assert world.applications.removed == []
    world.run(12)
    assert (world.status.phase, world.applications.removed) == ("aborted", [CANDIDATE])


def test_everybody_on_the_canary_is_judged_by_what_stable_did_before(world: World) -> None:
    steps = (
        StepConfig(weight_percent=50, min_requests=5, min_duration_s=1, prove="none"),
        StepConfig(weight_percent=100, min_requests=5),
    )
    world.start(CONFIG.replace(steps=steps))
    world.run(10)
    assert world.traffic.weight_percent == 100
    world.canary_harmful = True
    world.run(15)
    assert world.status.phase == "rolled_back"
    assert "before, nobody is on it now" in world.status.decisions[-1].message


def test_stable_changed_by_someone_else_ends_the_rollout_and_stays(world: World) -> None:
    world.start()
    world.run(2)
    found = read_traffic(world.storage, "m")
    assert found is not None
    write_traffic(world.storage, found[0].replace(stable="m-other", version=found[0].version + 1), expect=found[1])
    world.run(10)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "stable_changed")
    assert (world.traffic.stable, world.traffic.canary) == ("m-other", None)


def test_a_weight_changed_behind_the_back_is_put_right(world: World) -> None:
    world.start()
    world.run(2)
    found = read_traffic(world.storage, "m")
    assert found is not None
    write_traffic(world.storage, found[0].replace(weight_percent=99, version=found[0].version + 1), expect=found[1])
    world.run(2)
    assert world.traffic.weight_percent == 10


def test_one_rollout_at_a_time(world: World) -> None:
    world.start()
    with pytest.raises(UserError, match="is under way"):
        world.loop.start(CONFIG, CANDIDATE, 1, "bob")


@pytest.mark.parametrize(
    ("revision", "found"), [(STABLE, "is stable already"), ("m-unknown", "is not in the registry")]
)
def test_what_cannot_be_a_candidate_is_refused(world: World, revision: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        world.loop.start(CONFIG, revision, 1, "ann")
    assert read_status(world.storage, "m") is None


def test_evidence_survives_as_parquet_and_counts_no_request_twice(world: World) -> None:
    import pyarrow.parquet as pq

    rollout = world.start()
    world.run(40)
    keys = [key for key in world.storage.list(f"rollouts/m/{rollout}") if key.endswith(".parquet")]
    ids = [i for key in keys for i in pq.read_table(str(world.root / key))["request_id"].to_pylist()]
    assert len(ids) == len(set(ids)) > 100


def story(world: World) -> tuple[list[str], list[str], list[tuple[str, str | None]], int, list[str]]:
    """What must come out the same however often the process died."""
    status = world.status
    moves = [(move.alias, move.new) for move in registry.alias_history(world.storage, "m")]
    return (
        [d.action for d in status.decisions],
        [status.phase],
        moves,
        world.traffic.version,
        world.applications.removed,
    )


@pytest.mark.parametrize("bad", [False, True], ids=["promotion", "rollback"])
@pytest.mark.parametrize("before", [True, False], ids=["before a write", "after a write"])
def test_killed_at_any_write_it_resumes_without_repeating_or_skipping_an_act(
    tmp_path: Path, bad: bool, before: bool
) -> None:
    undisturbed = World(tmp_path / "undisturbed")
    counting = MortalStorage(undisturbed.root)
    expected = _rollout(undisturbed, counting, bad)
    assert counting.num_writes > 8
    for life in range(1, counting.num_writes + 1):
        world = World(tmp_path / f"killed-{life}")
        assert _rollout(world, MortalStorage(world.root, life, before), bad) == expected, f"killed at write {life}"


def _rollout(world: World, storage: MortalStorage, bad: bool) -> object:
    world.start(CONFIG.replace(steps=CONFIG.steps[:1]), keep=0)
    world.canary_harmful = bad
    world.loop = world.process(storage)
    for _ in range(80):
        try:
            world.turn()
        except Killed:
            world.loop = world.process(world.storage)
    assert world.status.ended
    return story(world)


def test_an_adapter_goes_and_its_engine_stays(world: World) -> None:
    adapter = Revision(key=f"{3:016x}", name="m", revision="m-3", weights="w", base=STABLE, adapter="folder")
    registry.publish_revision(world.storage, adapter)
    world.applications.loaded.add("m-3")
    world.run(3)
    world.loop.start(CONFIG, "m-3", 0, "ann")
    world.loop.promote("ann")
    world.run(10)
    assert world.traffic.stable == "m-3"
    assert world.applications.removed == []  # nothing is to be kept, yet the adapter needs its base's engine
    world.loop.start(CONFIG, CANDIDATE, 0, "ann")
    world.loop.promote("ann")
    world.run(10)
    assert world.traffic.stable == CANDIDATE
    assert set(world.applications.removed) == {"m-3", STABLE}
