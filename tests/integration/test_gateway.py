"""What users and the rollout see of a gateway before two revisions (gateway_world.py)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.errors import ResourceError
from cluster.storage import LocalStorage
from services.config import EngineConfig, ReplicasConfig, ServingConfig
from services.serving.split import bucket, role_of
from tests.integration.clients import Clients, Seen
from tests.integration.gateway_world import (
    CANARY,
    NAME,
    STABLE,
    Model,
    apply,
    chat,
    deploy,
    eventually,
    free_port,
    put,
    records_of,
)

pytestmark = pytest.mark.integration

LONG = "SERINUS_LONG" in os.environ
NUM_GATEWAYS, NUM_CHANGES = 3, 200 if LONG else 60
NUM_BODIES, FUZZ_S = (200, 120.0) if LONG else (30, 12.0)
ANSWERED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/embeddings": {"input": "vector"},
}


@pytest.fixture(scope="module")
def serving(serve_stopped: None) -> ServingConfig:
    return ServingConfig(port=free_port(), num_gateway_replicas=NUM_GATEWAYS)


@pytest.fixture(scope="module")
def gateway(serving: ServingConfig, registry: LocalStorage, evidence: Any) -> str:
    """The base URL of a gateway before two revisions; stable has everybody."""
    url = deploy(serving, registry)
    eventually(lambda: httpx.get(f"{url}/models").status_code == 200 and chat(url).status_code == 200)
    return url


def applied(registry: LocalStorage, evidence: Any, canary: str | None, weight_percent: float) -> None:
    apply(registry, evidence, canary, weight_percent, NUM_GATEWAYS)


def test_a_port_in_use_is_named_before_anything_is_deployed(serve_stopped: None, tmp_path: Path) -> None:
    from services.serving import app
    from services.serving.applications import statuses

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServingConfig(port=taken.getsockname()[1])
        with pytest.raises(ResourceError, match=r"choose another serve\.port"):
            app.deploy_gateway(NAME, config, str(tmp_path))
    assert statuses() == {}


def test_only_the_public_name_is_listed(gateway: str) -> None:
    listed = httpx.get(f"{gateway}/models").json()
    assert [card["id"] for card in listed["data"]] == [NAME]
    assert httpx.get(f"{gateway}/models/{NAME}").json()["id"] == NAME
    assert httpx.get(f"{gateway}/models/{STABLE}").status_code == 404


@pytest.mark.parametrize("model", ["gpt-4", STABLE, "../../etc/passwd"])
def test_a_wrong_model_is_openais_404(gateway: str, model: str) -> None:
    answer = httpx.post(f"{gateway}/chat/completions", json={"model": model, "messages": []})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/completions", {"model": NAME}, 400),
        ("/chat/completions", [], 400),
        ("/chat/completions", {"model": NAME, "messages": [], "tools": []}, 400),  # refused by a check of vLLM's own
        ("/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "\ud800"}]}, 400),
        ("/chat/completions", {"model": NAME, "messages": [], "top_k": 10**20}, 400),
        ("/chat/completions", {"model": NAME, "messages": None}, 400),  # vLLM's checks stumble over it
        ("/chat/completions", {"model": NAME, "messages": [], "tools": 5}, 400),
        ("/completions", {"model": NAME, "prompt": ""}, 400),
        (
            "/embeddings",
            {"model": NAME, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            400,
        ),
        ("/nothing", {}, 404),
    ],
)
def test_mistakes_get_openais_error_shape(gateway: str, path: str, body: Any, status: int) -> None:
    answer = httpx.post(gateway + path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_answers_carry_the_public_name_the_revision_and_the_requests_id(gateway: str) -> None:
    whole = chat(gateway)
    assert whole.json()["model"] == NAME
    assert whole.headers["x-serinus-revision"] == STABLE
    assert len(whole.headers.get_list("x-request-id")) == 1
    completion = httpx.post(f"{gateway}/completions", json={"model": NAME, "prompt": "hi"})
    assert completion.json()["choices"][0]["text"] == " hello"
    streamed = chat(gateway, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["x-serinus-revision"] == STABLE
    assert STABLE not in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_every_answer_carries_one_request_id_errors_too(gateway: str) -> None:
    for answer in (httpx.get(f"{gateway}/nothing"), httpx.get(f"{gateway}/models"), chat(gateway, "raise")):
        assert len(answer.headers.get_list("x-request-id")) == 1
    given = chat(gateway, headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"


def test_what_vllm_knows_of_openais_fields_reaches_it_unchanged(gateway: str) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    schema = {"name": "answer", "schema": {"type": "object"}}
    fields = {
        "n": 3,
        "stop": ["\n", "END"],
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "none",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "seed": 7,
        "temperature": 0.5,
        "max_tokens": 5,
    }
    shown = json.loads(chat(gateway, "show", **fields).json()["choices"][0]["message"]["content"])
    assert {
        name: shown[name] for name in ("n", "stop", "logprobs", "top_logprobs", "seed", "temperature", "max_tokens")
    } == {name: fields[name] for name in ("n", "stop", "logprobs", "top_logprobs", "seed", "temperature", "max_tokens")}
    assert shown["tools"][0]["function"]["name"] == "weather"
    assert shown["response_format"]["json_schema"]["name"] == "answer"


def test_embeddings_come_from_a_model_that_has_them_and_are_refused_clearly_by_one_that_has_not(
    gateway: str, evidence: Any
) -> None:
    body = {"model": NAME, "input": "vector"}
    found = httpx.post(f"{gateway}/embeddings", json=body, headers={"x-request-id": "vector-1"})
    assert found.json()["data"][0]["embedding"] == [0.5, 0.25]
    assert found.json()["model"] == NAME
    assert records_of(evidence, "vector-1")[0]["outcome"] == "ok"
    refused = httpx.post(f"{gateway}/embeddings", json={**body, "input": "text"})
    assert refused.status_code == 400
    assert "embed" in refused.json()["error"]["message"]


def test_prometheus_gets_outcomes_times_and_tokens_per_revision(gateway: str) -> None:
    import ray

    chat(gateway, stream=True)
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> bool:
        lines = httpx.get(url, timeout=10).text.splitlines()
        wanted = ("ray_serinus_requests_total{", "ray_serinus_ttft_seconds_bucket{", "ray_serinus_tpot_seconds_bucket{")
        found = [line for line in lines if line.startswith((*wanted, "ray_serinus_tokens_total{"))]
        return all(any(line.startswith(name) and f'revision="{STABLE}"' in line for line in found) for name in wanted)

    eventually(exported)


def test_without_keys_nobody_may_choose_a_role(gateway: str) -> None:
    assert chat(gateway, headers={"x-serinus-role": "canary"}).status_code == 403


def test_deploying_the_gateway_again_restarts_nothing(
    gateway: str, serving: ServingConfig, registry: LocalStorage, evidence: Any
) -> None:
    import ray

    from services.serving import app

    started = time.time()
    app.deploy_gateway(NAME, serving, registry.uri)
    assert time.time() - started < 10
    _, heard = ray.get(evidence.told.remote())
    assert len({gateway for _, gateway, _ in heard}) == NUM_GATEWAYS


def test_another_port_than_serves_own_is_refused(gateway: str, registry: LocalStorage) -> None:
    from services.serving import app

    with pytest.raises(ResourceError, match="listens on"):
        app.deploy_gateway(NAME, ServingConfig(port=free_port()), registry.uri)


def test_users_are_split_by_their_hash_and_all_gateways_agree(
    gateway: str, registry: LocalStorage, evidence: Any
) -> None:
    applied(registry, evidence, CANARY, 30)
    for number in range(40):
        answer = chat(gateway, key=f"user-{number}")
        role = role_of(bucket(f"key:user-{number}", "s"), 30)
        assert answer.headers["x-serinus-revision"] == (CANARY if role == "canary" else STABLE)


@pytest.mark.parametrize(
    ("prompt", "stream", "outcome"),
    [
        ("hello", False, "ok"),
        ("hello", True, "ok"),
        ("empty", False, "empty"),
        ("empty", True, "empty"),
        ("error", True, "stream_error"),
        ("break", True, "stream_error"),
        ("truncate", True, "truncated"),
    ],
)
def test_each_outcome_is_put_on_the_record_of_its_revision(
    gateway: str, registry: LocalStorage, evidence: Any, prompt: str, stream: bool, outcome: str
) -> None:
    applied(registry, evidence, CANARY, 100)
    answer = chat(gateway, prompt, stream=stream)
    assert answer.status_code == 200
    (record,) = records_of(evidence, answer.headers["x-request-id"])
    assert (record["revision"], record["role"], record["outcome"]) == (CANARY, "canary", outcome)
    assert (record["ttft_s"] is None) == (outcome == "empty")
    assert ('"error"' in answer.text) == (outcome == "stream_error")


@pytest.mark.parametrize("asked", [True, False])
def test_tokens_are_on_record_and_told_to_clients_who_asked(gateway: str, evidence: Any, asked: bool) -> None:
    answer = chat(gateway, stream=True, **({"stream_options": {"include_usage": True}} if asked else {}))
    assert ('"usage"' in answer.text) == asked
    (record,) = records_of(evidence, answer.headers["x-request-id"])
    assert (record["prompt_tokens"], record["cached_tokens"], record["output_tokens"]) == (9, 8, 3)
    assert record["tpot_s"] >= 0


def test_stable_answers_for_a_canary_that_fails_before_its_first_token(
    gateway: str, registry: LocalStorage, evidence: Any
) -> None:
    applied(registry, evidence, CANARY, 100)
    for prompt in (f"raise {CANARY}", f"refuse {CANARY}"):
        answer = chat(gateway, prompt)
        assert answer.status_code == 200
        assert answer.headers["x-serinus-revision"] == STABLE
        first, second = records_of(evidence, answer.headers["x-request-id"], 2)
        assert (first["role"], first["outcome"]) == ("canary", "http_error")
        assert (second["role"], second["outcome"]) == ("stable", "ok")
        assert first["failed_over"]
        assert second["failed_over"]


def test_stable_answers_for_a_canary_that_is_not_there(gateway: str, registry: LocalStorage, evidence: Any) -> None:
    applied(registry, evidence, "echo-00000003", 100)
    answer = chat(gateway)
    assert answer.headers["x-serinus-revision"] == STABLE
    assert records_of(evidence, answer.headers["x-request-id"], 2)[0]["status"] == 503


@pytest.mark.parametrize(("prompt", "status"), [("refuse", 400), ("raise", 500)])
def test_a_request_that_both_fail_on_is_nobodys_fault(
    gateway: str, registry: LocalStorage, evidence: Any, prompt: str, status: int
) -> None:
    import ray

    applied(registry, evidence, CANARY, 100)
    refused = chat(gateway, prompt)
    assert refused.status_code == status
    assert STABLE not in refused.text
    after = chat(gateway)
    records_of(evidence, after.headers["x-request-id"])
    records, _ = ray.get(evidence.told.remote())
    assert all(record["request_id"] != refused.headers["x-request-id"] for record in records)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_on_record_as_cancelled(
    gateway: str, registry: LocalStorage, evidence: Any, stream: bool
) -> None:
    applied(registry, evidence, None, 0)
    request_id = f"gone-{stream}"
    body = {"model": NAME, "messages": [{"role": "user", "content": "slow"}], "stream": stream}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream(
            "POST", f"{gateway}/chat/completions", json=body, headers={"x-request-id": request_id}, timeout=1.0
        ) as answer,
    ):
        answer.read() if not stream else [time.sleep(0) for _ in _lines_until(answer, 5)]
    (record,) = records_of(evidence, request_id)
    assert record["outcome"] == "cancelled"


def _lines_until(answer: httpx.Response, number: int) -> Iterator[str]:
    for count, line in enumerate(answer.iter_lines()):
        if count >= number:
            raise httpx.ReadTimeout("the client has seen enough")
        yield line


def test_the_gateway_listens_on_loopback_alone_and_without_a_proxy(gateway: str, serving: ServingConfig) -> None:
    import psutil

    found = [c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == serving.port]
    assert {connection.laddr.ip for connection in found} == {serving.host}
    assert len({connection.pid for connection in found}) == NUM_GATEWAYS


def test_no_body_that_schemathesis_thinks_of_is_answered_500_or_never(gateway: str, registry: LocalStorage) -> None:
    """From the gateway's own OpenAPI, bodies that fit it and bodies that do not; the same ones each time.

    Nearly all of them are refused as a whole. So a number of their fields is also put into a body that is answered.
    """
    import schemathesis
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st
    from hypothesis.errors import Unsatisfiable

    put(registry)
    schema = schemathesis.openapi.from_url(f"{gateway.removesuffix('/v1')}/openapi.json")
    told: Counter[int] = Counter()
    modes = schemathesis.GenerationMode
    limits = settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    def check(case: schemathesis.Case, num_fields: int) -> None:
        good = ANSWERED.get(case.operation.path, {})
        if isinstance(case.body, dict):
            kept = sorted(case.body.items())[-num_fields:] if num_fields else case.body.items()
            case.body = {**(good if num_fields else {}), **dict(kept), "model": NAME}
        answer = case.call(timeout=20)
        told[answer.status_code] += 1
        assert answer.status_code < 500, case.as_curl_command()
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, case.as_curl_command()

    for found in schema.get_all_operations():
        for mode in (modes.POSITIVE, modes.NEGATIVE):
            ends_at = time.monotonic() + FUZZ_S / 6  # three of the five operations have bodies
            bodies = found.ok().as_strategy(generation_mode=mode)
            with suppress(Unsatisfiable):  # nothing can be wrong about a request without fields
                for number in range(NUM_BODIES // 10):
                    if time.monotonic() < ends_at:  # making them up takes as long as sending them
                        seed(number)(limits(given(bodies, st.integers(0, 3))(check)))()
    print(f"{told.total()} requests by schemathesis: {dict(told)}")
    assert told.total() > 2 * NUM_BODIES
    assert told[200] > NUM_BODIES / 3


def test_weight_changes_under_load_fail_no_request_and_reach_every_gateway_within_a_second(
    gateway: str, registry: LocalStorage, evidence: Any
) -> None:
    """Each answer must fit a weight that was in force within the last second, and none may come from a restarted gateway."""
    import ray

    def gateways() -> set[str]:
        return {who for _, who, _ in ray.get(evidence.told.remote())[1]}

    before, began = gateways(), time.time()
    assert len(before) == NUM_GATEWAYS
    changes: list[tuple[float, int, float]] = []
    with Clients(gateway, NAME, num=6) as clients:
        for number in range(NUM_CHANGES):
            weight = number * 37 % 101
            version = put(registry, CANARY, weight)
            changes.append((time.time(), version, weight))
            time.sleep(
                0.05 + number % 5 * 0.05
            )  # now twice within a poll of the gateways, now less often than they poll
        clients.wait_for(20)
    heard = ray.get(evidence.told.remote())[1]
    assert gateways() == before
    delays = sorted(seen_after_s(heard, who, version) - at for at, version, _ in changes for who in before)
    p50, p99 = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    wrong = [seen for seen in clients.seen if seen.revision not in fitting(seen, changes)]
    print(
        f"{len(changes)} changes in {time.time() - began:.0f} s, {len(clients.seen)} requests, "
        f"{sum(bool(s.problem) for s in clients.seen)} failed, {len(wrong)} at the wrong revision; "
        f"seen by {NUM_GATEWAYS} gateways after {p50:.2f} s (median), {p99:.2f} s (p99), {delays[-1]:.2f} s (last)"
    )
    assert len(clients.seen) > NUM_CHANGES
    assert [seen for seen in clients.seen if seen.problem] == []
    assert {seen.revision for seen in clients.seen} == {STABLE, CANARY}
    assert wrong == []
    assert p99 < 1


def seen_after_s(heard: list[tuple[float, str, int]], gateway: str, version: int) -> float:
    """When the rollout's actor first heard from that gateway that it applies `version`, or a later one."""
    return min(at for at, who, told in heard if who == gateway and told >= version)


