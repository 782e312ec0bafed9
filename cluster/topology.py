"""The pools of machines that ray_cluster.yaml describes. Pure: no Ray here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cluster.config import StrictModel, load_yaml
from cluster.launcher import (
    AUTOSCALED_LABEL,
    HEAD,
    POOL_LABEL,
    POOLS,
    LauncherFile,
    LocalPool,
    LocalProvider,
    NodeType,
)

__all__ = [
    "AUTOSCALED_LABEL",
    "FILE_NAME",
    "HEAD",
    "MIN_CPUS",
    "POOLS",
    "POOL_LABEL",
    "Pool",
    "Topology",
    "load_topology",
]

FILE_NAME = "ray_cluster.yaml"


class Pool(StrictModel):
    """Machines of one kind."""

    name: str
    num_cpus: int
    """Per node, as Ray counts them; the head has 0, so that no task runs there."""
    num_gpus: int = 0
    min_nodes: int = 1
    max_nodes: int = 1
    labels: dict[str, str]
    resources: dict[str, int] = {}
    """Custom resources, beside CPU, GPU and memory."""
    memory_bytes: int | None = None
    """Of one node, where it is declared (`memory` among its resources)."""
    instance_type: str | None = None
    """As the cloud names the machine."""
    hosts: tuple[str, ...] = ()
    """Addresses of machines that are there already."""


class Topology(StrictModel):
    """What ray_cluster.yaml says of the machines."""

    name: str
    head: Pool
    pools: tuple[Pool, ...]
    idle_timeout_s: float = 300.0
    max_workers: int | None = None
    """Nodes of all pools together, without the head; None when the pools' own limits are all there is."""

    def pool(self, name: str) -> Pool:
        return next(pool for pool in (self.head, *self.pools) if pool.name == name)


def load_topology(path: str | Path | None = None) -> Topology:
    """Read a cluster-launcher file; without `path` the one in the working folder, else the one beside the packages.

    Raises:
        ConfigError: no such file, or it lacks a pool, a resource or a label; with file, line and field.
    """
    return _topology(load_yaml(topology_file(path), LauncherFile))


def topology_file(path: str | Path | None = None) -> Path:
    """`path`, else the file of the working folder, else the one beside the packages."""
    beside = Path(__file__).resolve().parent.parent / FILE_NAME
    return Path(path) if path else Path(FILE_NAME) if Path(FILE_NAME).exists() else beside


def pool_of(topology: Topology, addresses: Iterable[str]) -> Pool | None:
    """The pool of the machine with these addresses, where the topology names machines."""
    ours = set(addresses)
    return next((pool for pool in (topology.head, *topology.pools) if ours & set(pool.hosts)), None)


def start_flags(pool: Pool) -> list[str]:
    """Options of `ray start` for a machine of that pool."""
    labels = ",".join(f"{name}={value}" for name, value in pool.labels.items())
    flags = [f"--num-cpus={pool.num_cpus}", f"--num-gpus={pool.num_gpus}", f"--labels={labels}"]
    flags += [f"--memory={pool.memory_bytes}"] if pool.memory_bytes else []
    return flags + ([f"--resources={json.dumps(pool.resources)}"] if pool.resources else [])


def _topology(launcher: LauncherFile) -> Topology:
    if isinstance(launcher.provider, LocalProvider):
        return _on_premise(launcher, launcher.provider)
    pools = {node.labels[POOL_LABEL]: _pool(node) for node in launcher.available_node_types.values()}
    return Topology(
        name=launcher.cluster_name,
        head=pools[HEAD].replace(min_nodes=1, max_nodes=1),
        pools=tuple(pools[name] for name in POOLS),
        idle_timeout_s=launcher.idle_timeout_minutes * 60,
        max_workers=launcher.max_workers,
    )


def _on_premise(launcher: LauncherFile, provider: LocalProvider) -> Topology:
    return Topology(
        name=launcher.cluster_name,
        head=Pool(name=HEAD, num_cpus=0, labels={POOL_LABEL: HEAD}, hosts=(provider.head_ip,)),
        pools=tuple(_local_pool(name, provider.pools[name]) for name in POOLS),
        idle_timeout_s=launcher.idle_timeout_minutes * 60,
    )


def _local_pool(name: str, pool: LocalPool) -> Pool:
    return Pool(
        name=name,
        num_cpus=pool.resources["CPU"],
        num_gpus=pool.resources.get("GPU", 0),
        min_nodes=len(pool.ips),
        max_nodes=len(pool.ips),
        labels={POOL_LABEL: name, **pool.labels},
        resources=_custom(pool.resources),
        memory_bytes=pool.resources.get("memory"),
        hosts=pool.ips,
    )


def _pool(node: NodeType) -> Pool:
    return Pool(
        name=node.labels[POOL_LABEL],
        num_cpus=node.resources.get("CPU", 0),
        num_gpus=node.resources.get("GPU", 0),
        min_nodes=node.min_workers,
        max_nodes=node.max_workers,
        # True of what the launcher starts alone: neither one machine nor a job's cluster on Kubernetes gets more nodes.
        labels={name: value for name, value in node.labels.items() if name != AUTOSCALED_LABEL},
        instance_type=node.node_config.get("InstanceType"),
        resources=_custom(node.resources),
        memory_bytes=node.resources.get("memory"),
    )


def _custom(resources: Mapping[str, int]) -> dict[str, int]:
    """Without those that Ray has options of their own for."""
    return {name: count for name, count in resources.items() if name not in ("CPU", "GPU", "memory")}


MIN_CPUS = {"data": 2, "train": 4, "serve": 4}
"""Logical CPUs a pool has at least. data: a reader and a mapper. train: two ranks, the trainer's controller and the
tasks that feed them. serve: the gateway, two revisions and an offline evaluation beside them. Ray only counts these
CPUs, so on a small machine the pools overlap: the stages of a lifecycle run one after another and share the cores."""
