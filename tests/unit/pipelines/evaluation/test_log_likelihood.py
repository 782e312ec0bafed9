"""How a query's log-likelihood is read from what vLLM tells of its prompt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipelines.evaluation.asked import Query
from pipelines.evaluation.engine import _sum


@pytest.mark.parametrize("num_cached", [0, 2], ids=["all tokens listed", "those from the cache left out"])
def test_counted_tokens_are_found_from_the_end(num_cached: int) -> None:
    tokens = [11, 12, 13, 14, 15]
    told = [{token: SimpleNamespace(logprob=-float(token))} for token in tokens][num_cached:]
    assert _sum(Query(tokens, first=3, num_bytes=4), told) == -29.0
