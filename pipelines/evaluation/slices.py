"""What each model keeps of the base model's figure on slices of a task: a language, a domain, what is long. No heavy imports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from cluster.config import StrictModel
from pipelines.evaluation.compare import INTERVAL, resampled
from pipelines.evaluation.figures import TESTED, Figure, value_of
from pipelines.evaluation.items import Row
from pipelines.evaluation.report_items import Items

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_ITEMS = 5
"""Fewer are no slice."""
LONG = 2.0
"""Times the median of its task: an item that is so long is a long context."""


class Kept(StrictModel):
    """A model's figure, and what that is of the first model's: new / old in percent, where less is better old / new."""

    model: str
    value: float
    percent: float | None = None
    """None: the first model's own, or that scored nothing."""
    ci_low: float | None = None
    ci_high: float | None = None
    """95 % bootstrap interval over the items, which are the same for both."""


class SliceRecovery(StrictModel):
    """Some of a task's items on all models, or all of them."""

    task: str
    metric: str
    slice: str = ""
    """Empty: all items."""
    num_items: int
    kept: tuple[Kept, ...]
    """Base first."""


def recoveries(items: Mapping[str, Items]) -> Iterator[SliceRecovery]:
    """Of each task that a gate may compare: all its items, then its slices. Nothing where there is one model alone.

    Args:
        items: by model, the one that others are held against first.
    """
    if len(items) < 2:
        return
    for task, metric in next(iter(items.values())).metrics.items():
        if metric not in TESTED:
            continue
        rows = {
            model: {id: row for (of, id), row in found.rows.items() if of == task} for model, found in items.items()
        }
        shared = sorted(set.intersection(*({*found} for found in rows.values())))
        for name, ids in _slices(next(iter(rows.values())), shared):
            chosen = {model: [found[id] for id in ids] for model, found in rows.items()}
            yield SliceRecovery(
                task=task,
                metric=metric,
                slice=name,
                num_items=len(ids),
                kept=tuple(_kept(task, TESTED[metric], chosen)),
            )


def _slices(rows: Mapping[str, Row], ids: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Name -> ids. What all items have in common is no slice."""
    if ids:
        yield "", [*ids]
    for by in ("language", "domain"):
        for value in sorted({rows[id].get(by) or "" for id in ids} - {""}):
            if MIN_ITEMS <= len(some := [id for id in ids if rows[id].get(by) == value]) < len(ids):
                yield f"{by} {value}", some
    if lengths := [num for id in ids if (num := rows[id]["num_prompt_characters"])]:
        least = math.ceil(LONG * median(lengths))
        if len(some := [id for id in ids if rows[id]["num_prompt_characters"] >= least]) >= MIN_ITEMS:
            yield f"long: from {least:,} characters", some


def _kept(task: str, figure: Figure, rows: Mapping[str, Sequence[Row]]) -> Iterator[Kept]:
    (first, of_first), *others = rows.items()
    base = resampled(task, figure, of_first)
    yield Kept(model=first, value=value_of(figure, of_first))
    for model, of_model in others:
        value = value_of(figure, of_model)
        yield Kept(model=model, value=value, **_ratio(figure, base, resampled(task, figure, of_model)))


def _ratio(figure: Figure, old: NDArray[np.float64], new: NDArray[np.float64]) -> dict[str, float]:
    """Of the first entries, with the interval of the others; nothing where a model that it is divided by scored nothing."""
    import numpy as np

    over, under = (new, old) if figure.higher_is_better else (old, new)
    if not under[0] or not np.isfinite([over[0], under[0]]).all():
        return {}
    drawn = 100 * over[1:] / np.where(under[1:] == 0, np.nan, under[1:])
    low, high = np.nanpercentile(drawn, INTERVAL)
    return {"percent": float(100 * over[0] / under[0]), "ci_low": float(low), "ci_high": float(high)}
