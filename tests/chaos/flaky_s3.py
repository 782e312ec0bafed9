"""What stands between a client and an S3 server that is not well: some calls get a 500, some no answer at all."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from aiohttp import ClientSession, web

HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive", "expect"}


Flaky = TypeVar("Flaky", bound="FlakyS3")


class FlakyS3:
    """Passes calls on to the server at `target` but for those that it fails."""

    def __init__(self, target: str, failing: float, silent: float, silence_s: float) -> None:
        self.target, self.failing, self.silent, self.silence_s = target, failing, silent, silence_s
        self.calls = Counter[str]()
        self._random = random.Random(0)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        drawn = self._random.random()
        if drawn < self.failing:
            self.calls["failed"] += 1
            return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")
        answer = await self._passed_on(request)
        if drawn < self.failing + self.silent:
            self.calls["silent"] += 1  # done, but nobody is told
            await asyncio.sleep(self.silence_s)
        else:
            self.calls["answered"] += 1
        return answer

    async def _passed_on(self, request: web.Request) -> web.Response:
        url, body = self.target + request.raw_path, await request.read()
        asked = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, headers=asked, data=body, allow_redirects=False) as answer,
        ):
            content = await answer.read()
            headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
            if request.method == "HEAD":
                headers.append(("Content-Length", answer.headers.get("Content-Length", "0")))
            return web.Response(status=answer.status, headers=headers, body=content)


class Counting(FlakyS3):
    """Fails nothing, and notes which objects below `folder/` it was asked for."""

    def __init__(self, target: str) -> None:
        super().__init__(target, 0, 0, 0)
        self.fetched: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and "list-type" not in request.query:
            self.fetched.append(request.path.partition("/folder/")[2])
        return await super().answer(request)


@contextmanager
def flaky_s3(target: str, *, failing: float, silent: float, silence_s: float) -> Iterator[tuple[str, FlakyS3]]:
    """Its address, and itself."""
    with serving(FlakyS3(target, failing, silent, silence_s)) as served:
        yield served


@contextmanager
def serving(flaky: Flaky) -> Iterator[tuple[str, Flaky]]:
    """The address at which it answers until the block ends, and itself."""
    loop = asyncio.new_event_loop()
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", flaky.answer)
    runner = web.AppRunner(application, shutdown_timeout=1)  # the silent calls are not waited for

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        return int(site._server.sockets[0].getsockname()[1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}", flaky
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
