"""The topology on one machine: which nodes, how large, by the profile that `serinus up` is given. Pure: no Ray here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Literal, NamedTuple

from cluster.config import StrictModel
from cluster.topology import HEAD, MIN_CPUS, Pool, Topology

ProfileName = Literal["tiny", "laptop", "workstation"]

ALL = "all"
"""The one node of profile `tiny` that all pools share. It carries no pool's label, so that work for any pool goes there."""

MIN_STORE_BYTES, MAX_STORE_BYTES = 256 << 20, 8 << 30


class Profile(StrictModel):
    """How much of the machine a cluster takes, and in how many nodes."""

    shared: bool = False
    """One node for all pools, rather than one or more for each."""
    nodes: dict[str, int] = {}
    """Nodes of a pool, where it gets more than one; never more than the topology gives it, or than there are GPUs for."""
    store_percent: int
    """Of the machine's memory, for the object stores of all nodes together."""
    max_store_bytes: int = MAX_STORE_BYTES
    """Of one node."""


PROFILES: dict[ProfileName, Profile] = {
    "tiny": Profile(shared=True, store_percent=4),
    "laptop": Profile(store_percent=8),
    # A second machine to read and to serve on: work is spread over nodes, and what one loses the other has.
    "workstation": Profile(nodes={"data": 2, "serve": 2}, store_percent=24, max_store_bytes=32 << 30),
}


class Machine(NamedTuple):
    """What there is to share out."""

    num_cores: int
    num_gpus: int
    memory_bytes: int


class LocalNode(StrictModel):
    """One node on this machine."""

    pool: str
    number: int = 1
    """Among the nodes of its pool."""
    host: str
    """A loopback address of its own: Ray tells nodes apart by address and rewrites 127.0.0.1 to the outside one. Where other
    machines are to join, the machine's own."""
    num_cpus: int
    gpus: tuple[int, ...] = ()
    """Indices among the GPUs this process sees."""
    labels: dict[str, str]
    resources: dict[str, int] = {}
    store_bytes: int = MIN_STORE_BYTES

    @property
    def name(self) -> str:
        """Of the node's folder, and for people."""
        return self.pool if self.number == 1 else f"{self.pool}-{self.number}"


def scaled(
    topology: Topology, machine: Machine, profile: ProfileName = "laptop", host: str | None = None
) -> tuple[LocalNode, ...]:
    """The nodes of the topology on a machine; the head comes first.

    Args:
        host: the machine's address, for all nodes; None gives each a loopback address.
    """
    shape = PROFILES[profile]
    rest = [_shared(topology, machine)] if shape.shared else list(_of_pools(topology, machine, shape))
    head = LocalNode(pool=HEAD, host="", num_cpus=0, labels=topology.head.labels, resources=topology.head.resources)
    nodes = [head, *rest]
    store = machine.memory_bytes * shape.store_percent // 100 // len(nodes)
    store = min(max(store, MIN_STORE_BYTES), shape.max_store_bytes)
    return tuple(
        node.replace(host=host or f"127.0.0.{place}", store_bytes=store) for place, node in enumerate(nodes, start=2)
    )


def _shared(topology: Topology, machine: Machine) -> LocalNode:
    return LocalNode(
        pool=ALL,
        host="",
        num_cpus=max(sum(MIN_CPUS.values()), machine.num_cores),
        gpus=tuple(range(machine.num_gpus)) if any(pool.num_gpus for pool in topology.pools) else (),
        labels={},
        resources={name: count for pool in topology.pools for name, count in pool.resources.items()},
    )


def _of_pools(topology: Topology, machine: Machine, shape: Profile) -> Iterator[LocalNode]:
    shared = share_gpus(machine.num_gpus)
    for pool in topology.pools:
        gpus = shared.get(pool.name, ()) if pool.num_gpus else ()
        count = _num_nodes(pool, shape.nodes.get(pool.name, 1), len(gpus))
        for number in range(count):
            yield LocalNode(
                pool=pool.name,
                number=number + 1,
                host="",
                num_cpus=max(MIN_CPUS[pool.name], machine.num_cores // count),
                gpus=gpus[number * len(gpus) // count : (number + 1) * len(gpus) // count],
                labels=pool.labels,
                resources=pool.resources,
            )


def _num_nodes(pool: Pool, wanted: int, num_gpus: int) -> int:
    return max(1, min(wanted, pool.max_nodes, num_gpus or wanted))


def share_gpus(num_gpus: int) -> dict[str, tuple[int, ...]]:
    """Which GPUs of one machine go to which pool: the last half (rounded down) serves, the others train.

    A single GPU is in both pools, like the cores: training and quantizing end before serving starts in a lifecycle.
    """
    if num_gpus == 1:
        return {"train": (0,), "serve": (0,)}
    num_train = num_gpus - num_gpus // 2
    return {"train": tuple(range(num_train)), "serve": tuple(range(num_train, num_gpus))}


def join_command(address: str, pool: Pool, environment: dict[str, str]) -> str:
    """What another machine runs to become a node of that pool; Ray counts its CPUs and GPUs. It names the file of the cluster's
    token and never the token.

    Args:
        address: of the head's GCS.
        environment: variables that every node of the cluster has.
    """
    labels = ",".join(f"{name}={value}" for name, value in pool.labels.items())
    words = ["ray", "start", f"--address={address}", f"--labels={labels}"]
    words += [f"--resources={json.dumps(pool.resources)}"] if pool.resources else []
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    return f"{settings} RAY_AUTH_TOKEN_PATH=~/.ray/auth_token {shlex.join(words)}"
