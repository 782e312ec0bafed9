"""The decisions of a rollout once more, from the evidence in storage: the same code, the same looks, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cluster.errors import InputError
from cluster.storage import Storage
from services.rollout.judge import Judge, Look
from services.rollout.looks import stored_looks
from services.rollout.policy import as_decision, decide
from services.rollout.status import ANALYSIS, Decision, RolloutStatus, current_key, read_rollout_status


@dataclass(frozen=True)
class Replayed:
    """One decision, and what the stored evidence makes of it now."""

    look: int
    recorded: Decision | None
    """None: nothing was decided at that look."""
    again: Decision | None
    """None: it did not rest on evidence alone (a person's, or another's change of stable)."""

    @property
    def same(self) -> bool:
        if self.again is None:
            return True
        if self.recorded is None:
            return self.again.action == "hold"
        # The message says for people what the numbers say; later versions may have better words.
        return self.recorded.replace(weight_applied_at=None, message=self.again.message) == self.again


def read_rollout(storage: Storage, name: str, rollout_id: str | None = None) -> RolloutStatus:
    """That rollout of `name`, or its current or last one.

    Raises:
        InputError: there is none.
    """
    current = storage.read(current_key(name))
    if rollout_id is None and current is None:
        raise InputError(f"model {name}", "no rollout was ever started", "begin one: serinus canary start")
    chosen = rollout_id or (current.content.decode() if current else "")
    status = read_rollout_status(storage, name, chosen)
    if status is None:
        raise InputError(f"rollout {chosen}", f"is none of {name}", "`serinus canary status` names the last one")
    return status


def replay(storage: Storage, status: RolloutStatus) -> Iterator[Replayed]:
    """Each decision of `status` in order, and between them every look at which something else would be decided now.

    Raises:
        InputError: the evidence ends before a decision that rested on it, or another version decided by other rules.
    """
    if status.lossy:
        problem = "was decided by another version of serinus, by rules and a configuration that this one does not know"
        raise InputError(f"rollout {status.id}", problem, "replay it with that version")
    judge, looks = Judge.start(status.config), list(stored_looks(storage, status))
    for number in range(1, len(status.decisions)):
        recorded = status.decisions[number]
        while looks and _rested_on(looks[0], recorded):
            look = looks.pop(0)
            judge = judge.see(look)
            if look.at < recorded.at:
                before = _status_before(status, number, applied=look.window == number)
                if (found := _otherwise(before, judge, look, recorded)) is not None:
                    yield found
        if recorded.who == ANALYSIS and judge.look < recorded.look:
            where, problem = f"rollout {status.id}", f"look {recorded.look} is missing from its evidence"
            raise InputError(where, problem, "restore the evidence-*.parquet files")
        applied_at = status.decisions[number - 1].weight_applied_at
        applied = applied_at is not None and applied_at <= recorded.at
        judge = judge.enter(number) if applied else judge
        yield Replayed(recorded.look, recorded, _again(_status_before(status, number, applied), judge, recorded))


def _rested_on(look: Look, recorded: Decision) -> bool:
    """Whether that look came before the decision; a person's rests on none, so time tells."""
    return look.number <= recorded.look if recorded.who == ANALYSIS else look.at <= recorded.at


def _status_before(status: RolloutStatus, number: int, applied: bool) -> RolloutStatus:
    """As it stood when the decision of that index was made."""
    decisions = status.decisions[:number]
    last, held = decisions[-1], any(d.who != ANALYSIS and d.action == "set_weight" for d in decisions[1:])
    return status.replace(
        phase="progressing",
        step=last.step,
        weight_percent=last.weight_percent,
        step_started_at=last.at,
        held=held,
        decisions=decisions,
        weight_applied_at=last.weight_applied_at if applied else None,
    )


def _otherwise(before: RolloutStatus, judge: Judge, look: Look, recorded: Decision) -> Replayed | None:
    """A look at which nothing was decided, if now something would be. A controller killed between writing the evidence and the
    decision decides the same a little later, on a few looks more: no difference."""
    again = _decide(before, judge, look.at)
    later = recorded.who == ANALYSIS and (again.action, again.step) == (recorded.action, recorded.step)
    return None if again.action == "hold" or later else Replayed(look.number, None, again)


def _again(before: RolloutStatus, judge: Judge, recorded: Decision) -> Decision | None:
    if recorded.who != ANALYSIS or recorded.reason == "stable_changed":
        return None
    return _decide(before, judge, recorded.at)


def _decide(before: RolloutStatus, judge: Judge, at: datetime) -> Decision:
    evidence = judge.evidence
    return as_decision(decide(before.config, before, evidence, at), before, at, evidence.look)
