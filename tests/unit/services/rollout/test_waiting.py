"""A candidate that finds a rollout under way: refused, waiting for its turn, or taking the place of the one under way."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import ConfigError, InputError, UserError
from services import audit
from services.config import ProbesConfig, RolloutConfig, ServingConfig
from services.rollout.loop import Loop
from services.rollout.status import RolloutStatus, rollout_ids
from services.rollout.waiting import Waiting, queue_up, read_waiting, withdraw
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, STABLE, Killed, MortalStorage, World

NEWER, NEWEST = "m-00000003", "m-00000004"
Busy = Literal["refuse", "wait", "replace"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made(tmp_path / "storage")


def made(root: Path) -> World:
    world = World(root)
    for number in (3, 4):
        names = {"name": "m", "revision": f"m-{number:08x}", "weights": "w"}
        registry.publish_revision(world.storage, Revision(key=f"{number:016x}", **names))
    return world


def ask(world: World, revision: str = NEWER, busy: Busy = "wait", config: RolloutConfig = CONFIG) -> str | None:
    world.now += timedelta(milliseconds=1)
    asked = Waiting(
        revision=revision, config=config.replace(when_busy=busy), serving=ServingConfig(), who="bob", at=world.now
    )
    return queue_up(world.storage, "m", asked)


def waiting(world: World) -> str | None:
    found, _ = read_waiting(world.storage, "m")
    return found.revision if found else None


def rollouts(world: World) -> list[RolloutStatus]:
    from services.rollout.status import read_rollout_status

    """Those that began: one whose beginner was killed before it became the current one never sent anybody anywhere."""
    found = [read_rollout_status(world.storage, "m", each) for each in rollout_ids(world.storage, "m")]
    return [status for status in found if status is not None and status.traffic_version is not None]


def ends(world: World) -> list[tuple[str, str, str]]:
    return [(s.candidate, s.stable, s.phase) for s in rollouts(world)]


def recorded(world: World, *kinds: str) -> list[str]:
    lines = [stored.entry.line for stored in audit.entries(world.storage, "m")]
    return [line.message for line in lines if line.kind in kinds]


@pytest.mark.parametrize("busy", ["refuse", "wait", "replace"])
def test_with_nothing_in_the_way_it_may_begin(world: World, busy: Busy) -> None:
    assert ask(world, busy=busy) is None
    assert waiting(world) is None


def test_refused_as_the_recipe_says(world: World) -> None:
    world.start()
    with pytest.raises(UserError, match="one at a time"):
        ask(world, busy="refuse")
    assert waiting(world) is None


@pytest.mark.parametrize(("harmful", "stable"), [(False, CANDIDATE), (True, STABLE)])
def test_who_waits_begins_by_itself_after_promotion_and_after_rollback(
    world: World, harmful: bool, stable: str
) -> None:
    world.canary_harmful = harmful
    world.start()
    world.run(1)
    assert ask(world) == f"{NEWER} waits for the rollout of {CANDIDATE}"
    load = world.applications.load

    def after_the_other(revision: Revision, serving: ServingConfig, storage: object) -> None:
        assert rollouts(world)[0].ended  # memory for two revisions, not three
        load(revision, serving, storage)  # type: ignore[arg-type]

    world.applications.load = after_the_other  # type: ignore[method-assign]
    while not rollouts(world)[0].ended:
        world.turn()
    world.canary_harmful = False
    world.run(40)
    phase = "rolled_back" if harmful else "promoted"
    assert ends(world) == [(CANDIDATE, STABLE, phase), (NEWER, stable, "promoted")]
    assert world.traffic.stable == NEWER
    assert waiting(world) is None
    assert world.status.decisions[0].who == "bob"
    assert world.applications.num_loads == 1


def test_a_newer_one_takes_the_place_of_an_older_one_and_says_so(world: World) -> None:
    world.start()
    ask(world)
    assert ask(world, NEWEST) == (
        f"{NEWEST} waits for the rollout of {CANDIDATE}, and takes the place of {NEWER}, which waited"
    )
    assert len(recorded(world, "waiting")) == 2
    world.run(60)
    assert [candidate for candidate, _, _ in ends(world)] == [CANDIDATE, NEWEST]


def test_one_that_replaces_takes_the_present_one_out_first(world: World) -> None:
    first = world.start()
    world.run(2)
    assert ask(world, busy="replace") == f"{NEWER} replaces the rollout of {CANDIDATE}"
    world.turn()
    assert world.traffic.canary is None
    assert world.status.id == first
    world.run(40)
    assert ends(world) == [(CANDIDATE, STABLE, "aborted"), (NEWER, STABLE, "promoted")]
    decision = rollouts(world)[0].decisions[-1]
    assert (decision.who, decision.reason) == ("bob", "replaced")
    assert world.applications.removed == [CANDIDATE]
    weights = [seen for seen in world.traffic_seen if seen[1] is not None or seen[0] != STABLE]
    assert weights == [
        (STABLE, CANDIDATE, 10.0),
        (STABLE, NEWER, 10.0),
        (STABLE, NEWER, 50.0),
        (NEWER, None, 0.0),
    ]


def test_one_that_replaces_lets_a_promotion_end(world: World) -> None:
    world.start()
    world.loop.promote("ann")
    world.turn()
    ask(world, busy="replace")
    world.run(40)
    assert ends(world) == [(CANDIDATE, STABLE, "promoted"), (NEWER, CANDIDATE, "promoted")]


@pytest.mark.parametrize("revision", [CANDIDATE, NEWER])
def test_what_is_under_way_or_waits_already_is_not_asked_for_again(world: World, revision: str) -> None:
    world.start()
    ask(world)
    with pytest.raises(UserError, match=r"already"):
        ask(world, revision)
    assert waiting(world) == NEWER


def test_who_waits_may_become_one_that_replaces(world: World) -> None:
    world.start()
    ask(world)
    ask(world, busy="replace")
    world.run(5)
    assert ends(world)[0] == (CANDIDATE, STABLE, "aborted")


def test_a_person_takes_it_out_again(world: World) -> None:
    world.start()
    ask(world)
    assert withdraw(world.storage, "m", "bob", world.now) == f"{NEWER} does not wait any more"
    world.run(60)
    assert [candidate for candidate, _, _ in ends(world)] == [CANDIDATE]
    with pytest.raises(UserError, match="no candidate waits"):
        withdraw(world.storage, "m", "bob", world.now)


def test_what_does_not_load_is_dropped_and_told(world: World) -> None:
    world.applications.broken.add(NEWER)
    world.start()
    ask(world)
    world.run(40)
    assert ends(world) == [(CANDIDATE, STABLE, "promoted")]
    assert waiting(world) is None
    assert recorded(world, "not_started") == [f"{NEWER} waited and cannot begin: {NEWER} does not load"]


def test_what_fails_to_load_with_a_foreign_error_is_dropped_and_told_too(world: World) -> None:
    world.start()
    ask(world)
    tries = []

    def mistyped(revision: Revision, *_: object) -> None:
        tries.append(revision.revision)
        raise ValueError("engine_kwargs: no such option")

    world.applications.load = mistyped  # type: ignore[method-assign]
    world.run(40)
    assert tries == [NEWER]
    assert waiting(world) is None
    told = f"{NEWER} waited and cannot begin: ValueError: engine_kwargs: no such option"
    assert recorded(world, "not_started") == [told]


def test_one_whose_probes_cannot_be_asked_is_dropped_before_it_is_loaded(world: World) -> None:
    def check(_: ProbesConfig) -> None:
        raise ConfigError("judge.key_env KEY", "is not set where probes run", "set it")

    world.loop = Loop(world.storage, "m", world.applications, lambda: world.now, check)
    world.start()
    asked = Waiting(revision=NEWER, config=CONFIG.replace(when_busy="wait"), serving=ServingConfig(), who="bob",
                    probe_items="items", at=world.now)  # fmt: skip
    queue_up(world.storage, "m", asked)
    world.run(40)
    assert ends(world) == [(CANDIDATE, STABLE, "promoted")]
    assert world.applications.num_loads == 0
    assert "judge.key_env KEY: is not set" in recorded(world, "not_started")[0]


def test_one_that_became_stable_meanwhile_does_not_begin(world: World) -> None:
    world.start()
    ask(world, STABLE)
    world.loop.abort("ann")
    world.run(10)
    assert "is stable already" in recorded(world, "not_started")[0]
    assert world.applications.loaded == {STABLE}


def test_a_newer_one_that_comes_while_the_older_is_being_loaded_begins_in_its_place(world: World) -> None:
    world.start()
    ask(world)
    load = world.applications.load

    def slowly(revision: Revision, serving: ServingConfig, storage: object) -> None:
        load(revision, serving, storage)  # type: ignore[arg-type]
        if revision.revision == NEWER:
            assert ask(world, NEWEST) == f"{NEWEST} waits for {NEWER}, and takes the place of {NEWER}, which waited"

    world.applications.load = slowly  # type: ignore[method-assign]
    world.run(80)
    assert [candidate for candidate, _, _ in ends(world)] == [CANDIDATE, NEWEST]
    assert NEWER in world.applications.removed


def test_while_one_is_about_to_begin_nobody_else_does_and_rollback_is_not_guessed_at(world: World) -> None:
    world.start()
    ask(world)
    world.loop.promote("ann")
    world.turn()
    load = world.applications.load

    def meanwhile(revision: Revision, serving: ServingConfig, storage: object) -> None:
        with pytest.raises(UserError, match="about to begin"):
            world.loop.start(CONFIG, NEWEST, 1, "ann")
        with pytest.raises(UserError, match="about to begin"):
            world.loop.abort("ann")
        load(revision, serving, storage)  # type: ignore[arg-type]

    world.applications.load = meanwhile  # type: ignore[method-assign]
    world.run(10)
    assert (world.status.candidate, world.applications.num_loads) == (NEWER, 1)


@pytest.mark.parametrize(
    ("busy", "before"),
    [
        ("wait", True),
        ("replace", False),
        pytest.param("wait", False, marks=pytest.mark.long),
        pytest.param("replace", True, marks=pytest.mark.long),
    ],
)
def test_killed_at_any_write_it_begins_once(tmp_path: Path, busy: Busy, before: bool) -> None:
    undisturbed = made(tmp_path / "undisturbed")
    counting = MortalStorage(undisturbed.root)
    expected = _two_rollouts(undisturbed, counting, busy)
    assert expected[1][0] == NEWER
    for life in range(1, counting.num_writes + 1):
        world = made(tmp_path / f"killed-{life}")
        assert _two_rollouts(world, MortalStorage(world.root, life, before), busy) == expected, f"killed at {life}"


def _two_rollouts(world: World, storage: MortalStorage, busy: Busy) -> list[tuple[str, str, str]]:
    config = CONFIG.replace(steps=CONFIG.steps[:1], drain_s=1)
    world.start(config)
    ask(world, busy=busy, config=config)
    world.loop = world.process(storage)
    for _ in range(80):
        try:
            world.turn()
        except Killed:
            world.loop = world.process(world.storage)
        if world.status.candidate == NEWER and world.status.ended:
            break
    assert waiting(world) is None
    return ends(world)


def unreadable(world: World) -> None:
    """As another version might have left it."""
    world.storage.write("rollouts/m/waiting.json", b'{"waiting": null, "of_another_version": 1}')


def test_a_place_that_cannot_be_read_stops_no_rollout(world: World) -> None:
    world.start()
    world.run(1)
    unreadable(world)
    with pytest.raises(InputError, match="canary withdraw"):
        read_waiting(world.storage, "m")
    world.loop.abort("ann")
    world.run(10)
    assert ends(world) == [(CANDIDATE, STABLE, "aborted")]
    assert world.loop.tick() is None  # the decay watch has its turn
    assert world.loop.start(CONFIG, NEWER, 1, "ann")


def test_a_place_that_cannot_be_read_may_be_emptied_and_taken(world: World) -> None:
    unreadable(world)
    assert ask(world) is None
    world.start()
    unreadable(world)
    done = ask(world)
    assert done is not None
    assert done.endswith("takes the place of one that this version could not read")
    assert waiting(world) == NEWER
    unreadable(world)
    assert "does not wait any more" in withdraw(world.storage, "m", "bob", world.now)
    assert waiting(world) is None
