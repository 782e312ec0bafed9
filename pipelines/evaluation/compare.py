"""Scores with their intervals, and paired differences of two models on the same items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Difference, EvalReport, Score
from cluster.errors import InputError
from cluster.storage import Storage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap distribution (Efron 1979): a 95 % interval."""

METRICS = {"perplexity": "perplexity", "continuation": "chrf", "multiple_choice": "accuracy"}
"""Task kind -> metric."""

Row = dict[str, Any]


def score_of(task: str, kind: str, rows: Sequence[Row]) -> Score:
    """The task's figure over `rows` with its interval over items."""
    metric = METRICS[kind]
    values = _resampled(task, metric, rows)
    low, high = _interval(values[1:])
    return Score(
        task=task,
        metric=metric,
        value=float(values[0]),
        ci_low=low,
        ci_high=high,
        num_items=len(rows),
        higher_is_better=metric != "perplexity",
    )


def compare(storage: Storage, old: EvalReport, new: EvalReport) -> tuple[Difference, ...]:
    """`new - old` for each task, on the items both answered.

    Raises:
        InputError: the two did not get the same items.
    """
    before, after = read_items(storage, old), read_items(storage, new)
    return tuple(_difference(score, before.get(score.task, []), after.get(score.task, [])) for score in old.scores)


def read_items(storage: Storage, report: EvalReport) -> dict[str, list[Row]]:
    """Rows of `items.parquet` by task, in the order of their ids."""
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(f"{report.location}/items.parquet")
    by_task: dict[str, list[Row]] = {}
    for row in pq.read_table(path, filesystem=filesystem).to_pylist():
        by_task.setdefault(row["task"], []).append(row)
    return {task: sorted(rows, key=lambda row: row["id"]) for task, rows in by_task.items()}


def _difference(score: Score, before: list[Row], after: list[Row]) -> Difference:
    if [row["id"] for row in before] != [row["id"] for row in after]:
        odd = sorted({row["id"] for row in before} ^ {row["id"] for row in after})
        raise InputError(
            f"evaluation task {score.task}",
            f"the two models did not answer the same items ({len(odd)} differ, first {odd[:1]})",
            "evaluate both with the same recipe and dataset",
        )
    # The same items are drawn for both, so what is hard about an item cancels out.
    old, new = _resampled(score.task, score.metric, before), _resampled(score.task, score.metric, after)
    low, high = _interval(new[1:] - old[1:])
    return Difference(
        task=score.task,
        metric=score.metric,
        old=float(old[0]),
        new=float(new[0]),
        difference=float(new[0] - old[0]),
        ci_low=low,
        ci_high=high,
        ratio=float(new[0] / old[0]) if old[0] else 1.0,
        num_items=len(before),
        higher_is_better=score.higher_is_better,
    )


def _resampled(task: str, metric: str, rows: Sequence[Row]) -> NDArray[np.float64]:
    """The figure over all rows, then over NUM_RESAMPLES draws of as many rows with replacement.

    Perplexity is exp(total negative log-likelihood / total tokens); the other figures are means.
    """
    import numpy as np

    nll = metric == "perplexity"
    over = np.array([row["nll"] if nll else row["score"] for row in rows], dtype=np.float64)
    under = np.array([row["num_tokens"] if nll else 1 for row in rows], dtype=np.float64)
    seed = int(hashlib.sha256(f"{task}/{len(rows)}".encode()).hexdigest()[:16], 16)
    drawn = np.random.default_rng(seed).integers(0, len(rows), (NUM_RESAMPLES, len(rows)))
    ratios: NDArray[np.float64] = np.concatenate([[over.sum() / under.sum()], over[drawn].sum(1) / under[drawn].sum(1)])
    figures: NDArray[np.float64] = np.exp(ratios) if nll else ratios
    return figures


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)
