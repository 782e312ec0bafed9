"""What no schema says: what the operator would refuse when the document is already applied, and what we ask of every pod.

The operator's rules are those of KubeRay's validation.go (1.7); the pods' are the `restricted` Pod Security Standard of
Kubernetes and what its policy linters ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from cluster.errors import ConfigError
from cluster.kuberay.disruption import refusals
from cluster.kuberay.settings import COMPONENT_LABEL, PEOPLE, Document

MAX_CLUSTER_NAME = 53
"""63 letters of a DNS label less `-serve-svc`, which the operator appends."""
MAX_JOB_NAME = MAX_CLUSTER_NAME - 6
"""Less the `-` and five letters of the job's cluster."""
GENERATED = 5
"""Letters that the API server appends to generateName."""
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
CRON = re.compile(r"(\S+\s+){4}\S+|@(hourly|daily|weekly|monthly|yearly|every \d+[hms])")
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|ACCESS_KEY")
HARMLESS = frozenset({"TOKENIZERS_PARALLELISM"})
"""Has a suspicious name and holds no secret."""
MIN_RAY_FOR_TOKENS = (2, 52)
RAY_PORTS = (6379, 8265, 10001)


class Problem(NamedTuple):
    """One rule that one document breaks."""

    where: str
    found: str
    remedy: str


Rule = Callable[[Document], Iterator[Problem]]


def check(documents: Iterable[Document]) -> None:
    """Raise what is wrong with the documents.

    Raises:
        ConfigError: at least one of them breaks a rule; every breach is named.
    """
    found = problems(tuple(documents))
    if not found:
        return
    first, *rest = found
    more = "".join(f"\n{problem.where}: {problem.found}" for problem in rest)
    raise ConfigError(first.where, first.found + more, "; ".join(dict.fromkeys(problem.remedy for problem in found)))


def problems(documents: Sequence[Document]) -> list[Problem]:
    """What is wrong with these documents, applied together."""
    return [
        *(problem for document in documents for rule in RULES for problem in rule(document)),
        *_selected(documents),
        *_closed(documents),
        *(Problem(_where(document), *told) for document, *told in refusals(documents)),
    ]


def _names(document: Document) -> Iterator[Problem]:
    longest = {"RayCluster": MAX_CLUSTER_NAME, "RayJob": MAX_JOB_NAME, "RayCronJob": MAX_JOB_NAME - GENERATED}
    if (most := longest.get(document["kind"])) is None:
        return
    given = document["metadata"]
    name = given.get("name") or given["generateName"] + "x" * GENERATED
    if len(name) > most or not DNS_LABEL.fullmatch(name):
        where = f"{document['kind']} {given.get('name') or given['generateName']}"
        found = f"is no DNS label of at most {most} letters"
        yield Problem(where, found, "shorten `cluster_name` or the recipe's `name`; letters, digits and hyphens")


def _clusters(document: Document) -> Iterator[Problem]:
    for spec in _cluster_specs(document):
        where = _where(document)
        version = tuple(int(part) for part in re.findall(r"\d+", spec.get("rayVersion", "0.0"))[:2])
        if spec.get("authOptions", {}).get("mode") != "token":
            yield Problem(where, "anyone who reaches the head may run code there", "set authOptions.mode: token")
        elif version < MIN_RAY_FOR_TOKENS:
            yield Problem(where, "no rayVersion that knows tokens", "set rayVersion to 2.52 or later")
        names = [group["groupName"] for group in spec.get("workerGroupSpecs", ())]
        if len(names) != len(set(names)):
            yield Problem(where, "two worker groups have one name", "name each group once")
        for name, group in _groups(spec):
            yield from _group(f"{where}, group {name}", group, spec.get("gcsFaultToleranceOptions"))


def _group(where: str, group: Document, fault_tolerance: Any) -> Iterator[Problem]:
    pod = group["template"]["spec"]
    if pod.get("restartPolicy") != "Never":
        yield Problem(where, "the v2 autoscaler takes pods that never restart alone", "set restartPolicy: Never")
    if "labels" in group["rayStartParams"]:
        yield Problem(where, "labels in rayStartParams are refused", "use the group's `labels`")
    if group.get("resources") and group["rayStartParams"].keys() & {"num-cpus", "num-gpus", "memory", "resources"}:
        yield Problem(where, "resources are given twice", "use rayStartParams or `resources`, not both")
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 1)
    if not least <= group.get("replicas", least) <= most:
        yield Problem(
            where, f"replicas are not between {least} and {most}", "set minReplicas <= replicas <= maxReplicas"
        )
    given = {variable["name"] for variable in pod["containers"][0].get("env", ())}
    if reserved := given & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}:
        found = f"sets {', '.join(sorted(reserved))}"
        yield Problem(where, found, "use gcsFaultToleranceOptions and autoscalerOptions.version")
    password = (fault_tolerance or {}).get("redisPassword", {})
    if fault_tolerance and "valueFrom" not in password:
        yield Problem(
            where, "Redis has no password, or one in plain text", "refer to a Secret in redisPassword.valueFrom"
        )


