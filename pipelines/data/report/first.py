"""What whoever owns the dataset would look at first. Pure: bounds on the report's figures, each told with the figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipelines.data.report.checks import SHARES, TENTATIVE
from pipelines.data.report.figures import Report
from pipelines.data.report.rows import KEPT
from pipelines.data.report.table import percent

MUCH_DROPPED = 0.2
"""Share of all documents that one reason takes out."""
LITTLE_KEPT = 0.5
"""Of a source with MIN_DOCUMENTS or more."""
MIN_DOCUMENTS = 20
UNLIKE_TENTHS = 5
MANY_UNLIKE = 0.1
"""Share of sampled near duplicates with less than half in common with what stays."""
MANY_OTHER_NUMBERS = 0.05
LARGE_SHARE = 0.8
"""Of the kept characters, from one source or domain of several."""

BOUNDS = (
    "Told are checks that do not hold, shares and languages that are missing, reasons that take out "
    f"{percent(MUCH_DROPPED, 1, 0)} of the documents or more, sources of {MIN_DOCUMENTS} documents or more of which less than "
    f"{percent(LITTLE_KEPT, 1, 0)} stays, one source or domain of several with more than {percent(LARGE_SHARE, 1, 0)} of all "
    f"that is kept, near duplicates of which {percent(MANY_UNLIKE, 1, 0)} or more have less than half in common with what stays or "
    f"{percent(MANY_OTHER_NUMBERS, 1, 0)} or more tell other numbers, and annotators who agree below {TENTATIVE}."
)


class Finding(NamedTuple):
    is_failure: bool
    text: str
    where: str
    """Id of the section."""


def findings(report: Report) -> tuple[Finding, ...]:
    return (
        *_failed(report),
        *_missing(report),
        *_dropped(report),
        *_sources(report),
        *_pairs(report),
        *_labels(report),
    )


def _failed(report: Report) -> Iterator[Finding]:
    for check in report.checks:
        if check.ok is False and check.what != SHARES:  # told one by one below
            yield Finding(True, f"Does not hold: {check.what} ({check.found})", "checks")


def _missing(report: Report) -> Iterator[Finding]:
    if report.missing_languages:
        yield Finding(
            False, f"Allowed by the filter, and none kept: {', '.join(report.missing_languages)}", "languages"
        )
    for one in report.asked:
        if not one.holds:
            yield Finding(
                True,
                f"{one.dimension}, {one.name}: {percent(one.found, 1)} of {percent(one.asked, 1)} asked for",
                "asked",
            )


def _dropped(report: Report) -> Iterator[Finding]:
    for dropped in report.dropped:
        if dropped.num >= MUCH_DROPPED * report.num_documents:
            share = percent(dropped.num, report.num_documents)
            yield Finding(
                False, f"{dropped.reason} takes out {share} of the documents: do its samples deserve it?", "dropped"
            )


def _sources(report: Report) -> Iterator[Finding]:
    for fates in report.fates:
        num, kept = sum(fates.num_by_fate.values()), fates.num_by_fate.get(KEPT, 0)
        if num >= MIN_DOCUMENTS and kept < LITTLE_KEPT * num:
            out = {fate: n for fate, n in fates.num_by_fate.items() if fate != KEPT}
            most = max(out, key=lambda fate: out[fate])
            text = f"Of source {fates.name} {percent(kept, num)} stays, most go for {most}"
            yield Finding(False, text, "sources")
    for name, shares in (("source", report.sources), ("domain", report.domains)):
        if len(shares) > 1 and shares[0].num_characters_kept > LARGE_SHARE * report.num_characters_kept > 0:
            share = percent(shares[0].num_characters_kept, report.num_characters_kept)
            yield Finding(False, f"The {name} {shares[0].name} is {share} of all characters kept", f"{name}s")


def _pairs(report: Report) -> Iterator[Finding]:
    like = report.likeness
    if not like.num_pairs:
        return
    unlike = sum(like.num_by_tenth[:UNLIKE_TENTHS])
    if unlike >= MANY_UNLIKE * like.num_pairs:
        text = f"{unlike} of {like.num_pairs} sampled near duplicates have less than half in common with what stays"
        yield Finding(False, text, "duplicates")
    if like.num_other_numbers >= MANY_OTHER_NUMBERS * like.num_pairs:
        text = f"{like.num_other_numbers} of {like.num_pairs} sampled near duplicates tell another number in the same place"
        yield Finding(False, text, "duplicates")


def _labels(report: Report) -> Iterator[Finding]:
    for labels in report.labels:
        for layer in labels.layers:
            if layer.alpha is not None and layer.alpha < TENTATIVE:
                text = f"Annotators of {labels.key} agree on layer {layer.name} by alpha {layer.alpha:.3f} only"
                yield Finding(False, text, "labels")
