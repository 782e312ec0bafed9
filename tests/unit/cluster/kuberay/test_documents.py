"""What the documents say: pools as groups, pods that fit on their machines, who may reach whom, jobs with their nodes."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.kuberay import access, render
from cluster.kuberay.clusters import ray_cluster
from cluster.kuberay.jobs import job_name, jobs
from cluster.kuberay.pods import DRAIN_AT_SIGTERM, GIB_PER_CPU, pod_resources
from cluster.kuberay.rules import check
from cluster.kuberay.settings import BASE, OVERLAYS, STOPPING_S, Workload
from cluster.topology import POOL_LABEL, Pool
from tests.unit.cluster.kuberay.conftest import shipped, workload

WORK = Workload(
    name="m",
    recipe="name: m",
    prepare="python prepare.py",
    nodes={"clean": {"data": 1}, "train": {"train": 2, "data": 1}, "evaluate": {"serve": 1}, "publish": {}},
)


def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = cluster.get("spec", cluster)
    spec = spec.get("rayClusterSpec", spec)
    return {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def limits(group: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return found


def test_each_pool_is_a_worker_group_with_its_label_and_limits() -> None:
    found = groups(ray_cluster(shipped(), BASE))
    assert [group["labels"] for group in found.values()] == [{POOL_LABEL: name} for name in ("data", "train", "serve")]
    assert (found["serve"]["minReplicas"], found["data"]["maxReplicas"]) == (1, 8)
    assert limits(found["train"])["nvidia.com/gpu"] == "8"
    assert "nvidia.com/gpu" not in limits(found["data"])
    tolerations = {name: group["template"]["spec"].get("tolerations") for name, group in found.items()}
    assert tolerations["data"] is None
    assert tolerations["train"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 16, 32, 96, 192])
def test_a_pod_leaves_room_on_its_machine(num_cpus: int) -> None:
    found = pod_resources(Pool(name="data", num_cpus=num_cpus, labels={}))
    assert 1 <= int(found["cpu"]) <= max(1, num_cpus - 1)
    assert int(found["memory"].removesuffix("Gi")) < num_cpus * GIB_PER_CPU


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_pools_have_time_to_leave_and_then_to_end(overlay: str) -> None:
    """Ray itself drains the node at SIGTERM, for as long as that variable says."""
    settings = OVERLAYS[overlay]
    for group in groups(ray_cluster(shipped(), settings)).values():
        spec = group["template"]["spec"]
        (leaves_s,) = (float(v["value"]) for v in spec["containers"][0]["env"] if v["name"] == DRAIN_AT_SIGTERM)
        assert 0 < leaves_s == spec["terminationGracePeriodSeconds"] - STOPPING_S
        assert spec["terminationGracePeriodSeconds"] < 120, "what EC2 gives"


def test_dev_asks_for_little_and_no_gpu() -> None:
    found = ray_cluster(shipped(), OVERLAYS["dev"])
    for group in groups(found).values():
        assert group["minReplicas"] == group["maxReplicas"] == 1
        assert group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "250m"
        assert "nvidia.com/gpu" not in limits(group)


def test_production_keeps_the_heads_state_and_two_that_serve() -> None:
    found = ray_cluster(shipped(), OVERLAYS["production"])
    assert (
        found["spec"]["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]
        == "serinus-redis"
    )
    assert groups(found)["serve"]["minReplicas"] == 2
    assert "gcsFaultToleranceOptions" not in ray_cluster(shipped(), OVERLAYS["gpu"])["spec"]


def test_the_gateways_port_is_the_recipes_everywhere() -> None:
    cluster = ray_cluster(shipped(), BASE, gateway_port=9000)
    serve = groups(cluster)["serve"]["template"]["spec"]["containers"][0]
    assert {"name": "gateway", "containerPort": 9000} in serve["ports"]
    assert "http://localhost:9000/-/healthz" in serve["readinessProbe"]["exec"]["command"][-1]
    assert access.gateway("serinus", 9000)["spec"]["ports"][0]["targetPort"] == 9000
    (policy,) = [p for p in access.network(9000) if p["metadata"]["name"] == "serinus-gateway"]
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": 9000, "protocol": "TCP"}]


def test_a_jobs_cluster_has_the_nodes_of_its_stages_and_no_others() -> None:
    made = jobs(shipped(), OVERLAYS["production"], WORK)
    assert list(made) == [
        "lifecycle",
        "clean",
        "train",
        "evaluate",
        "publish",
        "prepare",
        "nightly",
        "deploy",
        "canary",
    ]
    counts = {
        name: {g: d["minReplicas"] for g, d in groups(made[name]["spec"]).items()}
        for name in ("lifecycle", "train", "publish")
    }
    assert counts == {"lifecycle": {"data": 1, "train": 2, "serve": 1}, "train": {"data": 1, "train": 2}, "publish": {}}
    assert "gcsFaultToleranceOptions" not in made["lifecycle"]["spec"]["rayClusterSpec"]


def test_a_command_runs_on_the_cluster_that_serves_and_a_stage_does_not() -> None:
    made = jobs(shipped(), OVERLAYS["gpu"], WORK)
    assert made["deploy"]["spec"]["clusterSelector"] == {"ray.io/cluster": shipped().name}
    assert "clusterSelector" not in made["train"]["spec"]
    assert made["train"]["spec"]["entrypoint"] == "serinus run /etc/serinus/recipe/recipe.yaml --until train"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_ended_job_holds_its_nodes_for_minutes_and_is_not_tried_again(overlay: str) -> None:
    made = jobs(shipped(), OVERLAYS[overlay], WORK)
    own = {name: job["spec"].get("jobTemplate", job["spec"]) for name, job in made.items()}
    own = {name: spec for name, spec in own.items() if "rayClusterSpec" in spec}
    assert set(own) == set(made) - {"deploy", "canary"}
    for spec in own.values():
        assert 0 < spec["ttlSecondsAfterFinished"] <= 600
        assert spec["backoffLimit"] == 0
    nightly = own["nightly"]
    assert nightly["activeDeadlineSeconds"] + nightly["ttlSecondsAfterFinished"] < 24 * 3600, "two nights would overlap"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2", "smollm2-train"),
        ("llama-3.1-8b", "llama-3-1-8b-train"),
        ("7b", "m-7b-train"),
        ("an-assistant-for-everyone-else-here", "an-assistant-for-everyon-train"),
    ],
)
def test_a_models_name_becomes_a_jobs(model: str, name: str) -> None:
    assert job_name(model, "train") == name


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_the_nodes_of_the_shipped_recipes(overlay: str) -> None:
    work = workload(overlay)
    assert work is not None
    train = {"dev": {"data": 1, "train": 1}, "production": {"data": 1, "train": 2}}[overlay]
    assert work.nodes["train"] == train
    assert work.nodes["evaluate"] == {"serve": 1}
    assert (work.prepare is not None) == (overlay == "dev")


def test_only_the_head_may_ask_the_api_and_only_for_what_the_autoscaler_needs() -> None:
    cluster = ray_cluster(shipped(), BASE)
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert (head["serviceAccountName"], head["automountServiceAccountToken"]) == ("serinus-head", True)
    assert not any(g["template"]["spec"]["automountServiceAccountToken"] for g in groups(cluster).values())
    (role,) = [document for document in access.accounts() if document["kind"] == "Role"]
    rights = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert rights == {("pods", "get"), ("pods", "list"), ("rayclusters", "get"), ("rayclusters", "patch")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_variables_that_a_recipe_names_are_on_every_head_and_nowhere_else(overlay: str) -> None:
    made = jobs(shipped(), OVERLAYS[overlay], WORK)
    jobs_specs = [job["spec"].get("jobTemplate", job["spec"]).get("rayClusterSpec") for job in made.values()]
    specs = [ray_cluster(shipped(), OVERLAYS[overlay])["spec"], *(spec for spec in jobs_specs if spec)]
    named = {"secretRef": {"name": "serinus-environment", "optional": True}}
    for spec in specs:
        assert named in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["envFrom"]
        for group in spec["workerGroupSpecs"]:
            assert named not in group["template"]["spec"]["containers"][0]["envFrom"]


def test_nobody_but_submitters_and_the_operator_reaches_the_dashboard() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in access.network(8000)}
    open_to = [
        (name, rule["from"])
        for name, policy in policies.items()
        for rule in policy.get("ingress", ())
        if any(port["port"] == 8265 for port in rule.get("ports", ()))
    ]
    ((name, sources),) = open_to
    assert name == "serinus-head"
    assert [s["podSelector"]["matchLabels"].get("app.kubernetes.io/component") for s in sources] == ["submitter", None]
    outside = [rule for rule in policies["serinus-ray"]["egress"] if "ipBlock" in rule["to"][0]]
    assert outside[0]["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]


def test_a_gateway_with_https_has_its_certificate_from_a_secret() -> None:
    plain, found = (ray_cluster(shipped(), OVERLAYS["gpu"].replace(gateway_tls=tls)) for tls in (False, True))
    assert "gateway-tls" not in str(plain)
    pods = {"head": found["spec"]["headGroupSpec"], **groups(found)}
    for name, group in pods.items():
        spec = group["template"]["spec"]
        mounted = {"name": "tls", "secret": {"secretName": "serinus-gateway-tls"}} in spec["volumes"]
        assert mounted == (name in ("head", "serve")), "who listens, and nobody else"
    assert "https://localhost:8000" in str(pods["serve"]["template"]["spec"]["containers"][0]["readinessProbe"])
    assert access.gateway("serinus", 8000, tls=True)["spec"]["ports"][0] == {
        "name": "https", "port": 443, "targetPort": 8000,
    }  # fmt: skip
    own = jobs(shipped(), OVERLAYS["gpu"].replace(gateway_tls=True), WORK)["lifecycle"]
    assert "gateway-tls" not in str(own), "nothing answers users on the cluster of a job"


@pytest.mark.parametrize(
    ("overlay", "asked", "kept"), [("production", 1, 1), ("production", 4, 3), ("gpu", 1, None), ("gpu", 3, 2)]
)
def test_all_pods_but_one_that_are_always_there_outlast_a_drain(overlay: str, asked: int, kept: int | None) -> None:
    """Of a lone one there is no budget, which would refuse every drain."""
    topology = shipped()
    pools = tuple(pool.replace(min_nodes=asked) if pool.name == "serve" else pool for pool in topology.pools)
    found = render.overlay(topology.replace(pools=pools), OVERLAYS[overlay])
    check(found)
    budgets = [document["spec"] for document in found if document["kind"] == "PodDisruptionBudget"]
    assert [budget["minAvailable"] for budget in budgets] == ([] if kept is None else [kept])
