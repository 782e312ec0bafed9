"""The topology scaled to one machine: `serinus up` and `down`, with one `ray start` a node.

A process belongs to this cluster if it, or one it descends from, writes a file in the cluster's folder. Nothing else is
remembered about processes, so whatever was killed in the middle, the next `up` or `down` finds what is left of it. `ray
stop` is never used: it ends every Ray on the machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from cluster import ray_tls
from cluster.auth_token import ensure_token
from cluster.config import home
from cluster.errors import ClusterError, ConfigError, ResourceError
from cluster.local_record import LocalCluster, alive, save, saved, seen_as, state_file
from cluster.ports import free_port, listens
from cluster.processes import end, writing_in
from cluster.profiles import LocalNode, Machine, ProfileName, scaled
from cluster.ray_start import Launches
from cluster.session import addresses_here, check_answers, scratch, visible_gpus
from cluster.topology import HEAD, Topology

Say = Callable[[str], None]

HEAD_PORT, DASHBOARD_PORT = 6479, 8265
"""Where looking for free ports starts."""

REGISTER_TIMEOUT_S = 60.0

MIN_NODE_BYTES, MIN_DISK_BYTES = 3 << 27, 1 << 30
"""Of memory: a head and three nodes take 0.9 GiB before any work. 1 GiB: sessions, logs and spilled objects."""


def up(topology: Topology, *, progress: Say, profile: ProfileName = "laptop", host: str | None = None) -> LocalCluster:
    """Bring up the nodes that the profile makes of the topology, or what of them is not running.

    Args:
        host: an address of this machine by which others reach it, so that they can join; None keeps all on loopback.

    Raises:
        ClusterError: a cluster of another topology, profile or address is up, or a node did not start.
        ResourceError: too little memory or disk, or no free port.
        ConfigError: `host` is no address of this machine, or Ray's variables ask for TLS with files that cannot be used.
    """
    _check_host(host)
    with _locked():
        cluster = _living(topology, profile, host)
        if cluster is None:
            _end(_folder())
            cluster = _new(topology, profile, host, progress)
        missing = [node for node in cluster.nodes if not _runs(node.name)]
        if missing:
            _start(cluster, missing, progress)
        else:
            progress(f"already up at {cluster.address}")
        _wait_registered(cluster)
    return cluster


def down(*, progress: Say) -> bool:
    """End every process of the cluster and forget it; False if there was none."""
    with _locked():
        found = _end(_folder()) or state_file().exists()
        state_file().unlink(missing_ok=True)
    return found


def running_address() -> str | None:
    """GCS address of the cluster that `serinus up` started, if it lives."""
    cluster = saved()
    return cluster.address if cluster and listens(cluster.address) else None


def running() -> LocalCluster | None:
    """The cluster that `serinus up` started, if its head lives."""
    return saved() if running_address() else None


# The folder


def _folder(node: str = "") -> Path:
    return scratch() / "up" / node


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


def _runs(node: str) -> bool:
    return any(process.name() == "raylet" for process in writing_in(_folder(node)))


def _end(folder: Path) -> bool:
    """End what writes into `folder`, and remove it; False if there was nothing."""
    found = end(folder) > 0 or folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return found


# Starting


def _living(topology: Topology, profile: ProfileName, host: str | None) -> LocalCluster | None:
    """The cluster that is up, or None if it must be started afresh."""
    cluster = saved()
    if cluster is None or not _runs(HEAD) or not listens(cluster.address):
        return None
    check_answers(cluster.address)  # a head that is slow or refuses our token lives: ending it is for `down` alone
    present = {"topology": cluster.topology, "profile": cluster.profile, "host": cluster.host}
    asked = {"topology": topology, "profile": profile, "host": host}
    if other := [name for name, value in asked.items() if present[name] != value]:
        remedy = "run `serinus down`, then `serinus up` again"
        raise ClusterError(f"cluster {cluster.address}", f"is up with another {' and '.join(other)}", remedy)
    return cluster


def _check_host(host: str | None) -> None:
    usable = sorted(address for address in addresses_here() if not address.startswith("127.") and ":" not in address)
    if host is not None and host not in usable:
        found = f"{host} is no address of this machine that others reach"
        raise ConfigError("--host", found, f"use one of {', '.join(usable) or 'its addresses (it has none now)'}")


def _check_room(num_nodes: int) -> None:
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(_folder().parent).free
    if memory < (needed := num_nodes * MIN_NODE_BYTES):
        found = f"{memory / 2**30:.1f} GiB are free and {needed / 2**30:.1f} needed for {num_nodes} nodes"
        remedy = "close other programs and run `serinus up` again, or `serinus up --profile tiny`"
        raise ResourceError("memory", found, remedy)
    if disk < MIN_DISK_BYTES:
        found = f"{disk / 2**30:.1f} GiB are free and {MIN_DISK_BYTES / 2**30:.1f} needed"
        raise ResourceError(f"disk of {_folder().parent}", found, "free some space and run `serinus up` again")


def _new(topology: Topology, profile: ProfileName, host: str | None, progress: Say) -> LocalCluster:
    machine = Machine(os.cpu_count() or 1, len(visible_gpus()), psutil.virtual_memory().total)
    nodes = scaled(topology, machine, profile, host)
    _check_room(len(nodes))
    if ray_tls.check(node.host for node in nodes):
        progress("nodes speak TLS to each other: keep Ray's variables set for every command")
    dashboard = free_port(DASHBOARD_PORT)
    if dashboard != DASHBOARD_PORT:
        progress(f"port {DASHBOARD_PORT} is in use: the dashboard goes to {dashboard}")
    return save(
        LocalCluster(
            address=f"{nodes[0].host}:{free_port(HEAD_PORT)}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            topology=topology,
            profile=profile,
            host=host,
            nodes=nodes,
            started_at=datetime.now(UTC),
        )
    )


def _start(cluster: LocalCluster, nodes: list[LocalNode], progress: Say) -> None:
    ensure_token()
    started = time.monotonic()
    with Launches() as launches:
        for node in nodes:
            folder = _folder(node.name)
            _end(folder)
            launches.start(node, number=cluster.nodes.index(node), folder=folder, options=_place(cluster, node))
            if node.pool == HEAD:  # the others ask it for the session's name
                launches.wait(lambda: listens(cluster.address))
        for node in nodes:
            launches.wait(partial(launches.is_up, node.name))
            progress(f"{node.name:>5} is up on {node.host} ({_size(node)}, {time.monotonic() - started:.0f} s)")


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
    wanted = Counter(map(seen_as, cluster.nodes))
    deadline = time.monotonic() + REGISTER_TIMEOUT_S
    found: str = ""
    while time.monotonic() < deadline:
        try:
            if not (missing := wanted - alive(cluster)):
                return
            found = "not registered: " + ", ".join(f"{host} {pool}".strip() for host, pool in missing)
        except ClusterError as error:
            found = error.found
        time.sleep(0.3)
    raise ClusterError(f"cluster {cluster.address}", found, "run `serinus down`, then `serinus up` again")


def _size(node: LocalNode) -> str:
    return f"{node.num_cpus} CPUs" + (f", {len(node.gpus)} GPUs" if node.gpus else "")
