"""An adapter as a canary in stable's own engine: real vLLM, gateway and controller; no second engine is ever started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cluster import registry
from cluster.artifacts import QuantizedModel, Revision, save
from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from pipelines.adapter import import_adapter
from pipelines.publish import publish_adapter, publish_baseline
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.contract import Traffic, read_traffic
from services.engines import read_engines
from services.rollout import controller
from tests.integration.gateway_world import eventually, port_of_serve

pytestmark = pytest.mark.e2e

NAME = "lora"
CONFIG = RolloutConfig(
    steps=(StepConfig(weight_percent=50, min_requests=10**6, prove="none"),), interval_s=0.5, drain_s=1
)


def peft_folder(folder: Path, model: Path, seed: int) -> Path:
    """A random adapter on all query and down projections, strong enough that every answer is another."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(seed), {}
    with safe_open(model / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118  # no mapping
            if name.endswith(("q_proj.weight", "down_proj.weight")):
                rows, columns = weights.get_slice(name).get_shape()
                where = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{where}.lora_A.weight"] = torch.randn(4, columns, generator=generator)
                tensors[f"{where}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def base(shelf: LocalStorage, tiny_model: Path) -> Revision:
    weights = save(shelf, QuantizedModel(key="0a" * 8, scheme="none"))
    shutil.copytree(tiny_model, shelf.root / weights.folder)
    return publish_baseline(NAME, weights, shelf)


@pytest.fixture(scope="module")
def adapters(
    shelf: LocalStorage, base: Revision, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Revision]:
    folder = tmp_path_factory.mktemp("peft")
    made = [import_adapter(peft_folder(folder / str(seed), tiny_model, seed), base, shelf) for seed in (1, 2)]
    return [publish_adapter(base, adapter, shelf) for adapter in made]


@pytest.fixture(scope="module")
def serving(ray_cluster: str) -> ServingConfig:
    engine = {
        "max_model_len": 128,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "kv_cache_gib": 0.1,
        "lora": {"max_rank": 8},
    }
    return ServingConfig.model_validate({"port": port_of_serve(), "engine": engine, "ready_timeout_s": 300})


@pytest.fixture(scope="module")
def url(shelf: LocalStorage, base: Revision, serving: ServingConfig) -> Iterator[str]:
    import ray
    from ray import serve

    from services.serving import app

    serve.shutdown()
    app.deploy_revision(base, serving, shelf)
    controller.ensure_traffic(shelf, NAME, base.revision)
    actor = controller.ensure_controller(NAME, shelf.uri)
    app.deploy_gateway(NAME, serving, shelf.uri)
    yield app.gateway_url(serving)
    ray.kill(actor)
    serve.shutdown()


@pytest.fixture
def ask(url: str) -> Callable[[str], tuple[str, str]]:
    """A user's question, answered without chance: the revision that answered and its text."""

    def ask(user: str) -> tuple[str, str]:
        body = {
            "model": NAME,
            "prompt": "The list",
            "max_tokens": 8,
            "temperature": 0,
            "ignore_eos": True,
            "user": user,
        }
        answer = httpx.post(f"{url}/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == NAME
        return answer.headers["x-serinus-revision"], answer.json()["choices"][0]["text"]

    return ask


def traffic(shelf: LocalStorage) -> Traffic:
    found = read_traffic(shelf, NAME)
    assert found is not None
    return found[0]


def roll_out(shelf: LocalStorage, candidate: Revision, serving: ServingConfig) -> None:
    """As `serinus canary start` does it; on until the canary has half of the users."""
    from services.serving import app

    app.deploy_revision(candidate, serving, shelf)
    controller.start_rollout(shelf, NAME, candidate.revision, CONFIG, who="test")
    eventually(lambda: (found := controller.status(shelf, NAME)) is not None and found.weight_applied_at is not None)


def ended(shelf: LocalStorage) -> str:
    eventually(lambda: (found := controller.status(shelf, NAME)) is not None and found.ended)
    found = controller.status(shelf, NAME)
    assert found is not None
    return found.phase


def test_an_adapter_goes_in_and_out_forward_and_back_in_one_engine(
    shelf: LocalStorage,
    base: Revision,
    adapters: list[Revision],
    serving: ServingConfig,
    ask: Callable[[str], tuple[str, str]],
) -> None:
    from services.serving import app

    first, second = adapters
    users = [f"user-{number}" for number in range(12)]
    assert {revision for revision, _ in map(ask, users)} == {base.revision}

    roll_out(shelf, first, serving)
    answers = dict(map(ask, users))
    assert set(answers) == {base.revision, first.revision}
    assert answers[base.revision] != answers[first.revision]
    controller.abort(shelf, NAME, who="test")
    assert ended(shelf) == "aborted"
    assert read_engines(shelf, NAME).hosts == {}
    assert {revision for revision, _ in map(ask, users)} == {base.revision}

    roll_out(shelf, first, serving)
    controller.promote(shelf, NAME, who="test")
    assert ended(shelf) == "promoted"
    assert dict(map(ask, users)) == {first.revision: answers[first.revision]}
    roll_out(shelf, second, serving)
    both = dict(map(ask, users))
    assert set(both) == {first.revision, second.revision}
    assert len({*both.values(), answers[base.revision]}) == 3
    controller.promote(shelf, NAME, who="test")
    assert ended(shelf) == "promoted"
    controller.abort(shelf, NAME, who="test")  # outside a rollout: back to the one before
    assert traffic(shelf).stable == first.revision
    eventually(lambda: dict(map(ask, users)) == {first.revision: answers[first.revision]})
    assert registry.aliases(shelf, NAME)["previous"] == second.revision
    assert app.running_revisions() == [base.revision]  # the one engine, all the time


def test_an_adapter_that_does_not_fit_the_engine_is_refused_and_leaves_nothing(
    shelf: LocalStorage, base: Revision, adapters: list[Revision], serving: ServingConfig, url: str, tmp_path: Path
) -> None:
    from services.serving import app

    before = read_engines(shelf, NAME)
    large = shutil.copytree(shelf.root / adapters[0].adapter, tmp_path / "large")
    config = json.loads((large / "adapter_config.json").read_text())
    (large / "adapter_config.json").write_text(json.dumps({**config, "r": 64}))
    revision = publish_adapter(base, import_adapter(large, base, shelf), shelf)
    with pytest.raises(ConfigError, match="rank 8 at most"):
        app.deploy_revision(revision, serving, shelf)
    assert read_engines(shelf, NAME) == before


def test_vllm_tells_its_queue_and_its_cache_while_it_works_and_nothing_after(base: Revision, url: str) -> None:
    from ray import serve

    from services.serving.watch import MODEL_DEPLOYMENT, application_name

    handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(base.revision))
    body = {"model": NAME, "prompt": "The list", "max_tokens": 100, "ignore_eos": True, "n": 4}

    def told() -> dict[str, float]:
        return dict(handle.record_autoscaling_stats.remote().result(timeout_s=30))

    seen = []
    with ThreadPoolExecutor(4) as pool:  # sixteen sequences for eight slots
        answers = [pool.submit(httpx.post, f"{url}/completions", json=body, timeout=120) for _ in range(4)]
        while not all(answer.done() for answer in answers):
            seen.append(told())
    assert [answer.result().status_code for answer in answers] == [200] * 4
    assert max(one["running"] for one in seen) == 8
    assert max(one["waiting"] for one in seen) >= 4
    assert 0 < max(one["cache"] for one in seen) <= 1
    eventually(lambda: told() == {"running": 0, "waiting": 0, "cache": 0, "floor": 0, "rest": 0})


def test_a_replica_that_starts_anew_loads_its_adapters_before_it_answers(
    shelf: LocalStorage, base: Revision, adapters: list[Revision], ask: Callable[[str], tuple[str, str]]
) -> None:
    import os
    import signal

    from ray import serve

    from services.serving.watch import MODEL_DEPLOYMENT, application_name

    stable = traffic(shelf).stable
    before = ask("user")
    assert before[0] == stable
    handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(base.revision))
    os.kill(handle.pid.remote().result(timeout_s=30), signal.SIGKILL)

    def answers_again() -> bool:
        try:
            return ask("user") == before
        except (AssertionError, httpx.TransportError):  # while no replica is there
            return False

    eventually(answers_again, 120)
