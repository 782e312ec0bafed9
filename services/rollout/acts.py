"""Carrying a decision out: traffic first, then aliases, then applications. Every act looks at what is there and does
only what is missing, so doing it again after a crash changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import Conflict, UserError
from cluster.storage import Storage
from services.config import ServingConfig
from services.contract import Traffic, read_traffic, write_traffic
from services.rollout import capacity
from services.rollout.status import RolloutStatus

NUM_ATTEMPTS = 20
"""Lost races after which writing the traffic is left to the controller's next turn."""


class Applications(Protocol):
    """The running model servers. An engine is the revision whose application answers: an adapter's is its base's."""

    def running(self) -> set[str]:
        """Revision ids that are loaded."""
        ...

    def remove(self, revision: str) -> None:
        """Stop that revision's model server; nothing happens when there is none."""
        ...

    def replicas(self, engine: str) -> int:
        """How many replicas of that engine run now."""
        ...

    def tell(self, engine: str) -> int:
        """Let that engine follow its order (`services.engines`); returns the most replicas it may have, 0 if it was not reached."""
        ...

    def load(self, revision: Revision, serving: ServingConfig, storage: Storage) -> None:
        """Return when that revision's model server answers; nothing happens when it does already.

        Raises:
            SerinusError: it cannot be loaded.
        """
        ...


def wanted_traffic(status: RolloutStatus, present: Traffic) -> tuple[str, str | None, float]:
    """(stable, canary, weight) as `status` wants them. Only a promotion touches stable."""
    match status.phase:
        case "progressing":
            return present.stable, status.candidate, status.weight_percent
        case "promoting" | "promoted":
            return status.candidate, None, 0.0
        case _:
            return present.stable, None, 0.0


def apply_traffic(storage: Storage, status: RolloutStatus, now: datetime) -> int:
    """Make the traffic what `status` wants; returns its version. Written only if it differs.

    Raises:
        Conflict: others kept changing it.
        UserError: nothing is deployed under that name any more.
    """
    for _ in range(NUM_ATTEMPTS):
        present, version = deployed_traffic(storage, status.name)
        stable, canary, weight = wanted_traffic(status, present)
        # The salt too: by it the records of this rollout are told from those of others.
        if (present.stable, present.canary, present.weight_percent, present.salt) == (
            stable,
            canary,
            weight,
            status.id,
        ):
            return present.version
        traffic = present.replace(
            stable=stable,
            canary=canary,
            weight_percent=weight,
            salt=status.id,
            changed_at=now,
            reason=f"rollout {status.id}: {status.decisions[-1].reason}",
            version=present.version + 1,
        )
        try:
            write_traffic(storage, traffic, expect=version)
        except Conflict:
            continue
        return traffic.version
    raise Conflict(f"the traffic of {status.name} is being changed by others all the time")


def deployed_traffic(storage: Storage, name: str) -> tuple[Traffic, str]:
    """The traffic in force and its storage version.

    Raises:
        UserError: nothing is deployed under that name.
    """
    found = read_traffic(storage, name)
    if found is None:
        raise UserError(
            f"model {name}", "nothing is deployed under that name", "deploy it first: serinus deploy RECIPE"
        )
    return found


def check_candidate(storage: Storage, name: str, revision: str) -> Traffic:
    """The traffic in force.

    Raises:
        UserError: nothing is deployed, that revision is stable already, or an adapter for another engine than stable's.
    """
    traffic, _ = deployed_traffic(storage, name)
    if revision == traffic.stable:
        raise UserError(f"revision {revision}", "is stable already", "name another revision")
    registry.check_engine(storage, registry.resolve(storage, name, revision))
    return traffic


def move_aliases(storage: Storage, status: RolloutStatus, now: datetime) -> None:
    """What the end of a rollout means for the aliases."""
    present = registry.aliases(storage, status.name)
    targets: dict[str, str | None] = {}
    if present.get("candidate") == status.candidate:  # a newer candidate stays one
        targets["candidate"] = None
    if status.phase == "promoting":
        targets["stable"] = status.candidate
        if present.get("stable") != status.candidate:
            targets["previous"] = present.get("stable", status.stable)
    decision = status.decisions[-1]
    why = f"rollout {status.id}: {decision.message}"  # the scribe knows by it that this is no move of its own
    registry.move_aliases(storage, status.name, targets, who=decision.who, why=why, at=now)


