"""What the ranks of bench_checkpoint.py note of their time: a worker of serinus that does so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

TIMES = "bench/times"
"""Storage folder: by rank, what its worker noted."""


def timed_worker(given: dict[str, Any]) -> dict[str, Any]:
    """The stage's worker, which Ray Train finds here by name. Nothing of it is replaced; calls are timed."""
    import ray.train

    from cluster.storage import open_storage
    from pipelines.training import loop
    from pipelines.training.checkpoint import Part, Snapshot
    from pipelines.training.saving import Saver

    times: dict[str, list[float]] = {"ends": [], "joined": []}
    for owner, name, what in (
        (Saver, "save", "stood_s"),
        (Snapshot, "take", "copy_s"),
        (Part, "write", "write_s"),
    ):
        setattr(owner, name, _timed(getattr(owner, name), times.setdefault(what, [])))
    before = Saver.__exit__
    here: Any = loop
    here.train_steps = _noting_ends(loop.train_steps, times["ends"])

    def joined(saver: Saver, *why: Any) -> None:
        before(saver, *why)
        times["joined"].append(time.monotonic())

    Saver.__exit__ = joined  # type: ignore[method-assign]
    made = loop.worker(given)
    place = f"{TIMES}/{ray.train.get_context().get_world_rank()}.json"
    open_storage(given["plan"]["storage"]).write(place, json.dumps(times).encode())
    return made


def _timed(function: Callable[..., Any], took: list[float]) -> Callable[..., Any]:
    def called(*args: Any, **named: Any) -> Any:
        begun = time.monotonic()
        result = function(*args, **named)
        took.append(time.monotonic() - begun)
        return result

    return called


def _noting_ends(steps: Callable[..., Any], ends: list[float]) -> Callable[..., Any]:
    """When each step was done; what the loop does behind it (a checkpoint) comes before the next."""

    def called(*args: Any, **named: Any) -> Iterator[Any]:
        for done in steps(*args, **named):
            ends.append(time.monotonic())
            yield done

    return called
