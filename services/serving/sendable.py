"""Bodies that are JSON and yet cannot go on: text that is no UTF-8, half a surrogate pair, which no tokenizer takes, and
numbers beyond 64 bits.

vLLM would fail on them with a 500 that looks like a fault of the revision, and one client must not roll a canary back. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from services.serving.openai_errors import ApiError

SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]|\d{19}")
"""An escaped surrogate or a long number; bodies without them, nearly all, are not looked at further."""
LARGEST = 2**63 - 1


def check_sendable(body: bytes) -> None:
    """Refuse what the engine could not read.

    Raises:
        ApiError: 400.
    """
    try:
        body.decode()  # strictly: Python's JSON reader takes surrogates written as bytes, and UTF-16 and 32 as well
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8", code="invalid_text") from None
    if b"\0" in body:  # UTF-16 or 32 without a mark
        raise ApiError(400, "the body is not UTF-8", code="invalid_text")
    if not SUSPECT.search(body):
        return
    try:
        left: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return  # no JSON: told so further on
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and not _is_text(value):
            raise ApiError(400, "the body holds half a surrogate pair: send whole characters", code="invalid_text")
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ApiError(400, "the body holds a whole number beyond 64 bits", code="invalid_number")


def check_numbers(fields: Iterable[tuple[str, Any]]) -> None:
    """The same for numbers that were written as strings, once they are read: `fields` are a request's names and values.

    Raises:
        ApiError: 400.
    """
    for name, value in fields:
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, int) and abs(item) > LARGEST:
                raise ApiError(400, f"{name} is beyond 64 bits", code="invalid_number", param=name)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
