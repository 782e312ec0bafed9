"""What `ray up ray_cluster.yaml` asks of AWS before it reaches a machine: Ray's own provider, and a server that speaks EC2 and IAM.

The server (moto) knows EC2's instance types, AWS's own policies and what RunInstances takes; it does not know the image, which is
of Ray's list for the region, nor whether a zone has such machines to spare.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml

from cluster.session import prepare_environment
from cluster.topology import load_topology
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration

FILE = REPOSITORY / "ray_cluster.yaml"
HEAD_POLICIES = {"AmazonEC2FullAccess", "AmazonS3FullAccess"}


@pytest.fixture
def aws(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray's AWS provider, whose account is the server's and whose home is empty; the region's client of EC2 as `client`."""
    (tmp_path / ".ssh").mkdir()
    settings = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "HOME": str(tmp_path)}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    prepare_environment()
    from ray.autoscaler._private.aws import config, node_provider

    # AWS needs half a minute until a new role is known everywhere.
    monkeypatch.setattr(config, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    return SimpleNamespace(provider=node_provider.AWSNodeProvider, client=lambda region: boto3.client("ec2", region))


def bootstrapped(aws: Any) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    validate_config(prepared)
    made: dict[str, Any] = aws.provider.bootstrap_config(prepared)
    return made


def node_config(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """As `ray up` and the autoscaler on the head put it together."""
    made: dict[str, Any] = dict(config["available_node_types"][kind]["node_config"])
    return made | config["head_node"] if kind == config["head_node_type"] else made


def tags(kind: str) -> dict[str, str]:
    from ray.autoscaler import tags as names

    role = names.NODE_KIND_HEAD if kind == "head" else names.NODE_KIND_WORKER
    return {
        names.TAG_RAY_NODE_KIND: role,
        names.TAG_RAY_USER_NODE_TYPE: kind,
        names.TAG_RAY_NODE_NAME: f"ray-serinus-{role}",
        names.TAG_RAY_NODE_STATUS: names.STATUS_UNINITIALIZED,
    }


def test_what_ray_up_asks_for_is_given_and_taken_back(aws: Any, tmp_path: Path) -> None:
    config = bootstrapped(aws)
    provider = aws.provider(config["provider"], config["cluster_name"])
    client = aws.client(config["provider"]["region"])
    kinds = list(config["available_node_types"])
    for kind in kinds:
        provider.create_node(node_config(config, kind), tags(kind), 1)

    ids = provider.non_terminated_nodes({})
    assert sorted(provider.node_tags(one)["ray-user-node-type"] for one in ids) == sorted(kinds)
    (head,) = provider.non_terminated_nodes({"ray-node-type": "head"})
    assert provider.node_tags(head)["ray-user-node-type"] == "head"
    machines = {provider.node_tags(one)["ray-user-node-type"]: _machine(client, one) for one in ids}
    declared = yaml.safe_load(FILE.read_text(encoding="utf-8"))["available_node_types"]
    for kind, machine in machines.items():
        asked = declared[kind]["node_config"]
        assert machine["InstanceType"] == asked["InstanceType"]
        assert machine["ImageId"].startswith("ami-")
        assert machine.get("InstanceLifecycle") == asked.get("InstanceMarketOptions", {}).get("MarketType")
        assert [_disk(client, machine)] == [one["Ebs"] for one in asked["BlockDeviceMappings"]]
        assert machine["Placement"]["AvailabilityZone"] in config["provider"]["availability_zone"].split(",")
    assert machines["data"]["InstanceLifecycle"] == "spot"
    _check_ways_in(client, config, machines, tmp_path)
    _check_rights(machines)

    provider.terminate_nodes(ids)
    assert provider.non_terminated_nodes({}) == []
    assert {_machine(client, one)["State"]["Name"] for one in ids} <= {"shutting-down", "terminated"}


def _machine(client: Any, instance: str) -> dict[str, Any]:
    (reservation,) = client.describe_instances(InstanceIds=[instance])["Reservations"]
    found: dict[str, Any] = reservation["Instances"][0]
    return found


def _disk(client: Any, machine: dict[str, Any]) -> dict[str, Any]:
    (disk,) = machine["BlockDeviceMappings"]
    (volume,) = client.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
    return {"VolumeSize": volume["Size"], "VolumeType": volume["VolumeType"], "Encrypted": volume["Encrypted"]}


def _check_ways_in(client: Any, config: dict[str, Any], machines: dict[str, dict[str, Any]], home: Path) -> None:
    """One key pair, whose private half is the user's alone, and one group: all among themselves, SSH from outside."""
    key = Path(config["auth"]["ssh_private_key"])
    assert key.parent == home / ".ssh"
    assert key.stat().st_mode & 0o077 == 0
    assert {machine["KeyName"] for machine in machines.values()} == {key.stem}
    groups = {group["GroupId"] for machine in machines.values() for group in machine["SecurityGroups"]}
    (group,) = client.describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]
    among = [pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
    assert set(among) == groups


def _check_rights(machines: dict[str, dict[str, Any]]) -> None:
    """The head may ask EC2 for machines, and use a bucket; Ray gives its workers no rights."""
    assert [kind for kind, machine in machines.items() if machine.get("IamInstanceProfile")] == ["head"]
    profile = machines["head"]["IamInstanceProfile"]["Arn"].rpartition("/")[2]
    iam = boto3.client("iam", "us-east-1")
    (role,) = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    attached = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    assert {policy["PolicyName"] for policy in attached} == HEAD_POLICIES
    assert "ec2.amazonaws.com" in json.dumps(role["AssumeRolePolicyDocument"])


def test_a_machine_that_ec2_does_not_have_is_refused(aws: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the other test would say nothing of instance types."""
    config = bootstrapped(aws)
    provider = aws.provider(config["provider"], config["cluster_name"])
    unknown = node_config(config, "serve") | {"InstanceType": "g6.5xlarge"}
    with pytest.raises(Exception, match=r"g6\.5xlarge"):
        provider.create_node(unknown, tags("serve"), 1)
    assert provider.non_terminated_nodes({}) == []


def test_pools_have_what_their_machines_have(aws: Any) -> None:
    """CPUs and GPUs, as EC2 tells them: Ray takes them from the file alone."""
    config = bootstrapped(aws)
    client = aws.client(config["provider"]["region"])
    for pool in load_topology(FILE).pools:
        kind = next(each for each in config["available_node_types"].values() if each["labels"] == pool.labels)
        (told,) = client.describe_instance_types(InstanceTypes=[kind["node_config"]["InstanceType"]])["InstanceTypes"]
        gpus = sum(gpu["Count"] for gpu in told.get("GpuInfo", {}).get("Gpus", ()))
        assert (pool.num_cpus, pool.num_gpus) == (told["VCpuInfo"]["DefaultVCpus"], gpus)
