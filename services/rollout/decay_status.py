"""What is kept of the watch over a promoted model.

    rollouts/<name>/decay.json               the one watch, changed by compare-and-set
    rollouts/<name>/<id>/recorded.jsonl      each item's score right after the promotion
    rollouts/<name>/<id>/round-0001.jsonl    and in each round since

<id> is of the rollout that promoted the model.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import Storage
from services.config import ProbesConfig
from services.rollout.decay import DecayFinding, judge_round
from services.rollout.probes import read_answers
from services.rollout.status import Decision, RolloutStatus, folder

WatchPhase = Literal["recording", "watching", "reverting", "reverted", "alarmed", "ended"]


class WatchStatus(StrictModel):
    """The watch over one promoted revision."""

    id: str
    """Of the rollout that promoted it."""
    name: str
    revision: str
    probes: ProbesConfig
    items: str
    """Storage key."""
    phase: WatchPhase = "recording"
    """`alarmed`: it has decayed, and a person must act. `ended`: another revision is stable."""
    round: int = 1
    next_round_at: datetime | None = None
    """Nothing is asked before."""
    began_at: datetime
    recorded: float | None = None
    """Mean score at the promotion."""
    num_recorded: int = 0
    last: DecayFinding | None = None
    """Of the present round, as it was last written; at a round's beginning of the one before."""
    target: str | None = None
    """Revision that is brought back."""
    decision: Decision | None = None

    @classmethod
    def first(cls, rollout: RolloutStatus, now: datetime) -> WatchStatus:
        """The watch that begins with that promotion."""
        return cls(
            id=rollout.id,
            name=rollout.name,
            revision=rollout.candidate,
            probes=rollout.config.probes,
            items=rollout.probe_items,
            began_at=now,
        )

    @property
    def asks(self) -> bool:
        return self.phase in ("recording", "watching")

    @property
    def turn(self) -> tuple[str, str, int]:
        """What an answer to its present questions belongs to, as ProbeTask has it."""
        return ("record", self.id, 0) if self.phase == "recording" else ("decay", self.id, self.round)

    @property
    def file(self) -> str:
        """Where the answers of the present turn go."""
        return f"{folder(self.name, self.id)}/recorded.jsonl" if self.phase == "recording" else _round_file(self)


def watch_key(name: str) -> str:
    """Storage key of the one watch."""
    return f"rollouts/{name}/decay.json"


def read_watch(storage: Storage, name: str) -> tuple[WatchStatus, str] | None:
    """The watch of `name` with its storage version; None when there never was one.

    Raises:
        InputError: it is damaged.
    """
    blob = storage.read(watch_key(name))
    if blob is None:
        return None
    try:
        return WatchStatus.model_validate_json(blob.content), blob.version
    except ValueError as error:
        where, problem = f"{storage.uri}/{watch_key(name)}", str(error).splitlines()[0]
        raise InputError(where, f"not the status of a watch ({problem})", "restore the file, or remove it") from None


def judged_again(storage: Storage, watch: WatchStatus) -> DecayFinding | None:
    """What the stored answers of the decision's round come to now; None where nothing was decided. It equals `watch.last` unless
    answers or code were changed."""
    if watch.decision is None:
        return None
    return judge_round(watch.probes.decay, watch.round, read_answers(storage, _round_file(watch)))


def _round_file(watch: WatchStatus) -> str:
    return f"{folder(watch.name, watch.id)}/round-{watch.round:04d}.jsonl"
