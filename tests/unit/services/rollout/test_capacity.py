"""Going back waits for what rested, also when it is not reached at first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import UserError
from cluster.storage import LocalStorage
from services.contract import Traffic, read_traffic, write_traffic
from services.engines import Order, change_order, claim_stop, read_engines
from services.rollout import acts, capacity
from tests.unit.services.rollout.world import CANDIDATE, STABLE, FakeApplications

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


class Stopping(FakeApplications):
    """Stopping an engine takes a while, in which `meanwhile` happens."""

    def __init__(self, storage: LocalStorage, meanwhile: Callable[[FakeApplications], None]) -> None:
        super().__init__(storage)
        self.meanwhile = meanwhile

    def remove(self, revision: str) -> None:
        self.meanwhile(self)
        super().remove(revision)


OTHER = "m-00000000"
"""Its engine rests too, and is stopped first."""


def rests(storage: LocalStorage, *engines: str) -> None:
    for engine in engines:
        change_order(storage, "m", engine, lambda order: order.replace(resting_since=NOW))


def test_an_engine_that_was_woken_while_another_one_was_stopped_is_not_stopped(storage: LocalStorage) -> None:
    traffic = Traffic(name="m", stable=CANDIDATE, changed_at=NOW)
    applications = Stopping(storage, lambda serve: capacity.wake(storage, traffic, STABLE, serve) and None)
    applications.loaded.add(OTHER)
    rests(storage, OTHER, STABLE)
    capacity.stop_rested(storage, "m", applications, 0, NOW)
    assert applications.removed == [OTHER]
    assert read_engines(storage, "m").order(STABLE).resting_since is None


def test_an_engine_whose_stop_has_begun_is_not_chosen_though_it_still_runs(storage: LocalStorage) -> None:
    refused: list[str] = []
    write_traffic(storage, Traffic(name="m", stable=CANDIDATE, changed_at=NOW))
    for key, revision in {"1": STABLE, "2": CANDIDATE}.items():
        registry.publish_revision(storage, Revision(key=key * 16, name="m", revision=revision, weights="w"))
    registry.move_aliases(storage, "m", {"stable": CANDIDATE, "previous": STABLE})

    def go_back(serve: FakeApplications) -> None:
        assert STABLE in serve.running()
        with pytest.raises(UserError, match="no longer loaded") as error:
            acts.revert(storage, "m", serve, "ann", NOW)
        refused.append(error.value.where)

    applications = Stopping(storage, go_back)
    rests(storage, STABLE)
    capacity.stop_rested(storage, "m", applications, 0, NOW)
    assert (applications.removed, refused) == ([STABLE], [f"revision {STABLE}"])
    assert registry.aliases(storage, "m")["stable"] == CANDIDATE
    found = read_traffic(storage, "m")
    assert found is not None
    assert found[0].stable == CANDIDATE


def test_a_stop_that_was_broken_off_is_finished(storage: LocalStorage) -> None:
    applications = FakeApplications(storage)
    rests(storage, STABLE)
    assert claim_stop(storage, "m", STABLE, NOW)  # and then its process is killed
    capacity.stop_rested(storage, "m", applications, 0, NOW)
    assert applications.removed == [STABLE]
    assert read_engines(storage, "m").order(STABLE) == Order()
