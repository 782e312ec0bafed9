"""Spans of requests, for an OpenTelemetry collector: one for each request at the gateway, below it one for each revision asked,
whose id goes on to vLLM, so that the engine's own span hangs below that.

Names are those of OpenTelemetry's semantic conventions (HTTP, generative AI) where there is one, else `serinus.*`. What users and
models say, keys, addresses and paths as clients write them go into no span.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cluster.telemetry import bind, logger
from services.config import TracingConfig
from services.contract import HARMFUL, RequestRecord
from services.serving.attempt import Attempt

log = logger("gateway")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SERVICE: Final = "serinus-gateway"
MAX_WAITING_SPANS: Final = 2048
"""Kept for a collector that is slow or away; beyond it the oldest are dropped."""
SEND_EVERY_MS: Final = 1000
FLUSH_S: Final = 5.0
"""A gateway that ends waits so long at most for the collector to take the last spans."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OPERATIONS: Final = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""`gen_ai.operation.name` by route."""
W3C: Final = TraceContextTextMapPropagator()


class Tracer:
    """Begins the traces of one gateway; its spans are sent from a thread of its own, which no request waits for."""

    def __init__(self, config: TracingConfig, exporter: SpanExporter | None = None) -> None:
        """`exporter`: in the place of the one for `config`'s collector."""
        quiet()
        sampler = ParentBased(TraceIdRatioBased(config.sample_percent / 100))
        resource = Resource.create({"service.name": SERVICE})
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                Reporting(exporter or otlp_exporter(config), config.endpoint),
                max_queue_size=MAX_WAITING_SPANS,
                schedule_delay_millis=SEND_EVERY_MS,
                max_export_batch_size=MAX_WAITING_SPANS // 4,
            )
        )
        self._tracer = self._provider.get_tracer("serinus")

    def begin(self, scope: MutableMapping[str, Any]) -> Trace | None:
        """The trace of an HTTP request (ASGI), below the client's span where it names one; None where it is not sampled."""
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": scope.get("scheme", "http")}
        parent = client_context(scope["headers"])
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        return Trace(self._tracer.start_span, span, method) if span.is_recording() else None

    def close(self) -> None:
        """Send what is left, within FLUSH_S. What ends later is not traced."""
        flush = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        flush.start()
        flush.join(FLUSH_S)


class Trace:
    """The spans of one request."""

    def __init__(self, start: Callable[..., Span], span: Span, method: str) -> None:
        """`start` begins a span; `span` is the request's."""
        self._start, self._span, self._method = start, span, method
        self._asked: dict[Attempt, Span] = {}
        self._zero_ns = time.time_ns() - time.monotonic_ns()
        self.status: int | None = None
        """Of the answer, once it has begun."""
        self.error = ""
        """Kind of what went wrong, for an answer whose status does not tell."""

    @property
    def trace_id(self) -> str:
        return format_trace_id(self._span.get_span_context().trace_id)

    def about(self, model: str, method: str, request_id: str) -> None:
        """What a checked request asks for. `method`: chat, completions or embeddings."""
        operation = {"gen_ai.operation.name": OPERATIONS[method], "gen_ai.request.model": model}
        self._span.set_attributes({**operation, "serinus.request_id": request_id})

    def ask(self, attempt: Attempt) -> None:
        """A revision's turn begins."""
        about = {"serinus.revision": attempt.revision, "serinus.role": attempt.role, "gen_ai.provider.name": "vllm"}
        here, at_ns = set_span_in_context(self._span), self._at_ns(attempt.watch.started_s)
        self._asked[attempt] = self._start(f"ask {attempt.role}", here, SpanKind.CLIENT, about, start_time=at_ns)

    def headers(self) -> dict[str, str]:
        """`traceparent` (and the client's `tracestate`) for the revision whose turn began last."""
        carrier: dict[str, str] = {}
        W3C.inject(carrier, set_span_in_context(next(reversed(self._asked.values()))))
        return carrier

    def answered(self, attempt: Attempt, record: RequestRecord) -> None:
        """What came of a revision's turn. The last one told is what the client got."""
        told = {**_of_record(record), **_of_tokens(attempt)}
        first_s, streamed = attempt.watch.first_s, attempt.watch.streamed
        span = self._asked.pop(attempt)
        if first_s is not None and streamed:
            span.add_event("first token", timestamp=self._at_ns(first_s))
            span.set_attribute("gen_ai.response.time_to_first_chunk", first_s - attempt.watch.started_s)
        _finish(span, told, record.outcome, self._at_ns(attempt.watch.started_s + record.duration_s))
        self._span.set_attributes({**told, "serinus.revision": record.revision, "serinus.role": record.role})
        self.error = record.outcome if record.outcome in HARMFUL else ""

    def end(self, route: str | None) -> None:
        """The request's end. `route`: the path's pattern, where one fits."""
        for span in self._asked.values():  # a defect of ours came between
            span.set_status(StatusCode.ERROR)
            span.end()
        if route is not None:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute("http.route", route)
        if self.status is not None:
            self._span.set_attribute("http.response.status_code", self.status)
        if (self.status or 0) >= 500 or (
            self.error and not (self.status or 0) >= 400
        ):  # a client's own fault is no error here
            self._span.set_attribute("error.type", self.error or str(self.status))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _at_ns(self, monotonic_s: float) -> int:
        return self._zero_ns + int(monotonic_s * 1e9)


