"""An engine that nobody is on gives its GPU's memory back, and is awake again before anybody is put on it.

vLLM's sleep of level 1 moves the weights to the host's memory and drops the KV cache; it exists on GPUs alone. Nothing in this file
imports vLLM.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from cluster.telemetry import logger

log = logger("serving")

POLL_S = 1.0


class SleepyEngine(Protocol):
    def busy(self) -> bool:
        """Whether any request is under way."""
        ...

    async def sleep(self) -> None: ...

    async def wakeup(self) -> None: ...


class Sleeper:
    """Puts one engine to sleep when its last request has ended, and wakes it."""

    def __init__(self, engine: SleepyEngine, poll_s: float = POLL_S) -> None:
        self._engine, self._poll_s = engine, poll_s
        self._changing = asyncio.Lock()
        self._going: asyncio.Task[None] | None = None
        self._resting = self.asleep = False

    def rest(self) -> None:
        """Sleep as soon as nothing is under way; returns at once."""
        self._resting = True
        if self._going is None or self._going.done():
            self._going = asyncio.create_task(self._fall_asleep())

    async def _fall_asleep(self) -> None:
        while self._resting and not self.asleep:
            async with self._changing:
                if self._resting and not self._engine.busy():
                    await self._engine.sleep()
                    self.asleep = True
                    log.info("asleep: the GPU's memory is free")
            await asyncio.sleep(self._poll_s)

    async def wake(self) -> None:
        """Return when the engine is awake; it stays so until it is to rest again."""
        self._resting = False
        async with self._changing:
            if self.asleep:
                await self._engine.wakeup()
                self.asleep = False
