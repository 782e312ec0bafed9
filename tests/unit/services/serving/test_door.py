"""The door before the gateway: who comes in, with how large a body, and what the others are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from services.serving import door
from services.serving.door import Door
from services.serving.keys import ApiKey, hash_of
from services.serving.openai_errors import ApiError

KEY = ApiKey(name="ann", sha256=hash_of("secret"))
HANG = {"type": "hang"}


class Gatekeeper:
    max_body_bytes = 40

    def __init__(self) -> None:
        self.noted: list[ApiError] = []

    def owner(self, authorization: str | None) -> ApiKey | None:
        if authorization != "Bearer secret":
            raise ApiError(401, "no", code="invalid_api_key")
        return KEY

    def refused(self, error: ApiError) -> None:
        self.noted.append(error)


def body(*parts: bytes, end: bool = True) -> list[dict[str, Any]]:
    last = len(parts) - 1
    return [
        {"type": "http.request", "body": part, "more_body": number < last or not end}
        for number, part in enumerate(parts)
    ]


def knock(
    messages: Iterable[dict[str, Any]], *, method: str = "POST", **headers: str
) -> tuple[list[dict[str, Any]], list[Any], Gatekeeper, int]:
    """What is sent, what the application behind the door saw, the keeper, and how many messages were read."""
    keeper, sent, seen, read = Gatekeeper(), list[dict[str, Any]](), list[Any](), 0
    waiting = iter(messages)

    async def receive() -> Any:
        nonlocal read
        message = next(waiting)
        read += 1
        if message is HANG:
            await asyncio.sleep(60)
        return message

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["state"], (await receive()).get("body"), await receive()))

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "headers": raw, "path": "/"}
    asyncio.run(Door(app, lambda: keeper)(scope, receive, send))
    return sent, seen, keeper, read


GONE = {"type": "http.disconnect"}


def test_a_body_that_fits_goes_through_whole_and_the_clients_leaving_after_it() -> None:
    sent, seen, keeper, _ = knock([*body(b"abcde", b"fghij" * 7), GONE], authorization="Bearer secret")
    assert (sent, keeper.noted) == ([], [])
    ((state, given, after),) = seen
    assert state == {"api_key": KEY, "num_body_bytes": 40}
    assert (given, after) == (b"abcde" + b"fghij" * 7, GONE)


@pytest.mark.parametrize(
    ("messages", "headers", "status", "num_read"),
    [
        (body(b"x" * 20, b"x" * 20, b"1", b"2"), {}, 413, 3),  # the fourth part is not even read
        (body(b""), {"content_length": "41"}, 413, 0),
        (body(b""), {"content_length": "9" * 6000}, 413, 0),
        (body(b""), {"authorization": "Bearer other"}, 401, 0),
        (body(b'{"a": "\\ud800"}'), {}, 400, 1),
    ],
)
def test_who_is_refused_is_told_in_openais_shape(
    messages: list[Any], headers: dict[str, str], status: int, num_read: int
) -> None:
    sent, seen, keeper, read = knock(messages, **{"authorization": "Bearer secret", **headers})
    assert (sent[0]["status"], seen, read) == (status, [], num_read)
    assert set(json.loads(sent[1]["body"])["error"]) == {"message", "type", "param", "code"}
    assert [error.status for error in keeper.noted] == [status]


def test_a_body_that_does_not_come_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "BODY_TIMEOUT_S", 0.02)
    sent, seen, _, _ = knock([*body(b"1", end=False), HANG], authorization="Bearer secret")
    assert (sent[0]["status"], seen) == (408, [])


def test_a_client_that_leaves_before_its_body_is_whole_is_forgotten() -> None:
    sent, seen, keeper, _ = knock([*body(b"1", end=False), GONE], authorization="Bearer secret")
    assert (sent, seen, keeper.noted) == ([], [], [])


def test_a_request_without_a_body_is_not_read() -> None:
    _, seen, _, _ = knock([*body(b""), GONE], method="GET", authorization="Bearer secret")
    assert seen[0][0]["num_body_bytes"] == 0


def test_two_keys_are_refused_whatever_they_are() -> None:
    sent, seen, _, _ = knock(body(b"{}"), authorization="Bearer secret", Authorization="Bearer secret")
    assert (sent[0]["status"], seen) == (400, [])
