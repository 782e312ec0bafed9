"""The topology on machines of several sizes, by profile, and what another machine runs to join."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import get_args

import pytest

from cluster.profiles import (
    ALL,
    MAX_STORE_BYTES,
    MIN_STORE_BYTES,
    Machine,
    ProfileName,
    join_command,
    scaled,
    share_gpus,
)
from cluster.topology import HEAD, MIN_CPUS, POOL_LABEL, load_topology
from tests.conftest import REPOSITORY

TOPOLOGY = load_topology(REPOSITORY / "ray_cluster.yaml")
GIB = 2**30
LAPTOP = Machine(num_cores=2, num_gpus=0, memory_bytes=16 * GIB)
LARGE = Machine(num_cores=64, num_gpus=0, memory_bytes=512 * GIB)


def test_on_two_cores_the_pools_overlap_and_a_trainer_fits() -> None:
    head, *nodes = scaled(TOPOLOGY, LAPTOP)
    assert (head.pool, head.num_cpus) == (HEAD, 0)
    assert {node.pool: node.num_cpus for node in nodes} == MIN_CPUS


def test_on_many_cores_each_pool_may_use_them_all() -> None:
    _, *nodes = scaled(TOPOLOGY, LARGE)
    assert {node.num_cpus for node in nodes} == {64}


@pytest.mark.parametrize("profile", get_args(ProfileName))
def test_every_node_has_a_loopback_address_and_a_name_of_its_own(profile: ProfileName) -> None:
    nodes = scaled(TOPOLOGY, LARGE, profile)
    assert nodes[0].pool == HEAD
    assert len({node.host for node in nodes}) == len({node.name for node in nodes}) == len(nodes)
    assert "127.0.0.1" not in {node.host for node in nodes}, "Ray rewrites 127.0.0.1 to the outside address"


def test_tiny_is_one_node_that_no_pool_has_for_itself() -> None:
    head, node = scaled(TOPOLOGY, LAPTOP, "tiny")
    assert (head.labels[POOL_LABEL], node.pool, node.labels) == (HEAD, ALL, {})
    assert node.num_cpus == sum(MIN_CPUS.values()), "whatever fits on the pools one by one fits here together"


def test_a_workstation_reads_and_serves_on_two_nodes_that_share_the_cores() -> None:
    nodes = scaled(TOPOLOGY, LARGE, "workstation")
    assert Counter(node.pool for node in nodes) == {HEAD: 1, "data": 2, "train": 1, "serve": 2}
    assert {node.name: node.num_cpus for node in nodes[1:]} == {
        "data": 32, "data-2": 32, "train": 64, "serve": 32, "serve-2": 32,
    }  # fmt: skip


def test_a_pool_never_gets_more_nodes_than_the_topology_gives_it_or_than_gpus() -> None:
    small = TOPOLOGY.replace(pools=tuple(pool.replace(max_nodes=1) for pool in TOPOLOGY.pools))
    assert len(scaled(small, LARGE, "workstation")) == 4
    for num_gpus, serving in ((1, [(0,)]), (2, [(1,)]), (4, [(2,), (3,)]), (6, [(3,), (4, 5)])):
        nodes = scaled(TOPOLOGY, LARGE._replace(num_gpus=num_gpus), "workstation")
        assert [node.gpus for node in nodes if node.pool == "serve"] == serving


@pytest.mark.parametrize(
    ("profile", "memory_bytes", "store_bytes"),
    [
        ("tiny", 16 * GIB, 16 * GIB * 4 // 100 // 2),
        ("laptop", 16 * GIB, 16 * GIB * 8 // 100 // 4),
        ("laptop", 8 * GIB, MIN_STORE_BYTES),
        ("laptop", 2048 * GIB, MAX_STORE_BYTES),
        ("workstation", 128 * GIB, 128 * GIB * 24 // 100 // 6),
    ],
)
def test_object_stores_share_a_part_of_the_memory(profile: ProfileName, memory_bytes: int, store_bytes: int) -> None:
    nodes = scaled(TOPOLOGY, LAPTOP._replace(memory_bytes=memory_bytes), profile)
    assert {node.store_bytes for node in nodes} == {store_bytes}


@pytest.mark.parametrize(
    ("num_gpus", "train", "serve"),
    [(0, (), ()), (1, (0,), (0,)), (2, (0,), (1,)), (3, (0, 1), (2,)), (8, (0, 1, 2, 3), (4, 5, 6, 7))],
)
def test_gpus_are_shared_out(num_gpus: int, train: tuple[int, ...], serve: tuple[int, ...]) -> None:
    assert share_gpus(num_gpus) == {"train": train, "serve": serve}
    gpus = {node.pool: node.gpus for node in scaled(TOPOLOGY, LAPTOP._replace(num_gpus=num_gpus))}
    assert gpus == {HEAD: (), "data": (), "train": train, "serve": serve}


def test_where_others_join_all_nodes_have_the_machines_address() -> None:
    assert {node.host for node in scaled(TOPOLOGY, LAPTOP, "laptop", "10.0.0.5")} == {"10.0.0.5"}


def test_the_command_to_join_names_the_pool_and_the_tokens_file() -> None:
    pool = TOPOLOGY.pool("data").replace(resources={"disk": 2})
    said = shlex.split(join_command("10.0.0.5:6479", pool, {"RAY_AUTH_MODE": "token"}))
    assert said == [
        "RAY_AUTH_MODE=token",
        "RAY_AUTH_TOKEN_PATH=~/.ray/auth_token",
        "ray",
        "start",
        "--address=10.0.0.5:6479",
        "--labels=serinus.io/pool=data",
        '--resources={"disk": 2}',
    ]
