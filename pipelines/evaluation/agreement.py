"""Two evaluations of the same items, item by item: two engines, two number formats, a folder and the service made of it.

No heavy imports; what is read are the folders that `serinus eval` wrote.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from cluster.artifacts import Score
from cluster.config import StrictModel
from cluster.errors import InputError
from pipelines.evaluation.items import Row
from pipelines.evaluation.report import RunReport
from pipelines.evaluation.rows import unpacked

BY_WHOLE = "stereotype_preference"
"""The metric whose items choose by log-likelihood; all others do by log-likelihood per byte."""
REMEDY = "give the folder that `serinus eval ... --out` wrote, as it was written"


class Evaluation(NamedTuple):
    """A folder's rows, and its report."""

    folder: str
    report: RunReport
    rows: dict[tuple[str, str], Row]

    @property
    def label(self) -> str:
        """Which model, through what."""
        source = next((one for one in self.report.evidence if one.role == "model"), None)
        return f"{self.report.name} ({source.summary or source.path})" if source else self.report.name


class Different(StrictModel):
    """An item on which the two differ in what they chose, or in their score of what was written."""

    task: str
    id: str
    first: str
    second: str
    """What each chose or wrote."""
    first_gap: float | None = None
    second_gap: float | None = None
    """By how much each prefers its choice to the other's: nats per byte, for minimal pairs nats. None where they write."""


class TaskAgreement(StrictModel):
    """Of a task's items."""

    task: str
    metric: str
    num_items: int
    first: float
    second: float
    """The metric."""
    num_other_texts: int = 0
    """Written otherwise, whether or not that changes the score."""
    mean_distance: float | None = None
    largest_distance: float | None = None
    """Between the two's log-likelihoods of the same text, in nats per byte; None where nothing has one."""
    different: tuple[Different, ...] = ()


class Agreement(StrictModel):
    """All tasks."""

    first: str
    second: str
    tasks: tuple[TaskAgreement, ...]

    @property
    def num_different(self) -> int:
        return sum(len(task.different) for task in self.tasks)


def read(folder: Path) -> Evaluation:
    """What `serinus eval` wrote there.

    Raises:
        InputError: it is no such folder, or its items are not those of a report in it.
    """
    import io

    import pyarrow.parquet as pq

    path = folder / "items.parquet"
    if not path.is_file():
        raise InputError(str(folder), "has no items.parquet", REMEDY)
    content = path.read_bytes()
    report = _report_of(folder, hashlib.sha256(content).hexdigest())
    rows = map(unpacked, pq.read_table(io.BytesIO(content)).to_pylist())
    return Evaluation(str(folder), report, {(row["task"], row["id"]): row for row in rows})


def _report_of(folder: Path, digest: str) -> RunReport:
    """The report that names these items: a folder may hold several models' pages, and the last one's items."""
    for path in sorted(folder.glob("report-*.json")):
        try:
            report = RunReport.model_validate_json(path.read_bytes())
        except ValidationError:
            continue
        if any(one.role == "items" and one.digest == digest for one in report.evidence):
            return report
    raise InputError(str(folder), "holds no report on its items.parquet", REMEDY)


def agreement(first: Evaluation, second: Evaluation, tasks: Sequence[str] = ()) -> Agreement:
    """Of the tasks and items of both, or of these tasks alone.

    Raises:
        InputError: they were not asked the same.
    """
    if tasks:
        first, second = _only(first, tasks), _only(second, tasks)
    _check_same(first, second)
    found = tuple(_task(score, first, second) for score in _leading(first.report))
    return Agreement(first=first.label, second=second.label, tasks=found)


def _only(of: Evaluation, tasks: Sequence[str]) -> Evaluation:
    known = {one.score.task for one in of.report.scores}
    if missing := sorted(set(tasks) - known):
        raise InputError(of.folder, f"has no task {missing[0]!r}", f"name one of {', '.join(sorted(known))}")
    report = of.report.replace(scores=tuple(one for one in of.report.scores if one.score.task in tasks))
    return of._replace(report=report, rows={at: row for at, row in of.rows.items() if at[0] in tasks})


def _check_same(first: Evaluation, second: Evaluation) -> None:
    where = f"{first.folder} and {second.folder}"
    remedy = "evaluate both on the same file of tasks, with the same seed"
    if odd := sorted(first.rows.keys() ^ second.rows.keys()):
        raise InputError(where, f"{len(odd)} item(s) are in one of them alone (first {'/'.join(odd[0])})", remedy)
    for name in ("prompt", "wanted"):
        if other := [at for at, row in first.rows.items() if row[name] != second.rows[at][name]]:
            found = f"{len(other)} item(s) have another {name} (first {'/'.join(other[0])})"
            raise InputError(where, found, remedy)


def _leading(report: RunReport) -> Iterator[Score]:
    """Each task's first figure."""
    seen: set[str] = set()
    for one in report.scores:
        if one.score.task not in seen:
            seen.add(one.score.task)
            yield one.score


def _task(score: Score, first: Evaluation, second: Evaluation) -> TaskAgreement:
    other = next(one for one in _leading(second.report) if one.task == score.task)
    pairs = [(row, second.rows[at]) for at, row in sorted(first.rows.items()) if at[0] == score.task]
    distances = [distance for old, new in pairs for distance in _distances(old, new)]
    return TaskAgreement(
        task=score.task,
        metric=score.metric,
        num_items=len(pairs),
        first=score.value,
        second=other.value,
        num_other_texts=sum(not old["choice_nats"] and old["output"] != new["output"] for old, new in pairs),
        mean_distance=math.fsum(distances) / len(distances) if distances else None,
        largest_distance=max(distances, default=None),
        different=tuple(found for old, new in pairs if (found := _different(score.metric, old, new))),
    )


def _distances(old: Row, new: Row) -> list[float]:
    if old["choice_nats"]:
        return [abs(a - b) for a, b in zip(_per_byte(old), _per_byte(new), strict=True)]
    if not old["nll"] or not old["num_bytes"] or not new["num_bytes"]:
        return []
    return [abs(old["nll"] / old["num_bytes"] - new["nll"] / new["num_bytes"])]


def _different(metric: str, old: Row, new: Row) -> Different | None:
    about = {"task": old["task"], "id": old["id"], "first": old["output"], "second": new["output"]}
    if not old["choice_nats"]:
        # What has no output is a likelihood (perplexity) or a vector: a number, of which no two engines give the same digits.
        return Different(**about) if old["output"] and old["score"] != new["score"] else None
    was, now = ((row["choice_nats"] if metric == BY_WHOLE else _per_byte(row)) for row in (old, new))
    a, b = _likeliest(was), _likeliest(now)
    return None if a == b else Different(**about, first_gap=was[a] - was[b], second_gap=now[b] - now[a])


def _per_byte(row: Row) -> list[float]:
    return [nats / max(size, 1) for nats, size in zip(row["choice_nats"], row["choice_bytes"], strict=True)]


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
