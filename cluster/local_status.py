"""The cluster that is up on this machine, with the machines that joined it: `serinus status`, and how another one joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from cluster.config import StrictModel
from cluster.dashboard import Application, get_applications
from cluster.errors import ClusterError
from cluster.local_record import LocalCluster, saved, seen_as
from cluster.ports import listens
from cluster.profiles import join_command
from cluster.session import ANSWER_TIMEOUT_S, ENVIRONMENT, check_answers, prepare_environment
from cluster.topology import POOL_LABEL

State = Literal["alive", "draining", "dead"]


class NodeStatus(StrictModel):
    pool: str
    """As `serinus up` names its own; of one that joined the pool's label, empty without one."""
    host: str
    state: State
    """Draining: about to be taken away, no new work goes there."""
    num_cpus: float
    num_gpus: float
    joined: bool = False
    """By `ray start`: `serinus down` leaves its machine alone."""


class ClusterStatus(StrictModel):
    """What `serinus status` shows."""

    address: str
    dashboard: str
    started_at: datetime
    nodes: tuple[NodeStatus, ...]
    applications: tuple[Application, ...]


def describe() -> ClusterStatus | None:
    """Nodes, pools and Serve applications of the cluster that `serinus up` started; None if there is none.

    Raises:
        ClusterError: its head does not answer, or refuses the token.
    """
    cluster = saved()
    if cluster is None:
        return None
    if not listens(cluster.address):
        raise ClusterError(f"cluster {cluster.address}", "its head is not running", "start it again with `serinus up`")
    return ClusterStatus(
        address=cluster.address,
        dashboard=cluster.dashboard,
        started_at=cluster.started_at,
        nodes=tuple(_statuses(cluster)),
        applications=get_applications(cluster.dashboard),
    )


def joining(pool: str) -> str:
    """The command by which another machine becomes a node of that pool.

    Raises:
        ClusterError: no cluster is up, or it is on loopback, where no other machine reaches it.
    """
    cluster = saved()
    if cluster is None:
        raise ClusterError("cluster", "none is up on this machine", "start one: serinus up --host ADDRESS")
    if cluster.host is None:
        found = "its nodes are on loopback, where no other machine reaches them"
        remedy = (
            "serinus down, then serinus up --host with this machine's address; for many: ray_cluster_on_premise.yaml"
        )
        raise ClusterError(f"cluster {cluster.address}", found, remedy)
    settings = {name: value for name, value in ENVIRONMENT.items() if name.startswith("RAY_")}
    return join_command(cluster.address, cluster.topology.pool(pool), settings)


def _statuses(cluster: LocalCluster) -> Iterator[NodeStatus]:
    yield from own_and_joined(cluster, seen(cluster.address))


def own_and_joined(cluster: LocalCluster, found: Sequence[NodeStatus]) -> Iterator[NodeStatus]:
    """The nodes that `serinus up` started, then those that joined; of the latter a dead one only where none came back in its place.

    Args:
        found: what the head knows, with the pool's label for a pool.
    """
    left: dict[tuple[str, str], list[NodeStatus]] = {}
    for one in sorted(found, key=lambda one: one.state == "dead"):  # the living first
        left.setdefault((one.host, one.pool), []).append(one)
    own = Counter(map(seen_as, cluster.nodes))
    for node in cluster.nodes:  # of several that look the same the last ones are dead
        told = left.get(seen_as(node))
        state: State = told.pop(0).state if told else "dead"
        yield NodeStatus(pool=node.name, host=node.host, state=state, num_cpus=node.num_cpus, num_gpus=len(node.gpus))
    for place in sorted(left):
        living = [one for one in left[place] if one.state != "dead"]
        yield from (one.replace(joined=True) for one in living or left[place][: 0 if place in own else 1])


def seen(address: str) -> tuple[NodeStatus, ...]:
    """The nodes that the head at `address` knows, those that died too. The dashboard does not tell which are drained.

    Raises:
        ClusterError: the head does not answer, or refuses the token.
    """
    check_answers(address)
    prepare_environment()
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs
    from ray.core.generated.gcs_pb2 import GcsNodeInfo, NodeSnapshot
    from ray.exceptions import RayError

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=ANSWER_TIMEOUT_S).values()
    except (RayError, RuntimeError, OSError) as error:
        raise ClusterError(f"cluster {address}", f"does not tell its nodes ({error})", "try it again") from None
    states: dict[bool, State] = {False: "alive", True: "draining"}
    return tuple(
        NodeStatus(
            pool=node.labels.get(POOL_LABEL, ""),
            host=node.node_manager_address,
            state="dead"
            if node.state == GcsNodeInfo.DEAD
            else states[node.state_snapshot.state == NodeSnapshot.DRAINING],
            num_cpus=node.resources_total.get("CPU", 0),
            num_gpus=node.resources_total.get("GPU", 0),
        )
        for node in nodes
    )