def _jobs(document: Document) -> Iterator[Problem]:
    if document["kind"] not in ("RayJob", "RayCronJob"):
        return
    where, spec = _where(document), document["spec"]
    if document["kind"] == "RayCronJob":
        if not CRON.fullmatch(spec["schedule"]):
            yield Problem(where, f"{spec['schedule']!r} is no schedule", "give five fields, as in `17 2 * * *`")
        spec = spec["jobTemplate"]
    owns, shares = "rayClusterSpec" in spec, bool(spec.get("clusterSelector"))
    if owns == shares:
        yield Problem(where, "needs a cluster of its own or one to share, and not both", "keep one of the two")
    if shares and spec.get("backoffLimit"):
        yield Problem(where, "a job on a shared cluster is not tried again", "leave backoffLimit out")
    ends = spec.get("shutdownAfterJobFinishes", False)
    if shares and ends:
        yield Problem(where, "would end the cluster that it shares", "leave shutdownAfterJobFinishes out")
    if spec.get("ttlSecondsAfterFinished") and not ends:
        yield Problem(where, "a time to live needs a cluster that ends", "set shutdownAfterJobFinishes: true")
    if spec.get("activeDeadlineSeconds", 0) <= 0:
        yield Problem(where, "may hold its nodes for ever", "set activeDeadlineSeconds above 0")


def _pods(document: Document) -> Iterator[Problem]:
    for name, pod in pods(document):
        where = f"{_where(document)}, {name}"
        security = pod.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
            yield Problem(where, "may run as root", "set runAsNonRoot and runAsUser")
        if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield Problem(where, "may use every system call", "set seccompProfile.type: RuntimeDefault")
        if pod.get("hostNetwork") or pod.get("hostPID") or pod.get("hostIPC"):
            yield Problem(where, "shares the machine's namespaces", "leave hostNetwork, hostPID and hostIPC out")
        if "automountServiceAccountToken" not in pod:
            yield Problem(where, "gets the API's token without asking", "set automountServiceAccountToken")
        if any("hostPath" in volume for volume in pod.get("volumes", ())):
            yield Problem(where, "mounts a folder of the machine", "use emptyDir, ephemeral or a claim")
        for container in pod["containers"]:
            yield from _container(f"{where}, container {container['name']}", container, pod)


def _container(where: str, container: Document, pod: Document) -> Iterator[Problem]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield Problem(where, "may gain privileges", "set allowPrivilegeEscalation: false")
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield Problem(where, "keeps capabilities of root", "drop ALL")
    if not re.search(r":[^/:]+$|@sha256:", container["image"]) or container["image"].endswith(":latest"):
        yield Problem(where, f"image {container['image']} changes under its name", "give a tag other than latest")
    resources = container.get("resources", {})
    if not all({"cpu", "memory"} <= resources.get(kind, {}).keys() for kind in ("requests", "limits")):
        yield Problem(where, "may take the whole machine", "set requests and limits for cpu and memory")
    asked, allowed = ({k: v for k, v in resources.get(kind, {}).items() if "/" in k} for kind in ("requests", "limits"))
    if asked != allowed:
        yield Problem(where, "GPUs asked for and allowed differ", "set both to the same number")
    for variable in container.get("env", ()):
        if SECRET_NAME.search(variable["name"]) and "value" in variable and variable["name"] not in HARMLESS:
            yield Problem(where, f"{variable['name']} is in plain text", "use valueFrom.secretKeyRef")
    if adrift := {mount["name"] for mount in container.get("volumeMounts", ())} - _volumes(pod):
        yield Problem(where, f"mounts {', '.join(sorted(adrift))}, which no volume is", "add the volume")


