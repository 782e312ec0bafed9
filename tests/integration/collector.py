"""An OpenTelemetry collector of the tests' own: takes spans by OTLP, over gRPC or HTTP, and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


class TakenSpan(NamedTuple):
    """A span as it arrived; ids in hexadecimal, times in nanoseconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[str]
    failed: bool
    start_ns: int
    end_ns: int


class Collector:
    """What came, in order; `raw` is all of it as it was sent."""

    def __init__(self) -> None:
        self.spans: list[TakenSpan] = []
        self.raw = b""
        self.stop: Callable[[], None] = lambda: None

    def of(self, trace_id: str) -> dict[str, TakenSpan]:
        """The spans of a trace, by name."""
        return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def take(self, request: ExportTraceServiceRequest) -> None:
        self.raw += request.SerializeToString()
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            self.spans += [_taken(service, span) for scope in resource.scope_spans for span in scope.spans]


def over_http() -> tuple[str, Collector]:
    """Its address, and the collector."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()
            if self.path == "/v1/traces":
                collector.take(ExportTraceServiceRequest.FromString(body))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    collector.stop = stop
    return f"http://127.0.0.1:{server.server_port}", collector


def over_grpc() -> tuple[str, Collector]:
    """Its address, and the collector."""
    collector = Collector()

    class Service(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
            collector.take(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.stop = lambda: server.stop(None).wait()
    return f"http://127.0.0.1:{port}", collector


def _taken(service: str, span: Any) -> TakenSpan:
    return TakenSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span.attributes),
        [event.name for event in span.events],
        span.status.code == 2,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
