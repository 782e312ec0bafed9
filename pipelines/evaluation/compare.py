"""Scores with their intervals, and paired differences of two models on the same items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Difference, EvalReport, Score
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import Stratum
from pipelines.evaluation.gate import Pair
from pipelines.evaluation.paired.binary import Binary
from pipelines.evaluation.paired.bounded import Bounded
from pipelines.evaluation.paired.likelihood import Likelihood
from pipelines.evaluation.paired.sample import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap distribution (Efron 1979): a 95 % interval."""

METRICS = {
    "perplexity": "perplexity",
    "continuation": "chrf",
    "multiple_choice": "accuracy",
    "qa": "f1",
    "written_choice": "accuracy",
}
"""Task kind -> metric."""
RIGHT_OR_WRONG = frozenset({"accuracy"})
"""Metrics of which an item has 1 or 0."""
SCALES = {"chrf": 100.0}
"""An item's best score, where it is not 1."""

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
    return tuple(_difference(score, before, after) for score, before, after in _matched(storage, old, new))


def pairs(storage: Storage, old: EvalReport, new: EvalReport, per: Iterable[Stratum] = ()) -> tuple[Pair, ...]:
    """The same as the gate takes it: each task's items, ready to be tested; then those of each language or domain among them.

    Raises:
        InputError: the two did not get the same items, an item's figure is not finite, or their tokenizers differ.
    """
    found: list[Pair] = []
    matched = list(_matched(storage, old, new))
    found += (_pair(score, new.score(score.task), before, after) for score, before, after in matched)
    for by in per:
        for score, before, after in matched:
            found += _slices(by, score, before, after)
    return tuple(found)


def _slices(by: Stratum, score: Score, before: list[Row], after: list[Row]) -> Iterator[Pair]:
    # Of the old report: what a document's language is does not hang on the model.
    names = [row.get(by) or "" for row in before]
    for name in sorted(set(names) - {""}):
        was, now = ([row for row, of in zip(rows, names, strict=True) if of == name] for rows in (before, after))
        old, new = (score.replace(value=_figure(score.metric, rows)) for rows in (was, now))
        yield replace(_pair(old, new, was, now), per=by, slice=name)


def _figure(metric: str, rows: Sequence[Row]) -> float:
    if metric == "perplexity":
        return math.exp(sum(row["nll"] for row in rows) / max(sum(row["num_tokens"] for row in rows), 1))
    return sum(row["score"] for row in rows) / len(rows)


def read_items(storage: Storage, report: EvalReport) -> dict[str, list[Row]]:
    """Rows of `items.parquet` by task, in the order of their ids."""
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(f"{report.location}/items.parquet")
    by_task: dict[str, list[Row]] = {}
    for row in pq.read_table(path, filesystem=filesystem).to_pylist():
        by_task.setdefault(row["task"], []).append(row)
    return {task: sorted(rows, key=lambda row: row["id"]) for task, rows in by_task.items()}


def _matched(storage: Storage, old: EvalReport, new: EvalReport) -> Iterator[tuple[Score, list[Row], list[Row]]]:
    before, after = read_items(storage, old), read_items(storage, new)
    for score in old.scores:
        was, now = before.get(score.task, []), after.get(score.task, [])
        if [row["id"] for row in was] != [row["id"] for row in now]:
            odd = sorted({row["id"] for row in was} ^ {row["id"] for row in now})
            raise InputError(
                f"evaluation task {score.task}",
                f"the two models did not answer the same items ({len(odd)} differ, first {odd[:1]})",
                "evaluate both with the same recipe and dataset",
            )
        yield score, was, now


def _pair(old: Score, new: Score, before: list[Row], after: list[Row]) -> Pair:
    perplexity = old.metric == "perplexity"
    was, now = (_figures(old.task, rows, "nll" if perplexity else "score") for rows in (before, after))
    sample: Sample
    if perplexity:
        tokens = _figures(old.task, before, "num_tokens")
        if (tokens != _figures(old.task, after, "num_tokens")).any():
            raise InputError(
                f"evaluation task {old.task}",
                "the two models cut its text into other tokens, and a perplexity is per token",
                "compare models that share a tokenizer, or leave perplexity out of the gate",
            )
        sample, method = Likelihood(now - was, tokens), "studentized bootstrap of the paired log-likelihoods"
    elif old.metric in RIGHT_OR_WRONG:
        lost, gained = int((was > now).sum()), int((was < now).sum())
        sample, method = Binary(len(was), lost, gained), "exact test of paired proportions on Tango's statistic"
    else:
        sample, method = Bounded((was - now) / SCALES.get(old.metric, 1.0)), "betting on the paired differences"
    return Pair(old.task, old.metric, old.value, new.value, method, sample)


def _figures(task: str, rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    import numpy as np

    figures = np.array([row[name] for row in rows], dtype=np.float64)
    if not np.isfinite(figures).all():
        holes = [row["id"] for row, good in zip(rows, np.isfinite(figures), strict=True) if not good]
        found = f"{len(holes)} item(s) have no finite {name} (first {holes[0]})"
        raise InputError(f"evaluation task {task}", found, "evaluate that model again: serinus run --from evaluate")
    return figures


def _difference(score: Score, before: list[Row], after: list[Row]) -> Difference:
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
