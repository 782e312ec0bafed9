"""The rollout controller itself: a detached Ray actor that runs the loop. `controller` has what others call.

The clock of a rollout begins here, and nobody else reads one.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import Any

from cluster.code_version import code_version
from cluster.errors import ClusterError, UserError
from cluster.feedback import Exchange, Thumb
from cluster.storage import open_storage
from cluster.telemetry import bind, configure, logger
from services.config import ProbesConfig, RolloutConfig
from services.rollout import prober
from services.rollout.acts import Applications
from services.rollout.applications import RayApplications
from services.rollout.clock import SteadyClock, wall
from services.rollout.decay_status import read_watch
from services.rollout.decay_watch import DecayWatch
from services.rollout.feedback import FeedbackBook, TooManyVotes
from services.rollout.loop import Loop
from services.rollout.measures import Measures, figures
from services.rollout.notifier import Notifier
from services.rollout.probes import ProbeAnswer, ProbeTask
from services.rollout.receivers import check_receivers
from services.rollout.status import RolloutStatus, newest_moment, read_status

log = logger("rollout")

MEASURE_EVERY_S = 5.0
IDLE_S = 5.0
"""Between two looks for a candidate that waits: one may come just as a rollout ends."""
OFF_S = 2.0
"""A clock that is off by less was not set: a time server moves it by less, slowly."""
RETIRE_S = 30.0
"""For the turn under way to end. One that loads a candidate takes longer: the next controller loads it again."""
RETIRED_S = 90.0
"""A controller that was told to retire and is not ended by then ends itself."""


class Controller:
    """The actor. Ray starts it anew when its process dies; it then reads where it was from storage."""

    def __init__(self, name: str, storage_uri: str, applications: Applications | None = None) -> None:
        configure()
        code_version()  # now, as it is imported: later another one may lie on the disk
        self._storage_uri = storage_uri
        self._wake = threading.Event()
        self._name, self._storage = name, open_storage(storage_uri)
        applications = applications or RayApplications(name, storage_uri)
        self._applications, self._clock = applications, SteadyClock()
        self._loop = self._new_loop()
        self._decay = DecayWatch(self._storage, name, applications, self._clock)
        self._feedback = FeedbackBook(self._storage, name, self._clock())
        self._asks_for: str | None = None
        self._measures: Measures | None = None
        self._measured_at = datetime.min.replace(tzinfo=UTC)
        self._notifier = Notifier(self._storage, name, wall)
        self._notifier.start()
        self._retired = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollout", daemon=True)
        self._thread.start()

    def _new_loop(self) -> Loop:
        """Where the rollout stands in storage. Its moments are past, also where the machine's clock was set back since."""
        self._clock.set(not_before=newest_moment(self._storage, self._name))
        return Loop(self._storage, self._name, self._applications, self._clock, self._check_probes)

    def _follow_clock(self) -> None:
        """Between rollouts: what is written from here on has the time of the machine's clock again, if that was set."""
        if abs(off_s := self._clock.off_s) > OFF_S:
            log.warning("the clock of this machine was set by %+.0f s; what follows goes by it", off_s)
            self._loop = self._new_loop()

    def _run(self) -> None:
        bind(model=self._name)
        while not self._retired.is_set():
            self._wake.clear()  # before the turn: what is asked for during it gets a turn of its own
            try:
                pause_s = self._turn()
            except UserError as error:  # waits for a person: no traceback, and not every second
                log.error("%s", error)
                pause_s = IDLE_S
            except Exception:  # this thread's outermost loop: storage or Serve may be away for a while
                log.exception("the rollout's turn failed; trying again")
                pause_s = 1.0
            self._wake.wait(IDLE_S if pause_s is None else min(pause_s, IDLE_S))  # votes come without waking it

    def _turn(self) -> float | None:
        """One turn of each; returns the seconds until the next is due, None when only a call makes one due."""
        pauses = [self._loop.tick(), self._feedback.flush(self._clock())]
        if pauses[0] is None:
            self._follow_clock()
            pauses.append(self._decay.tick())
        self._see_to_prober()
        self._measure(self._clock())
        return min((pause_s for pause_s in pauses if pause_s is not None), default=None)

    def _see_to_prober(self) -> None:
        """Also for a candidate that waited: nobody is there then who would start one."""
        import ray

        task = self.probe_task() if ray.is_initialized() else None  # a call would start a cluster where there is none
        if task is not None and task.id != self._asks_for:
            prober.ensure_prober(self._name, self._storage_uri)
            self._asks_for = task.id

    def _measure(self, at: datetime) -> None:
        """Tell Prometheus that the turn went well, and where things stand."""
        import ray

        if not ray.is_initialized() or 0 <= (at - self._measured_at).total_seconds() < MEASURE_EVERY_S:
            return
        self._measures, self._measured_at = self._measures or Measures(self._name), at
        status, watch = read_status(self._storage, self._name, lossy=True), read_watch(self._storage, self._name)
        found = figures(status[0] if status else None, watch[0] if watch else None, at)
        self._measures.tell(found._replace(turn_at=wall().timestamp()))  # alerts compare it with Prometheus' clock

    def _check_probes(self, config: ProbesConfig) -> None:
        prober.check_probes(self._name, self._storage_uri, config)

    def storage_uri(self) -> str:
        return self._storage_uri

    def pid(self) -> int:
        """For operators (and tests) who want to end exactly this process."""
        return os.getpid()

    def code(self) -> str:
        """Which serinus runs here."""
        return code_version()

    def retire(self) -> None:
        """Take nothing in from here on, take a last turn and write all that is known: another process goes on from there. Whoever
        asks ends this one; should he be gone, it ends by itself, and Ray starts it anew."""
        self._retired.set()
        end = threading.Timer(RETIRED_S, os._exit, (1,))
        end.daemon = True
        end.start()
        self._stir()
        self._thread.join(RETIRE_S)
        try:
            if not self._thread.is_alive():
                self._loop.retire()
            self._feedback.flush(self._clock(), at_once=True)
        except Exception:  # as a killed one would
            log.exception("what came last is not written")

    def record(self, gateway_id: str, traffic_version: int, records: list[dict[str, Any]]) -> None:
        if self._retired.is_set():  # gateways keep what is not taken, for who comes next
            raise ClusterError(f"rollout controller of {self._name}", "is being replaced", "ask the next one")
        self._feedback.note(records)
        self._loop.record(gateway_id, traffic_version, records)

    def score(self, scores: list[dict[str, Any]]) -> None:
        self._loop.score(scores)

    def probe_task(self) -> ProbeTask | None:
        """What the prober is to ask now."""
        return self._loop.probe_task() or self._decay.task()

    def probed(self, turn: tuple[str, str, int], answers: list[ProbeAnswer]) -> None:
        """What it was answered, on that turn of a task."""
        if turn[0] == "rollout":
            pairs = [{"item": a.item, "stable": a.before, "canary": a.now, "at": a.at} for a in answers]
            self._loop.score(pairs, turn[1])
        else:
            self._decay.take(turn, answers)
            self._stir()

    def probes_finished(self, turn: tuple[str, str, int]) -> None:
        """There is nothing left to ask on that turn."""
        if turn[0] == "rollout":  # its evidence says what is missing; it is told of again and again
            return
        self._decay.finish(turn)
        self._stir()

    def feedback(
        self,
        owner: str,
        request_id: str,
        thumb: Thumb,
        correction: str | None,
        exchange: dict[str, Any] | None = None,
    ) -> dict[str, str | None] | None:
        """Take a user's vote; returns the revision it concerns, its role and the thumb it replaces, None for an unknown answer;
        only `refused`, and why, for a vote that was changed too often. It wakes nobody: the next turn writes it."""
        try:
            texts = None if exchange is None else Exchange.model_validate(exchange)
            found = self._feedback.vote(owner, request_id, thumb, correction, self._clock(), exchange=texts)
        except TooManyVotes as error:
            return {"refused": str(error)}
        if found is None:
            return None
        if found.evidence is not None:
            self._loop.vote(found.evidence)
        return {"revision": found.vote.revision, "role": found.vote.role, "before": found.before}

    def start(
        self, config: RolloutConfig, revision_id: str, keep_revisions: int, who: str, probe_items: str = ""
    ) -> str:
        check_receivers(self._storage, self._name)  # only here is the environment that their secrets are in
        rollout_id = self._loop.start(config, revision_id, keep_revisions, who, probe_items)
        self._stir()
        return rollout_id

    def wake(self) -> None:
        """Something was asked for in storage: look now."""
        self._stir()

    def set_weight(self, weight_percent: float, who: str, of: str | None = None) -> RolloutStatus:
        return self._woken(self._loop.set_weight(weight_percent, who, of))

    def promote(self, who: str, of: str | None = None) -> RolloutStatus:
        return self._woken(self._loop.promote(who, of))

    def abort(self, who: str, of: str | None = None) -> RolloutStatus | None:
        status = self._loop.abort(who, of)
        self._stir()
        return status

    def revert(self, who: str, stable: str | None = None) -> None:
        self._loop.revert(who, stable)
        self._stir()

    def _woken(self, status: RolloutStatus) -> RolloutStatus:
        self._stir()
        return status

    def _stir(self) -> None:
        self._wake.set()
        self._notifier.wake()
