"""Brings the audit record to one webhook: signed, again and again until it is taken, each entry in its turn.

How far it has come is in storage, and what waits is the record itself: a controller that is killed goes on from there, and a
receiver that is dead costs no memory. At least once: a receiver that hears of a deed twice knows it by `webhook-id`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from pydantic import Field

from cluster.artifacts import VERSION
from cluster.config import StrictModel
from cluster.errors import ConfigError, Conflict
from cluster.storage import ABSENT, Storage
from cluster.telemetry import logger
from services import audit
from services.audit import Stored
from services.rollout.receivers import Receiver
from services.rollout.webhook_message import payload, signature

log = logger("notify")

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 300.0
REFUSED: Final = frozenset({400, 404, 410, 413, 422})
"""Answers that another attempt with the same body would get again: it must not keep a rollback's message waiting."""
MAX_GIVEN_UP: Final = 100
"""Ids remembered of what was never delivered; the oldest are forgotten first."""


class Reply(NamedTuple):
    """What became of one attempt."""

    status: int | None
    """None: no answer came."""
    problem: str = ""
    """Says no address and no secret."""
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Post(Protocol):
    """Sends a body once, without following redirects."""

    def __call__(self, url: str, headers: dict[str, str], body: bytes, timeout_s: float) -> Reply: ...


class Cursor(StrictModel):
    """How far one receiver has come."""

    entry: int = 0
    given_up: tuple[str, ...] = Field(default=())
    """Ids of what was not delivered in time, the newest last."""


def wait_s(attempt: int, asked_s: float | None, draw: Callable[[], float]) -> float:
    """Until the next attempt after that many failed ones: doubled each time, half of it drawn ("equal jitter" in AWS' "Exponential
    backoff and jitter"), so that many senders do not come back together. Never less than the receiver asked for, within bounds."""
    whole = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 20))
    return max(whole * (1 + draw()) / 2, min(asked_s or 0.0, LONGEST_WAIT_S))


class Courier:
    """One receiver's. Not for several threads."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        receiver: Receiver,
        post: Post,
        *,
        clock: Callable[[], datetime],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._storage, self._name, self.receiver = storage, name, receiver
        self._post, self._clock, self._draw = post, clock, draw
        self._cursor, self._version = self._read()
        self._written = self._cursor
        self._num_failed = 0
        self._not_before: datetime | None = None
        self._pause_s = 0.0

    def turn(self, last: int) -> float | None:
        """Deliver what waits up to the entry of number `last`; returns the seconds until the next attempt is due, None when
        nothing waits."""
        pause_s = None
        while pause_s is None and (stored := self._next(last)) is not None:
            pause_s = self._deliver(stored)
        if self._cursor != self._written:
            self._write()
        return pause_s

    def _next(self, last: int) -> Stored | None:
        """The next entry that this receiver wants to hear of. Numbers that are missing from the record are passed over."""
        while self._cursor.entry < last:
            number = self._cursor.entry + 1
            stored = audit.read(self._storage, self._name, number)
            if stored is not None and stored.entry.line.kind in self.receiver.webhook.events:
                return stored
            if stored is None:
                log.error(
                    "webhook %s: entry %d is missing from the record, nobody hears of it", self.receiver.id, number
                )
            self._cursor = self._cursor.replace(entry=number)
        return None

    def _deliver(self, stored: Stored) -> float | None:
        """None: it is done with, delivered or given up."""
        now, line = self._clock(), stored.entry.line
        too_old = now - line.at > timedelta(seconds=self.receiver.give_up_after_s)
        if too_old and self._num_failed:  # what has waited behind another one is tried once all the same
            self._give_up(stored, "not delivered in time")
            return None
        if self._not_before is not None and 0 < (due_s := (self._not_before - now).total_seconds()) <= self._pause_s:
            return due_s  # a clock that was set back makes it due
        reply = self._attempt(stored, now)
        if reply.delivered:
            self._done(stored, self._cursor.given_up)
            self._write()  # at once: what is sent again after a kill is at most this one
            return None
        if reply.status in REFUSED:
            self._give_up(stored, f"refused with status {reply.status}")
            return None
        self._num_failed += 1
        pause_s = wait_s(self._num_failed, reply.retry_after_s, self._draw)
        self._not_before, self._pause_s = now + timedelta(seconds=pause_s), pause_s
        log.warning("webhook %s: %s not delivered (%s); again in %.0f s", self.receiver.id, line.id,
                    reply.problem or f"status {reply.status}", pause_s)  # fmt: skip
        return pause_s

    def _give_up(self, stored: Stored, why: str) -> None:
        log.error("webhook %s: %s is given up: %s", self.receiver.id, stored.entry.line.id, why)
        self._done(stored, (*self._cursor.given_up, stored.entry.line.id)[-MAX_GIVEN_UP:])

    def _attempt(self, stored: Stored, now: datetime) -> Reply:
        body, message_id, at_s = payload(stored), stored.entry.line.id, int(now.timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": f"serinus/{VERSION}",
            "webhook-id": message_id,
            "webhook-timestamp": str(at_s),
        }
        try:
            url, secret = self.receiver.url, self.receiver.secret
            if secret is not None:
                headers["webhook-signature"] = signature(secret, message_id, at_s, body)
        except ConfigError as error:
            return Reply(None, error.found)
        return self._post(url, headers, body, self.receiver.timeout_s)

    def _done(self, stored: Stored, given_up: tuple[str, ...]) -> None:
        self._cursor = Cursor(entry=stored.entry.number, given_up=given_up)
        self._num_failed, self._not_before = 0, None

    def _read(self) -> tuple[Cursor, str]:
        blob = self._storage.read(self._key)
        if blob is None:
            return Cursor(entry=self.receiver.since), ABSENT
        found = Cursor.model_validate_json(blob.content)
        if found.entry < self.receiver.since:  # taken out and put back: it hears of what comes from then on
            found = found.replace(entry=self.receiver.since)
        return found, blob.version

    def _write(self) -> None:
        content = self._cursor.model_dump_json().encode()
        try:
            self._version = self._storage.write(self._key, content, expect=self._version)
        except Conflict:  # a controller that was taken for dead delivers as well: whoever is further on is right
            other, self._version = self._read()
            if other.entry > self._cursor.entry:
                self._cursor = other
            else:
                self._version = self._storage.write(self._key, content, expect=self._version)
        self._written = self._cursor

    @property
    def _key(self) -> str:
        return f"notifications/{self._name}/{self.receiver.id}.json"
