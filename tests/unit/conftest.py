"""Unit tests start no cluster: a call to Ray that does would also keep its token for the integration tests after them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import pytest

MEMORY, NEEDED_BYTES = "/dev/shm", 4 << 30  # a place for folders of our own, which nobody shares


def pytest_configure() -> None:
    """Thousands of small files are written and waited for until they are on disk, which was half of the time: in memory a
    disk is quick."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


@pytest.fixture(scope="module", autouse=True)
def no_cluster() -> Iterator[None]:
    yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "a test of this module has started a Ray cluster"
