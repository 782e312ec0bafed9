"""The Ray cluster that commands would use, asked over HTTP: Ray itself is not imported."""

from __future__ import annotations

import socket
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from cluster import local
from cluster.dashboard import Node, get_nodes, get_version
from cluster.doctor.environment import installed
from cluster.doctor.finding import Finding, judged
from cluster.errors import ClusterError, SerinusError
from cluster.profiles import PROFILES
from cluster.session import api_server, public_address
from cluster.topology import POOL_LABEL, load_topology

CONNECT_S = 3.0


def address(where: str | None) -> Finding:
    """Whether somebody listens where the head should be."""
    if where is None:
        return judged("cluster", "none is up here, and RAY_ADDRESS is not set", "start one: serinus up", warning=True)
    if where == "auto":
        return judged("cluster", "RAY_ADDRESS is auto: Ray looks for one on this machine", "")
    host, _, port = where.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        remedy = "correct or unset RAY_ADDRESS, or start a cluster: serinus up"
        return judged("cluster", f"{where} does not answer ({error})", remedy, failed=True)
    return judged("cluster", where, "")


def version(theirs: str, ours: str | None) -> Finding:
    """Ray's client and cluster must be the same version."""
    found = f"{theirs} there, {ours or 'none'} here"
    return judged("ray version", found, f"install ray=={theirs} here, or upgrade the cluster", failed=theirs != ours)


def nodes(found: Sequence[Node]) -> Finding:
    alive = sum(node.alive for node in found)
    dead = ", ".join(node.host for node in found if not node.alive)
    said = f"{alive} alive" + (f", dead: {dead}" if dead else "")
    return judged("nodes", said, "see `serinus status`; `serinus up` starts again what is missing",
                  failed=alive == 0, warning=bool(dead))  # fmt: skip


def pools(found: Sequence[Node], wanted: Sequence[str]) -> Finding:
    """Whether each pool that always has nodes has one: work for a pool without any runs anywhere."""
    there = {node.pool for node in found if node.alive}
    absent = [pool for pool in wanted if pool not in there]
    said = f"no node is labelled {POOL_LABEL}={' or '.join(absent)}" if absent else ", ".join(wanted)
    return judged(
        "pools",
        said,
        "start the nodes with their labels: serinus up, or the launcher file's flags",
        warning=bool(absent),
    )


def checks(topology: Path | None = None) -> list[Finding]:
    """Ask the cluster that commands would use."""
    found, running = [address(public_address())], local.running()
    dashboard = api_server() or (running.dashboard if running else None)
    if dashboard is None:
        return found
    try:
        theirs, present = get_version(dashboard), get_nodes(dashboard)
    except ClusterError as error:
        return [
            *found,
            Finding(check="dashboard", state="failed", found=f"{error.where} {error.found}", remedy=error.remedy),
        ]
    ours = installed(Path(sysconfig.get_path("purelib"))).get("ray")
    found += [
        judged("dashboard", f"{dashboard} answers and takes our token", ""),
        version(theirs, ours),
        nodes(present),
    ]
    if running and PROFILES[running.profile].shared:  # one node for all pools, which has no label
        return found
    try:
        declared = load_topology(topology)
    except SerinusError:  # no launcher file here: nothing says which pools there should be
        return found
    return [*found, pools(present, [pool.name for pool in declared.pools if pool.min_nodes])]
