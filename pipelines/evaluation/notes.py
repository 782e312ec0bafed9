"""What figures rest on that is no answer to the whole question: empty ones, those from which no answer could be read, and those
to prompts that were too long. Pure.

They are counted in the rows of their items (`figures`: `empty`, `unread`, `cut`), and told wherever the figures are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.items import Row


def notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Lines for each task that has such answers."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    by_task = [(task, [row for row in rows if row["task"] == task]) for task in tasks]
    found = (note(task, some) for task, some in by_task for note in (_note, _cut))
    return tuple(note for note in found if note)


def _cut(task: str, rows: Sequence[Row]) -> str:
    if not (lost := [int(row["figures"]["cut"]) for row in rows if row["figures"].get("cut")]):
        return ""
    return (
        f"{task}: {len(lost)} of {len(rows)} texts are longer than evaluate.max_model_len and were cut at the beginning, "
        f"by {max(lost):,} tokens at most"
    )


def _note(task: str, rows: Sequence[Row]) -> str:
    unread, empty = (int(sum(row["figures"].get(name, 0) for row in rows)) for name in ("unread", "empty"))
    if unread:
        # A filter of the harness's may put something in the place of an answer, which then may be right.
        right = sum(bool(row["figures"].get("unread")) and bool(row["correct"]) for row in rows)
        counted = f"counted as the filter has it ({right} of them right)" if right else "counted as not right"
        return f"{task}: no answer could be read from {unread} of {len(rows)} texts, {empty} of them empty: {counted}"
    if not empty:
        return ""
    if samples := sum(len(row["samples"]) for row in rows):
        return f"{task}: {empty} of {samples} continuations are empty, in which a scorer finds nothing"
    right = sum(bool(row["figures"].get("empty")) and bool(row["correct"]) for row in rows)
    return f"{task}: {empty} of {len(rows)} answers are empty ({right} of them right): counted as they are"
