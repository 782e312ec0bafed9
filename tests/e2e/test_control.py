"""`serinus deploy` with a control API, and a rollout begun and ended over HTTP: the controller loads the candidate on real vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import registry
from cluster.storage_config import StorageConfig
from services import audit
from services.commands.deploy import deploy
from services.config import NotifyConfig, RolloutConfig, ServingConfig, StepConfig
from services.contract import actor_name
from services.rollout import controller
from services.serving import app
from services.serving.keys import add_key
from tests.e2e.conftest import CANARY, NAME, STABLE, Served
from tests.integration.gateway_world import eventually, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@dataclass
class Recipe:
    storage: StorageConfig
    serve: ServingConfig
    rollout: RolloutConfig
    name: str = NAME
    notify: NotifyConfig = field(default_factory=NotifyConfig)


def test_a_key_alone_lets_a_candidate_in_and_takes_it_out(served: Served, tmp_path: Path) -> None:
    import ray

    token = add_key(tmp_path / "control.yaml", "ann", control="operator")
    control = {"port": free_port(), "keys": str(tmp_path / "control.yaml")}
    serving = ServingConfig.model_validate({**served.serving.model_dump(), "control": control})
    step = StepConfig(weight_percent=50, min_duration_s=600, prove="none")
    rollout = RolloutConfig(steps=(step,), interval_s=1, drain_s=1, step_timeout_s=3600)
    recipe = Recipe(StorageConfig(uri=served.storage.uri), serving, rollout)
    registry.move_alias(served.storage, NAME, "candidate", CANARY)
    deploy(recipe, served.storage, tmp_path / "recipe.yaml")

    def ask(method: str, path: str, **given: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{control['port']}/control/v1{path}"
        return httpx.request(method, url, headers={"authorization": f"Bearer {token}"}, timeout=90, **given)

    try:
        begun = ask("POST", "/rollouts", json={})
        assert (begun.status_code, begun.json()["revision"]) == (202, CANARY)
        eventually(lambda: ask("GET", "/traffic").json()["traffic"]["canary"] == CANARY, 240)
        assert CANARY in app.running_revisions()
        assert ask("POST", "/rollouts/current/rollback").status_code == 200
        eventually(lambda: ask("GET", "/rollouts/current").json()["phase"] == "aborted", 60)
        assert ask("GET", "/traffic").json()["traffic"]["stable"] == STABLE
        eventually(lambda: CANARY not in app.running_revisions(), 60)
        people = {entry.entry.line.who for entry in audit.entries(served.storage, NAME)} - {"serinus"}
        assert "key:ann" in people
        deploy(Recipe(recipe.storage, served.serving, rollout), served.storage, tmp_path / "recipe.yaml")
        with pytest.raises(httpx.ConnectError):
            ask("GET", "/traffic")
    finally:
        ray.kill(ray.get_actor(actor_name(NAME), namespace=controller.NAMESPACE))
