"""An engine that was scaled to zero is woken by one request, and nobody's turn waits for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.storage import LocalStorage
from services.engines import EngineReport, change_order
from services.rollout import applications
from services.rollout.applications import RayApplications


class Knock:
    def __init__(self, outcome: Exception | None) -> None:
        self.outcome = outcome

    def result(self, timeout_s: float) -> str:
        assert timeout_s == 0
        if self.outcome is not None:
            raise self.outcome
        return "settings"


class Serve:
    """One engine; tells how often it was knocked at."""

    def __init__(self) -> None:
        self.num_running = 0
        self.knocks: list[Knock] = []

    def running(self, engine: str) -> int:
        return self.num_running

    def knock(self, engine: str) -> Knock:
        self.knocks.append(Knock(TimeoutError()))
        return self.knocks[-1]

    def tell(self, engine: str, timeout_s: float) -> tuple[EngineReport, ...]:
        assert self.num_running
        return (EngineReport(replica="r", max_replicas=4),)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Serve:
    found = Serve()
    replaced: dict[str, Any] = {"num_running": found.running, "knock": found.knock, "tell": found.tell}
    for name, function in replaced.items():
        monkeypatch.setattr(applications, name, function)
    return found


def test_an_engine_at_zero_is_knocked_at_once_until_it_has_answered(engines: Serve, storage: LocalStorage) -> None:
    asked = RayApplications("m", storage.uri)
    assert [asked.tell("m-1") for _ in range(3)] == [0, 0, 0]
    assert len(engines.knocks) == 1
    engines.knocks[0].outcome = RuntimeError("the replica died")
    assert asked.tell("m-1") == 0
    assert len(engines.knocks) == 2
    engines.knocks[1].outcome = None
    engines.num_running = 1
    assert asked.tell("m-1") == 4
    engines.num_running = 0  # idle again, and wanted again
    assert asked.tell("m-1") == 0
    assert len(engines.knocks) == 3


def test_an_engine_that_is_being_stopped_is_not_loaded(monkeypatch: pytest.MonkeyPatch, storage: LocalStorage) -> None:
    states = {"rev-m-1": "DELETING", "rev-m-2": "RUNNING", "rev-m-3": "DEPLOYING", "gateway": "RUNNING"}
    found = {name: SimpleNamespace(status=status) for name, status in states.items()}
    monkeypatch.setattr(applications, "_applications", lambda: found)
    change_order(storage, "m", "m-1", lambda order: order.replace(adapters={"m-4": "folder"}))
    assert RayApplications("m", storage.uri).running() == {"m-2", "m-3"}  # nor is the adapter m-4 in it
    change_order(storage, "m", "m-2", lambda order: order.replace(stopping=True))
    assert RayApplications("m", storage.uri).running() == {"m-3"}
