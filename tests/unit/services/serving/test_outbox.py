"""The outbox never loses what was not delivered, never grows without bound and never waits."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from services.contract import RequestRecord
from services.serving import outbox
from services.serving.outbox import Outbox


class Call:
    """A call whose fate the test decides."""

    def __init__(self, version: int, records: list[dict[str, Any]]) -> None:
        self.version, self.ids = version, [record["request_id"] for record in records]
        self.fate: bool | None = None

    def result(self) -> bool | None:
        return self.fate


class Actor:
    def __init__(self) -> None:
        self.present = True
        self.calls: list[Call] = []

    def send(self, version: int, records: list[dict[str, Any]]) -> Call | None:
        if not self.present:
            return None
        self.calls.append(Call(version, records))
        return self.calls[-1]


def record(number: int) -> RequestRecord:
    return RequestRecord(
        request_id=str(number),
        revision="m-1",
        role="stable",
        bucket=0.5,
        outcome="ok",
        status=200,
        ttft_s=0.1,
        duration_s=0.2,
        num_output_chunks=3,
        at=datetime.now(UTC),
    )


def test_records_go_out_with_the_version_applied_and_a_heartbeat_follows_when_there_are_none() -> None:
    actor = Actor()
    box = Outbox(actor.send, lambda: 7)
    box.add(record(1))
    box.tick(0.0)
    actor.calls[0].fate = True
    box.tick(0.5)
    box.tick(1.0)
    assert [(call.version, call.ids) for call in actor.calls] == [(7, ["1"]), (7, [])]


def test_another_version_is_told_without_waiting_for_the_heartbeat() -> None:
    actor, versions = Actor(), iter([7, 7, 8])
    box = Outbox(actor.send, lambda: next(versions))
    for now_s in (0.0, 0.1, 0.2):
        box.tick(now_s)
        actor.calls[-1].fate = True
    assert [call.version for call in actor.calls] == [7, 8]


def test_one_call_at_a_time_and_a_lost_one_is_sent_again_in_order() -> None:
    actor = Actor()
    box = Outbox(actor.send, lambda: 1)
    box.add(record(1))
    box.add(record(2))
    box.tick(0.0)
    box.add(record(3))
    box.tick(0.5)
    assert len(actor.calls) == 1
    actor.calls[0].fate = False
    box.tick(1.0)
    assert actor.calls[1].ids == ["1", "2", "3"]


def test_a_call_without_an_answer_is_given_up_after_a_while() -> None:
    actor = Actor()
    box = Outbox(actor.send, lambda: 1)
    box.add(record(1))
    box.tick(0.0)
    box.tick(outbox.GIVE_UP_S - 1)
    assert len(actor.calls) == 1
    box.tick(outbox.GIVE_UP_S)
    assert actor.calls[1].ids == ["1"]


def test_without_an_actor_the_newest_records_are_kept_and_sent_when_it_comes() -> None:
    actor = Actor()
    actor.present = False
    lost: list[int] = []
    box = Outbox(actor.send, lambda: 1, lost.append)
    for number in range(outbox.MAX_KEPT + 5):
        box.add(record(number))
    box.tick(0.0)
    box.tick(0.5)
    actor.present = True
    sent: list[str] = []
    for second in range(1, 10):
        box.tick(float(second))
        if actor.calls and actor.calls[-1].fate is None:
            sent += actor.calls[-1].ids
            actor.calls[-1].fate = True
    assert sent == [str(number) for number in range(5, outbox.MAX_KEPT + 5)]
    assert sum(lost) == 5, "what went is told"


def test_what_no_longer_fits_when_a_call_comes_back_is_told() -> None:
    actor, lost = Actor(), list[int]()
    box = Outbox(actor.send, lambda: 1, lost.append)
    for number in range(3):
        box.add(record(number))
    box.tick(0.0)
    for number in range(outbox.MAX_KEPT - 1):
        box.add(record(number))
    actor.calls[0].fate = False
    box.tick(0.5)
    assert lost == [2]


def test_a_gateway_that_ends_waits_until_all_is_taken() -> None:
    actor, lost = Actor(), list[int]()
    box = Outbox(actor.send, lambda: 1, lost.append)
    for number in range(outbox.MAX_BATCH + 3):
        box.add(record(number))
    box.tick(0.0)
    actor.calls[0].fate = True
    threading.Timer(0.05, lambda: setattr(actor.calls[-1], "fate", True)).start()
    box.close(patience_s=5)
    assert sum(len(call.ids) for call in actor.calls) == outbox.MAX_BATCH + 3
    assert lost == []


@pytest.mark.parametrize("present", [True, False])
def test_what_nobody_takes_from_a_gateway_that_ends_is_counted_and_said(
    present: bool, caplog: pytest.LogCaptureFixture
) -> None:
    actor, lost = Actor(), list[int]()
    actor.present = present  # and never answers
    box = Outbox(actor.send, lambda: 1, lost.append)
    for number in range(3):
        box.add(record(number))
    box.start()
    with caplog.at_level("WARNING", "serinus.gateway"):
        box.close(patience_s=0.1)
        box.add(record(3))  # a copy that ends after its gateway
    box.close(patience_s=0.1)
    assert lost == [3, 1]
    said = [entry.message.partition(":")[0] for entry in caplog.records]
    assert said == ["3 record(s) of requests are lost", "1 record(s) of requests are lost"]


def test_a_full_outbox_says_so_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    actor = Actor()
    actor.present = False
    box = Outbox(actor.send, lambda: 1)
    with caplog.at_level("WARNING", "serinus.gateway"):
        for number in range(outbox.MAX_KEPT):
            box.add(record(number))
        for now_s in (0.0, 1.0, 2.0, outbox.SAY_EVERY_S):
            box.add(record(0))
            box.tick(now_s)
    assert [entry.message.split()[0] for entry in caplog.records] == ["1", "3"]


def test_a_call_that_cannot_be_made_loses_nothing() -> None:
    actor, fails = Actor(), [True]

    def send(version: int, records: list[dict[str, Any]]) -> Call | None:
        if fails.pop():
            raise RuntimeError("Ray is away")
        return actor.send(version, records)

    fails.insert(0, False)
    box = Outbox(send, lambda: 1)
    box.add(record(1))
    with pytest.raises(RuntimeError):
        box.tick(0.0)
    box.tick(0.5)
    assert actor.calls[0].ids == ["1"]
