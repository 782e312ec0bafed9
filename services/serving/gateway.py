"""The permanent gateway: OpenAI's routes under one public model name, in front of one application per revision.

Runs in Serve replicas and is imported only where one is built or runs (`gateway_app`): its base pulls in ray.serve.llm and vLLM.
Traffic is read from storage all the time (`watch`), so a change of weights restarts nothing.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, ClassVar, cast

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve

from cluster.code_version import code_version
from cluster.imports import large_imports
from cluster.storage import open_storage
from cluster.telemetry import bind, configure
from services.config import ServingConfig
from services.contract import Role, Traffic
from services.serving import openai_errors, serve_log
from services.serving.admission import Admission, check_right
from services.serving.asking import Asking
from services.serving.call import ROLE_HEADER, TIMEOUT_HEADER, Call, bounded, deadline_of, request_id_of
from services.serving.feedback import FeedbackDesk, FeedbackRequest, owner_of
from services.serving.handles import Handles
from services.serving.keys import ApiKey
from services.serving.listener import Listener
from services.serving.measures import Measures
from services.serving.notes import Notes
from services.serving.openai_errors import ApiError
from services.serving.outbox import Outbox, to_actor
from services.serving.sendable import check_numbers
from services.serving.split import bucket, choose, user_key
from services.serving.tracing import Trace, Tracer
from services.serving.watch import KeyWatch, Situation, TrafficWatch

with large_imports():
    from ray.llm._internal.serve.core.protocol import RawRequestInfo
    from ray.serve.llm.ingress import OpenAiIngress
    from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest, EmbeddingRequest

MAX_ONGOING_REQUESTS = 1000
"""Requests a gateway replica holds at once, at least; many of them are streams that have begun."""


class Gateway(OpenAiIngress):
    """Chooses a revision for each user, asks it, and tells the rollout what came of it."""

    here: ClassVar[Gateway | None] = None
    """The gateway of this replica's process."""

    def __init__(self, name: str, storage_uri: str, serving: ServingConfig, settings: str) -> None:
        serve_log.hold()
        super().__init__({}, {})
        configure()  # what clients and engines say is in the log, and must not pass for a line of it
        Gateway.here = self
        code_version()  # now, as it is imported: later another one may lie on the disk
        address = serving.host, serving.port, max_ongoing(serving), serving.tls
        self._listener = Listener(*address) if serving.is_direct else None
        self._name, self._serving, self._settings = name, serving, settings
        self.max_body_bytes = serving.admission.max_body_bytes
        self._created = int(time.time())
        self._handles = Handles(lambda: self._watch)
        storage = open_storage(storage_uri)
        self._measures = Measures(name)
        self.tracer = Tracer(serving.tracing) if serving.tracing is not None else None
        self._feedback = FeedbackDesk(name)
        self._admission = Admission(serving.admission, serving.num_gateway_replicas)
        self._keys = KeyWatch(storage, name)
        if serving.admission.keys is not None:
            self._keys.start()
        gateway_id = serve.get_replica_context().replica_id.unique_id
        self._outbox = Outbox(to_actor(name, gateway_id), lambda: self._watch.version, self._measures.evidence_lost)
        self._watch = TrafficWatch(storage, name, reach=self._handles.reach, changed=self._outbox.wake)
        self._watch.start()
        self._outbox.start()
        self._notes = Notes(
            name, serving, watch=self._watch, measures=self._measures, outbox=self._outbox, chunks=self._chunks
        )
        self._asking = Asking(
            name, serving.admission, self._put, lambda: self._watch.situation, knows=self._handles.know
        )

    def __del__(self) -> None:
        self._outbox.close()

    async def settings(self) -> str:
        """Digest of what this gateway was deployed with, asked for before deploying it again."""
        return self._settings

    async def code(self) -> tuple[str, str]:
        """Which serinus runs here, and on which machine."""
        return code_version(), socket.gethostname()

    async def listen(self, app: Any) -> None:
        """Take requests, where they do not come through Serve's proxies."""
        if self._listener is not None:
            await self._listener.start(app)

    async def drain(self) -> None:
        if self._listener is not None:
            await self._listener.drain()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    async def check_health(self) -> None:
        """Asked by Serve before the first request and then now and again; a replica that raises is replaced."""
        self._handles.loop = asyncio.get_running_loop()
        if self._listener is not None:
            self._listener.check()

    def owner(self, authorization: str | None) -> ApiKey | None:
        """Whose request it is; asked by the door.

        Raises:
            ApiError: 401.
        """
        return self._admission.owner(self._keys.keys, authorization)

    def refused(self, error: ApiError) -> None:
        """Take note of a request that reached no revision."""
        self._measures.refused(error)

    async def models(self) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model_data(self, model: str) -> Response:
        if model != self._name:
            raise openai_errors.unknown_model(model)
        return JSONResponse(self._card())

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        return await self._answer(_picklable(body), "chat", request)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        return await self._answer(body, "completions", request)

    async def embeddings(self, body: EmbeddingRequest, request: Request) -> Response:
        return await self._answer(_picklable(body) if hasattr(body, "messages") else body, "embeddings", request)

    async def feedback(self, body: FeedbackRequest, request: Request) -> Response:
        try:
            ticket = self._admission.charge(request.state.api_key, 0, time.monotonic())
            found = await self._feedback.take(body, request.state.api_key)
        except ApiError as error:
            self.refused(error)
            raise
        self._measures.feedback(found, body.thumb)
        return JSONResponse({"object": "feedback", "request_id": body.request_id}, headers=ticket.headers)

    def _card(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._created, "owned_by": "serinus"}

    async def _answer(self, body: Any, method: str, request: Request) -> Response:
        request.state.entered = True  # from here on an error is ours
        try:
            situation = self._watch.situation  # once: this request sees one consistent version
            call = self._call(body, method, request, situation)
            with self._admission.waiting(request.state.api_key):
                call.ticket = self._admission.charge(request.state.api_key, call.charge(), time.monotonic())
                if call.wanted is None and method != "embeddings":  # which have no text to compare
                    call.lot = self._notes.shadow.cast(random.random(), self._traffic(situation))  # noqa: S311
                await self._ask(call, situation)
        except ApiError as error:
            self.refused(error)
            raise
        return self._respond(call)

    def _call(self, body: Any, method: str, request: Request, situation: Situation) -> Call:
        """The request, checked.

        Raises:
            ApiError: nobody needs to be asked to refuse it.
        """
        started_s, headers = time.monotonic(), request.headers
        self._check_model(body.model)
        check_numbers(body)
        wanted = self._wanted(headers.get(ROLE_HEADER), request.state.api_key, situation)
        deadline = deadline_of(headers.get(TIMEOUT_HEADER), self._serving.admission.timeout_s, started_s)
        traffic, request_id = self._traffic(situation), request_id_of(headers.get("x-request-id"))
        bind(model=self._name, request_id=request_id)
        trace: Trace | None = getattr(request.state, "trace", None)
        if trace is not None:
            trace.about(self._name, method, request_id)
        return Call(
            body=body,
            method=method,
            request_id=request_id,
            owner=owner_of(request.state.api_key),
            place=bucket(self._user(body, request), traffic.salt),
            rollout=traffic.salt,
            started_s=started_s,
            deadline=deadline,
            num_body_bytes=request.state.num_body_bytes,
            wanted=wanted,
            trace=trace,
            max_tokens=None if method == "embeddings" else bounded(body, self._serving.admission),
        )

    def _check_model(self, model: str | None) -> None:
        if not model:
            raise ApiError(400, "you must provide a model parameter", param="model")
        if model != self._name:
            raise openai_errors.unknown_model(model)

    def _traffic(self, situation: Situation) -> Traffic:
        if situation.traffic is None:
            raise openai_errors.unavailable(f"nothing is deployed as `{self._name}` yet")
        return situation.traffic

    def _wanted(self, role: str | None, key: ApiKey | None, situation: Situation) -> Role | None:
        if role is None:
            return None
        check_right(key, role)
        if role == "canary" and self._traffic(situation).canary is None:
            raise ApiError(404, "there is no canary at the moment", code="no_canary", param=ROLE_HEADER)
        return cast(Role, role)

    def _user(self, body: Any, request: Request) -> str:
        """The checked key goes by its name: the user's side outlives a new key, and nobody else can choose it."""
        headers = request.headers
        if (key := request.state.api_key) is not None:
            return f"account:{key.name}"
        client = request.client.host if request.client else None
        return user_key(headers.get("authorization"), body.user, headers.get(self._serving.user_header), client)

    async def _ask(self, call: Call, situation: Situation) -> None:
        """Ask the user's revision and, when it gives no token, whoever is next."""
        try:
            order = choose(self._traffic(situation), call.place, call.wanted)
            await self._asking.ask(call, order, situation)
        except asyncio.CancelledError:  # the client went away: on record, and on its way
            self._notes.note(call)
            raise
        except Exception:  # a defect of ours tells nothing about a revision
            call.ticket.settle(0, time.monotonic())
            raise

    def _put(self, revision: str, call: Call) -> Any:
        return self._chunks(revision, call, call.trace.headers() if call.trace is not None else {})

    def _chunks(self, revision: str, call: Call, trace_headers: dict[str, str] | None = None) -> Any:
        # Of the headers only our id and the trace go on: keys stay here, and vLLM takes orders from some headers.
        info = RawRequestInfo({"x-request-id": call.request_id, **(trace_headers or {})})
        return getattr(self._handles.of(revision), call.method).remote(call.for_revision(revision), info)

    def _respond(self, call: Call) -> Response:
        last = call.attempts[-1]
        headers = {"x-serinus-revision": last.revision} if self._serving.show_revision else {}
        headers |= call.ticket.headers
        if last.failure is None and last.whole is None:
            return StreamingResponse(self._relay(call), media_type="text/event-stream", headers=headers)
        self._notes.note(call)
        if last.failure is None:
            return JSONResponse(last.whole, headers=headers)
        return openai_errors.answer(last.failure, headers)

    async def _relay(self, call: Call) -> AsyncIterator[str]:
        try:
            # Closed here: it must know of the client's leave before the note.
            async with aclosing(call.attempts[-1].relay()) as stream:
                async for text in stream:
                    yield text
        finally:
            self._notes.note(call)


def _picklable(body: Any) -> Any:
    from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request

    try:
        return _sanitize_chat_completion_request(body)
    except ValueError as error:
        raise ApiError(400, f"messages: {error}", param="messages") from None


def max_ongoing(serving: ServingConfig) -> int:
    """Requests a gateway replica holds at once."""
    return max(MAX_ONGOING_REQUESTS, 2 * serving.admission.max_waiting_requests)
