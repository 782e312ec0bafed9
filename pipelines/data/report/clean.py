"""The part of the page that tells what each rule changed and each reason took out."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pipelines.data.report import plots
from pipelines.data.report.figures import Dropped, Report, Rewritten
from pipelines.data.report.rows import KIND_OF, KINDS
from pipelines.data.report.table import note, percent, table
from pipelines.data.report.text import changes, samples

TONES = {name: f"k{number}" for number, name in enumerate(("kept", *KINDS))}
MOST_REASONS = 15
"""Drawn; the table has all."""


def summary(report: Report) -> str:
    kept = percent(report.num_kept, report.num_documents)
    characters = percent(report.num_characters_kept, report.num_characters_in)
    return (
        f"{report.num_documents:,} documents in, {report.num_kept:,} kept ({kept}: {report.num_train:,} to train, "
        f"{report.num_heldout:,} held out); {report.num_characters_in:,} characters in, "
        f"{report.num_characters_kept:,} kept ({characters})"
    )


def clean(report: Report) -> Iterator[str]:
    yield '<h3 id="rewritten">Rewritten</h3>'
    yield note(
        "How many documents each rule changed, whatever became of them then. Characters are told of the documents that no other "
        "rule changed: of the others the record has only what all rules did together."
    )
    yield from _rewritten(report)
    if report.num_protected_by_kind:
        yield '<h3 id="protected">Protected values</h3>'
        yield note("Values masked or hashed in kept documents. Samples show the documents as they are kept.")
        counts = report.num_protected_by_kind
        yield plots.bars(
            "protected values", [plots.Bar(kind, num, f"{num:,}", tone="k5") for kind, num in counts.items()]
        )
        yield f"<details><summary>samples</summary>{samples(report.masked) or note('none that is short enough')}</details>"
    yield '<h3 id="dropped">Excluded</h3>'
    yield note(
        "A document is excluded for the first thing found against it. Samples are drawn by the documents' ids, so that other "
        "versions show the same ones; texts are shown from their beginning, as they were read and with personal data masked."
    )
    yield from _dropped(report)


def _rewritten(report: Report) -> Iterator[str]:
    if not report.rewritten:
        yield "<p>The recipe has no rules.</p>"
        return
    names = ("rule", "documents", "of all", "kept in the end", "by this rule alone", "characters out, by it alone")
    yield table(names, (_rule(one, report.num_documents) for one in report.rewritten))
    if report.no_samples:
        yield note(f"Samples are fewer, or missing: {escape(report.no_samples)}.")
    for one in report.rewritten:
        if one.samples:
            shown = changes(one.samples, "before", "after")
            yield f"<details open><summary>{escape(one.rule)}: before and after</summary>{shown}</details>"


def _rule(one: Rewritten, total: int) -> tuple[str, ...]:
    numbers = f"{one.num:,}", percent(one.num, total), f"{one.num_kept:,}", f"{one.num_alone:,}"
    return (escape(one.rule), *numbers, f"{one.num_characters_out:,}")


def _dropped(report: Report) -> Iterator[str]:
    if not report.dropped:
        yield "<p>Nothing was excluded.</p>"
        return
    rows = [
        plots.Bar(
            one.reason, one.num, f"{one.num:,} ({percent(one.num, report.num_documents)})", tone=TONES[_kind(one)]
        )
        for one in report.dropped[:MOST_REASONS]
    ]
    yield plots.bars(
        "documents by reason", rows, [(kind, TONES[kind]) for kind in dict.fromkeys(map(_kind, report.dropped))]
    )
    cells = (
        (
            escape(one.reason),
            _kind(one),
            f"{one.num:,}",
            percent(one.num, report.num_documents),
            f"{one.num_characters:,}",
        )
        for one in report.dropped
    )
    listed = table(("reason", "kind", "documents", "of all", "characters"), cells)
    yield f"<details><summary>figures of all {len(report.dropped)} reasons</summary>{listed}</details>"
    for one in report.dropped:
        told = f"{escape(one.reason)}: {len(one.samples)} of {one.num:,}"
        yield f"<details><summary>{told}</summary>{samples(one.samples)}</details>"


def _kind(one: Dropped) -> str:
    return KIND_OF.get(one.reason, "quality")
