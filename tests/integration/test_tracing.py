"""Traces of a real gateway on Serve, as a collector gets them (collector.py), before stand-ins for engines (gateway_world.py)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cluster.storage import LocalStorage
from services.config import ServingConfig
from tests.integration.collector import Collector, TakenSpan, over_http
from tests.integration.gateway_world import CANARY, NAME, STABLE, apply, chat, deploy, eventually, port_of_serve

pytestmark = pytest.mark.integration

SERVER, SPAN_OF_CLIENT = "POST /v1/chat/completions", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collecting() -> Iterator[tuple[str, Collector]]:
    address, collector = over_http()
    yield address, collector
    collector.stop()


@pytest.fixture(scope="module")
def collector(collecting: tuple[str, Collector]) -> Collector:
    return collecting[1]


@pytest.fixture(scope="module")
def gateway(ray_cluster: str, registry: LocalStorage, evidence: Any, collecting: tuple[str, Collector]) -> str:
    tracing = {"endpoint": collecting[0], "protocol": "http"}
    url = deploy(ServingConfig.model_validate({"port": port_of_serve(), "tracing": tracing}), registry)
    apply(registry, evidence, CANARY, 100, 1)
    eventually(lambda: chat(url).headers.get("x-serinus-revision") == CANARY)
    return url


def traced(flags: str = "01") -> tuple[str, dict[str, str]]:
    """A trace's id, and the headers of a client within it."""
    trace_id = uuid.uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-{SPAN_OF_CLIENT}-{flags}"}


def whole(collector: Collector, trace_id: str) -> dict[str, TakenSpan]:
    """The trace's spans once the last of them, the request's, is there."""
    eventually(lambda: any(span.parent_id == SPAN_OF_CLIENT for span in list(collector.spans)
                           if span.trace_id == trace_id), 15)  # fmt: skip
    return collector.of(trace_id)


def test_a_failing_over_is_one_trace_from_the_client_to_the_engines(gateway: str, collector: Collector) -> None:
    trace_id, headers = traced()
    answer = chat(gateway, f"raise {CANARY}", headers=headers)
    assert answer.headers["x-serinus-revision"] == STABLE
    spans = whole(collector, trace_id)
    server, canary, stable = spans[SERVER], spans["ask canary"], spans["ask stable"]
    assert {span.service for span in spans.values()} == {"serinus-gateway"}
    assert (canary.parent_id, stable.parent_id) == (server.span_id, server.span_id)
    assert (canary.failed, stable.failed, server.failed) == (True, False, False)
    assert canary.attributes["serinus.revision"] == CANARY
    assert server.attributes["serinus.revision"] == STABLE
    assert server.attributes["serinus.request_id"] == answer.headers["x-request-id"]
    assert server.attributes["gen_ai.usage.input_tokens"] == 1
    assert server.start_ns <= canary.start_ns <= canary.end_ns <= stable.end_ns <= server.end_ns


def test_the_engine_is_sent_the_id_of_the_span_that_asks_it(gateway: str, collector: Collector) -> None:
    trace_id, headers = traced()
    sent = chat(gateway, "trace", headers=headers).json()["choices"][0]["message"]["content"]
    assert sent.split("-")[1:3] == [trace_id, whole(collector, trace_id)["ask canary"].span_id]


def test_a_stream_tells_its_first_token_and_one_that_a_client_leaves_is_cancelled(
    gateway: str, collector: Collector
) -> None:
    ended, headers = traced()
    assert chat(gateway, stream=True, headers=headers).text.endswith("data: [DONE]\n\n")
    left, headers = traced()
    body = {"model": NAME, "messages": [{"role": "user", "content": "slow"}], "stream": True}
    with httpx.stream("POST", f"{gateway}/chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_lines())
    asked = whole(collector, ended)["ask canary"]
    assert asked.events == ["first token"]
    assert 0 < asked.attributes["gen_ai.response.time_to_first_chunk"] < 10
    assert asked.attributes["gen_ai.usage.cache_read.input_tokens"] == 8
    spans = whole(collector, left)
    assert {span.attributes["serinus.outcome"] for span in spans.values()} == {"cancelled"}
    assert spans[SERVER].end_ns - spans[SERVER].start_ns < 10e9  # the engine would have gone on for half a minute


def test_neither_texts_nor_keys_nor_paths_of_a_clients_making_reach_the_collector(
    gateway: str, collector: Collector
) -> None:
    secrets = ["sk-a-key-of-someone", "a-question-of-someone", "a-path-of-someone"]
    trace_id, headers = traced()
    chat(gateway, secrets[1], key=secrets[0], headers=headers)
    whole(collector, trace_id)
    trace_id, headers = traced()
    assert httpx.post(f"{gateway}/{secrets[2]}?key={secrets[0]}", headers=headers).status_code == 404
    refused = whole(collector, trace_id)["POST"]
    assert (refused.attributes["http.response.status_code"], refused.failed) == (404, False)
    assert not [secret for secret in (*secrets, "hello") if secret.encode() in collector.raw]


def test_a_client_that_does_not_trace_is_not_traced(gateway: str, collector: Collector) -> None:
    silent, headers = traced("00")
    assert chat(gateway, "trace", headers=headers).json()["choices"][0]["message"]["content"] == ""
    trace_id, headers = traced()
    chat(gateway, headers=headers)
    whole(collector, trace_id)  # spans go in order
    assert collector.of(silent) == {}


def test_a_collector_that_goes_away_is_no_requests_concern(gateway: str, collector: Collector) -> None:
    collector.stop()
    for _ in range(3):
        started_s = time.monotonic()
        assert chat(gateway).status_code == 200
        assert time.monotonic() - started_s < 5
