"""The pools of machines that ray_cluster.yaml describes, and the same scaled to one machine. Pure: no Ray here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cluster.config import StrictModel, load_yaml

POOL_LABEL = "serinus.io/pool"
"""Node label that tells the pools apart."""

HEAD = "head"
POOLS = ("data", "train", "serve")
"""Pools that stages and services ask for; each must be in the topology once."""

FILE_NAME = "ray_cluster.yaml"

Count = Annotated[int, Field(ge=0)]


class NodeType(StrictModel):
    """One entry of `available_node_types`, with the keys of Ray's own schema (ray/autoscaler/ray-schema.json)."""

    resources: dict[str, Count]
    """Spelled out (CPU, GPU): the topology is read without asking the cloud what an instance type has."""
    labels: dict[str, str]
    node_config: dict[str, Any]
    min_workers: Count = 0
    max_workers: Count = 0
    idle_timeout_s: float | None = None
    priority: int | None = None
    initialization_commands: list[Any] = []
    worker_setup_commands: list[Any] = []
    docker: dict[str, Any] = {}

    @field_validator("labels")
    @classmethod
    def _labelled(cls, labels: dict[str, str]) -> dict[str, str]:
        known = (HEAD, *POOLS)
        if labels.get(POOL_LABEL) not in known:
            raise ValueError(f"must hold `{POOL_LABEL}` with one of {', '.join(known)}")
        return labels

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above max_workers ({self.max_workers})")
        return self


class LauncherFile(StrictModel):
    """The keys of a cluster-launcher file. Only those with a plain type are read here; `ray up` checks the others."""

    cluster_name: str = Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
    """Lower-case letters, digits and hyphens: it also names the Kubernetes cluster."""
    provider: dict[str, Any]
    available_node_types: dict[str, NodeType]
    head_node_type: str
    max_workers: Count = 2
    upscaling_speed: float = 1.0
    idle_timeout_minutes: float = 5.0
    auth: Any = None
    docker: Any = None
    file_mounts: Any = None
    cluster_synced_files: Any = None
    file_mounts_sync_continuously: bool = False
    rsync_exclude: Any = None
    rsync_filter: Any = None
    metadata: Any = None
    initialization_commands: Any = None
    setup_commands: Any = None
    head_setup_commands: Any = None
    worker_setup_commands: Any = None
    head_start_ray_commands: Any = None
    worker_start_ray_commands: Any = None
    no_restart: bool = False

    @field_validator("available_node_types")
    @classmethod
    def _each_pool_once(cls, types: dict[str, NodeType]) -> dict[str, NodeType]:
        pools = [node.labels[POOL_LABEL] for node in types.values()]
        for pool in (HEAD, *POOLS):
            if (found := pools.count(pool)) != 1:
                raise ValueError(f"exactly one node type must be labelled `{POOL_LABEL}: {pool}`, there are {found}")
        for name, node in types.items():
            if node.labels[POOL_LABEL] != HEAD and not (node.resources.get("CPU") and node.max_workers):
                raise ValueError(f"`{name}` must have at least 1 CPU in `resources` and `max_workers` of at least 1")
        return types

    @field_validator("head_node_type")
    @classmethod
    def _head_is_there(cls, name: str, info: ValidationInfo) -> str:
        types = info.data.get("available_node_types")
        if types is not None and (name not in types or types[name].labels[POOL_LABEL] != HEAD):
            raise ValueError(f"must name the node type labelled `{POOL_LABEL}: {HEAD}`")
        return name


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
    """Custom resources, beside CPU and GPU."""


class Topology(StrictModel):
    """What ray_cluster.yaml says of the machines."""

    name: str
    head: Pool
    pools: tuple[Pool, ...]
    idle_timeout_s: float = 300.0

    def pool(self, name: str) -> Pool:
        return next(pool for pool in (self.head, *self.pools) if pool.name == name)


def load_topology(path: str | Path | None = None) -> Topology:
    """Read a cluster-launcher file; without `path` the one in the working folder, else the one beside the packages.

    Raises:
        ConfigError: no such file, or it lacks a pool, a resource or a label; with file, line and field.
    """
    beside = Path(__file__).resolve().parent.parent / FILE_NAME
    file = Path(path) if path else Path(FILE_NAME) if Path(FILE_NAME).exists() else beside
    return _topology(load_yaml(file, LauncherFile))


def _topology(launcher: LauncherFile) -> Topology:
    pools = {node.labels[POOL_LABEL]: _pool(node) for node in launcher.available_node_types.values()}
    return Topology(
        name=launcher.cluster_name,
        head=pools[HEAD].replace(min_nodes=1, max_nodes=1),
        pools=tuple(pools[name] for name in POOLS),
        idle_timeout_s=launcher.idle_timeout_minutes * 60,
    )


def _pool(node: NodeType) -> Pool:
    return Pool(
        name=node.labels[POOL_LABEL],
        num_cpus=node.resources.get("CPU", 0),
        num_gpus=node.resources.get("GPU", 0),
        min_nodes=node.min_workers,
        max_nodes=node.max_workers,
        labels=node.labels,
        resources={name: count for name, count in node.resources.items() if name not in ("CPU", "GPU")},
    )


class LocalNode(StrictModel):
    """One pool's node on this machine."""

    pool: str
    host: str
    """A loopback address of its own: Ray tells nodes apart by address and rewrites 127.0.0.1 to the outside one."""
    num_cpus: int
    gpus: tuple[int, ...] = ()
    """Indices among the GPUs this process sees."""
    labels: dict[str, str]
    resources: dict[str, int] = {}


MIN_CPUS = {"data": 2, "train": 4, "serve": 4}
"""Logical CPUs a pool has at least. data: a reader and a mapper. train: two ranks, the trainer's controller and the
tasks that feed them. serve: the gateway, two revisions and an offline evaluation beside them. Ray only counts these
CPUs, so on a small machine the pools overlap: the stages of a lifecycle run one after another and share the cores."""


def scaled(topology: Topology, num_cores: int, num_gpus: int) -> tuple[LocalNode, ...]:
    """The topology with one node a pool on a machine of `num_cores` and `num_gpus`; the head comes first."""
    gpus = share_gpus(num_gpus)
    return tuple(
        LocalNode(
            pool=pool.name,
            host=f"127.0.0.{number}",
            num_cpus=0 if pool.name == HEAD else max(MIN_CPUS[pool.name], num_cores),
            gpus=gpus.get(pool.name, ()) if pool.num_gpus else (),
            labels=pool.labels,
            resources=pool.resources,
        )
        for number, pool in enumerate((topology.head, *topology.pools), start=2)
    )


def share_gpus(num_gpus: int) -> dict[str, tuple[int, ...]]:
    """Which GPUs of one machine go to which pool: the last half (rounded down) serves, the others train.

    A single GPU is in both pools, like the cores: training and quantizing end before serving starts in a lifecycle.
    """
    if num_gpus == 1:
        return {"train": (0,), "serve": (0,)}
    num_train = num_gpus - num_gpus // 2
    return {"train": tuple(range(num_train)), "serve": tuple(range(num_train, num_gpus))}
