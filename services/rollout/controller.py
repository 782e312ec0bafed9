"""The rollout controller: a detached Ray actor that runs the loop, and what the command line calls.

The wall clock of a rollout is read here and nowhere else.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

from cluster import registry
from cluster.errors import ClusterError, Conflict, SerinusError, UserError
from cluster.storage import ABSENT, Storage, open_storage
from cluster.telemetry import configure, logger
from services.config import ProbesConfig, RolloutConfig
from services.contract import (
    NAMESPACE,
    Traffic,
    actor_name,
    read_traffic,
    write_traffic,
)
from services.rollout import prober, probes
from services.rollout.acts import Applications
from services.rollout.applications import RayApplications
from services.rollout.courier import check_receivers
from services.rollout.decay_watch import DecayWatch, WatchStatus, read_watch
from services.rollout.feedback import FeedbackBook, Thumb, TooManyVotes
from services.rollout.loop import Loop
from services.rollout.notifier import Notifier
from services.rollout.probes import ProbeAnswer, ProbeTask
from services.rollout.status import RolloutStatus, read_status

log = logger("rollout")

MAX_CONCURRENCY = 16
"""Calls answered at once: records of many gateways never wait for a person's command."""
ANSWER_TIMEOUT_S = 60.0
"""For the controller to start, or to come back after its process was killed."""


IDLE_S = 5.0
"""Between two looks for a candidate that waits: one may come just as a rollout ends."""


class Controller:
    """The actor. Ray starts it anew when its process dies; it then reads where it was from storage."""

    def __init__(self, name: str, storage_uri: str, applications: Applications | None = None) -> None:
        configure()
        self._storage_uri = storage_uri
        self._wake = threading.Event()
        self._name, self._storage = name, open_storage(storage_uri)
        applications = applications or RayApplications(name, storage_uri)
        self._loop = Loop(self._storage, name, applications, _now, self._check_probes)
        self._decay = DecayWatch(self._storage, name, applications, _now)
        self._feedback = FeedbackBook(self._storage, name, _now())
        self._asks_for: str | None = None
        self._notifier = Notifier(self._storage, name, _now)
        self._notifier.start()
        threading.Thread(target=self._run, name="rollout", daemon=True).start()

    def _run(self) -> None:
        while True:
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
        pauses = [self._loop.tick(), self._feedback.flush(_now())]
        if pauses[0] is None:
            pauses.append(self._decay.tick())
        self._see_to_prober()
        return min((pause_s for pause_s in pauses if pause_s is not None), default=None)

    def _see_to_prober(self) -> None:
        """Also for a candidate that waited: nobody is there then who would start one."""
        import ray

        task = self.probe_task() if ray.is_initialized() else None  # a call would start a cluster where there is none
        if task is not None and task.id != self._asks_for:
            prober.ensure_prober(self._name, self._storage_uri)
            self._asks_for = task.id

    def _check_probes(self, config: ProbesConfig) -> None:
        _check_probes(self._name, self._storage_uri, config)

    def storage_uri(self) -> str:
        return self._storage_uri

    def pid(self) -> int:
        """For operators (and tests) who want to end exactly this process."""
        import os

        return os.getpid()

    def record(self, gateway_id: str, traffic_version: int, records: list[dict[str, Any]]) -> None:
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
        self, owner: str, request_id: str, thumb: Thumb, correction: str | None
    ) -> dict[str, str | None] | None:
        """Take a user's vote; returns the revision it concerns, its role and the thumb it replaces, None for an unknown answer;
        only `refused`, and why, for a vote that was changed too often. It wakes nobody: the next turn writes it."""
        try:
            found = self._feedback.vote(owner, request_id, thumb, correction, _now())
        except TooManyVotes as error:
            return {"refused": str(error)}
        if found is None:
            return None
        return {"revision": found[0].revision, "role": found[0].role, "before": found[1]}

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

    def set_weight(self, weight_percent: float, who: str) -> RolloutStatus:
        return self._woken(self._loop.set_weight(weight_percent, who))

    def promote(self, who: str) -> RolloutStatus:
        return self._woken(self._loop.promote(who))

    def abort(self, who: str) -> RolloutStatus | None:
        status = self._loop.abort(who)
        self._stir()
        return status

    def _woken(self, status: RolloutStatus) -> RolloutStatus:
        self._stir()
        return status

    def _stir(self) -> None:
        self._wake.set()
        self._notifier.wake()


def _now() -> datetime:
    return datetime.now(UTC)


# --- what the command line calls, inside cluster.session.joined() where it says so ------------------------------------


