"""The gateway before two small applications that speak a model server's protocol: real Serve and HTTP, no vLLM engine.

What a model does is told by its prompt: "<behaviour> <revision>" concerns that revision alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.errors import ResourceError
from cluster.storage import LocalStorage
from services.config import ServingConfig
from services.contract import Traffic, read_traffic, write_traffic
from services.serving.outbox import ACTOR_NAMESPACE, actor_name
from services.serving.split import bucket, role_of

pytestmark = pytest.mark.integration

NAME, STABLE, CANARY = "echo", "echo-00000001", "echo-00000002"
NUM_GATEWAYS = 2


class Model:
    """Answers like a model server behind a Serve handle: lists of events, or a whole answer, or an error."""

    def __init__(self, revision: str) -> None:
        import ray.serve.llm.openai_api_models  # noqa: F401  # requests are of its types: load them before the first one

        self.revision = revision

    async def chat(self, request: Any, info: Any) -> AsyncIterator[Any]:
        assert request.model == self.revision
        assert set(info.headers) == {"x-request-id"}
        behaviour, _, concerned = request.messages[-1]["content"].partition(" ")
        behaviour = behaviour if concerned in ("", self.revision) else "hello"
        usage = bool(request.stream_options and request.stream_options.include_usage)
        async for chunk in self._stream(behaviour, usage) if request.stream else self._whole(behaviour):
            yield chunk

    async def completions(self, request: Any, info: Any) -> AsyncIterator[Any]:
        from ray.serve.llm.openai_api_models import CompletionResponse

        choice = {"index": 0, "text": " hello", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        yield CompletionResponse(model=self.revision, choices=[choice], usage=usage)

    async def _whole(self, behaviour: str) -> AsyncIterator[Any]:
        from ray.serve.llm.openai_api_models import ChatCompletionResponse, ErrorResponse

        if behaviour == "raise":
            raise RuntimeError("out of memory")
        if behaviour == "refuse":
            message = f"{self.revision}: the prompt is too long"
            yield ErrorResponse(error={"message": message, "type": "BadRequestError", "code": 400})
            return
        if behaviour == "slow":
            await asyncio.sleep(30)
        content = "" if behaviour == "empty" else "hello"
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        yield ChatCompletionResponse(model=self.revision, choices=[choice], usage=usage)

    async def _stream(self, behaviour: str, usage: bool) -> AsyncIterator[list[str]]:
        yield [self._event({"role": "assistant", "content": ""})]
        for piece in ("hel", "lo") if behaviour != "empty" else ():
            yield [self._event({"content": piece})]
        if behaviour == "break":
            raise RuntimeError("out of memory")
        if behaviour == "error":
            yield ['data: {"error": {"message": "failed", "type": "InternalServerError", "code": 500}}\n\n']
        if behaviour == "slow":
            for _ in range(300):
                await asyncio.sleep(0.1)
                yield [self._event({"content": "."})]
        if behaviour != "truncate":
            yield [self._event({}, "stop")]
        if usage:
            yield [self._usage()]
        yield ["data: [DONE]\n\n"]

    def _usage(self) -> str:
        tokens = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
        event = {"object": "chat.completion.chunk", "model": self.revision, "choices": [], "usage": tokens}
        return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"

    def _event(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        event = {"id": "1", "object": "chat.completion.chunk", "model": self.revision, "choices": choices}
        return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


class Evidence:
    """Stands where the rollout's actor stands; keeps what gateways tell it."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.heard: list[tuple[float, str, int]] = []

    def record(self, gateway_id: str, traffic_version: int, records: list[dict[str, Any]]) -> None:
        self.heard.append((time.time(), gateway_id, traffic_version))
        self.records.extend(records)

    def told(self) -> tuple[list[dict[str, Any]], list[tuple[float, str, int]]]:
        return self.records, self.heard


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def serve_stopped(ray_cluster: str) -> Iterator[None]:
    from ray import serve

    serve.shutdown()
    yield
    serve.shutdown()


@pytest.fixture(scope="module")
def serving(serve_stopped: None) -> ServingConfig:
    return ServingConfig(port=free_port(), num_gateway_replicas=NUM_GATEWAYS)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def evidence(ray_cluster: str) -> Iterator[Any]:
    import ray

    options = {"name": actor_name(NAME), "namespace": ACTOR_NAMESPACE, "num_cpus": 0}
    actor = ray.remote(Evidence).options(**options).remote()
    yield actor
    ray.kill(actor)


