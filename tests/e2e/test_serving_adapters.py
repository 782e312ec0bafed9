"""An adapter as a canary in stable's own engine, and what that engine tells of its load: real vLLM, and no second engine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from services.config import RolloutConfig, StepConfig
from services.contract import NAMESPACE, actor_name, read_traffic
from services.engines import read_engines
from services.rollout import controller
from tests.e2e.adapters import adapter
from tests.e2e.conftest import NAME, STABLE, Served
from tests.integration.gateway_world import eventually

pytestmark = pytest.mark.e2e

CONFIG = RolloutConfig(
    steps=(StepConfig(weight_percent=50, min_requests=10**6, prove="none"),), interval_s=0.5, drain_s=0.5
)
USERS = [f"user-{number}" for number in range(16)]


@pytest.fixture(scope="module")
def storage(served: Served) -> Iterator[LocalStorage]:
    """With a controller. Afterwards STABLE has everybody, as before."""
    import ray

    actor = controller.ensure_controller(NAME, served.storage.uri)
    yield served.storage
    ray.kill(actor)
    named = {"name": actor_name(NAME), "namespace": NAMESPACE}
    eventually(lambda: named not in ray.util.list_named_actors(all_namespaces=True))  # the next module starts its own


@pytest.fixture(scope="module")
def base(served: Served) -> Revision:
    return registry.resolve(served.storage, NAME, STABLE)


def ask(served: Served, user: str) -> tuple[str, str]:
    """A user's question, answered without chance: the revision that answered and its text."""
    body = {"model": NAME, "prompt": "The list", "max_tokens": 8, "temperature": 0, "ignore_eos": True, "user": user}
    answer = httpx.post(f"{served.url}/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == NAME
    return answer.headers["x-serinus-revision"], answer.json()["choices"][0]["text"]


def answers(served: Served) -> dict[str, str]:
    """What users are told, by the revision that told them; each revision tells all of them the same."""
    found = {ask(served, user) for user in USERS}
    assert len({revision for revision, _ in found}) == len(found)
    return dict(found)


def roll_out(served: Served, candidate: Revision) -> None:
    """As `serinus canary start` does it; on until the canary has half of the users."""
    from services.serving import app

    app.deploy_revision(candidate, served.serving, served.storage)
    controller.start_rollout(served.storage, NAME, candidate.revision, CONFIG, who="test")
    eventually(
        lambda: (found := controller.status(served.storage, NAME)) is not None and found.weight_applied_at is not None
    )


def ended(storage: LocalStorage) -> str:
    eventually(lambda: (found := controller.status(storage, NAME)) is not None and found.ended)
    found = controller.status(storage, NAME)
    assert found is not None
    return found.phase


def stable(storage: LocalStorage) -> str:
    found = read_traffic(storage, NAME)
    assert found is not None
    return found[0].stable


def test_adapters_go_in_and_out_forward_and_back_in_one_engine(
    served: Served, storage: LocalStorage, base: Revision, tiny_model: Path, tmp_path: Path
) -> None:
    from services.serving import app

    first, second = (adapter(served, base, tiny_model, tmp_path / str(seed), seed) for seed in (1, 2))
    assert set(answers(served)) == {STABLE}

    roll_out(served, first)
    told = answers(served)
    assert set(told) == {STABLE, first.revision}
    assert told[STABLE] != told[first.revision]
    controller.abort(storage, NAME, who="test")
    assert ended(storage) == "aborted"
    assert read_engines(storage, NAME).hosts == {}
    assert answers(served) == {STABLE: told[STABLE]}

    roll_out(served, first)
    controller.promote(storage, NAME, who="test")
    assert ended(storage) == "promoted"
    assert answers(served) == {first.revision: told[first.revision]}
    roll_out(served, second)
    both = answers(served)
    assert set(both) == {first.revision, second.revision}
    assert len({*both.values(), told[STABLE]}) == 3
    controller.abort(storage, NAME, who="test")
    assert ended(storage) == "aborted"
    controller.abort(storage, NAME, who="test")  # outside a rollout: back to the one before
    assert stable(storage) == STABLE
    eventually(lambda: answers(served) == {STABLE: told[STABLE]})
    assert registry.aliases(storage, NAME)["previous"] == first.revision
    assert app.running_revisions() == [STABLE]  # the one engine, all the time


def test_an_adapter_that_does_not_fit_the_engine_is_refused_and_leaves_nothing(
    served: Served, base: Revision, tiny_model: Path, tmp_path: Path
) -> None:
    from services.serving import app

    before = read_engines(served.storage, NAME)
    large = adapter(served, base, tiny_model, tmp_path / "large", 3, r=64)
    with pytest.raises(ConfigError, match="rank 8 at most"):
        app.deploy_revision(large, served.serving, served.storage)
    assert read_engines(served.storage, NAME) == before


def test_an_engine_with_room_for_adapters_tells_how_likely_prompts_are_to_several_at_once(served: Served) -> None:
    """It died of prompts of another length than there were requests: cluster/vllm_worker.py."""

    def scored(number: int) -> list[float]:
        prompt = f"The list of {number} numbers has a method"
        body = {"model": NAME, "prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        answer = httpx.post(f"{served.url}/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["choices"][0]["logprobs"]["token_logprobs"][1:-1])

    alone = [scored(number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(scored, range(6)))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=0.05)  # bfloat16, in other batches


def test_vllm_tells_its_queue_and_its_cache_while_it_works_and_nothing_after(served: Served) -> None:
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name

    handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(STABLE))
    body = {"model": NAME, "prompt": "The list", "max_tokens": 100, "ignore_eos": True, "n": 4}

    def told() -> dict[str, float]:
        return dict(handle.record_autoscaling_stats.remote().result(timeout_s=30))

    seen = []
    with ThreadPoolExecutor(4) as pool:  # sixteen sequences for eight slots
        asked = [pool.submit(httpx.post, f"{served.url}/completions", json=body, timeout=120) for _ in range(4)]
        while not all(answer.done() for answer in asked):
            seen.append(told())
    assert [answer.result().status_code for answer in asked] == [200] * 4
    assert max(one["running"] for one in seen) == 8
    assert max(one["waiting"] for one in seen) >= 4
    assert 0 < max(one["cache"] for one in seen) <= 1
    eventually(lambda: told() == {"running": 0, "waiting": 0, "cache": 0, "floor": 0, "rest": 0})
