"""Who may do and reach what: accounts and their rights, and which pods may speak to which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.kuberay import egress, redis
from cluster.kuberay.settings import (
    APP,
    CLIENT_LABEL,
    DASHBOARD_PORT,
    METRICS_PORT,
    NAME_LABEL,
    SERVICE_ACCOUNT,
    Document,
    labels,
    metadata,
)

RAY_PODS = {"matchExpressions": [{"key": "ray.io/is-ray-node", "operator": "In", "values": ["yes"]}]}
"""All nodes of all our clusters; KubeRay labels them."""
TLS_PORT, API_SERVER_PORT, DNS_PORT = 443, 6443, 53


def accounts() -> list[Document]:
    """The head's account and its role: what the autoscaler reads and patches, in this namespace, and nothing else."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(SERVICE_ACCOUNT, "ray-head"),
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
        ],
    }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(SERVICE_ACCOUNT, "ray-head"),
        "automountServiceAccountToken": False,  # a pod that needs the token says so itself
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(SERVICE_ACCOUNT, "ray-head"),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": SERVICE_ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT}],
    }
    return [account, role, binding]


def network(gateway_port: int, allowed: Sequence[str] = ()) -> list[Document]:
    """Nothing comes in or goes out but what is named here. Ports of the operator's pods are not ours to close.

    Args:
        allowed: what Ray's pods may reach outside beside the usual, as `egress.rules` takes it.

    Raises:
        ConfigError: one of `allowed` cannot be read.
    """
    ours = {"matchLabels": {NAME_LABEL: APP}}
    return [
        _policy("serinus-default-deny", ours, ["Ingress", "Egress"]),
        _policy(
            "serinus-ray",
            RAY_PODS,
            ["Ingress", "Egress"],
            # Ray's nodes open ports of their choice to each other; they ask for the token there.
            ingress=[{"from": [{"podSelector": RAY_PODS}]}],
            egress=[{"to": [{"podSelector": RAY_PODS}]}, _name_service(), _outside(), *egress.rules(allowed)],
        ),
        _policy(
            "serinus-head",
            {"matchLabels": labels("ray-head")},
            ["Ingress"],
            ingress=[
                {"from": [_submitters(), _operator()], "ports": [_port(DASHBOARD_PORT)]},
            ],
        ),
        _policy(
            "serinus-submitter",
            {"matchLabels": labels("submitter")},
            ["Egress"],
            egress=[
                {"to": [{"podSelector": {"matchLabels": labels("ray-head")}}], "ports": [_port(DASHBOARD_PORT)]},
                _name_service(),
            ],
        ),
        _policy(
            "serinus-gateway",
            {"matchLabels": labels("ray-serve")},
            ["Ingress"],
            ingress=[{"from": _clients(), "ports": [_port(gateway_port)]}],
        ),
    ]


def redis_network() -> list[Document]:
    head = {"podSelector": {"matchLabels": labels("ray-head")}}
    cleaner = {"podSelector": {"matchLabels": {"ray.io/node-type": "redis-cleanup"}}}
    to_redis = {"to": [{"podSelector": {"matchLabels": labels("redis")}}], "ports": [_port(redis.PORT)]}
    return [
        _policy(
            "serinus-redis",
            {"matchLabels": labels("redis")},
            ["Ingress"],
            ingress=[{"from": [head, cleaner], "ports": [_port(redis.PORT)]}],
        ),
        _policy("serinus-head-to-redis", {"matchLabels": labels("ray-head")}, ["Egress"], egress=[to_redis]),
    ]


def metrics_network() -> Document:
    """For a Prometheus in the namespace `monitoring`."""
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    return _policy(
        "serinus-metrics",
        RAY_PODS,
        ["Ingress"],
        ingress=[{"from": [prometheus], "ports": [_port(METRICS_PORT)]}],
    )


def gateway(cluster_name: str, gateway_port: int, *, tls: bool = False) -> Document:
    """The Service in front of the proxies of the pool that serves."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata("serinus-gateway", "gateway"),
        "spec": {
            "type": "ClusterIP",
            # By the cluster's name: the pods of jobs have a pool `serve` too, and no gateway.
            "selector": {"ray.io/cluster": cluster_name, "ray.io/group": "serve"},
            "ports": [{"name": "https" if tls else "http", "port": 443 if tls else 80, "targetPort": gateway_port}],
        },
    }


def _policy(name: str, pods: Document, types: list[str], **rules: list[Document]) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(name, "network"),
        "spec": {"podSelector": pods, "policyTypes": types, **rules},
    }


def _port(number: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"port": number, "protocol": protocol}


def _submitters() -> Document:
    return {"podSelector": {"matchLabels": labels("submitter")}}


def _operator() -> Document:
    """Wherever it runs: it asks heads how their jobs are."""
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": {NAME_LABEL: "kuberay-operator"}}}


def _clients() -> list[Document]:
    return [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {CLIENT_LABEL: "true"}}}]


def _name_service() -> Document:
    return {
        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
        "ports": [_port(DNS_PORT, "UDP"), _port(DNS_PORT)],
    }


def _outside() -> Document:
    """S3, model hubs and, for the autoscaler, the API server."""
    return {
        "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [str(egress.METADATA_SERVICES[0])]}}],
        "ports": [_port(TLS_PORT), _port(API_SERVER_PORT)],
    }