def fitting(seen: Seen, changes: list[tuple[float, int, float]]) -> set[str]:
    """Revisions that answer this user by a weight in force between a second before the request and its end."""
    place = bucket(f"key:{seen.user}", "s")
    ends = [at for at, _, _ in changes[1:]] + [float("inf")]
    weights = [
        w for (at, _, w), end in zip(changes, ends, strict=True) if at <= seen.ended_at and end >= seen.began_at - 1
    ]
    first = [] if changes[0][0] < seen.began_at - 1 else [0.0]
    return {CANARY if role_of(place, weight) == "canary" else STABLE for weight in [*first, *weights]}


@pytest.mark.long
def test_the_first_request_after_zero_is_answered_and_its_wait_is_marked(
    gateway: str, registry: LocalStorage, evidence: Any
) -> None:
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.serving.engine import autoscaling
    from services.serving.watch import alive_revisions

    idle = f"{NAME}-00000003"
    replicas = ReplicasConfig(min=0, look_back_s=1, upscale_delay_s=0, downscale_delay_s=1, idle_after_s=1)
    model: Any = serve.deployment(Model, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
    options = {"ray_actor_options": {"num_cpus": 0}, "graceful_shutdown_timeout_s": 1}
    model = model.options(**options, autoscaling_config=autoscaling(EngineConfig(), replicas))
    serve.run_many([serve.RunTarget(model.bind(idle), name=application_name(idle), route_prefix=None)])
    eventually(lambda: idle in alive_revisions().asleep)
    apply(registry, evidence, None, 0, NUM_GATEWAYS, stable=idle)

    answer = chat(gateway, headers={"x-request-id": "first"}, timeout_s=60)
    assert (answer.status_code, answer.headers["x-serinus-revision"]) == (200, idle)
    assert records_of(evidence, "first")[0]["cold"] is True
    assert chat(gateway, headers={"x-request-id": "second"}).status_code == 200
    applied(registry, evidence, None, 0)
    serve.delete(application_name(idle))


@pytest.mark.long
def test_gateways_are_replaced_under_load_without_a_failed_request(
    gateway: str, serving: ServingConfig, registry: LocalStorage, evidence: Any
) -> None:
    """Last: it leaves another gateway behind."""
    from services.serving import app

    answers: list[tuple[int, bool, str]] = []

    async def client(number: int, ended: asyncio.Event) -> None:
        headers = {"authorization": f"Bearer replaced-{number}"}
        body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "stream": number % 2 == 0}
        async with httpx.AsyncClient(headers=headers, timeout=30) as session:
            while not ended.is_set():
                answer = await session.post(f"{gateway}/chat/completions", json=body)
                shown = "x-serinus-revision" in answer.headers
                answers.append((answer.status_code, shown, answer.text[-200:]))
                await asyncio.sleep(0.05)  # the new gateways want some of the cores to start on

    async def read_on(began: asyncio.Event) -> str:
        """A stream of half a minute, begun at an old gateway."""
        body = {"model": NAME, "messages": [{"role": "user", "content": "slow"}], "stream": True}
        text = ""
        async with (
            httpx.AsyncClient(timeout=30) as session,
            session.stream("POST", f"{gateway}/chat/completions", json=body) as answer,
        ):
            async for part in answer.aiter_text():
                text += part
                began.set()
        return text

    async def drive() -> str:
        ended, began = asyncio.Event(), asyncio.Event()
        reading = asyncio.create_task(read_on(began))
        await began.wait()
        clients = [asyncio.create_task(client(number, ended)) for number in range(4)]
        changed = serving.replace(show_revision=False)
        await asyncio.to_thread(app.deploy_gateway, NAME, changed, registry.uri)
        while any(shown for _, shown, _ in answers[-100:]):  # the old ones still answer
            await asyncio.sleep(0.1)
        ended.set()
        await asyncio.gather(*clients)
        return await reading

    apply(registry, evidence, None, 0, NUM_GATEWAYS)
    stream = asyncio.run(asyncio.wait_for(drive(), 300))
    assert stream.endswith("data: [DONE]\n\n")
    assert stream.count('"content":') == 303
    assert [answer for answer in answers if answer[0] != 200 or "error" in answer[2]] == []
    assert {shown for _, shown, _ in answers} == {True, False}
