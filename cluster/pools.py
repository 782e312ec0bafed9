"""Where in a joined cluster a stage runs: the pools it has, their living nodes, and what those hold."""

from __future__ import annotations

from cluster.errors import ResourceError
from cluster.topology import AUTOSCALED_LABEL, POOL_LABEL


def on_pool(pool: str) -> dict[str, str]:
    """Label selector for work on that pool; empty (anywhere) in a cluster that has no such pool."""
    return {POOL_LABEL: pool} if has_pool(pool) else {}


def has_pool(pool: str) -> bool:
    """Whether a node of it lives, or did (the head remembers the last thousand that died), or is brought where work waits for it.

    Work for a pool whose last machine is gone waits for the next one (cluster/waiting.py), and goes to no other pool."""
    import ray

    return any(node.get("Labels", {}).get(POOL_LABEL) == pool for node in ray.nodes()) or is_autoscaled()


def lacks_node(pool: str) -> bool:
    """Whether the cluster has the pool, and the pool no living node."""
    return not num_nodes({POOL_LABEL: pool}) and has_pool(pool)


def is_autoscaled() -> bool:
    """Whether the joined cluster gets more nodes where work waits for them."""
    return num_nodes({AUTOSCALED_LABEL: "true"}) > 0


def num_nodes(selector: dict[str, str]) -> int:
    """Living nodes with these labels. In a joined cluster."""
    return len(node_hosts(selector))


def node_hosts(selector: dict[str, str]) -> list[str]:
    """Addresses of the living nodes with these labels. In a joined cluster."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and selector.items() <= node.get("Labels", {}).items()]
    return [str(node["NodeManagerAddress"]) for node in nodes]


def check_gpus(pool: str, num_gpus: int, field: str) -> None:
    """Refuse at once what no node of the pool could ever hold: a task that waits for it would wait for ever. Of nodes that are
    still to come nothing is known here: `serinus cluster check` reads what an autoscaler's have.

    Raises:
        ResourceError: no living node of the pool has so many GPUs.
    """
    import ray

    if lacks_node(pool):
        return
    wanted = on_pool(pool)
    nodes = [n for n in ray.nodes() if n["Alive"] and wanted.items() <= n.get("Labels", {}).items()]
    most = max((int(n["Resources"].get("GPU", 0)) for n in nodes), default=0)
    if num_gpus > most:
        remedy = f"lower {field}, or use a pool whose nodes have them (0 runs on CPUs)"
        raise ResourceError(field, f"{num_gpus} GPUs are asked for, a node of pool `{pool}` has {most}", remedy)
