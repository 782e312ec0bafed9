"""Going back waits for what rested, also when it is not reached at first."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cluster.storage import LocalStorage
from services.contract import Traffic
from services.engines import Order, change_order, read_engines
from services.rollout import capacity
from tests.unit.services.rollout.test_loop import CANDIDATE, STABLE, FakeApplications

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Restarting(FakeApplications):
    """The resting replica has just died: nobody answers there before the third question, then replicas come."""

    def tell(self, engine: str) -> int:
        super().tell(engine)
        self.num_replicas[engine] = len(self.told) - 1
        return self.most if len(self.told) > 2 else 0


def test_nobody_is_put_on_an_engine_before_it_has_been_reached(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WAKE_POLL_S", 0.001)
    applications = Restarting(storage)
    applications.most, applications.num_replicas[CANDIDATE] = 8, 2
    change_order(storage, "m", STABLE, lambda order: order.replace(resting_since=NOW))
    traffic = Traffic(name="m", stable=CANDIDATE, changed_at=NOW)
    assert "with 2 of 2 replicas" in capacity.wake(storage, traffic, STABLE, applications)
    assert applications.told == [STABLE] * 3
    assert read_engines(storage, "m").order(STABLE) == Order(floor=2)


def test_patience_with_an_engine_that_is_never_reached_ends(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "WAKE_POLL_S", 0.001)
    monkeypatch.setattr(capacity, "WAKE_PATIENCE_S", 0.01)
    applications = FakeApplications(storage)
    applications.most, applications.num_replicas = 0, {CANDIDATE: 2, STABLE: 0}
    change_order(storage, "m", STABLE, lambda order: order.replace(resting_since=NOW))
    traffic = Traffic(name="m", stable=CANDIDATE, changed_at=NOW)
    assert "with 0 of 2 replicas" in capacity.wake(storage, traffic, STABLE, applications)
