"""Where a rollout begins: its first status, written before the pointer to it moves."""

from __future__ import annotations

from datetime import datetime

from cluster import registry
from cluster.errors import Conflict, UserError
from cluster.storage import ABSENT, Storage
from services.config import RolloutConfig
from services.rollout import acts
from services.rollout.status import Decision, RolloutStatus, make_current, read_status, write_status


def refuse_second(storage: Storage, name: str) -> None:
    """Raises UserError: a rollout is under way."""
    found = read_status(storage, name)
    if found is not None and not found[0].ended:
        raise UserError(
            f"rollout {found[0].id}",
            f"is under way ({found[0].phase} at {found[0].weight_percent:g} %): one at a time",
            "wait (`serinus canary watch`), or end it: serinus canary promote | rollback",
        )


def begin(
    storage: Storage,
    name: str,
    *,
    config: RolloutConfig,
    revision_id: str,
    keep_revisions: int,
    who: str,
    probe_items: str,
    asked_at: datetime | None,
    now: datetime,
) -> str:
    """Begin a rollout of a published revision; returns its id.

    Raises:
        UserError: nothing is deployed, the revision is not published or cannot be stable's canary.
        Conflict: another one was started at the same moment.
    """
    revision = registry.resolve(storage, name, revision_id).revision
    traffic = acts.check_candidate(storage, name, revision)
    pointer = storage.read(f"rollouts/{name}/current")
    if (found := read_status(storage, name)) and not found[0].ended:
        raise Conflict(f"another rollout of {name} began at the same moment: {found[0].id}")
    first = _first_decision(config, who, now)
    status = RolloutStatus(
        id=f"{now:%Y%m%d-%H%M%S-%f}",
        name=name,
        candidate=revision,
        stable=traffic.stable,
        config=config,
        keep_revisions=keep_revisions,
        probe_items=probe_items,
        weight_percent=first.weight_percent,
        started_at=now,
        asked_at=asked_at,
        step_started_at=now,
        decisions=(first,),
    )
    write_status(storage, status)
    make_current(storage, status, expect=pointer.version if pointer else ABSENT)
    return status.id


def _first_decision(config: RolloutConfig, who: str, now: datetime) -> Decision:
    weight = config.steps[0].weight_percent
    return Decision(
        action="set_weight",
        verdict="inconclusive",
        reason="started",
        message=f"begin at {weight:g} %" if weight else "begin with copies of requests: nobody is on the canary yet",
        who=who,
        weight_percent=weight,
        at=now,
    )
