"""What figures rest on that is no answer: empty ones, and those from which no choice could be read. Pure.

They are counted in the rows of their items (`figures`: `empty`, `unread`), and told wherever the figures are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.items import Row


def notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """A line for each task that has such answers."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    found = (_note(task, [row for row in rows if row["task"] == task]) for task in tasks)
    return tuple(note for note in found if note)


def _note(task: str, rows: Sequence[Row]) -> str:
    unread, empty = (int(sum(row["figures"].get(name, 0) for row in rows)) for name in ("unread", "empty"))
    if unread:
        return (
            f"{task}: no choice could be read from {unread} of {len(rows)} answers, {empty} of them empty: "
            "counted as not right"
        )
    if not empty:
        return ""
    if samples := sum(len(row["samples"]) for row in rows):
        return f"{task}: {empty} of {samples} continuations are empty, in which a scorer finds nothing"
    right = sum(bool(row["figures"].get("empty")) and bool(row["correct"]) for row in rows)
    return f"{task}: {empty} of {len(rows)} answers are empty ({right} of them right): counted as they are"
