"""What becomes of a request, told from recorded chunk sequences."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from services.serving.records import Watch, without_usage


def chunk(**delta: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


ROLE = chunk(role="assistant", content="")
HELLO, WORLD = chunk(content="Hel"), chunk(content="lo")
SECOND = 'data: {"choices":[{"index":1,"delta":{"content":"Other"},"finish_reason":null}]}\n\n'
STOP = 'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = 'data: {"object":"chat.completion.chunk","choices":[],"usage":{"total_tokens":3}}\n\n'
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error": {"message": "Internal server error", "type": "InternalServerError", "code": 500}}\n\n'
TEXT = 'data: {"object":"text_completion","choices":[{"index":0,"text":" Paris","finish_reason":null}]}\n\n'
TOOL = chunk(tool_calls=[{"index": 0, "function": {"name": "weather"}}])
JUNK = "data: {not json\n\n"
LINES = 'data: {"choices":[{"index":0,"delta":{"content":"a\u2028b\u2029c\x85d"},"finish_reason":null}]}\n\n'
"""As pydantic writes these characters: as they are."""


def ended(reason: str, stop_reason: str | None = None, tokens: int = 1) -> str:
    choice = {"index": 0, "delta": {}, "finish_reason": reason, "stop_reason": stop_reason}
    return f"data: {json.dumps({'choices': [choice], 'usage': {'completion_tokens': tokens}})}\n\n"


def watched(*chunks: str) -> Watch:
    """Each chunk comes a second after the one before, the first one a second after the request."""
    watch = Watch(started_s=100.0)
    for second, text in enumerate(chunks, 101):
        watch.see_events(text, float(second))
    return watch


@pytest.mark.parametrize(
    ("chunks", "outcome", "num_chunks", "ttft_s"),
    [
        ((ROLE, HELLO, WORLD, STOP, DONE), "ok", 2, 2.0),
        ((ROLE + HELLO + WORLD, STOP + DONE), "ok", 2, 1.0),
        ((TEXT, STOP, DONE), "ok", 1, 1.0),
        ((TEXT, DONE), "truncated", 1, 1.0),
        ((ROLE, HELLO, SECOND, STOP, DONE), "truncated", 2, 2.0),
        ((ROLE, TOOL, STOP, DONE), "ok", 1, 2.0),
        ((HELLO, STOP, USAGE, DONE), "ok", 1, 1.0),
        ((ROLE, STOP, DONE), "empty", 0, None),
        ((DONE,), "empty", 0, None),
        ((ROLE, HELLO, ERROR, DONE), "stream_error", 1, 2.0),
        ((ERROR, DONE), "stream_error", 0, None),
        ((ROLE, HELLO), "stream_error", 1, 2.0),
        ((), "stream_error", 0, None),
        ((HELLO, JUNK, DONE), "stream_error", 1, 1.0),
        ((LINES, STOP, DONE), "ok", 1, 1.0),
        ((ended("stop", "\n"), DONE), "ok", 0, None),
        ((ended("stop"), DONE), "empty", 0, None),
        ((ended("length", tokens=4), DONE), "ok", 0, None),
        ((ended("length", tokens=5), DONE), "empty", 0, None),
    ],
)
def test_a_stream_is_judged_by_what_came_through_it(
    chunks: tuple[str, ...], outcome: str, num_chunks: int, ttft_s: float | None
) -> None:
    watch = watched(*chunks)
    record = watch.record(110.0, datetime.now(UTC), request_id="r", role="canary", revision="m-2", place=0.25)
    assert (record.outcome, record.num_output_chunks, record.ttft_s) == (outcome, num_chunks, ttft_s)
    assert (record.status, record.role, record.revision, record.bucket) == (200, "canary", "m-2", 0.25)


def test_the_duration_ends_with_the_stream_and_not_with_the_client_that_reads_it_late() -> None:
    record = watched(HELLO, DONE).record(150.0, datetime.now(UTC), request_id="r", role="stable", revision="m", place=0)
    assert record.duration_s == 2.0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}, "ok"),
        ({"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}}]}, "ok"),
        ({"choices": [{"text": " Paris"}]}, "ok"),
        ({"choices": [{"message": {"role": "assistant", "content": ""}}]}, "empty"),
        ({"choices": [{"text": ""}]}, "empty"),
        ({"choices": []}, "empty"),
    ],
)
def test_an_answer_in_one_piece_is_judged_by_its_content(answer: dict[str, Any], outcome: str) -> None:
    watch = Watch(started_s=1.0)
    watch.see_whole(answer, 1.5)
    assert watch.outcome == outcome


def test_a_client_that_goes_away_is_no_fault_of_the_revision_unless_it_had_failed_before() -> None:
    gone, failed, satisfied = watched(HELLO), watched(HELLO, ERROR), watched(HELLO, STOP, DONE)
    for watch in (gone, failed, satisfied):
        watch.cancelled = True
    assert (gone.outcome, failed.outcome, satisfied.outcome) == ("cancelled", "stream_error", "ok")


def test_an_error_status_is_an_http_error_and_has_no_ttft() -> None:
    watch = Watch(started_s=1.0)
    watch.fail(503, 1.25)
    record = watch.record(9.0, datetime.now(UTC), request_id="r", role="canary", revision="m-2", place=0)
    assert (record.outcome, record.status, record.ttft_s, record.duration_s) == ("http_error", 503, None, 0.25)


def test_the_error_inside_a_stream_is_handed_on() -> None:
    error = Watch(started_s=0).see_events(ERROR, 1)
    assert error is not None
    assert error["code"] == 500


def usage(**tokens: Any) -> str:
    return f"data: {json.dumps({'choices': [], 'usage': tokens})}\n\n"


def test_tokens_and_the_time_of_each_are_on_record() -> None:
    told = usage(prompt_tokens=7, completion_tokens=5, prompt_tokens_details={"cached_tokens": 4})
    watch = watched(HELLO, WORLD, WORLD, STOP, told, DONE)
    record = watch.record(110.0, datetime.now(UTC), request_id="r", role="stable", revision="m", place=0)
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (7, 4, 5)
    assert record.tpot_s == 0.5  # four tokens after the first, in two seconds


@pytest.mark.parametrize(
    ("chunks", "tpot_s"),
    [
        ((HELLO, SECOND, WORLD, STOP, usage(completion_tokens=6), DONE), 1.0),  # 2 choices of 3 tokens, side by side
        ((HELLO, STOP, usage(completion_tokens=4), DONE), None),  # one chunk has no time between tokens
        ((HELLO, WORLD, STOP, DONE), None),
        ((HELLO, WORLD, usage(completion_tokens=2)), None),
        ((HELLO, WORLD, STOP, usage(completion_tokens=1), DONE), None),
    ],
)
def test_time_per_token_is_told_only_where_it_can_be(chunks: tuple[str, ...], tpot_s: float | None) -> None:
    assert watched(*chunks).tpot_s == tpot_s


def test_an_answer_in_one_piece_has_tokens_and_no_time_per_token() -> None:
    watch = Watch(started_s=1.0)
    watch.see_whole({"choices": [{"text": "Hi"}], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}, 2.0)
    record = watch.record(2.0, datetime.now(UTC), request_id="r", role="stable", revision="m", place=0)
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens, record.tpot_s) == (3, None, 9, None)


def test_only_events_of_usage_alone_are_taken_out() -> None:
    told = 'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
    quoted = chunk(content='"choices":[]')
    assert without_usage(HELLO + told + DONE) == HELLO + DONE
    assert without_usage(told) == ""
    assert without_usage(quoted + DONE) == quoted + DONE


def test_the_body_tells_the_prompts_length_where_vllm_did_not() -> None:
    def told(watch: Watch) -> int | None:
        who = {"request_id": "r", "role": "canary", "revision": "m-2", "place": 0.25}
        return watch.record(110.0, datetime.now(UTC), **who, num_body_bytes=400).prompt_tokens  # type: ignore[arg-type]

    assert told(watched(ROLE)) == 100
    assert told(watched(HELLO, USAGE.replace("total_tokens", "prompt_tokens"), DONE)) == 3
