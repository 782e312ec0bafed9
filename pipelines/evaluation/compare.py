"""Scores with their intervals, and paired differences of two models on the same items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.artifacts import Difference, EvalReport, Score
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import Stratum
from pipelines.evaluation.figures import FIGURES, TESTED, Figure, figure_named, sums_of, value_of
from pipelines.evaluation.gate import Pair
from pipelines.evaluation.items import Row
from pipelines.evaluation.paired.binary import Binary
from pipelines.evaluation.paired.bounded import Bounded
from pipelines.evaluation.paired.likelihood import Likelihood
from pipelines.evaluation.paired.sample import Sample
from pipelines.evaluation.rows import unpacked
from pipelines.task_config import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap distribution (Efron 1979): a 95 % interval."""


def scores_of(task: str, kind: Kind, rows: Sequence[Row]) -> tuple[Score, ...]:
    """The task's figures over `rows` with their intervals over items; those that these items cannot say are left out. Every item
    has the first, which a gate asks of."""
    found = (score_of(task, figure, rows) for figure in FIGURES[kind])
    return tuple(score for score in found if score is not None)


def score_of(task: str, figure: Figure, rows: Sequence[Row]) -> Score | None:
    """One figure; None where these items cannot say it."""
    values = resampled(task, figure, rows)
    if not math.isfinite(values[0]):
        return None
    low, high = _interval(values[1:]) if len(values) > 1 else (values[0], values[0])
    if low == high and len(values) > 1 and figure.is_mean:
        low, high = _unseen(figure, float(sums_of(figure, rows)[:, -1].sum()), values[0])
    return Score(
        task=task,
        metric=figure.metric,
        value=float(values[0]),
        ci_low=low,
        ci_high=high,
        num_items=len(rows),
        higher_is_better=figure.higher_is_better,
    )


def compare(storage: Storage, old: EvalReport, new: EvalReport) -> tuple[Difference, ...]:
    """`new - old` for each task, on the items both answered.

    Raises:
        InputError: the two did not get the same items.
    """
    return tuple(difference_of(*one) for one in both_told(storage, old, new))


def both_told(storage: Storage, old: EvalReport, new: EvalReport) -> Iterator[tuple[Score, list[Row], list[Row]]]:
    """Of the figures that both models have, and that are made of items."""
    known = {(score.task, score.metric) for score in new.scores}
    for score, before, after in _matched(storage, old, new):
        if (score.task, score.metric) in known and figure_named(score.metric).whole is None:
            yield score, before, after


def pairs(storage: Storage, old: EvalReport, new: EvalReport, per: Iterable[Stratum] = ()) -> tuple[Pair, ...]:
    """The same as the gate takes it: each task's items, ready to be tested; then those of each language or domain among them.

    Raises:
        InputError: the two did not get the same items, an item's figure is not finite, or their tokenizers differ.
    """
    found: list[Pair] = []
    matched = [one for one in _matched(storage, old, new) if one[0].metric in TESTED]
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
        old, new = (score.replace(value=value_of(figure_named(score.metric), rows)) for rows in (was, now))
        yield replace(_pair(old, new, was, now), per=by, slice=name)


def read_items(storage: Storage, report: EvalReport) -> dict[str, list[Row]]:
    """Rows of `items.parquet` by task, in the order of their ids."""
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(f"{report.location}/items.parquet")
    by_task: dict[str, list[Row]] = {}
    for row in map(unpacked, pq.read_table(path, filesystem=filesystem).to_pylist()):
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
    figure = TESTED[old.metric]
    was, now = (_figures(old.task, rows, "nll" if figure.test == "likelihood" else "score") for rows in (before, after))
    worse = (was - now if figure.higher_is_better else now - was) / figure.best
    sample: Sample
    if figure.test == "likelihood":
        tokens = _figures(old.task, before, "num_tokens")
        if (tokens != _figures(old.task, after, "num_tokens")).any():
            raise InputError(
                f"evaluation task {old.task}",
                "the two models cut its text into other tokens, and a perplexity is per token",
                "compare models that share a tokenizer, or leave perplexity out of the gate",
            )
        sample, method = Likelihood(now - was, tokens), "studentized bootstrap of the paired log-likelihoods"
    elif figure.test == "right or wrong":
        lost, gained = int((worse > 0).sum()), int((worse < 0).sum())
        sample, method = Binary(len(was), lost, gained), "exact test of paired proportions on Tango's statistic"
    else:
        sample, method = Bounded(worse), "betting on the paired differences"
    return Pair(old.task, old.metric, old.value, new.value, method, sample, higher_is_better=figure.higher_is_better)


def _figures(task: str, rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    import numpy as np

    figures = np.array([row[name] for row in rows], dtype=np.float64)
    if not np.isfinite(figures).all():
        holes = [row["id"] for row, good in zip(rows, np.isfinite(figures), strict=True) if not good]
        found = f"{len(holes)} item(s) have no finite {name} (first {holes[0]})"
        raise InputError(f"evaluation task {task}", found, "evaluate that model again: serinus run --from evaluate")
    return figures


def difference_of(score: Score, before: Sequence[Row], after: Sequence[Row]) -> Difference:
    """Of that score, by the items' rows on both models."""
    # The same items are drawn for both, so what is hard about an item cancels out.
    figure = figure_named(score.metric)
    old, new = resampled(score.task, figure, before), resampled(score.task, figure, after)
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
        num_different=_num_different(sums_of(figure, before), sums_of(figure, after)),
        higher_is_better=score.higher_is_better,
    )


def _num_different(before: NDArray[np.float64], after: NDArray[np.float64]) -> int:
    """Items of which something that is summed is not the same."""
    import numpy as np

    return int((~np.isclose(before, after, rtol=0, atol=0, equal_nan=True)).any(axis=1).sum())


def resampled(task: str, figure: Figure, rows: Sequence[Row]) -> NDArray[np.float64]:
    """The figure over all rows, then over NUM_RESAMPLES draws of as many rows with replacement; alone where it has no interval."""
    import numpy as np

    if figure.whole is not None:
        return np.array([figure.whole(rows)])
    parts = sums_of(figure, rows)
    seed = int(hashlib.sha256(f"{task}/{len(rows)}".encode()).hexdigest()[:16], 16)
    drawn = np.random.default_rng(seed).integers(0, len(rows), (NUM_RESAMPLES, len(rows)))
    sums = np.stack([np.concatenate([[part.sum()], part[drawn].sum(1)]) for part in parts.T], axis=-1)
    return figure.value(sums)


def _unseen(figure: Figure, num_items: float, value: float) -> tuple[float, float]:
    """Where all items score the same a bootstrap sees nothing else: a share of 1 - 0.025^(1/n) may score otherwise (Clopper and
    Pearson 1934, Biometrika 26), be it the least or the most."""
    otherwise = 1 - float((INTERVAL[0] / 100) ** (1 / num_items))
    return value - otherwise * (value - figure.lowest), value + otherwise * (figure.best - value)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    import numpy as np

    # A draw may hold none of the items that a figure is about.
    low, high = np.nanpercentile(values, INTERVAL)
    return float(low), float(high)
