"""The door of a gateway: before a route sees a request its key is known and its body is of a size that we take.

A pure ASGI layer. It reads the whole body itself, so that one too large is refused while it streams in, not after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from services.config import AdmissionConfig
from services.serving.keys import ApiKey
from services.serving.openai_errors import ApiError, answer
from services.serving.sendable import check_sendable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_TIMEOUT_S = 60.0
"""A client that sends its body more slowly is answered 408: it must not hold a place for long."""
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def longest_stay_s(admission: AdmissionConfig) -> float:
    """From a request's first byte to the last one of its answer, at most: a gateway that is replaced stays for so long."""
    return BODY_TIMEOUT_S + admission.timeout_s


class Keeper(Protocol):
    """What the door asks the gateway."""

    max_body_bytes: int
    """Larger bodies are refused."""

    def owner(self, authorization: str | None) -> ApiKey | None:
        """Raises ApiError when nobody with that key may come in."""
        ...

    def refused(self, error: ApiError) -> None:
        """Take note of a request that did not come in."""
        ...


class ClientGone(Exception):
    """The client went away before its body was whole."""


class Door:
    """Puts `api_key` (ApiKey or None) and `num_body_bytes` into the request's state."""

    def __init__(self, app: App, keeper: Callable[[], Keeper]) -> None:
        self._app, self._keeper = app, keeper

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        keeper = self._keeper()
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            _check_one_key(scope["headers"])
            key = keeper.owner(headers.get(b"authorization"))
            if scope["method"] in WITH_BODY:
                body = await whole_body(headers.get(b"content-length"), receive, keeper.max_body_bytes)
                check_sendable(body)
                receive = _replayed(body, receive)
            else:
                body = b""
        except ClientGone:
            return
        except ApiError as error:
            keeper.refused(error)
            await answer(error)(scope, receive, send)
            return
        scope.setdefault("state", {}).update(api_key=key, num_body_bytes=len(body))
        await self._app(scope, receive, send)


def _check_one_key(headers: list[tuple[bytes, bytes]]) -> None:
    """Of two keys one would be checked and the other might choose the user's side."""
    if sum(name.lower() == b"authorization" for name, _ in headers) > 1:
        raise ApiError(400, "more than one Authorization header", param="authorization")


async def whole_body(declared: str | None, receive: Receive, max_bytes: int) -> bytes:
    """The request's body.

    Raises:
        ApiError: 413, more than `max_bytes`, by what the client declares or by what has come so far; 408, too slow.
        ClientGone: the client went away.
    """
    if declared is not None and declared.isdecimal() and (len(declared) > 15 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        message_408 = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise ApiError(408, message_408, code="body_timeout", headers={"Connection": "close"}) from None


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever comes after it: the client's going away."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
