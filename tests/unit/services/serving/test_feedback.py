"""Votes at the gateway: what the controller says of one becomes an answer over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from services.serving.feedback import FeedbackDesk, FeedbackRequest
from services.serving.openai_errors import ApiError


def test_a_vote_that_was_changed_too_often_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(*_: Any) -> dict[str, str | None]:
        return {"refused": "the vote on a was changed 5 times"}

    desk = FeedbackDesk("m")
    monkeypatch.setattr(desk, "_tell", tell)
    with pytest.raises(ApiError) as refused:
        asyncio.run(desk.take(FeedbackRequest(request_id="a", thumb="up"), None))
    assert (refused.value.status, refused.value.code) == (429, "vote_final")


def test_texts_go_with_a_vote_and_are_taken_only_as_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    async def tell(*arguments: Any) -> dict[str, str | None]:
        told.append(arguments)
        return {"revision": "m-1", "role": "stable", "before": None}

    desk = FeedbackDesk("m")
    monkeypatch.setattr(desk, "_tell", tell)
    exchange = {"messages": [{"role": "user", "content": "Hi"}], "answer": "Hello"}
    body = FeedbackRequest.model_validate(
        {"request_id": "a", "thumb": "down", "correction": "Hi!", "exchange": exchange}
    )
    asyncio.run(desk.take(body, None))
    asyncio.run(desk.take(FeedbackRequest(request_id="b", thumb="up"), None))
    assert [(thumb, correction) for _, _, thumb, correction, _ in told] == [("down", "Hi!"), ("up", None)]
    assert told[0][-1] == {"messages": ({"role": "user", "content": "Hi"},), "answer": "Hello"}
    assert told[1][-1] is None
    for wrong in ({"answer": "Hello"}, {**exchange, "answer": "a" * 32_001}, {**exchange, "owner": "me"}):
        with pytest.raises(ValidationError):
            FeedbackRequest.model_validate({"request_id": "a", "thumb": "up", "exchange": wrong})
