"""What stages and services ask of the pools, and whether a topology can ever give it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cluster.config import StrictModel
from cluster.topology import HEAD, Pool, Topology

GIB = 2**30

GPU_MEMORY_GIB = {
    "T4": 16, "P100": 16, "V100": 16, "A10G": 24, "L4": 24, "A10": 24, "A40": 48, "L40": 48, "L40S": 48, "RTXPRO6000": 96,
    "A100": 40, "A100-80G": 80, "H100": 80, "GH200": 96, "H200": 141, "B200": 180,
}  # fmt: skip
"""By NVIDIA's data sheets, under the names that Ray gives them (the label ray.io/accelerator-type)."""

AWS_GPUS = {
    "g4dn": "T4", "g5": "A10G", "g6": "L4", "gr6": "L4", "g6e": "L40S", "p3": "V100",
    "p4d": "A100", "p4de": "A100-80G", "p5": "H100", "p5e": "H200", "p5en": "H200", "p6-b200": "B200",
}  # fmt: skip
"""GPU of an instance family (AWS's pages of instance types)."""

AWS_GIB_PER_CPU = {
    "g4dn": 4, "g5": 4, "g6": 4, "gr6": 8, "g6e": 8, "p4d": 12, "p4de": 12,
    "c": 2, "m": 4, "r": 8,
}  # fmt: skip
"""Memory for each vCPU of an instance family, or of all families with that first letter but c5n (AWS's pages of instance types)."""

ACCELERATOR_LABEL = "ray.io/accelerator-type"


class Demand(StrictModel):
    """Workers or replicas that must run at the same time on one pool."""

    field: str
    """Of the recipe, for people."""
    stage: str
    pool: str
    count: int = 1
    cpus: float = 0
    gpus: float = 0
    """Of each; what one worker asks for must be on one node."""
    gpu_bytes: int = 0
    """What each of its GPUs must hold at least; 0 when that is not known."""
    host_bytes: int = 0
    """What each holds at least in its machine's own memory; 0 when that is not known."""
    memory_field: str = ""
    """What to change when it does not fit."""


class Finding(NamedTuple):
    """What is likely a mistake."""

    where: str
    found: str
    remedy: str


def per_node(pool: Pool, demand: Demand) -> int:
    """How many of the demand's workers fit on one node of the pool."""
    by_cpu = pool.num_cpus / demand.cpus if demand.cpus else demand.count
    by_gpu = pool.num_gpus / demand.gpus if demand.gpus else demand.count
    return int(min(by_cpu, by_gpu, demand.count) + 1e-6)


def nodes(pool: Pool, demand: Demand) -> int:
    """Nodes of the pool that hold the demand; 0 when no number of them does."""
    fit = per_node(pool, demand)
    return math.ceil(demand.count / fit) if fit else 0


def stage_nodes(topology: Topology, demands: Sequence[Demand]) -> dict[str, dict[str, int]]:
    """Stage -> pool -> nodes that it needs at once."""
    needed: dict[str, dict[str, int]] = {}
    for demand in demands:
        pools = needed.setdefault(demand.stage, {})
        if demand.pool != HEAD:
            pools[demand.pool] = max(pools.get(demand.pool, 0), nodes(topology.pool(demand.pool), demand), 1)
    return needed


def findings(topology: Topology, demands: Sequence[Demand]) -> list[Finding]:
    """What of the demands the topology can never give, each once: the same engine may be asked for by several stages."""
    found = [finding for demand in demands for finding in _of_one(topology, demand)]
    return list(dict.fromkeys([*found, *_together(topology, demands)]))


def _of_one(topology: Topology, demand: Demand) -> Iterator[Finding]:
    pool = topology.pool(demand.pool)
    if not per_node(pool, demand):
        found = f"asks for {_amount(demand.cpus, demand.gpus)} on one node; a node of pool `{pool.name}` has "
        remedy = f"lower it, or give the nodes of pool `{pool.name}` more"
        yield Finding(demand.field, found + _amount(pool.num_cpus, pool.num_gpus), remedy)
    elif (needed := nodes(pool, demand)) > pool.max_nodes:
        found = f"{demand.count} of {_amount(demand.cpus, demand.gpus)} need {needed} nodes of pool `{pool.name}`, it has at most "
        remedy = f"lower it, or raise max_workers of pool `{pool.name}` to {needed}"
        yield Finding(demand.field, f"{found}{pool.max_nodes}", remedy)
    if demand.gpus and demand.gpu_bytes and (memory := gpu_bytes(pool)) and demand.gpu_bytes > memory:
        found = (
            f"each GPU must hold {demand.gpu_bytes / GIB:.1f} GiB of it, "
            f"a GPU of pool `{pool.name}` has {memory / GIB:.0f} GiB"
        )
        yield Finding(demand.memory_field or demand.field, found, "spread it over more GPUs, or use larger ones")
    yield from _in_memory(pool, demand)


def _in_memory(pool: Pool, demand: Demand) -> Iterator[Finding]:
    """Ray places workers by CPUs and GPUs alone: so many as fit by these may come to one machine."""
    memory, together = host_bytes(pool), max(per_node(pool, demand), 1)
    if memory and together * demand.host_bytes > memory:
        found = (
            f"{together} of them may be on one node and hold {together * demand.host_bytes / GIB:.1f} GiB there, "
            f"a node of pool `{pool.name}` has {memory / GIB:.0f} GiB of memory"
        )
        fits = demand.host_bytes <= memory
        fewer = "let fewer share a node, by fewer of them or more CPUs for each, " if fits else ""
        yield Finding(demand.memory_field or demand.field, found, f"{fewer}or use larger nodes".removeprefix("or "))


def _together(topology: Topology, demands: Sequence[Demand]) -> Iterator[Finding]:
    """The limit of all pools together, beside those that always run."""
    if topology.max_workers is None:
        return
    always = {pool.name: pool.min_nodes for pool in topology.pools}
    for stage, needed in stage_nodes(topology, demands).items():
        total = sum(max(always[name], needed.get(name, 0)) for name in always)
        if total > topology.max_workers:
            found = f"is {topology.max_workers}; stage {stage} needs {total} nodes, those that always run among them"
            yield Finding("max_workers", found, f"raise it to {total}")


def gpu_bytes(pool: Pool) -> int | None:
    """Memory of one GPU of the pool, where its kind is known."""
    kind = pool.labels.get(ACCELERATOR_LABEL)
    if kind is None and pool.instance_type:
        kind = AWS_GPUS.get(pool.instance_type.partition(".")[0])
    return GPU_MEMORY_GIB[kind] * GIB if kind in GPU_MEMORY_GIB else None


def host_bytes(pool: Pool) -> int | None:
    """Memory of one node of the pool: as declared, else that of the instance type where it is known."""
    if pool.memory_bytes or not pool.instance_type:
        return pool.memory_bytes
    family, _, size = pool.instance_type.partition(".")
    sized = re.fullmatch(r"(\d*)(x?)large", size)
    general = family[:1] if re.fullmatch(r"[cmr]\d+[a-z]*(-flex)?", family) and family != "c5n" else ""
    per_cpu = AWS_GIB_PER_CPU.get(family) or AWS_GIB_PER_CPU.get(general)
    if not sized or not per_cpu:
        return None
    num_cpus = 4 * int(sized[1] or 1) if sized[2] else 2
    return num_cpus * per_cpu * GIB


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
