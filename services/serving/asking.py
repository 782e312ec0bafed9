"""Who is asked for a call, and who next when nothing came: a canary's user is left to stable, and whoever is asked last is
asked again when its replica died. Nothing here imports Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from services.config import AdmissionConfig
from services.contract import Role
from services.serving.attempt import Attempt, Deadline
from services.serving.call import Call
from services.serving.watch import LIVENESS_S, Situation

MAX_DEATHS = 3
"""Replicas that may die with one request before it is given up: it may be what they die of."""
RETRY_PAUSE_S = 0.1


class Asking:
    """Puts calls to revisions, for one gateway replica."""

    def __init__(
        self,
        name: str,
        config: AdmissionConfig,
        put: Callable[[str, Call], Any],
        situation: Callable[[], Situation],
        *,
        knows: Callable[[str], bool] = lambda revision: True,
        pause_s: float = LIVENESS_S,
    ) -> None:
        """`put` gives the handle's response generator for a call at a revision; `situation` tells how things stand now, and is
        looked at every `pause_s` while a canary's user waits; `knows` whether a revision's replicas have been heard of here."""
        self._name, self._config, self._put, self._situation, self._pause_s = name, config, put, situation, pause_s
        self._knows = knows

    async def ask(self, call: Call, order: tuple[tuple[Role, str], ...], situation: Situation) -> None:
        """Ask roles and revisions in `order` until one gives a token; the last of `call.attempts` counts."""
        todo = list(order)
        while todo:
            role, revision = todo.pop(0)
            attempt = self._attempt(role, revision, call)
            await self._try(attempt, call, situation, last=not todo)
            if attempt.failure is None or time.monotonic() >= call.deadline.at_s:
                break
            if not todo and attempt.died and sum(a.died for a in call.attempts) < MAX_DEATHS:
                await asyncio.sleep(RETRY_PAUSE_S)
                todo = [(role, revision)]

    def _attempt(self, role: Role, revision: str, call: Call) -> Attempt:
        """A canary that does not begin its stream in good time leaves the request to stable."""
        started_s = time.monotonic() if call.attempts else call.started_s
        patience_s, first = self._config.canary_patience_s, None
        if role == "canary" and call.wanted is None and getattr(call.body, "stream", False):
            first = Deadline(started_s + patience_s, patience_s)
        deadline = call.deadline
        attempt = Attempt(role, revision, self._name, started_s, deadline, first=first, hide_usage=call.hides_usage)
        attempt.watch.keeps_texts = call.lot is not None and call.lot.copied
        return attempt

    async def _try(self, attempt: Attempt, call: Call, situation: Situation, *, last: bool) -> None:
        """Who is `last` is waited for while Serve brings it up again, or until its replicas are heard of: only the head tells."""
        revision = attempt.revision
        coming = revision in situation.away_since_s
        unheard_of = not last and revision in situation.answering and not self._knows(revision)
        asks = (revision in situation.answering and not unheard_of) or (last and coming)
        call.attempts.append(attempt)
        if call.trace is not None:
            call.trace.ask(attempt)
        chunks = self._put(revision, call) if asks else None
        if chunks is None:
            attempt.refuse(coming=coming or unheard_of)
        elif last:
            await attempt.ask(chunks)
        else:
            await self._ask_while_there(attempt, chunks)

    async def _ask_while_there(self, attempt: Attempt, chunks: Any) -> None:
        """Serve lets a request wait for a replica that starts; a canary's user need not: there is stable."""
        asking = asyncio.create_task(attempt.ask(chunks))
        try:
            while not (await asyncio.wait({asking}, timeout=self._pause_s))[0]:
                if attempt.revision in self._situation().away_since_s:
                    asking.cancel()
                    await asyncio.wait({asking})
                    attempt.refuse(coming=True)
                    return
        except asyncio.CancelledError:
            asking.cancel()
            await asyncio.wait({asking})  # so that the attempt knows of the client's leave before it goes on record
            raise
        asking.result()


def excused(attempt: Attempt, situation: Situation, now_s: float, absence_s: float) -> bool:
    """Whether the attempt says nothing about its revision: it had no replica, and has been without one for `absence_s` at most.

    A replica that died with the request is evidence (once, whatever it took along): the model may have killed it.
    """
    if not attempt.lost or attempt.replica is not None:
        return False
    return now_s - situation.away_since_s.get(attempt.revision, now_s) <= absence_s
