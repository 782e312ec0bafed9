"""Unit tests start no cluster: a call to Ray that does would also keep its token for the integration tests after them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_cluster() -> Iterator[None]:
    yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "a test of this module has started a Ray cluster"
