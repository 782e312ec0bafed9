"""kill -9 of what serves and of what rolls out, under load: no request is lost whose user had not seen a token, and the rollout
ends as it would have.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from services.contract import traffic_key
from services.rollout.status import RolloutStatus, folder, status_key
from tests.chaos.serving_world import (
    CONFIG,
    GATEWAY,
    NAME,
    NUM_GATEWAYS,
    ONE,
    OTHER,
    SecondNode,
    World,
    kill_one,
    of,
    replicas,
)
from tests.integration.clients import Clients, Seen
from tests.integration.gateway_world import eventually

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.long]


@pytest.fixture(scope="module")
def world(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    node = SecondNode()
    try:
        world = World(tmp_path_factory.mktemp("chaos"), node)
        yield world
        world.close()
    finally:
        node.close()


def load(world: World) -> Clients:
    return Clients(world.url, NAME, num=10, pause_s=0.05)


DYING_S = 0.2
"""A killed gateway's socket takes connections for a moment after the signal, and takes them along."""


def report(what: str, clients: Clients, gateway_died: tuple[float, float] | None) -> list[Seen]:
    """Prints what users met; returns the requests lost without a token, those at a gateway that was killed within these moments
    left out: their connection broke, and there was no answer of any kind."""
    lost = [seen for seen in clients.seen if seen.lost]
    since, until = gateway_died or (0.0, 0.0)
    excused = [s for s in lost if not s.status and s.began_at <= until + DYING_S and s.ended_at >= since]
    broken = [seen for seen in clients.seen if seen.problem and seen.num_tokens]
    print(
        f"{what}: {len(clients.seen)} requests, {len(lost) - len(excused)} lost without a token; "
        f"{len(excused)} in flight at a killed gateway, {len(broken)} streams broken after a token"
    )
    assert len(clients.seen) > 50
    assert len(excused) <= clients.num
    return [seen for seen in lost if seen not in excused]


def actions(status: RolloutStatus) -> list[str]:
    return [decision.action for decision in status.decisions]


def test_replicas_and_a_gateway_die_while_a_good_revision_becomes_stable(world: World) -> None:
    before = set(replicas(GATEWAY))
    with load(world) as clients:
        clients.wait_for(20)
        world.start(OTHER)
        world.wait(lambda s: s.weight_applied_at is not None)
        clients.wait_for(20)
        kill_one(of(OTHER))
        clients.wait_for(20)
        kill_one(of(ONE))
        clients.wait_for(20)
        world.wait(lambda s: s.step == 1 and s.weight_applied_at is not None)
        since = time.time()
        killed = kill_one(GATEWAY)
        died = since, time.time()
        clients.wait_for(20)
        status = world.wait(lambda s: s.ended)
        eventually(world.whole, 180)  # a gateway that starts later has its first requests here
        clients.wait_for(60)
    assert report("a replica of each revision and a gateway killed", clients, died) == []
    assert status.phase == "promoted", status.decisions
    assert actions(status) == ["set_weight", "set_weight", "promote"]
    assert world.traffic.stable == OTHER
    assert len(set(replicas(GATEWAY)) - before) == 1
    assert killed not in replicas(GATEWAY)
    ended_at = status.ended_at.timestamp() if status.ended_at else 0.0
    assert {seen.revision for seen in clients.seen if seen.began_at > ended_at and not seen.problem} == {OTHER}


def kill_between_decision_and_traffic(world: World, decided: Callable[[RolloutStatus], bool]) -> None:
    """Kills the controller once it has `decided`. Nobody can write the traffic meanwhile: it stands before its first act."""
    pid = world.controller_pid()
    with traffic_held(world):
        world.wait(lambda s: decided(s) and s.traffic_version is None)
        os.kill(pid, signal.SIGKILL)
    assert world.controller_pid() != pid


