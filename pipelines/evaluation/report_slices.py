"""Parts of a report's page that are about some of the items: those that a model may have learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from cluster.artifacts import TaskContamination
from pipelines.evaluation.page_parts import differences, table
from pipelines.evaluation.report import CleanScore, RunReport


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


def _counts(one: TaskContamination) -> tuple[str, ...]:
    by_rule = one.num_by_rule["most_8_grams"], one.num_by_rule["any_13_gram"]
    return escape(one.task), *(f"{num:,}" for num in (one.num_items, *by_rule, one.num_items - one.num_measured))


def _clean(found: CleanScore) -> tuple[str, ...]:
    clean, what = found.clean, f"{escape(found.clean.task)} <small>{escape(found.clean.metric)}</small>"
    interval = f"{clean.ci_low:.4g} to {clean.ci_high:.4g}"
    return what, escape(found.model), f"{found.all.value:.4g}", f"{clean.value:.4g}", interval, f"{clean.num_items:,}"
