"""The RayCluster: one worker group a pool, the v2 autoscaler, token authentication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.kuberay.pods import UNPRIVILEGED, head_pod, worker_pod
from cluster.kuberay.redis import fault_tolerance
from cluster.kuberay.settings import GATEWAY_PORT, RAY_VERSION, TOKEN_SECRET, Document, Settings, labels, shaped
from cluster.topology import Pool, Topology

AUTOSCALER_RESOURCES = {"cpu": "500m", "memory": "1Gi"}


def ray_cluster(topology: Topology, settings: Settings, gateway_port: int = GATEWAY_PORT) -> Document:
    """The RayCluster (ray.io/v1) that serves, and whose pools jobs may use."""
    spec = cluster_spec(shaped(topology, settings), settings, gateway_port)
    if settings.survives_head:
        spec["gcsFaultToleranceOptions"] = fault_tolerance()
    # A change of the specification reaches new pods alone: `Recreate` would end every replica and every run at once.
    spec["upgradeStrategy"] = {"type": "None"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": topology.name, "labels": labels("ray")},
        "spec": spec,
    }


def cluster_spec(
    topology: Topology, settings: Settings, gateway_port: int, nodes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """A cluster of all pools; with `nodes`, of those pools alone and with at least so many nodes each."""
    pools = topology.pools
    if nodes is not None:
        pools = tuple(_at_least(pool, nodes[pool.name]) for pool in pools if pool.name in nodes)
    return {
        "rayVersion": RAY_VERSION,
        "enableInTreeAutoscaling": True,
        "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": int(topology.idle_timeout_s),
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": dict(AUTOSCALER_RESOURCES), "limits": dict(AUTOSCALER_RESOURCES)},
            "securityContext": UNPRIVILEGED,
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104  # behind the NetworkPolicy
            "labels": topology.head.labels,
            "template": head_pod(settings, gateway_port),
        },
        "workerGroupSpecs": [_worker_group(pool, settings, gateway_port) for pool in pools],
    }


def _at_least(pool: Pool, num_nodes: int) -> Pool:
    return pool.replace(min_nodes=num_nodes, max_nodes=max(num_nodes, pool.max_nodes))


def _worker_group(pool: Pool, settings: Settings, gateway_port: int) -> Document:
    return {
        "groupName": pool.name,
        "replicas": pool.min_nodes,
        "minReplicas": pool.min_nodes,
        "maxReplicas": pool.max_nodes,
        "rayStartParams": {},
        "labels": pool.labels,
        "template": worker_pod(pool, settings, gateway_port),
    }
