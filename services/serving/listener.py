"""A gateway replica's own HTTP server, so that a request takes no hop through one of Serve's proxies.

All replicas of a node listen on the same port (SO_REUSEPORT: the kernel gives each new connection to one of them, and to
processes of the same user only). A replica that is replaced drains: nobody who has asked goes without an answer.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import nullcontext
from typing import Any

from cluster.telemetry import logger
from services.config import TlsConfig
from services.serving import backlog
from services.serving.openai_errors import ApiError, answer

log = logger("gateway")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

KEEP_ALIVE_S = 75
"""An idle connection is kept for so long: longer than the pools of common clients and proxies keep theirs (60 s at most), so that
it is they who close it. A server that closes first can meet a request on its way."""
BACKLOG = 2048
REQUEST_ID = b"x-request-id"
HANDSHAKE_S, GOODBYE_S = 1.0, 0.5
LINGER_S = 3.0
"""While draining, connections get so long to be told in an answer that they end, before idle ones are closed."""


class Listener:
    """One server on one address, in the event loop that starts it."""

    def __init__(
        self, host: str, port: int, max_requests: int, tls: TlsConfig | None = None, *, behind_proxies: bool = True
    ) -> None:
        """Of more than `max_requests` at once the rest is told to come back: before its body is read, which takes memory.

        Args:
            behind_proxies: whoever asks over loopback may say for whom (X-Forwarded-For).
        """
        self._behind_proxies = behind_proxies
        self._address, self._max_requests, self._tls = (host, port), max_requests, tls
        self._bound: socket.socket | None = None
        self._server: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, app: App) -> None:
        """Answer by `app` from now on.

        Raises:
            OSError: someone else has the port, or there is no certificate here.
        """
        import uvicorn

        self._bound = listening_socket(*self._address)
        config = uvicorn.Config(
            identified(bounded(attended(app), self._max_requests)),
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            log_level=None,
            server_header=False,
            proxy_headers=self._behind_proxies,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_certfile=self._tls.certificate if self._tls else None,
            ssl_keyfile=self._tls.key if self._tls else None,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = nullcontext  # Ray's worker has handlers of its own
        self._task = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0)
        self.check()

    def check(self) -> None:
        """Raises RuntimeError when the server has ended by itself."""
        if self._task is not None and self._task.done() and not self._server.should_exit:
            raise RuntimeError(f"the gateway does not listen any more: {self._task}")

    async def drain(self) -> None:
        """Take no new connection, end each open one with its next answer, and return when all are answered. Who has connected gets
        one: see `backlog`."""
        server, bound, self._bound = self._server, self._bound, None
        if server is None or self._task is None or bound is None:  # nothing to end, or told so before
            return
        server.config.encoded_headers.append((b"connection", b"close"))
        server.server_state.default_headers = [*server.server_state.default_headers, (b"connection", b"close")]
        await backlog.empty(bound)
        for accepting in server.servers:
            accepting.close()
        if self._tls:
            await asyncio.sleep(HANDSHAKE_S)  # who is about to be connected is not among the connections yet
        deadline = asyncio.get_running_loop().time() + LINGER_S
        while server.server_state.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        server.should_exit = True  # closes what is idle and waits for the rest
        if self._tls:
            await _hang_up(server.server_state.connections)
        await self._task


async def _hang_up(connections: Collection[Any]) -> None:
    """End connections whose answers are out. A client that keeps one in a pool does not read there, and leaves a TLS goodbye
    unanswered, for which asyncio waits half a minute."""
    while any(_answering(connection) for connection in connections):
        await asyncio.sleep(0.05)
    await asyncio.sleep(GOODBYE_S)
    for connection in list(connections):
        connection.transport.abort()


def _answering(connection: Any) -> bool:
    cycle = connection.cycle  # of the last request; uvicorn's HTTP protocols both have it
    return (cycle is not None and not cycle.response_complete) or connection.transport.get_write_buffer_size() > 0


def listening_socket(host: str, port: int) -> socket.socket:
    """Bound to the address beside whoever else of this user shares it.

    Raises:
        OSError: someone has it for himself.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def identified(app: App) -> App:
    """The application, with an id for each request that has none, told in the answer: what Serve's proxies do."""

    async def identify(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        if not request_id:
            request_id = str(uuid.uuid4()).encode()
            scope["headers"] = [*scope["headers"], (REQUEST_ID, request_id)]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        await app(scope, receive, told)

    return identify


def bounded(app: App, max_requests: int) -> App:
    """The application, for so many requests at once; others are answered 429."""
    num_requests = 0
    full = ApiError(429, "too many requests at the moment; try again", kind="server_error", code="queue_full",
                    headers={"Retry-After": "1"})  # fmt: skip

    async def bound(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        nonlocal num_requests
        if num_requests >= max_requests:
            await answer(full)(scope, receive, send)
            return
        num_requests += 1
        try:
            await app(scope, receive, send)
        finally:
            num_requests -= 1

    return bound


def attended(app: App) -> App:
    """The application, with a request cancelled when its client goes away before the answer is whole."""

    async def attend(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Attended(receive, send).run(app, scope)
        else:
            await app(scope, receive, send)

    return attend


class _Attended:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._request = asyncio.current_task()
        self._leave: asyncio.Task[Message] | None = None
        self._answered = self._gone = False

    async def run(self, app: App, scope: MutableMapping[str, Any]) -> None:
        try:
            await app(scope, self._next, self._sent)
        except asyncio.CancelledError:
            if not self._gone:
                raise
        finally:
            self._answered = True
            if self._leave is not None:
                self._leave.cancel()

    async def _next(self) -> Message:
        if self._leave is not None:
            return await asyncio.shield(self._leave)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._leave = asyncio.create_task(self._receive())  # type: ignore[arg-type]  # a coroutine, in every server
            self._leave.add_done_callback(self._left)
        return message

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True  # what the server tells from here on is no leave
        await self._send(message)

    def _left(self, leave: asyncio.Task[Message]) -> None:
        if not (leave.cancelled() or self._answered or self._request is None):
            self._gone = True
            self._request.cancel()
