"""Users' votes as evidence: which count, and the test they are for. Pure.

A vote is a thumb on an answer. What is compared is the share of thumbs down among the users who vote, each of them counted once
in a rollout, by the first vote on an answer of it, on whichever side that is.

Why once. Users, not votes, are drawn by lot: a user who dislikes everything and votes a hundred times is one draw, and were it
counted a hundred times, the canary it happens to be on would go. And why once on both sides together: who has not voted yet is
equally far into the rollout on either side, so those who vote often, who may be harder to please, are used up alike. Counted
anew on the side a growing weight moves them to, they would all be new to the canary and known to stable. So given all votes
before, each one that counts is a fresh draw of one crowd, which is what the test takes it for (`sequential`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import numpy as np

from cluster.config import StrictModel
from cluster.feedback import Thumb
from services.config import RolloutConfig
from services.contract import Role
from services.rollout.errors import ErrorTest, Prior
from services.rollout.sequential import Array

PRIOR: Final = Prior(rate=0.1, number=20.0, least=0.005)
"""What stable's share of thumbs down is taken for before anything is known. Costs power if wrong."""


class UserVote(StrictModel):
    """One user's judgement of one answer, as evidence."""

    request_id: str
    revision: str
    """That gave the answer."""
    role: Role
    bucket: float
    """The user's hash in [0, 1), by which the rollout placed it."""
    thumb: Thumb
    at: datetime
    """When it was cast."""
    rollout: str | None = None
    """Id of the rollout that placed the user; None where it is not told. Not stored: a rollout keeps no other's votes."""


class Ballot:
    """The votes of one rollout that count, until a look takes them."""

    def __init__(self) -> None:
        self._known: set[float] = set()
        self._waiting: dict[float, UserVote] = {}

    def know(self, buckets: Iterable[float]) -> None:
        """Users whose vote counted before this process began."""
        self._known.update(buckets)

    def add(self, vote: UserVote) -> None:
        """Until a look has seen it a user may think better of it; later, or on another answer, it is no evidence any more."""
        waiting = self._waiting.get(vote.bucket)
        if vote.bucket not in self._known or (waiting is not None and waiting.request_id == vote.request_id):
            self._known.add(vote.bucket)
            self._waiting[vote.bucket] = vote

    def take(self) -> list[UserVote]:
        """What came since the last time."""
        taken, self._waiting = list(self._waiting.values()), {}
        return taken


def start(config: RolloutConfig, num_rollouts: int = 1) -> ErrorTest:
    """The test of two rates that errors have, for thumbs down. It never begins anew: what people think of answers does not depend
    on the weight, and nobody votes twice, so a proof is kept from step to step."""
    margin, effect = config.margin("feedback"), config.effect("feedback")
    return ErrorTest.start(margin, effect, config.effects("feedback"), num_rollouts, PRIOR)


def tally(votes: Iterable[UserVote]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(votes, thumbs down) of stable and of the canary, as the test of one rollout takes them."""
    thumbs = [(vote.role, vote.thumb) for vote in votes]

    def side(role: Role) -> tuple[Array, Array]:
        down, up = thumbs.count((role, "down")), thumbs.count((role, "up"))
        return np.array([float(down + up)]), np.array([float(down)])

    return side("stable"), side("canary")
