"""The state of a rollout as it stands in storage, and the only ways to read and change it.

rollouts/<name>/<id>/status.json     changed by compare-and-set alone
rollouts/<name>/current              the id of the one rollout that is or was last under way
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import Field

from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import ABSENT, Storage
from services.config import RolloutConfig

Phase = Literal["progressing", "promoting", "rolling_back", "promoted", "rolled_back", "aborted"]
"""`promoting` and `rolling_back` are under way and always come to `promoted`, and to `rolled_back` or `aborted`."""

ENDED: Final = frozenset({"promoted", "rolled_back", "aborted"})

Verdict = Literal["passed", "failed", "inconclusive"]

ANALYSIS: Final = "analysis"
"""`who` of the decisions that rest on evidence; every other `who` is a person."""


class Decision(StrictModel):
    """What was decided about a rollout, by whom, and the numbers it rested on."""

    action: Literal["hold", "set_weight", "promote", "rollback"]
    verdict: Verdict
    reason: str
    """For machines: error_rate, latency, tpot, quality, step_passed, inconclusive, manual, ..."""
    message: str
    """For people."""
    who: str = ANALYSIS
    step: int = 0
    """Index of the step from this decision on."""
    weight_percent: float = 0.0
    """Share of users on the candidate from this decision on."""
    numbers: dict[str, float] = Field(default={})
    look: int = 0
    """Number of the last look at evidence it rested on."""
    at: datetime
    """When it was decided."""
    weight_applied_at: datetime | None = None
    """When every living gateway had told that it applies the weight."""


class RolloutStatus(StrictModel):
    """One rollout. `decisions` keeps every decision but the holds, of which `last_look` is the newest."""

    id: str
    name: str
    """Public name of the model."""
    candidate: str
    """Revision id."""
    stable: str
    """Revision id that was stable when the rollout began."""
    config: RolloutConfig
    keep_revisions: int = Field(default=1, ge=0)
    """Replaced revisions left running after a promotion."""
    probe_items: str = ""
    """Storage key of the items that both revisions are asked; empty without probes."""
    phase: Phase = "progressing"
    step: int = 0
    weight_percent: float
    held: bool = False
    """A person set the weight: evidence may still roll back, but moves nothing forward."""
    started_at: datetime
    step_started_at: datetime
    traffic_version: int | None = None
    """Of the traffic that this status asks for; None until it is written."""
    weight_applied_at: datetime | None = None
    """When every living gateway had told that it applies that traffic."""
    decided_at: datetime | None = None
    """When promotion or rollback was decided."""
    ended_at: datetime | None = None
    decisions: tuple[Decision, ...] = ()
    last_look: Decision | None = None

    @property
    def ended(self) -> bool:
        return self.phase in ENDED

    @property
    def window(self) -> int:
        """Number of the stretch of evidence that counts now: each change of weight begins a new one."""
        return len(self.decisions)

    @property
    def revision(self) -> str:
        """The candidate, by the name that requests' records use."""
        return self.candidate

    def decide(self, decision: Decision) -> RolloutStatus:
        """This status with `decision` in force and not yet carried out."""
        changes = {"decisions": (*self.decisions, decision), "weight_percent": decision.weight_percent}
        unwritten = {"traffic_version": None, "weight_applied_at": None}
        match decision.action:
            case "promote":
                return self.replace(phase="promoting", decided_at=decision.at, **changes, **unwritten)
            case "rollback":
                return self.replace(phase="rolling_back", decided_at=decision.at, **changes, **unwritten)
            case _:
                return self.replace(step=decision.step, step_started_at=decision.at, **changes, **unwritten)

    def applied(self, at: datetime) -> RolloutStatus:
        """This status with its newest decision applied by every living gateway at `at`."""
        *earlier, newest = self.decisions
        return self.replace(weight_applied_at=at, decisions=(*earlier, newest.replace(weight_applied_at=at)))


def folder(name: str, rollout_id: str) -> str:
    return f"rollouts/{name}/{rollout_id}"


def read_status(storage: Storage, name: str) -> tuple[RolloutStatus, str] | None:
    """The current or last rollout of `name` with its storage version; None when there never was one.

    Raises:
        InputError: the status is damaged.
    """
    current = storage.read(current_key(name))
    if current is None:
        return None
    key = status_key(name, current.content.decode())
    blob = storage.read(key)
    if blob is None:
        raise InputError(
            f"{storage.uri}/{key}", "is missing", f"restore it, or remove {current_key(name)} to start anew"
        )
    try:
        return RolloutStatus.model_validate_json(blob.content), blob.version
    except ValueError as error:
        where, problem = f"{storage.uri}/{key}", str(error).splitlines()[0]
        raise InputError(where, f"not a rollout's status ({problem})", "restore the file") from None


def write_status(storage: Storage, status: RolloutStatus, *, expect: str = ABSENT) -> str:
    """Write `status` if the present version is `expect`; returns the new one.

    Raises:
        Conflict: someone else changed it first.
    """
    content = status.model_dump_json(indent=1).encode()
    return storage.write(status_key(status.name, status.id), content, expect=expect)


def make_current(storage: Storage, status: RolloutStatus, *, expect: str) -> None:
    """Make `status` its model's rollout if the pointer's present version is `expect`: only one of several starts wins.

    Raises:
        Conflict: another rollout was started first.
    """
    storage.write(current_key(status.name), status.id.encode(), expect=expect)


def status_key(name: str, rollout_id: str) -> str:
    return f"{folder(name, rollout_id)}/status.json"


def current_key(name: str) -> str:
    return f"rollouts/{name}/current"
