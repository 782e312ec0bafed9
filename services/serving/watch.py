"""What a gateway must know before it routes: the traffic in force and which revisions can answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.storage import Storage
from cluster.telemetry import logger
from services.contract import Traffic, read_traffic

log = logger("gateway")

POLL_S = 0.25
LIVENESS_S = 1.0
APPLICATION_PREFIX = "rev-"
MODEL_DEPLOYMENT = "model"
"""Name of the one deployment in every revision's application."""


@dataclass(frozen=True)
class Situation:
    """One consistent view; a request takes it once and keeps it."""

    traffic: Traffic | None = None
    answering: frozenset[str] = frozenset()
    """Revisions whose application can take requests."""


def application_name(revision: str) -> str:
    return APPLICATION_PREFIX + revision


def answering_revisions() -> frozenset[str]:
    """Revisions whose application runs, or has at least one running replica while the others come up again."""
    from ray import serve

    found = set()
    for name, application in serve.status().applications.items():
        if name.startswith(APPLICATION_PREFIX) and _takes_requests(application):
            found.add(name.removeprefix(APPLICATION_PREFIX))
    return frozenset(found)


def _takes_requests(application: Any) -> bool:
    if application.status == "RUNNING":  # also when scaled to zero: a request wakes it
        return True
    states = [deployment.replica_states for deployment in application.deployments.values()]
    return application.status != "DELETING" and any(state.get("RUNNING", 0) for state in states)


Answering = Callable[[], frozenset[str]]


class TrafficWatch:
    """Reads the traffic several times a second in a thread of its own. A failed read keeps what was known."""

    def __init__(self, storage: Storage, name: str, answering: Answering = answering_revisions) -> None:
        self._storage, self._name, self._answering = storage, name, answering
        self._storage_version = ""
        self._checked_s = float("-inf")
        self._failing = False
        self.situation = Situation()

    @property
    def version(self) -> int:
        """Of the traffic applied; 0 while nothing is deployed."""
        traffic = self.situation.traffic
        return traffic.version if traffic else 0

    def start(self) -> None:
        """Read once, now, so that the first request finds the right weights; then keep reading."""
        self.poll(time.monotonic())
        threading.Thread(target=self._run, name="traffic", daemon=True).start()

    def poll(self, now_s: float) -> None:
        try:
            self._refresh(now_s)
            self._failing = False
        except Exception as error:  # whatever storage or Serve raises: the last known traffic stays in force
            if not self._failing:
                log.warning("traffic of %s cannot be read, the last one stays in force: %r", self._name, error)
            self._failing = True

    def _refresh(self, now_s: float) -> None:
        found = read_traffic(self._storage, self._name)
        traffic, version = found if found else (None, "")
        changed = version != self._storage_version
        if not changed and now_s - self._checked_s < LIVENESS_S:
            return
        # Liveness first: a new revision must not get a request before this gateway knows that it answers.
        answering = self._answering()
        self.situation = Situation(traffic, answering)  # one assignment: no request sees half of a change
        self._storage_version, self._checked_s = version, now_s
        if changed and traffic:
            log.info("traffic v%d: %s", traffic.version, traffic.reason)

    def _run(self) -> None:
        while True:
            time.sleep(POLL_S)
            self.poll(time.monotonic())
