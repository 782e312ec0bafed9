"""Observe -> decide -> act -> persist, one turn at a time. All state that matters is in storage: the process that runs
this may be killed between any two lines, and the next one goes on from what is there.

A decision is persisted (by compare-and-set: one of two deciders wins) before it is carried out, and each act checks
what is there first, so that nothing is decided twice, done twice or left out. The clock is an argument.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cluster.errors import Conflict, InputError
from cluster.storage import Storage
from cluster.telemetry import bind, logger
from services.config import RolloutConfig
from services.rollout import acts, capacity
from services.rollout.acts import Applications
from services.rollout.beginning import begin, refuse_second
from services.rollout.by_hand import ByHand
from services.rollout.evidence import EvidenceStore
from services.rollout.gateways import Gateways
from services.rollout.intake import Intake
from services.rollout.policy import Hold, Rollback, as_decision, decide, measure
from services.rollout.probes import ProbeTask
from services.rollout.status import Decision, RolloutStatus, read_status, write_status
from services.rollout.votes import UserVote
from services.rollout.waiting import CheckProbes, WaitingRoom

log = logger("rollout")

SOON_S = 0.2
"""Until the next turn while something is under way that needs no evidence."""
ROOM_S = 1.0
"""Between two looks whether replicas have come: each asks all of an engine's replicas."""
ROOM_PATIENCE_S = 600.0
"""A promotion waits so long for replicas that the candidate still lacks; a step waits until its time is out."""


