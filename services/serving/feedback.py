"""`POST /v1/feedback`: what a user says of an answer, on its way to the controller, who knows which revision gave it.

The vote may reach another gateway replica than the request did, and clients may choose their request ids; so neither a replica's
memory nor the id itself can tell the revision. The controller can: every replica tells it of every request anyway.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.feedback import MAX_CHARACTERS, Exchange
from cluster.telemetry import logger
from services.contract import NAMESPACE, actor_name
from services.serving.call import request_id_of
from services.serving.keys import ApiKey
from services.serving.openai_errors import ApiError, unavailable

log = logger("gateway")

SETTLE_S = 1.0
"""A gateway tells of a request within half a second: a vote that comes sooner is asked for once more after this."""
ANSWER_TIMEOUT_S = 10.0
MAX_CONCURRENT = 64
"""Votes under way at each gateway replica: unknown ids wait a second each, and must not fill the place of requests."""


class FeedbackRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=1024)
    """The answer's x-request-id."""
    thumb: Literal["up", "down"]
    correction: str | None = Field(default=None, max_length=MAX_CHARACTERS)
    """The answer as it should have been. It is kept beside the vote."""
    exchange: Exchange | None = None
    """What was asked and answered, for those who want it learnt from. It is kept beside the vote."""


class FeedbackDesk:
    """Takes votes at one gateway replica."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_under_way = 0

    async def take(self, body: FeedbackRequest, key: ApiKey | None) -> dict[str, str | None]:
        """What the controller says of the vote: revision, role, and the thumb it replaces.

        Raises:
            ApiError: 404, no such answer, or another key's; 429, too many votes at once, or on it; 503, the controller is away.
        """
        if self._num_under_way >= MAX_CONCURRENT:
            raise ApiError(429, "too much feedback at the moment; try again", code="queue_full",
                           kind="server_error", headers={"Retry-After": "1"})  # fmt: skip
        self._num_under_way += 1
        try:
            texts = body.exchange and body.exchange.model_dump()
            arguments = (owner_of(key), request_id_of(body.request_id), body.thumb, body.correction, texts)
            found = await self._tell(*arguments)
            if found is None:
                await asyncio.sleep(SETTLE_S)
                found = await self._tell(*arguments)
        finally:
            self._num_under_way -= 1
        if found is None:
            message = "There is no answer with that request id, or it is too old to be judged"
            raise ApiError(404, message, code="request_not_found", param="request_id")
        if "refused" in found:
            message = "The vote on this answer was changed too often; the last one stays"
            raise ApiError(429, message, code="vote_final", param="request_id")
        return found

    async def _tell(self, *arguments: Any) -> dict[str, str | None] | None:
        import ray

        try:
            actor = await asyncio.to_thread(ray.get_actor, actor_name(self._name), namespace=NAMESPACE)
            found: dict[str, str | None] | None = await asyncio.wait_for(
                actor.feedback.remote(*arguments), ANSWER_TIMEOUT_S
            )
        except (ValueError, TimeoutError, ray.exceptions.RayError) as error:  # ValueError: there is no controller
            log.warning("feedback could not be taken: %s", type(error).__name__)
            raise unavailable("feedback cannot be taken at the moment") from None
        return found


def owner_of(key: ApiKey | None) -> str:
    """Who may judge an answer: the key's account, by a hash (names stay here); empty where no keys are asked for."""
    return hashlib.blake2b(key.name.encode(), digest_size=8).hexdigest() if key else ""
