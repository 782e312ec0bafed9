"""LoRA adapters in a revision's engine: what a replica holds, matched to its order.

vLLM chooses the adapter by the request's model name, which is the adapter's revision here. Nothing in this file imports vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from cluster.node_cache import Lent, lent_copy
from cluster.storage import Storage
from cluster.telemetry import logger

log = logger("serving")

LINGER_S = 3600.0
"""A request that is under way as its adapter is unloaded has vLLM read the files once more; none takes as long as that."""


class AdapterEngine(Protocol):
    """The part of an engine that holds adapters."""

    async def load(self, name: str, folder: str) -> None:
        """Raises RuntimeError: the engine refuses it."""
        ...

    async def unload(self, name: str) -> None: ...


class Adapters:
    """What one replica holds. An adapter that cannot be loaded costs nobody else anything: it is left out and said so."""

    def __init__(
        self,
        engine: AdapterEngine,
        storage: Storage,
        try_out: Callable[[str], Awaitable[None]],
        linger_s: float = LINGER_S,
    ) -> None:
        """`try_out` asks the engine something under an adapter's name, and raises when it gets no answer."""
        self._engine, self._storage, self._try_out, self._linger_s = engine, storage, try_out, linger_s
        self._changing = asyncio.Lock()
        self._copies: dict[str, Lent] = {}
        self.loaded: frozenset[str] = frozenset()
        self.problems: dict[str, str] = {}

    async def match(self, wanted: Mapping[str, str]) -> None:
        """Load what is wanted (adapter's revision -> storage folder) and missing, unload what is not wanted any more."""
        async with self._changing:
            for name in self.loaded - set(wanted):
                self.loaded -= {name}
                await self._unload(name)
            self.problems = {}
            for name in sorted(set(wanted) - self.loaded):
                await self._load(name, wanted[name])

    async def _load(self, name: str, folder: str) -> None:
        try:
            self._copies[name] = await asyncio.to_thread(lent_copy, self._storage, folder)
            await self._engine.load(name, str(self._copies[name].folder))
        except Exception as error:  # storage, vLLM's checks, a damaged file: the engine's other users must not suffer
            log.error("adapter %s was not loaded: %s", name, error)
            self.problems[name] = str(error)
            if copy := self._copies.pop(name, None):
                copy.give_back()
            return
        try:
            await self._try_out(name)
        except Exception as error:  # as above; what answers nobody is not kept
            log.error("adapter %s does not answer: %s", name, error)
            self.problems[name] = str(error)
            await self._unload(name)
            return
        self.loaded |= {name}

    async def _unload(self, name: str) -> None:
        await self._engine.unload(name)
        asyncio.get_running_loop().call_later(self._linger_s, self._copies.pop(name).give_back)
