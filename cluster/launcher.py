"""The cluster-launcher file: what we read of it, and whether Ray's own schema takes it. Pure: no Ray here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from cluster.config import StrictModel
from cluster.errors import ConfigError

POOL_LABEL = "serinus.io/pool"
"""Node label that tells the pools apart."""

AUTOSCALED_LABEL = "serinus.io/autoscaled"
"""Label of the head, "true" where Ray's autoscaler brings nodes of pools that have none: work waits for them there."""

HEAD = "head"
POOLS = ("data", "train", "serve")
"""Pools that stages and services ask for; each must be in the topology once."""

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


class LocalPool(StrictModel):
    """Machines of one pool on your premises."""

    ips: tuple[str, ...] = Field(min_length=1)
    """Also in `worker_ips`, which is where Ray looks for them."""
    resources: dict[str, Count]
    """CPU, GPU and others of one machine, as Ray will count them there."""
    labels: dict[str, str] = {}


class LocalProvider(StrictModel):
    """Machines that are there already. Ray knows one kind of them; `pools`, which Ray ignores, says which is in which pool."""

    type: Literal["local"]
    head_ip: str
    worker_ips: tuple[str, ...]
    pools: dict[str, LocalPool]
    cache_stopped_nodes: bool = True
    external_head_ip: str | None = None

    @field_validator("pools")
    @classmethod
    def _each_machine_in_one_pool(cls, pools: dict[str, LocalPool], info: ValidationInfo) -> dict[str, LocalPool]:
        if set(pools) != set(POOLS):
            raise ValueError(f"must be {', '.join(POOLS)}")
        if poor := [name for name, pool in pools.items() if not pool.resources.get("CPU")]:
            raise ValueError(f"`{poor[0]}` must have at least 1 CPU in `resources`")
        named = [ip for pool in pools.values() for ip in pool.ips]
        if sorted(named) != sorted(info.data.get("worker_ips", named)):
            raise ValueError("each of worker_ips must be in one pool, and no other machine")
        return pools


class CloudProvider(StrictModel):
    """Any other provider: its keys are Ray's business."""

    model_config = ConfigDict(extra="allow")

    type: str


def _kind_of_provider(provider: Any) -> str:
    kind = provider.get("type") if isinstance(provider, dict) else getattr(provider, "type", None)
    return "local" if kind == "local" else "cloud"


Provider = Annotated[
    Annotated[LocalProvider, Tag("local")] | Annotated[CloudProvider, Tag("cloud")], Discriminator(_kind_of_provider)
]


class LauncherFile(StrictModel):
    """The keys of a cluster-launcher file. Only those with a plain type are read here; `ray up` checks the others."""

    cluster_name: str = Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
    """Lower-case letters, digits and hyphens: it also names the Kubernetes cluster."""
    provider: Provider
    available_node_types: dict[str, NodeType] = Field(default={}, validate_default=True)
    head_node_type: str = Field(default="", validate_default=True)
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
    def _each_pool_once(cls, types: dict[str, NodeType], info: ValidationInfo) -> dict[str, NodeType]:
        if isinstance(info.data.get("provider"), LocalProvider):
            if types:
                raise ValueError("Ray takes none from provider `local`: describe the machines in `provider.pools`")
            return types
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
        if isinstance(info.data.get("provider"), LocalProvider):
            return HEAD
        if types is not None and (name not in types or types[name].labels[POOL_LABEL] != HEAD):
            raise ValueError(f"must name the node type labelled `{POOL_LABEL}: {HEAD}`")
        return name


def check_launcher(path: Path) -> None:
    """Hold the launcher file against Ray's schema. What our own reading refuses was refused before.

    Raises:
        ConfigError: a key that Ray does not know, or a value of another kind.
    """
    from jsonschema import Draft7Validator

    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    errors = sorted(Draft7Validator(_schema()).iter_errors(document), key=lambda error: list(map(str, error.path)))
    if not errors:
        return
    first, *rest = [f"{'.'.join(map(str, error.path)) or 'document'}: {error.message}" for error in errors]
    where, _, found = first.partition(": ")
    remedy = "see the launcher's reference: docs.ray.io, Cluster YAML Configuration Options"
    raise ConfigError(f"{path}: {where}", "\n".join([found, *(f"{path}: {line}" for line in rest)]), remedy)


def _schema() -> dict[str, Any]:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    schema: dict[str, Any] = json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    return schema
