"""The watch over a promoted model: observe -> decide -> act -> persist, between rollouts. Who asks the items is the prober; what
is kept lies where decay_status.py says.

A watch begins with a promotion, rests during the next rollout, and ends when its model is no longer stable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from cluster import registry
from cluster.errors import UserError
from cluster.storage import ABSENT, Storage
from cluster.telemetry import logger
from services import audit
from services.contract import read_traffic
from services.rollout import acts
from services.rollout.acts import Applications
from services.rollout.decay import Round
from services.rollout.decay_status import WatchStatus, read_watch, watch_key
from services.rollout.probes import ProbeAnswer, ProbeTask, read_answers, write_answers
from services.rollout.status import Decision, RolloutStatus, folder, read_status

log = logger("decay")

RETRY = timedelta(minutes=10)
"""After a round in which fewer than half of the items were answered."""
FLUSH_S = 30.0
"""Answers are written at least so often: what a killed controller has to have asked again."""


def _line(watch: WatchStatus, decision: Decision) -> audit.Line:
    """Told again after a kill it has the same id."""
    about = audit.details(rollout=watch.id, candidate=watch.revision, reason=decision.reason)
    line_id = f"{watch.name}/decayed/{watch.id}-{watch.round}"
    return audit.Line(id=line_id, kind="decayed", name=watch.name, who=decision.who, at=decision.at,
                      message=decision.message, details=about)  # fmt: skip


class DecayWatch:
    """The watches of one public name, one after another. Threads may bring answers while another takes its turn."""

    def __init__(self, storage: Storage, name: str, applications: Applications, clock: Callable[[], datetime]) -> None:
        self._storage, self._name, self._applications, self._clock = storage, name, applications, clock
        self._turn: tuple[str, str, int] | None = None
        self._answers: dict[str, ProbeAnswer] = {}
        self._round: Round | None = None
        self._unwritten = self._finished = False
        self._flushed_at = clock()
        self._lock = threading.Lock()

    # --- what the prober asks and tells -------------------------------------------------------------------------------

    def task(self) -> ProbeTask | None:
        """What the watch wants asked; None when it wants nothing, or rests during a rollout."""
        found, rollout = read_watch(self._storage, self._name), read_status(self._storage, self._name)
        if found is None or not found[0].asks or (rollout and not rollout[0].ended):
            return None
        watch = found[0]
        if _rests(watch, self._clock()):
            return None
        with self._lock:
            if self._turn != watch.turn:  # this process has not read what is known yet
                return None
            known = frozenset(self._answers)
        kind: Literal["record", "decay"] = "record" if watch.phase == "recording" else "decay"
        return ProbeTask(
            kind=kind,
            id=watch.id,
            round=watch.turn[2],
            revisions=(watch.revision,),
            items=watch.items,
            probes=watch.probes,
            recorded=f"{folder(self._name, watch.id)}/recorded.jsonl",
            known=known,
        )

    def take(self, turn: tuple[str, str, int], answers: Sequence[ProbeAnswer]) -> None:
        """Take in answers; an item counts once in a round, and what belongs to another round does not."""
        with self._lock:
            for answer in answers if turn == self._turn else ():
                self._answers.setdefault(answer.item, answer)
                self._unwritten = True

    def finish(self, turn: tuple[str, str, int]) -> None:
        """The prober has asked all it can."""
        with self._lock:
            self._finished = self._finished or turn == self._turn

    # --- the turn -----------------------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """One turn, when no rollout is under way; returns the seconds until the next one is due, None when answers will tell."""
        found = self._current()
        if found is None:
            return None
        watch, version = found
        if watch.phase == "reverting":
            self._revert(watch, version)
            return None
        answers, finished = self._seen(watch)
        if watch.phase == "recording":
            return self._record(watch, version, answers, finished)
        return self._judge(watch, version, answers, finished)

    def _current(self) -> tuple[WatchStatus, str] | None:
        """The watch that is to go on, begun or ended where that is due."""
        found, rollout = read_watch(self._storage, self._name), read_status(self._storage, self._name)
        traffic = read_traffic(self._storage, self._name)
        stable = traffic[0].stable if traffic else None
        if rollout and _begins(rollout[0], stable) and (found is None or found[0].id != rollout[0].id):
            watch = WatchStatus.first(rollout[0], self._clock())
            return watch, self._write(watch, found[1] if found else ABSENT)
        if found is None or not (found[0].asks or found[0].phase == "reverting"):
            return None
        if found[0].phase != "reverting" and stable != found[0].revision:
            self._write(found[0].replace(phase="ended"), found[1])
            return None
        return found

    def _write(self, watch: WatchStatus, expect: str) -> str:
        content = watch.model_dump_json(indent=1).encode()
        return self._storage.write(watch_key(self._name), content, expect=expect)

    def _seen(self, watch: WatchStatus) -> tuple[list[ProbeAnswer], bool]:
        """The answers of the present turn, read from storage by a process that has not seen them yet."""
        with self._lock:
            if self._turn != watch.turn:
                self._answers = {answer.item: answer for answer in read_answers(self._storage, watch.file)}
                self._turn, self._unwritten, self._finished = watch.turn, False, False
                self._round = Round(watch.probes.decay, watch.round)
            return list(self._answers.values()), self._finished

    def _record(self, watch: WatchStatus, version: str, answers: list[ProbeAnswer], finished: bool) -> float | None:
        if not finished or not answers:
            return self._flush(watch, version, answers)
        write_answers(self._storage, watch.file, answers)
        mean = sum(answer.now for answer in answers) / len(answers)
        log.info("%s: %.1f %% on %d items recorded at its promotion", watch.revision, mean * 100, len(answers))
        self._write(watch.replace(phase="watching", recorded=mean, num_recorded=len(answers)), version)
        return 0.0

    def _judge(self, watch: WatchStatus, version: str, answers: list[ProbeAnswer], finished: bool) -> float | None:
        assert self._round is not None, "the answers were read"
        finding = self._round.after(answers)
        if finding.verdict == "failed":
            write_answers(
                self._storage, watch.file, answers
            )  # first: whoever reads the decision finds what it rested on
            self._decide(watch.replace(last=finding), version)
            return 0.0
        if not finished:
            return self._flush(watch.replace(last=finding), version, answers)
        write_answers(self._storage, watch.file, answers)
        say = log.warning if finding.needed is not None and finding.verdict != "passed" else log.info
        say("%s: %s", watch.revision, finding.told(watch.probes.decay))
        pause = timedelta(hours=watch.probes.decay.round_every_h)
        if len(answers) * 2 < watch.num_recorded:  # an outage: the rest is asked for before this round's share is spent
            self._write(watch.replace(last=finding, next_round_at=self._clock() + RETRY), version)
        else:
            following = {"round": watch.round + 1, "next_round_at": self._clock() + pause}
            self._write(watch.replace(last=finding, **following), version)
        with self._lock:
            self._finished = False
        return 0.0 if answers else None

    def _flush(self, watch: WatchStatus, version: str, answers: list[ProbeAnswer]) -> float | None:
        if not self._unwritten:
            return None
        due_s = FLUSH_S - (self._clock() - self._flushed_at) / timedelta(seconds=1)
        if 0 < due_s <= FLUSH_S:  # more: the clock was set back
            return due_s
        write_answers(self._storage, watch.file, answers)
        self._write(watch, version)
        self._flushed_at = self._clock()
        with self._lock:
            self._unwritten = len(self._answers) > len(answers)
        return FLUSH_S

    # --- the way back -------------------------------------------------------------------------------------------------

    def _decide(self, watch: WatchStatus, version: str) -> None:
        """Back to the previous revision if it can be; persisted before it is carried out."""
        assert watch.last is not None, "it was just judged"
        previous = registry.aliases(self._storage, self._name).get("previous")
        problem = self._problem(watch, previous)
        message = f"{watch.revision} has decayed: {watch.last.told(watch.probes.decay)}"
        told = f"{message}; {problem}" if problem else f"{message}; back to {previous}"
        decision = Decision(
            action="hold" if problem else "rollback",
            verdict="failed",
            reason="decay",
            message=told,
            numbers={"before": watch.last.before, "now": watch.last.now, "items": float(watch.last.num_items),
                     "log_harm": watch.last.log_harm, "log_threshold": watch.last.log_threshold},
            look=watch.round,
            at=self._clock(),
        )  # fmt: skip
        log.error("DECAY of %s: %s", self._name, told)
        if problem:  # going back is told as the move of an alias; here nothing moves, and a person must hear of it
            audit.append(self._storage, _line(watch, decision))
        phase = "alarmed" if problem else "reverting"
        self._write(watch.replace(phase=phase, target=None if problem else previous, decision=decision), version)

    def _problem(self, watch: WatchStatus, previous: str | None) -> str | None:
        """Why nothing can be done without a person, and what that person should do."""
        if not watch.probes.decay.rollback:
            return "probes.decay.rollback is off: to go back, type serinus canary rollback"
        if previous is None or previous == watch.revision:
            return (
                "there is no previous revision to go back to: publish a better one and let it in (serinus canary start)"
            )
        if previous not in self._applications.running():
            return f"{previous}, stable before, is no longer loaded: type serinus canary start --revision {previous}"
        return None

    def _revert(self, watch: WatchStatus, version: str) -> None:
        """Every act looks at what is there, so that doing it again after a crash changes nothing."""
        assert watch.target is not None, "it was decided"
        assert watch.decision is not None, "it was decided"
        who, why, now = watch.decision.who, watch.decision.message, self._clock()
        stable, target, applications = watch.revision, watch.target, self._applications
        try:
            back = acts.go_back(self._storage, self._name, stable, target, applications, who=who, why=why, now=now)
        except UserError as error:  # it was there when this was decided
            self._alarm(watch, version, f"{error.where} {error.found}: {error.remedy}")
            return
        if back:
            log.error("DECAY of %s: everybody is on %s again", self._name, watch.target)
        else:
            log.error("DECAY of %s: another revision was made stable meanwhile; nothing was changed", self._name)
        self._write(watch.replace(phase="reverted" if back else "ended"), version)

    def _alarm(self, watch: WatchStatus, version: str, problem: str) -> None:
        assert watch.decision is not None, "it was decided"
        decision = watch.decision.replace(action="hold", message=f"{watch.decision.message}; not done: {problem}")
        log.error("DECAY of %s: %s", self._name, decision.message)
        audit.append(self._storage, _line(watch, decision))
        self._write(watch.replace(phase="alarmed", target=None, decision=decision), version)


def _rests(watch: WatchStatus, now: datetime) -> bool:
    """Until the next round. One that is further away than a round ever is was set by a clock that was set back since: it is due."""
    longest = max(RETRY, timedelta(hours=watch.probes.decay.round_every_h))
    return watch.next_round_at is not None and now < watch.next_round_at <= now + longest


def _begins(rollout: RolloutStatus, stable: str | None) -> bool:
    return rollout.phase == "promoted" and bool(rollout.probe_items) and stable == rollout.candidate
