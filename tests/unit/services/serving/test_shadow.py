"""Copies to a canary without users: who is copied, what is compared, and that a slow canary only loses copies."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from services.config import AdmissionConfig, ShadowConfig
from services.contract import Traffic
from services.serving.attempt import Attempt, Deadline
from services.serving.records import Watch
from services.serving.shadow import Comparison, Shadow, compare, says_nothing
from tests.unit.services.serving.test_attempt import HANG, Chunks


def traffic(canary: str | None, weight_percent: float) -> Traffic:
    return Traffic(name="m", stable="m-1", canary=canary, weight_percent=weight_percent, changed_at=datetime.now(UTC))


def watch(text: str, finish: str = "stop") -> Watch:
    found = Watch(0.0, keeps_texts=True)
    found.see_whole({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": finish}]}, 1.0)
    return found


def event(text: str, finish: str = "null") -> str:
    return f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}\n\n'


def nothing_told(attempt: Attempt | None, comparison: Comparison) -> None:
    raise AssertionError("no copy was under way")


@pytest.mark.parametrize("percent", [0, 10, 100])
def test_chance_says_before_anyone_is_asked_who_is_copied_and_who_is_compared_with(percent: float) -> None:
    shadow = Shadow(ShadowConfig(percent=percent, max_concurrent=1000), "m", nothing_told)
    lots = [shadow.cast(number / 100, traffic("m-2", 0)) for number in range(100)]
    assert [lot.copied for lot in lots if lot] == ([True] * percent + [False] * (100 - percent) if percent else [])


@pytest.mark.parametrize(("canary", "weight"), [(None, 0), ("m-2", 0.1)])
def test_a_canary_with_users_needs_no_copies(canary: str | None, weight: float) -> None:
    shadow = Shadow(ShadowConfig(percent=100), "m", nothing_told)
    assert shadow.cast(0.0, traffic(canary, weight)) is None


def test_while_no_place_is_free_no_request_takes_part_whatever_chance_would_say() -> None:
    told: list[Comparison] = []
    shadow = Shadow(ShadowConfig(percent=50, max_concurrent=1), "m", lambda _, comparison: told.append(comparison))
    first = shadow.cast(0.0, traffic("m-2", 0))
    assert first is not None
    assert [shadow.cast(draw, traffic("m-2", 0)) for draw in (0.0, 0.9)] == [None, None]
    assert told == [Comparison("dropped")]
    shadow.give_back(first)
    assert shadow.cast(0.9, traffic("m-2", 0)) is not None


def test_a_request_that_vanishes_leaves_its_place() -> None:
    shadow = Shadow(ShadowConfig(percent=100, max_concurrent=1), "m", nothing_told)
    assert shadow.cast(0.0, traffic("m-2", 0)) is not None  # nobody keeps it
    assert shadow.cast(0.0, traffic("m-2", 0)) is not None


@pytest.mark.parametrize(
    ("streamed", "begun", "timeout_s", "nothing"),
    [
        (True, False, 60.0, False),  # a user of the canary would have been left to stable by then
        (True, False, 10.0, True),
        (True, True, 60.0, True),
        (False, False, 60.0, True),
        (False, False, 600.0, False),
    ],
)
def test_a_copy_stopped_before_a_user_would_have_been_is_no_evidence(
    streamed: bool, begun: bool, timeout_s: float, nothing: bool
) -> None:
    copy = Attempt("canary", "m-2", "m", 0.0, Deadline(0.0, 0.0))
    config, admission = (
        ShadowConfig(percent=5, timeout_s=timeout_s),
        AdmissionConfig(canary_patience_s=60, timeout_s=600),
    )
    assert not says_nothing(copy, streamed, config, admission)
    copy.watch.timed_out, copy.watch.first_s = True, 1.0 if begun else None
    assert says_nothing(copy, streamed, config, admission) is nothing


@pytest.mark.parametrize(
    ("stable", "canary", "expected"),
    [
        (watch("Paris."), watch("Paris."), Comparison("exact", True, 1.0)),
        (watch("Paris."), watch("It is Paris.", "length"), Comparison("different", False, 2.0)),
        (watch("Paris."), watch(""), Comparison("failed")),
    ],
)
def test_replies_are_compared_by_text_finish_and_length(stable: Watch, canary: Watch, expected: Comparison) -> None:
    assert compare(stable, canary) == expected


def test_texts_of_streams_are_put_together_and_kept_only_where_asked() -> None:
    kept, other = Watch(0.0, keeps_texts=True), Watch(0.0)
    for one in (kept, other):
        one.see_events(event("Hel") + event("lo", '"stop"') + "data: [DONE]\n\n", 1.0)
    assert (kept.texts, kept.finish_reasons) == ({0: "Hello"}, {0: "stop"})
    assert other.texts == {}


def run_copies(canaries: list[Any], timeout_s: float = 5.0) -> list[tuple[Attempt | None, Comparison]]:
    """Offer a copy to each of `canaries` at once, two may run; what was told in the end."""
    told: list[tuple[Attempt | None, Comparison]] = []
    noted: list[Attempt] = []

    async def offered() -> None:
        config = ShadowConfig(percent=100, max_concurrent=2, timeout_s=timeout_s)
        shadow = Shadow(config, "m", lambda attempt, comparison: told.append((attempt, comparison)))
        for chunks in canaries:
            lot = shadow.cast(0.0, traffic("m-2", 0))
            if lot is not None:
                shadow.offer(lot, watch("Hello"), lambda chunks=chunks: chunks, noted.append)
        while shadow._running:
            await asyncio.sleep(0.01)
        assert not shadow._placed

    asyncio.run(offered())
    assert noted == [attempt for attempt, _ in told if attempt is not None]  # what is told is on record
    return told


def test_a_copy_is_asked_read_to_its_end_and_compared() -> None:
    chunks = Chunks([event("Hel")], [event("lo", '"stop"')], ["data: [DONE]\n\n"])
    ((attempt, comparison),) = run_copies([chunks])
    assert comparison == Comparison("exact", True, 1.0)
    assert attempt is not None
    assert attempt.watch.outcome == "ok"


def test_a_hanging_canary_takes_two_places_and_the_other_copies_are_dropped() -> None:
    told = run_copies([Chunks(HANG), Chunks(HANG), Chunks(HANG), Chunks(HANG)], timeout_s=0.05)
    assert [comparison.result for _, comparison in told] == ["dropped", "dropped", "failed", "failed"]


def test_a_canary_that_fails_is_told_as_failed() -> None:
    ((_, comparison),) = run_copies([Chunks(RuntimeError("out of memory"))])
    assert comparison == Comparison("failed")