class Loop:
    """The rollouts of one public name, one after another."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        applications: Applications,
        clock: Callable[[], datetime],
        check_probes: CheckProbes | None = None,
    ) -> None:
        """`check_probes` is asked before a candidate that waited begins; for others whoever starts them does."""
        self._storage, self._name, self._applications, self._clock = storage, name, applications, clock
        self._gateways = Gateways(clock())
        self._waiting_room = WaitingRoom(storage, name, applications, clock, check_probes)
        self._intake = Intake(storage, name, clock)
        self._by_hand = ByHand(storage, name, clock)
        self._looked_at = datetime.min.replace(tzinfo=clock().tzinfo)
        self._turns = threading.Lock()
        with contextlib.suppress(InputError):  # said by each turn, and by what people ask for
            if (found := read_status(storage, name)) and not found[0].ended:
                self._intake.follow(found[0])

    # --- observe ------------------------------------------------------------------------------------------------------

    def record(self, gateway_id: str, traffic_version: int, records: list[dict[str, Any]]) -> None:
        """Take in what a gateway tells; without records it tells that it lives."""
        self._gateways.tell(gateway_id, traffic_version, self._clock())
        self._intake.record(records)

    def score(self, scores: list[dict[str, Any]], rollout_id: str | None = None) -> None:
        """See `Intake.score`."""
        self._intake.score(scores, rollout_id)

    def vote(self, vote: UserVote) -> None:
        """See `Intake.vote`."""
        self._intake.vote(vote)

    def probe_task(self) -> ProbeTask | None:
        """See `Intake.probe_task`."""
        return self._intake.probe_task()

    # --- the turn -----------------------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """One turn; returns the seconds until the next one is due, None when no rollout is under way."""
        with self._turns:
            found = read_status(self._storage, self._name)
            under_way = found[0] if found and not found[0].ended else None
            bind(rollout=under_way.id if under_way else None, revision=under_way.candidate if under_way else None)
            if found is None or found[0].ended:
                self._intake.rest()
                waits = self._waiting_room.begin(found[0] if found else None, self._begin)
                if found and waits is None:
                    self._tidy(found[0])
                return waits
            self._give_way(found[0])
            evidence = self._intake.follow(found[0])
            try:
                pause_s = self._advance(*found, evidence)
            except Conflict:  # someone else moved it: look again at once
                pause_s = 0.0
            self._intake.flush(evidence, found[0].window)
            return pause_s

    def retire(self) -> None:
        """A last turn, with a look, and all evidence written: another process goes on from there. Between rollouts there is none:
        it could load a candidate that waits, which takes minutes, and is the next process' to load."""
        self._looked_at = datetime.min.replace(tzinfo=self._looked_at.tzinfo)
        found = read_status(self._storage, self._name)
        if found and not found[0].ended:
            self.tick()
        with self._turns:
            self._intake.close()

    def _tidy(self, status: RolloutStatus) -> None:
        """Between rollouts: stop engines that have rested for long enough."""
        keep_warm_s = status.config.keep_warm_s
        capacity.stop_rested(self._storage, self._name, self._applications, keep_warm_s, self._clock())

    def _advance(self, status: RolloutStatus, version: str, evidence: EvidenceStore) -> float:
        if status.traffic_version is None and self._has_room(status):
            written = acts.apply_traffic(self._storage, status, self._clock())
            status = status.replace(traffic_version=written)
            version = write_status(self._storage, status, expect=version)
            if status.phase == "rolling_back":
                self._hold_stable(status)
        if status.traffic_version is not None and status.weight_applied_at is None:
            status, version = self._confirm(status, version)
        match status.phase:
            case "progressing":
                return self._progress(status, version, evidence)
            case "promoting" if status.traffic_version is None:
                return self._await_room(status, version, evidence)
            case _:
                return self._end(status, version)

    def _has_room(self, status: RolloutStatus) -> bool:
        """Whether the candidate has the replicas that its new weight needs. Going back waits for nothing, nor does a lower weight:
        whose replicas fail has to lose its users all the more. Nor does a Serve that is away keep harm from being looked for."""
        if status.phase == "rolling_back":
            return True
        decided_at = status.decisions[-1].at
        if status.phase == "promoting" and self._clock() - decided_at > timedelta(seconds=ROOM_PATIENCE_S):
            return True
        traffic, _ = acts.deployed_traffic(self._storage, self._name)
        if traffic.canary == status.candidate and status.weight_percent <= traffic.weight_percent:
            return True
        weight = status.weight_percent
        try:
            return capacity.make_room(self._storage, traffic, status.candidate, weight, self._applications)
        except Exception:
            log.exception("the replicas of %s cannot be asked for; trying again", status.candidate)
            return False

    def _hold_stable(self, status: RolloutStatus) -> None:
        """Stable's replicas for everybody who comes back; its load brings them too, only later."""
        traffic, _ = acts.deployed_traffic(self._storage, self._name)
        try:
            capacity.hold_stable(self._storage, traffic, status.candidate, self._applications)
        except Exception:
            log.exception("the replicas of %s cannot be asked for", traffic.stable)

    def _await_room(self, status: RolloutStatus, version: str, evidence: EvidenceStore) -> float:
        """A promotion that waits for replicas is watched as the last step was: harm turns it back."""
        decision = self._decide(status.replace(phase="progressing"), evidence, self._clock())
        if (decision.action, decision.verdict) != ("rollback", "failed"):
            return ROOM_S
        evidence.flush()
        status = status.decide(decision)
        return self._advance(status, write_status(self._storage, status, expect=version), evidence)

    def _confirm(self, status: RolloutStatus, version: str) -> tuple[RolloutStatus, str]:
        """Note when the gateways have applied the traffic, if they have."""
        assert status.traffic_version is not None
        now = self._clock()
        at = self._gateways.applied_at(status.traffic_version, status.decisions[-1].at, now)
        if at is None:
            return status, version
        status = status.applied(at)
        return status, write_status(self._storage, status, expect=version)

    def _progress(self, status: RolloutStatus, version: str, evidence: EvidenceStore) -> float:
        now = self._clock()
        due_s = status.config.interval_s - (now - self._looked_at).total_seconds()
        if due_s <= 0:
            self._looked_at, due_s = now, status.config.interval_s
            decision = self._decide(status, evidence, now)
            if decision.action != "hold":
                evidence.flush()  # first: whoever reads the decision finds what it rested on, also after a crash
                status = status.decide(decision)
                version = write_status(self._storage, status, expect=version)
                return self._advance(status, version, evidence)
            write_status(self._storage, status.replace(last_look=decision), expect=version)
        if status.weight_applied_at is not None:
            return due_s
        return min(due_s, SOON_S if status.traffic_version is not None else ROOM_S)

    def _decide(self, status: RolloutStatus, evidence: EvidenceStore, now: datetime) -> Decision:
        seen = evidence.look(status, now)
        traffic, _ = acts.deployed_traffic(self._storage, self._name)
        if traffic.stable != status.stable:
            message = f"{traffic.stable} became stable meanwhile: what was compared is no longer what is served"
            action = Rollback("inconclusive", "stable_changed", message, measure(seen))
            return as_decision(action, status, now, seen.look)
        action_or_hold = decide(status.config, status, seen, now)
        written = status.traffic_version is not None  # else it still waits for the candidate's replicas
        if isinstance(action_or_hold, Hold) and written and traffic.version != status.traffic_version:
            self._reassert(status)
        return as_decision(action_or_hold, status, now, seen.look)

    def _reassert(self, status: RolloutStatus) -> None:
        """Someone else wrote the traffic: make it what the status says, if it differs."""
        acts.apply_traffic(self._storage, status, self._clock())

    def _give_way(self, status: RolloutStatus) -> None:
        """End the rollout for a candidate that is to replace it."""
        waiting = self._waiting_room.next(status)
        if waiting is not None and waiting.replaces and status.phase == "progressing":
            message = f"replaced by {waiting.revision}, as {waiting.who} asked"
            self._by_hand.take_out(message, waiting.who, reason="replaced")

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self, status: RolloutStatus, version: str) -> float:
        """Promotion or rollback after the traffic is written: aliases, then drain, then applications."""
        now = self._clock()
        acts.move_aliases(self._storage, status, now)
        if status.weight_applied_at is None:
            return SOON_S
        drained_at = status.weight_applied_at + timedelta(seconds=status.config.drain_s)
        if now < drained_at:
            return min(SOON_S, (drained_at - now).total_seconds())
        acts.remove_applications(self._storage, status, self._applications, now)
        write_status(self._storage, status.ending(self._clock()), expect=version)
        return 0.0

    # --- what people ask for ------------------------------------------------------------------------------------------

    def start(
        self, config: RolloutConfig, revision_id: str, keep_revisions: int, who: str, probe_items: str = ""
    ) -> str:
        """Begin a rollout of a published revision; returns its id. `probe_items`: storage key, see `probes.publish`.

        Raises:
            UserError: one is under way, nothing is deployed, the revision is not published or is stable already.
            Conflict: another one was started at the same moment.
        """
        refuse_second(self._storage, self._name)
        self._waiting_room.refuse("wait (serinus canary watch), or take it out: serinus canary withdraw")
        return self._begin(config, revision_id, keep_revisions, who, probe_items=probe_items)

    def _begin(
        self,
        config: RolloutConfig,
        revision_id: str,
        keep_revisions: int,
        who: str,
        *,
        probe_items: str,
        asked_at: datetime | None = None,
    ) -> str:
        return begin(
            self._storage,
            self._name,
            config=config,
            revision_id=revision_id,
            keep_revisions=keep_revisions,
            who=who,
            probe_items=probe_items,
            asked_at=asked_at,
            now=self._clock(),
        )

    def set_weight(self, weight_percent: float, who: str, of: str | None = None) -> RolloutStatus:
        """Hold the canary at that weight until a person promotes or takes it out; harm still rolls it back.

        Args:
            of: id of the rollout that is meant, here and below; None: whichever is under way.
        """
        return self._by_hand.set_weight(weight_percent, who, of)

    def promote(self, who: str, of: str | None = None) -> RolloutStatus:
        """Make the candidate stable now."""
        return self._by_hand.promote(who, of)

    def abort(self, who: str, of: str | None = None) -> RolloutStatus | None:
        """Take the candidate out now; outside a rollout, where none is named, go back to the previous revision and return None."""
        found = read_status(self._storage, self._name, lossy=True)
        if of is None and (found is None or found[0].ended):
            self.revert(who)
            return None
        return self._by_hand.take_out(f"taken out by {who}", who, of=of)

    def revert(self, who: str, stable: str | None = None) -> None:
        """Outside a rollout, go back to the previous revision.

        Args:
            stable: the revision to go back from; None: whichever is stable.

        Raises:
            UserError: a rollout is under way, another revision is stable, there is no previous one or it is not loaded.
        """
        refuse_second(self._storage, self._name)
        # Between two rollouts `rollback` could be meant for stable or for the candidate that is about to begin.
        self._waiting_room.refuse(
            "take it out: serinus canary withdraw; if stable is to go back too: serinus canary rollback"
        )
        acts.revert(self._storage, self._name, self._applications, who, self._clock(), stable=stable)
