"""The machine's clock is set by an hour, forward or back, while a rollout is under way, between two, and while nobody looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.storage import LocalStorage
from services.rollout import actor
from services.rollout.clock import SteadyClock
from services.rollout.loop import Loop
from services.rollout.measures import Figures
from services.rollout.status import RolloutStatus, newest_moment, write_status
from tests.unit.services.rollout.world import World

HOUR = timedelta(hours=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Machine:
    """Its clock, which people set, and its seconds, which only pass."""

    def __init__(self) -> None:
        self.now, self.s = NOON, 100.0

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.now, lambda: self.s)

    def passes(self, seconds: float) -> None:
        self.s += seconds
        self.now += timedelta(seconds=seconds)


class Jumping(World):
    """Whose controller has a machine's clock that is ahead of the gateways' by `ahead`."""

    ahead = timedelta(0)

    def process(self, storage: LocalStorage) -> Loop:
        began = self.now

        def passed_s() -> float:
            return (self.now - began).total_seconds()

        clock = SteadyClock(lambda: self.now + self.ahead, passed_s)
        clock.set(not_before=newest_moment(storage, "m"))
        return Loop(storage, "m", self.applications, clock)


def moments(status: RolloutStatus) -> list[tuple[str, str, float]]:
    """What was decided, and how long after the rollout's beginning."""
    return [(d.action, d.reason, (d.at - status.started_at).total_seconds()) for d in status.decisions]


def ended(world: World) -> RolloutStatus:
    for _ in range(200):
        if world.status.ended:
            return world.status
        world.turn()
    raise AssertionError(world.status.model_dump_json(indent=1))


def test_it_passes_as_the_machines_seconds_do_whatever_its_clock_says() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.passes(5)
    machine.now -= HOUR
    machine.passes(5)
    assert clock() == NOON + timedelta(seconds=10)
    assert clock.off_s == -3600
    clock.set(not_before=NOON + timedelta(seconds=3))
    assert clock() == NOON + timedelta(seconds=3)
    clock.set()
    assert clock() == machine.now
    assert clock.off_s == 0


@pytest.mark.parametrize("after_s", [0.5, 3, 6, 12, 16])
@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_rollout_takes_the_same_decisions_at_the_same_moments(
    tmp_path: Path, jump: timedelta, after_s: float
) -> None:
    undisturbed, set_ = World(tmp_path / "one"), Jumping(tmp_path / "other")
    undisturbed.start()
    set_.start()
    set_.run(after_s)
    set_.ahead = jump
    one, other = ended(undisturbed), ended(set_)
    assert (other.phase, moments(other)) == (one.phase, moments(one))
    assert one.phase == "promoted"


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_harm_is_found_as_soon_as_without(tmp_path: Path, jump: timedelta) -> None:
    undisturbed, set_ = World(tmp_path / "one"), Jumping(tmp_path / "other")
    for world in (undisturbed, set_):
        world.start()
        world.run(2)
        world.canary_harmful = True
    set_.ahead = jump
    one, other = ended(undisturbed), ended(set_)
    assert (other.phase, moments(other)) == (one.phase, moments(one))
    assert one.decisions[-1].reason == "error_rate"


def test_a_controller_that_starts_anew_on_a_clock_that_was_set_back_goes_on(tmp_path: Path) -> None:
    world = Jumping(tmp_path)
    world.start()
    world.run(6)
    world.ahead = -HOUR
    world.loop = world.process(world.storage)
    status = ended(world)
    assert status.phase == "promoted"
    assert moments(status)[-1][2] < 60


def test_between_rollouts_the_controller_follows_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "configure", lambda: None)
    monkeypatch.setattr(actor.Notifier, "start", lambda self: None)
    monkeypatch.setattr(actor.Controller, "_run", lambda self: None)
    machine = Machine()
    monkeypatch.setattr(actor, "SteadyClock", machine.clock)
    world = World(tmp_path)
    one = actor.Controller("m", str(tmp_path), world.applications)
    for jump in (HOUR, -HOUR):
        machine.now += jump
        one._turn()
        assert one._clock() == machine.now
    world.start()
    under_way = one._clock()
    machine.now += HOUR
    one._turn()
    assert one._clock() == under_way
    write_status(world.storage, world.status.replace(phase="aborted"), expect=_version(world))
    one._turn()
    assert one._clock() == machine.now


def test_prometheus_is_told_the_time_of_the_machines_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(actor, "configure", lambda: None)
    monkeypatch.setattr(actor.Notifier, "start", lambda self: None)
    monkeypatch.setattr(actor.Controller, "_run", lambda self: None)
    machine, told = Machine(), list[Figures]()
    monkeypatch.setattr(actor, "SteadyClock", machine.clock)
    monkeypatch.setattr(actor, "wall", lambda: machine.now)
    monkeypatch.setattr(actor, "Measures", lambda name: SimpleNamespace(tell=told.append))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    world = World(tmp_path)
    one = actor.Controller("m", str(tmp_path), world.applications)
    machine.now += HOUR
    one._measure(one._clock())
    assert [found.turn_at for found in told] == [machine.now.timestamp()]


def _version(world: World) -> str:
    from services.rollout.status import read_status

    found = read_status(world.storage, "m")
    assert found is not None
    return found[1]
