"""Copies of answered requests to a canary that serves nobody yet: its replies are compared, never returned.

A copy starts when the user's answer is complete, so it can neither delay nor change it. A bounded number run at once;
what comes beyond is dropped, not queued: a slow or dead canary costs the gateway a few waiting tasks and nothing more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cluster.telemetry import logger
from services.config import ShadowConfig
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


def chosen(draw: float, traffic: Traffic, percent: float) -> bool:
    """Whether a request is copied, `draw` being a number drawn from [0, 1) for it: never while the canary has users."""
    return traffic.canary is not None and traffic.weight_percent == 0 and draw < percent / 100


Ask = Callable[[], Any]
"""Puts the copy to the canary: returns the handle's response generator."""
Tell = Callable[[Attempt | None, Comparison], None]
"""Takes what came of a copy; no attempt when it was dropped."""


class Shadow:
    """The copies of one gateway replica."""

    def __init__(self, config: ShadowConfig, name: str, tell: Tell) -> None:
        self._config, self._name, self._tell = config, name, tell
        self._running: set[asyncio.Task[None]] = set()

    def offer(self, canary: str, answered: Watch, ask: Ask) -> None:
        """Start a copy, or drop it; returns at once."""
        if len(self._running) >= self._config.max_concurrent:
            self._tell(None, Comparison("dropped"))
            return
        task = asyncio.create_task(self._run(canary, answered, ask))
        self._running.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._running.discard)

    async def _run(self, canary: str, answered: Watch, ask: Ask) -> None:
        now_s, timeout_s = time.monotonic(), self._config.timeout_s
        attempt = Attempt("canary", canary, self._name, now_s, Deadline(now_s + timeout_s, timeout_s))
        attempt.watch.keeps_texts = True
        try:
            await attempt.ask(ask())
            if attempt.failure is None and attempt.whole is None:
                async for _ in attempt.relay():
                    pass
            self._tell(attempt, compare(answered, attempt.watch))
        except Exception as error:  # this task's outermost loop: nobody else would see it
            log.warning("a copy to %s was lost: %r", canary, type(error))
            self._tell(None, Comparison("failed"))
