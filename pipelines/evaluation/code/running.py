"""Programs of code tasks in their sandboxes, on the pool; whether they pass is their items' score."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.pools import on_pool
from cluster.session import prepare_environment
from cluster.waiting import watched
from pipelines.config import EvaluateConfig
from pipelines.evaluation.code import sandbox
from pipelines.evaluation.code.functions import program
from pipelines.evaluation.code.sandbox import Outcome
from pipelines.evaluation.items import CodeItem, Item, Row
from pipelines.evaluation.pool import wait
from pipelines.progress import bar, say
from pipelines.task_config import CodeTask

T = TypeVar("T")
MIB = 1 << 20


def check(config: EvaluateConfig) -> None:
    """Before anything is written.

    Raises:
        ResourceError: where the programs would run nothing can be confined.
    """
    if any(isinstance(task, CodeTask) for task in config.tasks):
        _there(config, "checking the sandbox", sandbox.check)


def with_tests(config: EvaluateConfig, items: Sequence[Item], rows: Sequence[Row]) -> list[Row]:
    """The rows, those of code tasks scored by whether their programs pass; these run on the pool, in a sandbox each.

    Raises:
        ResourceError: nothing can be confined there.
    """
    done, by_id = list(rows), {(item.task, item.id): item for item in items if isinstance(item, CodeItem)}
    for task in (task for task in config.tasks if isinstance(task, CodeTask)):
        # What an engine wrote of no numbers has a score that is none already.
        places = [at for at, row in enumerate(rows) if row["task"] == task.name and row["score"] is None]
        programs = [program(by_id[task.name, rows[at]["id"]], rows[at]["output"]) for at in places]
        say("evaluate", f"{task.name}: {len(programs)} programs to the sandbox")
        for at, outcome in zip(places, _there(config, task.name, run_all, task, programs), strict=True):
            done[at] = _scored(rows[at], outcome)
    return done


def run_all(task: CodeTask, programs: Sequence[str]) -> list[Outcome]:
    """As many at once as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda one: sandbox.run(one, task.timeout_s, task.memory_mib * MIB), programs))


def _there(config: EvaluateConfig, what: str, function: Callable[..., T], *arguments: object) -> T:
    """Called on the pool where a cluster is joined: what a model wrote has no place on the head."""
    prepare_environment()  # Ray reads at its import whether it is to show a token
    import ray

    if not ray.is_initialized():
        return function(*arguments)
    with watched("evaluate", config.pool), bar("evaluate", None, "programs") as shown:
        run = ray.remote(function).options(num_cpus=0.5, label_selector=on_pool(config.pool), max_retries=0)
        found: T = wait(run.remote(*arguments), shown, 0, what)
    return found


def _scored(row: Row, outcome: Outcome) -> Row:
    passed = outcome.end == "passed"
    late: dict[str, float] = {"timed_out": 1.0} if outcome.end == "timed_out" else {}
    return {**row, "score": float(passed), "correct": passed, "figures": {**row["figures"], **late}}
