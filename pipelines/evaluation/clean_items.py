"""What scores say without the items that a model may have learnt from: reads the table of a Contamination. No heavy imports."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping

from cluster.artifacts import Checkpoint, Contamination, Difference, EvalReport, OverlapRule, Score
from cluster.storage import Storage
from cluster.versions import every
from pipelines.evaluation.compare import both_told, difference_of, score_of
from pipelines.evaluation.figures import TESTED
from pipelines.evaluation.items import Row
from pipelines.evaluation.rows import recorded_file

LeftOut = Mapping[str, Collection[str]]
"""Ids by task."""


def contaminated(
    storage: Storage, measured: Contamination, rules: Mapping[str, Collection[OverlapRule]]
) -> dict[str, frozenset[str]]:
    """Task -> ids of its items that are contaminated by any of its rules.

    Raises:
        InputError: the table is gone, or is not the one on record.
    """
    import pyarrow.parquet as pq

    content = recorded_file(storage, measured, "items.parquet")
    found: dict[str, set[str]] = {}
    for row in pq.read_table(io.BytesIO(content)).to_pylist():
        if any(row[rule] for rule in rules.get(row["task"], ())):
            found.setdefault(row["task"], set()).add(row["id"])
    return {task: frozenset(ids) for task, ids in found.items()}


def measured_for(storage: Storage, report: EvalReport, trained: Checkpoint | None = None) -> Contamination | None:
    """The newest of the items that a model was evaluated on, by what the trained one learnt from; None: it was not measured.

    Of two files that a method learns from the newest counts: the model's manifest does not tell one from the other.
    """
    fitting = [
        one
        for one in every(storage, Contamination)[0]
        if one.inputs.get("dataset") == report.inputs.get("dataset")
        and all(one.config.get(name) == report.config.get(name) for name in ("tasks", "seed", "items_version"))
        and (trained is None or _is_learnt(one, trained))
    ]
    return fitting[-1] if fitting else None


def _is_learnt(measured: Contamination, trained: Checkpoint) -> bool:
    """Whether items were looked for in the datasets that the model was trained on."""
    is_causal = trained.config.get("method", {}).get("kind", "causal") == "causal"
    roles = {"dataset"} if is_causal else set[str]()
    roles |= {"replayed"} & trained.inputs.keys()
    return roles == {*measured.config["learnt_from"]} and all(
        measured.inputs.get(role) == trained.inputs.get(role) for role in roles
    )


def compare_without(storage: Storage, old: EvalReport, new: EvalReport, left_out: LeftOut) -> tuple[Difference, ...]:
    """As `compare`, without some items: of the tasks that have any of them and others, and figures that the others can say."""
    found = []
    for score, before, after in both_told(storage, old, new):
        was, now = (_without(rows, left_out.get(score.task, ())) for rows in (before, after))
        if 0 < len(was) < len(before):
            found.append(difference_of(score, was, now))
    return tuple(one for one in found if math.isfinite(one.difference))


def scores_without(
    scores: Collection[Score], rows: Mapping[tuple[str, str], Row], left_out: LeftOut
) -> Iterator[Score]:
    """The figures that a gate asks for, without those items, of one model whose rows are by task and id."""
    for score in scores:
        if score.metric not in TESTED or score.task not in left_out:
            continue
        of_task = [row for (task, _), row in sorted(rows.items()) if task == score.task]
        others = _without(of_task, left_out[score.task])
        if others and (found := score_of(score.task, TESTED[score.metric], others)) is not None:
            yield found


def _without(rows: Collection[Row], ids: Collection[str]) -> list[Row]:
    return [row for row in rows if row["id"] not in ids]
