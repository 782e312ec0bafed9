"""Each of our own rules is broken once and noticed; what ships breaks none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.kuberay import render
from cluster.kuberay.rules import check, problems
from cluster.kuberay.settings import OVERLAYS
from tests.unit.cluster.kuberay.conftest import rendered, shipped

Document = dict[str, Any]
Documents = dict[str, Document]


def test_what_ships_breaks_no_rule(documents: list[Document]) -> None:
    assert problems(documents) == []


def _cluster(found: Documents) -> Document:
    spec: Document = found["RayCluster serinus"]["spec"]
    return spec


def _group(found: Documents, number: int = 0) -> Document:
    group: Document = _cluster(found)["workerGroupSpecs"][number]
    return group


def _pod(found: Documents) -> Document:
    spec: Document = _group(found)["template"]["spec"]
    return spec


def _container(found: Documents, number: int = 0) -> Document:
    container: Document = _group(found, number)["template"]["spec"]["containers"][0]
    return container


def _redis(found: Documents) -> Document:
    options: Document = _cluster(found)["gcsFaultToleranceOptions"]
    return options


def _budget(found: Documents) -> Document:
    spec: Document = found["PodDisruptionBudget serinus-gateway"]["spec"]
    return spec


def _service(found: Documents) -> Document:
    spec: Document = found["Service serinus-gateway"]["spec"]
    return spec


def _own_job(found: Documents) -> Document:
    spec: Document = found["RayJob assistant-7b-lifecycle-"]["spec"]
    return spec


def _shared_job(found: Documents) -> Document:
    spec: Document = found["RayJob assistant-7b-deploy-"]["spec"]
    return spec


Break = Callable[[Documents], object]
BROKEN: list[tuple[str, Break, str]] = [
    ("long cluster name", lambda d: d["RayCluster serinus"]["metadata"].update(name="s" * 54), "is no DNS label"),
    ("dotted job name", lambda d: d["RayJob assistant-7b-train-"]["metadata"].update(generateName="a.b-"), "is no DNS label"),
    ("long nightly name", lambda d: d["RayCronJob assistant-7b-nightly"]["metadata"].update(name="n" * 43), "is no DNS label"),
    ("no token", lambda d: _cluster(d).pop("authOptions"), "may run code there"),
    ("old Ray", lambda d: _cluster(d).update(rayVersion="2.51.0"), "that knows tokens"),
    ("two groups of a name", lambda d: _group(d).update(groupName="train"), "two worker groups"),
    ("pods restart", lambda d: _pod(d).update(restartPolicy="Always"), "never restart"),
    ("labels to ray start", lambda d: _group(d)["rayStartParams"].update(labels="a=b"), "rayStartParams are refused"),
    ("resources twice", lambda d: _group(d).update(resources={"CPU": "1"}, rayStartParams={"num-cpus": "1"}), "given twice"),
    ("replicas above max", lambda d: _group(d).update(replicas=99), "replicas are not between"),
    ("Redis by variable", lambda d: _container(d)["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "x"}), "RAY_REDIS_ADDRESS"),
    ("Redis in plain text", lambda d: _redis(d).update(redisPassword={"value": "x"}), "in plain text"),
    ("two clusters for a job", lambda d: _own_job(d).update(clusterSelector={"ray.io/cluster": "x"}), "own or one to share"),
    ("no cluster for a job", lambda d: _shared_job(d).pop("clusterSelector"), "own or one to share"),
    ("retries on a shared cluster", lambda d: _shared_job(d).update(backoffLimit=1), "is not tried again"),
    ("ends a shared cluster", lambda d: _shared_job(d).update(shutdownAfterJobFinishes=True), "would end the cluster"),
    ("time to live alone", lambda d: _own_job(d).update(shutdownAfterJobFinishes=False), "a time to live"),
    ("no deadline", lambda d: _own_job(d).pop("activeDeadlineSeconds"), "for ever"),
    ("no schedule", lambda d: d["RayCronJob assistant-7b-nightly"]["spec"].update(schedule="nightly"), "is no schedule"),
    ("root", lambda d: _pod(d)["securityContext"].update(runAsUser=0), "may run as root"),
    ("root by default", lambda d: _pod(d).pop("securityContext"), "may run as root"),
    ("all system calls", lambda d: _pod(d)["securityContext"].pop("seccompProfile"), "every system call"),
    ("host network", lambda d: _pod(d).update(hostNetwork=True), "the machine's namespaces"),
    ("token unasked", lambda d: _pod(d).pop("automountServiceAccountToken"), "without asking"),
    ("host path", lambda d: _pod(d)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "a folder of the machine"),
    ("privileged", lambda d: _container(d)["securityContext"].update(privileged=True), "may gain privileges"),
    ("capabilities", lambda d: _container(d)["securityContext"].update(capabilities={"drop": []}), "keeps capabilities"),
    ("latest", lambda d: _container(d).update(image="serinus:latest"), "changes under its name"),
    ("no tag", lambda d: _container(d).update(image="registry:5000/serinus"), "changes under its name"),
    ("no limits", lambda d: _container(d)["resources"].pop("limits"), "the whole machine"),
    ("GPUs differ", lambda d: _container(d, 1)["resources"]["requests"].update({"nvidia.com/gpu": "1"}), "GPUs asked for"),
    ("a secret", lambda d: _container(d)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}), "in plain text"),
    ("mount adrift", lambda d: _pod(d)["volumes"].clear(), "which no volume is"),
    ("rights to everything", lambda d: d["Role serinus-head"]["rules"][0].update(verbs=["*"]), "than the autoscaler needs"),
    ("rights to secrets", lambda d: d["Role serinus-head"]["rules"][0]["resources"].append("secrets"), "than the autoscaler"),
    ("a person's rights to everything", lambda d: d["Role serinus-admin"]["rules"][0].update(apiGroups=["*"]), "than a person"),
    ("a person in another's name", lambda d: d["Role serinus-viewer"]["rules"][0].update(verbs=["impersonate"]), "a person"),
    ("a cluster's role", lambda d: d["Role serinus-head"].update(kind="ClusterRole"), "beyond its namespace"),
    ("load balancer", lambda d: _service(d).update(type="LoadBalancer"), "reachable from outside"),
    ("dashboard opened", lambda d: _service(d)["ports"][0].update(targetPort=8265), "a port of Ray"),
    ("budget in percent", lambda d: _budget(d).update(minAvailable="50%"), "minAvailable alone"),
    ("budget of all", lambda d: _budget(d).update(minAvailable=2), "no machine of theirs could be drained"),
    ("unready pods stay", lambda d: _budget(d).pop("unhealthyPodEvictionPolicy"), "not ready would keep their machines"),
    ("Service of nobody", lambda d: _service(d)["selector"].update({"ray.io/group": "server"}), "selects no pod"),
    ("budget of nobody", lambda d: _budget(d)["selector"]["matchLabels"].update(a="b"), "selects no pod"),
    ("nothing closed", lambda d: d.pop("NetworkPolicy serinus-default-deny"), "none closes everything"),
    ("a pod left open", lambda d: _group(d)["template"]["metadata"].update(labels={}), "no policy closes this pod"),
]  # fmt: skip


@pytest.mark.parametrize(("breaking", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_rule_is_noticed(production: Documents, breaking: Break, says: str) -> None:
    broken = copy.deepcopy(production)
    breaking(broken)
    found = problems(list(broken.values()))
    assert any(says in problem.found for problem in found), found
    assert all(problem.where and problem.remedy for problem in found)


def test_a_name_that_the_operator_would_refuse_is_refused_before() -> None:
    topology = shipped().replace(name="a-cluster-with-a-name-that-is-much-too-long-for-a-dns-label")
    with pytest.raises(ConfigError, match="is no DNS label of at most 53"):
        render.render(topology, "gpu")


def test_every_breach_is_named_in_one_error() -> None:
    broken = copy.deepcopy(rendered("gpu"))
    for group in broken[0]["spec"]["workerGroupSpecs"]:
        group["template"]["spec"]["hostNetwork"] = True
    with pytest.raises(ConfigError) as refused:
        check(broken)
    assert str(refused.value).count("shares the machine's namespaces") == 3


def test_every_overlay_has_a_kustomization_of_its_name() -> None:
    assert [settings.name for settings in OVERLAYS.values()] == list(OVERLAYS)
