"""What is up on this machine: `serinus status`, and how another machine joins it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cluster.config import StrictModel
from cluster.dashboard import Application, get_applications
from cluster.errors import ClusterError
from cluster.local_record import LocalCluster, alive, saved, seen_as
from cluster.ports import listens
from cluster.profiles import join_command
from cluster.session import ENVIRONMENT


class NodeStatus(StrictModel):
    pool: str
    host: str
    alive: bool
    num_cpus: float
    num_gpus: float


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
    living = alive(cluster)
    for node in cluster.nodes:
        living.subtract([seen_as(node)])  # of several that look the same the last ones are dead
        yield NodeStatus(
            pool=node.name,
            host=node.host,
            alive=living[seen_as(node)] >= 0,
            num_cpus=node.num_cpus,
            num_gpus=len(node.gpus),
        )
