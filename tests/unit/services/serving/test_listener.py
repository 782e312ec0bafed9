"""A gateway's own server, with real sockets: what its users see while it runs, while they go, and while it is replaced."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import uvloop

from services.serving.backlog import drop_hellos
from services.serving.listener import App, Listener, listening_socket

HOST, MAX_REQUESTS = "127.0.0.1", 8


class Application:
    """Answers /quick at once, /slow when told to, and /stream with one piece at once and another when told to."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.begun, self.cancelled, self.ids = asyncio.Event(), asyncio.Event(), list[bytes]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        self.ids.append(dict(scope["headers"])[b"x-request-id"])
        try:
            await self._answer(scope["path"], send)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _answer(self, path: str, send: Any) -> None:
        if path == "/slow":
            self.begun.set()
            await self.finish.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        if path == "/stream":
            self.begun.set()
            await self.finish.wait()
        await send({"type": "http.response.body", "body": b"two"})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listened(story: Callable[[Application, Listener, httpx.AsyncClient], Awaitable[None]]) -> None:
    """The story, told of a running listener and a client of it."""

    async def run() -> None:
        application, port = Application(), free_port()
        listener = Listener(HOST, port, MAX_REQUESTS)
        await listener.start(application)
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=10) as client:
            await story(application, listener, client)
        application.finish.set()
        await listener.drain()

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize(("behind_proxies", "told"), [(True, "192.0.2.1"), (False, HOST)])
def test_who_asks_says_for_whom_only_where_that_is_believed(behind_proxies: bool, told: str) -> None:
    seen = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> None:
        listener = Listener(HOST, port := free_port(), MAX_REQUESTS, behind_proxies=behind_proxies)
        await listener.start(app)
        async with httpx.AsyncClient(timeout=10) as client:
            await client.get(f"http://{HOST}:{port}", headers={"x-forwarded-for": "192.0.2.1"})
        await listener.drain()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert seen == [told]


def test_answers_and_tells_each_request_its_id() -> None:
    async def story(application: Application, listener: Listener, client: httpx.AsyncClient) -> None:
        given = await client.post("/quick", content=b"x", headers={"x-request-id": "mine"})
        assert (given.text, given.headers.get_list("x-request-id")) == ("one two", ["mine"])
        made = await client.get("/quick")
        assert made.headers["x-request-id"].encode() == application.ids[1]
        listener.check()

    listened(story)


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_a_request_whose_client_goes_away_is_cancelled(path: str) -> None:
    async def story(application: Application, listener: Listener, client: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(client.post(path, content=b"x"))
        await application.begun.wait()
        asking.cancel()
        await application.cancelled.wait()

    listened(story)


def test_more_requests_than_the_bound_are_told_to_come_back() -> None:
    async def story(application: Application, listener: Listener, client: httpx.AsyncClient) -> None:
        asking = [asyncio.create_task(client.post("/slow", content=b"x")) for _ in range(MAX_REQUESTS)]
        while len(application.ids) < MAX_REQUESTS:
            await asyncio.sleep(0.01)
        refused = await client.get("/quick")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-request-id"]
        application.finish.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        assert (await client.get("/quick")).status_code == 200

    listened(story)


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_what_was_asked_before_the_drain_is_answered_and_nothing_new_is_taken(path: str) -> None:
    async def story(application: Application, listener: Listener, client: httpx.AsyncClient) -> None:
        asking = asyncio.create_task(client.post(path, content=b"x"))
        await application.begun.wait()
        draining = asyncio.create_task(listener.drain())
        with pytest.raises(httpx.ConnectError):  # after a second: its first segment is not heard any more
            await httpx.AsyncClient(base_url=client.base_url).get("/quick")
        application.finish.set()
        assert (await asking).text == "one two"
        await draining

    listened(story)


def test_two_listeners_share_a_port_and_one_can_go_without_a_lost_request() -> None:
    async def ask_for_ever(client: httpx.AsyncClient, answers: list[int]) -> None:
        while True:
            answers.append((await client.post("/quick", content=b"x")).status_code)

    async def run() -> None:
        port = free_port()
        listeners = [Listener(HOST, port, MAX_REQUESTS), Listener(HOST, port, MAX_REQUESTS)]
        for listener in listeners:
            await listener.start(Application())
        answers: list[int] = []
        clients = [httpx.AsyncClient(base_url=f"http://{HOST}:{port}") for _ in range(8)]
        asking = [asyncio.create_task(ask_for_ever(client, answers)) for client in clients]
        while len(answers) < 50:
            await asyncio.sleep(0.01)
        await listeners[0].drain()
        before = len(answers)
        while len(answers) < before + 50:
            assert not any(task.done() for task in asking)
            await asyncio.sleep(0.01)
        for task in asking:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task  # raises what a client met
        for client in clients:
            await client.aclose()
        await listeners[1].drain()
        assert set(answers) == {200}

    asyncio.run(asyncio.wait_for(run(), 60))


REQUEST = b"POST /quick HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx"


def connected(port: int) -> socket.socket:
    """A connection with a request on its way."""
    connection = socket.create_connection((HOST, port), timeout=10)
    connection.sendall(REQUEST)
    return connection


def answered(connection: socket.socket) -> bytes:
    """The whole answer; raises what breaks it."""
    with connection:
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b"two" in answer
    return answer


def ask_anew(port: int, answers: list[bytes], stopped: threading.Event) -> None:
    """One connection a request, one after the other."""
    while not stopped.is_set():
        answers.append(answered(connected(port)))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])  # Ray's workers have the second
