"""A rank that tells how far it has come, from a thread of its own: it speaks while the rank works, waits or is stuck in a loop."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.processes import began
from pipelines.training.hang import Beat

MAX_INTERVAL_S = 5.0
"""A thousand ranks are two hundred small messages a second to one actor."""

STILL_BEATS = 3
"""So many without getting further, and the rank's stack is told as well."""


def interval_s(timeout_s: float) -> float:
    """Between two beats, of which several fit into the shortest silence that counts (hang.py)."""
    return min(MAX_INTERVAL_S, timeout_s / 10)


class Heartbeat:
    """Where this rank is. Only its own thread reads it."""

    def __init__(self) -> None:
        self._phase, self._step, self._forwards = "loading the model", 0, 0
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._started_at = began(os.getpid()) or 0
        self._node_id, self._node_ip = whereabouts()
        self._still, self._place = 0, ("", 0, 0, 0)

    def at(self, phase: str, step: int = 0) -> None:
        """The rank is in that phase from now on, with so many steps done."""
        self._phase, self._step = phase, step

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """The block is another phase; then the one before goes on."""
        before = self._phase
        self._phase = phase
        try:
            yield
        finally:
            self._phase = before

    def count_forwards(self, model: Any) -> None:
        """Let each pass through the model count as getting further."""

        def count(*_: object) -> None:
            self._forwards += 1

        model.register_forward_pre_hook(count)

    def beat(self) -> Beat:
        """As of now."""
        beat = Beat(
            self._phase,
            self._step,
            num_collectives(),
            self._forwards,
            self._pid,
            self._started_at,
            self._node_id,
            self._node_ip,
        )
        self._still = self._still + 1 if beat.place == self._place else 0
        self._place = beat.place
        return beat._replace(stack=self._stack()) if self._still >= STILL_BEATS else beat

    def _stack(self) -> str:
        """Innermost call first, as py-spy writes it."""
        frame = sys._current_frames().get(self._thread)
        calls = reversed(traceback.extract_stack(frame)) if frame else ()
        return "\n".join(f"    {call.name} ({call.filename}:{call.lineno})" for call in calls)


def whereabouts() -> tuple[str, str]:
    """This node's id and address."""
    import ray

    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def num_collectives() -> int:
    """Begun by this process so far, as torch numbers them, over all groups of ranks it is in."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return 0
    return sum(_begun(group) for group in list(dist.distributed_c10d._world.pg_map))


def _begun(group: Any) -> int:
    try:
        return int(group._get_sequence_number_for_group())
    except RuntimeError:  # the group is only being made
        return 0


@contextmanager
def heartbeat(figures: Any, rank: int, timeout_s: float | None) -> Iterator[Heartbeat]:
    """Tell the actor `figures` where this rank is while the block runs, and that it has ended behind it.

    Args:
        timeout_s: `train.hang_timeout_s`; with None nothing is told.
    """
    own, ended = Heartbeat(), threading.Event()
    if timeout_s is None:
        yield own
        return

    def tell() -> None:
        while True:
            figures.heard.remote(rank, own.beat())
            if ended.wait(interval_s(timeout_s)):
                return

    teller = threading.Thread(target=tell, name="heartbeat", daemon=True)
    teller.start()
    try:
        yield own
    finally:
        ended.set()
        teller.join(interval_s(timeout_s))
        figures.ended.remote(rank)
