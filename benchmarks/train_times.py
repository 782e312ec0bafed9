"""What the ranks of bench_train.py note of their time: both sides alike, and a worker of serinus that does so."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil

ASKED, TIMES = "bench/asked", "bench/times"
"""Storage keys: the settings of a start; and, by rank, what its worker noted."""


def timed_worker(given: dict[str, Any]) -> dict[str, Any]:
    """The stage's worker, which Ray Train finds here by name."""
    times: dict[str, Any] = {"began": psutil.Process().create_time(), "entered": used()}
    from cluster.storage import open_storage
    from pipelines.training import loop

    storage = open_storage(given["plan"]["storage"])
    blob = storage.read(ASKED)
    assert blob is not None, "train_serinus.py writes it"
    asked = json.loads(blob.content)
    keep_on(asked["cores"])
    here: Any = loop
    here.build_engine = _noting(loop.build_engine, "built", times)
    here.checkpoint.restore = _noting(loop.checkpoint.restore, "loaded", times)
    here.train_steps = _noting_steps(loop.train_steps, times, asked)
    try:
        return loop.worker(given)
    finally:
        import ray.train

        rank = ray.train.get_context().get_world_rank()
        storage.write(f"{TIMES}/{rank}.json", json.dumps(times).encode())


def _noting(function: Callable[..., Any], name: str, times: dict[str, Any]) -> Callable[..., Any]:
    def called(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        times[name] = used()
        return result

    return called


def _noting_steps(steps: Callable[..., Any], times: dict[str, Any], asked: dict[str, Any]) -> Callable[..., Any]:
    """From the end of one step to the end of the next is all that the loop does: data, step, record, figures, checkpoint."""

    def called(*args: Any, **named: Any) -> Iterator[Any]:
        noted = Noted(asked)
        times.update(noted.times)
        for record, tokens_per_s in steps(*args, **named):
            noted.step(record.losses[-1].loss)
            yield record, tokens_per_s
            if record.step == asked["stop"]:
                raise Stopped(f"behind step {record.step}, as asked")

    return called


class Stopped(Exception):
    """The worker ends here, as one that is killed would."""


class Noted:
    """What a rank notes of its steps.

    Args:
        asked: `marks`, numbers of steps of this start behind which the CPU time of all the side's processes is taken as well;
            `bench`, the number of the process that started the side; `cores`, of keep_on.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self.times: dict[str, Any] = {"ends": [used()], "losses": [], "side_cpu_s": []}

    def step(self, loss: float) -> None:
        """One more is done."""
        self.times["ends"].append(used())
        self.times["losses"].append(loss)
        if len(self.times["losses"]) in self._asked["marks"]:
            self.times["side_cpu_s"].append(side_cpu_s(self._asked["bench"]))


def keep_on(cores: list[int]) -> None:
    """This process with all its threads, and those to come; with none of them it goes where the kernel puts it."""
    for thread in psutil.Process().threads() if cores else ():
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(thread.id, cores)


def used() -> list[float]:
    """By now: the clock, this process's CPU seconds, its page faults."""
    return [time.time(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt]


def side_cpu_s(bench: int) -> float:
    """CPU seconds by now of all living processes below the one that `bench` started, to which this one belongs."""
    own = psutil.Process()
    root = next(process for process in [own, *own.parents()] if process.ppid() == bench)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