def remove_applications(storage: Storage, status: RolloutStatus, applications: Applications, now: datetime) -> None:
    """Stop what nobody needs any more: a rejected candidate, or old stables beyond those to keep, which go to rest."""
    traffic, _ = deployed_traffic(storage, status.name)
    in_use = {traffic.stable, traffic.canary}
    replaced = _replaced(storage, status, in_use)
    kept, unneeded = replaced[: status.keep_revisions], replaced[status.keep_revisions :]
    if status.phase == "rolling_back":
        unneeded = [status.candidate]
    needed = _with_engines(storage, status.name, (*in_use, *kept))
    for revision in unneeded:
        if revision not in needed and revision in applications.running():
            applications.remove(revision)
    capacity.release(storage, status.name, (status.candidate, status.stable), applications)
    if status.phase == "promoting":
        capacity.put_to_rest(storage, traffic, kept, applications, now)


def _with_engines(storage: Storage, name: str, revisions: Iterable[str | None]) -> set[str]:
    """Those revisions and the ones whose application answers for them: an adapter's engine stays for it."""
    found = {revision for revision in revisions if revision}
    return found | {registry.engine_of(storage, name, revision) for revision in found}


def unload(storage: Storage, name: str, revision: str, applications: Applications) -> None:
    """Stop a revision that was loaded for a rollout which does not begin, unless it is in use for something else."""
    traffic, _ = deployed_traffic(storage, name)
    in_use = [traffic.stable, traffic.canary, registry.aliases(storage, name).get("previous")]
    if revision not in _with_engines(storage, name, in_use) and revision in applications.running():
        applications.remove(revision)


def _replaced(storage: Storage, status: RolloutStatus, in_use: set[str | None]) -> list[str]:
    """Revisions that were stable once and are not now, the last one first."""
    moves = [m for m in registry.alias_history(storage, status.name) if m.alias == "stable" and m.old]
    ordered = [status.stable, *(str(move.old) for move in reversed(moves))]
    return [revision for revision in dict.fromkeys(ordered) if revision not in in_use]


def revert(
    storage: Storage, name: str, applications: Applications, who: str, now: datetime, *, stable: str | None = None
) -> Traffic:
    """Outside a rollout: make the previous revision stable again. It must still be loaded.

    Args:
        stable: the revision to go back from: whoever asks twice must not be brought forward again. None: whichever it is.

    Raises:
        UserError: there is no previous revision, it is not loaded, or another one than `stable` is stable.
        Conflict: the traffic was changed meanwhile.
    """
    traffic, _ = deployed_traffic(storage, name)
    if stable is not None and traffic.stable != stable:
        raise UserError(f"revision {stable}", f"is not stable: {traffic.stable} is", "look again")
    previous = registry.aliases(storage, name).get("previous")
    if previous is None or previous == traffic.stable:
        raise UserError(
            f"model {name}", "no rollout is under way and there is no previous revision", "see `serinus status`"
        )
    go_back(storage, name, traffic.stable, previous, applications, who=who, why="reverted", now=now)
    return deployed_traffic(storage, name)[0]


def go_back(
    storage: Storage,
    name: str,
    stable: str,
    target: str,
    applications: Applications,
    *,
    who: str,
    why: str,
    now: datetime,
) -> bool:
    """Make `target` stable in the place of `stable`: woken if it rests, then traffic, then aliases; what is done already is left
    as it is. The one that was stable goes to rest.

    Returns:
        False: another revision is stable, and nothing was changed.

    Raises:
        UserError: `target` is no longer loaded.
        Conflict: the traffic was changed meanwhile.
    """
    traffic, version = deployed_traffic(storage, name)
    if traffic.stable not in (stable, target):
        return False
    if traffic.stable != target:
        woken = capacity.wake(storage, traffic, target, applications)
        traffic = traffic.replace(
            stable=target, changed_at=now, reason=f"reverted by {who}{woken}", version=traffic.version + 1
        )
        write_traffic(storage, traffic, expect=version)
    registry.move_aliases(storage, name, {"stable": target, "previous": stable}, who=who, why=why, at=now)
    capacity.release(storage, name, [target], applications)
    capacity.put_to_rest(storage, traffic, [stable], applications, now)
    return True
