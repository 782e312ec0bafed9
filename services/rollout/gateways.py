"""Which gateways live, and which traffic each of them applies. Pure: moments are arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

LIVE_S = 5.0
"""A gateway not heard of for so long is gone; it tells of itself every second."""
SETTLE_S = 2.5
"""After a (re)start every living gateway is heard of within this time, and only then is `all of them` meaningful."""


@dataclass(frozen=True)
class _Gateway:
    version: int
    since: datetime
    """When it first told of that version."""
    seen_at: datetime


class Gateways:
    """What the gateways told last."""

    def __init__(self, now: datetime) -> None:
        self._up_since = now
        self._known: dict[str, _Gateway] = {}

    def tell(self, gateway_id: str, version: int, now: datetime) -> None:
        known = self._known.get(gateway_id)
        if known is not None and known.version == version:
            self._known[gateway_id] = replace(known, seen_at=now)
        else:
            self._known[gateway_id] = _Gateway(version, now, now)

    def applied_at(self, version: int, wanted_since: datetime, now: datetime) -> datetime | None:
        """When the last living gateway told that it applies `version` or a later one; None while one has not.

        Without any gateway the change is in force once it is sure that none is there: `LIVE_S` after it was wanted.
        """
        live = [g for g in list(self._known.values()) if now - g.seen_at < timedelta(seconds=LIVE_S)]
        if now - self._up_since < timedelta(seconds=SETTLE_S) or any(g.version < version for g in live):
            return None
        if not live:
            return now if now - max(wanted_since, self._up_since) >= timedelta(seconds=LIVE_S) else None
        return max(wanted_since, *(g.since for g in live))
