"""What users say of answers: who may judge which, one vote a request, counted per revision and kept for good.

    rollouts/<name>/<rollout>/feedback-000001.jsonl    a line per vote, beside the rollout under way or the last one
    rollouts/<name>/before/feedback-000001.jsonl       where there was none yet

A gateway tells of every request that reached a revision; which one answered is therefore known here, whichever gateway
replica the vote comes to. Votes are no part of the verdict (docs/rollouts.md says why).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from cluster.config import StrictModel
from cluster.errors import StageFailed
from cluster.storage import Storage
from services.rollout.status import current_key, folder

Thumb = Literal["up", "down"]

MAX_KNOWN = 200_000
"""Answers that can still be judged; the oldest are forgotten first. About 100 MB at most, with ids of 64 characters."""
MAX_UNWRITTEN = 2_000
"""Votes held while storage is away; then no more are taken."""
FLUSH_S = 5.0
"""Votes are written at least so often: what a killed controller can lose."""


class Vote(StrictModel):
    """One judgement, as it is kept. Of several on one request the last counts."""

    request_id: str
    revision: str
    role: str
    thumb: Thumb
    correction: str | None = None
    """The answer as it should have been."""
    at: datetime


class FeedbackCounts(StrictModel):
    """What was said of one revision."""

    up: int = Field(default=0, ge=0)
    down: int = Field(default=0, ge=0)
    corrected: int = Field(default=0, ge=0)


@dataclass(slots=True)
class _Answer:
    revision: str
    role: str
    thumb: Thumb | None = None


class FeedbackBook:
    """Answers that can be judged, and votes that are not written yet. Threads may note and vote at once."""

    def __init__(self, storage: Storage, name: str, now: datetime) -> None:
        self._storage, self._name = storage, name
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._votes: list[Vote] = []
        self._flushed_at = now
        self._lock = threading.Lock()

    def note(self, records: Iterable[dict[str, Any]]) -> None:
        """Take note of who answered what. Of a request that failed over the last record is the one that answered."""
        with self._lock:
            for record in records:
                place = (record.get("owner", ""), record["request_id"])
                known = self._answers.pop(place, None)  # to the end: the newest are kept
                thumb = known.thumb if known and known.revision == record["revision"] else None
                self._answers[place] = _Answer(record["revision"], record["role"], thumb)
            while len(self._answers) > MAX_KNOWN:
                del self._answers[next(iter(self._answers))]

    def vote(
        self, owner: str, request_id: str, thumb: Thumb, correction: str | None, at: datetime
    ) -> tuple[Vote, Thumb | None] | None:
        """The vote and the thumb it replaces; None when `owner` has no such answer (any more).

        Raises:
            StageFailed: votes cannot be written at the moment.
        """
        with self._lock:
            if len(self._votes) >= MAX_UNWRITTEN:
                raise StageFailed("votes cannot be written: storage is away")
            found = self._answers.get((owner, request_id))
            if found is None:
                return None
            before, found.thumb = found.thumb, thumb
            vote = Vote(request_id=request_id, revision=found.revision, role=found.role, thumb=thumb,
                        correction=correction, at=at)  # fmt: skip
            self._votes.append(vote)
            return vote, before

    def flush(self, now: datetime) -> float | None:
        """Write what is due; returns the seconds until something is, None when there is nothing to write."""
        with self._lock:
            votes = list(self._votes)
        if not votes:
            return None
        due_s = FLUSH_S - (now - self._flushed_at) / timedelta(seconds=1)
        if due_s > 0:
            return due_s
        where = _where(self._storage, self._name)
        number = len(_files(self._storage, where)) + 1
        content = "".join(vote.model_dump_json() + "\n" for vote in votes).encode()
        self._storage.write(f"{where}/feedback-{number:06d}.jsonl", content)
        with self._lock:  # kept until storage has them
            del self._votes[: len(votes)]
        self._flushed_at = now
        return None


def feedback(storage: Storage, name: str, rollout_id: str | None = None) -> dict[str, FeedbackCounts]:
    """What was said of each revision during that rollout (or the present one) and since, each request's last vote."""
    where = folder(name, rollout_id) if rollout_id else _where(storage, name)
    last: dict[tuple[str, str], Vote] = {}
    for key in _files(storage, where):
        blob = storage.read(key)
        for line in blob.content.decode().split("\n") if blob else ():
            if line:
                vote = Vote.model_validate_json(line)
                last[vote.request_id, vote.revision] = vote
    counts: dict[str, FeedbackCounts] = {}
    for vote in last.values():
        counts[vote.revision] = _plus(counts.get(vote.revision, FeedbackCounts()), vote)
    return counts


def _plus(counts: FeedbackCounts, vote: Vote) -> FeedbackCounts:
    up, down = counts.up + (vote.thumb == "up"), counts.down + (vote.thumb == "down")
    return FeedbackCounts(up=up, down=down, corrected=counts.corrected + (vote.correction is not None))


def _where(storage: Storage, name: str) -> str:
    current = storage.read(current_key(name))
    return folder(name, current.content.decode() if current else "before")


def _files(storage: Storage, where: str) -> list[str]:
    return [key for key in storage.list(where) if key.rsplit("/", 1)[1].startswith("feedback-")]
