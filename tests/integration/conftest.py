"""What integration tests share: the cluster of `serinus up`, and what stands around a gateway (gateway_world.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.storage import LocalStorage
from tests.integration.gateway_world import start_evidence
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


@pytest.fixture(scope="module")
def serve_stopped(ray_cluster: str) -> None:
    """What runs afterwards stays for the next module, which may use it: starting it takes half a minute."""
    from ray import serve

    serve.shutdown()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def evidence(ray_cluster: str) -> Iterator[Any]:
    import ray

    actor = start_evidence()
    yield actor
    ray.kill(actor)
