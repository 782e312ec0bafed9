"""Which answers count as evidence of errors, and what for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from services.contract import HARMFUL, RequestRecord, Role
from services.rollout.sequential import Array

ABANDONED: Final = "abandoned"
"""How an answer was harmful whose client went away, after a long wait, without a token."""

Users = Mapping[Role, set[float]]
"""Users of each side; one set for both where each user is on both sides."""


class Answer(NamedTuple):
    """What counts of one record."""

    role: Role
    user: float
    harm: str = ""
    """The outcome, or ABANDONED; empty for a good answer."""


@dataclass
class Tally:
    """The answers of one side that count."""

    num: int = 0
    harms: Counter[str] = field(default_factory=Counter)
    harmed: set[float] = field(default_factory=set)
    """Whose answers were harmful."""

    def add(self, answer: Answer) -> None:
        self.num += 1
        if answer.harm:
            self.harms[answer.harm] += 1
            self.harmed.add(answer.user)

    @property
    def arrays(self) -> tuple[Array, Array]:
        """(answers, harmful ones), as the tests of one rollout take them."""
        return np.array([float(self.num)]), np.array([float(self.harms.total())])


def answers(records: Iterable[RequestRecord], patience_s: float) -> list[Answer]:
    """In their order. Who went away without a token after more than `patience_s` was failed, on either side: a canary that hangs
    gives no answer to count. Who went away sooner tells nothing."""
    found = []
    for record in records:
        left = record.outcome == "cancelled"
        if left and record.ttft_s is None and record.duration_s > patience_s and not record.cold:
            found.append(Answer(record.role, record.bucket, ABANDONED))
        elif not left:
            found.append(Answer(record.role, record.bucket, record.outcome if record.outcome in HARMFUL else ""))
    return found


def until_harm(found: Iterable[Answer], harmed: Users) -> dict[Role, Tally]:
    """Those up to each user's first harm in a stretch, which puts it among `harmed`.

    One user who retries a request that no revision can answer would otherwise condemn the canary it happens to be on: with 1 %
    of the users there one such user weighs a hundred times more than on stable. All of the user's later answers are left out,
    good ones too, so that the rate among those counted stays the rate; and on both sides alike.
    """
    tallies = _nothing()
    for answer in found:
        if answer.user in harmed[answer.role]:
            continue
        tallies[answer.role].add(answer)
        if answer.harm:
            harmed[answer.role].add(answer.user)
    return tallies


def while_well(found: Iterable[Answer], failing: Users) -> dict[Role, Tally]:
    """The same, but after its next good answer a user counts again: where users are few, evidence would dry up otherwise.

    That good answer is not counted: whether an answer counts must be known before it is given (optional skipping), and then the
    rate among those counted is the rate. Only proofs rest on this: a user for whom many answers fail on any revision can keep a
    good canary from passing this way, and cannot condemn it.
    """
    tallies = _nothing()
    for answer in found:
        side = failing[answer.role]
        if answer.user in side:
            if not answer.harm:
                side.discard(answer.user)
            continue
        tallies[answer.role].add(answer)
        if answer.harm:
            side.add(answer.user)
    return tallies


def _nothing() -> dict[Role, Tally]:
    return {"stable": Tally(), "canary": Tally()}