@contextmanager
def traffic_held(world: World) -> Iterator[None]:
    """Holds the traffic's lock, unless a hash that it shares with what is written before (1 in 64) would hold that too."""
    status = world.wait(lambda _: True)
    where = folder(NAME, status.id)
    number = sum("evidence-" in key for key in world.storage.list(where))
    before = [status_key(NAME, status.id), *(f"{where}/evidence-{number + n:06d}.parquet" for n in range(1, 4))]
    name = lock_name(traffic_key(NAME))
    if name in map(lock_name, before):
        yield
        return
    with open(world.storage.root / ".locks" / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lock_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:2]


def test_all_replicas_of_a_canary_die_at_once_and_the_controller_in_every_phase(world: World) -> None:
    stable, candidate = world.traffic.stable, ONE if world.traffic.stable == OTHER else OTHER

    with load(world) as clients:
        world.start(candidate, CONFIG.replace(drain_s=6))
        world.wait(lambda s: s.weight_applied_at is not None)
        world.kill_controller()  # progressing at the first step
        for pid in replicas(of(candidate)):
            os.kill(pid, signal.SIGKILL)
        kill_between_decision_and_traffic(world, lambda s: len(s.decisions) == 2)
        world.wait(lambda s: s.step == 1 and s.weight_applied_at is not None)
        world.kill_controller()  # progressing at the second
        kill_between_decision_and_traffic(world, lambda s: s.phase == "promoting")
        world.wait(lambda s: s.phase == "promoting" and s.weight_applied_at is not None)
        world.kill_controller()  # draining
        status = world.wait(lambda s: s.ended)
        clients.wait_for(20)
    assert report("both canary replicas and the controller five times killed", clients, None) == []
    assert (status.phase, actions(status)) == ("promoted", ["set_weight", "set_weight", "promote"])
    assert (world.traffic.stable, status.stable) == (candidate, stable)


def test_a_whole_node_dies_while_a_good_revision_becomes_stable(world: World) -> None:
    candidate = ONE if world.traffic.stable == OTHER else OTHER
    eventually(world.whole, 180)
    with load(world) as clients:
        world.start(candidate)
        world.wait(lambda s: s.weight_applied_at is not None)
        clients.wait_for(20)
        on_node = list(replicas(GATEWAY).values()).count(world.node.id)
        assert 0 < on_node < NUM_GATEWAYS
        since = time.time()
        num_processes = world.node.kill()
        killed_at = time.time()
        status = world.wait(lambda s: s.ended, 120)
        eventually(lambda: not world.node.alive, 60)
        eventually(world.whole, 180)
        clients.wait_for(60)
    what = f"a node with {num_processes} processes, {on_node} of {NUM_GATEWAYS} gateways among them, killed"
    assert report(what, clients, (since, killed_at)) == []
    slowest = max(seen.ended_at - seen.began_at for seen in clients.seen if seen.ended_at > killed_at)
    print(f"slowest answer since: {slowest:.1f} s")
    assert (status.phase, actions(status)) == ("promoted", ["set_weight", "set_weight", "promote"])
    assert world.traffic.stable == candidate


def test_a_broken_canary_is_rolled_back_though_the_controller_dies(world: World) -> None:
    stable, candidate = world.traffic.stable, ONE if world.traffic.stable == OTHER else OTHER
    version = world.traffic.version
    eventually(world.whole, 180)
    with load(world) as clients:
        clients.prompt = f"error {candidate}"
        world.start(candidate, CONFIG.replace(drain_s=6))
        world.wait(lambda s: s.traffic_version is not None)  # written once its replicas have answered
        kill_between_decision_and_traffic(world, lambda s: s.phase == "rolling_back")
        world.wait(lambda s: s.phase == "rolling_back" and s.weight_applied_at is not None)
        world.kill_controller()  # draining
        status = world.wait(lambda s: s.ended)
        clients.wait_for(20)
    assert report("a rollback, the controller killed twice", clients, None) == []
    assert (status.phase, actions(status)[-1], status.decisions[-1].reason) == ("rolled_back", "rollback", "error_rate")
    assert (world.traffic.stable, world.traffic.canary) == (stable, None)
    assert world.traffic.version == version + len(status.decisions)  # each weight was written once
