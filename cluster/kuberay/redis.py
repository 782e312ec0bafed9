"""Redis for the head's state, so that a lost head is replaced and the replicas it left behind go on."""

from __future__ import annotations

from typing import Any

from cluster.kuberay.pods import POD_SECURITY, UNPRIVILEGED
from cluster.kuberay.settings import REDIS_SECRET, Document, labels, metadata

NAME, PORT = "serinus-redis", 6379
IMAGE = "redis:7.2.5"
"""The last series under the BSD licence."""
RESOURCES = {"cpu": "500m", "memory": "1Gi"}

CONFIGURE = (
    r"printf 'requirepass %s\nappendonly yes\ndir /data\nmaxmemory-policy noeviction\n' "
    '"$REDIS_PASSWORD" | exec redis-server -'
)
"""Through standard input: as an argument the password would be in every list of processes."""


def fault_tolerance() -> dict[str, Any]:
    """gcsFaultToleranceOptions of the cluster that serves."""
    password = {"valueFrom": {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}}
    return {"backend": "redis", "redisAddress": f"{NAME}:{PORT}", "redisPassword": password}


def documents() -> list[Document]:
    """Service and StatefulSet of one Redis with a disk. One: while it restarts, Ray waits for it."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(NAME, "redis"),
        "spec": {
            "clusterIP": "None",
            "selector": labels("redis"),
            "ports": [{"name": "redis", "port": PORT, "targetPort": "redis"}],
        },
    }
    stateful_set = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(NAME, "redis"),
        "spec": {
            "serviceName": NAME,
            "replicas": 1,
            "selector": {"matchLabels": labels("redis")},
            "template": {"metadata": {"labels": labels("redis")}, "spec": _pod()},
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
                }
            ],
        },
    }
    return [service, stateful_set]


def _pod() -> Document:
    alive = {"exec": {"command": ["sh", "-c", 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli ping | grep -q PONG']}}
    container = {
        "name": "redis",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", CONFIGURE],
        "env": [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}}],
        "ports": [{"name": "redis", "containerPort": PORT}],
        "resources": {"requests": dict(RESOURCES), "limits": dict(RESOURCES)},
        "securityContext": {**UNPRIVILEGED, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {**alive, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
    }
