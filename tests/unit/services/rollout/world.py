"""A rollout's world on the test's own clock: storage that kills, applications, gateways and their users. No tests in here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import StageFailed
from cluster.storage import LocalStorage, Storage
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.contract import RequestRecord, Traffic, read_traffic, write_traffic
from services.engines import Order, change_order
from services.rollout.loop import Loop
from services.rollout.status import RolloutStatus, read_status

STABLE, CANDIDATE = "m-00000001", "m-00000002"
CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=10, min_requests=10, min_duration_s=4, prove="none"),
        StepConfig(weight_percent=50, min_requests=10, min_duration_s=4, error_effect_percent=20),
    ),
    interval_s=1,
    drain_s=3,
    step_timeout_s=60,
)


class Killed(BaseException):
    """The process is gone."""


class MortalStorage(LocalStorage):
    """Kills the process before or after its `life`-th write."""

    def __init__(self, root: Path, life: int = 10**9, before: bool = True) -> None:
        super().__init__(root)
        self.life, self.before, self.num_writes = life, before, 0

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        self.num_writes += 1
        if self.num_writes == self.life and self.before:
            raise Killed
        version = super().write(key, content, expect=expect)
        if self.num_writes == self.life:
            raise Killed
        return version


class FakeApplications:
    def __init__(self, storage: LocalStorage) -> None:
        self.storage = storage
        self.loaded, self.removed = {STABLE, CANDIDATE}, []
        self.num_replicas: dict[str, int] = {}
        self.told: list[str] = []
        self.most = 1
        self.broken, self.num_loads = set(), 0

    def running(self) -> set[str]:
        return set(self.loaded)

    def remove(self, revision: str) -> None:
        self.loaded.remove(revision)
        self.removed.append(revision)
        change_order(self.storage, "m", revision, lambda order: Order())

    def replicas(self, engine: str) -> int:
        return self.num_replicas.get(engine, 1)

    def tell(self, engine: str) -> int:
        self.told.append(engine)
        return self.most

    def load(self, revision: Revision, serving: ServingConfig, storage: Storage) -> None:
        if revision.revision in self.broken:
            raise StageFailed(f"{revision.revision} does not load")
        self.loaded.add(revision.revision)
        self.num_loads += 1


class World:
    """Storage, two gateways and their users, and the one thing that moves: time, half a second at a time."""

    def __init__(self, root: Path) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.root = root
        self.storage = LocalStorage(root)
        self.applications = FakeApplications(self.storage)
        self.canary_harmful = self.canary_slow = False
        self.applied = {"g1": 1, "g2": 1}
        self.num_requests = 0
        self.traffic_seen: list[tuple[str, str | None, float]] = []
        for number in (1, 2):
            names = {"name": "m", "revision": f"m-{number:08x}", "weights": "w"}
            registry.publish_revision(self.storage, Revision(key=f"{number:016x}", **names))
        registry.move_aliases(self.storage, "m", {"stable": STABLE, "candidate": CANDIDATE})
        write_traffic(self.storage, Traffic(name="m", stable=STABLE, changed_at=self.now))
        self.loop = self.process(self.storage)

    def process(self, storage: LocalStorage) -> Loop:
        return Loop(storage, "m", self.applications, lambda: self.now)

    @property
    def traffic(self) -> Traffic:
        found = read_traffic(self.storage, "m")
        assert found is not None
        return found[0]

    @property
    def status(self) -> RolloutStatus:
        found = read_status(self.storage, "m")
        assert found is not None
        return found[0]

    def start(self, config: RolloutConfig = CONFIG, keep: int = 1) -> str:
        self.run(3)
        self.storage.write("items", b"")
        return self.loop.start(config, CANDIDATE, keep, "ann", "items")

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.turn()

    def turn(self) -> None:
        self.now += timedelta(seconds=0.5)
        traffic = self.traffic
        seen = (traffic.stable, traffic.canary, traffic.weight_percent)
        if seen not in self.traffic_seen[-1:]:
            self.traffic_seen.append(seen)
        for gateway in self.applied:
            self.applied[gateway] = traffic.version
            self.loop.record(gateway, traffic.version, [r.model_dump(mode="json") for r in self._requests(traffic)])
        for _ in range(10):
            pause_s = self.loop.tick()
            if pause_s != 0:
                break

    def _requests(self, traffic: Traffic) -> Iterator[RequestRecord]:
        for place in range(10):
            self.num_requests += 1
            on_canary = traffic.canary is not None and place * 10 < traffic.weight_percent
            yield RequestRecord(
                request_id=str(self.num_requests),
                revision=str(traffic.canary) if on_canary else traffic.stable,
                role="canary" if on_canary else "stable",
                bucket=(place + self.num_requests * 0.618 % 1) / 10,  # each request another user's
                outcome="http_error" if on_canary and self.canary_harmful else "ok",
                status=500 if on_canary and self.canary_harmful else 200,
                ttft_s=3.0 if on_canary and self.canary_slow else 0.1,
                duration_s=3.5,
                num_output_chunks=3,
                at=self.now,
            )
