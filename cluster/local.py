"""The topology scaled to one machine: `serinus up`, `status` and `down`, with one `ray start` a pool.

A process belongs to this cluster if it, or one it descends from, writes a file in the cluster's folder. Nothing else is
remembered about processes, so whatever was killed in the middle, the next `up` or `down` finds what is left of it. `ray
stop` is never used: it ends every Ray on the machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from cluster import ray_tls
from cluster.config import StrictModel, home
from cluster.dashboard import Application, get_applications, get_nodes
from cluster.errors import ClusterError, ResourceError
from cluster.ports import free_port, listens
from cluster.processes import end, writing_in
from cluster.ray_start import Launches
from cluster.session import check_answers, ensure_token, scratch, visible_gpus
from cluster.topology import HEAD, LocalNode, Topology, scaled

Say = Callable[[str], None]

HEAD_PORT, DASHBOARD_PORT = 6479, 8265
"""Where looking for free ports starts."""

REGISTER_TIMEOUT_S = 60.0

MIN_MEMORY_BYTES, MIN_DISK_BYTES = 3 << 29, 1 << 30
"""1.5 GiB: a head and three nodes take 0.9 GiB before any work. 1 GiB: sessions, logs and spilled objects."""


class LocalCluster(StrictModel):
    """What `up` started, as it is kept in $SERINUS_HOME/local.json."""

    address: str
    """Of the head's GCS, host:port."""
    dashboard: str
    """URL of the dashboard, which also takes jobs; it asks for the token."""
    topology: Topology
    nodes: tuple[LocalNode, ...]
    started_at: datetime


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


def up(topology: Topology, *, progress: Say) -> LocalCluster:
    """Bring up a head and one node a pool, or what of them is not running.

    Raises:
        ClusterError: a cluster of another topology is up, or a node did not start.
        ResourceError: too little memory or disk, or no free port.
        ConfigError: Ray's variables ask for TLS with files that cannot be used.
    """
    with _locked():
        cluster = _living(topology)
        if cluster is None:
            _end(_folder())
            _check_room()
            cluster = _new(topology, progress)
        missing = [node for node in cluster.nodes if not _runs(node.pool)]
        if missing:
            _start(cluster, missing, progress)
        else:
            progress(f"already up at {cluster.address}")
        _wait_registered(cluster)
    return cluster


def down(*, progress: Say) -> bool:
    """End every process of the cluster and forget it; False if there was none."""
    with _locked():
        found = _end(_folder()) or _state_file().exists()
        _state_file().unlink(missing_ok=True)
    return found


def running_address() -> str | None:
    """GCS address of the cluster that `serinus up` started, if it lives."""
    cluster = _saved()
    return cluster.address if cluster and listens(cluster.address) else None


def running() -> LocalCluster | None:
    """The cluster that `serinus up` started, if its head lives."""
    return _saved() if running_address() else None


def describe() -> ClusterStatus | None:
    """Nodes, pools and Serve applications of the cluster that `serinus up` started; None if there is none.

    Raises:
        ClusterError: its head does not answer, or refuses the token.
    """
    cluster = _saved()
    if cluster is None:
        return None
    if not listens(cluster.address):
        raise ClusterError(f"cluster {cluster.address}", "its head is not running", "start it again with `serinus up`")
    alive = {node.host for node in get_nodes(cluster.dashboard) if node.alive}
    return ClusterStatus(
        address=cluster.address,
        dashboard=cluster.dashboard,
        started_at=cluster.started_at,
        nodes=tuple(
            NodeStatus(
                pool=node.pool,
                host=node.host,
                alive=node.host in alive,
                num_cpus=node.num_cpus,
                num_gpus=len(node.gpus),
            )
            for node in cluster.nodes
        ),
        applications=get_applications(cluster.dashboard),
    )


# The state file and the folder


def _state_file() -> Path:
    return home() / "local.json"


def _folder(pool: str = "") -> Path:
    return scratch() / "up" / pool