def _roles(document: Document) -> Iterator[Problem]:
    if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
        yield Problem(_where(document), "reaches beyond its namespace", "use a Role and a RoleBinding")
    if document["kind"] != "Role":
        return
    of_people = document["metadata"]["labels"].get(COMPONENT_LABEL) == PEOPLE
    refused = {"*", "escalate", "bind", "impersonate"} | (set() if of_people else {"secrets", "pods/exec"})
    if any(refused & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]} for rule in document["rules"]):
        whose = "a person" if of_people else "the autoscaler"
        yield Problem(_where(document), f"gives more than {whose} needs", "name resources and verbs")


def _services(document: Document) -> Iterator[Problem]:
    if document["kind"] != "Service":
        return
    if document["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield Problem(
            _where(document), "is reachable from outside", "use ClusterIP, and an Ingress or Gateway with TLS"
        )
    for port in document["spec"]["ports"]:
        if port["targetPort"] in RAY_PORTS and document["metadata"]["name"] != "serinus-redis":
            yield Problem(_where(document), "opens a port of Ray", "only the gateway is for users")


RULES: tuple[Rule, ...] = (_names, _clusters, _jobs, _pods, _roles, _services)


def _selected(documents: Sequence[Document]) -> Iterator[Problem]:
    """Services and budgets select pods that are there."""
    there = [found for document in documents for found in _labels_of_pods(document)]
    for document in documents:
        match document["kind"]:
            case "Service":
                wanted = document["spec"]["selector"]
            case "PodDisruptionBudget":
                wanted = document["spec"]["selector"]["matchLabels"]
            case _:
                continue
        if there and not any(wanted.items() <= found.items() for found in there):
            yield Problem(_where(document), f"selects no pod of these documents ({wanted})", "correct the selector")


def _closed(documents: Sequence[Document]) -> Iterator[Problem]:
    """Where there are policies, one closes all pods in both directions."""
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    closing = [
        p for p in policies if set(p["policyTypes"]) == {"Ingress", "Egress"} and not p.keys() & {"ingress", "egress"}
    ]
    if policies and not closing:
        yield Problem(
            "NetworkPolicy", "none closes everything that the others do not open", "keep serinus-default-deny"
        )
    everyone = [selector["podSelector"].get("matchLabels", {}) for selector in closing]
    for document in documents:
        for name, pod_labels in _template_labels(document):
            if closing and not any(wanted.items() <= pod_labels.items() for wanted in everyone):
                yield Problem(
                    f"{_where(document)}, {name}", "no policy closes this pod", "give it the labels of serinus"
                )


def pods(document: Document) -> Iterator[tuple[str, Document]]:
    """Name and pod specification of every pod that the document makes."""
    for name, template in _templates(document):
        yield name, template["spec"]


def _templates(document: Document) -> Iterator[tuple[str, Document]]:
    for spec in _cluster_specs(document):
        for name, group in _groups(spec):
            yield f"group {name}", group["template"]
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", spec)
    if "submitterPodTemplate" in spec:
        yield "submitter", spec["submitterPodTemplate"]
    if document["kind"] in ("StatefulSet", "Deployment", "Job"):
        yield "pod", spec["template"]


def _template_labels(document: Document) -> Iterator[tuple[str, dict[str, str]]]:
    for name, template in _templates(document):
        yield name, template.get("metadata", {}).get("labels", {})


def _labels_of_pods(document: Document) -> Iterator[dict[str, str]]:
    """With those that KubeRay adds to the pods of a RayCluster."""
    for name, given in _template_labels(document):
        added: dict[str, str] = {}
        if document["kind"] == "RayCluster":
            group = name.removeprefix("group ")
            added = {"ray.io/cluster": document["metadata"]["name"], "ray.io/group": group}
        yield {**given, **added}


def _cluster_specs(document: Document) -> Iterator[Document]:
    spec = document.get("spec", {})
    if document["kind"] == "RayCluster":
        yield spec
    elif "rayClusterSpec" in (job := spec.get("jobTemplate", spec)):
        yield job["rayClusterSpec"]


def _groups(spec: Document) -> Iterator[tuple[str, Document]]:
    yield "headgroup", spec["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", ()):
        yield group["groupName"], group


def _volumes(pod: Document) -> set[str]:
    return {volume["name"] for volume in pod.get("volumes", ())} | {"data"}  # `data` is the StatefulSet's claim


def _where(document: Document) -> str:
    given = document["metadata"]
    return f"{document['kind']} {given.get('name') or given.get('generateName')}"
