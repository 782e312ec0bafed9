"""The Kubernetes manifest is the topology, no more and no less, and KubeRay's schema takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay import ray_cluster, render
from cluster.topology import POOL_LABEL, load_topology

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def document() -> dict[str, Any]:
    return ray_cluster(load_topology(REPOSITORY / "ray_cluster.yaml"))


def test_checked_in_manifest_is_what_the_topology_renders() -> None:
    checked_in = (REPOSITORY / "k8s/base/raycluster.yaml").read_text()
    assert checked_in == render(load_topology(REPOSITORY / "ray_cluster.yaml")), "render it again: see k8s/README.md"


def test_each_pool_is_a_worker_group_with_its_label_and_limits(document: dict[str, Any]) -> None:
    groups = {group["groupName"]: group for group in document["spec"]["workerGroupSpecs"]}
    assert [group["labels"] for group in groups.values()] == [{POOL_LABEL: name} for name in ("data", "train", "serve")]
    assert groups["serve"]["minReplicas"] == 1
    assert groups["data"]["maxReplicas"] == 8
    limits = groups["train"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "8"
    assert "nvidia.com/gpu" not in groups["data"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_no_container_is_root_or_open(document: dict[str, Any]) -> None:
    spec = document["spec"]
    assert spec["authOptions"]["mode"] == "token"
    assert spec["autoscalerOptions"]["version"] == "v2"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_kuberay_schema_takes_it(document: dict[str, Any], shared_data: Callable[[str], Path]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    crd = yaml.load((shared_data("kuberay-crds") / "ray.io_rayclusters.yaml").read_text(), Loader=yaml.CSafeLoader)
    schema = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    problems = [*jsonschema.Draft7Validator(schema).iter_errors(document), *_unknown(document, schema, "")]
    assert problems == []


def test_the_schema_check_notices_a_wrong_key(shared_data: Callable[[str], Path]) -> None:
    crd = yaml.load((shared_data("kuberay-crds") / "ray.io_rayclusters.yaml").read_text(), Loader=yaml.CSafeLoader)
    schema = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    assert list(_unknown({"spec": {"autoscalerOption": {}}}, schema, "")) == [".spec.autoscalerOption"]


def _unknown(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """Keys the schema does not know: Kubernetes would drop them silently."""
    if isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from _unknown(item, schema["properties"][key], f"{where}.{key}")
            else:
                yield f"{where}.{key}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{where}[{index}]")
