"""The part of the page that tells what the kept texts are, and what of them is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from pipelines.data.report import plots
from pipelines.data.report.clean import TONES
from pipelines.data.report.figures import Asked, Report, Share, Topics
from pipelines.data.report.table import note, percent, table

MOST_ROWS = 20
"""Drawn; the table has all."""


def comprehensive(report: Report) -> Iterator[str]:
    yield '<h3 id="asked">Shares asked for</h3>'
    yield from _asked(report)
    yield '<h3 id="languages">Languages</h3>'
    yield note("Of documents that came as far as being asked for it; shares are of all characters kept.")
    yield from _shares(report, report.languages, "languages")
    if report.missing_languages:
        yield f'<p class="no">allowed by the filter, and none kept: {escape(", ".join(report.missing_languages))}</p>'
    yield '<h3 id="sources">Sources</h3>'
    yield note("What became of each source's documents, and what share of the kept characters is its own.")
    yield _fates(report)
    yield from _shares(report, report.sources, "sources")
    yield '<h3 id="domains">Domains</h3>'
    yield from _domains(report)
    yield '<h3 id="lengths">Lengths</h3>'
    yield note(
        "Kept documents by their characters after cleaning: classes from the number written below up to twice that. A few long "
        "documents may hold most characters."
    )
    yield _lengths(report)
    yield '<h3 id="topics">Topics</h3>'
    yield from _topics(report.topics)


def _asked(report: Report) -> Iterator[str]:
    if not report.asked:
        yield note(
            "The recipe asks for none: <code>data.shares</code> names languages, sources, domains, topics and lengths."
        )
        return
    yield note(
        "Shares of all characters kept, at least. The line across is what the recipe asks for, the thin one along a bar the "
        "95 % interval of what is told from a sample. Missing is the least to be added of all that are short, so that every "
        "share of the dimension holds: what is added to one makes others smaller."
    )
    for dimension in dict.fromkeys(one.dimension for one in report.asked):
        of_it = [one for one in report.asked if one.dimension == dimension]
        rows = [
            plots.Bar(
                one.name,
                one.found,
                f"{percent(one.found, 1)} of {percent(one.asked, 1)}",
                *_interval(one),
                one.asked,
                "k0" if one.holds else "k2",
            )
            for one in of_it
        ]
        yield f"<h4>{dimension}</h4>" + plots.bars(f"shares of {dimension}", rows)
        yield table(("", "asked", "found", "missing characters", ""), map(_asked_cells, of_it))


def _interval(one: Asked) -> tuple[float | None, float | None]:
    return (one.low, one.high) if one.low != one.high else (None, None)


def _asked_cells(one: Asked) -> tuple[str, ...]:
    lacking = "not by adding" if one.num_characters_missing is None else f"{one.num_characters_missing:,}"
    mark = '<span class="yes">holds</span>' if one.holds else '<span class="no">MISSING</span>'
    return escape(one.name), percent(one.asked, 1), percent(one.found, 1), lacking, mark


def _shares(report: Report, shares: Sequence[Share], dimension: str) -> Iterator[str]:
    if not shares:
        yield "<p>none</p>"
        return
    wanted = {one.name: one.asked for one in report.asked if one.dimension == dimension}
    total = report.num_characters_kept
    drawn = [share for share in shares if share.num_characters_kept][:MOST_ROWS]
    rows = [
        plots.Bar(
            share.name,
            share.num_characters_kept / max(total, 1),
            percent(share.num_characters_kept, total),
            mark=wanted.get(share.name),
        )
        for share in drawn
    ]
    yield plots.bars(f"{dimension}: shares of the characters kept", rows) if rows else ""
    cells = (
        (
            escape(share.name),
            f"{share.num_in:,}",
            f"{share.num_kept:,}",
            percent(share.num_kept, share.num_in),
            f"{share.num_characters_kept:,}",
            percent(share.num_characters_kept, total),
        )
        for share in shares
    )
    listed = table(("", "in", "kept", "of all", "characters kept", "share"), cells)
    yield listed if len(shares) <= MOST_ROWS else f"<details><summary>all {len(shares)}</summary>{listed}</details>"


def _fates(report: Report) -> str:
    rows = [
        (
            fates.name,
            f"{sum(fates.num_by_fate.values()):,} documents",
            [plots.Part(name, num, TONES[name]) for name, num in fates.num_by_fate.items()],
        )
        for fates in report.fates[:MOST_ROWS]
    ]
    return plots.stacked("what became of each source", rows) if rows else ""


def _domains(report: Report) -> Iterator[str]:
    if not report.domains:
        yield note(
            "No document's address is on record: web archives bring it along, and of JSON lines and Parquet "
            "<code>origin_field</code> of a source names it."
        )
        return
    num = sum(share.num_in for share in report.domains)
    yield note(
        f"By host, without <code>www.</code>, of the {num:,} of {report.num_documents:,} documents whose address is on record. "
        "Shares are of all characters kept."
    )
    yield from _shares(report, report.domains, "domains")


def _lengths(report: Report) -> str:
    kept, characters = max(report.num_kept, 1), max(report.num_characters_kept, 1)
    labels = [_short(int(share.name.split(" to ")[0])) for share in report.lengths]
    values = [(share.num_kept / kept, share.num_characters_kept / characters) for share in report.lengths]
    series = plots.Part("documents", 0, "k0"), plots.Part("characters", 0, "k2")
    rows = (
        (
            share.name.replace(" to ", "–"),
            f"{share.num_kept:,}",
            percent(share.num_kept, kept),
            f"{share.num_characters_kept:,}",
        )
        for share in report.lengths
    )
    listed = table(("characters each", "kept", "of kept", "characters kept"), rows)
    return plots.columns("lengths of kept documents", labels, series, values) + (
        f"<details><summary>figures</summary>{listed}</details>" if labels else ""
    )


def _short(number: int) -> str:
    return f"{number >> 20} Mi" if number >= 1 << 20 else f"{number >> 10} Ki" if number >= 1 << 10 else str(number)


def _topics(topics: Topics) -> Iterator[str]:
    yield note(
        f"Of {topics.num_sampled:,} kept documents, drawn by their ids: words that stand in the same documents, found by matrix "
        "factorization in each language for itself. A topic is named by its heaviest words, and nobody chose it; thin lines are "
        "95 % intervals. A topic of menus, adverts or templates is a rule that is missing."
    )
    for language in dict.fromkeys(topic.language for topic in topics.found):
        of_it = [topic for topic in topics.found if topic.language == language]
        rows = [
            plots.Bar(
                ", ".join(t.terms[:3]),
                t.num / t.of,
                f"{percent(t.num, t.of)} ({100 * t.low:.1f}–{100 * t.high:.1f})",
                t.low,
                t.high,
                tone="k4",
            )
            for t in of_it
        ]
        yield f"<h4>{escape(language)}, {of_it[0].of:,} documents</h4>" + plots.bars(f"topics in {language}", rows)
        cells = ((escape(", ".join(t.terms)), f"{t.num:,}", escape(", ".join(t.examples))) for t in of_it)
        yield table(("words", "documents", "most of it"), cells)
    if topics.not_told:
        first = list(topics.not_told.items())[:MOST_ROWS]
        told = ", ".join(f"{escape(name)} {num:,}" for name, num in first)
        told += f" and {len(topics.not_told) - MOST_ROWS} other languages" if len(topics.not_told) > MOST_ROWS else ""
        yield note(
            f"No topics are told of sampled documents in {told}: too few, without words in common, in a script without spaces, or "
            "beyond the three largest languages."
        )
