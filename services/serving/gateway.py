"""The permanent gateway: OpenAI's routes under one public model name, in front of one application per revision.

Runs in Serve replicas and is imported only where one is built or runs: its base class pulls in ray.serve.llm and vLLM.
Traffic is read from storage all the time (`watch`), so a change of weights restarts nothing.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve
from ray.llm._internal.serve.core.protocol import RawRequestInfo
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from starlette.exceptions import HTTPException

from cluster.storage import open_storage
from services.config import ServingConfig
from services.serving import openai_errors
from services.serving.attempt import Attempt, Deadline
from services.serving.openai_errors import ApiError
from services.serving.outbox import Outbox, to_actor
from services.serving.split import bucket, choose, user_key
from services.serving.watch import MODEL_DEPLOYMENT, Situation, TrafficWatch, application_name

DEPLOYMENT = "gateway"
MAX_ONGOING_REQUESTS = 1000
"""Requests a gateway replica holds at once."""
REFUSALS = frozenset({400, 413, 422})
"""Statuses that find fault with the request itself."""
TIMEOUT_S = 600.0
"""An answer that is not whole after so long has failed; Ray's own ingress waits as long."""

ENDPOINTS = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "completions": lambda app: app.post("/v1/completions"),
}
USABLE_ID = re.compile(r"[\w.-]{1,64}")


@dataclass
class Call:
    """One request and the revisions it was put to, in order."""

    body: Any
    method: str
    request_id: str
    place: float
    started_s: float
    deadline: Deadline
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def hides_usage(self) -> bool:
        """The client of this stream has not asked for the event that tells of usage, which the evidence needs."""
        options = getattr(self.body, "stream_options", None)
        return bool(getattr(self.body, "stream", False)) and not (options and options.include_usage)


class Gateway(OpenAiIngress):
    """Chooses a revision for each user, asks it, and tells the rollout what came of it."""

    def __init__(self, name: str, storage_uri: str, user_header: str, settings: str) -> None:
        super().__init__({}, {})
        self._name, self._user_header, self._settings = name, user_header, settings
        self._created = int(time.time())
        self._handles: dict[str, Any] = {}
        self._watch = TrafficWatch(open_storage(storage_uri), name)
        self._watch.start()
        gateway_id = serve.get_replica_context().replica_id.unique_id
        self._outbox = Outbox(to_actor(name, gateway_id), lambda: self._watch.version)
        self._outbox.start()

    def __del__(self) -> None:
        self._outbox.close()

    async def settings(self) -> str:
        """Digest of what this gateway was deployed with, asked for before deploying it again."""
        return self._settings

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model_data(self, model: str) -> Response:
        if model != self._name:
            raise openai_errors.unknown_model(model)
        return JSONResponse(self._card())

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        return await self._answer(body, "chat", request)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        return await self._answer(body, "completions", request)

    def _card(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._created, "owned_by": "serinus"}

    async def _answer(self, body: Any, method: str, request: Request) -> Response:
        started_s = time.monotonic()
        self._check_model(body.model)
        situation = self._watch.situation  # once: this request sees one consistent version
        if situation.traffic is None:
            raise openai_errors.unavailable(f"nothing is deployed as `{self._name}` yet")
        place = bucket(self._user(body, request), situation.traffic.salt)
        deadline = Deadline(started_s + TIMEOUT_S, TIMEOUT_S)
        call = Call(body, method, _request_id(request), place, started_s, deadline)
        try:
            await self._ask(call, situation)
        except BaseException:  # the client went away: on record, and on its way
            self._note(call)
            raise
        return self._respond(call)

    def _check_model(self, model: str | None) -> None:
        if not model:
            raise ApiError(400, "you must provide a model parameter", param="model")
        if model != self._name:
            raise openai_errors.unknown_model(model)

    def _user(self, body: Any, request: Request) -> str:
        headers = request.headers
        client = request.client.host if request.client else None
        return user_key(headers.get("authorization"), body.user, headers.get(self._user_header), client)

    async def _ask(self, call: Call, situation: Situation) -> None:
        """Ask the user's revision; when a canary fails before its first token, ask stable. The last attempt counts."""
        assert situation.traffic is not None
        for role, revision in choose(situation.traffic, call.place):
            started_s = time.monotonic() if call.attempts else call.started_s
            attempt = Attempt(role, revision, self._name, started_s, call.deadline, hide_usage=call.hides_usage)
            call.attempts.append(attempt)
            if revision in situation.answering:
                await attempt.ask(self._chunks(revision, call))
            else:
                attempt.refuse()
            if attempt.failure is None or time.monotonic() >= call.deadline.at_s:
                break

    def _chunks(self, revision: str, call: Call) -> Any:
        if revision not in self._handles:
            handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(revision))
            self._handles[revision] = handle.options(stream=True)
        changes = {"model": revision, "request_id": uuid.uuid4().hex}
        own = call.body.model_copy(update={**changes, **(_usage_asked(call.body) if call.hides_usage else {})})
        if call.method == "chat":
            own = _picklable(own)
        # Of the headers only our id goes on: keys stay here, and vLLM takes orders from some headers.
        info = RawRequestInfo({"x-request-id": call.request_id})
        return getattr(self._handles[revision], call.method).remote(own, info)

    def _respond(self, call: Call) -> Response:
        last = call.attempts[-1]
        headers = {"x-serinus-revision": last.revision}
        if last.failure is None and last.whole is None:
            return StreamingResponse(self._relay(call), media_type="text/event-stream", headers=headers)
        self._note(call)
        if last.failure is None:
            return JSONResponse(last.whole, headers=headers)
        return JSONResponse(last.failure.body, last.failure.status, headers={**headers, **last.failure.headers})

    async def _relay(self, call: Call) -> AsyncIterator[str]:
        try:
            async for text in call.attempts[-1].relay():
                yield text
        finally:
            self._note(call)

    def _note(self, call: Call) -> None:
        """Put on record what came of the request at each revision it reached."""
        now_s, at = time.monotonic(), datetime.now(UTC)
        last = call.attempts[-1]
        if last.role == "stable" and last.watch.status in REFUSALS:
            return  # a prompt too long, say: when stable refuses it too, that tells nothing about any revision
        failed_over = len(call.attempts) > 1
        for attempt in call.attempts:
            self._outbox.add(attempt.record(now_s, at, call.request_id, call.place, failed_over=failed_over))


