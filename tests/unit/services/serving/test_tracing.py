"""What a request's trace holds, and what it does not; whose trace it is; what becomes of it when the collector is away."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import ValidationError

from cluster.log_format import JsonFormatter
from services.config import AdmissionConfig, EngineConfig, ServingConfig, TracingConfig
from services.serving import app as applications
from services.serving import tracing
from services.serving.asking import Asking
from services.serving.engine import engine_arguments, tracing_environment
from services.serving.tracing import Traced, Tracer
from services.serving.watch import Situation
from tests.unit.services.serving.test_asking import ALONE, BOTH, GOOD, Servers, a_call
from tests.unit.services.serving.test_attempt import DONE

ENDPOINT = "http://127.0.0.1:4317"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"
KEY, SAID = "sk-very-secret-key-of-a-user", "the user's own words"
USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}\n\n'


class Away(SpanExporter):
    """A collector that is not there: what it is asked fails or raises, until it `returns`."""

    def __init__(self) -> None:
        self.returns = False
        self.num_asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.num_asked += 1
        if self.returns:
            return SpanExportResult.SUCCESS
        if self.num_asked % 2:
            raise ConnectionError("refused")
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


class Gateway:
    """The ASGI application behind the layer, doing with a trace what the gateway does."""

    def __init__(self, servers: Servers, order: Any, status: int = 200) -> None:
        self.servers, self.order, self.status = servers, order, status
        self.sent_on: list[dict[str, str]] = []
        self.line = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        trace = scope["state"].get("trace")
        call = a_call()
        call.trace = trace
        if trace is not None:
            trace.about("m", "chat", "id-1")
        asking = Asking("m", AdmissionConfig(), self._put, lambda: SITUATION, pause_s=0.01)
        await asking.ask(call, self.order, SITUATION)
        self.line = JsonFormatter().format(logging.makeLogRecord({"msg": "hello"}))
        await send({"type": "http.response.start", "status": self.status})
        if call.attempts[-1].failure is None:
            async for _ in call.attempts[-1].relay():
                pass
        for attempt in call.attempts:
            told = attempt.record(time.monotonic(), datetime.now(UTC), "id-1", 0.1, failed_over=len(call.attempts) > 1)
            if trace is not None:
                trace.answered(attempt, told)
        scope["route"] = type("Route", (), {"path": "/v1/chat/completions"})

    def _put(self, revision: str, call: Any) -> Any:
        self.sent_on.append({} if call.trace is None else call.trace.headers())
        return self.servers.put(revision, call)


SITUATION = Situation(None, frozenset({"m-1", "m-2"}), {})


def asked(app: Any, percent: float = 100, **headers: str) -> dict[str, ReadableSpan]:
    """The spans of one request, by name."""
    exporter = InMemorySpanExporter()
    tracer = Tracer(TracingConfig(endpoint=ENDPOINT, sample_percent=percent), exporter)
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    secret = [(b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "POST", "headers": sent + secret, "state": {}, "path": f"/v1/{KEY}",
             "query_string": KEY.encode()}  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": SAID.encode()}

    async def send(message: Any) -> None:
        pass

    with suppress(ValueError):
        asyncio.run(Traced(app, lambda: tracer)(scope, receive, send))
    tracer.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def hexed(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def test_a_failing_over_is_seen_in_a_trace_whose_spans_name_revisions_roles_and_tokens() -> None:
    gateway = Gateway(Servers(m_2=[(RuntimeError(SAID),)], m_1=[(*GOOD[:-1], [USAGE], [DONE])]), BOTH)
    spans = asked(gateway)
    server, canary, stable = (spans[name] for name in ("POST /v1/chat/completions", "ask canary", "ask stable"))
    assert (server.kind, canary.kind, server.parent) == (SpanKind.SERVER, SpanKind.CLIENT, None)
    assert canary.parent == stable.parent == server.context
    assert (canary.status.status_code, stable.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert canary.attributes is not None
    assert (canary.attributes["error.type"], canary.attributes["serinus.revision"]) == ("http_error", "m-2")
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "url.scheme": "http", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-1", "gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 8, "serinus.request_id": "id-1", "serinus.revision": "m-1",
        "serinus.role": "stable", "serinus.outcome": "ok", "serinus.failed_over": True,
    }  # fmt: skip
    assert server.status.status_code == StatusCode.UNSET
    assert [event.name for event in stable.events] == ["first token"]
    assert stable.start_time is not None
    assert stable.end_time is not None
    assert stable.start_time <= stable.events[0].timestamp <= stable.end_time
    assert (stable.attributes or {})["gen_ai.response.time_to_first_chunk"] > 0  # type: ignore[operator]


def test_each_revision_gets_the_id_of_its_own_span_and_lines_of_the_log_that_of_the_trace() -> None:
    gateway = Gateway(Servers(m_2=[(RuntimeError(SAID),)], m_1=[GOOD]), BOTH)
    spans = asked(gateway)
    expected = [("00", *hexed(spans[name])) for name in ("ask canary", "ask stable")]
    sent = [headers["traceparent"].split("-") for headers in gateway.sent_on]
    assert [tuple(parts[:3]) for parts in sent] == expected
    assert all(int(flags, 16) & 1 for *_, flags in sent)  # sampled
    assert json.loads(gateway.line)["trace_id"] == hexed(spans["ask canary"])[0]


def test_no_text_and_no_key_is_in_a_trace() -> None:
    spans = asked(Gateway(Servers(m_2=[(RuntimeError(SAID),)], m_1=[GOOD]), BOTH))
    told = "".join(span.to_json() for span in spans.values())
    assert len(spans) == 3
    assert not [text for text in (KEY, SAID, "say", "Bearer") if text in told]


def test_a_clients_span_is_the_parent_and_its_state_goes_on() -> None:
    gateway = Gateway(Servers(m_1=[GOOD]), ALONE)
    spans = asked(gateway, 0, traceparent=PARENT, tracestate="vendor=1")  # sampled by the client's word
    server = spans["POST /v1/chat/completions"]
    assert hexed(server)[0] == PARENT.split("-")[1]
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == PARENT.split("-")[2]
    assert gateway.sent_on[0]["tracestate"] == "vendor=1"


@pytest.mark.parametrize(("percent", "headers"), [(100, {"traceparent": UNSAMPLED}), (0, {})])
def test_what_is_not_sampled_leaves_no_span_and_tells_the_engine_nothing(
    percent: float, headers: dict[str, str]
) -> None:
    gateway = Gateway(Servers(m_1=[GOOD]), ALONE)
    assert asked(gateway, percent, **headers) == {}
    assert gateway.sent_on == [{}]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "ff" + PARENT[2:],
        PARENT + "-more",
        PARENT.upper() + "x",
    ],
)
def test_a_malformed_parent_is_none(given: str) -> None:
    server = asked(Gateway(Servers(m_1=[GOOD]), ALONE), traceparent=given)["POST /v1/chat/completions"]
    assert server.parent is None
    assert hexed(server)[0] != PARENT.split("-")[1]


def test_a_parent_given_twice_is_none() -> None:
    twice = [(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())]
    assert not tracing.client_context(twice)
    assert tracing.client_context(twice[:1])


@pytest.mark.parametrize(("status", "code"), [(400, StatusCode.UNSET), (503, StatusCode.ERROR)])
def test_a_clients_fault_is_no_error_of_the_gateways(status: int, code: StatusCode) -> None:
    gateway = Gateway(Servers(m_1=[(RuntimeError("no"),)]), ALONE, status)
    assert asked(gateway)["POST /v1/chat/completions"].status.status_code == code


def test_a_defect_ends_all_spans_and_tells_its_kind_alone() -> None:
    class Broken(Gateway):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            call = a_call()
            attempt = Asking("m", AdmissionConfig(), self._put, lambda: SITUATION)._attempt("stable", "m-1", call)
            scope["state"]["trace"].ask(attempt)
            raise ValueError(SAID)

    spans = asked(Broken(Servers(), ALONE))
    assert {span.status.status_code for span in spans.values()} == {StatusCode.ERROR}
    assert (spans["POST"].attributes or {})["error.type"] == "ValueError"
    assert len(spans) == 2
    assert SAID not in "".join(span.to_json() for span in spans.values())


def test_a_collector_that_is_away_is_told_once_without_a_stack_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("serinus"), "propagate", True)
    away = Away()
    reporting = tracing.Reporting(away, ENDPOINT)
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            assert reporting.export([]) is SpanExportResult.FAILURE
        away.returns = True
        for _ in range(2):
            assert reporting.export([]) is SpanExportResult.SUCCESS
    levels = [(record.levelname, record.exc_info) for record in caplog.records]
    assert levels == [("WARNING", None), ("INFO", None)]
    assert ENDPOINT in caplog.messages[0]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_requests_and_the_end_do_not_wait_for_a_collector_that_never_answers(
    protocol: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import socket

    monkeypatch.setattr(tracing, "FLUSH_S", 0.3)
    with socket.socket() as silent:  # connections are accepted by the kernel, and nobody reads
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracer = Tracer(TracingConfig(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", protocol=protocol))
        started_s = time.monotonic()
        for _ in range(2 * tracing.MAX_WAITING_SPANS):
            trace = tracer.begin({"method": "GET", "headers": []})
            assert trace is not None
            trace.end("/v1/models")
        tracer.close()
        assert time.monotonic() - started_s < 5  # an export alone is tried for 10
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "http://user:secret@collector:4317"},
        {"endpoint": "http://:secret@collector:4317"},
        {"endpoint": "http://collector:4317?token=secret"},
        {"endpoint": "collector:4317"},
        {"endpoint": "http://collector:4317/v1/traces"},
        {"endpoint": "http://collector:4318/v1/traces", "protocol": "http"},
        {"endpoint": ENDPOINT, "sample_percent": 101},
        {"endpoint": ENDPOINT, "headers": {"authorization": "secret"}},
        {},
    ],
)
def test_an_address_that_holds_a_secret_or_fits_no_collector_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        ServingConfig.model_validate({"tracing": fields})
    assert "secret" not in str([error["msg"] for error in refused.value.errors()])


def test_nothing_is_traced_unless_asked_for() -> None:
    assert ServingConfig().tracing is None
    assert "tracing" not in ServingConfig().model_dump()
    assert "otlp_traces_endpoint" not in engine_arguments(EngineConfig(), "")
    assert tracing_environment(None) == {}


def test_the_engine_is_told_the_same_collector_by_vllms_own_names() -> None:
    http = TracingConfig(endpoint="https://collector.example/otlp/", protocol="http")
    assert (
        engine_arguments(EngineConfig(), "", http)["otlp_traces_endpoint"] == "https://collector.example/otlp/v1/traces"
    )
    assert tracing_environment(http)["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    grpc = TracingConfig(endpoint=ENDPOINT)
    assert engine_arguments(EngineConfig(), "", grpc)["otlp_traces_endpoint"] == ENDPOINT
    assert tracing_environment(grpc)["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    silent = EngineConfig(extra={"disable_log_stats": True})
    assert "otlp_traces_endpoint" not in engine_arguments(silent, "", grpc)


def test_another_collector_asks_for_other_gateways() -> None:
    traced = ServingConfig(tracing=TracingConfig(endpoint=ENDPOINT))
    digests = {applications._gateway_settings("m", one, "file:///store") for one in (traced, ServingConfig())}
    assert len(digests) == 2
