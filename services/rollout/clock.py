"""The clock of a rollout: no setting of the machine's clock makes a step shorter or longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


def wall() -> datetime:
    """The machine's clock, which people and their time servers set."""
    return datetime.now(UTC)


def since_boot_s() -> float:
    """Seconds of the machine, which only pass; those of its sleep too where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Tells the time of the machine's clock as it stood when this one was set, and what has passed since."""

    def __init__(self, clock: Callable[[], datetime] = wall, steady: Callable[[], float] = since_boot_s) -> None:
        self._clock, self._steady = clock, steady
        self.set()

    def __call__(self) -> datetime:
        return self._set_at + timedelta(seconds=self._steady() - self._set_s)

    def set(self, *, not_before: datetime | None = None) -> None:
        """By the machine's clock; not earlier than a moment that is past for sure, though that clock was set back since."""
        now = self._clock()
        self._set_at, self._set_s = max(now, not_before or now), self._steady()

    @property
    def off_s(self) -> float:
        """By how much the machine's clock is ahead of this one, or behind (negative): it was set meanwhile."""
        return (self._clock() - self()).total_seconds()
