"""What pods may reach outside: closed but for what was asked for, and never a metadata service by the way."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cluster.errors import ConfigError
from cluster.kuberay import access, egress, render
from tests.unit.cluster.kuberay.conftest import shipped


def outwards(*allowed: str) -> list[dict[str, Any]]:
    (policy,) = [p for p in access.network(8000, allowed) if p["metadata"]["name"] == "serinus-ray"]
    rules: list[dict[str, Any]] = policy["spec"]["egress"]
    return rules


@pytest.mark.parametrize(
    ("allowed", "peer", "port"),
    [
        ("10.1.2.3:9000", {"ipBlock": {"cidr": "10.1.2.3/32"}}, 9000),
        ("10.0.0.0/8:9000", {"ipBlock": {"cidr": "10.0.0.0/8"}}, 9000),
        ("0.0.0.0/0:80", {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}, 80),
        ("[::/0]:80", {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::/32"]}}, 80),
        ("minio:9000", {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}}}, 9000),
    ],
)
def test_what_was_asked_for_is_opened_beside_the_usual(allowed: str, peer: dict[str, Any], port: int) -> None:
    assert outwards(allowed) == [*outwards(), {"to": [peer], "ports": [{"port": port, "protocol": "TCP"}]}]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("gke-workload-identity", {("169.254.169.254/32", 80), ("169.254.169.252/32", 988)}),
        ("eks-pod-identity", {("169.254.170.23/32", 80), ("fd00:ec2::23/128", 80)}),
    ],
)
def test_a_workload_identity_opens_its_addresses_alone(name: str, places: set[tuple[str, int]]) -> None:
    opened = outwards(name)[len(outwards()) :]
    assert {(rule["to"][0]["ipBlock"]["cidr"], rule["ports"][0]["port"]) for rule in opened} == places


@pytest.mark.parametrize(
    "wrong", ["", "minio", ":9000", "10.0.0.1:0", "10.0.0.1:70000", "10.0.0.1/8:9000", "Min_io:9000"]
)
def test_what_cannot_be_read_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="--egress") as refused:
        egress.rules([wrong])
    assert "minio:9000" in refused.value.remedy


def test_an_overlay_takes_it_as_a_patch_and_the_base_stays_closed() -> None:
    files = render.render(shipped(), "gpu", egress=["minio:9000"])
    assert files["base/network.yaml"] == render.render(shipped(), "gpu")["base/network.yaml"]
    patches = yaml.safe_load(files["overlays/gpu/kustomization.yaml"])["patches"]
    (patch,) = [p["patch"] for p in patches if p["target"]["name"] == "serinus-ray"]
    assert "minio" in patch
