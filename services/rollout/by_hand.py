"""What people decide about the rollout under way: put on its status by compare-and-set, carried out by the next turn."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from cluster.errors import Conflict, UserError
from cluster.storage import Storage
from services.rollout.status import Decision, RolloutStatus, read_status, write_status

NUM_ATTEMPTS = 20
"""Lost races after which whoever asked is told so."""


class ByHand:
    """Of one public name. `of` is the id of the rollout that is meant; None: whichever is under way.

    Raises:
        UserError: none is, or another one.
        Conflict: others kept changing it.
    """

    def __init__(self, storage: Storage, name: str, clock: Callable[[], datetime]) -> None:
        self._storage, self._name, self._clock = storage, name, clock

    def set_weight(self, weight_percent: float, who: str, of: str | None = None) -> RolloutStatus:
        """Hold the canary at that weight."""
        if not 0 <= weight_percent <= 100:
            raise UserError(
                f"weight {weight_percent:g}", "is no share of users in percent", "give a number from 0 to 100"
            )
        return self._decide("set_weight", weight_percent, f"held at {weight_percent:g} % by {who}", who, of=of)

    def promote(self, who: str, of: str | None = None) -> RolloutStatus:
        """Make the candidate stable."""
        return self._decide("promote", 100.0, f"promoted by {who}", who, of=of)

    def take_out(self, message: str, who: str, *, reason: str = "manual", of: str | None = None) -> RolloutStatus:
        """Let everybody go back to stable."""
        return self._decide("rollback", 0.0, message, who, reason=reason, of=of)

    def _decide(
        self,
        action: Literal["set_weight", "promote", "rollback"],
        weight: float,
        message: str,
        who: str,
        *,
        reason: str = "manual",
        of: str | None = None,
    ) -> RolloutStatus:
        for _ in range(NUM_ATTEMPTS):
            status, version = self._under_way(of, lossy=action == "rollback")  # out is a way that must always be there
            decision = Decision(
                action=action,
                verdict="inconclusive",
                reason=reason,
                message=message,
                who=who,
                step=status.step,
                weight_percent=weight,
                at=self._clock(),
            )
            decided = status.decide(decision).replace(held=status.held or action == "set_weight")
            try:
                write_status(self._storage, decided, expect=version)
            except Conflict:
                continue
            return decided
        raise Conflict(f"the rollout of {self._name} is being changed by others all the time")

    def _under_way(self, of: str | None, lossy: bool) -> tuple[RolloutStatus, str]:
        found = read_status(self._storage, self._name, lossy=lossy)
        if found and of is not None and found[0].id != of:
            raise UserError(
                f"rollout {of}", f"is not the current one, which is {found[0].id} ({found[0].phase})", "look again"
            )
        if found and lossy and found[0].phase == "promoting" and found[0].traffic_version is None:
            return found  # it waits for replicas, and nothing is written yet
        if found is None or found[0].phase != "progressing":
            phase = f"the last one is {found[0].phase}" if found else "there was none yet"
            raise UserError(
                f"model {self._name}", f"no rollout is in progress ({phase})", "begin one: serinus canary start"
            )
        return found
