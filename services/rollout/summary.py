"""What probes, users and the watch over decay say of the revisions of a model, read from storage for people."""

from __future__ import annotations

from typing import Any

from cluster.config import StrictModel
from cluster.storage import Storage
from services.rollout.decay_status import WatchStatus, read_watch
from services.rollout.feedback import FeedbackCounts, feedback
from services.rollout.findings import Finding
from services.rollout.looks import stored_scores
from services.rollout.policy import level_of
from services.rollout.probes import load
from services.rollout.status import RolloutStatus


class ProbesSummary(StrictModel):
    """Items that both revisions of a rollout answered. Mean scores are in [0, 1]."""

    num_items: int
    """To be asked in all."""
    num_scored: int
    stable: float = 0.0
    canary: float = 0.0


class VotesSummary(StrictModel):
    """Users' votes as evidence, at the newest decision or look. Shares of thumbs down are in [0, 1]."""

    num_stable: int
    num_canary: int
    stable: float
    canary: float
    e_value: float
    """Against "no more thumbs down than the margin allows"."""
    fails_at: float
    """The e-value that rolls back."""


class QualitySummary(StrictModel):
    """Beside a rollout's status."""

    probes: ProbesSummary | None = None
    feedback: dict[str, FeedbackCounts] = {}
    """By revision, since that rollout began: all votes."""
    votes: VotesSummary | None = None
    """Those that count as evidence, where a rollout is judged by them and they have come."""
    decay: WatchStatus | None = None


def summary(storage: Storage, status: RolloutStatus) -> QualitySummary:
    """What is in storage: the last seconds of a rollout under way, and the last half minute of a watch, are not there yet."""
    watch = read_watch(storage, status.name)
    return QualitySummary(
        probes=_probes(storage, status) if status.probe_items else None,
        feedback=feedback(storage, status.name, status.id),
        votes=_votes(status),
        decay=watch[0] if watch else None,
    )


def as_json(storage: Storage, status: RolloutStatus) -> dict[str, Any]:
    """A rollout's status and what is known beside it, for machines."""
    return {**status.model_dump(mode="json"), **summary(storage, status).model_dump(mode="json")}


def _votes(status: RolloutStatus) -> VotesSummary | None:
    looks = [status.decisions[-1], *([status.last_look] if status.last_look else [])]
    numbers = max(looks, key=lambda decision: decision.at).numbers
    if "feedback_harm_e_value" not in numbers:
        return None
    return VotesSummary(
        num_stable=int(numbers["feedback_stable_counted"]),
        num_canary=int(numbers["feedback_canary_counted"]),
        stable=numbers["feedback_stable_down"],
        canary=numbers["feedback_canary_down"],
        e_value=numbers["feedback_harm_e_value"],
        fails_at=1 / level_of(status.config, Finding(metric="feedback")),
    )


def _probes(storage: Storage, status: RolloutStatus) -> ProbesSummary:
    scores, num_items = stored_scores(storage, status), len(load(storage, status.probe_items))
    if not scores:
        return ProbesSummary(num_items=num_items, num_scored=0)
    stable, canary = (sum(side) / len(scores) for side in ([s.stable for s in scores], [s.canary for s in scores]))
    return ProbesSummary(num_items=num_items, num_scored=len(scores), stable=stable, canary=canary)


def lines(found: QualitySummary) -> list[str]:
    """For people."""
    told = []
    if (probes := found.probes) is not None:
        scores = f": stable {probes.stable:.1%}, canary {probes.canary:.1%}" if probes.num_scored else ""
        told.append(f"probes: {probes.num_scored} of {probes.num_items} items answered{scores}")
    for revision, counts in sorted(found.feedback.items()):
        share = counts.down / (counts.up + counts.down)
        told.append(
            f"feedback on {revision}: {counts.up} up, {counts.down} down ({share:.1%}), {counts.corrected} corrected"
        )
    if (votes := found.votes) is not None:
        told.append(
            f"users' votes as evidence: canary {votes.canary:.1%} down of {votes.num_canary}, stable {votes.stable:.1%} of "
            f"{votes.num_stable}; e = {votes.e_value:.3g}, rolled back from {votes.fails_at:.0f} on"
        )
    if (watch := found.decay) is not None:
        told += _decay(watch)
    return told


def _decay(watch: WatchStatus) -> list[str]:
    recorded = (
        f", {watch.recorded:.1%} on {watch.num_recorded} items at its promotion" if watch.recorded is not None else ""
    )
    told = [f"decay watch on {watch.revision}: {watch.phase}, round {watch.round}{recorded}"]
    if watch.decision is not None:
        return [*told, f"  {watch.decision.at:%Y-%m-%d %H:%M:%S}  {watch.decision.message}"]
    return [*told, f"  {watch.last.told(watch.probes.decay)}"] if watch.last else told
