"""A control API before a rollout on the test's own clock: real storage, real loop, and orders that reach it without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from services.config import ServingConfig
from services.control.desk import Desk, Terms
from services.control.roles import Refusals
from services.control.routes import PREFIX, application
from services.control.server import Doorkeeper
from services.rollout.status import RolloutStatus
from services.serving.keys import add_key, publish_keys
from services.serving.watch import KeyWatch
from tests.unit.services.rollout.world import CONFIG, World


def two_at_once(act: Callable[[], int]) -> list[int]:
    """What `act` returns to each of two who call it at the same moment; ascending."""
    together, answers = threading.Barrier(2), list[int]()

    def called() -> None:
        together.wait()
        answers.append(act())

    threads = [threading.Thread(target=called) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(answers)


class LoopOrders:
    """What the actor does with orders, in this process."""

    def __init__(self, world: World) -> None:
        self.world = world

    def set_weight(self, weight_percent: float, who: str, of: str) -> RolloutStatus:
        return self.world.loop.set_weight(weight_percent, who, of)

    def promote(self, who: str, of: str) -> RolloutStatus:
        return self.world.loop.promote(who, of)

    def abort(self, who: str, of: str) -> RolloutStatus | None:
        return self.world.loop.abort(who, of)

    def revert(self, who: str, stable: str) -> None:
        self.world.loop.revert(who, stable)

    def check_candidate(self, revision: str) -> None:
        pass

    def wake(self) -> None:
        pass


class Scene:
    """One model `m`, a key for each role named as the role is, and a client for each."""

    def __init__(self, root: Path) -> None:
        self.world = World(root / "storage")
        self.storage, self.file = self.world.storage, root / "control-keys.yaml"
        roles = ("viewer", "operator", "admin")
        self.tokens = {role: add_key(self.file, role, control=role) for role in roles}
        publish_keys(self.storage, "m", self.file, "control")
        self.keys = KeyWatch(self.storage, "m", "control")
        self.keys.poll()
        refusals = Refusals(self.storage, "m", self.now)
        terms = Terms(rollout=CONFIG, serving=ServingConfig())
        desk = Desk(self.storage, "m", terms, LoopOrders(self.world), self.now)
        self.app = application(desk, Doorkeeper(self.keys, str(self.file), refusals), refusals)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def now(self) -> datetime:
        return self.world.now

    def ask(self, method: str, path: str, role: str = "operator", **given: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens.get(role, role)}"}
        if "content" in given:
            headers["content-type"] = "application/json"
        return self.client.request(method, f"{PREFIX}{path}", headers=headers, **given)

    def record(self) -> list[tuple[str, str]]:
        """Kind and who, of the entries that `GET /audit` tells of, but for the world's own."""
        entries = self.ask("GET", "/audit", "viewer").json()["entries"]
        return [(entry["kind"], entry["who"]) for entry in entries if entry["who"] != "serinus"]
