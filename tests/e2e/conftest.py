"""An engine of the tiny model behind a gateway, for all tests of serving: they take a minute to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.storage import LocalStorage
from services.config import ServingConfig
from services.contract import read_traffic, write_traffic
from services.rollout import controller
from tests.integration.gateway_world import eventually, free_port

NAME = "tiny"
STABLE, CANARY = f"{NAME}-00000001", f"{NAME}-00000002"


@dataclass(frozen=True)
class Served:
    """Where NAME answers, STABLE having everybody. CANARY is published and not loaded."""

    storage: LocalStorage
    serving: ServingConfig
    url: str

    def publish(self, revision: str, model: Path, **fields: object) -> Revision:
        """A revision of the model in that folder."""
        weights = f"artifacts/quantized/{revision}/model"
        shutil.copytree(model, self.storage.root / weights)
        return published(self.storage, revision, weights, **fields)

    @contextmanager
    def led_to(self, revision: Revision, **engine: object) -> Iterator[None]:
        """Within the block the public name leads everybody to that revision, with these changes of the engine's settings, and
        has begun to; behind it to STABLE, as before."""
        from services.serving import app

        serving = self.serving.replace(engine=self.serving.engine.replace(**engine))
        app.deploy_revision(revision, serving, self.storage)
        found = read_traffic(self.storage, NAME)
        assert found is not None
        before, version = found
        moved = before.replace(stable=revision.revision, version=before.version + 1, canary=None, weight_percent=0.0)
        version = write_traffic(self.storage, moved, expect=version)
        eventually(lambda: self.ask(prompt="The", max_tokens=1)[0] == revision.revision)
        yield
        write_traffic(self.storage, before.replace(version=moved.version + 1), expect=version)
        app.remove_revision(revision.revision)

    def ask(self, **asked: object) -> tuple[str, dict[str, Any]]:
        """The revision that answered, and its answer."""
        answer = httpx.post(f"{self.url}/completions", json={"model": NAME, "temperature": 0, **asked}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-serinus-revision"], answer.json()


def published(storage: LocalStorage, revision: str, weights: str, **fields: object) -> Revision:
    key = revision.rpartition("-")[2].zfill(16)
    made = Revision.model_validate({"key": key, "name": NAME, "revision": revision, "weights": weights, **fields})
    registry.publish_revision(storage, made)
    return made


@pytest.fixture(scope="session")
def served(ray_cluster: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from ray import serve

    from services.serving import app

    serve.shutdown()
    storage = LocalStorage(tmp_path_factory.mktemp("shelf"))
    shutil.copytree(tiny_model, storage.root / "model")
    stable, _ = (published(storage, revision, "model") for revision in (STABLE, CANARY))
    controller.ensure_traffic(storage, NAME, STABLE)
    engine = {"max_model_len": 512, "max_num_seqs": 8, "enforce_eager": True, "kv_cache_gib": 0.1}
    engine["lora"] = {"max_rank": 8, "max_adapters": 3}
    serving = ServingConfig.model_validate({"port": free_port(), "engine": engine, "ready_timeout_s": 300})
    app.deploy(NAME, stable, serving, storage)
    app.wait_gateway(NAME, serving, storage.uri)
    yield Served(storage, serving, app.gateway_url(serving))
    serve.shutdown()
