"""Which nodes `serinus status` shows: those of `serinus up`, and the machines that joined them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cluster.local_record import LocalCluster
from cluster.local_status import NodeStatus, State, own_and_joined
from cluster.profiles import LocalNode
from cluster.topology import POOL_LABEL, load_topology
from tests.conftest import REPOSITORY

DESK, OTHER = "10.0.0.1", "10.0.0.2"


def cluster(*pools: str) -> LocalCluster:
    nodes = [
        LocalNode(pool=pool, number=pools[:place].count(pool) + 1, host=DESK, num_cpus=2, labels={POOL_LABEL: pool})
        for place, pool in enumerate(pools)
    ]
    return LocalCluster(
        address=f"{DESK}:6379",
        dashboard=f"http://{DESK}:8265",
        topology=load_topology(REPOSITORY / "ray_cluster.yaml"),
        host=DESK,
        nodes=tuple(nodes),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def found(pool: str, host: str, state: State) -> NodeStatus:
    return NodeStatus(pool=pool, host=host, state=state, num_cpus=8, num_gpus=1)


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ([("data", DESK, "alive"), ("data", DESK, "alive")], ["head dead", "data alive", "data-2 alive"]),
        (
            [("head", DESK, "alive"), ("data", DESK, "dead"), ("data", DESK, "dead"), ("data", DESK, "alive")],
            ["head alive", "data alive", "data-2 dead"],
        ),
        (
            [("head", DESK, "alive"), ("data", DESK, "draining"), ("data", DESK, "alive"), ("data", OTHER, "alive")],
            ["head alive", "data draining", "data-2 alive", "data alive, joined"],
        ),
        (
            [("head", DESK, "alive"), ("serve", OTHER, "dead"), ("serve", OTHER, "dead"), ("", OTHER, "draining")],
            ["head alive", "data dead", "data-2 dead", " draining, joined", "serve dead, joined"],
        ),
        (
            [("head", DESK, "alive"), ("serve", OTHER, "dead"), ("serve", OTHER, "alive"), ("serve", OTHER, "alive")],
            ["head alive", "data dead", "data-2 dead", "serve alive, joined", "serve alive, joined"],
        ),
    ],
    ids=["head-gone", "began-again", "joined", "joined-and-gone", "joined-again"],
)
def test_the_nodes_that_are_shown(known: list[tuple[str, str, State]], shown: list[str]) -> None:
    rows = list(own_and_joined(cluster("head", "data", "data"), [found(*one) for one in known]))
    assert [f"{row.pool} {row.state}{', joined' * row.joined}" for row in rows] == shown
    assert {(row.num_cpus, row.num_gpus) for row in rows if row.joined} <= {(8, 1)}
    assert {(row.num_cpus, row.num_gpus) for row in rows if not row.joined} == {(2, 0)}
