"""Bodies that vLLM could not read are refused before it sees them; all others pass untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.openai_errors import ApiError
from services.serving.sendable import LARGEST, check_numbers, check_sendable

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(-LARGEST, LARGEST),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values, st.booleans())
def test_what_can_be_sent_passes(value: Any, ascii_only: bool) -> None:
    check_sendable(json.dumps(value, ensure_ascii=ascii_only).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000 + b"1" * 20, b"\\ud800", '{"a": "\U0001f600"}'.encode()])
def test_what_is_no_json_or_needs_no_look_is_not_ours_to_refuse(body: bytes) -> None:
    check_sendable(body)


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [{"content": "a\ud800b"}]},
        {"\udc00": 1},
        {"top_k": 10**20},
        {"seed": -(10**30)},
        [[[LARGEST + 1]]],
        {"vllm_xargs": {"a": [1, 2**64]}},
    ],
)
def test_what_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        check_sendable(json.dumps(value).encode())
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "\xed\xa0\x80"}',
        '{"a": "\\ud800"}'.encode("utf-16"),
        '{"top_k": 99999999999999999999}'.encode("utf-16-le"),
    ],
)
def test_text_that_is_no_utf8_is_refused_however_python_would_read_it(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        check_sendable(body)
    assert caught.value.code == "invalid_text"


def test_a_number_written_as_a_string_has_the_same_bounds_once_read() -> None:
    check_numbers([("top_k", LARGEST), ("stop", ["9" * 30]), ("n", None), ("stop_token_ids", [1, 2])])
    for fields in ([("top_k", 2**63)], [("stop_token_ids", [1, -(2**70)])]):
        with pytest.raises(ApiError) as caught:
            check_numbers(fields)
        assert caught.value.status == 400