def _request_id(request: Request) -> str:
    """Serve's proxy gives every request one, or passes on the client's."""
    given = request.headers.get("x-request-id", "")
    return given if USABLE_ID.fullmatch(given) else uuid.uuid4().hex


def _usage_asked(body: Any) -> dict[str, Any]:
    """The stream's options with usage asked for, in vLLM's own type, which moves from version to version."""
    options_type = get_args(type(body).model_fields["stream_options"].annotation)[0]
    options = body.stream_options or options_type()
    return {"stream_options": options.model_copy(update={"include_usage": True})}


def _picklable(body: Any) -> Any:
    from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request

    return _sanitize_chat_completion_request(body)


def build(name: str, serving: ServingConfig, storage_uri: str, selector: dict[str, str], settings: str) -> Any:
    """The gateway's Serve application. `selector` picks the pool's nodes by label (empty: any node)."""
    options: dict[str, Any] = {"num_cpus": 0, **({"label_selector": selector} if selector else {})}
    deployment: Any = serve.deployment(
        ingress(),
        name=DEPLOYMENT,
        num_replicas=serving.num_gateway_replicas,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options=options,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=60,
    )
    return deployment.bind(name, storage_uri, serving.user_header, settings)


def ingress() -> Any:
    """The gateway as a Serve ingress class, with OpenAI's routes and error shapes and nothing else."""
    app = FastAPI(title="serinus", docs_url=None, redoc_url=None)
    app.add_exception_handler(ApiError, openai_errors.answer_api_error)
    app.add_exception_handler(RequestValidationError, openai_errors.answer_invalid)
    app.add_exception_handler(HTTPException, openai_errors.answer_http)
    app.add_exception_handler(Exception, openai_errors.answer_defect)
    return make_fastapi_ingress(Gateway, endpoint_map=ENDPOINTS, app=app)
