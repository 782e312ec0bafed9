"""The model servers as Ray Serve applications `rev-<revision>`, and the adapters in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from cluster.artifacts import Revision
from cluster.errors import ClusterError
from cluster.storage import Storage, open_storage
from cluster.telemetry import logger
from services.config import ServingConfig
from services.contract import APPLICATION_PREFIX, application_name
from services.engines import Order, change_order, detach, knock, num_running, read_engines, tell

log = logger("rollout")

Load = Callable[[Revision, ServingConfig, Storage], None]
"""What `Applications.load` is; given from outside, since rollouts know nothing of engines."""
TELL_TIMEOUT_S = 10.0
"""The controller's turn waits for it."""


class RayApplications:
    """What `acts.Applications` asks for, by Ray Serve."""

    def __init__(self, name: str, storage_uri: str, load: Load | None = None) -> None:
        self._name, self._storage_uri, self._load = name, storage_uri, load
        self._knocks: dict[str, Any] = {}

    @cached_property
    def _storage(self) -> Storage:  # opened where it is used: this object travels to the controller's process
        return open_storage(self._storage_uri)

    def load(self, revision: Revision, serving: ServingConfig, storage: Storage) -> None:
        if self._load is None:
            found, remedy = "this controller was not told how to load models", "begin by hand: serinus canary start"
            raise ClusterError(f"revision {revision.revision}", found, remedy)
        self._load(revision, serving, storage)

    def running(self) -> set[str]:
        """Revisions with an application that is not being stopped, and adapters that such an engine holds."""
        ordered = read_engines(self._storage, self._name)
        engines = {
            name.removeprefix(APPLICATION_PREFIX)
            for name, application in _applications().items()
            if name.startswith(APPLICATION_PREFIX) and application.status != "DELETING"
        }
        engines -= {engine for engine, order in ordered.orders.items() if order.stopping}
        return engines | {adapter for adapter, engine in ordered.hosts.items() if engine in engines}

    def remove(self, revision: str) -> None:
        """Unload an adapter from its engine; stop the engine of any other revision, and forget what was asked of it."""
        from ray import serve

        if revision in read_engines(self._storage, self._name).hosts:
            detach(self._storage, self._name, revision)
            return
        serve.delete(application_name(revision))
        change_order(self._storage, self._name, revision, lambda order: Order())

    def replicas(self, engine: str) -> int:
        """Replicas of that engine that run now."""
        return num_running(engine)

    def tell(self, engine: str) -> int:
        """Let it read its order now; returns the most replicas it may have. One that was scaled to zero is woken and not waited
        for, since that may take minutes: 0, and whoever needs it tells it again."""
        if not num_running(engine):
            self._wake(engine)
            return 0
        try:
            reports = tell(engine, TELL_TIMEOUT_S)
        except Exception as error:  # starting, dying, busy: it reads the order when it comes up, and is told again
            log.warning("the engine of %s was not told what is asked of it: %r", engine, error)
            return 0
        return max((report.max_replicas for report in reports), default=0)

    def _wake(self, engine: str) -> None:
        """Knock, and not again while it has not been answered."""
        try:
            if engine in self._knocks:
                self._knocks[engine].result(timeout_s=0)
        except TimeoutError:
            return
        except Exception as error:  # the replica died, the application was removed: knock again
            log.warning("the engine of %s did not wake: %r", engine, error)
        self._knocks[engine] = knock(engine)


def _applications() -> dict[str, Any]:
    from ray import serve

    found: dict[str, Any] = serve.status().applications
    return found
