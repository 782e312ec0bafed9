"""Votes at the gateway: what the controller says of one becomes an answer over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

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