class Traced:
    """ASGI layer that puts `trace` into the state of a request that is sampled, and its id on the request's lines of the log."""

    def __init__(self, app: App, tracer: Callable[[], Tracer]) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        trace = self._tracer().begin(scope) if scope["type"] == "http" else None
        if trace is None:
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
            await send(message)

        scope.setdefault("state", {})["trace"] = trace
        bind(trace_id=trace.trace_id)
        try:
            await self._app(scope, receive, told)
        except Exception as error:  # its message may hold what users say
            trace.error = type(error).__name__
            raise
        finally:
            trace.end(getattr(scope.get("route"), "path", None))


class Reporting(SpanExporter):
    """Says when the collector cannot be reached, and when it can again: once each."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter, self._endpoint, self._away = exporter, endpoint, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:  # the outermost loop of the SDK's thread, which would write a stack into the log each time
            result = SpanExportResult.FAILURE
        away = result is not SpanExportResult.SUCCESS
        if away and not self._away:
            log.warning("the collector at %s does not take spans: they are dropped until it does", self._endpoint)
        elif self._away and not away:
            log.info("the collector at %s takes spans again", self._endpoint)
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def quiet() -> None:
    """Exporters log each batch they lose, some with a stack. Reporting says it once."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


def otlp_exporter(config: TracingConfig) -> SpanExporter:
    """One that sends to the configured collector; headers and certificates from the environment (OTEL_EXPORTER_OTLP_*)."""
    if config.protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=config.traces_address)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter(endpoint=config.traces_address, insecure=config.endpoint.startswith("http://"))


def client_context(headers: Sequence[tuple[bytes, bytes]]) -> Context:
    """The client's span, by W3C Trace Context; none where `traceparent` is missing, malformed or given twice."""
    parents = [value.decode("latin-1") for name, value in headers if name == b"traceparent"]
    states = [value.decode("latin-1") for name, value in headers if name == b"tracestate"]
    carrier = {"traceparent": parents[0], "tracestate": ",".join(states)} if len(parents) == 1 else {}
    return W3C.extract(carrier, Context())


def _of_record(record: RequestRecord) -> dict[str, str | int | bool]:
    return {
        "gen_ai.response.model": record.revision,
        "serinus.outcome": record.outcome,
        "serinus.failed_over": record.failed_over,
    }


def _of_tokens(attempt: Attempt) -> dict[str, int]:
    """vLLM's own counts, no guesses."""
    usage = attempt.watch.usage
    details = usage.get("prompt_tokens_details") or {}
    counts = {
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "gen_ai.usage.cache_read.input_tokens": details.get("cached_tokens"),
    }
    return {name: count for name, count in counts.items() if count is not None}


def _finish(span: Span, told: dict[str, Any], outcome: str, at_ns: int) -> None:
    span.set_attributes(told)
    if outcome in HARMFUL:
        span.set_attribute("error.type", outcome)
        span.set_status(StatusCode.ERROR)
    span.end(at_ns)
