"""One attempt at one revision: what the user gets and what goes on record, for each way an answer can go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from services.serving.attempt import Attempt, Deadline

CHUNK = 'data: {"model":"m-2","choices":[{"delta":{"content":"say \\"model\\":\\"m-2\\""}}]}\n\n'
STOP = 'data: {"model":"m-2","choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = 'data: {"model":"m-2","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error": {"message": "m-2 is out of memory", "type": "InternalServerError", "code": 500}}\n\n'


HANG = object()


class Info(BaseModel):
    message: str
    type: str
    code: int
    param: str | None = None


class Refusal(BaseModel):
    error: Info


class Whole(BaseModel):
    model: str = "m-2"
    choices: list[dict[str, Any]] = [{"message": {"content": "Hi"}}]


class Chunks:
    """Stands for a handle's response generator: what the model server sends, in order."""

    def __init__(self, *items: Any) -> None:
        self.items, self.cancelled = iter(items), False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        item = next(self.items, None)
        if item is None:
            raise StopAsyncIteration
        if item is HANG:
            await asyncio.sleep(60)
        if isinstance(item, BaseException):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


PATIENT = Deadline(at_s=float("inf"), timeout_s=600)


async def answered(chunks: Chunks, deadline: Deadline = PATIENT, *, hide_usage: bool = False) -> tuple[Attempt, str]:
    attempt = Attempt("canary", "m-2", "m", 0.0, deadline, hide_usage=hide_usage)
    await attempt.ask(chunks)
    text = ""
    if attempt.failure is None and attempt.whole is None:
        async for piece in attempt.relay():
            text += piece
    return attempt, text


def test_a_stream_is_relayed_under_the_public_name_and_its_text_is_left_alone() -> None:
    attempt, text = asyncio.run(answered(Chunks([CHUNK], [CHUNK, STOP, DONE])))
    assert text.count('"model":"m"') == 3
    assert text.count('say \\"model\\":\\"m-2\\"') == 2
    assert attempt.watch.outcome == "ok"


def test_a_whole_answer_carries_the_public_name() -> None:
    attempt, _ = asyncio.run(answered(Chunks(Whole())))
    assert attempt.whole is not None
    assert attempt.whole["model"] == "m"
    assert attempt.watch.outcome == "ok"


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (Refusal(error=Info(message="m-2: too long", type="BadRequestError", code=400)), 400),
        ([Refusal(error=Info(message="m-2: too long", type="BadRequestError", code=400))], 400),
        ([ERROR], 500),
        (RuntimeError("replica died"), 500),
        ("", 502),
    ],
)
def test_a_failure_before_the_first_chunk_becomes_an_error_that_does_not_name_the_revision(
    first: Any, status: int
) -> None:
    attempt, _ = asyncio.run(answered(Chunks(first)))
    assert attempt.failure is not None
    assert attempt.failure.status == status
    assert "m-2" not in str(attempt.failure.body)
    assert attempt.watch.outcome == "http_error"


@pytest.mark.parametrize("end", [(), (RuntimeError("replica died"),)])
def test_a_stream_that_breaks_off_ends_with_an_error_event(end: tuple[Any, ...]) -> None:
    attempt, text = asyncio.run(answered(Chunks([CHUNK], *end)))
    assert '"error"' in text
    assert text.endswith(DONE)
    assert attempt.watch.outcome == "stream_error"


def test_an_error_inside_the_stream_is_passed_on_and_put_on_record() -> None:
    attempt, text = asyncio.run(answered(Chunks([CHUNK], [ERROR], [DONE])))
    assert text.count('"error"') == 1
    assert attempt.watch.outcome == "stream_error"


def test_a_client_that_goes_away_stops_the_model_server() -> None:
    async def leave() -> tuple[Attempt, Chunks]:
        chunks = Chunks([CHUNK], [CHUNK], [DONE])
        attempt = Attempt("stable", "m-2", "m", 0.0, PATIENT)
        await attempt.ask(chunks)
        stream = attempt.relay()
        await anext(stream)
        await stream.aclose()
        return attempt, chunks

    attempt, chunks = asyncio.run(leave())
    assert chunks.cancelled
    assert attempt.watch.outcome == "cancelled"


@pytest.mark.parametrize("batches", [([CHUNK], [STOP, USAGE], [DONE]), ([CHUNK, STOP], [USAGE, DONE])])
@pytest.mark.parametrize("hide_usage", [True, False])
def test_usage_goes_on_record_and_to_clients_who_asked_for_it(batches: tuple[list[str], ...], hide_usage: bool) -> None:
    attempt, text = asyncio.run(answered(Chunks(*batches), hide_usage=hide_usage))
    expected = "".join(event for batch in batches for event in batch if not (hide_usage and event == USAGE))
    assert text == expected.replace('"model":"m-2"', '"model":"m"')
    assert attempt.watch.usage["completion_tokens"] == 2
    assert attempt.watch.outcome == "ok"


@pytest.mark.parametrize(("by_client", "outcome"), [(False, "timeout"), (True, "cancelled")])
@pytest.mark.parametrize("chunks", [(HANG,), ([CHUNK], HANG)])
def test_an_answer_that_misses_its_deadline_is_stopped_and_told_as_504(
    chunks: tuple[Any, ...], by_client: bool, outcome: str
) -> None:
    async def asked() -> tuple[Attempt, str, Chunks]:
        hanging = Chunks(*chunks)
        deadline = Deadline(time.monotonic() + 0.02, 0.02, by_client)
        return (*(await answered(hanging, deadline)), hanging)

    attempt, text, hanging = asyncio.run(asked())
    assert hanging.cancelled
    assert attempt.watch.outcome == outcome
    if len(chunks) == 1:
        assert attempt.failure is not None
        assert (attempt.failure.status, attempt.failure.code) == (504, "timeout")
    else:
        assert '"code": "timeout"' in text
        assert text.endswith(DONE)


def test_a_stream_that_does_not_begin_in_good_time_is_given_up_though_the_answer_may_take_longer() -> None:
    async def ask() -> tuple[Attempt, Chunks]:
        soon = Deadline(time.monotonic() + 0.05, 0.05)
        attempt, chunks = Attempt("canary", "m-2", "m", 0.0, PATIENT, first=soon), Chunks(HANG)
        await attempt.ask(chunks)
        return attempt, chunks

    attempt, chunks = asyncio.run(ask())
    assert attempt.failure is not None
    assert attempt.failure.status == 504
    assert attempt.watch.outcome == "timeout"
    assert chunks.cancelled


def test_a_time_out_inside_the_model_server_is_its_failure_not_the_clients_impatience() -> None:
    by_client = Deadline(time.monotonic() + 60, 60, by_client=True)
    attempt, _ = asyncio.run(answered(Chunks(TimeoutError("inside")), by_client))
    assert attempt.failure is not None
    assert attempt.failure.status == 500
    assert attempt.watch.outcome == "http_error"


class Scored(Whole):
    logprob: float


def test_an_answer_that_is_no_json_counts_as_failed() -> None:
    attempt, _ = asyncio.run(answered(Chunks(Scored(logprob=float("nan")))))
    assert attempt.failure is not None
    assert attempt.failure.status == 502
    assert attempt.watch.outcome == "http_error"
