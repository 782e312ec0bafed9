"""The gateway's Serve application: its routes, its life in a replica, and how many replicas stand where.

Imported only where it is built or runs, as `gateway`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from ray import serve
from starlette.exceptions import HTTPException

from cluster.imports import large_imports
from cluster.pools import num_nodes
from services.config import ServingConfig
from services.contract import GATEWAY
from services.serving import openai_errors
from services.serving.door import Door, Keeper, longest_stay_s
from services.serving.gateway import Gateway, max_ongoing
from services.serving.hops import REPLICA_ENVIRONMENT
from services.serving.openai_errors import RESPONSES, ApiError
from services.serving.tracing import Traced, Tracer

with large_imports():
    from ray.serve.llm.ingress import make_fastapi_ingress
    from vllm.exceptions import VLLMClientError

SHUTDOWN_S = 30.0
"""What a gateway's end takes beside its last request: the listener's (`listener.LINGER_S`), and the last evidence on its way."""
STREAMING = {**RESPONSES, 200: {"content": {"text/event-stream": {}}}}
ENDPOINTS = {
    "models": lambda app: app.get("/v1/models", responses=RESPONSES),
    "model_data": lambda app: app.get("/v1/models/{model:path}", responses=RESPONSES),
    "chat": lambda app: app.post("/v1/chat/completions", responses=STREAMING),
    "completions": lambda app: app.post("/v1/completions", responses=STREAMING),
    "embeddings": lambda app: app.post("/v1/embeddings", responses=RESPONSES),
    "feedback": lambda app: app.post("/v1/feedback", responses=RESPONSES),
}


def keeper() -> Keeper:
    """The gateway of this replica's process, for the door before it."""
    assert Gateway.here is not None, "the constructor has run"
    return Gateway.here


def tracer() -> Tracer:
    """That of this replica's gateway."""
    assert Gateway.here is not None, "the constructor has run"
    assert Gateway.here.tracer is not None, "it was built to trace"
    return Gateway.here.tracer


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[None]:
    """The life of a replica's application: its own server stands around it."""
    assert Gateway.here is not None, "the constructor has run"
    await Gateway.here.listen(app)
    yield
    await Gateway.here.drain()


def most_per_node(num_replicas: int, num_nodes: int) -> int | None:
    """Of three gateways or more no node gets all, or its death would be everybody's: Serve spreads what it starts together, but not
    what it starts again. There is room for one that takes another's place. None: without a bound, on a single node."""
    return math.ceil((num_replicas + 1) / num_nodes) if num_nodes > 1 else None


def build(name: str, serving: ServingConfig, storage_uri: str, selector: dict[str, str], settings: str) -> Any:
    """The gateway's Serve application. `selector` picks the pool's nodes by label (empty: any node)."""
    options: dict[str, Any] = {"num_cpus": 0, **({"label_selector": selector} if selector else {})}
    options["runtime_env"] = {"env_vars": dict(REPLICA_ENVIRONMENT)}
    deployment: Any = serve.deployment(
        ingress(traced=serving.tracing is not None),
        name=GATEWAY,
        num_replicas=serving.num_gateway_replicas,
        max_ongoing_requests=max_ongoing(serving),
        # Nothing waits without a bound before gateways that are full, or away.
        max_queued_requests=serving.admission.max_waiting_requests,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        ray_actor_options=options,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=longest_stay_s(serving.admission) + SHUTDOWN_S,
        max_surge_percent=math.ceil(100 / serving.num_gateway_replicas),  # a new one is there before an old one goes
        max_replicas_per_node=most_per_node(serving.num_gateway_replicas, num_nodes(selector)),
    )
    return deployment.bind(name, storage_uri, serving, settings)


def ingress(*, traced: bool = False) -> Any:
    """The gateway as a Serve ingress class, with OpenAI's routes and error shapes and nothing else."""
    app = FastAPI(title="serinus", docs_url=None, redoc_url=None, lifespan=listening)
    app.add_exception_handler(ApiError, openai_errors.answer_api_error)
    app.add_exception_handler(RequestValidationError, openai_errors.answer_invalid)
    app.add_exception_handler(VLLMClientError, openai_errors.answer_refused)
    for stumble in openai_errors.STUMBLES:
        app.add_exception_handler(stumble, openai_errors.answer_unchecked)
    app.add_exception_handler(HTTPException, openai_errors.answer_http)
    app.add_exception_handler(Exception, openai_errors.answer_defect)
    app.add_middleware(Door, keeper=keeper)
    if traced:
        app.add_middleware(Traced, tracer=tracer)  # added last, it stands before the door
    return make_fastapi_ingress(Gateway, endpoint_map=ENDPOINTS, app=app)
