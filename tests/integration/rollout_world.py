"""What the rollout's integration and chaos tests share: a deployed name, a gateway and model servers of their own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.artifacts import Revision
from cluster.storage import LocalStorage, Storage
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.contract import RequestRecord, Traffic, read_traffic
from services.rollout import controller
from services.rollout.status import RolloutStatus

CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=20, min_requests=10, min_duration_s=0.5, prove="none"),
        StepConfig(weight_percent=50, min_requests=10, min_duration_s=0.5, prove="errors", error_effect_percent=20),
    ),
    interval_s=0.2,
    drain_s=0.5,
    step_timeout_s=120,
)


class FolderApplications:
    """Model servers as files: every process of the cluster sees which are loaded and how often one was removed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def running(self) -> set[str]:
        return {path.name for path in self.root.iterdir() if path.suffix != ".removed"}

    def remove(self, revision: str) -> None:
        (self.root / revision).unlink()
        with (self.root / f"{revision}.removed").open("a") as log:
            log.write("removed\n")

    def replicas(self, engine: str) -> int:
        return 1

    def tell(self, engine: str) -> int:
        return 1

    def load(self, revision: Revision, serving: ServingConfig, storage: Storage) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / revision.revision).touch()

    def num_removed(self, revision: str) -> int:
        log = self.root / f"{revision}.removed"
        return len(log.read_text().splitlines()) if log.exists() else 0


class Gateway(threading.Thread):
    """Reads the traffic four times a second and tells of 20 users' requests each time."""

    def __init__(self, storage: LocalStorage, name: str) -> None:
        super().__init__(daemon=True)
        self.storage, self.model, self.harmful = storage, name, False
        self.applied: list[Traffic] = []
        self._ended, self._num_requests = threading.Event(), 0

    def run(self) -> None:
        import ray

        while not self._ended.wait(0.25):
            found = read_traffic(self.storage, self.model)
            assert found is not None
            if not self.applied or self.applied[-1].version != found[0].version:
                self.applied.append(found[0])
            try:
                actor = ray.get_actor(controller.actor_name(self.model), namespace=controller.NAMESPACE)
                ray.get(actor.record.remote("gateway", found[0].version, self._records(found[0])), timeout=10)
            except (ValueError, ray.exceptions.RayError):
                continue  # the controller was killed: what it was told is lost

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _records(self, traffic: Traffic) -> list[dict[str, Any]]:
        return [self._record(traffic, place).model_dump(mode="json") for place in range(20)]

    def _record(self, traffic: Traffic, place: int) -> RequestRecord:
        self._num_requests += 1
        on_canary = traffic.canary is not None and place * 5 < traffic.weight_percent
        failed = on_canary and self.harmful
        return RequestRecord(
            request_id=str(self._num_requests),
            revision=str(traffic.canary) if on_canary else traffic.stable,
            role="canary" if on_canary else "stable",
            bucket=(place + self._num_requests * 0.618 % 1) / 20,  # each request another user's
            outcome="stream_error" if failed else "ok",
            status=200,
            ttft_s=0.05,
            duration_s=0.1,
            num_output_chunks=4,
            at=datetime.now(UTC),
        )


class Deployed:
    """One public name with stable deployed, a candidate loaded, a gateway and the controller."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.stable, self.candidate = f"{name}-00000001", f"{name}-00000002"
        self.storage = LocalStorage(root / "storage")
        self.applications = FolderApplications(root / "applications")
        for number, revision in enumerate((self.stable, self.candidate)):
            made = Revision(key=f"{number:016x}", name=name, revision=revision, weights="w")
            registry.publish_revision(self.storage, made)
            self.load(revision)
        registry.move_alias(self.storage, name, "candidate", self.candidate)
        controller.ensure_traffic(self.storage, name, self.stable)
        self.actor = controller.ensure_controller(name, self.storage.uri, self.applications)
        self.gateway = Gateway(self.storage, name)
        self.gateway.start()

    def load(self, revision: str) -> None:
        made = registry.resolve(self.storage, self.name, revision)
        self.applications.load(made, ServingConfig(), self.storage)

    def start(self, config: RolloutConfig = CONFIG, keep_revisions: int = 1) -> str:
        return controller.start_rollout(
            self.storage, self.name, self.candidate, config, keep_revisions=keep_revisions, who="test"
        )

    @property
    def status(self) -> RolloutStatus:
        found = controller.status(self.storage, self.name)
        assert found is not None
        return found

    @property
    def traffic(self) -> Traffic:
        found = read_traffic(self.storage, self.name)
        assert found is not None
        return found[0]

    def wait(self, until: Callable[[RolloutStatus], bool], timeout_s: float = 60) -> RolloutStatus:
        ends_at = time.monotonic() + timeout_s
        while not until(status := self.status):
            assert time.monotonic() < ends_at, (
                f"still {status.phase} after {timeout_s} s: {status.model_dump_json(indent=1)}"
            )
            time.sleep(0.02)
        return status

    def kill_controller(self) -> None:
        """kill -9 of the actor's process, and of no other."""
        os.kill(self.controller_pid(), signal.SIGKILL)

    def controller_pid(self) -> int:
        """Of the process that answers now; waits for a restart."""
        import ray

        controller.ensure_controller(self.name, self.storage.uri)
        return int(ray.get(self.actor.pid.remote(), timeout=60))

    def close(self) -> None:
        import ray

        self.gateway.end()
        ray.kill(self.actor)
