"""Rollouts replayed from storage: the same decisions, and others once the evidence is another."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.errors import InputError
from services.config import StepConfig
from services.rollout.replay import Replayed, read_rollout, replay
from tests.unit.services.rollout.world import CONFIG, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def replayed(world: World) -> list[Replayed]:
    return list(replay(world.storage, read_rollout(world.storage, "m")))


def test_a_promotion_comes_out_the_same(world: World) -> None:
    world.start()
    world.run(40)
    assert world.status.phase == "promoted"
    found = replayed(world)
    assert [(f.same, f.recorded.action if f.recorded else None) for f in found] == [
        (True, "set_weight"),
        (True, "promote"),
    ]
    assert all(f.again is not None and f.again.numbers == f.recorded.numbers for f in found if f.recorded)


@pytest.mark.parametrize("fault", ["canary_harmful", "canary_slow"])
def test_a_rollback_comes_out_the_same_also_when_the_controller_was_killed_on_the_way(world: World, fault: str) -> None:
    world.start()
    for turn in range(60):
        world.turn()
        if turn == 12:
            setattr(world, fault, True)
        if turn % 5 == 0:
            world.loop = world.process(world.storage)
    assert world.status.phase == "rolled_back"
    assert [f.same for f in replayed(world)][-1:] == [True]
    assert all(f.same for f in replayed(world))


def test_timeouts_people_and_everybody_on_the_canary_are_replayed_too(world: World) -> None:
    steps = (
        StepConfig(weight_percent=10, min_requests=5, min_duration_s=1, prove="none"),
        StepConfig(weight_percent=50, min_requests=5, min_duration_s=1, prove="none"),
        StepConfig(weight_percent=100, min_requests=10**6),
    )
    rollout = world.start(CONFIG.replace(steps=steps, step_timeout_s=12))
    world.run(3)
    world.run(40)
    assert world.status.decisions[-1].reason == "inconclusive"
    assert all(f.same for f in replayed(world))
    world.applications.loaded.add("m-00000002")
    world.loop.start(CONFIG, "m-00000002", 1, "ann")
    world.run(2)
    world.loop.set_weight(30, "bob")
    world.run(4)
    world.canary_harmful = True
    world.run(10)
    found = replayed(world)
    assert [f.again is None for f in found] == [True, False]
    assert all(f.same for f in found)
    assert read_rollout(world.storage, "m", rollout).id == rollout


def test_other_evidence_makes_another_decision(world: World) -> None:
    rollout = world.start()
    world.canary_harmful = True
    world.run(20)
    for key in world.storage.list(f"rollouts/m/{rollout}"):
        if key.endswith(".parquet"):
            table = pq.read_table(str(world.root / key))
            healed = pa.array(["ok"] * len(table))
            pq.write_table(
                table.set_column(table.schema.get_field_index("outcome"), "outcome", healed), str(world.root / key)
            )
    assert [f.same for f in replayed(world)] == [False]


def test_missing_evidence_is_said(world: World) -> None:
    rollout = world.start()
    world.canary_harmful = True
    world.run(20)
    decided = world.status.decisions[-1].look
    for key in world.storage.list(f"rollouts/m/{rollout}"):
        if key.endswith(".parquet"):
            table = pq.read_table(str(world.root / key))
            pq.write_table(table.filter(pc.less(table["look"], decided)), str(world.root / key))
    with pytest.raises(InputError, match="is missing from its evidence"):
        replayed(world)


def test_a_rollout_that_never_was_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="no rollout was ever started"):
        read_rollout(world.storage, "m")
    with pytest.raises(InputError, match="is none of m"):
        read_rollout(world.storage, "m", "20260101")
