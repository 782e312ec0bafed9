"""Machines of their own, for all tests of a module: five nodes take half a minute to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.networked_world import NetworkedCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[NetworkedCluster]:
    cluster = NetworkedCluster()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()
