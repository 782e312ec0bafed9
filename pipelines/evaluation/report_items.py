"""What single items say in a report: those that the last model lost most on, and whether a model is as sure as it is right."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cluster.artifacts import EvalReport
from cluster.config import StrictModel
from cluster.storage import Storage
from pipelines.evaluation.items import Row
from pipelines.evaluation.rows import recorded_file, unpacked
from pipelines.task_config import LOWER_IS_BETTER

NUM_WORST = 3
"""Items shown of each task."""
MAX_OUTPUT = 2000
"""Characters of a prompt or an answer that are shown."""
NUM_BINS = 10
"""Of a reliability diagram, equally wide."""
MIN_ANSWERS = 20
"""Fewer say nothing of calibration."""
UNRANKED = frozenset({"effect_size"})
"""Metrics whose items have no better or worse."""


class Answer(StrictModel):
    model: str
    score: float
    output: str
    """Cut after MAX_OUTPUT characters; empty where the model was only asked for likelihoods."""


class WorstItem(StrictModel):
    """An item on which the newer model lost most."""

    task: str
    id: str
    lost: float
    """How much worse its score became, in the item's unit."""
    prompt: str = ""
    """Its end; empty in evaluations of earlier versions, which did not keep it."""
    wanted: str = ""
    """The right answer, where there is one."""
    answers: tuple[Answer, ...]


class Bin(StrictModel):
    """Answers whose confidence lies in one interval."""

    confidence: float
    accuracy: float
    num_items: int


class Calibration(StrictModel):
    """How often a model is right when it gives its choice a probability (Guo et al. 2017, arXiv 1706.04599, section 2)."""

    task: str
    model: str
    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error: the mean distance of accuracy and confidence, 0 to 1."""


class Items(NamedTuple):
    """A model's items, and the first metric of each task."""

    rows: dict[tuple[str, str], Row]
    metrics: dict[str, str]


def read(storage: Storage, reports: Mapping[str, EvalReport]) -> dict[str, Items]:
    """Model -> its items, of those whose file is on record.

    Raises:
        InputError: a file is gone or not the one on record.
    """
    found = {}
    for model, report in reports.items():
        metrics: dict[str, str] = {}
        for score in report.scores:
            metrics.setdefault(score.task, score.metric)
        if rows := _rows(storage, report):
            found[model] = Items(rows, metrics)
    return found


def worst(items: Mapping[str, Items]) -> Iterator[WorstItem]:
    """Of each task the items that the last model lost most on against the one before it."""
    if len(items) < 2:
        return
    old, new = list(items.values())[-2:]
    for task, metric in new.metrics.items():
        if metric in UNRANKED:
            continue
        # Of perplexity an item's score is its log-likelihood, which is better when higher.
        sign = -1 if metric in LOWER_IS_BETTER - {"perplexity"} else 1
        shared = [at for at in new.rows if at[0] == task and at in old.rows]
        lost = {at: sign * (float(old.rows[at]["score"]) - float(new.rows[at]["score"])) for at in shared}
        ranked = sorted((at for at in shared if lost[at] > 0), key=lambda at: (-lost[at], at))  # used at once
        for at in ranked[:NUM_WORST]:
            answers = tuple(_answer(model, found.rows[at]) for model, found in items.items() if at in found.rows)
            shown = {name: new.rows[at][name][-MAX_OUTPUT:] for name in ("prompt", "wanted")}
            yield WorstItem(task=task, id=at[1], lost=lost[at], answers=answers, **shown)


def calibrations(items: Mapping[str, Items]) -> Iterator[Calibration]:
    """Of each task whose answers have a probability, of each model."""
    tasks = dict.fromkeys(task for found in items.values() for task in found.metrics)
    for task in tasks:
        for model, found in items.items():
            rows = [row for (of, _), row in found.rows.items() if of == task and "confidence" in row["figures"]]
            if len(rows) >= MIN_ANSWERS:
                yield calibration(task, model, rows)


def calibration(task: str, model: str, rows: Sequence[Row]) -> Calibration:
    """Of rows with a confidence."""
    inside: dict[int, list[Row]] = {}
    for row in rows:
        inside.setdefault(min(int(row["figures"]["confidence"] * NUM_BINS), NUM_BINS - 1), []).append(row)
    bins = tuple(
        Bin(
            confidence=sum(row["figures"]["confidence"] for row in some) / len(some),
            accuracy=sum(bool(row["correct"]) for row in some) / len(some),
            num_items=len(some),
        )
        for _, some in sorted(inside.items())
    )
    error = sum(one.num_items * abs(one.accuracy - one.confidence) for one in bins) / len(rows)
    return Calibration(task=task, model=model, bins=bins, error=error)


def _rows(storage: Storage, report: EvalReport) -> dict[tuple[str, str], Row]:
    """(task, id) -> row of items.parquet; none where its file is not on record."""
    import pyarrow.parquet as pq

    if not any(file.path == "items.parquet" for file in report.files):
        return {}
    content = recorded_file(storage, report, "items.parquet")
    rows = map(unpacked, pq.read_table(io.BytesIO(content)).to_pylist())
    return {(row["task"], row["id"]): row for row in rows}


def _answer(model: str, row: Row) -> Answer:
    return Answer(model=model, score=row["score"], output=(row["output"] or "")[:MAX_OUTPUT])
