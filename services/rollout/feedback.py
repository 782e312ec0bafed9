"""What users say of answers: who may judge which, one vote a request, counted per revision and kept for good (cluster/feedback.py).

A gateway tells of every request that reached a revision; which one answered is therefore known here, whichever gateway
replica the vote comes to. What of it is evidence is decided elsewhere (votes.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import Field

from cluster.config import StrictModel
from cluster.errors import StageFailed
from cluster.feedback import Exchange, Thumb, Vote, vote_files
from cluster.storage import Storage
from services.contract import Role
from services.rollout.status import current_key, folder
from services.rollout.votes import UserVote

MAX_KNOWN = 200_000
"""Answers that can still be judged; the oldest are forgotten first. About 100 MB at most, with ids of 64 characters."""
MAX_UNWRITTEN = 2_000
"""Answers whose votes are held while storage is away; then no more are taken."""
MAX_UNWRITTEN_BYTES = 16 * 2**20
"""Of these votes with their texts."""
MAX_REVOTES = 5
"""A vote is written so often anew: whoever changes it without end must not fill storage."""
FLUSH_S = 5.0
"""Votes are written at least so often: what a killed controller can lose."""


class FeedbackCounts(StrictModel):
    """What was said of one revision."""

    up: int = Field(default=0, ge=0)
    down: int = Field(default=0, ge=0)
    corrected: int = Field(default=0, ge=0)


class TooManyVotes(StageFailed):
    """The vote on that answer was changed too often."""


class Taken(NamedTuple):
    """A vote that was taken."""

    vote: Vote
    before: Thumb | None
    """The thumb it replaces."""
    evidence: UserVote | None
    """What it is to the verdict. Nothing, where stable answered in a canary's place: the answer is stable's, the wait was not."""


@dataclass(slots=True)
class _Answer:
    revision: str
    role: str
    bucket: float
    rollout: str | None
    failed_over: bool
    thumb: Thumb | None = None
    num_written: int = 0
    """Of the votes on that request id, whoever answered it: an id can be used again."""


class FeedbackBook:
    """Answers that can be judged, and votes that are not written yet. Threads may note and vote at once."""

    def __init__(self, storage: Storage, name: str, now: datetime) -> None:
        self._storage, self._name = storage, name
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._lines: dict[tuple[str, str], bytes] = {}
        """The votes that are not written yet, the last one of each request."""
        self._num_bytes = 0
        self._flushed_at = now
        self._rollouts: dict[tuple[str, str], str | None] = {}
        """Of these: the rollout that placed the user."""
        self._next: dict[str, int] = {}
        """The number of the next file of each folder that was written to."""
        self._lock = threading.Lock()

    def note(self, records: Iterable[dict[str, Any]]) -> None:
        """Take note of who answered what. Of a request that failed over the last record is the one that answered."""
        with self._lock:
            for record in records:
                if record.get("shadow") == "copy":  # no user has seen it
                    continue
                place = (record.get("owner", ""), record["request_id"])
                known = self._answers.pop(place, None)  # to the end: the newest are kept
                thumb = known.thumb if known and known.revision == record["revision"] else None
                num_written = known.num_written if known else 0
                self._answers[place] = _answer(record, thumb, num_written)
            while len(self._answers) > MAX_KNOWN:
                del self._answers[next(iter(self._answers))]

    def vote(
        self,
        owner: str,
        request_id: str,
        thumb: Thumb,
        correction: str | None,
        at: datetime,
        *,
        exchange: Exchange | None = None,
    ) -> Taken | None:
        """None when `owner` has no such answer (any more).

        Raises:
            TooManyVotes: see the class.
            StageFailed: votes cannot be written at the moment.
        """
        place = owner, request_id
        with self._lock:
            found = self._answers.get(place)
            if found is None:
                return None
            if found.num_written > MAX_REVOTES:
                raise TooManyVotes(f"the vote on {request_id} was changed {MAX_REVOTES} times")
            vote = Vote(request_id=request_id, revision=found.revision, role=found.role, thumb=thumb,
                        correction=correction, exchange=exchange, at=at)  # fmt: skip
            self._hold(place, (vote.model_dump_json() + "\n").encode())
            self._rollouts[place] = found.rollout
            before, found.thumb = found.thumb, thumb
            return Taken(vote, before, None if found.failed_over else _evidence(vote, found))

    def _hold(self, place: tuple[str, str], line: bytes) -> None:
        """In the place of one that is not written yet."""
        num_bytes = self._num_bytes + len(line) - len(self._lines.get(place, b""))
        if num_bytes > MAX_UNWRITTEN_BYTES or (place not in self._lines and len(self._lines) >= MAX_UNWRITTEN):
            raise StageFailed("votes cannot be written: storage is away")
        self._lines[place], self._num_bytes = line, num_bytes

    def flush(self, now: datetime, *, at_once: bool = False) -> float | None:
        """Write what is due, or all of it at once; returns the seconds until something is, None when there is nothing to write."""
        with self._lock:
            lines, rollouts = dict(self._lines), dict(self._rollouts)
        if not lines:
            return None
        due_s = FLUSH_S - (now - self._flushed_at) / timedelta(seconds=1)
        if 0 < due_s <= FLUSH_S and not at_once:  # more: the clock was set back
            return due_s
        for rollout in dict.fromkeys(rollouts.values()):
            self._write(rollout, {place: line for place, line in lines.items() if rollouts[place] == rollout})
        self._flushed_at = now
        return None

    def _write(self, rollout: str | None, lines: dict[tuple[str, str], bytes]) -> None:
        where = folder(self._name, rollout or "before") if rollout is not None else _where(self._storage, self._name)
        if where not in self._next:  # only then: the folder grows with each file, and this process alone writes them
            self._next[where] = len(vote_files(self._storage, where)) + 1
        self._storage.write(f"{where}/feedback-{self._next[where]:06d}.jsonl", b"".join(lines.values()))
        self._next[where] += 1
        self._written(lines)

    def _written(self, lines: dict[tuple[str, str], bytes]) -> None:
        """Votes are kept until storage has them, and those that came meanwhile until it has these."""
        with self._lock:
            for place, line in lines.items():
                if self._lines[place] is line:
                    del self._lines[place], self._rollouts[place]
                    self._num_bytes -= len(line)
                if (answer := self._answers.get(place)) is not None:
                    answer.num_written += 1


def feedback(storage: Storage, name: str, rollout_id: str | None = None) -> dict[str, FeedbackCounts]:
    """What was said of each revision during that rollout (or the present one) and since, each request's last vote."""
    where = folder(name, rollout_id) if rollout_id else _where(storage, name)
    last: dict[tuple[str, str], Vote] = {}
    for key in vote_files(storage, where):
        blob = storage.read(key)
        for line in blob.content.decode().split("\n") if blob else ():
            if line:
                vote = Vote.model_validate_json(line)
                last[vote.request_id, vote.revision] = vote
    counts: dict[str, FeedbackCounts] = {}
    for vote in last.values():
        counts[vote.revision] = _plus(counts.get(vote.revision, FeedbackCounts()), vote)
    return counts


def _answer(record: dict[str, Any], thumb: Thumb | None, num_written: int) -> _Answer:
    of_request = (record["revision"], record["role"], record["bucket"], record.get("rollout"))
    return _Answer(*of_request, bool(record.get("failed_over")), thumb, num_written)


def _evidence(vote: Vote, answer: _Answer) -> UserVote:
    role: Role = "canary" if vote.role == "canary" else "stable"
    return UserVote(request_id=vote.request_id, revision=vote.revision, role=role, bucket=answer.bucket,
                    thumb=vote.thumb, at=vote.at, rollout=answer.rollout)  # fmt: skip


def _plus(counts: FeedbackCounts, vote: Vote) -> FeedbackCounts:
    up, down = counts.up + (vote.thumb == "up"), counts.down + (vote.thumb == "down")
    return FeedbackCounts(up=up, down=down, corrected=counts.corrected + (vote.correction is not None))


def _where(storage: Storage, name: str) -> str:
    current = storage.read(current_key(name))
    return folder(name, current.content.decode() if current else "before")
