"""A request's trace through the gateway into real vLLM, as a collector gets it over gRPC."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest

from cluster import registry
from services.config import TracingConfig
from services.serving import app
from tests.e2e.conftest import NAME, STABLE, Served
from tests.integration.collector import Collector, over_grpc
from tests.integration.gateway_world import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SPAN_OF_CLIENT = "b7ad6b7169203331"
SAID = "walrus zephyr"
LATENCIES = ("time_in_queue", "time_in_model_prefill", "time_in_model_decode", "time_to_first_token", "e2e")


@pytest.fixture(scope="module")
def collector(served: Served) -> Iterator[Collector]:
    address, collector = over_grpc()
    stable = registry.resolve(served.storage, NAME, STABLE)
    for tracing in (TracingConfig(endpoint=address), None):
        serving = served.serving.replace(tracing=tracing)
        app.deploy(NAME, stable, serving, served.storage)
        app.wait_gateway(NAME, serving, served.storage.uri)
        if tracing:
            yield collector
    collector.stop()


def ask(served: Served, path: str, flags: str = "01", **fields: object) -> str:
    """The id of the trace that an answered request is in."""
    trace_id = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace_id}-{SPAN_OF_CLIENT}-{flags}"}
    body = {"model": NAME, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    answer = httpx.post(f"{served.url}/{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return trace_id


def test_vllms_own_span_hangs_below_the_gateways_and_tells_queue_prefill_and_decode(
    served: Served, collector: Collector
) -> None:
    messages = [{"role": "user", "content": SAID}]
    unsampled = ask(served, "chat/completions", "00", messages=messages)
    traces = [
        ask(served, "chat/completions", messages=messages),
        ask(served, "chat/completions", messages=messages, stream=True),
        ask(served, "completions", prompt=SAID),
    ]
    for trace_id in traces:
        eventually(lambda: len(collector.of(trace_id)) == 3)  # noqa: B023  # called before the next turn
        spans = collector.of(trace_id)
        engine, asked = spans["llm_request"], spans["ask stable"]
        assert (engine.service, asked.service) == ("serinus-engine", "serinus-gateway")
        assert engine.parent_id == asked.span_id
        told = {name: engine.attributes[f"gen_ai.latency.{name}"] for name in LATENCIES}
        assert 0 < told["time_in_model_prefill"] + told["time_in_model_decode"] <= told["e2e"]
        assert engine.attributes["gen_ai.usage.completion_tokens"] == 8
        assert asked.attributes["gen_ai.usage.output_tokens"] == 8
    assert collector.of(unsampled) == {}
    assert {span.name for span in collector.spans if span.service == "serinus-engine"} == {"llm_request"}  # no warm-up
    assert SAID.encode() not in collector.raw
