"""Few-shot prompts: examples with their right answers before what is asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from cluster.errors import InputError
from pipelines.evaluation.items import Example, Item, order
from pipelines.task_config import TaskConfig


def shown(task: TaskConfig, items: Sequence[Item], others: Sequence[Item] | None, seed: int) -> list[Item]:
    """The items that are asked, each behind the same `num_shots` examples.

    Args:
        others: what examples are taken from; None: `items`, of which those are then not asked.

    Raises:
        InputError: too few have a right answer that can be shown.
    """
    asked = set() if others is None else {item.prompt for item in items}
    # An example that is asked too would give its answer away.
    able = [item for item in (items if others is None else others) if item.answers and item.prompt not in asked]
    chosen = sorted(able, key=lambda item: order(seed, task.name, "shot", item.id))[: task.num_shots]
    if len(chosen) < task.num_shots:
        found = f"{len(chosen)} items with an answer, none of them asked, for num_shots: {task.num_shots}"
        raise InputError(task.shots_path or str(task.path), found, "lower num_shots, or name a file by shots_path")
    taken = {item.prompt for item in chosen}
    left = [item for item in items if item.prompt not in taken]
    if not left:
        raise InputError(str(task.path), "all its items are examples", "lower num_shots, or name a file by shots_path")
    before = "".join(map(_example, chosen))
    return [whole(item, before) for item in left]


def whole(item: Item, before: str = "") -> Item:
    """The item with its prompt as it is asked."""
    lead = item.example.lead if item.example else ""
    return replace(item, prompt=f"{lead}{before}{item.prompt}", example=None)


def _example(item: Item) -> str:
    around = item.example or Example(answer=answer(item))
    return f"{item.prompt}{around.answer}{around.between}"


def answer(item: Item) -> str:
    """As the model is to give it."""
    match item.kind:
        case "written_choice":
            return f" {ascii_uppercase[item.gold]}"
        case "qa" | "generation" | "exact_match" | "tatqa":
            return f" {item.answers[0].strip()}"
        case _:
            return item.answers[item.gold]
