"""Pools of a cluster whose autoscaler brings nodes: asked for, and waited for with a word about what for, and not without end."""

from __future__ import annotations

import time
from typing import Any

from cluster.errors import ResourceError
from cluster.progress import say
from cluster.session import POOL_LABEL, is_autoscaled, lacks_node, num_nodes, on_pool

NODE_TIMEOUT_S = 1800.0
"""A cloud's GPU machine with its environment comes within minutes; one that is sold out never does."""
SAY_EVERY_S = 60.0
POLL_S = 0.5
AT_ONCE_S = 5.0
"""What needs no longer is there."""


def wait_for_node(
    stage: str, pool: str, *, num_tasks: int = 1, num_gpus: int = 0, timeout_s: float = NODE_TIMEOUT_S
) -> None:
    """Ask for nodes that hold so many tasks at once, and return when the pool has one; at once where no autoscaler could bring any.

    Raises:
        ResourceError: none came within `timeout_s`.
    """
    if not is_autoscaled():
        return
    import ray

    # Tasks that wait are what the autoscaler acts on, and Ray Data has none waiting: it starts what the nodes of now can hold. On
    # nodes these take no time.
    task = ray.remote(_nothing).options(num_cpus=1, num_gpus=num_gpus, label_selector=on_pool(pool), max_retries=-1)
    asked = [task.remote() for _ in range(num_tasks)]
    if lacks_node(pool):
        _wait(stage, pool, asked, timeout_s)


def wait_for_machine(stage: str, pool: str, *, num_gpus: int = 0, timeout_s: float = NODE_TIMEOUT_S) -> None:
    """As `wait_for_node`, and where no autoscaler brings any, until a machine of the pool has joined.

    Raises:
        ResourceError: none came within `timeout_s`.
    """
    wait_for_node(stage, pool, num_gpus=num_gpus, timeout_s=timeout_s)
    began, next_word = time.monotonic(), 0.0
    while not num_nodes(of_pool(pool)):
        waited_s = time.monotonic() - began
        if waited_s >= timeout_s:
            found = f"has no machine, and none came within {waited_s:.0f} s"
            raise ResourceError(f"pool `{pool}`", found, "let one join the cluster (`ray start`), then run it again")
        if waited_s >= next_word:
            next_word += SAY_EVERY_S
            say(stage, f"pool `{pool}` has no machine: waiting for one to join, for {waited_s:.0f} s")
        time.sleep(POLL_S)


def of_pool(pool: str) -> dict[str, str]:
    """As `on_pool`, and of a pool whose last machine is gone its label still: what it was for is not to go just anywhere."""
    import ray

    had_one = any(node.get("Labels", {}).get(POOL_LABEL) == pool for node in ray.nodes())
    return {POOL_LABEL: pool} if had_one else on_pool(pool)


def _wait(stage: str, pool: str, asked: list[Any], timeout_s: float) -> None:
    import ray

    began = time.monotonic()
    say(stage, f"pool `{pool}` has no node: waiting for the autoscaler to bring one")
    while not ray.wait(asked, timeout=min(SAY_EVERY_S, timeout_s))[0]:
        waited_s = time.monotonic() - began
        if waited_s >= timeout_s:
            for one in asked:
                ray.cancel(one, force=True)
            remedy = "see `ray status` on the head, and monitor.log there, for why the autoscaler brings none; then try again"
            raise ResourceError(f"pool `{pool}`", f"no node came within {waited_s:.0f} s", remedy)
        say(stage, f"still waiting for a node of pool `{pool}`, for {waited_s:.0f} s")
    say(stage, f"pool `{pool}` has a node after {time.monotonic() - began:.0f} s")


def wait_for_room(
    stage: str, pool: str, workers: list[dict[str, float]], labels: dict[str, str], timeout_s: float = NODE_TIMEOUT_S
) -> bool:
    """Return when nodes that stay have room for all of these workers at once; what is free on a node that is being drained is none.

    An autoscaler acts on it as on any work that waits. Whether it had to wait.

    Args:
        workers: what each takes, as Ray counts it.
        labels: of the nodes; empty for any.

    Raises:
        ResourceError: there was none within `timeout_s`.
    """
    from ray.util import placement_group, remove_placement_group

    group = placement_group(workers, bundle_label_selector=[labels] * len(workers) if labels else None)
    began, waits_s = time.monotonic(), AT_ONCE_S
    try:
        while not group.wait(min(waits_s, timeout_s)):
            waited_s, waits_s = time.monotonic() - began, SAY_EVERY_S
            if waited_s >= timeout_s:
                found = f"had no room for {len(workers)} workers within {waited_s:.0f} s"
                raise ResourceError(f"pool `{pool}`", found, "add nodes, or let others end, and run again: it goes on")
            say(stage, f"waiting for room for {len(workers)} workers in pool `{pool}`, for {waited_s:.0f} s")
        return waits_s > AT_ONCE_S
    finally:
        remove_placement_group(group)


def _nothing() -> None:
    """Runs where a node is."""
