"""Serve's handles of revisions' model servers, in one gateway replica. Nothing here imports Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from services.contract import MODEL_DEPLOYMENT, application_name
from services.serving.hops import streaming_handle
from services.serving.watch import LIVENESS_S, TrafficWatch

REACH_S, REACH_POLL_S = 2.0, 0.02
"""So long at most a new traffic waits for word of its revisions' replicas; users of a canary of which there is none by then are
left to stable."""


class Handles:
    """One for each application, made when it is first asked for."""

    def __init__(self, watch: Callable[[], TrafficWatch]) -> None:
        self._watch, self._made = watch, dict[str, Any]()
        self.loop: asyncio.AbstractEventLoop | None = None
        """Of the replica, once it runs: handles belong to it."""

    def of(self, revision: str) -> Any:
        """The handle of the engine that answers for the revision."""
        application = application_name(self._watch().engine_of(revision))
        if (
            application not in self._made
        ):  # one each: Serve would give the same one again, which is made ready only once
            self._made[application] = streaming_handle(MODEL_DEPLOYMENT, application)
        return self._made[application]

    def know(self, revision: str) -> bool:
        """Whether Serve has told this gateway of the revision's replicas, or that it has none before somebody asks."""
        asleep = self._watch().was_asleep(revision, time.monotonic() - LIVENESS_S)
        return asleep or bool(self.of(revision).running_replicas_populated())

    def reach(self, revisions: frozenset[str]) -> None:
        """Hear of the revisions' replicas before users are sent there: Serve tells only who asks, and its controller, on the
        head, may be out of reach by then. Called by the thread that reads the traffic."""
        if self.loop is not None:
            asyncio.run_coroutine_threadsafe(self._heard_of(revisions), self.loop).result(2 * REACH_S)

    async def _heard_of(self, revisions: frozenset[str]) -> None:
        ends_s = time.monotonic() + REACH_S
        for revision in revisions:
            self.of(revision)  # all at once, so that their answers come together
        while not all(self.know(revision) for revision in revisions) and time.monotonic() < ends_s:
            await asyncio.sleep(REACH_POLL_S)
