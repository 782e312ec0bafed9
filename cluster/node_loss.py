"""Work of one process on a pool that outlives its machine: another one takes it over."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Final, TypeVar

from cluster.errors import ProcessDied
from cluster.pools import on_pool
from cluster.progress import say
from cluster.waiting import POLL_S, wait_for_node

MOST_LOSSES: Final = 5
"""Of one piece of work. Spot machines go in groups, and work that ends machines is to end at some time."""
NOTICED_WITHIN_S: Final = 20.0
"""The head knows of a machine's death 8 s after it (cluster/session.py, HEALTH_CHECKS), whoever asked its processes at once."""

T = TypeVar("T")


def outliving_its_node(
    stage: str, pool: str, work: Callable[[], T], *, num_gpus: int = 0, done: Event | None = None
) -> T:
    """What `work` returns; it is called again where its process died with a machine of the pool.

    Args:
        work: starts one process on the pool, and goes on from where an earlier call of it came to, if it can.
        done: set once the work is of no use any more: no machine is waited for.

    Raises:
        ProcessDied: by itself, or for the last time.
        ResourceError: no other machine came.
    """
    done = done or Event()
    for _ in range(MOST_LOSSES):
        before = gone(pool)
        try:
            return work()
        except ProcessDied:
            say(stage, "its process ended: asking whether its machine did")
            if not (lost := _lost(pool, before, done)):
                raise
        say(stage, f"machine {', '.join(sorted(lost.values()))} of pool `{pool}` is gone: going on elsewhere")
        wait_for_node(stage, pool, num_gpus=num_gpus, done=done)
    return work()


def gone(pool: str) -> dict[str, str]:
    """Node id -> address, of the pool's machines that died: also of those that joined as the work was under way."""
    import ray

    wanted = on_pool(pool).items()
    nodes = [node for node in ray.nodes() if not node["Alive"] and wanted <= node.get("Labels", {}).items()]
    return {str(node["NodeID"]): str(node["NodeManagerAddress"]) for node in nodes}


def _lost(pool: str, before: dict[str, str], done: Event) -> dict[str, str]:
    """Machines that are gone and were not `before`, once the head knows of it; none where all live on, or it is `done` first."""
    until = time.monotonic() + NOTICED_WITHIN_S
    while not ((now := gone(pool)).keys() - before.keys()) and time.monotonic() < until:
        if done.wait(POLL_S):
            return {}
    return {node: address for node, address in now.items() if node not in before}
