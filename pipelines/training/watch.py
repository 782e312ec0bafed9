"""The driver's watch over the ranks: who hangs is looked at on its node, named with its stack, and ended; Ray Train goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipelines.config import TrainConfig
from pipelines.progress import say
from pipelines.training.hang import Beat, Hang, Heard, Seen, find_hang, told, training_thread
from pipelines.training.heartbeat import interval_s

ON_NODE_S = 60.0
"""For a task on a rank's node: a busy one starts a process for it in a few seconds. Whom it does not reach, Ray looks after: a node
that does not answer is dead to it after half a minute."""

ACTOR_S = 10.0
SPY_S = 20.0
T = TypeVar("T")


class Places:
    """What ranks said of themselves last; the part of the actor `Figures` that the watch asks."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._beats: dict[int, tuple[Beat, float, float]] = {}

    def heard(self, rank: int, beat: Beat) -> None:
        """A rank's heartbeat."""
        now, before = self._now(), self._beats.get(rank)
        stands = before is not None and (before[0].pid, before[0].place) == (beat.pid, beat.place)
        self._beats[rank] = (beat, now, before[2] if stands and before else now)

    def ended(self, rank: int) -> None:
        """It says no more, and should not."""
        self._beats.pop(rank, None)

    def places(self) -> dict[int, Heard]:
        """Of each rank."""
        now = self._now()
        return {rank: Heard(beat, now - at, now - since) for rank, (beat, at, since) in self._beats.items()}


class Watch:
    """Looks after the ranks of a run.

    Args:
        figures: an actor with the methods of `Places`.
    """

    def __init__(self, config: TrainConfig, figures: Any) -> None:
        self._config, self._figures = config, figures
        self._found = ""
        self._ended: set[int] = set()
        """Process ids of the group in which someone hung last."""

    @property
    def found(self) -> str:
        """A line on who hung in the group of workers that was there last; empty where nobody did."""
        return self._found

    @contextmanager
    def kept(self) -> Iterator[None]:
        """From a thread while the block runs; not where `train.hang_timeout_s` is null."""
        timeout_s, done = self._config.hang_timeout_s, threading.Event()
        if timeout_s is None:
            yield
            return

        def watch() -> None:
            while not done.wait(interval_s(timeout_s)):
                self._look(timeout_s)

        # In this context, so that lines of the log are about the same run.
        thread = threading.Thread(target=copy_context().run, args=(watch,), name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(ON_NODE_S)

    def _look(self, timeout_s: float) -> None:
        import ray

        config = self._config
        # The head may be away for a while, and a node for good: the next look tells.
        with suppress(ray.exceptions.RayError):
            heard = self._heard()
            in_lockstep = config.parallel.pipeline == 1
            if hang := find_hang(heard, config.num_workers, timeout_s, in_lockstep=in_lockstep):
                self._act(hang, heard)
            elif heard and not any(one.beat.pid in self._ended for one in heard.values()):
                self._found = ""  # others train now

    def _heard(self) -> dict[int, Heard]:
        import ray

        heard: dict[int, Heard] = ray.get(self._figures.places.remote(), timeout=ACTOR_S)
        return heard

    def _act(self, hang: Hang, heard: dict[int, Heard]) -> None:
        looked_at = {rank: _on_node(_seen, heard[rank].beat) for rank in hang.ranks}
        seen = {rank: one for rank, one in looked_at.items() if one is not None}
        for rank in set(hang.ranks) - set(seen):
            self._figures.ended.remote(rank)  # its process or node is gone, which is for Ray Train to see
        now = self._heard()
        if not seen or any(rank not in now or now[rank].beat.place != heard[rank].beat.place for rank in seen):
            return  # it has gone on meanwhile
        hang = hang._replace(ranks=tuple(seen))
        self._found = told(hang, heard, seen)
        self._say(seen)
        self._ended = {one.beat.pid for one in heard.values()}
        for rank in seen:
            _on_node(_end, heard[rank].beat)
        for rank in heard:
            self._figures.ended.remote(rank)

    def _say(self, seen: dict[int, Seen]) -> None:
        whom = "it is" if len(seen) == 1 else "they are"
        say("train", f"{self._found}; {whom} ended, one of the failures that train.max_failures counts")
        for rank, one in seen.items():
            say("train", f"rank {rank} is in\n{one.stack}" if one.stack else f"no stack of rank {rank}: {one.unread}")


def _on_node(work: Callable[[Beat], T], beat: Beat) -> T | None:
    """What `work` gives on the rank's node; None where that cannot be reached."""
    import ray

    task = ray.remote(work).options(num_cpus=0, max_retries=0, label_selector={"ray.io/node-id": beat.node_id})
    asked = task.remote(beat)
    try:
        found: T = ray.get(asked, timeout=ON_NODE_S)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)  # it would wait for that node for ever
        return None
    return found


def _process(beat: Beat) -> psutil.Process | None:
    """The rank's, or None where it is gone."""
    try:
        process = psutil.Process(beat.pid)
        return process if process.create_time() == beat.started_at else None
    except psutil.NoSuchProcess:
        return None


def _seen(beat: Beat) -> Seen | None:
    """On the rank's node; None: its process is gone."""
    process = _process(beat)
    if process is None or process.status() == psutil.STATUS_ZOMBIE:
        return None
    dump, unread = _dumped(beat.pid)
    if dump:
        return Seen(process.status(), training_thread(dump))
    return Seen(process.status(), beat.stack, unread)


def _dumped(pid: int) -> tuple[str, str]:
    """What py-spy prints of the process, and why where it prints nothing.

    It reads without halting the process: py-spy cannot attach to one that was stopped, and one that hangs holds still anyway.
    """
    spy = Path(sys.executable).parent / "py-spy"
    if not spy.exists():
        return "", f"there is no {spy}"
    command = [str(spy), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        dump = subprocess.run(command, capture_output=True, text=True, timeout=SPY_S, check=False)
    except subprocess.TimeoutExpired:
        return "", f"py-spy took more than {SPY_S:.0f} s"
    if dump.returncode == 0:
        return dump.stdout, ""
    return "", f"py-spy cannot read it: {' '.join(dump.stderr.split())[:300]}"


def _end(beat: Beat) -> None:
    """On the rank's node. SIGTERM would wait for a thread that does not run."""
    if (process := _process(beat)) is not None:
        process.kill()
