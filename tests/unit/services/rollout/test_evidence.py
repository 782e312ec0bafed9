"""Evidence: what counts as what, once, within bounds, and after a crash; and what gateways tell of the traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cluster.storage import LocalStorage
from services.config import RolloutConfig
from services.contract import Outcome, RequestRecord, Role
from services.rollout import evidence as module
from services.rollout.evidence import EvidenceStore, count
from services.rollout.gateways import LIVE_S, SETTLE_S, Gateways
from services.rollout.policy import Counts
from services.rollout.status import RolloutStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATUS = RolloutStatus(
    id="r",
    name="m",
    candidate="m-2",
    stable="m-1",
    config=RolloutConfig(),
    weight_percent=1,
    started_at=NOW,
    step_started_at=NOW,
)


def record(
    number: int, role: Role = "canary", outcome: Outcome = "ok", ttft_s: float | None = 0.1, revision: str | None = None
) -> RequestRecord:
    return RequestRecord(
        request_id=str(number),
        revision=revision or {"stable": "m-1", "canary": "m-2"}[role],
        role=role,
        bucket=0.5,
        outcome=outcome,
        status=200,
        ttft_s=ttft_s,
        duration_s=7.0,
        num_output_chunks=1,
        at=NOW,
    )


@pytest.mark.parametrize(
    ("outcome", "ttft_s", "counted"),
    [
        ("ok", 0.1, Counts(num_requests=1, waits_s=(0.1,))),
        ("ok", None, Counts(num_requests=1)),
        ("http_error", None, Counts(num_requests=1, num_harmful=1)),
        ("stream_error", 0.1, Counts(num_requests=1, num_harmful=1, waits_s=(0.1,))),
        ("empty", None, Counts(num_requests=1, num_harmful=1)),
        ("cancelled", 0.1, Counts(waits_s=(0.1,))),
        ("cancelled", None, Counts(waits_s=(7.0,))),
    ],
)
def test_what_a_record_counts_as(outcome: Outcome, ttft_s: float | None, counted: Counts) -> None:
    assert count([record(1, outcome=outcome, ttft_s=ttft_s)]) == counted


def test_a_record_told_twice_counts_once_and_other_revisions_do_not_count(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add(1, [record(1), record(1, "stable"), record(2, revision="m-0")])
    store.add(1, [record(1)])
    seen = store.evidence(1)
    assert (seen.canary.num_requests, seen.stable.num_requests) == (1, 1)


def test_each_window_begins_anew_but_stable_may_be_looked_back_at(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add(1, [record(1), record(2, "stable")])
    store.add(2, [record(3)])
    assert store.evidence(2) == module.Evidence(canary=count([record(3)]))
    assert store.evidence(2, stable_window=1).stable.num_requests == 1


def test_memory_is_bounded_and_the_oldest_go_first(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 10)
    store = EvidenceStore(storage, STATUS)
    store.add(1, [record(number, outcome="empty" if number < 90 else "ok") for number in range(100)])
    assert store.evidence(1).canary.num_requests == 10
    assert store.evidence(1).canary.num_harmful == 0


def test_what_was_flushed_is_there_after_a_crash(storage: LocalStorage) -> None:
    before = EvidenceStore(storage, STATUS)
    before.add(1, [record(1, outcome="empty", ttft_s=None)])
    before.flush()
    before.add(2, [record(2), record(3, "stable")])
    before.flush()
    before.flush()  # nothing new: no file
    after = EvidenceStore(storage, STATUS)
    assert [after.evidence(window) for window in (1, 2)] == [before.evidence(window) for window in (1, 2)]
    after.add(2, [record(2), record(4)])
    after.flush()
    names = [key.rsplit("/", 1)[1] for key in storage.list("rollouts/m/r")]
    assert names == [f"evidence-{number:06d}.parquet" for number in (1, 2, 3)]
    assert EvidenceStore(storage, STATUS).evidence(2).canary.num_requests == 2


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_weight_is_applied_when_the_last_living_gateway_says_so() -> None:
    gateways = Gateways(NOW)
    gateways.tell("a", 1, at(SETTLE_S))
    gateways.tell("b", 1, at(SETTLE_S))
    assert gateways.applied_at(2, at(3), at(3)) is None
    gateways.tell("a", 2, at(3.3))
    assert gateways.applied_at(2, at(3), at(3.4)) is None
    gateways.tell("b", 3, at(3.6))  # a later version does as well
    gateways.tell("a", 2, at(4))
    assert gateways.applied_at(2, at(3), at(4)) == at(3.6)


def test_a_gateway_not_heard_of_is_not_waited_for() -> None:
    gateways = Gateways(NOW)
    gateways.tell("dead", 1, at(1))
    gateways.tell("alive", 2, at(2))
    assert gateways.applied_at(2, at(2), at(1 + LIVE_S - 0.1)) is None
    assert gateways.applied_at(2, at(2), at(1 + LIVE_S)) == at(2)


def test_right_after_a_restart_not_every_gateway_was_heard_of_yet() -> None:
    gateways = Gateways(NOW)
    gateways.tell("first", 2, at(0.1))
    assert gateways.applied_at(2, at(-1), at(SETTLE_S - 0.1)) is None
    assert gateways.applied_at(2, at(-1), at(SETTLE_S)) == at(0.1)


def test_without_a_gateway_a_weight_is_in_force_once_that_is_sure() -> None:
    gateways = Gateways(NOW)
    assert gateways.applied_at(2, at(10), at(10 + LIVE_S - 0.1)) is None
    assert gateways.applied_at(2, at(10), at(10 + LIVE_S)) == at(10 + LIVE_S)
