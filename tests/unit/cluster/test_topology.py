"""ray_cluster.yaml: what is read of it, what Ray's own validator says, what is refused, the shape on one machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import serinus
from cluster.errors import ConfigError
from cluster.launcher import check_launcher
from cluster.session import HEALTH_CHECKS
from cluster.topology import (
    AUTOSCALED_LABEL,
    HEAD,
    POOL_LABEL,
    POOLS,
    load_topology,
    pool_of,
    start_flags,
)

FILE = Path(__file__).resolve().parents[3] / "ray_cluster.yaml"
ON_PREMISE = FILE.with_name("ray_cluster_on_premise.yaml")


def launcher() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def test_the_shipped_file_has_a_head_without_cpus_and_every_pool() -> None:
    topology = load_topology(FILE)
    assert topology.head.num_cpus == 0
    assert tuple(pool.name for pool in topology.pools) == POOLS
    assert [pool.num_gpus > 0 for pool in topology.pools] == [False, True, True]
    assert all(pool.labels[POOL_LABEL] == pool.name for pool in topology.pools)


@pytest.mark.parametrize(("ray_ends_with", "watched"), [(0, True), (3, False)])
def test_a_worker_that_started_watches_for_its_machines_end(tmp_path: Path, ray_ends_with: int, watched: bool) -> None:
    """The watcher outlives the launcher's shell, and `ray start` that fails fails the command."""
    told = tmp_path / "told"
    ours = {"ray": f"exit {ray_ends_with}", "serinus": f'sleep 0.2; echo "$@" > {told}.draft; mv {told}.draft {told}'}
    for name, script in ours.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = launcher()["worker_start_ray_commands"][-1].replace("ulimit -n 65536;", "")
    environment = {"PATH": f"{tmp_path}:{os.defpath}", "HOME": str(tmp_path), "RAY_HEAD_IP": "10.0.0.1"}
    assert subprocess.run(["bash", "-c", command], env=environment, check=False).returncode == ray_ends_with
    assert not told.exists(), "nobody waits for it"
    assert (tmp_path / "serinus-spot.log").exists() is watched
    while watched and not told.exists():
        time.sleep(0.02)
    if watched:
        asked = shlex.split(told.read_text())
        assert CliRunner().invoke(serinus.app, [*asked, "--help"]).exit_code == 0


def test_only_what_the_launcher_starts_waits_for_its_autoscaler() -> None:
    (head,) = [kind for kind in launcher()["available_node_types"].values() if kind["labels"][POOL_LABEL] == HEAD]
    assert head["labels"][AUTOSCALED_LABEL] == "true"
    assert load_topology(FILE).head.labels == {POOL_LABEL: HEAD}


def test_ray_accepts_the_shipped_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher())
    validate_config(prepared)
    assert prepared["available_node_types"]["serve"]["labels"] == {POOL_LABEL: "serve"}


@pytest.mark.parametrize("broken", [{"max_worker": 3}, {"max_workers": 0}, {"head_node_type": "nobody"}])
def test_ray_refuses_a_broken_one(broken: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match=r"max_worker|head_node_type"):
        validate_config(prepare_config({**launcher(), **broken}))


def test_ray_accepts_the_on_premise_file_and_knows_every_machine() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(ON_PREMISE.read_text()))
    validate_config(prepared)
    node = prepared["available_node_types"]["local.cluster.node"]
    assert node["min_workers"] == node["max_workers"] == 5


@pytest.mark.parametrize("file", [FILE, ON_PREMISE], ids=lambda file: file.name)
def test_heads_of_the_launcher_are_as_patient_with_their_nodes_as_ours(file: Path) -> None:
    start = yaml.safe_load(file.read_text())["head_start_ray_commands"][-1]
    assert {f"{name}={value}" for name, value in HEALTH_CHECKS.items()} <= set(re.findall(r"[\w=]+", start))


