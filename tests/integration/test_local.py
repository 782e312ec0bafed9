"""`serinus up`, `status` and `down`: one story, in order, with real nodes."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from tests.integration.local_cluster import DOWN, UP, Bench, living

pytestmark = pytest.mark.integration

STATUS = """
from cluster.local_status import describe
status = describe()
print(status.model_dump_json() if status else "none")
"""

WHERE = """
import json, os
from cluster.pools import on_pool
from cluster.session import joined
with joined() as how:
    import ray
    @ray.remote(num_cpus=1)
    def where():
        import pipelines.config, services.config
        return ray.util.get_node_ip_address()
    found = {pool: where.options(label_selector=on_pool(pool)).remote() for pool in ("data", "train", "serve")}
    print(json.dumps({pool: ray.get(host) for pool, host in found.items()}))
    # two ranks of a trainer fit on their pool beside its controller
    group = ray.util.placement_group([{"CPU": 1}] * 3, bundle_label_selector=[on_pool("train")] * 3)
    print(json.dumps(group.wait(30)), how)
"""


def pools(bench: Bench) -> dict[str, bool]:
    status = json.loads(bench.run(STATUS))
    return {node["pool"]: node["state"] == "alive" for node in status["nodes"]}


def test_up_brings_every_pool_and_stages_run_where_they_ask(up: Bench) -> None:
    assert pools(up) == {"head": True, "data": True, "train": True, "serve": True}
    where, fits, *_ = up.run(WHERE).splitlines()
    assert json.loads(where) == {"data": "127.0.0.3", "train": "127.0.0.4", "serve": "127.0.0.5"}
    assert fits.startswith("true joined 127.0.0.2:")


def test_the_nodes_of_pools_are_counted_each_once(up: Bench) -> None:
    code = (
        "from cluster.session import joined\nfrom pipelines.node_hours import nodes_of\n"
        "with joined(): print([{**nodes_of(pools)} for pools in (['data'], ['data', 'train', 'train'], ['head'])])"
    )
    assert "[{'data': 1}, {'data': 1, 'train': 1}, {'head': 1}]" in up.run(code)


def test_up_again_only_says_so(up: Bench) -> None:
    before = {process.pid for process in up.processes() if process.name() == "raylet"}
    assert "already up at 127.0.0.2:" in up.run(UP)
    assert {process.pid for process in up.processes() if process.name() == "raylet"} == before


def test_another_topology_does_not_disturb_the_one_that_is_up(up: Bench) -> None:
    other = UP.replace('load_topology("ray_cluster.yaml")', 'load_topology("ray_cluster.yaml").replace(name="other")')
    assert "is up with another topology" in up.fails(other)
    assert all(pools(up).values())


@pytest.mark.long
def test_a_killed_node_is_brought_back_and_the_others_stay(up: Bench) -> None:
    raylets = {p.pid: " ".join(p.cmdline()) for p in up.processes() if p.name() == "raylet"}
    victim = next(pid for pid, command in raylets.items() if f"{up.folder}/train/" in command)
    next(p for p in up.processes() if p.pid == victim).kill()
    deadline = time.monotonic() + 60
    while pools(up)["train"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert pools(up) == {"head": True, "data": True, "train": False, "serve": True}
    assert "train is up" in up.run(UP)
    assert pools(up)["train"]
    assert {p.pid for p in up.processes() if p.name() == "raylet"} > raylets.keys() - {victim}


def test_the_wrong_token_is_refused_at_once(up: Bench, tmp_path: Path) -> None:
    began = time.monotonic()
    said = up.fails(WHERE, RAY_AUTH_TOKEN="0" * 64)
    assert "ClusterError" in said
    assert "refuses our token" in said
    assert "ClusterError" in up.fails(WHERE, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert time.monotonic() - began < 50
    assert "refuses our token" in up.fails(STATUS, RAY_AUTH_TOKEN="0" * 64)


def test_a_cluster_that_is_not_there_is_told_at_once(bench: Bench) -> None:
    for address, found in (("127.0.0.9:6", "does not answer"), ("ray", "form host:port"), ("http://x:1", "form")):
        assert found in bench.fails(WHERE, RAY_ADDRESS=address)


@pytest.mark.long
def test_what_listens_but_is_no_cluster_is_told_within_half_a_minute(bench: Bench) -> None:
    with socket.create_server(("127.0.0.9", 0)) as silent:
        began = time.monotonic()
        said = bench.fails(WHERE, RAY_ADDRESS=f"127.0.0.9:{silent.getsockname()[1]}")
    assert "does not answer as a Ray head" in said
    assert time.monotonic() - began < 30


def test_down_ends_all_of_it_and_only_that(up: Bench) -> None:
    driver = up.start(
        "from cluster.session import joined\nimport time\nwith joined(): print('in', flush=True); time.sleep(60)"
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "in\n"
    assert driver.pid not in {process.pid for process in up.processes()}, "a person's driver is not the cluster's"
    processes = up.processes()
    assert len(processes) > 10
    up.run(DOWN)
    assert living(processes) == []
    assert not up.folder.exists()
    assert up.run(STATUS) == "none\n"
    assert up.run(DOWN) == "False\n"
    driver.kill()
    driver.communicate()


def test_up_killed_in_the_middle_is_mended_by_down(bench: Bench) -> None:
    with socket.create_server(("0.0.0.0", 0)) as held:
        code = f"import cluster.local as l\nl.DASHBOARD_PORT = {held.getsockname()[1]}\n{UP}"
        starting = bench.start(code)
        assert starting.stdout is not None
        assert "is in use: the dashboard goes to" in starting.stdout.readline()
    deadline = time.monotonic() + 60
    # What `ray start` itself writes is no node yet, and that process ends with its parent.
    while not any(p.name() == "gcs_server" for p in bench.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    starting.kill()
    starting.communicate()
    left = bench.processes()
    assert left
    assert bench.run(DOWN).endswith("True\n")
    assert living(left) == []
    assert bench.processes() == []
