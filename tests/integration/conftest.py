"""The cluster of `serinus up` that the tests of local.py and jobs.py share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.local_cluster import DOWN, UP, Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("home"))
    yield bench
    bench.run(DOWN)


@pytest.fixture
def up(bench: Bench) -> Bench:
    """The bench with the cluster up; quick when it is already."""
    bench.run(UP)
    return bench