def ensure_traffic(storage: Storage, name: str, stable_revision: str) -> Traffic:
    """The traffic of `name`; where there is none yet, everybody gets `stable_revision`. Needs no cluster."""
    found = read_traffic(storage, name)
    if found is not None:
        return found[0]
    traffic = Traffic(name=name, stable=stable_revision, changed_at=_now(), reason="first deployment")
    try:
        write_traffic(storage, traffic, expect=ABSENT)
    except Conflict:  # another deployment was first: its traffic it is
        return ensure_traffic(storage, name, stable_revision)
    if "stable" not in registry.aliases(storage, name):
        registry.move_alias(storage, name, "stable", stable_revision, who="serinus", why="first deployment")
    return traffic


def status(storage: Storage, name: str) -> RolloutStatus | None:
    """The rollout under way, or the last one. Needs no cluster."""
    found = read_status(storage, name, lossy=True)
    return found[0] if found else None


def ensure_controller(name: str, storage_uri: str, applications: Applications | None = None) -> Any:
    """The controller of `name` in the joined cluster, started where it is not there yet; returns the actor's handle.

    Raises:
        UserError: there is one that watches another storage.
        ClusterError: it does not start.
    """
    import ray

    from cluster.session import on_pool

    actor: Any = (
        ray.remote(Controller)
        .options(
            name=actor_name(name),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=MAX_CONCURRENCY,
            label_selector=on_pool("head"),
        )
        .remote(name, storage_uri, applications)
    )
    watched = _watched_storage(name, actor)
    if watched != storage_uri:
        remedy = "use that storage, or give the model another name"
        raise UserError(f"model {name}", f"is rolled out from {watched} already, not from {storage_uri}", remedy)
    return actor


def _watched_storage(name: str, actor: Any) -> str:
    """The controller's answer to a question that may be asked again: waits for one that is being restarted."""
    ends_at = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            return str(_answer(name, actor.storage_uri.remote()))
        except ClusterError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.2)


def start_rollout(
    storage: Storage,
    name: str,
    revision_id: str,
    config: RolloutConfig,
    *,
    keep_revisions: int = 1,
    who: str = "serinus",
) -> str:
    """Begin the rollout of a revision whose model server runs; returns the rollout's id. In a joined cluster.

    Raises:
        UserError: a rollout is under way, nothing is deployed, the revision cannot be one's candidate, a file of probes is wrong,
            or the key of a judge is not set on the head node.
    """
    items = probes.publish(storage, name, config.probes)
    actor = ensure_controller(name, storage.uri)
    if items:
        _check_probes(name, storage.uri, config.probes)
    return str(_answer(name, actor.start.remote(config, revision_id, keep_revisions, who, items)))


def _check_probes(name: str, storage_uri: str, config: ProbesConfig) -> None:
    """Start the prober, and let it look whether it has what these probes need."""
    _answer(name, prober.ensure_prober(name, storage_uri).check.remote(config), "prober")


def ensure_probes(storage: Storage, name: str) -> None:
    """Start the prober again where a rollout or a watch wants something asked, as after the cluster was restarted. In a joined
    cluster."""
    rollout, watch = status(storage, name), decay(storage, name)
    if (rollout and not rollout.ended and rollout.probe_items) or (watch and watch.asks):
        prober.ensure_prober(name, storage.uri)


def decay(storage: Storage, name: str) -> WatchStatus | None:
    """The watch over the promoted revision, or the last one. Needs no cluster."""
    found = read_watch(storage, name)
    return found[0] if found else None


def wake(storage: Storage, name: str) -> None:
    """Let the controller look at what was asked for in storage. In a joined cluster."""
    _answer(name, ensure_controller(name, storage.uri).wake.remote())


def set_weight(storage: Storage, name: str, weight_percent: float, *, who: str) -> RolloutStatus:
    """Hold the canary at a weight. In a joined cluster."""
    found: RolloutStatus = _answer(name, ensure_controller(name, storage.uri).set_weight.remote(weight_percent, who))
    return found


def promote(storage: Storage, name: str, *, who: str) -> RolloutStatus:
    """Make the candidate stable now. In a joined cluster."""
    found: RolloutStatus = _answer(name, ensure_controller(name, storage.uri).promote.remote(who))
    return found


def abort(storage: Storage, name: str, *, who: str) -> RolloutStatus | None:
    """Take the candidate out now, or outside a rollout go back to the previous revision. In a joined cluster."""
    found: RolloutStatus | None = _answer(name, ensure_controller(name, storage.uri).abort.remote(who))
    return found


def _answer(name: str, reference: Any, who: str = "rollout controller") -> Any:
    """What the controller (or the prober) answers; our own errors as themselves, not as Ray wraps them."""
    import ray

    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SerinusError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
        found = f"does not answer ({str(error).splitlines()[0]})"
        raise ClusterError(f"{who} of {name}", found, "see `serinus status`, then try again") from None
