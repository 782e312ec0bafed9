"""What one request at one revision came to, from the chunks of its answer as they pass. Pure: times are arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.contract import Outcome, RequestRecord, Role

DONE = "[DONE]"
"""The last event of a whole stream, in OpenAI's protocol."""
BYTES_PER_TOKEN = 4
"""Of English text, about: the length of a prompt before vLLM tells it."""
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
    timed_out: bool = False
    """The gateway's own patience was at its end."""
    last_s: float | None = None
    """When the last piece of the answer came."""
    streamed: bool = True
    keeps_texts: bool = False
    """Only where a reply is compared: nothing that users say is kept otherwise."""
    usage: dict[str, Any] = field(default_factory=dict)
    """vLLM's last word on tokens, as OpenAI's API has it."""
    begun: set[int] = field(default_factory=set)
    """Choices with a piece of an answer, by index."""
    finish_reasons: dict[int, str] = field(default_factory=dict)
    """Why each choice ended, where it told so."""
    stopped: bool = False
    """The client's own stop text or token ended a choice."""
    texts: dict[int, str] = field(default_factory=dict)
    """What each choice says: content or text alone, no tool calls."""

    def see_events(self, text: str, now_s: float) -> dict[str, Any] | None:
        """Take note of one or more server-sent events; returns the error inside the stream, if one is there."""
        error = None
        for line in text.split("\n"):  # splitlines would cut at U+2028 and others, which JSON leaves inside a string
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
        self.streamed = False
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
        self.usage = event.get("usage") or self.usage
        choices = event.get("choices") or ()
        for choice in choices:
            self._see_choice(choice.get("index", 0), choice)
        begun = {choice.get("index", 0) for choice in choices if _has_content(choice)}
        if begun or event.get("data"):  # `data`: embeddings
            self.begun |= begun
            self.num_output_chunks += 1
            self.first_s, self.last_s = now_s if self.first_s is None else self.first_s, now_s
        return None

    def _see_choice(self, index: int, choice: dict[str, Any]) -> None:
        if reason := choice.get("finish_reason"):
            self.finish_reasons[index] = reason
            self.stopped = self.stopped or choice.get("stop_reason") is not None
        if self.keeps_texts:
            part = choice.get("delta") or choice.get("message") or choice
            self.texts[index] = self.texts.get(index, "") + (part.get("content") or part.get("text") or "")

    @property
    def outcome(self) -> Outcome:
        """A client that goes away does not hide an error that had come before."""
        if self.timed_out:
            return "timeout"
        if self.cancelled and self.status == 504:  # the client's own patience, not the gateway's
            return "cancelled"
        if self.status >= 400:
            return "http_error"
        if self.broken:
            return "stream_error"
        if self.cancelled and not self.done:
            return "cancelled"
        if not self.done:
            return "stream_error"
        if not self.num_output_chunks:
            return "ok" if self._asked_for_nothing else "empty"
        return "truncated" if self.streamed and not self.begun <= self.finish_reasons.keys() else "ok"

    @property
    def _asked_for_nothing(self) -> bool:
        """The client's stop text came first, or its limit cut the first character, which is up to four tokens of bytes."""
        cut = set(self.finish_reasons.values()) == {"length"} and (self.usage.get("completion_tokens") or 0) <= 4
        return self.stopped or cut

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first, over the choices, which are decoded side by side."""
        tokens, choices = self.usage.get("completion_tokens"), max(1, len(self.begun))
        if not self.done or not tokens or self.num_output_chunks < 2 or tokens <= choices:
            return None
        assert self.first_s is not None, "chunks were seen"
        assert self.last_s is not None, "chunks were seen"
        return (self.last_s - self.first_s) / (tokens / choices - 1)

    def record(
        self,
        now_s: float,
        at: datetime,
        *,
        request_id: str,
        role: Role,
        revision: str,
        place: float,
        num_body_bytes: int | None = None,
        failed_over: bool = False,
    ) -> RequestRecord:
        """`now_s` ends an answer whose end was not seen; `num_body_bytes` tells of a prompt that vLLM never counted for us."""
        ended_s = now_s if self.ended_s is None else self.ended_s
        details = self.usage.get("prompt_tokens_details") or {}
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
            prompt_tokens=self.usage.get("prompt_tokens", num_body_bytes and num_body_bytes // BYTES_PER_TOKEN),
            cached_tokens=details.get("cached_tokens"),
            output_tokens=self.usage.get("completion_tokens"),
            tpot_s=self.tpot_s,
            failed_over=failed_over,
        )


def without_usage(text: str) -> str:
    """The events without those that only tell of usage, for a client that has not asked for them."""
    if '"choices":[]' not in text:  # quotes inside an answer are escaped, so this can only be the field itself
        return text
    events = text.split("\n\n")
    return "\n\n".join(event for event in events if not _tells_usage_alone(event))


def _tells_usage_alone(event: str) -> bool:
    found = _parsed(event.strip().removeprefix("data:").strip()) if event.strip() else {}
    return found.get("choices") == [] and "usage" in found


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
