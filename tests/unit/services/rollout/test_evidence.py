"""Evidence: what counts as what, once, within bounds, and after a crash; and what gateways tell of the traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cluster.storage import LocalStorage
from services.config import RolloutConfig
from services.contract import Outcome, PairedScore, RequestRecord, Role
from services.rollout import evidence as module
from services.rollout.evidence import EvidenceStore
from services.rollout.findings import Evidence
from services.rollout.gateways import LIVE_S, SETTLE_S, Gateways
from services.rollout.looks import stored_looks, stored_scores
from services.rollout.status import Decision, RolloutStatus

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


FIRST = Decision(action="set_weight", verdict="inconclusive", reason="started", message="", weight_percent=1, at=NOW)
STATUS = STATUS.replace(decisions=(FIRST,), weight_applied_at=NOW)
SECOND = STATUS.replace(decisions=(FIRST, FIRST))


def counts(evidence: Evidence) -> tuple[int, int, int, int]:
    stable, canary = evidence.stable, evidence.canary
    return stable.num_requests, stable.num_harmful, canary.num_requests, canary.num_harmful


def test_a_record_told_twice_counts_once_and_other_revisions_do_not_count(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add([record(1), record(1, "stable"), record(2, revision="m-0")])
    store.add([record(1)])
    assert counts(store.look(STATUS, NOW)) == (1, 0, 1, 0)


def test_what_is_told_late_of_an_earlier_rollout_of_the_same_candidate_does_not_count(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    late, own = (
        record(number, outcome="truncated").replace(rollout=id) for number, id in ((1, "earlier"), (2, STATUS.id))
    )
    store.add([late, late.replace(role="stable", revision="m-1"), own])
    assert counts(store.look(STATUS, NOW)) == (0, 0, 1, 1)


def test_a_replicas_death_counts_once_however_many_requests_it_took_along(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    lost = [record(number, outcome="unavailable", ttft_s=None) for number in range(1, 6)]
    store.add([one.replace(replica="ab" if one.request_id != "5" else "cd") for one in lost])
    store.add([record(6)])
    assert counts(store.look(STATUS, NOW)) == (0, 0, 3, 2)
    store.flush()
    again = EvidenceStore(storage, STATUS)
    again.add([lost[0].replace(replica="cd"), record(7)])
    assert counts(again.look(STATUS, NOW)) == (0, 0, 4, 2)


def test_each_stretch_begins_anew_and_a_look_without_records_is_none(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add([record(1, outcome="empty"), record(2, "stable")])
    assert counts(store.look(STATUS, NOW)) == (1, 0, 1, 1)
    again = store.look(STATUS, NOW)
    assert (again.look, counts(again)) == (1, (1, 0, 1, 1))
    assert counts(store.look(SECOND, NOW)) == (0, 0, 0, 0)
    store.add([record(3)])
    seen = store.look(SECOND, NOW)
    assert (seen.look, counts(seen)) == (2, (0, 0, 1, 0))


def test_what_comes_before_the_new_weight_is_in_force_belongs_to_the_old_stretch(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add([record(1)])
    store.look(STATUS, NOW)
    store.add([record(2)])
    assert store.look(SECOND.replace(weight_applied_at=None), NOW).canary.num_requests == 2
    assert store.look(SECOND, NOW).canary.num_requests == 0


def test_identities_are_remembered_within_bounds(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    store = EvidenceStore(storage, STATUS)
    store.add([record(number) for number in range(100)])
    store.add([record(99), record(0)])  # the newest is known, the oldest forgotten
    assert store.look(STATUS, NOW).canary.num_requests == 101


def test_a_killed_controller_comes_back_to_the_same_evidence(storage: LocalStorage) -> None:
    before = EvidenceStore(storage, STATUS)
    fields = {"prompt_tokens": 900, "cached_tokens": 100, "output_tokens": 12, "tpot_s": 0.03}
    for number in range(30):
        status = STATUS if number < 15 else SECOND
        side: Role = "canary" if number % 3 == 0 else "stable"
        records = [
            record(100 * number + k, side, "empty" if k == 7 else "ok", ttft_s=0.3 + k / 100).replace(
                bucket=(number + k / 50) / 30, failed_over=side == "canary", **fields
            )
            for k in range(50)
        ]
        before.add(records)
        before.add_scores([PairedScore(item=f"i{number}", stable=0.9, canary=0.4, at=NOW)])
        seen = before.look(status, at(number))
    before.flush()
    before.flush()  # nothing new: no file
    after = EvidenceStore(storage, SECOND)
    assert after.look(SECOND, at(99)) == seen
    assert seen.findings[0].log_harm != 0
    assert all(finding.num_canary for finding in seen.findings)
    after.add([record(2900 + 3, "stable").replace(bucket=0.1), record(9999)])
    assert after.look(SECOND, at(100)).look == 31
    after.flush()
    names = sorted(key.rsplit("/", 1)[1] for key in storage.list("rollouts/m/r"))
    assert names == ["evidence-000001.parquet", "evidence-000002.parquet", "scores-000001.parquet"]
    looks = list(stored_looks(storage, SECOND))
    assert [look.number for look in looks] == list(range(1, 32))
    assert looks[3].records[0].replace(**fields) == looks[3].records[0]


def test_a_write_that_fails_loses_nothing(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add([record(1), record(2, "canary")])
    store.add_scores([PairedScore(item="i", stable=0.9, canary=0.4, at=NOW)] * 2)  # told twice
    store.look(STATUS, NOW)

    def full(*_: object, **__: object) -> str:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", full)
        with pytest.raises(OSError, match="no space"):
            store.flush()
    store.flush()
    (look,) = stored_looks(storage, STATUS)
    assert (len(look.records), len(look.scores)) == (2, 1)


def test_an_item_counts_once_in_a_rollout_also_after_a_crash(storage: LocalStorage) -> None:
    store = EvidenceStore(storage, STATUS)
    store.add_scores(
        [PairedScore(item="i", stable=1, canary=0, at=NOW), PairedScore(item="j", stable=1, canary=1, at=NOW)]
    )
    assert store.scored() == {"i", "j"}
    store.look(STATUS, NOW)
    store.flush()
    after = EvidenceStore(storage, STATUS)
    after.add_scores([PairedScore(item="i", stable=1, canary=0, at=at(60))])  # asked again: the same number, no news
    assert after.look(STATUS, at(60)).findings[3].num_canary == 2
    assert [(score.item, score.canary) for score in stored_scores(storage, STATUS)] == [("i", 0), ("j", 1)]


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
