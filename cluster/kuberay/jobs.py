"""RayJobs: a recipe's lifecycle as a whole or stage by stage on clusters of their own, and commands on the one that serves.

A lifecycle gets its own cluster: it comes with the nodes of its stages, goes when they are done, and whatever it does
to its head or its machines, users of the gateway do not notice. What it makes is in storage, where the cluster that serves
finds it. Each is created with a generated name (`kubectl create -f`), so that the same file can be run again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from cluster.kuberay.clusters import cluster_spec
from cluster.kuberay.pods import POD_SECURITY, UNPRIVILEGED
from cluster.kuberay.settings import RECIPE_FILE, Document, Settings, Workload, labels, shaped
from cluster.topology import Topology

DAY_S = 24 * 3600
LIFECYCLE_DEADLINE_S, COMMAND_DEADLINE_S = 7 * DAY_S, 3600
KEPT_AFTER_S = 300
"""How long the cluster of an ended job stays. Short, since minReplicas hold its GPU nodes, paid for, until it goes; long enough
to look at a node that broke off. The job's status and log need no cluster: the RayJob and the submitting pod stay."""
RETRIES = 0
"""Of a lifecycle. The operator repeats whatever ended with another code than 0, each time on a new cluster: a gate's no (1) and a
recipe's mistake (2) would come out the same. One that broke off (3) goes on where it was when its job is created again, since
each stage's result is in storage."""
SUBMITTER_RESOURCES = {"cpu": "500m", "memory": "1Gi"}
NIGHTLY = "17 2 * * *"
"""At 02:17, off the full hour at which everyone's jobs start."""


def jobs(topology: Topology, settings: Settings, work: Workload) -> dict[str, Document]:
    """Job -> document: `lifecycle`, each stage, `nightly`, `deploy`, `canary`; `prepare` where the recipe has inputs to make."""
    run = ["serinus", "run", RECIPE_FILE]
    made = {"lifecycle": _own(topology, settings, work, "lifecycle", command=run, nodes=_most(work.nodes))}
    for stage, nodes in work.nodes.items():
        made[stage] = _own(topology, settings, work, stage, command=[*run, "--until", stage], nodes=nodes)
    if work.prepare:
        made["prepare"] = _own(topology, settings, work, "prepare", command=shlex.split(work.prepare), nodes={})
    made["nightly"] = _nightly(made["lifecycle"], work)
    made["deploy"] = _shared(topology, settings, work, "deploy", ["serinus", "deploy", RECIPE_FILE])
    made["canary"] = _shared(
        topology, settings, work, "canary", ["serinus", "canary", "start", "--recipe", RECIPE_FILE]
    )
    return made


def job_name(model: str, what: str) -> str:
    """A DNS label that leaves room for what the API server and KubeRay append."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    name = name if name[:1].isalpha() else f"m-{name}"
    return f"{name[:24].rstrip('-')}-{what}"


def _most(stages: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    pools = dict.fromkeys(pool for nodes in stages.values() for pool in nodes)
    return {pool: max(nodes.get(pool, 0) for nodes in stages.values()) for pool in pools}


def _own(
    topology: Topology, settings: Settings, work: Workload, what: str, *, command: list[str], nodes: Mapping[str, int]
) -> Document:
    """On a cluster that comes and goes with the job. Nothing answers users there, and nothing needs to outlive its head."""
    quiet = settings.replace(survives_head=False, min_serve_nodes=0, gateway_tls=False)
    return _job(
        work,
        what,
        {
            "entrypoint": shlex.join(command),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_AFTER_S,
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": LIFECYCLE_DEADLINE_S,
            "rayClusterSpec": cluster_spec(shaped(topology, quiet), quiet, work.port, nodes),
        },
        settings,
    )


def _shared(topology: Topology, settings: Settings, work: Workload, what: str, command: list[str]) -> Document:
    """A command on the cluster that serves. Not tried again by itself: whether it should be is a person's question."""
    return _job(
        work,
        what,
        {
            "entrypoint": shlex.join(command),
            "clusterSelector": {"ray.io/cluster": topology.name},
            "activeDeadlineSeconds": COMMAND_DEADLINE_S,
        },
        settings,
    )


def _job(work: Workload, what: str, spec: dict[str, Any], settings: Settings) -> Document:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"generateName": f"{job_name(work.name, what)}-", "labels": labels("job")},
        "spec": {**spec, "submissionMode": "K8sJobMode", "submitterPodTemplate": _submitter(settings)},
    }


def _nightly(lifecycle: Document, work: Workload) -> Document:
    """The lifecycle every night: nothing to do unless its sources, its recipe or its image have changed."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {"name": job_name(work.name, "nightly"), "labels": labels("job")},
        "spec": {
            "schedule": NIGHTLY,
            "timeZone": "Etc/UTC",
            "jobTemplate": {**lifecycle["spec"], "activeDeadlineSeconds": DAY_S - 3600},  # it ends before the next one
        },
    }


def _submitter(settings: Settings) -> Document:
    """The pod that hands the command to the head and prints its log. It needs no access to the API."""
    container = {
        "name": "ray-job-submitter",
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": dict(SUBMITTER_RESOURCES), "limits": dict(SUBMITTER_RESOURCES)},
        "securityContext": UNPRIVILEGED,
    }
    return {
        "metadata": {"labels": labels("submitter")},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": POD_SECURITY,
            "containers": [container],
        },
    }
