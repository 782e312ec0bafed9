"""Pools without a node: one is asked for, and waited for with a word about what for, and not without end."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

from cluster.errors import ResourceError
from cluster.pools import is_autoscaled, lacks_node, on_pool
from cluster.progress import say

NODE_TIMEOUT_S = 1800.0
"""A cloud's GPU machine with its environment comes within minutes; one that is sold out never does."""
SAY_EVERY_S = 60.0
POLL_S = 0.5
LOOK_EVERY_S = 5.0
"""While a stage is at work."""
AT_ONCE_S = 5.0
"""What needs no longer is there."""


def wait_for_node(
    stage: str,
    pool: str,
    *,
    num_tasks: int = 1,
    num_gpus: int = 0,
    timeout_s: float = NODE_TIMEOUT_S,
    done: Event | None = None,
) -> None:
    """Return when the pool has a node, at once in a cluster without such a pool, or when `done` is set. An autoscaler is asked for
    nodes that hold so many tasks at once.

    Raises:
        ResourceError: none came within `timeout_s`.
    """
    asked = _ask_autoscaler(pool, num_tasks, num_gpus) if is_autoscaled() else []
    if not lacks_node(pool):
        return
    try:
        _wait(stage, pool, timeout_s, done or Event())
    except ResourceError:
        import ray

        for one in asked:
            ray.cancel(one, force=True)
        raise


@contextmanager
def watched(
    stage: str, pool: str, *, num_tasks: int = 1, num_gpus: int = 0, timeout_s: float = NODE_TIMEOUT_S
) -> Iterator[None]:
    """As `wait_for_node`; and where the pool's last machine goes while the block runs, that is said, and in the main thread the
    block ended where no other one comes: its tasks would wait without a word, and without end.

    Raises:
        ResourceError: none came within `timeout_s`.
    """
    wait_for_node(stage, pool, num_tasks=num_tasks, num_gpus=num_gpus, timeout_s=timeout_s)
    done, failed = Event(), list[ResourceError]()
    patience_s = timeout_s if threading.current_thread() is threading.main_thread() else math.inf
    thread = threading.Thread(target=_watch, args=(stage, pool, patience_s, done, failed), daemon=True)
    thread.start()
    try:
        with _interruptible(failed):
            try:
                yield
            finally:
                done.set()
                thread.join()  # it must not be in Ray's hands when that is shut down
    except KeyboardInterrupt:
        if failed:
            raise failed[0] from None
        raise


def _watch(stage: str, pool: str, timeout_s: float, done: Event, failed: list[ResourceError]) -> None:
    while not done.wait(LOOK_EVERY_S):
        try:
            # An autoscaler takes nodes away while the driver works alone, and brings them when tasks wait again.
            if lacks_node(pool) and not is_autoscaled():
                _wait(stage, pool, timeout_s, done)
        except ResourceError as error:
            failed.append(error)
            os.kill(os.getpid(), signal.SIGINT)  # what waits in Ray hears of nothing else
            return
        except Exception as error:  # whatever Ray raises while its head is away: who is at work hears of that too
            say(stage, f"warning: nodes of pool `{pool}` cannot be counted ({type(error).__name__})")


@contextmanager
def _interruptible(failed: list[ResourceError]) -> Iterator[None]:
    """What a shell's script starts with `&` ignores Ctrl-C, and is to hear of the failure all the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def heard(number: int, frame: FrameType | None) -> None:
        if failed:
            raise KeyboardInterrupt
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ask_autoscaler(pool: str, num_tasks: int, num_gpus: int) -> list[Any]:
    """Tasks that wait are what it acts on, and Ray Data has none waiting: it starts what the nodes of now can hold. On nodes these
    take no time."""
    import ray

    task = ray.remote(_nothing).options(num_cpus=1, num_gpus=num_gpus, label_selector=on_pool(pool), max_retries=-1)
    return [task.remote() for _ in range(num_tasks)]


def _wait(stage: str, pool: str, timeout_s: float, done: Event) -> None:
    """Until the pool has a node, or `done` is set."""
    brought = "the autoscaler to bring one" if is_autoscaled() else "a machine to join"
    began, next_word = time.monotonic(), 0.0
    while lacks_node(pool):
        waited_s = time.monotonic() - began
        if waited_s >= timeout_s:
            raise ResourceError(f"pool `{pool}`", f"no node came within {waited_s:.0f} s", _remedy())
        if waited_s >= next_word:
            next_word += SAY_EVERY_S
            say(stage, f"pool `{pool}` has no node: waiting for {brought}, for {waited_s:.0f} s")
        if done.wait(POLL_S):
            return
    say(stage, f"pool `{pool}` has a node after {time.monotonic() - began:.0f} s")


def _remedy() -> str:
    if is_autoscaled():
        return "see `ray status` on the head, and monitor.log there, for why the autoscaler brings none; then try again"
    return "let a machine join (`serinus up`, `serinus cluster join`, `ray start`), then run the same command again"


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