@pytest.mark.parametrize("file", [FILE, ON_PREMISE], ids=lambda file: file.name)
def test_reference_schema_accepts_the_shipped_files(file: Path, shared_data: Callable[[str], Path]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((shared_data("ray-schema") / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load(file.read_text()), schema)


@pytest.mark.parametrize("file", [FILE, ON_PREMISE], ids=lambda file: file.name)
def test_our_own_check_accepts_the_shipped_files(file: Path) -> None:
    check_launcher(file)


def test_machines_on_the_premises_are_pools_with_hosts() -> None:
    topology = load_topology(ON_PREMISE)
    assert [(pool.name, pool.min_nodes, pool.max_nodes) for pool in topology.pools] == [
        ("data", 2, 2),
        ("train", 1, 1),
        ("serve", 2, 2),
    ]
    found = {ip: pool_of(topology, ["127.0.0.1", ip]) for ip in ("10.0.0.10", "10.0.0.21", "10.0.0.99")}
    assert {ip: pool and pool.name for ip, pool in found.items()} == {
        "10.0.0.10": HEAD,
        "10.0.0.21": "train",
        "10.0.0.99": None,
    }
    assert topology.pool("train").labels == {POOL_LABEL: "train", "ray.io/accelerator-type": "H100"}


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (lambda p: p["pools"].pop("serve"), "must be data, train, serve"),
        (lambda p: p["pools"]["data"]["ips"].append("10.0.0.21"), "must be in one pool"),
        (lambda p: p["worker_ips"].append("10.0.0.40"), "must be in one pool"),
        (lambda p: p["pools"]["data"]["resources"].pop("CPU"), "at least 1 CPU"),
        (lambda p: p["pools"]["data"].update(ips=[]), "at least 1 item"),
        (lambda p: p.pop("head_ip"), "required and not given"),
        (lambda p: p["pools"]["data"].update(ip=[]), "did you mean `ips`?"),
    ],
)
def test_a_broken_on_premise_file_is_refused(tmp_path: Path, breaking: Callable[[Any], object], says: str) -> None:
    document = yaml.safe_load(ON_PREMISE.read_text())
    breaking(document["provider"])
    file = tmp_path / "on_premise.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(ConfigError) as refused:
        load_topology(file)
    assert says in str(refused.value)
    assert "provider" in str(refused.value)


@pytest.mark.parametrize("file", [FILE, ON_PREMISE], ids=lambda file: file.name)
def test_the_shipped_files_hold_no_secret_and_open_nothing(file: Path) -> None:
    text = file.read_text()
    assert "0.0.0.0" not in text
    assert not any(word in text.lower() for word in ("password", "aws_secret", "access_key", "begin openssh"))


BROKEN: list[tuple[str, Callable[[dict[str, Any]], object], str, str]] = [
    ("a pool is missing", lambda d: d["available_node_types"].pop("serve"), "available_node_types", "serve"),
    ("two of a pool", lambda d: _types(d).update(more=_types(d)["data"]), "available_node_types", "data"),
    ("no label", lambda d: _types(d)["data"].pop("labels"), "available_node_types.data.labels", "required"),
    (
        "unknown pool",
        lambda d: _types(d)["data"].update(labels={POOL_LABEL: "dat"}),
        ".data.labels",
        "one of head, data",
    ),
    ("no resources", lambda d: _types(d)["data"].pop("resources"), "available_node_types.data.resources", "required"),
    (
        "negative GPUs",
        lambda d: _types(d)["train"].update(resources={"GPU": -1}),
        ".train.resources.GPU",
        "greater than",
    ),
    ("CPUs as words", lambda d: _types(d)["data"].update(resources={"CPU": "many"}), ".data.resources.CPU", "'many'"),
    ("a pool without CPUs", lambda d: _types(d)["data"].update(resources={"GPU": 1}), "available_node_types", "1 CPU"),
    ("a pool of no nodes", lambda d: _types(d)["data"].update(max_workers=0), "available_node_types", "max_workers"),
    ("min above max", lambda d: _types(d)["data"].update(min_workers=9), "available_node_types.data", "above"),
    ("wrong head", lambda d: d.update(head_node_type="data"), "head_node_type", "pool: head"),
    ("typo at the top", lambda d: d.update(max_worker=3), "max_worker", "did you mean `max_workers`"),
    (
        "typo in a pool",
        lambda d: _types(d)["data"].update(max_worker=3),
        ".data.max_worker",
        "did you mean `max_workers`",
    ),
    ("bad name", lambda d: d.update(cluster_name="My Cluster"), "cluster_name", "'My Cluster'"),
    ("no name", lambda d: d.pop("cluster_name"), "cluster_name", "required"),
]


def _types(document: dict[str, Any]) -> dict[str, Any]:
    types: dict[str, Any] = document["available_node_types"]
    return types


@pytest.mark.parametrize(("breaking", "field", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_topology_is_refused_with_file_and_field(
    tmp_path: Path, breaking: Callable[[dict[str, Any]], object], field: str, says: str
) -> None:
    document = launcher()
    breaking(document)
    file = tmp_path / "ray_cluster.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(ConfigError) as refused:
        load_topology(file)
    where, _, rest = str(refused.value).partition(": ")
    assert where.startswith(f"{file}:")
    assert field in rest
    assert says in rest


def test_declared_memory_reaches_ray_by_its_own_option(tmp_path: Path) -> None:
    document = yaml.safe_load(ON_PREMISE.read_text(encoding="utf-8"))
    document["provider"]["pools"]["data"]["resources"] = {"CPU": 2, "memory": 8 << 30, "disk": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    pool = load_topology(tmp_path / "c.yaml").pool("data")
    assert (pool.memory_bytes, pool.resources) == (8 << 30, {"disk": 1})
    assert start_flags(pool)[-2:] == [f"--memory={8 << 30}", '--resources={"disk": 1}']


def test_reading_the_topology_imports_nothing_heavy() -> None:
    code = "import sys, cluster.topology as t; t.load_topology(sys.argv[1]); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(FILE)], cwd=FILE.parent, check=False).returncode == 0
