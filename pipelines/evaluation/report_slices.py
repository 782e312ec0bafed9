"""Parts of a report's page that are about some of the items: slices of a task, and those that a model may have learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from cluster.artifacts import TaskContamination
from pipelines.evaluation import plots
from pipelines.evaluation.page_parts import differences, table
from pipelines.evaluation.report import CleanScore, RunReport
from pipelines.evaluation.slices import Kept, SliceRecovery


def contamination(report: RunReport) -> Iterator[str]:
    """How many items stand in what the model learnt from, and the scores on the others."""
    if (found := report.contamination) is None:
        return
    yield f"<p><small>Items that stand in the {found.num_documents:,} documents that the model learnt from. Contaminated are those"
    yield " of whose prompt or answer 70 % of the runs of 8 words do; items of fewer than 8 words are too short to be looked"
    yield " for.</small>"
    yield table(("task", "items", "contaminated", "any run of 13 words", "too short"), map(_counts, found.tasks))
    if found.scores:
        names = ("task", "model", "all items", "the others", "95 % interval", "items")
        yield "<h3>Without the contaminated items</h3>" + table(names, map(_clean, found.scores))
    for name, some in found.differences.items():
        yield f"<h3>{escape(name)}, without them</h3>{differences(some)}"


def recovery(report: RunReport) -> Iterator[str]:
    """What each model keeps of the base model's figures, slice by slice."""
    if not report.slices:
        return
    models = [one.model for one in report.slices[0].kept]
    first = escape(models[0])
    yield f"<p><small>Each figure in percent of the {first} model's on the same items (the other way round where lower is better),"
    yield " with 95 % bootstrap intervals over items. A slice has five items or more; long are those of twice the median length of"
    yield " their task. Few items say little, and of many slices some lie low by chance."
    yield " An interval without width is of items that score the same on both models, not a proof that all would.</small>"
    legend = (f'<span class="m{at % 3}">●</span> {escape(model)}' for at, model in enumerate(models) if at)
    yield f'<p class="key">{" ".join(legend)}; the line is the {first} model'
    for task in dict.fromkeys(one.task for one in report.slices):
        found = [one for one in report.slices if one.task == task]
        yield f"<h3>{escape(task)} <small>{escape(found[0].metric)}</small></h3>"
        drawn = [(one.slice or "all items", [_point(kept) for kept in one.kept[1:]]) for one in found]
        yield plots.shares(f"{task}, percent of the {models[0]} model's {found[0].metric}", drawn)
        names = ("slice", "items", *(part for model in models for part in _columns(model, models[0])))
        yield table(names, map(_slice, found))


def _columns(model: str, first: str) -> tuple[str, ...]:
    return (model,) if model == first else (model, "kept", "95 % interval")


def _point(kept: Kept) -> plots.Interval | None:
    if kept.percent is None or kept.ci_low is None or kept.ci_high is None:
        return None
    return plots.Interval(kept.model, kept.percent, kept.ci_low, kept.ci_high)


def _slice(one: SliceRecovery) -> tuple[str, ...]:
    cells = [escape(one.slice) or "all items", f"{one.num_items:,}", f"{one.kept[0].value:.4g}"]
    for kept in one.kept[1:]:
        point = _point(kept)
        cells += (f"{kept.value:.4g}", *(("", "") if point is None else _share(point)))
    return tuple(cells)


def _share(point: plots.Interval) -> tuple[str, str]:
    return f"{point.value:.1f} %", f"{point.low:.1f} to {point.high:.1f}"


def _counts(one: TaskContamination) -> tuple[str, ...]:
    by_rule = one.num_by_rule["most_8_grams"], one.num_by_rule["any_13_gram"]
    return escape(one.task), *(f"{num:,}" for num in (one.num_items, *by_rule, one.num_items - one.num_measured))


def _clean(found: CleanScore) -> tuple[str, ...]:
    clean, what = found.clean, f"{escape(found.clean.task)} <small>{escape(found.clean.metric)}</small>"
    interval = f"{clean.ci_low:.4g} to {clean.ci_high:.4g}"
    return what, escape(found.model), f"{found.all.value:.4g}", f"{clean.value:.4g}", interval, f"{clean.num_items:,}"
