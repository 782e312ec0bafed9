"""The state of a rollout as it stands in storage, and the only ways to read and change it.

rollouts/<name>/<id>/status.json     changed by compare-and-set alone
rollouts/<name>/current              the id of the one rollout that is or was last under way
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import ABSENT, Storage
from services.config import RolloutConfig

Phase = Literal["progressing", "promoting", "rolling_back", "promoted", "rolled_back", "aborted"]
"""`promoting` and `rolling_back` are under way and always come to `promoted`, and to `rolled_back` or `aborted`."""

ENDED: Final = frozenset({"promoted", "rolled_back", "aborted"})

MAX_MENDED: Final = 200
"""Places left out of a status that another version wrote, before it is taken for something else."""

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
    asked_at: datetime | None = None
    """When a person asked for it, if it had to wait for another rollout."""
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
    lossy: bool = False
    """Another version of serinus wrote it, and this one does not know all that stood there: good for being shown and for being
    ended, and its configuration may be the default one."""

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

    def ending(self, at: datetime) -> RolloutStatus:
        """This status, promoting or rolling back, as ended at `at`."""
        by_analysis = self.decisions[-1].who == ANALYSIS
        turned_back: Phase = "rolled_back" if by_analysis else "aborted"
        return self.replace(phase="promoted" if self.phase == "promoting" else turned_back, ended_at=at)


def folder(name: str, rollout_id: str) -> str:
    return f"rollouts/{name}/{rollout_id}"


def read_status(storage: Storage, name: str, *, lossy: bool = False) -> tuple[RolloutStatus, str] | None:
    """The current or last rollout of `name` with its storage version; None when there never was one.

    Args:
        lossy: take what can be read of one that another version wrote, though it is under way.

    Raises:
        InputError: the status is damaged, or another version wrote it and it is under way.
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
    return _parsed(storage, key, blob.content, lossy), blob.version


def newest_moment(storage: Storage, name: str) -> datetime | None:
    """That the rollout under way has reached; None without one, or where it cannot be read."""
    with suppress(InputError):  # said by whoever takes a turn
        if (found := read_status(storage, name)) and not found[0].ended:
            status = found[0]
            looked = [status.last_look.at] if status.last_look else []
            applied = [status.weight_applied_at] if status.weight_applied_at else []
            return max(status.step_started_at, status.decisions[-1].at, *looked, *applied)
    return None


def rollout_ids(storage: Storage, name: str) -> list[str]:
    """All rollouts of `name`, oldest first."""
    keys = (key for key in storage.list(f"rollouts/{name}") if key.endswith("/status.json"))
    return sorted(key.rsplit("/", 2)[1] for key in keys)


def read_rollout_status(storage: Storage, name: str, rollout_id: str) -> RolloutStatus | None:
    """That rollout, ended or not; None when there is none of that id.

    Raises:
        InputError: its status cannot be read.
    """
    blob = storage.read(status_key(name, rollout_id))
    return _parsed(storage, status_key(name, rollout_id), blob.content, lossy=True) if blob else None


def _parsed(storage: Storage, key: str, content: bytes, lossy: bool) -> RolloutStatus:
    try:
        return RolloutStatus.model_validate_json(content)
    except ValidationError as error:
        where, detail = f"{storage.uri}/{key}", error.errors(include_url=False)[0]
        problem = f"{'.'.join(str(part) for part in detail['loc']) or 'document'}: {detail['msg']}"
        found = _of_another_version(content)
        if found is None:
            raise InputError(where, f"not a rollout's status ({problem})", "restore the file") from None
        if found.ended or lossy:
            return found
        remedy = "go on with that version, or take the candidate out: serinus canary rollback"
        raise InputError(where, f"was begun by another version of serinus ({problem})", remedy) from None


def _of_another_version(content: bytes) -> RolloutStatus | None:
    """What can be taken from a status with fields that this version does not know; None where it is no status at all."""
    try:
        raw = json.loads(content)
    except ValueError:
        return None
    for _ in range(MAX_MENDED):
        try:
            return RolloutStatus.model_validate({**raw, "lossy": True})
        except ValidationError as error:
            if not all(_mend(raw, detail) for detail in error.errors(include_url=False)[:1]):
                return None
        except TypeError:  # no mapping
            return None
    return None


def _mend(raw: dict[str, Any], detail: Any) -> bool:
    """Leave out what does not fit: an unknown field, else the configuration, a decision or a look as a whole."""
    place: Any = raw
    *way, last = detail["loc"] or ("",)
    try:
        if detail["type"] == "extra_forbidden":
            for part in way:
                place = place[part]
            del place[last]
            return True
        match detail["loc"]:
            case ("config", *_) if raw["config"] != {}:
                raw["config"] = {}
            case ("decisions", int(number), *_):
                del raw["decisions"][number]
            case ("last_look", *_):
                raw["last_look"] = None
            case _:
                return False
    except (KeyError, IndexError, TypeError):
        return False
    return True


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
