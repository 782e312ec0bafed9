"""What one request at one revision came to, from the chunks of its answer as they pass. Pure: times are arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.contract import Outcome, RequestRecord, Role

DONE = "[DONE]"
"""The last event of a whole stream, in OpenAI's protocol."""
CONTENT_FIELDS = ("content", "text", "reasoning", "reasoning_content", "tool_calls", "refusal")


@dataclass
class Watch:
    """Follows one answer. `started_s`, `first_s` and `ended_s` are readings of one monotonic clock, in seconds."""

    started_s: float
    first_s: float | None = None
    ended_s: float | None = None
    status: int = 200
    num_output_chunks: int = 0
    """Chunks that carried a piece of the answer."""
    done: bool = field(default=False)
    """The answer came to its end."""
    broken: bool = False
    """An error came inside the stream, or the stream broke off."""
    cancelled: bool = False

    def see_events(self, text: str, now_s: float) -> dict[str, Any] | None:
        """Take note of one or more server-sent events; returns the error inside the stream, if one is there."""
        error = None
        for line in text.splitlines():
            if not line.startswith("data:"):
                continue
            payload = line[5:].strip()
            if payload == DONE:
                self.done, self.ended_s = True, now_s
                continue
            error = self._see(_parsed(payload), now_s) or error
        return error

    def see_whole(self, answer: dict[str, Any], now_s: float) -> None:
        """Take note of an answer that came in one piece."""
        self._see(answer, now_s)
        self.done, self.ended_s = True, now_s

    def fail(self, status: int, now_s: float) -> None:
        """The revision did not answer, or answered with an error."""
        self.status, self.ended_s = status, now_s

    def _see(self, event: dict[str, Any], now_s: float) -> dict[str, Any] | None:
        if "error" in event:
            self.broken = True
            error = event["error"]
            return error if isinstance(error, dict) else {"message": str(error)}
        if any(_has_content(choice) for choice in event.get("choices") or ()):
            self.num_output_chunks += 1
            self.first_s = now_s if self.first_s is None else self.first_s
        return None

    @property
    def outcome(self) -> Outcome:
        """A client that goes away does not hide an error that had come before."""
        if self.status >= 400:
            return "http_error"
        if self.broken:
            return "stream_error"
        if self.cancelled and not self.done:
            return "cancelled"
        if not self.done:
            return "stream_error"
        return "ok" if self.num_output_chunks else "empty"

    def record(
        self, now_s: float, at: datetime, *, request_id: str, role: Role, revision: str, place: float
    ) -> RequestRecord:
        """`now_s` ends an answer whose end was not seen."""
        ended_s = now_s if self.ended_s is None else self.ended_s
        return RequestRecord(
            request_id=request_id,
            revision=revision,
            role=role,
            bucket=place,
            outcome=self.outcome,
            status=self.status,
            ttft_s=None if self.first_s is None else self.first_s - self.started_s,
            duration_s=ended_s - self.started_s,
            num_output_chunks=self.num_output_chunks,
            at=at,
        )


def _parsed(payload: str) -> dict[str, Any]:
    """An event that is no JSON object is an error of the revision's."""
    try:
        event = json.loads(payload)
    except ValueError:
        event = None
    return event if isinstance(event, dict) else {"error": {"message": "the model server sent a malformed event"}}


def _has_content(choice: dict[str, Any]) -> bool:
    """Text, reasoning or a tool call, in a chunk or in a whole answer."""
    part = choice.get("delta") or choice.get("message") or choice
    return any(part.get(name) for name in CONTENT_FIELDS)
