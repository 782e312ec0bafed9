"""Chat streams over plain sockets: a client light enough not to be what a gateway's benchmark measures.

One connection a client, kept open, as pools of OpenAI's client keep it. Answers are not parsed but searched.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(rb'"content":"[^"]')
"""In an event that carries text; the first event of a chat names the role and has none."""
END = b"\r\n0\r\n\r\n"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """One stream as its client saw it, in seconds from the request's sending."""

    ttft_s: float
    duration_s: float
    num_tokens: int
    """Events with text."""

    @property
    def tpot_s(self) -> float:
        return (self.duration_s - self.ttft_s) / max(1, self.num_tokens - 1)


class Client:
    """Sends one request after another to one server."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, port
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: dict[str, Any]) -> Answer:
        """Raises RuntimeError when the answer is no whole stream."""
        reader, writer = self._connection or await asyncio.open_connection(self._host, self._port, limit=2**22)
        self._connection = None
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        began = time.perf_counter()
        async with asyncio.timeout(TIMEOUT_S):
            first_s, received = await self._read(reader, began)
        ended = time.perf_counter()
        if not received.startswith(b"HTTP/1.1 200") or b"[DONE]" not in received or first_s is None:
            raise RuntimeError(f"no whole stream: {received[:400]!r}")
        self._connection = (reader, writer)
        return Answer(first_s, ended - began, len(TOKEN.findall(received)))

    async def _read(self, reader: asyncio.StreamReader, began: float) -> tuple[float | None, bytes]:
        received, first_s = bytearray(), None
        while not received.endswith(END):
            piece = await reader.read(2**16)
            if not piece:
                break
            received += piece
            if first_s is None and TOKEN.search(received):
                first_s = time.perf_counter() - began
            if received.startswith(b"HTTP/1.1 ") and not received.startswith(b"HTTP/1.1 200"):
                break
        return first_s, bytes(received)

    def close(self) -> None:
        if self._connection:
            self._connection[1].close()


async def load(port: int, bodies: list[dict[str, Any]], concurrency: int) -> tuple[list[Answer], float]:
    """All bodies asked by so many clients, each its share one after another; and how long that took, in seconds."""
    waiting = iter(bodies)
    answers: list[Answer] = []

    async def client() -> None:
        own = Client(port)
        for body in waiting:
            answers.append(await own.ask(body))
        own.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return answers, time.perf_counter() - began
