"""What rollouts and the registry tell comes into the audit record once, in order, whoever is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import registry
from cluster.storage import LocalStorage
from services import audit
from services.audit import Line
from services.rollout import scribe
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, STABLE, Killed, MortalStorage, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def lines(storage: LocalStorage) -> list[Line]:
    return [stored.entry.line for stored in audit.entries(storage, "m")]


def told(storage: LocalStorage) -> list[tuple[str, str]]:
    """Without what the world was made with, which has another clock."""
    return [(line.kind, line.who) for line in lines(storage) if line.who != "serinus"]


def test_a_whole_life_is_told_once_with_persons_and_the_analysis_apart(world: World) -> None:
    position = None

    def run(seconds: float) -> None:
        nonlocal position
        for _ in range(int(seconds)):
            world.run(1)
            position = scribe.record(world.storage, "m", position)

    world.start()
    run(40)
    assert world.status.phase == "promoted"
    world.loop.abort("bob")
    run(1)
    world.loop.start(CONFIG, CANDIDATE, 1, "ann")
    world.canary_harmful = True
    run(20)
    assert world.status.phase == "rolled_back"
    world.canary_harmful = False
    world.applications.loaded.add(CANDIDATE)
    world.loop.start(CONFIG, CANDIDATE, 1, "ann")
    run(2)
    world.loop.set_weight(30, "carl")
    run(2)
    world.loop.abort("dora")
    run(10)
    assert told(world.storage) == [
        *[("started", "ann"), ("step", "analysis"), ("promoted", "analysis"), ("reverted", "bob")],
        *[("started", "ann"), ("rolled_back", "analysis")],
        *[("started", "ann"), ("held", "carl"), ("aborted", "dora")],
    ]
    assert scribe.record(world.storage, "m") == position
    assert audit.broken(world.storage, "m") == ()
    reverted = next(line for line in lines(world.storage) if line.kind == "reverted")
    assert reverted.details == {"alias": "stable", "revision": STABLE, "before": CANDIDATE}
    step = next(line for line in lines(world.storage) if line.kind == "step")
    assert (step.details["weight_percent"], step.details["candidate"]) == (50, CANDIDATE)


def test_a_timeout_is_told_as_inconclusive(world: World) -> None:
    world.start(CONFIG.replace(step_timeout_s=10, steps=(CONFIG.steps[0].replace(min_requests=10**6),)))
    world.run(25)
    scribe.record(world.storage, "m")
    assert told(world.storage)[-1] == ("inconclusive", "analysis")


def test_a_decision_is_not_told_before_it_was_carried_out(world: World) -> None:
    world.start()
    scribe.record(world.storage, "m")
    assert told(world.storage) == []
    world.turn()
    scribe.record(world.storage, "m")
    assert told(world.storage) == [("started", "ann")]


def test_all_rollouts_are_caught_up_with_though_nobody_recorded_for_a_while(world: World) -> None:
    scribe.record(world.storage, "m")
    before = lines(world.storage)
    for _ in range(3):
        world.applications.loaded.add(CANDIDATE)
        world.start()
        world.run(2)
        world.loop.abort("bob")
        world.run(10)
        registry.move_alias(world.storage, "m", "candidate", CANDIDATE, who="eve", why="again", at=world.now)
    shown = scribe.history(world.storage, "m")
    assert lines(world.storage) == before
    scribe.record(world.storage, "m")
    assert lines(world.storage) == [line for _, line in shown.lines]
    assert [number for number, _ in shown.lines] == [1, 2, *[0] * 9]
    story = [("started", "ann"), ("aborted", "bob"), ("published", "eve")]
    assert told(world.storage) == story * 3
    assert [number for number, _ in scribe.history(world.storage, "m", last=3).lines] == [9, 10, 11]


@pytest.mark.parametrize("before", [True, False], ids=["before a write", "after a write"])
def test_killed_at_any_write_it_goes_on_and_repeats_nothing(world: World, before: bool) -> None:
    world.start()
    world.run(40)
    world.loop.abort("bob")
    whole = [line.id for line in scribe.pending(world.storage, "m", scribe.Position())]
    assert len(whole) == 6
    life = 0
    while True:
        life += 1
        mortal = MortalStorage(world.root, life, before)
        try:
            scribe.record(mortal, "m")
        except Killed:
            pass
        else:
            break
        scribe.record(world.storage, "m")
        assert [line.id for line in lines(world.storage)] == whole, f"killed at write {life}"
        for key in [*world.storage.list("audit/m"), *world.storage.list("notifications/m")]:
            (world.root / key).unlink()
    assert life == len(whole) + 2


def test_what_another_wrote_in_between_is_passed_over(world: World) -> None:
    position = scribe.record(world.storage, "m")
    audit.note(world.storage, "m", "deployed", "gateway", who="ann", at=world.now)
    world.start()
    world.run(1)
    assert scribe.record(world.storage, "m", position) == scribe.position(world.storage, "m")
    assert [kind for kind, _ in told(world.storage)] == ["deployed", "started"]


def test_a_rollout_that_cannot_be_read_hides_no_other(world: World) -> None:
    first = world.start()
    world.run(40)
    world.loop.abort("bob")
    world.applications.loaded.add(CANDIDATE)
    world.loop.start(CONFIG, CANDIDATE, 1, "ann")
    world.run(2)
    (world.root / f"rollouts/m/{first}/status.json").write_text("{}")
    scribe.record(world.storage, "m")
    assert ("started", "ann") in told(world.storage)
