"""LoRA adapters in a revision's engine: what a replica holds, matched to its order.

vLLM chooses the adapter by the request's model name, which is the adapter's revision here. Nothing in this file imports vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from cluster.node_cache import local_copy
from cluster.storage import Storage
from cluster.telemetry import logger

log = logger("serving")


class AdapterEngine(Protocol):
    """The part of an engine that holds adapters."""

    async def load(self, name: str, folder: str) -> None:
        """Raises RuntimeError: the engine refuses it."""
        ...

    async def unload(self, name: str) -> None: ...


class Adapters:
    """What one replica holds. An adapter that cannot be loaded costs nobody else anything: it is left out and said so."""

    def __init__(self, engine: AdapterEngine, storage: Storage, try_out: Callable[[str], Awaitable[None]]) -> None:
        """`try_out` asks the engine something under an adapter's name, and raises when it gets no answer."""
        self._engine, self._storage, self._try_out = engine, storage, try_out
        self._changing = asyncio.Lock()
        self.loaded: frozenset[str] = frozenset()
        self.problems: dict[str, str] = {}

    async def match(self, wanted: Mapping[str, str]) -> None:
        """Load what is wanted (adapter's revision -> storage folder) and missing, unload what is not wanted any more."""
        async with self._changing:
            for name in self.loaded - set(wanted):
                self.loaded -= {name}
                await self._engine.unload(name)
            self.problems = {}
            for name in sorted(set(wanted) - self.loaded):
                await self._load(name, wanted[name])

    async def _load(self, name: str, folder: str) -> None:
        try:
            local = await asyncio.to_thread(local_copy, self._storage, folder)
            await self._engine.load(name, str(local))
        except Exception as error:  # storage, vLLM's checks, a damaged file: the engine's other users must not suffer
            log.error("adapter %s was not loaded: %s", name, error)
            self.problems[name] = str(error)
            return
        try:
            await self._try_out(name)
        except Exception as error:  # as above; what answers nobody is not kept
            log.error("adapter %s does not answer: %s", name, error)
            self.problems[name] = str(error)
            await self._engine.unload(name)
            return
        self.loaded |= {name}
