"""The driver's watch over the ranks: who hangs is looked at on its node, named with its stack, and ended; Ray Train goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import psutil

from cluster.processes import began
from pipelines.config import TrainConfig
from pipelines.progress import say
from pipelines.training.hang import Beat, Hang, Heard, Process, Seen, find_hang, stacks, told, training_thread
from pipelines.training.heartbeat import MAX_INTERVAL_S, interval_s

ON_NODE_S = 60.0
"""For tasks on ranks' nodes, all at once: a busy one starts a process for it in a few seconds. Whom they do not reach is asked
again at the next look, unless the node is dead to Ray, which takes half a minute."""

ACTOR_S = 10.0
SPY_S = 20.0
MAX_GAP_S = 2 * MAX_INTERVAL_S
"""Between two calls of `Places`, which the watch alone makes more often. Who hears nothing for longer was halted (a container that
is paused) and knows nothing of that time."""

T = TypeVar("T")


class Places:
    """What ranks said of themselves last; the part of the actor `Figures` that the watch asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._read, self._listened_s = clock, clock(), 0.0
        self._beats: dict[int, tuple[Beat, float, float]] = {}

    def _now(self) -> float:
        """Seconds that this has listened."""
        before, self._read = self._read, self._clock()
        self._listened_s += min(self._read - before, MAX_GAP_S)
        return self._listened_s

    def heard(self, rank: int, beat: Beat) -> None:
        """A rank's heartbeat."""
        now, before = self._now(), self._beats.get(rank)
        stands = before is not None and (before[0].process, before[0].place) == (beat.process, beat.place)
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
        self._ended: set[Process] = set()
        """Those of the group in which someone hung last."""

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
                self._look()

        # In this context, so that lines of the log are about the same run.
        thread = threading.Thread(target=copy_context().run, args=(watch,), name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(ON_NODE_S)

    def _look(self) -> None:
        import ray

        # The head may be away for a while, and a node for good: the next look tells.
        with suppress(ray.exceptions.RayError):
            heard = self._heard()
            if hang := self._hang(heard):
                self._act(hang, heard)
            elif heard and not any(one.beat.process in self._ended for one in heard.values()):
                self._found = ""  # others train now

    def _hang(self, heard: Mapping[int, Heard]) -> Hang | None:
        config = self._config
        if config.hang_timeout_s is None:
            return None
        in_lockstep = config.parallel.pipeline == 1
        return find_hang(heard, config.num_workers, config.hang_timeout_s, in_lockstep=in_lockstep)

    def _heard(self) -> dict[int, Heard]:
        import ray

        heard: dict[int, Heard] = ray.get(self._figures.places.remote(), timeout=ACTOR_S)
        return heard

    def _act(self, hang: Hang, heard: dict[int, Heard]) -> None:
        looked_at = _on_nodes(_seen, {rank: heard[rank].beat for rank in hang.ranks})
        for rank in (rank for rank, one in looked_at.items() if one is None):
            self._figures.ended.remote(rank)  # its process or node is gone, which is for Ray Train to see
        now = self._heard()
        if (still := self._hang(now)) is None:
            return  # they have gone on, or speak again
        seen = {rank: one for rank in still.ranks if (one := looked_at.get(rank)) is not None}
        if not seen:
            return
        self._found = told(still._replace(ranks=tuple(seen)), now, seen)
        self._say(seen)
        self._ended = {one.beat.process for one in now.values()}
        _on_nodes(_end, {rank: now[rank].beat for rank in seen})
        for rank in now:
            self._figures.ended.remote(rank)

    def _say(self, seen: dict[int, Seen]) -> None:
        whom = "it is" if len(seen) == 1 else "they are"
        say("train", f"{self._found}; {whom} ended, one of the failures that train.max_failures counts")
        for where in stacks(seen):
            say("train", where)


def _on_nodes(work: Callable[[Beat], T], beats: Mapping[int, Beat]) -> dict[int, T | None]:
    """What `work` gives of each rank on its node, all at once. None where that is gone; nothing where it did not answer in time."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    asked = {}
    for rank, beat in beats.items():
        if beat.node_id in alive:
            task = ray.remote(work).options(num_cpus=0, max_retries=0, label_selector={"ray.io/node-id": beat.node_id})
            asked[rank] = task.remote(beat)
    tasks = list(asked.values())
    done, late = ray.wait(tasks, num_returns=len(tasks), timeout=ON_NODE_S) if tasks else ([], [])
    for one in late:
        ray.cancel(one, force=True)  # it would wait for that node for ever
    gone: dict[int, T | None] = {rank: None for rank in beats if rank not in asked}
    return gone | {rank: ray.get(one) for rank, one in asked.items() if one in done}


def _process(beat: Beat) -> psutil.Process | None:
    """The rank's, or None where it is gone."""
    try:
        return psutil.Process(beat.pid) if began(beat.pid) == beat.started_at else None
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
    except OSError as error:
        return "", f"py-spy cannot be started: {error}"
    if dump.returncode == 0:
        return dump.stdout, ""
    return "", f"py-spy cannot read it: {' '.join(dump.stderr.split())[:300]}"


def _end(beat: Beat) -> None:
    """On the rank's node. SIGTERM would wait for a thread that does not run."""
    if (process := _process(beat)) is not None:
        process.kill()
