"""Users at once, in a thread of their own, each request with what its user saw of it."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx


@dataclass
class Seen:
    """One request as its user saw it. Moments are time.time()."""

    user: str
    streamed: bool
    began_at: float
    ended_at: float = 0.0
    status: int = 0
    """0: no answer."""
    revision: str = ""
    num_tokens: int = 0
    """Events with a piece of the answer; 1 for one in one piece."""
    problem: str = ""
    """Empty when the user was served."""

    @property
    def lost(self) -> bool:
        """Failed, though its user had not seen a token."""
        return bool(self.problem) and not self.num_tokens


@dataclass
class Clients:
    """`num` clients, each asking one question after another, each time as another user. Use as a context manager."""

    url: str
    model: str
    num: int = 8
    prompt: str | Callable[[random.Random], str] = "hello"
    fields: dict[str, Any] = field(default_factory=dict)
    """Further ones of each request's body."""
    pause_s: float | Callable[[random.Random], float] = 0.0
    """Between an answer and the same client's next question."""
    key: Callable[[str], str] = lambda user: user
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._random, self._ended = random.Random(0), threading.Event()
        self._under_way: list[Seen] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=120)
        assert not self._thread.is_alive(), f"requests that never end: {self._under_way}"

    def wait_for(self, num_more: int, timeout_s: float = 60) -> None:
        """Until so many more requests have ended."""
        target, ends_at = len(self.seen) + num_more, time.monotonic() + timeout_s
        while len(self.seen) < target:
            assert time.monotonic() < ends_at, f"no {num_more} answers within {timeout_s} s: {self.under_way_text()}"
            time.sleep(0.02)

    def under_way_text(self) -> str:
        return f"{len(self.seen)} ended, {len(self._under_way)} under way; {Counter(s.problem for s in self.seen)}"

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self.num, max_keepalive_connections=self.num)
        async with httpx.AsyncClient(timeout=90, limits=limits, trust_env=False) as session:
            await asyncio.gather(*(self._client(session) for _ in range(self.num)))

    async def _client(self, session: httpx.AsyncClient) -> None:
        while not self._ended.is_set():
            user = f"user-{self._random.randrange(1000)}"
            seen = Seen(user, self._random.random() < 0.5, time.time())
            self._under_way.append(seen)
            try:
                await self._ask(session, seen)
            except (httpx.HTTPError, ValueError) as error:
                seen.problem = seen.problem or f"{type(error).__name__}: {error}"
            seen.ended_at = time.time()
            self._under_way.remove(seen)
            self.seen.append(seen)
            pause = self.pause_s
            await asyncio.sleep(pause if isinstance(pause, float) else pause(self._random))

    async def _ask(self, session: httpx.AsyncClient, seen: Seen) -> None:
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt(self._random)
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "stream": seen.streamed, "max_tokens": 8, **self.fields}
        headers = {"authorization": f"Bearer {self.key(seen.user)}"}
        url = f"{self.url}/chat/completions"
        async with session.stream("POST", url, json=body, headers=headers) as answer:
            seen.status, seen.revision = answer.status_code, answer.headers.get("x-serinus-revision", "")
            if answer.status_code >= 400:
                seen.problem = f"HTTP {answer.status_code}: {(await answer.aread())[:200]!r}"
            elif seen.streamed:
                await _read_events(answer, seen)
            else:
                _read_whole(json.loads(await answer.aread()), seen)


def _read_whole(answer: dict[str, Any], seen: Seen) -> None:
    seen.num_tokens = int(bool(answer["choices"][0]["message"]["content"]))
    seen.problem = "" if seen.num_tokens else "empty answer"


async def _read_events(answer: httpx.Response, seen: Seen) -> None:
    done = False
    async for line in answer.aiter_lines():
        payload = line.removeprefix("data:").strip()
        if payload == "[DONE]":
            done = True
        elif payload:
            event = json.loads(payload)
            seen.num_tokens += any(choice["delta"].get("content") for choice in event.get("choices", ()))
            seen.problem = str(event["error"]) if "error" in event else seen.problem
    if not seen.problem and not (done and seen.num_tokens):
        seen.problem = "empty answer" if done else "the stream broke off"
