"""What a gateway must know before it routes: the traffic in force and which revisions can answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cluster.storage import Storage
from cluster.telemetry import logger
from services.contract import APPLICATION_PREFIX, Traffic, read_traffic
from services.engines import read_engines
from services.serving.keys import KeyFile, KeyKind, read_keys

log = logger("gateway")

POLL_S = 0.25
LIVENESS_S = 1.0
KEYS_S = 1.0


class Alive(NamedTuple):
    """What Serve tells of the revisions."""

    answering: frozenset[str] = frozenset()
    """Whose application can take requests."""
    coming: frozenset[str] = frozenset()
    """Deployed, and at the moment without a replica that runs: Serve starts others."""
    asleep: frozenset[str] = frozenset()
    """Scaled to zero: answering, once a replica has started for the request."""

    def with_adapters(self, hosts: Mapping[str, str]) -> Alive:
        """The same with adapters beside their engines."""
        return Alive(*(found | {adapter for adapter, engine in hosts.items() if engine in found} for found in self))


@dataclass(frozen=True)
class Situation:
    """One consistent view; a request takes it once and keeps it."""

    traffic: Traffic | None = None
    answering: frozenset[str] = frozenset()
    """Revisions whose application can take requests."""
    away_since_s: Mapping[str, float] = field(default_factory=dict)
    """Revisions that Serve brings up (again), and since when this gateway knows, on time.monotonic's clock."""

    def seeing(self, alive: Alive, now_s: float, traffic: Traffic | None) -> Situation:
        """This view with what Serve tells now."""
        away = {revision: self.away_since_s.get(revision, now_s) for revision in alive.coming}
        return Situation(traffic, alive.answering, away)


def alive_revisions() -> Alive:
    """Revisions whose application runs, or has at least one running replica while the others come up again; and the rest."""
    from ray import serve

    answering, coming, asleep = set(), set(), set()
    for name, application in serve.status().applications.items():
        if not name.startswith(APPLICATION_PREFIX):
            continue
        revision = name.removeprefix(APPLICATION_PREFIX)
        num_running = sum(state.replica_states.get("RUNNING", 0) for state in application.deployments.values())
        if application.status == "RUNNING" or (num_running and application.status != "DELETING"):
            answering.add(revision)
            if not num_running:
                asleep.add(revision)
        elif application.status in ("DEPLOYING", "UNHEALTHY"):
            coming.add(revision)
    return Alive(frozenset(answering), frozenset(coming), frozenset(asleep))


AskServe = Callable[[], Alive]


def _nothing() -> None:
    pass


class TrafficWatch:
    """Reads the traffic several times a second, and less often who can answer, each in a thread of its own.

    Two threads, since a Serve controller that is down must not keep a rollback from this gateway. A failed read keeps
    what was known.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        ask_serve: AskServe = alive_revisions,
        *,
        reach: Callable[[frozenset[str]], None] = lambda revisions: None,
        changed: Callable[[], None] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reach` is called with those of a new traffic's revisions that answer before it comes into force here, and `changed`
        when it has."""
        self._storage, self._name, self._ask_serve, self._reach = storage, name, ask_serve, reach
        self._changed, self._clock = changed, clock
        self._storage_version = ""
        self._failing: set[str] = set()
        self._changing = threading.Lock()
        self._hosts: dict[str, str] = {}
        self._asleep_at: dict[str, float] = {}
        self.situation = Situation()

    @property
    def version(self) -> int:
        """Of the traffic applied; 0 while nothing is deployed."""
        traffic = self.situation.traffic
        return traffic.version if traffic else 0

    def engine_of(self, revision: str) -> str:
        """The revision whose application answers for that one: another one's for an adapter."""
        return self._hosts.get(revision, revision)

    def was_asleep(self, revision: str, since_s: float) -> bool:
        """Whether the revision was seen without a replica since that moment (on time.monotonic's clock), or a look before."""
        return self._asleep_at.get(self.engine_of(revision), -math.inf) >= since_s - LIVENESS_S

    def start(self) -> None:
        """Read once, now, so that the first request finds the right weights; then keep reading."""
        self.check()
        self.poll()
        threading.Thread(target=_every, args=(POLL_S, self.poll), name="traffic", daemon=True).start()
        threading.Thread(target=_every, args=(LIVENESS_S, self.check), name="liveness", daemon=True).start()

    def poll(self) -> None:
        """Adopt the traffic in storage if it has changed."""
        with self._noted("traffic"):
            found = read_traffic(self._storage, self._name)
            traffic, version = found if found else (None, "")
            if version == self._storage_version:
                return
            alive = None
            if traffic and not _revisions(traffic) <= self.situation.answering:
                # A new revision must not be asked, and blamed, before this gateway knows that it answers.
                alive = self._look()
            with self._noted("replicas"):  # whatever becomes of it: a rollback must come into force
                self._reach((_revisions(traffic) if traffic else frozenset()) & (alive or self.situation).answering)
            with self._changing:  # one assignment: no request sees half of a change
                before = self.situation
                self.situation = (
                    before.seeing(alive, self._clock(), traffic) if alive else replace(before, traffic=traffic)
                )
            self._storage_version = version
            self._changed()

    def check(self) -> None:
        """Ask Serve anew who can answer."""
        with self._noted("liveness"):
            before = self.situation
            alive = self._look()
            with self._changing:
                if self.situation is before:  # else `poll` has asked later than we did
                    self.situation = before.seeing(alive, self._clock(), before.traffic)

    def _look(self) -> Alive:
        """What Serve tells of the engines; an adapter is where its engine is."""
        hosts, engines = read_engines(self._storage, self._name).hosts, self._ask_serve()
        self._hosts = {**self._hosts, **hosts}  # an adapter's engine never changes: requests under way still find it
        if engines.asleep:
            self._asleep_at = {**self._asleep_at, **dict.fromkeys(engines.asleep, self._clock())}
        return engines.with_adapters(hosts)

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """A failure is logged once, not four times a second."""
        try:
            yield
            self._failing.discard(what)
        except Exception as error:  # whatever storage or Serve raises: what was known stays in force
            if what not in self._failing:
                log.warning("%s of %s cannot be read, the last one stays in force: %r", what, self._name, error)
            self._failing.add(what)


class KeyWatch:
    """Reads the API keys once a second. A failed read keeps what was known: before the first good one, no key at all."""

    def __init__(self, storage: Storage, name: str, kind: KeyKind = "users") -> None:
        self._storage, self._name, self._kind = storage, name, kind
        self._version, self._failing = "", False
        self.keys = KeyFile()

    def start(self) -> None:
        self.poll()
        threading.Thread(target=_every, args=(KEYS_S, self.poll), name="keys", daemon=True).start()

    def poll(self) -> None:
        """Adopt the keys in storage if they have changed."""
        try:
            keys, version = read_keys(self._storage, self._name, self._kind)
        except Exception as error:  # whatever storage raises, or a damaged document
            if not self._failing:
                log.warning("the API keys of %s cannot be read, the last ones stay in force: %r", self._name, error)
            self._failing = True
            return
        self._failing = False
        if version != self._version:
            self.keys, self._version = keys, version


def _revisions(traffic: Traffic) -> frozenset[str]:
    return frozenset({traffic.stable, traffic.canary or traffic.stable})


def _every(interval_s: float, act: Callable[[], None]) -> None:
    while True:
        time.sleep(interval_s)
        act()
