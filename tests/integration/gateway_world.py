"""A gateway before two small applications that speak a model server's protocol: real Serve and HTTP, no vLLM engine.

What a model does is told by its prompt: "<behaviour> <revision>" concerns that revision alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from cluster.imports import large_imports
from cluster.storage import LocalStorage
from services.config import ServingConfig
from services.contract import Traffic, read_traffic, write_traffic
from services.engines import EngineReport
from services.serving import serve_log
from services.serving.outbox import ACTOR_NAMESPACE, actor_name

NAME, STABLE, CANARY = "echo", "echo-00000001", "echo-00000002"


SHOWN = [
    "n",
    "stop",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "response_format",
    "seed",
    "temperature",
    "max_tokens",
    "max_completion_tokens",
]


class Model:
    """Answers like a model server behind a Serve handle: lists of events, or a whole answer, or an error."""

    def __init__(self, revision: str) -> None:
        serve_log.hold()
        with large_imports():  # requests are of its types: load them before the first one
            import ray.serve.llm.openai_api_models  # noqa: F401

        self.revision = revision
        self.num_under_way = 0

    async def follow_order(self) -> dict[str, Any]:
        """What a model server says of itself when a rollout asks for its replicas."""
        from ray import serve

        return EngineReport(replica=serve.get_replica_context().replica_id.unique_id).model_dump()

    async def under_way(self) -> int:
        """Answers begun and neither ended nor stopped."""
        return self.num_under_way

    async def chat(self, request: Any, info: Any) -> AsyncIterator[Any]:
        self.num_under_way += 1
        try:
            async for chunk in self._chat(request, info):
                yield chunk
        finally:
            self.num_under_way -= 1

    async def _chat(self, request: Any, info: Any) -> AsyncIterator[Any]:
        assert request.model == self.revision
        assert set(info.headers) - {"traceparent"} == {"x-request-id"}
        said = request.messages[-1].get("content") if request.messages else None
        behaviour, _, concerned = (said if isinstance(said, str) else "hello").partition(" ")
        behaviour = behaviour if concerned in ("", self.revision) else "hello"
        if behaviour == "show":  # what came through to the engine
            shown = request.model_dump(include=set(SHOWN), mode="json")
            yield self._answer(json.dumps(shown))
            return
        if behaviour == "trace":
            yield self._answer(info.headers.get("traceparent", ""))
            return
        usage = bool(request.stream_options and request.stream_options.include_usage)
        async for chunk in self._stream(behaviour, usage) if request.stream else self._whole(behaviour):
            yield chunk

    async def completions(self, request: Any, info: Any) -> AsyncIterator[Any]:
        from ray.serve.llm.openai_api_models import CompletionResponse

        choice = {"index": 0, "text": " hello", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        yield CompletionResponse(model=self.revision, choices=[choice], usage=usage)

    async def embeddings(self, request: Any, info: Any) -> AsyncIterator[Any]:
        from ray.serve.llm.openai_api_models import EmbeddingResponse, ErrorResponse

        if getattr(request, "input", None) != "vector":  # as vLLM answers for a model without embeddings
            message = "This model does not support the 'embed' task."
            yield ErrorResponse(error={"message": message, "type": "invalid_request_error", "code": 400})
            return
        data = [{"index": 0, "object": "embedding", "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        yield EmbeddingResponse(model=self.revision, data=data, usage=usage)

    async def _whole(self, behaviour: str) -> AsyncIterator[Any]:
        from ray.serve.llm.openai_api_models import ErrorResponse

        if behaviour == "raise":
            raise RuntimeError("out of memory")
        if behaviour == "refuse":
            message = f"{self.revision}: the prompt is too long"
            yield ErrorResponse(error={"message": message, "type": "BadRequestError", "code": 400})
            return
        if behaviour == "slow":
            await asyncio.sleep(30)
        yield self._answer("" if behaviour == "empty" else "hello")

    def _answer(self, content: str) -> Any:
        from ray.serve.llm.openai_api_models import ChatCompletionResponse

        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return ChatCompletionResponse(model=self.revision, choices=[choice], usage=usage)

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


def port_of_serve() -> int:
    """Where Serve listens already, else a free port."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return int(client.http_config.port) if client else free_port()


def start_evidence() -> Any:
    """The actor that gateways of NAME tell; kill it at the end."""
    import ray

    options = {"name": actor_name(NAME), "namespace": ACTOR_NAMESPACE, "num_cpus": 0}
    return ray.remote(Evidence).options(**options).remote()


def deploy(serving: ServingConfig, registry: LocalStorage) -> str:
    """Two revisions (which may run already) and a gateway before them, stable having everybody; returns the base URL."""
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.serving import address, app

    if not set(app.running_revisions()) >= {STABLE, CANARY}:
        address.listen(serving)
        model: Any = serve.deployment(Model, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
        model = model.options(ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1)
        targets = [
            serve.RunTarget(model.bind(revision), name=application_name(revision), route_prefix=None)
            for revision in (STABLE, CANARY)
        ]
        serve.run_many(targets, wait_for_applications_running=False)
    app.deploy_gateway(NAME, serving, registry.uri)
    put(registry)
    return app.gateway_url(serving)


def put(registry: LocalStorage, canary: str | None = None, weight_percent: float = 0.0, *, stable: str = STABLE) -> int:
    """Put a traffic in force; returns its version, which no gateway of an earlier module that still drains can tell as well."""
    present = read_traffic(registry, NAME)
    version = present[0].version + 1 if present else int(1000 * time.time())
    now = datetime.now(UTC)
    traffic = Traffic(
        name=NAME,
        stable=stable,
        canary=canary,
        weight_percent=weight_percent,
        salt="s",
        changed_at=now,
        version=version,
    )
    write_traffic(registry, traffic, expect=present[1] if present else "")
    return version


def apply(
    registry: LocalStorage,
    evidence: Any,
    canary: str | None,
    weight_percent: float,
    num_gateways: int,
    *,
    stable: str = STABLE,
) -> None:
    """Put a traffic in force and wait until all gateways say that they apply it."""
    import ray

    version = put(registry, canary, weight_percent, stable=stable)

    def all_apply() -> bool:
        _, heard = ray.get(evidence.told.remote())
        return len({gateway for _, gateway, told in heard if told == version}) == num_gateways

    eventually(all_apply)


def eventually(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)


def chat(
    url: str,
    prompt: str = "hello",
    *,
    key: str = "k",
    headers: dict[str, str] | None = None,
    timeout_s: float = 30,
    **fields: Any,
) -> httpx.Response:
    body = {"model": NAME, "messages": [{"role": "user", "content": prompt}], **fields}
    headers = {"authorization": f"Bearer {key}", **(headers or {})}
    return httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=timeout_s)


def records_of(evidence: Any, request_id: str, number: int = 1) -> list[dict[str, Any]]:
    import ray

    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        records, _ = ray.get(evidence.told.remote())
        found[:] = [record for record in records if record["request_id"] == request_id]
        return len(found) >= number

    eventually(arrived, 10)
    return found
