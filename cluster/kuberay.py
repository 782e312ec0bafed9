"""The topology as a KubeRay document. Pure: k8s/base/raycluster.yaml is what this renders, and a test keeps it so."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.session import ENVIRONMENT
from cluster.topology import Pool, Topology

RAY_VERSION = "2.60.0"
IMAGE = "serinus:0.1.0"
"""Holds Ray, vLLM and the packages; an overlay names the registry."""

TOKEN_SECRET = "serinus-auth-token"  # noqa: S105  # the name of the Secret, not its content
"""Kubernetes Secret whose key `auth_token` is the cluster's token."""

UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

HEAD_RESOURCES = {"cpu": "4", "memory": "16Gi"}
GIB_PER_CPU = 4
"""Memory asked for beside each CPU: the ratio of the general-purpose machines that ray_cluster.yaml names."""

HEADER = (
    "# Rendered from ray_cluster.yaml by cluster/kuberay.py: change that file, then render again (see k8s/README.md).\n"
)


def ray_cluster(topology: Topology) -> dict[str, Any]:
    """The RayCluster (ray.io/v1) with one worker group a pool, autoscaler v2, token authentication and no root."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": topology.name, "labels": {"app.kubernetes.io/name": "serinus"}},
        "spec": {
            "rayVersion": RAY_VERSION,
            "enableInTreeAutoscaling": True,
            "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
            "autoscalerOptions": {
                "version": "v2",
                "idleTimeoutSeconds": int(topology.idle_timeout_s),
                "securityContext": UNPRIVILEGED,
            },
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104  # behind the Service
                "labels": topology.head.labels,
                "template": _template("ray-head", HEAD_RESOURCES),
            },
            "workerGroupSpecs": [_worker_group(pool) for pool in topology.pools],
        },
    }


def render(topology: Topology) -> str:
    """The RayCluster as YAML."""
    return HEADER + yaml.dump(ray_cluster(topology), Dumper=_NoAliases, sort_keys=False, width=120)


class _NoAliases(yaml.SafeDumper):
    """Says equal parts in full: an alias is no part of what people expect in a manifest."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _worker_group(pool: Pool) -> dict[str, Any]:
    resources = {"cpu": str(pool.num_cpus), "memory": f"{pool.num_cpus * GIB_PER_CPU}Gi"}
    if pool.num_gpus:
        resources["nvidia.com/gpu"] = str(pool.num_gpus)
    return {
        "groupName": pool.name,
        "replicas": pool.min_nodes,
        "minReplicas": pool.min_nodes,
        "maxReplicas": pool.max_nodes,
        "rayStartParams": {},
        "labels": pool.labels,
        "template": _template("ray-worker", resources),
    }


def _template(container: str, resources: dict[str, str]) -> dict[str, Any]:
    return {
        "spec": {
            "automountServiceAccountToken": container == "ray-head",  # the autoscaler beside the head asks the API
            "restartPolicy": "Never",  # the autoscaler replaces pods; one that restarts by itself confuses it
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": container,
                    "image": IMAGE,
                    "env": [
                        {"name": name, "value": value} for name, value in ENVIRONMENT.items() if name != "RAY_AUTH_MODE"
                    ],
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                    "securityContext": UNPRIVILEGED,
                }
            ],
        }
    }
