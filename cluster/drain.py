"""A node of this machine that is about to be taken away: Ray's head is told until when, and what works there leaves."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

from cluster.errors import ClusterError
from cluster.progress import say
from cluster.session import ANSWER_TIMEOUT_S, check_answers, prepare_environment

STAGE = "drain"
POLL_S = 0.5
SAY_EVERY_S = 15.0
AT_REST = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""What Ray calls a raylet's processes that do nobody's work."""


class NodeHere(NamedTuple):
    """A node of Ray on this machine."""

    id: str
    address: str
    head: str
    """host:port of the GCS of its cluster."""
    raylet: psutil.Process


def nodes_here() -> list[NodeHere]:
    """This user's living nodes on this machine, of whatever clusters, without their heads.

    Their raylets' own command lines tell: an address does not where several nodes share it, nor which cluster is meant.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, KeyError):
            if process.name() == "raylet" and process.uids().real == os.getuid() and lives(process):
                arguments = process.cmdline()
                given = dict(each.removeprefix("--").split("=", 1) for each in arguments if "=" in each)
                if "--head" not in arguments:
                    found.append(NodeHere(given["node_id"], given["node_ip_address"], given["gcs-address"], process))
    return found


def chosen(nodes: Sequence[NodeHere], prefix: str = "") -> NodeHere:
    """The one node whose id begins so.

    Raises:
        ClusterError: there is none, or more than one.
    """
    fitting = [node for node in nodes if node.id.startswith(prefix.lower())]
    if len(fitting) == 1:
        return fitting[0]
    if not nodes:
        remedy = "run it where the node is that is to leave, as the user who started it"
        raise ClusterError("this machine", "has no node of Ray beside a head", remedy)
    listed = "".join(f"\n  {node.id} at {node.address} of cluster {node.head}" for node in nodes)
    among = f"{len(fitting)} of them have an id that begins with {prefix!r}" if prefix else "which one is not said"
    found = f"{len(nodes)} node(s) of Ray are on this machine, {among}:{listed}"
    raise ClusterError("--node", found, "name one by its id, or by letters that no other one begins with")


def leave(node: NodeHere, notice_s: float, message: str) -> bool:
    """Drain the node, and return when nothing works there any more, or the notice is over; whether nothing does.

    Args:
        notice_s: seconds from now until the machine is gone.

    Raises:
        ClusterError: the head does not answer, or refuses the token.
    """
    until = time.monotonic() + notice_s
    tell(node, notice_s, message)
    say(STAGE, f"node {node.id[:12]} ({node.address}) is drained, {notice_s:.0f} s at most: {message}")
    next_word = 0.0
    while (left := at_work(node.raylet)) and time.monotonic() < until:
        if time.monotonic() >= next_word:
            next_word = time.monotonic() + SAY_EVERY_S
            say(STAGE, f"still at work there: {_listed(left)}")
        time.sleep(POLL_S)
    say(STAGE, f"time is over, still at work there: {_listed(left)}" if left else "nothing works there any more")
    return not left


def tell(node: NodeHere, notice_s: float, message: str) -> None:
    """Tell the head that the node is taken away in so many seconds; a node that is being drained already gets the new moment.

    Raises:
        ClusterError: as `leave`.
    """
    where = f"cluster {node.head}"
    check_answers(node.head)
    prepare_environment()
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs
    from ray.core.generated import autoscaler_pb2
    from ray.exceptions import RayError

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    moment_ms = time.time_ns() // 1_000_000 + int(notice_s * 1000)
    again = "see whether the node has left (`ray list nodes`); if not, run it again"
    try:
        client = GcsClient(address=node.head)
        accepted, why = client.drain_node(node.id, reason, message, moment_ms, timeout=ANSWER_TIMEOUT_S)
    except (RayError, RuntimeError, OSError) as error:
        raise ClusterError(where, f"did not take that node {node.id} leaves ({error})", again) from None
    if not accepted:
        raise ClusterError(where, f"refuses that node {node.id} leaves ({why})", again)


def at_work(raylet: psutil.Process) -> list[str]:
    """Ray's names of the processes that work below a raylet; none where it is gone, as it is once drained and idle."""
    found: list[str] = []
    with suppress(psutil.NoSuchProcess):
        for process in raylet.children() if lives(raylet) else ():
            with suppress(psutil.Error, IndexError):
                name = process.cmdline()[0].strip()
                if name.startswith("ray::") and not name.startswith(AT_REST) and lives(process):
                    found.append(name.removeprefix("ray::"))
    return found


def lives(process: psutil.Process) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in sorted(Counter(names).items()))