def test_nobody_who_has_connected_is_reset_by_a_drain(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run() -> None:
        port, answers, stopped = free_port(), list[bytes](), threading.Event()
        listeners = [Listener(HOST, port, 1000), Listener(HOST, port, 1000)]
        for listener in listeners:
            await listener.start(Application())
        asking = [asyncio.create_task(asyncio.to_thread(ask_anew, port, answers, stopped)) for _ in range(4)]
        while len(answers) < 50:
            await asyncio.sleep(0.01)
        try:
            # A busy gateway: meanwhile connections queue up, at either (at one alone: once in 2^40).
            queued = [connected(port) for _ in range(40)]
            await listeners[0].drain()
            answers += [await asyncio.to_thread(answered, connection) for connection in queued]
            while len(answers) < 200 and not any(task.done() for task in asking):
                await asyncio.sleep(0.01)
        finally:
            stopped.set()
        await asyncio.gather(*asking)
        await listeners[1].drain()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(run(), 60))


def test_a_socket_that_stops_hearing_hellos_keeps_who_has_connected() -> None:
    with listening_socket(HOST, 0) as closing:
        closing.listen()
        port = closing.getsockname()[1]
        early = socket.create_connection((HOST, port))
        assert drop_hellos(closing)
        with socket.socket() as refused:
            refused.settimeout(0.1)
            with pytest.raises(TimeoutError):
                refused.connect((HOST, port))
        accepted, address = closing.accept()
        with early, accepted:
            assert address == early.getsockname()
            early.sendall(b"hello")
            assert select.select([accepted], [], [], 5)[0]
            assert accepted.recv(5) == b"hello"
        with pytest.raises(BlockingIOError):
            closing.accept()


def test_a_port_that_someone_has_for_himself_is_an_error() -> None:
    async def run(port: int, app: App) -> None:
        with pytest.raises(OSError, match="in use"):
            await Listener(HOST, port, MAX_REQUESTS).start(app)

    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        asyncio.run(run(taken.getsockname()[1], Application()))


def test_a_server_that_has_ended_by_itself_is_found_by_the_health_check() -> None:
    async def run() -> None:
        listener = Listener(HOST, free_port(), MAX_REQUESTS)
        await listener.start(Application())
        listener.check()
        assert listener._task is not None
        listener._task.cancel()
        with suppress(asyncio.CancelledError):
            await listener._task
        with pytest.raises(RuntimeError, match="does not listen"):
            listener.check()

    asyncio.run(run())
