"""What comes in during a rollout: records of gateways, scores of the prober; and when it is written.

A process that starts anew reads from storage what is known of the rollout under way before it takes in more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cluster.storage import Storage
from services.contract import PairedScore, RequestRecord
from services.rollout.evidence import EvidenceStore
from services.rollout.probes import ProbeTask
from services.rollout.status import RolloutStatus, read_status
from services.rollout.votes import UserVote

FLUSH_S = 5.0
"""Evidence is written at least so often: what a killed controller can lose."""
SAVE_S = 60.0
"""The judge's state is written so often: as much of the evidence a restarted controller folds again."""


class Intake:
    """The evidence of the rollout under way, of one public name. Gateways and the prober call from threads of their own."""

    def __init__(self, storage: Storage, name: str, clock: Callable[[], datetime]) -> None:
        self._storage, self._name, self._clock = storage, name, clock
        self._following: tuple[str, EvidenceStore] | None = None
        self._flushed_at = self._saved_at = datetime.min.replace(tzinfo=clock().tzinfo)

    def follow(self, status: RolloutStatus) -> EvidenceStore:
        """The evidence of that rollout, read from storage when this process has not seen it yet."""
        if self._following is None or self._following[0] != status.id:
            self._following = (status.id, EvidenceStore(self._storage, status))
        return self._following[1]

    def close(self) -> None:
        """Write all of it, for the process that goes on from there."""
        if self._following is not None:
            self._following[1].flush()
            self._following[1].save()

    def rest(self) -> None:
        """No rollout is under way: what comes is no evidence."""
        self._following = None

    def record(self, records: list[dict[str, Any]]) -> None:
        following = self._following
        if following is not None and records:
            following[1].add([RequestRecord.model_validate(record) for record in records])

    def score(self, scores: list[dict[str, Any]], rollout_id: str | None = None) -> None:
        """Take in items that both revisions of the rollout under way answered, as PairedScore has them; those of the prober, which
        name their rollout, only until it is decided: a candidate that is being removed answers nothing."""
        following = self._following
        if following is None:
            return
        if rollout_id is not None:
            task = self.probe_task()
            if task is None or task.id != rollout_id:
                return
        following[1].add_scores([PairedScore.model_validate(score) for score in scores])

    def vote(self, vote: UserVote) -> None:
        """Take in what a user says of an answer; until the rollout is decided and after that alike, for the record."""
        following = self._following
        if following is not None:
            following[1].add_vote(vote)

    def probe_task(self) -> ProbeTask | None:
        """What the rollout under way wants asked of both revisions; None without one, or without probes."""
        found, following = read_status(self._storage, self._name), self._following
        if found is None or found[0].phase != "progressing" or not found[0].probe_items:
            return None
        status = found[0]
        if following is None or following[0] != status.id:  # this process has not read yet what is known
            return None
        return ProbeTask(
            kind="rollout",
            id=status.id,
            revisions=(status.stable, status.candidate),
            items=status.probe_items,
            probes=status.config.probes,
            known=following[1].scored(),
        )

    def flush(self, evidence: EvidenceStore, window: int) -> None:
        """Write what is due, and all of it when the rollout has left that window of evidence."""
        now = self._clock()
        found = read_status(self._storage, self._name)
        if found is not None and found[0].ended:
            evidence.look(found[0], now)  # nothing is decided any more: what came last is kept for the record
        turned = found is not None and (found[0].window != window or found[0].ended)
        if not turned and now - self._flushed_at < timedelta(seconds=FLUSH_S):
            return
        evidence.flush()
        self._flushed_at = now
        if not turned and now - self._saved_at >= timedelta(seconds=SAVE_S):  # a decision is never kept waiting for it
            evidence.save()
            self._saved_at = now
