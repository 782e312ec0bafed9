"""What the gate says of contamination. Pure: figures in, findings out. No heavy imports.

Every item is looked for, so that no test is needed; items too short to be looked for may be contaminated or not, and where the
verdict hangs on them it is inconclusive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from cluster.artifacts import Contamination, Difference, Outcome, OverlapCheck, OverlapRule, TaskContamination
from pipelines.config import ContaminationLimit, GateConfig
from pipelines.evaluation.wording import both, change

RULES: Mapping[OverlapRule, str] = {
    "most_8_grams": "70 % of the runs of 8 words of the prompt or of the answer",
    "any_13_gram": "a run of 13 words of the prompt or of the answer, or the whole of a shorter one",
}


def judge_overlap(config: GateConfig, measured: Contamination) -> tuple[OverlapCheck, ...]:
    """One finding for each limit and task it is asked of, in the recipe's order."""
    return tuple(
        _check(limit, task, f"{measured.location}/items.parquet")
        for limit in config.contamination
        for task in measured.tasks
        if limit.tasks == "all" or task.task in limit.tasks
    )


def rules_of(config: GateConfig, measured: Contamination) -> dict[str, tuple[OverlapRule, ...]]:
    """Task -> the rules by which its contamination is asked."""
    return {
        task.task: tuple(
            dict.fromkeys(one.rule for one in config.contamination if one.tasks == "all" or task.task in one.tasks)
        )
        for task in measured.tasks
    }


def _check(limit: ContaminationLimit, task: TaskContamination, where: str) -> OverlapCheck:
    # Of 13 words as of 8, an item is measured that has 8 words.
    found, unknown = task.num_by_rule[limit.rule], task.num_items - task.num_measured
    low, high = (100 * num / task.num_items for num in (found, found + unknown))
    outcome: Outcome = "inconclusive"
    if low > limit.max_percent:
        outcome = "failed"
    elif high <= limit.max_percent:
        outcome = "passed"
    name = f"contamination of {task.task}"
    return OverlapCheck(
        name=name,
        task=task.task,
        priority=limit.priority,
        outcome=outcome,
        message=f"{name}: {_told(found, unknown, task.num_items)}, at most {limit.max_percent:g} % is asked",
        rule=limit.rule,
        num_items=task.num_items,
        num_contaminated=found,
        num_unmeasured=unknown,
        max_percent=limit.max_percent,
        percent_low=low,
        percent_high=high,
        items=where,
    )


def _told(found: int, unknown: int, of: int) -> str:
    share = f"{100 * found / of:.1f} % ({found} of {of} items)"
    return f"{share} and perhaps {unknown} too short to be looked for" if unknown else share


def explained(check: OverlapCheck, clean: Mapping[str, Collection[Difference]]) -> Iterator[str]:
    """A finding in words, with the scores on the items that are not contaminated."""
    yield check.message.split(": ", 1)[1]
    yield f"contaminated: {RULES[check.rule]} stands in training documents"
    if check.outcome == "inconclusive":
        yield "which of these is true hangs on the items of fewer than 8 words: longer ones would settle it"
    for name, found in clean.items():
        for one in (one for one in found if one.task == check.task):
            new, old = name.split(" vs ")
            (difference, interval), (was, now) = change(one), both(one.old, one.new)
            yield f"{one.metric} on the {one.num_items} others: {old} {was}, {new} {now}: {difference} ({interval})"
    yield f"item by item, with a document each: {check.items}"
