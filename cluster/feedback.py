"""What users say of answers, as it is kept: serving writes it, the data pipeline makes preferences of it.

rollouts/<name>/<rollout>/feedback-000001.jsonl    a line per vote, beside the rollout that placed the user
rollouts/<name>/before/feedback-000001.jsonl       where there was none yet
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel, is_none
from cluster.storage import Storage

Thumb = Literal["up", "down"]

MAX_CHARACTERS = 32_000
"""Of a correction, of an answer, and of all messages of a conversation together."""
MAX_MESSAGES = 200


class Message(StrictModel):
    """One turn of a conversation, as a chat request has it; texts alone, no images and no calls of tools."""

    role: Literal["system", "user", "assistant"]
    content: str


class Exchange(StrictModel):
    """What was asked, and what was answered: the client's word, for gateways keep no texts. A pair of answers needs both."""

    messages: tuple[Message, ...] = Field(min_length=1, max_length=MAX_MESSAGES)
    """Of the request."""
    answer: str = Field(max_length=MAX_CHARACTERS)

    @model_validator(mode="after")
    def _is_a_request(self) -> Exchange:
        if self.messages[-1].role == "assistant":
            raise ValueError("messages are those of the request: the last one is not the assistant's")
        if (found := sum(len(message.content) for message in self.messages)) > MAX_CHARACTERS:
            raise ValueError(f"messages have {found} characters together, at most {MAX_CHARACTERS} are taken")
        return self


class Vote(StrictModel):
    """One judgement. Of several on one request the last counts."""

    request_id: str
    revision: str
    role: str
    thumb: Thumb
    correction: str | None = None
    """The answer as it should have been."""
    exchange: Exchange | None = Field(None, exclude_if=is_none)
    at: datetime


def vote_files(storage: Storage, where: str) -> list[str]:
    """Keys of the files of votes in the folder `where` and below it, in the order in which they were written."""
    return [key for key in storage.list(where) if key.rsplit("/", 1)[1].startswith("feedback-")]


def votes_folder(name: str) -> str:
    """Of all rollouts of the public name `name`."""
    return f"rollouts/{name}"
