"""How a task's answers are written and read: as its own fields say, and where they are silent as the harness's YAML does. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.errors import InputError
from pipelines.evaluation.harness import writing as harness
from pipelines.evaluation.harness.task_file import WRITTEN, Asked
from pipelines.evaluation.metrics.exact import AS_WRITTEN, Extract, Reading
from pipelines.task_config import TaskConfig


@dataclass(frozen=True)
class Writing:
    max_new_tokens: int
    until: tuple[str, ...] = ()
    reading: Reading = AS_WRITTEN


def writing_of(task: TaskConfig, asked: Asked | None) -> Writing:
    """Of the items of the task's file; `asked` are the fields of a YAML of the harness's.

    Raises:
        InputError: the YAML asks for what is not done here.
    """
    path, until = str(task.path), task.until
    if asked is None or asked["output_type"] != WRITTEN:
        if asked is not None and task.filter is not None:
            found = f"has output_type {asked['output_type']}, of which nothing is filtered"
            raise InputError(path, found, "take `filter:` out of the task")
        return Writing(task.num_new_tokens, until or (), _reading(task, AS_WRITTEN))
    return Writing(
        task.max_new_tokens or harness.max_tokens(path, asked),
        harness.until(path, asked) if until is None else until,
        _of_harness(task, path, asked),
    )


def _of_harness(task: TaskConfig, path: str, asked: Asked) -> Reading:
    if task.kind == "exact_match":
        compared = harness.compared(path, asked)
        # The recipe's own expression stands for the filter, also for one that could not be read.
        steps = () if task.extract is not None else harness.filtered(path, asked, task.filter)
        return _reading(task, replace(compared, steps=steps))
    if set(steps := harness.filtered(path, asked, task.filter)) - {"strip"}:
        found = f"its filter changes the text, which a {task.kind} task takes as it is ({steps})"
        raise InputError(path, found[:300], "write kind: exact_match, or name another by `filter:`")
    return AS_WRITTEN


def _reading(task: TaskConfig, before: Reading) -> Reading:
    """With what the task says itself in its place."""
    said = {name: getattr(task, name) for name in ("ignore", "ignore_case", "ignore_punctuation", "ignore_numbers")}
    found = replace(before, **{name: value for name, value in said.items() if value is not None})
    if task.extract is None:
        return found
    return replace(found, steps=(Extract(task.extract, 0 if task.take == "first" else -1),))
