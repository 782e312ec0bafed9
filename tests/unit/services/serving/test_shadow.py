"""Copies to a canary without users: who is copied, what is compared, and that a slow canary only loses copies."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from services.config import ShadowConfig
from services.contract import Traffic
from services.serving.attempt import Attempt
from services.serving.records import Watch
from services.serving.shadow import Comparison, Shadow, chosen, compare
from tests.unit.services.serving.test_attempt import HANG, Chunks


def traffic(canary: str | None, weight_percent: float) -> Traffic:
    return Traffic(name="m", stable="m-1", canary=canary, weight_percent=weight_percent, changed_at=datetime.now(UTC))


def watch(text: str, finish: str = "stop") -> Watch:
    found = Watch(0.0, keeps_texts=True)
    found.see_whole({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": finish}]}, 1.0)
    return found


def event(text: str, finish: str = "null") -> str:
    return f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}\n\n'


def test_a_share_of_requests_is_copied_and_only_while_the_canary_has_no_users() -> None:
    draws = [number / 100 for number in range(100)]
    assert [sum(chosen(draw, traffic("m-2", 0), percent) for draw in draws) for percent in (0, 10, 100)] == [0, 10, 100]
    assert not any(chosen(0.0, traffic(canary, weight), 100) for canary, weight in ((None, 0), ("m-2", 0.1)))


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

    async def offered() -> None:
        config = ShadowConfig(percent=100, max_concurrent=2, timeout_s=timeout_s)
        shadow = Shadow(config, "m", lambda attempt, comparison: told.append((attempt, comparison)))
        for chunks in canaries:
            shadow.offer("m-2", watch("Hello"), lambda chunks=chunks: chunks)
        while shadow._running:
            await asyncio.sleep(0.01)

    asyncio.run(offered())
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
