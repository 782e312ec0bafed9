"""A canary on real vLLM that goes wrong in ways no status code tells: each is found and rolled back, by one pair of engines.

The last test kills the engine that other tests share.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import registry
from cluster.storage import LocalStorage
from services.config import RolloutConfig, StepConfig
from services.engines import attach, tell
from services.rollout import controller
from services.rollout.status import RolloutStatus
from tests.chaos.serving_world import replicas
from tests.e2e.adapters import adapter
from tests.e2e.conftest import CANARY, NAME, STABLE, Served
from tests.integration.clients import Clients
from tests.integration.gateway_world import eventually
from tests.integration.local_cluster import living

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CONFIG = RolloutConfig(
    steps=(StepConfig(weight_percent=50, min_requests=100_000, prove="none"),),  # ends by harm alone
    interval_s=0.5,
    max_latency_ratio=2,  # two engines share the cores of one machine
    latency_effect_ratio=4,
    latency_floor_s=0.5,
    tpot_floor_s=10,
    step_timeout_s=90,
    drain_s=0,
)
WORDS = ["lists", "slices", "imports", "tuples", "numbers", "names", "calls", "loops", "values", "keys"]


class Kept:
    """A canary that was rolled back stays loaded for the next scene."""

    def running(self) -> set[str]:
        return {STABLE, CANARY}

    def remove(self, revision: str) -> None:
        assert revision == CANARY, f"{revision} was to be removed"

    def replicas(self, engine: str) -> int:
        return 1

    def tell(self, engine: str) -> int:
        return 1


def prompt(draw: random.Random) -> str:
    """One half is short, one half long; no two begin alike, so that no prefix is found in a cache."""
    return " ".join([str(draw.randrange(10**6)), *draw.choices(WORDS, k=draw.choice((2, 40)))])


@pytest.fixture(scope="module")
def storage(served: Served) -> Iterator[LocalStorage]:
    """Beside the engine that is stable, another of the same model, which can be told to go wrong."""
    import ray

    from services.contract import application_name
    from services.serving import model_app
    from services.serving.applications import run_application
    from services.serving.readiness import wait_running
    from tests.e2e.faulty_replica import FaultyReplica

    candidate = registry.resolve(served.storage, NAME, CANARY)
    built = model_app.build(candidate, served.serving, served.storage.uri, {}, "s", replica=FaultyReplica)
    run_application(built, application_name(CANARY), None)
    wait_running(application_name(CANARY), 300)
    actor = controller.ensure_controller(NAME, served.storage.uri, Kept())
    yield served.storage
    ray.kill(actor)


@pytest.fixture(scope="module")
def clients(served: Served, storage: LocalStorage) -> Iterator[Clients]:
    fields = {"temperature": 0, "ignore_eos": True}
    with Clients(served.url, NAME, num=6, prompt=prompt, fields=fields) as clients:
        yield clients


def _status(storage: LocalStorage) -> RolloutStatus:
    found = controller.status(storage, NAME)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("error", "error_rate"), ("empty", "error_rate"), ("truncated", "error_rate"), ("slow", "latency")],
)
def test_a_planted_fault_is_found_and_rolled_back(
    storage: LocalStorage, clients: Clients, fault: str, reason: str
) -> None:
    (storage.root / "fault").write_text("")
    clients.wait_for(20)
    controller.start_rollout(storage, NAME, CANARY, CONFIG)
    eventually(lambda: _status(storage).weight_applied_at is not None)
    clients.wait_for(80)  # it begins as a good canary does
    status = _status(storage)
    assert status.phase == "progressing", status.decisions[-1]
    (storage.root / "fault").write_text(fault)
    planted_at = time.time()
    eventually(lambda: _status(storage).ended, 80)
    status = _status(storage)
    decision = status.decisions[-1]
    assert status.decided_at is not None
    after = [
        seen for seen in clients.seen if planted_at < seen.ended_at and seen.began_at < status.decided_at.timestamp()
    ]
    print(
        f"{fault}: rolled back {status.decided_at.timestamp() - planted_at:.1f} s and "
        f"{sum(seen.revision == CANARY for seen in after)} canary requests after it was planted "
        f"({sum(bool(seen.problem) for seen in after)} users saw a failure): {decision.message}"
    )
    assert (status.phase, decision.action, decision.reason) == ("rolled_back", "rollback", reason)
    eventually(lambda: all(seen.revision == STABLE and not seen.problem for seen in clients.seen[-20:]), 30)


@pytest.mark.long
@pytest.mark.chaos
def test_the_one_stable_replica_is_killed_and_nobody_who_had_no_token_is_lost(
    clients: Clients, served: Served, tiny_model: Path, tmp_path: Path
) -> None:
    """Those without a token wait for vLLM to start again, which then holds the same adapters; the engine's own process does not
    outlive its server."""
    held = adapter(served, registry.resolve(served.storage, NAME, STABLE), tiny_model, tmp_path / "peft", 4)
    assert held.revision in attach(served.storage, held)[0].adapters
    (pid,) = replicas(f"SERVE_REPLICA::rev-{STABLE}#")
    engine = psutil.Process(pid).children(recursive=True)
    before = len(clients.seen)
    clients.wait_for(10)
    os.kill(pid, signal.SIGKILL)
    killed_at = time.time()
    clients.wait_for(40, timeout_s=120)
    after = clients.seen[before:]
    waits = sorted(seen.ended_at - killed_at for seen in after if seen.began_at < killed_at < seen.ended_at)
    print(
        f"{len(after)} requests, {sum(seen.lost for seen in after)} lost without a token, "
        f"{sum(bool(seen.problem) for seen in after)} streams broken after one; those in flight ended after {waits} s"
    )
    assert [seen for seen in after if seen.lost] == []
    assert living(psutil.wait_procs(engine, timeout=10)[1]) == []
    assert held.revision in tell(STABLE)[0].adapters