@pytest.fixture(scope="module")
def gateway(serving: ServingConfig, registry: LocalStorage, evidence: Any) -> str:
    """The base URL of a gateway before two revisions; stable has everybody."""
    from ray import serve

    from services.serving import app
    from services.serving.watch import MODEL_DEPLOYMENT, application_name

    app._listen(serving)
    model: Any = serve.deployment(Model, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
    model = model.options(ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1)
    targets = [
        serve.RunTarget(model.bind(revision), name=application_name(revision), route_prefix=None)
        for revision in (STABLE, CANARY)
    ]
    serve.run_many(targets, wait_for_applications_running=False)
    app.deploy_gateway(NAME, serving, registry.uri)
    put(registry)
    url = app.gateway_url(serving)
    eventually(lambda: httpx.get(f"{url}/models").status_code == 200 and chat(url).status_code == 200)
    return url


def put(registry: LocalStorage, canary: str | None = None, weight_percent: float = 0.0) -> int:
    """Put a traffic in force; returns its version."""
    present = read_traffic(registry, NAME)
    version = present[0].version + 1 if present else 1
    now = datetime.now(UTC)
    traffic = Traffic(
        name=NAME,
        stable=STABLE,
        canary=canary,
        weight_percent=weight_percent,
        salt="s",
        changed_at=now,
        version=version,
    )
    write_traffic(registry, traffic, expect=present[1] if present else "")
    return version


def applied(registry: LocalStorage, evidence: Any, canary: str | None, weight_percent: float) -> None:
    """Put a traffic in force and wait until all gateways say that they apply it."""
    import ray

    version = put(registry, canary, weight_percent)

    def all_apply() -> bool:
        _, heard = ray.get(evidence.told.remote())
        return len({gateway for _, gateway, told in heard if told == version}) == NUM_GATEWAYS

    eventually(all_apply)


def eventually(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)


def chat(url: str, prompt: str = "hello", *, key: str = "k", **fields: Any) -> httpx.Response:
    body = {"model": NAME, "messages": [{"role": "user", "content": prompt}], **fields}
    return httpx.post(f"{url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30)


def records_of(evidence: Any, request_id: str, number: int = 1) -> list[dict[str, Any]]:
    import ray

    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        records, _ = ray.get(evidence.told.remote())
        found[:] = [record for record in records if record["request_id"] == request_id]
        return len(found) >= number

    eventually(arrived, 10)
    return found


def test_a_port_in_use_is_named_before_anything_is_deployed(serve_stopped: None, tmp_path: Path) -> None:
    from services.serving import app

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = ServingConfig(port=taken.getsockname()[1])
        with pytest.raises(ResourceError, match=r"choose another serve\.port"):
            app.deploy_gateway(NAME, config, str(tmp_path))
    assert app.serve_status() == []


def test_only_the_public_name_is_listed(gateway: str) -> None:
    listed = httpx.get(f"{gateway}/models").json()
    assert [card["id"] for card in listed["data"]] == [NAME]
    assert httpx.get(f"{gateway}/models/{NAME}").json()["id"] == NAME
    assert httpx.get(f"{gateway}/models/{STABLE}").status_code == 404


@pytest.mark.parametrize("model", ["gpt-4", STABLE])
def test_a_wrong_model_is_openais_404(gateway: str, model: str) -> None:
    answer = httpx.post(f"{gateway}/chat/completions", json={"model": model, "messages": []})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/chat/completions", {"model": NAME}, 400), ("/chat/completions", [], 400), ("/nothing", {}, 404)],
)
def test_mistakes_get_openais_error_shape(gateway: str, path: str, body: Any, status: int) -> None:
    answer = httpx.post(gateway + path, json=body)
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


def test_a_request_that_both_refuse_is_nobodys_fault(gateway: str, registry: LocalStorage, evidence: Any) -> None:
    import ray

    applied(registry, evidence, CANARY, 100)
    refused = chat(gateway, "refuse")
    assert refused.status_code == 400
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


def test_weights_change_under_load_without_a_failed_request_or_a_restart(
    gateway: str, registry: LocalStorage, evidence: Any
) -> None:
    import ray

    statuses: list[tuple[int, str, str]] = []

    async def client(number: int, until_s: float) -> None:
        headers = {"authorization": f"Bearer load-{number}"}
        body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "stream": number % 2 == 0}
        async with httpx.AsyncClient(headers=headers, timeout=30) as session:
            while time.monotonic() < until_s:
                answer = await session.post(f"{gateway}/chat/completions", json=body)
                statuses.append((answer.status_code, answer.headers.get("x-serinus-revision", ""), answer.text[-200:]))

    async def change(until_s: float) -> None:
        weight = 0
        while time.monotonic() < until_s - 1:
            weight = (weight + 7) % 101
            changes.append((time.time(), await asyncio.to_thread(put, registry, CANARY, weight)))
            await asyncio.sleep(0.5)

    async def drive() -> None:
        until_s = time.monotonic() + 12
        await asyncio.gather(change(until_s), *(client(number, until_s) for number in range(8)))

    changes: list[tuple[float, int]] = []
    asyncio.run(drive())
    time.sleep(1.5)
    assert len(statuses) > 50
    assert [status for status in statuses if status[0] != 200 or "error" in status[2]] == []
    assert {revision for _, revision, _ in statuses} == {STABLE, CANARY}
    _, heard = ray.get(evidence.told.remote())
    assert len({gateway for _, gateway, _ in heard}) == NUM_GATEWAYS  # none was restarted
    at, version = changes[-1]
    assert len({gateway for _, gateway, told in heard if told == version}) == NUM_GATEWAYS
    assert (
        max(min(t for t, g, told in heard if g == who and told >= version) for who in {g for _, g, _ in heard}) - at < 2
    )
