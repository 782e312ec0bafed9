"""An engine of the tiny model behind a gateway, for all tests of serving: they take a minute to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.storage import LocalStorage
from services.config import ServingConfig
from services.rollout import controller
from tests.integration.gateway_world import free_port

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
