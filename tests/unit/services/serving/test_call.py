"""What the engine is asked for a client's request, how long it may take, and what it is charged."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from services.config import AdmissionConfig
from services.serving.attempt import Attempt, Deadline
from services.serving.call import Call, bounded, deadline_of, request_id_of
from services.serving.openai_errors import ApiError


class Options(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Body(BaseModel):
    """The fields of vLLM's request models that the gateway looks at."""

    model: str = "m"
    request_id: str = ""
    prompt: Any = None
    n: int | None = 1
    stream: bool | None = False
    stream_options: Options | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


def call(method: str = "chat", num_body_bytes: int = 400, limit: int | None = None, **fields: Any) -> Call:
    body = Body.model_validate(fields)
    max_tokens = bounded(body, AdmissionConfig(max_output_tokens=limit))
    return Call(body, method, "r", 0.5, 0.0, Deadline(600, 600), num_body_bytes, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("fields", "hidden", "asked"),
    [
        ({"stream": True}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False, True),
        ({}, False, None),
    ],
)
def test_usage_is_asked_for_in_every_stream_and_hidden_from_who_did_not_ask(
    fields: dict[str, Any], hidden: bool, asked: bool | None
) -> None:
    asking = call(**fields)
    own = asking.for_revision("m-2")
    assert asking.hides_usage == hidden
    assert (own.stream_options and own.stream_options.include_usage) == asked
    assert own.model == "m-2"
    assert own.request_id
    assert asking.body.model == "m"


def test_each_attempt_has_an_id_of_its_own_in_the_engine() -> None:
    asking = call()
    assert asking.for_revision("m-1").request_id != asking.for_revision("m-2").request_id


@pytest.mark.parametrize(
    ("fields", "limit", "sent"),
    [
        ({}, None, None),
        ({}, 50, 50),
        ({"max_tokens": 7}, 50, 7),
        ({"max_completion_tokens": 7}, 50, None),
    ],
)
def test_the_limit_is_asked_for_where_the_client_names_none(
    fields: dict[str, Any], limit: int | None, sent: int | None
) -> None:
    assert call(limit=limit, **fields).for_revision("m").max_tokens == sent


def test_the_newer_name_of_the_maximum_goes_first() -> None:
    with pytest.raises(ApiError, match="51"):
        call(limit=50, max_tokens=1, max_completion_tokens=51)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_tokens": 10}, 110),
        ({"max_tokens": 10, "n": 3}, 130),
        ({"max_tokens": 10, "n": None}, 110),
        ({"max_tokens": 10, "n": -5}, 110),
        ({"max_tokens": 10, "prompt": ["a", "b"]}, 120),
        ({"max_tokens": 10, "prompt": [[1, 2], [3], [4]], "n": 2}, 160),
        ({"max_tokens": 10, "prompt": [1, 2, 3]}, 110),
        ({"method": "embeddings"}, 100),
        ({"max_tokens": -1_000_000}, 100),
    ],
)
def test_a_request_is_charged_by_its_size_its_length_and_its_answers(fields: dict[str, Any], tokens: int) -> None:
    assert call(**fields).charge() == tokens


@pytest.mark.parametrize(
    ("usage", "status", "chunks", "cancelled", "tokens"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, 200, 7, False, 12),
        ({"prompt_tokens": 5}, 200, 1, False, 5),
        ({}, 500, 0, False, 0),
        ({}, 200, 8, False, 108),
        ({}, 504, 0, True, 100),  # the client's own patience: the engine worked meanwhile
    ],
)
def test_a_request_costs_what_vllm_counted_or_what_was_seen_of_it(
    usage: dict[str, int], status: int, chunks: int, cancelled: bool, tokens: int
) -> None:
    asked = call()
    attempt = Attempt("stable", "m-1", "m", 0.0, asked.deadline)
    attempt.watch.usage, attempt.watch.status, attempt.watch.num_output_chunks = usage, status, chunks
    attempt.watch.cancelled = cancelled
    asked.attempts.append(attempt)
    assert asked.num_tokens() == tokens


@pytest.mark.parametrize(
    ("header", "at_s", "by_client"), [(None, 110, False), ("2.5", 102.5, True), ("10", 110, False), ("1e9", 110, False)]
)
def test_the_shorter_patience_counts(header: str | None, at_s: float, by_client: bool) -> None:
    deadline = deadline_of(header, 10.0, 100.0)
    assert (deadline.at_s, deadline.by_client) == (at_s, by_client)


@pytest.mark.parametrize("header", ["", "soon", "nan", "-1", "0", "1s"])
def test_a_patience_that_is_no_time_is_refused(header: str) -> None:
    with pytest.raises(ApiError, match="x-serinus-timeout-s"):
        deadline_of(header, 10.0, 100.0)


def test_ids_of_odd_form_are_kept_by_their_hash() -> None:
    assert request_id_of("mine-1") == "mine-1"
    assert request_id_of("a b\x00" * 500) == request_id_of("a b\x00" * 500) != request_id_of("other !")
    assert len(request_id_of("x" * 65)) == 32
    assert request_id_of(None) != request_id_of(None)


@pytest.mark.parametrize("stream_options", [None, {"include_usage": True}, "any"])
def test_embeddings_may_hold_any_field(stream_options: Any) -> None:
    class Embeddings(BaseModel, extra="allow"):
        model: str = "m"

    body = Embeddings.model_validate({"stream": True, "stream_options": stream_options})
    asking = Call(body, "embeddings", "r", 0.5, 0.0, Deadline(600, 600))
    assert not asking.hides_usage
    assert asking.for_revision("m-2").model == "m-2"
