"""One attempt at one revision: what the user gets and what goes on record, for each way an answer can go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from services.serving.attempt import Attempt

CHUNK = 'data: {"model":"m-2","choices":[{"delta":{"content":"say \\"model\\":\\"m-2\\""}}]}\n\n'
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error": {"message": "m-2 is out of memory", "type": "InternalServerError", "code": 500}}\n\n'


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
        if isinstance(item, BaseException):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


async def answered(chunks: Chunks) -> tuple[Attempt, str]:
    attempt = Attempt("canary", "m-2", "m", 0.0)
    await attempt.ask(chunks)
    text = ""
    if attempt.failure is None and attempt.whole is None:
        async for piece in attempt.relay():
            text += piece
    return attempt, text


def test_a_stream_is_relayed_under_the_public_name_and_its_text_is_left_alone() -> None:
    attempt, text = asyncio.run(answered(Chunks([CHUNK], [CHUNK, DONE])))
    assert text.count('"model":"m"') == 2
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
        attempt = Attempt("stable", "m-2", "m", 0.0)
        await attempt.ask(chunks)
        stream = attempt.relay()
        await anext(stream)
        await stream.aclose()
        return attempt, chunks

    attempt, chunks = asyncio.run(leave())
    assert chunks.cancelled
    assert attempt.watch.outcome == "cancelled"
