"""Writes into the audit record what rollouts and the registry tell: decisions, and moves of aliases outside rollouts.

Both are in storage already, but in documents that are written over: a status goes with its rollout's folder, and a line taken out
of it would not show. So each gets a line of its own, with who, what, when and why, and without the numbers it rested on, which
stay with the rollout. The controller itself writes nothing here: a decision is persisted and carried out first, and recorded from
storage by another thread, which makes a recorder that was killed, or a storage that was away, a matter of catching up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from cluster import registry
from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import Storage
from services import audit
from services.audit import Line, details
from services.config import AuditKind
from services.rollout.status import (
    ANALYSIS,
    Decision,
    RolloutStatus,
    folder,
    read_rollout_status,
    read_status,
    rollout_ids,
)

BY_ROLLOUT: Final = "rollout "
"""How the reason of an alias' move begins that carried out a rollout's decision: that decision has its line already."""


class Position(StrictModel):
    """How far the record has come in what it is taken from. A bookmark: what was recorded after it is found in the record."""

    entry: int = 0
    """Number in the audit record up to which the rest is reckoned."""
    rollout: str = ""
    decisions: int = 0
    """Of that rollout; all of those before it are recorded."""
    moves: int = 0

    def after(self, line: Line) -> Position:
        match line.id.removeprefix(f"{line.name}/").split("/"):
            case ["rollout", rollout, number] if (rollout, int(number)) >= (self.rollout, self.decisions):
                return self.replace(rollout=rollout, decisions=int(number) + 1)
            case ["move", number]:
                return self.replace(moves=max(self.moves, int(number) + 1))
        return self


def position(storage: Storage, name: str) -> Position:
    """Where the record stands."""
    blob = storage.read(_bookmark(name))
    found = Position.model_validate_json(blob.content) if blob else Position()
    for stored in audit.entries(storage, name, found.entry):
        found = found.after(stored.entry.line).replace(entry=stored.entry.number)
    return found


def record(storage: Storage, name: str, known: Position | None = None) -> Position:
    """Write down what is not recorded yet; returns where the record stands now.

    Args:
        known: what the call before returned, if this process made it: nothing is then looked for again.
    """
    before = found = known or position(storage, name)
    for line in pending(storage, name, found):
        stored = audit.append(storage, line, after=found.entry)
        found = found.after(line).replace(entry=stored.entry.number)
    if found != before:
        storage.write(_bookmark(name), found.model_dump_json().encode())
    return found


def pending(storage: Storage, name: str, known: Position) -> list[Line]:
    """What is not recorded yet, by time; decisions only once they were carried out, since the act comes first."""
    statuses = list(_statuses(storage, name, known))
    decisions = [line for status in statuses for line in _lines(status, known)]
    told = {(decision.who, decision.message) for status in statuses for decision in status.decisions}
    history = registry.alias_history(storage, name)
    moves = [
        line
        for number, move in enumerate(history)
        if number >= known.moves
        and not move.why.startswith(BY_ROLLOUT)
        and (move.who, move.why) not in told
        and (line := _of_move(name, number, move)) is not None
    ]
    return list(heapq.merge(decisions, moves, key=lambda line: line.at))


class History(StrictModel):
    """The audit record for people."""

    lines: tuple[tuple[int, Line], ...]
    """With their numbers; 0 for what is not on record yet, since the controller that records it is away."""
    broken: tuple[str, ...]


def history(storage: Storage, name: str, last: int | None = None) -> History:
    """What is on record, and what is about to be; the newest `last` of them. Needs no cluster and writes nothing."""
    recorded = [(stored.entry.number, stored.entry.line) for stored in audit.entries(storage, name)]
    coming = [(0, line) for line in pending(storage, name, position(storage, name))]
    lines = [*recorded, *coming]
    return History(lines=tuple(lines[-last:] if last else lines), broken=audit.broken(storage, name))


def _statuses(storage: Storage, name: str, known: Position) -> Iterator[RolloutStatus]:
    """The rollouts that may have something to tell, oldest first. Those that cannot be read any more are left out."""
    current = _current(storage, name)
    if current is not None and current.id == known.rollout:
        yield current
        return
    for rollout_id in rollout_ids(storage, name):
        if rollout_id < known.rollout:
            continue
        try:
            status = read_rollout_status(storage, name, rollout_id)
        except InputError:
            continue
        if status is not None:
            yield status


def _current(storage: Storage, name: str) -> RolloutStatus | None:
    try:
        found = read_status(storage, name, lossy=True)
    except InputError:
        return None
    return found[0] if found else None


def _lines(status: RolloutStatus, known: Position) -> Iterator[Line]:
    first = known.decisions if status.id == known.rollout else 0
    carried_out = len(status.decisions) - (status.traffic_version is None)
    for number in range(first, carried_out):
        yield _of_decision(status, number)


def _of_decision(status: RolloutStatus, number: int) -> Line:
    decision = status.decisions[number]
    return Line(
        id=f"{status.name}/rollout/{status.id}/{number}",
        kind=kind_of(decision),
        name=status.name,
        who=decision.who,
        at=decision.at,
        message=decision.message,
        details=details(
            rollout=status.id,
            candidate=status.candidate,
            stable=status.stable,
            weight_percent=decision.weight_percent,
            verdict=decision.verdict,
            reason=decision.reason,
            evidence=folder(status.name, status.id),
        ),
    )


def kind_of(decision: Decision) -> AuditKind:
    """What a decision is called in the record: by a person or by the analysis, and why."""
    match decision.action:
        case "promote":
            return "promoted"
        case "rollback" if decision.who != ANALYSIS:
            return "aborted"
        case "rollback":
            return "inconclusive" if decision.verdict == "inconclusive" else "rolled_back"
        case _ if decision.reason == "started":
            return "started"
        case _:
            return "step" if decision.who == ANALYSIS else "held"


def _of_move(name: str, number: int, move: registry.AliasMove) -> Line | None:
    """`previous` follows stable, and a candidate that is none any more was promoted or taken out: neither is news."""
    if move.new is None or move.alias == "previous":
        return None
    kind: AuditKind = "reverted" if move.alias == "stable" and move.old else "published"
    was = f", was {move.old}" if move.old else ""
    return Line(
        id=f"{name}/move/{number}",
        kind=kind,
        name=name,
        who=move.who or "serinus",
        at=move.at,
        message=f"{move.new} is {move.alias}{was}: {move.why or 'no reason given'}",
        details=details(alias=move.alias, revision=move.new, before=move.old),
    )


def _bookmark(name: str) -> str:
    return f"notifications/{name}/recorded.json"
