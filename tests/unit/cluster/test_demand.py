"""What a recipe asks of a topology that can never give it, and where the memory of a model is known."""

from __future__ import annotations

import pytest

from cluster.demand import GIB, Demand, findings, gpu_bytes, host_bytes, nodes, per_node, stage_nodes
from cluster.topology import HEAD, POOL_LABEL, Pool, Topology


def pool(name: str, num_cpus: int, num_gpus: int = 0, **more: object) -> Pool:
    return Pool.model_validate(
        {"name": name, "num_cpus": num_cpus, "num_gpus": num_gpus, "labels": {POOL_LABEL: name}, **more}
    )


TOPOLOGY = Topology(
    name="t",
    head=pool(HEAD, 0),
    pools=(
        pool("data", 16, max_nodes=4, min_nodes=0),
        pool("train", 96, 8, max_nodes=2, min_nodes=0, instance_type="p4d.24xlarge"),
        pool("serve", 16, 1, max_nodes=4, min_nodes=1, instance_type="g6.4xlarge"),
    ),
    max_workers=6,
)


@pytest.mark.parametrize(
    ("demand", "fit", "needed"),
    [
        (Demand(field="f", stage="s", pool="train", count=16, cpus=8, gpus=1), 8, 2),
        (Demand(field="f", stage="s", pool="train", count=16, cpus=24, gpus=1), 4, 4),
        (Demand(field="f", stage="s", pool="train", count=1, gpus=16), 0, 0),
        (Demand(field="f", stage="s", pool="data", count=33, cpus=0.5), 32, 2),
        (Demand(field="f", stage="s", pool="serve", count=3, cpus=2, gpus=1), 1, 3),
        (Demand(field="f", stage="s", pool="serve", count=3), 3, 1),
    ],
)
def test_how_many_nodes_a_demand_takes(demand: Demand, fit: int, needed: int) -> None:
    found = TOPOLOGY.pool(demand.pool)
    assert (per_node(found, demand), nodes(found, demand)) == (fit, needed)


MISTAKES = [
    ("GPUs that no node has", Demand(field="f", stage="s", pool="data", gpus=1), "a node of pool `data` has 16 CPUs"),
    ("CPUs that no node has", Demand(field="f", stage="s", pool="serve", cpus=17), "asks for 17 CPUs on one node"),
    ("more nodes than the pool", Demand(field="f", stage="s", pool="train", count=17, gpus=1), "need 3 nodes of pool `train`"),
    ("more memory than the machine", Demand(field="f", stage="s", pool="serve", host_bytes=65 * GIB), "has 64 GiB of memory"),
    ("too many on one machine", Demand(field="f", stage="s", pool="serve", count=3, host_bytes=30 * GIB), "3 of them may be"),
    ("more memory than the GPU", Demand(field="f", stage="s", pool="serve", gpus=1, gpu_bytes=25 * GIB), "must hold 25.0 GiB"),
]  # fmt: skip


@pytest.mark.parametrize(("demand", "says"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_found_with_its_field_and_remedy(demand: Demand, says: str) -> None:
    (found,) = findings(TOPOLOGY, [demand])
    assert found.where == demand.field
    assert says in found.found
    assert found.remedy


def test_what_several_stages_ask_for_is_told_once() -> None:
    engine = Demand(field="evaluate.num_gpus", stage="evaluate", pool="serve", gpus=2)
    found = findings(TOPOLOGY, [engine, engine.replace(stage="quantize"), engine.replace(field="other")])
    assert [finding.where for finding in found] == ["evaluate.num_gpus", "other"]


def test_what_fits_is_no_mistake() -> None:
    fits = [
        Demand(field="f", stage="s", pool="train", count=16, gpus=1, gpu_bytes=40 * GIB),
        Demand(field="f", stage="s", pool="head"),
    ]
    assert findings(TOPOLOGY, fits) == []


def test_the_limit_of_all_pools_counts_those_that_always_run() -> None:
    together = [
        Demand(field="f", stage="train", pool="data", count=4, cpus=16),
        Demand(field="f", stage="train", pool="train", count=16, gpus=1),
    ]
    (found,) = findings(TOPOLOGY, together)
    assert (found.where, found.remedy) == ("max_workers", "raise it to 7")
    assert findings(TOPOLOGY.replace(max_workers=7), together) == []
    assert findings(TOPOLOGY.replace(max_workers=None), together) == []


def test_the_nodes_of_a_stage_are_the_most_that_one_of_its_parts_needs() -> None:
    parts = [
        Demand(field="f", stage="train", pool="train", count=16, gpus=1),
        Demand(field="f", stage="train", pool="train", count=8, gpus=1),
        Demand(field="f", stage="train", pool="head"),
    ]
    assert stage_nodes(TOPOLOGY, parts) == {"train": {"train": 2}}


@pytest.mark.parametrize(
    ("changes", "gib"),
    [
        ({"instance_type": "p4de.24xlarge"}, 80),
        ({"instance_type": "m5.4xlarge"}, None),
        ({"instance_type": None}, None),
        ({"labels": {"ray.io/accelerator-type": "H200"}}, 141),
        ({"labels": {"ray.io/accelerator-type": "H100"}, "instance_type": "g6.xlarge"}, 80),
        ({"labels": {"ray.io/accelerator-type": "something-new"}}, None),
    ],
)
def test_a_gpus_memory_is_known_by_machine_or_label(changes: dict[str, object], gib: int | None) -> None:
    assert gpu_bytes(TOPOLOGY.pool("train").replace(**changes)) == (gib * GIB if gib else None)


def test_workers_that_do_not_share_a_machine_may_fill_it() -> None:
    apart = Demand(field="f", stage="s", pool="serve", count=3, cpus=9, host_bytes=60 * GIB)
    assert findings(TOPOLOGY, [apart]) == []
    unknown = Demand(field="f", stage="s", pool="data", host_bytes=10_000 * GIB)
    assert findings(TOPOLOGY, [unknown]) == []


@pytest.mark.parametrize(
    ("changes", "gib"),
    [
        ({"instance_type": "m5.4xlarge"}, 64),
        ({"instance_type": "m7i-flex.large"}, 8),
        ({"instance_type": "c6gd.xlarge"}, 8),
        ({"instance_type": "r6i.32xlarge"}, 1024),
        ({"instance_type": "p4d.24xlarge"}, 1152),
        ({"instance_type": "g6e.2xlarge"}, 64),
        ({"instance_type": "c5n.xlarge"}, None),
        ({"instance_type": "m5.metal"}, None),
        ({"instance_type": "mac2.metal"}, None),
        ({"instance_type": "x2idn.16xlarge"}, None),
        ({"instance_type": None}, None),
        ({"instance_type": "m5.large", "memory_bytes": 5 * GIB}, 5),
    ],
)
def test_a_machines_memory_is_declared_or_known_by_its_type(changes: dict[str, object], gib: int | None) -> None:
    assert host_bytes(TOPOLOGY.pool("data").replace(**changes)) == (gib * GIB if gib else None)