@contextmanager
def _locked() -> Iterator[None]:
    """One `up` or `down` at a time."""
    home().mkdir(parents=True, exist_ok=True)
    with open(home() / "local.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait until it ends, then run the same command again"
            raise ClusterError("serinus up", "another `up` or `down` is at work", remedy) from None
        yield


def _saved() -> LocalCluster | None:
    try:
        return LocalCluster.model_validate_json(_state_file().read_bytes())
    except (FileNotFoundError, ValueError):  # none, or written by another version: found again by its processes
        return None


def _save(cluster: LocalCluster) -> LocalCluster:
    draft = _state_file().with_suffix(".draft")
    draft.write_text(cluster.model_dump_json(indent=1), encoding="utf-8")
    os.replace(draft, _state_file())
    return cluster


def _runs(pool: str) -> bool:
    return any(process.name() == "raylet" for process in writing_in(_folder(pool)))


def _end(folder: Path) -> bool:
    """End what writes into `folder`, and remove it; False if there was nothing."""
    found = end(folder) > 0 or folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return found


# Starting


def _living(topology: Topology) -> LocalCluster | None:
    """The cluster that is up, or None if it must be started afresh."""
    cluster = _saved()
    if cluster is None or not _runs(HEAD) or not listens(cluster.address):
        return None
    check_answers(cluster.address)  # a head that is slow or refuses our token lives: ending it is for `down` alone
    if cluster.topology != topology:
        remedy = "run `serinus down`, then `serinus up` again"
        raise ClusterError(f"cluster {cluster.address}", "is up with another topology", remedy)
    return cluster


def _check_room() -> None:
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(_folder().parent).free
    if memory < MIN_MEMORY_BYTES:
        found = f"{memory / 2**30:.1f} GiB are free and {MIN_MEMORY_BYTES / 2**30:.1f} needed"
        raise ResourceError("memory", found, "close other programs and run `serinus up` again")
    if disk < MIN_DISK_BYTES:
        found = f"{disk / 2**30:.1f} GiB are free and {MIN_DISK_BYTES / 2**30:.1f} needed"
        raise ResourceError(f"disk of {_folder().parent}", found, "free some space and run `serinus up` again")


def _new(topology: Topology, progress: Say) -> LocalCluster:
    nodes = scaled(topology, os.cpu_count() or 1, len(visible_gpus()))
    if ray_tls.check(node.host for node in nodes):
        progress("nodes speak TLS to each other: keep Ray's variables set for every command")
    dashboard = free_port(DASHBOARD_PORT)
    if dashboard != DASHBOARD_PORT:
        progress(f"port {DASHBOARD_PORT} is in use: the dashboard goes to {dashboard}")
    return _save(
        LocalCluster(
            address=f"{nodes[0].host}:{free_port(HEAD_PORT)}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            topology=topology,
            nodes=nodes,
            started_at=datetime.now(UTC),
        )
    )


def _start(cluster: LocalCluster, nodes: list[LocalNode], progress: Say) -> None:
    ensure_token()
    started = time.monotonic()
    with Launches() as launches:
        for node in nodes:
            folder = _folder(node.pool)
            _end(folder)
            launches.start(node, number=cluster.nodes.index(node), folder=folder, options=_place(cluster, node))
            if node.pool == HEAD:  # the others ask it for the session's name
                launches.wait(lambda: listens(cluster.address))
        for node in nodes:
            launches.wait(partial(launches.is_up, node.pool))
            progress(f"{node.pool:>5} is up on {node.host} ({_size(node)}, {time.monotonic() - started:.0f} s)")


def _place(cluster: LocalCluster, node: LocalNode) -> dict[str, str]:
    """What tells the head from the others."""
    if node.pool != HEAD:
        return {"address": cluster.address}
    return {
        "port": cluster.address.rpartition(":")[2],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": cluster.dashboard.rpartition(":")[2],
    }


def _wait_registered(cluster: LocalCluster) -> None:
    """Until the dashboard answers and knows every node: `up` promises a cluster that takes jobs."""
    wanted = {node.host: node.pool for node in cluster.nodes}
    deadline = time.monotonic() + REGISTER_TIMEOUT_S
    found: str = ""
    while time.monotonic() < deadline:
        try:
            alive = {node.host for node in get_nodes(cluster.dashboard) if node.alive}
            if alive >= set(wanted):
                return
            found = "not registered: " + ", ".join(pool for host, pool in wanted.items() if host not in alive)
        except ClusterError as error:
            found = error.found
        time.sleep(0.3)
    raise ClusterError(f"cluster {cluster.address}", found, "run `serinus down`, then `serinus up` again")


def _size(node: LocalNode) -> str:
    return f"{node.num_cpus} CPUs" + (f", {len(node.gpus)} GPUs" if node.gpus else "")
