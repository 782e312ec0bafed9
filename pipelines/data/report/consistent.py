"""The part of the page that tells what must hold, what contradicts what, and how far annotators agree."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pipelines.data.report import plots
from pipelines.data.report.checks import RELIABLE, TENTATIVE
from pipelines.data.report.figures import Check, Labels, Likeness, Report
from pipelines.data.report.table import note, table
from pipelines.data.report.text import changes


def consistent(report: Report) -> Iterator[str]:
    yield '<h3 id="checks">Checks</h3>'
    yield note("What must hold, and what only people can judge.")
    order = {False: 0, None: 1, True: 2}
    yield table(("", "", "figure"), map(_check, sorted(report.checks, key=lambda check: order[check.ok])))
    yield '<h3 id="duplicates">Duplicates</h3>'
    yield from _duplicates(report)
    yield '<h3 id="labels">Label agreement</h3>'
    yield from _all_labels(report)


def _check(check: Check) -> tuple[str, ...]:
    mark = {
        True: '<span class="yes">holds</span>',
        False: '<span class="no">DOES NOT HOLD</span>',
        None: '<span class="judge">to judge</span>',
    }
    means = f"<br><small>{escape(check.means)}</small>" if check.means else ""
    return escape(check.what) + means, mark[check.ok], escape(check.found)


def _duplicates(report: Report) -> Iterator[str]:
    if not report.overlaps:
        yield "<p>No document was taken out as a duplicate.</p>"
        return
    yield note(
        "Documents taken out as duplicates, by their source and by the source of the document that stays in their place."
    )
    rows = ((escape(one.source), escape(one.stays_in), f"{one.num:,}") for one in report.overlaps)
    yield table(("taken out of", "stays in", "documents"), rows)
    if report.likeness.num_pairs:
        yield from _likeness(report.likeness)


def _likeness(like: Likeness) -> Iterator[str]:
    yield "<h4>Near duplicates and what stays in their place</h4>"
    yield note(
        f"Jaccard similarity of the n-grams of words, of {like.num_pairs:,} pairs drawn by their ids. Of what has less than half "
        "in common the link is a third document, or chance: look at these before you trust that nothing else was lost."
    )
    labels = [f"{tenth / 10:.1f}" for tenth in range(10)]
    values = [(num / like.num_pairs,) for num in like.num_by_tenth]
    yield plots.columns("similarity of near duplicates", labels, (plots.Part("pairs", 0, "k6"),), values)
    shown = changes(like.unlike, "stays", "taken out")
    yield f"<details><summary>least in common</summary>{shown}</details>"
    if like.num_other_numbers:
        told = f"{like.num_other_numbers:,} of {like.num_pairs:,} pairs tell different numbers between the same words"
        yield f"<details><summary>{told}</summary>{changes(like.other_numbers, 'stays', 'taken out')}</details>"


def _all_labels(report: Report) -> Iterator[str]:
    if not report.labels:
        yield note("No annotations were made of this version (<code>serinus data annotate run CONFIG</code>).")
        return
    yield note(
        f"Krippendorff's alpha of each layer: 1 is full agreement, 0 what chance gives; he asks for {RELIABLE}, and for "
        f"{TENTATIVE} where conclusions are tentative."
    )
    for labels in report.labels:
        yield from _labels(labels)


def _labels(labels: Labels) -> Iterator[str]:
    who = ", ".join(labels.annotators)
    yield f"<h4>{escape(labels.key)}</h4>" + note(f"{labels.num_documents:,} documents, by {escape(who)}")
    rows = [
        plots.Bar(layer.name, layer.alpha, f"{layer.alpha:.3f} of {layer.num_units:,} units", tone="k3")
        for layer in labels.layers
        if layer.alpha is not None
    ]
    if rows:
        yield plots.dots(
            "Krippendorff's alpha by layer", rows, ((TENTATIVE, f"{TENTATIVE}"), (RELIABLE, f"{RELIABLE}"))
        )
    cells = (
        (
            escape(layer.name),
            f"{layer.num_given:,}",
            f"{layer.num_accepted:,}",
            "nothing to compare" if layer.alpha is None else f"{layer.alpha:.3f}",
            f"{layer.num_units:,}",
        )
        for layer in labels.layers
    )
    yield table(("layer", "given", "accepted", "alpha", "units"), cells)
    if labels.num_review_by_reason:
        reasons = ((escape(reason), f"{num:,}") for reason, num in labels.num_review_by_reason.items())
        yield table(("for review as", "documents"), reasons)
