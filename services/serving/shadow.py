"""Copies of answered requests to a canary that serves nobody yet: its replies are compared, never returned.

A copy starts when the user's answer is complete, so it can neither delay nor change it. A bounded number is under way at once; what
comes beyond is not copied and not compared: a slow or dead canary costs the gateway a few waiting tasks and nothing more.

Chance decides before anyone is asked which requests are copied, and the others are what copies are compared with. So what is
compared differs in the revision alone, as between users at 1 %, and the same tests hold (docs/rollouts.md). Were it decided later,
say by what is free when stable has answered, copies would be of other requests than the rest: of quick ones, or of good ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

from cluster.telemetry import logger
from services.config import AdmissionConfig, ShadowConfig
from services.contract import Traffic
from services.serving.attempt import Attempt, Deadline
from services.serving.records import Watch

log = logger("gateway")

Result = Literal["exact", "different", "failed", "dropped"]


@dataclass(frozen=True)
class Comparison:
    """What a copy's reply was like beside the user's."""

    result: Result
    same_finish: bool = False
    length_ratio: float | None = None
    """Characters of the canary's reply for each of stable's; None where stable's is empty."""


def compare(stable: Watch, canary: Watch) -> Comparison:
    """The first choices of both answers."""
    if canary.outcome != "ok":
        return Comparison("failed")
    one, other = stable.texts.get(0, ""), canary.texts.get(0, "")
    same_finish = stable.finish_reasons.get(0) == canary.finish_reasons.get(0)
    ratio = len(other) / len(one) if one else None
    return Comparison("exact" if one == other else "different", same_finish, ratio)


@dataclass(frozen=True, eq=False)
class Lot:
    """What chance made of a request; each is one of its own. It holds a place among the copies until somebody gives it back, or
    nobody knows of it any more."""

    canary: str
    copied: bool


def says_nothing(copy: Attempt, streamed: bool, config: ShadowConfig, admission: AdmissionConfig) -> bool:
    """Whether the copy was stopped at a time at which a user's request would not have been."""
    if not copy.watch.timed_out:
        return False
    waits_to_begin = streamed and copy.watch.first_s is None
    return config.timeout_s < (admission.canary_patience_s if waits_to_begin else admission.timeout_s)


Ask = Callable[[], Any]
"""Puts the copy to the canary: returns the handle's response generator."""
Tell = Callable[[Attempt | None, Comparison], None]
"""Takes what came of a copy, for people; no attempt when it was dropped."""
Note = Callable[[Attempt], None]
"""Takes a copy's answer, as evidence."""


class Shadow:
    """The copies of one gateway replica."""

    def __init__(self, config: ShadowConfig, name: str, tell: Tell) -> None:
        self._config, self._name, self._tell = config, name, tell
        self._placed: WeakSet[Lot] = WeakSet()
        self._running: set[asyncio.Task[None]] = set()

    def cast(self, draw: float, traffic: Traffic) -> Lot | None:
        """The lot of a request before anyone is asked, `draw` being a number drawn from [0, 1) for it. None where it takes no part:
        the canary has users, or copies enough are under way, whatever was drawn."""
        if traffic.canary is None or traffic.weight_percent != 0 or not self._config.percent:
            return None
        copied = draw < self._config.percent / 100
        if len(self._placed) >= self._config.max_concurrent:
            if copied:
                self._tell(None, Comparison("dropped"))
            return None
        lot = Lot(traffic.canary, copied)
        if copied:
            self._placed.add(lot)
        return lot

    def give_back(self, lot: Lot) -> None:
        """The request is not copied after all."""
        self._placed.discard(lot)

    def offer(self, lot: Lot, answered: Watch, ask: Ask, note: Note) -> None:
        """Start the copy; returns at once."""
        task = asyncio.create_task(self._run(lot, answered, ask, note))
        self._running.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._running.discard)

    async def _run(self, lot: Lot, answered: Watch, ask: Ask, note: Note) -> None:
        now_s, timeout_s = time.monotonic(), self._config.timeout_s
        attempt = Attempt("canary", lot.canary, self._name, now_s, Deadline(now_s + timeout_s, timeout_s))
        attempt.watch.keeps_texts = True
        try:
            await attempt.ask(ask())
            if attempt.failure is None and attempt.whole is None:
                async for _ in attempt.relay():
                    pass
            note(attempt)
            self._tell(attempt, compare(answered, attempt.watch))
        except Exception as error:  # this task's outermost loop: nobody else would see it
            log.warning("a copy to %s was lost: %r", lot.canary, type(error))
            self._tell(None, Comparison("failed"))
        finally:
            self.give_back(lot)
